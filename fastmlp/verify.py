"""The proof: finite differences → oracle → kernels, for any network and any data.

Three links, each of which can fail by itself:

1. **Central differences** prove the oracle's gradient, in float64: against every parameter of a small network; in a
   large one against random directions within every array of parameters, and against single entries, the largest among
   them.
2. **The Taylor rate** proves the gradient as a whole: in a random direction, what is left after the first-order
   expansion falls with order 2; and the error of a central difference with order 2 too, down to where rounding makes
   it grow again: the *V-curve*, in random directions and in those of the largest and the smallest curvature, where an
   error would matter most. **The adjoint identity** ⟨v, Jᵀu⟩ = ⟨Jv, u⟩ proves each layer's backward step alone.
3. **The rounding model** proves what compiled code computed, in float32 or float64, entry by entry: it may differ from
   the oracle by no more than rounding can explain.

No tolerance is tuned to a network. The error of a central difference is estimated from the differences of two step
lengths and from the rounding noise of the loss, which is measured; how far compiled code may be off follows from the
number of terms in its sums and the size of what it adds.

References
----------
.. [1] N. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, section 3.1 (rounding).
.. [2] C. Ridders, *Accurate computation of F'(x) and F'(x)F''(x)*, Advances in Engineering Software 4 (1982).

Examples
--------
>>> import numpy as np
>>> from fastmlp import verify
>>> from fastmlp.oracle import network
>>> rng = np.random.default_rng(0)
>>> parameters = network.initialize([3, 4, 4, 2], rng, weight_scale=0.5)
>>> X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
>>> verify.check(parameters, X, Y).ok
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import formulas
from fastmlp.oracle import derivatives, losses, network
from fastmlp.oracle import layer as oracle_layer
from fastmlp.oracle.activations import ACTIVATIONS
from fastmlp.oracle.losses import Loss
from fastmlp.oracle.network import BackwardPass, ForwardPass, Parameters, Penalty

Array = NDArray[np.float64]
Backward = Callable[..., Sequence[Parameters]]

_EPSILONS = 3e-2 * 8.0 ** -np.arange(7)
"""Step lengths of the central differences, in units of the step that changes a pre-activation by about 1."""

_FLOAT64 = np.dtype(np.float64)

_AFFINE_BACKWARD = oracle_layer.affine_backward
"""Whose index lines the report shows."""

_ROUNDING_FACTOR = 100.0
"""What is below so many times the measured rounding noise is not evidence."""

_SMALL = 2_000
"""Networks of up to so many parameters are checked at every one of them, if the data is small too."""

_SMALL_WORK = 300_000_000
"""Parameters × multiplications of a forward pass, up to which every parameter is checked: about ten seconds."""

_DIRECTIONS, _ENTRIES = 3, 12
"""In a large network: random directions, and single entries, for each array of parameters."""

_REDRAWS = 10
"""How often a direction that crosses a kink is drawn again."""


class GradientMismatch(AssertionError):  # noqa: N818 (the name is a contract)
    """A gradient is wrong; the message is the report."""


@dataclass(frozen=True)
class Computed:
    """Gradients that an implementation computed, and the precision it computed in."""

    gradients: Sequence[Parameters]
    dtype: np.dtype
    input_gradient: NDArray[np.floating] | None = None
    """``dX[i,n]``, if that was computed too."""
    loss: float | None = None
    """The loss, with the penalty, if that was computed too."""
    output: Array | None = None
    """``A[j,n]`` of the last layer, if that was computed too."""


@dataclass(frozen=True)
class Row:
    """One comparison: a parameter array of one layer, against one kind of evidence."""

    layer: int
    """From 1; 0 is the whole network."""
    name: str
    formula: str
    shapes: str
    against: str
    relative_error: float
    """Largest difference, relative to the largest entry of the array."""
    index: tuple[int, ...] | None
    """Where the difference is largest, compared with what it may be; None of a whole direction."""
    expected: float
    found: float
    ok: bool
    note: str = ""
    proved: bool = True
    """False if nothing could be compared, as where every step crosses a kink: it is not wrong, but not proved."""

    @property
    def word(self) -> str:
        """The verdict."""
        return ("ok" if self.proved else "not proved") if self.ok else "WRONG"

    @property
    def where(self) -> str:
        """Which part of the network it is about."""
        return f"layer {self.layer}" if self.layer else "network"

    def cells(self) -> list[str]:
        """The row as text, one cell per column."""
        place = "direction" if self.index is None else f"[{','.join(map(str, self.index))}]"
        values = f"{place} {self.expected:.6e} / {self.found:.6e}"
        return [
            self.where, self.formula, self.shapes, self.against, f"{self.relative_error:.1e}", values,
            self.word + (f" ({self.note})" if self.note else ""),
        ]  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """The V-curve: error of the central difference along a direction, for steps of several lengths."""

    name: str
    """Which direction it is."""
    steps: Array
    errors: Array
    """Difference between the central difference and the slope that the gradient gives."""
    rounding: Array
    """What the rounding of the loss, and of the gradient itself, explain."""
    order: float
    """At which the error falls where it stands clear of rounding: 2. NaN if it never does."""
    slope: float
    """What the gradient gives."""


@dataclass
class Report:
    """What was checked, and what came out. ``print(report)`` shows a table."""

    title: str
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    """How the error of central differences falls and rises; :func:`fastmlp.plot.verification` draws it."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong of all that could be checked; see :attr:`unproved` for the rest."""
        return all(row.ok for row in self.rows)

    @property
    def unproved(self) -> list[Row]:
        """The rows in which nothing could be compared."""
        return [row for row in self.rows if row.ok and not row.proved]

    @property
    def failures(self) -> list[Row]:
        """The rows that are wrong."""
        return [row for row in self.rows if not row.ok]

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch``, with this report as its words, if anything is wrong."""
        if not self.ok:
            raise GradientMismatch(str(self))

    def __str__(self) -> str:
        header = ["where", "formula", "shapes", "against", "rel. error", "worst entry: expected / found", "verdict"]
        table = [header, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
        lines = ["  ".join(line).rstrip() for line in padded]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([self.title, *lines, self.verdict])

    @property
    def verdict(self) -> str:
        """The last line of the table: how many checks passed, or which failed."""
        if self.ok and self.unproved:
            passed = len(self.rows) - len(self.unproved)
            left = ", ".join(dict.fromkeys(f"{row.name} of {row.where}" for row in self.unproved))
            return f"{passed} checks passed; {len(self.unproved)} could not be made, at a kink: {left}."
        if self.ok:
            return f"All {len(self.rows)} checks passed."
        wrong = ", ".join(
            dict.fromkeys(f"{row.name} of {row.where}" if row.layer else row.name for row in self.failures)
        )
        return f"{len(self.failures)} of {len(self.rows)} checks FAILED: {wrong}."


class Network(NamedTuple):
    """A network and its data, as the oracle has them: samples are columns."""

    parameters: list[Parameters]
    X: Array
    Y: Array
    activations: list[str]
    loss: Loss
    sample_weight: Array | None = None
    penalty: Penalty = Penalty()
    masks: Sequence[Array | None] | None = None

    def forward(self, parameters: Sequence[Parameters]) -> ForwardPass:
        """Forward pass with these parameters."""
        return network.forward(parameters, self.X, activations=self.activations, masks=self.masks)

    def backward(self, forward_pass: ForwardPass) -> BackwardPass:
        """Every gradient that the oracle's backward pass computes on its way."""
        dZ = network.output_gradient(
            forward_pass, self.Y, activation=self.activations[-1], loss=self.loss, sample_weight=self.sample_weight
        )
        return network.backward_from(self.parameters, forward_pass, dZ, activations=self.activations)

    def gradients(self, forward_pass: ForwardPass) -> list[Parameters]:
        """The gradients of the parameters, with the penalty's."""
        return network.add_penalty_gradients(self.parameters, self.backward(forward_pass).gradients, self.penalty)

    def hessian_vector_product(self, direction: Sequence[Parameters]) -> list[Parameters]:
        """How the gradients change along a direction of the parameters."""
        return derivatives.hessian_vector_product(
            self.parameters, self.X, self.Y, direction, activations=self.activations, loss=self.loss,
            sample_weight=self.sample_weight, penalty=self.penalty, masks=self.masks,
        )  # fmt: skip

    def loss_of(self, parameters: Sequence[Parameters], forward_pass: ForwardPass) -> float:
        """The loss with the penalty."""
        value = network.loss_value(forward_pass, self.Y, loss=self.loss, sample_weight=self.sample_weight)
        penalizes = self.penalty.l1 or self.penalty.l2
        return value + network.penalty_value(parameters, self.penalty) if penalizes else value

    def pieces(self, parameters: Sequence[Parameters], forward_pass: ForwardPass) -> list[NDArray[np.bool_]]:
        """Which formula holds, of everything that has several: units, losses, and the size of a weight."""
        names = zip(forward_pass.pre_activations, self.activations, strict=True)
        found = [Z > 0 for Z, name in names if name in ACTIVATIONS and ACTIVATIONS[name].has_seam]
        if self.loss.piece is not None:
            found.append(self.loss.piece(forward_pass.activations[-1] - self.Y, self.loss.setting or 0.0))
        if self.penalty.l1:
            found += [part > 0 for W, b in parameters for part in ([W, b] if self.penalty.biases else [W])]
        return found


