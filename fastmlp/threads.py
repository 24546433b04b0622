"""How many threads a piece of repeated work gets: as many as were fastest lately, of those that are its own.

Its own are an equal part of all: where several threads of a process train at the same time, as in a search, none takes
those of another. How many of them pay depends on the size of the work, and on what else the machine is doing: beside
other busy processes two threads can be slower than one. So every number of threads is tried for some milliseconds,
the best one is kept for half a second or more, and so on; for less, when it has become much slower than it was, and
at first where it is not all threads. The results of the work are the same bits with any number.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache

from fastmlp.kernels import jit

_TRIAL_SECONDS = 0.004
"""How long a number of threads is tried: longer than a busy machine's turns, so that their mean is met."""

_TRIAL_UNITS = 3
"""How many units it is tried for, at least: a single long step may meet somebody else's turn."""

_KEEP_SECONDS = 0.5
"""How long the best one is kept, at least, if it is all threads."""

_KEEP_PER_TRIAL = 50
"""How long it is kept, at least, for each second that trials took: they cost two hundredths of the time at most, but
for those that come sooner."""

_KEEP_FEWER_PER_TRIAL = 10
"""The same where it is not all threads that were fastest, but doubled each time that is found again: their trial may
have met the threads of another program, which go on waiting busily for tenths of a second."""

_SLOWER, _WINDOW_SECONDS, _KEEP_SLOW_PER_TRIAL = 1.5, 0.03, 5
"""The best one is given up sooner when work takes so many times as long as it did, over so many seconds; but not
before it has been kept for so many seconds for each second that trials took."""


class _AtWork:
    """Those threads of this process that train or predict now. ``with at_work:`` counts the present one among them."""

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}  # how many such calls each of them is in: each changes its own
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._depths.clear)  # the parent's threads are not in a forked child

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._depths[me] = self._depths.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        depth = self._depths.pop(me, 1) - 1
        if depth:
            self._depths[me] = depth

    def count_of_others(self) -> int:
        """How many there are beside the present thread."""
        return len(self._depths) - (threading.get_ident() in self._depths)


at_work = _AtWork()


