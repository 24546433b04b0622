"""More data than memory: rows that come in blocks, of files or of whatever can be gone through again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

Array = NDArray[Any]

_BLOCK_BYTES = 1 << 24
"""About how many bytes of rows a block has, where it is not said: they are shuffled among themselves."""


class Blocks(Sequence[tuple[Array, ...]]):
    """Rows of files, or of arrays, in blocks: for training on more data than fit into memory.

    :meth:`fastmlp.MLP.fit` takes it in the place of ``X`` and ``Y``. Only the block that is read is in memory.

    Parameters
    ----------
    X : path or array of shape (n_samples, n_features)
        Of a file: one that ``numpy.save`` has written.
    Y : path or array of shape (n_samples, n_outputs) or (n_samples,)
    sample_weight : path or array of shape (n_samples,), optional
    rows_per_block : int, optional
        By default as many as make about 16 MB of ``X``.

    Raises
    ------
    TypeError, ValueError
        If a file is no array, is cut off, holds Python objects or goes column by column, or if the numbers of rows
        differ. Nothing but the first bytes of each file has been read then.
    OSError
        If a file cannot be read.

    Notes
    -----
    A block is a tuple ``(X, Y)`` or ``(X, Y, sample_weight)``. ``fit`` takes any other iterable of such tuples as well
    that can be gone through again and again, such as a list, a loader of another library, or an object of your own
    with ``__iter__``. One with ``__len__`` and ``__getitem__`` too, such as this, is shuffled block by block.

    Examples
    --------
    >>> import fastmlp, numpy as np, os, tempfile
    >>> X = np.random.default_rng(0).standard_normal((10_000, 3)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "X.npy"), X)
    ...     blocks = fastmlp.Blocks(os.path.join(folder, "X.npy"), X[:, :1] * X[:, 1:2], rows_per_block=1000)
    ...     mlp = fastmlp.MLP([3, 16, 1], hidden_activation="tanh", dtype="float32", rng=0)
    ...     history = mlp.fit(blocks, epochs=20, learning_rate=0.01, progress=False)
    ...     print(len(blocks), blocks[0][0].shape)
    10 (1000, 3)
    >>> bool(history.loss[-1] < 0.1 * history.loss[0])
    True
    """

    def __init__(
        self,
        X: str | os.PathLike[str] | Array,
        Y: str | os.PathLike[str] | Array,
        sample_weight: str | os.PathLike[str] | Array | None = None,
        *,
        rows_per_block: int | None = None,
    ) -> None:
        given = {"X": X, "Y": Y} if sample_weight is None else {"X": X, "Y": Y, "sample_weight": sample_weight}
        self._parts = [_part(name, value) for name, value in given.items()]
        first = self._parts[0]
        for name, part in zip(given, self._parts, strict=True):
            if part.shape[0] != first.shape[0]:
                raise ValueError(f"{name} must have as many rows as X, {first.shape[0]}; got {part.shape[0]}")
        if first.shape[0] == 0:
            raise ValueError("X must have rows; got none")
        row_bytes = max(1, int(np.prod(first.shape[1:])) * first.dtype.itemsize)
        self.rows_per_block = (
            max(1, _BLOCK_BYTES // row_bytes)
            if rows_per_block is None
            else checks.integer("rows_per_block", rows_per_block)
        )

    @property
    def n_samples(self) -> int:
        """Rows of all blocks together."""
        return int(self._parts[0].shape[0])

    def __repr__(self) -> str:
        return f"<Blocks: {self.n_samples} rows, {len(self)} blocks of at most {self.rows_per_block}>"

    def __len__(self) -> int:
        return (self.n_samples + self.rows_per_block - 1) // self.rows_per_block

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]  # raises IndexError, which ends an iteration
        rows = slice(k * self.rows_per_block, min((k + 1) * self.rows_per_block, self.n_samples))
        return tuple(part.rows(rows) if isinstance(part, _File) else part[rows] for part in self._parts)


class _File(NamedTuple):
    """Where the rows of an array are in a file."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def rows(self, some: slice) -> Array:
        """Some rows. They alone are mapped, until they are not needed any more."""
        shape = (some.stop - some.start, *self.shape[1:])
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset + some.start * self.row_bytes, shape)
        except ValueError as error:
            raise ValueError(f"{self.path!r} has changed since it was opened: {error}") from None


def _part(name: str, value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return _opened(name, os.fspath(value))
    try:
        array = np.asanyarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be a path, or an array with a row for each sample; {error}") from None
    if array.ndim == 0:
        raise ValueError(f"{name} must be a path, or an array with a row for each sample; got {value!r}")
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be one path, or an array of numbers; got {type(value).__name__} of {array.dtype}"
        )
    return array


def _opened(name: str, path: str) -> _File:
    """Read what a file says of itself, and whether it is all there."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
        except ValueError as error:
            raise ValueError(f"{name} must be a file that numpy.save has written; got {path!r}: {error}") from None
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject or len(shape) == 0 or min(shape) < 0:
        raise TypeError(f"{name} must hold rows of numbers; got {path!r} of shape {shape} and dtype {dtype}")
    if by_columns and len(shape) > 1:
        raise ValueError(f"{name} must be stored row by row (C order); got {path!r}, which goes column by column")
    found = _File(path, offset, shape, dtype)
    if size < offset + shape[0] * found.row_bytes:
        raise ValueError(
            f"{name} is cut off: {path!r} has {size} bytes, and says of itself that it has"
            f" {offset + shape[0] * found.row_bytes}"
        )
    return found


def check_source(source: Any) -> None:
    """Refuse what is no iterable that can be started again."""
    expected = (
        "without Y, X must be blocks of rows: an iterable of tuples (X, Y) or (X, Y, sample_weight), which can be gone"
        " through again and again"
    )
    if isinstance(source, tuple) and len(source) in (2, 3) and all(hasattr(each, "shape") for each in source):
        raise TypeError(f"{expected}; got a tuple of arrays. Pass X and Y as two arguments")
    is_table = isinstance(source, np.ndarray | str | bytes | dict) or hasattr(source, "columns")
    if is_table or not hasattr(source, "__iter__"):
        raise TypeError(f"{expected}; got {type(source).__name__}")
    if isinstance(source, Iterator):
        raise TypeError(f"{expected}; got {type(source).__name__}, which can be gone through once")


def in_order(source: Any, rng: np.random.Generator | None) -> Iterator[tuple[int, Any]]:
    """Each block and its number; in a random order, with a generator, if they can be had in any."""
    if rng is None or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        yield from enumerate(source)
        return
    for k in rng.permutation(len(source)).tolist():
        yield k, source[k]
