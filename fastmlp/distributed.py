"""One network on many machines: every rank has its shard of the rows, and all take the same steps together.

A step is a minibatch of all ranks' rows. Each rank sums the gradient over those of the minibatch that are in its
shard; one ``Allreduce`` adds up gradient, loss and weight; then every rank does the same update. Which rows make a
minibatch follows from the model's ``rng`` and the epoch, as on one rank: the rows of all shards count from 0 on, in
the order of the ranks.

fastmlp does not import MPI: it calls the communicator that it is given.

Whatever a rank does by itself may fail there alone. So before ranks meet, each tells whether it has failed; all end
then, with that rank's error. What goes wrong where no meeting can tell it ends the whole job (``Abort``).
"""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, files, rows, training
from fastmlp.buffers import Workspace, aligned
from fastmlp.kernels import columns, network, optimizers
from fastmlp.metrics import Metric, values_of
from fastmlp.stepping import Run
from fastmlp.trainee import Trainee

Array = NDArray[Any]

_STEPS_PER_CHECK = 100
"""Steps after which ranks compare their parameters' checksums."""

_SECONDS_TO_TELL = 0.5
"""How long a job that ends waits for its last words to come through: without, they were cut off."""

_LOSS, _WEIGHT, _INTERRUPTED, _FAILED = range(4)
"""What stands behind the gradient in the buffer that is added up: sums over all ranks."""

_TAIL = 4


class Communicator(Protocol):
    """What is called of mpi4py's communicators."""

    def Get_rank(self) -> int:
        """Which of them this is, from 0."""

    def Get_size(self) -> int:
        """How many ranks there are."""

    def Allreduce(self, sendbuf: Array, recvbuf: Array) -> None:
        """Add up arrays of all ranks."""

    def allgather(self, sendobj: Any) -> list[Any]:
        """Give all ranks' objects to all."""

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """Give all ranks' objects to one."""

    def Abort(self, errorcode: int = 0) -> NoReturn:
        """End the job."""


class Ranks:
    """Processes that train together, seen from one of them."""

    def __init__(self, comm: Any) -> None:
        for name in ("Get_rank", "Get_size", "Allreduce", "allgather", "gather", "Abort"):
            if not callable(getattr(comm, name, None)):
                raise TypeError(
                    f"comm must be a communicator such as mpi4py's MPI.COMM_WORLD; got {type(comm).__name__}, which"
                    f" has no {name}"
                )
        self.comm: Communicator = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._failure: BaseException | None = None
        self._is_known_to_all = False

    @property
    def has_failed(self) -> bool:
        """Whether something has gone wrong on this rank, which the others do not know yet."""
        return self._failure is not None

    @contextmanager
    def locally(self) -> Iterator[None]:
        """Something that may fail on this rank alone: its error is raised when ranks meet next."""
        try:
            yield
        except BaseException as error:
            if self._is_known_to_all:
                raise
            self._failure = self._failure or error

    def together(self, value: Any) -> list[Any]:
        """Give each rank all ranks' values. An error of any rank is raised on all."""
        words = None if self._failure is None else f"{type(self._failure).__name__}: {self._failure}"
        told = self.comm.allgather((words, None if self.has_failed else value))
        failed = [rank for rank, (words, _) in enumerate(told) if words is not None]
        if failed:
            self._is_known_to_all = True
            if self._failure is not None:
                raise self._failure
            raise RuntimeError(f"rank {failed[0]} of {self.size} failed: {told[failed[0]][0]}")
        return [value for _, value in told]

    def refuse(self, error: Exception) -> NoReturn:
        """Raise what every rank knows, as it follows from all ranks' values."""
        self._is_known_to_all = True
        raise error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """End the whole job if this rank fails without the others' knowledge: they would wait for it for ever."""
        try:
            yield
        except BaseException:
            if self.size > 1 and not self._is_known_to_all:
                words = f"{traceback.format_exc()}fastmlp: rank {self.rank} of {self.size} failed; the job ends\n"
                sys.stderr.write(words)
                sys.stderr.flush()
                time.sleep(_SECONDS_TO_TELL)
                self.comm.Abort(1)
            raise

    def of_this_machine(self) -> int:
        """How many ranks share this one's processors."""
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        own = platform.node(), processors
        places = self.together(own)
        return sum(node == own[0] and (not processors or bool({*processors} & {*theirs})) for node, theirs in places)


