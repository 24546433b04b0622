"""How a kernel of the network is called: by one thread, or by the members of a crew; again and again, at little cost.

A *crew kernel* is one function that every member of a crew calls with its own number. It is compiled once, for one
thread and for many alike: members call the very code that one thread calls. (A parallel loop in the kernel, as an
alternative, is compiled a second time, which took two thirds of all the time of compiling.)

Numba takes some 60 ns to look at an argument, and a kernel has twenty. So the arguments of a call are also *packed*
into a table of integers, each array as its address and its shape, where the next call changes only what is new. An
*entry* is a small compiled function, which makes the arguments of the table again, calls the kernel, and writes what
that returns behind them. In the checked build and in interpreted kernels there are no tables.

Where a call is made again with other rows, these are looked at in compiled code (:mod:`fastmlp.kernels.objects`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastmlp.kernels import jit
from fastmlp.kernels.jit import brief_function, inlined_function, parallel_function, plain_function
from fastmlp.kernels.objects import OBJECT, address_of, array_of, integers_at, is_array, length_of

ALONE, OPENING, CLOSING = -1, -2, -3
"""In the place of a member's number: a single one that does everything; the call before all members', and after.

The last may be called more than once.
"""

SLOTS = 3
"""Integers in the table for each argument: an array's address and its two lengths, or a number's bits."""

PLACE, DTYPE, AXES, LENGTHS = range(4)
"""What a table says of an array that varies: where its place is; and how it must be: its dtype, how many axes it has,
one or two, and how long each is, which may be BY_NUMBER."""

BY_NUMBER = -1
"""In the place of a length: the number that varies."""

_BEHIND = 16
ENTRY_AT, NUMBER_AT, ARRAY_TYPE_AT, X_AT, Y_AT, STATUS, VALUE, COUNT = (
    k - _BEHIND for k in (0, 1, 2, 3, 8, 13, 14, 15)
)
"""What stands in the table behind the arguments: the entry; for calls with other rows (:meth:`Call.vary`), where a
number has its place, the type of plain arrays, and what is known of the two arrays that are new; and up to three
numbers that the kernel returned when it was called last, by whoever was ALONE, or CLOSING."""

BRIEF_OPERATIONS = 600_000
"""Operations of a call, up to which it keeps Python's interpreter to itself: some 8 us. To let others have it
meanwhile takes 0.055 us."""

OTHER_ROWS = -1
"""In the place of a status: the rows did not match, and the kernel was not called."""

_INTEGER = ir.IntType(64)
ENTRY = ir.FunctionType(ir.VoidType(), [_INTEGER, _INTEGER.as_pointer()])
"""An entry: of a member's number, and a table."""


class Rows(NamedTuple):
    """An argument that varies from call to call, and what it must be like."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


class CrewKernel:
    """One body, which takes the number of the member that calls it first: see :mod:`fastmlp.kernels.crew`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.python = function
        self.serial = plain_function(function)
        self._entries: dict[tuple[Any, ...], int] = {}

    def __call__(self, *arguments: Any, n_threads: int = 1) -> Any:
        """Run with at most ``n_threads`` threads, for which ``arguments`` are ready."""
        if n_threads <= 1 or not are_packed():
            return self.serial(ALONE, *arguments)
        Call(self, *arguments).run(n_threads)
        return self.serial(CLOSING, *arguments)  # once more, for what it returns

    @cached_property
    def argument_names(self) -> list[str]:
        """Its arguments but for the member's number."""
        return list(inspect.signature(self.python).parameters)[1:]

    def position(self, name: str) -> int:
        """Which argument has this name."""
        return self.argument_names.index(name)

    def slot(self, name: str) -> int:
        """Where an argument stands in the table of a packed call."""
        return SLOTS * self.position(name)

    def entry(self, arguments: tuple[Any, ...]) -> int:
        """Address of a function that calls this kernel with the arguments of a table; compiled if need be."""
        kinds = tuple(_kind(argument) for argument in arguments)
        if kinds not in self._entries:
            signature = (types.int64, *(_without_literals(numba.typeof(argument)) for argument in arguments))
            self.serial.compile(signature)
            compiled = self.serial.overloads[signature]
            body = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
            self._entries[kinds] = _make_entry(body, signature, compiled.fndesc.restype)
        return self._entries[kinds]


def crew_kernel(function: Callable[..., Any]) -> CrewKernel:
    """Make a kernel of a function that every member of a crew calls."""
    return CrewKernel(function)


