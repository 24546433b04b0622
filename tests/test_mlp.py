"""Last link: kernel → MLP. The public names return what the oracle computes, turned so that samples are rows."""

import copy
import pickle

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED
from fastmlp.oracle import network, optimizers
from fastmlp.oracle.losses import LOSSES

CASES = [
    ("squared_error", "sigmoid", None),
    ("squared_error", "relu", "tanh"),
    ("binary_cross_entropy", "tanh", None),
    ("softmax_cross_entropy", "identity", None),
]


def make(rng, dtype, loss="squared_error", hidden="sigmoid", output=None, sizes=(3, 4, 5, 2), samples=7, **settings):
    """Make an MLP with random biases too, and data that fit its loss."""
    mlp = fastmlp.MLP(
        sizes, hidden_activation=hidden, output_activation=output, loss=loss, dtype=dtype, rng=1, **settings
    )
    mlp.parameter_vector = mlp.parameter_vector + rng.standard_normal(mlp.parameter_vector.size)
    X = rng.standard_normal((samples, sizes[0])).astype(dtype)
    Y = rng.standard_normal((samples, sizes[-1])).astype(dtype)
    if loss != "squared_error":
        Y = rng.dirichlet(np.ones(sizes[-1]), samples).astype(dtype)
    return mlp, X, Y


def by_the_oracle(mlp, X, Y):
    """Forward pass, loss and gradients of the same network and data."""
    loss = mlp.config["loss"]
    output = mlp.config["output_activation"] or LOSSES[loss].output_activation
    hidden = mlp.config["hidden_activation"]
    names = [hidden] * (len(mlp.parameters) - 1) + [output]
    parameters = [network.Parameters(W.astype(float), b.astype(float)) for W, b in mlp.parameters]
    forward_pass = network.forward(parameters, X.T.astype(float), activations=names)
    gradients = network.backward(parameters, forward_pass, Y.T.astype(float), activations=names, loss=loss)
    return forward_pass, network.loss_value(forward_pass, Y.T.astype(float), loss=loss), gradients


