"""A model in training on rows that are read while others are trained on: see :mod:`fastmlp.pools`."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import blocks, checks, rows, training
from fastmlp.pools import BlockRows, Pool, Pools, ScatteredRows, Source
from fastmlp.trainee import Trainee

_IN_ORDER = np.empty(0, np.int64)


class _PoolTrainee(Trainee):
    """A model in training that meets its data pool by pool."""

    _pools: Pools
    _pool: Pool | None = None

    def _train_on_pools(
        self, source: Source, interrupted: threading.Event, bar: Any, rng: np.random.Generator | None = None
    ) -> training.Epoch:
        """Train on each pool as on data of its own; with a generator, in a random order."""
        so_far, self._rows_before = training.Epoch(0.0, 0.0, 0), 0
        with self._pools.filled(source) as pools:
            for pool in pools:
                n_rows = pool.n_rows
                self._pool, (self._X, self._targets) = pool, pool.data()
                self._is_ready, self._run = True, self._run._replace(n_rows=n_rows)
                weight = self._targets.total_weight(n_rows)
                of_pool = replace(self.plan, rows=None, n_samples=n_rows, total_weight=weight)
                order = _IN_ORDER if rng is None else of_pool.order(rng)
                ended = training.epoch(of_pool, self, order, interrupted, bar, so_far.total)
                self._rows_before += n_rows
                so_far = training.Epoch(ended.total, so_far.weight + weight, self._rows_before, ended.why)
                if ended.why:
                    break
        return so_far


class MappedTrainee(_PoolTrainee):
    """A model in training on scattered rows of a large mapped file: the steps, and the bits, of one on an array."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._all, self._pools = self.data, Pools(self.plan.batch_size, self._mlp._dtype)
        self._mapped, self._pages = self._pages, rows.MappedPages()  # pools are not mapped

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until it is interrupted, between two steps."""
        ended = self._train_on_pools(ScatteredRows(self._all, order, self._mapped), interrupted, bar)
        return ended._replace(weight=self.plan.total_weight)

    def _metrics_of_training(self) -> dict[str, float]:
        self._X, self._targets = self._all
        return super()._metrics_of_training()


class StreamTrainee(_PoolTrainee):
    """A model in training on blocks."""

    def __init__(self, mlp: Any, source: Any, *others: Any) -> None:
        nothing = np.empty((0, mlp._sizes[0]), mlp._dtype)
        super().__init__(mlp, nothing, checks.Targets(nothing), *others)
        self._source, self._rows = source, BlockRows(mlp._block_of_rows)
        self._pools = Pools(self.plan.batch_size, mlp._dtype, converts_targets=mlp._loss != "own")

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until it is interrupted, between two steps. There is no order of all rows."""
        del order
        rng = self._mlp._rng if self.plan.shuffle else None
        self._rows.begin(blocks.in_order(self._source, rng))
        ended = self._train_on_pools(self._rows, interrupted, bar, rng)
        if ended.n_samples == 0:
            raise ValueError("X must be blocks of rows; got no row")
        return ended

    def take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        """Take them. Values that are not finite are found while they are used, and told by their block."""
        try:
            return super().take_steps(order, first, n_steps, total)
        except ValueError:
            not_finite = None if self._pool is None else self._pool.not_finite()
            if not_finite is None:
                raise
            raise not_finite from None

    def _metrics_of_training(self) -> dict[str, float]:
        return {}  # they would take another pass over all blocks
