"""Update rules on vector registers: the twins of :mod:`fastmlp.oracle.optimizers`.

Compiled code chooses by an integer. Adding an optimizer is adding its function, its code, and its lines in
:func:`update_range`.
"""

from __future__ import annotations

from fastmlp.kernels.jit import tile_function
from fastmlp.kernels.simd import lanes, load_first, square_root, store_first

NO_UPDATE, PLAIN_SGD, SGD, ADAM = range(4)
"""The integers by which compiled code knows an optimizer. ``NO_UPDATE`` leaves the parameters alone; ``PLAIN_SGD`` is
SGD without momentum, which has nothing to remember and spares the memory's traffic."""

CODES = {"sgd": SGD, "adam": ADAM}
"""The update rules by name."""

LEARNING_RATE, FIRST_DECAY, SECOND_DECAY, EPSILON = range(4)
"""Where a setting stands in the array of settings. The first decay is SGD's momentum, or Adam's ``beta1``."""

N_SETTINGS = 4


@tile_function
def sgd(parameter, gradient, velocity, learning_rate, momentum):
    """Stochastic gradient descent with momentum: the new parameter and velocity."""
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * velocity, velocity


@tile_function
def adam(
    parameter,
    gradient,
    first_moment,
    second_moment,
    learning_rate,
    beta1,
    beta2,
    epsilon,
    first_correction,
    second_correction,
):
    """Adam: the new parameter and moments. The corrections are ``1 - beta1**t`` and ``1 - beta2**t``."""
    first_moment = beta1 * first_moment + (1 - beta1) * gradient
    second_moment = beta2 * second_moment + (1 - beta2) * gradient * gradient
    step = (first_moment / first_correction) / (square_root(second_moment / second_correction) + epsilon)
    return parameter - learning_rate * step, first_moment, second_moment


NO_RATES = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
"""What goes with ``NO_UPDATE``."""


@tile_function
def rates_of(optimizer, settings, step):
    """Settings as numbers, and the two corrections of Adam at step ``step`` (the first is 1)."""
    first_decay, second_decay = float(settings[FIRST_DECAY]), float(settings[SECOND_DECAY])
    first_correction, second_correction = 1.0, 1.0
    if optimizer == ADAM:
        first_correction, second_correction = 1 - first_decay**step, 1 - second_decay**step
    learning_rate, epsilon = float(settings[LEARNING_RATE]), float(settings[EPSILON])
    return learning_rate, first_decay, second_decay, epsilon, first_correction, second_correction


@tile_function
def update_range(optimizer, rates, parameters, gradient, memory, start, stop):
    """Update the parameters from ``start`` to ``stop``.

    ``memory`` holds the velocity or first moment of every parameter, then the second moment of every parameter.
    """
    learning_rate, first_decay, second_decay, epsilon, first_correction, second_correction = rates
    second_half = memory.size // 2
    for k in range(start, stop, lanes(parameters)):
        left = stop - k
        parameter, g = load_first(parameters, k, left), load_first(gradient, k, left)
        if optimizer == PLAIN_SGD:  # the velocity is the gradient
            parameter = parameter - learning_rate * g
        elif optimizer == SGD:
            m = load_first(memory, k, left)
            parameter, m = sgd(parameter, g, m, learning_rate, first_decay)
            store_first(memory, k, m, left)
        else:
            m, v = load_first(memory, k, left), load_first(memory, second_half + k, left)
            parameter, m, v = adam(
                parameter, g, m, v, learning_rate, first_decay, second_decay, epsilon,
                first_correction, second_correction,
            )  # fmt: skip
            store_first(memory, k, m, left)
            store_first(memory, second_half + k, v, left)
        store_first(parameters, k, parameter, left)
