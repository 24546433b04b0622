"""The whole network: initialize, forward, backward. The original program, for any number of layers.

Source: Goodfellow, Bengio & Courville, *Deep Learning*, algorithms 6.3 (forward) and 6.4 (backward).

Examples
--------
>>> import numpy as np
>>> from fastmlp.oracle import network
>>> rng = np.random.default_rng(0)
>>> parameters = network.initialize([3, 4, 4, 2], rng)
>>> X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
>>> forward_pass = network.forward(parameters, X)
>>> [A.shape for A in forward_pass.activations]
[(3, 5), (4, 5), (4, 5), (2, 5)]
>>> gradients = network.backward(parameters, forward_pass, Y)
>>> [dW.shape for dW, db in gradients]
[(4, 3), (4, 4), (2, 4)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.oracle import layer, losses
from fastmlp.oracle.losses import Loss
from fastmlp.oracle.optimizers import penalty_gradient

Array = NDArray[np.float64]


class Parameters(NamedTuple):
    """Weights and biases of one layer, or their gradients."""

    weights: Array
    """``W[j,i]``, of shape (outputs, inputs)."""
    biases: Array
    """``b[j]``, of shape (outputs,)."""


def split(vector: Array, layer_sizes: Sequence[int]) -> list[Parameters]:
    """Views of a vector of all parameters: layer by layer, weights row by row, then biases."""
    pairs, start = [], 0
    for inputs, outputs in zip(layer_sizes[:-1], layer_sizes[1:], strict=True):
        middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
        pairs.append(Parameters(vector[start:middle].reshape(outputs, inputs), vector[middle:end]))
        start = end
    return pairs


def joined(pairs: Sequence[Parameters]) -> Array:
    """Undo :func:`split`: all pairs in one vector."""
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


class ForwardPass(NamedTuple):
    """What the forward pass leaves behind for the backward pass, one entry per layer."""

    pre_activations: list[Array]
    """``Z[j,n]`` of each layer."""
    activations: list[Array]
    """``X[i,n]``, then ``A[j,n]`` of each layer: entry ``l`` is what enters layer ``l``, where nothing is dropped."""
    masks: Sequence[Array | None] | None = None
    """Of dropout: ``m[j,n]`` of each hidden layer that has it."""

    def mask(self, layer: int) -> Array | float:
        """By what the activations of a layer are multiplied before they enter the next one."""
        found = None if self.masks is None else self.masks[layer]
        return 1.0 if found is None else found

    def entering(self, layer: int) -> Array:
        """What enters a layer."""
        X = self.activations[layer]
        return X * self.mask(layer - 1) if layer else X


class BackwardPass(NamedTuple):
    """Every gradient that the backward pass computes on its way, one entry per layer."""

    gradients: list[Parameters]
    """``dW[j,i]`` and ``db[j]``, without the penalty's."""
    of_pre_activations: list[Array]
    """``dZ[j,n]``."""
    of_entering: list[Array]
    """``dX[i,n]`` of what enters each layer, after dropout: of the first layer, of the network's input."""


class Penalty(NamedTuple):
    """What is added to the loss: ``l1 Σ |w| + l2 / 2 Σ w²`` over the weights, and over the biases too if wanted."""

    l1: float = 0.0
    l2: float = 0.0
    biases: bool = False


def initialize(
    layer_sizes: Sequence[int], rng: np.random.Generator, weight_scale: float | str = 0.01
) -> list[Parameters]:
    """Normal weights of standard deviation ``weight_scale``, and biases of 0.

    Parameters
    ----------
    layer_sizes : sequence of int
        The width of the input, of each hidden layer, and of the output.
    rng : numpy.random.Generator
        Where the weights are drawn from, layer by layer.
    weight_scale : float or "glorot" or "he"
        A number, or the standard deviation by layer: "glorot" is ``sqrt(2 / (inputs + outputs))`` (Glorot & Bengio
        2010, equation 12), which keeps the variance of signals and of gradients over sigmoid and tanh layers; "he" is
        ``sqrt(2 / inputs)`` (He et al. 2015, equation 10), for relu, which drops half of the signal.

    Returns
    -------
    list of Parameters
        One (weights, biases) pair per layer.
    """
    parameters = []
    for inputs, outputs in zip(layer_sizes[:-1], layer_sizes[1:], strict=True):
        deviation = standard_deviation(weight_scale, inputs, outputs)
        parameters.append(Parameters(deviation * rng.standard_normal((outputs, inputs)), np.zeros(outputs)))
    return parameters


def standard_deviation(weight_scale: float | str, inputs: int, outputs: int) -> float:
    """Standard deviation of the initial weights of one layer: see :func:`initialize`."""
    if weight_scale == "glorot":
        return float(np.sqrt(2 / (inputs + outputs)))
    if weight_scale == "he":
        return float(np.sqrt(2 / inputs))
    return float(weight_scale)


def original_activations(n_layers: int) -> list[str]:
    """The original program's: sigmoid hidden layers and a linear output."""
    return ["sigmoid"] * (n_layers - 1) + ["identity"]


def forward(
    parameters: Sequence[Parameters],
    X: Array,
    *,
    activations: Sequence[str] | None = None,
    masks: Sequence[Array | None] | None = None,
) -> ForwardPass:
    """Forward pass through every layer.

    Parameters
    ----------
    parameters : sequence of (weights, biases)
        One pair per layer.
    X : ndarray of shape (inputs, samples)
        A sample is a column.
    activations : sequence of str, optional
        The activation of each layer; the last may be "softmax". By default :func:`original_activations`.
    masks : sequence of ndarray or None, optional
        Dropout's, for each hidden layer.

    Returns
    -------
    ForwardPass
        Pre-activations and activations, ``X`` first among the latter.
    """
    activations = activations or original_activations(len(parameters))
    forward_pass = ForwardPass([], [X], masks)
    for index, ((W, b), activation) in enumerate(zip(parameters, activations, strict=True)):
        Z = layer.affine(W, b, forward_pass.entering(index))
        A = losses.softmax(Z) if activation == "softmax" else layer.activate(activation, Z)
        forward_pass.pre_activations.append(Z)
        forward_pass.activations.append(A)
    return forward_pass


