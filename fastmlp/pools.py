"""Rows are read into *pools* while those before are trained on.

A pool is as many whole minibatches as fit into some megabytes, in the network's dtype. There are two: a thread fills
one while the other is trained on. So memory does not depend on how many rows there are, nor on how they come: in
blocks, one after the other, or scattered over a mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, rows

Array = NDArray[Any]

_POOL_BYTES = 1 << 24
"""About how many bytes of rows a pool holds; one minibatch at least. There are two pools."""

Block = tuple[Array, checks.Targets]
"""Rows, and their targets with their weights."""


class Pool:
    """Rows that are trained on together, in buffers that are used again and again."""

    def __init__(self, like: Block, capacity: int, dtype: np.dtype, of_values: np.dtype) -> None:
        X, targets = like
        self.capacity = capacity
        self.n_rows = 0
        self._X = np.empty((capacity, X.shape[1]), dtype)
        self._values = np.empty((capacity, *targets.values.shape[1:]) if len(targets.values) else 0, of_values)
        self._labels = np.empty(capacity if targets.labels.size else 0, np.int64)
        self._weights = np.empty(capacity if targets.weights.size else 0, np.float64)
        self._origins: list[tuple[int, int, int]] = []

    def put(self, block: Block, number: int, row: int) -> int:
        """Add rows of a block, from one on, as far as there is room. Returns how many."""
        count = min(self.capacity - self.n_rows, len(block[0]) - row)
        to, some = slice(self.n_rows, self.n_rows + count), slice(row, row + count)
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite in this dtype is found when it is used
            for mine, theirs in self._beside(block):
                np.copyto(mine[to], theirs[some], casting="unsafe")
        self._origins.append((self.n_rows, number, row))
        self.n_rows += count
        return count

    def gather(self, data: Block, chosen: NDArray[np.int64], pages: rows.MappedPages) -> None:
        """Take scattered rows, in this order."""
        for mine, theirs in self._beside(data):
            pages.gather(theirs, chosen, mine[: len(chosen)])
        self.n_rows = len(chosen)

    def _beside(self, block: Block) -> list[tuple[Array, Array]]:
        """Own arrays, each beside the block's; without those that are empty."""
        X, targets = block
        pairs = [
            (self._X, X), (self._values, targets.values), (self._labels, targets.labels),
            (self._weights, targets.weights),
        ]  # fmt: skip
        return [(mine, theirs) for mine, theirs in pairs if len(mine)]

    def empty(self) -> None:
        """Make room."""
        self.n_rows = 0
        self._origins.clear()

    def data(self) -> Block:
        """The rows, and their targets with their weights."""
        n = self.n_rows
        return self._X[:n], checks.Targets(self._values[:n], self._labels[:n], self._weights[:n])

    def not_finite(self) -> ValueError | None:
        """The error for a value of a block that is NaN or infinite; None if there is none."""
        X, targets = self.data()
        for name, array in (("X", X), ("Y", targets.values)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row, *rest = np.argwhere(~np.isfinite(array))[0].tolist()
                start, number, first = [origin for origin in self._origins if origin[0] <= row][-1]
                where = f"{name}[{', '.join(map(str, [first + row - start, *rest]))}]"
                return ValueError(f"block {number}: {name} must be finite; got {array[(row, *rest)]} at {where}")
        return None


class Source(Protocol):
    """Where rows come from."""

    def first(self) -> Block | None:
        """Some rows like all others; None if there are none."""

    def fill(self, pool: Pool) -> None:
        """Fill a pool, as far as there are rows."""


class Pools:
    """Two pools, of which one is filled while the other is trained on."""

    def __init__(self, batch_size: int, dtype: np.dtype, *, converts_targets: bool = True) -> None:
        self._batch_size, self._dtype, self._converts_targets = batch_size, dtype, converts_targets
        self._two: list[Pool] = []

    @contextmanager
    def filled(self, source: Source) -> Iterator[Iterator[Pool]]:
        """Pool after pool, each full but the last. One that has been given is filled again after the next one.

        The rows are read in a thread of their own; what is wrong with them is raised here.
        """
        with ThreadPoolExecutor(1, "fastmlp-reader") as reader:

            def each() -> Iterator[Pool]:
                coming, turn = reader.submit(self._fill, 0, source), 0
                while (pool := coming.result()) is not None and pool.n_rows:
                    turn += 1
                    coming = reader.submit(self._fill, turn % 2, source)
                    yield pool

            yield each()

    def _fill(self, which: int, source: Source) -> Pool | None:
        """Fill one of the two; None if there is no row at all."""
        if not self._two:
            like = source.first()
            if like is None:
                return None
            of_values = self._dtype if self._converts_targets else like[1].values.dtype
            self._two = [Pool(like, self._capacity(*like), self._dtype, of_values) for _ in range(2)]
        pool = self._two[which]
        pool.empty()
        source.fill(pool)
        return pool

    def _capacity(self, X: Array, targets: checks.Targets) -> int:
        """Rows of a pool: whole minibatches."""
        row_bytes = (X.shape[1] + int(np.prod(targets.values.shape[1:]))) * self._dtype.itemsize
        return max(1, _POOL_BYTES // (row_bytes * self._batch_size)) * self._batch_size


class ScatteredRows:
    """Rows of arrays, in any order."""

    def __init__(self, data: Block, order: NDArray[np.int64], pages: rows.MappedPages) -> None:
        self._data, self._order, self._pages, self._next = data, order, pages, 0

    def first(self) -> Block | None:
        """All rows."""
        return self._data

    def fill(self, pool: Pool) -> None:
        """Take the next ones."""
        pool.gather(self._data, self._order[self._next : self._next + pool.capacity], self._pages)
        self._next += pool.n_rows


class _Kind(NamedTuple):
    """What all blocks have in common."""

    has_labels: bool
    has_weights: bool
    shape: tuple[int, ...]

    def __str__(self) -> str:
        what = "class indices" if self.has_labels else f"rows of shape {tuple(self.shape)}"
        return f"{what} {'with' if self.has_weights else 'without'} weights"


class BlockRows:
    """The rows of blocks, one after the other."""

    def __init__(self, check: Callable[[Any], Block]) -> None:
        self._check = check
        self._blocks: Iterator[tuple[int, Any]] = iter(())
        self._block: Block | None = None
        self._number = self._row = 0
        self._kind: _Kind | None = None

    def begin(self, blocks: Iterator[tuple[int, Any]]) -> None:
        """Take the blocks with their numbers from here."""
        self._blocks, self._block = blocks, None

    def first(self) -> Block | None:
        """The block that is being read, which is begun if there is none; None after the last one."""
        while self._block is None or self._row >= len(self._block[0]):
            found = next(self._blocks, None)
            if found is None:
                self._block = None
                return None
            self._number, self._row = found[0], 0
            self._block = self._checked(found[1])
        return self._block

    def _checked(self, given: Any) -> Block:
        """Check a block, and that its targets are of the kind of all others."""
        try:
            X, targets = self._check(given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"block {self._number}: {error}") from None
        if not len(X):
            return X, targets
        kind = _Kind(bool(targets.labels.size), bool(targets.weights.size), targets.values.shape[1:])
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ValueError(
                f"block {self._number}: Y must be of the same kind in all blocks, and weights in all or in none; got"
                f" {kind} after {self._kind}"
            )
        return X, targets

    def fill(self, pool: Pool) -> None:
        """Fill a pool, as far as there are rows."""
        while pool.n_rows < pool.capacity:
            block = self.first()
            if block is None:
                return
            self._row += pool.put(block, self._number, self._row)
