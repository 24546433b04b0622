"""Every index line in the sources is executed, letter by letter, and compared with the code that it stands above.

The lines of the oracle are compared with the oracle's functions, those of the kernels with the kernels. A line above a
strip function is compared with the public kernel that runs the strip. Whoever writes a formula above a new function
adds that function to :data:`ARGUMENTS` and :data:`ORACLE` here, and its kernel to :data:`KERNELS` and :data:`STRIPS`:
a line that nothing here can compute fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import fastmlp
from conftest import compiled
from fastmlp import buffers
from fastmlp.kernels import activations as kernel_activations
from fastmlp.kernels import columns, layout, simd
from fastmlp.kernels import derivatives as kernel_derivatives
from fastmlp.kernels import dropout as kernel_dropout
from fastmlp.kernels import layer as kernel_layer
from fastmlp.kernels import losses as kernel_losses
from fastmlp.kernels import network as kernel_network
from fastmlp.kernels import sparse as kernel_sparse
from fastmlp.oracle import derivatives as oracle_derivatives
from fastmlp.oracle import dropout as oracle_dropout
from fastmlp.oracle import layer as oracle_layer
from fastmlp.oracle import losses as oracle_losses
from fastmlp.oracle import network as oracle_network
from fastmlp.oracle import sparse as oracle_sparse
from fastmlp.oracle.activations import ACTIVATIONS
from fastmlp.oracle.losses import LOSSES
from index_lines import Array, Formula, Function, IndexLine, execute, find_index_lines, find_stray_formulas, parse

PACKAGE = Path(fastmlp.__file__).parent
SOURCES = {
    f"{folder}.{path.stem}": path.read_text(encoding="utf-8")
    for folder in ("oracle", "kernels")
    for path in sorted((PACKAGE / folder).glob("*.py"))
}
"""The text of each file, by names like "oracle.layer"."""

LINES = [line for module, source in SOURCES.items() for line in find_index_lines(source, module)]
ORACLE_LINES = [line for line in LINES if line.module.startswith("oracle.")]
KERNEL_LINES = [line for line in LINES if line.module.startswith("kernels.")]


def describe(line: IndexLine) -> str:
    """Tell where an index line stands, and what it says."""
    return f"fastmlp/{line.module.replace('.', '/')}.py:{line.line_number}: {line.text}"


def function_of(line: IndexLine) -> str:
    """Name the function above whose code an index line stands: "layer.affine", say."""
    return f"{line.module.split('.')[1]}.{line.function}"


def name_of_test(line: IndexLine) -> str:
    """Name a test by where the line stands and what is on its left."""
    return f"{line.module}.{line.function}-{line.text.split('=')[0].strip()}"


# ------------------------------------------------------------------------------------------------------------------
# what the functions are given


Arrays = dict[str, Array]
Call = Callable[[Arrays, str], Arrays]
"""From arguments, by name, and a variant to what is computed, by the names on the left sides of the formulas."""


class Sizes(NamedTuple):
    """How far the letters count."""

    inputs: int
    outputs: int
    samples: int


DISTINCT = Sizes(inputs=5, outputs=3, samples=7)
SQUARE = Sizes(inputs=4, outputs=4, samples=4)
SEVERAL_TILES = Sizes(inputs=17, outputs=13, samples=35)
"""More than one strip of rows, more than one block of inputs and more than one of samples, all with a remainder."""

SIZES = {"distinct": DISTINCT, "square": SQUARE, "several_tiles": SEVERAL_TILES}

ARGUMENTS = {
    "layer.affine": ("W", "b", "X"),
    "layer.affine_sample": ("W", "b", "X"),
    "layer.affine_by_sample": ("W", "b", "X"),
    "layer.affine_rows": ("W", "b", "X"),
    "layer.affine_row": ("W", "b", "X"),
    "layer.input_gradient_by_sample": ("W", "dZ"),
    "layer.affine_backward": ("W", "X", "dZ"),
    "layer.narrow_gradient_strip": ("X", "dZ"),
    "layer.weight_gradient_rows": ("X", "dZ"),
    "layer.activate": ("Z",),
    "layer.activate_backward": ("Z", "A", "dA"),
    "losses.squared_error": ("A", "Y"),
    "losses.binary_cross_entropy": ("Z", "Y"),
    "losses.softmax": ("Z",),
    "losses.softmax_cross_entropy": ("Z", "Y"),
    **{f"losses.{name}": ("A", "Y") for name in ("absolute_error", "huber", "quantile")},
    "losses.poisson": ("Z", "Y"),
    "dropout.drop": ("A", "m"),
    "derivatives.by_sample": ("X", "dZ"),
    "derivatives.softmax_backward": ("A", "dA"),
    "derivatives.affine_moved": ("W", "V", "v", "X", "RX"),
    "derivatives.affine_backward_moved": ("W", "V", "X", "RX", "dZ", "RdZ"),
    "derivatives.activate_backward_moved": ("Z", "A", "dA", "RZ", "RdA"),
    "network.loss_value": ("W", "b", "X", "Y", "L", "s"),
    "sparse.sparse_affine": ("W", "b", "X"),
    "sparse.sparse_affine_backward": ("W", "X", "dZ"),
}
"""What each function is given. Its formulas may name these arrays, and no others."""

VARIANTS = {
    "layer.activate": list(ACTIVATIONS),
    "layer.activate_backward": list(ACTIVATIONS),
    "derivatives.activate_backward_moved": list(ACTIVATIONS),
    "network.loss_value": list(LOSSES),
}
"""The activations or losses with which a function is tried; a function that is not named here has just one variant."""


def draw_arguments(function: str, variant: str, sizes: Sizes) -> Arrays:
    """Random arrays for the arguments of a function."""
    inputs, outputs, samples = sizes
    rng = np.random.default_rng(0)
    drawn = {
        "W": rng.standard_normal((outputs, inputs)),
        "b": rng.standard_normal(outputs),
        "X": rng.standard_normal((inputs, samples)),
        "Z": rng.standard_normal((outputs, samples)),
        "A": rng.standard_normal((outputs, samples)),
        "Y": rng.uniform(0, 1, (outputs, samples)),
        "dA": rng.standard_normal((outputs, samples)),
        "dZ": rng.standard_normal((outputs, samples)),
        "V": rng.standard_normal((outputs, inputs)),
        "v": rng.standard_normal(outputs),
        "RX": rng.standard_normal((inputs, samples)),
        "RZ": rng.standard_normal((outputs, samples)),
        "RdZ": rng.standard_normal((outputs, samples)),
        "RdA": rng.standard_normal((outputs, samples)),
        "s": rng.dirichlet(np.ones(samples)),
        "m": oracle_dropout.mask(*DROPOUT, outputs, samples),
    }
    if function in ("layer.activate_backward", "derivatives.activate_backward_moved"):
        drawn["A"] = ACTIVATIONS[variant].function(drawn["Z"])
    if function == "network.loss_value":
        forward_pass = forward_through_one_layer(drawn, variant)
        of_Z = LOSSES[variant].of_pre_activations
        output = forward_pass.pre_activations[-1] if of_Z else forward_pass.activations[-1]
        drawn["L"] = LOSSES[variant].of(output, drawn["Y"])[0]
    return {name: drawn[name] for name in ARGUMENTS[function]}


def forward_through_one_layer(given: Arrays, loss: str) -> oracle_network.ForwardPass:
    """Forward pass through a network of one layer, which is all that a loss needs."""
    parameters = [oracle_network.Parameters(given["W"], given["b"])]
    return oracle_network.forward(parameters, given["X"], activations=[LOSSES[loss].output_activation])


def activation_functions(activation: str) -> dict[str, Function]:
    """Return what ``f`` and ``f'`` mean for an activation."""
    function, slope = ACTIVATIONS[activation].function, ACTIVATIONS[activation].slope
    return {
        "f": lambda z: float(function(np.array(z))),
        "f'": lambda z: float(slope(np.array(z), function(np.array(z)))),
        "f''": lambda z: float(ACTIVATIONS[activation].curvature(np.array(z), function(np.array(z)))),
    }


