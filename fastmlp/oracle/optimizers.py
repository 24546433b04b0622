"""Update rules: from a parameter and its gradient to the new parameter and the new memory of the optimizer.

Each acts on every element alone. Adding an optimizer is adding its function here and in
:mod:`fastmlp.kernels.optimizers`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sgd(
    parameter: Array, gradient: Array, velocity: Array, learning_rate: float, momentum: float
) -> tuple[Array, Array]:
    """Stochastic gradient descent with momentum: the new parameter and velocity.

    Source: Goodfellow, Bengio & Courville, algorithm 8.2, with the learning rate outside of the velocity (Sutskever
    et al. 2013), so that a changed rate acts at once.
    """
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * velocity, velocity


def adam(
    parameter: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    first_correction: float,
    second_correction: float,
) -> tuple[Array, Array, Array]:
    """Adam: the new parameter and moments.

    At step ``t`` (the first is 1) the corrections are ``1 - beta1**t`` and ``1 - beta2**t``: they undo the pull of
    the moments' zero start.

    Source: Kingma & Ba 2015, algorithm 1.
    """
    first_moment = beta1 * first_moment + (1 - beta1) * gradient
    second_moment = beta2 * second_moment + (1 - beta2) * gradient * gradient
    step = (first_moment / first_correction) / (np.sqrt(second_moment / second_correction) + epsilon)
    return parameter - learning_rate * step, first_moment, second_moment
