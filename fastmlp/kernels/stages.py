"""The phase over samples, where these are few: in *stages*, in which threads share the features of a layer.

A block of samples is the least that a thread can take through all layers. Where there are fewer blocks than threads,
or one for some and two for others, and much to do, threads share the samples no more, but the features: those of ``X``
while it is gathered, a layer's outputs forward, its inputs backward. A stage begins when the one before it is done, as
phases do (:mod:`fastmlp.kernels.crew`). With ``layers`` layers, they are:

==============================  ====================================================================================
stage                           what its tasks do
==============================  ====================================================================================
0                               gather features of the batch
1 + layer                       forward: outputs of a layer
layers + 1                      the loss, block by block
2 × layers + 1 - layer          backward: inputs of a layer, down to layer 1
==============================  ====================================================================================

Every number is computed as it is where threads share the samples, to the bit. (Where both ``X`` and ``Y`` are not
finite, it may be the other one that is told.)
"""

from __future__ import annotations

from fastmlp.kernels.columns import INPUTS, OUTPUTS, PARAMETER_RANGES, THREADS, X_CHECK
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.layout import n_blocks
from fastmlp.kernels.samples import (
    KEEPS_FOR_GRADIENT,
    backward_tile,
    few_of,
    forward_tile,
    loss_of_tile,
    note,
    read_samples,
    softmax_tile,
)
from fastmlp.kernels.simd import block
from fastmlp.kernels.weights import first_sum, penalty_task

NO_STAGES = 1
"""The number of stages of a phase that has none: it is one."""

STAGE_OPERATIONS = 100_000
"""Operations (float32; half as many in float64) that each stage must save a thread: with less, 300-200-10 on four
samples took 28 us instead of 25.
"""

PART_OPERATIONS = 100_000
"""Operations (as above) that are worth a task."""

PARTS_PER_THREAD = 2
"""Parts of a layer's features for each thread, as long as they are worth it. There are never more than
:data:`~fastmlp.kernels.columns.PARAMETER_RANGES`, in whose rows of the report they note whether ``X`` is finite."""

GATHERED = 10
"""As many products take as long as it takes to gather a number, of many in a row: of a few it takes more, see
:data:`~fastmlp.kernels.network.READ_OPERATIONS`."""


@tile_function
def n_stages(plan, arena, samples):
    """Stages of the phase over so many samples, or over fewer that come behind them.

    In a layer of so many products, a thread that takes whole blocks has ``products * ceil(blocks / threads)``; one
    that takes parts of the features has ``products * blocks / parts``, of which there are as many as threads, if there
    are so many blocks of features. ``saved`` is the difference in all layers, for one sample of each block.
    """
    blocks, threads, layers = n_blocks(arena, samples), plan[-1, THREADS], plan.shape[0] - 1
    most, saved = min(threads, PARAMETER_RANGES), 0
    if blocks % threads == 0 or blocks > 2 * threads:
        return NO_STAGES
    for layer in range(layers):
        inputs, outputs = plan[layer, INPUTS], plan[layer, OUTPUTS]
        products, rounds = inputs * outputs, (blocks + threads - 1) // threads
        saved += products * rounds - products * blocks // min(most, n_blocks(arena, outputs))
        if layer > 0:
            saved += products * rounds - products * blocks // min(most, n_blocks(arena, inputs))
    # of few samples, only these are computed
    each = samples if few_of(samples, arena) > 0 else block(arena)
    stages = 2 * layers + 1
    return stages if 2 * saved * each * arena.itemsize // 4 >= stages * STAGE_OPERATIONS else NO_STAGES


@tile_function
def n_stage_parts(stage, plan, arena, blocks):
    """Parts into which the features of a stage are divided; of the loss, it is the blocks of samples."""
    layers = plan.shape[0] - 1
    if stage == layers + 1:
        return blocks
    if stage == 0:
        features, products = plan[0, INPUTS], GATHERED
    elif stage <= layers:
        features, products = plan[stage - 1, OUTPUTS], plan[stage - 1, INPUTS]
    else:
        layer = 2 * layers + 1 - stage
        features, products = plan[layer, INPUTS], plan[layer, OUTPUTS]
    operations = 2 * features * products * blocks * block(arena) * arena.itemsize // 4
    most = min(PARTS_PER_THREAD * plan[-1, THREADS], PARAMETER_RANGES, n_blocks(arena, features))
    return max(1, min(most, operations // PART_OPERATIONS))


@inlined_function
def stage_task(
    stage, task, plan, parameters, arena, report, data, targets, labels, sample_weights, order, first, samples,
    dropout_step,
):  # fmt: skip
    """A part of a stage's features, for all samples; or the loss of a block of these; or a range's penalty."""
    layers, blocks, few = plan.shape[0] - 1, n_blocks(arena, samples), few_of(samples, arena)
    parts = n_stage_parts(stage, plan, arena, blocks)
    if task >= parts:
        penalty_task(task - parts, plan, parameters, report)
    elif stage == 0:
        scope = stage, layers, task, parts  # not 0: a plain number would have read_samples compiled once more
        check = read_samples(scope, KEEPS_FOR_GRADIENT, plan, arena, data, order, first, samples, 0, blocks)
        report[first_sum(report) + task, X_CHECK] = check  # the penalty's sums are in another column
    elif stage == layers + 1:
        check = 0.0  # that of all features
        for k in range(n_stage_parts(0, plan, arena, blocks)):
            check += report[first_sum(report) + k, X_CHECK]
        note(report, X_CHECK, task, task + 1, check)
        if n_stage_parts(layers, plan, arena, blocks) > 1:  # so no part of the last layer could do it
            softmax_tile(plan, arena, task, task + 1)
        loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, first, samples, task, task + 1, 0)
    else:
        layer = stage - 1 if stage <= layers else 2 * layers + 1 - stage
        scope = layer, layer + 1, task, parts
        for p in range(blocks):  # of some features, only those of one block lie in one piece
            if stage <= layers:
                forward_tile(scope, False, KEEPS_FOR_GRADIENT, plan, parameters, arena, p, p + 1, few, dropout_step, 0)
            else:
                backward_tile(scope, plan, parameters, arena, p, p + 1, few, dropout_step, 0)
