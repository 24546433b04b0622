"""Derivatives for their own sake: of the loss by the input, by sample, of the output, and the second derivative.

Each is made of the functions of :mod:`fastmlp.oracle.layer` again. The second derivative is exact: the forward and the
backward pass are moved along a direction of the parameters, line by line, by the product rule (Pearlmutter 1994, *Fast
Exact Multiplication by the Hessian*). What has moved is called by its name after an ``R``, as there.

Examples
--------
>>> import numpy as np
>>> from fastmlp.oracle import derivatives, network
>>> rng = np.random.default_rng(0)
>>> parameters = network.initialize([3, 4, 2], rng, weight_scale=0.5)
>>> X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
>>> names = ["tanh", "identity"]
>>> derivatives.input_gradient(parameters, X, Y, activations=names).shape
(3, 5)
>>> derivatives.jacobian(parameters, X, activations=names).shape
(5, 2, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle import layer, losses, network
from fastmlp.oracle.activations import OUTPUT_ACTIVATIONS, sigmoid
from fastmlp.oracle.losses import Loss
from fastmlp.oracle.network import Parameters, Penalty

Array = NDArray[np.float64]


def input_gradient(
    parameters: Sequence[Parameters],
    X: Array,
    targets: Array,
    *,
    activations: Sequence[str],
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
) -> Array:
    """Gradient ``dX[i,n]`` of the loss with respect to the network's input."""
    forward_pass = network.forward(parameters, X, activations=activations)
    dZ = network.output_gradient(
        forward_pass, targets, activation=activations[-1], loss=loss, sample_weight=sample_weight
    )
    return network.backward_from(parameters, forward_pass, dZ, activations=activations).of_entering[0]


def by_sample(X: Array, dZ: Array) -> tuple[Array, Array]:
    """Gradients of a layer's weights and biases by each sample: the sums over ``n``, not summed."""
    # dW[n,j,i] = dZ[j,n] X[i,n]
    dW = dZ.T[:, :, np.newaxis] * X.T[:, np.newaxis, :]
    # db[n,j] = dZ[j,n]
    db = dZ.T.copy()
    return dW, db


def per_sample_gradients(
    parameters: Sequence[Parameters],
    X: Array,
    targets: Array,
    *,
    activations: Sequence[str],
    loss: str | Loss = "squared_error",
) -> list[Parameters]:
    """Gradients ``dW[n,j,i]`` and ``db[n,j]`` of each sample's own loss; their mean is the gradient of the loss."""
    forward_pass = network.forward(parameters, X, activations=activations)
    dZ = network.output_gradient(forward_pass, targets, activation=activations[-1], loss=loss)
    n_samples = X.shape[1]
    backward_pass = network.backward_from(parameters, forward_pass, n_samples * dZ, activations=activations)
    return [
        Parameters(*by_sample(forward_pass.entering(index), of_layer))
        for index, of_layer in enumerate(backward_pass.of_pre_activations)
    ]


def jacobian(parameters: Sequence[Parameters], X: Array, *, activations: Sequence[str]) -> Array:
    """Derivative ``J[n,j,i]`` of each output by each input of its sample, one backward pass for each output ``j``."""
    forward_pass = network.forward(parameters, X, activations=activations)
    Z, A = forward_pass.pre_activations[-1], forward_pass.activations[-1]
    J = np.empty((X.shape[1], A.shape[0], X.shape[0]))
    for j in range(A.shape[0]):
        dA = np.zeros_like(A)
        dA[j] = 1.0
        if activations[-1] == "softmax":
            dZ = softmax_backward(A, dA)
        else:
            dZ = layer.activate_backward(activations[-1], Z, A, dA)
        J[:, j] = network.backward_from(parameters, forward_pass, dZ, activations=activations).of_entering[0].T
    return J


