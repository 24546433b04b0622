"""Dropout on vector registers: the twin of :mod:`fastmlp.oracle.dropout`.

Nothing is stored for the backward pass: whether a unit is dropped is computed again.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastmlp.kernels.jit import kernel, tile_function
from fastmlp.kernels.simd import block, fill_like, lanes, load, random_words, store, where

NOTHING_DROPPED = -1
"""In the place of the number of the step, by which it is known what is dropped."""

WORDS = 1 << 24
"""The words that are compared with a threshold are whole numbers from 0 to below this."""

UNITS_AT_ONCE = 4
"""Units of which the random words come together."""


@tile_function
def drop_block(threshold, key0, key1, step, layer, j0, j1, first, places, A, a, D, d):
    """What is left of one block of samples, the first of which is sample ``first``; ``D`` may be ``A``.

    Of its units, those from ``j0``, a multiple of :data:`UNITS_AT_ONCE`, to before ``j1``. If ``places`` is not
    negative, the samples' numbers stand in ``A`` from there on.
    """
    # D[j,n] = m[j,n] A[j,n]
    scale, size = WORDS / (WORDS - threshold), block(A)
    for group in range(j0 // UNITS_AT_ONCE, (j1 + UNITS_AT_ONCE - 1) // UNITS_AT_ONCE):
        for k in range(0, size, lanes(A)):
            given = places + k if places >= 0 else -1
            words = random_words(A, first + k, group, layer, step, key0, key1, given)
            for r in range(UNITS_AT_ONCE):
                j = UNITS_AT_ONCE * group + r
                if j < j1:
                    kept = where(words[r] < threshold, fill_like(words[r], 0.0), scale)
                    store(D, d + j * size + k, kept * load(A, a + j * size + k))


@kernel
def drop(A, threshold, key0, key1, step, layer, D):
    """What is left of a layer's activations. Its derivative is the same function, of the gradient: it is linear."""
    # D[j,n] = m[j,n] A[j,n]
    blocks, units, size = A.shape
    a, d = A.reshape(A.size), D.reshape(D.size)
    for p in prange(blocks):
        start = p * units * size
        drop_block(threshold, key0, key1, step, layer, 0, units, np.int64(p) * size, -1, a, start, d, start)
