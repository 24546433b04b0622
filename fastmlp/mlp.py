"""class MLP: checks what comes in, owns the workspaces, calls the kernels.

This is the one seam where the orientation turns: outside, a sample is a *row*; inside (oracle and kernels) a sample is
a *column*.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import checks, rows, settings, threads, training
from fastmlp import verify as proof
from fastmlp.buffers import Workspace, aligned
from fastmlp.kernels import jit, layout, network, optimizers, simd
from fastmlp.oracle.activations import ACTIVATIONS
from fastmlp.oracle.losses import LOSSES
from fastmlp.oracle.network import Parameters, initialize

Array = NDArray[Any]  # float64 or float32, as the network is

_NO_ORDER = np.empty(0, np.int64)
_NO_SETTINGS = np.zeros(optimizers.N_SETTINGS)

_ROWS_AT_ONCE = 1024
"""Samples of one call of compiled code in ``loss``: its memory does not grow with the data."""

_PREDICTED_AT_ONCE = 16_384
"""Samples of one call in ``predict``, between which Ctrl-C is seen. Its memory does not depend on them."""

_PARALLEL_FROM = 2_000_000
"""Operations (float32; half as many in float64) from which a second thread pays for its launch, as measured."""

_MEASURE_FROM = 1_000_000
"""Operations of a training step from which the best number of threads is found by measuring."""


class Gradients(list[Parameters]):
    """Gradients of the loss: ``(weights, biases)`` pairs like the parameters, and ``vector``, all of them in one."""

    def __init__(self, pairs: Sequence[Parameters], vector: Array) -> None:
        super().__init__(pairs)
        self.vector = vector


class MLP:
    """A multilayer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int
        Widths of the input, of each hidden layer and of the output, such as ``[3, 4, 4, 2]``.
    hidden_activation : str or sequence of str
        One name for all hidden layers, or one name for each: "identity", "sigmoid", "tanh", "relu".
    output_activation : str, optional
        By default it follows the loss: "identity", "sigmoid" or "softmax". ``predict`` returns it. The two
        cross-entropies have no other; ``squared_error`` takes any of the hidden activations too.
    loss : str
        "squared_error" (half of the squared distance), "binary_cross_entropy" or "softmax_cross_entropy": the mean
        over samples of the sum over outputs.
    weight_scale : float or "glorot" or "he"
        Standard deviation of the normal initial weights; "glorot" is ``sqrt(2 / (inputs + outputs))``, "he" is
        ``sqrt(2 / inputs)``. Biases begin at 0.
    dtype : dtype
        float64 or float32: of parameters and of all computation.
    rng : None, int or numpy.random.Generator
        Where initial weights and the order of samples come from (SPEC 7). The same seed on the same machine gives the
        same bits, at any number of threads.
    n_threads : int, optional
        At most so many threads. By default it is chosen from the size of the work.
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
        loss: str = "squared_error",
        weight_scale: float | str = "glorot",
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        n_threads: int | None = None,
        verify: bool = False,
    ) -> None:
        sizes = checks.layer_sizes(layer_sizes)
        checks.one_of("loss", loss, list(LOSSES))
        activations = _activations(hidden_activation, output_activation, loss, len(sizes) - 1)
        _check_weight_scale(weight_scale)
        if n_threads is not None:
            n_threads = checks.integer("n_threads", n_threads)
        if not isinstance(verify, bool | np.bool_):
            raise TypeError(f"verify must be True or False; got {verify!r}")
        seed, self._rng = _generator(rng)
        self.config = {
            "layer_sizes": sizes,
            "hidden_activation": hidden_activation if isinstance(hidden_activation, str) else tuple(activations[:-1]),
            "output_activation": output_activation,
            "loss": loss,
            "weight_scale": weight_scale,
            "dtype": _dtype(dtype).name,
            "rng": seed,
            "n_threads": n_threads,
            "verify": bool(verify),
        }
        self._set_up()
        self._flatten(initialize(sizes, self._rng, weight_scale), self._vector)

    def _set_up(self) -> None:
        """Make everything that follows from the configuration."""
        self._sizes: tuple[int, ...] = self.config["layer_sizes"]
        self._loss: str = self.config["loss"]
        self._activations = _activations(
            self.config["hidden_activation"], self.config["output_activation"], self._loss, len(self._sizes) - 1
        )
        self._dtype = np.dtype(self.config["dtype"])
        layers = list(zip(self._sizes[:-1], self._sizes[1:], strict=True))
        n_parameters = sum((inputs + 1) * outputs for inputs, outputs in layers)
        self._multiplications = sum(inputs * outputs for inputs, outputs in layers)
        self._vector = aligned(n_parameters, self._dtype)
        self._gradient = aligned(n_parameters, self._dtype)
        self._memory = aligned(2 * n_parameters, self._dtype)
        self._steps = 0  # of the optimizer whose memory this is
        self._optimizer_code = optimizers.NO_UPDATE
        self._block = simd.VECTORS * (simd.VECTOR_BYTES // self._dtype.itemsize)
        self._lock = threading.RLock()
        self._paces: dict[int, threads.Pace] = {}  # by batch size
        self._free: list[Workspace] = []  # list.append and list.pop are atomic
        self._pass: tuple[Workspace, int] | None = None  # the last forward pass and its number of samples
        self._pass_is_current = False

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
            self._vector[:] = checked
            self._forget()

    def _forget(self) -> None:
        """The optimizer starts afresh, and the last forward pass is of other parameters."""
        self._memory[:] = 0
        self._steps = 0
        self._pass_is_current = False

    def _pairs(self, vector: Array) -> list[Parameters]:
        """Views of a vector as (weights, biases) pairs."""
        pairs, start = [], 0
        for inputs, outputs in zip(self._sizes[:-1], self._sizes[1:], strict=True):
            middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
            pairs.append(Parameters(vector[start:middle].reshape(outputs, inputs), vector[middle:end]))
            start = end
        return pairs

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
        X = checks.samples("X", X, self._sizes[0], self._dtype)
        samples = X.shape[0]
        output = np.empty((samples, self._sizes[-1]), self._dtype)
        flat, flat_output = rows.flat(X), output.reshape(-1)
        alone = samples <= network.SAMPLES_ALONE
        n_threads = 1 if alone else self._threads(min(samples, _PREDICTED_AT_ONCE))
        workspace = self._borrow(samples if alone else n_threads * network.TILE_BLOCKS * self._block)
        workspace.divide(n_threads)
        try:
            for first in range(0, samples, _PREDICTED_AT_ONCE):
                status = network.predict.on(n_threads)(
                    workspace.plan, self._vector, workspace.arena, workspace.report, flat, first,
                    min(_PREDICTED_AT_ONCE, samples - first), flat_output,
                )  # fmt: skip
                if status != network.FINITE:
                    self._raise_for(status, X=X)
        finally:
            self._free.append(workspace)
        return output

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
            return self.activations[-1]

    def _forward(self, X: Array) -> None:
        count = X.shape[0]
        workspace = self._borrow(count)
        n_threads = self._threads(count)
        status = network.forward(
            *self._of(workspace, n_threads), rows.flat(X), _NO_ORDER, 0, count, n_threads=n_threads
        )
        if status != network.FINITE:
            self._free.append(workspace)
            self._raise_for(status, X=X)
        if self._pass is not None:
            self._free.append(self._pass[0])
        self._pass, self._pass_is_current = (workspace, count), True

    @property
    def activations(self) -> list[Array]:
        """What the last :meth:`forward` computed: ``X``, then the activations of each layer, as rows."""
        with self._lock:
            workspace, count = self._last_pass()
            plan = workspace.plan
            places = [(plan[0, network.X], self._sizes[0])]
            places += [(plan[layer, network.A], size) for layer, size in enumerate(self._sizes[1:])]
            blocks = [workspace.view(place, features, count) for place, features in places]
            return [np.ascontiguousarray(layout.from_sample_blocks(each, count).T) for each in blocks]

    def backward(self, Y: ArrayLike) -> Gradients:
        """Backward pass of the last :meth:`forward`.

        Parameters
        ----------
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.

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
            if not self._pass_is_current:
                raise RuntimeError("backward needs a forward pass of the present parameters: call forward(X) first")
            targets = self._targets(Y, count)
            return self._backward(workspace, count, targets)

    def _last_pass(self) -> tuple[Workspace, int]:
        if self._pass is None:
            raise RuntimeError("there has been no forward pass: call forward(X) first")
        return self._pass

    def _backward(self, workspace: Workspace, count: int, targets: checks.Targets) -> Gradients:
        vector = np.empty_like(self._vector)
        n_threads = self._threads(count)
        status, _ = network.backward(
            *self._of(workspace, n_threads), rows.flat(targets.values), targets.labels, _NO_ORDER, 0, count, vector,
            n_threads=n_threads,
        )  # fmt: skip
        self._raise_for(status, Y=targets.values)
        gradients = Gradients(self._pairs(vector), vector)
        if self.config["verify"]:
            self._verify(self.activations[0], targets, gradients, thorough=False).raise_if_failed()
        return gradients

    def loss_and_gradients(self, X: ArrayLike, Y: ArrayLike) -> tuple[float, Gradients]:
        """Loss, and its gradient with respect to every parameter.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.

        Returns
        -------
        loss : float
        gradients : Gradients
            ``(weights, biases)`` pairs in the shape of the parameters; ``gradients.vector`` is all of them in one.
        """
        X, targets = self._data(X, Y)
        loss, gradients = self._loss_and_gradients(X, targets)
        if self.config["verify"]:
            self._verify(X, targets, gradients, thorough=False).raise_if_failed()
        return loss, gradients

    def _loss_and_gradients(self, X: Array, targets: checks.Targets) -> tuple[float, Gradients]:
        """Both regions of a training step, without the update."""
        vector = np.full_like(self._vector, np.nan)  # what remains if the loss is not finite
        workspace, count = self._borrow(X.shape[0]), X.shape[0]
        try:
            n_threads = self._threads(count)
            status, total, _ = network.train(
                workspace.crew, *self._of(workspace, n_threads), vector, vector, rows.flat(X),
                rows.flat(targets.values), targets.labels, _NO_ORDER, count, count, 0, 1, optimizers.NO_UPDATE,
                _NO_SETTINGS, 1, n_threads=n_threads,
            )  # fmt: skip
        finally:
            self._free.append(workspace)
        self._raise_for(status, X=X, Y=targets.values)
        return total / count, Gradients(self._pairs(vector), vector)

    def loss(self, X: ArrayLike, Y: ArrayLike) -> float:
        """Loss: the mean over samples. Arguments as in :meth:`loss_and_gradients`."""
        X, targets = self._data(X, Y)
        return self._loss_value(X, targets)

    def _loss_value(self, X: Array, targets: checks.Targets) -> float:
        total = 0.0
        workspace = self._borrow(min(X.shape[0], _ROWS_AT_ONCE))
        try:
            for first in range(0, X.shape[0], _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, X.shape[0] - first)
                n_threads = self._threads(count)
                status, loss = network.loss_value(
                    *self._of(workspace, n_threads), rows.flat(X), rows.flat(targets.values), targets.labels,
                    _NO_ORDER, first, count, n_threads=n_threads,
                )  # fmt: skip
                self._raise_for(status, X=X, Y=targets.values)
                total += loss * count
        finally:
            self._free.append(workspace)
        return total / X.shape[0]

    # -- changing the parameters -----------------------------------------------------------------------------------

    def update(
        self, gradients: Sequence[tuple[ArrayLike, ArrayLike]] | Array, optimizer: str | settings.Optimizer
    ) -> None:
        """Apply gradients: this model's, or the user's own.

        Parameters
        ----------
        gradients : sequence of (weights, biases), or vector
            In the shape of the parameters.
        optimizer : str or SGD or Adam
            Its memory (velocity, moments) stays with the model; it starts afresh when the kind of optimizer changes
            and when parameters are assigned.
        """
        chosen = settings.as_optimizer(optimizer, None)
        vector = self._checked_vector("gradients", gradients)
        with self._lock:
            memory, steps = self._memory_for(chosen)
            network.update(self._vector, vector, memory, chosen.code, chosen.array, steps + 1)
            self._keep(chosen, memory, steps + 1)

    def train_step(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        learning_rate: float | None = None,
        optimizer: str | settings.Optimizer | None = None,
    ) -> float:
        """Forward, backward and update in one compiled call.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        learning_rate : float, optional
            Above 0. Alone, it means plain gradient descent.
        optimizer : str or SGD or Adam, optional
            Beside a name, ``learning_rate`` is that optimizer's.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        FloatingPointError
            If the loss is infinite or NaN; the parameters are then left as they were.
        """
        if learning_rate is None and optimizer is None:
            raise TypeError("train_step needs a learning_rate or an optimizer; got neither")
        chosen = settings.as_optimizer("sgd" if optimizer is None else optimizer, learning_rate)
        X, targets = self._data(X, Y)
        count = X.shape[0]
        with self._lock:
            if self.config["verify"]:
                self._checked_step(X, targets)
            total, taken = self._run_steps(X, targets, _NO_ORDER, 0, 1, count, chosen)
        if not taken:
            raise FloatingPointError("the loss is not finite; the parameters were left as they were")
        return total / count

    def _checked_step(self, X: Array, targets: checks.Targets) -> None:
        """Verify the gradient of a step before it is taken."""
        _, gradients = self._loss_and_gradients(X, targets)
        self._verify(X, targets, gradients, thorough=False).raise_if_failed()

    def _run_steps(
        self,
        X: Array,
        targets: checks.Targets,
        order: NDArray[np.int64],
        first: int,
        n_steps: int,
        batch_size: int,
        optimizer: settings.Optimizer,
    ) -> tuple[float, int]:
        """Take steps over minibatches: the sum of their losses times their samples, and how many were taken."""
        memory, steps = self._memory_for(optimizer)
        flat, values, n_rows = rows.flat(X), rows.flat(targets.values), X.shape[0]
        total, done, status = 0.0, 0, network.FINITE
        workspace, pace = self._borrow(batch_size), self._pace(batch_size)
        is_measured = len(pace.candidates) > 1
        try:
            while done < n_steps and status == network.FINITE:
                n_threads, wanted = pace.n_threads, n_steps - done
                if is_measured:
                    wanted, start = min(wanted, pace.units_left), time.perf_counter()
                workspace.divide(n_threads)
                status, loss, taken = network.train.on(n_threads)(
                    workspace.crew, workspace.plan, self._vector, workspace.arena, workspace.report, self._gradient,
                    memory, flat, values, targets.labels, order, n_rows, batch_size, first + done * batch_size,
                    wanted, optimizer.code, optimizer.array, steps + done + 1,
                )  # fmt: skip
                total += loss
                done += taken
                if is_measured:
                    pace.tell(time.perf_counter() - start, wanted)
        finally:
            self._free.append(workspace)
        if done:
            self._keep(optimizer, memory, steps + done)
        if status != network.FINITE:
            self._raise_for(status, X=X, Y=targets.values)
        return total, done

    def _run_converted(
        self,
        X: Array,
        targets: checks.Targets,
        order: NDArray[np.int64],
        first: int,
        n_steps: int,
        batch_size: int,
        optimizer: settings.Optimizer,
    ) -> tuple[float, int]:
        """Take steps as :meth:`_run_steps` does, over data of another dtype or layout; or verified, one by one."""
        at_once = 1 if self.config["verify"] else max(1, rows.count_at_once(X, self._dtype) // batch_size)
        total, done = 0.0, 0
        while done < n_steps:
            wanted, start = min(at_once, n_steps - done), first + done * batch_size
            part = slice(start, start + wanted * batch_size)
            chosen = order[part] if order.size else part
            some_X = rows.converted(X, chosen, self._dtype)
            values = targets.values if targets.labels.size else rows.converted(targets.values, chosen, self._dtype)
            some = checks.Targets(values, targets.labels[chosen] if targets.labels.size else targets.labels)
            if self.config["verify"]:
                self._checked_step(some_X, some)
            loss, taken = self._run_steps(some_X, some, _NO_ORDER, 0, wanted, batch_size, optimizer)
            total += loss
            done += taken
            if taken < wanted:
                break
        return total, done

    def _memory_for(self, optimizer: settings.Optimizer) -> tuple[Array, int]:
        """Memory of an optimizer and its number of steps: the model's, as long as the optimizer's kind is the same."""
        if optimizer.code == self._optimizer_code:
            return self._memory, self._steps
        return np.zeros_like(self._memory), 0

    def _keep(self, optimizer: settings.Optimizer, memory: Array, steps: int) -> None:
        """Steps have been taken: keep what the optimizer remembers. A refused step keeps nothing."""
        self._memory, self._steps, self._optimizer_code = memory, steps, optimizer.code
        self._pass_is_current = False

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        epochs: int = 10,
        batch_size: int | None = 32,
        optimizer: str | settings.Optimizer = "adam",
        learning_rate: float | None = None,
        shuffle: bool = True,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        progress: bool = True,
    ) -> training.History:
        """Train on minibatches.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)
            Targets; or class indices of shape (n_samples,) for ``softmax_cross_entropy``.
        epochs : int
            Passes over the data.
        batch_size : int, optional
            Samples of one step; the last step of an epoch may have fewer. None means all of them.
        optimizer : str or SGD or Adam
            "sgd", "adam", or an object with settings such as ``fastmlp.Adam(learning_rate=3e-3)``.
        learning_rate : float, optional
            Of an optimizer given by name; by default 0.01 for "sgd", 0.001 for "adam".
        shuffle : bool
            Draw a new order of the samples for each epoch, from the model's ``rng``.
        validation : (X, Y), optional
            Data whose loss is computed after each epoch.
        progress : bool
            Show a progress bar, where there is a terminal.

        Returns
        -------
        History
            Losses per epoch, and why training ended. Ctrl-C ends it early, between two steps, and what was learned is
            kept; so does a loss that is not finite, with the parameters from before that step. Calling ``fit`` again
            goes on from there.
        """
        X, targets = self._data(X, Y, convert=False)
        checks.finite("X", X, self._dtype)
        if targets.values.size:
            checks.finite("Y", targets.values, self._dtype)
        plan = training.Plan(
            n_samples=X.shape[0],
            epochs=checks.integer("epochs", epochs),
            batch_size=X.shape[0] if batch_size is None else min(checks.integer("batch_size", batch_size), X.shape[0]),
            shuffle=_flag("shuffle", shuffle),
            progress=_flag("progress", progress),
        )
        chosen = settings.as_optimizer(optimizer, learning_rate)
        validation_loss = self._validation_loss(validation)

        ready = rows.is_ready(X, self._dtype) and rows.is_ready(targets.values, self._dtype)
        pages = rows.MappedPages(X, targets.values)

        def steps(order: NDArray[np.int64], first: int, n_steps: int) -> tuple[float, int]:
            run = self._run_steps if ready and not self.config["verify"] else self._run_converted
            scattered, total, done = order.size > 0, 0.0, 0
            at_once = max(1, pages.rows_at_once(scattered=scattered) // plan.batch_size)
            while done < n_steps:
                wanted, start = min(at_once, n_steps - done), first + done * plan.batch_size
                loss, taken = run(X, targets, order, start, wanted, plan.batch_size, chosen)
                pages.have_read(wanted * plan.batch_size, scattered=scattered)
                total += loss
                done += taken
                if taken < wanted:
                    break
            return total, done

        with self._lock:
            return training.fit(plan, steps, self._rng, validation_loss)

    def _validation_loss(self, validation: Any) -> Callable[[], float] | None:
        if validation is None:
            return None
        try:
            X_given, Y_given = validation
        except (TypeError, ValueError):
            raise TypeError(f"validation must be a pair (X, Y); got {type(validation).__name__}") from None
        X = checks.samples("validation X", X_given, self._sizes[0], self._dtype)
        targets = checks.targets("validation Y", Y_given, self._sizes[-1], self._loss, X.shape[0], self._dtype)
        checks.finite("validation X", X, self._dtype)
        if targets.values.size:
            checks.finite("validation Y", targets.values, self._dtype)
        return lambda: self._loss_value(X, targets)

    def objective(self, X: ArrayLike, Y: ArrayLike) -> Callable[[ArrayLike], tuple[float, NDArray[np.float64]]]:
        """Make a function from a parameter vector to the loss and its gradient, for ``scipy.optimize.minimize``.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)

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
        """
        X, targets = self._data(X, Y)
        copy = self._copy()

        def function(vector: ArrayLike) -> tuple[float, NDArray[np.float64]]:
            with copy._lock:
                copy._vector[:] = copy._checked_vector("vector", np.asarray(vector))
                loss, gradients = copy._loss_and_gradients(X, targets)
            return loss, gradients.vector.astype(np.float64)

        return function

    # -- proof -----------------------------------------------------------------------------------------------------

    def verify(self, X: ArrayLike, Y: ArrayLike) -> proof.Report:
        """Prove this network's gradients on this data: finite differences, oracle, kernels.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
        Y : array_like of shape (n_samples, n_outputs)

        Returns
        -------
        fastmlp.verify.Report
            ``print(report)`` shows a table; ``report.ok``; ``report.raise_if_failed()``.
        """
        X, targets = self._data(X, Y)
        with self._lock:
            _, gradients = self._loss_and_gradients(X, targets)
            return self._verify(X, targets, gradients, thorough=True)

    def _verify(
        self, X: Array, targets: checks.Targets, gradients: Sequence[Parameters], *, thorough: bool
    ) -> proof.Report:
        return proof.check(
            self._pairs(self._vector.astype(np.float64)),
            X.T.astype(np.float64),
            targets.as_rows(self._sizes[-1]).T.astype(np.float64),
            activations=self._activations,
            loss=self._loss,
            computed=proof.Computed([Parameters(*map(np.asarray, pair)) for pair in gradients], self._dtype),
            thorough=thorough,
        )

    # -- workspaces, threads, statuses -----------------------------------------------------------------------------

    def _data(self, X: ArrayLike, Y: ArrayLike, *, convert: bool = True) -> tuple[Array, checks.Targets]:
        """Check both; without conversion, arrays keep their dtype and layout."""
        dtype = self._dtype if convert else None
        X = checks.samples("X", X, self._sizes[0], dtype)
        targets = checks.targets("Y", Y, self._sizes[-1], self._loss, X.shape[0], dtype)
        if targets.labels.size:
            targets.values = np.empty(0, self._dtype)
        return X, targets

    def _targets(self, Y: ArrayLike, n_samples: int) -> checks.Targets:
        return checks.targets("Y", Y, self._sizes[-1], self._loss, n_samples, self._dtype)

    def _of(self, workspace: Workspace, n_threads: int) -> tuple[Any, ...]:
        """What every kernel takes first, made ready for so many threads."""
        workspace.divide(n_threads)
        return workspace.plan, self._vector, workspace.arena, workspace.report

    def _borrow(self, n_samples: int) -> Workspace:
        """A workspace that nobody else uses, large enough and not much too large."""
        while self._free:
            try:
                workspace = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if n_samples <= workspace.capacity and (
                workspace.capacity <= _ROWS_AT_ONCE or workspace.capacity <= 8 * n_samples
            ):
                return workspace
        return Workspace(self._sizes, self._activations, self._loss, self._dtype, n_samples)

    def _threads(self, n_samples: int) -> int:
        """Threads for a batch, from the size of the work: few operations are done sooner by one."""
        if self.config["n_threads"] is not None:
            return min(self.config["n_threads"], jit.max_threads())
        return jit.max_threads() if self._operations(n_samples) > _PARALLEL_FROM else 1

    def _operations(self, n_samples: int) -> int:
        """Operations of a training step, counted as if they were float32."""
        return 6 * self._multiplications * n_samples * self._dtype.itemsize // 4

    def _pace(self, batch_size: int) -> threads.Pace:
        """What is known of the speed of training steps with such batches."""
        pace = self._paces.get(batch_size)
        if pace is None:
            first = self._threads(batch_size)
            measure = self.config["n_threads"] is None and self._operations(batch_size) > _MEASURE_FROM
            numbers = threads.candidates(first, jit.max_threads()) if measure else (first,)
            pace = self._paces[batch_size] = threads.Pace(numbers)
        return pace

    def _raise_for(self, status: int, **arrays: Array) -> None:
        """Tell what a kernel found in the data, in the words of the door. A loss that is infinite is no such thing."""
        if status == network.X_NOT_FINITE:
            raise checks.not_finite("X", arrays["X"])
        if status == network.Y_NOT_FINITE:
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
                "rng": self._rng.bit_generator.state,
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = dict(state["config"])
        self._rng = _generator(state["rng"])[1]
        self._set_up()
        self._vector[:], self._memory[:] = state["vector"], state["memory"]
        self._steps, self._optimizer_code = state["steps"], state["optimizer_code"]

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self._sizes))
        return f"<MLP {sizes}, {', '.join(self._activations)}, {self._loss}, {self._dtype}>"


# ------------------------------------------------------------------------------------------------------------------
# the arguments of MLP


def _activations(hidden: str | Sequence[str], output: str | None, loss: str, n_layers: int) -> list[str]:
    """One name per layer, checked."""
    known = list(ACTIVATIONS)
    if isinstance(hidden, str):
        names = [checks.one_of("hidden_activation", hidden, known)] * (n_layers - 1)
    elif isinstance(hidden, Sequence):
        if len(hidden) != n_layers - 1:
            raise ValueError(
                f"hidden_activation must be one name, or one for each of the {n_layers - 1} hidden layers;"
                f" got {len(hidden)}"
            )
        names = [checks.one_of(f"hidden_activation[{index}]", name, known) for index, name in enumerate(hidden)]
    else:
        raise TypeError(f"hidden_activation must be a name or a sequence of names; got {hidden!r}")
    own = LOSSES[loss].output_activation
    if output is None:
        return [*names, own]
    if not LOSSES[loss].of_pre_activations:
        return [*names, checks.one_of("output_activation", output, known)]
    if output != own:
        raise ValueError(f"output_activation must be {own!r} or None for {loss}, which goes with it; got {output!r}")
    return [*names, output]


def _check_weight_scale(weight_scale: object) -> None:
    if isinstance(weight_scale, str):
        if weight_scale not in ("glorot", "he"):
            raise ValueError(f"weight_scale must be a number, 'glorot' or 'he'; got {weight_scale!r}")
    else:
        settings.check_number("weight_scale", weight_scale, low=0)


def _dtype(dtype: DTypeLike) -> np.dtype:
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be float64 or float32; got {dtype!r}") from None
    if chosen.newbyteorder("=") not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise ValueError(f"dtype must be float64 or float32; got {chosen}")
    return chosen.newbyteorder("=")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def _generator(rng: Any) -> tuple[Any, np.random.Generator]:
    """A generator, and what makes it again: a seed, or the state that a given generator was in."""
    if isinstance(rng, np.random.Generator):
        return rng.bit_generator.state, rng
    if isinstance(rng, dict):
        bit_generator = getattr(np.random, rng["bit_generator"])()
        bit_generator.state = rng
        return rng, np.random.Generator(bit_generator)
    if rng is None:
        rng = np.random.SeedSequence().entropy
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        expected = "None, a seed (a whole number of at least 0) or a numpy.random.Generator"
        raise TypeError(f"rng must be {expected}; got {rng!r}")
    return int(rng), np.random.default_rng(int(rng))


def _read_only(vector: Array) -> Array:
    view = vector.view()
    view.flags.writeable = False
    return view
