"""A network inside other people's compiled code: a function of plain arrays that needs neither Python nor memory.

It calls the kernels of a prediction as :mod:`fastmlp.kernels.calls` does, with the arguments in a table. Table and
arena lie on the caller's stack, so any number of threads may call it at once. The addresses in it are of this process;
in another one, to which it is sent pickled, the calls are packed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config, errors
from numba.extending import intrinsic

from fastmlp.kernels import columns
from fastmlp.kernels import prediction as kernels
from fastmlp.kernels.calls import ALONE, ENTRY, SLOTS, Call, CrewKernel
from fastmlp.kernels.jit import embedded_function

MOST_STACK = 1 << 19
"""Bytes of the caller's stack that a prediction may take: threads have 2 MB and more, as a rule."""

_SHAPES = "x and out must be of one sample each, or have a row for each sample, as wide as the network"

_ALIGNMENT = 128
_INTEGER = ir.IntType(64)

_alive: list[Any] = []
"""Arrays and code that compiled code of a user's may go on using: it says nowhere when it is gone."""


class Prediction(NamedTuple):
    """What compiled code needs to predict by itself."""

    plan: Any
    """Of an arena for one block of samples, in which the layers take turns at the same places."""
    parameters: Any
    """Which nobody changes any more."""
    panels: Any
    """The same, as the prediction of single samples reads them."""
    arena_size: int


class _Packed:
    """A call of ``predict`` or ``predict_alone``, but for what is on the stack and what a caller gives."""

    def __init__(self, kernel: str, prediction: Prediction) -> None:
        self._made_of = kernel, prediction
        _alive.append(prediction)
        here = prediction.parameters[:0]
        given = {
            "plan": prediction.plan, "parameters": prediction.parameters, "panels": prediction.panels, "arena": here,
            "report": np.zeros((1, 3)), "data": here, "output": here, "first": 0, "samples": 0,
        }  # fmt: skip
        called: CrewKernel = getattr(kernels, kernel)
        call = Call(called, *(given[name] for name in called.argument_names))
        self.entry, self.table = call.entry, tuple(call.table.tolist())
        # where the arguments stand in the table: rows, and behind them the output
        self.data, self.samples = called.slot("data"), called.slot("samples")
        self.arena, self.report = called.slot("arena"), called.slot("report")

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the addresses here."""
        return type(self), self._made_of


def embedded(prediction: Prediction) -> Callable[[Any, Any], None]:
    """Make the function of ``x`` and ``out`` that user code calls, compiled for rows and for single samples."""
    if config.DISABLE_JIT:
        return _interpreted(prediction)
    dtype = types.float32 if prediction.parameters.dtype == np.float32 else types.float64
    plan = prediction.plan
    inputs, outputs = int(plan[0, columns.INPUTS]), int(plan[-2, columns.OUTPUTS])
    block = int(plan[-1, columns.ROOM])
    predict_few, predict_many = (
        _caller(_Packed(kernel, prediction), dtype, prediction.arena_size, inputs, outputs)
        for kernel in ("predict_alone", "predict")
    )
    most_alone = kernels.SAMPLES_ALONE

    @embedded_function
    def predict(x, out):
        if x.shape[-1] != inputs or out.shape[-1] != outputs or x.size // inputs != out.size // outputs:
            raise ValueError(_SHAPES)
        samples = x.size // inputs
        if samples <= most_alone:
            predict_few(x, out, 0, samples)
        else:
            for first in range(0, samples, block):
                predict_many(x, out, first, min(block, samples - first))

    _alive.append(predict)
    return predict


def _interpreted(prediction: Prediction) -> Callable[[Any, Any], None]:
    """The same where nothing is compiled."""
    plan = prediction.plan

    def predict(x: Any, out: Any) -> None:
        inputs, outputs = plan[0, columns.INPUTS], plan[-2, columns.OUTPUTS]
        if x.shape[-1] != inputs or out.shape[-1] != outputs or x.size // inputs != out.size // outputs:
            raise ValueError(_SHAPES)
        arena = np.zeros(prediction.arena_size, prediction.parameters.dtype)
        kernels.predict_alone(
            plan, prediction.parameters, prediction.panels, arena, np.zeros((1, 3)), x.reshape(-1), out.reshape(-1), 0,
            x.size // inputs,
        )  # fmt: skip

    return predict


def _caller(packed: _Packed, dtype: Any, arena_size: int, inputs: int, outputs: int) -> Any:
    """Make an intrinsic that calls a kernel for some samples of ``x``, from sample ``first`` on."""
    itemsize = dtype.bitwidth // 8

    @intrinsic
    def call(typing_context: Any, x: Any, out: Any, first: Any, samples: Any) -> Any:
        for name, array in (("x", x), ("out", out)):
            if not (isinstance(array, types.Array) and array.dtype == dtype and array.layout == "C"):
                raise errors.TypingError(f"{name} must be a C-ordered array of {dtype}; got {array}")
            if array.ndim not in (1, 2):
                raise errors.TypingError(f"{name} must be one sample, or a row for each sample; got {array}")

        if not out.mutable:
            raise errors.TypingError(f"out must be an array that can be written to; got {out}")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            table = _on_stack(builder, _INTEGER, len(packed.table))
            arena = _on_stack(builder, context.get_value_type(dtype), arena_size)
            report = _on_stack(builder, ir.DoubleType(), 3)
            start, count = (builder.sext(number, _INTEGER) for number in arguments[2:])

            def put(slot: int, value: Any) -> None:
                builder.store(value, builder.gep(table, [_INTEGER(slot)]))

            for slot, value in enumerate(packed.table):
                put(slot, _INTEGER(value))
            for slot, kind, array, width in zip(
                (packed.data, packed.data + SLOTS), signature.args, arguments, (inputs, outputs), strict=False
            ):
                place = builder.ptrtoint(context.make_array(kind)(context, builder, array).data, _INTEGER)
                put(slot, builder.add(place, builder.mul(start, _INTEGER(width * itemsize))))
                put(slot + 1, builder.mul(count, _INTEGER(width)))
            put(packed.samples, count)
            put(packed.arena, builder.ptrtoint(arena, _INTEGER))
            put(packed.arena + 1, _INTEGER(arena_size))
            put(packed.report, builder.ptrtoint(report, _INTEGER))
            # an address of this process: Numba then does not cache the code for others
            entry = context.add_dynamic_addr(builder, packed.entry, info="fastmlp")
            builder.call(builder.bitcast(entry, ENTRY.as_pointer()), [_INTEGER(ALONE), table])
            return context.get_dummy_value()

        return types.void(x, out, first, samples), generate

    return call


def _on_stack(builder: Any, kind: Any, size: int) -> Any:
    place = cgutils.alloca_once(builder, kind, size=size)
    place.align = _ALIGNMENT
    return place