def are_packed() -> bool:
    """Whether calls are packed: not if kernels are interpreted or checked, nor in a child of one with threads."""
    return not config.DISABLE_JIT and jit.may_launch()


class Call:
    """The arguments of a kernel, packed: calling it with them again costs little."""

    def __init__(self, kernel: CrewKernel, *arguments: Any) -> None:
        self._kernel = kernel
        self._arrays: list[Any] = [None] * len(arguments)
        self.table = np.zeros(SLOTS * len(arguments) + _BEHIND, np.int64)
        self._floats = self.table.view(np.float64)
        self.entry = kernel.entry(arguments)
        self.table[ENTRY_AT] = self.entry
        self.set(*arguments)

    def set(self, *arguments: Any) -> None:
        """Change the arguments, which are of the same types."""
        held = self._arrays
        for k, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                if argument is not held[k]:
                    # what it holds must live as long as its address is here, also if Ctrl-C comes between
                    held[k] = None
                    self.table[SLOTS * k] = argument.__array_interface__["data"][0]
                    self.table[SLOTS * k + 1 : SLOTS * k + 1 + argument.ndim] = argument.shape
                    held[k] = argument
            elif isinstance(argument, float):
                self._floats[SLOTS * k] = argument
            else:
                self.table[SLOTS * k] = argument

    def vary(self, number: str, X: Rows, Y: Rows) -> None:
        """Get ready for calls in which only these arguments are new: a number, and two arrays.

        What stands in their places is then no longer what :meth:`set` wrote there.
        """
        self.table[NUMBER_AT], self.table[ARRAY_TYPE_AT] = self._kernel.slot(number), id(np.ndarray)
        for at, rows in ((X_AT, X), (Y_AT, Y)):
            known = [self._kernel.slot(rows.name), id(rows.dtype), len(rows.shape), *rows.shape]
            self.table[at : at + len(known)] = known
        self.let_go(self._kernel.position(rows.name) for rows in (X, Y))

    def set_rows(self, number: int, X: Any, Y: Any) -> bool:
        """Change what varies, for one call: the arrays are not kept alive. Returns whether they match."""
        return put_rows()(self.table, number, X, Y)

    @property
    def status(self) -> int:
        """The first number that the kernel has returned."""
        return int(self.table[STATUS])

    @property
    def value(self) -> float:
        """The second one; NaN if the first is not 0."""
        return math.nan if self.status else float(self._floats[VALUE])

    def let_go(self, positions: Iterable[int]) -> None:
        """Do not keep these arrays alive; they must be set before the next call."""
        for k in positions:
            self._arrays[k] = None

    def run(self, n_threads: int = 1) -> None:
        """Call the kernel."""
        if n_threads <= 1:
            run_alone(self.entry, self.table)
        else:
            jit.launch(_run_together, n_threads, self.entry, self.table, n_threads)


# ------------------------------------------------------------------------------------------------------------------
# machine code


def _kind(argument: Any) -> Any:
    """What Numba's type of an argument follows from: an ensemble of 64 asked Numba itself for 8 of its 180 ms."""
    if isinstance(argument, np.ndarray) and argument.flags.carray:
        return argument.dtype, argument.ndim
    return type(argument) if isinstance(argument, float) else _without_literals(numba.typeof(argument))


def _without_literals(kind: Any) -> Any:
    return types.int64 if isinstance(kind, types.Integer) else types.unliteral(kind)


@global_compiler_lock
def _make_entry(body: int, signature: tuple[Any, ...], result: Any) -> int:
    """Compile a function of a member's number and a table, that calls ``body`` with the arguments in the table.

    Equivalent to, with the table's integers taken for what they mean::

        returned = body(me, *(unpacked(table[SLOTS * k : SLOTS * (k + 1)]) for k in range(len(signature) - 1)))
        if me < 0:  # members do not write where others read
            table[STATUS], table[VALUE], table[COUNT] = returned  # or fewer
    """
    context = cpu_target.target_context
    library = context.codegen().create_library("fastmlp_entry")
    module = library.create_ir_module("fastmlp_entry")
    function = ir.Function(module, ENTRY, "fastmlp_entry")
    builder = ir.IRBuilder(function.append_basic_block())
    me, table = function.args
    values = [me]
    for k, kind in enumerate(signature[1:]):
        values.append(
            _unpacked(context, builder, kind, [builder.gep(table, [_INTEGER(SLOTS * k + s)]) for s in range(SLOTS)])
        )
    kinds = [context.get_value_type(kind) for kind in signature]
    pointer = ir.FunctionType(context.get_value_type(result), kinds).as_pointer()
    returned = builder.call(builder.inttoptr(_INTEGER(body), pointer), values)
    with builder.if_then(builder.icmp_signed("<", me, _INTEGER(0))):
        first = SLOTS * len(signature[1:]) + _BEHIND + STATUS  # which is counted from the end
        for k, value in enumerate(_numbers_of(builder, result, returned)):
            place = builder.gep(table, [_INTEGER(first + k)])
            builder.store(value, builder.bitcast(place, value.type.as_pointer()))
    builder.ret_void()
    library.add_ir_module(module)
    library.finalize()
    _entries_alive.append(library)
    return int(library.get_pointer_to_function("fastmlp_entry"))


