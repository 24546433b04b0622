"""The tester is tested: planted errors are rejected and located, and no correct network is."""

import sys

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import curvature, verify
from fastmlp.oracle import layer, network
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastmlp.oracle.losses import LOSSES

SIZES, SAMPLES = [3, 4, 4, 2], 5


@pytest.fixture
def case(rng):
    """Return parameters, X and Y of a small network, columns as samples."""
    parameters = network.initialize(SIZES, rng, weight_scale=0.7)
    return parameters, rng.standard_normal((3, SAMPLES)), rng.standard_normal((2, SAMPLES))


def copied(gradients):
    """Gradients that may be spoiled."""
    return [network.Parameters(dW.copy(), db.copy()) for dW, db in gradients]


def wrong_by_a_thousandth(gradients):
    """One entry of layer 2 is 0.1 % too large."""
    index = np.unravel_index(abs(gradients[1].weights).argmax(), gradients[1].weights.shape)
    gradients[1].weights[index] *= 1.001
    return gradients


def without_the_mean(gradients):
    """The factor 1/N is missing."""
    return [network.Parameters(dW * SAMPLES, db * SAMPLES) for dW, db in gradients]


def without_a_bias(gradients):
    """The gradient of layer 2's biases was forgotten."""
    gradients[1].biases[:] = 0
    return gradients


def all_zero(gradients):
    """Nothing was computed."""
    return [network.Parameters(dW * 0, db * 0) for dW, db in gradients]


def transposed_result(gradients):
    """The square gradient of layer 2 the wrong way round."""
    gradients[1].weights[:] = gradients[1].weights.T.copy()
    return gradients


def of_another_sign(gradients):
    """One bias of layer 3 has the wrong sign."""
    gradients[2].biases[0] *= -1
    return gradients


PLANTED = {
    wrong_by_a_thousandth: {2},
    without_the_mean: {1, 2, 3},
    without_a_bias: {2},
    all_zero: {1, 2, 3},
    transposed_result: {2},
    of_another_sign: {3},
}


