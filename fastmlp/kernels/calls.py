"""How a kernel of the network is called: by one thread, or by the members of a crew; again and again, at little cost.

A *crew kernel* is one function that every member of a crew calls with its own number. It is compiled once, for one
thread and for many alike: members call the very code that one thread calls. (A parallel loop in the kernel, as an
alternative, is compiled a second time, which took two thirds of all the time of compiling.)

Numba takes some 60 ns to look at an argument, and a kernel has twenty. So the arguments of a call are also *packed*
into a table of integers, each array as its address and its shape, where the next call changes only what is new. An
*entry* is a small compiled function, which makes the arguments of the table again, calls the kernel, and writes what
that returns behind them. In the checked build and in interpreted kernels there are no tables.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastmlp.kernels import jit
from fastmlp.kernels.jit import parallel_function, plain_function
from fastmlp.kernels.objects import array_of

ALONE, OPENING, CLOSING = -1, -2, -3
"""In the place of a member's number: a single one that does everything; the call before all members', and after.

The last may be called more than once.
"""

SLOTS = 3
"""Integers in the table for each argument: an array's address and its two lengths, or a number's bits."""

BEHIND = 32
"""Integers behind the arguments: free, for who makes a call again (:mod:`fastmlp.kernels.again`), but for the last."""

STATUS_AT, VALUE_AT, COUNT_AT = range(-3, 0)
"""The last in the table: up to three numbers that the kernel returned when it was called last, by whoever was ALONE,
or CLOSING."""

_INTEGER = ir.IntType(64)
ENTRY = ir.FunctionType(ir.VoidType(), [_INTEGER, _INTEGER.as_pointer()])
"""An entry: of a member's number, and a table."""


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


def address(array: NDArray[Any]) -> int:
    """Where an array's numbers are."""
    found: int = array.__array_interface__["data"][0]
    return found


def crew_kernel(function: Callable[..., Any]) -> CrewKernel:
    """Make a kernel of a function that every member of a crew calls."""
    return CrewKernel(function)


def are_packed() -> bool:
    """Whether calls are packed: not if kernels are interpreted or checked, nor in a child of one with threads."""
    return not config.DISABLE_JIT and jit.may_launch()


class Call:
    """The arguments of a kernel, packed: calling it with them again costs little."""

    def __init__(self, kernel: CrewKernel, *arguments: Any) -> None:
        self.kernel = kernel
        self._arrays: list[Any] = [None] * len(arguments)
        self._kept: list[Any] = []
        self.table = np.zeros(SLOTS * len(arguments) + BEHIND, np.int64)
        self._floats = self.table.view(np.float64)
        self.entry = kernel.entry(arguments)
        self.set(*arguments)

    def set(self, *arguments: Any) -> None:
        """Change the arguments, which are of the same types."""
        held = self._arrays
        for k, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):
                if argument is not held[k]:
                    # what it holds must live as long as its address is here, also if Ctrl-C comes between
                    held[k] = None
                    self.table[SLOTS * k] = address(argument)
                    self.table[SLOTS * k + 1 : SLOTS * k + 1 + argument.ndim] = argument.shape
                    held[k] = argument
            elif isinstance(argument, float):
                self._floats[SLOTS * k] = argument
            else:
                self.table[SLOTS * k] = argument

    @property
    def status(self) -> int:
        """The first number that the kernel has returned."""
        return int(self.table[STATUS_AT])

    def let_go(self, positions: Iterable[int]) -> None:
        """Do not keep these arrays alive; they must be set before the next call."""
        for k in positions:
            self._arrays[k] = None

    def keep(self, *objects: Any) -> None:
        """Let objects live as long as this, too: their addresses are in the table."""
        self._kept.extend(objects)

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
            table[STATUS_AT], table[VALUE_AT], table[COUNT_AT] = returned  # or fewer
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
        first = SLOTS * len(signature[1:]) + BEHIND + STATUS_AT  # which is counted from the end
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
def call_entry(typing_context: Any, entry: Any, me: Any, table: Any) -> Any:
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
    call_entry(entry, ALONE, table)


@plain_function
def run_each(entry, tables):
    """Call an entry with each of many tables, by itself."""
    for k in range(len(tables)):
        call_entry(entry, ALONE, tables[k])


@parallel_function
def _run_together(entry, table, members):
    """Call an entry by every member of a crew."""
    call_entry(entry, OPENING, table)
    for me in prange(members):
        call_entry(entry, np.int64(me), table)
    call_entry(entry, CLOSING, table)
