"""Whether data are as they should be, found quickly; what is wrong says :mod:`fastmlp.checks`, in words.

No mathematics.
"""

from __future__ import annotations

from fastmlp.kernels.jit import plain_function
from fastmlp.kernels.losses import POISSON, SOFTMAX_CROSS_ENTROPY
from fastmlp.kernels.simd import fill, lanes, load, load_first, sum_lanes

MOST_WEIGHT = 1e280
"""Samples with larger weights are trained on, too, but these are looked at in another way."""


@plain_function
def all_finite(A):
    """Whether no number of a vector is NaN or infinite: 40 to 90 GB/s, where NumPy, which notes each, has 18 to 50."""
    step = lanes(A)
    whole = A.size // (4 * step) * (4 * step)
    a = fill(A, 0.0)
    b, c, d = a, a, a
    for k in range(0, whole, 4 * step):
        x, y, z, w = load(A, k), load(A, k + step), load(A, k + 2 * step), load(A, k + 3 * step)
        a, b, c, d = a + (x - x), b + (y - y), c + (z - z), d + (w - w)
    for k in range(whole, A.size, step):
        x = load_first(A, k, A.size - k)
        a = a + (x - x)
    return sum_lanes((a + b) + (c + d)) == 0


@plain_function
def labels_fit(labels, n_classes):
    """Whether all are class indices."""
    for n in range(labels.size):  # noqa: SIM110 (Numba compiles loops, not generators)
        if labels[n] < 0 or labels[n] >= n_classes:
            return False
    return True


@plain_function
def weights_fit(weights):
    """Whether all are at least 0, and so small that their sum, too, is a number."""
    for n in range(weights.size):  # noqa: SIM110 (as above)
        if not 0 <= weights[n] <= MOST_WEIGHT:
            return False
    return True


@plain_function
def rows_fit(code, Y, within):
    """Whether rows of numbers suit a loss that does not take any: a row's sum may be ``within`` so much of 1.

    NaN does: it is found, and told, in the step.
    """
    n_samples, outputs = Y.shape
    for n in range(n_samples):
        total = 0.0
        for j in range(outputs):
            if Y[n, j] < 0 or (code != POISSON and Y[n, j] > 1):
                return False
            total += Y[n, j]
        if code == SOFTMAX_CROSS_ENTROPY and abs(total - 1) > within:
            return False
    return True
