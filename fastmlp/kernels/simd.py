"""Vector registers, register tiles and shared counters in Numba.

The only file that knows what LLVM makes of a register. (``calls.py``, ``objects.py`` and ``embedded.py`` know it for
calling, ``jit.py`` for compiling.)

Every operation here is an ordinary Python function on NumPy arrays, its *interpreted twin*, followed by its *machine
form*, which Numba puts in its place inside compiled code. With ``NUMBA_DISABLE_JIT=1`` the interpreted twins run.

* A **vector** holds :func:`lanes` elements: one register. Arithmetic on it is written as on numbers.
* A **wide vector** is :data:`AT_ONCE` of them, side by side. Each operation is done on one after the other.
* A **block** is one or two vectors long, as suits the processor: :func:`block` elements.
* A **tile** is some rows of one block each, at most :data:`ROWS`, held in registers while a sum is formed. How many
  rows it has is part of its type: no row is computed in vain.

Memory is addressed by array and element offset, never by raw pointer, so that the checked build
(``NUMBA_BOUNDSCHECK=1``) checks every load and store.
"""

from __future__ import annotations

import operator
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types, typing
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model, type_callable

# ------------------------------------------------------------------------------------------------------------------
# the host


def _host_features() -> dict[str, bool]:
    """Features of the processor that Numba compiles for: the host's, unless ``NUMBA_CPU_FEATURES`` says otherwise."""
    if config.CPU_FEATURES is not None:
        named = [feature for feature in config.CPU_FEATURES.split(",") if feature]
        return {feature[1:]: feature[0] == "+" for feature in named}
    return dict(llvm.get_host_cpu_features())


def _is_arm() -> bool:
    return llvm.get_process_triple().startswith(("aarch64", "arm64"))


def _vector_bytes(features: dict[str, bool]) -> int:
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


_FEATURES = _host_features()
VECTOR_BYTES = _vector_bytes(_FEATURES)
"""Bytes of one vector register: 64 with AVX-512, 32 with AVX, 16 with SSE2 and NEON."""

HAS_FMA = bool(_FEATURES.get("fma") or _FEATURES.get("avx512f") or _is_arm())
"""Whether multiply-add is one instruction. Where it is not, ``llvm.fma`` would become a library call."""

HAS_ROUNDING = bool(_FEATURES.get("sse4.1") or _FEATURES.get("avx") or _is_arm())
"""Whether rounding to a whole number is one instruction."""

HAS_SCALING = bool(_FEATURES.get("avx512f"))
"""Whether multiplying by a power of two, subnormal results included, is one instruction."""

HAS_MASKS = bool(_FEATURES.get("avx512f"))
"""Whether there are registers for masks. Without them, a store of some lanes of a vector is quicker in pieces: with
AVX2 on AMD it takes a dozen cycles, even if it stores nothing."""

ROWS, VECTORS = (16, 1) if _FEATURES.get("avx512f") else (8, 2) if _is_arm() else (6, 2)
"""Rows of the highest tile, and vectors of a row. 6 rows of 2 vectors, 2 operands and a broadcast fill 15 of 16
registers; 8 rows hide the latency of a multiply-add where there are 32. A vector of AVX-512 is as long as two of AVX2,
and its multiply-add takes a repeated factor from memory: 16 rows of 1 vector are as fast as 8 of 2, and leave less
empty in narrow layers and small batches (10-45-45-10 takes 31 us for 128 samples instead of 34)."""


AT_ONCE = 1 if _FEATURES.get("avx512f") else 4
"""Vectors of a wide one. A sigmoid is a chain of some twenty operations, each of which waits for the one before, and a
processor looks ahead over two or three short vectors only. With four that take turns, a vector of AVX2 takes 10 cycles
instead of 14 to 18."""


def lanes(A: np.ndarray) -> int:
    """Elements of one vector of ``A``'s dtype."""
    return VECTOR_BYTES // A.dtype.itemsize


def wide(A: np.ndarray) -> int:
    """Elements of one wide vector of ``A``'s dtype."""
    return AT_ONCE * lanes(A)


def block(A: np.ndarray) -> int:
    """Elements of one block of ``A``'s dtype."""
    return VECTORS * lanes(A)


# ------------------------------------------------------------------------------------------------------------------
# the Numba types, and how a machine form is attached to its interpreted twin


class Vector(types.Type):
    """One vector register, or several side by side."""

    def __init__(self, dtype: types.Float, registers: int = 1) -> None:
        self.dtype = dtype
        self.lanes = registers * VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(f"Vector({dtype}, {self.lanes})")