def shares(n_samples: int, sample_weight: Array | None = None) -> Array:
    """Each sample's share in the mean: ``1/N``, or its weight by the sum of the weights (0 where that is 0)."""
    weight = np.ones(n_samples) if sample_weight is None else sample_weight
    total = weight.sum()
    return weight / total if total > 0 else np.zeros(n_samples)


def shared(s: Array, values: Array) -> Array:
    """Each sample's values times its share; of a sample without one nothing, even where its values are infinite."""
    with np.errstate(invalid="ignore"):
        return np.where(s > 0, s * values, 0.0)


def loss_value(
    forward_pass: ForwardPass,
    targets: Array,
    *,
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
) -> float:
    """The loss: the mean over samples of ``L[n]``, with each sample's share in it, ``s[n]``."""
    chosen = losses.chosen(loss)
    output = forward_pass.pre_activations[-1] if chosen.of_pre_activations else forward_pass.activations[-1]
    L = chosen.of(output, targets)[0]
    s = shares(L.size, sample_weight)
    # loss = Σ_n s[n] L[n]
    return float(shared(s, L).sum())


def output_gradient(
    forward_pass: ForwardPass,
    targets: Array,
    *,
    activation: str = "identity",
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
) -> Array:
    """Gradient ``dZ`` of the loss with respect to the last layer's pre-activations (Nielsen's BP1)."""
    Z, A = forward_pass.pre_activations[-1], forward_pass.activations[-1]
    chosen = losses.chosen(loss)
    s = shares(A.shape[1], sample_weight)
    if chosen.of_pre_activations:
        return shared(s, chosen.of(Z, targets)[1])
    return layer.activate_backward(activation, Z, A, shared(s, chosen.of(A, targets)[1]))


def backward(
    parameters: Sequence[Parameters],
    forward_pass: ForwardPass,
    targets: Array,
    *,
    activations: Sequence[str] | None = None,
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
    penalty: Penalty | None = None,
) -> list[Parameters]:
    """Backward pass through every layer, the last one first.

    Parameters
    ----------
    parameters : sequence of (weights, biases)
        One pair per layer.
    forward_pass : ForwardPass
        Of the same parameters and activations.
    targets : ndarray of shape (outputs, samples)
        ``Y[j,n]``.
    activations : sequence of str, optional
        As in :func:`forward`.
    loss : str or Loss
        A name in :data:`fastmlp.oracle.losses.LOSSES`, or an entry of it with another setting.
    sample_weight : ndarray of shape (samples,), optional
        The mean over samples is then weighted.
    penalty : Penalty, optional
        What is added to the loss for large parameters.

    Returns
    -------
    list of Parameters
        The gradients ``(dW, db)`` of the loss, in the shape of the parameters.
    """
    activations = activations or original_activations(len(parameters))
    dZ = output_gradient(forward_pass, targets, activation=activations[-1], loss=loss, sample_weight=sample_weight)
    gradients = backward_from(parameters, forward_pass, dZ, activations=activations).gradients
    return gradients if penalty is None else add_penalty_gradients(parameters, gradients, penalty)


def backward_from(
    parameters: Sequence[Parameters], forward_pass: ForwardPass, dZ: Array, *, activations: Sequence[str]
) -> BackwardPass:
    """Backward pass from the gradient ``dZ`` of the last layer, with everything that it computes on its way."""
    backward_pass = BackwardPass([], [], [])
    for index in reversed(range(len(parameters))):
        # the forward lines of this layer were:  Z = affine(W, b, X);  A = activate(Z)
        W, X = parameters[index][0], forward_pass.entering(index)
        dX, dW, db = layer.affine_backward(W, X, dZ)
        backward_pass.gradients.insert(0, Parameters(dW, db))
        backward_pass.of_pre_activations.insert(0, dZ)
        backward_pass.of_entering.insert(0, dX)
        if index > 0:
            # what enters this layer is the activation A of the one below, so dX is that layer's dA (times its mask)
            below = index - 1
            Z, A = forward_pass.pre_activations[below], forward_pass.activations[index]
            dZ = layer.activate_backward(activations[below], Z, A, dX * forward_pass.mask(below))
    return backward_pass


def penalty_value(parameters: Sequence[Parameters], penalty: Penalty) -> float:
    """What is added to the loss: Goodfellow, Bengio & Courville, section 7.1."""
    penalized = [part for W, b in parameters for part in ([W, b] if penalty.biases else [W])]
    return float(sum(penalty.l1 * np.abs(w).sum() + penalty.l2 / 2 * (w**2).sum() for w in penalized))


def add_penalty_gradients(
    parameters: Sequence[Parameters], gradients: Sequence[Parameters], penalty: Penalty
) -> list[Parameters]:
    """Gradients of the loss with the penalty: equations 7.5 and 7.20 of the same; 0 at the kink of ``|w|``."""

    def of(w: Array) -> Array:
        return penalty_gradient(w, penalty.l1, penalty.l2)

    return [
        Parameters(dW + of(W), db + of(b) if penalty.biases else db)
        for (W, b), (dW, db) in zip(parameters, gradients, strict=True)
    ]
