"""Update rules on vector registers: the twins of :mod:`fastmlp.oracle.optimizers`.

Compiled code chooses by an integer. Adding an optimizer is adding its function, its code, and its lines in
:func:`_update_range`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastmlp.kernels.elementary import by_sign
from fastmlp.kernels.jit import inlined_function, specialized_function, tile_function
from fastmlp.kernels.simd import (
    absolute,
    block,
    fill,
    lanes,
    load_first,
    square_root,
    store_first,
    sum_lanes,
)

NO_UPDATE, PLAIN_SGD, SGD, NESTEROV, RMSPROP, ADAM = range(6)
"""The integers by which compiled code knows an optimizer. ``NO_UPDATE`` leaves the parameters alone; ``PLAIN_SGD`` is
SGD without momentum, which has nothing to remember and spares the memory's traffic."""

CODES = {"sgd": SGD, "nesterov": NESTEROV, "rmsprop": RMSPROP, "adam": ADAM}
"""The update rules by name."""

LEARNING_RATE, FIRST_DECAY, SECOND_DECAY, EPSILON, WEIGHT_DECAY, DECAYS_BIASES, MAX_NORM, EPSILON_FIRST = range(8)
"""Where a setting stands in the array of settings. The first decay is SGD's and RMSprop's momentum, or Adam's
``beta1``; the norm of the gradient is cut down to ``MAX_NORM`` if that is above 0; ``EPSILON_FIRST`` is 1 where
Adam's epsilon is added before the correction. Behind the settings may follow the
learning rates of the steps of a call, one each, instead of the one in front."""

N_SETTINGS = 8

NO_SETTINGS = np.zeros(N_SETTINGS)
"""Those of no optimizer."""


@tile_function
def sgd(parameter, gradient, velocity, learning_rate, momentum):
    """Stochastic gradient descent with momentum: the new parameter and velocity."""
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * velocity, velocity


@tile_function
def nesterov(parameter, gradient, velocity, learning_rate, momentum):
    """Nesterov's momentum: the new parameter and velocity."""
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * (gradient + momentum * velocity), velocity


@tile_function
def rmsprop(parameter, gradient, velocity, second_moment, learning_rate, momentum, decay, epsilon):
    """RMSprop, with momentum: the new parameter, velocity and second moment."""
    second_moment = decay * second_moment + (1 - decay) * gradient * gradient
    velocity = momentum * velocity + gradient / (square_root(second_moment) + epsilon)
    return parameter - learning_rate * velocity, velocity, second_moment


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
    first_moment, second_moment = _moments(gradient, first_moment, second_moment, beta1, beta2)
    parameter = _moved(
        parameter, first_moment, second_moment, learning_rate, epsilon, first_correction, second_correction
    )
    return parameter, first_moment, second_moment


@tile_function
def _moments(gradient, first_moment, second_moment, beta1, beta2):
    """Adam's new moments."""
    first_moment = beta1 * first_moment + (1 - beta1) * gradient
    second_moment = beta2 * second_moment + (1 - beta2) * gradient * gradient
    return first_moment, second_moment


@tile_function
def _moved(parameter, first_moment, second_moment, learning_rate, epsilon, first_correction, second_correction):
    """Adam's new parameter."""
    # equivalent to: learning_rate (first_moment / first_correction) / (√(second_moment / second_correction) + epsilon)
    # with one division for each parameter instead of three
    size = square_root((1 / second_correction) * second_moment) + epsilon
    return parameter - (learning_rate / first_correction) * first_moment / size


@tile_function
def decayed(parameter, learning_rate, weight_decay):
    """A parameter before a step, drawn towards 0 by the rate alone: decoupled weight decay."""
    return parameter * (1 - learning_rate * weight_decay)


@tile_function
def penalty_gradient(parameter, l1, l2):
    """Gradient of ``l1 |w| + l2 / 2 w²``; 0 at the kink of ``|w|``."""
    return l1 * by_sign(parameter, 1.0, -1.0) + l2 * parameter


class _Rates(NamedTuple):
    """The settings of a step, and the two corrections of Adam."""

    learning_rate: float
    first_decay: float
    second_decay: float
    epsilon: float
    first_correction: float
    second_correction: float
    weight_decay: float
    decays_biases: bool


@tile_function
def rates_of(optimizer, settings, step, k):
    """Settings as numbers for step ``k`` of a call, and the two corrections of Adam at its step ``step`` (from 1)."""
    first_decay, second_decay = float(settings[FIRST_DECAY]), float(settings[SECOND_DECAY])
    first_correction, second_correction = 1.0, 1.0
    if optimizer == ADAM:
        first_correction, second_correction = 1 - first_decay**step, 1 - second_decay**step
    learning_rate = float(settings[N_SETTINGS + k] if settings.size > N_SETTINGS else settings[LEARNING_RATE])
    epsilon, weight_decay = float(settings[EPSILON]), float(settings[WEIGHT_DECAY])
    if settings[EPSILON_FIRST] != 0:
        # √second_moment + epsilon, all of it divided by √second_correction
        epsilon = epsilon / math.sqrt(second_correction)
    return _Rates(
        learning_rate, first_decay, second_decay, epsilon, first_correction, second_correction, weight_decay,
        settings[DECAYS_BIASES] != 0,
    )  # fmt: skip


@tile_function
def decay_range(rates, parameters, start, stop):
    """Draw the parameters from ``start`` to ``stop`` towards 0."""
    learning_rate, weight_decay = rates.learning_rate, rates.weight_decay
    for k in range(start, stop, lanes(parameters)):
        parameter = load_first(parameters, k, stop - k)
        store_first(parameters, k, decayed(parameter, learning_rate, weight_decay), stop - k)