def close(found, expected, dtype):
    """Equal up to about a hundred roundings of the largest entry: the networks here are small."""
    scale = max(abs(np.asarray(expected)).max(), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize(("loss", "hidden", "output"), CASES)
def test_the_three_steps_of_the_original(loss, hidden, output, dtype, rng):
    mlp, X, Y = make(rng, dtype, loss, hidden, output)
    forward_pass, value, gradients = by_the_oracle(mlp, X, Y)
    close(mlp.forward(X), forward_pass.activations[-1].T, dtype)
    for found, expected in zip(mlp.activations, forward_pass.activations, strict=True):
        close(found, expected.T, dtype)
        assert found.dtype == dtype
    for found, expected in zip(mlp.backward(Y), gradients, strict=True):
        close(found.weights, expected.weights, dtype)
        close(found.biases, expected.biases, dtype)
    close(mlp.predict(X), forward_pass.activations[-1].T, dtype)
    close(mlp.loss(X, Y), value, dtype)
    found_loss, found_gradients = mlp.loss_and_gradients(X, Y)
    close(found_loss, value, dtype)
    flat = np.concatenate([part.ravel() for pair in gradients for part in pair])
    close(found_gradients.vector, flat, dtype)
    close(found_gradients[1].biases, gradients[1].biases, dtype)


@pytest.mark.parametrize(("loss", "hidden", "output"), CASES)
def test_train_step_is_a_step_down_the_gradient(loss, hidden, output, dtype, rng):
    mlp, X, Y = make(rng, dtype, loss, hidden, output)
    before = mlp.parameter_vector.copy()
    value, gradients = mlp.loss_and_gradients(X, Y)
    assert mlp.train_step(X, Y, learning_rate=0.01) == value
    close(mlp.parameter_vector, before - 0.01 * gradients.vector.astype(float), dtype)


def test_update_is_the_second_half_of_a_step(dtype, rng):
    mlp, X, Y = make(rng, dtype)
    other = copy.deepcopy(mlp)
    for optimizer in (fastmlp.Adam(0.01), fastmlp.Adam(0.02), fastmlp.SGD(0.1, momentum=0.9), "sgd"):
        _, gradients = mlp.loss_and_gradients(X, Y)
        mlp.update(gradients, optimizer)
        other.train_step(X, Y, optimizer=optimizer)
        np.testing.assert_array_equal(mlp.parameter_vector, other.parameter_vector)


def test_adam_keeps_its_memory_from_step_to_step(rng):
    mlp, X, Y = make(rng, np.dtype(np.float64))
    vector, m, v = mlp.parameter_vector.copy(), 0.0, 0.0
    for t in (1, 2, 3):
        _, gradients = mlp.loss_and_gradients(X, Y)
        corrections = 1 - 0.9**t, 1 - 0.999**t
        vector, m, v = optimizers.adam(vector, gradients.vector, m, v, 0.01, 0.9, 0.999, 1e-8, *corrections)
        mlp.train_step(X, Y, optimizer="adam", learning_rate=0.01)
        np.testing.assert_allclose(mlp.parameter_vector, vector, rtol=1e-12)


def test_parameters_are_views_and_can_be_assigned(dtype, rng):
    mlp, X, Y = make(rng, dtype)
    assert [(W.shape, b.shape) for W, b in mlp.parameters] == [((4, 3), (4,)), ((5, 4), (5,)), ((2, 5), (2,))]
    assert mlp.parameters[0].weights.base is not None
    flat = np.concatenate([part.ravel() for pair in mlp.parameters for part in pair])
    np.testing.assert_array_equal(flat, mlp.parameter_vector)
    for array in (mlp.parameter_vector, mlp.parameters[1].biases):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    other = fastmlp.MLP([3, 4, 5, 2], dtype=dtype, rng=9)
    other.parameters = mlp.parameters
    np.testing.assert_array_equal(other.predict(X), mlp.predict(X))
    other.parameter_vector = np.zeros(flat.size)
    assert (other.parameters[2].weights == 0).all()
    view = mlp.parameter_vector
    mlp.train_step(X, Y, learning_rate=0.1)
    np.testing.assert_array_equal(view, mlp.parameter_vector)


def test_assigning_parameters_starts_the_optimizer_afresh(rng):
    mlp, X, Y = make(rng, np.dtype(np.float64))
    start = mlp.parameter_vector.copy()
    mlp.train_step(X, Y, optimizer="adam")
    first = mlp.parameter_vector.copy()
    mlp.parameter_vector = start
    mlp.train_step(X, Y, optimizer="adam")
    np.testing.assert_array_equal(mlp.parameter_vector, first)


def test_initial_weights_are_the_oracles(dtype):
    sizes = [3, 4, 2]
    for scale in (0.01, "glorot", "he"):
        expected = network.initialize(sizes, np.random.default_rng(5), weight_scale=scale)
        for rng in (5, np.random.default_rng(5)):
            found = fastmlp.MLP(sizes, weight_scale=scale, dtype=dtype, rng=rng).parameters
            for pair, expected_pair in zip(found, expected, strict=True):
                np.testing.assert_array_equal(pair.weights, expected_pair.weights.astype(dtype))
                np.testing.assert_array_equal(pair.biases, 0)


@pytest.mark.parametrize("seed", [None, 3, np.random.default_rng(4)])
def test_config_makes_the_network_again(seed):
    mlp = fastmlp.MLP([2, 3, 4, 1], hidden_activation=["tanh", "relu"], loss="binary_cross_entropy", rng=seed)
    again = fastmlp.MLP(**mlp.config)
    assert again.config == mlp.config
    np.testing.assert_array_equal(again.parameter_vector, mlp.parameter_vector)
    X, Y = np.ones((9, 2)), np.arange(9) % 2
    for each in (mlp, again):
        each.fit(X, Y, epochs=2, batch_size=2, progress=False)
    np.testing.assert_array_equal(again.parameter_vector, mlp.parameter_vector)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda mlp: pickle.loads(pickle.dumps(mlp))])
def test_copies_carry_on_bit_for_bit_and_share_nothing(copied, rng):
    mlp, X, Y = make(rng, np.dtype(np.float32))
    mlp.fit(X, Y, epochs=1, batch_size=3, progress=False)
    other = copied(mlp)
    np.testing.assert_array_equal(other.parameter_vector, mlp.parameter_vector)
    before = mlp.parameter_vector.copy()
    other.fit(X, Y, epochs=2, batch_size=3, progress=False)
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    mlp.fit(X, Y, epochs=2, batch_size=3, progress=False)
    np.testing.assert_array_equal(other.parameter_vector, mlp.parameter_vector)


def test_predict_is_the_same_for_one_sample_and_for_many(dtype, rng):
    mlp, _, _ = make(rng, dtype)
    X = rng.standard_normal((40 if INTERPRETED else 2500, 3)).astype(dtype)
    together = mlp.predict(X)
    for n in (0, 1, 17, 39, len(X) - 1):
        np.testing.assert_array_equal(mlp.predict(X[n : n + 1])[0], together[n])


