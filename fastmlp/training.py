"""fit: epochs, minibatches, order, validation, stopping, checkpoints, progress and history."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import threads
from fastmlp.diagnosis import Diagnosis, Measured, Watched, diagnose
from fastmlp.kernels.layout import NO_ORDER
from fastmlp.orders import Order, shuffled
from fastmlp.settings import Checkpoint, EarlyStopping, ReduceOnPlateau

_ORDERS_AHEAD = 1 << 20
"""How many rows' places in the orders of coming epochs are drawn beforehand."""

_NOT_FINITE = "stopped because the loss was not finite"

INTERRUPTED = "interrupted"
"""Why an epoch broke, after Ctrl-C."""

_ALL_DONE = "all epochs done"

_SECONDS_PER_CALL = 0.1
"""How long compiled code may run before it comes up for air: to show progress, and to see Ctrl-C."""


@dataclass
class History:
    """What happened during :meth:`fastmlp.MLP.fit`, one entry per finished epoch."""

    loss: list[float] = field(default_factory=list)
    """Training loss: the mean over the epoch's samples, each under the parameters its minibatch met."""
    validation_loss: list[float] = field(default_factory=list)
    """Loss of the validation set at the end of the epoch; empty without one."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Metrics of the training set at the end of the epoch, by name."""
    validation_metrics: dict[str, list[float]] = field(default_factory=dict)
    """Metrics of the validation set at the end of the epoch, by name."""
    learning_rate: list[float] = field(default_factory=list)
    """Of the epoch's last step."""
    gradient_norm: list[float] = field(default_factory=list)
    """Length of the gradient of all parameters, of the epoch's last minibatch, before it was limited."""
    seconds: list[float] = field(default_factory=list)
    """Duration of the epoch, validation included."""
    samples_per_second: list[float] = field(default_factory=list)
    """Training samples by that duration."""
    best_epoch: int = 0
    """The epoch, from 1, with the lowest validation loss (training loss without validation)."""
    stopped: str = ""
    """Why training ended, in words."""
    monitored: list[dict[str, Any]] = field(default_factory=list)
    """What the monitor measured after each epoch, as :class:`fastmlp.diagnosis.Measured` has it; empty without."""
    monitored_network: dict[str, Any] = field(default_factory=dict)
    """What it knows of the network and the data."""

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong with the run, in words; ``print`` it.

        Raises
        ------
        RuntimeError
            If the run was not monitored.
        """
        if not self.monitored_network:
            raise RuntimeError("there is no diagnosis: fit(..., monitor=True) makes one")
        measured = [Measured(**record) for record in self.monitored]
        about = {"stopped": self.stopped, "learning_rate": self.learning_rate, **self.monitored_network}
        return diagnose(Watched(measured, self.loss, self.validation_loss, **about))

    @property
    def n_epochs(self) -> int:
        """Finished epochs."""
        return len(self.loss)

    @property
    def watched(self) -> list[float]:
        """The loss by which epochs are compared: of the validation set, if there is one."""
        return self.validation_loss or self.loss

    def __str__(self) -> str:
        if not self.loss:
            return f"no epoch finished: {self.stopped}"
        text = f"{self.n_epochs} epochs in {sum(self.seconds):.2f} s, loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}"
        if self.validation_loss:
            text += f", validation loss {self.validation_loss[0]:.4g} -> {self.validation_loss[-1]:.4g}"
        return f"{text}; {self.stopped}"


class EpochEnd(NamedTuple):
    """What is measured at the end of an epoch."""

    learning_rate: float
    gradient_norm: float
    validation_loss: float | None
    metrics: dict[str, float]
    validation_metrics: dict[str, float]
    monitored: Measured | None


class Trainee(Protocol):
    """What is trained."""

    at_once: int
    """Steps that compiled code took in a tenth of a second when it was last measured; 1 as long as nobody knows."""

    def take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        """Take training steps from a row of the epoch's order on.

        Returns ``total`` plus the steps' losses times their samples' weights, added one by one, so that it does not
        matter in how many calls the steps are taken; and the number of steps taken.

        Fewer steps are taken only if the loss became infinite or NaN: the parameters are then those before that step.
        """

    @property
    def steps(self) -> tuple[int, NDArray[np.floating]]:
        """How many steps were taken, and what the optimizer remembers: the same array as long as none was."""

    @property
    def may_go_ahead(self) -> bool:
        """Whether several epochs may be trained at once, as there is nothing to do between them."""

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> Epoch:
        """Train for one epoch; until it is interrupted, between two steps."""

    def epochs(self, stretch: Stretch) -> Ended:
        """Train for several."""

    def where_not_finite(self, order: NDArray[np.int64], first: int) -> str:
        """Tell, in words, which step it is from this row on, and where in the network it is first not finite."""

    def measure(self) -> EpochEnd:
        """Measure what is wanted at the end of an epoch."""

    def keep(self) -> None:
        """Remember the present parameters as the best ones."""

    def restore(self) -> None:
        """Put the best parameters back."""

    def reduce_rate(self, factor: float) -> None:
        """Multiply the learning rate."""

    def save(self, history: History) -> None:
        """Write the checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How long to train, on what, and what to do after each epoch."""

    rows: NDArray[np.int64] | None
    """The rows to train on; None means all of them."""
    n_samples: int
    """0 if that is not known beforehand."""
    total_weight: float
    epochs: int
    batch_size: int
    shuffle: bool
    progress: bool
    early_stopping: EarlyStopping | None = None
    plateau: ReduceOnPlateau | None = None
    callbacks: Sequence[Callable[[History], object]] = ()
    checkpoint: Checkpoint | None = None
    monitor: bool = False

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.n_samples // self.batch_size)

    @property
    def is_watched(self) -> bool:
        """Whether there is something to do between two epochs."""
        return bool(self.early_stopping or self.plateau or self.callbacks or self.checkpoint or self.monitor)

    @property
    def is_scattered(self) -> bool:
        """Whether the rows of an epoch are not taken as they stand."""
        return self.rows is not None or (self.shuffle and self.batch_size < self.n_samples)

    def order(self, rng: np.random.Generator, n_epochs: int = 1, memory: Order = NO_ORDER) -> Order:
        """The rows of some epochs, one after the other; empty where they are taken as they stand.

        In a batch of all samples their order says nothing, and none is drawn. ``memory`` is as in
        :func:`~fastmlp.orders.shuffled`.
        """
        if self.shuffle and self.batch_size < self.n_samples:
            return shuffled(self.n_samples if self.rows is None else self.rows, rng, n_epochs, memory)
        return NO_ORDER if self.rows is None else np.tile(self.rows, n_epochs)


class Stretch(NamedTuple):
    """Epochs between which there is nothing to do."""

    order: Order
    """Of each epoch, one after the other. The next stretch's may come in its place."""
    n_epochs: int


