"""What comes in at the door: each check returns what the kernels need, or says in one sentence what was wrong.

The sentence names the argument, what came and what was expected. Nothing here changes anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import rows
from fastmlp.kernels import calls
from fastmlp.kernels.door import all_finite, labels_fit, rows_fit, weights_fit
from fastmlp.kernels.losses import CODES

Array = NDArray[np.floating]

_PROBABILITIES_SUM_WITHIN = 1e-3  # float16 or rounded decimals may come in; a forgotten softmax is far outside


def integer(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number of at least {least}; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return int(value)


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """Return a known name."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    return value


def layer_sizes(value: object) -> tuple[int, ...]:
    """Return the widths of the input, of each hidden layer and of the output."""
    expected = "layer_sizes must be a sequence of at least two whole numbers, such as [3, 4, 4, 2]"
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        raise TypeError(f"{expected}; got {value!r}")
    sizes = list(value)
    if len(sizes) < 2:
        raise ValueError(f"{expected}; got {value!r}")
    return tuple(integer(f"layer_sizes[{index}]", size) for index, size in enumerate(sizes))


def numbers(name: str, value: Any, dtype: np.dtype | None) -> Array:
    """Return a C-ordered array of real numbers of this dtype: the given one if it is that already, else a copy.

    Without a dtype, return the array as it is.
    """
    _whole(name, value)
    try:
        given: NDArray[Any] = np.from_dlpack(value) if _is_known_by_dlpack_alone(value) else np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:  # of a tensor elsewhere, or with a gradient
        raise ValueError(f"{name} must be an array of numbers; got {type(value).__name__}: {error}") from None
    if given.dtype == object and hasattr(value, "iloc") and hasattr(value, "to_numpy"):
        given = _of_pandas(name, value)
    if given.ndim == 0 and hasattr(value, "toarray"):
        raise TypeError(f"{name} must be dense, as {name}.toarray() is; got {type(value).__name__}")
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers (float, integer or bool); got dtype {given.dtype}")
    if dtype is None:
        return given
    with np.errstate(over="ignore", invalid="ignore"):
        return np.require(given, dtype, ["C", "A"])


def _whole(name: str, value: object) -> None:
    """Refuse what lacks some of its values."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} must have a value everywhere; got a masked array with masked entries")


def _of_pandas(name: str, value: Any) -> Array:
    """A frame or a series of pandas whose columns are numbers, of several kinds or with missing values: as float64."""
    columns = []
    for label, column in [(value.name, value)] if value.ndim == 1 else value.items():
        if getattr(column.dtype, "kind", "O") not in "fiub":
            raise TypeError(f"{name} must hold real numbers; got column {label!r} of dtype {column.dtype}")
        columns.append(column.to_numpy(np.float64, na_value=np.nan))
    return columns[0] if value.ndim == 1 else np.column_stack(columns)


def _is_known_by_dlpack_alone(value: Any) -> bool:
    """Whether an array of another library says what it holds by DLPack, and not as NumPy would ask."""
    return hasattr(value, "__dlpack__") and not hasattr(value, "__array__")


def samples(name: str, value: Any, features: int, dtype: np.dtype | None) -> Array:
    """Return ``X`` as rows of ``features`` numbers. That they are finite is found while they are used."""
    if _is_right_already(value, features, dtype):
        return value
    array = numbers(name, value, dtype)
    expected = f"{name} must have shape (n_samples, {features}), a sample being a row; got {array.shape}"
    if array.ndim == 1 and array.size == features:
        raise ValueError(f"{expected}. For one sample, pass {name}.reshape(1, -1)")
    if array.ndim != 2:
        raise ValueError(expected)
    if array.shape[0] == 0:
        raise ValueError(f"{expected}: there is no sample in it")
    if array.shape[1] != features:
        hint = f". The axes look swapped: pass {name}.T" if array.shape[0] == features else ""
        raise ValueError(expected + hint)
    return array


def _is_right_already(value: Any, columns: int, dtype: np.dtype | None) -> bool:
    """Whether an array needs neither conversion nor words. Most do not, and a training step may take microseconds."""
    if type(value) is not np.ndarray or value.dtype is not dtype or not value.flags.carray:
        return False
    shape = value.shape
    return len(shape) == 2 and shape[1] == columns and shape[0] > 0


def is_such(value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether an array can go to compiled code as it is, and has this shape."""
    return type(value) is np.ndarray and value.dtype is dtype and value.shape == shape and value.flags.carray


NO_LABELS = np.empty(0, np.int64)
NO_WEIGHTS = np.empty(0, np.float64)