def share() -> int:
    """Threads that the present thread may take: of those there are, an equal part for each thread at work."""
    return max(1, min(jit.max_threads(), _of_dask()) // (1 + at_work.count_of_others()))


def _of_dask() -> int:
    """Threads that Dask has given to the worker whose task this is; without Dask, any number.

    Dask starts several workers on a machine, and limits the threads of BLAS and of OpenMP in them, but not Numba's.
    """
    # in a worker it has been imported; where it is just being imported, the function may not be there yet
    get_worker = getattr(sys.modules.get("distributed.worker"), "get_worker", None)
    if get_worker is None:
        return sys.maxsize
    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # this is no task of Dask's
        return sys.maxsize


@dataclass
class Pace:
    """Measured speed of a kind of work, for each number of threads."""

    candidates: tuple[int, ...]
    """Numbers of threads that may be chosen; the first is taken before anything is measured."""
    present: int = 0
    """Which candidate is running."""
    seconds_per_unit: dict[int, float] = field(default_factory=dict)
    """What each candidate took when it ran last."""
    _is_kept: bool = False
    """Whether it is no trial."""
    _until: float = _TRIAL_SECONDS
    """How many seconds it is taken."""
    _may_slow: bool = False
    """Whether it may be given up sooner: where it is kept, and not the lowest number, than which more would hardly be
    quicker."""
    _seconds: float = 0.0
    _units: float = 0.0
    _window_seconds: float = 0.0
    _window_units: float = 0.0
    """Of late."""
    _last: float = 0.0
    _trials: float = 0.0
    _is_first: bool = True
    _kept_before: int = -1
    _found_again: int = 0
    _is_told: bool = False
    """Whether somebody is telling something."""

    @property
    def n_threads(self) -> int:
        """Threads to take now."""
        return self.candidates[self.present]

    @property
    def units_left(self) -> int:
        """Units of work, as far as can be foreseen, until another number of threads is to be tried; at least one."""
        return 1 if self._is_first or self._last <= 0 else max(1, int((self._until - self._seconds) / self._last))

    def _begin(self) -> None:
        """Begin to count for the number of threads that has been chosen."""
        # a trial, as long as nothing else is known: Ctrl-C may come in any of the calls below
        self._is_kept, self._may_slow, self._until = False, False, _TRIAL_SECONDS
        self._seconds, self._units, self._window_seconds, self._window_units = 0.0, 0.0, 0.0, 0.0
        if len(self.seconds_per_unit) < len(self.candidates):
            return
        self._is_kept, self._may_slow = True, self.n_threads > min(self.candidates)
        self._until = max(_KEEP_SECONDS, _KEEP_PER_TRIAL * self._trials)
        if self.n_threads < max(self.candidates):
            self._until = min(self._until, _KEEP_FEWER_PER_TRIAL * self._trials * 2**self._found_again)

    def tell(self, seconds: float, units: float, n_threads: int) -> None:
        """Note how long some units of work took with so many threads, and choose for the next ones.

        The first ones after a change do not count: code may have been compiled, and caches are cold. Nor does what is
        told while somebody else is telling, or of another number of threads than the one that is running: others have
        gone on meanwhile.
        """
        if self._is_told:
            return
        self._is_told = True  # without a call, so neither Ctrl-C nor another thread comes between
        try:
            if n_threads == self.candidates[self.present]:
                self._note(seconds, units)
        finally:
            self._is_told = False

    def _note(self, seconds: float, units: float) -> None:
        self._last = seconds / units
        if self._is_first:
            self._is_first = False
            return
        self._seconds += seconds
        self._units += units
        is_slow = self._may_slow and self._has_slowed(seconds, units)
        if is_slow or (self._seconds >= self._until and (self._is_kept or self._units >= _TRIAL_UNITS)):
            self._choose(is_slow)
            self._begin()

    def _choose(self, is_slow: bool) -> None:
        """Choose another number of threads, or the same again, now that the present one has run for its time."""
        kept, lasted = self._is_kept, self._seconds / self._units
        self._trials = 0.0 if kept else self._trials + self._seconds
        if is_slow:  # it may have been a moment's disturbance: try it again, after the others
            self.seconds_per_unit = {}
            self.present, self._is_first = (self.present + 1) % len(self.candidates), True
            return
        if kept:  # measure the others again
            self.seconds_per_unit = {}
        self.seconds_per_unit[self.n_threads] = lasted
        untried = [k for k, n in enumerate(self.candidates) if n not in self.seconds_per_unit]
        fastest = min(range(len(self.candidates)), key=lambda k: self.seconds_per_unit.get(self.candidates[k], 0.0))
        if kept:
            self._kept_before = self.present
        before, self.present = self.present, untried[0] if untried else fastest
        self._is_first = self.present != before
        if not untried:
            self._found_again = min(self._found_again + 1, 8) if fastest == self._kept_before else 0

    def _has_slowed(self, seconds: float, units: float) -> bool:
        """Whether what is kept has become much slower of late."""
        self._window_seconds += seconds
        self._window_units += units
        if self._window_seconds < _WINDOW_SECONDS:
            return False
        seconds, units, self._window_seconds, self._window_units = self._window_seconds, self._window_units, 0.0, 0.0
        has_been_kept = self._seconds >= _KEEP_SLOW_PER_TRIAL * self._trials
        # it is not there if Ctrl-C came when it had just been removed
        return has_been_kept and seconds > _SLOWER * units * self.seconds_per_unit.get(self.n_threads, math.inf)


@lru_cache(maxsize=1024)
def pace_of(work: Hashable, numbers: tuple[int, ...]) -> Pace:
    """What this process knows of the speed of some work with these numbers of threads, whichever network did it last.

    A network that trains for 20 ms only, as one of many that are tried, spent a tenth of it on trials of its own.
    """
    del work
    return Pace(numbers)


def candidates(first: int, most: int) -> tuple[int, ...]:
    """One thread, all of them, and powers of two between; ``first`` before the others."""
    numbers = {1, most} | {2**k for k in range(1, most.bit_length()) if 2**k < most}
    return (first, *sorted(numbers - {first}))
