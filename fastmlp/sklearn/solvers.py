"""How scikit-learn trains, step for step: the same order of samples, the same steps, the same end.

With the same ``random_state`` the parameters are scikit-learn's to rounding. What is different is named where it is;
and one thing here: scikit-learn's cross-entropies count a sample's loss as ``-log(eps)`` at most, 36 in float64. So on
data that are not scaled it may stop where nothing seems to be gained, and here training goes on.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import xlogy
from sklearn.exceptions import ConvergenceWarning

from fastmlp import checks, settings, threads, training
from fastmlp.mlp import MLP
from fastmlp.oracle.network import penalty_value
from fastmlp.settings import SGD, Adam, AdamW, RMSprop
from fastmlp.sklearn.sparse import SparseNetwork, SparseRows, SparseTrainee, reads_values
from fastmlp.stepping import Run
from fastmlp.trainee import Trainee

Array = NDArray[Any]

NOT_FINITE = (
    "Solver produced non-finite parameter weights. "
    "The input data may contain large values and need to be preprocessed."
)
"""scikit-learn's own words."""

_LEAST_RATE = 1e-6
"""Of ``learning_rate="adaptive"``: below it training ends."""

_ROWS_AT_ONCE = 4096
"""Rows whose gradient is summed in one go for L-BFGS."""


class Data(NamedTuple):
    """What is trained on: rows, and targets with the samples' weights."""

    X: Any
    targets: checks.Targets

    @property
    def n_samples(self) -> int:
        """Rows."""
        return int(self.X.shape[0])


class Validated(NamedTuple):
    """What is known of the validation data after an epoch."""

    score: float
    loss: float


# ------------------------------------------------------------------------------------------------------------------
# sgd, adam and fastmlp's other optimizers


def optimizer_of(estimator: Any, learning_rate: float) -> settings.Optimizer:
    """The optimizer that an estimator asks for, with a learning rate in the place of ``learning_rate_init``."""
    solver = estimator.solver
    if not isinstance(solver, str):
        return solver
    if solver == "sgd":
        momentum = float(estimator.momentum)
        return SGD(learning_rate, momentum=momentum, nesterov=bool(estimator.nesterovs_momentum and momentum > 0))
    if solver == "rmsprop":
        return RMSprop(learning_rate)
    kind = Adam if solver == "adam" else AdamW
    # scikit-learn adds epsilon before it corrects the second moment
    return kind(
        learning_rate, float(estimator.beta_1), float(estimator.beta_2), float(estimator.epsilon), epsilon_first=True
    )


class LossInTheirTerms:
    """The loss of an epoch as scikit-learn tells it: the mean over the outputs, too, of a loss of regression.

    (It makes the sum over the outputs small all the same: its gradients, and so its penalty, are beside the sum.) Its
    poisson is the deviance, which is 0 where all predictions are right.
    """

    def __init__(self, mlp: MLP, data: Data) -> None:
        self._mlp, self._data, self._sum = mlp, data, 0.0
        self._outputs = 1 if mlp._loss.endswith("entropy") or mlp._loss == "poisson" else mlp._sizes[-1]

    def begin(self) -> None:
        """Of a new epoch."""
        self._sum = self._mlp._penalties = 0.0

    def add(self, total: float, chosen: Any, factor: float = 1.0) -> None:
        """Add what steps over these rows returned: the sum of their losses times their weights."""
        penalties, self._mlp._penalties = self._mlp._penalties, 0.0
        self._sum += factor * ((total - penalties) / self._outputs + penalties + self._constant(chosen))

    @property
    def mean(self) -> float:
        """Over all samples."""
        return self._sum / self._data.n_samples

    def of(self, held: Data) -> float:
        """The same of other data, without the penalty."""
        mlp, first, total = self._mlp, 0, 0.0
        for X in held.X.parts(mlp._dtype) if isinstance(held.X, SparseRows) else [held.X]:
            targets = held.targets.of_rows(slice(first, first + len(X)), mlp._dtype)
            weight = targets.total_weight(len(X))
            if weight > 0:
                value = mlp._loss_value(np.ascontiguousarray(X, mlp._dtype), targets) - mlp._penalty(weight)
                total += value * weight
            first += len(X)
        return float(total / held.targets.total_weight(first) / self._outputs)

    def at_the_end(self, loss: float, penalty: float) -> float:
        """The loss of all samples, from their mean and the penalty."""
        whole = slice(0, self._data.n_samples)
        return loss / self._outputs + penalty + self._constant(whole) / self._data.targets.total_weight(whole.stop)

    def _constant(self, chosen: Any) -> float:
        """What the deviance of these rows has beside the negative logarithm of their probability."""
        if self._mlp._loss != "poisson":
            return 0.0
        targets = self._data.targets
        Y = targets.values[chosen].astype(np.float64)
        of_samples = (xlogy(Y, Y) - Y).sum(axis=1)
        return float(of_samples @ targets.weights[chosen] if targets.weights.size else of_samples.sum())


