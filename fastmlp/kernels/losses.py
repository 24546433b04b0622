"""Losses on vector registers: the twins of :mod:`fastmlp.oracle.losses`, each value beside its gradient.

A loss takes one block of samples: ``L[n]`` of each, and the gradient of each one's own loss. The small letters are
where the block begins in the arrays of the large ones: ``a`` in ``A``, ``y`` in ``Y``, ``d`` in ``dA``; in ``L``, it
begins at ``at``. Compiled code chooses by an integer, once per block: adding a loss is adding its function, its code,
and its line in :func:`loss_block`.
"""

from __future__ import annotations

from numba import prange

from fastmlp.kernels.activations import sigmoid
from fastmlp.kernels.elementary import by_sign, exp, log, log1p
from fastmlp.kernels.jit import kernel, tile_function
from fastmlp.kernels.simd import absolute, block, fill, lanes, load, maximum, minimum, store

SQUARED_ERROR, ABSOLUTE_ERROR, HUBER, QUANTILE, GIVEN_GRADIENT = range(5)
"""Losses that are functions of ``A``."""

POISSON, BINARY_CROSS_ENTROPY, SOFTMAX_CROSS_ENTROPY = range(5, 8)
"""Losses that are functions of ``Z``, together with the activation that they belong to."""

CODES = {
    "squared_error": SQUARED_ERROR, "absolute_error": ABSOLUTE_ERROR, "huber": HUBER, "quantile": QUANTILE,
    "poisson": POISSON, "binary_cross_entropy": BINARY_CROSS_ENTROPY, "softmax_cross_entropy": SOFTMAX_CROSS_ENTROPY,
}  # fmt: skip
"""The integer by which compiled code knows a loss. With ``GIVEN_GRADIENT``, ``dA`` stands where targets would."""


@tile_function
def squared_error_block(outputs, A, a, Y, y, L, at, dA, d):
    """Half the squared distance of each sample of a block from its target, and the gradient ``dA``."""
    # L[n] = Σ_j (A[j,n] - Y[j,n])^2 / 2
    # dA[j,n] = A[j,n] - Y[j,n]
    for n in range(0, block(A), lanes(A)):  # some samples
        total = fill(A, 0.0)
        for j in range(outputs):
            row = j * block(A) + n
            error = load(A, a + row) - load(Y, y + row)
            total = total + error * error
            store(dA, d + row, error)
        store(L, at + n, total * 0.5)


@tile_function
def absolute_error_block(outputs, A, a, Y, y, L, at, dA, d):
    """The distance of each output of each sample of a block from its target, summed, and the gradient ``dA``."""
    # L[n] = Σ_j abs(A[j,n] - Y[j,n])
    # dA[j,n] = sign(A[j,n] - Y[j,n])
    for n in range(0, block(A), lanes(A)):  # some samples
        total = fill(A, 0.0)
        for j in range(outputs):
            row = j * block(A) + n
            error = load(A, a + row) - load(Y, y + row)
            total = total + absolute(error)
            store(dA, d + row, by_sign(error, 1.0, -1.0))
        store(L, at + n, total)


@tile_function
def huber_block(threshold, outputs, A, a, Y, y, L, at, dA, d):
    """Half the squared error up to a threshold, a straight line beyond it, summed; and the gradient ``dA``.

    ``cut(e) = min(max(e, -threshold), threshold)``.
    """
    # L[n] = Σ_j cut(A[j,n] - Y[j,n]) ((A[j,n] - Y[j,n]) - cut(A[j,n] - Y[j,n]) / 2)
    # dA[j,n] = cut(A[j,n] - Y[j,n])
    for n in range(0, block(A), lanes(A)):  # some samples
        total = fill(A, 0.0)
        for j in range(outputs):
            row = j * block(A) + n
            error = load(A, a + row) - load(Y, y + row)
            cut = minimum(maximum(error, -threshold), threshold)
            total = total + cut * (error - 0.5 * cut)
            store(dA, d + row, cut)
        store(L, at + n, total)