def softmax_backward(A: Array, dA: Array) -> Array:
    """Gradient ``dZ`` of the softmax, from that of its output: every output moves with every ``Z``.

    The forward line is ``A[j,n] = exp(Z[j,n]) / (Σ_k exp(Z[k,n]))``; Bishop, equation 4.106.
    """
    # dZ[j,n] = A[j,n] (dA[j,n] - Σ_k A[k,n] dA[k,n])
    return A * (dA - (A * dA).sum(axis=0))


# ------------------------------------------------------------------------------------------------------------------
# the second derivative: every line of the forward and the backward pass, moved. Where a line has two factors, each
# moves in its turn.


def affine_moved(W: Array, V: Array, v: Array, X: Array, RX: Array) -> Array:
    """How the output of ``affine`` moves, if ``W, b`` move by ``V, v`` and ``X`` moves by ``RX``."""
    # RZ[j,n] = Σ_i V[j,i] X[i,n] + Σ_i W[j,i] RX[i,n] + v[j]
    return V @ X + W @ RX + v[:, np.newaxis]


def affine_backward_moved(
    W: Array, V: Array, X: Array, RX: Array, dZ: Array, RdZ: Array
) -> tuple[Array, Array, Array, Array]:
    """The gradient ``dX`` of ``affine``, and how ``dX``, ``dW`` and ``db`` move."""
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    dX = W.T @ dZ
    # RdX[i,n] = Σ_j V[j,i] dZ[j,n] + Σ_j W[j,i] RdZ[j,n]
    RdX = V.T @ dZ + W.T @ RdZ
    # RdW[j,i] = Σ_n RdZ[j,n] X[i,n] + Σ_n dZ[j,n] RX[i,n]
    RdW = RdZ @ X.T + dZ @ RX.T
    # Rdb[j] = Σ_n RdZ[j,n]
    Rdb = RdZ.sum(axis=1)
    return dX, RdX, RdW, Rdb


def activate_backward_moved(activation: str, Z: Array, A: Array, dA: Array, RZ: Array, RdA: Array) -> Array:
    """How the gradient ``dZ`` of an activation moves: with ``dA``, and with the slope, that is by the curvature."""
    # RdZ[j,n] = RdA[j,n] f'(Z[j,n]) + dA[j,n] RZ[j,n] f''(Z[j,n])
    found = OUTPUT_ACTIVATIONS[activation]
    return RdA * found.slope(Z, A) + dA * RZ * found.curvature(Z, A)


def hessian_vector_product(
    parameters: Sequence[Parameters],
    X: Array,
    targets: Array,
    direction: Sequence[Parameters],
    *,
    activations: Sequence[str],
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
    penalty: Penalty | None = None,
    masks: Sequence[Array | None] | None = None,
) -> list[Parameters]:
    """How the gradients change when the parameters move along a direction: the Hessian times the direction.

    Parameters
    ----------
    parameters, X, targets, activations, loss, sample_weight, penalty, masks
        As in :func:`fastmlp.oracle.network.backward` and :func:`fastmlp.oracle.network.forward`.
    direction : sequence of (weights, biases)
        In the shape of the parameters.

    Returns
    -------
    list of Parameters
        In the same shape. At a kink, of relu or of a loss, the second derivative is taken from one side.
    """
    forward_pass = network.forward(parameters, X, activations=activations, masks=masks)
    RX = np.zeros_like(X)
    RZs, RXs = [], []
    for index, ((W, _), (V, v)) in enumerate(zip(parameters, direction, strict=True)):
        RXs.append(RX)
        RZ = affine_moved(W, V, v, forward_pass.entering(index), RX)
        RZs.append(RZ)
        if index + 1 < len(parameters):
            # A = activate(Z) moves by its slope, and what is left of it by the mask
            Z, A = forward_pass.pre_activations[index], forward_pass.activations[index + 1]
            RX = forward_pass.mask(index) * layer.activate_backward(activations[index], Z, A, RZ)
    dZ, RdZ = output_gradient_moved(
        forward_pass, RZs[-1], targets, activation=activations[-1], loss=loss, sample_weight=sample_weight
    )
    products: list[Parameters] = []
    for index in reversed(range(len(parameters))):
        W, V, entering = parameters[index][0], direction[index][0], forward_pass.entering(index)
        dX, RdX, RdW, Rdb = affine_backward_moved(W, V, entering, RXs[index], dZ, RdZ)
        products.insert(0, Parameters(RdW, Rdb))
        if index > 0:
            below = index - 1
            name, mask = activations[below], forward_pass.mask(below)
            Z, A = forward_pass.pre_activations[below], forward_pass.activations[index]
            RdZ = activate_backward_moved(name, Z, A, mask * dX, RZs[below], mask * RdX)
            dZ = layer.activate_backward(name, Z, A, mask * dX)
    if penalty is None:
        return products
    return [
        Parameters(HW + penalty.l2 * V, Hb + penalty.l2 * v if penalty.biases else Hb)
        for (HW, Hb), (V, v) in zip(products, direction, strict=True)
    ]


