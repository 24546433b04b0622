"""First link: finite difference → oracle. The oracle is the original program, and its gradient is right."""

import itertools
import warnings

import numpy as np
import pytest

from fastmlp.oracle import layer, losses, network, optimizers
from fastmlp.oracle.activations import ACTIVATIONS

# pairwise distinct, where a wrong order breaks shapes; square, where it does not; and 1
SIZES = [[3, 4, 4, 2], [2, 3, 5, 4], [4, 4, 4, 4], [1, 1], [1, 3, 1], [3, 1, 2], [2, 5], [2, 3, 4, 3, 2, 3]]


def sigmoid(z):
    """As the original program had it."""
    return 1 / (1 + np.exp(-z))


def test_gradients_are_those_of_the_original_program(rng):
    W1, b1, W2, b2 = (rng.standard_normal(s) for s in [(4, 3), (4, 1), (4, 4), (4, 1)])
    W3, b3, X, T = (rng.standard_normal(s) for s in [(2, 4), (2, 1), (3, 5), (2, 5)])
    N = 5
    h1 = sigmoid(W1 @ X + b1)
    h2 = sigmoid(W2 @ h1 + b2)
    P = W3 @ h2 + b3
    dP = (P - T) / N
    dW3, db3 = dP @ h2.T, dP.sum(axis=1)
    d2 = (W3.T @ dP) * h2 * (1 - h2)
    dW2, db2 = d2 @ h1.T, d2.sum(axis=1)
    d1 = (W2.T @ d2) * h1 * (1 - h1)
    dW1, db1 = d1 @ X.T, d1.sum(axis=1)

    parameters = [(W1, b1[:, 0]), (W2, b2[:, 0]), (W3, b3[:, 0])]
    forward_pass = network.forward(parameters, X)
    gradients = network.backward(parameters, forward_pass, T)
    assert network.loss_value(forward_pass, T) == pytest.approx(((P - T) ** 2).sum() / 2 / N, rel=1e-15)
    for (dW, db), (expected_dW, expected_db) in zip(gradients, [(dW1, db1), (dW2, db2), (dW3, db3)], strict=True):
        np.testing.assert_allclose(dW, expected_dW, rtol=0, atol=1e-14 * abs(expected_dW).max())
        np.testing.assert_allclose(db, expected_db, rtol=0, atol=1e-14 * abs(expected_db).max())


def test_forward_pass_keeps_everything(rng):
    parameters = network.initialize([3, 4, 2], rng, weight_scale=1.0)
    X = rng.standard_normal((3, 5))
    forward_pass = network.forward(parameters, X)
    assert forward_pass.activations[0] is X
    assert [Z.shape for Z in forward_pass.pre_activations] == [(4, 5), (2, 5)]
    assert [A.shape for A in forward_pass.activations] == [(3, 5), (4, 5), (2, 5)]
    np.testing.assert_array_equal(forward_pass.activations[2], forward_pass.pre_activations[1])


def random_case(rng, sizes, loss, activation):
    """Make a network, data that fit its loss, and the activations of its layers."""
    names = [activation] * (len(sizes) - 2) + [losses.LOSSES[loss].output_activation]
    parameters = network.initialize(sizes, rng, weight_scale=1.0)
    parameters = [network.Parameters(W, rng.standard_normal(b.shape)) for W, b in parameters]
    X = rng.standard_normal((sizes[0], 6))
    if loss == "squared_error":
        Y = rng.standard_normal((sizes[-1], 6))
    elif loss == "binary_cross_entropy":
        Y = rng.random((sizes[-1], 6))
    elif loss == "poisson":  # of rates that are not huge: the step of the differences is fixed
        parameters = [network.Parameters(0.3 * W, 0.3 * b) for W, b in parameters]
        Y = rng.poisson(2, (sizes[-1], 6)).astype(float)
    else:
        Y = rng.dirichlet(np.ones(sizes[-1]), 6).T
    return parameters, X, Y, names


