"""The forward and the backward pass moved along a direction, in the kernels: a Hessian's product with a vector.

What a training step computes of the present parameters stands in a workspace; this adds how all of it moves. The
formulas are in :mod:`fastmlp.oracle.derivatives`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.buffers import Workspace
from fastmlp.kernels import columns, derivatives, layer, layout
from fastmlp.oracle.network import Parameters

Array = NDArray[Any]


class MovedPass:
    """How a pass that stands in a workspace moves. First :meth:`forward`, then :meth:`backward`."""

    def __init__(
        self,
        workspace: Workspace,
        parameters: Sequence[Parameters],
        direction: Sequence[Parameters],
        n_samples: int,
        n_threads: int,
    ) -> None:
        self._workspace, self._parameters, self._direction = workspace, parameters, direction
        self._n_samples, self._n_threads = n_samples, n_threads
        self._moved_inputs: list[Array] = []
        self._moved_outputs: list[Array] = []

    def _blocks(self, index: int, column: int, *, inputs: bool = False) -> Array:
        """What stands in the workspace for a layer, in sample blocks."""
        W = self._parameters[index].weights
        return self._workspace.view(self._workspace.plan[index, column], W.shape[1 if inputs else 0], self._n_samples)

    def output(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``Z`` and ``A`` of the last layer, as columns. Where ``Z`` is not kept, its place has ``A``."""
        last = len(self._parameters) - 1
        Z, A = (
            layout.from_sample_blocks(self._blocks(last, column), self._n_samples) for column in (columns.Z, columns.A)
        )
        return Z.astype(np.float64), A.astype(np.float64)

    def forward(self) -> NDArray[np.float64]:
        """How ``Z`` of the last layer moves, as columns."""
        RX = np.zeros_like(self._blocks(0, columns.X, inputs=True))
        for index, ((W, _), (V, v)) in enumerate(zip(self._parameters, self._direction, strict=True)):
            X = self._blocks(index, columns.X, inputs=True)
            RZ = np.empty_like(self._blocks(index, columns.A))
            derivatives.affine_moved(W, V, v, X, RX, RZ, n_threads=self._n_threads)
            self._moved_inputs.append(RX)
            self._moved_outputs.append(RZ)
            if index + 1 < len(self._parameters):
                RX = np.empty_like(RZ)
                Z, A, code = self._of_activation(index)
                layer.activate_backward(code, Z, A, RZ, RX, n_threads=self._n_threads)
        return layout.from_sample_blocks(RZ, self._n_samples).astype(np.float64)

    def _of_activation(self, index: int) -> tuple[Array, Array, int]:
        code = int(self._workspace.plan[index, columns.ACTIVATION])
        return self._blocks(index, columns.Z), self._blocks(index, columns.A), code

    def backward(self, RdZ: NDArray[np.float64], products: Sequence[Parameters]) -> None:
        """From how ``dZ`` of the last layer moves, as columns, to how the gradients move, which go to ``products``."""
        moved = layout.to_sample_blocks(RdZ.astype(products[0].weights.dtype), self._workspace.block)
        for index in reversed(range(len(self._parameters))):
            W, V, product = self._parameters[index].weights, self._direction[index].weights, products[index]
            dZ, RX = self._blocks(index, columns.DZ), self._moved_inputs[index]
            dX, RdX = np.empty_like(RX), np.empty_like(RX)
            derivatives.affine_backward_moved(
                W, V, self._workspace.features(index, W.shape[1]), self._by_features(RX), dZ, moved, dX, RdX,
                product.weights, product.biases, n_threads=self._n_threads,
            )  # fmt: skip
            if index > 0:
                below = index - 1
                Z, A, code = self._of_activation(below)
                moved = np.empty_like(RdX)
                derivatives.activate_backward_moved(
                    code, Z, A, dX, self._moved_outputs[below], RdX, moved, n_threads=self._n_threads
                )

    def _by_features(self, blocks: Array) -> Array:
        """Sample blocks as feature blocks, with the samples that fill them up."""
        size = self._workspace.block
        return layout.to_feature_blocks(layout.from_sample_blocks(blocks, len(blocks) * size), size)
