"""Activations on vector registers, the twins of :mod:`fastmlp.oracle.activations`: each beside slope and curvature.

The small letters are where some vectors begin in the arrays of the large ones: ``z`` in ``Z``, ``a`` in ``A``, ``d``
in ``dA``. Compiled code chooses by an integer, once for all vectors of a layer and tile. One more activation is its
three functions, its code, and its line in ``_FUNCTIONS``.
"""

from __future__ import annotations

from fastmlp.kernels.elementary import exp, exp_of_negative, expm1, log1p, normal_density, normal_distribution
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.simd import (
    absolute,
    choice_of,
    fill_like,
    lanes,
    load,
    load_wide,
    maximum,
    minimum,
    store,
    where,
    wide,
)

IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, ELU, SOFTPLUS, SILU, GELU, EXP, SOFTMAX = range(11)

CODES = {
    "identity": IDENTITY, "sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "leaky_relu": LEAKY_RELU, "elu": ELU,
    "softplus": SOFTPLUS, "silu": SILU, "gelu": GELU, "exp": EXP, "softmax": SOFTMAX,
}  # fmt: skip
"""The integer by which compiled code knows an activation. Softmax is applied to whole columns: see ``losses.py``."""

SLOPE_NEEDS_Z = {SILU, GELU}
"""Those whose slope cannot be had from ``A`` alone: their ``Z`` is kept."""


@tile_function
def identity(z):
    """``z`` itself."""
    return z


@tile_function
def identity_slope(z, a):
    """``1``."""
    return fill_like(a, 1.0)


@tile_function
def identity_curvature(z, a):
    """``0``."""
    return fill_like(a, 0.0)


@tile_function
def sigmoid(z):
    """``1 / (1 + exp(-z))``, written with ``exp(-|z|)``, which cannot overflow."""
    e = exp_of_negative(-absolute(z))
    return where(z < 0, e, 1.0) / (1 + e)


@tile_function
def sigmoid_slope(z, a):
    """``a (1 - a)``."""
    return a * (1 - a)


@tile_function
def sigmoid_curvature(z, a):
    """``a (1 - a) (1 - 2 a)``."""
    return a * (1 - a) * (1 - 2 * a)


@tile_function
def tanh(z):
    """``(exp(z) - exp(-z)) / (exp(z) + exp(-z))``, ``-m / (2 + m)`` with ``m = exp(-2 z) - 1`` for ``z >= 0``."""
    m = expm1(-2 * absolute(z))
    a = -m / (2 + m)
    return where(z < 0, -a, a)


@tile_function
def tanh_slope(z, a):
    """``1 - a²``."""
    return (1 - a) * (1 + a)


@tile_function
def tanh_curvature(z, a):
    """``-2 a (1 - a²)``."""
    return -2 * a * (1 - a) * (1 + a)


@tile_function
def relu(z):
    """``max(z, 0)``."""
    return maximum(z, 0.0)


@tile_function
def relu_slope(z, a):
    """``1`` where ``a > 0``, else ``0``."""
    return where(a > 0, fill_like(a, 1.0), 0.0)


@tile_function
def relu_curvature(z, a):
    """``0``."""
    return fill_like(a, 0.0)


@tile_function
def leaky_relu(z):
    """``z`` where it is positive, else ``z / 100``."""
    return maximum(z, 0.01 * z)


@tile_function
def leaky_relu_slope(z, a):
    """``1`` where ``a > 0``, else ``1 / 100``."""
    return where(a > 0, fill_like(a, 1.0), 0.01)


@tile_function
def leaky_relu_curvature(z, a):
    """``0``."""
    return fill_like(a, 0.0)


@tile_function
def elu(z):
    """``z`` where it is positive, else ``exp(z) - 1``."""
    return where(z > 0, z, expm1(minimum(z, 0.0)))


@tile_function
def elu_slope(z, a):
    """``1`` where ``a > 0``, else ``exp(z)``, that is ``1 + a``."""
    return 1 + minimum(a, 0.0)


@tile_function
def elu_curvature(z, a):
    """``0`` where ``a > 0``, else ``exp(z)``, that is ``1 + a``."""
    return where(a > 0, 0.0, 1 + a)


@tile_function
def softplus(z):
    """``log(1 + exp(z))``, written with ``exp(-|z|)``, which cannot overflow."""
    return maximum(z, 0.0) + log1p(exp_of_negative(-absolute(z)))


@tile_function
def softplus_slope(z, a):
    """``sigmoid(z)``, that is ``1 - exp(-a)``."""
    return -expm1(-a)


@tile_function
def softplus_curvature(z, a):
    """``s (1 - s)`` with ``s = sigmoid(z)``, that is ``1 - exp(-a)``."""
    s = -expm1(-a)
    return s * (1 - s)


