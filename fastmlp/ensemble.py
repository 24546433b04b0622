"""Many networks of one shape, trained at once: each thread trains some of them, all of these in one compiled call.

Every member is an :class:`fastmlp.MLP`, and takes the very steps that it would take alone: the same bits. While one
thread is in compiled code, which releases the interpreter, another notes what came of its members' epochs and draws
their next orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from threading import Event
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import arguments, checks, fitting, predicting, rows, settings, threads, training
from fastmlp.kernels import calls, columns, layout, network
from fastmlp.mlp import MLP
from fastmlp.orders import Order
from fastmlp.trainee import Trainee

Array = NDArray[Any]

_SECONDS_PER_CALL = 0.1
"""About how long one compiled call lasts, between which Ctrl-C is seen."""


_SLOTS = {
    name: network.train.slot(name) for name in ("order", "first", "n_steps", "settings", "step", "total", "ended")
}


class Prediction(NamedTuple):
    """What an ensemble says of some samples.

    ``mean`` and ``spread`` (the standard deviation) of the members' outputs, of shape (n_samples, n_outputs), and
    ``members``, each one's output, of shape (n_members, n_samples, n_outputs).
    """

    mean: Array
    """Of the members' outputs, of shape (n_samples, n_outputs): of probabilities, the ensemble's probability."""
    spread: Array
    """Their standard deviation."""
    members: Array
    """Each member's output, of shape (n_members, n_samples, n_outputs)."""