class Mask(types.Type):
    """One truth value per lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(f"Mask({lanes})")


class Tile(types.Type):
    """Rows of ``VECTORS`` vectors: an LLVM array of vectors, which LLVM keeps in registers."""

    def __init__(self, dtype: types.Float, rows: int) -> None:
        self.dtype = dtype
        self.rows = rows
        self.vector = Vector(dtype)
        super().__init__(f"Tile({dtype}, {rows}, {VECTORS}, {self.vector.lanes})")


def _element(dtype: types.Float) -> ir.Type:
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


def _llvm_vector(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_element(vector.dtype), vector.lanes)


def _llvm_tile(tile: Tile) -> ir.ArrayType:
    return ir.ArrayType(_llvm_vector(tile.vector), tile.rows * VECTORS)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Vector) -> None:
        super().__init__(manager, fe_type, _llvm_vector(fe_type))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Mask) -> None:
        super().__init__(manager, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Tile) -> None:
        super().__init__(manager, fe_type, _llvm_tile(fe_type))


class _First(NamedTuple):
    """The first lanes of a vector."""

    count: Any
    vector: ir.VectorType
    mask: Any


class _Machine:
    """What a machine form works with: the builder, and the few instructions that all of them share."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context = context
        self.builder = builder
        self.types = signature.args
        self.arguments = arguments
        self.result = signature.return_type
        # where each array begins: taken here, as what is made within a branch is unknown behind it
        self.data = {k: self._part(k, "data") for k, kind in enumerate(self.types) if isinstance(kind, types.Array)}

    def _part(self, position: int, name: str) -> Any:
        """A part of an array argument, which is a structure in registers. Numba's own way to it is by memory."""
        place = self.context.data_model_manager[self.types[position]].get_field_position(name)
        return self.builder.extract_value(self.arguments[position], place)

    def index(self, position: int) -> Any:
        """Argument as a machine integer."""
        return self.context.cast(self.builder, self.arguments[position], self.types[position], types.intp)

    def vector(self, position: int, vector: Vector) -> Any:
        """Argument as a vector; a number is repeated over the lanes."""
        given, value = self.types[position], self.arguments[position]
        if isinstance(given, Vector):
            return value
        return self.splat(self.context.cast(self.builder, value, given, vector.dtype), _llvm_vector(vector))

    def splat(self, value: Any, to: ir.VectorType) -> Any:
        undefined = ir.Constant(to, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), to.count), [0] * to.count)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def offset(self, index: Any, by: int) -> Any:
        return self.builder.add(index, ir.Constant(index.type, by)) if by else index

    def row(self, r: int, rows: Any) -> Any:
        """Row ``r``, or the last of ``rows`` if there are not so many."""
        row, last = ir.Constant(rows.type, r), self.builder.sub(rows, ir.Constant(rows.type, 1))
        return self.builder.select(self.builder.icmp_signed("<", row, last), row, last)

    def pointer(self, position: int, index: Any, count: int) -> Any:
        """Address of ``count`` elements of an array argument from ``index`` on; checked in the checked build."""
        if self.context.enable_boundscheck:
            size = self.builder.extract_value(self._part(position, "shape"), 0)
            for checked in {0, count - 1}:
                cgutils.do_boundscheck(self.context, self.builder, self.offset(index, checked), size)
        return self.builder.gep(self.data[position], [index])

    def load(self, position: int, index: Any, registers: int = 1) -> Any:
        vector = _llvm_vector(Vector(self.types[position].dtype, registers))
        pointer = self.builder.bitcast(self.pointer(position, index, vector.count), vector.as_pointer())
        return self.builder.load(pointer, align=self.types[position].dtype.bitwidth // 8)

    def load_element(self, position: int, index: Any) -> Any:
        return self.builder.load(self.pointer(position, index, 1))

    def store(self, position: int, index: Any, value: Any) -> None:
        pointer = self.pointer(position, index, value.type.count)
        pointer = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.types[position].dtype.bitwidth // 8)

    def first(self, count: Any, vector: ir.VectorType) -> _First:
        """The first ``count`` lanes of a vector: none if it is not positive, all if it is large."""
        bits = ir.IntType(64 if isinstance(vector.element, ir.DoubleType) else 32)
        lane_numbers = ir.Constant(ir.VectorType(bits, vector.count), list(range(vector.count)))
        most = ir.Constant(count.type, vector.count)
        kept = self.builder.select(self.builder.icmp_signed("<", count, most), count, most)
        narrow = self.builder.trunc(kept, bits) if bits.width < count.type.width else kept
        mask = self.builder.icmp_signed("<", lane_numbers, self.splat(narrow, lane_numbers.type))
        return _First(kept, vector, mask)

    def _pointer_to_first(self, position: int, index: Any, first: _First) -> Any:
        """Address of a vector of which only these lanes are touched."""
        if self.context.enable_boundscheck:
            zero = ir.Constant(first.count.type, 0)
            with self.builder.if_then(self.builder.icmp_signed(">", first.count, zero)):
                self.pointer(position, index, 1)
                self.pointer(position, self.offset(self.builder.add(index, first.count), -1), 1)
        return self.builder.bitcast(self.builder.gep(self.data[position], [index]), first.vector.as_pointer())

    def masked(self, name: str, result: ir.Type, vector: ir.VectorType, *values: Any) -> Any:
        """LLVM's masked load or store."""
        function_type = ir.FunctionType(result, [value.type for value in values])
        bits = 32 if isinstance(vector.element, ir.FloatType) else 64
        full_name = f"llvm.masked.{name}.v{vector.count}f{bits}.p0"
        function = cgutils.get_or_insert_function(self.builder.module, function_type, full_name)
        return self.builder.call(function, values)

    def load_first(self, position: int, index: Any, first: _First) -> Any:
        """Load these lanes, and zeros in the others."""
        pointer = self._pointer_to_first(position, index, first)
        align = ir.Constant(ir.IntType(32), self.types[position].dtype.bitwidth // 8)
        vector = first.vector
        return self.masked("load", vector, vector, pointer, align, first.mask, ir.Constant(vector, None))

    def store_first(self, position: int, index: Any, value: Any, first: _First) -> None:
        """Store these lanes."""
        # a masked store of a whole vector would do, but costs a dozen cycles and more on AMD
        whole = self.builder.icmp_signed(">=", first.count, ir.Constant(first.count.type, value.type.count))
        with self.builder.if_else(whole) as (then, otherwise):
            with then:
                self.store(position, index, value)
            with otherwise:
                self.store_fewer(position, index, value, first)

    def store_fewer(self, position: int, index: Any, value: Any, first: _First) -> None:
        """Store these lanes, which are not all."""
        if HAS_MASKS:
            pointer = self._pointer_to_first(position, index, first)
            align = ir.Constant(ir.IntType(32), self.types[position].dtype.bitwidth // 8)
            self.masked("store", ir.VoidType(), value.type, value, pointer, align, first.mask)
        else:
            self._store_in_pieces(position, index, value, first.count)

    def _store_in_pieces(self, position: int, index: Any, value: Any, count: Any) -> None:
        """Store the first ``count`` lanes, fewer than all: as many as each bit of the number says."""
        zero = ir.Constant(count.type, 0)
        count = self.builder.select(self.builder.icmp_signed(">", count, zero), count, zero)
        while value.type.count > 1:
            half = value.type.count // 2
            lower, upper = self.halves(value)
            is_set = self.builder.icmp_unsigned("!=", self.builder.and_(count, ir.Constant(count.type, half)), zero)
            with self.builder.if_then(is_set):
                self.store(position, index, lower)
            index = self.builder.select(is_set, self.offset(index, half), index)
            value = self.builder.select(is_set, upper, lower)

    def halves(self, vector: Any) -> list[Any]:
        """The lower and the upper half of a vector."""
        half, undefined = vector.type.count // 2, ir.Constant(vector.type, ir.Undefined)
        index = ir.VectorType(ir.IntType(32), half)
        return [
            self.builder.shuffle_vector(vector, undefined, ir.Constant(index, list(range(start, start + half))))
            for start in (0, half)
        ]

    def intrinsic(self, name: str, *values: Any) -> Any:
        """LLVM's elementwise function of this name."""
        vector = values[0].type
        bits = 32 if isinstance(vector.element, ir.FloatType) else 64
        function_type = ir.FunctionType(vector, [vector] * len(values))
        full_name = f"llvm.{name}.v{vector.count}f{bits}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function_type, full_name), values)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.intrinsic("fma" if HAS_FMA else "fmuladd", a, b, c)

    def nothing(self) -> Any:
        return self.context.get_dummy_value()


def _machine_form(function: Callable[..., Any], typing: Callable[..., Any]) -> Callable[[Any], Any]:
    """Attach a machine form: ``typing`` maps the argument types to the result's, the decorated function emits LLVM."""

    def attach(emit: Callable[[_Machine], Any]) -> Callable[[_Machine], Any]:
        type_callable(function)(lambda context: typing)

        @lower_builtin(function, types.VarArg(types.Any))
        def lowering(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(_Machine(context, builder, signature, arguments))

        return emit

    return attach


def _is_buffer(A: Any) -> bool:
    return isinstance(A, types.Array) and A.ndim == 1 and A.layout == "C" and isinstance(A.dtype, types.Float)


def _takes(A: Any, value: Any) -> bool:
    """Whether a vector or a tile may be stored into an array: one that may be written, of the same precision."""
    return _is_buffer(A) and A.mutable and isinstance(value, Vector | Tile) and value.dtype == A.dtype


def _vector_among(*arguments: Any) -> Vector | None:
    """The vector type of the arguments, if there is one and the others are of that type too, or numbers."""
    vectors = {a for a in arguments if isinstance(a, Vector)}
    fit = all(isinstance(a, Vector | types.Number) for a in arguments)
    return vectors.pop() if fit and len(vectors) == 1 else None


# ------------------------------------------------------------------------------------------------------------------
# sizes, loads and stores


@_machine_form(lanes, lambda A: types.intp if isinstance(A, types.Array) else None)
def _(m: _Machine) -> Any:
    return m.context.get_constant(types.intp, Vector(m.types[0].dtype).lanes)


@_machine_form(wide, lambda A: types.intp if isinstance(A, types.Array) else None)
def _(m: _Machine) -> Any:
    return m.context.get_constant(types.intp, Vector(m.types[0].dtype, AT_ONCE).lanes)


@_machine_form(block, lambda A: types.intp if isinstance(A, types.Array) else None)
def _(m: _Machine) -> Any:
    return m.context.get_constant(types.intp, VECTORS * Vector(m.types[0].dtype).lanes)


def load(A: np.ndarray, a: int) -> np.ndarray:
    """Return the vector ``A[a : a + lanes]``."""
    _check(A, a, lanes(A))
    return A[a : a + lanes(A)].copy()


@_machine_form(load, lambda A, a: Vector(A.dtype) if _is_buffer(A) else None)
def _(m: _Machine) -> Any:
    return m.load(0, m.index(1))


def load_wide(A: np.ndarray, a: int) -> np.ndarray:
    """Return the wide vector ``A[a : a + wide]``."""
    _check(A, a, wide(A))
    return A[a : a + wide(A)].copy()


@_machine_form(load_wide, lambda A, a: Vector(A.dtype, AT_ONCE) if _is_buffer(A) else None)
def _(m: _Machine) -> Any:
    return m.load(0, m.index(1), AT_ONCE)


def store(A: np.ndarray, a: int, v: np.ndarray) -> None:
    """``A[a : a + v.size] = v``, of a vector or a wide one."""
    _check(A, a, v.size)
    A[a : a + v.size] = v


@_machine_form(store, lambda A, a, v: types.void if _takes(A, v) else None)
def _(m: _Machine) -> Any:
    m.store(0, m.index(1), m.arguments[2])
    return m.nothing()


def load_first(A: np.ndarray, a: int, count: int) -> np.ndarray:
    """Return the vector of the first ``count`` elements from ``A[a]`` on, and zeros after them."""
    count = max(min(count, lanes(A)), 0)
    v = np.zeros(lanes(A), A.dtype)
    _check(A, a, count)
    v[:count] = A[a : a + count]
    return v


@_machine_form(load_first, lambda A, a, count: Vector(A.dtype) if _is_buffer(A) else None)
def _(m: _Machine) -> Any:
    return m.load_first(0, m.index(1), m.first(m.index(2), _llvm_vector(m.result)))


def store_first(A: np.ndarray, a: int, v: np.ndarray, count: int) -> None:
    """Store the first ``count`` lanes of ``v`` from ``A[a]`` on; all of them if ``count`` is larger."""
    count = min(count, lanes(A))
    if count > 0:
        _check(A, a, count)
        A[a : a + count] = v[:count]


@_machine_form(store_first, lambda A, a, v, count: types.void if _takes(A, v) else None)
def _(m: _Machine) -> Any:
    m.store_first(0, m.index(1), m.arguments[2], m.first(m.index(3), m.arguments[2].type))
    return m.nothing()


def prefetch(A: np.ndarray, a: int) -> None:
    """Ask for the cache line of ``A[a]``, which is read soon. Any ``a`` may be asked for, in the array or not."""


@_machine_form(prefetch, lambda A, a: types.void if _is_buffer(A) else None)
def _(m: _Machine) -> Any:
    bits = ir.IntType(32)
    pointer = m.builder.bitcast(m.builder.gep(m.data[0], [m.index(1)]), ir.IntType(8).as_pointer())
    # to be read, kept in every cache, data
    values = [pointer, *(ir.Constant(bits, flag) for flag in (0, 3, 1))]
    function_type = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    m.builder.call(cgutils.get_or_insert_function(m.builder.module, function_type, "llvm.prefetch.p0"), values)
    return m.nothing()


def fill(A: np.ndarray, x: float) -> np.ndarray:
    """Return a vector of ``A``'s dtype with ``x`` in every lane."""
    return np.full(lanes(A), x, A.dtype)


@_machine_form(fill, lambda A, x: Vector(A.dtype) if _is_buffer(A) and isinstance(x, types.Number) else None)
def _(m: _Machine) -> Any:
    return m.vector(1, m.result)


def fill_like(v: np.ndarray, x: float) -> np.ndarray:
    """Return a vector like ``v`` with ``x`` in every lane."""
    return np.full_like(v, x)


@_machine_form(fill_like, lambda v, x: v if isinstance(v, Vector) and isinstance(x, types.Number) else None)
def _(m: _Machine) -> Any:
    return m.vector(1, m.result)


def _check(A: np.ndarray, first: int, count: int) -> None:
    """The interpreted twins' bounds check: slices would be cut short in silence."""
    if count > 0 and not 0 <= first <= first + count <= A.size:
        raise IndexError(f"index is out of bounds: {first} to {first + count} of {A.size}")


# ------------------------------------------------------------------------------------------------------------------
# arithmetic: vector with vector, vector with number, number with vector; and tiles are added

for _operator, _instruction in {
    operator.add: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
    operator.truediv: "fdiv",
}.items():

    @type_callable(_operator)
    def _arithmetic_typing(context: Any) -> Callable[..., Any]:
        return lambda a, b: _vector_among(a, b)

    for _pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):

        @lower_builtin(_operator, *_pair)
        def _arithmetic(
            context: Any, builder: Any, signature: Any, arguments: Any, _instruction: str = _instruction
        ) -> Any:
            m = _Machine(context, builder, signature, arguments)
            return getattr(builder, _instruction)(m.vector(0, m.result), m.vector(1, m.result))


@type_callable(operator.add)
def _tile_sum_typing(context: Any) -> Callable[..., Any]:
    return lambda a, b: a if isinstance(a, Tile) and a == b else None


@lower_builtin(operator.add, Tile, Tile)
def _tiles_added(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    a, b = arguments
    t = ir.Constant(a.type, ir.Undefined)
    for cell in range(a.type.count):
        added = builder.fadd(builder.extract_value(a, cell), builder.extract_value(b, cell))
        t = builder.insert_value(t, added, cell)
    return t


@type_callable(operator.neg)
def _negation_typing(context: Any) -> Callable[..., Any]:
    return lambda a: a if isinstance(a, Vector) else None


@lower_builtin(operator.neg, Vector)
def _negation(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.fneg(arguments[0])


for _operator, _comparison in {operator.lt: "<", operator.gt: ">"}.items():

    @type_callable(_operator)
    def _comparison_typing(context: Any) -> Callable[..., Any]:
        def typing(a: Any, b: Any) -> Any:
            vector = _vector_among(a, b)
            return Mask(vector.lanes) if vector else None

        return typing

    for _pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):

        @lower_builtin(_operator, *_pair)
        def _comparing(
            context: Any, builder: Any, signature: Any, arguments: Any, _comparison: str = _comparison
        ) -> Any:
            m = _Machine(context, builder, signature, arguments)
            vector = next(given for given in signature.args if isinstance(given, Vector))
            return builder.fcmp_ordered(_comparison, m.vector(0, vector), m.vector(1, vector))


def where(mask: np.ndarray, a: Any, b: Any) -> np.ndarray:
    """``a`` in the lanes where ``mask`` is true, else ``b``. At least one of the two is a vector."""
    dtype = a.dtype if isinstance(a, np.ndarray) else b.dtype
    return np.where(mask, a, b).astype(dtype)


@_machine_form(where, lambda mask, a, b: _vector_among(a, b) if isinstance(mask, Mask) else None)
def _(m: _Machine) -> Any:
    return m.builder.select(m.arguments[0], m.vector(1, m.result), m.vector(2, m.result))


def maximum(a: np.ndarray, b: Any) -> np.ndarray:
    """The larger of the two; ``a`` where it is NaN, so that what is not a number is not hidden."""
    return where(a < b, b, a)


@_machine_form(maximum, lambda a, b: _vector_among(a, b))
def _(m: _Machine) -> Any:
    a, b = m.vector(0, m.result), m.vector(1, m.result)
    return m.builder.select(m.builder.fcmp_ordered("<", a, b), b, a)


def minimum(a: np.ndarray, b: Any) -> np.ndarray:
    """The smaller of the two; ``a`` where it is NaN."""
    return where(a > b, b, a)


@_machine_form(minimum, lambda a, b: _vector_among(a, b))
def _(m: _Machine) -> Any:
    a, b = m.vector(0, m.result), m.vector(1, m.result)
    return m.builder.select(m.builder.fcmp_ordered(">", a, b), b, a)


def absolute(a: np.ndarray) -> np.ndarray:
    """``|a|``."""
    return np.abs(a)


@_machine_form(absolute, lambda a: _vector_among(a))
def _(m: _Machine) -> Any:
    return m.intrinsic("fabs", m.arguments[0])


def square_root(a: np.ndarray) -> np.ndarray:
    """``√a``, correctly rounded."""
    return np.sqrt(a)


@_machine_form(square_root, lambda a: _vector_among(a))
def _(m: _Machine) -> Any:
    return m.intrinsic("sqrt", m.arguments[0])


def fma(a: Any, b: Any, c: np.ndarray) -> np.ndarray:
    """``a b + c``: rounded once by a machine that has the instruction, twice by this twin and elsewhere."""
    return a * b + c


@_machine_form(fma, lambda a, b, c: _vector_among(a, b, c))
def _(m: _Machine) -> Any:
    return m.multiply_add(*(m.vector(position, m.result) for position in range(3)))


def sum_lanes(v: np.ndarray) -> Any:
    """Sum of the lanes, in halves: ``(0+4)+(2+6)`` and so on, the same order always."""
    while v.size > 1:
        v = v[: v.size // 2] + v[v.size // 2 :]
    return v[0]


@_machine_form(sum_lanes, lambda v: v.dtype if isinstance(v, Vector) else None)
def _(m: _Machine) -> Any:
    v = m.arguments[0]
    while v.type.count > 1:
        v = m.builder.fadd(*m.halves(v))
    return m.builder.extract_element(v, ir.Constant(ir.IntType(32), 0))


def sum_lanes_of_four(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """:func:`sum_lanes` of four vectors, which share registers as soon as half of each is left: the same bits."""
    return sum_lanes(a), sum_lanes(b), sum_lanes(c), sum_lanes(d)


def _four_sums_typing(a: Any, b: Any, c: Any, d: Any) -> Any:
    return types.UniTuple(a.dtype, 4) if isinstance(a, Vector) and a == b == c == d else None


@_machine_form(sum_lanes_of_four, _four_sums_typing)
def _(m: _Machine) -> Any:
    registers, lanes = list(m.arguments), m.arguments[0].type.count
    room = lanes  # of each of the four
    while room > 1 and len(registers) > 1:
        pairs = zip(registers[::2], registers[1::2], strict=True)
        registers = [_halves_added(m.builder, first, second, room) for first, second in pairs]
        room //= 2
    width = room
    while width > 1:
        width //= 2
        other = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [k ^ width for k in range(lanes)])
        registers = [m.builder.fadd(r, m.builder.shuffle_vector(r, r, other)) for r in registers]
    shared = 4 // len(registers)
    places = [(registers[k // shared], k % shared * room) for k in range(4)]
    sums = [m.builder.extract_element(r, ir.Constant(ir.IntType(32), lane)) for r, lane in places]
    return m.context.make_tuple(m.builder, m.result, sums)


def _halves_added(builder: Any, first: Any, second: Any, room: int) -> Any:
    """The halves of what has so much room in the first register, added; then those of the second."""
    lanes = first.type.count
    lower = [k for k in range(2 * lanes) if k % room < room // 2]
    index = ir.VectorType(ir.IntType(32), lanes)
    upper = [k + room // 2 for k in lower]
    return builder.fadd(*(builder.shuffle_vector(first, second, ir.Constant(index, half)) for half in (lower, upper)))


# ------------------------------------------------------------------------------------------------------------------
# what exp and log are made of: constants by precision, polynomials, and the exponent bits of a number


def by_precision(x: np.ndarray, single: float, double: float) -> float:
    """``single`` if ``x`` is float32, ``double`` if it is float64."""
    return single if x.dtype == np.float32 else double


@_machine_form(by_precision, lambda x, single, double: x if isinstance(x, Vector) else None)
def _(m: _Machine) -> Any:
    return m.vector(1 if m.result.dtype.bitwidth == 32 else 2, m.result)


def polynomial(single: list[float], double: list[float]) -> Callable[[Any], Any]:
    """Make ``x -> c[0] + c[1] x + c[2] x² + …`` by Horner's rule, with coefficients for each precision."""

    def evaluate(x: np.ndarray) -> np.ndarray:
        coefficients = single if x.dtype == np.float32 else double
        total = np.full_like(x, coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = fma(total, x, x.dtype.type(coefficient))
        return total

    @_machine_form(evaluate, lambda x: x if isinstance(x, Vector) else None)
    def _(m: _Machine) -> Any:
        coefficients = single if m.result.dtype.bitwidth == 32 else double
        element = np.float32 if m.result.dtype.bitwidth == 32 else np.float64
        vector = _llvm_vector(m.result)
        constants = [ir.Constant(vector, [float(element(c))] * vector.count) for c in coefficients]
        total = constants[-1]
        for constant in constants[-2::-1]:
            total = m.multiply_add(total, m.arguments[0], constant)
        return total

    return evaluate


class _Format:
    """The bits of an IEEE 754 number, and the number ``1.5 · 2^fraction`` to which a small integer adds as bits."""

    def __init__(self, vector: Vector) -> None:
        single = vector.dtype.bitwidth == 32
        self.integers = ir.VectorType(ir.IntType(vector.dtype.bitwidth), vector.lanes)
        self.floats = _llvm_vector(vector)
        self.fraction_bits = 23 if single else 52
        self.bias = 127 if single else 1023
        self.magic = 12582912.0 if single else 6755399441055744.0
        self.magic_bits = 0x4B400000 if single else 0x4338000000000000
        self.root_half_bits = 0x3F3504F3 if single else 0x3FE6A09E667F3BCD

    def number(self, x: float) -> Any:
        return ir.Constant(self.floats, [x] * self.floats.count)

    def integer(self, x: int) -> Any:
        return ir.Constant(self.integers, [x] * self.integers.count)


def nearest(x: np.ndarray) -> np.ndarray:
    """The nearest whole number, the even one of two, for ``|x| < 2^22``."""
    return np.rint(x)


@_machine_form(nearest, lambda x: x if isinstance(x, Vector) else None)
def _(m: _Machine) -> Any:
    if HAS_ROUNDING:
        return m.intrinsic("roundeven", m.arguments[0])
    # without the instruction, that would be a library call for each lane
    magic = _Format(m.result).number(_Format(m.result).magic)
    return m.builder.fsub(m.builder.fadd(m.arguments[0], magic), magic)


def power_of_two(n: np.ndarray) -> np.ndarray:
    """``2^n`` of whole numbers within the range of normal numbers."""
    return np.ldexp(np.ones_like(n), n.astype(np.int64))


@_machine_form(power_of_two, lambda n: n if isinstance(n, Vector) else None)
def _(m: _Machine) -> Any:
    f = _Format(m.result)
    # after adding the magic number, the low bits of the fraction are n; shifted up they are the exponent
    bits = m.builder.bitcast(m.builder.fadd(m.arguments[0], f.number(f.magic)), f.integers)
    shift = f.integer(f.fraction_bits)
    exponent = m.builder.shl(m.builder.add(bits, f.integer(f.bias)), shift)
    return m.builder.bitcast(exponent, f.floats)


def times_power_of_two(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """``x 2^n`` of whole numbers ``n``, in two factors: the result may be subnormal, a factor may not."""
    half = np.floor(n / 2)
    return x * power_of_two(half) * power_of_two(n - half)


@_machine_form(times_power_of_two, lambda x, n: x if isinstance(x, Vector) and x == n else None)
def _(m: _Machine) -> Any:
    f = _Format(m.result)
    if HAS_SCALING:
        return _scaled(m, f)
    shift = f.integer(f.fraction_bits)
    bits = m.builder.bitcast(m.builder.fadd(m.arguments[1], f.number(f.magic)), f.integers)
    # the two biased exponents together, which is not negative; then each
    both = m.builder.add(bits, f.integer(2 * f.bias - f.magic_bits))
    first = m.builder.lshr(both, f.integer(1))
    second = m.builder.sub(both, first)
    product = m.arguments[0]
    for factor in (first, second):
        product = m.builder.fmul(product, m.builder.bitcast(m.builder.shl(factor, shift), f.floats))
    return product


def _scaled(m: _Machine, f: _Format) -> Any:
    """``x 2^n`` by the instruction of AVX-512."""
    suffix = "ps" if f.fraction_bits == 23 else "pd"
    mask, number = ir.IntType(16 if suffix == "ps" else 8), ir.IntType(32)
    function_type = ir.FunctionType(f.floats, [f.floats, f.floats, f.floats, mask, number])
    name = f"llvm.x86.avx512.mask.scalef.{suffix}.512"
    function = cgutils.get_or_insert_function(m.builder.module, function_type, name)
    everywhere, as_ever = ir.Constant(mask, -1), number(4)  # the rounding that the processor is set to
    return m.builder.call(function, [*m.arguments, f.number(0.0), everywhere, as_ever])


def exponent(x: np.ndarray) -> np.ndarray:
    """The whole number ``e`` with ``√½ <= x / 2^e < √2``, of normal positive numbers."""
    fraction, e = np.frexp(x)
    return (e - (fraction < x.dtype.type(np.sqrt(0.5)))).astype(x.dtype)


@_machine_form(exponent, lambda x: x if isinstance(x, Vector) else None)
def _(m: _Machine) -> Any:
    f = _Format(m.result)
    above = m.builder.sub(m.builder.bitcast(m.arguments[0], f.integers), f.integer(f.root_half_bits))
    e = m.builder.ashr(above, f.integer(f.fraction_bits))
    magic = m.builder.bitcast(m.builder.add(e, f.integer(f.magic_bits)), f.floats)
    return m.builder.fsub(magic, f.number(f.magic))


# ------------------------------------------------------------------------------------------------------------------
# the register tile


def _tile_typing(A: Any, rows: Any) -> Tile | None:
    """The type of a tile: ``rows`` must be a constant where it is compiled."""
    return Tile(A.dtype, rows.literal_value) if _is_buffer(A) and isinstance(rows, types.IntegerLiteral) else None


def zeros(A: np.ndarray, rows: int) -> np.ndarray:
    """Return a tile of ``A``'s dtype, all zero."""
    return np.zeros((rows, block(A)), A.dtype)


@_machine_form(zeros, _tile_typing)
def _(m: _Machine) -> Any:
    return ir.Constant(_llvm_tile(m.result), None)


def column(A: np.ndarray, a: int, rows: int) -> np.ndarray:
    """Return a tile with ``A[a + r]`` all along row ``r``."""
    _check(A, a, rows)
    return np.repeat(A[a : a + rows, np.newaxis], block(A), axis=1)


@_machine_form(column, lambda A, a, rows: _tile_typing(A, rows))
def _(m: _Machine) -> Any:
    t, a = ir.Constant(_llvm_tile(m.result), ir.Undefined), m.index(1)
    for r in range(m.result.rows):
        repeated = m.splat(m.load_element(0, m.offset(a, r)), _llvm_vector(m.result.vector))
        for v in range(VECTORS):
            t = m.builder.insert_value(t, repeated, r * VECTORS + v)
    return t


def load_tile(A: np.ndarray, a: int, stride: int, columns: int, rows: int) -> np.ndarray:
    """Return a tile with ``A[a + r * stride + k]`` in row ``r`` and column ``k``; zero from ``columns`` on."""
    t, columns = zeros(A, rows), max(min(columns, block(A)), 0)
    for r in range(rows):
        _check(A, a + r * stride, columns)
        t[r, :columns] = A[a + r * stride : a + r * stride + columns]
    return t


@_machine_form(load_tile, lambda A, a, stride, columns, rows: _tile_typing(A, rows))
def _(m: _Machine) -> Any:
    start, stride, columns = m.index(1), m.index(2), m.index(3)
    vector, lanes = _llvm_vector(m.result.vector), m.result.vector.lanes
    loaded, before = [], m.builder.block
    # most sums begin at zero: no masks are made then
    with m.builder.if_then(m.builder.icmp_signed(">", columns, ir.Constant(columns.type, 0))):
        firsts = [m.first(m.offset(columns, -v * lanes), vector) for v in range(VECTORS)]
        for _ in range(m.result.rows):
            loaded += [m.load_first(0, m.offset(start, v * lanes), first) for v, first in enumerate(firsts)]
            start = m.builder.add(start, stride)
        after = m.builder.block
    t = ir.Constant(_llvm_tile(m.result), ir.Undefined)
    cells = [m.builder.phi(vector) for _ in loaded]
    for k, (cell, value) in enumerate(zip(cells, loaded, strict=True)):
        cell.add_incoming(ir.Constant(vector, None), before)
        cell.add_incoming(value, after)
        t = m.builder.insert_value(t, cell, k)
    return t


def rank1(t: np.ndarray, A: np.ndarray, a: int, stride: int, B: np.ndarray, b: int) -> np.ndarray:
    """``t[r, :] + A[a + r * stride] * B[b : b + block]``: one step of a sum of products."""
    picked = np.arange(t.shape[0]) * stride + a
    _check(A, int(picked.min()), int(picked.max() - picked.min()) + 1)
    _check(B, b, block(B))
    return t + np.multiply.outer(A[picked], B[b : b + block(B)])


def _rank1_typing(t: Any, A: Any, a: Any, stride: Any, B: Any, b: Any) -> Any:
    return t if isinstance(t, Tile) and _is_buffer(A) and _is_buffer(B) and A.dtype == B.dtype == t.dtype else None


@_machine_form(rank1, _rank1_typing)
def _(m: _Machine) -> Any:
    t, a, stride, b = m.arguments[0], m.index(2), m.index(3), m.index(5)
    lanes = m.result.vector.lanes
    row_of_B = [m.load(4, m.offset(b, v * lanes)) for v in range(VECTORS)]
    for r in range(m.result.rows):
        repeated = m.splat(m.load_element(1, a), _llvm_vector(m.result.vector))
        for v in range(VECTORS):
            cell = r * VECTORS + v
            t = m.builder.insert_value(
                t, m.multiply_add(repeated, row_of_B[v], m.builder.extract_value(t, cell)), cell
            )
        a = m.builder.add(a, stride)
    return t


def store_tile(t: np.ndarray, C: np.ndarray, c: int, stride: int) -> None:
    """``C[c + r * stride + k] = t[r, k]``."""
    store_columns(t, C, c, stride, block(C))


@_machine_form(store_tile, lambda t, C, c, stride: types.void if _takes(C, t) else None)
def _(m: _Machine) -> Any:
    _store_rows(m, m.index(2), m.index(3))
    return m.nothing()


def _store_rows(m: _Machine, start: Any, stride: Any, columns: Any = None) -> None:
    """Store the rows of a tile, or their first ``columns``, which are not all."""
    tile, lanes = m.types[0], m.types[0].vector.lanes
    firsts = columns and [m.first(m.offset(columns, -v * lanes), _llvm_vector(tile.vector)) for v in range(VECTORS)]
    for r in range(tile.rows):
        for v in range(VECTORS):
            value, place = m.builder.extract_value(m.arguments[0], r * VECTORS + v), m.offset(start, v * lanes)
            if columns is None:
                m.store(1, place, value)
            elif v < VECTORS - 1:
                m.store_first(1, place, value, firsts[v])
            else:  # the last vector is never whole
                m.store_fewer(1, place, value, firsts[v])
        start = m.builder.add(start, stride)


def store_columns(t: np.ndarray, C: np.ndarray, c: int, stride: int, columns: int) -> None:
    """``C[c + r * stride + k] = t[r, k]`` for the first ``columns`` columns; all of them if that is more."""
    columns = max(min(columns, block(C)), 0)
    for r in range(t.shape[0]):
        _check(C, c + r * stride, columns)
        C[c + r * stride : c + r * stride + columns] = t[r, :columns]


@_machine_form(store_columns, lambda t, C, c, stride, columns: types.void if _takes(C, t) else None)
def _(m: _Machine) -> Any:
    start, stride, columns = m.index(2), m.index(3), m.index(4)
    size = ir.Constant(columns.type, VECTORS * m.types[0].vector.lanes)
    with m.builder.if_else(m.builder.icmp_signed(">=", columns, size)) as (then, otherwise):
        with then:
            _store_rows(m, start, stride)
        with otherwise:
            _store_rows(m, start, stride, columns)
    return m.nothing()


# ------------------------------------------------------------------------------------------------------------------
# a square of registers, turned


def transpose(
    A: np.ndarray, a: int, a_stride: int, a_rows: int, B: np.ndarray, b: int, b_stride: int, b_rows: int
) -> None:
    """``B[b + k * b_stride + r] = A[a + r * a_stride + k]`` over a square of ``lanes`` by ``lanes``.

    Rows of ``A`` from ``a_rows`` on repeat the last one; rows of ``B`` from ``b_rows`` on are not written.
    """
    side = lanes(A)
    square = np.stack([load(A, a + min(r, a_rows - 1) * a_stride) for r in range(side)])
    for k in range(min(side, b_rows)):
        store(B, b + k * b_stride, square[:, k])


def _transpose_typing(A: Any, a: Any, a_stride: Any, a_rows: Any, B: Any, b: Any, b_stride: Any, b_rows: Any) -> Any:
    return types.void if _is_buffer(A) and _is_buffer(B) and A.dtype == B.dtype and B.mutable else None


@_machine_form(transpose, _transpose_typing)
def _(m: _Machine) -> Any:
    _transpose(m)
    return m.nothing()


def _transpose(m: _Machine) -> list[Any]:
    """Turn the square, and return its rows."""
    a, a_stride, a_rows = m.index(1), m.index(2), m.index(3)
    b, b_stride, b_rows = m.index(5), m.index(6), m.index(7)
    lanes = Vector(m.types[0].dtype).lanes
    starts = [m.builder.add(a, m.builder.mul(m.row(r, a_rows), a_stride)) for r in range(lanes)]
    registers = [m.load(0, start) for start in starts]
    for k, register in enumerate(_turned(m.builder, registers)):
        row = ir.Constant(b.type, k)
        with m.builder.if_then(m.builder.icmp_signed("<", row, b_rows)):
            m.store(4, m.builder.add(b, m.builder.mul(row, b_stride)), register)
    return registers


def transpose_finite(
    A: np.ndarray, a: int, a_stride: int, a_rows: int, B: np.ndarray, b: int, b_stride: int, b_rows: int
) -> np.ndarray:
    """:func:`transpose`; return a vector of zeros, with NaN where a number in a column of the square is not finite."""
    transpose(A, a, a_stride, a_rows, B, b, b_stride, b_rows)
    square = np.stack([load(A, a + min(r, a_rows - 1) * a_stride) for r in range(lanes(A))])
    return (square - square).sum(axis=0)


def _transpose_finite_typing(
    A: Any, a: Any, a_stride: Any, a_rows: Any, B: Any, b: Any, b_stride: Any, b_rows: Any
) -> Any:
    return Vector(A.dtype) if _transpose_typing(A, a, a_stride, a_rows, B, b, b_stride, b_rows) else None


@_machine_form(transpose_finite, _transpose_finite_typing)
def _(m: _Machine) -> Any:
    sums = [m.builder.fsub(row, row) for row in _transpose(m)]
    while len(sums) > 1:
        sums = [m.builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def gather(A: np.ndarray, a: int, stride: int, count: int) -> np.ndarray:
    """Return the vector ``A[a + r * stride]``; lanes from ``count`` on, which is at least 1, repeat the last one."""
    picked = a + np.minimum(np.arange(lanes(A)), count - 1) * stride
    _check(A, int(picked.min()), int(picked.max() - picked.min()) + 1)
    return A[picked]


@_machine_form(gather, lambda A, a, stride, count: Vector(A.dtype) if _is_buffer(A) else None)
def _(m: _Machine) -> Any:
    a, stride, count = m.index(1), m.index(2), m.index(3)
    v = ir.Constant(_llvm_vector(m.result), ir.Undefined)
    for r in range(m.result.lanes):
        element = m.load_element(0, m.builder.add(a, m.builder.mul(m.row(r, count), stride)))
        v = m.builder.insert_element(v, element, ir.Constant(ir.IntType(32), r))
    return v


def gather_four(A: np.ndarray, features: int, order: np.ndarray, n: int, count: int) -> tuple[Any, Any, Any, Any]:
    """Return the first four columns of some rows of ``A``, as vectors. Lane ``r`` is of row ``order[n + r]``.

    If ``order`` is empty, it is of row ``n + r``. Lanes from ``count`` on, which is at least 1, repeat the last one. A
    row has ``features`` numbers; what would be a column behind them is zero.
    """
    picked = n + np.minimum(np.arange(lanes(A)), count - 1)
    rows = picked
    if order.size > 0:
        _check(order, int(picked[0]), int(picked[-1] - picked[0]) + 1)
        rows = order[picked]
    columns = np.zeros((4, lanes(A)), A.dtype)
    for k in range(min(features, 4)):
        for row in rows:
            _check(A, row * features + k, 1)
        columns[k] = A[rows * features + k]
    return tuple(columns)


def _four_typing(A: Any, features: Any, order: Any, n: Any, count: Any) -> Any:
    return types.UniTuple(Vector(A.dtype), 4) if _is_buffer(A) and isinstance(order, types.Array) else None


@_machine_form(gather_four, _four_typing)
def _(m: _Machine) -> Any:
    features, n, count = m.index(1), m.index(3), m.index(4)
    picked = [m.builder.add(n, m.row(r, count)) for r in range(m.result.dtype.lanes)]
    size = m.builder.extract_value(m._part(2, "shape"), 0)
    before = m.builder.block
    with m.builder.if_then(m.builder.icmp_signed(">", size, ir.Constant(size.type, 0))):
        ordered = [m.load_element(2, place) for place in picked]
        after = m.builder.block
    rows = [m.builder.phi(n.type) for _ in picked]
    for row, place, in_order in zip(rows, picked, ordered, strict=True):
        row.add_incoming(place, before)
        row.add_incoming(in_order, after)
    first = m.first(features, ir.VectorType(_element(m.types[0].dtype), 4))
    loaded = [m.load_first(0, m.builder.mul(row, features), first) for row in rows]
    return m.context.make_tuple(m.builder, m.result, _columns_of_four(m.builder, loaded))


def _columns_of_four(builder: Any, rows: list[Any]) -> list[Any]:
    """Columns of rows of four numbers, each in one register."""
    if len(rows) < 4:
        return [_picked(builder, rows, column) for column in range(4)]
    # every fourth row beside the one before; then squares of four by four are turned, all at once
    registers = [rows[r::4] for r in range(4)]
    while len(registers[0]) > 1:
        registers = [[_joined(builder, *pair) for pair in zip(r[::2], r[1::2], strict=True)] for r in registers]
    return _turned(builder, [r[0] for r in registers])


def _joined(builder: Any, lower: Any, upper: Any) -> Any:
    lanes = list(range(2 * lower.type.count))
    return builder.shuffle_vector(lower, upper, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _picked(builder: Any, vectors: list[Any], lane: int) -> Any:
    """One lane of each, side by side."""
    v, index = ir.Constant(ir.VectorType(vectors[0].type.element, len(vectors)), ir.Undefined), ir.IntType(32)
    for r, vector in enumerate(vectors):
        v = builder.insert_element(v, builder.extract_element(vector, ir.Constant(index, lane)), ir.Constant(index, r))
    return v


def scatter(A: np.ndarray, a: int, stride: int, v: np.ndarray, count: int) -> None:
    """``A[a + r * stride] = v[r]``, for the first ``count`` lanes; all of them if that is more."""
    for r in range(min(count, v.size)):
        _check(A, a + r * stride, 1)
        A[a + r * stride] = v[r]


@_machine_form(scatter, lambda A, a, stride, v, count: types.void if _takes(A, v) else None)
def _(m: _Machine) -> Any:
    a, stride, v, count = m.index(1), m.index(2), m.arguments[3], m.index(4)

    def store_lane(r: int) -> None:
        number = ir.Constant(a.type, r)
        place = m.builder.add(a, m.builder.mul(number, stride))
        m.builder.store(m.builder.extract_element(v, number), m.pointer(0, place, 1))

    with m.builder.if_else(m.builder.icmp_signed(">=", count, ir.Constant(count.type, v.type.count))) as (all_, some):
        with all_:
            for r in range(v.type.count):
                store_lane(r)
        with some:
            for r in range(v.type.count - 1):
                with m.builder.if_then(m.builder.icmp_signed("<", ir.Constant(count.type, r), count)):
                    store_lane(r)
    return m.nothing()


def _turned(builder: Any, registers: list[Any]) -> list[Any]:
    """Transpose a square: exchange its off-diagonal quarters, then those of each quarter, down to single elements.

    Of longer registers, several squares side by side.
    """
    lanes = registers[0].type.count
    index = ir.VectorType(ir.IntType(32), lanes)
    step = 1
    while step < len(registers):
        turned = list(registers)
        for r in range(len(registers)):
            if r & step:
                continue
            upper, lower = registers[r], registers[r | step]
            # lane k of the two registers together: k of the upper one, lanes + k of the lower one
            for_upper = [lanes + (k ^ step) if k & step else k for k in range(lanes)]
            for_lower = [lanes + k if k & step else k ^ step for k in range(lanes)]
            turned[r] = builder.shuffle_vector(upper, lower, ir.Constant(index, for_upper))
            turned[r | step] = builder.shuffle_vector(upper, lower, ir.Constant(index, for_lower))
        registers = turned
        step *= 2
    return registers


# ------------------------------------------------------------------------------------------------------------------
# random words: Philox4x32-10, which fastmlp.oracle.dropout has in NumPy

_PHILOX_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_PHILOX_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_PHILOX_ROUNDS = 10


def random_words(
    A: np.ndarray, n: int, group: int, layer: int, step: int, key0: int, key1: int, p: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four vectors like ``A``'s, of whole numbers below 2^24: in each lane ``r`` those of the counter ``n + r, …``.

    If ``p`` is not negative, the first word of the counters stands in ``A`` from there on, in the place of ``n + r``.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0 = (np.arange(lanes(A)) + n).astype(np.uint64) & low
    if p >= 0:
        c0 = load(A, p).astype(np.uint64)
    c1, c2, c3 = (np.full(lanes(A), word & 0xFFFFFFFF, np.uint64) for word in (group, layer, step))
    for r in range(_PHILOX_ROUNDS):
        k0, k1 = (
            np.uint64((int(key) + r * by) & 0xFFFFFFFF)
            for key, by in zip((key0, key1), _PHILOX_INCREMENTS, strict=True)
        )
        first, second = np.uint64(_PHILOX_MULTIPLIERS[0]) * c0, np.uint64(_PHILOX_MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (second >> half) ^ c1 ^ k0, second & low, (first >> half) ^ c3 ^ k1, first & low
    return tuple((c >> np.uint64(8)).astype(A.dtype) for c in (c0, c1, c2, c3))  # type: ignore[return-value]


def _random_words_typing(A: Any, n: Any, group: Any, layer: Any, step: Any, key0: Any, key1: Any, p: Any) -> Any:
    return types.UniTuple(Vector(A.dtype), 4) if _is_buffer(A) else None


@_machine_form(random_words, _random_words_typing)
def _(m: _Machine) -> Any:
    b, count = m.builder, m.result.dtype.lanes
    word, wide = ir.VectorType(ir.IntType(32), count), ir.VectorType(ir.IntType(64), count)

    def constant(kind: ir.VectorType, value: int) -> Any:
        return ir.Constant(kind, [value] * count)

    def argument(position: int) -> Any:
        return m.splat(b.trunc(m.index(position), ir.IntType(32)), word)

    def product(c: Any, multiplier: int) -> tuple[Any, Any]:
        whole = b.mul(b.zext(c, wide), constant(wide, multiplier))
        return b.trunc(b.lshr(whole, constant(wide, 32)), word), b.trunc(whole, word)

    counted = b.add(argument(1), ir.Constant(word, list(range(count))))
    p = m.index(7)
    is_given = b.icmp_signed(">=", p, ir.Constant(p.type, 0))
    given = b.fptoui(m.load(0, b.select(is_given, p, ir.Constant(p.type, 0))), word)
    c0 = b.select(m.splat(is_given, ir.VectorType(ir.IntType(1), count)), given, counted)
    c1, c2, c3, k0, k1 = (argument(position) for position in range(2, 7))
    for r in range(_PHILOX_ROUNDS):
        high0, low0 = product(c0, _PHILOX_MULTIPLIERS[0])
        high1, low1 = product(c2, _PHILOX_MULTIPLIERS[1])
        key0, key1 = (
            b.add(k, constant(word, r * by & 0xFFFFFFFF)) for k, by in zip((k0, k1), _PHILOX_INCREMENTS, strict=True)
        )
        c0, c1, c2, c3 = b.xor(b.xor(high1, c1), key0), low1, b.xor(b.xor(high0, c3), key1), low0
    # 24 bits are a number of float32 without rounding; signed numbers are converted by an instruction
    vectors = [b.sitofp(b.lshr(c, constant(word, 8)), _llvm_vector(m.result.dtype)) for c in (c0, c1, c2, c3)]
    return m.context.make_tuple(b, m.result, vectors)


# ------------------------------------------------------------------------------------------------------------------
# a choice of functions


def choice_of(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """Make a function that calls one of ``functions``, which return nothing; its number, from 1 on, comes first.

    In compiled code it is a jump by a table. Comparisons, in functions of their own, took longer to compile.
    """

    def chosen(number: int, *arguments: Any) -> None:
        functions[number - 1](*arguments)

    def signatures(context: Any, arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        kinds = [context.resolve_value_type(function) for function in functions]
        return [(kind, context.resolve_function_type(kind, arguments, {})) for kind in kinds]

    class Chosen(AbstractTemplate):  # of any number of arguments
        key = chosen

        def generic(self, arguments: tuple[Any, ...], _: Any) -> Any:
            is_known = isinstance(arguments[0], types.Integer) and all(
                signature is not None for _, signature in signatures(self.context, arguments[1:])
            )
            return typing.signature(types.void, *arguments) if is_known else None

    infer_global(chosen, types.Function(Chosen))

    @lower_builtin(chosen, types.VarArg(types.Any))
    def lowering(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        m = _Machine(context, builder, signature, arguments)
        number, end = m.index(0), builder.append_basic_block("chosen")
        blocks = [builder.append_basic_block(f"choice_{k + 1}") for k in range(len(functions))]
        jump = builder.switch(number, blocks[-1])
        found = signatures(context.typing_context, signature.args[1:])
        for k, (block, (kind, its_signature)) in enumerate(zip(blocks, found, strict=True)):
            jump.add_case(ir.Constant(number.type, k + 1), block)
            builder.position_at_end(block)
            context.get_function(kind, its_signature)(builder, arguments[1:])
            builder.branch(end)
        builder.position_at_end(end)
        return m.nothing()

    return chosen


# ------------------------------------------------------------------------------------------------------------------
# counters that threads share: elements of an int64 array, read and written in one piece and in one order for all


def _is_counters(A: Any) -> bool:
    return isinstance(A, types.Array) and A.ndim == 1 and A.layout == "C" and A.dtype == types.int64 and A.mutable


_one_at_a_time = threading.Lock()
"""Interpreted, counting takes several pieces; this makes them one."""


def add_to_counter(A: np.ndarray, a: int, value: int) -> int:
    """``A[a] += value`` in one piece; returns what stood there before."""
    with _one_at_a_time:
        before = int(A[a])
        A[a] = before + value
    return before


@_machine_form(add_to_counter, lambda A, a, value: types.int64 if _is_counters(A) else None)
def _(m: _Machine) -> Any:
    return m.builder.atomic_rmw("add", m.pointer(0, m.index(1), 1), m.index(2), "seq_cst")


def read_counter(A: np.ndarray, a: int) -> int:
    """``A[a]``, and with it everything that its writer wrote before."""
    return int(A[a])


@_machine_form(read_counter, lambda A, a: types.int64 if _is_counters(A) else None)
def _(m: _Machine) -> Any:
    return m.builder.load_atomic(m.pointer(0, m.index(1), 1), "acquire", 8)


def set_counter(A: np.ndarray, a: int, value: int) -> None:
    """``A[a] = value``, after everything written before."""
    with _one_at_a_time:
        A[a] = value


@_machine_form(set_counter, lambda A, a, value: types.void if _is_counters(A) else None)
def _(m: _Machine) -> Any:
    m.builder.store_atomic(m.index(2), m.pointer(0, m.index(1), 1), "release", 8)
    return m.nothing()


def pause() -> None:
    """Wait a moment, some ten to a hundred cycles, and spare the processor's other half."""


@_machine_form(pause, lambda: types.void)
def _(m: _Machine) -> Any:
    if _is_arm():
        name, values = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]
    else:
        name, values = "llvm.x86.sse2.pause", []
    function_type = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    m.builder.call(cgutils.get_or_insert_function(m.builder.module, function_type, name), values)
    return m.nothing()


def give_way() -> None:
    """Let another thread that waits for this processor run."""
    time.sleep(0)


@_machine_form(give_way, lambda: types.void)
def _(m: _Machine) -> Any:
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    function_type = ir.FunctionType(ir.IntType(32), [])
    m.builder.call(cgutils.get_or_insert_function(m.builder.module, function_type, name), [])
    return m.nothing()