_entries_alive: list[Any] = []


def _numbers_of(builder: Any, kind: Any, value: Any) -> list[Any]:
    """What a kernel returned, number by number: nothing, one, or several, each int64 or float64."""
    if isinstance(kind, types.BaseTuple):
        return [builder.extract_value(value, k) for k in range(len(kind))]
    return [] if kind is types.none else [value]


def _unpacked(context: Any, builder: Any, kind: Any, slots: list[Any]) -> Any:
    """The argument that stands in the table, of this kind."""
    if not isinstance(kind, types.Array):
        place = context.get_value_type(kind).as_pointer()
        return builder.load(builder.bitcast(slots[0], place))
    address, *shape = [builder.load(slot) for slot in slots[: 1 + kind.ndim]]
    return array_of(context, builder, kind, address, shape)


@intrinsic
def _call_entry(typing_context: Any, entry: Any, me: Any, table: Any) -> Any:
    """Call an entry, which is an address, as a member."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, member, given = arguments
        data = context.make_array(signature.args[2])(context, builder, given).data
        builder.call(builder.inttoptr(address, ENTRY.as_pointer()), [member, data])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.Array(types.int64, 1, "C")), generate


@plain_function
def run_alone(entry, table):
    """Call an entry with the arguments of a table."""
    _call_entry(entry, ALONE, table)


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
    table[COUNT] = 0
    if not (_match(table, number, X_AT, X) and _match(table, number, Y_AT, Y)):
        table[STATUS] = OTHER_ROWS
        return False
    table[table[NUMBER_AT]] = number
    _put(table, X_AT, X)
    _put(table, Y_AT, Y)
    return True


@inlined_function
def _put_and_run(table, number, X, Y):
    """Call the entry of a table with other rows. Returns the VALUE that comes back, NaN if the STATUS is not 0."""
    if not _put_rows(table, number, X, Y):
        return np.nan
    _call_entry(table[ENTRY_AT], ALONE, table)
    return table.view(np.float64)[VALUE] if table[STATUS] == 0 else np.nan


# Python hands over tables as objects too: to make an array of one, and let go of it, takes Numba 0.15 us


@brief_function
def _put_only(table, number, X, Y):
    return _put_rows(integers_at(address_of(table), length_of(table, 0)), number, X, Y)


@brief_function
def _run_briefly(table, number, X, Y):
    return _put_and_run(integers_at(address_of(table), length_of(table, 0)), number, X, Y)


@plain_function
def _run(table, number, X, Y):
    return _put_and_run(integers_at(address_of(table), length_of(table, 0)), number, X, Y)


def _of_any_rows(function: Any) -> Callable[[], Callable[[Any, int, Any, Any], Any]]:
    """Compile, when it is asked for, a function of a table, a number, and two objects."""
    signature = OBJECT, types.int64, OBJECT, OBJECT

    @cache
    def compiled() -> Any:
        function.compile(signature)
        return function.overloads[signature].entry_point

    return compiled


put_rows, _briefly, _beside_others = (_of_any_rows(each) for each in (_put_only, _run_briefly, _run))
"""They return these functions, which they compile when they are first called."""


def run_with(operations: int) -> Callable[[Any, int, Any, Any], float]:
    """Return a function that calls the entry of a table with other rows, as ``run(table, number, X, Y)``.

    A call of so many operations; if these are few, other Python threads wait for them.
    """
    return _briefly() if operations < BRIEF_OPERATIONS else _beside_others()


@plain_function
def run_each(entry, tables):
    """Call an entry with each of many tables, by itself."""
    for k in range(len(tables)):
        _call_entry(entry, ALONE, tables[k])


@parallel_function
def _run_together(entry, table, members):
    """Call an entry by every member of a crew."""
    _call_entry(entry, OPENING, table)
    for me in prange(members):
        _call_entry(entry, np.int64(me), table)
    _call_entry(entry, CLOSING, table)
