"""fit: epochs, minibatches, shuffling, validation, progress and history."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_SECONDS_PER_CALL = 0.05
"""How long compiled code may run before it comes up for air: to show progress, and to see Ctrl-C."""


@dataclass
class History:
    """What happened during :meth:`fastmlp.MLP.fit`, one entry per finished epoch."""

    loss: list[float] = field(default_factory=list)
    """Training loss: the mean over the epoch's samples, each under the parameters its minibatch met."""
    validation_loss: list[float] = field(default_factory=list)
    """Loss of the validation set at the end of the epoch; empty without one."""
    seconds: list[float] = field(default_factory=list)
    """Duration of the epoch, validation included."""
    stopped: str = ""
    """Why training ended, in words."""

    @property
    def n_epochs(self) -> int:
        """Finished epochs."""
        return len(self.loss)

    def __str__(self) -> str:
        if not self.loss:
            return f"no epoch finished: {self.stopped}"
        text = f"{self.n_epochs} epochs in {sum(self.seconds):.2f} s, loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}"
        if self.validation_loss:
            text += f", validation loss {self.validation_loss[0]:.4g} -> {self.validation_loss[-1]:.4g}"
        return f"{text}; {self.stopped}"


class Steps(Protocol):
    """Take training steps: from the epoch's order, first row, and number of steps, to (loss × samples, steps taken).

    Fewer steps are taken only if the loss became infinite or NaN: the parameters are then those before that step.
    """

    def __call__(self, order: NDArray[np.int64], first: int, n_steps: int) -> tuple[float, int]:
        """Take them."""


@dataclass(frozen=True)
class Plan:
    """How long to train, and on what."""

    n_samples: int
    epochs: int
    batch_size: int
    shuffle: bool
    progress: bool


_IN_ORDER = np.empty(0, np.int64)


def fit(
    plan: Plan, steps: Steps, rng: np.random.Generator, validation_loss: Callable[[], float] | None = None
) -> History:
    """Train for some epochs.

    The order of an epoch is drawn from ``rng`` when the epoch begins, so training twice for one epoch is the same as
    training once for two.
    """
    history = History()
    with _progress_bar(plan) as bar, _interruptible() as interrupted:
        for epoch in range(plan.epochs):
            start = time.perf_counter()
            order = rng.permutation(plan.n_samples) if plan.shuffle else _IN_ORDER
            total, why = _epoch(plan, steps, order, interrupted, bar)
            if why:
                history.stopped = f"{why} in epoch {epoch + 1}"
                break
            history.loss.append(total / plan.n_samples)
            if validation_loss is not None:
                history.validation_loss.append(validation_loss())
            history.seconds.append(time.perf_counter() - start)
            _show(bar, history)
        else:
            history.stopped = "all epochs done"
    return history


def _epoch(
    plan: Plan, steps: Steps, order: NDArray[np.int64], interrupted: threading.Event, bar: Any
) -> tuple[float, str]:
    """One epoch, in calls of compiled code that last about ``_SECONDS_PER_CALL``: its total loss, and why it broke."""
    n_steps = -(-plan.n_samples // plan.batch_size)
    total, done, at_once = 0.0, 0, 1
    while done < n_steps:
        if interrupted.is_set():
            return total, "interrupted"
        wanted = min(at_once, n_steps - done)
        start = time.perf_counter()
        loss, taken = steps(order, done * plan.batch_size, wanted)
        per_step = (time.perf_counter() - start) / wanted
        done += taken
        if taken < wanted:
            return total, f"stopped because the loss was not finite at step {done + 1}"
        total += loss
        if bar is not None:
            bar.update(taken)
        at_once = max(1, int(_SECONDS_PER_CALL / per_step))
    return total, ""


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in two; the second one interrupts as usual.

    Outside of the main thread, where signals cannot be handled, Ctrl-C is the main thread's business.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:  # noqa: ARG001
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    if before is None:  # a handler that was not installed from Python: leave it alone
        yield interrupted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress_bar(plan: Plan) -> Iterator[Any]:
    """A bar over all steps; None if it is not wanted, or if there is no terminal to show it."""
    if not plan.progress:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 (it costs 30 ms that `import fastmlp` need not pay)

    steps = plan.epochs * -(-plan.n_samples // plan.batch_size)
    with tqdm(total=steps, unit="step", disable=None, mininterval=0.1) as bar:
        yield bar


def _show(bar: Any, history: History) -> None:
    if bar is None or bar.disable:
        return
    shown = {"epoch": history.n_epochs, "loss": f"{history.loss[-1]:.4g}"}
    if history.validation_loss:
        shown["validation"] = f"{history.validation_loss[-1]:.4g}"
    bar.set_postfix(shown, refresh=False)
