"""Training and prediction from sparse rows: the first layer reads what is not 0, the layers above are a network.

A step of it is made of several calls, not one; with thousands of features, of which most are 0, that matters little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, rows
from fastmlp.buffers import round_up
from fastmlp.kernels import activations, derivatives, jit, layer, layout, sparse
from fastmlp.mlp import MLP
from fastmlp.oracle.network import penalty_value
from fastmlp.trainee import Trainee

Array = NDArray[Any]

_ROWS_AT_ONCE = 4096
"""Rows of one prediction."""

_DENSITY = 0.1
"""Part of the values from which rows are made dense instead, as measured: the dense layer is one call, on tiles."""


class SparseRows:
    """Rows of a sparse matrix, dense as they are asked for: a few minibatches at a time.

    It stands where an array of rows stands in :mod:`fastmlp.trainee`.
    """

    dtype, nbytes = np.dtype(object), 0  # neither ready for kernels, nor a mapped file

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape = self.matrix.shape

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: Any) -> Array:
        return np.asarray(self.matrix[chosen].toarray())

    def parts(self, dtype: np.dtype) -> Iterator[Array]:
        """All rows, dense, some megabytes at a time."""
        at_once = rows.count_at_once(self, dtype)
        for first in range(0, len(self), at_once):
            yield self[first : first + at_once]


def reads_values(X: Any, mlp: MLP) -> TypeGuard[SparseRows]:
    """Whether the first layer reads what is not 0: if it is little, there are layers above, and no unit is dropped."""
    if not isinstance(X, SparseRows) or len(mlp._sizes) == 2 or any(mlp._objective.dropout):
        return False
    return bool(X.matrix.nnz < _DENSITY * X.shape[0] * X.shape[1])


class _Hidden:
    """What the first layer computes of some rows. In memory of whole blocks, as kernels over all elements want it."""

    def __init__(self, shape: tuple[int, int], block: int, dtype: np.dtype) -> None:
        self.shape = shape
        self._size = shape[0] * shape[1]
        self.Z, self.A, self.dA = (np.zeros(round_up(self._size, block), dtype) for _ in range(3))

    def rows(self, flat: Array) -> Array:
        """Of one of them, the elements that are meant."""
        return flat[: self._size].reshape(self.shape)


class SparseNetwork:
    """A network that is there already, and rows for its first layer.

    Parameters
    ----------
    mlp : MLP
        Whose parameters are used, and may change.
    X : sparse matrix of shape (n_samples, n_features), in CSR
    """

    def __init__(self, mlp: MLP, X: Any) -> None:
        self._mlp, self._X = mlp, X
        self._inputs, self._outputs = mlp._sizes[:2]
        self._first = (self._inputs + 1) * self._outputs  # parameters of the first layer
        config = dict(mlp.config)
        self._upper = MLP(
            mlp._sizes[1:], hidden_activation=mlp._activations[1:-1], output_activation=mlp._activations[-1],
            loss=config["loss"], dtype=mlp._dtype, rng=0, n_threads=config["n_threads"],
        )  # fmt: skip
        self._upper._vector = mlp._vector[self._first :]  # the same memory
        self._code = activations.CODES[mlp._activations[0]]
        self._turned = np.empty((self._inputs, self._outputs), mlp._dtype)
        # one thread, but where more are asked for: these loops wait for memory, and a launch beside others is dear
        self._n_threads = min(config["n_threads"] or 1, jit.max_threads())

    def _csr(self, chosen: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Some rows, as kernels read them."""
        some = self._X[chosen]
        return some.indptr.astype(np.int64), some.indices.astype(np.int64), some.data.astype(self._mlp._dtype)

    def _hidden(self, csr: tuple[NDArray[np.int64], NDArray[np.int64], Array]) -> _Hidden:
        W, b = self._mlp._pairs(self._mlp._vector)[0]
        layout.turn(W, self._turned, n_threads=self._n_threads)
        self._upper._parameters_changed()
        hidden = _Hidden((len(csr[0]) - 1, self._outputs), self._mlp._block, self._mlp._dtype)
        sparse.sparse_affine(self._turned, b, *csr, hidden.rows(hidden.Z), n_threads=self._n_threads)
        layer.activate(self._code, hidden.Z, hidden.A, n_threads=self._n_threads)
        return hidden

    def predict(self) -> Array:
        """Output of the network for all rows."""
        found = []
        for first in range(0, self._X.shape[0], _ROWS_AT_ONCE):
            hidden = self._hidden(self._csr(slice(first, first + _ROWS_AT_ONCE)))
            found.append(self._upper.predict(hidden.rows(hidden.A)))
        return np.concatenate(found)

    def loss_and_gradient(self, chosen: Any, targets: checks.Targets, gradient: Array) -> float:
        """Loss of some rows, without a penalty; its gradient, by all parameters, is written to ``gradient``."""
        csr = self._csr(chosen)
        hidden = self._hidden(csr)
        A, dA = hidden.rows(hidden.A), hidden.rows(hidden.dA)
        loss, of_upper = self._upper._loss_and_gradients(A, targets)
        if not np.isfinite(loss):
            return loss
        self._upper._derive(derivatives.input_gradient, A, dA, targets)
        layer.activate_backward(self._code, hidden.Z, hidden.A, hidden.dA, hidden.dA, n_threads=self._n_threads)
        dW, db = self._mlp._pairs(gradient)[0]
        sparse.sparse_affine_backward(*csr, dA, self._turned, db, n_threads=self._n_threads)
        layout.turn(self._turned, dW, n_threads=self._n_threads)
        gradient[self._first :] = of_upper.vector
        return loss


class SparseTrainee(Trainee):
    """A model in training on sparse rows."""

    def __init__(self, mlp: MLP, X: SparseRows, *others: Any) -> None:
        super().__init__(mlp, X, *others)  # type: ignore[arg-type] # where it is asked, it answers like an array
        self._network = SparseNetwork(mlp, X.matrix)

    def _take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        mlp, run = self._mlp, self._run
        for done in range(n_steps):
            start = first + done * run.batch_size
            chosen = run.rows(order, start)
            targets = self._targets.of_rows(chosen, mlp._dtype)
            weight = targets.total_weight(min(run.batch_size, run.n_rows - start))
            loss = self._network.loss_and_gradient(chosen, targets, mlp._gradient)
            if not np.isfinite(loss):
                return total, done
            penalty = mlp._oracle_penalty(weight)
            value = penalty_value(mlp._pairs(mlp._vector), penalty)
            for pair, of_loss in zip(mlp._pairs(mlp._vector), mlp._pairs(mlp._gradient), strict=True):
                of_loss.weights[...] += mlp._dtype.type(penalty.l2) * pair.weights
            mlp._apply(run.optimizer)
            total += (loss + value) * weight
            mlp._penalties += value * weight
        return total, n_steps

    def where_not_finite(self, _: NDArray[np.int64], first: int) -> str:
        """Tell which rows."""
        return f"rows {first} to {min(first + self._run.batch_size, self._run.n_rows) - 1} of the epoch"
