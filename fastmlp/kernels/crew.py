"""How threads share a piece of work that has phases, without a barrier.

A phase consists of tasks. Each thread claims the next task, does it, and claims another; whoever finishes the last
task of a phase opens the next one. A thread that finds no task left waits for that. So nobody waits for a thread that
is late, only for a task that somebody has begun; any number of threads, one included, does the same work, and it does
not matter in which order, or whether at the same time, they arrive. A parallel loop per phase, as an alternative,
costs 3 to 5 us each time, and on a busy machine its barrier waits for every thread's turn on the processor.

The state of a crew is an array of counters. No mathematics.
"""

from __future__ import annotations

from fastmlp.kernels.jit import tile_function
from fastmlp.kernels.simd import add_to_counter, give_way, pause, read_counter, set_counter

SIZE = 32
"""Counters of a crew."""

_NEXT, _DONE = 0, 16  # on cache lines of their own
_PHASE_BITS = 32  # in _NEXT, the phase stands above so many bits of the task

_PATIENCE = 2000
"""Looks at the counter, some 40 us in all, before a waiting thread gives its processor to others."""


@tile_function
def open_phase(crew, phase):
    """Begin a phase: its tasks may be claimed from now on. Only one thread may do so, when no task is unfinished."""
    set_counter(crew, _DONE, 0)
    set_counter(crew, _NEXT, phase << _PHASE_BITS)


@tile_function
def claim(crew):
    """Return the phase, and a task that is nobody else's. It is one too high if none is left."""
    ticket = add_to_counter(crew, _NEXT, 1)
    return ticket >> _PHASE_BITS, ticket & ((1 << _PHASE_BITS) - 1)


@tile_function
def finish(crew, tasks):
    """Tell that a task is done; returns whether it was the last of its phase's ``tasks``."""
    return add_to_counter(crew, _DONE, 1) == tasks - 1


@tile_function
def wait_for_next(crew, phase):
    """Wait until another phase has begun."""
    looks = 0
    while read_counter(crew, _NEXT) >> _PHASE_BITS == phase:
        looks += 1
        if looks < _PATIENCE:
            pause()
        else:
            give_way()
