"""Activations: each ``f(z)`` beside its slope ``f'(z)``.

A slope is given both ``z`` and ``a = f(z)``, because it is often shortest in terms of ``a``. Adding an activation is
adding the two functions and their line in :data:`ACTIVATIONS`, here and in :mod:`fastmlp.kernels.activations`.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 6.3; Bishop, *PRML*, equations 4.88 and 5.59.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def identity(z: Array) -> Array:
    """``z`` itself."""
    return z.copy()


def identity_slope(z: Array, a: Array) -> Array:  # noqa: ARG001 (every slope has the same two arguments)
    """``1``."""
    return np.ones_like(z)


def sigmoid(z: Array) -> Array:
    """``1 / (1 + exp(-z))``, written with ``exp(-|z|)``, which cannot overflow.

    Equivalent to ``exp(z) / (1 + exp(z))`` where ``z < 0``: both sides of the fraction are multiplied by ``exp(z)``.
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(z))
        return np.where(z < 0, e, 1.0) / (1.0 + e)


def sigmoid_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``a (1 - a)``: Bishop, equation 4.88."""
    return a * (1 - a)


def tanh(z: Array) -> Array:
    """``(exp(z) - exp(-z)) / (exp(z) + exp(-z))``."""
    return np.tanh(z)


def tanh_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1 - a²``: Bishop, equation 5.60, written ``(1 - a)(1 + a)``, which loses no digit where ``|a|`` is near 1."""
    return (1 - a) * (1 + a)


def relu(z: Array) -> Array:
    """``max(z, 0)``."""
    return np.maximum(z, 0.0)


def relu_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1`` where ``a > 0``, else ``0``; at the kink ``z = 0``, where there is no derivative, ``0`` by convention."""
    return np.where(a > 0, 1.0, 0.0)


class Activation(NamedTuple):
    """An elementwise function and its slope, with two bounds on the slope that :mod:`fastmlp.verify` needs."""

    function: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]
    steepest: float
    """``max |f'(z)|``: how much an error in ``z`` can grow."""
    bend: float
    """``max |f''(z)|``: how much an error in ``z`` can change the slope; infinite where there is a kink."""


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(identity, identity_slope, steepest=1.0, bend=0.0),
    "sigmoid": Activation(sigmoid, sigmoid_slope, steepest=0.25, bend=0.0963),
    "tanh": Activation(tanh, tanh_slope, steepest=1.0, bend=0.77),
    "relu": Activation(relu, relu_slope, steepest=1.0, bend=np.inf),
}