SETTINGS = {"huber": 0.6, "quantile": 0.8, "softmax_cross_entropy": 0.1}
"""Settings of losses, other than their defaults."""


def loss_functions(function: str, sizes: Sizes) -> dict[str, Function]:
    """Return what the pieces of a loss mean, with its setting."""
    t, q, s = SETTINGS.values()
    return {
        "losses.huber": {"cut": lambda e: max(-t, min(e, t))},
        "losses.quantile": {
            "pinball": lambda e: max((1 - q) * e, -q * e),
            "pinball'": lambda e: (1 - q) * (e > 0) - q * (e < 0),
        },
        "losses.softmax_cross_entropy": {"smooth": lambda y: (1 - s) * y + s / sizes.outputs},
    }.get(function, {})


# ------------------------------------------------------------------------------------------------------------------
# what the oracle computes


def oracle_affine(given: Arrays, _: str) -> Arrays:
    return {"Z": oracle_layer.affine(given["W"], given["b"], given["X"])}


def oracle_affine_backward(given: Arrays, _: str) -> Arrays:
    dX, dW, db = oracle_layer.affine_backward(given["W"], given["X"], given["dZ"])
    return {"dX": dX, "dW": dW, "db": db}


def sparse_columns(X: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return ``X[i,n]`` as the values of each sample: all of them, one after the other."""
    n_inputs, n_samples = X.shape
    return np.arange(n_samples + 1) * n_inputs, np.tile(np.arange(n_inputs), n_samples), X.T.ravel()


def oracle_sparse_affine(given: Arrays, _: str) -> Arrays:
    return {"Z": oracle_sparse.sparse_affine(given["W"], given["b"], *sparse_columns(given["X"]))}


def oracle_sparse_affine_backward(given: Arrays, _: str) -> Arrays:
    dW, db = oracle_sparse.sparse_affine_backward(given["W"], *sparse_columns(given["X"]), given["dZ"])
    return {"dW": dW, "db": db}


def oracle_activate(given: Arrays, activation: str) -> Arrays:
    return {"A": oracle_layer.activate(activation, given["Z"])}


def oracle_activate_backward(given: Arrays, activation: str) -> Arrays:
    return {"dZ": oracle_layer.activate_backward(activation, given["Z"], given["A"], given["dA"])}


def oracle_loss(name: str) -> Call:
    """Return a call of a loss."""

    def call(given: Arrays, _: str) -> Arrays:
        chosen = LOSSES[name]._replace(setting=SETTINGS.get(name))
        output, gradient = ("Z", "dZ") if chosen.of_pre_activations else ("A", "dA")
        L, found = chosen.of(given[output], given["Y"])
        return {"L": L, gradient: found}

    return call


def oracle_softmax(given: Arrays, _: str) -> Arrays:
    return {"A": oracle_losses.softmax(given["Z"])}


DROPOUT = (6_000_000, 1, 2, 3, 4)
"""Threshold, keys, step and layer."""


def oracle_drop(given: Arrays, _: str) -> Arrays:
    return {"D": oracle_dropout.drop(given["A"], *DROPOUT)}


def kernel_drop(given: Arrays, _: str) -> Arrays:
    D = room_for(given["A"])
    kernel_dropout.drop(sample_blocks(given["A"]), *DROPOUT, D)
    return {"D": layout.from_sample_blocks(D, given["A"].shape[1])}


def oracle_by_sample(given: Arrays, _: str) -> Arrays:
    dW, db = oracle_derivatives.by_sample(given["X"], given["dZ"])
    return {"dW": dW, "db": db}


def oracle_softmax_backward(given: Arrays, _: str) -> Arrays:
    return {"dZ": oracle_derivatives.softmax_backward(given["A"], given["dA"])}


@compiled
def every_sample_by_itself(plan, arena, output):
    for n in range(output.shape[0]):
        kernel_derivatives.by_sample(0, plan, arena, n, 1.0, output.reshape(output.size), n * output.shape[1])


def kernel_by_sample(given: Arrays, _: str) -> Arrays:
    X, dZ = given["X"], given["dZ"]
    (n_inputs, n_samples), n_outputs = X.shape, dZ.shape[0]
    objective = buffers.Objective("squared_error")
    workspace = buffers.Workspace([n_inputs, n_outputs], ["identity"], objective, np.dtype(np.float64), n_samples)
    plan, blocks = workspace.plan, layout.to_feature_blocks(X, simd.block(X)).ravel()
    workspace.arena[plan[0, columns.X_BY_FEATURES] :][: blocks.size] = blocks
    workspace.view(plan[0, columns.DZ], n_outputs, n_samples)[...] = sample_blocks(dZ)
    output = np.full((n_samples, (n_inputs + 1) * n_outputs), np.nan)
    every_sample_by_itself(plan, workspace.arena, output)
    weights = n_inputs * n_outputs
    return {"dW": output[:, :weights].reshape(n_samples, n_outputs, n_inputs), "db": output[:, weights:]}


@compiled
def softmax_backward_of(A, D):
    outputs, size = A.shape[1], A.shape[2]
    for p in range(A.shape[0]):
        here = p * outputs * size
        kernel_derivatives.softmax_backward(outputs, A.reshape(A.size), here, D.reshape(D.size), here)


def kernel_softmax_backward(given: Arrays, _: str) -> Arrays:
    D = sample_blocks(given["dA"])
    softmax_backward_of(sample_blocks(given["A"]), D)
    return {"dZ": layout.from_sample_blocks(D, given["A"].shape[1])}


def oracle_affine_moved(given: Arrays, _: str) -> Arrays:
    return {"RZ": oracle_derivatives.affine_moved(**given)}


def oracle_affine_backward_moved(given: Arrays, _: str) -> Arrays:
    return dict(zip(("dX", "RdX", "RdW", "Rdb"), oracle_derivatives.affine_backward_moved(**given), strict=True))


def oracle_activate_backward_moved(given: Arrays, activation: str) -> Arrays:
    return {"RdZ": oracle_derivatives.activate_backward_moved(activation, **given)}


def kernel_affine_moved(given: Arrays, _: str) -> Arrays:
    W, X = given["W"], given["X"]
    RZ = room_for(np.zeros((W.shape[0], X.shape[1])))
    kernel_derivatives.affine_moved(W, given["V"], given["v"], sample_blocks(X), sample_blocks(given["RX"]), RZ)
    return {"RZ": layout.from_sample_blocks(RZ, X.shape[1])}


def kernel_affine_backward_moved(given: Arrays, _: str) -> Arrays:
    W, X = given["W"], given["X"]
    dX, RdX, RdW, Rdb = room_for(X), room_for(X), np.full_like(W, np.nan), np.full(len(W), np.nan)
    features = [layout.to_feature_blocks(given[name], simd.block(X)) for name in ("X", "RX")]
    kernel_derivatives.affine_backward_moved(
        W, given["V"], *features, sample_blocks(given["dZ"]), sample_blocks(given["RdZ"]), dX, RdX, RdW, Rdb
    )
    dX, RdX = (layout.from_sample_blocks(array, X.shape[1]) for array in (dX, RdX))
    return {"dX": dX, "RdX": RdX, "RdW": RdW, "Rdb": Rdb}


def kernel_activate_backward_moved(given: Arrays, activation: str) -> Arrays:
    RdZ, code = room_for(given["Z"]), kernel_activations.CODES[activation]
    blocks = [sample_blocks(given[name]) for name in ("Z", "A", "dA", "RZ", "RdA")]
    kernel_derivatives.activate_backward_moved(code, *blocks, RdZ)
    return {"RdZ": layout.from_sample_blocks(RdZ, given["Z"].shape[1])}


def oracle_loss_value(given: Arrays, loss: str) -> Arrays:
    forward_pass = forward_through_one_layer(given, loss)
    value = oracle_network.loss_value(forward_pass, given["Y"], loss=loss, sample_weight=3 * given["s"])
    return {"loss": np.array(value)}


ORACLE: dict[str, Call] = {
    "derivatives.by_sample": oracle_by_sample,
    "derivatives.softmax_backward": oracle_softmax_backward,
    "derivatives.affine_moved": oracle_affine_moved,
    "derivatives.affine_backward_moved": oracle_affine_backward_moved,
    "derivatives.activate_backward_moved": oracle_activate_backward_moved,
    "dropout.drop": oracle_drop,
    "layer.affine": oracle_affine,
    "layer.affine_backward": oracle_affine_backward,
    "layer.activate": oracle_activate,
    "layer.activate_backward": oracle_activate_backward,
    **{f"losses.{name}": oracle_loss(name) for name in LOSSES},
    "losses.softmax": oracle_softmax,
    "network.loss_value": oracle_loss_value,
    "sparse.sparse_affine": oracle_sparse_affine,
    "sparse.sparse_affine_backward": oracle_sparse_affine_backward,
}


# ------------------------------------------------------------------------------------------------------------------
# what the kernels compute


def sample_blocks(M: Array) -> Array:
    """Return ``M[i,n]`` in the sample-blocked layout."""
    return layout.to_sample_blocks(M, simd.block(M))


def room_for(M: Array) -> Array:
    """Sample blocks of the shape of ``M[i,n]``, to be written to: not a number until then."""
    return np.full_like(sample_blocks(M), np.nan)


def room_for_losses(M: Array) -> Array:
    """One cell for each sample of ``M[i,n]``, in whole blocks: not a number until it is written to."""
    blocks, _, size = sample_blocks(M).shape
    return np.full(blocks * size, np.nan)


def kernel_affine(given: Arrays, _: str) -> Arrays:
    W, b, X = given["W"], given["b"], given["X"]
    n_outputs, n_samples = W.shape[0], X.shape[1]
    Z = room_for(np.zeros((n_outputs, n_samples)))
    kernel_layer.affine(W, b, sample_blocks(X), Z)
    return {"Z": layout.from_sample_blocks(Z, n_samples)}


@compiled
def every_sample_alone(W, b, X, Z):
    weights, (outputs, inputs) = W.reshape(W.size), W.shape
    panels = np.zeros((outputs + simd.lanes(W)) * inputs)
    layout.panels_of(weights, 0, inputs, outputs, panels, 0)
    for n in range(X.shape[0]):
        kernel_layer.affine_sample(panels, 0, b, 0, inputs, outputs, X[n], 0, Z[n], 0)


def kernel_affine_sample(given: Arrays, _: str) -> Arrays:
    W, b, X = given["W"], given["b"], given["X"]
    n_outputs, n_samples = W.shape[0], X.shape[1]
    Z = np.full((n_samples, n_outputs + simd.block(X)), np.nan)  # a whole vector is written behind the last output
    every_sample_alone(W, b, np.ascontiguousarray(X.T), Z)
    return {"Z": Z[:, :n_outputs].T}


@compiled
def a_few_samples(W, b, X, samples, Z):
    """Take the samples of each block as a few."""
    (outputs, inputs), size = W.shape, simd.block(X)
    room, blocks = X.shape[1], Z.shape[0]
    weights, x, z = W.reshape(W.size), X.reshape(X.size), Z.reshape(Z.size)
    for p in range(blocks):
        few = min(size, samples - p * size)
        to = p * outputs * size
        kernel_layer.affine_by_sample(weights, 0, b, 0, inputs, outputs, x, p * size * size, room, few, z, to)


def kernel_affine_few(given: Arrays, _: str) -> Arrays:
    W, b, X = given["W"], given["b"], given["X"].copy()
    n_outputs, n_samples = W.shape[0], X.shape[1]
    blocks = layout.to_feature_blocks(X, simd.block(X))
    blocks[-1, :, len(X) - (len(blocks) - 1) * simd.block(X) :] = np.nan  # belongs to nobody
    Z = np.full_like(sample_blocks(np.zeros((n_outputs, n_samples))), np.nan)
    a_few_samples(W, b, blocks, n_samples, Z)
    assert not Z.transpose(1, 0, 2).reshape(n_outputs, -1)[:, n_samples:].any()
    return {"Z": layout.from_sample_blocks(Z, n_samples)}


class Rows(NamedTuple):
    """A user's data, in which the samples of ``X[i,n]`` stand in another order, behind what is not a number."""

    data: Array
    order: Array
    first: int
    """In the order, before whose entry others stand."""


def shuffled_rows(X: Array) -> Rows:
    """Put the samples into rows of a user's data."""
    samples, first = X.shape[1], 3
    order = 1 + np.random.default_rng(5).permutation(samples)
    data = np.full((samples + 1, len(X)), np.nan)
    data[order] = X.T
    return Rows(data.ravel(), np.concatenate([np.zeros(first, np.int64), order]), first)


@compiled
def every_block_of_rows(W, b, X, order, first, samples, Z):
    (outputs, inputs), size = W.shape, simd.block(X)
    weights, z = W.reshape(W.size), Z.reshape(Z.size)
    for n in range(0, samples, size):
        kernel_layer.affine_rows(weights, 0, b, 0, inputs, outputs, X, order, first + n, samples - n, z, n * outputs)


def kernel_affine_rows(given: Arrays, _: str) -> Arrays:
    W, b, X = given["W"], given["b"], given["X"]
    n_samples, Z = X.shape[1], room_for(np.zeros((len(W), X.shape[1])))
    every_block_of_rows(W, b, *shuffled_rows(X), n_samples, Z)
    filled = Z.transpose(1, 0, 2).reshape(len(W), -1)
    assert (filled[:, n_samples:] == filled[:, n_samples - 1 : n_samples]).all()
    return {"Z": layout.from_sample_blocks(Z, n_samples)}


@compiled
def every_row(W, b, X, order, first, Z):
    weights, (outputs, inputs) = W.reshape(W.size), W.shape
    for n in range(Z.shape[0]):
        kernel_layer.affine_row(weights, 0, b, 0, inputs, outputs, X, order[first + n] * inputs, Z[n], 0)


def kernel_affine_row(given: Arrays, _: str) -> Arrays:
    W, b, X = given["W"], given["b"], given["X"]
    Z = np.full((X.shape[1], len(W)), np.nan)
    every_row(W, b, *shuffled_rows(X), Z)
    np.testing.assert_array_equal(Z.T, kernel_affine_rows(given, "")["Z"])  # the same bits
    return {"Z": Z.T}


@compiled
def gradient_from_rows(dZ, outputs, X, order, first, samples, inputs, dW):
    half = samples // 2 // simd.block(X) * simd.block(X)
    kernel_layer.weight_gradient_rows(dZ, 0, outputs, 0, half, False, X, order, first, inputs, dW, 0)
    kernel_layer.weight_gradient_rows(dZ, 0, outputs, half, samples, True, X, order, first, inputs, dW, 0)


def kernel_weight_gradient_rows(given: Arrays, _: str) -> Arrays:
    X, d = given["X"], sample_blocks(given["dZ"])
    n_outputs, (n_inputs, n_samples) = d.shape[1], X.shape
    dW = np.full((n_outputs, n_inputs), np.nan)
    gradient_from_rows(d.ravel(), n_outputs, *shuffled_rows(X), n_samples, n_inputs, dW.ravel())
    return {"dW": dW}


@compiled
def input_gradient_of_few(W, dZ, samples, dX):
    (outputs, inputs), size = W.shape, simd.block(dZ)
    weights, d, x = W.reshape(W.size), dZ.reshape(dZ.size), dX.reshape(dX.size)
    for p in range(dZ.shape[0]):
        few, here, to = min(size, samples - p * size), p * outputs * size, p * inputs * size
        for i in range(inputs):  # the first ones, and the others one by one
            first, count = (0, inputs - inputs // 2) if i == 0 else (inputs - i, 1)
            kernel_layer.input_gradient_by_sample(
                weights, first, inputs, count, outputs, d, here, few, x, to + first * size
            )


def kernel_input_gradient_few(given: Arrays, _: str) -> Arrays:
    W, dZ = given["W"], given["dZ"]
    n_inputs, n_samples = W.shape[1], dZ.shape[1]
    dX = np.full_like(sample_blocks(np.zeros((n_inputs, n_samples))), np.nan)
    input_gradient_of_few(W, sample_blocks(dZ), n_samples, dX)
    assert not dX.transpose(1, 0, 2).reshape(n_inputs, -1)[:, n_samples:].any()
    return {"dX": layout.from_sample_blocks(dX, n_samples)}


@compiled
def gradient_of_few_inputs(dZ, X, inputs, outputs, samples, dW):
    half = samples // 2 // simd.block(X) * simd.block(X)
    for j in range(0, outputs, simd.ROWS):
        rows, d, w = min(simd.ROWS, outputs - j), j * simd.block(X), j * inputs
        kernel_layer.narrow_gradient_strip(rows, dZ, d, outputs, 0, half, False, X, 0, inputs, dW, w)
        kernel_layer.narrow_gradient_strip(rows, dZ, d, outputs, half, samples, True, X, 0, inputs, dW, w)


def kernel_few_inputs_gradient(given: Arrays, _: str) -> Arrays:
    """Take as many inputs at a time as are a few."""
    X, d = given["X"], sample_blocks(given["dZ"])
    blocks, n_outputs, _ = d.shape
    parts = []
    n_samples = blocks * simd.block(X)
    for first in range(0, len(X), kernel_layer.NARROW_INPUTS):
        x = sample_blocks(X[first : first + kernel_layer.NARROW_INPUTS])
        dW = np.full((n_outputs, x.shape[1]), np.nan)
        gradient_of_few_inputs(d.ravel(), x.ravel(), x.shape[1], n_outputs, n_samples, dW.ravel())
        parts.append(dW)
    return {"dW": np.concatenate(parts, axis=1)}


def kernel_affine_backward(given: Arrays, _: str) -> Arrays:
    W, X, dZ = given["W"], given["X"], given["dZ"]
    n_outputs, n_samples = dZ.shape
    dX, dW, db = room_for(X), np.full_like(W, np.nan), np.full(n_outputs, np.nan)
    kernel_layer.affine_backward(W, layout.to_feature_blocks(X, simd.block(X)), sample_blocks(dZ), dX, dW, db)
    return {"dX": layout.from_sample_blocks(dX, n_samples), "dW": dW, "db": db}


def kernel_sparse_affine(given: Arrays, _: str) -> Arrays:
    T = np.ascontiguousarray(given["W"].T)
    Z = np.full((given["X"].shape[1], T.shape[1]), np.nan)
    kernel_sparse.sparse_affine(T, given["b"], *sparse_columns(given["X"]), Z)
    return {"Z": Z.T}


def kernel_sparse_affine_backward(given: Arrays, _: str) -> Arrays:
    dT, db = np.full(given["W"].T.shape, np.nan), np.full(len(given["W"]), np.nan)
    kernel_sparse.sparse_affine_backward(*sparse_columns(given["X"]), np.ascontiguousarray(given["dZ"].T), dT, db)
    return {"dW": dT.T, "db": db}


def kernel_activate(given: Arrays, activation: str) -> Arrays:
    Z = given["Z"]
    A = room_for(Z)
    kernel_layer.activate(kernel_activations.CODES[activation], sample_blocks(Z), A)
    return {"A": layout.from_sample_blocks(A, Z.shape[1])}


def kernel_activate_backward(given: Arrays, activation: str) -> Arrays:
    Z, A, dA = given["Z"], given["A"], given["dA"]
    dZ, code = room_for(Z), kernel_activations.CODES[activation]
    kernel_layer.activate_backward(code, sample_blocks(Z), sample_blocks(A), sample_blocks(dA), dZ)
    return {"dZ": layout.from_sample_blocks(dZ, Z.shape[1])}


def kernel_loss(name: str) -> Call:
    """Return a call of a loss's kernel."""

    def call(given: Arrays, _: str) -> Arrays:
        output, gradient = ("Z", "dZ") if LOSSES[name].of_pre_activations else ("A", "dA")
        outputs, setting = given[output], [SETTINGS[name]] if name in SETTINGS else []
        L, found = room_for_losses(outputs), room_for(outputs)
        getattr(kernel_losses, name)(sample_blocks(outputs), sample_blocks(given["Y"]), *setting, L, found)
        samples = outputs.shape[1]
        return {"L": L[:samples], gradient: layout.from_sample_blocks(found, samples)}

    return call


def kernel_softmax(given: Arrays, _: str) -> Arrays:
    Z = given["Z"]
    A = room_for(Z)
    kernel_losses.softmax(sample_blocks(Z), A)
    return {"A": layout.from_sample_blocks(A, Z.shape[1])}


def kernel_loss_value(given: Arrays, loss: str) -> Arrays:
    W, X = given["W"], given["X"]
    (n_outputs, n_inputs), n_samples = W.shape, X.shape[1]
    names = [LOSSES[loss].output_activation]
    objective = buffers.Objective(loss, LOSSES[loss].setting or 0.0)
    workspace = buffers.Workspace([n_inputs, n_outputs], names, objective, np.dtype(np.float64), n_samples)
    parameters = np.concatenate([W.ravel(), given["b"]])
    rows, targets = X.T.ravel(), given["Y"].T.ravel()
    no_labels = every_row = np.empty(0, np.int64)
    buffers_of_step = workspace.crew, workspace.plan, parameters, workspace.arena, workspace.report
    status, value = kernel_network.loss_value(
        *buffers_of_step, rows, targets, no_labels, 3 * given["s"], every_row, 0, n_samples
    )
    assert status == columns.FINITE
    return {"loss": np.array(value)}


KERNELS: dict[str, Call] = {
    "derivatives.by_sample": kernel_by_sample,
    "derivatives.softmax_backward": kernel_softmax_backward,
    "derivatives.affine_moved": kernel_affine_moved,
    "derivatives.affine_backward_moved": kernel_affine_backward_moved,
    "derivatives.activate_backward_moved": kernel_activate_backward_moved,
    "dropout.drop": kernel_drop,
    "layer.affine": kernel_affine,
    "layer.affine_sample": kernel_affine_sample,
    "layer.affine_by_sample": kernel_affine_few,
    "layer.affine_rows": kernel_affine_rows,
    "layer.affine_row": kernel_affine_row,
    "layer.input_gradient_by_sample": kernel_input_gradient_few,
    "layer.narrow_gradient_strip": kernel_few_inputs_gradient,
    "layer.weight_gradient_rows": kernel_weight_gradient_rows,
    "layer.affine_backward": kernel_affine_backward,
    "layer.activate": kernel_activate,
    "layer.activate_backward": kernel_activate_backward,
    **{f"losses.{name}": kernel_loss(name) for name in LOSSES},
    "losses.softmax": kernel_softmax,
    "network.loss_value": kernel_loss_value,
    "sparse.sparse_affine": kernel_sparse_affine,
    "sparse.sparse_affine_backward": kernel_sparse_affine_backward,
}

STRIPS = {
    "dropout.drop_block": "dropout.drop",
    "derivatives.affine_moved_strip": "derivatives.affine_moved",
    "derivatives.input_gradient_moved_strip": "derivatives.affine_backward_moved",
    "activations.curvature_vectors": "derivatives.activate_backward_moved",
    "layer.affine_strip": "layer.affine",
    "layer.input_gradient_strip": "layer.affine_backward",
    "layer.weight_gradient_strip": "layer.affine_backward",
    "layer.bias_gradient_strip": "layer.affine_backward",
    "activations.activate_vectors": "layer.activate",
    "activations.slope_vectors": "layer.activate_backward",
    **{f"losses.{name}_block": f"losses.{name}" for name in LOSSES},
    "losses.softmax_block": "losses.softmax",
    "samples._loss_tile": "network.loss_value",
}
"""The kernel that runs each strip function."""

SECOND_FORMS = {
    "layer.affine_sample": "layer.affine",
    "layer.affine_by_sample": "layer.affine",
    "layer.affine_rows": "layer.affine",
    "layer.affine_row": "layer.affine",
    "layer.input_gradient_by_sample": "layer.input_gradient_strip",
    "layer.narrow_gradient_strip": "layer.weight_gradient_strip",
    "layer.weight_gradient_rows": "layer.weight_gradient_strip",
}
"""Functions that compute what another computes in a second way; they are called and compared by themselves."""


# ------------------------------------------------------------------------------------------------------------------
# a formula beside what was computed


class Case(NamedTuple):
    """A function's arguments, what it computes from them, and what ``f`` and ``f'`` mean there."""

    given: Arrays
    computed: Arrays
    functions: dict[str, Function]


def cases(calls: dict[str, Call], function: str, sizes: Sizes) -> Iterator[Case]:
    """Call a function in each of its variants."""
    for variant in VARIANTS.get(function, [""]):
        given = draw_arguments(function, variant, sizes)
        functions = activation_functions(variant) if variant in ACTIVATIONS else loss_functions(function, sizes)
        yield Case(given, calls[function](given, variant), functions)


def agrees(formula: Formula, case: Case) -> bool:
    """Whether the formula gives what was computed, up to rounding."""
    expected, computed = execute(formula, case.given, case.functions), case.computed[formula.left]
    if expected.shape != computed.shape:
        return False
    return bool(np.abs(computed - expected).max() <= 1e-12 * np.abs(expected).max())


def assert_line_is_computed(line: IndexLine, calls: dict[str, Call], function: str, sizes: Sizes) -> None:
    """Execute an index line and compare it with what the function computes, in each of its variants."""
    if function not in calls:
        pytest.fail(
            f"{describe(line)}: nothing here knows how to call {function_of(line)}, so this formula is not executed; "
            f"add the function to the tables in {Path(__file__).name}"
        )
    formula = parse(line.text)
    for case in cases(calls, function, sizes):
        if formula.left not in case.computed:
            pytest.fail(f"{describe(line)}: {function} computes {', '.join(case.computed)}, not {formula.left}")
        assert agrees(formula, case), f"{describe(line)}: this is not what {function} computes"


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("line", ORACLE_LINES, ids=name_of_test)
def test_oracle_computes_its_index_line(line: IndexLine, sizes: Sizes) -> None:
    assert_line_is_computed(line, ORACLE, function_of(line), sizes)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("line", KERNEL_LINES, ids=name_of_test)
def test_kernel_computes_its_index_line(line: IndexLine, sizes: Sizes) -> None:
    function = function_of(line)
    assert_line_is_computed(line, KERNELS, STRIPS.get(function, function), sizes)


@pytest.mark.parametrize(("strip", "kernel"), STRIPS.items())
def test_kernel_runs_its_strip(strip: str, kernel: str) -> None:
    """Otherwise a line above the strip would be compared with other code."""
    called, waiting = set(), [kernel]
    while waiting:  # also through others, called or handed over
        module, name = waiting.pop().split(".")
        bodies, imported = functions_in(module)
        if name not in bodies:
            continue
        calls = [node.func for node in ast.walk(bodies[name]) if isinstance(node, ast.Call)]
        names = {call.id for call in calls + bodies[name].args.kw_defaults if isinstance(call, ast.Name)}
        new = {f"{imported.get(name, module)}.{name}" for name in names} - called
        called |= new
        waiting += new
    assert strip in called


@cache
def functions_in(module: str) -> tuple[dict[str, ast.FunctionDef], dict[str, str]]:
    """Functions that a file of kernels defines; and the files that it has others from."""
    parsed = ast.parse(SOURCES.get(f"kernels.{module}", "")).body
    imports = [node for node in parsed if isinstance(node, ast.ImportFrom) and node.module]
    return (
        {node.name: node for node in parsed if isinstance(node, ast.FunctionDef)},
        {alias.name: node.module.split(".")[-1] for node in imports for alias in node.names},
    )


# ------------------------------------------------------------------------------------------------------------------
# every formula is found, and stands above both twins


FORMULAS_OF_FILES = {
    "oracle.dropout": {"D"},
    "kernels.dropout": {"D"},
    "oracle.layer": {"Z", "dX", "dW", "db", "A", "dZ"},
    "oracle.losses": {"L", "dA", "dZ", "A"},
    "oracle.network": {"loss"},
    "kernels.layer": {"Z", "dX", "dW", "db", "A", "dZ"},
    "kernels.activations": {"A", "dZ"},
    "kernels.losses": {"L", "dA", "dZ", "A"},
    "kernels.samples": {"loss"},
    "oracle.sparse": {"Z", "dW", "db"},
    "kernels.sparse": {"Z", "dW", "db"},
}
"""The left sides that each file has at least."""


def texts(lines: list[IndexLine]) -> set[str]:
    """Return the formulas, with single spaces."""
    return {" ".join(line.text.split()) for line in lines}


@pytest.mark.parametrize(("module", "expected"), FORMULAS_OF_FILES.items(), ids=FORMULAS_OF_FILES)
def test_lines_of_a_file_are_found(module: str, expected: set[str]) -> None:
    found = {parse(line.text).left for line in LINES if line.module == module}
    assert found >= expected


@pytest.mark.parametrize("line", LINES, ids=name_of_test)
def test_every_line_can_be_parsed(line: IndexLine) -> None:
    parse(line.text)


@pytest.mark.parametrize("module", SOURCES)
def test_no_formula_hides_in_another_comment(module: str) -> None:
    """A formula behind code or among words would not be executed."""
    assert find_stray_formulas(SOURCES[module]) == []


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_its_lines(loss: str) -> None:
    of_Z = LOSSES[loss].of_pre_activations
    for lines in (ORACLE_LINES, KERNEL_LINES):
        found = {parse(line.text).left for line in lines if function_of(line) == f"losses.{loss}"}
        assert found == {"L", "dZ" if of_Z else "dA"}


@pytest.mark.parametrize("function", sorted({function_of(line) for line in ORACLE_LINES}))
def test_twins_have_the_same_lines(function: str) -> None:
    """The formulas above an oracle function stand above its kernel too, or above the kernel's strips, or both."""
    oracle = texts([line for line in ORACLE_LINES if function_of(line) == function])
    kernel = texts([line for line in KERNEL_LINES if function_of(line) == function])
    strips = texts([line for line in KERNEL_LINES if STRIPS.get(function_of(line)) == function])
    assert kernel or strips, f"no kernel has the formulas of {function}"
    assert kernel in (oracle, set())
    # a kernel that has them all may share strips with others, where some of them stand
    assert strips <= oracle if kernel else strips == oracle


@pytest.mark.parametrize("function", sorted({function_of(line) for line in KERNEL_LINES}))
def test_every_kernel_line_has_a_twin(function: str) -> None:
    first_form = SECOND_FORMS.get(function, function)
    twin = STRIPS.get(first_form, first_form)
    assert twin in {function_of(line) for line in ORACLE_LINES}


@pytest.mark.parametrize(("form", "twin"), SECOND_FORMS.items())
def test_second_forms_have_the_lines_of_their_twins(form: str, twin: str) -> None:
    lines = [texts([line for line in KERNEL_LINES if function_of(line) == name]) for name in (form, twin)]
    assert lines[0] == lines[1]


# ------------------------------------------------------------------------------------------------------------------
# wrong formulas are seen


def is_seen(wrong: str, function: str, sizes: Sizes) -> bool:
    """Whether a wrong formula is refused, or differs from what the oracle computes in some variant."""
    try:
        formula = parse(wrong)
        return not all(agrees(formula, case) for case in cases(ORACLE, function, sizes))
    except ValueError:
        return True


def slips(text: str) -> Iterator[str]:
    """Yield the formula with one pair of letters exchanged, or with one sign turned."""
    for pair in re.finditer(r"\[(\w),(\w)\]", text):
        yield f"{text[: pair.start()]}[{pair[2]},{pair[1]}]{text[pair.end() :]}"
    for sign in re.finditer(r" ([+-]) ", text):
        yield f"{text[: sign.start()]} {'-' if sign[1] == '+' else '+'} {text[sign.end() :]}"


@pytest.mark.parametrize("sizes", [DISTINCT, SQUARE], ids=["distinct", "square"])
@pytest.mark.parametrize("line", ORACLE_LINES, ids=name_of_test)
def test_every_slip_of_a_letter_or_a_sign_is_seen(line: IndexLine, sizes: Sizes) -> None:
    assert not is_seen(line.text, function_of(line), sizes)
    for wrong in slips(line.text):
        assert is_seen(wrong, function_of(line), sizes), wrong


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        ("layer.affine", "Z[j,n] = Σ_i W[j,i] X[i,n]"),
        ("layer.affine", "Z[j,n] = Σ_i (W[j,i] X[i,n] + b[j])"),
        ("layer.affine", "Z[j,n] = Σ_i W[j,i] X[i,n] + b[n]"),
        ("layer.affine", "Z[j,n] = -Σ_i W[j,i] X[i,n] + b[j]"),
        ("layer.affine_backward", "dX[i,n] = Σ_j W[j,i]^2 dZ[j,n]"),
        ("layer.affine_backward", "dX[i,n] = Σ_j X[i,n] dZ[j,n]"),
        ("layer.affine_backward", "dW[j,i] = Σ_n dZ[j,n] X[i,n] / N"),
        ("layer.affine_backward", "db[j] = Σ_n dZ[j,n] / N"),
        ("layer.affine_backward", "db[n] = Σ_j dZ[j,n]"),
        ("layer.activate", "A[j,n] = f'(Z[j,n])"),
        ("layer.activate", "A[j,n] = Z[j,n]"),
        ("layer.activate_backward", "dZ[j,n] = dA[j,n] f(Z[j,n])"),
        ("layer.activate_backward", "dZ[j,n] = dA[j,n] f'(A[j,n])"),
        ("layer.activate_backward", "dZ[j,n] = dA[j,n]"),
        ("losses.squared_error", "L[n] = Σ_j (A[j,n] - Y[j,n])^2"),
        ("losses.squared_error", "L[n] = Σ_j (A[j,n] - Y[j,n]) / 2"),
        ("losses.squared_error", "dA[j,n] = 2 (A[j,n] - Y[j,n])"),
        ("losses.binary_cross_entropy", "L[n] = Σ_j (max(Z[j,n], 0) + log(1 + exp(abs(Z[j,n]))) - Y[j,n] Z[j,n])"),
        ("losses.binary_cross_entropy", "L[n] = Σ_j (Z[j,n] + log(1 + exp(-abs(Z[j,n]))) - Y[j,n] Z[j,n])"),
        ("losses.binary_cross_entropy", "dZ[j,n] = Z[j,n] - Y[j,n]"),
        ("losses.softmax", "A[j,n] = exp(Z[j,n])"),
        ("losses.softmax_cross_entropy", "L[n] = Σ_k exp(Z[k,n]) - Σ_j Y[j,n] Z[j,n]"),
        ("losses.softmax_cross_entropy", "L[n] = log(Σ_k exp(Z[k,n])) - Σ_j Y[j,n] Z[j,n]"),
        ("losses.softmax_cross_entropy", "dZ[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n])) - Y[j,n]"),
        ("losses.softmax_cross_entropy", "dZ[j,n] = sigmoid(Z[j,n]) - Y[j,n]"),
        ("network.loss_value", "loss = Σ_n L[n]"),
        ("network.loss_value", "loss = Σ_n L[n] / N"),
        ("network.loss_value", "loss = -Σ_n s[n] L[n]"),
        ("losses.absolute_error", "dA[j,n] = abs(A[j,n] - Y[j,n])"),
        ("losses.huber", "L[n] = Σ_j cut(A[j,n] - Y[j,n])^2 / 2"),
        ("losses.quantile", "L[n] = Σ_j pinball(Y[j,n] - A[j,n])"),
        ("losses.poisson", "dZ[j,n] = exp(Z[j,n]) - Y[j,n] Z[j,n]"),
        ("losses.softmax_cross_entropy", "L[n] = log(Σ_k exp(Z[k,n])) - Σ_j smooth(Y[j,n]) Z[j,n]"),
    ],
)
def test_wrong_formula_is_seen(function: str, wrong: str) -> None:
    parse(wrong)
    assert is_seen(wrong, function, DISTINCT)
    assert is_seen(wrong, function, SQUARE)


