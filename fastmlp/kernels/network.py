"""The whole network: a training step is two phases over tiles, whatever the depth.

*Over samples.* Each thread takes tiles of samples through all layers, forward and back, in its own cache: it writes
the activations and the gradients ``dZ`` of its samples.

*Over weights.* Each thread takes tiles of ``W``, sums over all samples in a fixed order, and updates them.

All steps of a call run in one parallel region, whose threads claim the tiles of a phase from each other: see
:mod:`fastmlp.kernels.crew`.

As long as a few gradients of the whole network stay in the cache, those of some samples are cheaper summed while these
are in it than all samples fetched by all threads later. There the first phase also sums over each *group* of samples,
to a *partial* gradient, and the second adds the partials in the order of the groups.

Everything that a step works on lies in one array, the *arena*; the *plan* says where: see :mod:`fastmlp.buffers`.
The formulas are in :mod:`fastmlp.kernels.layer`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastmlp.kernels.activations import SOFTMAX, activate_strip, slope_strip
from fastmlp.kernels.calls import ALONE, CLOSING, OPENING, crew_kernel
from fastmlp.kernels.crew import MOST_TASKS, NO_TASK, claim, finish, open_phase, share, wait_for_next
from fastmlp.kernels.dropout import drop_block
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.layer import (
    FEW_INPUTS,
    affine_sample,
    affine_strip,
    bias_gradient_strip,
    few_inputs_gradient_strip,
    input_gradient_strip,
    most_rows,
    n_strips,
    strip_start,
    weight_gradient_strip,
)
from fastmlp.kernels.layout import (
    feature_blocks_of,
    gather_labels,
    gather_rows,
    panels_of,
    row_of,
    sample_blocks_of,
    scatter_rows,
)
from fastmlp.kernels.losses import GIVEN_GRADIENT, POISSON, loss_block, softmax_block
from fastmlp.kernels.optimizers import (
    MAX_NORM,
    N_SETTINGS,
    NO_UPDATE,
    decay_range,
    decays,
    penalize_range,
    penalty_of_range,
    rates_of,
    scale_range,
    square_of_range,
    update_beside_others,
    update_rows,
)
from fastmlp.kernels.simd import block, fill, lanes, load, load_first, prefetch, store, store_first, sum_lanes, where

INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIASES, X_FEATURES, X, Z, A, DZ, DROPPED, X_LEFT = range(12)
"""The columns of the plan, which has one row per layer:

- ``INPUTS``, ``OUTPUTS``: how many there are;
- ``ACTIVATION``: its code;
- ``WEIGHTS``, ``BIASES``: where they begin in the parameters;
- ``X_FEATURES``, ``X``: where in the arena what enters the layer begins, by blocks of features and of samples;
- ``Z``, ``A``, ``DZ``: where these begin in the arena. ``Z`` and ``A`` of a hidden layer are one place, unless the
  slope is a function of ``Z`` (:data:`~fastmlp.kernels.activations.SLOPE_NEEDS_Z`): ``A`` is written over ``Z``;
- ``DROPPED``: the threshold below which a random word drops a unit, 0 without dropout;
- ``X_LEFT``: where what is then left of ``X`` begins; where nothing is dropped, ``X`` itself.
"""

LOSS, PADDED_SAMPLES, TARGETS, TARGETS_BY_FEATURES, SHARES, SAMPLE_LOSSES, THREADS, PARTIALS, PENALIZES = range(9)
"""The columns of its last row, which is for the whole batch:

- ``LOSS``: its code;
- ``PADDED_SAMPLES``: for how many there is room, whole blocks of them;
- ``TARGETS``, ``TARGETS_BY_FEATURES``: where in the arena they begin, by blocks of samples and of features;
- ``SHARES``, ``SAMPLE_LOSSES``: where each sample's share in the mean, and its loss, begin;
- ``THREADS``: how many there are;
- ``PARTIALS``: where in the arena the first group's gradient begins;
- ``PENALIZES``: what is penalized;
- ``DROPS``, ``KEY0``, ``KEY1``: whether any layer drops units, and the key of its random words;
- ``LEAST_SAMPLES``: the least samples of a group;
- ``DIVIDES_PENALTY``: whether the penalty is divided by the samples' weight;
- ``PLACES``: where the samples' places in the minibatch of all ranks begin, -1 if they are not needed;
- ``APART``: by how many blocks of samples two groups lie apart, beyond their own;
- ``PARTIAL_SIZE``: how far it is from the beginning of one group's gradient to that of the next;
- ``PARTIALS_IN_CACHE``: of how many groups the gradients stay in the cache.
"""

DROPS, KEY0, KEY1, LEAST_SAMPLES, DIVIDES_PENALTY, PLACES, APART, PARTIAL_SIZE, PARTIALS_IN_CACHE = range(9, 18)

PLAN_COLUMNS = 24
"""Of both kinds of rows: a whole number of cache lines."""

NOTHING_DROPPED = -1
"""In the place of the number of the step, by which it is known what is dropped."""

NOTHING, WEIGHTS_ALONE, EVERYTHING = range(3)
"""What is penalized."""

TILE_BLOCKS = 8
"""Most blocks of samples in a tile: a tile's activations stay in the first- or second-level cache in all layers. With
8 instead of 4, steps of 4-32-16-4 take a tenth less time, others the same."""

GROUP_SAMPLES, MOST_GROUPS, GROUP_OPERATIONS = 64, 16, 300_000
"""Where gradients are summed group by group: about how many samples a group has, how many groups there are at most,
and how many operations (float32; half as many in float64) are worth a group: some 4 us. They follow from the batch and
the network alone, whatever the number of threads."""

BYTES_APART = 4096
"""How far apart, in each block of features, the samples of two groups lie for two threads. Processors fetch beforehand
what stands behind what is read: with the next group's samples there, they took them from its thread's cache again and
again, and a step of 64-64-10 on 64 samples took 15.6 us instead of 13."""

TILES_PER_THREAD = 2
"""Tiles of samples for each thread, as long as there are blocks: whoever is quick takes one more."""

PARTS_PER_THREAD = 4
"""Parts into which the weights are divided, for each thread, where gradients are not summed by groups."""

PARTIAL_BYTES = 1 << 22
"""Bytes of partial gradients up to which they stay in the cache."""

LINE = 32
"""Elements of a cache line, and of the one that is fetched with it."""

PARTIALS_AT_ONCE = 2_000
"""Elements of partial gradients that are worth a thread's while."""

