"""Whether targets fit their loss, found in half a microsecond; what is wrong says :mod:`fastmlp.checks`, in words.

No mathematics. NaN fits: it is found, and told, in the step.
"""

from __future__ import annotations

from fastmlp.kernels.jit import plain_function
from fastmlp.kernels.losses import POISSON, SOFTMAX_CROSS_ENTROPY


@plain_function
def labels_fit(labels, n_classes):
    """Whether all are class indices."""
    for n in range(labels.size):  # noqa: SIM110 (Numba compiles loops, not generators)
        if labels[n] < 0 or labels[n] >= n_classes:
            return False
    return True


@plain_function
def rows_fit(code, Y, within):
    """Whether rows of numbers suit a loss that does not take any: a row's sum may be ``within`` so much of 1."""
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
