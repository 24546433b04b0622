"""Each step of the forward and the backward pass: its formula, its matrices and their reason, its numbers, its proof.

The formulas are the index lines that stand above the oracle's code (:mod:`fastmlp.formulas`), with the numbers of the
layers. The numbers are what the kernels computed. Each gradient is proved where it stands, by central differences in
just that quantity: what enters a later layer is the input of a smaller network.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import formulas, typeset, verify
from fastmlp.oracle import layer as oracle_layer
from fastmlp.oracle import losses, network
from fastmlp.oracle.activations import OUTPUT_ACTIVATIONS
from fastmlp.oracle.network import BackwardPass, Parameters

Array = NDArray[np.float64]

FORWARD, LOSS, BACKWARD = "forward", "loss", "backward"

_WORK = 20_000_000_000
"""Multiplications that all proofs together may take: some ten seconds."""

_PASSES = 14
"""Forward passes for each entry that is proved."""

_OF_A_LAYER, _OF_A_UNIT = 150_000, 50
"""What a layer of a pass costs by itself, and each unit of each sample, in multiplications."""

_WIDE = 48
"""A formula that is wider than this does not make the others' column wider."""

_MOST_LAYERS = 5
"""Deeper networks are folded where they are printed."""


class Computed(NamedTuple):
    """What an implementation computed, samples as columns, and the precision it computed in."""

    activations: list[Array]
    """``X``, then ``A[j,n]`` of each layer."""
    backward_pass: BackwardPass
    """Of ``of_entering``, nothing is looked at. The gradients are with the penalty's."""
    dtype: np.dtype
    loss: float | None = None
    """With the penalty."""


@dataclass(frozen=True)
class Step:
    """One line of the forward or the backward pass."""

    part: str
    """"forward", "loss" or "backward"."""
    layer: int
    """From 1; the loss belongs to the last one."""
    name: str
    """What is computed, such as ``dW2``."""
    what: str
    """The same in words."""
    formula: str
    """In letters: ``dW2[j,i] = Σ_n dZ2[j,n] A1[i,n]``."""
    matrices: str
    """In matrices: ``dW2 = dZ2 A1ᵀ``; nothing where the formula is no product of matrices."""
    shapes: str
    """With the numbers of this network: ``(4×4) = (4×5)·(4×5)ᵀ``."""
    reason: str
    """Why it is so."""
    values: Array
    """What came out, with one axis for each letter of the left side."""
    proof: verify.Row | None = None
    """A gradient compared with central differences; what the kernels computed forward, with the oracle."""

    @property
    def largest(self) -> float:
        """Size of the largest entry."""
        return float(np.abs(self.values).max(initial=0.0))