OUTPUTS_AT_ONCE = 64
"""Rows of ``W`` from which ``dX`` is summed in one go: so many of a large ``W`` stay in the second-level cache."""

FAR_BYTES = 1 << 20
"""Bytes of a ``W`` from which the columns of the next strip of ``dX`` are asked for: they lie a row apart, so that no
processor fetches them beforehand. Three times 1000 to 1000 go backward at 85 % of the peak instead of 69 (AVX2)."""

STRIPS_AT_ONCE = 8
"""Strips of ``dW`` that take turns at a block of inputs, which comes from memory once for all of them."""

BLOCKS_AT_ONCE = 32
"""Blocks of samples over which ``dW`` is summed in one go: so many samples of a block of inputs stay in the cache."""

PREDICTED_BLOCKS = 2 * TILE_BLOCKS
"""Blocks of samples for each thread that predicts: a tile, and as many that stay free: see :data:`BYTES_APART`."""

SAMPLES_ALONE = 3
"""Samples up to which a prediction is quicker one by one: a block holds more, but takes its time in any case."""

UPDATE_GROUPS = 16
"""Parts into which the parameters are divided where they are updated, or summed, by themselves."""

NO_ORDER = np.empty(0, np.int64)
"""The rows as they stand."""

NO_WEIGHTS = np.empty(0)
"""All samples weigh the same."""

NO_SETTINGS = np.zeros(N_SETTINGS)
"""Those of no optimizer."""

ONE_EPOCH = np.empty(0)
"""Room for what is known of each epoch, where steps are of a single one, and nothing is wanted of it."""

OF_EPOCH = 2
"""What is known of an epoch: the sum of its losses times their weights, and the square of its last gradient's norm."""

FINITE, X_NOT_FINITE, Y_NOT_FINITE, LOSS_NOT_FINITE = range(4)
"""The statuses that come back."""

BLOCK_LOSS, X_CHECK, Y_CHECK = range(3)
"""Columns of the report, which has a row for each block of samples: its loss; and, in the rows of all blocks of a
tile, whether a value of the tile is not finite. Where predictions are made, it has one for each member instead."""

RUN, BATCH, SETTINGS, PENALTY = -1, -2, -3, -4
"""The report's last row is for the training run: status, sum of losses, steps taken. The one before it is for the
batch, and before that stand the settings of the loss and of the penalty, in float64 whatever the arena is: of 0.99 in
float32, too little would be left in 1 - 0.99. Before that stands the penalty of the batch; and before that, sums over
:data:`UPDATE_GROUPS` groups of parameters."""

TOTAL_WEIGHT, FACTOR = range(2)
"""Of the batch: the sum of its samples' weights, and by what its gradient is multiplied."""

LOSS_SETTING, L1, L2 = range(3)
"""Of the settings; ``L1`` and ``L2`` are of the batch's penalty too."""

PENALTIES = 0
"""Of the penalty: the run's sum of each step's, times its samples' weights."""

REPORT_ROWS = UPDATE_GROUPS + 4
"""Rows of the report beside those of the blocks."""


# ------------------------------------------------------------------------------------------------------------------
# over samples: one tile, that is blocks p0 to p1


@tile_function
def read_samples(plan, arena, data, order, first, samples, p0, p1):
    """Gather a tile of the batch: ``X`` of the first layer, in both layouts. Returns 0, or NaN if any value is."""
    inputs, features = plan[0, INPUTS], plan[0, X_FEATURES]
    size, padded = block(arena), plan[-1, PADDED_SAMPLES]
    check = gather_rows(data, inputs, order, first, samples, p0 * size, p1 * size, arena, features, padded)
    sample_blocks_of(arena, features, inputs, padded, p0, p1, arena, plan[0, X])
    return check


@inlined_function
def _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1):
    """Gather a tile's targets; labels, if there are any, as one-hot columns. Returns 0, or NaN if any value is."""
    outputs, to = plan[-2, OUTPUTS], plan[-1, TARGETS]
    size, padded = block(arena), plan[-1, PADDED_SAMPLES]
    if labels.size > 0:
        gather_labels(labels, outputs, order, first, samples, p0, p1, arena, to)
        return 0.0
    features = plan[-1, TARGETS_BY_FEATURES]
    check = gather_rows(targets, outputs, order, first, samples, p0 * size, p1 * size, arena, features, padded)
    sample_blocks_of(arena, features, outputs, padded, p0, p1, arena, to)
    return float(check)


@tile_function
def _penalize_batch(total, plan, report):
    """Note the penalty that stands beside the mean of losses of so much weight, or beside their sum, divided alike."""
    part = 1.0
    if plan[-1, DIVIDES_PENALTY]:
        part = 1.0 / total if total > 0 else 0.0
    report[PENALTY, L1], report[PENALTY, L2] = report[SETTINGS, L1] * part, report[SETTINGS, L2] * part


@tile_function
def weigh(plan, report, sample_weights, order, first, samples):
    """Note the sum of the weights of a batch: without any, their number. Of a given gradient all is taken as it is.

    And the batch's penalty.
    """
    total = float(samples)
    if plan[-1, LOSS] == GIVEN_GRADIENT:
        total = 1.0
    elif sample_weights.size > 0:
        total = 0.0
        for n in range(samples):
            total += sample_weights[row_of(order, first + n)]
    report[BATCH, TOTAL_WEIGHT] = total
    _penalize_batch(total, plan, report)


@tile_function
def _share_out(plan, arena, report, sample_weights, order, first, samples, p0, p1):
    """Write each sample's share in the mean: its weight, by their sum; 0 where a sample only fills up its block."""
    size, total = block(arena), report[BATCH, TOTAL_WEIGHT]
    to, share = plan[-1, SHARES], 1.0 / total if total > 0 else 0.0
    if sample_weights.size == 0:
        for n in range(p0 * size, p1 * size):
            arena[to + n] = share if n < samples else 0.0
    else:
        for n in range(p0 * size, p1 * size):
            arena[to + n] = sample_weights[row_of(order, first + n)] * share if n < samples else 0.0


@tile_function
def _drop_tile(layer, place, to, dropout_step, plan, arena, p0, p1, apart):
    """What is left of a hidden layer's activations, or of their gradient, where some are dropped.

    Block ``p`` of the arena holds block ``p - apart`` of the batch.
    """
    outputs, size, threshold = plan[layer, OUTPUTS], block(arena), plan[layer, DROPPED]
    for p in range(p0, p1):
        here, n = p * outputs * size, (p - apart) * size
        drop_block(
            threshold, plan[-1, KEY0], plan[-1, KEY1], dropout_step, layer, outputs, n,
            plan[-1, PLACES] + n if plan[-1, PLACES] >= 0 else -1, arena, place + here, arena, to + here,
        )  # fmt: skip


