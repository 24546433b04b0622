"""The monitor of a training run: what it measures after each epoch, for :mod:`fastmlp.diagnosis` to put into words.

Everything is computed by the oracle, in float64, on at most :data:`ROWS` samples, or :data:`ROWS_FORWARD` where they
only go forward, and changes nothing of the run: the same seed gives the same bits with it and without.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, rows, verify
from fastmlp.diagnosis import SATURATING, Measured
from fastmlp.oracle import losses, network
from fastmlp.oracle.activations import ACTIVATIONS
from fastmlp.oracle.network import Parameters

Array = NDArray[np.float64]

ROWS, ROWS_FORWARD = 256, 4096
"""Samples that are looked at: of the last step, and of all training data; and those that only go forward."""

_PRODUCTS = 4
"""Steps of the power method after each epoch; each goes on from the last one."""

_FLAT = 0.02
"""A slope of this part of the steepest one is next to 0."""

_NEARLY_EVERY = 0.9
"""Of the samples, for which a saturated unit's slope must be so; a rectifier is dead if it is so for all."""

_NEVER_FLAT = {"identity", "leaky_relu"}
"""Their slope is what it is, and small enough nowhere."""


class Step(NamedTuple):
    """The last step of an epoch."""

    rows: NDArray[np.int64] | slice
    before: NDArray[Any]
    """The parameters before it."""


class Monitor:
    """Measures a model in training; ``mlp`` is an :class:`fastmlp.MLP`."""

    def __init__(self, mlp: Any, X: Any, targets: checks.Targets, chosen: NDArray[np.int64] | None) -> None:
        self._mlp, self._X, self._targets = mlp, X, targets
        every = np.arange(len(X)) if chosen is None else chosen
        picked = np.random.default_rng(0).choice(every, min(ROWS_FORWARD, len(every)), replace=False)
        self._some = self._problem(np.sort(picked[:ROWS]), mlp._vector)
        self._many = self._problem(np.sort(picked), mlp._vector)
        self._vector = np.random.default_rng(1).standard_normal(mlp._vector.size)
        self._of_constant = _losses_of_a_constant(self._many)
        self.constant = None if self._of_constant is None else float(_mean(self._many, self._of_constant))
        self.activations = list(mlp._activations[:-1])

    def _problem(self, chosen: NDArray[np.int64] | slice, vector: NDArray[Any]) -> verify.Network:
        """The network with these parameters, on these rows, as the oracle has it."""
        mlp = self._mlp
        dtype = None if mlp._loss == "own" else mlp._dtype
        some = self._targets.of_rows(chosen, dtype)
        net: verify.Network = mlp._as_oracle(rows.converted(self._X, chosen, mlp._dtype), some)
        return net._replace(parameters=mlp._pairs(vector.astype(np.float64)))

    def measure(self, epoch: int, step: Step, learning_rate: float, optimizer: Any) -> Measured:
        """Measure at the end of an epoch."""
        mlp = self._mlp
        with np.errstate(all="ignore"):
            before, after = self._problem(_at_most(step.rows), step.before), mlp._pairs(mlp._vector.astype(np.float64))
            change = [Parameters(W - V, b - v) for (W, b), (V, v) in zip(after, before.parameters, strict=True)]
            loss, first, second, observed = _expansion(before, after, change)
            curvature = self._curvature(before._replace(parameters=after))
            silent, flat, gradients = self._by_layer(self._some._replace(parameters=after))
            gain, gain_error = self._gain(self._many._replace(parameters=after))
            updates = [_update(W, dW) for (W, _), (dW, _) in zip(before.parameters, change, strict=True)]
        return Measured(
            epoch=epoch, loss=loss, first_order=first, second_order=second, observed=observed, curvature=curvature,
            limit=_limit(optimizer, learning_rate), silent=silent, flat=flat, gain=gain, gain_error=gain_error,
            gradients=gradients, updates=updates,
        )  # fmt: skip

    def _curvature(self, net: verify.Network) -> float | None:
        """Some steps of the power method towards the Hessian's eigenvalue of the largest size."""
        if net.loss.name not in losses.LOSSES:
            return None
        value = 0.0
        for _ in range(_PRODUCTS):
            length = float(np.linalg.norm(self._vector))
            if not 0 < length < np.inf:
                self._vector = np.random.default_rng(1).standard_normal(self._vector.size)
                return None
            unit = self._vector / length
            self._vector = network.joined(net.hessian_vector_product(self._mlp._pairs(unit)))
            value = float(unit @ self._vector)
        return value

    def _gain(self, net: verify.Network) -> tuple[float | None, float | None]:
        """By how much the loss, without the penalty, is below that of the best constant; and the standard error."""
        if self._of_constant is None:
            return None, None
        forward_pass = net.forward(net.parameters)
        output = forward_pass.pre_activations[-1] if net.loss.of_pre_activations else forward_pass.activations[-1]
        differences = self._of_constant - net.loss.of(output, net.Y)[0]
        mean = _mean(net, differences)
        return float(mean), float(np.sqrt(_mean(net, (differences - mean) ** 2) / differences.size))

    def _by_layer(self, net: verify.Network) -> tuple[list[float], list[float], list[float]]:
        """By hidden layer, the share of silent units and of flat slopes; by layer, the size of ``dZ``."""
        forward_pass = net.forward(net.parameters)
        silent, flat_by_layer = [], []
        for name, Z, A in zip(
            net.activations[:-1], forward_pass.pre_activations, forward_pass.activations[1:], strict=False
        ):
            slope = np.abs(ACTIVATIONS[name].slope(Z, A))
            limit = 0.0 if name in _NEVER_FLAT else _FLAT * ACTIVATIONS[name].steepest
            flat = (slope < limit).mean(axis=1)
            flat_by_layer.append(float(flat.mean()))
            silent.append(float((flat >= (_NEARLY_EVERY if name in SATURATING else 1.0)).mean()))
        of_layers = net.backward(forward_pass).of_pre_activations
        return silent, flat_by_layer, [float(np.sqrt(np.mean(dZ**2))) for dZ in of_layers]


