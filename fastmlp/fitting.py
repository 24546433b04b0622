"""What ``fit`` is given: checked, and made into a plan, and into what is trained.

Rows come in three ways: as arrays, in blocks, or as the part that one of several ranks has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import arguments, blocks, checks, distributed, rows, settings, training
from fastmlp.kernels import jit
from fastmlp.metrics import as_metrics
from fastmlp.stepping import Run
from fastmlp.streaming import MappedTrainee, StreamTrainee
from fastmlp.trainee import Trainee

Array = NDArray[Any]

_OF_CLASSES = ("binary_cross_entropy", "softmax_cross_entropy")


class Given(NamedTuple):
    """What :meth:`fastmlp.MLP.fit` trains on."""

    X: Any
    targets: checks.Targets
    rows: NDArray[np.int64] | None
    """The rows to train on; None is all of them."""
    held: tuple[Array, checks.Targets] | None
    """Validation data."""
    n_samples: int
    """Rows to train on; 0 if that is not known beforehand."""
    total_weight: float


def trainee_for(
    mlp: Any,
    X: Any,
    Y: ArrayLike | None,
    *,
    epochs: int,
    batch_size: int | None,
    optimizer: str | settings.Optimizer,
    learning_rate: settings.Rate | None,
    shuffle: bool,
    sample_weight: ArrayLike | None,
    class_weight: str | Mapping[int, float] | None = None,
    validation: Any = None,
    early_stopping: settings.EarlyStopping | bool = False,
    metrics: Any = None,
    callbacks: Any = (),
    checkpoint: Any = None,
    monitor: bool = False,
    progress: bool = False,
    drawn: Callable[[int], NDArray[np.int64]] | None = None,
    ranks: distributed.Ranks | None = None,
) -> Trainee:
    """Check what :meth:`fastmlp.MLP.fit` is given, and make the model ready. ``drawn`` chooses among the rows."""
    chosen = settings.as_optimizer(optimizer, learning_rate)
    validation = float(validation) if isinstance(validation, np.floating) else validation
    shard: distributed.Shard | None = None
    if ranks is not None:
        _check_beside_ranks(mlp, Y, monitor)
        distributed.agree(ranks, {
            **_alike(mlp), "epochs": epochs, "batch_size": batch_size, "optimizer": chosen, "shuffle": shuffle,
            "early_stopping": early_stopping, "metrics": list(as_metrics(metrics)),
            "validation": validation if isinstance(validation, float) else validation is not None,
            "checkpoint": checkpoint is not None, "class_weight": class_weight,
        })  # fmt: skip
        shard, given = _given_to_ranks(mlp, ranks, X, Y, sample_weight, class_weight, validation)
        callbacks = [distributed.in_agreement(ranks, arguments.callbacks(mlp, callbacks))]
        progress = progress and ranks.rank == 0
    elif Y is None:
        held = _beside_blocks(mlp, X, batch_size, sample_weight, class_weight, validation, monitor)
        given = Given(X, checks.Targets(np.empty(0, mlp._dtype)), None, held, 0, 0.0)
    else:
        given = _given(mlp, X, Y, sample_weight, class_weight, validation, drawn)
    n_samples, all_metrics = given.n_samples, as_metrics(metrics)
    if Y is None and all_metrics and given.held is None:
        raise ValueError(f"metrics of blocks are of validation data, (X, Y); got {', '.join(all_metrics)} without any")
    plan = training.Plan(
        rows=given.rows,
        n_samples=n_samples,
        total_weight=given.total_weight,
        epochs=checks.integer("epochs", epochs),
        batch_size=arguments.batch_size(batch_size, n_samples or None),
        shuffle=arguments.flag("shuffle", shuffle),
        progress=arguments.flag("progress", progress),
        early_stopping=arguments.early_stopping(early_stopping),
        plateau=chosen.learning_rate if isinstance(chosen.learning_rate, settings.ReduceOnPlateau) else None,
        callbacks=callbacks if shard is not None else arguments.callbacks(mlp, callbacks),
        checkpoint=_checkpoint(mlp, checkpoint, is_written_here=ranks is None or ranks.rank == 0),
        monitor=arguments.flag("monitor", monitor),
    )
    run = Run(chosen, plan.batch_size, n_samples)
    if ranks is not None and shard is not None:
        ranks.together(None)  # nobody has refused
        with _taken_over(mlp, ranks):
            return distributed.ShardTrainee(mlp, ranks, shard, plan, run, given.held, all_metrics)
    if Y is None:
        return StreamTrainee(mlp, X, partial(block_of_rows, mlp), plan, run, given.held, all_metrics)
    is_mapped = rows.MappedPages(given.X, given.targets.values).are_many and plan.is_scattered
    by_pools = is_mapped and not (plan.monitor or mlp.config["verify"] or mlp._loss == "own")
    kind = MappedTrainee if by_pools else Trainee
    return kind(mlp, *_converted_once(mlp, given.X, given.targets), plan, run, given.held, all_metrics)


def _checkpoint(mlp: Any, value: Any, *, is_written_here: bool) -> settings.Checkpoint | None:
    """Refuse one that could not be written at the end of the first epoch."""
    chosen = arguments.checkpoint(value)
    if chosen is None:
        return None
    if mlp._loss == "own":
        raise TypeError(f"checkpoint must be None beside a loss of your own, which no file can hold; got {value!r}")
    path = os.path.realpath(os.fspath(chosen.path))
    if is_written_here and os.path.isdir(path):
        raise IsADirectoryError(f"checkpoint must be a file; got a folder, {os.fspath(chosen.path)!r}")
    if is_written_here and not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(f"checkpoint must be in a folder that exists; got {os.fspath(chosen.path)!r}")
    return chosen


def _converted_once(mlp: Any, X: Array, targets: checks.Targets) -> tuple[Array, checks.Targets]:
    """The data as compiled code reads them, if they are few; others are converted some rows at a time, when needed."""
    if mlp._loss == "own" or not (rows.are_few(X, mlp._dtype) and rows.are_few(targets.values, mlp._dtype)):
        return X, targets
    return rows.converted(X, slice(None), mlp._dtype), targets.of_rows(slice(None), mlp._dtype)


# ------------------------------------------------------------------------------------------------------------------
# arrays


def training_data(
    mlp: Any, X: Any, Y: ArrayLike, sample_weight: ArrayLike | None, class_weight: Any
) -> tuple[Array, checks.Targets]:
    """Check all of the data before the first step, as they are: they may be a large file."""
    X, targets = mlp._data(X, Y, sample_weight, class_weight, convert=False)
    checks.finite("X", X, mlp._dtype)
    if targets.values.size and mlp._loss != "own":
        checks.finite("Y", targets.values, mlp._dtype)
    return X, targets


def _given(
    mlp: Any,
    X: Any,
    Y: ArrayLike,
    sample_weight: ArrayLike | None,
    class_weight: Any,
    validation: Any,
    drawn: Callable[[int], NDArray[np.int64]] | None,
) -> Given:
    """Check the data, and divide them into what is trained on and what is held out."""
    X, targets = training_data(mlp, X, Y, sample_weight, class_weight)
    if mlp._loss in _OF_CLASSES:
        checks.several_classes(targets)
    held_out = _validation(mlp, validation, X, targets)
    training_rows, held = held_out if held_out is not None else (None, None)
    n_samples = X.shape[0] if training_rows is None else len(training_rows)
    if drawn is not None:
        training_rows = drawn(n_samples) if training_rows is None else training_rows[drawn(n_samples)]
    total_weight = _weight_of(targets, training_rows, n_samples)
    if total_weight == 0:
        raise _no_weight("trained on")
    if held is not None and held[1].total_weight(len(held[0])) == 0:
        raise _no_weight("held out by validation")
    return Given(X, targets, training_rows, held, n_samples, total_weight)


def _no_weight(what: str) -> ValueError:
    return ValueError(f"sample_weight must be above 0 somewhere among the samples that are {what}; got zero for all")


def _weight_of(targets: checks.Targets, training_rows: NDArray[np.int64] | None, n_samples: int) -> float:
    if training_rows is None or not targets.weights.size:
        return targets.total_weight(n_samples)
    return float(targets.weights[training_rows].sum())


def _validation(
    mlp: Any, validation: Any, X: Array, targets: checks.Targets
) -> tuple[NDArray[np.int64] | None, tuple[Array, checks.Targets]] | None:
    """From a fraction or a pair: the rows to train on (None is all), and validation data."""
    if validation is None:
        return None
    if isinstance(validation, float):
        classes = targets.classes() if mlp._loss in _OF_CLASSES else None
        kept, held = _hold_out(arguments.entropy(mlp.config["rng"]), validation, X.shape[0], classes)
        some = targets.of_rows(held, None if mlp._loss == "own" else mlp._dtype)
        return kept, (rows.converted(X, held, mlp._dtype), some)
    try:
        X_given, Y_given = validation
    except (TypeError, ValueError):
        expected = "a pair (X, Y), or a fraction of the samples"
        length = f" of {len(validation)}" if hasattr(validation, "__len__") else ""
        raise TypeError(f"validation must be {expected}; got {type(validation).__name__}{length}") from None
    some_X = checks.samples("validation X", X_given, mlp._sizes[0], mlp._dtype)
    some = mlp._targets("validation Y", Y_given, some_X.shape[0], mlp._dtype)
    checks.finite("validation X", some_X, mlp._dtype)
    if some.values.size and mlp._loss != "own":
        checks.finite("validation Y", some.values, mlp._dtype)
    return None, (some_X, some)


def _hold_out(
    entropy: Any, fraction: float, n_samples: int, classes: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on, and rows to validate on."""
    settings.check_number("validation", fraction, low=0, high=1, low_allowed=False)
    seed = np.random.SeedSequence(entropy).spawn(1)[0]
    return training.hold_out(n_samples, fraction, classes, np.random.default_rng(seed))


