"""A call that is made again with other rows: a training step that is like the last one, or the prediction of a row.

The work of a small step takes 0.45 us, and what Python did around it took 1.2: looking at the rows, taking the model's
lock and giving it back, counting the step. So one compiled function does it all.

A step by one thread, so short that it is not worth letting others have the interpreter, keeps that. Then nothing comes
between it and its count, neither another thread nor Ctrl-C, and nobody takes the model's lock meanwhile: it is enough
that nobody else holds it. For other steps the caller holds the lock.

What is needed for all this stands in the call's table, behind the arguments of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastmlp.kernels.calls import ALONE, BEHIND, COUNT_AT, STATUS_AT, VALUE_AT, Call, address, call_entry
from fastmlp.kernels.columns import MEMORY, STEPS, VERSION
from fastmlp.kernels.jit import brief_function, inlined_function
from fastmlp.kernels.objects import (
    OBJECT,
    address_of,
    integers_at,
    is_array,
    length_of,
    let_go_of_interpreter,
    owner_at,
    take_interpreter,
    this_thread,
)

PLACE, DTYPE, AXES, LENGTHS = range(4)
"""What a table says of an array that varies: where its place is; and how it must be: its dtype, how many axes it has,
one or two, and how long each is, which may be BY_NUMBER."""

BY_NUMBER = -1
"""In the place of a length: the number that varies."""

ENTRY_AT, NUMBER_AT, ARRAY_TYPE_AT = range(-BEHIND, -BEHIND + 3)
X_AT, Y_AT = ARRAY_TYPE_AT + 1, ARRAY_TYPE_AT + 6
"""What every such table says: the kernel's entry, where a number has its place, the type of plain arrays, and what is
known of the two arrays that are new."""

IS_BRIEF, COUNTS_AT, PANELS_VERSION = range(Y_AT + 5, Y_AT + 8)
"""What it says of the work, and of the model: whether other threads wait for it; where the model's counts are; and of
which version of its parameters the panels are that a prediction reads."""

IS_READY, OWNER_AT, MEMORY_AT, RATE_AT, WEIGHT = range(PANELS_VERSION + 1, PANELS_VERSION + 6)
"""What it says of a step: whether it may still be taken; where the owner of the model's lock stands; where the table
has the optimizer's memory; where the step's rate has its place; and the weight of all samples."""

OTHER_ROWS = -1
"""In the place of a status: the rows did not match, or the step was not ready; the kernel was not called."""

_BRIEF_OPERATIONS = 600_000
"""Operations of a call, up to which it keeps Python's interpreter to itself: some 8 us. To let others have it
meanwhile takes 0.055 us."""


class Rows(NamedTuple):
    """An argument that varies from call to call, and what it must be like."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def vary(call: Call, number: str, X: Rows, Y: Rows) -> None:
    """Get a call ready to be made again with new arguments for these: a number, and two arrays.

    The number is that of the samples to be predicted, or of the step to be taken.

    What stands in their places is then no longer what was set there.
    """
    table, kernel = call.table, call.kernel
    table[ENTRY_AT], table[NUMBER_AT], table[ARRAY_TYPE_AT] = call.entry, kernel.slot(number), id(np.ndarray)
    for at, rows in ((X_AT, X), (Y_AT, Y)):
        known = [kernel.slot(rows.name), id(rows.dtype), len(rows.shape), *rows.shape]
        table[at : at + len(known)] = known
    call.let_go(kernel.position(rows.name) for rows in (X, Y))


def for_predictions(call: Call, counts: NDArray[np.int64], operations: int) -> None:
    """Note in a call's table what a prediction needs of its model: the counts; and how many operations it takes."""
    call.table[COUNTS_AT] = address(counts)
    call.keep(counts)
    set_work(call, operations)


def set_work(call: Call, operations: int) -> bool:
    """Note how many operations a call takes. Returns whether these are so few that other threads wait for it."""
    is_brief = operations < _BRIEF_OPERATIONS
    call.table[IS_BRIEF] = is_brief
    return is_brief


def for_steps(
    call: Call, counts: NDArray[np.int64], operations: int, lock: Any, rate: NDArray[np.float64], weight: float
) -> None:
    """Note in a call's table what a step needs: beside those, the lock, where its rate is written, and its weight."""
    for_predictions(call, counts, operations)
    nobody, owner = np.zeros(1, np.int64), owner_at(lock)
    call.table[OWNER_AT] = address(nobody) if owner is None else owner
    call.table[MEMORY_AT], call.table[RATE_AT] = call.kernel.slot("memory"), address(rate)
    call.keep(nobody, lock, rate)
    set_weight(call, weight)
    call.table[IS_READY] = True


def needs_lock(lock: Any, operations: int) -> bool:
    """Whether the model's lock must be held for a step of so many operations."""
    return owner_at(lock) is None or operations >= _BRIEF_OPERATIONS


def set_weight(call: Call, weight: float) -> None:
    """Note the weight of all samples."""
    call.table.view(np.float64)[WEIGHT] = weight


def set_rows(call: Call, number: int, X: Any, Y: Any) -> bool:
    """Change what varies, for one call: the arrays are not kept alive. Returns whether they match."""
    return bool(compiled_put_rows()(call.table, number, X, Y))


# ------------------------------------------------------------------------------------------------------------------
# machine code