@pytest.mark.parametrize(("spoil", "layers"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_oracle_is_rejected_and_the_layer_named(case, spoil, layers):
    def backward(parameters, forward_pass, targets, **settings):
        return spoil(copied(network.backward(parameters, forward_pass, targets, **settings)))

    report = verify.check(*case, backward=backward)
    assert not report.ok
    assert {row.layer for row in report.failures} - {0} == layers
    with pytest.raises(fastmlp.GradientMismatch) as caught:
        report.raise_if_failed()
    for number in layers:
        assert f"dW{number}" in str(caught.value) or f"db{number}" in str(caught.value)
        assert "WRONG" in str(caught.value)


@pytest.mark.parametrize(("spoil", "layers"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_wrong_kernel_is_rejected_and_the_layer_named(case, spoil, layers, precision):
    parameters, X, Y = case
    gradients = spoil(copied(network.backward(parameters, network.forward(parameters, X), Y)))
    computed = verify.Computed(gradients, np.dtype(precision))
    report = verify.check(parameters, X, Y, computed=computed, thorough=False)
    assert {row.layer for row in report.failures} == layers
    assert all("kernels" in row.against for row in report.failures)


def test_a_square_weight_used_without_its_transpose_is_rejected(case, monkeypatch):
    """``dX = W dZ`` has the right shape where W is square: only the numbers show it."""
    right = layer.affine_backward

    def wrong(W, X, dZ):
        _, dW, db = right(W, X, dZ)
        return (W @ dZ if W.shape[0] == W.shape[1] else W.T @ dZ), dW, db

    monkeypatch.setattr(layer, "affine_backward", wrong)
    report = verify.check(*case)
    named = {(row.layer, row.name) for row in report.failures}
    assert (2, "affine_backward 2") in named  # where the error is
    assert (1, "dW1") in named  # and what it spoils


def test_a_wrong_slope_is_rejected(case, monkeypatch):
    right = ACTIVATIONS["sigmoid"]
    monkeypatch.setitem(OUTPUT_ACTIVATIONS, "sigmoid", right._replace(slope=lambda z, a: a * (1 - a * 0.999)))
    report = verify.check(*case)
    assert {"activate_backward 1", "activate_backward 2"} <= {row.name for row in report.failures}


def test_one_wrong_entry_of_a_large_network_is_found(rng):
    """Too large for every entry: the largest one among those looked at, and the directions, find it."""
    parameters = network.initialize([40, 50, 30], rng, weight_scale=0.3)
    X, Y = rng.standard_normal((40, 60)), rng.standard_normal((30, 60))

    def backward(*arguments, **settings):
        gradients = copied(network.backward(*arguments, **settings))
        gradients[0].weights[np.unravel_index(abs(gradients[0].weights).argmax(), (50, 40))] *= 1.001
        return gradients

    assert verify.check(parameters, X, Y).ok
    report = verify.check(parameters, X, Y, backward=backward)
    assert {row.layer for row in report.failures} - {0} == {1}


@pytest.mark.parametrize("spoil", PLANTED, ids=lambda spoil: spoil.__name__)
def test_the_v_curve_of_a_wrong_gradient_does_not_fall(case, spoil):
    right = verify.check(*case)
    assert len(right.curves) == 3
    np.testing.assert_allclose([curve.order for curve in right.curves], 2, atol=0.05)
    assert all(curve.errors.min() < 1e-8 * abs(curve.slope) for curve in right.curves)

    def backward(*arguments, **settings):
        return spoil(copied(network.backward(*arguments, **settings)))

    wrong = verify.check(*case, backward=backward)
    assert all(curve.order < 1 for curve in wrong.curves)
    named = [row for row in wrong.failures if row.name.startswith("V-curve")]
    assert len(named) == 3
    assert "V-curve, random direction 1" in wrong.verdict


def test_errors_are_looked_for_where_they_matter_most(rng):
    """Along the Hessian's eigenvectors at both ends, which are those of the whole matrix of second derivatives."""
    mlp = fastmlp.MLP([3, 4, 2], rng=0, hidden_activation="tanh", penalty=fastmlp.Penalty(l2=0.01))
    X, Y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    report = mlp.verify(X, Y)
    values = {row.against.split(", ")[1]: row.found for row in report.rows if row.formula == "H v = λ v"}
    size, f, theta, step = 26, mlp.objective(X, Y), mlp.parameter_vector, 1e-6
    hessian = np.array([(f(theta + step * e)[1] - f(theta - step * e)[1]) / (2 * step) for e in np.eye(size)])
    expected = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    assert values["largest curvature"] == pytest.approx(expected[-1], rel=1e-6)
    assert values["smallest curvature"] == pytest.approx(expected[0], rel=1e-5)
    assert [curve.name for curve in report.curves[3:]] == [f"direction of the {name}" for name in values]


def test_a_wrong_second_derivative_is_rejected(rng, monkeypatch):
    right = ACTIVATIONS["tanh"]
    wrong = right._replace(curvature=lambda z, a: 1.01 * right.curvature(z, a))
    monkeypatch.setitem(OUTPUT_ACTIVATIONS, "tanh", wrong)
    mlp = fastmlp.MLP([3, 4, 2], rng=0, hidden_activation="tanh")
    report = mlp.verify(rng.standard_normal((6, 3)), rng.standard_normal((6, 2)))
    assert report.failures
    assert {row.formula for row in report.failures} == {"H v = λ v"}


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="SciPy's part is not compiled")
def test_extremes_of_a_large_network_are_found_by_lanczos(rng, monkeypatch):
    pytest.importorskip("scipy")
    mlp = fastmlp.MLP([6, 20, 10, 2], rng=0, hidden_activation="tanh")
    X, Y = rng.standard_normal((30, 6)), rng.standard_normal((30, 2))
    assert mlp.parameter_vector.size > curvature.DENSE
    assert len(mlp.verify(X, Y).curves) == 3  # by default, no SciPy and no waiting
    report = mlp.verify(X, Y, curvature=True)
    assert report.ok, report
    assert len(report.curves) == 5
    by_lanczos = [row.found for row in report.rows if row.formula == "H v = λ v"]
    monkeypatch.setattr(curvature, "DENSE", 1000)
    written_out = [row.found for row in mlp.verify(X, Y, curvature=True).rows if row.formula == "H v = λ v"]
    np.testing.assert_allclose(by_lanczos, written_out, rtol=1e-4)


def test_curvature_without_scipy_and_with_a_loss_of_ones_own(rng, monkeypatch):
    X, Y = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r"pip install fastmlp\[scipy\]"):
        fastmlp.MLP([3, 50, 2], rng=0).verify(X, Y, curvature=True)

    def loss(predictions, targets):
        error = predictions - targets
        return float((error**2).mean()), 2 * error / error.size

    mlp = fastmlp.MLP([3, 4, 2], loss=loss, rng=0)
    with pytest.raises(ValueError, match="second derivative"):
        mlp.verify(X, Y, curvature=True)
    assert mlp.verify(X, Y).ok
    with pytest.raises(TypeError, match="curvature"):
        mlp.verify(X, Y, curvature="yes")


def test_a_wrong_loss_is_rejected(rng):
    """The loss of the kernels is compared too, with its penalty; and what is predicted."""
    for loss in LOSSES:
        mlp = fastmlp.MLP([3, 4, 3], loss=loss, rng=0, penalty=fastmlp.Penalty(l2=0.1), dtype="float32")
        X = rng.standard_normal((6, 3))
        Y = rng.dirichlet(np.ones(3), 6) if loss == "softmax_cross_entropy" else rng.uniform(0, 1, (6, 3))
        assert {"loss", "A2"} <= {row.name for row in mlp.verify(X, Y).rows}
        net, right = mlp._as_oracle(*mlp._data(X, Y)), mlp.loss(X, Y)
        forward_pass = net.forward(net.parameters)
        assert verify.check_loss(net, forward_pass, right, np.dtype("float32")).ok
        assert not verify.check_loss(net, forward_pass, right * 1.0003, np.dtype("float32")).ok
        assert not verify.check_loss(net, forward_pass, np.nan, np.dtype("float32")).ok
        output = forward_pass.activations[-1]
        for wrong, ok in ((output, True), (output * 1.0001, False)):
            assert verify.check_activations(net, forward_pass, 1, wrong, np.dtype("float32")).ok == ok


def test_what_could_not_be_compared_is_not_called_proved(rng):
    """A relu network with zero biases and an empty sample stands on a kink with every bias."""
    X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))
    X[2] = 0
    report = fastmlp.MLP([3, 4, 1], hidden_activation="relu", rng=0).verify(X, Y)
    assert "db1" in {row.name for row in report.unproved}
    assert "could not be made, at a kink: db1 of layer 1" in report.verdict
    assert "not proved" in str(report)
    assert report.ok  # nothing is known to be wrong


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_is_proved_of_numbers_that_are_not_finite(case, bad):
    parameters, X, Y = case
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    for name in ("X", "Y", "parameters"):
        pairs, data = copied(parameters), {"X": X.copy(), "Y": Y.copy()}
        (pairs[1].weights if name == "parameters" else data[name])[0, 0] = bad
        with pytest.raises(ValueError, match=f"{name}.* must be finite"):
            verify.check_gradients(pairs, data["X"], data["Y"], gradients)
    mlp = fastmlp.MLP([2, 1], loss="poisson", rng=0)
    with pytest.raises(ValueError, match="loss must be finite"):
        mlp.verify(1e6 * np.ones((3, 2)) * np.sign(mlp.parameters[0][0]), np.ones((3, 1)))