class Targets:
    """Targets as the kernels take them: numbers, or class indices, the other one being empty; and samples' weights."""

    __slots__ = ("labels", "values", "weights")

    def __init__(
        self,
        values: Array,
        labels: NDArray[np.int64] = NO_LABELS,
        weights: NDArray[np.float64] = NO_WEIGHTS,
    ) -> None:
        self.values = values
        self.labels = labels
        self.weights = weights

    def as_rows(self, outputs: int) -> Array:
        """Rows of numbers; class indices become one-hot."""
        if self.labels.size:
            return np.eye(outputs, dtype=self.values.dtype)[self.labels]
        return self.values.reshape(-1, outputs)

    def total_weight(self, n_samples: int) -> float:
        """The sum of the weights; without any, the number of samples."""
        return float(self.weights.sum()) if self.weights.size else float(n_samples)

    def of_rows(self, chosen: NDArray[np.int64] | slice, dtype: np.dtype | None) -> Targets:
        """Some samples' targets, converted; None keeps the dtype."""
        no_values = self.values if dtype is None else np.empty(0, dtype)
        return Targets(
            no_values if self.labels.size else rows.converted(self.values, chosen, dtype),
            self.labels[chosen] if self.labels.size else self.labels,
            self.weights[chosen] if self.weights.size else self.weights,
        )

    def classes(self) -> NDArray[np.int64] | None:
        """The class of each sample, if each has just one: labels, one-hot rows, or a single output that is 0 or 1."""
        if self.labels.size:
            return self.labels
        if not np.isin(self.values, (0, 1)).all():
            return None
        if self.values.shape[1] == 1:
            return self.values[:, 0].astype(np.int64)
        return self.values.argmax(axis=1) if (self.values.sum(axis=1) == 1).all() else None


OF_ANY_NUMBERS = ("squared_error", "absolute_error", "huber", "quantile")
"""Losses that take any targets."""


def targets(name: str, value: Any, outputs: int, loss: str, n_samples: int, dtype: np.dtype | None) -> Targets:
    """Return ``Y``, as fits the loss: rows of numbers, or one class index per sample."""
    if loss in OF_ANY_NUMBERS and _is_right_already(value, outputs, dtype) and value.shape[0] == n_samples:
        return Targets(value)
    if loss == "softmax_cross_entropy" and _rank(value) == 1:
        labels = _class_indices(name, value, outputs)
        _same_count(name, labels.shape[0], n_samples)
        return Targets(np.empty(0, dtype or np.dtype(np.float64)), labels)
    array = numbers(name, value, dtype)
    if array.ndim == 1 and outputs == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != outputs:
        also = ""
        if loss == "softmax_cross_entropy":
            also = ", or (n_samples,) with class indices"
        elif outputs == 1:
            also = " or (n_samples,)"
        swapped = array.ndim == 2 and array.shape[0] == outputs and array.shape[1] == n_samples
        hint = f". The axes look swapped: pass {name}.T" if swapped else ""
        raise ValueError(f"{name} must have shape (n_samples, {outputs}){also}; got {array.shape}{hint}")
    _same_count(name, array.shape[0], n_samples)
    _fits_loss(name, array, loss)
    return Targets(array)


def fit(targets: Any, outputs: int, loss: str) -> bool:
    """Whether targets that can go to compiled code as they are have a meaning for the loss: no words, and quick."""
    if targets.dtype.kind == "i":
        return bool(labels_fit(targets, outputs))
    rows_of_them = targets.reshape(len(targets), -1)
    return bool(rows_fit(CODES[loss], rows_of_them, _PROBABILITIES_SUM_WITHIN))


def rows_of_anything(name: str, value: object, n_samples: int) -> NDArray[Any]:
    """Return targets of a loss of the user's own, which may be anything with a row for each sample."""
    _whole(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged
        raise ValueError(f"{name} must be an array with a row for each sample: {error}") from None
    if array.ndim == 0:
        raise ValueError(f"{name} must have a row for each sample; got {value!r}")
    _same_count(name, array.shape[0], n_samples)
    return array


def _rank(value: object) -> int:
    if isinstance(value, np.ndarray):
        return value.ndim
    try:
        return int(np.ndim(value))  # type: ignore[arg-type]
    except ValueError:  # ragged: said in words where it is converted
        return -1


def _same_count(name: str, count: int, n_samples: int) -> None:
    if count != n_samples:
        raise ValueError(f"{name} must have as many samples as X, which has {n_samples}; got {count}")


def _class_indices(name: str, value: object, outputs: int) -> NDArray[np.int64]:
    _whole(name, value)
    given = np.asarray(value)
    if given.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must hold class indices, whole numbers from 0 to {outputs - 1}, or have shape"
            f" (n_samples, {outputs}); got shape {given.shape} of dtype {given.dtype}"
        )
    if given.size and not (given.min() >= 0 and given.max() < outputs):
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"{name} must hold class indices from 0 to {outputs - 1}; got {wrong}")
    return rows.flat(np.ascontiguousarray(given, np.int64))


def _fits_loss(name: str, array: Array, loss: str) -> None:
    """Refuse targets for which the loss has no meaning. NaN is found, and told, later."""
    if loss in OF_ANY_NUMBERS:
        return
    if loss == "poisson":
        if array.min() < 0:
            raise ValueError(f"{name} must be counts, at least 0, for poisson; got {array.min()}")
        return
    if array.min() < 0 or array.max() > 1:
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{name} must be between 0 and 1 for {loss}; got {wrong}")
    if loss == "softmax_cross_entropy":
        sums = array.sum(axis=1, dtype=np.float64)
        if np.abs(sums - 1).max() > _PROBABILITIES_SUM_WITHIN:
            row = int(np.abs(sums - 1).argmax())
            raise ValueError(f"{name} must sum to 1 over the outputs for {loss}; row {row} sums to {sums[row]:g}")


