"""The whole network: a training step is two phases over tiles, whatever the depth.

*Over samples* (:mod:`fastmlp.kernels.samples`). Each thread takes tiles of samples through all layers, forward and
back, in its own cache: it writes the activations and the gradients ``dZ`` of its samples. Where there are too few
samples for all threads, these share the features of one layer after the other (:mod:`fastmlp.kernels.stages`).

*Over weights* (:mod:`fastmlp.kernels.weights`). Each thread takes tiles of ``W``, sums over all samples in a fixed
order, and updates them.

All steps of a call run in one parallel region, whose threads claim the tasks of a phase from queues: see
:mod:`fastmlp.kernels.crew`.

Where a few gradients of the whole network fit into the cache, it is cheaper that each thread sums those of its own
samples, which it has there, than that all threads fetch all samples. Then the first phase also sums over each *group*
of samples, to a *partial* gradient, and the second adds the partials in the order of the groups.

Everything that a step works on lies in one array, the *arena*; the *plan* says where: see
:mod:`fastmlp.kernels.columns`. The formulas are in :mod:`fastmlp.kernels.layer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fastmlp.kernels.calls import crew_kernel
from fastmlp.kernels.columns import (
    APART,
    BATCH,
    BLOCK_LOSS,
    DROPS,
    FACTOR,
    FINITE,
    LEAST_GROUP,
    LEAST_SAMPLES,
    LOSS_NOT_FINITE,
    NOTHING,
    PARAMETER_RANGES,
    PARTIAL_SIZE,
    PARTIALS,
    PARTIALS_IN_CACHE,
    PENALIZES,
    PENALTIES,
    PENALTY,
    RUN,
    STATUS,
    SUM_OF_LOSSES,
    TAKEN,
    THREADS,
    TOTAL_WEIGHT,
    X_CHECK,
    X_NOT_FINITE,
    Y_CHECK,
    Y_NOT_FINITE,
)
from fastmlp.kernels.crew import (
    MOST_TASKS,
    NO_TASK,
    begins,
    claim,
    ends,
    finish,
    open_phase,
    tasks_of,
    wait_for_next,
    works,
)
from fastmlp.kernels.dropout import NOTHING_DROPPED
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.layout import NO_ORDER, n_blocks
from fastmlp.kernels.optimizers import MAX_NORM, NO_SETTINGS, NO_UPDATE, rates_of
from fastmlp.kernels.samples import (
    KEEPS_ALL,
    KEEPS_FOR_GRADIENT,
    KEEPS_NOTHING,
    ROWS_BYTES,
    TILE_BLOCKS,
    X_BYTES,
    affine_rows_tile,
    backward_tile,
    blocks_of_bytes,
    can_read_in_place,
    few_of,
    forward_tile,
    loss_of_tile,
    note,
    penalize_batch,
    read_samples,
    weigh,
    whole,
)
from fastmlp.kernels.simd import block
from fastmlp.kernels.stages import NO_STAGES, n_stage_parts, n_stages, stage_task
from fastmlp.kernels.weights import (
    complete_range,
    limit,
    n_weight_tasks,
    partial_gradient,
    penalty_task,
    rows_gradient,
    square_before,
    square_task,
    sum_of_ranges,
    update_task,
    weight_task,
)

READ_OPERATIONS, UNIT_OPERATIONS = 30, 40
"""As many operations take as long as it takes to read a number of the user's, and to compute an activation and its
derivative. Where there is no hidden layer, or a few units, there is hardly anything else: a sample of 30-1 takes
13 ns, one of 3-4-4-2 takes 17."""

GROUP_SAMPLES, MOST_GROUPS, GROUP_OPERATIONS = 64, 16, 600_000
"""Where gradients are summed group by group: about how many samples a group has, how many groups there are at most,
and how many operations (float32; half as many in float64) are worth a group: some 8 us. (A batch that is worth one is
two groups, so that two threads share it.) They follow from the batch and the network alone, whatever the number of
threads."""

LEAST_GROUP_SAMPLES, LEAST_SHALLOW_SAMPLES = 32, 16
"""How many samples a group has at least; the second where its gradient is no more than what enters the layers with so
many samples. Threads exchange either the one or the other: with groups of 16, a step of 784-10 on 32 samples takes
12 us instead of 16, but one of 400-100-10 47 instead of 37."""

BYTES_APART = 4096
"""How far apart, in each block of features, the samples of two groups lie for two threads. Processors fetch beforehand
what stands behind what is read: with the next group's samples there, they took them from its thread's cache again and
again, and a step of 64-64-10 on 64 samples took 15.6 us instead of 13."""

TILES_PER_THREAD = 2
"""Tiles of samples for each thread, as long as there are blocks: whoever is quick takes one more."""

PARTIAL_BYTES = 3 << 18
"""Bytes of partial gradients up to which they stay in the cache, and it pays to write and read them: 784-512-10 on 32
samples takes 351 us with them and 297 without, 64-128-64-10 on 512 samples 245 and 256."""

SINGLE_BYTES = 1 << 22
"""The same of a single group, whose gradient is that of the batch: 784-128-10 on one sample takes 49 us instead of 58
in float64."""

NO_WEIGHTS = np.empty(0)
"""All samples weigh the same."""

ONE_EPOCH = np.empty(0)
"""Room for what is known of each epoch, where steps are of a single one, and nothing is wanted of it."""

OF_EPOCH = 2
"""What is known of an epoch: the sum of its losses times their weights, and the square of its last gradient's norm."""


