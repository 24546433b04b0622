"""Settings in small objects: losses, penalties, optimizers and learning rates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.kernels import optimizers as kernel
from fastmlp.oracle.losses import LOSSES


def check_number(name: str, value: object, *, low: float, high: float = math.inf, low_allowed: bool = True) -> None:
    """Refuse what is not a finite number in ``low <= value < high`` (or ``low < value``), naming it."""
    expected = f"a finite number {'at least' if low_allowed else 'above'} {low:g}"
    if high < math.inf:
        expected += f" and below {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be {expected}; got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 300 digits
        number = math.inf
    if not (low <= number < high) or (number == low and not low_allowed):
        raise ValueError(f"{name} must be {expected}; got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def rate_at(rate: Callable[[int], float], step: int) -> float:
    """A schedule's rate at a step."""
    value = rate(step)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"learning_rate must be a finite number at least 0; got {value!r} at step {step}")
    return found


# ------------------------------------------------------------------------------------------------------------------
# losses that have a setting, and the penalty


@dataclass(frozen=True)
class Huber:
    """The loss ``huber``: half the squared error up to a threshold, a straight line beyond it.

    Parameters
    ----------
    threshold : float
        In the unit of the targets; above 0.

    References
    ----------
    .. [1] P. Huber, *Robust Estimation of a Location Parameter*, Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.MLP([2, 8, 1], loss=fastmlp.Huber(threshold=0.5), rng=0)
    <MLP 2-8-1, sigmoid, identity, huber, float64>
    """

    threshold: float = 1.0
    name: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0, low_allowed=False)

    @property
    def setting(self) -> float:
        """The number that the loss takes."""
        return float(self.threshold)


