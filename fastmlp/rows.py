"""The user's data in training: rows of any real dtype, in memory or in a mapped file. Never copied whole."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_CONVERTED_BYTES = 1 << 24
"""Most bytes of rows that are converted at once, where they have another dtype or layout."""

_MAPPED_BYTES = 1 << 26
"""About how many bytes of a mapped file are in memory before its pages are given back."""

_WHOLE_BYTES = 1 << 28
"""Bytes of a mapped file up to which all of it stays in memory: its rows are read as quickly as those of an array."""

_POPULATE_READ = 22
"""Of Linux, from 5.14 on; Python has no name for it."""

_AROUND_BYTES = 1 << 21
"""What an operating system may map around a byte that is touched: a huge page."""


def is_ready(array: Array, dtype: np.dtype) -> bool:
    """Whether compiled code can read the rows as they are."""
    return array.dtype == dtype and array.dtype.isnative and array.flags.c_contiguous and array.flags.aligned


def flat(array: Array) -> Array:
    """The rows one after the other, writable, for which alone kernels are compiled.

    No kernel writes there, so what is read-only is only said to be writable.
    """
    one_after_the_other = array.ravel()
    if one_after_the_other.flags.writeable:
        return one_after_the_other
    return np.asarray(_SaidToBeWritable(one_after_the_other))


class _SaidToBeWritable:
    def __init__(self, array: Array) -> None:
        self.array = array  # which must live as long as this does
        place, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (place, False)}


def converted(array: Array, rows: NDArray[np.int64] | slice, dtype: np.dtype | None) -> Array:
    """Return some rows as compiled code reads them; None keeps the dtype."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array[rows], dtype)


def are_few(array: Array, dtype: np.dtype) -> bool:
    """Whether all rows are so few that they are converted once, instead of again in each epoch."""
    return array.size * dtype.itemsize <= _CONVERTED_BYTES


def count_at_once(array: Any, dtype: np.dtype) -> int:
    """How many rows may be converted at once, at least one."""
    return max(1, _CONVERTED_BYTES // max(array.shape[-1] * dtype.itemsize, 1))


class MappedPages:
    """Pages of mapped files, given back when many have been read: they are read again from the file if need be."""

    def __init__(self, *arrays: Array) -> None:
        found = [(_mapping(array), array) for array in arrays if array.nbytes > _WHOLE_BYTES]
        self.are_many = any(mapping is not None for mapping, _ in found)
        self._maps = [mapping for mapping, _ in found if mapping is not None]
        self._row_bytes = sum(array.nbytes // len(array) for mapping, array in found if mapping is not None)
        self._bytes = 0

    def rows_at_once(self, *, scattered: bool) -> int:
        """How many rows may be read before pages are to be given back, at least one."""
        return max(1, _MAPPED_BYTES // self._bytes_of_row(scattered)) if self._maps else sys.maxsize

    def _bytes_of_row(self, scattered: bool) -> int:
        return max(self._row_bytes, _AROUND_BYTES) if scattered else self._row_bytes

    def gather(self, array: Array, chosen: NDArray[np.int64], found: Array) -> None:
        """Write scattered rows of a mapped file, or of an array, to ``found``.

        They are read as they stand in the file, so few at a time that pages can be given back between them: those of
        a part of the file, or, where they are far apart, some. (In the order in which they are wanted it took twice
        as long: pages were given back, and mapped again, after every 32 rows.)
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if _mapping(array) is None:
                found[...] = array[chosen]
                return
            places = np.argsort(chosen)
            sorted_rows = chosen[places]
            span, start = max(1, _MAPPED_BYTES // max(self._row_bytes, 1)), 0
            while start < len(chosen):
                near = int(np.searchsorted(sorted_rows, sorted_rows[start] + span))
                stop = max(near, start + self.rows_at_once(scattered=True))
                found[places[start:stop]] = array[sorted_rows[start:stop]]
                self.give_back()
                start = stop

    def have_read(self, n_rows: int, *, scattered: bool) -> None:
        """Note that rows have been read, one after the other or scattered."""
        if not self._maps:
            return
        self._bytes += n_rows * self._bytes_of_row(scattered)
        if self._bytes >= _MAPPED_BYTES:
            self.give_back()

    def give_back(self) -> None:
        """Give all pages back."""
        self._bytes = 0
        for mapping in self._maps:
            mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: Any) -> mmap.mmap | None:
    """The mapping that an array lies in, if its pages can be given back: not where they hold unwritten changes."""
    mode = ""
    while array is not None and not isinstance(array, mmap.mmap):
        mode = getattr(array, "mode", mode)
        array = getattr(array, "base", None)
    return array if mode in {"r", "r+"} and hasattr(mmap, "MADV_DONTNEED") else None


def bring_to_memory(array: Array) -> None:
    """Have the operating system read all pages of a mapped file, if the rows are in one."""
    mapping = _mapping(array)
    if mapping is not None:
        with suppress(OSError, ValueError):  # an older Linux, or another system: they are read when they are needed
            mapping.madvise(_POPULATE_READ)
