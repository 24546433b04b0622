"""How many threads a network's work gets: by its number of operations, and in between as measured.

The measuring itself is :mod:`fastmlp.threads`'s.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from fastmlp import threads
from fastmlp.kernels import jit, network

_PARALLEL_FROM = 2_000_000
"""Operations (float32; half as many in float64) from which a second thread pays for its launch, as measured."""

_FORWARD_ALONE = "predict", "loss", "forward"
"""Work that has no gradient, in which activations count for more."""

_MEASURE_FROM, _MEASURE_TO = network.GROUP_OPERATIONS, 500_000_000
"""Operations of a training step between which the best number of threads is found by measuring. A longer one takes
milliseconds: all threads pay then on a quiet machine, and a trial of fewer would cost tenths of a second. (Beside
other busy processes, steps as long as these have not been measured.)"""


def class_of(n_samples: int) -> int:
    """The next power of two: work on so many samples or somewhat fewer is measured together."""
    return 1 << (n_samples - 1).bit_length()


class Paces:
    """A network's work, by kind and about how many samples, and what is known of its speed."""

    def __init__(
        self, layer_sizes: Sequence[int], dtype: np.dtype, n_threads: int | None, of_network: Hashable
    ) -> None:
        pairs = zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        self._multiplications = sum(inputs * outputs for inputs, outputs in pairs)
        self._of_a_step = network.operations(layer_sizes)
        self._units, self._itemsize = sum(layer_sizes[1:]), dtype.itemsize
        self._wanted = n_threads
        self._of_network = tuple(layer_sizes), dtype.str, of_network
        self.most_threads: int | None = None
        """So many at most, where other processes of the same training share the machine."""
        self._known: dict[tuple[str, int, int], threads.Pace] = {}

    def __call__(self, n_samples: int, kind: str = "step") -> threads.Pace:
        """What is known of the speed of a step on so many samples, or of other work on about so many."""
        size = n_samples if kind == "step" else class_of(n_samples)
        most = jit.max_threads()
        pace = self.of_at_most(most, size, kind)
        if pace.candidates == (1,):
            return pace
        own = min(threads.share(), self.most_threads or most)
        return pace if own == most else self.of_at_most(own, size, kind)

    def of_at_most(self, most: int, size: int, kind: str = "step") -> threads.Pace:
        """The same, if there are at most so many threads."""
        pace = self._known.get((kind, size, most))
        if pace is None:
            operations, first = self.operations(size, kind), self._threads(size, kind, most)
            measure = self._wanted is None and (_MEASURE_FROM < operations < _MEASURE_TO)
            numbers = threads.candidates(first, most) if measure else (first,)
            pace = self._known[kind, size, most] = threads.pace_of((kind, size, self._of_network), numbers)
        return pace

    @contextmanager
    def measured(self, n_samples: int, kind: str) -> Iterator[int]:
        """How many threads work of this kind on so many samples gets, whose time is taken."""
        with threads.at_work:
            pace, start = self(n_samples, kind), time.perf_counter()
            n_threads = pace.n_threads
            yield n_threads
        tell(pace, start, n_samples, n_threads)

    def _threads(self, n_samples: int, kind: str, most: int) -> int:
        """Threads for a batch, from the size of the work: few operations are done sooner by one."""
        if self._wanted is not None:
            return min(self._wanted, jit.max_threads())
        return most if self.operations(n_samples, kind) > _PARALLEL_FROM else 1

    def operations(self, n_samples: int, kind: str = "step") -> int:
        """Operations of work on so many samples, counted as if they were float32, and as a training step has them."""
        of_a_sample = self._of_a_step
        if kind in _FORWARD_ALONE:  # a launch pays a little later
            of_a_sample = (4 * self._multiplications + 2 * network.UNIT_OPERATIONS * self._units) // 3
        return of_a_sample * n_samples * self._itemsize // 4


def tell(pace: threads.Pace, start: float, n_samples: int, n_threads: int) -> None:
    """Note how long work on so many samples has taken so many threads since ``start``, where it counts."""
    if len(pace.candidates) > 1:
        pace.tell(time.perf_counter() - start, n_samples / class_of(n_samples), n_threads)