def output_gradient_moved(
    forward_pass: network.ForwardPass,
    RZ: Array,
    targets: Array,
    *,
    activation: str,
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
) -> tuple[Array, Array]:
    """``dZ`` of the last layer, and how it moves with ``Z``. Only the last layer's part of the pass is looked at."""
    chosen = losses.chosen(loss)
    Z, A = forward_pass.pre_activations[-1], forward_pass.activations[-1]
    s = network.shares(A.shape[1], sample_weight)
    moved = LOSS_CURVATURES[chosen.name]
    if chosen.of_pre_activations:
        return s * chosen.of(Z, targets)[1], s * moved(Z, targets, RZ, chosen.setting or 0.0)
    RA = layer.activate_backward(activation, Z, A, RZ)
    dA, RdA = s * chosen.of(A, targets)[1], s * moved(A, targets, RA, chosen.setting or 0.0)
    dZ = layer.activate_backward(activation, Z, A, dA)
    return dZ, activate_backward_moved(activation, Z, A, dA, RZ, RdA)


def _squared_error_moved(A: Array, Y: Array, RA: Array, setting: float) -> Array:  # noqa: ARG001
    return RA


def _not_moved(A: Array, Y: Array, RA: Array, setting: float) -> Array:  # noqa: ARG001
    return np.zeros_like(RA)


def _huber_moved(A: Array, Y: Array, RA: Array, threshold: float) -> Array:
    return np.where(np.abs(A - Y) <= threshold, RA, 0.0)


def _poisson_moved(Z: Array, Y: Array, RZ: Array, setting: float) -> Array:  # noqa: ARG001
    with np.errstate(under="ignore", over="ignore"):
        return np.exp(Z) * RZ


def _binary_cross_entropy_moved(Z: Array, Y: Array, RZ: Array, setting: float) -> Array:  # noqa: ARG001
    A = sigmoid(Z)
    return A * (1 - A) * RZ


def _softmax_cross_entropy_moved(Z: Array, Y: Array, RZ: Array, smoothing: float) -> Array:
    S = (1 - smoothing) * Y + smoothing / Y.shape[0]
    return S.sum(axis=0) * softmax_backward(losses.softmax(Z), RZ)


LOSS_CURVATURES: dict[str, Callable[[Array, Array, Array, float], Array]] = {
    "squared_error": _squared_error_moved,
    "absolute_error": _not_moved,
    "huber": _huber_moved,
    "quantile": _not_moved,
    "poisson": _poisson_moved,
    "binary_cross_entropy": _binary_cross_entropy_moved,
    "softmax_cross_entropy": _softmax_cross_entropy_moved,
}
"""How the gradient of each sample's loss moves when its argument, ``A`` or ``Z``, does; the last argument is the
loss's setting."""