class Epoch(NamedTuple):
    """What came of an epoch."""

    total: float
    """The sum of its losses times their weights."""
    weight: float
    """The sum of the weights."""
    n_samples: int
    why: str = ""
    """Why it broke, or nothing."""


class Known(NamedTuple):
    """What compiled code knows of epochs: a number of each."""

    loss: Sequence[float] = ()
    learning_rate: Sequence[float] = ()
    gradient_norm: Sequence[float] = ()


class Ended(NamedTuple):
    """What came of a stretch."""

    known: Known
    """Of the epochs that compiled code has measured."""
    last: Epoch | None
    """The one behind them, if there is one: it is still to be measured, or it broke."""


def fit(plan: Plan, trainee: Trainee, rng: np.random.Generator, history: History) -> History:
    """Train for some epochs, those that ``history`` has already among them."""
    run = epochs(plan, trainee, rng, history)
    with (
        unchanged_if_refused(trainee, rng),
        _progress_bar(plan, history) as bar,
        interruptible() as interrupted,
        threads.at_work,
    ):
        stretch = next(run, None)
        while stretch is not None:
            if stretch.n_epochs == 1 or interrupted.is_set():
                ended = Ended(Known(), trainee.epoch(stretch.order, interrupted, bar))
            else:
                ended = trainee.epochs(stretch)
                if bar is not None:
                    bar.update(stretch.n_epochs * plan.n_steps)
            stretch = go_on(run, ended)
            _show(bar, history)
        if interrupted.is_set() and history.stopped == _ALL_DONE:  # it came with the last steps
            history.stopped = f"{INTERRUPTED} in epoch {history.n_epochs}"
    return history


@contextmanager
def unchanged_if_refused(trainee: Trainee, rng: np.random.Generator) -> Iterator[None]:
    """What is refused before the first step has drawn no order of samples."""
    state, (steps, memory) = rng.bit_generator.state, trainee.steps
    try:
        yield
    except BaseException:
        if trainee.steps[0] == steps and trainee.steps[1] is memory:
            rng.bit_generator.state = state
        raise


def once(plan: Plan, trainee: Trainee, rng: np.random.Generator) -> Epoch:
    """Train for one epoch of which no history is kept; Ctrl-C ends it between two steps as it ends other programs."""
    with threads.at_work:
        return trainee.epoch(plan.order(rng, 1), threading.Event(), None)


Run = Generator[Stretch, Ended, None]


def warn_if_diverged(history: History) -> None:
    """Say aloud that a run has ended before its time."""
    if history.stopped.startswith(_NOT_FINITE):
        warnings.warn(f"training {history.stopped}", RuntimeWarning, stacklevel=3)


