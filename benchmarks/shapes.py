"""What is timed: networks with their data, and the comparison with the oracle that comes before every timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp.oracle import network as oracle

Array = NDArray[np.floating]

DTYPES = ["float32", "float64"]
THREADS = [1, 2]
LEARNING_RATE = 1e-4  # so small that a hundred thousand steps do not change what a step costs


class Shape(NamedTuple):
    """A network, and how many samples it sees at once."""

    layer_sizes: tuple[int, ...]
    n_samples: int


SHAPES = {
    "3-4-4-2 @ 5": Shape((3, 4, 4, 2), 5),
    "10-32-32-1 @ 32": Shape((10, 32, 32, 1), 32),
    "64-128-64-10 @ 128": Shape((64, 128, 64, 10), 128),
    "784-128-64-10 @ 128": Shape((784, 128, 64, 10), 128),
    "784-512-256-10 @ 256": Shape((784, 512, 256, 10), 256),
}
"""From the smallest, where the call itself is the cost, to one that fills the processor."""


def problem(shape: Shape, dtype: str, **settings: Any) -> tuple[fastmlp.MLP, Array, Array]:
    """Make a network, and random samples and targets for it: always the same."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((shape.n_samples, shape.layer_sizes[0])).astype(dtype)
    Y = rng.standard_normal((shape.n_samples, shape.layer_sizes[-1])).astype(dtype)
    return fastmlp.MLP(shape.layer_sizes, dtype=dtype, rng=0, **settings), X, Y


class Expected(NamedTuple):
    """What the oracle computes for a network and data."""

    output: Array
    loss: float
    gradients: list[oracle.Parameters]


def expected(
    mlp: fastmlp.MLP, X: Array, Y: Array, *, activations: Sequence[str] | None = None, loss: str = "squared_error"
) -> Expected:
    """Ask the oracle, in float64, and with samples as columns; what comes back are rows again."""
    parameters = [oracle.Parameters(W.astype(np.float64), b.astype(np.float64)) for W, b in mlp.parameters]
    columns, targets = X.T.astype(np.float64), Y.T.astype(np.float64)
    forward_pass = oracle.forward(parameters, columns, activations=activations)
    gradients = oracle.backward(parameters, forward_pass, targets, activations=activations, loss=loss)
    return Expected(forward_pass.activations[-1].T, oracle.loss_value(forward_pass, targets, loss=loss), gradients)


def assert_close(found: Array | float, expected: Array | float, dtype: str) -> None:
    """Compare with the oracle: a difference may be a small part of the largest entry."""
    tolerance = 1000 * np.finfo(dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def assert_pairs_close(
    found: Sequence[tuple[Array, Array]], expected: Sequence[tuple[Array, Array]], dtype: str
) -> None:
    """Compare (weights, biases) pairs with the oracle's."""
    for found_pair, expected_pair in zip(found, expected, strict=True):
        for found_part, expected_part in zip(found_pair, expected_pair, strict=True):
            assert_close(found_part, expected_part, dtype)
