"""The machine itself: if this differs between two runs, so does everything else, and it is not fastmlp."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from time import perf_counter, sleep
from typing import Any

import numba
import numpy as np

from fastmlp.kernels.simd import pause, read_counter, set_counter

from .shapes import DTYPES

TURNS, REPETITIONS = 5_000, 5
PAUSE = 0.3
"""Seconds before that: the threads of other programs, which go on waiting busily, are asleep then."""


def n_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _taking_turns() -> Any:
    @numba.njit(nogil=True)  # noqa: TID251 (nothing of fastmlp's is measured here)
    def take_turns(counter: Any, me: int, turns: int) -> None:
        for k in range(turns):
            while read_counter(counter, 0) != 2 * k + me:
                pause()
            set_counter(counter, 0, 2 * k + me + 1)

    return take_turns


def handover_seconds() -> float:
    """How long a cache line takes from one thread to another and into its registers; NaN on a single processor.

    It tells where two virtual processors are. On a Zen 4 server: 14 ns, both on one core, whose units they share, so
    that a second thread gains nothing; 32, on cores that share a cache; 160, on cores that do not, so that small steps
    on two threads take up to twice as long.
    """
    if n_processors() < 2:  # two threads that wait for each other would wait for their turns, a minute in all
        return np.nan
    take_turns, counter, best = _taking_turns(), np.zeros(64, np.int64), np.inf
    sleep(PAUSE)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(REPETITIONS):
            counter[0], start = 0, perf_counter()
            for done in [pool.submit(take_turns, counter, me, TURNS) for me in range(2)]:
                done.result()
            best = min(best, perf_counter() - start)  # the first one compiles
    return best / (2 * TURNS)


class Machine:
    """A product of two matrices, by NumPy alone."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Draw the matrices."""
        rng = np.random.default_rng(0)
        self.A, self.B = (rng.standard_normal((512, 512)).astype(dtype) for _ in range(2))

    def time_dot(self, dtype):
        np.dot(self.A, self.B)


class Processors:
    """How far apart two of them are."""

    def track_handover(self):
        return handover_seconds()

    track_handover.unit = "seconds"