@tile_function
def quantile_block(q, outputs, A, a, Y, y, L, at, dA, d):
    """``q`` times what is missing, or ``1 - q`` times what is too much, summed; and the gradient ``dA``.

    ``pinball(e) = max((1 - q) e, -q e)``.
    """
    # L[n] = Σ_j pinball(A[j,n] - Y[j,n])
    # dA[j,n] = pinball'(A[j,n] - Y[j,n])
    for n in range(0, block(A), lanes(A)):  # some samples
        total = fill(A, 0.0)
        for j in range(outputs):
            row = j * block(A) + n
            error = load(A, a + row) - load(Y, y + row)
            slope = by_sign(error, 1 - q, -q)
            total = total + slope * error
            store(dA, d + row, slope)
        store(L, at + n, total)


@tile_function
def given_gradient_block(outputs, A, Y, y, L, at, dA, d):
    """The gradient is what was given in the place of targets; its loss is not known here."""
    for n in range(0, block(A), lanes(A)):  # some samples
        for j in range(outputs):
            row = j * block(A) + n
            store(dA, d + row, load(Y, y + row))
        store(L, at + n, fill(A, 0.0))


@tile_function
def poisson_block(outputs, Z, z, Y, y, L, at, dZ, d):
    """``A - Y log A`` of each output, with ``A = exp(Z)``, summed; and the gradient ``dZ``."""
    # L[n] = Σ_j (exp(Z[j,n]) - Y[j,n] Z[j,n])
    # dZ[j,n] = exp(Z[j,n]) - Y[j,n]
    for n in range(0, block(Z), lanes(Z)):  # some samples
        total = fill(Z, 0.0)
        for j in range(outputs):
            row = j * block(Z) + n
            logarithm, target = load(Z, z + row), load(Y, y + row)
            rate = exp(logarithm)
            total = total + (rate - target * logarithm)
            store(dZ, d + row, rate - target)
        store(L, at + n, total)


@tile_function
def binary_cross_entropy_block(outputs, Z, z, Y, y, L, at, dZ, d):
    """Cross-entropy of each output of each sample of a block with its target, and the gradient ``dZ``."""
    # L[n] = Σ_j (max(Z[j,n], 0) + log(1 + exp(-abs(Z[j,n]))) - Y[j,n] Z[j,n])
    # dZ[j,n] = sigmoid(Z[j,n]) - Y[j,n]
    for n in range(0, block(Z), lanes(Z)):  # some samples
        total = fill(Z, 0.0)
        for j in range(outputs):
            row = j * block(Z) + n
            logit, target = load(Z, z + row), load(Y, y + row)
            total = total + ((maximum(logit, 0.0) - target * logit) + log1p(exp(-absolute(logit))))
            store(dZ, d + row, sigmoid(logit) - target)
        store(L, at + n, total)


@tile_function
def softmax_block(outputs, Z, z, A, a):
    """``exp(Z) / Σ_k exp(Z)`` of each sample of a block; ``A`` may be ``Z``.

    Equivalent: both are divided by ``exp(largest)``, so that nothing overflows.
    """
    # A[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n]))
    for n in range(0, block(Z), lanes(Z)):  # some samples
        largest = load(Z, z + n)
        for j in range(1, outputs):
            largest = maximum(largest, load(Z, z + j * block(Z) + n))
        total = fill(Z, 0.0)
        for j in range(outputs):
            row = j * block(Z) + n
            e = exp(load(Z, z + row) - largest)
            total = total + e
            store(A, a + row, e)
        for j in range(outputs):
            row = j * block(Z) + n
            store(A, a + row, load(A, a + row) / total)


