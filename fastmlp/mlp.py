"""class MLP: checks what comes in, owns the workspaces, calls the kernels.

This is the one seam where the orientation turns: outside, a sample is a *row*; inside (oracle and kernels) a sample is
a *column*.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import (
    arguments,
    checks,
    distributed,
    files,
    fitting,
    predicting,
    rows,
    settings,
    stepping,
    threads,
    training,
)  # fmt: skip
from fastmlp import curvature as curvatures
from fastmlp import verify as proof
from fastmlp.buffers import Objective, Workspace, aligned
from fastmlp.kernels import (
    calls,
    columns,
    derivatives,
    dropout,
    embedded,
    layout,
    network,
    optimizers,
    prediction,
    simd,
)
from fastmlp.kernels.layout import NO_ORDER
from fastmlp.moved import MovedPass
from fastmlp.oracle import derivatives as oracle_derivatives
from fastmlp.oracle import dropout as oracle_dropout
from fastmlp.oracle import network as oracle
from fastmlp.oracle.losses import LOSSES
from fastmlp.oracle.network import Parameters, initialize
from fastmlp.pacing import Paces
from fastmlp.stepping import DIVERGED, Run
from fastmlp.trainee import Trainee

if TYPE_CHECKING:
    from fastmlp.explain import Explanation

Array = NDArray[Any]  # float64 or float32, as the network is

_ROWS_AT_ONCE = 1024
"""Samples of one call of compiled code in ``loss``: its memory does not grow with the data."""


class Gradients(list[Parameters]):
    """Gradients of the loss: ``(weights, biases)`` pairs like the parameters, and ``vector``, all of them in one."""

    def __init__(self, pairs: Sequence[Parameters], vector: Array) -> None:
        super().__init__(pairs)
        self.vector = vector


_alive: weakref.WeakSet[MLP] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Free the networks that threads of the parent were training: nobody would ever give their locks back.

    What has been prepared looks at the old lock.
    """
    for mlp in _alive:
        mlp._lock = threading.RLock()
        stepping.forget(mlp)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class MLP:
    """A multilayer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int
        Widths of the input, of each hidden layer and of the output, such as ``[3, 4, 4, 2]``.
    hidden_activation : str or sequence of str
        One name for all hidden layers, or one name for each: "identity", "sigmoid", "tanh", "relu", "leaky_relu",
        "elu", "softplus", "silu", "gelu".
    output_activation : str, optional
        By default it follows the loss: "identity", "sigmoid", "softmax" or "exp". ``predict`` returns it. The two
        cross-entropies and ``poisson`` have no other; the other losses take any of the hidden activations too.
    loss : str or object or function
        The mean over samples of the sum over outputs: "squared_error" (half of the squared distance),
        "absolute_error", "huber" or ``Huber(threshold)``, "quantile" or ``Quantile(q)``, "poisson" (counts, with a
        logarithmic link), "binary_cross_entropy" (each output by itself), "softmax_cross_entropy" or
        ``SoftmaxCrossEntropy(label_smoothing)``. Or your own function of predictions and targets, both as rows, that
        returns the loss and its gradient with respect to the predictions.
    penalty : Penalty, optional
        What is added to the loss for large weights.
    dropout : float or sequence of float
        The part of the units of each hidden layer, one for all or one for each, that is set to 0 in every training
        step (``fit``, ``train_step``), another part each time; the others are scaled up. Predictions, losses and
        gradients otherwise are of the whole network. Which units it is follows from ``rng``, the step, the layer, the
        unit and the sample's place in the minibatch.
    weight_scale : float or "glorot" or "he"
        Standard deviation of the normal initial weights; "glorot" is ``sqrt(2 / (inputs + outputs))``, "he" is
        ``sqrt(2 / inputs)``. Biases begin at 0.
    dtype : dtype
        float64 or float32: of parameters and of all computation.
    rng : None, int or numpy.random.Generator
        Where initial weights and the order of samples come from. The same seed on the same machine gives the
        same bits, at any number of threads.
    n_threads : int, optional
        At most so many threads. By default it is chosen from the size of the work, and from how many other threads of
        the process are training or predicting: they share the processors.
    verify : bool
        For debugging: check every backward pass against the oracle, and raise ``GradientMismatch`` if it is wrong.
        Slow.

    Attributes
    ----------
    config : dict
        What the network was made with, the drawn seed included: ``MLP(**mlp.config)`` makes it again.

    Raises
    ------
    TypeError, ValueError
        Of each argument that does not fit, naming it, what came and what was expected.

    Notes
    -----
    One model may be used by many threads: ``predict`` and ``loss`` run side by side, calls that change the model wait
    for each other.

    References
    ----------
    .. [1] Goodfellow, Bengio & Courville, *Deep Learning*, MIT Press 2016, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmlp
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 2))
    >>> Y = np.sin(X[:, :1]) * X[:, 1:]
    >>> mlp = fastmlp.MLP([2, 16, 1], hidden_activation="tanh", rng=0)
    >>> history = mlp.fit(X, Y, epochs=200, batch_size=50, learning_rate=0.02, progress=False)
    >>> mlp.predict(X).shape
    (200, 1)
    >>> bool(history.loss[-1] < 0.1 * history.loss[0])
    True
    >>> mlp.verify(X, Y).ok
    True
    """

    config: dict[str, Any]

    def __init__(
        self,
        layer_sizes: Sequence[int],
        *,
        hidden_activation: str | Sequence[str] = "sigmoid",
        output_activation: str | None = None,
        loss: str | settings.Loss | settings.OwnLoss = "squared_error",
        penalty: settings.Penalty | None = None,
        dropout: float | Sequence[float] = 0.0,
        weight_scale: float | str = "glorot",
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        n_threads: int | None = None,
        verify: bool = False,
    ) -> None:
        sizes = checks.layer_sizes(layer_sizes)
        activations = arguments.activations(
            hidden_activation, output_activation, settings.loss_name(loss), len(sizes) - 1
        )
        if not (penalty is None or isinstance(penalty, settings.Penalty)):
            raise TypeError(f"penalty must be None or a fastmlp.Penalty; got {penalty!r}")
        if penalty is not None and penalty.divided_by_samples and settings.loss_name(loss) == "own":
            raise ValueError(
                f"penalty must not be divided by samples beside a loss of your own, which is a mean; got {penalty!r}"
            )
        arguments.check_weight_scale(weight_scale)
        if n_threads is not None:
            n_threads = checks.integer("n_threads", n_threads)
        verify = arguments.flag("verify", verify)
        seed, self._rng = arguments.generator(rng)
        self.config = {
            "layer_sizes": sizes,
            "hidden_activation": hidden_activation if isinstance(hidden_activation, str) else tuple(activations[:-1]),
            "output_activation": output_activation,
            "loss": loss,
            "penalty": penalty,
            "dropout": arguments.dropout(dropout, len(sizes) - 2),
            "weight_scale": weight_scale,
            "dtype": arguments.dtype_name(dtype),
            "rng": seed,
            "n_threads": n_threads,
            "verify": verify,
        }
        self._set_up()
        self._flatten(initialize(sizes, self._rng, weight_scale), self._vector)

    def _set_up(self) -> None:
        """Make everything that follows from the configuration."""
        self._sizes: tuple[int, ...] = self.config["layer_sizes"]
        self._loss: str = settings.loss_name(self.config["loss"])
        self._objective = self._make_objective()
        self._activations = arguments.activations(
            self.config["hidden_activation"], self.config["output_activation"], self._loss, len(self._sizes) - 1
        )
        self._dtype = np.dtype(self.config["dtype"])
        layers = list(zip(self._sizes[:-1], self._sizes[1:], strict=True))
        n_parameters = sum((inputs + 1) * outputs for inputs, outputs in layers)
        self._shape_of_one, self._shape_of_output = (1, self._sizes[0]), (1, self._sizes[-1])
        self._vector = aligned(n_parameters, self._dtype)
        self._gradient = aligned(n_parameters, self._dtype)
        self._memory = aligned(2 * n_parameters, self._dtype)
        self._counts = aligned(columns.MEMORY + 1, np.dtype(np.int64))
        self._counts[columns.MEMORY] = calls.address(self._memory)
        self._optimizer_code = optimizers.NO_UPDATE
        self._rate_factor = 1.0  # by which ReduceOnPlateau has reduced the rate
        self._last_step: stepping.Step | None = None
        self._limited = 1.0  # by what the last gradient was multiplied, to limit its norm
        self._penalties = 0.0  # what part of the losses of training steps, times their weights, was the penalty's
        self._block = simd.VECTORS * (simd.VECTOR_BYTES // self._dtype.itemsize)
        self._lock = threading.RLock()
        of_network = tuple(self._activations), any(self._objective.dropout)
        self._pace = Paces(self._sizes, self._dtype, self.config["n_threads"], of_network)
        self._free: list[Workspace] = []  # list.append and list.pop are atomic
        self._prepared: stepping.Prepared | None = None
        self._pass: tuple[Workspace, int] | None = None  # the last forward pass and its number of samples
        self._pass_version = -1  # of the parameters that it used
        _alive.add(self)  # when all is there that a fork may meet

    def _make_objective(self) -> Objective:
        """What training makes small, for the kernels."""
        penalty: settings.Penalty = self.config["penalty"] or settings.Penalty()
        penalties = float(penalty.l1), float(penalty.l2), bool(penalty.biases)
        rates = self.config["dropout"]
        dropped = tuple(rates) if isinstance(rates, tuple) else (rates,) * (len(self._sizes) - 2)
        key = arguments.dropout_key(self.config["rng"]) if any(dropped) else (0, 0)
        own = self._loss == "own"
        name, setting = (None, 0.0) if own else (self._loss, settings.loss_setting(self.config["loss"]))
        return Objective(name, setting, *penalties, dropped, key, bool(penalty.divided_by_samples))

    def _masks(self, dropout_step: int, n_samples: int) -> list[Any] | None:
        """The oracle's masks of hidden layers in a step; None if nothing is dropped."""
        if dropout_step == dropout.NOTHING_DROPPED or not any(self._objective.dropout):
            return None
        thresholds = [round(rate * oracle_dropout.WORDS) for rate in self._objective.dropout]
        return [
            oracle_dropout.mask(
                threshold, *self._objective.key, dropout_step, layer, self._sizes[layer + 1], n_samples
            )
            if threshold
            else None
            for layer, threshold in enumerate(thresholds)
        ]

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[Parameters]:
        """``(weights, biases)`` of each layer, of shapes (outputs, inputs) and (outputs,): read-only views.

        Assign a list of pairs of the same shapes to change them; the optimizer then starts afresh.
        """
        return self._pairs(_read_only(self._vector))

    @parameters.setter
    def parameters(self, pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> None:
        self.parameter_vector = self._checked_vector("parameters", pairs)

    @property
    def parameter_vector(self) -> Array:
        """All parameters in one vector, layer by layer, weights row by row, then biases: a read-only view."""
        return _read_only(self._vector)

    @parameter_vector.setter
    def parameter_vector(self, vector: ArrayLike) -> None:
        checked = self._checked_vector("parameter_vector", vector)
        with self._lock:
            self._assign(checked)

    def _assign(self, vector: Array) -> None:
        """Take other parameters."""
        self._parameters_changed()  # before, too: Ctrl-C may come between
        self._vector[:] = vector
        self._forget()

    def _forget(self) -> None:
        """The optimizer starts afresh, and the last forward pass is of other parameters."""
        self._memory[:] = 0
        self._counts[columns.STEPS] = 0
        self._rate_factor = 1.0
        self._parameters_changed()

    @property
    def _steps(self) -> int:
        """How many steps the optimizer has taken whose memory the model has."""
        return int(self._counts[columns.STEPS])

    def _parameters_changed(self) -> None:
        """What was computed from the parameters before is no longer current."""
        self._counts[columns.VERSION] += 1

    def _pairs(self, vector: Array) -> list[Parameters]:
        """Views of a vector as (weights, biases) pairs."""
        return oracle.split(vector, self._sizes)

    def _flatten(self, pairs: Sequence[tuple[Array, Array]], vector: Array) -> None:
        for (weights, biases), views in zip(pairs, self._pairs(vector), strict=True):
            views.weights[:], views.biases[:] = weights, biases

    def _checked_vector(self, name: str, value: Any) -> Array:
        """Return a new vector from a vector or from pairs, in the shape of the parameters and finite."""
        vector = np.empty_like(self._vector)
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype != object:
            given = checks.numbers(name, value, self._dtype)
            if given.shape != vector.shape:
                raise ValueError(f"{name} must have shape {vector.shape}; got {given.shape}")
            vector[:] = given
        else:
            self._check_pairs(name, value, vector)
        if not np.isfinite(vector).all():
            raise checks.not_finite(name, vector)
        return vector

    def _check_pairs(self, name: str, value: Any, vector: Array) -> None:
        views = self._pairs(vector)
        try:
            pairs = [(weights, biases) for weights, biases in value]
        except (TypeError, ValueError):
            expected = f"{len(views)} (weights, biases) pairs"
            raise TypeError(f"{name} must be {expected}; got {type(value).__name__}") from None
        if len(pairs) != len(views):
            raise ValueError(f"{name} must be {len(views)} (weights, biases) pairs; got {len(pairs)}")
        for index, (pair, view) in enumerate(zip(pairs, views, strict=True)):
            for part, given, into in zip(Parameters._fields, pair, view, strict=True):
                array = checks.numbers(f"{name}[{index}].{part}", given, self._dtype)
                if array.shape != into.shape:
                    raise ValueError(f"{name}[{index}].{part} must have shape {into.shape}; got {array.shape}")
                into[:] = array

    # -- the original's three steps --------------------------------------------------------------------------------

    def predict(self, X: ArrayLike) -> Array:
        """Output of the network for each sample.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            Probabilities after a sigmoid or softmax output.
        """
        output = predicting.again(self, X)
        return predicting.anew(self, X) if output is None else output

    def compiled(self) -> Callable[[Any, Any], None]:
        """Make a function that compiled code of your own can call: a prediction without Python and without memory.

        It holds the parameters as they are now: after more training, make another one. Any number of threads may call
        it at once. Its first call compiles it, in half a second, and so does the first one in another process to which
        it, or what calls it, is sent pickled: the code belongs to its process, and Numba caches nothing that calls it.

        Returns
        -------
        function
            Of ``x`` and ``out``, C-ordered arrays of the network's dtype, compiled by ``numba.njit``. ``x`` has shape
            (n_features,) or (n_samples, n_features); what ``predict`` returns is written to ``out``, of shape
            (n_outputs,) or (n_samples, n_outputs), to the same bits. Other shapes raise ``ValueError``. NaN and
            infinite values are not looked for: what comes of them is written.

        Raises
        ------
        ValueError
            If the layers are so wide that a prediction does not fit on the caller's stack (512 KB).

        Examples
        --------
        >>> import fastmlp, numba, numpy as np
        >>> mlp = fastmlp.MLP([1, 8, 1], hidden_activation="tanh", rng=0)
        >>> rate = mlp.compiled()
        >>> @numba.njit
        ... def simulate(steps):
        ...     x, change = np.ones(1), np.empty(1)
        ...     for _ in range(steps):
        ...         rate(x, change)
        ...         x -= 0.01 * change
        ...     return x[0]
        >>> x = np.ones((1, 1))
        >>> for _ in range(100):
        ...     x -= 0.01 * mlp.predict(x)
        >>> bool(simulate(100) == x[0, 0])
        True
        """
        workspace = self._borrow(1)
        plan, arena_size = workspace.for_prediction()
        if 2 * arena_size * self._dtype.itemsize > embedded.MOST_STACK:
            raise ValueError(
                f"compiled() needs layers that fit on a stack, {embedded.MOST_STACK} bytes; got {self!r}, of which a"
                f" prediction takes {2 * arena_size * self._dtype.itemsize}"
            )
        with self._lock:
            parameters = self._vector.copy()
        panels = np.empty_like(workspace.panels)
        prediction.write_panels(plan, parameters, panels)
        self._free.append(workspace)
        return embedded.embedded(embedded.Prediction(plan, parameters, panels, arena_size))

    def forward(self, X: ArrayLike) -> Array:
        """Forward pass that is remembered, for :attr:`activations` and :meth:`backward`.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            What ``predict`` returns.
        """
        X = checks.samples("X", X, self._sizes[0], self._dtype)
        with self._lock:
            self._forward(X)
            return self._activation(len(self._sizes) - 1)

    def _forward(self, X: Array, dropout_step: int = dropout.NOTHING_DROPPED) -> None:
        count, version = X.shape[0], int(self._counts[columns.VERSION])
        workspace = self._borrow(count)
        with self._pace.measured(count, "forward") as n_threads:
            status = network.forward(  # type: ignore[no-untyped-call]
                *self._of(workspace, n_threads), rows.flat(X), NO_ORDER, 0, count, dropout_step, run=workspace.train
            )
        if status == columns.X_NOT_FINITE:  # a loss, or a penalty, is none of this pass
            self._free.append(workspace)
            raise checks.not_finite("X", X)
        last, self._pass, self._pass_version = self._pass, (workspace, count), version
        if last is not None:
            self._free.append(last[0])

    @property
    def activations(self) -> list[Array]:
        """What the last :meth:`forward` computed: ``X``, then the activations of each layer, as rows."""
        with self._lock:
            return [self._activation(k) for k in range(len(self._sizes))]

    def _activation(self, k: int) -> Array:
        """The activations of a layer in the last forward pass, as rows: of layer ``k``, from 1; ``X`` for 0."""
        workspace, count = self._last_pass()
        place = workspace.plan[k - 1, columns.A] if k > 0 else workspace.plan[0, columns.X]
        blocks = workspace.view(place, self._sizes[k], count)
        return np.ascontiguousarray(layout.from_sample_blocks(blocks, count).T)

    def backward(self, Y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Gradients:
        """Backward pass of the last :meth:`forward`.

        Parameters
        ----------
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        Gradients
            Of the loss, ``(weights, biases)`` pairs in the shape of the parameters.

        Raises
        ------
        RuntimeError
            If there was no forward pass, or if the parameters have changed since.
        """
        with self._lock:
            workspace, count = self._last_pass()
            if self._pass_version != self._counts[columns.VERSION]:
                raise RuntimeError("backward needs a forward pass of the present parameters: call forward(X) first")
            targets = self._weighted(self._targets("Y", Y, count, self._dtype), count, sample_weight)
            given = targets
            if self._loss == "own":
                predictions = self._activation(len(self._sizes) - 1)
                with self._passing():  # the loss may use the model
                    given = self._own_gradient(predictions, targets)[1]
            gradients = self._backward(workspace, count, given)[1]
            if self.config["verify"]:
                self._verify(self._activation(0), targets, gradients, thorough=False).raise_if_failed()
            return gradients

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """A pass of one's own: the last forward pass from before is there again afterwards. Under the lock."""
        kept = self._pass, self._pass_version
        self._pass = None
        try:
            yield
        finally:
            own: tuple[Workspace, int] | None = self._pass
            if own is not None:
                self._free.append(own[0])
            self._pass, self._pass_version = kept

    def _last_pass(self) -> tuple[Workspace, int]:
        if self._pass is None:
            raise RuntimeError("there has been no forward pass: call forward(X) first")
        return self._pass

    def _backward(
        self, workspace: Workspace, count: int, targets: checks.Targets, dropout_step: int = dropout.NOTHING_DROPPED
    ) -> tuple[float, Gradients]:
        vector = np.zeros_like(self._vector)
        with self._pace.measured(count, "backward") as n_threads:
            status, loss = network.backward(  # type: ignore[no-untyped-call]
                *self._of(workspace, n_threads), rows.flat(targets.values), targets.labels, targets.weights,
                NO_ORDER, 0, count, dropout_step, vector, run=workspace.train,
            )  # fmt: skip
        self._raise_for(status, Y=targets.values)
        return loss, self._gradients(vector, status)

    def _gradients(self, vector: Array, status: int) -> Gradients:
        """Gradients in one vector, as pairs too: NaN if the loss is not finite."""
        if status != columns.FINITE:
            vector[:] = np.nan
        return Gradients(self._pairs(vector), vector)

    def loss_and_gradients(
        self, X: ArrayLike, Y: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Gradients]:
        """Loss, and its gradient with respect to every parameter.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        loss : float
        gradients : Gradients
            ``(weights, biases)`` pairs in the shape of the parameters; ``gradients.vector`` is all of them in one.
        """
        X, targets = self._data(X, Y, sample_weight)
        loss, gradients = self._loss_and_gradients(X, targets)
        if self.config["verify"]:
            self._verify(X, targets, gradients, thorough=False).raise_if_failed()
        return loss, gradients

    def _loss_and_gradients(
        self, X: Array, targets: checks.Targets, dropout_step: int = dropout.NOTHING_DROPPED
    ) -> tuple[float, Gradients]:
        """Both regions of a training step, without the update."""
        if self._loss == "own":
            return self._own_loss_and_gradients(X, targets, dropout_step)
        vector = np.zeros_like(self._vector)
        workspace, count = self._borrow(X.shape[0]), X.shape[0]
        with self._pace.measured(count, "gradient") as n_threads:
            crew, *others = self._of(workspace, n_threads)
            status, total, _ = workspace.train(
                crew, network.ALL_PASSES, *others, vector, vector, rows.flat(X), rows.flat(targets.values),
                targets.labels, targets.weights, NO_ORDER, count, count, 0, 1, optimizers.NO_UPDATE,
                optimizers.NO_SETTINGS, dropout_step + 1, 0.0, network.ONE_EPOCH,
            )  # fmt: skip
        self._free.append(workspace)
        self._raise_for(status, X=X, Y=targets.values)
        weight = targets.total_weight(count)  # of some rows, which may weigh nothing
        return total / weight if weight > 0 else 0.0, self._gradients(vector, status)

    def loss(self, X: ArrayLike, Y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
        """Loss: the mean over samples, and the penalty. Arguments as in :meth:`loss_and_gradients`."""
        X, targets = self._data(X, Y, sample_weight)
        return self._loss_value(X, targets)

    def _loss_value(self, X: Array, targets: checks.Targets) -> float:
        if self._loss == "own":
            return self._own_gradient(self.predict(X), targets)[0] + self._penalty(1.0)
        total, all_weight, penalties = 0.0, 0.0, 0.0
        workspace = self._borrow(min(X.shape[0], _ROWS_AT_ONCE))
        try:
            for first in range(0, X.shape[0], _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, X.shape[0] - first)
                with self._pace.measured(count, "loss") as n_threads:
                    status, loss = network.loss_value(  # type: ignore[no-untyped-call]
                        *self._of(workspace, n_threads), rows.flat(X), rows.flat(targets.values), targets.labels,
                        targets.weights, NO_ORDER, first, count, run=workspace.train,
                    )  # fmt: skip
                self._raise_for(status, X=X, Y=targets.values)
                weight = workspace.report[columns.BATCH, columns.TOTAL_WEIGHT]
                total += loss * weight
                all_weight += weight
                penalties += workspace.report[columns.PENALTY, columns.PENALTIES]
        finally:
            self._free.append(workspace)
        if self._objective.divides_penalty:  # each part's rows had all of it to themselves
            total += self._penalty(all_weight) * all_weight - penalties
        return float(total / all_weight)

    def _penalty(self, total_weight: float) -> float:
        """The penalty beside the mean over samples of so much weight."""
        return oracle.penalty_value(self._pairs(self._vector), self._oracle_penalty(total_weight))

    def _oracle_penalty(self, total_weight: float) -> oracle.Penalty:
        o = self._objective
        part = 1.0
        if o.divides_penalty:
            part = 1 / total_weight if total_weight > 0 else 0.0
        return oracle.Penalty(o.l1 * part, o.l2 * part, o.biases)

    # -- derivatives for their own sake ----------------------------------------------------------------------------

    def input_gradient(self, X: ArrayLike, Y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Array:
        """Gradient of the loss with respect to the input.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            By how much the loss, the mean over all samples, changes with each number in ``X``.

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
        >>> mlp = fastmlp.MLP([3, 4, 2], rng=0)
        >>> gradient = mlp.input_gradient(X, Y)
        >>> change = mlp.loss(X - 0.001 * gradient, Y) - mlp.loss(X, Y)
        >>> bool(np.isclose(change, -0.001 * (gradient**2).sum(), rtol=0.01))
        True
        """
        X, targets = self._data(X, Y, sample_weight)
        if self._loss == "own":
            targets = self._own_gradient(self.predict(X), targets)[1]
        output = np.empty_like(X)
        self._derive(derivatives.input_gradient, X, output, targets)
        return output

    def per_sample_gradients(self, X: ArrayLike, Y: ArrayLike) -> Array:
        """Gradient of each sample's own loss with respect to every parameter.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.

        Returns
        -------
        ndarray of shape (n_samples, n_parameters)
            In the order of :attr:`parameter_vector`. The mean of the rows is the gradient of the loss, without the
            penalty, which is none of a sample's.

        Raises
        ------
        ValueError
            With a loss of your own, which tells nothing of single samples.

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
        >>> mlp = fastmlp.MLP([3, 4, 2], rng=0)
        >>> rows = mlp.per_sample_gradients(X, Y)
        >>> rows.shape
        (5, 26)
        >>> bool(np.allclose(rows.mean(axis=0), mlp.loss_and_gradients(X, Y)[1].vector))
        True
        """
        X, targets = self._data(X, Y)
        if self._loss == "own":
            raise ValueError("per_sample_gradients needs a loss that each sample has by itself; got one of your own")
        output = np.empty((X.shape[0], self._vector.size), self._dtype)
        for first in range(0, X.shape[0], _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            self._derive(derivatives.per_sample_gradients, X[some], output[some], targets.of_rows(some, self._dtype))
        return output

    def jacobian(self, X: ArrayLike) -> Array:
        """Derivative of each output by each input of its sample.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs, n_features)
            Of what ``predict`` returns.

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> mlp = fastmlp.MLP([3, 4, 2], rng=0)
        >>> x = np.array([[0.1, 0.2, 0.3]])
        >>> J = mlp.jacobian(x)
        >>> J.shape
        (1, 2, 3)
        >>> step = np.array([[1e-6, 0, 0]])
        >>> bool(np.allclose((mlp.predict(x + step) - mlp.predict(x - step)) / 2e-6, J[:, :, 0]))
        True
        """
        X = checks.samples("X", X, self._sizes[0], self._dtype)
        output = np.empty((X.shape[0], self._sizes[-1], self._sizes[0]), self._dtype)
        for first in range(0, X.shape[0], _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            self._derive(derivatives.jacobian, X[some], output[some])
        return output

    def _derive(
        self, kernel: calls.CrewKernel, X: Array, output: Array, targets: checks.Targets | None = None
    ) -> None:
        """Run one of the kernels that take a batch forward and back and write what each sample has by itself."""
        count = X.shape[0]
        workspace = self._borrow(count)
        given = [] if targets is None else [rows.flat(targets.values), targets.labels, targets.weights]
        with self._pace.measured(count, kernel.__name__) as n_threads:
            _, *buffers = self._of(workspace, n_threads)
            status = kernel(*buffers, rows.flat(X), *given, NO_ORDER, count, output.reshape(-1), n_threads=n_threads)
        self._free.append(workspace)
        self._raise_for(status, X=X, Y=X if targets is None else targets.values)

    def hessian_vector_product(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        direction: Sequence[tuple[ArrayLike, ArrayLike]] | Array,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> Array:
        """Second derivative of the loss along a direction: its Hessian times the direction, exactly.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        direction : vector, or sequence of (weights, biases)
            In the shape of the parameters.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        ndarray of shape (n_parameters,)
            How the gradient changes as the parameters move along the direction. Where relu or a loss has a kink it
            is the second derivative beside it.

        Raises
        ------
        ValueError
            With a loss of your own, whose second derivative is not known.

        References
        ----------
        .. [1] B. Pearlmutter, *Fast Exact Multiplication by the Hessian*, Neural Computation 6 (1994).

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
        >>> mlp = fastmlp.MLP([3, 4, 2], rng=0)
        >>> u, v = rng.standard_normal((2, mlp.parameter_vector.size))
        >>> uHv = u @ mlp.hessian_vector_product(X, Y, v)
        >>> bool(np.isclose(uHv, v @ mlp.hessian_vector_product(X, Y, u)))  # the Hessian is symmetric
        True
        """
        X, targets = self._data(X, Y, sample_weight)
        vector = self._checked_vector("direction", direction)
        if self._loss == "own":
            raise ValueError(
                "hessian_vector_product needs a loss whose second derivative is known; got one of your own"
            )
        product = np.empty_like(self._vector)
        with self._lock, self._passing():
            self._forward(X)
            workspace, count = self._last_pass()
            self._backward(workspace, count, targets)
            with self._pace.measured(count, "moved") as n_threads:
                moved_pass = MovedPass(workspace, self._pairs(self._vector), self._pairs(vector), count, n_threads)
                last = oracle.ForwardPass(*([part] for part in moved_pass.output()))
                RdZ = oracle_derivatives.output_gradient_moved(
                    last, moved_pass.forward(), targets.as_rows(self._sizes[-1]).T.astype(np.float64),
                    activation=self._activations[-1], loss=self._oracle_loss(),
                    sample_weight=targets.weights if targets.weights.size else None,
                )[1]  # fmt: skip
                moved_pass.backward(RdZ, self._pairs(product))
        penalty = self._oracle_penalty(targets.total_weight(count))
        for pair, along in zip(self._pairs(product), self._pairs(vector), strict=True):
            pair.weights[...] += penalty.l2 * along.weights
            pair.biases[...] += penalty.l2 * along.biases if penalty.biases else 0
        return product

    # -- a loss of the user's own ----------------------------------------------------------------------------------

    def _own_gradient(self, predictions: Array, targets: checks.Targets) -> tuple[float, checks.Targets]:
        """Call the user's loss: its value, and its gradient in the place of targets."""
        answer = self.config["loss"](predictions, targets.values)
        try:
            loss, given = answer
            gradient = checks.numbers("the gradient of your loss", given, self._dtype)
            loss = float(loss)
        except (TypeError, ValueError) as error:
            raise TypeError(f"your loss must return (loss, gradient), a number and an array; {error}") from None
        if gradient.shape != predictions.shape:
            raise ValueError(
                f"the gradient of your loss must have the predictions' shape {predictions.shape}; got {gradient.shape}"
            )
        if np.isfinite(loss):
            checks.finite("the gradient of your loss", gradient, self._dtype)
        return loss, checks.Targets(gradient)

    def _own_loss_and_gradients(self, X: Array, targets: checks.Targets, dropout_step: int) -> tuple[float, Gradients]:
        with self._lock, self._passing():
            self._forward(X, dropout_step)
            predictions = self._activation(len(self._sizes) - 1)
            with self._passing():  # the loss may use the model
                loss, gradient = self._own_gradient(predictions, targets)
            if not np.isfinite(loss):
                return loss, self._gradients(np.zeros_like(self._vector), columns.LOSS_NOT_FINITE)
            penalty, gradients = self._backward(*self._last_pass(), gradient, dropout_step)
            return loss + penalty, gradients

    # -- changing the parameters -----------------------------------------------------------------------------------

    def update(
        self, gradients: Sequence[tuple[ArrayLike, ArrayLike]] | Array, optimizer: str | settings.Optimizer
    ) -> None:
        """Apply gradients: this model's, or the user's own.

        Parameters
        ----------
        gradients : sequence of (weights, biases), or vector
            In the shape of the parameters.
        optimizer : str or SGD or RMSprop or Adam or AdamW
            Its memory (velocity, moments) stays with the model; it starts afresh when the kind of optimizer changes
            and when parameters are assigned.
        """
        chosen = settings.as_optimizer(optimizer, None)
        vector = self._checked_vector("gradients", gradients)
        with self._lock:
            self._gradient[:] = vector
            self._apply(chosen)

    def _apply(self, optimizer: settings.Optimizer, total_weight: float = -1.0) -> float:
        """Update the parameters from the gradient that the model holds.

        With a weight, it is the sum over samples of so much weight, without the penalty; which, times the weight, is
        returned.
        """
        memory, steps = self._memory_for(optimizer)
        address, counts = calls.address(memory), self._counts
        array, code = optimizer.with_rates(steps, 1, self._rate_factor), optimizer.code
        workspace = self._borrow(1)
        workspace.results[columns.TAKEN] = 0
        try:
            network.update(
                workspace.plan, workspace.report, self._vector, self._gradient, memory, code, array, steps + 1,
                total_weight,
            )  # fmt: skip
            self._limited = float(workspace.report[columns.BATCH, columns.FACTOR])
            penalty = float(workspace.report[columns.PENALTY, columns.PENALTIES])
        finally:
            if workspace.results[columns.TAKEN]:  # without calls: see stepping.take
                self._memory, self._optimizer_code = memory, code
                counts[columns.MEMORY], counts[columns.STEPS] = address, steps + 1
                counts[columns.VERSION] += 1
            self._free.append(workspace)
        return penalty if total_weight >= 0 else 0.0

    def train_step(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        learning_rate: settings.Rate | None = None,
        optimizer: str | settings.Optimizer | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Forward, backward and update in one compiled call.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        learning_rate : float or function, optional
            Above 0; or a schedule. Alone, it means plain gradient descent.
        optimizer : str or SGD or RMSprop or Adam or AdamW, optional
            Beside a name, ``learning_rate`` is that optimizer's.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        FloatingPointError
            If the loss is infinite or NaN; the parameters are then left as they were.
        """
        prepared, given = self._prepared, X
        if (
            prepared is not None
            and (sample_weight is None) is (prepared.weights is None)
            and optimizer is prepared.optimizer
            and (learning_rate is prepared.learning_rate or stepping.takes_rate(prepared, learning_rate))
        ):
            loss = stepping.take_prepared(self, prepared, learning_rate, X, Y, sample_weight)
            if loss == loss:  # noqa: PLR0124 (it is not NaN)
                return loss
        if learning_rate is None and optimizer is None:
            raise TypeError("train_step needs a learning_rate or an optimizer; got neither")
        chosen = settings.as_optimizer("sgd" if optimizer is None else optimizer, learning_rate)
        X, targets = self._data(X, Y, sample_weight)
        count = X.shape[0]
        with self._lock, threads.at_work:
            take = stepping.take_converted if self.config["verify"] else stepping.take
            if self._loss == "own":
                take = stepping.take_own
            last, step = self._last_step, stepping.Step(chosen, count, sample_weight is not None)
            self._last_step = step
            total, taken = take(self, X, targets, NO_ORDER, 0, 1, Run(chosen, count, count))
            is_plain = checks.is_such(given, self._dtype, X.shape) and stepping.are_plain_weights(sample_weight, count)
            is_likely = stepping.can_be_prepared(self, chosen) and stepping.are_alike(last, step, optimizer)
            if taken and is_plain and is_likely and isinstance(Y, np.ndarray):
                stepping.prepare(self, (optimizer, learning_rate), chosen, X, Y, targets)
        if not taken:
            raise FloatingPointError(DIVERGED)
        return total / targets.total_weight(count)

    def partial_fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        batch_size: int | None = 32,
        optimizer: str | settings.Optimizer = "adam",
        learning_rate: settings.Rate | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Train once on samples of a stream, in their order.

        Parameters
        ----------
        X, Y, batch_size, optimizer, learning_rate, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        float
            The loss: the mean over the samples, each under the parameters its minibatch met.

        Raises
        ------
        FloatingPointError
            If the loss is infinite or NaN; the parameters are then those before that minibatch.
        """
        chosen = settings.as_optimizer(optimizer, learning_rate)
        X, targets = fitting.training_data(self, X, Y, sample_weight, None)
        n_samples = X.shape[0]
        size = arguments.batch_size(batch_size, n_samples)
        plan = training.Plan(
            None, n_samples, targets.total_weight(n_samples), epochs=1, batch_size=size, shuffle=False, progress=False
        )
        with self._lock:
            trainee = Trainee(self, X, targets, plan, Run(chosen, size, n_samples), None, {})
            ended = training.once(plan, trainee, self._rng)
        if ended.why:
            raise FloatingPointError(f"the samples were not all trained on: {ended.why}")
        return ended.total / ended.weight

    def _checked_step(self, X: Array, targets: checks.Targets, optimizer: settings.Optimizer) -> None:
        """Verify the gradient of a step before it is taken."""
        dropout_step = self._memory_for(optimizer)[1]
        _, gradients = self._loss_and_gradients(X, targets, dropout_step)
        self._verify(X, targets, gradients, thorough=False, dropout_step=dropout_step).raise_if_failed()

    def _memory_for(self, optimizer: settings.Optimizer) -> tuple[Array, int]:
        """Memory of an optimizer and its number of steps: the model's, as long as the optimizer's kind is the same."""
        if optimizer.code == self._optimizer_code:
            return self._memory, self._steps
        stepping.forget(self)  # so that the memory before can be let go
        return np.zeros_like(self._memory), 0

    def _remember_as(self, other: MLP) -> None:
        """Take over what another model's optimizer remembers, which is not used any more."""
        self._memory, self._optimizer_code, self._counts[:] = other._memory, other._optimizer_code, other._counts

    def _keep(self, optimizer: settings.Optimizer, memory: Array, steps: int) -> None:
        """Steps have been taken: keep what the optimizer remembers. A refused step keeps nothing."""
        self._memory, self._optimizer_code = memory, optimizer.code
        self._counts[columns.MEMORY], self._counts[columns.STEPS] = calls.address(memory), steps
        self._parameters_changed()

    def fit(
        self,
        X: ArrayLike | Iterable[tuple[ArrayLike, ...]],
        Y: ArrayLike | None = None,
        *,
        epochs: int = 10,
        batch_size: int | None = 32,
        optimizer: str | settings.Optimizer = "adam",
        learning_rate: settings.Rate | None = None,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        class_weight: str | Mapping[int, float] | None = None,
        validation: tuple[ArrayLike, ArrayLike] | float | None = None,
        early_stopping: settings.EarlyStopping | bool = False,
        metrics: Any = None,
        callbacks: Callable[..., object] | Sequence[Callable[..., object]] = (),
        checkpoint: str | os.PathLike[str] | settings.Checkpoint | None = None,
        monitor: bool = False,
        progress: bool = True,
        comm: distributed.Communicator | None = None,
    ) -> training.History:
        """Train on minibatches.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features), or iterable of blocks
            Rows in memory, or in a file mapped by ``numpy.memmap``. Or, without ``Y``, blocks of rows that are read
            while others are trained on, so that not all of them are in memory at any time: an iterable of tuples
            ``(X, Y)`` or ``(X, Y, sample_weight)`` that can be gone through again and again, such as
            :class:`fastmlp.Blocks`, which reads files. Beside them go no ``sample_weight``, ``class_weight`` or
            ``monitor``, and ``batch_size`` is a number.
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        epochs : int
            Passes over the data.
        batch_size : int, optional
            Samples of one step; the last step of an epoch may have fewer. None means all of them.
        optimizer : str or SGD or RMSprop or Adam or AdamW
            "sgd", "rmsprop", "adam", "adamw", or an object with settings such as ``fastmlp.Adam(learning_rate=3e-3)``.
        learning_rate : float or function, optional
            Of an optimizer given by name, or a schedule such as ``fastmlp.CosineDecay(0.01, n_steps=1000)``, that is
            any function from the number of the step to a rate; by default 0.01 for "sgd", 0.001 for the others. Steps
            are counted on where ``fit`` is called again with an optimizer of the same kind; ``mlp.parameters =
            mlp.parameters`` begins anew.
        shuffle : bool
            Draw a new order of the samples for each epoch, from the model's ``rng``, unless they are all in one batch.
            Of blocks: their order, if they have ``__len__`` and ``__getitem__``, and that of the rows of each large
            block, or of some small ones (16 MB).
        sample_weight : array_like of shape (n_samples,), optional
            The mean over the samples of a minibatch is then weighted.
        class_weight : "balanced" or mapping from class to weight, optional
            Multiplies the weights of a class's samples (1 for a class that is not named); "balanced" gives all classes
            the same weight together.
        validation : (X, Y) or float, optional
            Data whose loss is computed after each epoch; or the fraction of the samples that is taken for it, of each
            class the same, and always the same samples for the same ``rng`` of the model. (Not of blocks.)
        early_stopping : EarlyStopping or bool
            End training when the validation loss does not fall any more, or without validation data the training
            loss, with the best parameters; True means ``EarlyStopping()``.
        metrics : str or function or list of them or mapping, optional
            Computed after each epoch, over the training and the validation data: "accuracy", "mean_squared_error",
            "mean_absolute_error", "r2", or any function of predictions and targets (rows, one-hot for classes); a
            mapping gives them names. Beside blocks over the validation data alone.
        callbacks : function or sequence of functions
            Called after each epoch with the model and the history; one that returns something true ends training.
        checkpoint : path or Checkpoint, optional
            Write the state of training there after each epoch, and go on from it if it is there. (Not with a loss of
            your own, which cannot be written to a file.)
        monitor : bool
            Look at the run after each epoch: whether its last step changed the loss as the gradient and the curvature
            predict, at saturated and dead units, at gradients and updates by layer. ``print(history.diagnosis)`` says
            in words what is wrong, and what to try. It costs, after each epoch, about as much as some forty
            training steps of 256 samples in plain NumPy, and changes no bit of the run.
        progress : bool
            Show a progress bar, where there is a terminal.
        comm : communicator of mpi4py, optional
            Train with other processes, of which each calls this with a part of the rows, be it none, and with the same
            settings: see *More than one machine* in the documentation. The rows of all ranks count in their order;
            ``batch_size`` is of all together. Validation data are a part, too. Where the model differs between ranks,
            that of rank 0 counts.

        Returns
        -------
        History
            Losses per epoch, and why training ended. Ctrl-C ends it early, between two steps, and what was learned is
            kept; so does a loss that is not finite, with a warning and the parameters from before that step. Calling
            ``fit`` again goes on from there.

        Examples
        --------
        >>> import numpy as np
        >>> import fastmlp
        >>> X = np.linspace(-3, 3, 300)[:, None]
        >>> mlp = fastmlp.MLP([1, 16, 1], hidden_activation="tanh", rng=0)
        >>> history = mlp.fit(
        ...     X, np.sin(X), epochs=500, learning_rate=0.01, validation=0.2, early_stopping=True, metrics="r2",
        ...     progress=False,
        ... )
        >>> history.validation_metrics["r2"][history.best_epoch - 1] > 0.98
        True
        """
        given: dict[str, Any] = {
            "epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": learning_rate,
            "shuffle": shuffle, "sample_weight": sample_weight, "class_weight": class_weight,
            "validation": validation, "early_stopping": early_stopping, "metrics": metrics, "callbacks": callbacks,
            "checkpoint": checkpoint, "monitor": monitor, "progress": progress,
        }  # fmt: skip
        with self._lock:
            if comm is not None:
                history = fitting.fit_together(self, distributed.Ranks(comm), X, Y, given)
            else:
                trainee = fitting.trainee_for(self, X, Y, **given)
                history = training.fit(trainee.plan, trainee, self._rng, trainee.history)
        training.warn_if_diverged(history)
        return history

    def objective(
        self, X: ArrayLike, Y: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> Callable[[ArrayLike], tuple[float, NDArray[np.float64]]]:
        """Make a function from a parameter vector to the loss and its gradient, for ``scipy.optimize.minimize``.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.

        Returns
        -------
        function
            ``f(vector)`` returns ``(loss, gradient)``, the gradient in float64. It works on a copy: the model's own
            parameters change only when the result is assigned to :attr:`parameter_vector`.

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> X = np.linspace(-1, 1, 20)[:, None]
        >>> mlp = fastmlp.MLP([1, 5, 1], rng=0)
        >>> f = mlp.objective(X, X**2)
        >>> loss, gradient = f(mlp.parameter_vector)
        >>> gradient.shape
        (16,)

        With SciPy the vector to assign is
        ``scipy.optimize.minimize(f, mlp.parameter_vector, jac=True, method="L-BFGS-B").x``.
        """
        X, targets = self._data(X, Y, sample_weight)
        copy = self._copy()

        def function(vector: ArrayLike) -> tuple[float, NDArray[np.float64]]:
            with copy._lock:
                copy._vector[:] = copy._checked_vector("vector", np.asarray(vector))
                loss, gradients = copy._loss_and_gradients(X, targets)
            return loss, gradients.vector.astype(np.float64)

        return function

    # -- proof -----------------------------------------------------------------------------------------------------

    def verify(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        curvature: bool | None = None,
    ) -> proof.Report:
        """Prove this network's gradients on this data: finite differences, oracle, kernels.

        With dropout it is the gradient of the next training step, whose dropped units are held fast. The loss is
        computed some thousand times, in float64 by NumPy: some dozens of samples prove as much as thousands do, which
        take a minute from 100,000 parameters on.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.
        curvature : bool, optional
            Whether to check along the directions of the largest and the smallest curvature of the loss too, which are
            eigenvectors of its exact Hessian. By default where that is cheap, in networks of up to 200 parameters;
            larger ones need SciPy (the extra ``scipy``) and up to minutes.

        Returns
        -------
        fastmlp.verify.Report
            ``print(report)`` shows a table; ``report.ok``; ``report.raise_if_failed()``; ``report.curves`` are the
            errors of central differences over the step, which :func:`fastmlp.plot.verification` draws.

        Raises
        ------
        ValueError
            If ``curvature`` is wanted with a loss of your own, whose second derivative is not known.
        ImportError
            If SciPy is needed and is not installed.
        """
        if curvature is not None:
            curvature = arguments.flag("curvature", curvature)
        if curvature and self._loss == "own":
            raise ValueError("curvature needs a loss with a known second derivative; got one of your own")
        X, targets = self._data(X, Y, sample_weight)
        with self._lock:
            dropout_step = self._steps
            loss, gradients = self._loss_and_gradients(X, targets, dropout_step)
            extremes: list[tuple[str, float, list[Parameters]]] = []
            if not np.isfinite(loss):
                raise ValueError(f"the loss must be finite for anything to be proved; got {loss}")
            if curvature or (curvature is None and self._vector.size <= curvatures.DENSE and self._loss != "own"):
                extremes = self._extremes(X, targets, dropout_step)
            return self._verify(
                X, targets, gradients, thorough=True, dropout_step=dropout_step, loss=loss, extremes=extremes
            )

    def _extremes(
        self, X: Array, targets: checks.Targets, dropout_step: int
    ) -> list[tuple[str, float, list[Parameters]]]:
        """The directions of the largest and the smallest curvature."""
        net = self._as_oracle(X, targets)._replace(masks=self._masks(dropout_step, X.shape[0]))

        def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            return oracle.joined(net.hessian_vector_product(self._pairs(np.ravel(vector))))

        found = curvatures.extremes(product, self._vector.size)
        return [(name, value, self._pairs(vector)) for name, value, vector in found]

    def explain(
        self, X: ArrayLike, Y: ArrayLike, *, sample_weight: ArrayLike | None = None, verify: bool = True
    ) -> Explanation:
        """Explain each step of the forward and the backward pass: formula, matrices, reason, numbers, proof.

        It is the whole network that is explained: dropout is of training steps alone.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        sample_weight : array_like of shape (n_samples,), optional
            The mean over samples is then weighted.
        verify : bool
            Whether each gradient is proved by central differences, entry by entry where there are few. It takes a
            tenth of a second for the original network, and some ten seconds for a large one.

        Raises
        ------
        ValueError
            If the loss is not finite: nothing can be said of it then.

        Returns
        -------
        fastmlp.explain.Explanation
            ``print`` shows a table to be read from top to bottom, a notebook shows it typeset. ``["dW2"]`` is one of
            its steps. In formulas a sample is a column: ``A1[j,n]``.

        Examples
        --------
        >>> import fastmlp, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> mlp = fastmlp.MLP([3, 4, 4, 2], rng=0)
        >>> explanation = mlp.explain(rng.standard_normal((5, 3)), rng.standard_normal((5, 2)))
        >>> step = explanation["dW2"]
        >>> step.formula
        'dW2[j,i] = Σ_n dZ2[j,n] A1[i,n]'
        >>> step.matrices, step.shapes
        ('dW2 = dZ2 A1ᵀ', '(4×4) = (4×5)·(4×5)ᵀ')
        >>> explanation.ok
        True
        """
        from fastmlp import explain as explanation  # noqa: PLC0415 (`import fastmlp` need not pay for it)

        verify = arguments.flag("verify", verify)
        X, targets = self._data(X, Y, sample_weight)
        with self._lock, self._passing():
            self._forward(X)
            activations = [np.asarray(A.T, np.float64) for A in self.activations]
            given = targets
            if self._loss == "own":
                given = self._own_gradient(self._activation(len(self._sizes) - 1), targets)[1]
            workspace, count = self._last_pass()
            loss, gradients = self._backward(workspace, count, given)
            if not np.isfinite(loss):
                raise ValueError(f"the loss must be finite for anything to be explained; got {loss}")
            of_pre_activations = [
                layout.from_sample_blocks(workspace.view(workspace.plan[layer, columns.DZ], size, count), count)
                for layer, size in enumerate(self._sizes[1:])
            ]
            backward_pass = oracle.BackwardPass(
                [Parameters(*(np.asarray(part, np.float64) for part in pair)) for pair in gradients],
                [np.asarray(dZ, np.float64) for dZ in of_pre_activations],
                [],
            )
            computed = explanation.Computed(activations, backward_pass, self._dtype, loss)
            return explanation.explain(self._as_oracle(X, targets), computed, proves=verify)

    def _verify(
        self,
        X: Array,
        targets: checks.Targets,
        gradients: Sequence[Parameters],
        *,
        thorough: bool,
        dropout_step: int = dropout.NOTHING_DROPPED,
        loss: float | None = None,
        extremes: Sequence[tuple[str, float, Sequence[Parameters]]] = (),
    ) -> proof.Report:
        net, masks = self._as_oracle(X, targets), self._masks(dropout_step, X.shape[0])
        of_input = output = None
        if thorough and masks is None:  # the kernel of the input gradient drops nothing
            output = self.predict(X)
            given = self._own_gradient(output.copy(), targets)[1] if self._loss == "own" else targets
            of_input = np.empty_like(X)
            self._derive(derivatives.input_gradient, X, of_input, given)
        return proof.check(
            net.parameters,
            net.X,
            net.Y,
            activations=net.activations,
            loss=net.loss,
            sample_weight=net.sample_weight,
            penalty=net.penalty,
            masks=masks,
            computed=proof.Computed(
                [Parameters(*map(np.asarray, pair)) for pair in gradients],
                self._dtype,
                None if of_input is None else of_input.T,
                loss,
                None if output is None else output.T.astype(np.float64),
            ),
            thorough=thorough,
            extremes=extremes,
        )

    def _oracle_loss(self) -> Any:
        """The loss as the oracle has it, with its setting."""
        o = self._objective
        if o.loss is None:
            return _own_in_columns(self.config["loss"])
        return LOSSES[o.loss]._replace(setting=None if LOSSES[o.loss].setting is None else o.setting)

    def _as_oracle(self, X: Array, targets: checks.Targets) -> proof.Network:
        """The whole network and its data as the oracle has them."""
        own = self._objective.loss is None
        Y = targets.values.T if own else targets.as_rows(self._sizes[-1]).T.astype(np.float64)
        return proof.Network(
            self._pairs(self._vector.astype(np.float64)),
            X.T.astype(np.float64),
            Y,  # type: ignore[arg-type] # a loss of one's own takes whatever targets it likes
            list(self._activations),
            self._oracle_loss(),
            targets.weights if targets.weights.size else None,
            self._oracle_penalty(targets.total_weight(X.shape[0])),
        )

    # -- workspaces, threads, statuses -----------------------------------------------------------------------------

    def _data(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        *,
        convert: bool = True,
    ) -> tuple[Array, checks.Targets]:
        """Check both; without conversion, arrays keep their dtype and layout."""
        dtype = self._dtype if convert else None
        X = checks.samples("X", X, self._sizes[0], dtype)
        return X, self._weighted(self._targets("Y", Y, X.shape[0], dtype), X.shape[0], sample_weight, class_weight)

    def _targets(self, name: str, Y: ArrayLike, n_samples: int, dtype: np.dtype | None) -> checks.Targets:
        if self._loss == "own":
            return checks.Targets(checks.rows_of_anything(name, Y, n_samples))
        targets = checks.targets(name, Y, self._sizes[-1], self._loss, n_samples, dtype)
        if targets.labels.size:
            targets.values = np.empty(0, self._dtype)
        return targets

    def _weighted(
        self,
        targets: checks.Targets,
        n_samples: int,
        sample_weight: ArrayLike | None,
        class_weight: Any = None,
        *,
        is_part: bool = False,
    ) -> checks.Targets:
        """The targets with the weights of their samples."""
        if sample_weight is class_weight is None:
            return targets
        if self._loss == "own":
            given = "class_weight" if sample_weight is None else "sample_weight"
            raise ValueError(
                "sample_weight and class_weight must be None beside a loss of your own, which can weigh by itself; got"
                f" {given}"
            )
        targets.weights = checks.sample_weight(sample_weight, class_weight, targets, n_samples, is_part=is_part)
        return targets

    def _of(self, workspace: Workspace, n_threads: int) -> tuple[Any, Any, Any, Any, Any]:
        """What every kernel takes first, made ready for so many threads."""
        workspace.divide(n_threads)
        return workspace.crew, workspace.plan, self._vector, workspace.arena, workspace.report

    def _borrow(self, n_samples: int) -> Workspace:
        """A workspace that nobody else uses, large enough and not much too large."""
        while self._free:
            try:
                workspace = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if (
                workspace.objective is self._objective
                and n_samples <= workspace.capacity
                and (workspace.capacity <= _ROWS_AT_ONCE or workspace.capacity <= 8 * n_samples)
            ):
                return workspace
        return Workspace(self._sizes, self._activations, self._objective, self._dtype, n_samples)

    def _raise_for(self, status: int, **arrays: Array) -> None:
        """Tell what a kernel found in the data, in the words of the door. A loss that is infinite is no such thing."""
        if status == columns.X_NOT_FINITE:
            raise checks.not_finite("X", arrays["X"])
        if status == columns.Y_NOT_FINITE and not arrays["Y"].size:  # they were looked at before
            raise ValueError("Y must not change while it is used; a class index in it is none any more")
        if status == columns.Y_NOT_FINITE:
            raise checks.not_finite("Y", arrays["Y"])

    # -- copies ----------------------------------------------------------------------------------------------------

    def _copy(self) -> MLP:
        copy: MLP = type(self).__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {
                "config": dict(self.config),
                "vector": self._vector.copy(),
                "memory": self._memory.copy(),
                "steps": self._steps,
                "optimizer_code": self._optimizer_code,
                "rate_factor": self._rate_factor,
                "rng": self._rng.bit_generator.state,
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = dict(state["config"])
        self._rng = arguments.generator(state["rng"])[1]
        self._set_up()
        self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over parameters, what the optimizer remembers, and the random state."""
        stepping.forget(self)
        self._vector[:], self._memory[:] = state["vector"], state["memory"]
        self._counts[columns.STEPS], self._optimizer_code = state["steps"], state["optimizer_code"]
        self._rate_factor = state["rate_factor"]
        self._rng.bit_generator.state = state["rng"]
        self._parameters_changed()

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file: parameters, configuration, what the optimizer remembers, and the random state.

        The file is in the safetensors format, and is replaced in one piece. :func:`fastmlp.load` reads it.

        Parameters
        ----------
        path : str or path
            Its folder must exist.

        Raises
        ------
        TypeError
            If the loss is a function of your own, which no file can hold: write ``parameter_vector`` by
            ``numpy.save``.
        ValueError
            If the parameters are not finite, after a step that was far too long.

        Examples
        --------
        >>> import fastmlp, os, tempfile
        >>> mlp = fastmlp.MLP([3, 4, 2], rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mlp.save(os.path.join(folder, "model.safetensors"))
        ...     again = fastmlp.load(os.path.join(folder, "model.safetensors"))
        >>> bool((again.parameter_vector == mlp.parameter_vector).all())
        True
        """
        files.write(path, self.__getstate__(), self._sizes)

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self._sizes))
        return f"<MLP {sizes}, {', '.join(self._activations)}, {self._loss}, {self._dtype}>"


def _own_in_columns(function: settings.OwnLoss) -> Any:
    """The user's loss as the oracle has losses: samples are columns, and each has its own loss."""

    def of_columns(A: Array, Y: Array) -> tuple[Array, Array]:
        loss, gradient = function(np.ascontiguousarray(A.T), np.ascontiguousarray(Y.T))
        n_samples = A.shape[1]  # the mean over so many is taken again
        return np.full(n_samples, float(loss)), n_samples * np.asarray(gradient, np.float64).T

    return LOSSES["squared_error"]._replace(name="own", function=of_columns, setting=None)


def load(path: str | os.PathLike[str]) -> MLP:
    """Read a model that :meth:`MLP.save` or a checkpoint has written.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    MLP

    Raises
    ------
    OSError
        If it cannot be read.
    CorruptFileError
        If it is no such file, or if any byte of it has changed.
    """
    state = files.read(path).state
    try:
        mlp = MLP(**state["config"])
    except (TypeError, ValueError) as error:
        raise files.CorruptFileError(f"{os.fspath(path)!r} has an impossible configuration: {error}") from None
    mlp._restore(state)
    return mlp


def _read_only(vector: Array) -> Array:
    view = vector.view()
    view.flags.writeable = False
    return view
