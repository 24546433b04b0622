"""Networks as ONNX models, which other runtimes execute. It needs ``pip install "fastmlp[onnx]"``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:  # pragma: no cover (of an environment without it)
    raise ImportError('fastmlp.onnx needs onnx: pip install "fastmlp[onnx]"') from error

from fastmlp.mlp import MLP

_OPSET, _IR_VERSION = 17, 8
"""Of 2022: what runtimes of today and of some years ago read."""


class _Graph:
    """Nodes and constants, one after the other; a value is known by its name."""

    def __init__(self, dtype: np.dtype) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = dtype
        self._count = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; returns the name of what it computes."""
        self._count += 1
        name = f"{operator.lower()}_{self._count}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """Add an array, or a number."""
        self._count += 1
        name = name or f"constant_{self._count}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, self.dtype), name))
        return name


# The oracle's formulas, in ONNX's operators. Those of 2022 that have a name of their own are not all there in float64
# in the runtimes: these are written out.


def _leaky_relu(graph: _Graph, z: str) -> str:
    return graph.add("Max", z, graph.add("Mul", z, graph.constant(0.01)))


def _elu(graph: _Graph, z: str) -> str:
    # max(z, 0) + (exp(min(z, 0)) - 1)
    zero, one = graph.constant(0.0), graph.constant(1.0)
    below = graph.add("Sub", graph.add("Exp", graph.add("Min", z, zero)), one)
    return graph.add("Add", graph.add("Max", z, zero), below)


def _softplus(graph: _Graph, z: str) -> str:
    # max(z, 0) + log(1 + exp(-|z|))
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", z)))
    rest = graph.add("Log", graph.add("Add", small, graph.constant(1.0)))
    return graph.add("Add", graph.add("Max", z, graph.constant(0.0)), rest)


def _silu(graph: _Graph, z: str) -> str:
    return graph.add("Mul", z, graph.add("Sigmoid", z))


def _gelu(graph: _Graph, z: str) -> str:
    # z (1 + erf(z / √2)) / 2
    scaled = graph.add("Mul", z, graph.constant(math.sqrt(0.5)))
    if graph.dtype == np.float64:  # onnxruntime has no erf of float64: 1e-7 is what is left
        single = graph.add("Cast", scaled, to=onnx.TensorProto.FLOAT)
        erf = graph.add("Cast", graph.add("Erf", single), to=onnx.TensorProto.DOUBLE)
    else:
        erf = graph.add("Erf", scaled)
    part = graph.add("Mul", graph.add("Add", erf, graph.constant(1.0)), graph.constant(0.5))
    return graph.add("Mul", z, part)


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "identity": lambda graph, z: graph.add("Identity", z),
    "sigmoid": lambda graph, z: graph.add("Sigmoid", z),
    "tanh": lambda graph, z: graph.add("Tanh", z),
    "relu": lambda graph, z: graph.add("Relu", z),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "exp": lambda graph, z: graph.add("Exp", z),
    "softmax": lambda graph, z: graph.add("Softmax", z, axis=-1),
}


def to_onnx(mlp: MLP, path: str | os.PathLike[str] | None = None) -> Any:
    """Make an ONNX model that predicts as the network does.

    Parameters
    ----------
    mlp : MLP
        In its dtype.
    path : path, optional
        Where to write it.

    Returns
    -------
    onnx.ModelProto
        Of opset 17, with the input ``X`` of shape (n_samples, n_features) and the output ``prediction`` of shape
        (n_samples, n_outputs). It has been checked by ``onnx.checker``. A gelu of float64 is exact to 1e-7.

    Raises
    ------
    TypeError
        If it is no network.

    References
    ----------
    .. [1] https://onnx.ai/onnx/operators

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp.onnx import to_onnx
    >>> model = to_onnx(fastmlp.MLP([3, 4, 2], hidden_activation="tanh", rng=0))
    >>> [node.op_type for node in model.graph.node]
    ['Gemm', 'Tanh', 'Gemm', 'Identity']
    """
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp must be a fastmlp.MLP; got {type(mlp).__name__}")
    unknown = sorted({*mlp._activations} - {*_ACTIVATIONS})
    if unknown:
        raise ValueError(
            f"mlp must have activations that are written down in fastmlp/onnx.py; got {', '.join(unknown)}"
        )
    graph = _Graph(mlp._dtype)
    value = "X"
    for layer, ((W, b), name) in enumerate(zip(mlp.parameters, mlp._activations, strict=True)):
        weights = graph.constant(W, f"layer.{layer}.weights")
        biases = graph.constant(b, f"layer.{layer}.biases")
        value = _ACTIVATIONS[name](graph, graph.add("Gemm", value, weights, biases, transB=1))
    graph.nodes[-1].output[0] = "prediction"
    kind = helper.np_dtype_to_tensor_dtype(mlp._dtype)
    widths = (("X", mlp._sizes[0]), ("prediction", mlp._sizes[-1]))
    entering, leaving = (helper.make_tensor_value_info(name, kind, ["n_samples", width]) for name, width in widths)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "multilayer perceptron", [entering], [leaving], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="fastmlp",
    )
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        onnx.save_model(model, os.fspath(path))
    return model