@tile_function
def silu(z):
    """``z sigmoid(z)``."""
    return z * sigmoid(z)


@tile_function
def silu_slope(z, a):
    """``s + a (1 - s)`` with ``s = sigmoid(z)``."""
    s = sigmoid(z)
    return s + a * (1 - s)


@tile_function
def silu_curvature(z, a):
    """``s (1 - s) (2 + z (1 - 2 s))`` with ``s = sigmoid(z)``."""
    s = sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


@tile_function
def gelu(z):
    """``z Φ(z)``, with the normal distribution ``Φ``."""
    return z * normal_distribution(z)


@tile_function
def gelu_slope(z, a):
    """``Φ(z) + z φ(z)``, with the normal density ``φ``."""
    return normal_distribution(z) + z * normal_density(z)


@tile_function
def gelu_curvature(z, a):
    """``φ(z) (2 - z²)``, with the normal density ``φ``."""
    return normal_density(z) * (2 - z * z)


@tile_function
def exponential(z):
    """``exp(z)``."""
    return exp(z)


@tile_function
def exponential_slope(z, a):
    """``a``."""
    return a


@tile_function
def exponential_curvature(z, a):
    """``a``."""
    return a


_FUNCTIONS = [
    (identity, identity_slope, identity_curvature), (sigmoid, sigmoid_slope, sigmoid_curvature),
    (tanh, tanh_slope, tanh_curvature), (relu, relu_slope, relu_curvature),
    (leaky_relu, leaky_relu_slope, leaky_relu_curvature), (elu, elu_slope, elu_curvature),
    (softplus, softplus_slope, softplus_curvature), (silu, silu_slope, silu_curvature),
    (gelu, gelu_slope, gelu_curvature), (exponential, exponential_slope, exponential_curvature),
    (identity, identity_slope, identity_curvature),
]  # fmt: skip
"""By their codes; softmax, the last one, is not elementwise."""


def _over_elements(activation):
    """Make the loop that applies an activation to ``count`` elements, a whole number of vectors."""

    @tile_function
    def vectors(Z, z, A, a, count):
        step = wide(Z)
        whole = count // step * step
        for k in range(0, whole, step):
            store(A, a + k, activation(load_wide(Z, z + k)))
        for k in range(whole, count, lanes(Z)):
            store(A, a + k, activation(load(Z, z + k)))

    return vectors


_activate = choice_of([_over_elements(activation) for activation, _, _ in _FUNCTIONS])


@inlined_function
def activate_vectors(code, Z, z, A, a, count):
    """Apply an activation to ``count`` elements, a whole number of vectors: ``A = f(Z)``, which may be in place."""
    # A[j,n] = f(Z[j,n])
    _activate(code + 1, Z, z, A, a, count)


def _times(slope):
    """Make the loop that multiplies ``count`` elements, a whole number of vectors, by a slope."""

    @tile_function
    def vectors(Z, z, A, a, dA, dZ, d, count):
        for k in range(0, count, lanes(Z)):
            store(dZ, d + k, load(dA, d + k) * slope(load(Z, z + k), load(A, a + k)))

    return vectors


_multiply = choice_of([_times(slope) for _, slope, _ in _FUNCTIONS])


@inlined_function
def slope_vectors(code, Z, z, A, a, dA, dZ, d, count):
    """Multiply ``count`` elements by the slope; ``dA`` and ``dZ`` stand at the same place, and may be the same."""
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    _multiply(code + 1, Z, z, A, a, dA, dZ, d, count)


def _moved(slope, curvature):
    """Make the loop that tells how ``count`` elements of ``dZ`` move, a whole number of vectors."""

    @tile_function
    def vectors(Z, z, A, a, dA, RZ, D, d, count):
        for k in range(0, count, lanes(Z)):
            z_k, a_k, moved = load(Z, z + k), load(A, a + k), load(dA, d + k) * load(RZ, d + k)
            store(D, d + k, load(D, d + k) * slope(z_k, a_k) + moved * curvature(z_k, a_k))

    return vectors


_move = choice_of([_moved(slope, curvature) for _, slope, curvature in _FUNCTIONS])


@inlined_function
def curvature_vectors(code, Z, z, A, a, dA, RZ, D, d, count):
    """Overwrite ``RdA``, ``count`` elements at ``d`` in ``D``, with ``RdZ``; ``dA`` and ``RZ`` begin at ``d``, too."""
    # RdZ[j,n] = RdA[j,n] f'(Z[j,n]) + dA[j,n] RZ[j,n] f''(Z[j,n])
    _move(code + 1, Z, z, A, a, dA, RZ, D, d, count)