def test_a_program_of_ones_own_may_be_float32(case):
    parameters, X, Y = case
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    single = [(dW.astype(np.float32), db.astype(np.float32)) for dW, db in gradients]
    assert verify.check_gradients(parameters, X, Y, single).ok
    single[1][0][0, 0] *= 1.01
    assert not verify.check_gradients(parameters, X, Y, single).ok


def test_weights_penalty_and_loss_of_a_program_of_ones_own(case, rng):
    parameters, X, Y = case
    more = {"sample_weight": rng.uniform(1, 2, SAMPLES), "penalty": network.Penalty(l2=0.1), "loss": "huber"}
    gradients = network.backward(parameters, network.forward(parameters, X), Y, **more)
    assert verify.check_gradients(parameters, X, Y, gradients, **more).ok
    assert not verify.check_gradients(parameters, X, Y, gradients, loss="huber").ok
    for message, wrong in {
        "loss must be one of .*; got 'mse'": {"loss": "mse"},
        r"activations\[0\] must be one of .*; got 'ReLU'": {"activations": ["ReLU", "tanh", "identity"]},
        "activations must be 3 names": {"activations": ["tanh"]},
        r"activations\[2\] must be one of softmax; got 'identity'": {
            "loss": "softmax_cross_entropy", "activations": ["tanh", "tanh", "identity"],
        },
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            verify.check_gradients(parameters, X, Y, gradients, **wrong)


def test_a_program_of_ones_own_is_checked(case):
    parameters, X, Y = case
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    columns = [(dW, db[:, np.newaxis]) for dW, db in gradients]
    assert verify.check_gradients([(W, b[:, np.newaxis]) for W, b in parameters], X, Y, columns).ok
    report = verify.check_gradients(parameters, X, Y, transposed_result(copied(gradients)))
    assert {row.layer for row in report.failures} == {0, 2}
    # what is the oracle's own is not shown as if it were theirs
    assert not any(row.name == "dX" or "adjoint" in row.against for row in report.rows)


def test_a_program_of_ones_own_that_does_not_fit_is_told_why(case):
    parameters, X, Y = case
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    for message, arguments in {
        r"X must have shape \(inputs, samples\), a sample being a column; got \(3,\)": (
            parameters, X[:, 0], Y, gradients,
        ),
        r"parameters\[0\].weights must have shape \(outputs, 5\); got \(4, 3\)": (parameters, X.T, Y, gradients),
        r"Y must have shape \(outputs, samples\), here \(2, 5\), .*; got \(5, 2\)": (parameters, X, Y.T, gradients),
        r"gradients must be 3 \(weights, biases\) pairs; got 2": (parameters, X, Y, gradients[:2]),
        r"parameters must be \(weights, biases\) pairs": ([(*pair, 1) for pair in parameters], X, Y, gradients),
        r"X must have shape \(inputs, samples\), .*; got \(3, 0\)": (parameters, X[:, :0], Y, gradients),
        r"gradients\[1\].biases must have shape \(4,\) or \(4, 1\); got \(4, 5\)": (
            parameters, X, Y, [gradients[0], (gradients[1][0], np.zeros((4, 5))), gradients[2]],
        ),
        r"gradients\[2\].weights must have shape \(2, 4\); got \(4, 2\)": (
            parameters, X, Y, [*gradients[:2], (gradients[2][0].T, gradients[2][1])],
        ),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            verify.check_gradients(*arguments)


def test_the_gradient_of_the_input_is_checked_too(case, rng):
    parameters, X, Y = case
    dX = network.backward_from(
        parameters, network.forward(parameters, X), _output_gradient(parameters, X, Y), activations=_names()
    ).of_entering[0]
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    for spoiled, ok in ((0.0, True), (1e-9, False)):
        wrong = dX.copy()
        wrong[1, 2] += spoiled
        report = verify.check(*case, computed=verify.Computed(gradients, np.dtype(np.float64), wrong))
        assert report.ok == ok
        assert {row.name for row in report.failures} == (set() if ok else {"dX"})


def _names():
    return network.original_activations(3)


def _output_gradient(parameters, X, Y):
    return network.output_gradient(network.forward(parameters, X), Y)


def test_report_is_read_by_a_person(case):
    parameters, X, Y = case
    gradients = network.backward(parameters, network.forward(parameters, X), Y)
    report = verify.check(parameters, X, Y, computed=verify.Computed(gradients, np.dtype(np.float64)))
    text = str(report)
    assert text.startswith("Gradients of 3-4-4-2 (sigmoid, sigmoid, identity; squared_error) on 5 samples")
    assert "dW2[j,i] = Σ_n dZ2[j,n] A1[i,n]" in text
    assert "(4×4) = (4×5)·(4×5)ᵀ" in text
    assert "db3[j] = Σ_n dZ3[j,n]" in text
    assert "order of the remainder" in text
    assert text.endswith(f"All {len(report.rows)} checks passed.")
    orders = [row.found for row in report.rows if row.name.startswith("Taylor")]
    np.testing.assert_allclose(orders, 2, atol=0.1)


def test_a_report_can_be_had_again(case):
    assert str(verify.check(*case)) == str(verify.check(*case))


def random_network(seed):
    """A network that a user might have, or a saturated, degenerate or badly scaled one, and data."""
    rng = np.random.default_rng(seed)
    sizes = [int(size) for size in rng.integers(1, 8, rng.integers(2, 6))]
    loss = str(rng.choice(list(LOSSES)))
    hidden = tuple(str(name) for name in rng.choice(list(ACTIVATIONS), len(sizes) - 2))
    output = None if LOSSES[loss].of_pre_activations else str(rng.choice(list(ACTIVATIONS)))
    own = {
        "huber": fastmlp.Huber(float(rng.uniform(0.01, 3))),
        "quantile": fastmlp.Quantile(float(rng.uniform(0.01, 0.99))),
        "softmax_cross_entropy": fastmlp.SoftmaxCrossEntropy(float(rng.choice([0, 0.3]))),
    }
    penalties = [None, fastmlp.Penalty(l1=0.1), fastmlp.Penalty(l2=0.1), fastmlp.Penalty(l1=1, l2=10, biases=True)]
    mlp = fastmlp.MLP(
        sizes, hidden_activation=hidden, output_activation=output, loss=own.get(loss, loss), rng=seed,
        penalty=penalties[rng.integers(len(penalties))],
        dtype=rng.choice([np.float32, np.float64]), weight_scale=float(rng.choice([0.01, 0.3, 1, 3, 10, 30])),
    )  # fmt: skip
    samples = int(rng.integers(1, 12))
    X = rng.standard_normal((samples, sizes[0])) * rng.choice([0.01, 1, 1, 1, 10, 100])
    if rng.random() < 0.1:
        X[rng.integers(samples)] = 0
    if rng.random() < 0.5:
        mlp.parameter_vector = mlp.parameter_vector + 0.5 * rng.standard_normal(mlp.parameter_vector.size)
    if loss == "softmax_cross_entropy":
        Y = rng.integers(0, sizes[-1], samples) if rng.random() < 0.5 else rng.dirichlet(np.ones(sizes[-1]), samples)
    elif loss == "binary_cross_entropy":
        Y = rng.integers(0, 2, (samples, sizes[-1])) if rng.random() < 0.5 else rng.random((samples, sizes[-1]))
    elif loss == "poisson":
        Y = rng.poisson(rng.choice([0.5, 5, 100]), (samples, sizes[-1]))
        while not mlp.predict(X).max() < 1e9:  # an exponential of whatever comes has no gradient that is finite
            mlp.parameter_vector = mlp.parameter_vector / 2
    else:
        Y = rng.standard_normal((samples, sizes[-1])) * rng.choice([1, 1, 100])
    return mlp, X, Y, rng.uniform(0, 2, samples) if rng.random() < 0.3 else None


# the mathematics are the same in all builds: in those that are slow, a fifth of the networks
@pytest.mark.parametrize("part", range(2 if INTERPRETED or CHECKED else 4))
def test_no_correct_network_is_rejected(part):
    """400 random ones, all activations and losses, saturated ones among them; fewer in the slow modes."""
    for seed in range(part * 100, part * 100 + (5 if INTERPRETED or CHECKED else 100)):
        mlp, X, Y, weights = random_network(seed)
        # every tenth with the Hessian's eigenvectors, which take time
        curvature = None if seed % 10 == 0 else False
        report = mlp.verify(X, Y, sample_weight=weights, curvature=curvature)
        assert report.ok, f"seed {seed}: {mlp}\n{report}"


def test_a_kink_is_reported_and_not_an_error():
    """A unit whose pre-activation is exactly 0 has no derivative with respect to its bias."""
    weights = [np.array([[1.0, -1.0]]), np.ones((1, 1))]
    parameters = [network.Parameters(W, np.zeros(1)) for W in weights]
    X, Y = np.array([[1.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 3.0]])
    report = verify.check(parameters, X, Y, activations=["relu", "identity"])
    assert report.ok
    assert "kink" in str(report)


def test_verify_true_checks_every_backward_pass(monkeypatch, rng):
    mlp = fastmlp.MLP([3, 4, 2], rng=0, verify=True)
    X, Y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    mlp.loss_and_gradients(X, Y)
    mlp.forward(X)
    mlp.backward(Y)
    mlp.train_step(X, Y, learning_rate=0.1)
    mlp.fit(X, Y, epochs=2, batch_size=4, progress=False)
    right = network.backward
    monkeypatch.setattr(verify.network, "backward", right)
    before = mlp.parameter_vector.copy()

    def wrong(*arguments, **settings):
        return without_a_bias(copied(right(*arguments, **settings)))

    monkeypatch.setattr(verify.check, "__kwdefaults__", {**verify.check.__kwdefaults__, "backward": wrong})
    for call in (
        lambda: mlp.loss_and_gradients(X, Y),
        lambda: mlp.train_step(X, Y, learning_rate=0.1),
        lambda: mlp.fit(X, Y, epochs=1, batch_size=4, progress=False),
    ):
        with pytest.raises(fastmlp.GradientMismatch, match="db2"):
            call()
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def half_squares(predictions, Y):
    """The mean over samples of half the squared distance, as a loss of one's own."""
    return ((predictions - Y) ** 2).sum() / (2 * len(Y)), (predictions - Y) / len(Y)


def twice_the_gradient(predictions, Y):
    loss, gradient = half_squares(predictions, Y)
    return loss, 2 * gradient


WAYS_TO_TRAIN = {
    "loss_and_gradients": lambda mlp, X, Y: mlp.loss_and_gradients(X, Y),
    "forward and backward": lambda mlp, X, Y: (mlp.forward(X), mlp.backward(Y)),
    "train_step": lambda mlp, X, Y: mlp.train_step(X, Y, learning_rate=0.1),
    "partial_fit": lambda mlp, X, Y: mlp.partial_fit(X, Y),
    "fit": lambda mlp, X, Y: mlp.fit(X, Y, epochs=1, batch_size=4, progress=False),
    "fit, monitored": lambda mlp, X, Y: mlp.fit(X, Y, epochs=1, batch_size=4, progress=False, monitor=True),
    "fit, converted": lambda mlp, X, Y: mlp.fit(X[:, ::-1], Y[:, ::-1], epochs=1, batch_size=4, progress=False),
    "fit, blocks": lambda mlp, X, Y: mlp.fit(
        fastmlp.Blocks(X, Y, rows_per_block=4), epochs=1, batch_size=4, progress=False
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
@pytest.mark.parametrize("loss", ["huber", half_squares], ids=["built in", "own"])
def test_verify_true_checks_every_way_to_train(way, loss, rng, monkeypatch):
    mlp = fastmlp.MLP([3, 4, 2], loss=loss, rng=0, verify=True)
    checked, count = fastmlp.MLP._verify, []
    monkeypatch.setattr(fastmlp.MLP, "_verify", lambda *given, **more: count.append(0) or checked(*given, **more))
    WAYS_TO_TRAIN[way](mlp, rng.standard_normal((8, 3)), rng.standard_normal((8, 2)))
    assert len(count) == (2 if way.startswith("fit") else 1)


@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
def test_a_wrong_loss_of_ones_own_is_found_in_every_way_to_train(way, rng):
    mlp = fastmlp.MLP([3, 4, 2], loss=twice_the_gradient, rng=0, verify=True)
    before = mlp.parameter_vector.copy()
    with pytest.raises(fastmlp.GradientMismatch):
        WAYS_TO_TRAIN[way](mlp, rng.standard_normal((8, 3)), rng.standard_normal((8, 2)))
    np.testing.assert_array_equal(mlp.parameter_vector, before)


@pytest.mark.parametrize("loss", ["absolute_error", "quantile"])
def test_a_loss_without_curvature_has_directions_too(loss, rng):
    mlp = fastmlp.MLP([300, 1], loss=loss, rng=0)
    assert mlp.verify(rng.standard_normal((20, 300)), rng.standard_normal((20, 1)), curvature=True).ok
