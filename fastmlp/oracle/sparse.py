"""One layer whose input is sparse: most of ``X[i,n]`` is 0, and only the rest is given.

Sample ``n`` has the ``values[k]`` of the features ``columns[k]``, for ``k`` from ``starts[n]`` to before
``starts[n + 1]``; so SciPy's CSR arrays hold rows. The formulas are those of :mod:`fastmlp.oracle.layer`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle import layer

Array = NDArray[np.float64]


def dense(starts: NDArray[np.int64], columns: NDArray[np.int64], values: Array, inputs: int) -> Array:
    """Write ``X[i,n]`` out."""
    X = np.zeros((inputs, len(starts) - 1))
    for n in range(len(starts) - 1):
        for k in range(starts[n], starts[n + 1]):
            X[columns[k], n] += values[k]
    return X


def sparse_affine(W: Array, b: Array, starts: NDArray[np.int64], columns: NDArray[np.int64], values: Array) -> Array:
    """Matmul plus bias: :func:`fastmlp.oracle.layer.affine`, with what is 0 left out of the sum."""
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    return layer.affine(W, b, dense(starts, columns, values, W.shape[1]))


def sparse_affine_backward(
    W: Array, starts: NDArray[np.int64], columns: NDArray[np.int64], values: Array, dZ: Array
) -> tuple[Array, Array]:
    """Gradients of :func:`sparse_affine` by weights and biases: data have none that anybody wants."""
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    # db[j] = Σ_n dZ[j,n]
    _, dW, db = layer.affine_backward(W, dense(starts, columns, values, W.shape[1]), dZ)
    return dW, db