def check(
    parameters: Sequence[Parameters],
    X: Array,
    Y: Array,
    *,
    activations: Sequence[str] | None = None,
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
    penalty: Penalty | None = None,
    masks: Sequence[Array | None] | None = None,
    backward: Backward = network.backward,
    computed: Computed | None = None,
    thorough: bool = True,
    extremes: Sequence[tuple[str, float, Sequence[Parameters]]] = (),
    dtype: np.dtype | None = None,
    rng: np.random.Generator | None = None,
) -> Report:
    """Check gradients of a network on data.

    Parameters
    ----------
    parameters : sequence of (weights, biases)
        As in :mod:`fastmlp.oracle.network`.
    X : ndarray of shape (inputs, samples)
        A sample is a column.
    Y : ndarray of shape (outputs, samples)
    activations : sequence of str, optional
        One per layer; by default the original's, sigmoid hidden layers and a linear output.
    loss : str or Loss
        A name in :data:`fastmlp.oracle.losses.LOSSES`, or an entry of it with another setting.
    sample_weight : ndarray of shape (samples,), optional
    penalty : Penalty, optional
    masks : sequence of ndarray or None, optional
        Dropout's, for each hidden layer: they are held fast.
    backward : function
        What is to be proved, called as :func:`fastmlp.oracle.network.backward`, which it is by default.
    computed : Computed, optional
        Gradients of compiled code, to be compared with ``backward``'s by the rounding model.
    thorough : bool
        False leaves out the central differences.
    extremes : sequence of (name, eigenvalue, direction)
        Eigenvectors of the Hessian, in the shape of the parameters: the gradient is checked along them, and the
        eigenvalue by differences of gradients.
    dtype : dtype, optional
        In which ``backward`` computes; float64 by default, as the oracle does.
    rng : numpy.random.Generator, optional
        Where directions are drawn from; a fixed seed by default, so that a report can be had again.

    Returns
    -------
    Report
    """
    rng = rng or np.random.default_rng(0)
    pairs = [Parameters(np.asarray(W, np.float64), np.asarray(b, np.float64)) for W, b in parameters]
    names = list(activations or network.original_activations(len(pairs)))
    chosen = losses.chosen(loss)
    # a loss of one's own takes whatever targets it likes
    targets = np.asarray(Y, np.float64) if chosen.name in losses.LOSSES else Y
    samples = np.asarray(X, np.float64)
    net = Network(pairs, samples, targets, names, chosen, sample_weight, penalty or Penalty(), masks)
    sizes = "-".join(str(size) for size in [net.X.shape[0], *(W.shape[0] for W, b in pairs)])
    report = Report(f"Gradients of {sizes} ({', '.join(names)}; {chosen.name}) on {net.X.shape[1]} samples")
    with np.errstate(all="ignore"):
        forward_pass = net.forward(pairs)
        if thorough:
            _refuse_what_is_not_finite(net, forward_pass)
        computed_by_it = backward(
            pairs, forward_pass, net.Y, activations=names, loss=chosen, sample_weight=sample_weight, penalty=penalty
        )
        gradients = [Parameters(*pair) for pair in computed_by_it]
        own_rounding = rounding_bounds(net, forward_pass, dtype or _FLOAT64)
        probe = _Probe(net, forward_pass, own_rounding, rng)
        input_gradient = net.backward(forward_pass).of_entering[0]
        if thorough:
            # one's own backward pass is proved by its gradients alone: the rest would be the oracle's
            is_oracle = backward is network.backward
            report.rows += _difference_rows(probe, gradients, input_gradient if is_oracle else None)
            report.rows += _adjoint_rows(net, forward_pass, rng) if is_oracle else []
            for curve, row in _curve_rows(probe, gradients, extremes):
                report.curves.append(curve)
                report.rows.append(row)
            report.rows += _eigenvalue_rows(probe, extremes)
        report.rows += _taylor_rows(probe, gradients)
        if computed is not None:
            report.rows += _rounding_rows(net, forward_pass, gradients, input_gradient, computed)
            if computed.loss is not None and net.loss.name in losses.LOSSES:
                report.rows.append(check_loss(net, forward_pass, computed.loss, computed.dtype))
            if computed.output is not None:
                last = len(pairs) - 1
                report.rows.append(check_activations(net, forward_pass, last, computed.output, computed.dtype))
    return report


def _refuse_what_is_not_finite(net: Network, forward_pass: ForwardPass) -> None:
    """Nothing can be said of numbers that are infinite or NaN."""
    arrays = [("X", net.X), *((f"parameters[{k}]", part) for k, pair in enumerate(net.parameters) for part in pair)]
    if net.loss.name in losses.LOSSES:
        arrays.append(("Y", net.Y))
    for name, array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite; got infinite numbers or NaN")
    loss = net.loss_of(net.parameters, forward_pass)
    if not np.isfinite(loss):
        raise ValueError(f"the loss must be finite for anything to be proved; got {loss}")


