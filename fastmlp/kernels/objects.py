"""Python's objects in compiled code: arrays, and locks.

It looks at an array by itself, in 10 ns, where Python takes 200, and Numba 150.

Numba remembers the type of an argument by less than tells some arrays apart: it can take a masked, misaligned or
byte-swapped one for a plain one that came before. So here an object is its address, until it has been looked at.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from fastmlp.kernels.jit import inlined_function

_ADDRESS = ir.IntType(64)


class _ObjectType(types.Type):
    """Any object: for compiled code, its address."""

    def __init__(self) -> None:
        super().__init__(name="fastmlp_object")


OBJECT = _ObjectType()
"""Numba's type of an argument that may be any object."""


@register_model(_ObjectType)
class _ObjectModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _ADDRESS)


@unbox(_ObjectType)
def _unboxed(kind: Any, value: Any, given: Any) -> NativeValue:
    return NativeValue(given.builder.ptrtoint(value, _ADDRESS))


def _reader(bits: int) -> Any:
    """Make what reads an integer that stands so many bytes behind an address."""
    integer = ir.IntType(bits)

    @intrinsic
    def read(typing_context: Any, address: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = builder.load(builder.inttoptr(builder.add(*arguments), integer.as_pointer()))
            return number if bits == _ADDRESS.width else builder.sext(number, _ADDRESS)

        return types.int64(address, types.int64), generate

    return read


_word, _half_word = _reader(64), _reader(32)

_HEAD = object.__basicsize__
_TYPE, _DATA, _AXES, _LENGTHS, _DTYPE, _FLAGS = (_HEAD + k for k in (-8, 0, 8, 16, 40, 48))
"""Where an array has these, by NumPy's C interface (its ``PyArrayObject``). An object's head ends with its type."""

_C_ORDER_AND_ALIGNED = 0x0001 | 0x0100
"""Flags there: in the order of C, and aligned."""


def array_of(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """Make code that makes an array, in the order of C, of what stands at an address; it does not keep it alive."""
    array = cgutils.create_struct_proxy(kind)(context, builder)
    itemsize = _ADDRESS(kind.dtype.bitwidth // 8)
    strides: list[Any] = []
    count = _ADDRESS(1)
    for extent in reversed(shape):
        strides.insert(0, builder.mul(count, itemsize))
        count = builder.mul(count, extent)
    array.data = builder.inttoptr(address, array.data.type)
    array.nitems, array.itemsize = count, itemsize
    for axis, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        array.shape = builder.insert_value(array.shape, extent, axis)
        array.strides = builder.insert_value(array.strides, stride, axis)
    array.meminfo, array.parent = (ir.Constant(each.type, None) for each in (array.meminfo, array.parent))
    return array._getvalue()


@intrinsic
def integers_at(typing_context: Any, address: Any, count: Any) -> Any:
    """So many integers from an address on, as an array."""
    kind = types.Array(types.int64, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, count = arguments
        return array_of(context, builder, kind, address, [count])

    return kind(address, count), generate


@intrinsic
def this_thread(typing_context: Any) -> Any:
    """What ``threading.get_ident`` returns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_ADDRESS, [])
        function = cgutils.get_or_insert_function(builder.module, kind, "PyThread_get_thread_ident")
        return builder.call(function, [])

    return types.int64(), generate


_LOCK = type(threading.RLock())


def _find_owner() -> int | None:
    """Where in a lock its owner stands, as a number: found by taking one. None if it is not to be found."""
    if "t" in getattr(sys, "abiflags", "") or ctypes.sizeof(ctypes.c_ulong) < ctypes.sizeof(ctypes.c_size_t):
        return None  # there is no interpreter lock; or threads have numbers of another size than addresses
    lock = _LOCK()
    words = (ctypes.c_size_t * (_LOCK.__basicsize__ // ctypes.sizeof(ctypes.c_size_t))).from_address(id(lock))
    before, owner = list(words), threading.get_ident()
    with lock:
        held = list(words)
    known = zip(before, held, words, strict=True)
    found = [k for k, values in enumerate(known) if values == (0, owner, 0)]
    return found[0] * ctypes.sizeof(ctypes.c_size_t) if found else None


_OWNER = _find_owner()


def owner_at(lock: Any) -> int | None:
    """The address where a lock has the number of the thread that holds it, or 0; None if that is not known.

    By Python's interpreter lock nobody else can take the lock while one looks; to take it as well costs 0.2 us.
    """
    return id(lock) + _OWNER if type(lock) is _LOCK and _OWNER is not None else None


@intrinsic
def let_go_of_interpreter(typing_context: Any) -> Any:
    """Let other Python threads have the interpreter. Returns what :func:`take_interpreter` needs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(context.get_python_api(builder).save_thread(), _ADDRESS)

    return types.int64(), generate


@intrinsic
def take_interpreter(typing_context: Any, state: Any) -> Any:
    """Take the interpreter again."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        python = context.get_python_api(builder)
        python.restore_thread(builder.inttoptr(arguments[0], python.voidptr))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@inlined_function
def is_array(value, plain_array, dtype, n_axes):
    """Whether an object is an array in one piece, neither of a subclass nor of another dtype.

    Types are compared by their addresses, which are those of this process: not to be known when this is compiled.
    """
    if _word(value, _TYPE) != plain_array:
        return False
    is_in_one_piece = _half_word(value, _FLAGS) & _C_ORDER_AND_ALIGNED == _C_ORDER_AND_ALIGNED
    return is_in_one_piece and _word(value, _DTYPE) == dtype and _half_word(value, _AXES) == n_axes


@inlined_function
def length_of(array, axis):
    """How long an array is along an axis that it has."""
    return _word(_word(array, _LENGTHS), 8 * axis)


@inlined_function
def address_of(array):
    """Where its numbers are."""
    return _word(array, _DATA)
