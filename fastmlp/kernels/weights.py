"""The phase over weights: a tile of ``W`` is summed over all samples in a fixed order, and updated.

And where an update needs all gradients first, what is then done to all parameters, range by range.
"""

from __future__ import annotations

import math

import numpy as np

from fastmlp.kernels.calls import crew_kernel
from fastmlp.kernels.columns import (
    BATCH,
    BIASES,
    DZ,
    EVERYTHING,
    FACTOR,
    INPUTS,
    IS_NARROW,
    L1,
    L2,
    NOTHING,
    OUTPUTS,
    PARAMETER_RANGES,
    PARTIAL_SIZE,
    PARTIALS,
    PENALIZES,
    PENALTY,
    REPORT_ROWS,
    ROOM,
    THREADS,
    WEIGHTS,
    X_BY_FEATURES,
    X,
)
from fastmlp.kernels.jit import inlined_function, summing_function, tile_function
from fastmlp.kernels.layer import (
    bias_gradient_strip,
    n_strips,
    narrow_gradient_strip,
    strip_of,
    weight_gradient_rows,
    weight_gradient_strip,
)
from fastmlp.kernels.layout import n_blocks
from fastmlp.kernels.optimizers import (
    NO_UPDATE,
    decay_range,
    penalize_range,
    penalty_of_range,
    scale_range,
    square_of_range,
    update_beside_others,
    update_rows,
)
from fastmlp.kernels.simd import block, lanes, load_first, store_first

LINE = 32
"""Elements of a cache line and the one that is fetched with it, in float32; in float64, of two such pairs."""

WORTH_A_TASK = 2_000
"""Elements of partial gradients to be added that are worth a task."""

STRIPS_AT_ONCE = 8
"""Strips of ``dW`` that take turns at a run of inputs, which come from memory once for all of them."""

BLOCKS_AT_ONCE = 32
"""Blocks of samples over which ``dW`` is summed in one go: so many samples of a block of inputs stay in the cache."""

INPUT_BLOCKS_AT_ONCE, TWO_SETS_BYTES = 8, 2048
"""Blocks in a run of inputs, for which ``dW`` is computed before it is used: a row of weights is updated in one go.
Tile by tile, one thread takes 334 us instead of 320 for 784-300-10 on 32 samples. Several wait less for each other's
cache lines if products come between updates, 187 us instead of 204; but not where rows lie a multiple of so many bytes
apart: as these fall into one set, or two, of the first-level cache, 1024-512-10 took 690 us tile by tile instead of
445.
"""

TASKS_PER_THREAD = 4
"""Tasks into which the weights are divided, for each thread, where gradients are not summed by groups."""


# ------------------------------------------------------------------------------------------------------------------
# one tile of one layer's W, that is a strip's rows j and a block of inputs i


@tile_function
def _count_weight_tiles(plan, arena):
    """Tiles of all layers."""
    total = 0
    for layer in range(plan.shape[0] - 1):
        total += n_strips(plan[layer, OUTPUTS]) * n_blocks(arena, plan[layer, INPUTS])
    return total


@inlined_function
def _weight_tile(layer, strip, i, n0, n1, add, plan, arena, gradient, g):
    """Gradient of one tile of weights, ``Σ_n dZ[j,n] X[i,n]``; with the first of a strip also that of its biases.

    The gradient of the whole network begins at ``g`` in ``gradient``. The sum runs over samples from ``n0``, with
    which a block begins, to before ``n1``; with ``add`` it goes on.
    """
    inputs, outputs, size = plan[layer, INPUTS], plan[layer, OUTPUTS], block(arena)
    j, rows = strip_of(outputs, strip)
    d, x = plan[layer, DZ] + j * size, plan[layer, X_BY_FEATURES] + i * plan[-1, ROOM]
    w, b = g + plan[layer, WEIGHTS] + j * inputs + i, g + plan[layer, BIASES] + j
    if plan[layer, IS_NARROW]:
        narrow_gradient_strip(rows, arena, d, outputs, n0, n1, add, arena, plan[layer, X], inputs, gradient, w)
    else:
        columns = min(inputs - i, size)
        weight_gradient_strip(rows, arena, d, outputs, n0, n1, add, arena, x, columns, inputs, gradient, w)
    if i == 0:
        bias_gradient_strip(rows, arena, d, outputs, n0, n1, add, gradient, b)


