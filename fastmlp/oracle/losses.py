"""Losses: each value beside its gradient.

A loss returns ``L[n]``, the loss of each sample (summed over the outputs), and the gradient of *that sample's* loss
with respect to what the loss was given. The mean over samples, that is the factor ``1/N``, is taken once, in
:mod:`fastmlp.oracle.network`.

``squared_error`` is given the last layer's activations ``A``. The two cross-entropies are given its pre-activations
``Z``: taken together with the sigmoid or the softmax they are stable, and their gradient is the plain difference
``A - Y``.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 6.2; Bishop, *PRML*, section 5.2, equation 5.18.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle.activations import sigmoid

Array = NDArray[np.float64]


def squared_error(A: Array, Y: Array) -> tuple[Array, Array]:
    """Half the squared distance of each sample from its target, and the gradient ``dA``."""
    # L[n] = Σ_j (A[j,n] - Y[j,n])^2 / 2
    # dA[j,n] = A[j,n] - Y[j,n]
    error = A - Y
    return (error**2).sum(axis=0) / 2, error


def binary_cross_entropy(Z: Array, Y: Array) -> tuple[Array, Array]:
    """``-Σ_j (Y log σ(Z) + (1 - Y) log(1 - σ(Z)))`` for each sample, and the gradient ``dZ``.

    With ``log σ(z) = -log(1 + exp(-z))`` this is ``log(1 + exp(z)) - y z``, and ``log(1 + exp(z))`` is
    ``max(z, 0) + log(1 + exp(-|z|))``, in which nothing overflows and no digit is lost.
    """
    # L[n] = Σ_j (max(Z[j,n], 0) + log(1 + exp(-abs(Z[j,n]))) - Y[j,n] Z[j,n])
    # dZ[j,n] = sigmoid(Z[j,n]) - Y[j,n]
    with np.errstate(under="ignore"):
        softplus = np.maximum(Z, 0.0) + np.log1p(np.exp(-np.abs(Z)))
    return (softplus - Y * Z).sum(axis=0), sigmoid(Z) - Y


def softmax(Z: Array) -> Array:
    """``exp(Z) / Σ_j exp(Z)`` over the outputs of each sample; the largest ``Z`` is taken off both."""
    # A[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n]))
    with np.errstate(under="ignore"):
        e = np.exp(Z - Z.max(axis=0))
        return e / e.sum(axis=0)


def softmax_cross_entropy(Z: Array, Y: Array) -> tuple[Array, Array]:
    """``-Σ_j Y log softmax(Z)`` for each sample, and the gradient ``dZ``.

    With ``log softmax(Z) = Z - log Σ_k exp(Z)``. Where a sample's targets are probabilities, ``Σ_k Y`` is 1 and the
    gradient is the plain difference ``softmax(Z) - Y``.
    """
    # L[n] = (Σ_k Y[k,n]) log(Σ_k exp(Z[k,n])) - Σ_j Y[j,n] Z[j,n]
    # dZ[j,n] = (Σ_k Y[k,n]) exp(Z[j,n]) / (Σ_k exp(Z[k,n])) - Y[j,n]
    # the largest Z is taken out of the sum, and its exp(0) with it: log(1 + rest) loses nothing where the rest is tiny
    largest = Z.max(axis=0)
    with np.errstate(under="ignore"):
        e = np.exp(Z - largest)
        e[Z.argmax(axis=0), np.arange(Z.shape[1])] = 0.0
        logarithm_of_sum = np.log1p(e.sum(axis=0))
    total = Y.sum(axis=0)
    return total * logarithm_of_sum - (Y * (Z - largest)).sum(axis=0), total * softmax(Z) - Y


class Loss(NamedTuple):
    """A loss, the output activation that belongs to it, and what it is a function of."""

    function: Callable[[Array, Array], tuple[Array, Array]]
    output_activation: str
    of_pre_activations: bool
    """Whether the gradient is with respect to ``Z``, as of a cross-entropy, or to ``A``: the slope is then to come."""


LOSSES: dict[str, Loss] = {
    "squared_error": Loss(squared_error, "identity", of_pre_activations=False),
    "binary_cross_entropy": Loss(binary_cross_entropy, "sigmoid", of_pre_activations=True),
    "softmax_cross_entropy": Loss(softmax_cross_entropy, "softmax", of_pre_activations=True),
}
