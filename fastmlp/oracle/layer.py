"""One layer: forward, and beside it backward.

A layer is two steps, ``Z = W X + b`` and ``A = f(Z)``. Each has its derivative right below it, and each derivative
begins by restating the forward line that it comes from; the two rules of :mod:`fastmlp.oracle` do the rest.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, algorithms 6.3 and 6.4; Nielsen, chapter 2, BP1 to BP4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle.activations import OUTPUT_ACTIVATIONS

Array = NDArray[np.float64]


def affine(W: Array, b: Array, X: Array) -> Array:
    """Matmul plus bias: each output is a weighted sum of the inputs, plus its bias."""
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    return W @ X + b[:, np.newaxis]


def affine_backward(W: Array, X: Array, dZ: Array) -> tuple[Array, Array, Array]:
    """Gradients ``dX, dW, db`` of :func:`affine`, from the gradient ``dZ`` of its output.

    The forward line was ``Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]``. By the rule for sums:

    * ``dX`` keeps ``i, n``: put ``dZ[j,n]`` in the place of ``X[i,n]``; ``j`` is left over, so it is summed (BP2);
    * ``dW`` keeps ``j, i``: put ``dZ[j,n]`` in the place of ``W[j,i]``; ``n`` is left over, so it is summed (BP4);
    * ``db`` keeps ``j``: put ``dZ[j,n]`` in the place of ``b[j]``; ``n`` is left over, so it is summed (BP3).

    In the matrix products below, a transpose does nothing but bring the summed letter to the inside.
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    dX = W.T @ dZ
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    dW = dZ @ X.T
    # db[j] = Σ_n dZ[j,n]
    db = dZ.sum(axis=1)
    return dX, dW, db


def activate(activation: str, Z: Array) -> Array:
    """Apply the activation of this name to every element."""
    # A[j,n] = f(Z[j,n])
    return OUTPUT_ACTIVATIONS[activation].function(Z)


def activate_backward(activation: str, Z: Array, A: Array, dA: Array) -> Array:
    """Gradient ``dZ`` of :func:`activate`, from the gradient ``dA`` of its output.

    The forward line was ``A[j,n] = f(Z[j,n])``. By the rule for elements, multiply by the slope (BP1, BP2).
    """
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    return dA * OUTPUT_ACTIVATIONS[activation].slope(Z, A)