# ------------------------------------------------------------------------------------------------------------------
# blocks


def _beside_blocks(
    mlp: Any, source: Any, batch_size: Any, sample_weight: Any, class_weight: Any, validation: Any, monitor: Any
) -> tuple[Array, checks.Targets] | None:
    """Check what :meth:`fastmlp.MLP.fit` is given beside blocks: validation data."""
    blocks.check_source(source)
    if batch_size is None:
        raise ValueError("batch_size must be a whole number where X is blocks, whose rows are not counted; got None")
    for name, value in (("sample_weight", sample_weight), ("class_weight", class_weight)):
        if value is not None:
            what = type(value).__name__
            raise ValueError(f"{name} must be None where X is blocks, (X, Y, sample_weight) each; got {what}")
    if isinstance(validation, float) or monitor:
        name, value = ("validation", validation) if isinstance(validation, float) else ("monitor", monitor)
        expected = "a pair (X, Y)" if name == "validation" else "False"
        raise ValueError(f"{name} must be {expected} where X is blocks; got {value!r}")
    held = _validation(mlp, validation, mlp._vector, checks.Targets(mlp._vector))
    return None if held is None else held[1]


def block_of_rows(mlp: Any, given: Any) -> tuple[Array, checks.Targets]:
    """Check a block of rows."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        what = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, tuple | list) else "")
        raise TypeError(f"it must be a tuple (X, Y) or (X, Y, sample_weight); got {what}")
    X, Y, weights = given if len(given) == 3 else (*given, None)
    X = checks.numbers("X", X, None)
    if X.shape[:1] == (0,):
        return X, checks.Targets(X)
    X = checks.samples("X", X, mlp._sizes[0], None)
    targets = mlp._targets("Y", Y, X.shape[0], None)
    return X, mlp._weighted(targets, X.shape[0], weights, is_part=True)


# ------------------------------------------------------------------------------------------------------------------
# ranks


def fit_together(mlp: Any, ranks: distributed.Ranks, X: Any, Y: Any, given: dict[str, Any]) -> training.History:
    """Train with other ranks."""
    with ranks.at_work(), _sharing_processors(mlp, ranks):
        trainee: Trainee | None = None
        with ranks.locally():
            trainee = trainee_for(mlp, X, Y, ranks=ranks, **given)
        ranks.together(None)
        assert isinstance(trainee, distributed.ShardTrainee)  # noqa: S101 (for the type checker)
        history = training.fit(trainee.plan, trainee, mlp._rng, trainee.history)
        trainee.check()
        return history


@contextmanager
def _sharing_processors(mlp: Any, ranks: distributed.Ranks) -> Iterator[None]:
    """No more threads on this machine than it has processors for all of its ranks."""
    mlp._pace.most_threads = max(1, jit.max_threads() // ranks.of_this_machine())
    try:
        yield
    finally:
        mlp._pace.most_threads = None


def _check_beside_ranks(mlp: Any, Y: Any, monitor: Any) -> None:
    """Refuse what is not for several ranks."""
    if Y is None:
        raise ValueError("X and Y must be arrays beside comm, or mapped files, of each rank's own rows; got blocks")
    if monitor:
        raise ValueError("monitor must be False beside comm; got True")
    if mlp._loss == "own" and any(mlp._objective.dropout):
        raise ValueError("dropout must be 0 beside comm and a loss of your own")


def _alike(mlp: Any) -> dict[str, Any]:
    """What models must have in common that are trained together."""
    apart = ("rng", "n_threads", "verify")
    return {name: value for name, value in mlp.config.items() if name not in apart}


def _given_to_ranks(
    mlp: Any, ranks: distributed.Ranks, X: Any, Y: Any, sample_weight: Any, class_weight: Any, validation: Any
) -> tuple[distributed.Shard, Given]:
    """Check a rank's rows, and divide those of all ranks into what is trained on and what is held out."""
    n_rows, targets = 0, checks.Targets(np.empty((0, mlp._sizes[-1]), mlp._dtype))
    with ranks.locally():
        X = checks.numbers("X", X, None)
        n_rows = len(X) if X.ndim else 1
        if n_rows == 0 and np.size(Y):
            raise ValueError(f"Y must have as many samples as X, which has none on this rank; got shape {np.shape(Y)}")
        if n_rows:
            X, targets = training_data(mlp, X, Y, None, None)
            targets = mlp._weighted(targets, n_rows, sample_weight, is_part=True)
    classes = None
    if mlp._loss in _OF_CLASSES:
        classes = distributed.classes_of_all(ranks, targets, n_rows)
        if classes is not None and (classes == classes[:1]).all() and len(classes) > 1:
            ranks.refuse(ValueError(f"Y must hold samples of two classes or more; got class {classes[0]} alone"))
    with ranks.locally():
        if class_weight is not None and n_rows:
            weights = checks.weights_of_classes(class_weight, targets, classes)
            targets.weights = targets.weights * weights if targets.weights.size else weights
    held: tuple[Array, checks.Targets] | None = None
    shard = distributed.shard_of(ranks, X, targets, in_units=not mlp._objective.divides_penalty)
    if isinstance(validation, float):
        seed = ranks.together(arguments.entropy(mlp.config["rng"]))[0]
        kept, held_rows = _hold_out(seed, validation, shard.n_samples, classes)
        weight, weight_of_held = (_weight_of_all(ranks, shard, chosen) for chosen in (kept, held_rows))
        if weight == 0 or weight_of_held == 0:
            ranks.refuse(_no_weight("trained on" if weight == 0 else "held out by validation"))
        own = shard.own(held_rows)
        chosen = held_rows[own] - shard.first
        of_held = targets.of_rows(chosen, None if mlp._loss == "own" else mlp._dtype)
        held = rows.converted(X, chosen, mlp._dtype), of_held
        return shard, Given(X, targets, kept, held, len(kept), weight)
    if validation is not None:
        n_held = 0
        with ranks.locally():
            held = _validation_shard(mlp, validation)
            n_held = len(held[0])
        if not any(ranks.together(n_held)):
            ranks.refuse(ValueError("validation must have a sample on one rank at least; got none on any"))
    return shard, Given(X, targets, None, held, shard.n_samples, shard.total_weight)