def check_gradients(
    parameters: Sequence[tuple[Array, Array]],
    X: Array,
    Y: Array,
    gradients: Sequence[tuple[Array, Array]],
    *,
    activations: Sequence[str] | None = None,
    loss: str | Loss = "squared_error",
    sample_weight: Array | None = None,
    penalty: Penalty | None = None,
) -> Report:
    """Check gradients that a program of your own computed, by central differences.

    They may be off by what the rounding of their dtype explains.

    Parameters
    ----------
    parameters : sequence of (weights, biases)
        One pair per layer, of shapes (outputs, inputs) and (outputs,); a column of biases, (outputs, 1), will do.
    X : ndarray of shape (inputs, samples)
        A sample is a column.
    Y : ndarray of shape (outputs, samples)
    gradients : sequence of (weights, biases)
        In the shape of the parameters: of the mean over the samples.
    activations : sequence of str, optional
        One per layer; by default the original's, sigmoid hidden layers and a linear output.
    loss, sample_weight, penalty
        As in :func:`check`.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If a shape does not fit, naming it, what came and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import verify
    >>> rng = np.random.default_rng(0)
    >>> W, b = rng.standard_normal((2, 3)), np.zeros((2, 1))
    >>> X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    >>> dZ = (W @ X + b - Y) / 5
    >>> verify.check_gradients([(W, b)], X, Y, [(dZ @ X.T, dZ.sum(axis=1))]).ok
    True
    >>> print(verify.check_gradients([(W, b)], X, Y, [(dZ @ X.T, dZ.mean(axis=1))]).verdict)
    5 of 6 checks FAILED: db1 of layer 1, V-curve, random direction 1, ...
    """
    samples = np.asarray(X, np.float64)
    if samples.ndim != 2 or 0 in samples.shape:
        raise ValueError(f"X must have shape (inputs, samples), a sample being a column; got {samples.shape}")
    pairs = _pairs_like("parameters", parameters, None, len(samples))
    given = _pairs_like("gradients", gradients, pairs, len(samples))
    dtypes = {np.asarray(part).dtype for pair in gradients for part in pair}
    dtype = np.dtype(np.float32) if np.dtype(np.float32) in dtypes else _FLOAT64
    if isinstance(loss, str) and loss not in losses.LOSSES:
        raise ValueError(f"loss must be one of {', '.join(losses.LOSSES)}; got {loss!r}")
    chosen = losses.chosen(loss)
    _check_names(activations, len(pairs), chosen)
    targets, width = np.asarray(Y), len(pairs[-1].biases)
    if chosen.name in losses.LOSSES and targets.shape != (width, samples.shape[1]):
        expected = f"(outputs, samples), here {(width, samples.shape[1])}"
        raise ValueError(f"Y must have shape {expected}, a sample being a column; got {targets.shape}")

    def computed(*_: object, **settings: object) -> list[Parameters]:  # noqa: ARG001
        return given

    return check(
        pairs, samples, targets, activations=activations, loss=chosen, sample_weight=sample_weight, penalty=penalty,
        backward=computed, dtype=dtype,
    )  # fmt: skip


def _check_names(activations: Sequence[str] | None, n_layers: int, loss: Loss) -> None:
    if activations is None:
        return
    if len(activations) != n_layers:
        raise ValueError(f"activations must be {n_layers} names, one per layer; got {len(activations)}")
    own = {loss.output_activation} if loss.of_pre_activations else set(ACTIVATIONS)
    for index, name in enumerate(activations):
        known = own if index == n_layers - 1 else set(ACTIVATIONS)
        if name not in known:
            raise ValueError(f"activations[{index}] must be one of {', '.join(sorted(known))}; got {name!r}")


def _pairs_like(
    name: str, given: Sequence[tuple[Array, Array]], like: list[Parameters] | None, width: int
) -> list[Parameters]:
    """Pairs in float64, biases as vectors; each of the shape that the layer below, or another list, asks for."""
    if like is not None and len(given) != len(like):
        raise ValueError(f"{name} must be {len(like)} (weights, biases) pairs; got {len(given)}")
    if not given or any(len(pair) != 2 for pair in given):
        raise ValueError(f"{name} must be (weights, biases) pairs, one per layer; got something else")
    pairs: list[Parameters] = []
    for index, (weights, biases) in enumerate(given):
        W, b = np.asarray(weights, np.float64), np.asarray(biases, np.float64)
        b = b[:, 0] if b.ndim == 2 and b.shape[1] == 1 else b
        if like is not None:
            wanted = like[index].weights.shape
            fits, expected = W.shape == wanted, f"{wanted}"
        else:
            fits, expected = W.ndim == 2 and W.shape[1] == width, f"(outputs, {width})"
        if not fits:
            raise ValueError(f"{name}[{index}].weights must have shape {expected}; got {W.shape}")
        if b.shape != (len(W),):
            raise ValueError(f"{name}[{index}].biases must have shape ({len(W)},) or ({len(W)}, 1); got {b.shape}")
        width = len(W)
        pairs.append(Parameters(W, b))
    return pairs


def check_input_gradient(
    net: Network, gradient: Array, rounding: Array, *, n_entries: int, rng: np.random.Generator | None = None
) -> Row:
    """Check the gradient ``dX`` of a network's input alone, at some of its entries, by central differences.

    Parameters
    ----------
    net : Network
        Of which ``X`` may be what enters a later layer of a larger network.
    gradient : ndarray of shape (inputs, samples)
        What is to be proved.
    rounding : ndarray of the same shape
        How far it may be off by the rounding of what computed it.
    n_entries : int
        So many entries at most: the largest ones, and random ones.
    """
    rng = rng or np.random.default_rng(0)
    with np.errstate(all="ignore"):
        probe = _Probe(net, net.forward(net.parameters), BackwardPass([], [], [rounding]), rng)
        indices = _some_entries(gradient, n_entries, rng)
        return _entries_row(probe, 0, _INPUT, gradient, indices, _how_many(indices, gradient))


def check_activations(net: Network, forward_pass: ForwardPass, layer: int, computed: Array, dtype: np.dtype) -> Row:
    """Compare a layer's activations, as compiled code computed them, with the oracle's by the rounding model."""
    unit, tiny = float(np.finfo(dtype).eps + np.finfo(np.float64).eps) / 2, float(np.finfo(dtype).tiny)
    expected = forward_pass.activations[layer + 1]
    with np.errstate(all="ignore"):
        eZ, eA = _forward_errors(net, forward_pass, unit, tiny)
        bound = eA[layer + 1]
        if net.activations[layer] == "softmax":
            bound = _softmax_errors(forward_pass.pre_activations[layer], expected, eZ[layer], unit) + tiny
    difference = np.abs(computed - expected)
    excess = np.where(np.isfinite(difference), difference / bound, np.inf)
    index = tuple(int(k) for k in np.unravel_index(int(excess.argmax()), difference.shape))
    softmax = net.activations[layer] == "softmax"
    line = formulas.index_lines(losses.softmax if softmax else oracle_layer.activate)["A"]
    formula = formulas.numbered(line, layer + 1)
    ranges = dict(zip("jnk", (*expected.shape, len(expected)), strict=True))
    return Row(
        layer=layer + 1, name=f"A{layer + 1}", formula=formula, shapes=formulas.in_matrices(formula, ranges).shapes,
        against=f"{dtype} kernels, rounding model",
        relative_error=_relative(float(difference.max()), float(np.abs(expected).max())), index=index,
        expected=float(expected[index]), found=float(computed[index]), ok=bool(excess[index] <= 1),
    )  # fmt: skip


