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


def nesterov(
    parameter: Array, gradient: Array, velocity: Array, learning_rate: float, momentum: float
) -> tuple[Array, Array]:
    """Nesterov's momentum: the step goes where the velocity will have led. The new parameter and velocity.

    Source: Sutskever et al. 2013, equations 3 and 4, in terms of the parameter after the look ahead (Bengio et al.
    2013, *Advances in Optimizing Recurrent Networks*, section 3.5).
    """
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * (gradient + momentum * velocity), velocity


def rmsprop(
    parameter: Array,
    gradient: Array,
    velocity: Array,
    second_moment: Array,
    learning_rate: float,
    momentum: float,
    decay: float,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """RMSprop, with momentum: the new parameter, velocity and second moment.

    Source: Goodfellow, Bengio & Courville, algorithms 8.5 and 8.6, with ``epsilon`` outside of the root.
    """
    second_moment = decay * second_moment + (1 - decay) * gradient * gradient
    velocity = momentum * velocity + gradient / (np.sqrt(second_moment) + epsilon)
    return parameter - learning_rate * velocity, velocity, second_moment


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


def decayed(parameter: Array, learning_rate: float, weight_decay: float) -> Array:
    """A parameter before a step, drawn towards 0 by the rate alone, whatever its gradient: decoupled weight decay.

    Source: Loshchilov & Hutter 2019, algorithm 2; with Adam it is AdamW.
    """
    return parameter * (1 - learning_rate * weight_decay)


def penalty_gradient(parameter: Array, l1: float, l2: float) -> Array:
    """Gradient of ``l1 |w| + l2 / 2 w²``; 0 at the kink of ``|w|``."""
    return l1 * np.sign(parameter) + l2 * parameter
