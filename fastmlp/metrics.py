"""Metrics: how good predictions are, in terms a person thinks in. Each takes predictions and targets, as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def _alike(predictions: Array, targets: Array) -> Array:
    """Targets in the shape of predictions: those of a loss of one's own may be a vector."""
    if targets.shape == predictions.shape or (targets.ndim == 1 and targets.size == predictions.size):
        return targets.reshape(predictions.shape)
    raise ValueError(f"metrics by name need targets of shape {predictions.shape}, as predictions; got {targets.shape}")


def accuracy(predictions: Array, targets: Array) -> float:
    """Share of samples whose class is right; of several outputs the largest, of a single one whether it is above ½."""
    targets = _alike(predictions, targets)
    if predictions.shape[1] == 1:
        return float(((predictions > 0.5) == (targets > 0.5)).all(axis=1).mean())
    return float((predictions.argmax(axis=1) == targets.argmax(axis=1)).mean())


def mean_squared_error(predictions: Array, targets: Array) -> float:
    """Mean over samples and outputs of the squared error."""
    return float(np.mean((predictions - _alike(predictions, targets)) ** 2))


def mean_absolute_error(predictions: Array, targets: Array) -> float:
    """Mean over samples and outputs of the distance."""
    return float(np.mean(np.abs(predictions - _alike(predictions, targets))))


def r2(predictions: Array, targets: Array) -> float:
    """Share of the targets' variance that is explained, the mean over outputs.

    Of an output that does not vary it is 1 if it is met, else 0.
    """
    targets = _alike(predictions, targets)
    missed = ((predictions - targets) ** 2).sum(axis=0)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), missed == 0).mean())


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (accuracy, mean_squared_error, mean_absolute_error, r2)
}


def values_of(metrics: Mapping[str, Metric], predictions: Array, targets: Array) -> dict[str, float]:
    """What each metric says of some predictions."""
    found = {}
    for name, metric in metrics.items():
        value: Any = metric(predictions, targets)
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"the metric {name!r} must return a number; got {value!r}") from None
    return found


def as_metrics(given: object) -> dict[str, Metric]:
    """From a name, a function, several of them, or those with names of their own, make metrics by name."""
    if isinstance(given, Mapping):
        return {str(name): _metric(one)[1] for name, one in given.items()}
    several = [] if given is None else [given] if isinstance(given, str) or callable(given) else given
    if not isinstance(several, list | tuple):
        raise TypeError(f"metrics must be a name, a function, a list of them, or functions by name; got {given!r}")
    found = dict(map(_metric, several))
    if len(found) < len(several):
        names = [_metric(one)[0] for one in several]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"metrics must have different names, which a mapping can give them; got {twice!r} twice")
    return found


def _metric(given: object) -> tuple[str, Metric]:
    """A metric and its name."""
    if isinstance(given, str) and given in METRICS:
        return given, METRICS[given]
    if not callable(given):
        raise ValueError(  # noqa: TRY004 (of an unknown name, too)
            f"metrics must be among {', '.join(METRICS)}, or functions; got {given!r}"
        )
    return getattr(given, "__name__", repr(given)), given