def check_loss(net: Network, forward_pass: ForwardPass, computed: float, dtype: np.dtype) -> Row:
    """Compare the loss, with the penalty, as compiled code computed it, with the oracle's by the rounding model.

    What the output may be off by moves each sample's loss by no more than it does in the worse of two directions: as
    the gradient says, and against it.
    """
    unit, tiny = float(np.finfo(dtype).eps + np.finfo(np.float64).eps) / 2, float(np.finfo(dtype).tiny)
    s, chosen, penalty = network.shares(net.X.shape[1], net.sample_weight), net.loss, net.penalty
    with np.errstate(all="ignore"):
        eZ, eA = _forward_errors(net, forward_pass, unit, tiny)
        output = (forward_pass.pre_activations if chosen.of_pre_activations else forward_pass.activations)[-1]
        e = eZ[-1] if chosen.of_pre_activations else eA[-1]
        L, dL = chosen.of(output, net.Y)
        ways = [np.where(dL > 0, e, -e), np.where(dL > 0, -e, e)]
        moved = 2 * np.maximum(*(np.abs(chosen.of(output + way, net.Y)[0] - L) for way in ways))
        # a sample's loss is a sum of terms as large as these, each rounded some times
        terms = (1 + np.abs(net.Y)) * (1 + np.abs(output)) + np.abs(net.Y) * np.abs(output) + (output - net.Y) ** 2
        if chosen.name == "poisson":
            terms = terms + np.exp(output)
        own = (_ULPS + _growth(len(output), 1)) * unit * terms.sum(axis=0)
        penalized = [part for W, b in net.parameters for part in ([W, b] if penalty.biases else [W])]
        of_penalty = _growth(sum(w.size for w in penalized) + 4, unit) * network.penalty_value(net.parameters, penalty)
        allowed = float((s * (moved + own + _growth(L.size + 2, unit) * np.abs(L))).sum() + 4 * of_penalty + tiny)
        expected = net.loss_of(net.parameters, forward_pass)
    difference = abs(computed - expected)
    return Row(
        layer=0, name="loss", formula=formulas.index_lines(network.loss_value)["loss"], shapes=f"{L.size} samples",
        against=f"{dtype} kernels, rounding model", relative_error=_relative(difference, abs(expected)), index=None,
        expected=float(expected), found=float(computed), ok=bool(difference <= allowed),
        note=f"{difference / allowed:.0%} of what rounding explains",
    )  # fmt: skip


def check_parameter_gradient(
    net: Network, layer: int, part: int, gradient: Array, rounding: BackwardPass, *, n_entries: int
) -> Row:
    """Check the gradient of one layer's weights (part 0) or biases (part 1): as :func:`check_input_gradient`."""
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        probe = _Probe(net, net.forward(net.parameters), rounding, rng)
        indices = _some_entries(gradient, n_entries, rng)
        return _entries_row(probe, layer, part, gradient, indices, _how_many(indices, gradient))


def _how_many(indices: Sequence[tuple[int, ...]], array: Array) -> str:
    return "every entry" if len(indices) == array.size else f"{len(indices)} entries"


# ------------------------------------------------------------------------------------------------------------------
# what a row says


_WEIGHTS, _BIASES, _INPUT = range(3)
"""Parts of a layer whose gradients are checked; the input is the first layer's."""


def _row(net: Network, layer: int, part: int, against: str, **outcome: Any) -> Row:
    W = net.parameters[layer].weights
    line = formulas.index_lines(_AFFINE_BACKWARD)[("dW", "db", "dX")[part]]
    formula = formulas.numbered(line, layer + 1)
    ranges = {"n": net.X.shape[1], "i": W.shape[1], "j": W.shape[0]}
    name, shapes = formulas.left_of(formula)[0], formulas.in_matrices(formula, ranges).shapes
    return Row(layer=layer + 1, name=name, formula=formula, shapes=shapes, against=against, **outcome)


def _relative(difference: float, largest: float) -> float:
    return difference / largest if largest > 0 else difference


# ------------------------------------------------------------------------------------------------------------------
# link 1: central differences


class _Estimate(NamedTuple):
    """A derivative, and how far it may be off."""

    value: float
    error: float


class _Direction(NamedTuple):
    """Where to move, for each parameter, and for each entry of the input."""

    parameters: list[Parameters]
    X: Array

    def at(self, layer: int, part: int) -> Array:
        """One of its arrays."""
        return self.X if part == _INPUT else self.parameters[layer][part]


class _Probe:
    """Moves parameters and input along a direction and watches the loss."""

    def __init__(
        self, net: Network, forward_pass: ForwardPass, own_rounding: BackwardPass, rng: np.random.Generator
    ) -> None:
        self.net = net
        self.own_rounding = own_rounding  # how far the gradient that is being checked may be off by itself
        self.rng = rng
        self.at_rest = forward_pass
        self.pieces = net.pieces(net.parameters, forward_pass)
        self.loss = net.loss_of(net.parameters, forward_pass)
        self.noise = self._measured_noise()

    def _measured_noise(self) -> float:
        """Rounding noise of the loss: how much it changes when every number is changed by about a rounding."""
        unit = np.finfo(np.float64).eps / 2
        noise = float(4 * unit * abs(self.loss) + np.finfo(np.float64).tiny)
        for _ in range(8):
            shaken = [Parameters(*(self._shaken(part, unit) for part in pair)) for pair in self.net.parameters]
            net = self.net._replace(X=self._shaken(self.net.X, unit))
            if net.loss.name in losses.LOSSES:
                net = net._replace(Y=self._shaken(net.Y, unit))
            loss = net.loss_of(shaken, net.forward(shaken))
            noise = max(noise, float(abs(loss - self.loss)))
        return noise

    def _shaken(self, array: Array, unit: float) -> Array:
        return array * (1 + unit * self.rng.uniform(-2, 2, array.shape))

    def rounding_at(self, layer: int, part: int) -> Array:
        """How far each entry of a gradient may be off by itself."""
        return self.own_rounding.of_entering[0] if part == _INPUT else self.own_rounding.gradients[layer][part]

    def _forward(self, direction: _Direction, step: float) -> tuple[list[Parameters], ForwardPass]:
        """Parameters, and the forward pass, at a step along the direction."""
        parameters = [
            Parameters(W + step * dW, b + step * db)
            for (W, b), (dW, db) in zip(self.net.parameters, direction.parameters, strict=True)
        ]
        return parameters, self.net._replace(X=self.net.X + step * direction.X).forward(parameters)

    def moved(self, direction: _Direction, step: float) -> tuple[float, bool]:
        """Loss at a step along the direction, and whether no kink was crossed on the way."""
        parameters, forward_pass = self._forward(direction, step)
        same = all(map(np.array_equal, self.net.pieces(parameters, forward_pass), self.pieces))
        return self.net.loss_of(parameters, forward_pass), same

    def rounding_along(self, direction: _Direction) -> float:
        """How far the slope along a direction may be off by itself."""
        sizes = [Parameters(*map(np.abs, pair)) for pair in direction.parameters]
        return _along(_Direction(sizes, direction.X), self.own_rounding.gradients)

    def _slope_at(self, direction: _Direction, step: float) -> tuple[float, bool]:
        """Slope along the direction at a step along it, and whether no kink was crossed on the way."""
        parameters, forward_pass = self._forward(direction, step)
        same = all(map(np.array_equal, self.net.pieces(parameters, forward_pass), self.pieces))
        net = self.net._replace(parameters=parameters)
        return _along(direction, net.gradients(forward_pass)), same

    def scale(self, direction: _Direction) -> float:
        """The step along this direction that changes some pre-activation by about 1."""
        small = 1e-6
        moved = self._forward(direction, small)[1].pre_activations
        change = max(np.abs(Z - Z0).max() for Z, Z0 in zip(moved, self.at_rest.pre_activations, strict=True)) / small
        return float(np.clip(1 / change, 1e-8, 1e4)) if np.isfinite(change) and change > 0 else 1.0

    def derivative(self, direction: _Direction) -> _Estimate | None:
        """Derivative of the loss along a direction; None where every step crosses a kink."""
        return self._difference(self.moved, direction, self.noise)

    def second_derivative(self, direction: _Direction) -> _Estimate | None:
        """Derivative of the slope along a direction, whose noise the rounding model bounds already."""
        return self._difference(self._slope_at, direction, 2 * self.rounding_along(direction) / _ROUNDING_FACTOR)

    def _difference(
        self, at: Callable[[_Direction, float], tuple[float, bool]], direction: _Direction, noise: float
    ) -> _Estimate | None:
        """Central difference of what stands at steps along a direction.

        Of central differences at falling step lengths, each is improved by the next (the error falls with the square
        of the step), and the one with the smallest error estimate is taken: Ridders' method.
        """
        scale = self.scale(direction)
        best: _Estimate | None = None
        differences: list[float] = []  # at consecutive steps, none of which crosses a kink
        for step in map(float, scale * _EPSILONS):
            ahead, ahead_smooth = at(direction, step)
            behind, behind_smooth = at(direction, -step)
            if not (ahead_smooth and behind_smooth and np.isfinite(ahead) and np.isfinite(behind)):
                differences.clear()
                continue
            differences.append((ahead - behind) / (2 * step))
            if len(differences) < 3:
                continue
            oldest, older, newest = differences[-3:]
            value = newest + (newest - older) / 63  # the steps fall by 8, so their squares by 64
            # two differences may agree by chance: the third one has its say
            error = max(abs(newest - older), abs(older - oldest) / 8) + _ROUNDING_FACTOR * noise / step
            if best is None or error < best.error:
                best = _Estimate(value, error)
        return best