class Ensemble:
    """Networks of one shape with different seeds, trained at once.

    Parameters
    ----------
    n_members : int
    layer_sizes : sequence of int
        As in :class:`fastmlp.MLP`.
    penalty : Penalty or sequence of them, optional
        One for all members, or one for each.
    rng : None, int, numpy.random.Generator or sequence of int
        Where the members' seeds come from; or the seeds themselves, one for each.
    n_threads : int, optional
        At most so many threads, each of which trains a part of the members. How many there are is settled when
        training begins: an equal share for each thread of the process that trains or predicts then.
    **settings
        The members' other settings, as in :class:`fastmlp.MLP`.

    Raises
    ------
    TypeError, ValueError
        Of each argument that does not fit, naming it.

    Notes
    -----
    Member ``k`` has the parameters, to the bit, of ``MLP(..., rng=seed)`` with its seed that is trained alone with the
    same arguments, whatever the number of threads.

    An ensemble is pickled as any object; into a file of its own each member goes by ``member.save``. Of what
    :meth:`fastmlp.MLP.fit` takes, there are no blocks, callbacks, checkpoints and monitor here: a member that is
    trained by itself has them.

    References
    ----------
    .. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell, *Simple and Scalable Predictive Uncertainty Estimation using
       Deep Ensembles*, NeurIPS 2017.

    Examples
    --------
    >>> import fastmlp, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (100, 1))
    >>> ensemble = fastmlp.Ensemble(5, [1, 8, 1], hidden_activation="tanh", rng=0)
    >>> histories = ensemble.fit(X, np.sin(3 * X), epochs=20, learning_rate=0.01, validation=0.2)
    >>> near, far = ensemble.predict([[0.0], [5.0]]).spread
    >>> bool(far > near)  # where there are no data, the members disagree
    True
    >>> ensemble.best in ensemble.members
    True
    """

    members: tuple[MLP, ...]
    """The networks: each may be used as any other."""

    def __init__(
        self,
        n_members: int,
        layer_sizes: Sequence[int],
        *,
        penalty: settings.Penalty | Sequence[settings.Penalty | None] | None = None,
        rng: int | np.random.Generator | Sequence[int] | None = None,
        n_threads: int | None = None,
        **settings: Any,
    ) -> None:
        count = checks.integer("n_members", n_members)
        self._n_threads = None if n_threads is None else checks.integer("n_threads", n_threads)
        penalties = _for_each("penalty", penalty, count)
        state: Any = rng.bit_generator.state if isinstance(rng, np.random.Generator) else None
        try:
            self.members = tuple(
                MLP(layer_sizes, penalty=one, rng=seed, n_threads=1, **settings)
                for one, seed in zip(penalties, _seeds(rng, count), strict=True)
            )
        except BaseException:
            if isinstance(rng, np.random.Generator):  # what is refused has drawn nothing
                rng.bit_generator.state = state
            raise
        self._histories: list[training.History] = []

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> MLP:
        return self.members[index]

    def __iter__(self) -> Iterator[MLP]:
        return iter(self.members)

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self)}: {self.members[0]!r}>"

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        epochs: int = 10,
        batch_size: int | None = 32,
        optimizer: str | settings.Optimizer | Sequence[str | settings.Optimizer] = "adam",
        learning_rate: settings.Rate | Sequence[settings.Rate] | None = None,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        bootstrap: bool = False,
        validation: tuple[ArrayLike, ArrayLike] | float | None = None,
        early_stopping: settings.EarlyStopping | bool | Sequence[settings.EarlyStopping | bool] = False,
        metrics: Any = None,
    ) -> list[training.History]:
        """Train all members, each on minibatches in an order of its own.

        Functions of yours, such as metrics and schedules, are called by several threads at once. They must not train
        or change members.

        Parameters
        ----------
        X, Y, epochs, batch_size, shuffle, sample_weight, metrics
            As in :meth:`fastmlp.MLP.fit`. Data of another dtype or layout are converted once, for all members.
        optimizer, learning_rate, early_stopping
            As there: one for all members, or a sequence with one for each.
        bootstrap : bool
            Train each member on samples drawn with replacement, as many as there are [1]_.
        validation : (X, Y) or float, optional
            As there. A fraction is another part of the samples for each member.

        Returns
        -------
        list of History
            One for each member. Ctrl-C ends the training of all, between two steps.

        References
        ----------
        .. [1] L. Breiman, *Bagging Predictors*, Machine Learning 24 (1996).
        """
        count = len(self)
        optimizers, rates = _for_each("optimizer", optimizer, count), _for_each("learning_rate", learning_rate, count)
        stoppings = _for_each("early_stopping", early_stopping, count)
        bootstrap = arguments.flag("bootstrap", bootstrap)
        first = self.members[0]
        X, targets = fitting.training_data(first, X, Y, sample_weight, None)
        X = rows.converted(X, slice(None), first._dtype)
        targets = targets.of_rows(slice(None), None if first._loss == "own" else first._dtype)
        Y = targets.labels if targets.labels.size else targets.values
        with _all_locked(self.members):
            trainees = [
                fitting.trainee_for(
                    mlp, X, Y, epochs=epochs, batch_size=batch_size, optimizer=optimizers[k], learning_rate=rates[k],
                    shuffle=shuffle, sample_weight=sample_weight, validation=validation, early_stopping=stoppings[k],
                    metrics=metrics, drawn=_drawn_by(mlp) if bootstrap else None,
                )
                for k, mlp in enumerate(self.members)
            ]  # fmt: skip
        with ExitStack() as all_unchanged, training.interruptible() as interrupted:
            for mlp, trainee in zip(self.members, trainees, strict=True):
                all_unchanged.enter_context(training.unchanged_if_refused(trainee, mlp._rng))
            self._side_by_side(lambda some: _train(self.members[some], trainees[some], interrupted), interrupted.set)
        self._histories = [trainee.history for trainee in trainees]
        for history in self._histories:
            training.warn_if_diverged(history)
        return self._histories

    def _side_by_side(self, work: Callable[[slice], None], stop: Callable[[], None] = lambda: None) -> None:
        """Do some work for all members: by each thread, for an equal part of them.

        ``stop`` makes the threads end soon, when an error ends the waiting for them.
        """
        n_threads = min(self._n_threads or threads.share(), len(self))
        parts = [slice(k * len(self) // n_threads, (k + 1) * len(self) // n_threads) for k in range(n_threads)]
        if n_threads == 1:
            work(parts[0])
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                try:
                    promised = [pool.submit(work, part) for part in parts]
                    while wait(promised, _SECONDS_PER_CALL).not_done:
                        pass  # without an end to the waiting, Windows would not tell of Ctrl-C
                except BaseException:  # an alarm, or a second Ctrl-C: the pool's end waits for the threads
                    stop()
                    raise
                for done in promised:
                    done.result()

    def predict(self, X: ArrayLike) -> Prediction:
        """Mean, spread and members' outputs for each sample.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        Prediction
        """
        first = self.members[0]
        X = checks.samples("X", X, first._sizes[0], first._dtype)
        each = np.empty((len(self), len(X), first._sizes[-1]), first._dtype)

        def predict_some(some: slice) -> None:
            """Predict with some of the members, in a workspace of the first one of them."""
            with predicting.room_for(self.members[some.start], 1) as workspace:
                for mlp, output in zip(self.members[some], each[some], strict=True):
                    predicting.many(mlp, workspace, X, output)

        self._side_by_side(predict_some)
        return Prediction(each.mean(axis=0), each.std(axis=0), each)

    @property
    def best(self) -> MLP:
        """The member with the lowest validation loss in the last training.

        Raises
        ------
        RuntimeError
            If it has not been trained with validation data.
        """
        losses = [
            min((loss for loss in history.validation_loss if np.isfinite(loss)), default=np.inf)
            for history in self._histories
        ]
        if not np.isfinite(losses).any():
            raise RuntimeError("there is no best member: fit(..., validation=...) compares them")
        return self.members[int(np.argmin(losses))]


@contextmanager
def _all_locked(members: Sequence[MLP]) -> Iterator[None]:
    """Let nobody else change these members."""
    with ExitStack() as stack:
        for mlp in members:
            stack.enter_context(mlp._lock)
        yield


def _for_each(name: str, value: Any, count: int) -> list[Any]:
    """One for each member: a sequence as it is, or the same again and again."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} must be one, or one for each of {count} members; got {len(value)}")
    return list(value)


def _seeds(rng: Any, count: int) -> list[int]:
    if isinstance(rng, Sequence | np.ndarray) and not isinstance(rng, str | bytes):
        return [checks.integer(f"rng[{k}]", seed, least=0) for k, seed in enumerate(_for_each("rng", rng, count))]
    _, generator = arguments.generator(rng)
    return [int(seed) for seed in generator.integers(2**63, size=count)]


def _drawn_by(mlp: MLP) -> Callable[[int], NDArray[np.int64]]:
    """Draw rows with replacement, the same ones for the same seed of a member."""
    seed = np.random.SeedSequence(arguments.entropy(mlp.config["rng"])).spawn(3)[2]
    return lambda n_samples: np.random.default_rng(seed).integers(n_samples, size=n_samples)


# ------------------------------------------------------------------------------------------------------------------
# training, side by side


class _Run:
    """The training of one member."""

    def __init__(self, mlp: MLP, trainee: Trainee) -> None:
        self.mlp, self.trainee, self.plan = mlp, trainee, trainee.plan
        self._epochs = training.epochs(self.plan, trainee, mlp._rng, trainee.history)
        self._next = next(self._epochs, None)
        self._known = np.empty(0)  # of the epochs of a stretch
        self._came: tuple[int, float, int] | training.Ended = columns.FINITE, 0.0, 0  # what came of the last steps
        self.done, self.total = 0, 0.0
        self.call: calls.Call | None = None
        if calls.are_packed() and trainee.is_plain:
            self._pack()

    @property
    def is_training(self) -> bool:
        """Whether there is another epoch."""
        return self._next is not None

    @property
    def order(self) -> Order:
        """The rows of the present epochs; of none that is over."""
        return layout.NO_ORDER if self._next is None else self._next.order

    @property
    def n_epochs(self) -> int:
        """How many epochs are trained at once."""
        return 1 if self._next is None else self._next.n_epochs

    def wanted(self, at_once: int) -> int:
        """How many steps to take next: at most so many of a single epoch, or those of several."""
        return self.n_epochs * self.plan.n_steps if self.n_epochs > 1 else min(at_once, self.plan.n_steps - self.done)

    def _pack(self) -> None:
        """Pack the call of its steps, in a workspace that is kept for it."""
        mlp, run = self.mlp, self.trainee.run
        self.workspace = mlp._borrow(run.batch_size)
        self.workspace.divide(1)
        self.memory, self.steps = mlp._memory_for(run.optimizer)
        self.array = run.optimizer.array
        X, targets = self.trainee.data
        self.call = calls.Call(
            network.train, self.workspace.crew, network.ALL_PASSES, self.workspace.plan, mlp._vector,
            self.workspace.arena, self.workspace.report, mlp._gradient, self.memory, rows.flat(X),
            rows.flat(targets.values), targets.labels, targets.weights, self.order, run.n_rows, run.batch_size, 0, 1,
            run.optimizer.code, self.array, self.steps + 1, 0.0, network.ONE_EPOCH,
        )  # fmt: skip

    def make_ready(self, table: NDArray[np.int64], wanted: int) -> None:
        """Write the next steps into a row of the table of all calls."""
        optimizer = self.trainee.run.optimizer
        if optimizer.is_scheduled:
            self.array = optimizer.with_rates(self.steps, wanted, self.mlp._rate_factor)
        self._known = np.empty(network.OF_EPOCH * self.n_epochs) if self.n_epochs > 1 else network.ONE_EPOCH
        for name, array in (("order", self.order), ("settings", self.array), ("ended", self._known)):
            table[_SLOTS[name]], table[_SLOTS[name] + 1] = calls.address(array), array.size
        table[_SLOTS["first"]], table[_SLOTS["n_steps"]] = self.done * self.plan.batch_size, wanted
        table[_SLOTS["step"]] = self.steps + 1
        table.view(np.float64)[_SLOTS["total"]] = self.total
        self.workspace.results[columns.TAKEN] = 0

    def take_by_itself(self, wanted: int) -> None:
        """Take steps without the others."""
        if self._next is not None and self.n_epochs > 1:
            self._came = self.trainee.epochs(self._next)
        else:
            first = self.done * self.plan.batch_size
            total, taken = self.trainee.take_steps(self.order, first, wanted, self.total)
            self._came = columns.FINITE, total, taken

    def count(self) -> None:
        """Count the steps that were taken with the others'."""
        status, total, taken = self.workspace.results.tolist()
        self._came = int(status), total, int(taken)
        self.steps += int(taken)
        optimizer = self.trainee.run.optimizer
        if taken:
            self.mlp._keep(optimizer, self.memory, self.steps)
        if optimizer.max_gradient_norm is not None:
            self.mlp._limited = float(self.workspace.report[columns.BATCH, columns.FACTOR])

    def go_on(self, wanted: int) -> None:
        """See what came of the steps that were wanted: there may be an epoch to end."""
        if isinstance(self._came, training.Ended):
            self._next = training.go_on(self._epochs, self._came)
            return
        status, total, taken = self._came
        if self._next is not None and self.n_epochs > 1:
            ended = self.trainee.ended_epochs(self._next, self._known, self.steps - taken, total, taken)
            self._next = training.go_on(self._epochs, ended)
            return
        self.total, self.done = total, self.done + taken
        why = ""
        if taken < wanted or status != columns.FINITE:
            why = training.not_finite(self.trainee, self.order, self.done * self.plan.batch_size)
        if why or self.done == self.plan.n_steps:
            self.end_epoch(why)

    def end_epoch(self, why: str) -> None:
        """Go on to the next one, if there is one."""
        plan = self.plan
        ended = training.Epoch(self.total, plan.total_weight, plan.n_samples, why)
        self._next = training.go_on(self._epochs, training.Ended(training.Known(), ended))
        self.done, self.total = 0, 0.0

    def let_go(self) -> None:
        """Give the workspace back."""
        if self.call is not None:
            self.mlp._free.append(self.workspace)


def _train(members: Sequence[MLP], trainees: list[Trainee], interrupted: Event) -> None:
    """Train some of the members, in one thread."""
    runs: list[_Run] = []
    with _all_locked(members), threads.at_work:
        try:
            for mlp, trainee in zip(members, trainees, strict=True):
                runs.append(_Run(mlp, trainee))
            _take_turns(runs, interrupted)
        except BaseException:
            interrupted.set()  # the other threads are to end too
            raise
        finally:
            for run in runs:
                run.let_go()


def _take_turns(runs: list[_Run], interrupted: Event) -> None:
    """Take steps of all that are still training, until none is."""
    packed = [run for run in runs if run.call is not None]
    packed_calls = [run.call for run in runs if run.call is not None]
    tables = np.array([call.table for call in packed_calls], np.int64)
    at_once, most = 1, max(run.plan.n_steps for run in runs)
    while any(run.is_training for run in runs):
        if interrupted.is_set():
            for run in runs:
                if run.is_training:
                    run.end_epoch(training.INTERRUPTED)
            return
        start = perf_counter()
        wanted = {run: run.wanted(at_once) for run in runs if run.is_training}
        active = [k for k, run in enumerate(packed) if run in wanted]
        for run, n_steps in wanted.items():
            if run.call is None:
                run.take_by_itself(n_steps)
        for k in active:
            packed[k].make_ready(tables[k], wanted[packed[k]])
        try:
            if active:
                calls.run_each(packed_calls[0].entry, tables[active])
        finally:  # whatever happens then, to whichever run
            for k in active:
                packed[k].count()
        seconds = perf_counter() - start
        for run, n_steps in wanted.items():
            run.go_on(n_steps)
        at_once = max(1, min(most, int(at_once * min(8.0, _SECONDS_PER_CALL / max(seconds, 1e-6)))))
