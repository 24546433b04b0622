"""A model in training, as :func:`fastmlp.training.fit` sees it: its data, its steps, its checkpoint."""

from __future__ import annotations

import math
import os
import threading
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, files, rows, settings, stepping, training
from fastmlp.kernels import layout, network, optimizers, weights
from fastmlp.metrics import Metric, values_of
from fastmlp.monitor import Monitor, Step
from fastmlp.stepping import Run

Array = NDArray[Any]

_ROWS_IN_SHORT = 64
"""Rows by which data are told from others."""


class Trainee:
    """A model in training, as :func:`fastmlp.training.fit` sees it."""

    def __init__(
        self,
        mlp: Any,
        X: Array,
        targets: checks.Targets,
        plan: training.Plan,
        run: Run,
        held: tuple[Array, checks.Targets] | None,
        metrics: dict[str, Metric],
    ) -> None:
        self._mlp, self._X, self._targets, self.plan, self._run = mlp, X, targets, plan, run
        self._held, self._metrics = held, metrics
        self._best = mlp._vector.copy()
        self._is_ready = rows.is_ready(X, mlp._dtype) and rows.is_ready(targets.values, mlp._dtype)
        self._pages = rows.MappedPages(X, targets.values)
        self.history = training.History()
        self._monitor = Monitor(mlp, X, targets, plan.rows) if plan.monitor else None
        self._last_step: Step | None = None
        self.at_once = 1
        self._rows_before = 0  # of an epoch whose rows come in parts
        self._data_in_short = 0 if plan.checkpoint is None else self._shortened()
        if plan.checkpoint is not None and plan.checkpoint.resume:
            self._resume(plan.checkpoint.path)
        if self._monitor is not None:
            stopping = plan.early_stopping
            self.history.monitored_network = {
                "activations": self._monitor.activations,
                "constant": self._monitor.constant,
                "restores": stopping is not None and stopping.restore_best,
            }

    @property
    def run(self) -> Run:
        """How its steps are taken."""
        return self._run

    @property
    def steps(self) -> tuple[int, Array]:
        """How many steps were taken, and what the optimizer remembers: the same array as long as none was."""
        return self._mlp._steps, self._mlp._memory

    @property
    def data(self) -> tuple[Array, checks.Targets]:
        """What it is trained on."""
        return self._X, self._targets

    @property
    def is_plain(self) -> bool:
        """Whether its steps are the kernel's alone, on data that it can read as they are."""
        mlp = self._mlp
        return self._is_ready and mlp._loss != "own" and not mlp.config["verify"] and self._monitor is None

    def take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        """Take them; for the monitor, the last one of an epoch by itself, and the parameters before it noted."""
        size = self._run.batch_size
        last = first + (n_steps - 1) * size
        if self._monitor is None or last + size < self._run.n_rows:
            return self._take_steps(order, first, n_steps, total)
        total, taken = self._take_steps(order, first, n_steps - 1, total) if n_steps > 1 else (total, 0)
        if taken < n_steps - 1:
            return total, taken
        self._last_step = Step(self._run.rows(order, last), self._mlp._vector.copy())
        total, last_taken = self._take_steps(order, last, 1, total)
        return total, taken + last_taken

    def _take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        """Take steps, a part at a time where the data are a large mapped file."""
        mlp, size = self._mlp, self._run.batch_size
        if mlp._loss == "own":
            return stepping.take_own(mlp, self._X, self._targets, order, first, n_steps, self._run, total)
        if order.size and self._pages.rows_at_once(scattered=True) < size:
            return self._take_scattered_steps(order, first, n_steps, total)
        take = stepping.take if self._is_ready and not mlp.config["verify"] else stepping.take_converted
        scattered, done = order.size > 0, 0
        at_once = max(1, self._pages.rows_at_once(scattered=scattered) // size)
        while done < n_steps:
            wanted, start = min(at_once, n_steps - done), first + done * size
            total, taken = take(mlp, self._X, self._targets, order, start, wanted, self._run, total)
            self._pages.have_read(wanted * size, scattered=scattered)
            done += taken
            if taken < wanted:
                break
        return total, done

    def _take_scattered_steps(
        self, order: NDArray[np.int64], first: int, n_steps: int, total: float
    ) -> tuple[float, int]:
        """Take steps one by one, whose rows lie on more pages of a mapped file than may be in memory at once."""
        mlp, size = self._mlp, self._run.batch_size
        for done in range(n_steps):
            chosen = self._run.rows(order, first + done * size)
            assert isinstance(chosen, np.ndarray)  # noqa: S101 (for the type checker: scattered rows have an order)
            X = np.empty((len(chosen), self._X.shape[1]), mlp._dtype)
            self._pages.gather(self._X, chosen, X)
            take = stepping.take_converted if mlp.config["verify"] else stepping.take
            targets = self._targets.of_rows(chosen, mlp._dtype)
            one = self._run._replace(n_rows=len(X))
            total, taken = take(mlp, X, targets, layout.NO_ORDER, 0, 1, one, total)
            if not taken:
                return total, done
        return total, n_steps

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until it is interrupted, between two steps."""
        return training.epoch(self.plan, self, order, interrupted, bar)

    @property
    def may_go_ahead(self) -> bool:
        """Whether several epochs may be trained at once, as there is nothing to do between them."""
        is_watched = self.plan.is_watched or self._held is not None or self._metrics
        return self.is_plain and not is_watched and not self._pages.are_many

    def epochs(self, stretch: training.Stretch) -> training.Ended:
        """Train for several, in compiled code."""
        known = np.empty(network.OF_EPOCH * stretch.n_epochs)
        before = self._mlp._memory_for(self._run.optimizer)[1]
        n_steps = stretch.n_epochs * self.plan.n_steps
        total, taken = stepping.take(
            self._mlp, self._X, self._targets, stretch.order, 0, n_steps, self._run, ended=known
        )  # fmt: skip
        return self.ended_epochs(stretch, known, before, total, taken)

    def ended_epochs(
        self, stretch: training.Stretch, known: NDArray[np.float64], before: int, total: float, taken: int
    ) -> training.Ended:
        """What came of epochs, from what compiled code says of them; ``before`` were so many steps."""
        plan, n_steps = self.plan, self.plan.n_steps
        whole, done = divmod(taken, n_steps)
        losses, squares = known.reshape(-1, network.OF_EPOCH)[:whole].T
        ends = range(before + n_steps, before + taken + 1, n_steps) if self._run.optimizer.is_scheduled else ()
        rates = [self._rate_of(end) for end in ends] or [self._rate_of(before + n_steps)] * whole
        found = training.Known((losses / plan.total_weight).tolist(), rates, np.sqrt(squares).tolist())
        if whole == stretch.n_epochs:
            return training.Ended(found, None)
        order = stretch.order[whole * plan.n_samples :] if stretch.order.size else stretch.order
        why = training.not_finite(self, order, done * plan.batch_size)
        return training.Ended(found, training.Epoch(total, plan.total_weight, plan.n_samples, why))

    def _rate_of(self, step: int) -> float:
        """The learning rate of a step, from 1."""
        array = self._run.optimizer.with_rates(max(step - 1, 0), 1, self._mlp._rate_factor)
        is_listed = array.size > optimizers.N_SETTINGS
        return float(array[optimizers.N_SETTINGS if is_listed else optimizers.LEARNING_RATE])

    def where_not_finite(self, order: NDArray[np.int64], first: int) -> str:
        """Go forward once more, and look at each layer."""
        X = rows.converted(self._X, self._run.rows(order, first), self._mlp._dtype)
        where = self._overflowing(X)
        first += self._rows_before
        step = first // self.plan.batch_size + 1
        return f"step {step} (rows {first} to {first + len(X) - 1} of the epoch; {where} overflows)"

    def _overflowing(self, X: Array) -> str:
        """Which layer is first not finite."""
        with self._mlp._passing():
            self._mlp._forward(X)
            overflowing = [k for k, A in enumerate(self._mlp.activations) if not np.isfinite(A).all()]
        return f"layer {overflowing[0]}" if overflowing else "the loss itself"

    def measure(self) -> training.EpochEnd:
        """Rate and gradient of the last step; loss and metrics of the data."""
        mlp = self._mlp
        rate = self._rate_of(mlp._steps)
        # not by np.linalg.norm: its threads, OpenBLAS's, go on waiting busily and take the processors from ours
        factor = 1.0 if self._run.optimizer.max_gradient_norm is None else mlp._limited
        norm = math.sqrt(weights.gradient_square(mlp._gradient, factor))
        held_loss = self._loss_of_held()
        found = self._metrics_of_training() if self._metrics else {}
        of_held = self._metrics_of(*self._held) if self._held is not None and self._metrics else {}
        monitored = None
        if self._monitor is not None and self._last_step is not None:
            epoch = self.history.n_epochs + 1
            monitored = self._monitor.measure(epoch, self._last_step, rate, self._run.optimizer)
        return training.EpochEnd(rate, norm, held_loss, found, of_held, monitored)

    def _loss_of_held(self) -> float | None:
        return None if self._held is None else self._mlp._loss_value(*self._held)

    def _metrics_of_training(self) -> dict[str, float]:
        rows = self.plan.rows
        return self._metrics_of(*((self._X, self._targets) if rows is None else self._training_part(rows)))

    def _training_part(self, chosen: NDArray[np.int64]) -> tuple[Array, checks.Targets]:
        dtype = self._mlp._dtype
        of_targets = None if self._mlp._loss == "own" else dtype
        return rows.converted(self._X, chosen, dtype), self._targets.of_rows(chosen, of_targets)

    def _metrics_of(self, X: Array, targets: checks.Targets) -> dict[str, float]:
        predictions = self._mlp.predict(X)
        wanted = targets.values if self._mlp._loss == "own" else targets.as_rows(self._mlp._sizes[-1])
        return values_of(self._metrics, predictions, wanted)

    def keep(self) -> None:
        """Remember the parameters."""
        self._best[:] = self._mlp._vector

    def restore(self) -> None:
        """Put them back; what the optimizer remembers was of others."""
        if not np.array_equal(self._best, self._mlp._vector):
            self._mlp._assign(self._best)

    def reduce_rate(self, factor: float) -> None:
        """Until parameters are assigned."""
        self._mlp._rate_factor = max(self._mlp._rate_factor * factor, np.finfo(float).tiny)

    def _settings(self) -> dict[str, Any]:
        """What a run must have in common with the one that it goes on from, in terms of JSON."""
        plan, config = self.plan, dict(self._mlp.config)
        del config["n_threads"], config["verify"]  # they do not change what is computed
        wanted = {
            **config, "optimizer": self._run.optimizer, "batch_size": plan.batch_size, "n_samples": plan.n_samples,
            "shuffle": plan.shuffle, "early_stopping": plan.early_stopping, "data": self._data_in_short,
        }  # fmt: skip
        return dict(files.as_json(wanted, names_of_functions=True))

    def _shortened(self) -> int:
        """A number by which other data are told: of some rows, as there may be very many; 0 of blocks."""
        if self.plan.n_samples == 0:
            return 0
        chosen = np.unique(np.linspace(0, len(self._X) - 1, _ROWS_IN_SHORT).astype(np.int64))
        arrays = (self._X, self._targets.values, self._targets.labels, self._targets.weights)
        return zlib.crc32(b"".join(array[chosen].tobytes() for array in arrays if len(array)))

    def go_on_with(self, optimizer: settings.Optimizer, memory_factor: float) -> None:
        """Take the next steps by another optimizer of the same rule, that remembers so many times as much."""
        self._run = self._run._replace(optimizer=optimizer)
        self._mlp._memory *= memory_factor

    def save(self, history: training.History) -> None:
        """Write the model, the best parameters so far, and the history; none of parameters that are not finite."""
        if not np.isfinite(self._mlp._vector).all():
            return
        assert self.plan.checkpoint is not None  # noqa: S101 (for the type checker)
        training_state = {"settings": self._settings(), "history": vars(history)}
        files.write(self.plan.checkpoint.path, self._mlp.__getstate__(), self._mlp._sizes, training_state, self._best)

    def _stored(self, path: str | os.PathLike[str]) -> files.Stored | None:
        """What the checkpoint holds; None if there is none."""
        return files.read(path) if os.path.exists(path) else None

    def _resume(self, path: str | os.PathLike[str]) -> None:
        stored = self._stored(path)
        if stored is None:
            return
        own, theirs = self._settings(), stored.training.get("settings", {})
        if not (own["data"] and theirs.get("data")):  # of a run of several ranks, or of blocks
            del own["data"]
        different = [key for key in own if own[key] != theirs.get(key)]
        if different or stored.best is None:
            raise ValueError(
                f"checkpoint {os.fspath(path)!r} is of another run: {', '.join(different)} differ. Remove the file, or"
                " pass Checkpoint(path, resume=False) to replace it"
            )
        try:
            self.history = training.History(**stored.training["history"])
        except (KeyError, TypeError) as error:
            raise files.CorruptFileError(f"{os.fspath(path)!r} holds no history of a run: {error}") from None
        self._mlp._restore(stored.state)
        self._best[:] = stored.best