@pytest.mark.parametrize(
    ("sizes", "loss", "activation"),
    list(itertools.product(SIZES, losses.LOSSES, ["identity", "sigmoid", "tanh"])),
    ids=str,
)
def test_gradient_is_the_central_difference(rng, sizes, loss, activation):
    """Every entry. relu, which has a kink, is left to ``test_verify.py``."""
    parameters, X, Y, names = random_case(rng, sizes, loss, activation)

    def value():
        return network.loss_value(network.forward(parameters, X, activations=names), Y, loss=loss)

    forward_pass = network.forward(parameters, X, activations=names)
    gradients = network.backward(parameters, forward_pass, Y, activations=names, loss=loss)
    step = 1e-5
    for pair, gradient_pair in zip(parameters, gradients, strict=True):
        for array, gradient in zip(pair, gradient_pair, strict=True):
            for index in np.ndindex(array.shape):
                middle = array[index]
                array[index] = middle + step
                ahead = value()
                array[index] = middle - step
                behind = value()
                array[index] = middle
                # truncation step² × third derivative, and rounding 1e-16 / step, both about 1e-10
                assert gradient[index] == pytest.approx((ahead - behind) / (2 * step), abs=2e-9, rel=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_is_the_central_difference(name):
    z = np.concatenate([np.linspace(-30, 30, 401), np.linspace(-1, 1, 80)])  # 0, the kink of relu, is not among them
    z = z[abs(z) > 1e-3]
    activation, step = ACTIVATIONS[name], 1e-5
    expected = (activation.function(z + step) - activation.function(z - step)) / (2 * step)
    np.testing.assert_allclose(activation.slope(z, activation.function(z)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bounds_on_slope_and_bend_hold(name):
    z = np.linspace(-12, 12, 48001)
    slope = ACTIVATIONS[name].slope(z, ACTIVATIONS[name].function(z))
    assert abs(slope).max() <= ACTIVATIONS[name].steepest
    if np.isfinite(ACTIVATIONS[name].bend):
        assert abs(np.diff(slope) / np.diff(z)).max() <= ACTIVATIONS[name].bend


def test_activation_values():
    z = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(ACTIVATIONS["identity"].function(z), z)
    np.testing.assert_array_equal(ACTIVATIONS["relu"].function(z), [0, 0, 3])
    np.testing.assert_array_equal(ACTIVATIONS["relu"].slope(z, np.array([0.0, 0.0, 3.0])), [0, 0, 1])
    np.testing.assert_allclose(ACTIVATIONS["sigmoid"].function(z), sigmoid(z), rtol=1e-15)
    np.testing.assert_allclose(ACTIVATIONS["tanh"].function(z), np.sinh(z) / np.cosh(z), rtol=1e-15)


def test_losses_by_their_definitions(rng):
    Z, A = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    Y = rng.dirichlet(np.ones(3), 4).T
    np.testing.assert_allclose(losses.squared_error(A, Y)[0], 0.5 * ((A - Y) ** 2).sum(axis=0), rtol=1e-15)
    P = sigmoid(Z)
    entropy = -(Y * np.log(P) + (1 - Y) * np.log(1 - P)).sum(axis=0)
    np.testing.assert_allclose(losses.binary_cross_entropy(Z, Y)[0], entropy, rtol=1e-13)
    np.testing.assert_allclose(losses.absolute_error(A, Y)[0], abs(A - Y).sum(axis=0), rtol=1e-15)
    e = A - Y
    pieces = np.where(abs(e) <= 0.8, e**2 / 2, 0.8 * (abs(e) - 0.4))
    np.testing.assert_allclose(losses.huber(A, Y, 0.8)[0], pieces.sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        losses.quantile(A, Y, 0.8)[0], np.where(e < 0, -0.8 * e, 0.2 * e).sum(axis=0), rtol=1e-13
    )
    counts = rng.poisson(3, (3, 4))
    # the rest of the negative logarithm of e^-λ λ^y / y! does not depend on Z
    np.testing.assert_allclose(losses.poisson(Z, counts)[0], (np.exp(Z) - counts * Z).sum(axis=0), rtol=1e-13)
    S = np.exp(Z) / np.exp(Z).sum(axis=0)
    np.testing.assert_allclose(losses.softmax(Z), S, rtol=1e-14)
    np.testing.assert_allclose(losses.softmax_cross_entropy(Z, Y)[0], -(Y * np.log(S)).sum(axis=0), rtol=1e-13)
    shared = 0.9 * Y + 0.1 / 3
    smoothed = losses.softmax_cross_entropy(Z, Y, 0.1)[0]
    np.testing.assert_allclose(smoothed, -(shared * np.log(S)).sum(axis=0), rtol=1e-13)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "softmax_cross_entropy"])
def test_cross_entropies_are_stable(loss):
    """Where ``exp`` overflows, and where ``1 - p`` would cancel."""
    Z = np.array([[1000.0, -1000.0, 40.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    Y = np.array([[1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.5]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, gradient = losses.LOSSES[loss].function(Z, Y)
    tail = np.exp(-40.0)
    extra = np.log(2) if loss == "binary_cross_entropy" else 0.0  # of the second output, whose logit is 0
    last = 2 * np.log(2) if loss == "binary_cross_entropy" else np.log(2)
    np.testing.assert_allclose(value, [extra, 1000 + extra, tail + extra, last], rtol=1e-14)
    np.testing.assert_allclose(gradient[0], [0, -1, -tail, 0], rtol=1e-14, atol=1e-16)


def test_softmax_cross_entropy_of_targets_that_do_not_sum_to_one(rng):
    """The gradient stays the derivative of the value: ``softmax(Z) Σ Y - Y``."""
    Z, Y, step = rng.standard_normal((3, 2)), rng.random((3, 2)), 1e-6
    for index in np.ndindex(Z.shape):
        ahead, behind = Z.copy(), Z.copy()
        ahead[index] += step
        behind[index] -= step
        slope = (losses.softmax_cross_entropy(ahead, Y)[0] - losses.softmax_cross_entropy(behind, Y)[0]).sum()
        expected = losses.softmax_cross_entropy(Z, Y)[1][index]
        assert slope / (2 * step) == pytest.approx(expected, abs=1e-8)


def test_backward_of_one_layer_is_its_three_sums(rng):
    W, X, dZ = rng.integers(-5, 6, (4, 3)), rng.integers(-5, 6, (3, 7)), rng.integers(-5, 6, (4, 7))
    dX, dW, db = layer.affine_backward(W, X, dZ)
    for i, n in np.ndindex(3, 7):
        assert dX[i, n] == sum(W[j, i] * dZ[j, n] for j in range(4))
    for j, i in np.ndindex(4, 3):
        assert dW[j, i] == sum(dZ[j, n] * X[i, n] for n in range(7))
    for j in range(4):
        assert db[j] == sum(dZ[j, n] for n in range(7))


def test_initialize(rng):
    parameters = network.initialize([300, 200, 100], rng)
    assert [(W.shape, b.shape) for W, b in parameters] == [((200, 300), (200,)), ((100, 200), (100,))]
    assert all((pair.biases == 0).all() for pair in parameters)
    # the standard deviation of 60,000 draws is off by 1 / sqrt(120,000), 5 times which is 1.5 %
    assert parameters[0].weights.std() == pytest.approx(0.01, rel=0.015)
    glorot, he = (network.initialize([300, 200], rng, weight_scale=scale)[0].weights for scale in ("glorot", "he"))
    assert glorot.std() == pytest.approx(np.sqrt(2 / 500), rel=0.015)
    assert he.std() == pytest.approx(np.sqrt(2 / 300), rel=0.015)


def test_initialize_draws_layer_by_layer():
    generator = np.random.default_rng(3)
    first, second = generator.standard_normal((4, 2)), generator.standard_normal((1, 4))
    parameters = network.initialize([2, 4, 1], np.random.default_rng(3), weight_scale=2.0)
    np.testing.assert_array_equal(parameters[0].weights, 2 * first)
    np.testing.assert_array_equal(parameters[1].weights, 2 * second)


def test_sgd_by_hand():
    parameter, velocity = optimizers.sgd(np.array([1.0]), np.array([2.0]), np.array([0.5]), 0.1, 0.9)
    assert velocity[0] == pytest.approx(0.9 * 0.5 + 2.0)
    assert parameter[0] == pytest.approx(1.0 - 0.1 * 2.45)


def test_adam_by_hand():
    """Two steps, from the algorithm's own words; the first one moves by the learning rate."""
    g, m, v, theta = [0.5, -1.0], 0.0, 0.0, 1.0
    parameter = first_moment = second_moment = None
    for t in (1, 2):
        m = 0.9 * m + 0.1 * g[t - 1]
        v = 0.999 * v + 0.001 * g[t - 1] ** 2
        theta -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        before = (1.0, 0.0, 0.0) if t == 1 else (parameter, first_moment, second_moment)
        parameter, first_moment, second_moment = optimizers.adam(
            before[0], g[t - 1], before[1], before[2], 0.01, 0.9, 0.999, 1e-8, 1 - 0.9**t, 1 - 0.999**t
        )
        assert parameter == pytest.approx(theta, rel=1e-14)
        if t == 1:
            assert parameter == pytest.approx(1 - 0.01, abs=1e-9)
