"""A model in training on rows that are read while others are trained on: see :mod:`fastmlp.pools`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import blocks, checks, rows, training
from fastmlp.pools import Block, Piece, Pieces, one_ahead, scattered
from fastmlp.trainee import Trainee


class _PieceTrainee(Trainee):
    """A model in training that meets its data piece by piece."""

    _piece: Piece | None = None

    @property
    def may_go_ahead(self) -> bool:
        """Not: the data of an epoch come piece by piece."""
        return False

    def _train_on(self, pieces: Iterator[Piece], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train on each piece as on data of its own."""
        so_far, self._rows_before = training.Epoch(0.0, 0.0, 0), 0
        with one_ahead(pieces, interrupted) as each:
            for piece in each:
                n_rows, weight = piece.n_rows, piece.weight
                size = min(self.plan.batch_size, n_rows)
                self._piece, self._X, self._targets = piece, piece.X, piece.targets
                self._is_ready, self._run = True, self._run._replace(batch_size=size, n_rows=n_rows)
                of_piece = replace(self.plan, rows=None, n_samples=n_rows, total_weight=weight, batch_size=size)
                ended = training.epoch(of_piece, self, piece.order, interrupted, bar, so_far.total)
                self._rows_before += n_rows
                so_far = training.Epoch(ended.total, so_far.weight + weight, self._rows_before, ended.why)
                if ended.why:
                    break
        if interrupted.is_set() and not so_far.why:  # not all pieces have come
            so_far = so_far._replace(why=training.INTERRUPTED)
        return so_far


class MappedTrainee(_PieceTrainee):
    """A model in training on scattered rows of a large mapped file: the steps, and the bits, of one on an array."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._all, self._mapped = self.data, self._pages
        self._pages = rows.MappedPages()  # pieces are not mapped

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until it is interrupted, between two steps."""
        pieces = scattered(self._all, order, self._mapped, self.plan.batch_size, self._mlp._dtype)
        return self._train_on(pieces, interrupted, bar)._replace(weight=self.plan.total_weight)

    def _metrics_of_training(self) -> dict[str, float]:
        self._X, self._targets = self._all
        return super()._metrics_of_training()


def _until(interrupted: threading.Event, coming: Iterator[Any]) -> Iterator[Any]:
    """The same, until somebody interrupts."""
    for each in coming:
        yield each
        if interrupted.is_set():
            return


class StreamTrainee(_PieceTrainee):
    """A model in training on blocks."""

    def __init__(self, mlp: Any, source: Any, check: Callable[[Any], Block], *others: Any) -> None:
        nothing = np.empty((0, mlp._sizes[0]), mlp._dtype)
        super().__init__(mlp, nothing, checks.Targets(nothing), *others)
        self._source = source
        self._pieces = Pieces(check, self.plan.batch_size, mlp._dtype, converts_targets=mlp._loss != "own")

    def epoch(self, order: NDArray[np.int64], interrupted: threading.Event, bar: Any) -> training.Epoch:
        """Train for one epoch; until it is interrupted, between two steps. There is no order of all rows."""
        del order
        # the reader draws from a generator of its own: it is ahead of what is trained on
        rng = np.random.default_rng(self._mlp._rng.integers(2**63)) if self.plan.shuffle else None
        coming = _until(interrupted, blocks.in_order(self._source, rng))
        ended = self._train_on(self._pieces.of(coming, rng), interrupted, bar)
        if ended.n_samples == 0 and not ended.why:
            again = ", which must be there again in each epoch" if self.history.n_epochs else ""
            raise ValueError(f"X must be blocks of rows{again}; got no row in epoch {self.history.n_epochs + 1}")
        if ended.weight == 0 and not ended.why:
            raise ValueError("sample_weight must be above 0 somewhere; got zero in all blocks")
        return ended

    def take_steps(self, order: NDArray[np.int64], first: int, n_steps: int, total: float) -> tuple[float, int]:
        """Take them. Values that are not finite are found while they are used, and told by their block."""
        try:
            return super().take_steps(order, first, n_steps, total)
        except ValueError:
            not_finite = None if self._piece is None else self._piece.not_finite()
            if not_finite is None:
                raise
            raise not_finite from None

    def _metrics_of_training(self) -> dict[str, float]:
        return {}  # they would take another pass over all blocks
