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
from fastmlp.oracle.activations import normal_density, sigmoid
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
# the second derivative


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
    for index, ((W, b), (V, v)) in enumerate(zip(parameters, direction, strict=True)):
        # Z = affine(W, b, X) has two factors, and each moves in its turn
        RXs.append(RX)
        RZ = layer.affine(V, v, forward_pass.entering(index)) + layer.affine(W, np.zeros_like(b), RX)
        RZs.append(RZ)
        Z, A = forward_pass.pre_activations[index], forward_pass.activations[index + 1]
        if index + 1 < len(parameters):
            # A = activate(Z) moves by its slope, and what is left of it by the mask
            RX = forward_pass.mask(index) * layer.activate_backward(activations[index], Z, A, RZ)
    dZ, RdZ = _output_gradient_moved(forward_pass, RZs[-1], targets, activations[-1], loss, sample_weight)
    products: list[Parameters] = []
    for index in reversed(range(len(parameters))):
        W, V, entering = parameters[index][0], direction[index][0], forward_pass.entering(index)
        dX = layer.affine_backward(W, entering, dZ)[0]
        # dX, dW, db = affine_backward(W, X, dZ) have two factors too
        RdX, RdW, Rdb = layer.affine_backward(W, entering, RdZ)
        of_W, of_X, _ = layer.affine_backward(V, RXs[index], dZ)
        products.insert(0, Parameters(RdW + of_X, Rdb))
        if index > 0:
            below = index - 1
            name, mask = activations[below], forward_pass.mask(below)
            Z, A = forward_pass.pre_activations[below], forward_pass.activations[index]
            RdZ = layer.activate_backward(name, Z, A, mask * (RdX + of_W))
            # the slope moves by the curvature
            RdZ = RdZ + CURVATURES[name](Z, A) * RZs[below] * (mask * dX)
            dZ = layer.activate_backward(name, Z, A, mask * dX)
    if penalty is None:
        return products
    return [
        Parameters(HW + penalty.l2 * V, Hb + penalty.l2 * v if penalty.biases else Hb)
        for (HW, Hb), (V, v) in zip(products, direction, strict=True)
    ]


def _output_gradient_moved(
    forward_pass: network.ForwardPass,
    RZ: Array,
    targets: Array,
    activation: str,
    loss: str | Loss,
    sample_weight: Array | None,
) -> tuple[Array, Array]:
    """``dZ`` of the last layer, and how it moves with ``Z``."""
    chosen = losses.chosen(loss)
    Z, A = forward_pass.pre_activations[-1], forward_pass.activations[-1]
    s = network.shares(A.shape[1], sample_weight)
    dZ = network.output_gradient(
        forward_pass, targets, activation=activation, loss=chosen, sample_weight=sample_weight
    )
    if chosen.of_pre_activations:
        return dZ, s * LOSS_CURVATURES[chosen.name](Z, targets, RZ, chosen.setting or 0.0)
    RA = layer.activate_backward(activation, Z, A, RZ)
    dA, RdA = s * chosen.of(A, targets)[1], s * LOSS_CURVATURES[chosen.name](A, targets, RA, chosen.setting or 0.0)
    # dZ = activate_backward(Z, A, dA): the gradient moves, and the slope
    return dZ, layer.activate_backward(activation, Z, A, RdA) + CURVATURES[activation](Z, A) * RZ * dA


def _sigmoid_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    return a * (1 - a) * (1 - 2 * a)


def _tanh_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    return -2 * a * (1 - a) * (1 + a)


def _elu_curvature(z: Array, a: Array) -> Array:
    return np.where(z > 0, 0.0, 1 + np.minimum(a, 0.0))


def _softplus_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    s = sigmoid(z)
    return s * (1 - s)


def _silu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    s = sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _gelu_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    return normal_density(z) * (2 - z * z)


def _exp_curvature(z: Array, a: Array) -> Array:  # noqa: ARG001
    return a


def _none(z: Array, a: Array) -> Array:  # noqa: ARG001
    return np.zeros_like(z)


CURVATURES: dict[str, Callable[[Array, Array], Array]] = {
    "identity": _none,
    "sigmoid": _sigmoid_curvature,
    "tanh": _tanh_curvature,
    "relu": _none,
    "leaky_relu": _none,
    "elu": _elu_curvature,
    "softplus": _softplus_curvature,
    "silu": _silu_curvature,
    "gelu": _gelu_curvature,
    "exp": _exp_curvature,
}
"""``f''(z)`` of each activation, from ``z`` and ``a = f(z)``; at a kink, 0."""


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
