"""From what was measured after each epoch to words: what is wrong with a training run, and what to try.

A rule looks at what :mod:`fastmlp.monitor` measured and names an illness with its epoch, layer, quantity, meaning, and
advice. It waits until the illness has lasted for some epochs: a training run that is well is noisy too.

References
----------
.. [1] X. Glorot, Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010
   (saturation, vanishing gradients).
.. [2] Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, *Efficient BackProp*, 1998, section 5 (the step and the curvature).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_LASTING = 3
"""Epochs that an illness must have lasted; of a shorter run, all of them."""

_SATURATED_SHARE, _DEAD_SHARE, _FLAT_SHARE = 1 / 3, 1 / 2, 0.7
"""Of a layer's units that are saturated, of those that are dead (a third is, in deep networks that are well), and of
all slopes of saturating units over all samples."""

SATURATING = {"sigmoid", "tanh"}
"""Activations that are flat at both ends."""

_LEARNED = 0.9
"""Part of the loss of the best constant that has been learned where saturation is but certainty."""

_VANISHING, _EXPLODING = 1e-4, 50.0
"""Gradient that reaches the first layers, by that of the last one."""

_HASTY, _IDLE = 0.3, 1e-5
"""Change of a layer's weights in one step, as a part of their length: too much, and too little."""

_PLATEAU_EPOCHS, _PLATEAU_GAIN = 10, 0.01
"""A plateau: in so many epochs, the loss has fallen by less than this part of itself."""

_OVERFITTED_EPOCHS, _OVERFITTED_RISE = 5, 1.1
"""Overfitting: so long after the best epoch, the validation loss is so many times what it was."""