@inlined_function
def _finish_strip(layer, strip, i0, i1, plan, report, parameters, gradient, optimizer, rates, memory):
    """Penalty and update of the weights of a strip for inputs ``i0`` to ``i1``; with the first, of its biases too.

    For each of them, ``g += l1 sign(w) + l2 w``; ``w`` decays; and the optimizer's rule makes the next ``w`` of both.
    """
    inputs, columns = plan[layer, INPUTS], i1 - i0
    j, rows = strip_of(plan[layer, OUTPUTS], strip)
    w, b = plan[layer, WEIGHTS] + j * inputs + i0, plan[layer, BIASES] + j
    if plan[-1, PENALIZES] != NOTHING:
        l1, l2 = report[PENALTY, L1], report[PENALTY, L2]
        for r in range(rows):
            penalize_range(l1, l2, parameters, gradient, w + r * inputs, w + r * inputs + columns)
        if i0 == 0 and plan[-1, PENALIZES] == EVERYTHING:
            penalize_range(l1, l2, parameters, gradient, b, b + rows)
    if optimizer == NO_UPDATE:
        return
    if rates.weight_decay != 0:
        for r in range(rows):
            decay_range(rates, parameters, w + r * inputs, w + r * inputs + columns)
        if i0 == 0 and rates.decays_biases:
            decay_range(rates, parameters, b, b + rows)
    update_rows(optimizer, rates, parameters, gradient, memory, w, columns, rows, inputs)
    if i0 == 0:  # the biases are one row
        update_rows(optimizer, rates, parameters, gradient, memory, b, rows, 1, 0)


@inlined_function
def _tiles_of_strip(
    layer, strip, start, stop, n0, n1, is_last, plan, arena, report, parameters, gradient, optimizer, rates, memory,
):  # fmt: skip
    """Gradient of a strip for blocks of inputs ``start`` to ``stop``; and if the sum is complete, what follows."""
    inputs, size = plan[layer, INPUTS], block(arena)
    # blocks whose gradients are computed before the first of them is used
    at_once = 1
    if plan[-1, THREADS] == 1 or inputs * arena.itemsize % TWO_SETS_BYTES == 0:
        at_once = INPUT_BLOCKS_AT_ONCE
    for k0 in range(start, stop, at_once):
        k1 = min(k0 + at_once, stop)
        for k in range(k0, k1):
            _weight_tile(layer, strip, k * size, n0, n1, n0 > 0, plan, arena, gradient, 0)
        if is_last:
            i0, i1 = k0 * size, min(k1 * size, inputs)
            _finish_strip(layer, strip, i0, i1, plan, report, parameters, gradient, optimizer, rates, memory)


@tile_function
def _weight_tiles(start, stop, plan, arena, report, samples, parameters, gradient, optimizer, rates, memory):
    """Tiles ``start`` to ``stop`` of all layers' weights.

    They are numbered by layer; by bundle of :data:`STRIPS_AT_ONCE` strips; by run of :data:`INPUT_BLOCKS_AT_ONCE`
    blocks of inputs; by strip; and by block. The outer loop sums over :data:`BLOCKS_AT_ONCE` blocks of samples at a
    time; its last turn updates.
    """
    for n0 in range(0, samples, BLOCKS_AT_ONCE * block(arena)):
        n1 = min(n0 + BLOCKS_AT_ONCE * block(arena), samples)
        tile = 0  # the first one of a strip's run
        for layer in range(plan.shape[0] - 1):
            strips, input_blocks = n_strips(plan[layer, OUTPUTS]), n_blocks(arena, plan[layer, INPUTS])
            for s0 in range(0, strips, STRIPS_AT_ONCE):
                for run in range(0, input_blocks, INPUT_BLOCKS_AT_ONCE):
                    length = min(INPUT_BLOCKS_AT_ONCE, input_blocks - run)
                    for strip in range(s0, min(s0 + STRIPS_AT_ONCE, strips)):
                        k0, k1 = run + max(start - tile, 0), run + min(stop - tile, length)
                        _tiles_of_strip(
                            layer, strip, k0, k1, n0, n1, n1 == samples, plan, arena, report, parameters, gradient,
                            optimizer, rates, memory,
                        )  # fmt: skip
                        tile += length