# ------------------------------------------------------------------------------------------------------------------
# how a batch is divided: into tiles, or groups of samples whose gradients are summed by themselves


def operations(layer_sizes: Sequence[int]) -> int:
    """Operations of a step for each sample: two in each of three products, and what else takes as long as some."""
    products = sum(inputs * outputs for inputs, outputs in pairwise(layer_sizes))
    numbers, units = layer_sizes[0] + layer_sizes[-1], sum(layer_sizes[1:])
    return 6 * products + READ_OPERATIONS * numbers + UNIT_OPERATIONS * units


@tile_function
def _n_groups(plan, arena, samples):
    """Groups of samples whose gradients are summed by themselves.

    0 if these would not stay in the cache, or be of too few samples. A batch that is little work is one group.
    """
    if plan[-1, PARTIALS_IN_CACHE] == 0:
        return 0
    most, of_work = 1, samples // plan[-1, LEAST_SAMPLES]
    if of_work > 0:  # two threads share what is worth one group
        most = min(MOST_GROUPS, max(2, min(samples // GROUP_SAMPLES, of_work)))
    groups = 1
    while 2 * groups <= most:  # a power of two, which threads can share equally
        groups *= 2
    if groups > 1 and not _are_enough(plan, samples):
        # a few are one group, whose gradient is summed along the rows of W (partial_gradient), as they are stored:
        # that is what takes time then
        return 1 if few_of(samples, arena) > 0 else 0
    return groups if groups <= plan[-1, PARTIALS_IN_CACHE] else 0


@tile_function
def _are_enough(plan, samples):
    """Whether there may be several groups of so many samples."""
    return plan[-1, PARTIALS_IN_CACHE] > 1 and samples >= 2 * plan[-1, LEAST_GROUP]


@tile_function
def _may_have_stages(plan, arena, samples):
    """Whether the bits of a batch would be the same with stages: a group's sums are cut where its tiles end.

    Not if so many samples may be several groups: even if they are none, a smaller batch behind this one could be some.
    """
    if _are_enough(plan, samples):
        return False
    return few_of(samples, arena) > 0 or _n_groups(plan, arena, samples) == 0


class _Division(NamedTuple):
    """How a batch is divided. It follows from the plan, the number of samples, and whether there are stages."""

    samples: int
    blocks: int
    """Of samples, the last of which may be filled up."""
    groups: int
    """0 if gradients are not summed by groups: then the parts are tiles. Else how many groups there should be."""
    part_blocks: int
    """Blocks in a part, but for the last one, which may have fewer."""
    parts: int
    """How many groups, or tiles, there are. (What a scope has parts of are a layer's features.)"""


@tile_function
def _divided(plan, arena, samples, stages):
    """How a batch of so many samples is divided. A tile is small if there are few blocks: every thread gets some."""
    blocks, groups = n_blocks(arena, samples), _n_groups(plan, arena, samples)
    if stages > NO_STAGES:
        return _Division(samples, blocks, 0, 1, blocks)
    if groups > 0:
        part_blocks = (blocks + groups - 1) // groups
    else:
        part_blocks = max(
            min(TILE_BLOCKS, blocks // (TILES_PER_THREAD * plan[-1, THREADS])), (blocks + MOST_TASKS - 1) // MOST_TASKS
        )
    return _Division(samples, blocks, groups, part_blocks, (blocks + part_blocks - 1) // part_blocks)


# ------------------------------------------------------------------------------------------------------------------
# the phases of a step

OVER_SAMPLES, OVER_WEIGHTS, OVER_SQUARES, OVER_RANGES = range(4)
"""The phases of a step. The last two are only where the norm of the gradient is limited, which must be known first."""

FORWARD, LOSSES, BACKWARD = 1, 2, 4
"""The passes over the samples, of which a call makes some: what the others would compute is there, or not wanted."""

ALL_PASSES = FORWARD | LOSSES | BACKWARD
"""Those of a training step."""


@tile_function
def _n_phases(optimizer, settings, stages):
    """Phases of a step, if that over samples has so many stages, each of which counts as one."""
    return stages + (3 if settings[MAX_NORM] > 0 and optimizer != NO_UPDATE else 1)


@inlined_function
def _kind_of(phase, stages):
    """The kind of a step's phase; and if that is the one over samples, the stage."""
    return (OVER_SAMPLES, phase) if phase < stages else (phase - stages + 1, 0)


@tile_function
def _n_tasks(kind, stage, stages, division, plan, arena, n_parameters):
    """Tasks of a phase of this kind, or of a stage of it; with the batch, also the penalty's ranges of parameters."""
    if kind == OVER_SAMPLES:
        parts = division.parts if stages == NO_STAGES else n_stage_parts(stage, plan, arena, division.blocks)
        return parts + (PARAMETER_RANGES if plan[-1, PENALIZES] != NOTHING and stage == 0 else 0)
    if kind == OVER_WEIGHTS:
        return n_weight_tasks(division, plan, arena, n_parameters)
    return PARAMETER_RANGES


@inlined_function
def _sample_task(
    task, passes, division, plan, parameters, arena, report, gradient, data, targets, labels, sample_weights, order,
    first, samples, dropout_step,
):  # fmt: skip
    """A part of the batch, tile by tile: what ``passes`` says of it; or the penalty of a range of parameters."""
    if task >= division.parts:
        penalty_task(task - division.parts, plan, parameters, report)
        return
    start, stop = task * division.part_blocks, min((task + 1) * division.part_blocks, division.blocks)
    way, of_a_group = _way_of(passes, division, plan, arena, samples), passes == ALL_PASSES and division.groups > 0
    for block0 in range(start, stop, way.tile_blocks):
        p0 = block0
        if of_a_group:  # all its tiles in the same place: nobody comes back to them
            p0 = start + _blocks_apart(task, plan)
        p1, apart = p0 + min(way.tile_blocks, stop - block0), p0 - block0
        # blocks and samples are counted as they lie in the arena: its block p is block p - apart of the batch, its
        # sample n is entry entry0 + n of the order, for an entry0 that may be below 0, and sample n1 comes last
        entry0, n1 = first - apart * block(arena), samples + apart * block(arena)
        if passes & FORWARD:
            if way.reads_in_place:
                check = affine_rows_tile(plan, parameters, arena, data, order, entry0, n1, p0, p1)
            else:
                check = read_samples(whole(plan), way.keeps, plan, arena, data, order, entry0, n1, p0, p1)
            note(report, X_CHECK, p0 - apart, p1 - apart, check)
            forward_tile(
                whole(plan), way.reads_in_place, way.keeps, plan, parameters, arena, p0, p1, way.few, dropout_step,
                apart,
            )  # fmt: skip
        if passes & LOSSES:
            loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, entry0, n1, p0, p1, apart)
        else:
            note(report, BLOCK_LOSS, p0 - apart, p1 - apart, 0.0)
            note(report, Y_CHECK, p0 - apart, p1 - apart, 0.0)
        if passes & BACKWARD:
            backward_tile(whole(plan), plan, parameters, arena, p0, p1, way.few, dropout_step, apart)
            if division.groups > 0:
                _add_to_group(
                    task, block0 > start, division, way, plan, arena, gradient, data, order, entry0, p0 * block(arena),
                    min(p1 * block(arena), n1),
                )  # fmt: skip


class _Way(NamedTuple):
    """How a tile goes through the network."""

    few: int
    """As in :func:`~fastmlp.kernels.samples.few_of`."""
    keeps: int
    reads_in_place: bool
    """Whether the first layer reads the user's rows where they stand."""
    tile_blocks: int
    """Blocks of samples in a tile, at most."""


@inlined_function
def _way_of(passes, division, plan, arena, samples):
    few = few_of(samples, arena)
    if passes == FORWARD:  # others may come back to what enters the layers
        return _Way(few, KEEPS_ALL, False, TILE_BLOCKS)
    if passes == (FORWARD | LOSSES):  # in parts of any size, with the same bits
        return _Way(0, KEEPS_NOTHING, can_read_in_place(plan, arena), TILE_BLOCKS)
    if passes == ALL_PASSES and division.groups > 0:  # the rows are read again, while they are in the cache
        reads_in_place = few == 0 and can_read_in_place(plan, arena)
        most = ROWS_BYTES if reads_in_place else X_BYTES
        return _Way(few, KEEPS_FOR_GRADIENT, reads_in_place, blocks_of_bytes(most, plan, arena))
    return _Way(few, KEEPS_FOR_GRADIENT, False, TILE_BLOCKS)


@inlined_function
def _add_to_group(group, add, division, way, plan, arena, gradient, data, order, entry0, n0, n1):
    """Sum the gradients over a tile, samples ``n0`` to ``n1`` of the arena; ``add`` them to those of the group."""
    partial, to = gradient, 0  # that of a single group is the batch's
    if division.parts > 1:
        partial, to = arena, plan[-1, PARTIALS] + group * plan[-1, PARTIAL_SIZE]
    if way.reads_in_place:
        rows_gradient(add, plan, arena, data, order, entry0, n0, n1, partial, to)
    partial_gradient(1 if way.reads_in_place else 0, add, plan, arena, n0, n1, partial, to)


@tile_function
def _blocks_apart(group, plan):
    """By how many blocks a group's samples lie further on than their numbers tell: if another thread works beside."""
    return group * plan[-1, APART] if plan[-1, THREADS] > 1 else 0


# ------------------------------------------------------------------------------------------------------------------
# what came of a step, and what comes next


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
    return (FINITE if total - total == 0 else LOSS_NOT_FINITE), total


@tile_function
def _begin(report, total):
    for k in range(report.shape[1]):
        report[RUN, k] = 0.0
    report[RUN, SUM_OF_LOSSES] = total
    report[PENALTY, PENALTIES] = 0.0


@tile_function
def _judge(plan, arena, samples, report):
    """Add up the losses of a step's blocks in the report's last row; returns whether the step may be taken."""
    status, loss = status_of(plan, arena, samples, report)
    penalty, weight = 0.0, report[BATCH, TOTAL_WEIGHT]
    if status == FINITE and plan[-1, PENALIZES] != NOTHING:
        penalty = sum_of_ranges(report)
        loss += penalty
        status = FINITE if loss - loss == 0 else LOSS_NOT_FINITE
    report[RUN, STATUS] = status
    if status != FINITE:
        report[RUN, SUM_OF_LOSSES] = loss * weight
        return False
    report[RUN, SUM_OF_LOSSES] += loss * weight
    report[PENALTY, PENALTIES] += penalty * weight
    return True


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
def _end_step(k, per_epoch, report, gradient, settings, ended):
    """Count a step; with an epoch's last one, note what is known of it, and begin the sum of the next one's losses."""
    report[RUN, TAKEN] += 1
    if per_epoch > 0 and (k + 1) % per_epoch == 0:
        epoch, factor = k // per_epoch, report[BATCH, FACTOR] if settings[MAX_NORM] > 0 else 1.0
        ended[OF_EPOCH * epoch] = report[RUN, SUM_OF_LOSSES]
        ended[OF_EPOCH * epoch + 1] = square_before(gradient, factor)
        report[RUN, SUM_OF_LOSSES] = 0.0


@tile_function
def _steps_of_epoch(n_rows, batch_size, ended):
    return (n_rows + batch_size - 1) // batch_size if ended.size > 0 else 0


# ------------------------------------------------------------------------------------------------------------------
# a run of steps: each function is called by every member ``me`` of a crew, or by one that is ALONE


@inlined_function
def _train_along(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, ended, stages, division,
):  # fmt: skip
    """What each member does: claim a task of the present phase, until there are no more phases.

    Phases are counted through all steps: phase ``phases * k`` is the first of step ``k``, and number
    ``phases * n_steps`` means that all is done. The phase over samples comes first, stage by stage if it has some;
    then that over weights, which ends the step; where the norm of the gradient is limited, it only sums, and those
    over squares and over ranges of parameters come behind it. Whoever finishes the last task of a phase opens the next
    one. ``division`` is that of the first batch.
    """
    phases, members, size = _n_phases(optimizer, settings, stages), plan[-1, THREADS], parameters.size
    per_epoch = _steps_of_epoch(n_rows, batch_size, ended)
    while True:
        phase, task = claim(crew, me, members)
        # most often divided by a constant, which is a shift
        k = phase // 2 if phases == 2 else phase // phases
        kind, stage = _kind_of(phase - phases * k, stages)
        if k >= n_steps:
            return
        if task == NO_TASK:
            wait_for_next(crew, me, phase)
            continue
        start, samples = _batch(k, first, batch_size, n_rows, per_epoch, order)
        # all batches but an epoch's last are divided alike: to find out each time takes a tenth of a step of 3-4-4-2
        if samples != division.samples:
            division = _divided(plan, arena, samples, stages)
        tasks = _n_tasks(kind, stage, stages, division, plan, arena, size)
        if kind == OVER_SAMPLES:
            # the optimizer counts its steps from 1, dropout from 0
            dropout_step = step + k - 1 if step > 0 and plan[-1, DROPS] else NOTHING_DROPPED
            if stages == NO_STAGES:
                _sample_task(
                    task, passes, division, plan, parameters, arena, report, gradient, data, targets, labels,
                    sample_weights, order, start, samples, dropout_step,
                )  # fmt: skip
            else:
                stage_task(
                    stage, task, plan, parameters, arena, report, data, targets, labels, sample_weights, order, start,
                    samples, dropout_step,
                )  # fmt: skip
        else:
            rates = rates_of(optimizer, settings, step + k, k)
            if kind == OVER_WEIGHTS:
                rule = optimizer if phases == stages + 1 else NO_UPDATE
                weight_task(task, tasks, division, plan, arena, report, parameters, gradient, rule, rates, memory)
            elif kind == OVER_SQUARES:
                square_task(task, gradient, report)
            else:  # OVER_RANGES
                update_task(task, plan, report, parameters, gradient, optimizer, rates, memory)
        if finish(crew, tasks):
            following = phase + 1
            if kind == OVER_SAMPLES:
                if stage == stages - 1:
                    may_go_on = _judge(plan, arena, samples, report)
                    if not (may_go_on and passes & BACKWARD):
                        following = phases * n_steps
            elif kind == OVER_SQUARES:
                limit(report, settings[MAX_NORM])
            elif following == phases * (k + 1):
                _end_step(k, per_epoch, report, gradient, settings, ended)
                if k + 1 < n_steps:
                    start, samples = _batch(k + 1, first, batch_size, n_rows, per_epoch, order)
                    weigh(plan, report, sample_weights, order, start, samples)
                    if samples != division.samples:
                        division = _divided(plan, arena, samples, stages)
            next_kind, next_stage = _kind_of(following - phases * k if following < phases * (k + 1) else 0, stages)
            next_tasks = 0
            if following < phases * n_steps:
                next_tasks = _n_tasks(next_kind, next_stage, stages, division, plan, arena, size)
            open_phase(crew, members, following, next_tasks)


@inlined_function
def _train(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
):  # fmt: skip
    """The body of :func:`train`, by itself: there Numba would count references to each array, a tenth of a µs."""
    samples = min(batch_size, n_rows - first)
    stages = NO_STAGES
    if passes == ALL_PASSES and _may_have_stages(plan, arena, samples):
        stages = n_stages(plan, arena, samples)
    division = _divided(plan, arena, samples, stages)
    if begins(me):
        _begin(report, total)
        weigh(plan, report, sample_weights, order, first, samples)
        tasks = _n_tasks(OVER_SAMPLES, 0, stages, division, plan, arena, parameters.size) if n_steps > 0 else 0
        open_phase(crew, plan[-1, THREADS], 0, tasks)
    if works(me):
        _train_along(
            max(me, 0), crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels,
            sample_weights, order, n_rows, batch_size, first, n_steps, optimizer, settings, step, ended, stages,
            division,
        )  # fmt: skip
    return int(report[RUN, STATUS]), report[RUN, SUM_OF_LOSSES], int(report[RUN, TAKEN])


@crew_kernel
def train(
    me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights, order,
    n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
):  # fmt: skip
    """Take ``n_steps`` training steps over rows ``first`` to before ``n_rows`` of ``order``, ``batch_size`` at a time.

    The first of them is the optimizer's step ``step``, from 1; units are dropped by that number. With ``step`` 0,
    which is for gradients alone, none are. ``passes`` is :data:`ALL_PASSES` of a training step; without the backward
    one, the first step ends before its weights would change.

    Everything that a step works on stands in ``arena``, at the places that ``plan`` tells, and in ``report``: see
    :mod:`fastmlp.kernels.columns`. ``parameters`` and ``gradient`` are of all layers, W and b of each in turn;
    ``memory`` is the optimizer's velocity, or its two moments. ``data`` and ``targets`` are rows of the user's, one
    after the other; instead of targets there may be class indices, ``labels``; ``sample_weights`` may be empty.
    ``settings`` are the optimizer's numbers, and behind them a rate for each step if there is a schedule.

    If ``ended`` is not empty, the steps are those of whole epochs: for each, it gets :data:`OF_EPOCH` numbers. The
    orders of the epochs stand one after the other, ``n_rows`` entries each; ``first`` and ``total`` are 0, and what
    comes back is the sum of the losses since the last epoch that ended.

    Returns the status, ``total`` plus the steps' losses times their samples' weights (added one by one, so that it
    does not matter in how many calls the steps are taken), and the number of steps taken. A step whose data or loss
    is not finite changes nothing and is the last one; its loss is what comes back.
    """
    return _train(
        me, crew, passes, plan, parameters, arena, report, gradient, memory, data, targets, labels, sample_weights,
        order, n_rows, batch_size, first, n_steps, optimizer, settings, step, total, ended,
    )  # fmt: skip


@crew_kernel
def update(me, plan, report, parameters, gradient, memory, optimizer, settings, step, total_weight):
    """Update every parameter from any gradient, whose norm is limited first if that is wanted.

    With a ``total_weight`` of at least 0, the gradient is the sum over samples of so much weight, which have been
    elsewhere: the mean is taken first, and the penalty's gradient added. The penalty, times the weight, is noted; and
    at the end, that a step has been taken.
    """
    rates = rates_of(optimizer, settings, step, 0)
    if begins(me):
        report[BATCH, FACTOR] = 1.0
        if total_weight >= 0:
            penalize_batch(total_weight, plan, report)
            report[PENALTY, PENALTIES] = 0.0
            if plan[-1, PENALIZES] != NOTHING:
                for k in range(PARAMETER_RANGES):
                    penalty_task(k, plan, parameters, report)
                report[PENALTY, PENALTIES] = sum_of_ranges(report) * total_weight
            for k in range(PARAMETER_RANGES):
                complete_range(k, total_weight, plan, parameters, gradient, report)
        if settings[MAX_NORM] > 0:
            for k in range(PARAMETER_RANGES):
                square_task(k, gradient, report)
            limit(report, settings[MAX_NORM])
    start, stop = tasks_of(me, plan[-1, THREADS], PARAMETER_RANGES)
    for k in range(start, stop):
        update_task(k, plan, report, parameters, gradient, optimizer, rates, memory)
    if ends(me):
        report[RUN, TAKEN] = 1


# ------------------------------------------------------------------------------------------------------------------
# the passes of a step by themselves, as the oracle has them


def forward(
    crew, plan, parameters, arena, report, data, order, first, samples, dropout_step, *, run=train
):  # fmt: skip
    """Forward pass of a batch; what it computes stays in the arena. Returns the status.

    ``dropout_step`` is the number of the step that tells which units are dropped, or
    :data:`~fastmlp.kernels.dropout.NOTHING_DROPPED`; ``run`` calls :func:`train`: here and below, itself, or with its
    arguments packed.

    The batch is ``samples`` rows of ``data``: those that ``order`` names from its entry ``first`` on, or, if ``order``
    is empty, the rows from ``first`` on.
    """
    # a forward pass touches neither gradient nor memory, and neither targets nor labels nor weights: in their places
    # stands anything of their type
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
