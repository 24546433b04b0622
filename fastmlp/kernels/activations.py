"""Activations on vector registers, the twins of :mod:`fastmlp.oracle.activations`: each beside slope and curvature.

The small letters are where some vectors begin in the arrays of the large ones: ``z`` in ``Z``, ``a`` in ``A``, ``d``
in ``dA``. Compiled code chooses by an integer, once for all vectors of a layer and tile. One more activation is its
three functions, its code, its two loops, and its line in :func:`activate_vectors`, :func:`slope_vectors` and
:func:`curvature_vectors`.
"""

from __future__ import annotations

from fastmlp.kernels.elementary import exp, exp_of_negative, expm1, log1p, normal_density, normal_distribution
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.simd import absolute, fill_like, lanes, load, load_wide, maximum, minimum, store, where, wide

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


_sigmoid_vectors = _over_elements(sigmoid)
_tanh_vectors = _over_elements(tanh)
_relu_vectors = _over_elements(relu)
_leaky_relu_vectors = _over_elements(leaky_relu)
_elu_vectors = _over_elements(elu)
_softplus_vectors = _over_elements(softplus)
_silu_vectors = _over_elements(silu)
_gelu_vectors = _over_elements(gelu)
_exponential_vectors = _over_elements(exponential)
_identity_vectors = _over_elements(identity)


@inlined_function
def activate_vectors(code, Z, z, A, a, count):
    """Apply an activation to ``count`` elements, a whole number of vectors: ``A = f(Z)``, which may be in place."""
    # A[j,n] = f(Z[j,n])
    if code == SIGMOID:
        _sigmoid_vectors(Z, z, A, a, count)
    elif code == TANH:
        _tanh_vectors(Z, z, A, a, count)
    elif code == RELU:
        _relu_vectors(Z, z, A, a, count)
    elif code == LEAKY_RELU:
        _leaky_relu_vectors(Z, z, A, a, count)
    elif code == ELU:
        _elu_vectors(Z, z, A, a, count)
    elif code == SOFTPLUS:
        _softplus_vectors(Z, z, A, a, count)
    elif code == SILU:
        _silu_vectors(Z, z, A, a, count)
    elif code == GELU:
        _gelu_vectors(Z, z, A, a, count)
    elif code == EXP:
        _exponential_vectors(Z, z, A, a, count)
    else:  # identity; and softmax, which is not elementwise
        _identity_vectors(Z, z, A, a, count)


def _times(slope):
    """Make the loop that multiplies ``count`` elements, a whole number of vectors, by a slope."""

    @tile_function
    def vectors(Z, z, A, a, dA, dZ, d, count):
        for k in range(0, count, lanes(Z)):
            store(dZ, d + k, load(dA, d + k) * slope(load(Z, z + k), load(A, a + k)))

    return vectors


_times_sigmoid_slope = _times(sigmoid_slope)
_times_tanh_slope = _times(tanh_slope)
_times_relu_slope = _times(relu_slope)
_times_leaky_relu_slope = _times(leaky_relu_slope)
_times_elu_slope = _times(elu_slope)
_times_softplus_slope = _times(softplus_slope)
_times_silu_slope = _times(silu_slope)
_times_gelu_slope = _times(gelu_slope)
_times_exponential_slope = _times(exponential_slope)
_times_identity_slope = _times(identity_slope)


@inlined_function
def slope_vectors(code, Z, z, A, a, dA, dZ, d, count):
    """Multiply ``count`` elements by the slope; ``dA`` and ``dZ`` stand at the same place, and may be the same."""
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    if code == SIGMOID:
        _times_sigmoid_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == TANH:
        _times_tanh_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == RELU:
        _times_relu_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == LEAKY_RELU:
        _times_leaky_relu_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == ELU:
        _times_elu_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == SOFTPLUS:
        _times_softplus_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == SILU:
        _times_silu_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == GELU:
        _times_gelu_slope(Z, z, A, a, dA, dZ, d, count)
    elif code == EXP:
        _times_exponential_slope(Z, z, A, a, dA, dZ, d, count)
    else:
        _times_identity_slope(Z, z, A, a, dA, dZ, d, count)


@inlined_function
def curvature_vectors(code, Z, z, A, a, dA, RZ, D, d, count):
    """From ``RdA`` to ``RdZ``, both at ``d`` in ``D``, over ``count`` elements; ``dA`` and ``RZ`` stand there too."""
    # RdZ[j,n] = RdA[j,n] f'(Z[j,n]) + dA[j,n] RZ[j,n] f''(Z[j,n])
    step = lanes(Z)
    for k in range(0, count, step):
        z_k, a_k, moved = load(Z, z + k), load(A, a + k), load(dA, d + k) * load(RZ, d + k)
        if code == SIGMOID:
            slope, curvature = sigmoid_slope(z_k, a_k), sigmoid_curvature(z_k, a_k)
        elif code == TANH:
            slope, curvature = tanh_slope(z_k, a_k), tanh_curvature(z_k, a_k)
        elif code == RELU:
            slope, curvature = relu_slope(z_k, a_k), relu_curvature(z_k, a_k)
        elif code == LEAKY_RELU:
            slope, curvature = leaky_relu_slope(z_k, a_k), leaky_relu_curvature(z_k, a_k)
        elif code == ELU:
            slope, curvature = elu_slope(z_k, a_k), elu_curvature(z_k, a_k)
        elif code == SOFTPLUS:
            slope, curvature = softplus_slope(z_k, a_k), softplus_curvature(z_k, a_k)
        elif code == SILU:
            slope, curvature = silu_slope(z_k, a_k), silu_curvature(z_k, a_k)
        elif code == GELU:
            slope, curvature = gelu_slope(z_k, a_k), gelu_curvature(z_k, a_k)
        else:  # identity; exp and softmax are of outputs, whose second derivative is not computed here
            slope, curvature = identity_slope(z_k, a_k), identity_curvature(z_k, a_k)
        store(D, d + k, load(D, d + k) * slope + moved * curvature)
