"""How training steps are taken: many in a row over minibatches, or one like the last one.

The same step again, over other data, has its call packed (:mod:`fastmlp.kernels.calls`) but for these: it is
*prepared*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, rows, settings, threads
from fastmlp.buffers import Workspace
from fastmlp.kernels import again, calls, columns, jit, network
from fastmlp.kernels.layout import NO_ORDER
from fastmlp.kernels.optimizers import LEARNING_RATE

Array = NDArray[Any]

DIVERGED = "the loss is not finite; the parameters were left as they were"


# ------------------------------------------------------------------------------------------------------------------
# many


class Run(NamedTuple):
    """How training steps are taken."""

    optimizer: settings.Optimizer
    batch_size: int
    n_rows: int
    """Rows of an epoch."""

    def rows(self, order: NDArray[np.int64], first: int, n_steps: int = 1) -> NDArray[np.int64] | slice:
        """Rows of the data that some steps take, from row ``first`` of the epoch on."""
        part = slice(first, min(first + n_steps * self.batch_size, self.n_rows))
        return order[part] if order.size else part


def take(
    mlp: Any,
    X: Array,
    targets: checks.Targets,
    order: NDArray[np.int64],
    first: int,
    n_steps: int,
    run: Run,
    total: float = 0.0,
    ended: NDArray[np.float64] = network.ONE_EPOCH,
) -> tuple[float, int]:
    """Take steps over minibatches: ``total`` plus their losses times their weights, and how many were taken.

    With room for what is known of each epoch in ``ended``, the steps of several epochs.
    """
    optimizer, batch_size, n_rows = run
    code = optimizer.code
    # in one go are taken some steps of an epoch, or those of some epochs
    unit = -(-n_rows // batch_size) if ended.size else 1
    memory, steps = mlp._memory_for(optimizer)
    address, counts = calls.address(memory), mlp._counts
    flat, values = rows.flat(X), rows.flat(targets.values)
    done, status = 0, columns.FINITE
    workspace, pace = mlp._borrow(batch_size), mlp._pace(batch_size)
    workspace.results[columns.TAKEN] = 0
    is_measured, array = len(pace.candidates) > 1, optimizer.array
    try:
        while done < n_steps and status == columns.FINITE:
            n_threads, wanted = pace.n_threads, n_steps - done
            if is_measured:
                wanted, start = min(wanted, max(1, pace.units_left // unit) * unit), time.perf_counter()
            if optimizer.is_scheduled:
                array = optimizer.with_rates(steps + done, wanted, mlp._rate_factor)
            begin = first + done * batch_size
            if ended.size:
                begin, total, epoch = 0, 0.0, done // unit
                left, known = order[epoch * n_rows :], ended[network.OF_EPOCH * epoch :]
            else:
                left, known = order, ended
            workspace.divide(n_threads)
            status, total, taken = workspace.train(
                workspace.crew, network.ALL_PASSES, workspace.plan, mlp._vector, workspace.arena,
                workspace.report, mlp._gradient, memory, flat, values, targets.labels, targets.weights, left,
                n_rows, batch_size, begin, wanted, optimizer.code, array, steps + done + 1, total, known,
            )  # fmt: skip
            done += taken
            workspace.results[columns.TAKEN] = 0
            counts[columns.VERSION] += taken > 0  # between the calls a schedule may predict
            mlp._penalties += float(workspace.report[columns.PENALTY, columns.PENALTIES])
            if is_measured:
                pace.tell(time.perf_counter() - start, wanted, n_threads)
        if optimizer.max_gradient_norm is not None:
            mlp._limited = float(workspace.report[columns.BATCH, columns.FACTOR])
    except BaseException:  # Ctrl-C may come between steps and their count
        done += int(workspace.results[columns.TAKEN])
        raise
    finally:
        if done:  # as in mlp._keep; but Python looks for Ctrl-C in calls, so what belongs together is done without any
            mlp._memory, mlp._optimizer_code = memory, code
            counts[columns.MEMORY], counts[columns.STEPS] = address, steps + done
            counts[columns.VERSION] += 1
        mlp._free.append(workspace)
    if status != columns.FINITE:
        mlp._raise_for(status, X=X, Y=targets.values)
    return total, done


def take_converted(
    mlp: Any,
    X: Array,
    targets: checks.Targets,
    order: NDArray[np.int64],
    first: int,
    n_steps: int,
    run: Run,
    total: float = 0.0,
) -> tuple[float, int]:
    """Take steps as :func:`take` does, over data of another dtype or layout; or verified, one by one."""
    is_verified, batch_size = mlp.config["verify"], run.batch_size
    at_once = 1 if is_verified else max(1, rows.count_at_once(X, mlp._dtype) // batch_size)
    done = 0
    while done < n_steps:
        wanted = min(at_once, n_steps - done)
        chosen = run.rows(order, first + done * batch_size, wanted)
        some_X, some = rows.converted(X, chosen, mlp._dtype), targets.of_rows(chosen, mlp._dtype)
        if is_verified:
            mlp._checked_step(some_X, some, run.optimizer)
        of_these = run._replace(n_rows=len(some_X))
        total, taken = take(mlp, some_X, some, NO_ORDER, 0, wanted, of_these, total)
        done += taken
        if taken < wanted:
            break
    return total, done


def take_own(
    mlp: Any,
    X: Array,
    targets: checks.Targets,
    order: NDArray[np.int64],
    first: int,
    n_steps: int,
    run: Run,
    total: float = 0.0,
) -> tuple[float, int]:
    """Take steps as :func:`take_converted` does, with the user's own loss: each is a call of it."""
    for done in range(n_steps):
        chosen = run.rows(order, first + done * run.batch_size)
        some_X, some = rows.converted(X, chosen, mlp._dtype), targets.of_rows(chosen, None)
        if mlp.config["verify"]:
            mlp._checked_step(some_X, some, run.optimizer)
        loss, gradients = mlp._loss_and_gradients(some_X, some, mlp._memory_for(run.optimizer)[1])
        if not np.isfinite(loss):
            return loss, done
        mlp._gradient[:] = gradients.vector
        mlp._apply(run.optimizer)
        total += loss * len(some_X)
    return total, n_steps