@tile_function
def penalize_range(l1, l2, parameters, gradient, start, stop):
    """Add the penalty's gradient to that of the parameters from ``start`` to ``stop``."""
    for k in range(start, stop, lanes(parameters)):
        g = load_first(gradient, k, stop - k) + penalty_gradient(load_first(parameters, k, stop - k), l1, l2)
        store_first(gradient, k, g, stop - k)


@tile_function
def penalty_of_range(l1, l2, parameters, start, stop):
    """``l1 Σ |w| + l2 / 2 Σ w²`` over the parameters from ``start`` to ``stop``."""
    total = fill(parameters, 0.0)
    for k in range(start, stop, lanes(parameters)):
        w = load_first(parameters, k, stop - k)
        total = total + (l1 * absolute(w) + (0.5 * l2) * w * w)
    return float(sum_lanes(total))


@tile_function
def square_of_range(gradient, start, stop):
    """``Σ g²`` over the gradient from ``start`` to ``stop``."""
    total = fill(gradient, 0.0)
    for k in range(start, stop, lanes(gradient)):
        g = load_first(gradient, k, stop - k)
        total = total + g * g
    square = float(sum_lanes(total))
    if square - square == 0:
        return square
    square = 0.0  # too large for float32: of a gradient of 1e20, nothing would be left
    for k in range(start, stop):
        square += np.float64(gradient[k]) * np.float64(gradient[k])
    return square


@tile_function
def scale_range(factor, gradient, start, stop):
    """Multiply the gradient from ``start`` to ``stop``."""
    for k in range(start, stop, lanes(gradient)):
        store_first(gradient, k, load_first(gradient, k, stop - k) * factor, stop - k)


@inlined_function
def _update_range(optimizer, rates, parameters, gradient, memory, start, stop):
    """Update the parameters from ``start`` to ``stop``.

    ``memory`` holds the velocity or first moment of every parameter, then the second moment of every parameter.
    """
    learning_rate, first_decay, second_decay, epsilon, first_correction, second_correction = rates[:6]
    second_half = memory.size // 2
    step = lanes(parameters)
    # a loop for the rules that remember as much: LLVM takes a choice of two out of a loop, not one of five
    if optimizer == PLAIN_SGD:  # the velocity is the gradient
        for k in range(start, stop, step):
            left = stop - k
            parameter = load_first(parameters, k, left) - learning_rate * load_first(gradient, k, left)
            store_first(parameters, k, parameter, left)
    elif optimizer in (SGD, NESTEROV):
        for k in range(start, stop, step):
            left = stop - k
            parameter, g, m = (
                load_first(parameters, k, left),
                load_first(gradient, k, left),
                load_first(memory, k, left),
            )
            if optimizer == SGD:
                parameter, m = sgd(parameter, g, m, learning_rate, first_decay)
            else:
                parameter, m = nesterov(parameter, g, m, learning_rate, first_decay)
            store_first(memory, k, m, left)
            store_first(parameters, k, parameter, left)
    else:
        for k in range(start, stop, step):
            left = stop - k
            parameter, g, m = (
                load_first(parameters, k, left),
                load_first(gradient, k, left),
                load_first(memory, k, left),
            )
            v = load_first(memory, second_half + k, left)
            if optimizer == RMSPROP:
                parameter, m, v = rmsprop(parameter, g, m, v, learning_rate, first_decay, second_decay, epsilon)
            else:
                parameter, m, v = adam(
                    parameter, g, m, v, learning_rate, first_decay, second_decay, epsilon,
                    first_correction, second_correction,
                )  # fmt: skip
            store_first(memory, k, m, left)
            store_first(memory, second_half + k, v, left)
            store_first(parameters, k, parameter, left)


@specialized_function
def update_rows(optimizer, rates, parameters, gradient, memory, start, columns, rows, stride):
    """Update ``rows`` rows of ``columns`` parameters each, which begin ``stride`` apart. One call for all of them."""
    for r in range(rows):
        first = start + r * stride
        if columns == block(parameters):  # compiled without a loop over so few: half the time of gradient descent
            _update_range(optimizer, rates, parameters, gradient, memory, first, first + block(parameters))
        else:
            _update_range(optimizer, rates, parameters, gradient, memory, first, first + columns)


@tile_function
def update_beside_others(optimizer, rates, parameters, gradient, memory, start, stop):
    """Update the parameters from ``start`` to ``stop``, which other threads have read.

    A store to one of them waits for its cache line, and all later stores wait behind it. Adam has two more for each
    parameter, so its moments go first: on two threads a step of 64-64-10 on 64 samples takes 11.8 us instead of 12.8.
    """
    if optimizer != ADAM:
        _update_range(optimizer, rates, parameters, gradient, memory, start, stop)
        return
    learning_rate, first_decay, second_decay, epsilon, first_correction, second_correction = rates[:6]
    second_half, step = memory.size // 2, lanes(parameters)
    for k in range(start, stop, step):
        left = stop - k
        g, m, v = (
            load_first(gradient, k, left),
            load_first(memory, k, left),
            load_first(memory, second_half + k, left),
        )
        m, v = _moments(g, m, v, first_decay, second_decay)
        store_first(memory, k, m, left)
        store_first(memory, second_half + k, v, left)
    for k in range(start, stop, step):
        left = stop - k
        parameter, m, v = (
            load_first(parameters, k, left),
            load_first(memory, k, left),
            load_first(memory, second_half + k, left),
        )
        parameter = _moved(parameter, m, v, learning_rate, epsilon, first_correction, second_correction)
        store_first(parameters, k, parameter, left)
