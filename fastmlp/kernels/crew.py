"""How threads share a piece of work that has phases, without a barrier.

A phase consists of tasks. They lie in *queues*, one for each member of the crew: a member takes the tasks of its own
queue first, and then those that others have left. So it works on the same part of the data in every step, which is
then in its own cache: to read and write 64 KB that another processor had just written took 3.9 us instead of 1.4.
Whoever finishes the last task of a phase opens the next one; a member that finds no task left waits for that. So
nobody waits for a thread that is late, only for a task that somebody has begun; any number of threads, one included,
does the same work, and it does not matter in which order, or whether at the same time, they arrive. A parallel loop
for each phase, as an alternative, costs 3 to 5 us each time, and on a busy machine its barrier waits for each
thread's turn.

A queue is one counter, the *ticket*, in whose bits stand ``phase | end of the queue | next task``. Taking a task adds
1 to it, atomically. The state of a crew is an array of counters. No mathematics.

A phase's number has the 23 bits that are left: 8 million phases in a call. There are fewer, as a call lasts about a
tenth of a second (:mod:`fastmlp.training`), and a phase 0.2 us at least.

What a member has written in one phase, all others see in the next: who reads that a task is done, or that a phase has
begun, sees all that was written before that was told (:func:`~fastmlp.kernels.simd.read_counter` acquires what
:func:`~fastmlp.kernels.simd.set_counter` releases).
"""

from __future__ import annotations

from fastmlp.kernels.calls import ALONE, CLOSING, OPENING
from fastmlp.kernels.jit import inlined_function, tile_function
from fastmlp.kernels.simd import add_to_counter, give_way, pause, read_counter, set_counter

NO_TASK = -1
"""In the place of a task, where none is left."""

_COUNTER = 16  # elements from one counter to the next: a cache line of its own for each
_TASK_BITS = 20
_TASKS = (1 << _TASK_BITS) - 1

MOST_TASKS = _TASKS // 2
"""Of a phase."""

_PATIENCE = 2000
"""Looks at the counter, some 40 us in all, before a waiting thread gives its processor to others."""


def n_counters(members: int) -> int:
    """Elements of the array of counters: one for the tasks done, and one for each queue."""
    return (1 + members) * _COUNTER


@inlined_function
def begins(me):
    """Whether this call comes before those of all members, or is the only one."""
    return me in (ALONE, OPENING)


@inlined_function
def works(me):
    """Whether this call is a member's, or the only one."""
    return me == ALONE or me >= 0


@inlined_function
def ends(me):
    """Whether this call comes behind those of all members, or is the only one."""
    return me in (ALONE, CLOSING)


@tile_function
def tasks_of(me, members, tasks):
    """The tasks of a member, from the first to before the last: equal parts, in a row.

    All of them for one ALONE, and none for OPENING and CLOSING.
    """
    if me < 0:
        return 0, (tasks if me == ALONE else 0)
    return me * tasks // members, (me + 1) * tasks // members


@tile_function
def _queue(member):
    return (1 + member) * _COUNTER


@tile_function
def _phase(ticket):
    return ticket >> 2 * _TASK_BITS


@tile_function
def _end(ticket):
    return ticket >> _TASK_BITS & _TASKS


@tile_function
def _next_task(ticket):
    return ticket & _TASKS


@tile_function
def open_phase(crew, members, phase, tasks):
    """Begin a phase: its tasks may be claimed from now on. Only one thread may do so, when no task is unfinished.

    Queues that get no tasks are set first: when the last task of the phase can be claimed, every queue has been set,
    so nobody opens the next phase while this one is still being opened.
    """
    set_counter(crew, 0, 0)
    for has_tasks in (False, True):
        for member in range(members):
            start, stop = tasks_of(member, members, tasks)
            if (start < stop) == has_tasks:
                set_counter(crew, _queue(member), ((phase << _TASK_BITS | stop) << _TASK_BITS) | start)


@tile_function
def claim(crew, me, members):
    """Return the phase, and a task that is nobody else's, or NO_TASK."""
    # read before any queue is looked at: if the next phase is opened meanwhile, this is the old one, and the wait for
    # another ends at once
    own = read_counter(crew, _queue(me))
    for k in range(members):
        queue = _queue(me + k if me + k < members else me + k - members)
        ticket = read_counter(crew, queue)
        if _next_task(ticket) < _end(ticket):
            ticket = add_to_counter(crew, queue, 1)
            if _next_task(ticket) < _end(ticket):  # nobody has been quicker
                return _phase(ticket), _next_task(ticket)
    return _phase(own), NO_TASK


@tile_function
def finish(crew, tasks):
    """Tell that a task is done; returns whether it was the last of its phase's ``tasks``."""
    return add_to_counter(crew, 0, 1) == tasks - 1


@tile_function
def wait_for_next(crew, me, phase):
    """Wait until another phase has begun."""
    looks = 0
    while _phase(read_counter(crew, _queue(me))) == phase:
        looks += 1
        if looks < _PATIENCE:
            pause()
        else:
            give_way()