@tile_function
def softmax_cross_entropy_block(smoothing, outputs, Z, z, Y, y, L, at, dZ, d):
    """Cross-entropy of each sample of a block with its target probabilities, smoothed; and the gradient ``dZ``.

    ``smooth(y) = (1 - smoothing) y + smoothing / outputs``. Equivalent: the largest ``Z`` is taken off each. In the
    loss it cancels, as both terms have it as often: ``Σ smooth(Y)`` times.
    """
    # L[n] = (Σ_k smooth(Y[k,n])) log(Σ_k exp(Z[k,n])) - Σ_j smooth(Y[j,n]) Z[j,n]
    # dZ[j,n] = (Σ_k smooth(Y[k,n])) exp(Z[j,n]) / (Σ_k exp(Z[k,n])) - smooth(Y[j,n])
    kept, shared = 1 - smoothing, smoothing / outputs
    for n in range(0, block(Z), lanes(Z)):  # some samples
        largest = load(Z, z + n)
        for j in range(1, outputs):
            largest = maximum(largest, load(Z, z + j * block(Z) + n))
        total, target_total, expected = fill(Z, 0.0), fill(Z, 0.0), fill(Z, 0.0)
        for j in range(outputs):
            row = j * block(Z) + n
            above, target = load(Z, z + row) - largest, kept * load(Y, y + row) + shared
            e = exp(above)
            total = total + e
            target_total = target_total + target
            expected = expected + target * above
            store(dZ, d + row, e)
        store(L, at + n, target_total * log(total) - expected)
        for j in range(outputs):
            row = j * block(Z) + n
            target = kept * load(Y, y + row) + shared
            store(dZ, d + row, target_total * load(dZ, d + row) / total - target)


@tile_function
def loss_block(code, setting, outputs, Z, z, A, a, Y, y, L, at, d):
    """Loss of one block by its code; the gradient is written at ``d`` of the same array, the arena."""
    if code == SQUARED_ERROR:
        squared_error_block(outputs, A, a, Y, y, L, at, Z, d)
    elif code == ABSOLUTE_ERROR:
        absolute_error_block(outputs, A, a, Y, y, L, at, Z, d)
    elif code == HUBER:
        huber_block(setting, outputs, A, a, Y, y, L, at, Z, d)
    elif code == QUANTILE:
        quantile_block(setting, outputs, A, a, Y, y, L, at, Z, d)
    elif code == GIVEN_GRADIENT:
        given_gradient_block(outputs, A, Y, y, L, at, Z, d)
    elif code == POISSON:
        poisson_block(outputs, Z, z, Y, y, L, at, Z, d)
    elif code == BINARY_CROSS_ENTROPY:
        binary_cross_entropy_block(outputs, Z, z, Y, y, L, at, Z, d)
    else:
        softmax_cross_entropy_block(setting, outputs, Z, z, Y, y, L, at, Z, d)


# ------------------------------------------------------------------------------------------------------------------
# the kernels, over whole arrays in sample blocks: A, Y, dA of shape (blocks, outputs, block), L of shape (samples,)


@kernel
def squared_error(A, Y, L, dA):
    """Half the squared distance of each sample from its target, and the gradient ``dA``."""
    # L[n] = Σ_j (A[j,n] - Y[j,n])^2 / 2
    # dA[j,n] = A[j,n] - Y[j,n]
    blocks, outputs, size = A.shape
    a, y, d = A.reshape(A.size), Y.reshape(Y.size), dA.reshape(dA.size)
    for p in prange(blocks):
        start = p * outputs * size
        squared_error_block(outputs, a, start, y, start, L, p * size, d, start)


@kernel
def absolute_error(A, Y, L, dA):
    """The distance of each output of each sample from its target, summed, and the gradient ``dA``."""
    # L[n] = Σ_j abs(A[j,n] - Y[j,n])
    # dA[j,n] = sign(A[j,n] - Y[j,n])
    blocks, outputs, size = A.shape
    a, y, d = A.reshape(A.size), Y.reshape(Y.size), dA.reshape(dA.size)
    for p in prange(blocks):
        start = p * outputs * size
        absolute_error_block(outputs, a, start, y, start, L, p * size, d, start)