def test_loss_over_many_parts_is_the_mean(rng):
    mlp, _, _ = make(rng, np.dtype(np.float64))
    X, Y = rng.standard_normal((2100, 3)), rng.standard_normal((2100, 2))
    if INTERPRETED:
        X, Y = X[:1030], Y[:1030]
    assert mlp.loss(X, Y) == pytest.approx(by_the_oracle(mlp, X, Y)[1], rel=1e-13)


def test_class_indices_are_one_hot_rows(dtype, rng):
    mlp, X, _ = make(rng, dtype, "softmax_cross_entropy")
    labels = rng.integers(0, 2, 7)
    one_hot = np.eye(2)[labels]
    assert mlp.loss(X, labels) == mlp.loss(X, one_hot)
    np.testing.assert_array_equal(
        mlp.loss_and_gradients(X, labels)[1].vector, mlp.loss_and_gradients(X, one_hot)[1].vector
    )
    assert mlp.verify(X, labels).ok
    np.testing.assert_allclose(mlp.predict(X).sum(axis=1), 1, rtol=8 * np.finfo(dtype).eps)


def test_one_output_takes_targets_without_a_second_axis(rng):
    mlp, X, _ = make(rng, np.dtype(np.float64), sizes=(3, 4, 1))
    Y = rng.standard_normal(7)
    assert mlp.loss(X, Y) == mlp.loss(X, Y[:, np.newaxis])


def test_objective_drives_scipy(rng):
    minimize = pytest.importorskip("scipy.optimize").minimize
    mlp, X, Y = make(rng, np.dtype(np.float64), hidden="tanh")
    before = mlp.parameter_vector.copy()
    f = mlp.objective(X, Y)
    loss, gradient = f(mlp.parameter_vector)
    expected_loss, expected = mlp.loss_and_gradients(X, Y)
    assert loss == expected_loss
    np.testing.assert_array_equal(gradient, expected.vector)
    found = minimize(f, mlp.parameter_vector, jac=True, method="L-BFGS-B", options={"maxiter": 20})
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    mlp.parameter_vector = found.x
    assert mlp.loss(X, Y) == pytest.approx(found.fun, rel=1e-12)
    assert found.fun < 0.5 * loss


def test_same_bits_at_any_number_of_threads(dtype):
    results = []
    for n_threads in (1, 2):
        rng = np.random.default_rng(0)
        mlp, X, Y = make(rng, dtype, sizes=(5, 13, 3), samples=300 if not INTERPRETED else 40, n_threads=n_threads)
        history = mlp.fit(X, Y, epochs=2, batch_size=130, progress=False)
        gradients = mlp.loss_and_gradients(X, Y)[1]
        results.append((mlp.parameter_vector.copy(), mlp.predict(X), gradients.vector, history.loss))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_backward_refuses_a_forward_pass_of_other_parameters(rng):
    mlp, X, Y = make(rng, np.dtype(np.float64))
    with pytest.raises(RuntimeError, match="forward"):
        mlp.backward(Y)
    mlp.forward(X)
    mlp.train_step(X, Y, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="present parameters"):
        mlp.backward(Y)


def test_train_step_of_a_diverged_network_changes_nothing(dtype, rng):
    mlp, X, Y = make(rng, dtype, hidden="identity")
    mlp.parameter_vector = np.full(mlp.parameter_vector.size, np.finfo(dtype).max / 100)
    before = mlp.parameter_vector.copy()
    with pytest.raises(FloatingPointError, match="not finite"):
        mlp.train_step(X, Y, learning_rate=0.1)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def test_repr_says_what_it_is():
    mlp = fastmlp.MLP([2, 3, 1], loss="binary_cross_entropy", dtype=np.float32, rng=0)
    assert repr(mlp) == "<MLP 2-3-1, sigmoid, sigmoid, binary_cross_entropy, float32>"


def test_a_penalty_that_is_not_finite_spoils_no_other_pass(rng):
    """The forward pass goes through, and its workspace is nobody else's."""
    mlp = fastmlp.MLP([3, 4, 2], penalty=fastmlp.Penalty(l2=1), rng=0)
    good, huge = mlp.parameter_vector.copy(), mlp.parameter_vector.copy()
    huge[0] = 1e200
    X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    mlp.parameter_vector = huge
    mlp.forward(X)
    mlp.parameter_vector = good
    mlp.forward(X)
    mlp.predict(rng.standard_normal((64, 3)))
    gradients = mlp.backward(Y)
    np.testing.assert_array_equal(gradients.vector, mlp.loss_and_gradients(X, Y)[1].vector)
    assert len({id(workspace) for workspace in mlp._free}) == len(mlp._free)