@tile_function
def forward_tile(plan, parameters, arena, p0, p1, before_backward, dropout_step, apart):
    """Forward through every layer; before a backward pass, what enters each is kept in the other layout too.

    ``apart`` is as in :func:`_drop_tile`, here and below.
    """
    size = block(arena)
    n_layers = plan.shape[0] - 1
    for layer in range(n_layers):
        inputs, outputs, code = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, ACTIVATION]
        entering = plan[layer, X if dropout_step == NOTHING_DROPPED else X_LEFT]
        most = most_rows(parameters, inputs)
        for strip in range(n_strips(outputs, most)):
            j = strip_start(outputs, strip, most)
            rows = strip_start(outputs, strip + 1, most) - j
            w, b = plan[layer, WEIGHTS] + j * inputs, plan[layer, BIASES] + j
            for p in range(p0, p1):
                x, z = entering + p * inputs * size, plan[layer, Z] + (p * outputs + j) * size
                # Z = affine(W, b, X)
                affine_strip(rows, parameters, w, parameters, b, inputs, arena, x, arena, z)
        here, count = p0 * outputs * size, (p1 - p0) * outputs * size
        # A = activate(Z), which may be one place
        activate_strip(code, arena, plan[layer, Z] + here, arena, plan[layer, A] + here, count)
        left = plan[layer, A]
        if dropout_step != NOTHING_DROPPED and plan[layer, DROPPED] > 0:
            left = plan[layer + 1, X_LEFT]
            _drop_tile(layer, plan[layer, A], left, dropout_step, plan, arena, p0, p1, apart)
        if before_backward and layer + 1 < n_layers:
            feature_blocks_of(
                arena, left, outputs, plan[-1, PADDED_SAMPLES], p0, p1, arena, plan[layer + 1, X_FEATURES]
            )
    last = n_layers - 1
    if plan[last, ACTIVATION] == SOFTMAX:
        for p in range(p0, p1):
            here = p * plan[last, OUTPUTS] * size
            softmax_block(plan[last, OUTPUTS], arena, plan[last, Z] + here, arena, plan[last, A] + here)


@inlined_function
def _loss_tile(plan, arena, report, p0, p1, apart):
    """Loss of each block of a tile, each sample's times its share; and the gradient ``dZ`` of the last layer."""
    # loss = Σ_n s[n] L[n]
    size, last = block(arena), plan.shape[0] - 2
    outputs, code, setting = plan[last, OUTPUTS], plan[-1, LOSS], report[SETTINGS, LOSS_SETTING]
    for p in range(p0, p1):
        here = p * outputs * size
        z, a, d = plan[last, Z] + here, plan[last, A] + here, plan[last, DZ] + here
        losses, shares = plan[-1, SAMPLE_LOSSES] + p * size, plan[-1, SHARES] + p * size
        loss_block(code, setting, outputs, arena, z, arena, a, arena, plan[-1, TARGETS] + here, arena, losses, d)
        if code < POISSON:  # a function of A, as all are whose codes come before: the slope is still to come
            slope_strip(plan[last, ACTIVATION], arena, z, arena, a, arena, arena, d, outputs * size)
        total = fill(arena, 0.0)
        for k in range(0, size, lanes(arena)):
            share = load(arena, shares + k)
            for j in range(outputs):
                # a sample without a share counts for nothing, even where its gradient is infinite
                store(arena, d + j * size + k, where(share > 0, load(arena, d + j * size + k) * share, 0.0))
            total = total + where(share > 0, load(arena, losses + k) * share, 0.0)
        report[p - apart, BLOCK_LOSS] = sum_lanes(total)


@tile_function
def backward_tile(plan, parameters, arena, p0, p1, dropout_step, apart):
    """Backward through every layer, the last one first: ``dZ`` of each layer from that of the layer above it."""
    size = block(arena)
    for layer in range(plan.shape[0] - 2, 0, -1):
        inputs, outputs, below = plan[layer, INPUTS], plan[layer, OUTPUTS], layer - 1
        for first in range(0, outputs, OUTPUTS_AT_ONCE):
            last = min(first + OUTPUTS_AT_ONCE, outputs)
            for strip in range(n_strips(inputs)):
                i = strip_start(inputs, strip)
                rows = strip_start(inputs, strip + 1) - i
                w = plan[layer, WEIGHTS] + i
                if inputs * outputs * arena.itemsize > FAR_BYTES:
                    for j in range(first, last):
                        prefetch(parameters, w + j * inputs + 2 * rows)
                for p in range(p0, p1):
                    d, x = plan[layer, DZ] + p * outputs * size, plan[below, DZ] + (p * inputs + i) * size
                    # the forward line was:  Z = affine(W, b, X)
                    input_gradient_strip(rows, parameters, w, inputs, first, last, arena, d, arena, x)
        here, count = p0 * inputs * size, (p1 - p0) * inputs * size
        z, a, x = plan[below, Z] + here, plan[below, A] + here, plan[below, DZ] + here
        # the forward line was:  A = activate(Z)  of the layer below, which enters this one as X
        slope_strip(plan[below, ACTIVATION], arena, z, arena, a, arena, arena, x, count)
        if dropout_step != NOTHING_DROPPED and plan[below, DROPPED] > 0:
            _drop_tile(below, plan[below, DZ], plan[below, DZ], dropout_step, plan, arena, p0, p1, apart)


# ------------------------------------------------------------------------------------------------------------------
# over weights: one tile of one layer's W, that is a strip of rows j and a block of inputs i


@tile_function
def _input_blocks(arena, inputs):
    return (inputs + block(arena) - 1) // block(arena)


@tile_function
def _count_weight_tiles(plan, arena):
    """Tiles of all layers."""
    total = 0
    for layer in range(plan.shape[0] - 1):
        total += n_strips(plan[layer, OUTPUTS]) * _input_blocks(arena, plan[layer, INPUTS])
    return total


