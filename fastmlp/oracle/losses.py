"""Losses: each value beside its gradient.

A loss returns ``L[n]``, the loss of each sample (summed over the outputs), and the gradient of *that sample's* loss
with respect to what the loss was given. The mean over samples, that is each sample's share ``1/N``, is taken once, in
:mod:`fastmlp.oracle.network`.

Errors (``squared_error``, ``absolute_error``, ``huber``, ``quantile``) are given the last layer's activations ``A``.
The two cross-entropies and ``poisson`` are given its pre-activations ``Z``: taken together with the sigmoid, the
softmax or the exponential they are stable, and their gradient is the plain difference ``A - Y``. Those that have a
setting are given it as their last argument.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 6.2; Bishop, *PRML*, section 5.2, equation 5.18.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle.activations import sigmoid, softplus

Array = NDArray[np.float64]


def squared_error(A: Array, Y: Array) -> tuple[Array, Array]:
    """Half the squared distance of each sample from its target, and the gradient ``dA``."""
    # L[n] = Σ_j (A[j,n] - Y[j,n])^2 / 2
    # dA[j,n] = A[j,n] - Y[j,n]
    error = A - Y
    return (error**2).sum(axis=0) / 2, error


def absolute_error(A: Array, Y: Array) -> tuple[Array, Array]:
    """The distance of each output of each sample from its target, summed, and the gradient ``dA``; 0 at the kink."""
    # L[n] = Σ_j abs(A[j,n] - Y[j,n])
    # dA[j,n] = sign(A[j,n] - Y[j,n])
    error = A - Y
    return np.abs(error).sum(axis=0), np.sign(error)


def huber(A: Array, Y: Array, threshold: float = 1.0) -> tuple[Array, Array]:
    """Half the squared error up to a threshold, and a straight line beyond it; and the gradient ``dA``.

    With the error cut off at the threshold, ``cut(e) = min(max(e, -t), t)``, both are ``cut(e) (e - cut(e) / 2)``.

    Source: Huber 1964, *Robust Estimation of a Location Parameter*.
    """
    # L[n] = Σ_j cut(A[j,n] - Y[j,n]) ((A[j,n] - Y[j,n]) - cut(A[j,n] - Y[j,n]) / 2)
    # dA[j,n] = cut(A[j,n] - Y[j,n])
    error = A - Y
    cut = np.clip(error, -threshold, threshold)
    return (cut * (error - cut / 2)).sum(axis=0), cut


def quantile(A: Array, Y: Array, q: float = 0.5) -> tuple[Array, Array]:
    """``q`` times what is missing, or ``1 - q`` times what is too much; and the gradient ``dA``, 0 at the kink.

    That is ``pinball(e) = max((1 - q) e, -q e)`` of each error ``e = A - Y``. It is least, over many samples, where a
    share ``q`` of the targets lies below the output.

    Source: Koenker & Bassett 1978, *Regression Quantiles*, equation 2.1.
    """
    # L[n] = Σ_j pinball(A[j,n] - Y[j,n])
    # dA[j,n] = pinball'(A[j,n] - Y[j,n])
    error = A - Y
    slope = np.where(error > 0, 1 - q, np.where(error < 0, -q, 0.0))
    return (slope * error).sum(axis=0), slope


def poisson(Z: Array, Y: Array) -> tuple[Array, Array]:
    """``A - Y log A`` of each output, with ``A = exp(Z)``, summed; and the gradient ``dZ``.

    The negative logarithm of the Poisson distribution's ``exp(-A) A^Y / Y!``, less ``log Y!``, which does not change.

    Source: Bishop, *PRML*, section 4.3.6, for the canonical link.
    """
    # L[n] = Σ_j (exp(Z[j,n]) - Y[j,n] Z[j,n])
    # dZ[j,n] = exp(Z[j,n]) - Y[j,n]
    with np.errstate(under="ignore", over="ignore"):
        rate = np.exp(Z)
    return (rate - Y * Z).sum(axis=0), rate - Y


def binary_cross_entropy(Z: Array, Y: Array) -> tuple[Array, Array]:
    """``-Σ_j (Y log σ(Z) + (1 - Y) log(1 - σ(Z)))`` for each sample, and the gradient ``dZ``.

    With ``log σ(z) = -log(1 + exp(-z))`` this is ``log(1 + exp(z)) - y z``, and ``log(1 + exp(z))`` is
    ``max(z, 0) + log(1 + exp(-|z|))``, in which nothing overflows and no digit is lost.
    """
    # L[n] = Σ_j (max(Z[j,n], 0) + log(1 + exp(-abs(Z[j,n]))) - Y[j,n] Z[j,n])
    # dZ[j,n] = sigmoid(Z[j,n]) - Y[j,n]
    return (softplus(Z) - Y * Z).sum(axis=0), sigmoid(Z) - Y


def softmax(Z: Array) -> Array:
    """``exp(Z) / Σ_k exp(Z)`` over the outputs of each sample; the largest ``Z`` is taken off both."""
    # A[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n]))
    with np.errstate(under="ignore"):
        e = np.exp(Z - Z.max(axis=0))
        return e / e.sum(axis=0)


def softmax_cross_entropy(Z: Array, Y: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """``-Σ_j S log softmax(Z)`` for each sample, and the gradient ``dZ``; ``S`` are the targets, smoothed.

    A part ``s`` of the targets is shared out evenly over all ``J`` classes, ``smooth(y) = (1 - s) y + s / J``: Szegedy
    et al. 2016, section 7.
    With ``log softmax(Z) = Z - log Σ_k exp(Z)``. Where a sample's targets are probabilities, ``Σ_k S`` is 1 and the
    gradient is the plain difference ``softmax(Z) - S``.
    """
    # L[n] = (Σ_k smooth(Y[k,n])) log(Σ_k exp(Z[k,n])) - Σ_j smooth(Y[j,n]) Z[j,n]
    # dZ[j,n] = (Σ_k smooth(Y[k,n])) exp(Z[j,n]) / (Σ_k exp(Z[k,n])) - smooth(Y[j,n])
    # the largest Z is taken out of the sum, and its exp(0) with it: log(1 + rest) loses nothing where the rest is tiny
    S = (1 - smoothing) * Y + smoothing / Y.shape[0]
    largest = Z.max(axis=0)
    with np.errstate(under="ignore"):
        e = np.exp(Z - largest)
        e[Z.argmax(axis=0), np.arange(Z.shape[1])] = 0.0
        logarithm_of_sum = np.log1p(e.sum(axis=0))
    total = S.sum(axis=0)
    return total * logarithm_of_sum - (S * (Z - largest)).sum(axis=0), total * softmax(Z) - S


class Loss(NamedTuple):
    """A loss, the output activation that belongs to it, and what it is a function of."""

    name: str
    function: Callable[..., tuple[Array, Array]]
    output_activation: str
    of_pre_activations: bool
    """Whether the gradient is with respect to ``Z``, as of a cross-entropy, or to ``A``: the slope is then to come."""
    setting: float | None = None
    """The last argument of the function, if it has one: by default this."""
    jump: float = 0.0
    """How far the gradient ``dA`` jumps where an output meets its target; 0 where there is no kink."""
    piece: Callable[[Array, float], NDArray[np.bool_]] | None = None
    """Of a loss that has several formulas: which of them, from the error ``A - Y`` and the setting."""

    def of(self, output: Array, Y: Array) -> tuple[Array, Array]:
        """Loss of each sample, and the gradient with respect to the output given."""
        return self.function(output, Y) if self.setting is None else self.function(output, Y, self.setting)


def _sign(error: Array, _: float) -> NDArray[np.bool_]:
    return np.asarray(error > 0)


def _beyond_threshold(error: Array, threshold: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(error) > threshold)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in [
        Loss("squared_error", squared_error, "identity", False),
        Loss("absolute_error", absolute_error, "identity", False, jump=2.0, piece=_sign),
        Loss("huber", huber, "identity", False, setting=1.0, piece=_beyond_threshold),
        Loss("quantile", quantile, "identity", False, setting=0.5, jump=1.0, piece=_sign),
        Loss("poisson", poisson, "exp", True),
        Loss("binary_cross_entropy", binary_cross_entropy, "sigmoid", True),
        Loss("softmax_cross_entropy", softmax_cross_entropy, "softmax", True, setting=0.0),
    ]
}


def chosen(loss: str | Loss) -> Loss:
    """A loss by its name, with its default setting; or as it is given."""
    return LOSSES[loss] if isinstance(loss, str) else loss