class Stochastic:
    """Training by minibatches, epoch after epoch, until nothing is gained any more."""

    def __init__(self, estimator: Any, mlp: MLP, data: Data, validate: Callable[[], Validated] | None) -> None:
        self._estimator, self._data, self._validate = estimator, data, validate
        self._loss = LossInTheirTerms(mlp, data)
        n_samples, wanted = data.n_samples, estimator.batch_size
        if isinstance(wanted, str):
            wanted = 200
        elif wanted > n_samples:
            warnings.warn(
                f"batch_size is {wanted}; there are {n_samples} samples, which are one batch", stacklevel=_AT_FIT + 1
            )
        self._plan = training.Plan(
            rows=None, n_samples=n_samples, total_weight=1.0, epochs=1, batch_size=min(int(wanted), n_samples),
            shuffle=False, progress=False,
        )  # fmt: skip
        self._run = Run(optimizer_of(estimator, estimator._learning_rate), self._plan.batch_size, n_samples)
        kind = SparseTrainee if reads_values(data.X, mlp) else Trainee
        self._trainee = kind(mlp, data.X, data.targets, self._plan, self._run, None, {})
        self._order = np.arange(n_samples)

    def fit(self, random_state: np.random.RandomState, *, epochs: int, warns: bool, is_first: bool) -> None:
        """Train for at most so many epochs; ``warns`` if they were not enough."""
        estimator = self._estimator
        estimator.n_iter_, self._restores = 0, is_first
        with training.interruptible() as interrupted, threads.at_work:
            while estimator.n_iter_ < epochs:
                if estimator.shuffle:
                    self._order = shuffled(self._order, random_state)
                why = self._epoch(interrupted)
                if why == training.INTERRUPTED:
                    warnings.warn("Training interrupted by user.", stacklevel=_AT_FIT)
                    break
                self._note(is_finite=not why)
                if why and not estimator.early_stopping:
                    raise ValueError(NOT_FINITE)
                if why:
                    words = f"Training {why}. The parameters are those with the best validation score."
                    warnings.warn(words, ConvergenceWarning, stacklevel=_AT_FIT)
                    break
                if self._is_over():
                    break
                if warns and estimator.n_iter_ == epochs:
                    words = f"Maximum iterations ({epochs}) reached and the optimization hasn't converged yet."
                    warnings.warn(f"Stochastic Optimizer: {words}", ConvergenceWarning, stacklevel=_AT_FIT)
        # where training went on and no score was better than those before, scikit-learn keeps what was learned last
        if estimator.early_stopping and self._restores:
            self._trainee.restore()

    def _epoch(self, interrupted: threading.Event) -> str:
        """One epoch, whose mean loss the loss then tells. Returns why it broke, or nothing."""
        order = self._order if self._estimator.shuffle else _IN_ORDER
        self._loss.begin()
        n_samples, weights = self._data.n_samples, self._data.targets.weights
        if not weights.size:
            ended = self._trainee.epoch(order, interrupted, None)
            self._loss.add(ended.total, slice(0, n_samples))
            return ended.why
        # scikit-learn's mean over an epoch counts the samples of a minibatch, not their weights: step by step
        for first in range(0, n_samples, self._plan.batch_size):
            if interrupted.is_set():
                return training.INTERRUPTED
            total, taken = self._trainee.take_steps(order, first, 1, 0.0)
            if not taken:
                return training.not_finite(self._trainee, order, first)
            chosen = self._run.rows(order, first)
            weight = weights[chosen].sum()
            self._loss.add(total, chosen, len(weights[chosen]) / weight if weight > 0 else 0.0)
        return ""

    def _note(self, *, is_finite: bool) -> None:
        """Add an epoch to what the estimator tells."""
        estimator = self._estimator
        estimator.n_iter_ += 1
        estimator.t_ += self._data.n_samples
        estimator.loss_ = self._loss.mean if is_finite else np.nan
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if self._validate is not None:
            validated = self._validate() if is_finite else Validated(np.nan, np.nan)
            estimator.validation_scores_.append(validated.score)
            estimator.validation_loss_curve_.append(validated.loss)
            if estimator.verbose:
                print(f"Validation score: {validated.score:f}")

    def _is_over(self) -> bool:
        """After an epoch: whether nothing has been gained for too long. Or the learning rate falls."""
        estimator = self._estimator
        estimator._no_improvement_count = 0 if self._has_gained() else estimator._no_improvement_count + 1
        schedule = estimator.learning_rate if estimator.solver == "sgd" else "constant"
        if schedule == "invscaling":
            self._set_rate(float(estimator.learning_rate_init) / (estimator.t_ + 1) ** estimator.power_t)
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        what = "Validation score" if estimator.early_stopping else "Training loss"
        words = f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} epochs."
        if schedule == "adaptive" and estimator._learning_rate > _LEAST_RATE:
            self._set_rate(estimator._learning_rate / 5)
            estimator._no_improvement_count = 0
            words += f" Setting learning rate to {estimator._learning_rate:f}."
        if estimator.verbose:
            print(words)
        return bool(estimator._no_improvement_count)

    def _has_gained(self) -> bool:
        estimator = self._estimator
        if not estimator.early_stopping:
            loss, best = estimator.loss_, estimator.best_loss_
            estimator.best_loss_ = min(loss, best)
            return not loss > best - estimator.tol
        score, best = estimator.validation_scores_[-1], estimator.best_validation_score_
        if score > best:
            estimator.best_validation_score_, self._restores = score, True
            self._trainee.keep()
        return not score < best + estimator.tol

    def _set_rate(self, learning_rate: float) -> None:
        """Go on with another rate. scikit-learn's velocity holds the rates that it came from, fastmlp's does not."""
        estimator = self._estimator
        self._trainee.go_on_with(
            optimizer_of(estimator, learning_rate), memory_factor=estimator._learning_rate / learning_rate
        )
        estimator._learning_rate = learning_rate