@kernel
def huber(A, Y, threshold, L, dA):
    """Half the squared error up to a threshold, a straight line beyond it, summed; and the gradient ``dA``.

    ``cut(e) = min(max(e, -threshold), threshold)``.
    """
    # L[n] = Σ_j cut(A[j,n] - Y[j,n]) ((A[j,n] - Y[j,n]) - cut(A[j,n] - Y[j,n]) / 2)
    # dA[j,n] = cut(A[j,n] - Y[j,n])
    blocks, outputs, size = A.shape
    a, y, d = A.reshape(A.size), Y.reshape(Y.size), dA.reshape(dA.size)
    for p in prange(blocks):
        start = p * outputs * size
        huber_block(threshold, outputs, a, start, y, start, L, p * size, d, start)


@kernel
def quantile(A, Y, q, L, dA):
    """``q`` times what is missing, or ``1 - q`` times what is too much, summed; and the gradient ``dA``.

    ``pinball(e) = max((1 - q) e, -q e)``.
    """
    # L[n] = Σ_j pinball(A[j,n] - Y[j,n])
    # dA[j,n] = pinball'(A[j,n] - Y[j,n])
    blocks, outputs, size = A.shape
    a, y, d = A.reshape(A.size), Y.reshape(Y.size), dA.reshape(dA.size)
    for p in prange(blocks):
        start = p * outputs * size
        quantile_block(q, outputs, a, start, y, start, L, p * size, d, start)


@kernel
def poisson(Z, Y, L, dZ):
    """``A - Y log A`` of each output, with ``A = exp(Z)``, summed; and the gradient ``dZ``."""
    # L[n] = Σ_j (exp(Z[j,n]) - Y[j,n] Z[j,n])
    # dZ[j,n] = exp(Z[j,n]) - Y[j,n]
    blocks, outputs, size = Z.shape
    z, y, d = Z.reshape(Z.size), Y.reshape(Y.size), dZ.reshape(dZ.size)
    for p in prange(blocks):
        start = p * outputs * size
        poisson_block(outputs, z, start, y, start, L, p * size, d, start)


@kernel
def binary_cross_entropy(Z, Y, L, dZ):
    """Cross-entropy of each sample's outputs with its targets, summed, and the gradient ``dZ``."""
    # L[n] = Σ_j (max(Z[j,n], 0) + log(1 + exp(-abs(Z[j,n]))) - Y[j,n] Z[j,n])
    # dZ[j,n] = sigmoid(Z[j,n]) - Y[j,n]
    blocks, outputs, size = Z.shape
    z, y, d = Z.reshape(Z.size), Y.reshape(Y.size), dZ.reshape(dZ.size)
    for p in prange(blocks):
        start = p * outputs * size
        binary_cross_entropy_block(outputs, z, start, y, start, L, p * size, d, start)


@kernel
def softmax(Z, A):
    """``exp(Z) / Σ_k exp(Z)`` of each sample."""
    # A[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n]))
    blocks, outputs, size = Z.shape
    z, a = Z.reshape(Z.size), A.reshape(A.size)
    for p in prange(blocks):
        softmax_block(outputs, z, p * outputs * size, a, p * outputs * size)


@kernel
def softmax_cross_entropy(Z, Y, smoothing, L, dZ):
    """Cross-entropy of each sample with its target probabilities, smoothed; and the gradient ``dZ``."""
    # L[n] = (Σ_k smooth(Y[k,n])) log(Σ_k exp(Z[k,n])) - Σ_j smooth(Y[j,n]) Z[j,n]
    # dZ[j,n] = (Σ_k smooth(Y[k,n])) exp(Z[j,n]) / (Σ_k exp(Z[k,n])) - smooth(Y[j,n])
    blocks, outputs, size = Z.shape
    z, y, d = Z.reshape(Z.size), Y.reshape(Y.size), dZ.reshape(dZ.size)
    for p in prange(blocks):
        start = p * outputs * size
        softmax_cross_entropy_block(smoothing, outputs, z, start, y, start, L, p * size, d, start)