def several_classes(targets: Targets) -> None:
    """Refuse targets that are all of one class: nothing is learned from them but to say its name."""
    classes = targets.classes()
    if classes is not None and classes.size > 1 and (classes == classes[0]).all():
        raise ValueError(f"Y must hold samples of two classes or more; got class {classes[0]} alone")


def sample_weight(
    value: object, class_weight: object, targets: Targets, n_samples: int, *, is_part: bool = False
) -> NDArray[np.float64]:
    """Return one weight per sample, from the samples' own and from their classes'; none if neither is given.

    Those of a part of all samples may be 0 in all of it.
    """
    weights: NDArray[np.float64] | None = None
    if value is not None:
        weights = np.array(numbers("sample_weight", value, np.dtype(np.float64)), np.float64)
        if weights.shape != (n_samples,):
            raise ValueError(f"sample_weight must have shape ({n_samples},), one for each sample; got {weights.shape}")
        if not np.isfinite(weights).all():
            raise not_finite("sample_weight", weights)
        if weights.min() < 0 or (weights.max() == 0 and not is_part):
            what = f"{weights.min()}" if weights.min() < 0 else "zero everywhere"
            raise ValueError(f"sample_weight must be at least 0, and above 0 somewhere; got {what}")
    if class_weight is not None:
        of_classes = weights_of_classes(class_weight, targets)
        weights = of_classes if weights is None else of_classes * weights
    if weights is None:
        return NO_WEIGHTS
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise ValueError(f"sample_weight must have a finite sum; got weights up to {weights.max():g}")
    return weights


def sum_of_weights(weights: NDArray[np.float64]) -> float:
    """Return the sum of samples' weights; NaN if they are none, or need a longer look: no words, and quick."""
    total = float(np.add.reduce(weights)) if weights_fit(weights) else 0.0
    return total if total > 0 else math.nan


def weights_of_classes(
    class_weight: object, targets: Targets, of_all: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the weight of each sample's class; ``of_all`` are the classes of more samples than these."""
    classes = targets.classes()
    if classes is None:
        raise ValueError(
            "class_weight needs targets of which each sample's one class can be told: class indices, one-hot rows, or"
            " a single output that is 0 or 1"
        )
    of_all = classes if of_all is None else of_all
    present, counts = np.unique(of_all, return_counts=True)
    index = np.searchsorted(present, classes)
    if class_weight == "balanced":
        balanced: NDArray[np.float64] = (len(of_all) / (len(present) * counts))[index]
        return balanced
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight must be 'balanced' or a mapping from class to weight; got {class_weight!r}")
    unknown = [key for key in class_weight if not (np.isscalar(key) and key in present)]
    if unknown:
        raise ValueError(f"class_weight must name classes that are there, {present.tolist()}; got {unknown[0]!r}")
    each = numbers("class_weight", [class_weight.get(int(k), 1.0) for k in present], np.dtype(np.float64))
    if not np.isfinite(each).all() or each.min() < 0 or each.max() == 0:
        raise ValueError(
            f"class_weight must hold finite numbers, at least 0, and above 0 somewhere; got {class_weight}"
        )
    of_samples: NDArray[np.float64] = np.asarray(each, np.float64)[index]
    return of_samples


def not_finite(name: str, array: Array) -> ValueError:
    """Make the error for an array that holds NaN or infinite values, naming the first."""
    place = tuple(np.argwhere(~np.isfinite(array))[0])
    return _not_finite_at(name, array[place], place)


def _not_finite_at(name: str, value: np.floating, place: tuple[int, ...]) -> ValueError:
    kind = f" as {value.dtype}" if value.dtype == np.float32 else ""
    where = f"[{', '.join(str(int(index)) for index in place)}]"
    return ValueError(f"{name} must be finite; got {value}{kind} at {name}{where}")


def finite(name: str, array: Array, dtype: np.dtype, rows_at_once: int = 4096) -> None:
    """Refuse NaN and infinite values, and what is infinite in this dtype, a part of the rows at a time.

    The array may be a large file.
    """
    if array.dtype.kind in "iub" and dtype.kind == "f":
        return
    pages = rows.MappedPages(array)
    for start in range(0, array.shape[0], rows_at_once):
        part = rows.converted(array, slice(start, start + rows_at_once), dtype)
        # compiled code twice as fast as NumPy; but interpreted, a thousand times slower
        if not (all_finite(rows.flat(part)) if calls.are_packed() else np.isfinite(part).all()):
            row, *rest = np.argwhere(~np.isfinite(part))[0]
            raise _not_finite_at(name, part[(row, *rest)], (start + row, *rest))
        pages.have_read(part.shape[0], scattered=False)