_IN_ORDER = np.empty(0, np.int64)

_AT_FIT = 4
"""How many calls below the user's line a warning is made, which names it: ``fit``, ``_fit`` and the solver."""


def shuffled(order: NDArray[np.int64], random_state: np.random.RandomState) -> NDArray[np.int64]:
    """Shuffle the order of the last epoch, as scikit-learn does."""
    positions = np.arange(len(order))
    random_state.shuffle(positions)
    return order[positions]


# ------------------------------------------------------------------------------------------------------------------
# L-BFGS


def fit_lbfgs(estimator: Any, mlp: MLP, data: Data) -> None:
    """Train on all data at once, by SciPy's L-BFGS-B.

    In float64, whatever the data are: differences of losses are what its line search lives on.
    """
    exact = MLP(**{**mlp.config, "dtype": np.float64, "penalty": None})
    sparse = SparseNetwork(exact, data.X.matrix) if reads_values(data.X, mlp) else None
    weight, n_samples = data.targets.total_weight(data.n_samples), data.n_samples

    def of_rows(chosen: slice, targets: checks.Targets) -> tuple[float, NDArray[np.float64]]:
        if sparse is not None:
            gradient = np.empty_like(exact._vector)
            return sparse.loss_and_gradient(chosen, targets, gradient), gradient
        loss, gradients = exact._loss_and_gradients(np.ascontiguousarray(data.X[chosen], np.float64), targets)
        return loss, gradients.vector

    def loss_and_gradient(vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        exact._vector[:] = vector
        exact._parameters_changed()
        total, gradient = 0.0, np.zeros_like(vector)
        for first in range(0, n_samples, _ROWS_AT_ONCE):
            chosen = slice(first, min(first + _ROWS_AT_ONCE, n_samples))
            targets = data.targets.of_rows(chosen, exact._dtype)
            part = targets.total_weight(chosen.stop - first) / weight
            if part > 0:
                loss, of_part = of_rows(chosen, targets)
                total += part * loss
                gradient += part * of_part
        penalty = mlp._oracle_penalty(weight)
        return total + penalty_value(exact._pairs(vector), penalty), gradient + penalty.l2 * _weights_of(exact, vector)

    def tell(intermediate_result: Any) -> None:
        print(f"Iteration {next(counter)}, loss = {intermediate_result.fun:.8f}")

    counter = itertools.count(1)
    with threads.at_work:
        result = minimize(
            loss_and_gradient, mlp._vector.astype(np.float64), method="L-BFGS-B", jac=True,
            options={"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol},
            callback=tell if estimator.verbose else None,
        )  # fmt: skip
    if not np.isfinite(result.x).all():
        raise ValueError(NOT_FINITE)
    mlp._assign(result.x)
    if not result.success:
        words = f"lbfgs failed to converge after {result.nit} iterations: {result.message}"
        warnings.warn(f"{words}. Increase max_iter, or scale the data.", ConvergenceWarning, stacklevel=_AT_FIT)
    penalty = penalty_value(mlp._pairs(result.x), mlp._oracle_penalty(weight))
    estimator.n_iter_ = min(result.nit, estimator.max_iter)
    estimator.loss_ = LossInTheirTerms(mlp, data).at_the_end(result.fun - penalty, penalty)


def _weights_of(mlp: MLP, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights, with 0 in the place of the biases."""
    found = vector.copy()
    for pair in mlp._pairs(found):
        pair.biases[:] = 0
    return found
