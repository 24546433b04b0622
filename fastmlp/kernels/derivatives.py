"""Derivatives for their own sake, over tiles of samples: the twins of :mod:`fastmlp.oracle.derivatives`.

Each sample's result is its own, so that threads take blocks of samples and nothing is summed over them.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastmlp.kernels.activations import SOFTMAX, curvature_vectors, slope_vectors
from fastmlp.kernels.calls import crew_kernel
from fastmlp.kernels.columns import (
    ACTIVATION,
    BIASES,
    BLOCK_LOSS,
    DZ,
    INPUTS,
    OUTPUTS,
    ROOM,
    SHARES,
    THREADS,
    WEIGHTS,
    X_BY_FEATURES,
    X_CHECK,
    Y_CHECK,
    A,
    X,
    Z,
)
from fastmlp.kernels.crew import begins, ends, tasks_of, works
from fastmlp.kernels.dropout import NOTHING_DROPPED
from fastmlp.kernels.jit import inlined_function, kernel, tile_function
from fastmlp.kernels.layer import (
    bias_gradient_strip,
    for_every_height,
    input_gradient_strip,
    n_strips,
    strip_of,
    weight_gradient_strip,
)
from fastmlp.kernels.layout import n_blocks, scatter_rows
from fastmlp.kernels.network import status_of
from fastmlp.kernels.samples import (
    KEEPS_ALL,
    KEEPS_NOTHING,
    TILE_BLOCKS,
    backward_tile,
    few_of,
    forward_tile,
    input_gradient_tile,
    loss_of_tile,
    note,
    read_samples,
    weigh,
    whole,
)
from fastmlp.kernels.simd import block, column, fill, fma, lanes, load, rank1, store, store_first, store_tile, zeros


@tile_function
def _tile_of_samples(plan, parameters, arena, report, data, targets, labels, sample_weights, order, samples, p0, p1):
    """Forward, loss and backward for one tile."""
    check = read_samples(whole(plan), KEEPS_ALL, plan, arena, data, order, 0, samples, p0, p1)
    note(report, X_CHECK, p0, p1, check)
    few = few_of(samples, arena)
    forward_tile(whole(plan), False, KEEPS_ALL, plan, parameters, arena, p0, p1, few, NOTHING_DROPPED, 0)
    loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, 0, samples, p0, p1, 0)
    backward_tile(whole(plan), plan, parameters, arena, p0, p1, few, NOTHING_DROPPED, 0)


@crew_kernel
def input_gradient(me, plan, parameters, arena, report, data, targets, labels, sample_weights, order, samples, output):
    """Gradient of the loss with respect to the input, as rows of ``output``. Returns the status."""
    if begins(me):
        weigh(plan, report, sample_weights, order, 0, samples)
    if works(me):
        start, stop = tasks_of(me, plan[-1, THREADS], n_blocks(arena, samples))
        for p0 in range(start, stop, TILE_BLOCKS):
            p1 = min(p0 + TILE_BLOCKS, stop)
            _tile_of_samples(
                plan, parameters, arena, report, data, targets, labels, sample_weights, order, samples, p0, p1
            )
            # in the place of X, which is not needed any more
            features, few = plan[0, INPUTS], few_of(samples, arena)
            input_gradient_tile(0, 0, features, plan[0, X], plan, parameters, arena, p0, p1, few)
            scatter_rows(arena, plan[0, X], features, samples, p0, p1, output, 0, features)
    return status_of(plan, arena, samples, report)[0] if ends(me) else 0


@tile_function
def by_sample(layer, plan, arena, n, scale, output, o):
    """Gradients of a layer's weights and biases by one sample; those of the whole network begin at ``output[o]``."""
    inputs, outputs, size, step = plan[layer, INPUTS], plan[layer, OUTPUTS], block(arena), lanes(arena)
    for j in range(outputs):
        d = arena[plan[layer, DZ] + ((n // size) * outputs + j) * size + n % size] * scale
        # dW[n,j,i] = dZ[j,n] X[i,n]
        for i in range(0, inputs, step):
            x = plan[layer, X_BY_FEATURES] + ((i // size) * plan[-1, ROOM] + n) * size + i % size
            store_first(output, o + plan[layer, WEIGHTS] + j * inputs + i, load(arena, x) * d, inputs - i)
        # db[n,j] = dZ[j,n]
        output[o + plan[layer, BIASES] + j] = d


@crew_kernel
def per_sample_gradients(
    me, plan, parameters, arena, report, data, targets, labels, sample_weights, order, samples, output
):
    """Gradient of each sample's own loss with respect to all parameters, as rows of ``output``. Returns the status."""
    if begins(me):
        weigh(plan, report, sample_weights, order, 0, samples)
    if works(me):
        start, stop = tasks_of(me, plan[-1, THREADS], n_blocks(arena, samples))
        for p0 in range(start, stop, TILE_BLOCKS):
            p1 = min(p0 + TILE_BLOCKS, stop)
            _tile_of_samples(
                plan, parameters, arena, report, data, targets, labels, sample_weights, order, samples, p0, p1
            )
            for n in range(p0 * block(arena), min(p1 * block(arena), samples)):
                for layer in range(plan.shape[0] - 1):
                    # dZ is of the mean, in which each sample has its share
                    scale = 1 / arena[plan[-1, SHARES] + n]
                    by_sample(layer, plan, arena, n, scale, output, n * parameters.size)
    return status_of(plan, arena, samples, report)[0] if ends(me) else 0


@tile_function
def softmax_backward(outputs, A, a, D, d):
    """From ``dA`` of a block of samples after a softmax to ``dZ``, in the same place."""
    # dZ[j,n] = A[j,n] (dA[j,n] - Σ_k A[k,n] dA[k,n])
    size, step = block(A), lanes(A)
    for s in range(0, size, step):
        total = fill(A, 0.0)
        for k in range(outputs):
            total = fma(load(A, a + k * size + s), load(D, d + k * size + s), total)
        for j in range(outputs):
            here = j * size + s
            store(D, d + here, load(A, a + here) * (load(D, d + here) - total))


@tile_function
def _output_gradient_tile(j, plan, arena, p0, p1):
    """``dZ`` of the last layer, of its output ``j`` alone."""
    last, size, step = plan.shape[0] - 2, block(arena), lanes(arena)
    outputs, code = plan[last, OUTPUTS], plan[last, ACTIVATION]
    for p in range(p0, p1):
        here = p * outputs * size
        z, a, d = plan[last, Z] + here, plan[last, A] + here, plan[last, DZ] + here
        for k in range(0, outputs * size, step):
            # dA is 1 where the output is j, else 0
            store(arena, d + k, fill(arena, 1.0 if k // size == j else 0.0))
        if code == SOFTMAX:
            softmax_backward(outputs, arena, a, arena, d)
        else:
            slope_vectors(code, arena, z, arena, a, arena, arena, d, outputs * size)


@crew_kernel
def jacobian(me, plan, parameters, arena, report, data, order, samples, output):
    """Derivative of each output by each input of its sample, ``output[n, j, i]``. Returns the status."""
    inputs, outputs, few = plan[0, INPUTS], plan[-2, OUTPUTS], few_of(samples, arena)
    if works(me):
        start, stop = tasks_of(me, plan[-1, THREADS], n_blocks(arena, samples))
        for p0 in range(start, stop, TILE_BLOCKS):
            p1 = min(p0 + TILE_BLOCKS, stop)
            check = read_samples(whole(plan), KEEPS_NOTHING, plan, arena, data, order, 0, samples, p0, p1)
            note(report, X_CHECK, p0, p1, check)
            note(report, BLOCK_LOSS, p0, p1, 0.0)
            note(report, Y_CHECK, p0, p1, 0.0)
            forward_tile(whole(plan), False, KEEPS_NOTHING, plan, parameters, arena, p0, p1, 0, NOTHING_DROPPED, 0)
            for j in range(outputs):
                _output_gradient_tile(j, plan, arena, p0, p1)
                backward_tile(whole(plan), plan, parameters, arena, p0, p1, few, NOTHING_DROPPED, 0)
                # in the place of X, which is not needed any more
                input_gradient_tile(0, 0, inputs, plan[0, X], plan, parameters, arena, p0, p1, few)
                scatter_rows(arena, plan[0, X], inputs, samples, p0, p1, output, j * inputs, outputs * inputs)
    return status_of(plan, arena, samples, report)[0] if ends(me) else 0


# ------------------------------------------------------------------------------------------------------------------
# the second derivative: every line of the forward and the backward pass, moved; over whole arrays


@for_every_height
def affine_moved_strip(rows):
    """How ``rows`` outputs ``j`` of one block of samples move; places as in ``affine_strip``, ``V`` beside ``W``."""

    @inlined_function
    def strip(W, V, w, v, b, inputs, X, RX, x, RZ, z):
        # RZ[j,n] = Σ_i V[j,i] X[i,n] + Σ_i W[j,i] RX[i,n] + v[j]
        t = column(v, b, rows)
        for i in range(inputs):
            t = rank1(t, V, w + i, inputs, X, x + i * block(X))
            t = rank1(t, W, w + i, inputs, RX, x + i * block(RX))
        store_tile(t, RZ, z, block(RZ))

    return strip


@for_every_height
def input_gradient_moved_strip(rows):
    """How the gradient of ``rows`` inputs ``i`` of one block moves; places as in ``input_gradient_strip``."""

    @inlined_function
    def strip(W, V, w, inputs, outputs, dZ, RdZ, d, RdX, x):
        # RdX[i,n] = Σ_j V[j,i] dZ[j,n] + Σ_j W[j,i] RdZ[j,n]
        t = zeros(RdX, rows)
        for j in range(outputs):
            t = rank1(t, V, w + j * inputs, 1, dZ, d + j * block(dZ))
            t = rank1(t, W, w + j * inputs, 1, RdZ, d + j * block(RdZ))
        store_tile(t, RdX, x, block(RdX))

    return strip


@kernel
def affine_moved(W, V, v, X, RX, RZ):
    """How the output of ``affine`` moves, if ``W, b`` move by ``V, v`` and ``X`` by ``RX``; all are sample-blocked.

    Parameters
    ----------
    W, V : ndarray of shape (outputs, inputs)
    v : ndarray of shape (outputs,)
    X, RX : ndarray of shape (blocks, inputs, block)
    RZ : ndarray of shape (blocks, outputs, block)
        The result.
    """
    # RZ[j,n] = Σ_i V[j,i] X[i,n] + Σ_i W[j,i] RX[i,n] + v[j]
    blocks, inputs, size = X.shape
    outputs = W.shape[0]
    flat_W, flat_V = W.reshape(W.size), V.reshape(V.size)
    flat_X, flat_RX, flat_RZ = X.reshape(X.size), RX.reshape(RX.size), RZ.reshape(RZ.size)
    for p in prange(blocks):
        for strip in range(n_strips(outputs)):
            j, rows = strip_of(outputs, strip)
            x, z = p * inputs * size, (p * outputs + j) * size
            affine_moved_strip(rows, flat_W, flat_V, j * inputs, v, j, inputs, flat_X, flat_RX, x, flat_RZ, z)


@kernel
def affine_backward_moved(W, V, X, RX, dZ, RdZ, dX, RdX, RdW, Rdb):
    """The gradient ``dX`` of ``affine``, and how its gradients move. ``X`` and ``RX`` are feature-blocked.

    Parameters
    ----------
    W, V : ndarray of shape (outputs, inputs)
    X, RX : ndarray of shape (blocks of inputs, samples in whole blocks, block)
    dZ, RdZ : ndarray of shape (blocks, outputs, block)
        Zero in the samples that only fill up the last block.
    dX, RdX : ndarray of shape (blocks, inputs, block)
        The results, with two more:
    RdW : ndarray of shape (outputs, inputs)
    Rdb : ndarray of shape (outputs,)
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    # RdX[i,n] = Σ_j V[j,i] dZ[j,n] + Σ_j W[j,i] RdZ[j,n]
    # RdW[j,i] = Σ_n RdZ[j,n] X[i,n] + Σ_n dZ[j,n] RX[i,n]
    # Rdb[j] = Σ_n RdZ[j,n]
    outputs, inputs = W.shape
    blocks, _, size = dZ.shape
    flat_W, flat_V, flat_X, flat_RX = W.reshape(W.size), V.reshape(V.size), X.reshape(X.size), RX.reshape(RX.size)
    flat_dZ, flat_RdZ = dZ.reshape(dZ.size), RdZ.reshape(RdZ.size)
    flat_dX, flat_RdX, flat_RdW = dX.reshape(dX.size), RdX.reshape(RdX.size), RdW.reshape(RdW.size)
    for p in prange(blocks):
        d = p * outputs * size
        for strip in range(n_strips(inputs)):
            i, rows = strip_of(inputs, strip)
            x = (p * inputs + i) * size
            input_gradient_strip(rows, flat_W, i, inputs, 0, outputs, flat_dZ, d, flat_dX, x)
            input_gradient_moved_strip(rows, flat_W, flat_V, i, inputs, outputs, flat_dZ, flat_RdZ, d, flat_RdX, x)
    for task in prange(n_strips(outputs)):
        # signed: see affine_backward
        strip = np.int64(task)
        j, rows = strip_of(outputs, strip)
        for i in range(0, inputs, size):
            w = j * inputs + i
            weight_gradient_strip(
                rows, flat_RdZ, j * size, outputs, 0, blocks * size, False, flat_X, i * X.shape[1], inputs - i, inputs,
                flat_RdW, w,
            )  # fmt: skip
            weight_gradient_strip(
                rows, flat_dZ, j * size, outputs, 0, blocks * size, True, flat_RX, i * RX.shape[1], inputs - i, inputs,
                flat_RdW, w,
            )  # fmt: skip
        bias_gradient_strip(rows, flat_RdZ, j * size, outputs, 0, blocks * size, False, Rdb, j)


@kernel
def activate_backward_moved(activation, Z, A, dA, RZ, RdA, RdZ):
    """How the gradient ``dZ`` of an activation (its code) moves: with ``dA``, and with the slope."""
    # RdZ[j,n] = RdA[j,n] f'(Z[j,n]) + dA[j,n] RZ[j,n] f''(Z[j,n])
    flat_Z, flat_A, flat_dA, flat_RZ = Z.reshape(Z.size), A.reshape(A.size), dA.reshape(dA.size), RZ.reshape(RZ.size)
    flat_RdA, flat_RdZ = RdA.reshape(RdA.size), RdZ.reshape(RdZ.size)
    size = block(Z)
    for p in prange(Z.size // size):
        for k in range(0, size, lanes(Z)):
            store(flat_RdZ, p * size + k, load(flat_RdA, p * size + k))
        curvature_vectors(activation, flat_Z, p * size, flat_A, p * size, flat_dA, flat_RZ, flat_RdZ, p * size, size)
