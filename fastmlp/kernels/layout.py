"""Where memory turns: rows to blocks, and blocks to blocks. No mathematics; tested by round trip.

A matrix ``M[i,n]`` of features and samples is kept in one of two layouts, so that every access of a sum is contiguous.
With ``B = block(M)``, which is one or two vector registers:

*sample-blocked*
    ``[n // B][i][n % B]``: the samples of a block lie side by side. It is the operand of ``Z = W X`` and of
    ``dX = Wᵀ dZ``, whose left sides have the letter ``n``.
*feature-blocked*
    ``[i // B][n][i % B]``: the features of a block lie side by side. It is the operand of ``dW = dZ Xᵀ``, whose left
    side has the letter ``i``.

Samples fill up whole blocks: with zeros or, where their features are few, with the last one. ``F, f`` is a matrix in
feature blocks and where it begins, ``S, s`` one in sample blocks; ``X`` are rows of the user's.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastmlp.kernels.jit import kernel, tile_function
from fastmlp.kernels.simd import (
    block,
    fill,
    gather,
    gather_four,
    lanes,
    load_first,
    prefetch,
    store,
    sum_lanes,
    transpose,
    transpose_finite,
)

AHEAD = 4
"""Vectors of a row that are asked for before they are read: rows in any order come from memory a sixth quicker. The
first ones of a row are asked for with the sample a block before it: of rows in 100 MB, steps of 4-32-16-4 on 512 take
31 us instead of 34, of 3-4-4-2 on five 0.98 instead of 1.12, of 1000-10 on 256 102 instead of 108."""

NARROW_FEATURES = 4
"""Features up to which rows are turned in registers, on their way to sample blocks: 16 of them take 20 ns instead of
40 by way of feature blocks."""

NO_ORDER = np.empty(0, np.int64)
"""The rows as they stand."""


def to_sample_blocks(M: np.ndarray, size: int) -> np.ndarray:
    """Return ``M[i,n]`` in the sample-blocked layout, as an array ``[n // B, i, n % B]``."""
    features, samples = M.shape
    padded = np.zeros((features, -(-samples // size) * size), M.dtype)
    padded[:, :samples] = M
    return np.ascontiguousarray(padded.reshape(features, -1, size).transpose(1, 0, 2))


def from_sample_blocks(blocks: np.ndarray, samples: int) -> np.ndarray:
    """Undo :func:`to_sample_blocks`: return ``M[i,n]``."""
    return np.ascontiguousarray(blocks.transpose(1, 0, 2).reshape(blocks.shape[1], -1)[:, :samples])


def to_feature_blocks(M: np.ndarray, size: int) -> np.ndarray:
    """Return ``M[i,n]`` in the feature-blocked layout, as an array ``[i // B, n, i % B]``."""
    features, samples = M.shape
    shape = (-(-features // size) * size, -(-samples // size) * size)
    padded = np.zeros(shape, M.dtype)
    padded[:features, :samples] = M
    return np.ascontiguousarray(padded.reshape(-1, size, shape[1]).transpose(0, 2, 1))


@tile_function
def n_blocks(M, count):
    """Blocks that hold so many samples, or features, the last of which may be filled up."""
    return (count + block(M) - 1) // block(M)


@tile_function
def row_of(order, n):
    """Row of the user's data that is sample ``n`` of the batch; an empty order means row ``n``."""
    return order[n] if order.size > 0 else n


@tile_function
def gather_rows(X, features, i0, i1, order, first, samples, n0, n1, F, f, room):
    """Rows of the user's data, samples ``n0`` to ``n1`` of a batch of ``samples``, to feature blocks.

    Of the features, those from ``i0``, with which a vector begins, to before ``i1``.

    Returns 0 if every value is finite, else NaN.
    """
    step = lanes(F)
    size = block(F)
    check = fill(F, 0.0)
    whole_row = (features + step - 1) // step * step
    ahead = min(AHEAD * step, whole_row)
    # a block of rows side by side: row by row, each vector would be stored kilobytes away from the one before
    for start in range(n0, n1, size):
        stop = min(start + size, n1)
        for i in range(i0, i1, step):
            to = f + (i // size) * room * size + i % size
            for n in range(start, stop):
                row = row_of(order, first + n) * features if n < samples else 0
                if i + ahead < whole_row:
                    prefetch(X, row + i + ahead)
                elif first + n + size < order.size:
                    prefetch(X, order[first + n + size] * features + i + ahead - whole_row)
                x = load_first(X, row + i, features - i if n < samples else 0)
                check = check + (x - x)
                store(F, to + n * size, x)
    return sum_lanes(check)


@tile_function
def gather_narrow(X, features, order, first, samples, p0, p1, S, s):
    """Rows of up to :data:`NARROW_FEATURES` features to sample blocks ``p0`` to ``p1``, by registers alone.

    What fills up the last block repeats the last sample. Returns 0 if every value is finite, else NaN.
    """
    size, step, check = block(S), lanes(S), fill(S, 0.0)
    for p in range(p0, p1):
        to = s + p * features * size
        for k in range(0, size, step):
            n = p * size + k
            ahead = first + n + size
            for r in range(min(step, samples - n, order.size - ahead)):
                prefetch(X, order[ahead + r] * features)
            v0, v1, v2, v3 = gather_four(X, features, order, first + min(n, samples - 1), max(samples - n, 1))
            check = check + ((v0 - v0) + (v1 - v1) + (v2 - v2) + (v3 - v3))
            store(S, to + k, v0)
            if features > 1:
                store(S, to + size + k, v1)
            if features > 2:
                store(S, to + 2 * size + k, v2)
            if features > 3:
                store(S, to + 3 * size + k, v3)
    return sum_lanes(check)


@tile_function
def turn_rows(X, features, first, samples, p0, p1, S, s):
    """Rows of the user's data that stand one after the other, to sample blocks ``p0`` to ``p1``.

    They have a vector of features, or more. What fills up the last block repeats the last sample. Returns 0 if every
    value is finite, else NaN.
    """
    size, step, check = block(S), lanes(S), fill(S, 0.0)
    for p in range(p0, p1):
        for k in range(0, size, step):
            n = min(p * size + k, samples - 1)
            for i in range(0, features, step):
                at = min(i, features - step)  # the last square ends where the rows do
                x, to = (first + n) * features + at, s + (p * features + at) * size + k
                check = check + transpose_finite(X, x, features, samples - n, S, to, size, step)
    return sum_lanes(check)


@tile_function
def sample_blocks_of(F, f, features, i0, i1, room, p0, p1, S, s):
    """Feature blocks to sample blocks ``p0`` to ``p1``; of the features, some as in :func:`gather_rows`."""
    step = lanes(S)
    size = block(S)
    for p in range(p0, p1):
        for i in range(i0, i1, step):
            source = f + ((i // size) * room + p * size) * size + i % size
            for k in range(0, size, step):
                to = s + (p * features + i) * size + k
                transpose(F, source + k * size, size, step, S, to, size, features - i)


@tile_function
def feature_blocks_of(S, s, features, i0, i1, room, p0, p1, F, f):
    """Sample blocks ``p0`` to ``p1`` to feature blocks; of the features, some as in :func:`gather_rows`.

    What fills up the last block of features is left undefined.
    """
    step = lanes(S)
    size = block(S)
    for p in range(p0, p1):
        for i in range(i0, i1, step):
            to = f + ((i // size) * room + p * size) * size + i % size
            for k in range(0, size, step):
                source = s + (p * features + i) * size + k
                transpose(S, source, size, features - i, F, to + k * size, size, step)


@tile_function
def panels_of(W, w, inputs, outputs, P, p):
    """Weights to *panels*, in which the weights of a vector of outputs lie side by side: ``P[j // L, i, j % L]``.

    It is the operand of ``Z = W x`` for a single sample. ``L`` is a vector; the last one is filled up with weights of
    the last output.
    """
    step = lanes(P)
    squares = inputs // step * step
    for j in range(0, outputs, step):
        here, to = w + j * inputs, p + j * inputs
        for i in range(0, squares, step):
            transpose(W, here + i, inputs, outputs - j, P, to + i * step, step, step)
        for i in range(squares, inputs):
            store(P, to + i * step, gather(W, here + i, inputs, outputs - j))


@tile_function
def gather_labels(labels, outputs, order, first, samples, p0, p1, S, s):
    """Class indices to one-hot sample blocks ``p0`` to ``p1``.

    Returns 0, or NaN if one is no class, which was looked at before: but other code may have changed it since.
    """
    size, check = block(S), 0.0
    nothing = fill(S, 0.0)
    for p in range(p0, p1):
        here = s + p * outputs * size
        for k in range(0, outputs * size, lanes(S)):
            store(S, here + k, nothing)
        for n in range(p * size, min((p + 1) * size, samples)):
            label = labels[row_of(order, first + n)]
            if 0 <= label < outputs:
                S[here + label * size + n % size] = 1.0
            else:
                check = np.nan
    return check


@tile_function
def scatter_rows(S, s, features, samples, p0, p1, X, x, stride):
    """Sample blocks ``p0`` to ``p1`` to rows, but what fills them up. Row ``n`` begins at ``X[x + n * stride]``."""
    size = block(S)
    for p in range(p0, p1):
        row = x + p * size * stride
        for i in range(features):
            here = s + (p * features + i) * size
            for n in range(min(size, samples - p * size)):
                X[row + n * stride + i] = S[here + n]


# ------------------------------------------------------------------------------------------------------------------
# a whole matrix, turned

_SIDE = 32
"""Rows and columns of a part that is turned in one go: it stays in the first-level cache."""


@kernel
def turn(M, T):
    """Write ``M`` turned: ``T[i,j] = M[j,i]``, part by part."""
    rows, columns = M.shape
    for part in prange((columns + _SIDE - 1) // _SIDE):
        first = int(part) * _SIDE
        for r0 in range(0, rows, _SIDE):
            for c in range(first, min(first + _SIDE, columns)):
                for r in range(r0, min(r0 + _SIDE, rows)):
                    T[c, r] = M[r, c]