@inlined_function
def _weight_tile(layer, strip, i, first, last, add, plan, arena, gradient, g):
    """Gradient of one tile of weights, and with the first tile of a strip that of its biases.

    The gradient of the whole network begins at ``g`` in ``gradient``. The sum runs over blocks of samples from
    ``first`` to before ``last``; with ``add`` it goes on. Returns where the tile's weights and its biases begin, its
    rows and its columns.
    """
    inputs, outputs, size = plan[layer, INPUTS], plan[layer, OUTPUTS], block(arena)
    j = strip_start(outputs, strip)
    rows = strip_start(outputs, strip + 1) - j
    columns = min(inputs - i, size)
    d, x = plan[layer, DZ] + j * size, plan[layer, X_FEATURES] + i * plan[-1, PADDED_SAMPLES]
    w, b = plan[layer, WEIGHTS] + j * inputs + i, plan[layer, BIASES] + j
    # by blocks of samples, X is what was there before units were dropped
    if inputs <= FEW_INPUTS and plan[layer, X_LEFT] == plan[layer, X]:
        few_inputs_gradient_strip(
            rows, arena, d, outputs, first, last, add, arena, plan[layer, X], inputs, gradient, g + w
        )
    else:
        weight_gradient_strip(rows, arena, d, outputs, first, last, add, arena, x, columns, gradient, g + w, inputs)
    if i == 0:
        bias_gradient_strip(rows, arena, d, outputs, first, last, add, gradient, g + b)
    return w, b, rows, columns


@inlined_function
def _finish_tile(w, b, rows, columns, inputs, is_first, plan, report, parameters, gradient, optimizer, rates, memory):
    """Penalty and update of what :func:`_weight_tile` returned; of the biases with the first tile of a strip."""
    if plan[-1, PENALIZES] != NOTHING:
        l1, l2 = report[PENALTY, L1], report[PENALTY, L2]
        for r in range(rows):
            penalize_range(l1, l2, parameters, gradient, w + r * inputs, w + r * inputs + columns)
        if is_first and plan[-1, PENALIZES] == EVERYTHING:
            penalize_range(l1, l2, parameters, gradient, b, b + rows)
    if optimizer == NO_UPDATE:
        return
    if decays(rates, True):
        for r in range(rows):
            decay_range(rates, parameters, w + r * inputs, w + r * inputs + columns)
        if is_first and decays(rates, False):
            decay_range(rates, parameters, b, b + rows)
    update_rows(optimizer, rates, parameters, gradient, memory, w, columns, rows, inputs)
    if is_first:
        update_rows(optimizer, rates, parameters, gradient, memory, b, rows, 1, 0)


@tile_function
def _meant(start, stop, layer, with_biases, plan):
    """The parameters of a layer among those from ``start`` to ``stop``: its weights, and its biases too if wanted."""
    after = plan[layer, BIASES] + (plan[layer, OUTPUTS] if with_biases else 0)
    return max(start, plan[layer, WEIGHTS]), min(stop, after)


@inlined_function
def _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory):
    """Decay and update of the parameters from ``start`` to ``stop``, of whatever layers they are."""
    if decays(rates, True):
        for layer in range(plan.shape[0] - 1):
            first, last = _meant(start, stop, layer, decays(rates, False), plan)
            decay_range(rates, parameters, first, last)
    if plan[-1, THREADS] > 1:
        update_beside_others(optimizer, rates, parameters, gradient, memory, start, stop)
    else:
        update_rows(optimizer, rates, parameters, gradient, memory, start, stop - start, 1, 0)


@tile_function
def _weight_tiles(start, stop, plan, arena, report, blocks, parameters, gradient, optimizer, rates, memory):
    """Tiles ``start`` to ``stop`` of all layers' weights.

    They are counted in groups of strips; in a group, block of inputs after block of inputs; there, strip after strip.
    """
    for first in range(0, blocks, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, blocks)
        tile = 0  # the first one of a group
        for layer in range(plan.shape[0] - 1):
            strips, input_blocks = n_strips(plan[layer, OUTPUTS]), _input_blocks(arena, plan[layer, INPUTS])
            for s0 in range(0, strips, STRIPS_AT_ONCE):
                group = min(STRIPS_AT_ONCE, strips - s0)
                for k in range(max(start - tile, 0), min(stop - tile, group * input_blocks)):
                    strip, i = s0 + k % group, k // group * block(arena)
                    w, b, rows, columns = _weight_tile(
                        layer, strip, i, first, last, first > 0, plan, arena, gradient, 0
                    )
                    if last == blocks:
                        inputs = plan[layer, INPUTS]
                        _finish_tile(
                            w, b, rows, columns, inputs, i == 0, plan, report, parameters, gradient, optimizer, rates,
                            memory,
                        )  # fmt: skip
                tile += group * input_blocks


@tile_function
def _partial_gradient(add, plan, arena, p0, p1, partial, to):
    """All gradients, summed over one tile of samples only, which is in the cache; ``add`` them to the group's."""
    for layer in range(plan.shape[0] - 1):
        for i in range(0, plan[layer, INPUTS], block(arena)):
            for strip in range(n_strips(plan[layer, OUTPUTS])):
                _weight_tile(layer, strip, i, p0, p1, add, plan, arena, partial, to)


@inlined_function
def _add_partials(start, stop, groups, plan, arena, report, parameters, gradient, optimizer, rates, memory):
    """Gradients of the parameters from ``start`` to ``stop``, from the groups' partial ones, and their update."""
    if groups > 1:
        for k in range(start, stop, lanes(arena)):
            here = plan[-1, PARTIALS] + k
            total = load_first(arena, here, stop - k)
            for group in range(1, groups):
                total = total + load_first(arena, here + group * plan[-1, PARTIAL_SIZE], stop - k)
            store_first(gradient, k, total, stop - k)
    if plan[-1, PENALIZES] != NOTHING:
        for layer in range(plan.shape[0] - 1):
            first, last = _meant(start, stop, layer, plan[-1, PENALIZES] == EVERYTHING, plan)
            penalize_range(report[PENALTY, L1], report[PENALTY, L2], parameters, gradient, first, last)
    if optimizer != NO_UPDATE:
        _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory)


