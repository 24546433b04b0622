"""Dropout: in training a random part of a layer's units is set to 0, and the others are scaled up to make up for it.

Whether unit ``j`` of sample ``n`` is dropped is a function of ``(seed, step, layer, j, n)`` and of nothing else: no
generator runs along, so any thread, and any machine, finds the same.

Source: Srivastava et al. 2014, *Dropout*, with the scaling in training; Salmon et al. 2011, *Parallel Random Numbers:
As Easy as 1, 2, 3*, for the generator Philox4x32-10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Words = NDArray[np.uint64]

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

WORDS = 1 << 24
"""The words that are compared with a threshold are whole numbers from 0 to below this."""


def philox(counter: tuple[Words, Words, Words, Words], key0: int, key1: int) -> tuple[Words, Words, Words, Words]:
    """Four random words of 32 bits from a counter of four such words."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for r in range(_ROUNDS):
        k0, k1 = (np.uint64((key + r * by) & 0xFFFFFFFF) for key, by in zip((key0, key1), _INCREMENTS, strict=True))
        first, second = np.uint64(_MULTIPLIERS[0]) * c0, np.uint64(_MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (second >> half) ^ c1 ^ k0, second & low, (first >> half) ^ c3 ^ k1, first & low
    return c0, c1, c2, c3


def mask(threshold: int, key0: int, key1: int, step: int, layer: int, units: int, samples: int) -> Array:
    """``m[j,n]``: 0 where a word is below the threshold, and elsewhere what keeps the mean.

    Unit ``j`` of sample ``n`` has word ``j mod 4`` of the counter ``(n, j // 4, layer, step)``, less its last 8 bits.
    """
    n, group = np.arange(samples, dtype=np.uint64), np.arange(-(-units // 4), dtype=np.uint64)[:, np.newaxis]
    of_layer, of_step = np.array(layer, np.uint64), np.array(step & 0xFFFFFFFF, np.uint64)
    words = philox((n, group, of_layer, of_step), key0, key1)
    of_units = np.stack(np.broadcast_arrays(*words), axis=1).reshape(-1, samples)[:units] >> np.uint64(8)
    return np.where(of_units >= threshold, WORDS / (WORDS - threshold), 0.0)


def drop(A: Array, threshold: int, key0: int, key1: int, step: int, layer: int) -> Array:
    """What is left of a layer's activations. Its derivative is the same function, of the gradient: it is linear."""
    m = mask(threshold, key0, key1, step, layer, *A.shape)
    # D[j,n] = m[j,n] A[j,n]
    return m * A