@inlined_function
def _match(table, number, at, rows):
    """Whether rows are as the table says."""
    if not is_array(rows, table[ARRAY_TYPE_AT], table[at + DTYPE], table[at + AXES]):
        return False
    for axis in range(table[at + AXES]):
        wanted = table[at + LENGTHS + axis]
        if length_of(rows, axis) != (number if wanted == BY_NUMBER else wanted):
            return False
    return True


@inlined_function
def _put(table, at, rows):
    """Put rows in their place: a kernel takes them one after the other, as one axis."""
    size = 1
    for axis in range(table[at + AXES]):
        size *= length_of(rows, axis)
    place = table[at + PLACE]
    table[place], table[place + 1] = address_of(rows), size


@inlined_function
def _put_rows(table, number, X, Y):
    """Put what varies in its places. Returns whether the rows match what the table says; if not, they are not put."""
    table[COUNT_AT] = 0  # which the kernel changes, if it is reached
    if not (_match(table, number, X_AT, X) and _match(table, number, Y_AT, Y)):
        table[STATUS_AT] = OTHER_ROWS
        return False
    table[table[NUMBER_AT]] = number
    _put(table, X_AT, X)
    _put(table, Y_AT, Y)
    return True


@inlined_function
def _put_step(table, rate, X, Y):
    """Put a step's rate, its number and its rows in their places. Returns whether it may be taken."""
    counts = integers_at(table[COUNTS_AT], MEMORY + 1)
    table[COUNT_AT], table[STATUS_AT] = 0, OTHER_ROWS
    if not (table[IS_READY] and table[table[MEMORY_AT]] == counts[MEMORY]):
        return False
    integers_at(table[RATE_AT], 1).view(np.float64)[0] = rate
    return _put_rows(table, counts[STEPS] + 1, X, Y)


@inlined_function
def _count_step(table):
    """Count the step, if the kernel has taken it. Returns its loss, or NaN."""
    if table[COUNT_AT] == 0:
        return np.nan
    counts, floats = integers_at(table[COUNTS_AT], MEMORY + 1), table.view(np.float64)
    counts[STEPS] += 1
    counts[VERSION] += 1
    return floats[VALUE_AT] / floats[WEIGHT]


@inlined_function
def _run(table):
    """Call the kernel. Returns whether its status is 0."""
    if table[IS_BRIEF]:
        call_entry(table[ENTRY_AT], ALONE, table)
    else:
        state = let_go_of_interpreter()
        call_entry(table[ENTRY_AT], ALONE, table)
        take_interpreter(state)
    return table[STATUS_AT] == 0


# Python hands over tables as objects too: to make an array of one, and let go of it, takes Numba 0.15 us


@brief_function
def _put_only(table, number, X, Y):
    return _put_rows(integers_at(address_of(table), length_of(table, 0)), number, X, Y)


@brief_function
def _predict_again(given, number, X, output):
    table = integers_at(address_of(given), length_of(given, 0))
    is_current = table[PANELS_VERSION] == integers_at(table[COUNTS_AT], MEMORY + 1)[VERSION]
    return is_current and _put_rows(table, number, X, output) and _run(table)


@brief_function
def _predict_many_again(given, number, X, output):
    table = integers_at(address_of(given), length_of(given, 0))
    return _put_rows(table, number, X, output) and _run(table)


@brief_function
def _step_again(given, rate, X, Y):
    table = integers_at(address_of(given), length_of(given, 0))
    owner = integers_at(table[OWNER_AT], 1)[0]
    if not (owner == 0 or owner == this_thread()):
        return np.nan
    if _put_step(table, rate, X, Y):
        _run(table)
    return _count_step(table)


@brief_function
def _begin_step(given, rate, X, Y):
    return _put_step(integers_at(address_of(given), length_of(given, 0)), rate, X, Y)


@brief_function
def _end_step(given):
    return _count_step(integers_at(address_of(given), length_of(given, 0)))


def _compiled(function: Any, *signature: Any) -> Callable[[], Callable[..., Any]]:
    """Compile a function when it is asked for."""

    @cache
    def compiled() -> Any:
        function.compile(signature)
        return function.overloads[signature].entry_point

    return compiled


compiled_put_rows = _compiled(_put_only, OBJECT, types.int64, OBJECT, OBJECT)
"""Returns a function of a table, a number, ``X`` and ``Y``, compiled when this is first called.

It puts what varies in its places, for one call: the arrays are not kept alive. It returns whether they match.
"""

compiled_prediction = _compiled(_predict_again, OBJECT, types.int64, OBJECT, OBJECT)
"""Returns a function of a table, how many samples, ``X`` and the output: whether these are predicted now.

They are not where the parameters have changed, where rows do not match, or are not finite.
"""

compiled_predictions = _compiled(_predict_many_again, OBJECT, types.int64, OBJECT, OBJECT)
"""Returns a function of the same, that reads no panels: they are not predicted where rows do not match, or are not
finite."""

compiled_step = _compiled(_step_again, OBJECT, types.float64, OBJECT, OBJECT)
"""Returns a function of a table, a learning rate, ``X`` and ``Y``, that takes a step: the loss, or NaN if it did not.

It takes none where another thread works with the model, where the step is not ready any more, where rows do not match,
and where the kernel refused it.
"""

compiled_beginning = _compiled(_begin_step, OBJECT, types.float64, OBJECT, OBJECT)
"""Returns a function of the same, that gets everything ready for a step by a crew: whether it may be taken."""

compiled_end = _compiled(_end_step, OBJECT)
"""Returns a function of a table, that counts the step which a crew has taken: the loss, or NaN if it was not taken."""