@tile_function
def _n_parts(division, plan, arena, n_parameters):
    """Parts of the weights: one for each thread where partial gradients are added; else several for each of many."""
    threads = plan[-1, THREADS]
    if division.groups > 0:
        return min(threads, 1 + n_parameters * division.parts // PARTIALS_AT_ONCE)
    return min(PARTS_PER_THREAD * threads, _count_weight_tiles(plan, arena)) if threads > 1 else 1


@tile_function
def _whole_lines(part, parts, parameters):
    """Where a part of the parameters begins: at the beginning of a cache line, so that no two parts share one."""
    size = parameters.size
    return part * size // parts // LINE * LINE if part < parts else size


@inlined_function
def _weight_part(part, parts, division, plan, arena, report, parameters, gradient, optimizer, rates, memory):
    """One of ``parts`` equal parts of all weights."""
    if division.groups > 0:
        start, stop = _whole_lines(part, parts, parameters), _whole_lines(part + 1, parts, parameters)
        _add_partials(start, stop, division.parts, plan, arena, report, parameters, gradient, optimizer, rates, memory)
    else:
        tiles = _count_weight_tiles(plan, arena)
        start, stop = part * tiles // parts, (part + 1) * tiles // parts
        _weight_tiles(
            start, stop, plan, arena, report, division.blocks, parameters, gradient, optimizer, rates, memory
        )


# ------------------------------------------------------------------------------------------------------------------
# sums over all parameters, group by group


@tile_function
def _group(group, size):
    """Where a group of parameters begins and ends."""
    return group * size // UPDATE_GROUPS, (group + 1) * size // UPDATE_GROUPS


@tile_function
def _first_group(report):
    return report.shape[0] - REPORT_ROWS


@tile_function
def _penalty_group(group, plan, parameters, report):
    """Note the penalty of a group of parameters."""
    start, stop = _group(group, parameters.size)
    l1, l2 = report[PENALTY, L1], report[PENALTY, L2]
    total = 0.0
    for layer in range(plan.shape[0] - 1):
        first, last = _meant(start, stop, layer, plan[-1, PENALIZES] == EVERYTHING, plan)
        total += penalty_of_range(l1, l2, parameters, first, last)
    report[_first_group(report) + group, 0] = total


@tile_function
def _square_group(group, gradient, report):
    """Note the sum of squares of a group's gradient."""
    start, stop = _group(group, gradient.size)
    report[_first_group(report) + group, 0] = square_of_range(gradient, start, stop)


@tile_function
def _update_group(group, plan, report, parameters, gradient, optimizer, rates, memory):
    """Update a group of parameters from its gradient, times the batch's factor."""
    start, stop = _group(group, parameters.size)
    scale_range(report[BATCH, FACTOR], gradient, start, stop)
    _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory)


@tile_function
def _add_groups(report):
    """The groups' sums, in their order."""
    total = 0.0
    for group in range(UPDATE_GROUPS):
        total += report[_first_group(report) + group, 0]
    return total


@tile_function
def _limit(report, max_norm):
    """Note by what the gradient is multiplied, so that its norm is ``max_norm`` at most."""
    norm = math.sqrt(_add_groups(report))
    report[BATCH, FACTOR] = max_norm / norm if norm > max_norm else 1.0


# ------------------------------------------------------------------------------------------------------------------
# the parts into which a batch is divided: tiles, or groups of samples whose gradients are summed by themselves


@tile_function
def n_blocks(arena, samples):
    """Blocks of samples, the last of which may be filled up."""
    return (samples + block(arena) - 1) // block(arena)


