"""How rows are predicted: one at a time without threads, many by threads; and again, as the last ones were.

What was predicted last has left a packed call (:mod:`fastmlp.kernels.calls`) in its workspace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks, rows, threads
from fastmlp.buffers import Workspace
from fastmlp.kernels import again as repeated
from fastmlp.kernels import calls, columns, jit, network, prediction
from fastmlp.pacing import class_of, tell

Array = NDArray[Any]

_AT_ONCE = 16_384
"""Samples of one call of compiled code, between which Ctrl-C is seen. Its memory does not depend on them."""


def again(mlp: Any, X: Any) -> Array | None:
    """Predict as the last prediction was made; None if there was none like this, or if it has gone wrong."""
    try:
        predict = _one_again if X.shape == mlp._shape_of_one else _some_again
        workspace = mlp._free.pop()
    except (AttributeError, IndexError):  # no array; or the first prediction, or others are at work
        return None
    output = predict(mlp, workspace, X)
    mlp._free.append(workspace)
    return output


def _one_again(mlp: Any, workspace: Workspace, X: Any) -> Array | None:
    call = workspace.predict_call
    if call is None:
        return None
    output = np.empty(mlp._shape_of_output, mlp._dtype)
    return output if workspace.predict_again(call.table, 1, X, output) else None


def _some_again(mlp: Any, workspace: Workspace, X: Any) -> Array | None:
    if type(X) is not np.ndarray or X.ndim != 2:
        return None
    samples, (vector, shape, is_brief) = X.shape[0], workspace.predicted_again
    if X.shape == shape and vector is mlp._vector:
        return _many_again(mlp, workspace, X, is_brief)
    if workspace.predict_call is None or not 0 < samples <= prediction.SAMPLES_ALONE:
        return None
    output = np.empty((samples, mlp._sizes[-1]), mlp._dtype)
    return output if workspace.predict_again(workspace.predict_call.table, samples, X, output) else None


def _many_again(mlp: Any, workspace: Workspace, X: Array, is_brief: bool) -> Array | None:
    samples = X.shape[0]
    output, call = np.empty((samples, mlp._sizes[-1]), mlp._dtype), workspace.packed[prediction.predict]
    if is_brief:
        workspace.divide(1)
        return output if repeated.compiled_predictions()(call.table, samples, X, output) else None
    if not calls.are_packed():
        return None
    with threads.at_work:
        pace, start = mlp._pace(samples, "predict"), time.perf_counter()
        n_threads = pace.n_threads
        workspace.divide(n_threads)
        if not repeated.set_rows(call, samples, X, output):
            return None
        call.run(n_threads)
        tell(pace, start, samples, n_threads)
    return output if call.status == columns.FINITE else None


def anew(mlp: Any, X: ArrayLike) -> Array:
    """Predict any rows, which are looked at first."""
    X = checks.samples("X", X, mlp._sizes[0], mlp._dtype)
    samples = X.shape[0]
    output = np.empty((samples, mlp._sizes[-1]), mlp._dtype)
    if samples <= prediction.SAMPLES_ALONE:
        _a_few(mlp, X, samples, output)
        return output
    pace = mlp._pace.of_at_most(jit.max_threads(), class_of(min(samples, _AT_ONCE)), "predict")
    with room_for(mlp, max(pace.candidates)) as workspace:
        many(mlp, workspace, X, output)
        if samples <= _AT_ONCE and calls.are_packed():
            is_brief = repeated.set_work(workspace.packed[prediction.predict], _operations(mlp, samples))
            repeated.compiled_put_rows()  # now, as to compile it would be told as the time of a prediction
            workspace.predicted_again = mlp._vector, X.shape, is_brief and pace.candidates == (1,)
    return output


def _operations(mlp: Any, samples: int) -> int:
    """Operations of a prediction, with those that reading and writing the rows is worth."""
    numbers = samples * (mlp._sizes[0] + mlp._sizes[-1]) * mlp._dtype.itemsize // 4
    return mlp._pace.operations(samples, "predict") + network.READ_OPERATIONS * numbers


def _a_few(mlp: Any, X: Array, samples: int, output: Array) -> None:
    """Predict without threads, by a packed call where there is one: it takes a microsecond."""
    workspace = mlp._borrow(samples)
    try:
        if workspace.panels_of_version != mlp._counts[columns.VERSION]:
            version = int(mlp._counts[columns.VERSION])
            prediction.write_panels(workspace.plan, mlp._vector, workspace.panels)
            workspace.panels_of_version = version
        if workspace.predict_call is None and calls.are_packed():
            call = calls.Call(
                prediction.predict_alone, workspace.plan, mlp._vector, workspace.panels, workspace.arena,
                workspace.report, mlp._vector, mlp._vector, 0, samples,
            )  # fmt: skip
            repeated.vary(call, *workspace.what_is_predicted())
            repeated.for_predictions(call, mlp._counts, _operations(mlp, prediction.SAMPLES_ALONE))
            workspace.predict_again = repeated.compiled_prediction()
            workspace.predict_call = call  # only now: Ctrl-C may have come before it was ready
        call = workspace.predict_call
        if call is not None and repeated.set_rows(call, samples, X, output):
            call.table[repeated.PANELS_VERSION] = workspace.panels_of_version
            call.run()
            status = call.status
        else:
            status = prediction.predict_alone(
                workspace.plan, mlp._vector, workspace.panels, workspace.arena, workspace.report, rows.flat(X),
                output.reshape(-1), 0, samples,
            )  # fmt: skip
    finally:
        mlp._free.append(workspace)
    if status != columns.FINITE:
        raise checks.not_finite("X", X)


@contextmanager
def room_for(mlp: Any, most_threads: int) -> Iterator[Workspace]:
    """A workspace in which so many threads can predict many rows."""
    workspace = mlp._borrow(most_threads * prediction.PREDICTED_BLOCKS * mlp._block)
    try:
        yield workspace
    finally:
        mlp._free.append(workspace)


def many(mlp: Any, workspace: Workspace, X: Array, output: Array) -> None:
    """Predict in a workspace that may be another one's, of a network of the same shape."""
    flat, flat_output = rows.flat(X), output.reshape(-1)
    workspace.predicted_again = None, (), False
    for first in range(0, len(X), _AT_ONCE):
        count = min(_AT_ONCE, len(X) - first)
        with mlp._pace.measured(count, "predict") as n_threads:
            workspace.divide(n_threads)
            finite = workspace.predict(
                n_threads, workspace.plan, mlp._vector, workspace.arena, workspace.report, flat, flat_output, first,
                count,
            )  # fmt: skip
        if not finite:
            raise checks.not_finite("X", X)