@tile_function
def rows_gradient(add, plan, arena, data, order, first, n0, n1, partial, to):
    """The first layer's gradients, as in :func:`partial_gradient`, from the user's rows where they stand.

    Sample ``n`` is the row that ``order`` names in its entry ``first + n``.
    """
    inputs, outputs, d = plan[0, INPUTS], plan[0, OUTPUTS], plan[0, DZ]
    w, b = to + plan[0, WEIGHTS], to + plan[0, BIASES]
    weight_gradient_rows(arena, d, outputs, n0, n1, add, data, order, first, inputs, partial, w)
    bias_gradient_strip(outputs, arena, d, outputs, n0, n1, add, partial, b)


@tile_function
def partial_gradient(from_layer, add, plan, arena, n0, n1, partial, to):
    """Gradients of ``from_layer`` and the layers above it, over one tile of samples only, which is in the cache.

    With ``add``, they are added to those of the group's tiles before.
    """
    for layer in range(from_layer, plan.shape[0] - 1):
        # a strip's rows from the first input to the last, as they are stored
        for strip in range(n_strips(plan[layer, OUTPUTS])):
            for i in range(0, plan[layer, INPUTS], block(arena)):
                _weight_tile(layer, strip, i, n0, n1, add, plan, arena, partial, to)


# ------------------------------------------------------------------------------------------------------------------
# any parameters, of whatever layers they are


@tile_function
def _meant(start, stop, layer, with_biases, plan):
    """The parameters of a layer among those from ``start`` to ``stop``: its weights, and its biases too if wanted."""
    after = plan[layer, BIASES] + (plan[layer, OUTPUTS] if with_biases else 0)
    return max(start, plan[layer, WEIGHTS]), min(stop, after)


@tile_function
def _penalize_flat(start, stop, plan, report, parameters, gradient):
    """Add the penalty's gradient for the parameters from ``start`` to ``stop``, of whatever layers they are."""
    if plan[-1, PENALIZES] != NOTHING:
        for layer in range(plan.shape[0] - 1):
            k0, k1 = _meant(start, stop, layer, plan[-1, PENALIZES] == EVERYTHING, plan)
            penalize_range(report[PENALTY, L1], report[PENALTY, L2], parameters, gradient, k0, k1)


@inlined_function
def _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory):
    """Decay and update of the parameters from ``start`` to ``stop``, of whatever layers they are."""
    if rates.weight_decay != 0:
        for layer in range(plan.shape[0] - 1):
            k0, k1 = _meant(start, stop, layer, rates.decays_biases, plan)
            decay_range(rates, parameters, k0, k1)
    if plan[-1, THREADS] > 1:
        update_beside_others(optimizer, rates, parameters, gradient, memory, start, stop)
    else:
        update_rows(optimizer, rates, parameters, gradient, memory, start, stop - start, 1, 0)


@inlined_function
def _add_partials(start, stop, parts, plan, arena, report, parameters, gradient, optimizer, rates, memory):
    """Gradients of the parameters from ``start`` to ``stop``, and their update.

    Each is the sum of the groups' partial ones, in their order: ``g[k] = Σ_group partial[group, k]``.
    """
    if parts > 1:
        for k in range(start, stop, lanes(arena)):
            here = plan[-1, PARTIALS] + k
            total = load_first(arena, here, stop - k)
            for group in range(1, parts):
                total = total + load_first(arena, here + group * plan[-1, PARTIAL_SIZE], stop - k)
            store_first(gradient, k, total, stop - k)
    _penalize_flat(start, stop, plan, report, parameters, gradient)
    if optimizer != NO_UPDATE:
        _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory)


# ------------------------------------------------------------------------------------------------------------------
# the tasks of the phase over weights


