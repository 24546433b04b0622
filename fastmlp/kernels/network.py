"""The whole network: a training step is two parallel regions over tiles, whatever the depth.

*Over samples.* Each thread takes tiles of samples through all layers, forward and back, in its own cache: it writes
the activations and the gradients ``dZ`` of its samples.

*Over weights.* Each thread takes strips of rows of ``W``, sums over all samples in a fixed order, and updates them.

Everything that a step works on lies in one array, the *arena*; the *plan* says where: see :mod:`fastmlp.buffers`.
The formulas are in :mod:`fastmlp.kernels.layer`.
"""

from __future__ import annotations

from numba import prange

from fastmlp.kernels.activations import SOFTMAX, activate_strip, slope_strip
from fastmlp.kernels.jit import kernel, tile_function
from fastmlp.kernels.layer import affine_strip, bias_gradient_strip, input_gradient_strip, weight_gradient_strip
from fastmlp.kernels.layout import (
    feature_blocks_of,
    gather_labels,
    gather_rows,
    gather_targets,
    sample_blocks_of,
    scatter_rows,
)
from fastmlp.kernels.losses import SQUARED_ERROR, loss_block, softmax_block
from fastmlp.kernels.optimizers import NO_UPDATE, update_range
from fastmlp.kernels.simd import ROWS, block, lanes, load, store

# One row of the plan per layer. Sizes and codes, then places: of W and b in the parameters, of the rest in the arena.
INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIASES, X_FEATURES, X, Z, A, DZ = range(10)
PLAN_COLUMNS = 10

# The last row of the plan holds what belongs to the whole batch.
LOSS, PADDED_SAMPLES, TARGETS, SHARES, SAMPLE_LOSSES = range(5)

TILE_BLOCKS = 4
"""Blocks of samples in a tile: a tile's activations stay in the first- or second-level cache through all layers."""

STRIP_GROUPS = 16
"""Parts into which the strips of weights are dealt out in turn: narrow and wide layers are spread over the threads."""

FINITE, X_NOT_FINITE, Y_NOT_FINITE, LOSS_NOT_FINITE = range(4)
"""The statuses that come back."""


# ------------------------------------------------------------------------------------------------------------------
# over samples: one tile, that is blocks p0 to p1


@tile_function
def _read_samples(plan, arena, data, order, first, samples, p0, p1):
    """Gather a tile of the batch: ``X`` of the first layer, in both layouts. Returns 0, or NaN if any value is."""
    features, places = plan[0, X_FEATURES], plan[-1]
    size, padded = block(arena), places[PADDED_SAMPLES]
    inputs = plan[0, INPUTS]
    check = gather_rows(data, inputs, order, first, samples, p0 * size, p1 * size, arena, features, padded)
    sample_blocks_of(arena, features, inputs, padded, p0, p1, arena, plan[0, X])
    return check


@tile_function
def _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1):
    """Gather a tile's targets; labels, if there are any, as one-hot columns. Returns 0, or NaN if any value is."""
    outputs, to = plan[-2, OUTPUTS], plan[-1, TARGETS]
    if labels.size > 0:
        gather_labels(labels, outputs, order, first, samples, p0, p1, arena, to)
        return 0.0
    return gather_targets(targets, outputs, order, first, samples, p0, p1, arena, to)


@tile_function
def _share_out(plan, arena, samples, p0, p1):
    """Write each sample's share in the mean: ``1/N``, and 0 where a sample only fills up its block."""
    size = block(arena)
    for n in range(p0 * size, p1 * size):
        arena[plan[-1, SHARES] + n] = 1.0 / samples if n < samples else 0.0


@tile_function
def _forward_tile(plan, parameters, arena, p0, p1):
    """Forward through every layer."""
    size = block(arena)
    n_layers = plan.shape[0] - 1
    for layer in range(n_layers):
        inputs, outputs, code = plan[layer, INPUTS], plan[layer, OUTPUTS], plan[layer, ACTIVATION]
        for j in range(0, outputs, ROWS):
            rows = min(ROWS, outputs - j)
            w, b = plan[layer, WEIGHTS] + j * inputs, plan[layer, BIASES] + j
            for p in range(p0, p1):
                x, here = plan[layer, X] + p * inputs * size, (p * outputs + j) * size
                z, a = plan[layer, Z] + here, plan[layer, A] + here
                # Z = affine(W, b, X);  A = activate(Z)
                affine_strip(parameters, w, parameters, b, inputs, rows, arena, x, arena, z)
                activate_strip(code, arena, z, arena, a, rows * size)
        if layer + 1 < n_layers:
            feature_blocks_of(
                arena, plan[layer, A], outputs, plan[-1, PADDED_SAMPLES], p0, p1, arena, plan[layer + 1, X_FEATURES]
            )
    last = n_layers - 1
    if plan[last, ACTIVATION] == SOFTMAX:
        for p in range(p0, p1):
            here = p * plan[last, OUTPUTS] * size
            softmax_block(plan[last, OUTPUTS], arena, plan[last, Z] + here, arena, plan[last, A] + here)


