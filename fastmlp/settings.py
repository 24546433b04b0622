"""Settings in small objects: the optimizers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels import optimizers as kernel


def check_number(name: str, value: object, *, low: float, high: float = math.inf, low_allowed: bool = True) -> None:
    """Refuse what is not a finite number in ``low <= value < high`` (or ``low < value``), naming it."""
    expected = f"a finite number {'at least' if low_allowed else 'above'} {low:g}"
    if high < math.inf:
        expected += f" and below {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be {expected}; got {value!r}")
    if not (low <= value < high) or (value == low and not low_allowed):
        raise ValueError(f"{name} must be {expected}; got {value!r}")


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    ``velocity = momentum * velocity + gradient``, then ``parameter = parameter - learning_rate * velocity``.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    momentum : float
        At least 0 and below 1; 0 is plain gradient descent.

    References
    ----------
    .. [1] Goodfellow, Bengio & Courville, *Deep Learning*, algorithm 8.2.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.SGD(learning_rate=0.1, momentum=0.9)
    SGD(learning_rate=0.1, momentum=0.9)
    """

    learning_rate: float = 0.01
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0, low_allowed=False)
        check_number("momentum", self.momentum, low=0, high=1)

    @cached_property
    def code(self) -> int:
        """The integer by which compiled code knows this rule."""
        return kernel.SGD if self.momentum else kernel.PLAIN_SGD

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The settings as compiled code reads them."""
        return np.array([self.learning_rate, self.momentum, 0.0, 0.0])


@dataclass(frozen=True)
class Adam:
    """Adam: a step scaled by running means of the gradient and of its square.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    beta1, beta2 : float
        Decay of the two running means, at least 0 and below 1.
    epsilon : float
        Added to the root of the second mean; above 0.

    References
    ----------
    .. [1] D. Kingma, J. Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.Adam(learning_rate=3e-3)
    Adam(learning_rate=0.003, beta1=0.9, beta2=0.999, epsilon=1e-08)
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, low=0, low_allowed=False)
        check_number("beta1", self.beta1, low=0, high=1)
        check_number("beta2", self.beta2, low=0, high=1)
        check_number("epsilon", self.epsilon, low=0, low_allowed=False)

    @cached_property
    def code(self) -> int:
        """The integer by which compiled code knows this rule."""
        return kernel.ADAM

    @cached_property
    def array(self) -> NDArray[np.float64]:
        """The settings as compiled code reads them."""
        return np.array([self.learning_rate, self.beta1, self.beta2, self.epsilon])


Optimizer = SGD | Adam

OPTIMIZERS: dict[str, type[SGD | Adam]] = {"sgd": SGD, "adam": Adam}


@lru_cache(maxsize=16)
def _by_name(optimizer: str, learning_rate: float) -> Optimizer:
    """Remembered, because a training step may take microseconds."""
    return OPTIMIZERS[optimizer](learning_rate=learning_rate)


def as_optimizer(optimizer: object, learning_rate: float | None) -> Optimizer:
    """From a name and a rate, or an object with its settings, make the optimizer."""
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(sorted(OPTIMIZERS))}; got {optimizer!r}")
        if type(learning_rate) is float:
            return _by_name(optimizer, learning_rate)
        kind = OPTIMIZERS[optimizer]
        return kind() if learning_rate is None else kind(learning_rate=learning_rate)
    if isinstance(optimizer, SGD | Adam):
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


assert all(len(fields(kind)) <= kernel.N_SETTINGS for kind in OPTIMIZERS.values())  # noqa: S101