@dataclass(frozen=True)
class Measured:
    """What was measured at the end of an epoch: of its last step, and on some rows of the training data.

    It is all of the whole network: where units are dropped in training, none is here.
    """

    epoch: int
    """From 1."""
    loss: float
    """Loss of the last step's samples before it, with the penalty."""
    first_order: float
    """Change of that loss by the step, as the gradient predicts it: ``⟨dθ, Δθ⟩``."""
    second_order: float | None
    """The same with the curvature: ``⟨dθ, Δθ⟩ + ⟨Δθ, H Δθ⟩ / 2``; None with a loss of one's own."""
    observed: float
    """What the change was."""
    curvature: float | None
    """An estimate of the Hessian's eigenvalue of the largest size on those samples: a few steps of the power method
    after each epoch, each going on from the last, so that it begins too small. Below 0 where the loss bends down.
    None as above."""
    limit: float | None
    """The largest curvature at which plain gradient descent with this learning rate does not grow; None of other
    optimizers."""
    silent: list[float]
    """By hidden layer: share of the units whose slope is next to 0 for nearly every sample."""
    flat: list[float]
    """By hidden layer: share of all slopes, of units and samples, that are next to 0."""
    gain: float | None
    """By how much the loss is lower than that of the best constant prediction, without the penalty; None as above."""
    gain_error: float | None
    """Its standard error."""
    gradients: list[float]
    """By layer: size of ``dZ``, the root of its mean square."""
    updates: list[float]
    """By layer: length of the last step's change of the weights, by the length of the weights, or by a third of what
    Glorot's initial weights have, if that is more."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    illness: str
    """Its name, such as "dead rectifiers"."""
    epoch: int
    """From 1: when it was first there of late."""
    layer: int | None
    """From 1; None is the whole network."""
    quantity: str
    """What was measured, in words, with the number."""
    meaning: str
    """What it means."""
    advice: str
    """What to try."""

    def __str__(self) -> str:
        where = f"epoch {self.epoch}" + (f", layer {self.layer}" if self.layer else "")
        return f"{self.illness} ({where}): {self.quantity}. {self.meaning}. Try: {self.advice}."


class Watched(NamedTuple):
    """What the rules look at."""

    measured: list[Measured]
    loss: list[float]
    validation_loss: list[float]
    activations: list[str]
    """Of the hidden layers."""
    constant: float | None
    """The loss of the best constant prediction; None where it is not known."""
    stopped: str
    restores: bool = False
    """Whether the best parameters are put back at the end."""
    learning_rate: Sequence[float] = ()
    """At the end of each epoch."""

    def since(self, holds: Sequence[bool]) -> int | None:
        """The epoch since which something has held to the end, of what was measured; None if that is too short."""
        found = _lasting(holds)
        return None if found is None else self.measured[found - 1].epoch


@dataclass
class Diagnosis:
    """What the monitor of a training run found; ``print`` it."""

    findings: list[Finding] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def illnesses(self) -> list[str]:
        """The names of what was found."""
        return list(dict.fromkeys(finding.illness for finding in self.findings))

    def __str__(self) -> str:
        lines = [*self._table(), ""]
        if self.ok:
            return "\n".join([*lines, f"Nothing wrong was found in {len(self.measured)} epochs."])
        for finding in self.findings:
            lines += textwrap.wrap(str(finding), _WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    def _table(self) -> Iterator[str]:
        """Predicted and observed change by each epoch's last step; the middle of a long run is left out."""
        count = len(self.measured)
        yield "change of the loss by the last step of each epoch, predicted and observed"
        yield f"{'epoch':>6}{'loss before':>14}{'1st order':>13}{'2nd order':>13}{'observed':>13}{'curvature':>12}"
        shown = range(count) if count <= _SHOWN else [*range(_SHOWN // 2), -1, *range(count - _SHOWN // 2, count)]
        for k in shown:
            if k < 0:
                yield f"{'…':>6}"
                continue
            m = self.measured[k]
            second = "" if m.second_order is None else f"{m.second_order:.3e}"
            curvature = "" if m.curvature is None else f"{m.curvature:.3g}"
            yield (f"{m.epoch:>6}{m.loss:>14.6g}{m.first_order:>13.3e}{second:>13}{m.observed:>13.3e}{curvature:>12}")


_SHOWN, _WIDTH = 10, 88


def diagnose(watched: Watched) -> Diagnosis:
    """Name what is wrong with a run."""
    findings = [finding for rule in _RULES for finding in rule(watched)]
    if any(finding.illness == "diverging" for finding in findings):  # the rest follows from it
        findings = [finding for finding in findings if finding.illness in _OF_DIVERGENCE]
    return Diagnosis(findings, watched.measured)


_OF_DIVERGENCE = {"diverging", "step too long", "hasty updates", "exploding gradient"}


def _lasting(holds: Sequence[bool]) -> int | None:
    """The epoch, from 1, since which something has held to the end; None if that is not long enough."""
    since = len(holds)
    while since > 0 and holds[since - 1]:
        since -= 1
    return since + 1 if holds and len(holds) - since >= min(_LASTING, len(holds)) else None


def _ever_lasted(holds: Sequence[bool]) -> int | None:
    """The first epoch, from 1, of a stretch that was long enough, whether it has ended or not."""
    length = 0
    for k, holds_here in enumerate(holds):
        length = length + 1 if holds_here else 0
        if length >= min(_LASTING, len(holds)):
            return k + 2 - length
    return None


# ------------------------------------------------------------------------------------------------------------------
# the rules


def _diverging(run: Watched) -> Iterator[Finding]:
    advice = "a lower learning rate, max_gradient_norm in the optimizer, data scaled to about 1"
    if "not finite" in run.stopped:
        yield Finding(
            "diverging", len(run.loss) + 1, None, run.stopped,
            "The numbers have grown beyond all bounds", advice,
        )  # fmt: skip
        return
    if len(run.loss) < 2:
        return
    best = [min(run.loss[: k + 1]) for k in range(len(run.loss))]
    # a loss may be negative: what has been lost is compared with what could be learned
    first = run.loss[0]
    floor = max(0.1 * abs(first), 0.0 if run.constant is None else abs(first - run.constant))
    worse = [loss - low > 0.5 * max(first - low, floor) for loss, low in zip(run.loss, best, strict=True)]
    since = _lasting(worse)
    if since is not None:
        yield Finding(
            "diverging", since, None, f"the training loss is {run.loss[-1]:.3g}, and was {best[-1]:.3g}",
            "Training undoes what it has learned", advice,
        )  # fmt: skip


def _step_too_long(run: Watched) -> Iterator[Finding]:
    """The last step made its own samples worse, against the gradient; or it is far beyond the curvature's limit."""
    if not run.measured:
        return
    first = run.loss[0]
    over = [
        m.first_order < 0 and m.observed > 0.1 * abs(m.loss) and m.observed > 0.02 * abs(first) for m in run.measured
    ]
    beyond = [m.curvature is not None and m.limit is not None and m.curvature > 3 * m.limit for m in run.measured]
    last = len(over) - 1
    recent = [k for k in range(len(over)) if over[k] or beyond[k]]
    if len(recent) < min(_LASTING, len(over)):
        return
    # of any five epochs in a row, three
    for k in range(len(recent) - min(_LASTING, len(over)) + 1):
        if recent[k + min(_LASTING, len(over)) - 1] - recent[k] < 5:
            last = recent[k]
            break
    else:
        return
    m = run.measured[last]
    quantity = f"the epoch's last step changed the loss of its own samples by {m.observed:+.2e}, where the gradient"
    quantity += f" predicted {m.first_order:+.2e}"
    advice = "a lower learning rate"
    if m.second_order is not None:
        quantity += f", and with the curvature {m.second_order:+.2e}"
    if m.limit is not None and m.curvature is not None and m.curvature > 0:
        quantity += f"; the largest curvature is {m.curvature:.3g}, and this rate is stable up to {m.limit:.3g}"
        if m.curvature > m.limit:
            advice += f", below {m.limit / m.curvature:.2g} times the present one"
    yield Finding(
        "step too long", m.epoch, None, quantity,
        "The step is longer than the range in which the gradient describes the loss", f"{advice}; a warm-up",
    )  # fmt: skip


def _steps_too_short(run: Watched) -> Iterator[Finding]:
    idle = [max(m.updates) < _IDLE for m in run.measured]
    since = run.since(idle)
    if since is None or len(run.loss) < 2 or run.loss[0] - run.loss[-1] > 0.05 * abs(run.loss[0]):
        return
    largest = max(run.measured[-1].updates)
    if largest == 0 and run.learning_rate and run.learning_rate[-1] == 0:
        yield Finding(
            "no learning rate", since, None, "no weight changes: the learning rate is 0",
            "The schedule has come to its end; its steps are counted on where fit is called again",
            "a longer schedule, or one with a final rate above 0",
        )  # fmt: skip
        return
    gradients = run.measured[-1].gradients
    if largest == 0 and (run.loss[-1] == 0 or gradients[-1] == 0):
        return  # nothing is left to learn
    if largest == 0 and min(gradients) == 0:
        yield Finding(
            "no gradient", since, None, "no weight changes at all",
            "Nothing arrives at any weight: weights that are all 0 stay 0, and so do those before units that are dead",
            "other initial weights (weight_scale='glorot')",
        )  # fmt: skip
        return
    yield Finding(
        "steps too short", since, None, f"a step changes the weights by {largest:.1e} of their length, and"
        f" {len(run.loss)} epochs have changed the loss from {run.loss[0]:.4g} to {run.loss[-1]:.4g}",
        "At this pace nothing is learned", "a learning rate ten or a hundred times as high",
    )  # fmt: skip


def _silent_units(run: Watched) -> Iterator[Finding]:
    for layer, name in enumerate(run.activations):
        if name in SATURATING:
            yield from _saturated(run, layer, name)
        else:
            yield from _dead(run, layer, name)


def _saturated(run: Watched, layer: int, name: str) -> Iterator[Finding]:
    since = run.since([
        (m.silent[layer] >= _SATURATED_SHARE or m.flat[layer] >= _FLAT_SHARE) and not _is_certain(run, m)
        for m in run.measured
    ])  # fmt: skip
    if since is None:
        return
    last = run.measured[-1]
    yield Finding(
        "saturated units", since, layer + 1,
        f"{last.silent[layer]:.0%} of the {name} units have a slope next to 0 for nearly every sample looked at, and"
        f" {last.flat[layer]:.0%} of all slopes are so",
        "They pass next to no gradient on, and hardly learn",
        "smaller initial weights (weight_scale='glorot'), inputs scaled to about 1, a lower learning rate",
    )  # fmt: skip


def _is_certain(run: Watched, m: Measured) -> bool:
    """Whether the network is so good that its units may well be at their ends."""
    return m.gain is not None and run.constant is not None and run.constant > 0 and m.gain > _LEARNED * run.constant


def _dead(run: Watched, layer: int, name: str) -> Iterator[Finding]:
    since = run.since([m.silent[layer] >= _DEAD_SHARE for m in run.measured])
    if since is None:
        return
    share = run.measured[-1].silent[layer]
    if name == "relu":
        yield Finding(
            "dead rectifiers", since, layer + 1,
            f"{share:.0%} of the relu units are switched off for every sample looked at",
            "They pass no gradient on, and hardly ever come back",
            "a lower learning rate, weight_scale='he', hidden_activation='leaky_relu', inputs scaled to about 1",
        )  # fmt: skip
    else:
        yield Finding(
            "idle units", since, layer + 1,
            f"{share:.0%} of the {name} units have a slope next to 0 for every sample looked at",
            "They pass next to no gradient on, and hardly learn",
            "a lower learning rate, smaller initial weights, inputs scaled to about 1",
        )  # fmt: skip


def _gradients_by_layer(run: Watched) -> Iterator[Finding]:
    """From the last layer down to the first: a gradient that has become tiny, or huge."""
    n_layers = len(run.measured[0].gradients) if run.measured else 0
    ratios = [
        [_ratio(m.gradients[layer], m.gradients[-1]) for m in run.measured] for layer in range(max(n_layers - 1, 0))
    ]
    for layer in reversed(range(len(ratios))):
        # nothing at all arrives where the units above are dead, which is told of these
        since = run.since([0 < ratio < _VANISHING for ratio in ratios[layer]])
        if since is not None:
            yield Finding(
                "vanishing gradient", since, layer + 1,
                f"the gradient that arrives here is {ratios[layer][-1]:.0e} of the last layer's",
                "This layer, and those before it, hardly learn",
                "hidden_activation='relu' or 'tanh' instead of 'sigmoid', weight_scale='glorot' or 'he', fewer layers",
            )  # fmt: skip
            break
    for layer in range(len(ratios)):
        since = run.since([ratio > _EXPLODING for ratio in ratios[layer]])
        if since is not None:
            yield Finding(
                "exploding gradient", since, layer + 1,
                f"the gradient that arrives here is {ratios[layer][-1]:.0f} times the last layer's",
                "Each layer on the way back makes it larger, and a step that suits one layer is too long for another",
                "smaller initial weights (weight_scale='glorot' or 'he'), max_gradient_norm in the optimizer",
            )  # fmt: skip
            break


def _ratio(size: float, of_last: float) -> float:
    """Of nothing at all, nothing is said."""
    return size / of_last if of_last > 0 else 1.0


def _hasty_updates(run: Watched) -> Iterator[Finding]:
    for layer in range(len(run.measured[0].updates) if run.measured else 0):
        updates = [m.updates[layer] for m in run.measured]
        since = _ever_lasted([update > _HASTY for update in updates])
        if since is not None:
            yield Finding(
                "hasty updates", run.measured[since - 1].epoch, layer + 1,
                f"the epoch's last step changed the weights by {updates[since - 1]:.0%} of their length",
                "A step of a hundredth or a thousandth is usual: at this rate these weights do not settle",
                "a lower learning rate, a warm-up",
            )  # fmt: skip


def _plateau(run: Watched) -> Iterator[Finding]:
    """The loss stays where a constant prediction would be: a run that has converged lies lower."""
    if len(run.loss) <= _PLATEAU_EPOCHS:
        return
    level = run.loss[-1]
    if run.loss[-_PLATEAU_EPOCHS - 1] - min(run.loss[-_PLATEAU_EPOCHS:]) > _PLATEAU_GAIN * abs(level):
        return
    quantity = f"the loss has been at {level:.4g} for {_PLATEAU_EPOCHS} epochs"
    gains = [(m.gain, m.gain_error) for m in run.measured if m.gain is not None and m.gain_error is not None]
    if gains:
        gain, error = gains[-1]
        if _lasting([gain <= 2 * error for gain, error in gains]) is None:
            return
        quantity += f"; the best constant prediction is worse by {gain:.2g}, give or take {error:.2g}"
    elif run.loss[0] - level > 0.05 * abs(run.loss[0]):
        return
    yield Finding(
        "plateau", len(run.loss) - _PLATEAU_EPOCHS + 1, None, quantity,
        "The predictions say nothing of the target: the network is stuck, or the input says nothing of it",
        "a higher learning rate, other initial weights, another activation; and whether X and Y belong together",
    )  # fmt: skip


def _overfitting(run: Watched) -> Iterator[Finding]:
    held = run.validation_loss
    if len(held) <= _OVERFITTED_EPOCHS or run.restores:
        return
    best = min(range(len(held)), key=held.__getitem__)
    recent = min(held[-_LASTING:])
    # of what the validation loss had fallen by, or of itself
    risen = recent - held[best] > (_OVERFITTED_RISE - 1) * max(held[0] - held[best], abs(held[best]))
    falls = run.loss[-1] < run.loss[best]
    if len(held) - 1 - best < _OVERFITTED_EPOCHS or not risen or not falls:
        return
    yield Finding(
        "overfitting", best + 1, None,
        f"since this epoch the validation loss has risen from {held[best]:.3g} to {held[-1]:.3g}, while the training"
        f" loss fell from {run.loss[best]:.3g} to {run.loss[-1]:.3g}",
        "What is learned now is true of the training samples alone",
        "early_stopping=True, more data, a penalty, dropout, fewer units",
    )  # fmt: skip


_RULES: list[Callable[[Watched], Iterator[Finding]]] = [
    _diverging, _step_too_long, _hasty_updates, _steps_too_short, _silent_units, _gradients_by_layer, _plateau,
    _overfitting,
]  # fmt: skip