def test_an_unknown_function_fails() -> None:
    line = IndexLine("kernels.layer", "", "new_strip", 1, "Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]")
    with pytest.raises(pytest.fail.Exception, match=r"nothing here knows how to call layer\.new_strip"):
        assert_line_is_computed(line, KERNELS, "layer.new_strip", DISTINCT)


def test_a_left_side_that_is_not_computed_fails() -> None:
    line = IndexLine("oracle.layer", "", "affine", 1, "dZ[j,n] = Σ_i W[j,i] X[i,n] + b[j]")
    with pytest.raises(pytest.fail.Exception, match=r"layer\.affine computes Z, not dZ"):
        assert_line_is_computed(line, ORACLE, "layer.affine", DISTINCT)


# ------------------------------------------------------------------------------------------------------------------
# finding, parsing and executing


SOURCE = '''"""A source.

# Z[j,n] = in a text, not a comment
"""
# A[j,n] = above any function


class Layer:
    def forward(self):
        # Z[j,n] = Σ_i W[j,i] X[i,n]
        return "# Z[j,n] = in a text"

    def backward(self):
        def inner():
            #   loss = (Σ_n L[n]) / N
            # loss = a sum of losses
            # Z = affine(W, b, X)
            # W[j, i] = a broken one,
            return Z[j] == 1  # dZ[j,n] = dA[j,n], behind code
        # as before, db[j] = Σ_n dZ[j,n]
        return inner
'''


