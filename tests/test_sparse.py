"""A first layer that reads sparse rows: the kernels against the oracle, which writes the zeros out."""

import numpy as np
import pytest

from fastmlp.kernels import layout
from fastmlp.kernels import sparse as kernels
from fastmlp.oracle import layer, sparse

SIZES = [(1, 1, 1), (3, 5, 7), (40, 17, 9), (7, 33, 64), (130, 16, 20)]


def rows_of(rng, inputs, samples, dtype, whole=False):
    """CSR arrays of samples, some of them empty; and the same written out, as columns."""
    counts = rng.integers(0, min(inputs, 6) + 1, samples)
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate([np.sort(rng.permutation(inputs)[:count]) for count in counts]).astype(np.int64)
    values = (rng.integers(-3, 4, starts[-1]) if whole else rng.standard_normal(starts[-1])).astype(dtype)
    X = np.zeros((inputs, samples))
    for n in range(samples):
        some = slice(starts[n], starts[n + 1])
        X[columns[some], n] = values[some]
    return (starts, columns, values), X


@pytest.mark.parametrize(("inputs", "outputs", "samples"), SIZES)
def test_the_oracle_writes_out_what_the_layer_takes(inputs, outputs, samples, rng):
    csr, X = rows_of(rng, inputs, samples, np.float64)
    W, b = rng.standard_normal((outputs, inputs)), rng.standard_normal(outputs)
    np.testing.assert_array_equal(sparse.sparse_affine(W, b, *csr), layer.affine(W, b, X))
    dZ = rng.standard_normal((outputs, samples))
    for found, expected in zip(
        sparse.sparse_affine_backward(W, *csr, dZ), layer.affine_backward(W, X, dZ)[1:], strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs", "samples"), SIZES)
def test_the_kernels_compute_what_the_oracle_does(inputs, outputs, samples, n_threads, dtype, rng):
    """Whole numbers, so that not a bit may differ: every index is met."""
    csr, _ = rows_of(rng, inputs, samples, dtype, whole=True)
    W, b = rng.integers(-3, 4, (outputs, inputs)).astype(dtype), rng.integers(-3, 4, outputs).astype(dtype)
    T, Z = np.full((inputs, outputs), np.nan, dtype), np.full((samples, outputs), np.nan, dtype)
    layout.turn(W, T, n_threads=n_threads)
    np.testing.assert_array_equal(T, W.T)
    kernels.sparse_affine(T, b, *csr, Z, n_threads=n_threads)
    np.testing.assert_array_equal(Z, sparse.sparse_affine(W, b, *csr).T)
    dZ = rng.integers(-3, 4, (samples, outputs)).astype(dtype)
    dT, db = np.full_like(T, np.nan), np.full_like(b, np.nan)
    kernels.sparse_affine_backward(*csr, dZ, dT, db, n_threads=n_threads)
    dW, expected = sparse.sparse_affine_backward(W, *csr, dZ.T)
    np.testing.assert_array_equal(dT, dW.T)
    np.testing.assert_array_equal(db, expected)


def test_threads_do_not_change_a_bit(dtype, rng):
    csr, _ = rows_of(rng, 60, 40, dtype)
    T, b = rng.standard_normal((60, 37)).astype(dtype), rng.standard_normal(37).astype(dtype)
    found = []
    for n_threads in (1, 2):
        Z, dT, db = np.empty((40, 37), dtype), np.empty_like(T), np.empty_like(b)
        kernels.sparse_affine(T, b, *csr, Z, n_threads=n_threads)
        kernels.sparse_affine_backward(*csr, Z, dT, db, n_threads=n_threads)
        found.append((Z, dT, db))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