class Shard(NamedTuple):
    """A rank's part of the rows."""

    X: Any
    targets: checks.Targets
    first: int
    """The number of its first row among all ranks' rows."""
    n_samples: int
    """Rows of all ranks together."""
    total_weight: float
    """Of all of them."""
    is_weighted: bool
    """Whether samples have weights."""

    def own(self, chosen: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where in an array of rows of all ranks this rank's are."""
        return np.flatnonzero((chosen >= self.first) & (chosen < self.first + len(self.X)))


def shard_of(ranks: Ranks, X: Any, targets: checks.Targets, *, in_units: bool) -> Shard:
    """Where this rank's rows are among all. Raised on all ranks: that none has any.

    Weights may be ``in_units`` of about their mean, where only their ratios matter: ranks add up sums of them in the
    network's dtype. It is a power of two, so nothing is rounded.
    """
    weight = targets.total_weight(len(X)) if len(X) else 0.0
    kind = (bool(targets.labels.size), bool(targets.weights.size)) if len(X) else None
    told = ranks.together((len(X), weight, kind))
    counts, weights, kinds = zip(*told, strict=True)
    if sum(counts) == 0:
        ranks.refuse(ValueError("X must have a sample on one rank at least; got none on any"))
    if len({kind for kind in kinds if kind is not None}) > 1:
        ranks.refuse(ValueError("Y must be of the same kind on all ranks, and weights on all or on none; they differ"))
    if sum(weights) == 0:
        ranks.refuse(ValueError("sample_weight must be above 0 somewhere; got zero on all ranks"))
    is_weighted = any(kind is not None and kind[1] for kind in kinds)
    total_weight = float(sum(weights))
    if is_weighted and in_units:
        unit = math.ldexp(1.0, math.frexp(total_weight / sum(counts))[1])
        targets, total_weight = copy.copy(targets), total_weight / unit
        targets.weights = targets.weights / unit
    return Shard(X, targets, sum(counts[: ranks.rank]), sum(counts), total_weight, is_weighted)


def classes_of_all(ranks: Ranks, targets: checks.Targets, n_rows: int) -> NDArray[np.int64] | None:
    """The class of each row of all ranks; None if some have none."""
    own = targets.classes() if n_rows else np.empty(0, np.int64)
    told = ranks.together(own)
    if any(classes is None for classes in told):
        return None
    return np.concatenate(told)


def agree(ranks: Ranks, wanted: dict[str, Any]) -> None:
    """Refuse to train, on all ranks, where they are asked for different things."""
    own: dict[str, Any] = {}
    with ranks.locally():
        own = files.as_json(wanted, names_of_functions=True)
    told = ranks.together(own)
    for rank, theirs in enumerate(told):
        for name, value in theirs.items():
            if value != told[0][name]:
                ranks.refuse(
                    ValueError(f"{name} must be the same on all ranks; got {told[0][name]} on 0, {value} on {rank}")
                )


class ShardTrainee(Trainee):
    """A model in training on a rank's shard, with those of the other ranks."""

    def __init__(
        self,
        mlp: Any,
        ranks: Ranks,
        shard: Shard,
        plan: training.Plan,
        run: Run,
        held: tuple[Array, checks.Targets] | None,
        metrics: dict[str, Metric],
    ) -> None:
        self._ranks, self._shard = ranks, shard
        super().__init__(mlp, shard.X, shard.targets, plan, run, held, metrics)
        size = mlp._vector.size
        self._sent, self._received = aligned(size + _TAIL, mlp._dtype), aligned(size + _TAIL, mlp._dtype)
        self._workspace: Workspace | None = None
        self._order, self._bounds, self._places = (np.empty(0, np.int64) for _ in range(3))
        self._since_check = 0

    # -- an epoch --------------------------------------------------------------------------------------------------

    @property
    def may_go_ahead(self) -> bool:
        """Not: ranks meet in every step."""
        return False

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until any rank is interrupted, between two steps."""
        plan, total = self.plan, 0.0
        self._divide(order)
        for step in range(len(self._bounds) - 1):
            loss, why = self._take_step(step, interrupted)
            if why:
                return training.Epoch(total, plan.total_weight, plan.n_samples, why)
            total += loss
            if bar is not None:
                bar.update(1)
        return training.Epoch(total, plan.total_weight, plan.n_samples)

    def _divide(self, order: NDArray[np.int64]) -> None:
        """Find the rows of the epoch that are here, and which of them are in each minibatch."""
        size, n_samples = self.plan.batch_size, self.plan.n_samples
        if order.size:
            mine = self._shard.own(order)
            self._order = order[mine] - self._shard.first
        else:  # all rows as they stand
            mine = np.arange(self._shard.first, self._shard.first + len(self._X))
            self._order = np.arange(len(self._X))
        self._bounds = np.searchsorted(mine, np.arange(0, n_samples + size, size))
        self._places = mine % size
        most = int(np.diff(self._bounds).max())
        if self._workspace is None or self._workspace.capacity < most:
            self._workspace = self._make_workspace(max(most, 1))

    def _make_workspace(self, capacity: int) -> Workspace:
        """Buffers for this rank's part of a minibatch; the penalty is none of it."""
        mlp = self._mlp
        objective = mlp._objective._replace(l1=0.0, l2=0.0, has_places=any(mlp._objective.dropout))
        return Workspace(mlp._sizes, mlp._activations, objective, mlp._dtype, capacity)

    def _take_step(self, step: int, interrupted: threading.Event) -> tuple[float, str]:
        """Take a step with the others: the sum of its losses times their weights, and why it was not taken."""
        mlp, size = self._mlp, self._mlp._vector.size
        tail = self._sent[size:]
        first, last = int(self._bounds[step]), int(self._bounds[step + 1])
        tail[:] = 0
        with self._ranks.locally():
            tail[_LOSS], tail[_WEIGHT] = self._sum_gradient(first, last)
        if self._ranks.has_failed or not np.isfinite(tail[_LOSS]) or last == first:
            self._sent[:size] = 0
        tail[_INTERRUPTED], tail[_FAILED] = interrupted.is_set(), self._ranks.has_failed
        self._ranks.comm.Allreduce(self._sent, self._received)
        loss, weight, are_interrupted, have_failed = self._received[size:].tolist()
        if have_failed:
            self._ranks.together(None)  # where the error is raised
        if are_interrupted:
            return 0.0, training.INTERRUPTED
        if not np.isfinite(loss):
            return 0.0, self._not_finite(step, first, last, is_here=not np.isfinite(tail[_LOSS]))
        self._check_weight(step, weight)
        mlp._gradient[:] = self._received[:size]
        penalty = 0.0
        with self._ranks.locally():  # a schedule is a function of the user's
            penalty = mlp._apply(self._run.optimizer, self._added_weight(weight))
        self._since_check += 1
        if self._since_check == _STEPS_PER_CHECK:
            self.check()
        return loss + penalty, ""

    def _check_weight(self, step: int, weight: float) -> None:
        """Refuse to go on if the ranks' rows are not those of one minibatch: their orders differ then."""
        size = self.plan.batch_size
        expected = min(size, self.plan.n_samples - step * size)
        if not self._shard.is_weighted and abs(weight - expected) > 1e-5 * expected:  # float32 cannot count them all
            self._ranks.refuse(
                RuntimeError(
                    f"step {step + 1} must have {expected} samples; the ranks have {weight:g} together. Their random"
                    " states differ: a callback may have drawn from the model's on one rank"
                )
            )

    def _added_weight(self, weight: float) -> float:
        """By what the sum is to be divided. A loss of one's own has the penalty's gradient in it already."""
        if self._mlp._loss != "own":
            return weight
        self._mlp._gradient /= self._mlp._dtype.type(weight)
        return -1.0

    def _sum_gradient(self, first: int, last: int) -> tuple[float, float]:
        """Write this rank's part of the gradient's sum into the buffer: the sum of its losses, and its weight."""
        mlp, count = self._mlp, last - first
        if count == 0:
            return 0.0, 0.0
        gradient = self._sent[: mlp._vector.size]
        data, targets, order, start = self._rows_of_step(first, last)
        dropout_step = mlp._memory_for(self._run.optimizer)[1]
        if mlp.config["verify"]:
            mlp._checked_step(data[order[start : start + count]] if order.size else data,
                              targets.of_rows(order[start : start + count], mlp._dtype) if order.size else targets,
                              self._run.optimizer)  # fmt: skip
        if mlp._loss == "own":
            loss, gradients = mlp._loss_and_gradients(data, targets, dropout_step)
            np.multiply(gradients.vector, count, out=gradient)
            return float(loss * count), float(count)
        workspace = self._workspace
        assert workspace is not None  # noqa: S101 (for the type checker)
        workspace.set_places(self._places[first:last])
        with mlp._pace.measured(count, "shard") as n_threads:
            crew, *others = mlp._of(workspace, n_threads)
            status, total, _ = workspace.train(
                crew, network.ALL_PASSES, *others, gradient, gradient, rows.flat(data), rows.flat(targets.values),
                targets.labels, targets.weights, order, start + count, count, start, 1, optimizers.NO_UPDATE,
                optimizers.NO_SETTINGS, dropout_step + 1, 0.0, network.ONE_EPOCH,
            )  # fmt: skip
        mlp._raise_for(status, X=data, Y=targets.values)
        weight = float(workspace.report[columns.BATCH, columns.TOTAL_WEIGHT])
        gradient *= mlp._dtype.type(weight)  # the kernel has the mean
        return total, weight

    def _rows_of_step(self, first: int, last: int) -> tuple[Array, checks.Targets, NDArray[np.int64], int]:
        """Rows and targets as kernels read them, and where in which order those of the step are."""
        mlp = self._mlp
        scattered_is_fine = self._pages.rows_at_once(scattered=True) >= last - first
        if self._is_ready and scattered_is_fine and mlp._loss != "own":
            self._pages.have_read(last - first, scattered=True)
            return self._X, self._targets, self._order, first
        chosen = self._order[first:last]
        X = np.empty((len(chosen), self._X.shape[1]), mlp._dtype)
        self._pages.gather(self._X, chosen, X)
        targets = self._targets.of_rows(chosen, None if mlp._loss == "own" else mlp._dtype)
        return X, targets, np.empty(0, np.int64), 0

    def _not_finite(self, step: int, first: int, last: int, *, is_here: bool) -> str:
        """Why a step was not taken."""
        words = ""
        with self._ranks.locally():
            if is_here:
                X = rows.converted(self._X, self._order[first:last], self._mlp._dtype)
                words = f"step {step + 1} (rank {self._ranks.rank}; {self._overflowing(X)} overflows)"
        told = [each for each in self._ranks.together(words) if each]
        where = told[0] if told else f"step {step + 1} (the sum over ranks overflows)"
        return f"stopped because the loss was not finite at {where}"

    def check(self) -> None:
        """Compare the parameters of all ranks, which must be the same bits, and their random states."""
        self._since_check = 0
        own = 0
        with self._ranks.locally():
            state = json.dumps(files.as_json(self._mlp._rng.bit_generator.state))
            own = zlib.crc32(state.encode(), zlib.crc32(self._mlp._vector))
        sums = self._ranks.together(own)
        others = [rank for rank, found in enumerate(sums) if found != sums[0]]
        if others:
            self._ranks.refuse(
                RuntimeError(
                    f"ranks {others} have other parameters, or another random state, than rank 0 after the same steps:"
                    " a callback or a schedule may have done something else there"
                )
            )

    # -- the end of an epoch ---------------------------------------------------------------------------------------

    def _loss_of_held(self) -> float | None:
        """Of the validation data of all ranks."""
        total = weight = 0.0
        mlp = self._mlp
        with self._ranks.locally():
            if self._held is not None and len(self._held[0]):
                X, targets = self._held
                weight = targets.total_weight(len(X))
                total = (mlp._loss_value(X, targets) - mlp._penalty(weight)) * weight if weight > 0 else 0.0
        sums = self._ranks.together((total, weight))
        if self._held is None:
            return None
        all_weight = sum(weight for _, weight in sums)
        return float(sum(total for total, _ in sums) / all_weight + mlp._penalty(all_weight))

    def _metrics_of(self, X: Array, targets: checks.Targets) -> dict[str, float]:
        """Computed by rank 0, of the predictions of all."""
        mlp, pair = self._mlp, None
        with self._ranks.locally():
            if len(X):
                predictions = mlp.predict(X)
                pair = predictions, targets.values if mlp._loss == "own" else targets.as_rows(mlp._sizes[-1])
        self._ranks.together(None)
        gathered = self._ranks.comm.gather(pair, root=0)
        found: dict[str, float] = {}
        with self._ranks.locally():
            if gathered is not None:
                of_all = [np.concatenate(parts) for parts in zip(*filter(None, gathered), strict=True)]
                found = values_of(self._metrics, *of_all)
        return dict(self._ranks.together(found)[0])

    def _metrics_of_training(self) -> dict[str, float]:
        chosen = self.plan.rows
        if chosen is None:
            return self._metrics_of(self._X, self._targets)
        return self._metrics_of(*self._training_part(chosen[self._shard.own(chosen)] - self._shard.first))

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _shortened(self) -> int:
        """Not: another number of ranks may go on."""
        return 0

    def _stored(self, path: str | os.PathLike[str]) -> files.Stored | None:
        """What the checkpoint holds that rank 0 finds."""
        stored = None
        with self._ranks.locally():
            if self._ranks.rank == 0:
                stored = super()._stored(path)
        found: files.Stored | None = self._ranks.together(stored)[0]
        return found

    def save(self, history: training.History) -> None:
        """Write the checkpoint, on rank 0. That it failed is told when ranks meet next."""
        with self._ranks.locally():
            if self._ranks.rank == 0:
                super().save(history)


def in_agreement(ranks: Ranks, callbacks: Sequence[Any]) -> Any:
    """A callback that calls each rank's own, and asks all to stop if any of them does."""

    def agreed(history: training.History) -> bool:
        asked = False
        with ranks.locally():
            for callback in callbacks:
                asked = bool(callback(history)) or asked
        return any(ranks.together(asked))

    return agreed