def test_index_lines_are_found() -> None:
    found = [(line.line_number, line.class_name, line.function, line.text) for line in find_index_lines(SOURCE)]
    assert found == [
        (5, "", "", "A[j,n] = above any function"),
        (10, "Layer", "forward", "Z[j,n] = Σ_i W[j,i] X[i,n]"),
        (15, "Layer", "backward", "loss = (Σ_n L[n]) / N"),
        (18, "Layer", "backward", "W[j, i] = a broken one,"),
    ]


def test_stray_formulas_are_found() -> None:
    assert find_stray_formulas(SOURCE) == [
        (19, "# dZ[j,n] = dA[j,n], behind code"),
        (20, "# as before, db[j] = Σ_n dZ[j,n]"),
    ]


def test_the_module_is_carried_along() -> None:
    assert {line.module for line in find_index_lines(SOURCE, "oracle.layer")} == {"oracle.layer"}


RNG = np.random.default_rng(1)
W, X, Z, b = (RNG.uniform(0.5, 2, shape) for shape in [(3, 5), (5, 7), (3, 7), (3,)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]", W @ X + b[:, np.newaxis]),
        ("Z[j,n] = b[j] - Σ_i W[j,i] X[i,n]", b[:, np.newaxis] - W @ X),
        ("Z[j,n] = b[j] Σ_i W[j,i] X[i,n] - 1", b[:, np.newaxis] * (W @ X) - 1),
        ("Z[j,n] = Σ_i W[j,i] (X[i,n] - 1) + 1", W @ (X - 1) + 1),
        ("T[n,j] = 2 Z[j,n] / b[j] - 0.5", (2 * Z / b[:, np.newaxis] - 0.5).T),
        ("b[j] = -b[j] - b[j] + 3 b[j]^2", -b - b + 3 * b**2),
        ("b[j] = b[j] / 2 - 3 / b[j] - (1 - b[j]) (1 + b[j])", b / 2 - 3 / b - (1 - b) * (1 + b)),
        ("b[j] = max(b[j], 1) + exp(-abs(b[j] - 1)) + log(b[j])", np.maximum(b, 1) + np.exp(-abs(b - 1)) + np.log(b)),
        ("b[j] = sigmoid(b[j])", 1 / (1 + np.exp(-b))),
        ("b[j] = f(b[j]) f'(b[j])", b**3 * 3 * b**2),
        ("b[j] = b[j] / (Σ_k b[k])", b / b.sum()),
        ("total = Σ_j Σ_n Z[j,n] b[j] + 1", (Z * b[:, np.newaxis]).sum() + 1),
        ("total = Σ_n Σ_j Z[j,n] / N", Z.sum() / 7),
        ("L[n] = N (Σ_j Z[j,n])^2", 7 * Z.sum(axis=0) ** 2),
        ("L[n]=(Σ_j Z[j,n]-Σ_k b[k] Z[k,n])/2", (Z.sum(axis=0) - b @ Z) / 2),
    ],
)
def test_formula_is_executed(text: str, expected: Array) -> None:
    functions = {"f": lambda z: z**3, "f'": lambda z: 3 * z**2}
    computed = execute(parse(text), {"W": W, "X": X, "Z": Z, "b": b}, functions)
    np.testing.assert_allclose(computed, expected, rtol=1e-13)
    assert computed.shape == np.shape(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the name of an array was expected, but 'the end' came"),
        ("Z[j,n]", "'=' was expected"),
        ("Z[j,n] =", "the name of an array was expected, but 'the end' came"),
        ("Z[j,n] = X[j,n] = A[j,n]", "nothing was expected after the end, but '=' came"),
        ("Z[j,n] = X[j,n])", "nothing was expected after the end"),
        ("Z[j,n] = (X[j,n]", "'\\)' was expected, but 'the end' came"),
        ("Z[j,n] = X[j,n", "'\\]' was expected"),
        ("Z[j,n] = X[j,", "ends too early"),
        ("Z[] = X[j,n]", "'\\]' is not a letter of the alphabet"),
        ("Z[j,n] = X[j,n] +", "but 'the end' came"),
        ("Z[j,n] = X[j,n] * b[j]", "'\\*' has no meaning here"),
        ("Z[j,n] = X[j,n]²", "'²' has no meaning here"),
        ("Z[j,n] = X[j,n], for every sample", "nothing was expected after the end, but ',' came"),
        ("Z[j,n] = X[j,n] for every sample", "for stands without letters"),
        ("Z[j,n] = X[j,n] + b", "b stands without letters"),
        ("Z[j,n] = X", "X stands without letters"),
        ("Z[j,n] = X[j,n]^b[j]", "a number was expected"),
        ("Z[j,n] = X[j,n] / A[j,n] b[j]", "a quotient ends its product"),
        ("Z[j,n] = X[j,n] / A[j,n] / b[j]", "a quotient ends its product"),
        ("Z[j,n] = X[j,n] / Σ_k X[k,n]", "the name of an array was expected, but 'Σ_k' came"),
        ("Z[j,n] = X[j,n] + -b[j]", "the name of an array was expected, but '-' came"),
        ("Z[j,n] = g(X[j,n])", "'g' is not a function that is known here"),
        ("Z[j,n] = exp'(X[j,n])", "exp'. is not a function that is known here"),
        ("Z[j,n] = exp X[j,n]", "the name of an array was expected, but 'exp' came"),
        ("Z[j,n] = f'[j,n]", "the name of an array was expected"),
        ("Z[j,n] = max(X[j,n])", "max has 2 argument"),
        ("Z[j,n] = exp(X[j,n], 0)", "exp has 1 argument"),
        ("N[j,n] = X[j,n]", "the name of an array was expected, but 'N' came"),
        ("Z[j,m] = X[j,m]", "'m' is not a letter of the alphabet"),
        ("Z[j,n] = Σ_m W[j,n] X[m,n]", "'m' is not a letter of the alphabet"),
        ("Z[j,n] = Σ_ W[j,n]", "'Σ' has no meaning here"),
        ("Z[jn] = X[j,n]", "'jn' is not a letter of the alphabet"),
        ("Z[j,n] = Σ_n", "the name of an array was expected"),
        ("Z[j,j] = X[j,n]", "a letter stands twice"),
        ("Z[j,n] = W[j,j] X[j,n]", "a letter stands twice"),
        ("Z[j,n] = W[j,i] X[i,n]", "the letter i of W is neither on the left nor summed"),
        ("Z[j,n] = (Σ_i W[j,i]) X[i,n]", "the letter i of X is neither on the left nor summed"),
        ("Z[j,n] = Σ_i W[j,i] + X[i,n]", "the letter i of X is neither on the left nor summed"),
        ("Z[j,n] = Σ_i W[j,i]", "the letter n of the left side is missing on the right"),
        ("Z[j,n] = Σ_j W[j,n]", "Σ_j sums a letter that has a meaning already"),
        ("L[n] = Σ_j Σ_j Z[j,n]", "Σ_j sums a letter that has a meaning already"),
        ("Z[j,n] = Σ_i X[j,n]", "Σ_i sums a term without that letter"),
    ],
)
def test_malformed_formula_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Z[j,n] = Σ_i V[j,i] X[i,n]", "nothing was given for the array V"),
        ("Z[j,n] = Σ_i W[i,j] X[i,n]", "i counts to 3, but in X\\[i,n\\] it counts to 5"),
        ("Z[j,n] = W[j,n] + Z[j,n]", "n counts to 5, but in Z\\[j,n\\] it counts to 7"),
        ("Z[j,n] = Z[j,n] + b[j,n]", "b\\[j,n\\] has 2 letter\\(s\\), but the array has 1 axes"),
        ("L[n] = Σ_j Z[j,n] - Σ_k W[n,k]", "n counts to 7, but in W"),
        ("L[n] = Σ_j Z[j,n] - Σ_k X[k,n]", "j and k both count outputs, but j to 3 and k to 5"),
        ("b[j] = f(b[j])", "nothing was given for the function f"),
        ("b[j] = f'(b[j])", "nothing was given for the function f'"),
        ("b[j] = b[j] / N", "the number of samples N is not known"),
    ],
)
def test_formula_that_does_not_fit_the_arrays_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        execute(parse(text), {"W": W, "X": X, "Z": Z, "b": b})