# ------------------------------------------------------------------------------------------------------------------
# one like the last one


@dataclass(slots=True)
class Prepared:
    """A training step whose call is packed but for its data, for the next one like it.

    A named tuple's fields take twice as long to read.
    """

    optimizer: settings.Optimizer | str | None
    learning_rate: settings.Rate | None
    """Both as they were given; another number may take the place of the rate."""
    schedule: Callable[[int], float] | None
    rate: float
    """The optimizer's, if none was given."""
    shape_of_x: tuple[int, ...]
    shape_of_y: tuple[int, ...]
    """Shapes of the data."""
    weights: NDArray[np.float64] | None
    """Where the samples' weights are copied to, if there are any."""
    dtype_of_y: np.dtype
    looks_first: bool
    """Whether the data must be looked at before all else: a schedule is called, or not all numbers have a meaning."""
    is_by_one_thread: bool
    """Whether more are never tried."""
    needs_lock: bool
    """Whether there is more to do than the call, or it lets other threads have the interpreter."""
    workspace: Workspace
    call: calls.Call
    step_again: Callable[[Any, float, Any, Any], float]
    """Which makes it, by one thread."""

    def take_weights(self, given: Array) -> bool:
        """Copy the samples' weights to where the call finds them. Returns whether they are weights."""
        if self.weights is None:
            return False
        np.copyto(self.weights, given)
        total = checks.sum_of_weights(self.weights)
        again.set_weight(self.call, total)
        return not math.isnan(total)


def can_be_prepared(mlp: Any, optimizer: settings.Optimizer) -> bool:
    """Whether the next step like this one needs nothing but its data, and maybe its rate."""
    return (
        mlp._loss != "own"
        and not (mlp.config["verify"] or isinstance(optimizer.learning_rate, settings.ReduceOnPlateau))
        and calls.are_packed()
    )


