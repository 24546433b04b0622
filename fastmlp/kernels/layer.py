"""One layer, over tiles held in registers: the twins of :mod:`fastmlp.oracle.layer`.

Each formula is computed for one *strip* at a time: :data:`~fastmlp.kernels.simd.ROWS` rows of its left side, one block
wide. The strip is a register tile; the loop under the formula runs over the letter that is summed, and each turn adds
one rank-1 product to the tile: a column of the first operand times a row of the second. The layouts of
:mod:`fastmlp.kernels.layout` make that row contiguous.

The strip functions are all that the training step in :mod:`fastmlp.kernels.network` is made of. The kernels at the end
run them over whole arrays, one layer and one formula at a time.
"""

from __future__ import annotations

from numba import prange

from fastmlp.kernels.activations import activate_strip, slope_strip
from fastmlp.kernels.jit import kernel, tile_function
from fastmlp.kernels.simd import ROWS, block, column, fill, lanes, load, rank1, store_tile, sum_lanes, zeros


@tile_function
def affine_strip(weights, w, biases, b, inputs, rows, X, x, Z, z):
    """Matmul plus bias, for ``rows`` outputs ``j`` and one block of samples ``n``.

    ``w`` is where the strip's first row of ``W`` stands in ``weights``, ``b`` where its first bias stands in
    ``biases``; ``x`` is where the block stands in ``X``, ``z`` where the strip stands in ``Z``, both sample-blocked.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    t = column(biases, b, rows)
    for i in range(inputs):
        t = rank1(t, weights, w + i, inputs, rows, X, x + i * block(X))
    store_tile(t, Z, z, block(Z), rows, block(Z))


@tile_function
def input_gradient_strip(weights, w, inputs, outputs, rows, dZ, d, dX, x):
    """Gradient of the layer's input, for ``rows`` inputs ``i`` and one block of samples ``n``.

    ``w`` is where column ``i`` of ``W`` begins in ``weights``; ``d`` is where the block stands in ``dZ``, and ``x``
    where the strip stands in ``dX``, both sample-blocked.
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    t = zeros(dX)
    for j in range(outputs):
        t = rank1(t, weights, w + j * inputs, 1, rows, dZ, d + j * block(dZ))
    store_tile(t, dX, x, block(dX), rows, block(dX))


@tile_function
def weight_gradient_strip(dZ, d, outputs, rows, blocks, X, x, padded, inputs, gradient, w):
    """Gradient of the weights, for ``rows`` outputs ``j`` and all inputs ``i``, summed over ``blocks`` of samples.

    ``d`` is where row ``j`` of the first block stands in ``dZ`` (sample-blocked), ``x`` where ``X`` begins
    (feature-blocked, ``padded`` samples long), ``w`` where row ``j`` of ``dW`` stands in ``gradient``.
    """
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    whole_block = block(X)
    for i in range(0, inputs, whole_block):
        t = zeros(X)
        row_of_X = x + (i // whole_block) * padded * whole_block
        for p in range(blocks):
            column_of_dZ = d + p * outputs * whole_block
            for n in range(whole_block):
                place = row_of_X + (p * whole_block + n) * whole_block
                t = rank1(t, dZ, column_of_dZ + n, whole_block, rows, X, place)
        store_tile(t, gradient, w + i, inputs, rows, inputs - i)


@tile_function
def bias_gradient_strip(dZ, d, outputs, rows, blocks, gradient, b):
    """Gradient of the biases, for ``rows`` outputs ``j``, summed over ``blocks`` of samples. Places as above."""
    # db[j] = Σ_n dZ[j,n]
    whole_block = block(dZ)
    for r in range(rows):
        total = fill(dZ, 0.0)
        for p in range(blocks):
            for k in range(0, whole_block, lanes(dZ)):
                total = total + load(dZ, d + (p * outputs + r) * whole_block + k)
        gradient[b + r] = sum_lanes(total)


# ------------------------------------------------------------------------------------------------------------------
# the kernels, over whole arrays


@kernel
def affine(W, b, X, Z):
    """Matmul plus bias. ``X`` and ``Z`` are sample-blocked.

    Parameters
    ----------
    W : ndarray of shape (outputs, inputs)
    b : ndarray of shape (outputs,)
    X : ndarray of shape (blocks, inputs, block)
    Z : ndarray of shape (blocks, outputs, block)
        The result.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    blocks, inputs, whole_block = X.shape
    outputs = W.shape[0]
    weights, x, z = W.reshape(W.size), X.reshape(X.size), Z.reshape(Z.size)
    for p in prange(blocks):
        for j in range(0, outputs, ROWS):
            rows = min(ROWS, outputs - j)
            to = (p * outputs + j) * whole_block
            affine_strip(weights, j * inputs, b, j, inputs, rows, x, p * inputs * whole_block, z, to)


@kernel
def affine_backward(W, X, dZ, dX, dW, db):
    """Gradients of :func:`affine`. ``dZ`` and ``dX`` are sample-blocked, ``X`` is feature-blocked.

    Parameters
    ----------
    W : ndarray of shape (outputs, inputs)
    X : ndarray of shape (blocks of inputs, samples in whole blocks, block)
    dZ : ndarray of shape (blocks, outputs, block)
        Zero in the samples that only fill up the last block.
    dX : ndarray of shape (blocks, inputs, block)
        The result, with its two companions:
    dW : ndarray of shape (outputs, inputs)
    db : ndarray of shape (outputs,)
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    # db[j] = Σ_n dZ[j,n]
    outputs, inputs = W.shape
    blocks, _, whole_block = dZ.shape
    weights, x, d = W.reshape(W.size), X.reshape(X.size), dZ.reshape(dZ.size)
    d_inputs, d_weights = dX.reshape(dX.size), dW.reshape(dW.size)
    for p in prange(blocks):
        for i in range(0, inputs, ROWS):
            rows = min(ROWS, inputs - i)
            to = (p * inputs + i) * whole_block
            input_gradient_strip(weights, i, inputs, outputs, rows, d, p * outputs * whole_block, d_inputs, to)
    for strip in prange((outputs + ROWS - 1) // ROWS):
        j = strip * ROWS
        rows = min(ROWS, outputs - j)
        weight_gradient_strip(
            d, j * whole_block, outputs, rows, blocks, x, 0, X.shape[1], inputs, d_weights, j * inputs
        )
        bias_gradient_strip(d, j * whole_block, outputs, rows, blocks, db, j)


@kernel
def activate(activation, Z, A):
    """Apply an activation (its code) to every element: ``A = f(Z)``, which may be ``Z``."""
    # A[j,n] = f(Z[j,n])
    z, a = Z.reshape(Z.size), A.reshape(A.size)
    size = block(Z)
    for p in prange(Z.size // size):
        activate_strip(activation, z, p * size, a, p * size, size)


@kernel
def activate_backward(activation, Z, A, dA, dZ):
    """Gradient of :func:`activate`: multiply by the slope. ``dZ`` may be ``dA``."""
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    z, a, d_a, d_z = Z.reshape(Z.size), A.reshape(A.size), dA.reshape(dA.size), dZ.reshape(dZ.size)
    size = block(Z)
    for p in prange(Z.size // size):
        slope_strip(activation, z, p * size, a, p * size, d_a, d_z, p * size, size)