def test_gradients_of_a_loss_that_is_not_finite_are_nan():
    mlp = fastmlp.MLP([3, 4, 2], dtype="float32", rng=0)
    X, Y = np.ones((5, 3), "f4"), np.full((5, 2), 1e30, "f4")
    mlp.forward(X)
    assert np.isnan(mlp.backward(Y).vector).all()
    loss, gradients = mlp.loss_and_gradients(X, Y)
    assert not np.isfinite(loss)
    assert np.isnan(gradients.vector).all()


def test_samples_without_weight_may_be_many(rng):
    """More than are taken at once."""
    mlp = fastmlp.MLP([3, 4, 2], penalty=fastmlp.Penalty(l2=0.1), rng=0)
    X, Y, weight = rng.standard_normal((3000, 3)), rng.standard_normal((3000, 2)), np.ones(3000)
    weight[:1100] = 0
    expected = mlp.loss_and_gradients(X, Y, sample_weight=weight)[0]
    assert mlp.loss(X, Y, sample_weight=weight) == pytest.approx(expected, rel=1e-12)


def half_squares(predictions, Y):
    """A loss of one's own, as ``squared_error`` is."""
    error = predictions - Y
    return 0.5 * float((error**2).sum()) / len(error), error / len(error)


@pytest.mark.parametrize("way", ["loss_and_gradients", "verify", "a step that fails", "within the loss"])
def test_a_loss_of_ones_own_leaves_the_forward_pass(way, dtype, rng):
    """What calls it goes forward by itself."""
    fails = []

    def loss(predictions, Y):
        if fails:
            raise KeyError("fails")
        if way == "within the loss":
            mlp.forward(rng.standard_normal((300, 3)))
            mlp.predict(np.ones((1, 3)))
        return half_squares(predictions, Y)

    mlp, plain = (fastmlp.MLP([3, 4, 2], loss=one, dtype=dtype, rng=0) for one in (loss, "squared_error"))
    X, Y, others = (rng.standard_normal((6, width)).astype(dtype) for width in (3, 2, 3))
    mlp.forward(X)
    plain.forward(X)
    if way == "loss_and_gradients":
        mlp.loss_and_gradients(others, Y)
    elif way == "verify":
        mlp.verify(others, Y)
    elif way == "a step that fails":
        fails[:] = [True]
        with pytest.raises(KeyError, match="fails"):
            mlp.train_step(others, Y, learning_rate=0.1)
        fails.clear()
    np.testing.assert_allclose(mlp.backward(Y).vector, plain.backward(Y).vector, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(mlp.activations[0], X)
    found, expected = mlp.loss_and_gradients(others, Y), plain.loss_and_gradients(others, Y)
    np.testing.assert_allclose(found[1].vector, expected[1].vector, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_a_step_or_a_training_that_is_refused_leaves_the_forward_pass(dtype, rng):
    mlp = fastmlp.MLP([3, 4, 2], dtype=dtype, rng=0)
    X, Y = rng.standard_normal((6, 3)).astype(dtype), rng.standard_normal((6, 2)).astype(dtype)
    mlp.forward(X)
    expected, huge, optimizer = mlp.backward(Y).vector.copy(), np.full_like(Y, np.finfo(dtype).max), fastmlp.SGD(1e-30)
    for _ in range(2):
        with pytest.raises(ValueError, match="X must be finite"):
            mlp.train_step(np.full_like(X, np.nan), Y, optimizer=optimizer)
        with pytest.raises(FloatingPointError, match="the loss is not finite"):
            mlp.train_step(X, huge, optimizer=optimizer)
        np.testing.assert_array_equal(mlp.backward(Y).vector, expected)
        for _ in range(3):  # now the same on a prepared one
            mlp.train_step(X, Y, optimizer=optimizer)
        with pytest.raises(RuntimeError, match="forward pass of the present parameters"):
            mlp.backward(Y)
        mlp.forward(X)
        expected = mlp.backward(Y).vector.copy()
    mlp.fit(X, huge, epochs=1, progress=False)
    np.testing.assert_array_equal(mlp.activations[0], X)
    np.testing.assert_array_equal(mlp.backward(Y).vector, expected)