@tile_function
def _loss_tile(plan, arena, p0, p1):
    """Loss of a tile's samples, each times its share, and the gradient ``dZ`` of the last layer."""
    # loss = Σ_n L[n] / N
    size, last = block(arena), plan.shape[0] - 2
    outputs, code = plan[last, OUTPUTS], plan[-1, LOSS]
    total = 0.0
    for p in range(p0, p1):
        here = p * outputs * size
        z, a, d = plan[last, Z] + here, plan[last, A] + here, plan[last, DZ] + here
        losses, shares = plan[-1, SAMPLE_LOSSES] + p * size, plan[-1, SHARES] + p * size
        loss_block(code, outputs, arena, z, arena, a, arena, plan[-1, TARGETS] + here, arena, losses, d)
        if code == SQUARED_ERROR:  # the one loss that is a function of A: the slope is still to come
            slope_strip(plan[last, ACTIVATION], arena, z, arena, a, arena, arena, d, outputs * size)
        for k in range(0, size, lanes(arena)):
            share = load(arena, shares + k)
            for j in range(outputs):
                store(arena, d + j * size + k, load(arena, d + j * size + k) * share)
        for n in range(size):
            if arena[shares + n] > 0:
                total += float(arena[losses + n]) * float(arena[shares + n])
    return total


@tile_function
def _backward_tile(plan, parameters, arena, p0, p1):
    """Backward through every layer, the last one first: ``dZ`` of each layer from that of the layer above it."""
    size = block(arena)
    for layer in range(plan.shape[0] - 2, 0, -1):
        inputs, outputs, below = plan[layer, INPUTS], plan[layer, OUTPUTS], layer - 1
        for i in range(0, inputs, ROWS):
            rows = min(ROWS, inputs - i)
            for p in range(p0, p1):
                d, here = plan[layer, DZ] + p * outputs * size, (p * inputs + i) * size
                z, a, x = plan[below, Z] + here, plan[below, A] + here, plan[below, DZ] + here
                # the forward lines were:  A = activate(Z)  of the layer below, which enters this one as X
                input_gradient_strip(parameters, plan[layer, WEIGHTS] + i, inputs, outputs, rows, arena, d, arena, x)
                slope_strip(plan[below, ACTIVATION], arena, z, arena, a, arena, arena, x, rows * size)


# ------------------------------------------------------------------------------------------------------------------
# over weights: one strip, that is up to ROWS rows of one layer's W


@tile_function
def _count_strips(plan):
    total = 0
    for layer in range(plan.shape[0] - 1):
        total += (plan[layer, OUTPUTS] + ROWS - 1) // ROWS
    return total


@tile_function
def _weight_strip(strip, plan, arena, blocks, parameters, gradient, optimizer, settings, step, memory):
    """Gradient of one strip of weights and its biases, and their update while they are at hand."""
    layer = 0
    while strip >= (plan[layer, OUTPUTS] + ROWS - 1) // ROWS:
        strip -= (plan[layer, OUTPUTS] + ROWS - 1) // ROWS
        layer += 1
    inputs, outputs, j = plan[layer, INPUTS], plan[layer, OUTPUTS], strip * ROWS
    rows = min(ROWS, outputs - j)
    d = plan[layer, DZ] + j * block(arena)
    w, b = plan[layer, WEIGHTS] + j * inputs, plan[layer, BIASES] + j
    weight_gradient_strip(
        arena, d, outputs, rows, blocks, arena, plan[layer, X_FEATURES], plan[-1, PADDED_SAMPLES], inputs, gradient, w
    )
    bias_gradient_strip(arena, d, outputs, rows, blocks, gradient, b)
    if optimizer != NO_UPDATE:
        update_range(optimizer, settings, step, parameters, gradient, memory, w, w + rows * inputs)
        update_range(optimizer, settings, step, parameters, gradient, memory, b, b + rows)


# ------------------------------------------------------------------------------------------------------------------
# the kernels


@tile_function
def _n_blocks(arena, samples):
    return (samples + block(arena) - 1) // block(arena)


@tile_function
def _n_tiles(arena, samples):
    return (_n_blocks(arena, samples) + TILE_BLOCKS - 1) // TILE_BLOCKS


@tile_function
def _status(report, tiles):
    """The first thing found wrong by any tile, and the sum of the tiles' losses, in tile order."""
    total = 0.0
    for tile in range(tiles):
        if report[tile, 1] != 0:
            return X_NOT_FINITE, 0.0
        if report[tile, 2] != 0:
            return Y_NOT_FINITE, 0.0
        total += report[tile, 0]
    return (FINITE if total - total == 0 else LOSS_NOT_FINITE), total


@tile_function
def _blocks_of_tile(arena, samples, tile):
    """The blocks of a tile, from the first to before the last."""
    return tile * TILE_BLOCKS, min((tile + 1) * TILE_BLOCKS, _n_blocks(arena, samples))


