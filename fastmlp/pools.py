"""The rows of blocks as *pieces* of whole minibatches, of which the next is read while the present one is trained on.

A large block whose rows compiled code can read as they are is a piece by itself: nothing of it is copied but the rows
that are left over, which make a minibatch with those of the next block. Other blocks are gathered in a *pool*, which
is a piece when it is full. There are two pools of some megabytes; so memory does not depend on how many rows there
are. The rows of a piece are shuffled among themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp import checks, rows
from fastmlp.kernels.layout import NO_ORDER
from fastmlp.orders import shuffled

Array = NDArray[Any]

_POOL_BYTES = 1 << 24
"""About how many bytes of rows a pool holds; one minibatch at least."""

_LARGE_BYTES = 1 << 22
"""From how many bytes of rows on a block is a piece by itself: four of them would make a pool."""

_ROWS_AT_FIRST = 1024
"""For which a pool has room before it grows."""

_SECONDS_OF_PATIENCE = 0.1
"""How long a piece is waited for before it is seen whether somebody has interrupted."""

Block = tuple[Array, checks.Targets]
"""Rows, and their targets with their weights."""


def _arrays(block: Block) -> tuple[Array, Array, Array, Array]:
    """Rows, values, labels and weights; those that are not there are empty."""
    X, targets = block
    return X, targets.values, targets.labels, targets.weights


def _rows_of_pool(block: Block, batch_size: int, dtype: np.dtype) -> int:
    """How many rows like these a pool holds: whole minibatches."""
    X, targets = block
    row_bytes = (X.shape[1] + int(np.prod(targets.values.shape[1:]))) * dtype.itemsize
    return max(1, _POOL_BYTES // (row_bytes * batch_size)) * batch_size


class Piece(NamedTuple):
    """Rows that are trained on together."""

    X: Array
    targets: checks.Targets
    order: NDArray[np.int64]
    """Which rows, in this order; all of them as they stand if it is empty."""
    name: Callable[[int], tuple[int, int]]
    """The block that a row is of, and its number there."""

    @property
    def n_rows(self) -> int:
        """How many rows are trained on."""
        return len(self.order) or len(self.X)

    @property
    def weight(self) -> float:
        """The sum of their weights."""
        weights = self.targets.weights
        if not weights.size:
            return float(self.n_rows)
        return float(weights[self.order].sum() if self.order.size else weights.sum())

    def not_finite(self) -> ValueError | None:
        """The error for a value that is NaN or infinite; None if there is none."""
        for name, array in (("X", self.X), ("Y", self.targets.values)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row, *rest = np.argwhere(~np.isfinite(array))[0].tolist()
                block, row_there = self.name(row)
                where = f"{name}[{', '.join(map(str, [row_there, *rest]))}]"
                return ValueError(f"block {block}: {name} must be finite; got {array[(row, *rest)]} at {where}")
        return None


class Pool:
    """Buffers for rows, which are used again and again."""

    def __init__(self, like: Block, capacity: int, dtype: np.dtype, of_values: np.dtype) -> None:
        X, targets = like
        self.capacity, self.n_rows = capacity, 0
        self._room = min(capacity, _ROWS_AT_FIRST)
        self._X = np.empty((self._room, X.shape[1]), dtype)
        self._values = np.empty((self._room, *targets.values.shape[1:]) if len(targets.values) else 0, of_values)
        self._labels = np.empty(self._room if targets.labels.size else 0, np.int64)
        self._weights = np.empty(self._room if targets.weights.size else 0, np.float64)
        self._origins: list[tuple[int, int, NDArray[np.int64] | int]] = []

    def put(self, block: Block, number: int, chosen: NDArray[np.int64] | slice) -> None:
        """Add some rows of a block, for which there is room."""
        count = chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)
        to = slice(self.n_rows, self.n_rows + count)
        self._make_room(to.stop)
        own = self._X, self._values, self._labels, self._weights
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite in this dtype is found when it is used
            for mine, theirs in zip(own, _arrays(block), strict=True):
                if len(mine):
                    np.copyto(mine[to], theirs[chosen], casting="unsafe")
        self._origins.append((self.n_rows, number, chosen.start if isinstance(chosen, slice) else chosen))
        self.n_rows += count

    def _make_room(self, n_rows: int) -> None:
        """Grow, up to the capacity: a minibatch may be said to be larger than all data are."""
        if n_rows <= self._room:
            return
        self._room = min(self.capacity, max(n_rows, 2 * self._room))
        for name in ("_X", "_values", "_labels", "_weights"):
            old = getattr(self, name)
            if len(old):
                grown = np.empty((self._room, *old.shape[1:]), old.dtype)
                grown[: self.n_rows] = old[: self.n_rows]
                setattr(self, name, grown)

    def empty(self) -> None:
        """Make room."""
        self.n_rows = 0
        self._origins.clear()

    def piece(self, order: NDArray[np.int64]) -> Piece:
        """All rows, in this order."""
        n, origins = self.n_rows, list(self._origins)

        def name(row: int) -> tuple[int, int]:
            start, number, there = [origin for origin in origins if origin[0] <= row][-1]
            return number, int(there + row - start if isinstance(there, int) else there[row - start])

        targets = checks.Targets(self._values[:n], self._labels[:n], self._weights[:n])
        return Piece(self._X[:n], targets, order, name)


class _Kind(NamedTuple):
    """What all blocks have in common."""

    has_labels: bool
    has_weights: bool
    shape: tuple[int, ...]
    dtype: str
    """Of targets that are taken as they are; empty if they are converted."""

    def __str__(self) -> str:
        what = "class indices" if self.has_labels else f"rows of shape {tuple(self.shape)}"
        what += f" of {self.dtype}" if self.dtype else ""
        return f"{what} {'with' if self.has_weights else 'without'} weights"


class Pieces:
    """Makes pieces of blocks, epoch after epoch."""

    def __init__(
        self, check: Callable[[Any], Block], batch_size: int, dtype: np.dtype, *, converts_targets: bool
    ) -> None:
        self._check, self._batch_size, self._dtype, self._converts_targets = check, batch_size, dtype, converts_targets
        self._kind: _Kind | None = None
        self._pools: list[Pool] = []

    def of(self, blocks: Iterator[tuple[int, Any]], rng: np.random.Generator | None) -> Iterator[Piece]:
        """All of them, of blocks with their numbers; shuffled with a generator. A pool is filled again after the next.

        Every piece but the last has whole minibatches.
        """
        for pool in self._pools:
            pool.empty()
        for number, given in blocks:
            block = self._checked(number, given)
            if not len(block[0]):
                continue
            if not self._pools:
                self._make_pools(block)
            yield from self._large(block, number, rng) if self._is_large(block) else self._small(block, number, rng)
        if self._pools and self._pools[0].n_rows:
            yield self._full(rng)

    def _is_large(self, block: Block) -> bool:
        X, targets = block
        is_ready = rows.is_ready(X, self._dtype) and (
            not self._converts_targets or targets.labels.size or rows.is_ready(targets.values, self._dtype)
        )
        return bool(is_ready) and X.nbytes >= _LARGE_BYTES and len(X) >= 2 * self._batch_size

    def _large(self, block: Block, number: int, rng: np.random.Generator | None) -> Iterator[Piece]:
        """Complete the minibatch that was begun; then the block itself, but for the rows that are left over."""
        pool, size, n = self._pools[0], self._batch_size, len(block[0])
        order = np.arange(n) if rng is None else shuffled(n, rng)
        begun = -pool.n_rows % size
        if pool.n_rows:
            pool.put(block, number, order[:begun])
            yield self._full(rng)
        left = (n - begun) % size
        rows.bring_to_memory(block[0])
        yield Piece(*block, order[begun : n - left], lambda row: (number, row))
        if left:
            self._pools[0].put(block, number, order[n - left :])

    def _small(self, block: Block, number: int, rng: np.random.Generator | None) -> Iterator[Piece]:
        """Add rows to the pool; whenever it is full, it is a piece."""
        row, n = 0, len(block[0])
        while row < n:
            pool = self._pools[0]
            count = min(pool.capacity - pool.n_rows, n - row)
            pool.put(block, number, slice(row, row + count))
            row += count
            if pool.n_rows == pool.capacity:
                yield self._full(rng)

    def _full(self, rng: np.random.Generator | None) -> Piece:
        """The pool as a piece; the other one comes in its place."""
        pool = self._pools[0]
        piece = pool.piece(NO_ORDER if rng is None else shuffled(pool.n_rows, rng))
        self._pools.reverse()
        self._pools[0].empty()
        return piece

    def _make_pools(self, like: Block) -> None:
        capacity = _rows_of_pool(like, self._batch_size, self._dtype)
        of_values = self._dtype if self._converts_targets else like[1].values.dtype
        self._pools = [Pool(like, capacity, self._dtype, of_values) for _ in range(2)]

    def _checked(self, number: int, given: Any) -> Block:
        """Check a block, and that its targets are of the kind of all others."""
        try:
            X, targets = self._check(given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"block {number}: {error}") from None
        if not len(X):
            return X, targets
        dtype = "" if self._converts_targets else str(targets.values.dtype)
        kind = _Kind(bool(targets.labels.size), bool(targets.weights.size), targets.values.shape[1:], dtype)
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ValueError(
                f"block {number}: Y must be of the same kind in all blocks, and weights in all or in none; got {kind}"
                f" after {self._kind}"
            )
        return X, targets


@contextmanager
def one_ahead(pieces: Iterator[Piece], interrupted: threading.Event) -> Iterator[Iterator[Piece]]:
    """The same pieces, of which the next is made, in a thread of its own, while the present one is used.

    What goes wrong there is raised here. None is waited for after an interruption.
    """
    with ThreadPoolExecutor(1, "fastmlp-reader") as reader:

        def each() -> Iterator[Piece]:
            coming = reader.submit(next, pieces, None)
            while True:
                while not wait([coming], _SECONDS_OF_PATIENCE).done:
                    if interrupted.is_set():
                        return
                piece = coming.result()
                if piece is None:
                    return
                coming = reader.submit(next, pieces, None)
                yield piece

        yield each()


def scattered(
    data: Block, order: NDArray[np.int64], pages: rows.MappedPages, batch_size: int, dtype: np.dtype
) -> Iterator[Piece]:
    """Pieces of mapped arrays, whose rows come in this order."""
    count = _rows_of_pool(data, batch_size, dtype)
    kinds: tuple[DTypeLike, ...] = dtype, dtype, np.int64, np.float64
    for start in range(0, len(order), count):
        chosen = order[start : start + count]
        X, *of_targets = (
            _gathered(array, chosen, pages, kind) for array, kind in zip(_arrays(data), kinds, strict=True)
        )
        yield Piece(X, checks.Targets(*of_targets), NO_ORDER, lambda row: (0, row))


def _gathered(array: Array, chosen: NDArray[np.int64], pages: rows.MappedPages, dtype: DTypeLike) -> Array:
    """Some rows of an array; none if it is empty."""
    found = np.empty((len(chosen), *array.shape[1:]) if len(array) else 0, dtype)
    if len(found):
        pages.gather(array, chosen, found)
    return found