@dataclass(frozen=True)
class Quantile:
    """The loss ``quantile``: least where a share ``q`` of the targets lies below the prediction.

    Parameters
    ----------
    q : float
        Above 0 and below 1; 0.5 is half the absolute error, and predicts the median.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, *Regression Quantiles*, Econometrica 46 (1978).

    Examples
    --------
    >>> import fastmlp
    >>> upper = fastmlp.MLP([2, 8, 1], loss=fastmlp.Quantile(0.9), rng=0)
    """

    q: float = 0.5
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        check_number("q", self.q, low=0, high=1, low_allowed=False)

    @property
    def setting(self) -> float:
        """The number that the loss takes."""
        return float(self.q)


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """The loss ``softmax_cross_entropy``, with part of each target shared out evenly over all classes.

    Parameters
    ----------
    label_smoothing : float
        At least 0 and below 1.

    References
    ----------
    .. [1] C. Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, CVPR 2016, section 7.

    Examples
    --------
    >>> import fastmlp
    >>> mlp = fastmlp.MLP([4, 8, 3], loss=fastmlp.SoftmaxCrossEntropy(label_smoothing=0.1), rng=0)
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "softmax_cross_entropy"

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, low=0, high=1)

    @property
    def setting(self) -> float:
        """The number that the loss takes."""
        return float(self.label_smoothing)


Loss = Huber | Quantile | SoftmaxCrossEntropy

OwnLoss = Callable[[NDArray[Any], Any], tuple[float, Any]]


def loss_name(loss: object) -> str:
    """The name of a loss, given by that name or as an object; "own" of a function."""
    if isinstance(loss, Loss):
        return loss.name
    if isinstance(loss, str):
        if loss in LOSSES:
            return loss
    elif callable(loss) and not isinstance(loss, type):
        return "own"
    objects = "an object such as fastmlp.Huber(), or a function of predictions and targets"
    kind = ValueError if isinstance(loss, str) else TypeError
    raise kind(f"loss must be one of {', '.join(LOSSES)}, {objects}; got {loss!r}")


def loss_setting(loss: object) -> float:
    """Its number; 0 if it has none."""
    return loss.setting if isinstance(loss, Loss) else float(LOSSES[str(loss)].setting or 0.0)


@dataclass(frozen=True)
class Penalty:
    """What is added to the loss for large parameters: ``l1 Σ |w| + l2 / 2 Σ w²`` over the weights.

    Every loss that the model tells includes it. (``weight_decay`` of an optimizer is something else: it draws weights
    towards 0 beside the gradient, and no loss knows of it.)

    Parameters
    ----------
    l1, l2 : float
        At least 0.
    biases : bool
        Whether biases are penalized too.
    divided_by_samples : bool
        Whether the penalty is divided by the number of samples of the minibatch, or by the sum of their weights: it
        then stands beside the sum of their losses, and counts the less the more samples there are. scikit-learn's
        ``alpha`` is ``Penalty(l2=alpha, divided_by_samples=True)``.

    References
    ----------
    .. [1] Goodfellow, Bengio & Courville, *Deep Learning*, MIT Press 2016, section 7.1.

    Examples
    --------
    >>> import fastmlp
    >>> mlp = fastmlp.MLP([2, 8, 1], penalty=fastmlp.Penalty(l2=1e-4), rng=0)
    """

    l1: float = 0.0
    l2: float = 0.0
    biases: bool = False
    divided_by_samples: bool = False

    def __post_init__(self) -> None:
        check_number("l1", self.l1, low=0)
        check_number("l2", self.l2, low=0)
        check_flag("biases", self.biases)
        check_flag("divided_by_samples", self.divided_by_samples)


# ------------------------------------------------------------------------------------------------------------------
# learning rates


@dataclass(frozen=True)
class StepDecay:
    """A rate that is multiplied by ``factor`` after every ``every`` steps.

    Parameters
    ----------
    learning_rate : float
        Of the first steps; above 0.
    every : int
        Training steps (not epochs: ``samples / batch_size`` of them are an epoch).
    factor : float
        Above 0.

    Examples
    --------
    >>> import fastmlp
    >>> rate = fastmlp.StepDecay(0.1, every=100, factor=0.5)
    >>> rate(0), rate(99), rate(100), rate(250)
    (0.1, 0.1, 0.05, 0.025)
    """

    learning_rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0, low_allowed=False)
        checks.integer("every", self.every)
        check_number("factor", self.factor, low=0, low_allowed=False)

    def __call__(self, step: int) -> float:
        """The rate of a step, the first being 0."""
        return self.learning_rate * self.factor ** (step // self.every)


@dataclass(frozen=True)
class CosineDecay:
    """A rate that falls to ``final`` along half a cosine wave over ``n_steps`` steps, and stays there.

    Parameters
    ----------
    learning_rate : float
        Of the first step; above 0.
    n_steps : int
        Training steps.
    final : float
        At least 0.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, equation 5.

    Examples
    --------
    >>> import fastmlp
    >>> rate = fastmlp.CosineDecay(0.1, n_steps=100)
    >>> rate(0), round(rate(50), 3), rate(100)
    (0.1, 0.05, 0.0)
    """

    learning_rate: float
    n_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0, low_allowed=False)
        checks.integer("n_steps", self.n_steps)
        check_number("final", self.final, low=0)

    def __call__(self, step: int) -> float:
        """The rate of a step, the first being 0."""
        done = min(step / self.n_steps, 1.0)
        return self.final + (self.learning_rate - self.final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmUp:
    """A rate that rises in a straight line over the first ``n_steps`` steps to that of another schedule.

    Parameters
    ----------
    then : float or function
        The rate, or a schedule, that is reached; a schedule counts its steps from the first one on, too.
    n_steps : int
        Training steps; step 0 has the ``1 / n_steps`` part of the rate.

    Examples
    --------
    >>> import fastmlp
    >>> rate = fastmlp.WarmUp(fastmlp.CosineDecay(0.1, n_steps=1000), n_steps=10)
    >>> round(rate(0), 4), round(rate(4), 4), round(rate(10), 4)
    (0.01, 0.05, 0.1)
    """

    then: float | Callable[[int], float]
    n_steps: int

    def __post_init__(self) -> None:
        if not callable(self.then):
            check_number("then", self.then, low=0, low_allowed=False)
        checks.integer("n_steps", self.n_steps)

    def __call__(self, step: int) -> float:
        """The rate of a step, the first being 0."""
        reached = self.then(step) if callable(self.then) else self.then
        return reached * min((step + 1) / self.n_steps, 1.0)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """A rate that ``fit`` multiplies by ``factor`` when the loss has not fallen for ``patience`` epochs.

    It is the validation loss, if there is one, and else the training loss. A single training step, which knows of no
    epochs, takes the rate as it is then.

    Parameters
    ----------
    learning_rate : float
        To begin with; above 0.
    factor : float
        Above 0 and below 1.
    patience : int
        Epochs without a gain after which the rate is reduced.
    minimum_gain : float
        By how much the loss must fall below the best one so far to count; at least 0.
    least : float
        The rate is never reduced below it; at least 0.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.Adam(learning_rate=fastmlp.ReduceOnPlateau(3e-3, patience=5))
    """

    learning_rate: float
    factor: float = 0.1
    patience: int = 10
    minimum_gain: float = 0.0
    least: float = 0.0

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0, low_allowed=False)
        check_number("factor", self.factor, low=0, high=1, low_allowed=False)
        checks.integer("patience", self.patience)
        check_number("minimum_gain", self.minimum_gain, low=0)
        check_number("least", self.least, low=0)


Rate = float | Callable[[int], float] | ReduceOnPlateau


def _check_rate(rate: object) -> None:
    if isinstance(rate, ReduceOnPlateau) or (callable(rate) and not isinstance(rate, type)):
        return
    check_number("learning_rate", rate, low=0, low_allowed=False)


# ------------------------------------------------------------------------------------------------------------------
# what fit does after an epoch


@dataclass(frozen=True)
class EarlyStopping:
    """End training when the loss has not fallen for ``patience`` epochs.

    It is the validation loss, if there is one, and else the training loss.

    Parameters
    ----------
    patience : int
        Epochs without a gain after which training ends.
    minimum_gain : float
        By how much the loss must fall below the best one so far to count; at least 0.
    restore_best : bool
        Give back the parameters of the best epoch, however training ended.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.EarlyStopping(patience=5)
    EarlyStopping(patience=5, minimum_gain=0.0, restore_best=True)
    """

    patience: int = 10
    minimum_gain: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        checks.integer("patience", self.patience)
        check_number("minimum_gain", self.minimum_gain, low=0)
        check_flag("restore_best", self.restore_best)


@dataclass(frozen=True)
class Checkpoint:
    """Write the whole state of training to a file, now and then, so that it can go on from there.

    The file is replaced in one piece: a process that is killed leaves the last whole one. ``fit`` with a checkpoint
    whose file is there goes on from it, and ends with the same bits as if it had never been interrupted; of a run that
    is finished it returns the end, without training. A file of another network, of other settings or of other data is
    refused. (Of data, some rows are compared; of blocks, and beside ``comm``, none.)

    Parameters
    ----------
    path : str or path
        Of the file; its folder must exist.
    every_epochs : int, optional
        None writes by the clock alone.
    every_minutes : float, optional
        Write at the end of the first epoch after so many minutes.
    resume : bool
        Go on from the file if it is there; else it is replaced.

    Examples
    --------
    >>> import fastmlp
    >>> checkpoint = fastmlp.Checkpoint("run.ckpt", every_epochs=10)
    """

    path: str | os.PathLike[str]
    every_epochs: int | None = 1
    every_minutes: float | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path must be a path; got {self.path!r}")
        if self.every_epochs is not None:
            checks.integer("every_epochs", self.every_epochs)
        if self.every_minutes is not None:
            check_number("every_minutes", self.every_minutes, low=0)
        check_flag("resume", self.resume)


# ------------------------------------------------------------------------------------------------------------------
# optimizers


class _Optimizer:
    """What all optimizers have: a rate, weight decay beside the gradient, and a limit for the gradient's norm."""

    learning_rate: Rate
    weight_decay: float
    decay_biases: bool
    max_gradient_norm: float | None

    def _check(self, **decays: float) -> None:
        _check_rate(self.learning_rate)
        for name, value in decays.items():
            check_number(name, value, low=0, high=1)
        check_number("weight_decay", self.weight_decay, low=0)
        check_flag("decay_biases", self.decay_biases)
        if self.max_gradient_norm is not None:
            check_number("max_gradient_norm", self.max_gradient_norm, low=0, low_allowed=False)

    def _array(
        self, first_decay: float, second_decay: float = 0.0, epsilon: float = 0.0, epsilon_first: bool = False
    ) -> NDArray[np.float64]:
        rate = self.learning_rate
        if isinstance(rate, ReduceOnPlateau):
            rate = rate.learning_rate
        constant = 0.0 if callable(rate) else rate
        limit = self.max_gradient_norm or 0.0
        return np.array([
            constant, first_decay, second_decay, epsilon, self.weight_decay, float(self.decay_biases), limit,
            float(epsilon_first),
        ], np.float64)  # fmt: skip

    def with_rates(self, step: int, n_steps: int, factor: float) -> NDArray[np.float64]:
        """The settings as compiled code reads them for some steps, the first of which is ``step`` (from 0)."""
        array: NDArray[np.float64] = self.array  # type: ignore[attr-defined]
        rate = self.learning_rate
        if isinstance(rate, ReduceOnPlateau):
            reduced = array.copy()
            reduced[kernel.LEARNING_RATE] = max(rate.learning_rate * factor, min(rate.least, rate.learning_rate))
            return reduced
        if not callable(rate):
            return array
        rates = [rate_at(rate, k) for k in range(step, step + n_steps)]
        return np.concatenate([array, rates])

    @cached_property
    def is_scheduled(self) -> bool:
        """Whether the rate is not always the same."""
        return not isinstance(self.learning_rate, int | float | np.number)