def _nowhere(net: Network) -> _Direction:
    zeros = [Parameters(np.zeros_like(W), np.zeros_like(b)) for W, b in net.parameters]
    return _Direction(zeros, np.zeros_like(net.X))


def _entry(net: Network, layer: int, part: int, index: tuple[int, ...]) -> _Direction:
    """The direction that moves a single entry."""
    direction = _nowhere(net)
    direction.at(layer, part)[index] = 1.0
    return direction


def _within(net: Network, layer: int, part: int, rng: np.random.Generator) -> _Direction:
    """A random direction, of length 1, that moves one array only."""
    direction = _nowhere(net)
    drawn = rng.standard_normal(direction.at(layer, part).shape)
    direction.at(layer, part)[...] = drawn / np.linalg.norm(drawn)
    return direction


def _arrays(gradients: Sequence[Parameters]) -> Iterator[tuple[int, int, Array]]:
    for layer, pair in enumerate(gradients):
        for part, array in enumerate(pair):
            yield layer, part, array


def _difference_rows(probe: _Probe, gradients: Sequence[Parameters], input_gradient: Array | None) -> list[Row]:
    samples = probe.net.X.shape[1]
    size = sum(W.size + b.size for W, b in probe.net.parameters)
    rows = []
    arrays = list(_arrays(gradients))
    if input_gradient is not None:
        arrays.append((0, _INPUT, input_gradient))
    for layer, part, gradient in arrays:
        moved = gradient.size if part == _INPUT else size
        if moved <= _SMALL and moved * size * samples <= _SMALL_WORK:
            rows.append(_entries_row(probe, layer, part, gradient, list(np.ndindex(gradient.shape)), "every entry"))
        else:
            chosen = _some_entries(gradient, _ENTRIES, probe.rng)
            rows.append(_entries_row(probe, layer, part, gradient, chosen, f"{len(chosen)} entries"))
            rows += _direction_rows(probe, layer, part, gradient)
    return rows