def _validation_shard(mlp: Any, validation: Any) -> tuple[Array, checks.Targets]:
    """A rank's validation data, of which there may be none."""
    if isinstance(validation, tuple | list) and len(validation) == 2 and np.shape(validation[0])[:1] == (0,):
        return np.empty((0, mlp._sizes[0]), mlp._dtype), checks.Targets(np.empty(0, mlp._dtype))
    held_out = _validation(mlp, validation, mlp._vector, checks.Targets(mlp._vector))
    assert held_out is not None  # noqa: S101 (for the type checker)
    return held_out[1]


def _weight_of_all(ranks: distributed.Ranks, shard: distributed.Shard, kept: NDArray[np.int64]) -> float:
    """The weight of the rows that are trained on."""
    own = kept[shard.own(kept)] - shard.first
    weights = shard.targets.weights
    return float(sum(ranks.together(float(weights[own].sum()) if weights.size else float(len(own)))))


@contextmanager
def _taken_over(mlp: Any, ranks: distributed.Ranks) -> Iterator[None]:
    """Take over the model of rank 0, but for a call that is refused after all."""
    own, seed, generator, objective = mlp.__getstate__(), mlp.config["rng"], mlp._rng, mlp._objective
    try:
        _take_over(mlp, ranks)
        yield
    except BaseException:
        mlp.config["rng"], mlp._rng, mlp._objective = seed, generator, objective
        mlp._restore(own)
        raise


def _take_over(mlp: Any, ranks: distributed.Ranks) -> None:
    """Take over the model of rank 0: what it was made from, and what it has become."""
    own = {**mlp.__getstate__(), "config": {"rng": mlp.config["rng"]}} if ranks.rank == 0 else None
    state = ranks.together(own)[0]
    # a copy on rank 0, too: whoever draws from the generator that it was given does not change the order of one rank
    mlp._rng = arguments.generator(state["rng"])[1]
    if ranks.rank == 0:
        return
    mlp.config["rng"] = state["config"]["rng"]
    mlp._objective = mlp._make_objective()
    mlp._restore(state)
