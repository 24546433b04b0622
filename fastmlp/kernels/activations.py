"""Activations on vector registers: the twins of :mod:`fastmlp.oracle.activations`, each beside its slope.

Compiled code chooses by an integer, once per strip of a tile: adding an activation is adding its two functions, its
code, and its line in :func:`activate_strip` and in :func:`slope_strip`.
"""

from __future__ import annotations

from fastmlp.kernels.elementary import exp_of_negative, expm1
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.simd import absolute, fill_like, lanes, load, maximum, store, where

IDENTITY, SIGMOID, TANH, RELU, SOFTMAX = range(5)

CODES = {"identity": IDENTITY, "sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "softmax": SOFTMAX}
"""The integer by which compiled code knows an activation. Softmax is applied to whole columns: see ``losses.py``."""


@tile_function
def identity(z):
    """``z`` itself."""
    return z


@tile_function
def identity_slope(z, a):
    """``1``."""
    return fill_like(a, 1.0)


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
def relu(z):
    """``max(z, 0)``."""
    return maximum(z, 0.0)


@tile_function
def relu_slope(z, a):
    """``1`` where ``a > 0``, else ``0``."""
    return where(a > 0, fill_like(a, 1.0), 0.0)


@inlined_function
def activate_strip(code, Z, z, A, a, count):
    """Apply an activation to ``count`` elements, a whole number of vectors: ``A = f(Z)``, which may be in place."""
    # A[j,n] = f(Z[j,n])
    step = lanes(Z)
    if code == SIGMOID:
        for k in range(0, count, step):
            store(A, a + k, sigmoid(load(Z, z + k)))
    elif code == TANH:
        for k in range(0, count, step):
            store(A, a + k, tanh(load(Z, z + k)))
    elif code == RELU:
        for k in range(0, count, step):
            store(A, a + k, relu(load(Z, z + k)))
    else:  # identity; and softmax, which is not elementwise
        for k in range(0, count, step):
            store(A, a + k, identity(load(Z, z + k)))


@inlined_function
def slope_strip(code, Z, z, A, a, dA, dZ, d, count):
    """Multiply ``count`` elements by the slope; ``dA`` and ``dZ`` stand at the same place, and may be the same."""
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    step = lanes(Z)
    if code == SIGMOID:
        for k in range(0, count, step):
            store(dZ, d + k, load(dA, d + k) * sigmoid_slope(load(Z, z + k), load(A, a + k)))
    elif code == TANH:
        for k in range(0, count, step):
            store(dZ, d + k, load(dA, d + k) * tanh_slope(load(Z, z + k), load(A, a + k)))
    elif code == RELU:
        for k in range(0, count, step):
            store(dZ, d + k, load(dA, d + k) * relu_slope(load(Z, z + k), load(A, a + k)))
    else:
        for k in range(0, count, step):
            store(dZ, d + k, load(dA, d + k) * identity_slope(load(Z, z + k), load(A, a + k)))