@dataclass(frozen=True)
class SGD(_Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    Parameters
    ----------
    learning_rate : float or function
        Above 0; or a schedule, that is any function from the number of the step (the first is 0) to a rate.
    momentum : float
        At least 0 and below 1; 0 is plain gradient descent.
    nesterov : bool
        Take Nesterov's momentum.
    weight_decay : float
        Before each step weights are multiplied by ``1 - learning_rate * weight_decay``: decoupled weight decay.
    decay_biases : bool
        Whether biases decay too.
    max_gradient_norm : float, optional
        The gradient of all parameters together is scaled down to this length where it is longer.

    References
    ----------
    .. [1] Goodfellow, Bengio & Courville, *Deep Learning*, algorithms 8.2 and 8.3.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """

    learning_rate: Rate = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_biases: bool = False
    max_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        self._check(momentum=self.momentum)
        check_flag("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("momentum must be above 0 with nesterov=True; got 0")

    @cached_property
    def code(self) -> int:
        """The integer by which compiled code knows this rule."""
        if self.nesterov:
            return kernel.NESTEROV
        return kernel.SGD if self.momentum else kernel.PLAIN_SGD

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The settings as compiled code reads them."""
        return self._array(self.momentum)


@dataclass(frozen=True)
class RMSprop(_Optimizer):
    """RMSprop: a step scaled by the root of a running mean of the gradient's square.

    Parameters
    ----------
    learning_rate, weight_decay, decay_biases, max_gradient_norm
        As in :class:`SGD`.
    decay : float
        Of the running mean, at least 0 and below 1.
    momentum : float
        Of the scaled gradient, at least 0 and below 1.
    epsilon : float
        Added to the root; above 0.

    References
    ----------
    .. [1] Goodfellow, Bengio & Courville, *Deep Learning*, algorithm 8.5.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.RMSprop(learning_rate=3e-3)
    """

    learning_rate: Rate = 1e-3
    decay: float = 0.99
    momentum: float = 0.0
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_biases: bool = False
    max_gradient_norm: float | None = None
    code: ClassVar[int] = kernel.RMSPROP

    def __post_init__(self) -> None:
        self._check(decay=self.decay, momentum=self.momentum)
        check_number("epsilon", self.epsilon, low=0, low_allowed=False)

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The settings as compiled code reads them."""
        return self._array(self.momentum, self.decay, self.epsilon)


@dataclass(frozen=True)
class Adam(_Optimizer):
    """Adam: a step scaled by running means of the gradient and of its square.

    Parameters
    ----------
    learning_rate, weight_decay, decay_biases, max_gradient_norm
        As in :class:`SGD`. With ``weight_decay`` this is AdamW.
    beta1, beta2 : float
        Decay of the two running means, at least 0 and below 1.
    epsilon : float
        Added to the root of the second mean; above 0.
    epsilon_first : bool
        Whether it is added before the mean's zero start is corrected for, as at the end of the paper's section 2 (and
        in scikit-learn and Keras), instead of after it, as in its algorithm 1 (and in PyTorch).

    References
    ----------
    .. [1] D. Kingma, J. Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.Adam(learning_rate=3e-3)
    """

    learning_rate: Rate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_biases: bool = False
    max_gradient_norm: float | None = None
    epsilon_first: bool = False
    code: ClassVar[int] = kernel.ADAM

    def __post_init__(self) -> None:
        self._check(beta1=self.beta1, beta2=self.beta2)
        check_number("epsilon", self.epsilon, low=0, low_allowed=False)
        check_flag("epsilon_first", self.epsilon_first)

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The settings as compiled code reads them."""
        return self._array(self.beta1, self.beta2, self.epsilon, self.epsilon_first)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: :class:`Adam` with another default.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import fastmlp
    >>> optimizer = fastmlp.AdamW(weight_decay=0.1)
    """

    weight_decay: float = 0.01


Optimizer = SGD | RMSprop | Adam

OPTIMIZERS: dict[str, type[SGD | RMSprop | Adam]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}


@lru_cache(maxsize=16)
def _by_name(optimizer: str, learning_rate: Rate) -> Optimizer:
    """Remembered, because a training step may take microseconds."""
    return OPTIMIZERS[optimizer](learning_rate=learning_rate)


def as_optimizer(optimizer: object, learning_rate: Rate | None) -> Optimizer:
    """From a name and a rate, or an object with its settings, make the optimizer."""
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(sorted(OPTIMIZERS))}; got {optimizer!r}")
        if type(learning_rate) is float:
            return _by_name(optimizer, learning_rate)
        kind = OPTIMIZERS[optimizer]
        return kind() if learning_rate is None else kind(learning_rate=learning_rate)
    if isinstance(optimizer, Optimizer):
        if learning_rate is None:
            return optimizer
        raise ValueError(
            f"learning_rate must stand in the optimizer alone when that is an object; got {learning_rate!r} beside"
            f" {optimizer!r}"
        )
    raise TypeError(
        f"optimizer must be one of {', '.join(sorted(OPTIMIZERS))}, or an object such as fastmlp.Adam(); "
        f"got {optimizer!r}"
    )