class Explanation:
    """The steps of a network's forward and backward pass on some data; ``print`` it, or show it in a notebook."""

    def __init__(
        self, title: str, layer_sizes: Sequence[int], activations: Sequence[str], dtype: np.dtype, steps: list[Step]
    ) -> None:
        self.title = title
        self.dtype = dtype
        self.layer_sizes = list(layer_sizes)
        self.activations = list(activations)
        self.steps = steps

    def __getitem__(self, name: str) -> Step:
        """Return the step that computes this, such as ``"dW2"``."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(f"there is no step {name!r}; there are {', '.join(step.name for step in self.steps)}")

    @property
    def ok(self) -> bool:
        """Whether everything that was proved is right."""
        return all(step.proof is None or step.proof.ok for step in self.steps)

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch``, with the wrong steps as its words, if anything is wrong."""
        wrong = [step for step in self.steps if step.proof is not None and not step.proof.ok]
        if wrong:
            raise verify.GradientMismatch("\n".join([self.title, *(_proof_in_words(step) for step in wrong)]))

    def text(self, *, fold: bool = True) -> str:
        """Write the table as text: each step on a line of its own, with the reason for it below.

        Parameters
        ----------
        fold : bool
            Whether the middle layers of a deep network are left out.
        """
        shown = list(self._shown(fold=fold))
        cells = [_cells(step) for step in shown if isinstance(step, Step)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        widths[0] = max(len(row[0]) for row in cells if len(row[0]) <= _WIDE)
        lines, part = [self.title], ""
        for step in shown:
            if isinstance(step, str):
                lines.append(f"  … {step} …")
                continue
            if step.part != part:
                part = step.part
                lines += ["", part]
            row = _cells(step)
            if len(row[0]) > widths[0]:  # a line of its own
                lines.append("  " + row[0])
                row[0] = ""
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  " + "  ".join(padded).rstrip())
            lines += textwrap.wrap(step.reason, 110, initial_indent="      ", subsequent_indent="      ")
        return "\n".join([*lines, "", *_RULES, self._verdict()])

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """The same for a notebook, with typeset formulas and a drawing of the network."""
        drawing = typeset.drawing(self.layer_sizes, self.activations)
        rows, part = [], ""
        for step in self._shown(fold=True):
            if isinstance(step, str):
                rows.append(typeset.row_across(f"… {step} …"))
                continue
            if step.part != part:
                part = step.part
                rows.append(typeset.row_across(part, is_heading=True))
            proof = "" if step.proof is None else _proof(step.proof)
            cells = [
                typeset.formula(step.formula), typeset.formula(step.matrices), typeset.escaped(step.shapes),
                f"{step.largest:.3g}", typeset.escaped(proof),
            ]  # fmt: skip
            rows.append(typeset.row(cells, step.reason, is_wrong=step.proof is not None and not step.proof.ok))
        header = ["in letters", "in matrices", "shapes", "largest", "proof"]
        return typeset.page(self.title, drawing, header, rows, [*_RULES, self._verdict()])

    def _shown(self, *, fold: bool) -> Iterator[Step | str]:
        """The steps, and a few words in the place of those that are folded away."""
        n_layers = len(self.layer_sizes) - 1
        hidden = range(3, n_layers) if fold and n_layers > _MOST_LAYERS else range(0)
        was_folded = ""
        for step in self.steps:
            if step.layer in hidden and step.part != LOSS:
                if was_folded != step.part:
                    was_folded = step.part
                    yield f"layers {hidden[0]} to {hidden[-1]} in the same way"
                continue
            yield step

    def _verdict(self) -> str:
        proofs = [step.proof for step in self.steps if step.proof is not None]
        if not proofs:
            return "Nothing was proved: verify=False."
        wrong = [step.name for step in self.steps if step.proof is not None and not step.proof.ok]
        if wrong:
            rest = f"; then, perhaps because of it: {', '.join(wrong[1:])}" if wrong[1:] else ""
            return f"WRONG first: {wrong[0]}{rest}. {_HERE} A wrong dZ may have come by a wrong dA."
        unproved = [step.name for step in self.steps if step.proof is not None and not step.proof.proved]
        hold = f"All {len(proofs)} proofs hold."
        if unproved:
            left = ", ".join(unproved)
            hold = f"{len(proofs) - len(unproved)} proofs hold; at a kink, nothing could be compared: {left}."
        return (
            f"{hold} They compare what the {self.dtype} kernels computed: forward with the oracle, backward with"
            f" central differences of the loss. {_HERE} The error is relative to the largest entry; the entry named"
            " is the worst for what it may be off."
        )


_HERE = "(A, loss, dZ, dW and db are the kernels'; the rest is computed here by its formula.)"

_ENTRIES, _EVERY = "central differences, ", "every entry"

_RULES = [
    (
        "Rule for sums: in the operand's term put the gradient of the left side in the operand's place, and sum the"
        " letters that the operand does not have."
    ),
    "Rule for elements: multiply by the slope.",
]


def _cells(step: Step) -> list[str]:
    proof = "" if step.proof is None else _proof(step.proof)
    return [step.formula, step.matrices, step.shapes, f"largest {step.largest:.3g}", proof]


def _proof(row: verify.Row) -> str:
    place = "" if row.index is None else f" at [{','.join(map(str, row.index))}]"
    note = f" ({row.note})" if row.note else ""
    some = "" if _EVERY in row.against or _ENTRIES not in row.against else f", {row.against.removeprefix(_ENTRIES)}"
    return f"{row.word}: off by {row.relative_error:.0e}{place}{some}{note}"


def _proof_in_words(step: Step) -> str:
    row = step.proof
    assert row is not None  # noqa: S101 (for the type checker: only steps with a proof can be wrong)
    return f"{step.formula} ({step.what}) {_proof(row)}; expected {row.expected:.6e}, found {row.found:.6e}"


# ------------------------------------------------------------------------------------------------------------------
# the steps, in their order


def explain(net: verify.Network, computed: Computed | None = None, *, proves: bool = True) -> Explanation:
    """Explain a network's forward and backward pass.

    Parameters
    ----------
    net : fastmlp.verify.Network
        Without masks: dropout is not explained.
    computed : Computed, optional
        The numbers that are shown and proved; by default the oracle's own.
    proves : bool
        False leaves out the proofs.

    Returns
    -------
    Explanation
    """
    writer = _Writer(net, computed, proves)
    sizes = [net.X.shape[0], *(len(b) for _, b in net.parameters)]
    count = net.X.shape[1]
    samples = "sample" if count == 1 else "samples"
    title = (
        f"{'-'.join(map(str, sizes))} ({', '.join(net.activations)}; {net.loss.name}) on {count} {samples}."
        f" n counts samples, i inputs and j outputs of a layer. A sample is a column here: X is"
        f" ({sizes[0]}×{count}), the array of rows turned."
    )
    with np.errstate(all="ignore"):
        return Explanation(title, sizes, net.activations, writer.dtype, list(writer.steps()))


class _Writer:
    """Writes the steps of one network on its data."""

    def __init__(self, net: verify.Network, computed: Computed | None, proves: bool) -> None:
        self.net, self.proves = net, proves
        self.n_layers = len(net.parameters)
        with np.errstate(all="ignore"):
            self.exact = net.forward(net.parameters)
            found = computed or self._by_oracle()
        self.computed = found
        self.dtype = found.dtype

    def _by_oracle(self) -> Computed:
        backward_pass = self.net.backward(self.exact)
        with_penalty = backward_pass._replace(gradients=self.net.gradients(self.exact))
        return Computed(self.exact.activations, with_penalty, np.dtype(np.float64))

    @cached_property
    def rounding(self) -> BackwardPass:
        """How far each gradient may be off by rounding."""
        return verify.rounding_bounds(self.net, self.exact, self.dtype)

    def steps(self) -> Iterator[Step]:
        """All of them, from top to bottom."""
        for layer in range(1, self.n_layers + 1):
            yield from self._forward_steps(layer)
        yield from self._loss_steps()
        yield from self._output_steps()
        for layer in range(self.n_layers, 0, -1):
            yield from self._backward_steps(layer)

    # -- forward

    def _forward_steps(self, layer: int) -> Iterator[Step]:
        b = self.net.parameters[layer - 1].biases
        Z, A = self.exact.pre_activations[layer - 1], self.computed.activations[layer]
        name = self.net.activations[layer - 1]
        unit = "unit" if len(b) == 1 else "units"
        yield self._step(
            FORWARD, layer, formulas.index_lines(oracle_layer.affine)["Z"], f"pre-activations of layer {layer}",
            Z, before=f"layer {layer}, {len(b)} {unit}",
        )  # fmt: skip
        if name == "softmax":
            line, reason = formulas.index_lines(losses.softmax)["A"], "softmax: k counts the outputs once more"
        else:
            line = formulas.index_lines(oracle_layer.activate)["A"]
            reason = f"f = {name}: {_first_words(OUTPUT_ACTIVATIONS[name].function)}"
        yield self._step(
            FORWARD, layer, line, f"activations of layer {layer}", A, before=reason, proof=self._forward_proof(layer)
        )

    def _forward_proof(self, layer: int) -> verify.Row | None:
        if not self.proves:
            return None
        return verify.check_activations(self.net, self.exact, layer - 1, self.computed.activations[layer], self.dtype)

    # -- the loss

    def _loss_steps(self) -> Iterator[Step]:
        net, last = self.net, self.n_layers
        output = (self.exact.pre_activations if net.loss.of_pre_activations else self.computed.activations)[-1]
        L = net.loss.of(output, net.Y)[0]
        s = network.shares(L.size, net.sample_weight)
        if net.loss.name in losses.LOSSES:
            line = self._line_of_loss("L")
            meaning = _pieces(net.loss, len(output))
            yield self._step(
                LOSS,
                last,
                line,
                "loss of each sample",
                L,
                before=f"a sample's loss is the sum over its outputs j{meaning}",
            )
        share = (
            f"s[n] = 1/{L.size}"
            if net.sample_weight is None
            else "s[n] is its weight divided by the sum of the weights"
        )
        line = formulas.index_lines(network.loss_value)["loss"]
        value, proof = np.array(float(network.shared(s, L).sum())), None
        if self.proves and self.computed.loss is not None and net.loss.name in losses.LOSSES:
            proof = verify.check_loss(net, self.exact, self.computed.loss, self.dtype)
        reason = f"the mean: each sample's share in it, {share}{self._penalty_in_words()}"
        yield self._step(LOSS, last, line, "the loss", value, before=reason, proof=proof)

    def _line_of_loss(self, left: str) -> str:
        """An index line of the loss; without smoothing, targets are what they are."""
        line = formulas.index_lines(self.net.loss.function)[left]
        return line if self.net.loss.setting else re.sub(r"smooth\((Y\[\w,n\])\)", r"\1", line)

    # -- backward

    def _output_steps(self) -> Iterator[Step]:
        """From the loss to ``dZ`` of the last layer."""
        net, last = self.net, self.n_layers
        mean = formulas.index_lines(network.loss_value)["loss"]
        left = "dZ" if net.loss.of_pre_activations else "dA"
        if net.loss.name in losses.LOSSES:
            line = formulas.of_mean(mean, self._line_of_loss(left))
            reason = (
                "the derivative of a sample's loss, times its share s[n] in the mean: s[n] has no j, all outputs of"
            )
            reason += f" a sample get it{_pieces(net.loss, len(net.Y))}"
            if net.loss.name == "softmax_cross_entropy":
                reason += f". Softmax and loss are taken together: exp(Z{last})/Σ exp(Z{last}) is A{last}, and where a"
                reason += f" sample's targets sum to 1 this is s[n] (A{last} - Y)"
        else:
            line, reason = "dA[j,n] = g[j,n]", "g is the gradient that your loss returned"
        if left == "dZ":
            dZ = self.computed.backward_pass.of_pre_activations[-1]
            yield self._step(BACKWARD, last, line, _of("pre-activations", last), dZ, before=reason,
                             proof=self._proof_of_dZ(last))  # fmt: skip
            return
        s = network.shares(net.X.shape[1], net.sample_weight)
        dA = s * net.loss.of(self.computed.activations[-1], net.Y)[1]
        yield self._step(
            BACKWARD, last, line, _of("activations", last), dA, before=reason, proof=self._proof_of_dA(last, dA)
        )
        yield self._slope_step(last)

    def _backward_steps(self, layer: int) -> Iterator[Step]:
        lines = formulas.index_lines(oracle_layer.affine_backward)
        pair = self.computed.backward_pass.gradients[layer - 1]
        forward_line = f"Z{layer}[j,n] = Σ_i W{layer}[j,i] {formulas.entering(layer)}[i,n] + b{layer}[j]"
        for part, (name, what) in enumerate((("dW", "weights"), ("db", "biases"))):
            line = lines[name] + self._penalty_of(part)
            replaced = f"{name[1]}{layer}[{'j,i' if part == 0 else 'j'}]"
            yield self._step(
                BACKWARD, layer, line, _of(what, layer), pair[part],
                before=f"in {forward_line} put dZ{layer}[j,n] in the place of {replaced}; n is left over",
                after=". The gradient of the penalty is added" if self._penalty_of(part) else "",
                proof=self._proof_of_parameters(layer, part),
            )  # fmt: skip
        if layer > 1:
            below = layer - 1
            W, dZ = self.net.parameters[layer - 1].weights, self.computed.backward_pass.of_pre_activations[layer - 1]
            dA = W.T @ dZ
            yield self._step(
                BACKWARD, layer, lines["dX"], _of("activations", below), dA,
                before=f"put dZ{layer}[j,n] in the place of A{below}[i,n]; j is left over",
                after=f". The inputs i of layer {layer} are the outputs j of layer {below}",
                proof=self._proof_of_dA(below, dA),
            )  # fmt: skip
            yield self._slope_step(below)

    def _slope_step(self, layer: int) -> Step:
        name = self.net.activations[layer - 1]
        return self._step(
            BACKWARD, layer, formulas.index_lines(oracle_layer.activate_backward)["dZ"], _of("pre-activations", layer),
            self.computed.backward_pass.of_pre_activations[layer - 1],
            before=f"multiply by the slope of f = {name}: f'(z) is {_first_words(OUTPUT_ACTIVATIONS[name].slope)}",
            proof=self._proof_of_dZ(layer),
        )  # fmt: skip

    def _penalty_in_words(self) -> str:
        penalty = self.net.penalty
        parts = [f"{_number(penalty.l1)} Σ |w|"] * bool(penalty.l1)
        parts += [f"{_number(penalty.l2)} Σ w² / 2"] * bool(penalty.l2)
        if not parts:
            return ""
        of = "weights and biases" if penalty.biases else "weights"
        return f". The penalty {' + '.join(parts)} over all {of} is added to it"

    def _penalty_of(self, part: int) -> str:
        """What the penalty adds to a gradient, in letters."""
        penalty, cell = self.net.penalty, ("W[j,i]", "b[j]")[part]
        if part == 1 and not penalty.biases:
            return ""
        of_l1 = f" + {_number(penalty.l1)} sign({cell})" if penalty.l1 else ""
        return of_l1 + (f" + {_number(penalty.l2)} {cell}" if penalty.l2 else "")

    def _step(
        self, part: str, layer: int, line: str, what: str, values: Array, *, before: str = "", after: str = "",
        proof: verify.Row | None = None,
    ) -> Step:  # fmt: skip
        W = self.net.parameters[layer - 1].weights
        ranges = {"n": self.net.X.shape[1], "i": W.shape[1], "j": W.shape[0], "k": W.shape[0]}
        formula = formulas.numbered(line, layer)
        matrices = formulas.in_matrices(formula, ranges)
        reason = f"{before}. {matrices.reason}" if matrices.reason else before
        return Step(
            part=part, layer=layer, name=formulas.left_of(formula)[0], what=what, formula=formula,
            matrices=matrices.formula, shapes=matrices.shapes, reason=reason + after, values=values, proof=proof,
        )  # fmt: skip

    # -- proofs: a gradient in the middle is the input gradient of the network that begins there

    def _proof_of_dA(self, layer: int, dA: Array) -> verify.Row | None:
        if not self.proves:
            return None
        if layer < self.n_layers:
            return self._proof_of_input(self._from(layer), dA, self.rounding.of_entering[layer])
        # of the output: a network of one layer that passes it on
        A = self.computed.activations[-1]
        return self._proof_of_input(
            self._passing_on(A, "identity", layer), dA, 8 * np.finfo(self.dtype).eps * np.abs(dA)
        )

    def _proof_of_dZ(self, layer: int) -> verify.Row | None:
        if not self.proves:
            return None
        dZ = self.computed.backward_pass.of_pre_activations[layer - 1]
        net = self._passing_on(self.exact.pre_activations[layer - 1], self.net.activations[layer - 1], layer)
        return self._proof_of_input(net, dZ, self.rounding.of_pre_activations[layer - 1])

    def _proof_of_parameters(self, layer: int, part: int) -> verify.Row | None:
        if not self.proves:
            return None
        gradient = self.computed.backward_pass.gradients[layer - 1][part]
        return verify.check_parameter_gradient(
            self.net, layer - 1, part, gradient, self.rounding, n_entries=self._n_entries(self.net)
        )

    def _from(self, layer: int) -> verify.Network:
        """The network above a layer, whose input is that layer's activations."""
        net = self.net
        return net._replace(
            parameters=net.parameters[layer:], X=self.exact.activations[layer], activations=net.activations[layer:]
        )

    def _passing_on(self, X: Array, activation: str, layer: int) -> verify.Network:
        """The network above a layer, beginning with a layer whose weights are 1: its input is ``X`` itself."""
        net, width = self.net, X.shape[0]
        first = Parameters(np.eye(width), np.zeros(width))
        return net._replace(
            parameters=[first, *net.parameters[layer:]], X=X, activations=[activation, *net.activations[layer:]]
        )

    def _proof_of_input(self, net: verify.Network, gradient: Array, rounding: Array) -> verify.Row:
        return verify.check_input_gradient(net, gradient, rounding, n_entries=self._n_entries(net))

    def _n_entries(self, net: verify.Network) -> int:
        """How many entries can be proved in time."""
        samples, layers = net.X.shape[1], len(net.parameters)
        of_a_sample = sum(W.size + _OF_A_UNIT * len(b) for W, b in net.parameters)
        of_a_pass = of_a_sample * samples + _OF_A_LAYER * layers
        return max(2, min(500, _WORK // (4 * self.n_layers * _PASSES * of_a_pass)))


def _of(what: str, layer: int) -> str:
    return f"gradient of layer {layer}'s {what}"


def _number(value: float) -> str:
    """A number without an exponent, as formulas have them."""
    return np.format_float_positional(value, trim="-")


def _first_words(function: Any) -> str:
    """The formula with which a function's documentation begins."""
    words = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"[:;]|, written|\.$", words.replace("``", ""))[0]


def _pieces(loss: losses.Loss, n_outputs: int) -> str:
    """What the functions in a loss's formula mean, with its setting."""
    t = loss.setting
    if loss.name == "huber":
        return f"; cut(e) = min(max(e, -{t:g}), {t:g})"
    if loss.name == "quantile":
        assert t is not None  # noqa: S101 (for the type checker: it has a setting)
        return f"; pinball(e) = max({1 - t:g} e, -{t:g} e)"
    if loss.name == "softmax_cross_entropy":
        return f"; smooth(y) = {1 - t:g} y + {t / n_outputs:g}" if t else ""
    return ""
