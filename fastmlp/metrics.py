"""Metrics: how good predictions are, in terms a person thinks in. Each takes predictions and targets, as rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(predictions: Array, targets: Array) -> float:
    """Share of samples whose class is right; of several outputs the largest, of a single one whether it is above ½."""
    if predictions.shape[1] == 1:
        return float(((predictions > 0.5) == (targets > 0.5)).all(axis=1).mean())
    return float((predictions.argmax(axis=1) == targets.argmax(axis=1)).mean())


def mean_squared_error(predictions: Array, targets: Array) -> float:
    """Mean over samples and outputs of the squared error."""
    return float(np.mean((predictions - targets) ** 2))


def mean_absolute_error(predictions: Array, targets: Array) -> float:
    """Mean over samples and outputs of the distance."""
    return float(np.mean(np.abs(predictions - targets)))


def r2(predictions: Array, targets: Array) -> float:
    """Share of the targets' variance that is explained, the mean over outputs; 0 of one that does not vary."""
    missed = ((predictions - targets) ** 2).sum(axis=0)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), 0.0).mean())


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (accuracy, mean_squared_error, mean_absolute_error, r2)
}


def as_metrics(given: object) -> dict[str, Metric]:
    """From a name, a function, or several of them, make metrics by name."""
    several = [] if given is None else [given] if isinstance(given, str) or callable(given) else given
    if not isinstance(several, list | tuple):
        raise TypeError(f"metrics must be a name, a function, or a list of them; got {given!r}")
    found: dict[str, Metric] = {}
    for one in several:
        if isinstance(one, str) and one in METRICS:
            found[one] = METRICS[one]
        elif callable(one):
            found[getattr(one, "__name__", repr(one))] = one
        else:
            raise ValueError(f"metrics must be among {', '.join(METRICS)}, or functions; got {one!r}")
    return found