def _at_most(chosen: NDArray[np.int64] | slice) -> NDArray[np.int64]:
    """Some rows of a large batch, from all of it: it may be sorted."""
    every = np.arange(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen
    return every if len(every) <= ROWS else every[np.linspace(0, len(every) - 1, ROWS).astype(np.int64)]


def _expansion(
    before: verify.Network, after: list[Parameters], change: list[Parameters]
) -> tuple[float, float, float | None, float]:
    """The loss before a step, and its change: to first order, to second order, and observed."""
    forward_pass = before.forward(before.parameters)
    loss = before.loss_of(before.parameters, forward_pass)
    # loss(θ + Δ) = loss(θ) + ⟨dθ, Δ⟩ + ⟨Δ, H Δ⟩ / 2 + O(Δ³)
    along = network.joined(change)
    first = float(network.joined(before.gradients(forward_pass)) @ along)
    second = None
    if before.loss.name in losses.LOSSES:
        second = first + float(along @ network.joined(before.hessian_vector_product(change))) / 2
    return loss, first, second, before.loss_of(after, before.forward(after)) - loss


def _limit(optimizer: Any, learning_rate: float) -> float | None:
    """Curvature up to which gradient descent is stable on a quadratic function; None of other optimizers.

    With momentum ``β`` it is ``2 (1 + β) / rate``; with Nesterov's, that by ``1 + 2 β``.
    """
    if not hasattr(optimizer, "nesterov") or learning_rate <= 0:
        return None
    limit = 2 * (1 + optimizer.momentum) / learning_rate
    return limit / (1 + 2 * optimizer.momentum) if optimizer.nesterov else limit


def _mean(net: verify.Network, of_samples: Array) -> float:
    """Mean over the samples, weighted as the loss is."""
    return float((network.shares(net.X.shape[1], net.sample_weight) * of_samples).sum())


def _losses_of_a_constant(net: verify.Network) -> Array | None:
    """Loss of each sample by the best prediction that is the same for all: about, where no formula has it."""
    if net.loss.name not in losses.LOSSES:
        return None
    shares = network.shares(net.X.shape[1], net.sample_weight)
    mean = (shares * net.Y).sum(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        candidates = {
            "binary_cross_entropy": [np.log(mean) - np.log1p(-mean)],
            "softmax_cross_entropy": [np.log(mean)],
            "poisson": [np.log(mean)],
            "quantile": [np.quantile(net.Y, net.loss.setting or 0.5, axis=1, keepdims=True)],
        }.get(net.loss.name, [mean, np.median(net.Y, axis=1, keepdims=True)])
        outputs = [np.clip(np.broadcast_to(c, net.Y.shape), -50, 50) if net.loss.of_pre_activations
                   else np.broadcast_to(c, net.Y.shape) for c in candidates]  # fmt: skip
        return min((net.loss.of(output, net.Y)[0] for output in outputs), key=lambda found: _mean(net, found))


def _update(W: Array, dW: Array) -> float:
    """Length of a change by that of the weights, or by a third of Glorot's."""
    usual = network.standard_deviation("glorot", W.shape[1], W.shape[0]) * float(np.sqrt(W.size))
    return _length(dW) / max(_length(W), usual / 3)


def _length(array: Array) -> float:
    return float(np.sqrt(np.square(array).sum()))
