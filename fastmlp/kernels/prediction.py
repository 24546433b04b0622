"""Predictions: a forward pass of which nothing but the output is kept."""

from __future__ import annotations

from fastmlp.kernels.activations import SOFTMAX, activate_vectors
from fastmlp.kernels.calls import CLOSING, crew_kernel
from fastmlp.kernels.columns import (
    ACTIVATION,
    BIASES,
    DZ,
    FINITE,
    INPUTS,
    OUTPUTS,
    THREADS,
    WEIGHTS,
    X_CHECK,
    X_NOT_FINITE,
    A,
    X,
    Z,
)
from fastmlp.kernels.crew import tasks_of, works
from fastmlp.kernels.dropout import NOTHING_DROPPED
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.layer import affine_row, affine_sample
from fastmlp.kernels.layout import NARROW_FEATURES, NO_ORDER, n_blocks, panels_of, scatter_rows, turn_rows
from fastmlp.kernels.losses import softmax_block
from fastmlp.kernels.samples import (
    KEEPS_NOTHING,
    TILE_BLOCKS,
    affine_rows_tile,
    can_read_in_place,
    forward_tile,
    read_samples,
    whole,
)
from fastmlp.kernels.simd import block, fill, lanes, load, load_first, store, store_first, sum_lanes

PREDICTED_BLOCKS = 2 * TILE_BLOCKS
"""Blocks of samples for each thread that predicts: a tile, and as many that stay free: see
:data:`fastmlp.kernels.network.BYTES_APART`."""

SAMPLES_ALONE = 3
"""Samples up to which a prediction is quicker one by one: a block holds more, but takes its time in any case."""


@crew_kernel
def write_panels(me, plan, parameters, panels):
    """Write the weights of all layers as panels, one layer after the other."""
    place = 0
    for layer in range(plan.shape[0] - 1):
        inputs, outputs = plan[layer, INPUTS], plan[layer, OUTPUTS]
        panels_of(parameters, plan[layer, WEIGHTS], inputs, outputs, panels, place)
        place += inputs * _whole_vectors(outputs, panels)


@tile_function
def _whole_vectors(outputs, panels):
    return (outputs + lanes(panels) - 1) // lanes(panels) * lanes(panels)


@inlined_function
def _predict_sample(plan, parameters, panels, arena, data, row, output):
    """Output of a single row of the data. Returns 0 if every value of the row is finite, else NaN."""
    x, inputs, step, size = plan[0, X], plan[0, INPUTS], lanes(arena), block(arena)
    check, panel, reads_in_place = fill(arena, 0.0), 0, can_read_in_place(plan, arena)
    for i in range(0, inputs, step):
        value = load_first(data, row * inputs + i, inputs - i)
        check = check + (value - value)
        store(arena, x + i, value)
    for layer in range(plan.shape[0] - 1):
        inputs, outputs, code = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, ACTIVATION]
        b, z, a = plan[layer, BIASES], plan[layer, Z], plan[layer, A]
        # Z = affine(W, b, X);  A = activate(Z)
        if layer == 0 and reads_in_place:
            affine_row(parameters, plan[0, WEIGHTS], parameters, b, inputs, outputs, data, row * inputs, arena, z)
        else:
            affine_sample(panels, panel, parameters, b, inputs, outputs, arena, x, arena, z)
        activate_vectors(code, arena, z, arena, a, _whole_vectors(outputs, arena))
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
def _read_rows(reads_in_place, plan, parameters, arena, data, first, samples, p0, p1):
    """A tile of rows that stand one after the other, or ``Z`` from them. Returns 0 if all is finite, else NaN."""
    inputs = plan[0, INPUTS]
    if reads_in_place:
        return affine_rows_tile(plan, parameters, arena, data, NO_ORDER, first, samples, p0, p1)
    if inputs > NARROW_FEATURES and inputs >= lanes(arena):
        return turn_rows(data, inputs, first, samples, p0, p1, arena, plan[0, X])
    return read_samples(whole(plan), KEEPS_NOTHING, plan, arena, data, NO_ORDER, first, samples, p0, p1)


@inlined_function
def _predict_blocks(me, plan, parameters, arena, data, first, samples, output):
    """Output of a member's share of the blocks, all of which it works on in the same place of the arena."""
    size, p0, outputs = block(arena), max(me, 0) * PREDICTED_BLOCKS, plan[-2, OUTPUTS]
    start, stop = tasks_of(me, plan[-1, THREADS], n_blocks(arena, samples))
    check, reads_in_place = 0.0, can_read_in_place(plan, arena)
    for p in range(start, stop, TILE_BLOCKS):
        # seen from the arena's first block, so many samples of the data come before those of this tile: the second one
        # of a single member, p = 8 and p0 = 0, begins at sample 8 * size, and is worked on as if it were the first
        shift = (p - p0) * size
        p1 = p0 + min(TILE_BLOCKS, stop - p)
        check += _read_rows(reads_in_place, plan, parameters, arena, data, first + shift, samples - shift, p0, p1)
        forward_tile(
            whole(plan), reads_in_place, KEEPS_NOTHING, plan, parameters, arena, p0, p1, 0, NOTHING_DROPPED, 0
        )
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
    if works(me):
        report[max(me, 0), X_CHECK] = _predict_blocks(me, plan, parameters, arena, data, first, samples, output)
    elif me == CLOSING:
        for member in range(1, plan[-1, THREADS]):
            report[0, X_CHECK] += report[member, X_CHECK]
    return FINITE if report[0, X_CHECK] == 0 else X_NOT_FINITE