def are_plain_weights(given: Any, n_samples: int) -> bool:
    """Whether samples' weights, if there are any, can be copied as they are."""
    return given is None or (type(given) is np.ndarray and given.dtype.char in "efd" and given.shape == (n_samples,))


class Step(NamedTuple):
    """What steps that are alike have in common."""

    optimizer: settings.Optimizer
    n_samples: int
    is_weighted: bool


def are_alike(last: Step | None, step: Step, given: settings.Optimizer | str | None) -> bool:
    """Whether one more step like these two is likely: by one optimizer; or by its name, where only numbers differ."""
    if last is None or last[1:] != step[1:]:
        return False
    before, now = last.optimizer, step.optimizer
    if isinstance(given, settings.Optimizer) or type(before) is not type(now):
        return before is now
    return before.learning_rate is now.learning_rate or not (before.is_scheduled or now.is_scheduled)


def takes_rate(prepared: Prepared, learning_rate: Any) -> bool:
    """Let this rate take the place of the one that was given, if both are numbers. Returns whether it did."""
    both = isinstance(prepared.learning_rate, float) and isinstance(learning_rate, float)
    if not (both and 0 < learning_rate < math.inf):
        return False
    prepared.learning_rate = learning_rate
    return True


def prepare(
    mlp: Any, given: tuple[Any, Any], optimizer: settings.Optimizer, X: Array, Y: Array, targets: checks.Targets
) -> None:
    """Pack the call of steps like the one that has been taken, in a workspace that is kept for it."""
    has_labels = targets.labels.size > 0
    dtype_of_y = (targets.labels if has_labels else targets.values).dtype
    if not checks.is_such(Y, dtype_of_y, Y.shape):
        return  # they would have to be converted each time
    forget(mlp)
    count = X.shape[0]
    workspace = mlp._borrow(count)
    of_all = mlp._pace.of_at_most(jit.max_threads(), count).candidates
    workspace.divide(max(of_all))  # so there is room for the counters of fewer, too
    rate = optimizer.learning_rate
    schedule = rate if callable(rate) else None
    is_by_one_thread = of_all == (1,)
    looks_first = schedule is not None or not (has_labels or mlp._loss in checks.OF_ANY_NUMBERS)
    array = np.append(optimizer.array, optimizer.array[LEARNING_RATE])
    weights = targets.weights.copy()
    # not the workspace's own, of which another thread may still have the step that was prepared before
    call = calls.Call(
        network.train, workspace.crew, network.ALL_PASSES, workspace.plan, mlp._vector, workspace.arena,
        workspace.report, mlp._gradient, mlp._memory, mlp._vector, mlp._vector, checks.NO_LABELS, weights, NO_ORDER,
        count, count, 0, 1, optimizer.code, array, mlp._steps, 0.0, network.ONE_EPOCH,
    )  # fmt: skip
    rows_of_y = again.Rows("labels" if has_labels else "targets", dtype_of_y, Y.shape)
    again.vary(call, "step", again.Rows("data", mlp._dtype, X.shape), rows_of_y)
    if not is_by_one_thread:  # to compile them is not told as the time of a step
        again.compiled_beginning(), again.compiled_end()
    operations = mlp._pace.operations(count)
    again.for_steps(call, mlp._counts, operations, mlp._lock, array[-1:], count)
    has_more_to_do = looks_first or weights.size > 0 or not is_by_one_thread
    mlp._prepared = Prepared(
        *given, schedule, optimizer.array[LEARNING_RATE], X.shape, Y.shape, weights if weights.size else None,
        dtype_of_y, looks_first, is_by_one_thread, has_more_to_do or again.needs_lock(mlp._lock, operations),
        workspace, call, again.compiled_step(),
    )  # fmt: skip


def forget(mlp: Any) -> None:
    """What a step was prepared for has changed."""
    prepared, mlp._prepared = mlp._prepared, None
    if prepared is not None:
        _let_go(mlp, prepared)