def go_on(run: Run, ended: Ended) -> Stretch | None:
    """Tell a run what came of its epochs: the next ones, or None if those were the last."""
    try:
        return run.send(ended)
    except StopIteration:
        return None


def epochs(plan: Plan, trainee: Trainee, rng: np.random.Generator, history: History) -> Run:
    """Give the epochs, and be told what came of them; in between is all that there is to do.

    The order of an epoch is the next that ``rng`` gives, so training twice for one epoch is the same as training once
    for two.
    """
    written, ahead, memory = time.monotonic(), 1, NO_ORDER
    stopping, plateau = _Patience(plan.early_stopping, history), _Patience(plan.plateau, history)
    history.stopped = history.stopped if stopping.is_over else _ALL_DONE
    while history.n_epochs < plan.epochs and not stopping.is_over:
        start, count = time.perf_counter(), min(ahead, plan.epochs - history.n_epochs)
        state = rng.bit_generator.state if count > 1 else None
        order = plan.order(rng, count, memory)
        memory = max(memory, order, key=len)
        known, last = yield Stretch(order, count)
        why = ""
        if known.loss:
            _note_known(history, known, (time.perf_counter() - start) / count, plan.n_samples)
        if last is not None and last.why:
            history.stopped = why = f"{last.why} in epoch {history.n_epochs + 1}"
        elif last is not None:
            _note(history, last.total / last.weight, trainee.measure())
            history.seconds.append(time.perf_counter() - start)
            history.samples_per_second.append(last.n_samples / max(history.seconds[-1], 1e-9))
            why = _after_epoch(plan, trainee, history, stopping, plateau)
            history.stopped = why or history.stopped
            written = _write(plan, trainee, history, written, is_last=bool(why) or history.n_epochs == plan.epochs)
        if why:
            begun = len(known.loss) + 1
            if state is not None and begun < count:  # those that have not been begun have drawn nothing
                rng.bit_generator.state = state
                plan.order(rng, begun)
            break
        if trainee.may_go_ahead:
            wanted = int(min(_SECONDS_PER_CALL / max(history.seconds[-1], 1e-6), _ORDERS_AHEAD / plan.n_samples))
            ahead = max(1, min(wanted, 8 * ahead))
    if plan.early_stopping is not None and plan.early_stopping.restore_best and history.n_epochs:
        trainee.restore()


def _note_known(history: History, known: Known, seconds: float, n_samples: int) -> None:
    """Add epochs between which there was nothing to do, of so many seconds each: one by one, each took Python 4 us."""
    lowest = int(np.argmin(known.loss))
    if not history.best_epoch or known.loss[lowest] < _or_infinite(history.watched[history.best_epoch - 1]):
        history.best_epoch = history.n_epochs + lowest + 1
    history.loss += known.loss
    history.learning_rate += known.learning_rate
    history.gradient_norm += known.gradient_norm
    history.seconds += [seconds] * len(known.loss)
    history.samples_per_second += [n_samples / max(seconds, 1e-9)] * len(known.loss)


def _note(history: History, loss: float, measured: EpochEnd) -> None:
    """Add an epoch to the history."""
    history.loss.append(loss)
    if measured.validation_loss is not None:
        history.validation_loss.append(measured.validation_loss)
    for found, lists in (
        (measured.metrics, history.metrics),
        (measured.validation_metrics, history.validation_metrics),
    ):
        for name, value in found.items():
            lists.setdefault(name, []).append(value)
    history.learning_rate.append(measured.learning_rate)
    history.gradient_norm.append(measured.gradient_norm)
    if measured.monitored is not None:
        history.monitored.append(asdict(measured.monitored))


class _Patience:
    """Counts the epochs since the loss last fell by more than the minimum gain below the best one so far."""

    def __init__(self, settings: EarlyStopping | ReduceOnPlateau | None, history: History) -> None:
        self.waited = 0
        self._settings, self._best = settings, np.inf
        for loss in history.watched:  # those of the run that goes on
            self.tell(loss)

    def tell(self, loss: float) -> None:
        """Note the loss of another epoch."""
        if self._settings is None:
            return
        loss = _or_infinite(loss)
        if self.is_over and isinstance(self._settings, ReduceOnPlateau):
            self.waited = 0  # the rate has been reduced: count again
        if loss < self._best - self._settings.minimum_gain or np.isinf(self._best):
            self._best, self.waited = loss, 0
        else:
            self.waited += 1

    @property
    def is_over(self) -> bool:
        """Whether there is none left."""
        return self._settings is not None and self.waited >= self._settings.patience


def _or_infinite(loss: float) -> float:
    """The loss; one that is NaN is as bad as an infinite one, and no reason to keep what has it."""
    return np.inf if np.isnan(loss) else loss