@tile_function
def _n_groups(plan, samples):
    """Groups of samples whose gradients are summed by themselves; 0 if all of them would not stay in the cache."""
    if plan[-1, PARTIALS_IN_CACHE] == 0:
        return 0
    most = min(MOST_GROUPS, max(2, samples // GROUP_SAMPLES), samples // plan[-1, LEAST_SAMPLES])
    groups = 1
    while 2 * groups <= most:  # a power of two, which threads can share equally
        groups *= 2
    return groups if groups <= plan[-1, PARTIALS_IN_CACHE] else 0


class _Division(NamedTuple):
    """How a batch is divided. It follows from the plan and the number of samples."""

    blocks: int
    """Of samples, the last of which may be filled up."""
    groups: int
    """0 if there are none: then parts are tiles."""
    part_blocks: int
    """Blocks in a part, but for the last one, which may have fewer."""
    parts: int


@tile_function
def _divided(plan, arena, samples):
    """How a batch of so many samples is divided. A tile is small if there are few blocks: every thread gets some."""
    blocks, groups = n_blocks(arena, samples), _n_groups(plan, samples)
    if groups > 0:
        part_blocks = (blocks + groups - 1) // groups
    else:
        part_blocks = max(1, min(TILE_BLOCKS, blocks // (TILES_PER_THREAD * plan[-1, THREADS])), blocks // MOST_TASKS)
    return _Division(blocks, groups, part_blocks, (blocks + part_blocks - 1) // part_blocks)


@tile_function
def _n_sample_tasks(plan, division):
    """Tasks of the phase over samples: its parts; and groups of parameters, if there is a penalty."""
    return division.parts + (UPDATE_GROUPS if plan[-1, PENALIZES] != NOTHING else 0)


@tile_function
def status_of(plan, arena, samples, report):
    """The first thing found wrong in any tile, and the sum of the blocks' losses, in their order."""
    total = 0.0
    for p in range(n_blocks(arena, samples)):
        if report[p, X_CHECK] != 0:
            return X_NOT_FINITE, 0.0
        if report[p, Y_CHECK] != 0:
            return Y_NOT_FINITE, 0.0
        total += report[p, BLOCK_LOSS]
    if plan[-1, PENALIZES] != NOTHING:
        total += _add_groups(report)
    return (FINITE if total - total == 0 else LOSS_NOT_FINITE), total


@tile_function
def note(report, column, p0, p1, value):
    """Write what was found in a tile into the rows of its blocks."""
    for p in range(p0, p1):
        report[p, column] = value


# ------------------------------------------------------------------------------------------------------------------
# the kernels: each is called by every member ``me`` of a crew, or by one that is ALONE


@crew_kernel
def pack(me, plan, parameters, panels):
    """Write the weights of all layers as panels, one layer after the other."""
    place = 0
    for layer in range(plan.shape[0] - 1):
        inputs, outputs = plan[layer, INPUTS], plan[layer, OUTPUTS]
        panels_of(parameters, plan[layer, WEIGHTS], inputs, outputs, panels, place)
        place += inputs * _whole_vectors(outputs, panels)


@tile_function
def _whole_vectors(outputs, A):
    return (outputs + lanes(A) - 1) // lanes(A) * lanes(A)


@inlined_function
def _predict_sample(plan, parameters, panels, arena, data, row, output):
    """Output of a single row of the data. Returns 0, or NaN if any value of the row is."""
    x, inputs, step, size = plan[0, X], plan[0, INPUTS], lanes(arena), block(arena)
    check, panel = fill(arena, 0.0), 0
    for i in range(0, inputs, step):
        value = load_first(data, row * inputs + i, inputs - i)
        check = check + (value - value)
        store(arena, x + i, value)
    for layer in range(plan.shape[0] - 1):
        inputs, outputs, code = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, ACTIVATION]
        b, z, a = plan[layer, BIASES], plan[layer, Z], plan[layer, A]
        # Z = affine(W, b, X);  A = activate(Z)
        affine_sample(panels, panel, parameters, b, inputs, outputs, arena, x, arena, z)
        activate_strip(code, arena, z, arena, a, _whole_vectors(outputs, arena))
        x = a
        panel += inputs * _whole_vectors(outputs, arena)
    if plan[-2, ACTIVATION] == SOFTMAX:
        for j in range(outputs):  # a block of one sample, again and again
            for k in range(0, size, step):
                store(arena, plan[-2, DZ] + j * size + k, fill(arena, arena[plan[-2, Z] + j]))
        softmax_block(outputs, arena, plan[-2, DZ], arena, x)
        for j in range(outputs):
            output[row * outputs + j] = arena[x + j * size]
    else:
        for j in range(0, outputs, step):
            store_first(output, row * outputs + j, load(arena, x + j), outputs - j)
    return sum_lanes(check)


@inlined_function
def _predict_blocks(me, plan, parameters, arena, data, first, samples, output):
    """Output of a member's share of the blocks, all of which it works on in the same place of the arena."""
    size, p0, outputs = block(arena), max(me, 0) * PREDICTED_BLOCKS, plan[-2, OUTPUTS]
    start, stop = share(me, plan[-1, THREADS], n_blocks(arena, samples))
    check = 0.0
    for p in range(start, stop, TILE_BLOCKS):
        # seen from the arena's first block, so many samples of the data come before those of this tile: the second one
        # of a single member, p = 8 and p0 = 0, begins at sample 8 * size, and is worked on as if it were the first
        shift = (p - p0) * size
        p1 = p0 + min(TILE_BLOCKS, stop - p)
        check += read_samples(plan, arena, data, NO_ORDER, first + shift, samples - shift, p0, p1)
        forward_tile(plan, parameters, arena, p0, p1, False, NOTHING_DROPPED, 0)
        scatter_rows(arena, plan[-2, A], outputs, samples - shift, p0, p1, output, (first + shift) * outputs, outputs)
    return check


@crew_kernel
def predict_alone(me, plan, parameters, panels, arena, report, data, output, first, samples):
    """The same as :func:`predict`, sample by sample, with the weights as panels too: it is quicker for a few."""
    check = 0.0
    for row in range(first, first + samples):
        check += _predict_sample(plan, parameters, panels, arena, data, row, output)
    report[0, X_CHECK] = check
    return FINITE if check == 0 else X_NOT_FINITE


@crew_kernel
def predict(me, plan, parameters, arena, report, data, output, first, samples):
    """Forward pass of ``samples`` rows of ``data``, and of ``output``, from row ``first`` on. Returns the status.

    The arena need not hold all of them: :data:`PREDICTED_BLOCKS` blocks for each thread.
    """
    if me == ALONE or me >= 0:
        report[max(me, 0), X_CHECK] = _predict_blocks(me, plan, parameters, arena, data, first, samples, output)
    elif me == CLOSING:
        for member in range(1, plan[-1, THREADS]):
            report[0, X_CHECK] += report[member, X_CHECK]
    return FINITE if report[0, X_CHECK] == 0 else X_NOT_FINITE


@inlined_function
def loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, first, samples, p0, p1, apart):
    """Targets and shares of a tile that has been forward, and its loss."""
    check = _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1)
    note(report, Y_CHECK, p0 - apart, p1 - apart, check)
    _share_out(plan, arena, report, sample_weights, order, first, samples, p0, p1)
    _loss_tile(plan, arena, report, p0, p1, apart)


@inlined_function
def _sample_task(
    task, passes, division, plan, parameters, arena, report, gradient, data, targets, labels, sample_weights, order,
    first, samples, dropout_step,
):  # fmt: skip
    """A part of the batch, tile by tile: what ``passes`` says of it; or the penalty of a group of parameters."""
    if task >= division.parts:
        _penalty_group(task - division.parts, plan, parameters, report)
        return
    start, stop = task * division.part_blocks, min((task + 1) * division.part_blocks, division.blocks)
    apart = _blocks_apart(task, passes, plan, division.groups)
    start, stop = start + apart, stop + apart
    # seen from the arena's first block, so many more samples come before those of this part: if the second group's
    # block 2 stands where block 10 would, ``first`` is 8 blocks less, maybe below 0, and row ``first + n`` is right
    first, samples = first - apart * block(arena), samples + apart * block(arena)
    for p0 in range(start, stop, TILE_BLOCKS):
        p1 = min(p0 + TILE_BLOCKS, stop)
        if passes & FORWARD:
            check = read_samples(plan, arena, data, order, first, samples, p0, p1)
            note(report, X_CHECK, p0 - apart, p1 - apart, check)
            forward_tile(plan, parameters, arena, p0, p1, passes != (FORWARD | LOSSES), dropout_step, apart)
        if passes & LOSSES:
            loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, first, samples, p0, p1, apart)
        else:
            note(report, BLOCK_LOSS, p0 - apart, p1 - apart, 0.0)
            note(report, Y_CHECK, p0 - apart, p1 - apart, 0.0)
        if passes & BACKWARD:
            backward_tile(plan, parameters, arena, p0, p1, dropout_step, apart)
            if division.groups > 0:
                # the gradient of a single group is that of the batch
                partial, to = gradient, 0
                if division.parts > 1:
                    partial, to = arena, plan[-1, PARTIALS] + task * plan[-1, PARTIAL_SIZE]
                _partial_gradient(p0 > start, plan, arena, p0, p1, partial, to)


@tile_function
def _blocks_apart(part, passes, plan, groups):
    """By how many blocks a part's samples lie further on than their numbers tell.

    Only where parts are groups, in a training step, after which nobody looks for their samples, and only if another
    thread works beside this one.
    """
    return part * plan[-1, APART] if groups > 0 and passes == ALL_PASSES and plan[-1, THREADS] > 1 else 0


@tile_function
def _begin(report, total):
    for k in range(report.shape[1]):
        report[RUN, k] = 0.0
    report[RUN, 1] = total
    report[PENALTY, PENALTIES] = 0.0


@tile_function
def _judge(plan, arena, samples, report):
    """Add up the losses of a step's blocks in the report's last row; returns whether the step may be taken."""
    status, loss = status_of(plan, arena, samples, report)
    report[RUN, 0] = status
    if status != FINITE:
        report[RUN, 1] = loss * report[BATCH, TOTAL_WEIGHT]
        return False
    report[RUN, 1] += loss * report[BATCH, TOTAL_WEIGHT]
    if plan[-1, PENALIZES] != NOTHING:
        report[PENALTY, PENALTIES] += _add_groups(report) * report[BATCH, TOTAL_WEIGHT]
    return True


OVER_SAMPLES, OVER_WEIGHTS, OVER_SQUARES, OVER_GROUPS = range(4)
"""The phases of a step. The last two are only where the norm of the gradient is limited, which must be known first."""

FORWARD, LOSSES, BACKWARD = 1, 2, 4
"""The passes over the samples, of which a call makes some: what the others would compute is there, or not wanted."""

ALL_PASSES = FORWARD | LOSSES | BACKWARD
"""Those of a training step."""


@tile_function
def _n_phases(optimizer, settings):
    return 4 if settings[MAX_NORM] > 0 and optimizer != NO_UPDATE else 2


@tile_function
def _n_tasks(kind, division, plan, arena, n_parameters):
    """Tasks of a phase of this kind."""
    if kind == OVER_SAMPLES:
        return _n_sample_tasks(plan, division)
    if kind == OVER_WEIGHTS:
        return _n_parts(division, plan, arena, n_parameters)
    return UPDATE_GROUPS


@tile_function
def _batch(k, first, batch_size, n_rows, per_epoch, order):
    """Where step ``k`` of a call begins in the order, and how many samples it has.

    ``per_epoch`` is the number of steps of an epoch; 0 if the call's are of a single one.
    """
    if per_epoch == 0:
        start = first + k * batch_size
        return start, min(batch_size, n_rows - start)
    epoch = k // per_epoch
    start = (k - epoch * per_epoch) * batch_size
    # the orders of the epochs stand one after the other; rows as they stand come again and again
    shift = epoch * n_rows if order.size > 0 else 0
    return shift + start, min(batch_size, n_rows - start)


@tile_function
def _square_before(gradient, factor):
    """``Σ g²`` in float64, of the gradient before it was multiplied.

    Eight sums take turns: with one, each addition waited for the one before, and of a million parameters this took a
    millisecond.
    """
    whole = gradient.size // 8 * 8
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(0, whole, 8):
        a, b = a + _square(gradient, k), b + _square(gradient, k + 1)
        c, d = c + _square(gradient, k + 2), d + _square(gradient, k + 3)
        e, f = e + _square(gradient, k + 4), f + _square(gradient, k + 5)
        g, h = g + _square(gradient, k + 6), h + _square(gradient, k + 7)
    for k in range(whole, gradient.size):
        a += _square(gradient, k)
    square = ((a + b) + (c + d)) + ((e + f) + (g + h))
    return square / (factor * factor) if factor > 0 else square


@tile_function
def _square(gradient, k):
    return np.float64(gradient[k]) * np.float64(gradient[k])


@crew_kernel
def gradient_square(me, gradient, factor):
    """The square of the norm of the gradient, before it was multiplied by ``factor`` to limit it."""
    return _square_before(gradient, factor)


@tile_function
def _end_epoch(epoch, report, gradient, settings, ended):
    """Note what is known of an epoch, and begin the sum of the next one's losses."""
    factor = report[BATCH, FACTOR] if settings[MAX_NORM] > 0 else 1.0
    ended[OF_EPOCH * epoch], ended[OF_EPOCH * epoch + 1] = report[RUN, 1], _square_before(gradient, factor)
    report[RUN, 1] = 0.0


@tile_function
def _steps_of_epoch(n_rows, batch_size, ended):
    return (n_rows + batch_size - 1) // batch_size if ended.size > 0 else 0


@inlined_function
def _train_along(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, ended, division,
):  # fmt: skip
    """What each member does: claim a task of the present phase, until there are no more phases.

    Phases are counted through all steps: phase ``phases * k + kind`` is of step ``k``, and number ``phases * n_steps``
    means that all is done. The phase over samples comes first; then that over weights, which ends the step; where the
    norm of the gradient is limited, it only sums, and those over squares and over groups of parameters come behind it.
    Whoever finishes the last task of a phase opens the next one. ``division`` is that of the first batch.
    """
    phases, members, size = _n_phases(optimizer, settings), plan[-1, THREADS], parameters.size
    per_epoch = _steps_of_epoch(n_rows, batch_size, ended)
    # all batches but an epoch's last are divided alike: to find out each time takes a tenth of a step of 3-4-4-2
    of_samples = min(batch_size, n_rows - first)
    while True:
        phase, task = claim(crew, me, members)
        # divided by a constant each, which is a shift
        k, kind = (phase // 2, phase % 2) if phases == 2 else (phase // 4, phase % 4)
        if k >= n_steps:
            return
        if task == NO_TASK:
            wait_for_next(crew, me, phase)
            continue
        start, samples = _batch(k, first, batch_size, n_rows, per_epoch, order)
        if samples != of_samples:
            of_samples, division = samples, _divided(plan, arena, samples)
        tasks = _n_tasks(kind, division, plan, arena, size)
        if kind == OVER_SAMPLES:
            # the optimizer counts its steps from 1, dropout from 0
            dropout_step = step + k - 1 if step > 0 and plan[-1, DROPS] else NOTHING_DROPPED
            _sample_task(
                task, passes, division, plan, parameters, arena, report, gradient, data, targets, labels,
                sample_weights, order, start, samples, dropout_step,
            )  # fmt: skip
        else:
            rates = rates_of(optimizer, settings, step + k, k)
            if kind == OVER_WEIGHTS:
                rule = optimizer if phases == 2 else NO_UPDATE
                _weight_part(task, tasks, division, plan, arena, report, parameters, gradient, rule, rates, memory)
            elif kind == OVER_SQUARES:
                _square_group(task, gradient, report)
            else:
                _update_group(task, plan, report, parameters, gradient, optimizer, rates, memory)
        if finish(crew, tasks):
            following = phase + 1
            if kind == OVER_SAMPLES:
                if not _judge(plan, arena, samples, report) or not passes & BACKWARD:
                    following = phases * n_steps
            elif kind == OVER_SQUARES:
                _limit(report, settings[MAX_NORM])
            elif kind == phases - 1:
                report[RUN, 2] += 1
                if per_epoch > 0 and (k + 1) % per_epoch == 0:
                    _end_epoch(k // per_epoch, report, gradient, settings, ended)
                if k + 1 < n_steps:
                    start, samples = _batch(k + 1, first, batch_size, n_rows, per_epoch, order)
                    weigh(plan, report, sample_weights, order, start, samples)
                    if samples != of_samples:
                        of_samples, division = samples, _divided(plan, arena, samples)
            kind = following % phases
            tasks = _n_tasks(kind, division, plan, arena, size) if following < phases * n_steps else 0
            open_phase(crew, members, following, tasks)


@inlined_function
def _train(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
):  # fmt: skip
    """The body of :func:`train`, by itself: there Numba would count references to each array, a tenth of a µs."""
    samples = min(batch_size, n_rows - first)
    division = _divided(plan, arena, samples)
    if me in (ALONE, OPENING):
        _begin(report, total)
        weigh(plan, report, sample_weights, order, first, samples)
        open_phase(crew, plan[-1, THREADS], 0, _n_sample_tasks(plan, division) if n_steps > 0 else 0)
    if me == ALONE or me >= 0:
        _train_along(
            max(me, 0), crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels,
            sample_weights, order, n_rows, batch_size, first, n_steps, optimizer, settings, step, ended, division,
        )  # fmt: skip
    return int(report[RUN, 0]), report[RUN, 1], int(report[RUN, 2])


@crew_kernel
def train(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
):  # fmt: skip
    """Take ``n_steps`` training steps over minibatches of ``n_rows`` rows, from row ``first`` of ``order`` on.

    If there is room in ``ended``, :data:`OF_EPOCH` numbers for each, they are the steps of whole epochs, whose orders
    stand one after the other; and ``total`` is 0. It comes back for an epoch that was not ended.

    The first of them is the optimizer's step ``step``, from 1; units are dropped by that number. With ``step`` 0,
    which is for gradients alone, none are. ``passes`` is :data:`ALL_PASSES` of a training step; without the backward
    one, the first step ends before its weights would change.

    Returns the status, ``total`` plus the steps' losses times their samples' weights (added one by one, so that it
    does not matter in how many calls the steps are taken), and the number of steps taken. A step whose data or loss
    is not finite changes nothing and is the last one; its loss is what comes back.
    """
    return _train(
        me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights,
        order, n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
    )  # fmt: skip


def forward(
    crew, plan, parameters, arena, report, data, order, first, samples, dropout_step, *, run=train
):  # fmt: skip
    """Forward pass of a batch; what it computes stays in the arena. Returns the status.

    ``dropout_step`` is the number of the step that tells which units are dropped, or :data:`NOTHING_DROPPED`.

    The batch is ``samples`` rows of ``data``: those that ``order`` names from its entry ``first`` on, or, if ``order``
    is empty, the rows from ``first`` on.
    """
    # a forward pass touches neither gradient nor memory, targets nor weights: anything of their type may stand there
    return run(
        crew, FORWARD, plan, parameters, arena, report, parameters, parameters, data, data, NO_ORDER, NO_WEIGHTS,
        order, first + samples, samples, first, 1, NO_UPDATE, NO_SETTINGS, dropout_step + 1, 0.0, ONE_EPOCH,
    )[0]  # fmt: skip


def loss_value(
    crew, plan, parameters, arena, report, data, targets, labels, sample_weights, order, first, samples, *, run=train
):  # fmt: skip
    """Loss of a batch, as in :func:`forward`. Returns the status and the loss."""
    status, total, _ = run(
        crew, FORWARD | LOSSES, plan, parameters, arena, report, parameters, parameters, data, targets, labels,
        sample_weights, order, first + samples, samples, first, 1, NO_UPDATE, NO_SETTINGS, 0, 0.0, ONE_EPOCH,
    )  # fmt: skip
    return status, _mean(total, report)


def _mean(total, report):
    """The loss from the sum of the samples' losses times their weights; these may all be 0."""
    weight = report[BATCH, TOTAL_WEIGHT]
    return total / weight if weight > 0 else 0.0


def backward(
    crew, plan, parameters, arena, report, targets, labels, sample_weights, order, first, samples, dropout_step,
    gradient, *, run=train,
):  # fmt: skip
    """Backward pass of the batch that :func:`forward` left in the arena. Returns the status and the loss."""
    status, total, _ = run(
        crew, LOSSES | BACKWARD, plan, parameters, arena, report, gradient, gradient, targets, targets, labels,
        sample_weights, order, first + samples, samples, first, 1, NO_UPDATE, NO_SETTINGS, dropout_step + 1, 0.0,
        ONE_EPOCH,
    )  # fmt: skip
    return status, _mean(total, report)


@tile_function
def _complete_group(group, total_weight, plan, parameters, gradient, report):
    """The mean of a group's gradient, from its sum over samples of so much weight; and the penalty's."""
    start, stop = _group(group, parameters.size)
    scale_range(1.0 / total_weight if total_weight > 0 else 0.0, gradient, start, stop)
    if plan[-1, PENALIZES] != NOTHING:
        for layer in range(plan.shape[0] - 1):
            first, last = _meant(start, stop, layer, plan[-1, PENALIZES] == EVERYTHING, plan)
            penalize_range(report[PENALTY, L1], report[PENALTY, L2], parameters, gradient, first, last)


@crew_kernel
def update(me, plan, report, parameters, gradient, memory, optimizer, settings, step, total_weight):
    """Update every parameter from any gradient, whose norm is limited first if that is wanted.

    With a ``total_weight`` of at least 0, the gradient is the sum over samples of so much weight, which have been
    elsewhere: the mean is taken first, and the penalty's gradient added. The penalty, times the weight, is noted; and
    at the end, that a step has been taken.
    """
    rates = rates_of(optimizer, settings, step, 0)
    if me in (ALONE, OPENING):
        report[BATCH, FACTOR] = 1.0
        if total_weight >= 0:
            _penalize_batch(total_weight, plan, report)
            report[PENALTY, PENALTIES] = 0.0
            if plan[-1, PENALIZES] != NOTHING:
                for group in range(UPDATE_GROUPS):
                    _penalty_group(group, plan, parameters, report)
                report[PENALTY, PENALTIES] = _add_groups(report) * total_weight
            for group in range(UPDATE_GROUPS):
                _complete_group(group, total_weight, plan, parameters, gradient, report)
        if settings[MAX_NORM] > 0:
            for group in range(UPDATE_GROUPS):
                _square_group(group, gradient, report)
            _limit(report, settings[MAX_NORM])
    start, stop = share(me, plan[-1, THREADS], UPDATE_GROUPS)
    for group in range(start, stop):
        _update_group(group, plan, report, parameters, gradient, optimizer, rates, memory)
    if me in (ALONE, CLOSING):
        report[RUN, 2] = 1
