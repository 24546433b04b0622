"""Activations: each ``f(z)`` beside its slope ``f'(z)`` and its curvature ``f''(z)``.

Slope and curvature are given both ``z`` and ``a = f(z)``, because they are often shortest in terms of ``a``. Adding an
activation is adding the three functions and their line in :data:`ACTIVATIONS`, here and in
:mod:`fastmlp.kernels.activations`.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 6.3; Bishop, *PRML*, equations 4.88 and 5.59.
"""

from __future__ import annotations

import math
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


def identity_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``0``."""
    return np.zeros_like(z)


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


def sigmoid_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``a (1 - a) (1 - 2 a)``."""
    return a * (1 - a) * (1 - 2 * a)


def tanh(z: Array) -> Array:
    """``(exp(z) - exp(-z)) / (exp(z) + exp(-z))``."""
    return np.tanh(z)


def tanh_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1 - a²``: Bishop, equation 5.60, written ``(1 - a)(1 + a)``, which loses no digit where ``|a|`` is near 1."""
    return (1 - a) * (1 + a)


def tanh_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``-2 a (1 - a²)``."""
    return -2 * a * (1 - a) * (1 + a)


def relu(z: Array) -> Array:
    """``max(z, 0)``."""
    return np.maximum(z, 0.0)


def relu_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1`` where ``a > 0``, else ``0``; at the kink ``z = 0``, where there is no derivative, ``0`` by convention."""
    return np.where(a > 0, 1.0, 0.0)


def relu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``0``, at the kink too."""
    return np.zeros_like(z)


def leaky_relu(z: Array) -> Array:
    """``z`` where it is positive, else ``z / 100``: Maas et al. 2013."""
    return np.where(z > 0, z, 0.01 * z)


def leaky_relu_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1`` where ``a > 0``, else ``1 / 100``; this also at the kink."""
    return np.where(a > 0, 1.0, 0.01)


def leaky_relu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``0``, at the kink too."""
    return np.zeros_like(z)


def elu(z: Array) -> Array:
    """``z`` where it is positive, else ``exp(z) - 1``: Clevert et al. 2016, with their ``α = 1``."""
    with np.errstate(under="ignore"):
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0.0)))


def elu_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``1`` where ``a > 0``, else ``exp(z)``, that is ``1 + a``."""
    return 1 + np.minimum(a, 0.0)


def elu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``0`` where ``a > 0``, else ``exp(z)``, that is ``1 + a``."""
    return np.where(a > 0, 0.0, 1 + a)


def softplus(z: Array) -> Array:
    """``log(1 + exp(z))``, written with ``exp(-|z|)``, which cannot overflow: Goodfellow et al., equation 3.31."""
    with np.errstate(under="ignore"):
        return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def softplus_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``sigmoid(z)``, that is ``1 - exp(-a)``."""
    with np.errstate(under="ignore"):
        return -np.expm1(-a)


def softplus_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``s (1 - s)`` with ``s = sigmoid(z)``, that is ``1 - exp(-a)``."""
    with np.errstate(under="ignore"):
        s = -np.expm1(-a)
        return s * (1 - s)


def silu(z: Array) -> Array:
    """``z sigmoid(z)``, also called swish: Elfwing et al. 2018, equation 5."""
    with np.errstate(under="ignore"):
        return z * sigmoid(z)


def silu_slope(z: Array, a: Array) -> Array:
    """``s + a (1 - s)`` with ``s = sigmoid(z)``: Elfwing et al. 2018, equation 7."""
    s = sigmoid(z)
    return s + a * (1 - s)


def silu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``s (1 - s) (2 + z (1 - 2 s))`` with ``s = sigmoid(z)``."""
    with np.errstate(under="ignore"):
        s = sigmoid(z)
        return s * (1 - s) * (2 + z * (1 - 2 * s))


def normal_distribution(z: Array) -> Array:
    """``Φ(z)``, the share of the normal distribution below ``z``: ``erfc(-z / √2) / 2``."""
    z = np.asarray(z, np.float64)
    values = [0.5 * math.erfc(-x / math.sqrt(2)) for x in z.ravel().tolist()]
    return np.array(values).reshape(z.shape)


def normal_density(z: Array) -> Array:
    """``φ(z) = exp(-z² / 2) / √(2 π)``."""
    with np.errstate(under="ignore", over="ignore"):
        return np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


def gelu(z: Array) -> Array:
    """``z Φ(z)``, with the normal distribution ``Φ``: Hendrycks & Gimpel 2016, and not their approximation of it."""
    with np.errstate(under="ignore"):
        return z * normal_distribution(z)


def gelu_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``Φ(z) + z φ(z)``, with the normal density ``φ``."""
    with np.errstate(under="ignore"):
        return normal_distribution(z) + z * normal_density(z)


def gelu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``φ(z) (2 - z²)``, with the normal density ``φ``."""
    with np.errstate(under="ignore"):
        return normal_density(z) * (2 - z * z)


def exponential(z: Array) -> Array:
    """``exp(z)``, the output that goes with the loss ``poisson``."""
    with np.errstate(under="ignore", over="ignore"):
        return np.exp(z)


def exponential_slope(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``a``."""
    return a


def exponential_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    """``a``."""
    return a


class Activation(NamedTuple):
    """An elementwise function, its slope and its curvature, with what :mod:`fastmlp.verify` needs to know."""

    function: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array, Array], Array]
    steepest: float
    """``max |f'(z)|``: how much an error in ``z`` can grow."""
    bend: float
    """``max |f''(z)|``: how much an error in ``z`` can change the slope; infinite where there is a kink."""
    has_seam: bool = False
    """Whether it has two formulas, for ``z > 0`` and else: what is smooth on both sides need not be across."""


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(identity, identity_slope, identity_curvature, steepest=1.0, bend=0.0),
    "sigmoid": Activation(sigmoid, sigmoid_slope, sigmoid_curvature, steepest=0.25, bend=0.0963),
    "tanh": Activation(tanh, tanh_slope, tanh_curvature, steepest=1.0, bend=0.77),
    "relu": Activation(relu, relu_slope, relu_curvature, steepest=1.0, bend=np.inf, has_seam=True),
    "leaky_relu": Activation(
        leaky_relu, leaky_relu_slope, leaky_relu_curvature, steepest=1.0, bend=np.inf, has_seam=True
    ),
    "elu": Activation(elu, elu_slope, elu_curvature, steepest=1.0, bend=1.0, has_seam=True),
    "softplus": Activation(softplus, softplus_slope, softplus_curvature, steepest=1.0, bend=0.25),
    "silu": Activation(silu, silu_slope, silu_curvature, steepest=1.1, bend=0.5),
    "gelu": Activation(gelu, gelu_slope, gelu_curvature, steepest=1.13, bend=0.8),
}
"""For hidden layers, and for outputs."""

OUTPUT_ACTIVATIONS: dict[str, Activation] = {
    **ACTIVATIONS,
    "exp": Activation(exponential, exponential_slope, exponential_curvature, steepest=np.inf, bend=np.inf),
}
"""Those that go with one loss alone beside them: ``exp`` with ``poisson``. (Softmax is not elementwise.)"""