def _after_epoch(plan: Plan, trainee: Trainee, history: History, stopping: _Patience, plateau: _Patience) -> str:
    """Early stopping, a lower learning rate, callbacks: why training is to stop, or nothing."""
    loss, why = _or_infinite(history.watched[-1]), ""
    if not history.best_epoch or loss < _or_infinite(history.watched[history.best_epoch - 1]):
        history.best_epoch = history.n_epochs
        if plan.early_stopping is not None:
            trainee.keep()
    stopping.tell(loss)
    plateau.tell(loss)
    if stopping.is_over:
        why = f"stopped early: {stopping.waited} epochs without a gain; the best was epoch {history.best_epoch}"
    if plan.plateau is not None and plateau.is_over:
        trainee.reduce_rate(plan.plateau.factor)
    for callback in plan.callbacks:
        if callback(history):
            why = why or "a callback asked to stop"
    return why


def _write(plan: Plan, trainee: Trainee, history: History, written: float, *, is_last: bool) -> float:
    """Write a checkpoint if it is time; returns when one was written last."""
    if plan.checkpoint is None:
        return written
    every, minutes = plan.checkpoint.every_epochs, plan.checkpoint.every_minutes
    due = minutes is not None and time.monotonic() - written >= 60 * minutes
    if is_last or due or (every is not None and history.n_epochs % every == 0):
        trainee.save(history)
        return time.monotonic()
    return written


def epoch(
    plan: Plan, trainee: Trainee, order: Order, interrupted: threading.Event, bar: Any, total: float = 0.0
) -> Epoch:
    """One epoch, in calls of compiled code of about ``_SECONDS_PER_CALL`` each; its losses are added to ``total``."""
    n_steps, done = plan.n_steps, 0
    while done < n_steps:
        if interrupted.is_set():
            return Epoch(total, plan.total_weight, plan.n_samples, INTERRUPTED)
        wanted = min(trainee.at_once, n_steps - done)
        start = time.perf_counter()
        total, taken = trainee.take_steps(order, done * plan.batch_size, wanted, total)
        per_step = (time.perf_counter() - start) / wanted
        done += taken
        if taken < wanted:
            why = not_finite(trainee, order, done * plan.batch_size)
            return Epoch(total, plan.total_weight, plan.n_samples, why)
        if bar is not None:
            bar.update(taken)
        trainee.at_once = max(1, int(_SECONDS_PER_CALL / per_step))
    return Epoch(total, plan.total_weight, plan.n_samples)


def not_finite(trainee: Trainee, order: Order, first: int) -> str:
    """Why an epoch broke at the step from this row on."""
    return f"{_NOT_FINITE} at {trainee.where_not_finite(order, first)}"


def hold_out(
    n_samples: int, fraction: float, classes: NDArray[np.int64] | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, in rising order; of each class the same fraction."""
    groups = [np.arange(n_samples)] if classes is None else [np.flatnonzero(classes == k) for k in np.unique(classes)]
    drawn = [rng.permutation(rows) for rows in groups]
    # as many as the fraction says altogether: what is left over in the classes is added up
    ends = np.round(np.cumsum([fraction * len(rows) for rows in drawn])).astype(int)
    counts = np.diff(ends, prepend=0)
    held = np.sort(np.concatenate([rows[:count] for rows, count in zip(drawn, counts, strict=True)]))
    if not 0 < len(held) < n_samples:
        raise ValueError(
            f"validation must leave samples on both sides; got {fraction} of {n_samples}, which is {len(held)}"
        )
    return np.setdiff1d(np.arange(n_samples), held, assume_unique=True), held


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in two; the second one interrupts as usual.

    Outside of the main thread, where signals cannot be handled, Ctrl-C is the main thread's business. Where it is
    ignored, it still is; a handler of the user's is called too.
    """
    interrupted = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    before: Any = signal.getsignal(signal.SIGINT) if is_main else None
    if not callable(before):
        yield interrupted
        return

    def note(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
        if before is not signal.default_int_handler:  # the user's; or of the training in whose callback this one is
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress_bar(plan: Plan, history: History) -> Iterator[Any]:
    """A bar over all steps; None if it is not wanted, or if there is no terminal to show it."""
    if not plan.progress:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 (it costs 30 ms that `import fastmlp` need not pay)

    total, done = plan.epochs * plan.n_steps or None, history.n_epochs * plan.n_steps
    with tqdm(total=total, initial=done, unit="step", disable=None, mininterval=0.1) as bar:
        yield bar


def _show(bar: Any, history: History) -> None:
    if bar is None or bar.disable or not history.loss:
        return
    shown = {"epoch": history.n_epochs, "loss": f"{history.loss[-1]:.4g}"}
    if history.validation_loss:
        shown["validation"] = f"{history.validation_loss[-1]:.4g}"
    shown["samples/s"] = f"{history.samples_per_second[-1]:.3g}"
    bar.set_postfix(shown, refresh=False)