@kernel
def forward(plan, parameters, arena, report, data, order, first, samples):
    """Forward pass of a batch; what it computes stays in the arena. Returns the status.

    The batch is ``samples`` rows of ``data``: those that ``order`` names from its entry ``first`` on, or, if ``order``
    is empty, the rows from ``first`` on.
    """
    tiles = _n_tiles(arena, samples)
    for tile in prange(tiles):
        p0, p1 = _blocks_of_tile(arena, samples, tile)
        report[tile, 0], report[tile, 2] = 0.0, 0.0
        report[tile, 1] = _read_samples(plan, arena, data, order, first, samples, p0, p1)
        _forward_tile(plan, parameters, arena, p0, p1)
    return _status(report, tiles)[0]


@kernel
def predict(plan, parameters, arena, report, data, order, first, samples, output):
    """Forward pass of a batch, as in :func:`forward`; its result as rows of ``output`` from ``first`` on."""
    tiles = _n_tiles(arena, samples)
    for tile in prange(tiles):
        p0, p1 = _blocks_of_tile(arena, samples, tile)
        report[tile, 0], report[tile, 2] = 0.0, 0.0
        report[tile, 1] = _read_samples(plan, arena, data, order, first, samples, p0, p1)
        _forward_tile(plan, parameters, arena, p0, p1)
        scatter_rows(arena, plan[-2, A], plan[-2, OUTPUTS], samples, p0, p1, output, first)
    return _status(report, tiles)[0]


@kernel
def loss_value(plan, parameters, arena, report, data, targets, labels, order, first, samples):
    """Loss of a batch, as in :func:`forward`. Returns the status and the loss."""
    tiles = _n_tiles(arena, samples)
    for tile in prange(tiles):
        p0, p1 = _blocks_of_tile(arena, samples, tile)
        report[tile, 1] = _read_samples(plan, arena, data, order, first, samples, p0, p1)
        report[tile, 2] = _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1)
        _share_out(plan, arena, samples, p0, p1)
        _forward_tile(plan, parameters, arena, p0, p1)
        report[tile, 0] = _loss_tile(plan, arena, p0, p1)
    return _status(report, tiles)


@kernel
def backward(plan, parameters, arena, report, targets, labels, order, first, samples, gradient):
    """Backward pass of the batch that :func:`forward` left in the arena. Returns the status and the loss."""
    tiles = _n_tiles(arena, samples)
    for tile in prange(tiles):
        p0, p1 = _blocks_of_tile(arena, samples, tile)
        report[tile, 1] = 0.0
        report[tile, 2] = _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1)
        _share_out(plan, arena, samples, p0, p1)
        report[tile, 0] = _loss_tile(plan, arena, p0, p1)
        _backward_tile(plan, parameters, arena, p0, p1)
    strips = _count_strips(plan)
    blocks = _n_blocks(arena, samples)
    for group in prange(STRIP_GROUPS):
        for strip in range(group, strips, STRIP_GROUPS):
            _weight_strip(strip, plan, arena, blocks, parameters, gradient, NO_UPDATE, gradient, 1, gradient)
    return _status(report, tiles)


@kernel
def train(
    plan, parameters, gradient, memory, arena, report, data, targets, labels, order, n_rows, batch_size, first,
    n_steps, optimizer, settings, step,
):  # fmt: skip
    """Take ``n_steps`` training steps over minibatches of ``n_rows`` rows, from row ``first`` of ``order`` on.

    Returns the status, the sum of the steps' losses times their samples, and the number of steps taken. A step whose
    data or loss is not finite changes nothing and is the last one; its loss is what comes back.
    """
    total = 0.0
    for k in range(n_steps):
        start = first + k * batch_size
        samples = min(batch_size, n_rows - start)
        tiles, blocks = _n_tiles(arena, samples), _n_blocks(arena, samples)
        for tile in prange(tiles):
            p0, p1 = _blocks_of_tile(arena, samples, tile)
            report[tile, 1] = _read_samples(plan, arena, data, order, start, samples, p0, p1)
            report[tile, 2] = _read_targets(plan, arena, targets, labels, order, start, samples, p0, p1)
            _share_out(plan, arena, samples, p0, p1)
            _forward_tile(plan, parameters, arena, p0, p1)
            report[tile, 0] = _loss_tile(plan, arena, p0, p1)
            _backward_tile(plan, parameters, arena, p0, p1)
        status, loss = _status(report, tiles)
        if status != FINITE:
            return status, loss * samples, k
        total += loss * samples
        strips = _count_strips(plan)
        for group in prange(STRIP_GROUPS):
            for strip in range(group, strips, STRIP_GROUPS):
                _weight_strip(strip, plan, arena, blocks, parameters, gradient, optimizer, settings, step + k, memory)
    return FINITE, total, n_steps


@kernel
def update(parameters, gradient, memory, optimizer, settings, step):
    """Update every parameter from any gradient."""
    size = parameters.size
    for group in prange(STRIP_GROUPS):
        start, stop = group * size // STRIP_GROUPS, (group + 1) * size // STRIP_GROUPS
        update_range(optimizer, settings, step, parameters, gradient, memory, start, stop)