def _let_go(mlp: Any, prepared: Prepared) -> None:
    """A prepared step is not taken any more, nor by a thread that has got it already: others use its workspace."""
    prepared.call.table[again.IS_READY] = False
    mlp._free.append(prepared.workspace)


def take_prepared(mlp: Any, prepared: Prepared, learning_rate: Any, X: Any, Y: Any, sample_weight: Any) -> float:
    """Take the step that has been prepared, over new data: the loss; NaN if it was not taken, and another way may be.

    If no way may be, as the loss is not finite, that is told here, where a schedule has been asked.
    """
    rate = prepared.rate if learning_rate is None else learning_rate
    if not prepared.needs_lock:
        return prepared.step_again(prepared.call.table, rate, X, Y)
    if prepared.looks_first and not _suit(mlp, prepared, X, Y):
        return math.nan
    if not (sample_weight is None or are_plain_weights(sample_weight, prepared.shape_of_x[0])):
        return math.nan
    with mlp._lock:
        if prepared is not mlp._prepared:
            return math.nan
        mlp._prepared = None  # a schedule, or the handler of a signal, may train too: they prepare another one
        try:
            loss = _take(mlp, prepared, rate, X, Y, sample_weight)
        finally:
            if mlp._prepared is None:
                mlp._prepared = prepared
            else:
                _let_go(mlp, prepared)
        status = prepared.call.status
    if loss == loss or status == again.OTHER_ROWS:  # noqa: PLR0124 (it is not NaN)
        return loss
    if status == columns.Y_NOT_FINITE and Y.dtype.kind != "f":
        return math.nan  # which label is none, the door tells
    mlp._raise_for(status, X=X, Y=Y.reshape(len(Y), -1))
    raise FloatingPointError(DIVERGED)


def _take(mlp: Any, prepared: Prepared, rate: Any, X: Array, Y: Array, sample_weight: Any) -> float:
    """Take the step that has been prepared, under the lock. NaN if it was not taken: the call's status says why."""
    prepared.call.table[calls.STATUS_AT] = again.OTHER_ROWS
    if sample_weight is not None and not prepared.take_weights(sample_weight):
        return math.nan
    if prepared.schedule is not None:
        rate = settings.rate_at(prepared.schedule, mlp._steps)
    with threads.at_work:
        if prepared.is_by_one_thread:
            return prepared.step_again(prepared.call.table, rate, X, Y)
        return _by_threads(mlp, prepared, rate, X, Y)


def _suit(mlp: Any, prepared: Prepared, X: Any, Y: Any) -> bool:
    """Whether data are such as the step was prepared for, and targets have a meaning for the loss."""
    return (
        checks.is_such(X, mlp._dtype, prepared.shape_of_x)
        and checks.is_such(Y, prepared.dtype_of_y, prepared.shape_of_y)
        and (mlp._loss in checks.OF_ANY_NUMBERS or checks.fit(Y, mlp._sizes[-1], mlp._loss))
    )


def _by_threads(mlp: Any, prepared: Prepared, rate: float, X: Array, Y: Array) -> float:
    """The same, with as many threads as are fastest."""
    table = prepared.call.table
    pace, start = mlp._pace(prepared.shape_of_x[0]), time.perf_counter()
    n_threads = pace.n_threads if calls.are_packed() else 1  # not in a child of a process that had threads
    prepared.workspace.divide(n_threads)
    if n_threads == 1:
        loss = prepared.step_again(table, rate, X, Y)
    else:
        begin, end = again.compiled_beginning(), again.compiled_end()
        if not begin(table, rate, X, Y):
            return math.nan
        try:
            prepared.call.run(n_threads)
        finally:
            loss = end(table)  # which Python calls without looking for Ctrl-C before
    if len(pace.candidates) > 1 and loss == loss:  # noqa: PLR0124 (it is not NaN: the step was taken)
        pace.tell(time.perf_counter() - start, 1, n_threads)
    return loss