def _some_entries(gradient: Array, count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All entries, if there are not more; else the largest ones, and random ones."""
    if gradient.size <= count:
        return list(np.ndindex(gradient.shape))
    flat = np.argsort(-np.abs(gradient), axis=None)[: (count + 1) // 2]
    drawn = rng.integers(gradient.size, size=count // 2)
    indices = dict.fromkeys(int(k) for k in [*flat, *drawn])
    return [tuple(int(k) for k in np.unravel_index(index, gradient.shape)) for index in indices]


def _entries_row(
    probe: _Probe, layer: int, part: int, gradient: Array, indices: Sequence[tuple[int, ...]], which: str
) -> Row:
    """Compare single entries with central differences."""
    largest = float(np.abs(gradient).max())
    worst, worst_excess, ok, kinks = (indices[0], 0.0, 0.0), -1.0, True, 0
    relative_error = 0.0
    for index in indices:
        estimate = probe.derivative(_entry(probe.net, layer, part, index))
        if estimate is None:
            kinks += 1
            continue
        found = float(gradient[index])
        difference = abs(found - estimate.value)
        allowed = estimate.error + float(probe.rounding_at(layer, part)[index])
        excess = difference / allowed if allowed > 0 else difference
        relative_error = max(relative_error, _relative(difference, max(largest, abs(estimate.value))))
        if excess > worst_excess or not np.isfinite(excess):
            worst, worst_excess = (index, estimate.value, found), excess
        ok = ok and bool(excess <= 1)
    note = f"{kinks} of {len(indices)} entries on a kink left out" if kinks else ""
    return _row(
        probe.net, layer, part, f"central differences, {which}", relative_error=relative_error, index=worst[0],
        expected=worst[1], found=worst[2], ok=ok, note=note, proved=kinks < len(indices),
    )  # fmt: skip


def _direction_rows(probe: _Probe, layer: int, part: int, gradient: Array) -> list[Row]:
    """Compare the slope along random directions within one array with central differences."""
    rows = []
    for _ in range(_DIRECTIONS):
        direction, estimate, redrawn = _smooth_direction(probe, lambda: _within(probe.net, layer, part, probe.rng))
        note = f"redrawn {redrawn} times: a kink" if redrawn else ""
        here = direction.at(layer, part)
        found = float((here * gradient).sum())
        if estimate is None:
            outcome: dict[str, Any] = {
                "relative_error": 0.0, "expected": found, "ok": True, "proved": False, "note": _ALL_KINKS,
            }  # fmt: skip
        else:
            difference = abs(found - estimate.value)
            size = float(np.linalg.norm(gradient))
            own_rounding = float((np.abs(here) * probe.rounding_at(layer, part)).sum())
            ok = bool(difference <= estimate.error + own_rounding)
            relative_error = _relative(difference, max(size, abs(estimate.value)))
            outcome = {"relative_error": relative_error, "expected": estimate.value, "ok": ok, "note": note}
        rows.append(
            _row(probe.net, layer, part, "central differences, a direction", index=None, found=found, **outcome)
        )
    return rows


def _smooth_direction(probe: _Probe, draw: Callable[[], _Direction]) -> tuple[_Direction, _Estimate | None, int]:
    """Draw a direction along which there is a derivative; draw again while it crosses a kink."""
    for redrawn in range(_REDRAWS):
        direction = draw()
        estimate = probe.derivative(direction)
        if estimate is not None:
            return direction, estimate, redrawn
    return direction, None, _REDRAWS


# ------------------------------------------------------------------------------------------------------------------
# link 2: the adjoint identity of each layer, and the Taylor rate of the whole


def _adjoint_rows(net: Network, forward_pass: ForwardPass, rng: np.random.Generator) -> list[Row]:
    rows = []
    for layer, (W, b) in enumerate(net.parameters):
        X = forward_pass.entering(layer)
        rows.append(_affine_adjoint_row(layer, W, b, X, rng))
        if net.activations[layer] in ACTIVATIONS:
            rows.append(_activation_adjoint_row(net, layer, forward_pass, rng))
    return rows


def _affine_adjoint_row(layer: int, W: Array, b: Array, X: Array, rng: np.random.Generator) -> Row:
    """⟨v, Jᵀu⟩ = ⟨Jv, u⟩ for ``Z = W X + b``, in all three operands at once. ``J v`` is exact: each term is linear."""
    v_W, v_b, v_X = (rng.standard_normal(array.shape) for array in (W, b, X))
    u = rng.standard_normal((W.shape[0], X.shape[1]))
    forward = (oracle_layer.affine(v_W, v_b, X), oracle_layer.affine(W, np.zeros_like(b), v_X))
    dX, dW, db = oracle_layer.affine_backward(W, X, u)
    ahead = float(sum((part * u).sum() for part in forward))
    back = float((v_X * dX).sum() + (v_W * dW).sum() + (v_b * db).sum())
    terms = float(sum((np.abs(part) * np.abs(u)).sum() for part in forward))
    terms += float((np.abs(v_X) * (np.abs(W).T @ np.abs(u))).sum() + (np.abs(v_W) * (np.abs(u) @ np.abs(X).T)).sum())
    allowed = _growth(max(W.shape[1], W.shape[0], X.shape[1]) + 3, np.finfo(np.float64).eps / 2) * terms
    label = f"{layer + 1}"
    entering = "X" if layer == 0 else f"A{layer}"
    return Row(
        layer=layer + 1, name=f"affine_backward {label}",
        formula=f"Z{label}[j,n] = Σ_i W{label}[j,i] {entering}[i,n] + b{label}[j]",
        shapes=f"({W.shape[0]}×{X.shape[1]}) = ({W.shape[0]}×{W.shape[1]})·({W.shape[1]}×{X.shape[1]})",
        against="adjoint identity ⟨v, Jᵀu⟩ = ⟨Jv, u⟩", relative_error=_relative(abs(ahead - back), terms), index=None,
        expected=ahead, found=back, ok=bool(abs(ahead - back) <= allowed),
    )  # fmt: skip


def _activation_adjoint_row(net: Network, layer: int, forward_pass: ForwardPass, rng: np.random.Generator) -> Row:
    """⟨v, Jᵀu⟩ = ⟨Jv, u⟩ for ``A = f(Z)``: the slope against central differences of ``f``, unit by unit."""
    name = net.activations[layer]
    Z, A = forward_pass.pre_activations[layer], forward_pass.activations[layer + 1]
    u, v = rng.standard_normal(Z.shape), rng.uniform(0.5, 1, Z.shape)
    step = 1e-3
    if ACTIVATIONS[name].has_seam:
        v = np.where(np.abs(Z) > 2 * step, v, 0.0)  # a unit next to its kink has no derivative there
    wide, narrow = ((oracle_layer.activate(name, Z + e * v) - oracle_layer.activate(name, Z - e * v)) / (2 * e)
                    for e in (step, step / 2))  # fmt: skip
    ahead = float((u * (narrow + (narrow - wide) / 3)).sum())
    back = float((v * oracle_layer.activate_backward(name, Z, A, u)).sum())
    rounding = np.finfo(np.float64).eps * (np.abs(A) + np.abs(Z)) / step
    allowed = float((np.abs(u) * (np.abs(narrow - wide) + 8 * rounding)).sum()) + 1e-12 * np.abs(u).sum()
    label = f"{layer + 1}"
    return Row(
        layer=layer + 1, name=f"activate_backward {label}",
        formula=f"dZ{label}[j,n] = dA{label}[j,n] f'(Z{label}[j,n]), f = {name}",
        shapes=f"({Z.shape[0]}×{Z.shape[1]})", against="adjoint identity ⟨v, Jᵀu⟩ = ⟨Jv, u⟩",
        relative_error=_relative(abs(ahead - back), float(np.abs(u).sum())), index=None, expected=ahead, found=back,
        ok=bool(abs(ahead - back) <= allowed),
    )  # fmt: skip


def _taylor_rows(probe: _Probe, gradients: Sequence[Parameters]) -> list[Row]:
    """Per layer: what the first-order expansion leaves over falls with the square of the step."""
    return [_taylor_row(probe, gradients, layer) for layer in range(len(gradients))]


def _taylor_row(probe: _Probe, gradients: Sequence[Parameters], layer: int) -> Row:
    """The order at which the remainder falls, in a random direction within one layer.

    The larger of the remainders ahead and behind is taken: its second-order part cannot be cancelled by the third.
    """
    note, order, remainder = _ALL_KINKS, np.nan, 0.0
    for redrawn in range(_REDRAWS):
        direction = _nowhere(probe.net)
        moved = direction.parameters[layer]
        for part in moved:
            part[...] = probe.rng.standard_normal(part.shape)
        slope = float(sum((d * g).sum() for d, g in zip(moved, gradients[layer], strict=True)))
        found = _remainders(probe, direction, slope)
        if found is not None:
            steps, remainders = found
            rounding = probe.own_rounding.gradients[layer]
            own = sum((np.abs(d) * r).sum() for d, r in zip(moved, rounding, strict=True))
            order, remainder = _fitted_order(steps, remainders, _ROUNDING_FACTOR * (probe.noise + steps * own))
            note = f"redrawn {redrawn} times: a kink" if redrawn else ""
            break
    if np.isnan(order) and not note:
        note = "remainder at rounding level"
    ok = bool(np.isnan(order) or order >= _LEAST_ORDER)
    return Row(
        layer=layer + 1, name=f"Taylor rate {layer + 1}", formula="loss(θ + εv) = loss(θ) + ε⟨dθ, v⟩ + O(ε²)",
        shapes=f"{sum(part.size for part in gradients[layer])} parameters",
        against="order of the remainder: 2 or more", proved=note != _ALL_KINKS,
        relative_error=remainder, index=None, expected=2.0, found=order, ok=ok, note=note,
    )  # fmt: skip


_STEPS_OF_A_CURVE = 0.3 * 10.0 ** -np.arange(0, 9.5, 0.5)
"""In units of the step that changes a pre-activation by about 1."""

_RANDOM_CURVES = 3


def _curve_rows(
    probe: _Probe, gradients: Sequence[Parameters], extremes: Sequence[tuple[str, float, Sequence[Parameters]]]
) -> Iterator[tuple[Curve, Row]]:
    """Along random directions, and along the given ones; where all steps cross a kink there is none."""
    nowhere = np.zeros_like(probe.net.X)
    for k in range(_RANDOM_CURVES):
        direction, estimate, _ = _smooth_direction(probe, lambda: _anywhere(probe))
        if estimate is not None:
            yield _curve_and_row(probe, gradients, f"random direction {k + 1}", direction, estimate)
    for name, _, given in extremes:
        direction = _Direction(list(given), nowhere)
        estimate = probe.derivative(direction)
        if estimate is not None:
            yield _curve_and_row(probe, gradients, f"direction of the {name}", direction, estimate)


def _curve_and_row(
    probe: _Probe, gradients: Sequence[Parameters], name: str, direction: _Direction, estimate: _Estimate
) -> tuple[Curve, Row]:
    """The error at steps of every length, and the verdict, which is that of the best difference."""
    slope, own = _along(direction, gradients), probe.rounding_along(direction)
    steps, errors = [], []
    for step in map(float, probe.scale(direction) * _STEPS_OF_A_CURVE):
        (ahead, smooth), (behind, also_smooth) = (probe.moved(direction, sign * step) for sign in (1, -1))
        if smooth and also_smooth and np.isfinite(ahead - behind):
            steps.append(step)
            errors.append(abs((ahead - behind) / (2 * step) - slope))
    kept, found = np.array(steps), np.array(errors)
    rounding = probe.noise / kept + own
    order, _ = _fitted_order(kept, found, _ROUNDING_FACTOR * rounding)
    curve = Curve(name, kept, found, rounding, order, slope)
    difference, least = abs(slope - estimate.value), int(found.argmin())
    order_in_words = "all is rounding" if np.isnan(order) else f"falls with order {order:.2f}"
    row = Row(
        layer=0, name=f"V-curve, {name}", formula="(loss(θ + εv) - loss(θ - εv)) / 2ε = ⟨dθ, v⟩ + O(ε²)",
        shapes=_parameters_in_words(probe.net), against=f"V-curve, {name}",
        relative_error=_relative(difference, max(abs(slope), abs(estimate.value))), index=None,
        expected=estimate.value, found=slope, ok=bool(difference <= estimate.error + own),
        note=f"{order_in_words}, least {found[least]:.0e} at ε = {kept[least]:.0e}",
    )  # fmt: skip
    return curve, row


def _along(direction: _Direction, gradients: Sequence[Parameters]) -> float:
    """The slope along a direction."""
    return sum(
        float((v * g).sum())
        for dv, dg in zip(direction.parameters, gradients, strict=True)
        for v, g in zip(dv, dg, strict=True)
    )


def _parameters_in_words(net: Network) -> str:
    return f"{sum(W.size + b.size for W, b in net.parameters)} parameters"


def _anywhere(probe: _Probe) -> _Direction:
    """A random direction, of length 1, that moves all parameters."""
    direction = _nowhere(probe.net)
    arrays = [part for pair in direction.parameters for part in pair]
    for part in arrays:
        part[...] = probe.rng.standard_normal(part.shape)
    length = np.sqrt(sum(float((part**2).sum()) for part in arrays))
    for part in arrays:
        np.divide(part, length, out=part)
    return direction


def _eigenvalue_rows(probe: _Probe, extremes: Sequence[tuple[str, float, Sequence[Parameters]]]) -> Iterator[Row]:
    """The curvature along each eigenvector against differences of gradients."""
    largest = max((abs(eigenvalue) for _, eigenvalue, _ in extremes), default=0.0)
    for name, eigenvalue, given in extremes:
        direction = _Direction(list(given), np.zeros_like(probe.net.X))
        estimate = probe.second_derivative(direction)
        # the products themselves are rounded, in proportion to the largest
        own = _ROUNDING_FACTOR * float(np.finfo(np.float64).eps) * largest
        expected, ok, note = eigenvalue, True, "every step crosses a kink"
        if estimate is not None:
            expected, note = estimate.value, ""
            ok = bool(abs(eigenvalue - expected) <= estimate.error + own)
        yield Row(
            layer=0, name=f"eigenvalue, {name}", formula="H v = λ v", shapes=_parameters_in_words(probe.net),
            proved=estimate is not None,
            against=f"differences of gradients, {name}", index=None, expected=expected, found=eigenvalue, ok=ok,
            relative_error=_relative(abs(eigenvalue - expected), largest), note=note,
        )  # fmt: skip


_ALL_KINKS = "every direction crosses a kink"

_LEAST_ORDER = 1.9
"""Order 2 up to what the fit may be off; a wrong gradient has order 1."""

_FITTED = 5
"""Steps that the order is fitted over: the smallest whose remainder stands clear of rounding."""


def _remainders(probe: _Probe, direction: _Direction, slope: float) -> tuple[Array, Array] | None:
    """Step lengths, and what the first-order expansion leaves over; None if too few steps stay clear of a kink."""
    steps = probe.scale(direction) * 1e-1 * 0.5 ** np.arange(30)
    kept, remainders = [], []
    for step in steps:
        moved = [(sign * step, *probe.moved(direction, sign * step)) for sign in (1.0, -1.0)]
        if all(smooth and np.isfinite(loss) for _, loss, smooth in moved):
            kept.append(step)
            remainders.append(max(abs(loss - probe.loss - signed * slope) for signed, loss, _ in moved))
    if len(kept) < _FITTED:
        return None
    return np.array(kept), np.array(remainders)


def _fitted_order(steps: Array, remainders: Array, rounding: Array) -> tuple[float, float]:
    """The slope of log remainder over log step, and the smallest remainder used; NaN if all is rounding."""
    clear = np.flatnonzero(remainders > rounding)[-_FITTED:]
    if clear.size < 3:
        return np.nan, float(remainders.min())
    x, y = np.log(steps[clear]), np.log(remainders[clear])
    return float(np.polyfit(x - x.mean(), y, 1)[0]), float(remainders[clear[-1]])


# ------------------------------------------------------------------------------------------------------------------
# link 3: compiled code against the oracle, by the rounding model


def _growth(terms: int, unit: float) -> float:
    """How far a sum of products may be off, relative to the sum of their sizes.

    The certain bound is ``terms × unit`` (Higham, section 3.1). The root is what independent roundings do; 6 of them
    are exceeded once in a billion sums.
    """
    return min(terms, 6 * np.sqrt(terms)) * unit


def _rounding_rows(
    net: Network,
    forward_pass: ForwardPass,
    gradients: Sequence[Parameters],
    input_gradient: Array,
    computed: Computed,
) -> list[Row]:
    bounds = rounding_bounds(net, forward_pass, computed.dtype, _FLOAT64)
    rows = []
    compared: list[tuple[int, int, Array, Any, Array]] = [
        (layer, part, expected, computed.gradients[layer][part], bounds.gradients[layer][part])
        for layer, part, expected in _arrays(gradients)
    ]
    if computed.input_gradient is not None:
        compared.append((0, _INPUT, input_gradient, computed.input_gradient, bounds.of_entering[0]))
    for layer, part, expected, array, bound in compared:
        found = np.asarray(array, np.float64)
        difference = np.abs(found - expected)
        excess = np.where(np.isfinite(difference), difference / bound, np.inf)
        index = tuple(int(k) for k in np.unravel_index(int(excess.argmax()), excess.shape))
        rows.append(_row(
            net, layer, part, f"{computed.dtype} kernels, rounding model",
            relative_error=_relative(float(difference.max()), float(np.abs(expected).max())), index=index,
            expected=float(expected[index]), found=float(found[index]), ok=bool(excess[index] <= 1),
            note=f"{excess[index]:.0%} of what rounding explains",
        ))  # fmt: skip
    return rows


def rounding_bounds(net: Network, forward_pass: ForwardPass, *dtypes: np.dtype) -> BackwardPass:
    """How far each entry of each gradient may be off, in the place of that gradient, if it is computed in a dtype.

    Of two dtypes: how far what they compute may be apart. The errors ``e…`` are carried through the very steps of
    forward and backward, each adding its own rounding.
    """
    unit = float(sum(np.finfo(dtype).eps / 2 for dtype in dtypes))
    tiny = float(max(np.finfo(dtype).tiny for dtype in dtypes))
    eZ, eA = _forward_errors(net, forward_pass, unit, tiny)
    eX = [eA[0], *(_masked_errors(forward_pass, k, eA[k + 1], unit) for k in range(len(eA) - 1))]
    e, dZ = _output_gradient_errors(net, forward_pass, eZ[-1], eA[-1], unit, tiny)
    samples = net.X.shape[1]
    bounds = BackwardPass([], [], [])
    for layer in reversed(range(len(net.parameters))):
        W, X = net.parameters[layer].weights, forward_pass.entering(layer)
        own = _growth(samples + 2, unit)
        eW = e @ np.abs(X).T + (np.abs(dZ) + e) @ eX[layer].T + own * (np.abs(dZ) @ np.abs(X).T)
        eb = e.sum(axis=1) + own * np.abs(dZ).sum(axis=1)
        eW, eb = eW + samples * tiny, eb + samples * tiny
        if net.penalty.l1 or net.penalty.l2:
            eW, eb = eW + _penalty_errors(net.penalty, W, unit), eb + _penalty_errors(net.penalty, W[:, 0], unit)
        dA = W.T @ dZ
        e_dA = np.abs(W).T @ e + _growth(W.shape[0] + 2, unit) * (np.abs(W).T @ np.abs(dZ)) + tiny
        bounds.gradients.insert(0, Parameters(eW, eb))
        bounds.of_pre_activations.insert(0, e)
        bounds.of_entering.insert(0, e_dA)
        if layer > 0:
            mask = forward_pass.mask(layer - 1)
            dA, e_dA = mask * dA, mask * (e_dA + 2 * unit * np.abs(dA))
            name, Z, A = (
                net.activations[layer - 1],
                forward_pass.pre_activations[layer - 1],
                forward_pass.activations[layer],
            )
            dZ = oracle_layer.activate_backward(name, Z, A, dA)
            slope, e_slope = _slope_errors(name, Z, A, eZ[layer - 1], unit)
            e = slope * e_dA + (np.abs(dA) + e_dA) * e_slope + 2 * unit * np.abs(dZ) + tiny
    return bounds


def _masked_errors(forward_pass: ForwardPass, layer: int, eA: Array, unit: float) -> Array:
    """Errors of what is left of a layer's activations: the mask's scale is rounded, and the product."""
    if forward_pass.masks is None or layer >= len(forward_pass.masks) or forward_pass.masks[layer] is None:
        return eA
    mask = forward_pass.mask(layer)
    return mask * (eA + 2 * unit * np.abs(forward_pass.activations[layer + 1]))


def _penalty_errors(penalty: Penalty, w: Array, unit: float) -> Array:
    """Errors of adding the gradient of the penalty: its factors are rounded, the product, and the sum."""
    return 4 * unit * (penalty.l1 + penalty.l2 * np.abs(w))


def _forward_errors(
    net: Network, forward_pass: ForwardPass, unit: float, tiny: float
) -> tuple[list[Array], list[Array]]:
    """Errors of the pre-activations, and of the activations (of ``X`` first: none)."""
    eZ: list[Array] = []
    eA = [np.zeros_like(net.X)]
    for layer, (W, b) in enumerate(net.parameters):
        X, Z = forward_pass.entering(layer), forward_pass.pre_activations[layer]
        sizes = np.abs(W) @ np.abs(X) + np.abs(b)[:, np.newaxis]
        eX = _masked_errors(forward_pass, layer - 1, eA[-1], unit) if layer else eA[-1]
        eZ.append(np.abs(W) @ eX + _growth(W.shape[1] + 2, unit) * sizes + tiny)
        name, A = net.activations[layer], forward_pass.activations[layer + 1]
        if name == "exp":
            eA.append(A * (np.expm1(eZ[-1]) + _ULPS * unit) + tiny)
        elif name in ACTIVATIONS:
            bend, steepest = ACTIVATIONS[name].bend, ACTIVATIONS[name].steepest
            slope = np.abs(ACTIVATIONS[name].slope(Z, A))
            curved = slope * eZ[-1] + bend / 2 * eZ[-1] ** 2 if np.isfinite(bend) else np.inf
            eA.append(np.minimum(steepest * eZ[-1], curved) + _ULPS * unit * np.abs(A) + tiny)
        else:
            eA.append(np.full_like(A, np.inf))  # softmax: its loss is a function of Z
    return eZ, eA


_ULPS = 8
"""Units of rounding that an activation or a loss gradient adds by itself: twice what is measured of them."""


def _slope_errors(name: str, Z: Array, A: Array, eZ: Array, unit: float) -> tuple[Array, Array]:
    """The slope's size, and its error: by the bend; where a kink is within reach, the whole slope."""
    if name == "exp":
        return A, A * (np.expm1(eZ) + _ULPS * unit)
    bend, steepest = ACTIVATIONS[name].bend, ACTIVATIONS[name].steepest
    slope = np.abs(ACTIVATIONS[name].slope(Z, A))
    if np.isinf(bend):
        return slope, np.where(np.abs(Z) <= eZ, steepest, 0.0)
    # a slope such as 1 - a² is computed from a rounded a: its error is relative to 1, not to itself
    return slope, np.minimum(bend * eZ, 2 * steepest) + (_ULPS * unit * steepest if bend else 0.0)


def _output_gradient_errors(
    net: Network, forward_pass: ForwardPass, eZ: Array, eA: Array, unit: float, tiny: float
) -> tuple[Array, Array]:
    """Error of ``dZ`` of the last layer, and ``dZ`` itself."""
    shares, name, loss = network.shares(net.X.shape[1], net.sample_weight), net.activations[-1], net.loss
    Z, A = forward_pass.pre_activations[-1], forward_pass.activations[-1]
    dZ = network.output_gradient(forward_pass, net.Y, activation=name, loss=loss, sample_weight=net.sample_weight)
    if not loss.of_pre_activations:
        dA = np.abs(loss.of(A, net.Y)[1])
        slope, e_slope = _slope_errors(name, Z, A, eZ, unit)
        e = slope * (_error_gradient_errors(net, A, eA, unit) + unit * dA) + (dA + eA) * e_slope
    elif loss.name == "softmax_cross_entropy":
        S = np.abs((1 - (loss.setting or 0.0)) * net.Y) + (loss.setting or 0.0) / len(Z)
        total = S.sum(axis=0)
        moved = _softmax_errors(Z, A, eZ, unit)
        e = total * moved + 4 * unit * (total * A + S) + _growth(Z.shape[0], unit) * total * A
    elif loss.name == "poisson":
        e = A * (np.expm1(eZ) + _ULPS * unit) + unit * (A + np.abs(net.Y))
    else:
        e = np.minimum(0.25, A * (1 - A) + 0.1 * eZ) * eZ + _ULPS * unit * A + unit * (A + np.abs(net.Y))
    return shares * e + 4 * unit * np.abs(dZ) + tiny, dZ


def _softmax_errors(Z: Array, A: Array, eZ: Array, unit: float) -> Array:
    """Errors of the softmax: ``∂A_j/∂Z_k`` is ``A_j (δ_jk - A_k)``; and ``Z - max``, in the exponent, is rounded."""
    moved = A * (eZ + (A * eZ).sum(axis=0)) + eZ**2 + (_ULPS + _growth(Z.shape[0], 1)) * unit * A
    return moved + A * unit * (np.abs(Z) + np.abs(Z).max(axis=0))


def _error_gradient_errors(net: Network, A: Array, eA: Array, unit: float) -> Array:
    """Errors of ``dA`` of a loss that is a function of the error ``A - Y``; of one's own loss, as it moves with A."""
    if net.loss.name not in losses.LOSSES:
        at_rest = net.loss.of(A, net.Y)[1]
        moved = [np.abs(net.loss.of(A + sign * eA, net.Y)[1] - at_rest) for sign in (1.0, -1.0)]
        return np.maximum(*moved) + _ULPS * unit * np.abs(at_rest)
    reach = eA + unit * (np.abs(A - net.Y) + np.abs(A) + np.abs(net.Y))
    return np.where(np.abs(A - net.Y) <= reach, net.loss.jump, 0.0) if net.loss.jump else reach
