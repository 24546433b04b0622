"""One layer whose input is sparse: the twins of :mod:`fastmlp.oracle.sparse`.

Each value of a sample meets the weights of one input, for all outputs. So the weights are *turned* here, ``T[i,j]``:
those of an input lie side by side, and are a few vectors. Samples are rows, ``Z[n,j]``.
"""

from __future__ import annotations

from numba import prange

from fastmlp.kernels.jit import kernel
from fastmlp.kernels.simd import fill, fma, lanes, load_first, store_first


@kernel
def sparse_affine(T, b, starts, columns, values, Z):
    """Matmul plus bias.

    Parameters
    ----------
    T : ndarray of shape (inputs, outputs)
        The weights, turned.
    b : ndarray of shape (outputs,)
    starts : ndarray of shape (samples + 1,)
    columns, values : ndarray of shape (number of values,)
    Z : ndarray of shape (samples, outputs)
        The result.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    outputs, step = T.shape[1], lanes(T)
    weights, z = T.reshape(T.size), Z.reshape(Z.size)
    for n in prange(Z.shape[0]):
        for j in range(0, outputs, step):
            total = load_first(b, j, outputs - j)
            for k in range(starts[n], starts[n + 1]):
                w = load_first(weights, columns[k] * outputs + j, outputs - j)
                total = fma(fill(weights, values[k]), w, total)
            store_first(z, n * outputs + j, total, outputs - j)


@kernel
def sparse_affine_backward(starts, columns, values, dZ, dT, db):
    """Gradients of :func:`sparse_affine`; a thread has some outputs, and all samples.

    Parameters
    ----------
    starts : ndarray of shape (samples + 1,)
    columns, values : ndarray of shape (number of values,)
    dZ : ndarray of shape (samples, outputs)
    dT : ndarray of shape (inputs, outputs)
        The result, the gradient of the weights, turned; with its companion:
    db : ndarray of shape (outputs,)
    """
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    # db[j] = Σ_n dZ[j,n]
    outputs, step = dT.shape[1], lanes(dT)
    d, gradient = dZ.reshape(dZ.size), dT.reshape(dT.size)
    for vector in prange((outputs + step - 1) // step):
        j = int(vector) * step  # signed: Numba counts a parallel loop in unsigned numbers
        left = outputs - j
        for i in range(dT.shape[0]):
            store_first(gradient, i * outputs + j, fill(gradient, 0.0), left)
        total = fill(gradient, 0.0)
        for n in range(dZ.shape[0]):
            of_sample = load_first(d, n * outputs + j, left)
            total = total + of_sample
            for k in range(starts[n], starts[n + 1]):
                to = columns[k] * outputs + j
                so_far = load_first(gradient, to, left)
                store_first(gradient, to, fma(fill(gradient, values[k]), of_sample, so_far), left)
        store_first(db, j, total, left)