@tile_function
def n_weight_tasks(division, plan, arena, n_parameters):
    """Tasks of the phase: where partial gradients are added, one for each thread that it is worth; else several."""
    threads = plan[-1, THREADS]
    if division.groups > 0:
        return min(threads, 1 + n_parameters * division.parts // WORTH_A_TASK)
    return min(TASKS_PER_THREAD * threads, _count_weight_tiles(plan, arena)) if threads > 1 else 1


@tile_function
def _whole_lines(task, tasks, parameters):
    """Where a task's parameters begin: at the beginning of a cache line, so that no two tasks share one."""
    size = parameters.size
    return task * size // tasks // LINE * LINE if task < tasks else size


@inlined_function
def weight_task(task, tasks, division, plan, arena, report, parameters, gradient, optimizer, rates, memory):
    """One of ``tasks`` equal parts of all weights: their gradient, and their update."""
    if division.groups > 0:
        start, stop = _whole_lines(task, tasks, parameters), _whole_lines(task + 1, tasks, parameters)
        _add_partials(start, stop, division.parts, plan, arena, report, parameters, gradient, optimizer, rates, memory)
    else:
        tiles = _count_weight_tiles(plan, arena)
        start, stop = task * tiles // tasks, (task + 1) * tiles // tasks
        _weight_tiles(
            start, stop, plan, arena, report, division.samples, parameters, gradient, optimizer, rates, memory
        )


# ------------------------------------------------------------------------------------------------------------------
# sums over all parameters, range by range


@tile_function
def _range_of(k, size):
    """Where a range of parameters begins and ends."""
    return k * size // PARAMETER_RANGES, (k + 1) * size // PARAMETER_RANGES


@tile_function
def first_sum(report):
    """The report's row of the first range of parameters."""
    return report.shape[0] - REPORT_ROWS


@tile_function
def penalty_task(task, plan, parameters, report):
    """Note the penalty of a range of parameters."""
    start, stop = _range_of(task, parameters.size)
    l1, l2 = report[PENALTY, L1], report[PENALTY, L2]
    total = 0.0
    for layer in range(plan.shape[0] - 1):
        k0, k1 = _meant(start, stop, layer, plan[-1, PENALIZES] == EVERYTHING, plan)
        total += penalty_of_range(l1, l2, parameters, k0, k1)
    report[first_sum(report) + task, 0] = total


@tile_function
def square_task(task, gradient, report):
    """Note the sum of squares of a range's gradient."""
    start, stop = _range_of(task, gradient.size)
    report[first_sum(report) + task, 0] = square_of_range(gradient, start, stop)


@tile_function
def update_task(task, plan, report, parameters, gradient, optimizer, rates, memory):
    """Update a range of parameters from its gradient, times the batch's factor."""
    start, stop = _range_of(task, parameters.size)
    scale_range(report[BATCH, FACTOR], gradient, start, stop)
    _update_flat(start, stop, plan, parameters, gradient, optimizer, rates, memory)


@tile_function
def sum_of_ranges(report):
    """The ranges' sums, in their order."""
    total = 0.0
    for k in range(PARAMETER_RANGES):
        total += report[first_sum(report) + k, 0]
    return total


@tile_function
def limit(report, max_norm):
    """Note the factor of the gradient, ``min(1, max_norm / √(Σ g²))``: its norm is then ``max_norm`` at most."""
    norm = math.sqrt(sum_of_ranges(report))
    report[BATCH, FACTOR] = max_norm / norm if norm > max_norm else 1.0


@tile_function
def complete_range(k, total_weight, plan, parameters, gradient, report):
    """The mean of a range's gradient, from its sum ``Σ_n weight[n] g[n]`` over samples; plus the penalty's."""
    start, stop = _range_of(k, parameters.size)
    scale_range(1.0 / total_weight if total_weight > 0 else 0.0, gradient, start, stop)
    _penalize_flat(start, stop, plan, report, parameters, gradient)


@summing_function
def square_before(gradient, factor):
    """``Σ g²`` in float64, of the gradient before it was multiplied."""
    total = 0.0
    for k in range(gradient.size):
        total += np.float64(gradient[k]) * np.float64(gradient[k])
    return total / (factor * factor) if factor > 0 else total


@crew_kernel
def gradient_square(me, gradient, factor):
    """The square of the norm of the gradient, before it was multiplied by ``factor`` to limit it."""
    return square_before(gradient, factor)
