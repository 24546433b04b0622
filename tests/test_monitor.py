"""The monitor: what it measures is right, planted illnesses are named, healthy runs are left in peace."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_moons

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import diagnosis, monitor
from fastmlp.diagnosis import Measured, Watched, diagnose
from fastmlp.oracle import derivatives, network

slow = pytest.mark.skipif(INTERPRETED or CHECKED, reason="the monitor is NumPy; training is tested elsewhere")


def scaled(X):
    """Mean 0 and deviation 1."""
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)


def data_of(name):
    """Data sets, small ones."""
    rng = np.random.default_rng(7)
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return X / 16, y
    if name == "cancer":
        X, y = load_breast_cancer(return_X_y=True)
        return scaled(X), y[:, np.newaxis]
    if name == "wine":
        X, y = load_wine(return_X_y=True)
        return scaled(X), y
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
        return scaled(X), scaled(y[:, np.newaxis])
    if name == "moons":
        X, y = make_moons(400, noise=0.2, random_state=0)
        return scaled(X), y
    if name == "sine":
        X = rng.uniform(-3, 3, (500, 1))
        return X, np.sin(X)
    if name == "surface":
        X = rng.uniform(-1, 1, (1000, 5))
        return X, np.stack([np.sin(3 * X[:, 0]) * X[:, 1], X[:, 2] ** 2 - X[:, 3] * X[:, 4]], axis=1)
    if name == "noise":  # little can be predicted
        X = rng.standard_normal((600, 4))
        return X, X[:, :1] / 2 + rng.standard_normal((600, 1))
    if name == "counts":
        X = rng.uniform(-1, 1, (600, 3))
        return X, rng.poisson(np.exp(X @ [1, -0.5, 0.3] + 0.5))[:, np.newaxis]
    X = rng.standard_normal((400, 4))
    return X, X @ rng.standard_normal((4, 2))


OF_CLASSES, OF_TWO = {"loss": "softmax_cross_entropy"}, {"loss": "binary_cross_entropy"}
RELU, TANH = {"hidden_activation": "relu", "weight_scale": "he"}, {"hidden_activation": "tanh"}

HEALTHY = [
    ("digits", [64, 64, 10], RELU | OF_CLASSES, {"epochs": 15}),
    ("digits", [64, 64, 10], OF_CLASSES, {"epochs": 15, "learning_rate": 3e-3}),
    ("digits", [64, 64, 32, 10], TANH | OF_CLASSES, {"epochs": 10, "optimizer": fastmlp.SGD(0.05, momentum=0.9)}),
    ("digits", [64, 64, 10], RELU | OF_CLASSES | {"dropout": 0.3}, {"epochs": 10, "validation": 0.2}),
    ("digits", [64, 32, 10], RELU | OF_CLASSES, {"epochs": 2}),
    ("digits", [64, 64, 10], TANH | OF_CLASSES | {"dtype": "float32"}, {"epochs": 60}),
    ("cancer", [30, 16, 1], TANH | OF_TWO, {"epochs": 15, "validation": 0.2}),
    ("cancer", [30, 16, 1], RELU | OF_TWO, {"epochs": 30, "optimizer": "sgd", "learning_rate": 0.05}),
    ("wine", [13, 16, 3], TANH | OF_CLASSES, {"epochs": 40}),
    ("diabetes", [10, 16, 1], TANH | {"penalty": fastmlp.Penalty(l2=1e-2)},
     {"epochs": 40, "validation": 0.2, "early_stopping": True}),
    ("moons", [2, 32, 32, 2], RELU | OF_CLASSES, {"epochs": 60, "learning_rate": 3e-3}),
    ("sine", [1, 32, 1], TANH, {"epochs": 100, "learning_rate": 0.01}),
    ("sine", [1, 32, 1], TANH, {"epochs": 200, "optimizer": "sgd", "learning_rate": 0.1, "batch_size": None}),
    ("surface", [5, 64, 2], {"hidden_activation": "silu"}, {"epochs": 40, "learning_rate": 3e-3}),
    ("surface", [5, 32, 32, 32, 32, 2], RELU, {"epochs": 30}),
    ("surface", [5, 32, 32, 32, 2], TANH, {"epochs": 30, "optimizer": "adamw"}),
    ("surface", [5, 32, 2], {"hidden_activation": "elu", "loss": "huber"}, {"epochs": 30, "optimizer": "rmsprop"}),
    ("counts", [3, 16, 1], TANH | {"loss": "poisson"}, {"epochs": 30}),
    ("noise", [4, 8, 1], TANH, {"epochs": 60}),
    ("linear", [4, 2], {}, {"epochs": 80, "learning_rate": 0.02}),
    ("sine", [1, 16, 1], TANH | {"loss": fastmlp.Quantile(0.9)}, {"epochs": 60, "learning_rate": 5e-3}),
    ("surface", [5, 64, 2], {"hidden_activation": "softplus"},
     {"epochs": 30, "optimizer": fastmlp.SGD(0.02, momentum=0.9, nesterov=True)}),
]  # fmt: skip


def fitted(name, sizes, settings, how):
    """Train with the monitor on."""
    X, Y = data_of(name)
    mlp = fastmlp.MLP(sizes, rng=3, **settings)
    return mlp.fit(X, Y, progress=False, monitor=True, **how)


@slow
@pytest.mark.parametrize("case", HEALTHY, ids=[f"{number} {case[0]}" for number, case in enumerate(HEALTHY)])
def test_a_healthy_run_is_left_in_peace(case):
    history = fitted(*case)
    assert history.diagnosis.ok, history.diagnosis
    assert "Nothing wrong" in str(history.diagnosis)
    assert len(history.diagnosis.measured) == history.n_epochs


SGD = {"optimizer": "sgd"}

ILL = {
    "steps far too long": (
        "diverging", "surface", [5, 32, 2], TANH, {"epochs": 10, "learning_rate": 5.0} | SGD,
    ),
    "a step beyond what the curvature allows": (
        "step too long", "sine", [1, 32, 1], TANH,
        {"epochs": 30, "learning_rate": 1.5, "batch_size": None} | SGD,
    ),
    "a linear network, a little too fast": (
        "diverging", "linear", [4, 2], {}, {"epochs": 40, "learning_rate": 2.2, "batch_size": None} | SGD,
    ),
    "steps far too short": ("steps too short", "surface", [5, 32, 2], TANH, {"learning_rate": 1e-7} | SGD),
    "steps lost in rounding": ("steps too short", "surface", [5, 32, 2], TANH, {"learning_rate": 1e-25} | SGD),
    "Adam's steps far too short": ("steps too short", "surface", [5, 32, 2], TANH, {"learning_rate": 1e-8}),
    "huge initial weights": ("saturated units", "surface", [5, 32, 32, 2], {"weight_scale": 60.0}, {"epochs": 5}),
    "inputs in the thousands": (
        "saturated units", "unscaled", [30, 16, 1], TANH | OF_TWO, {"epochs": 8},
    ),
    "rectifiers killed by one step": (
        "dead rectifiers", "digits", [64, 64, 10], RELU | OF_CLASSES, {"epochs": 8, "learning_rate": 1.0},
    ),
    "many sigmoid layers": ("vanishing gradient", "surface", [5, *[16] * 9, 2], {}, {"epochs": 8}),
    "tiny initial weights": (
        "vanishing gradient", "surface", [5, *[16] * 4, 2], TANH | {"weight_scale": 1e-3}, {"epochs": 5} | SGD,
    ),
    "large initial weights in many layers": (
        "exploding gradient", "surface", [5, *[64] * 5, 2], RELU | {"weight_scale": 1.0},
        {"epochs": 5, "learning_rate": 1e-4},
    ),
    "labels that say nothing": (
        "plateau", "shuffled", [64, 10], OF_CLASSES, {"epochs": 20, "learning_rate": 0.01} | SGD,
    ),
    "a saddle": (
        "plateau", "exclusive or", [2, 2, 1], OF_TWO | {"weight_scale": 0.01},
        {"epochs": 60, "learning_rate": 0.05} | SGD,
    ),
    "many weights, few samples": (
        "overfitting", "few", [10, 100, 1], RELU, {"epochs": 150, "learning_rate": 5e-3, "validation": 0.5},
    ),
}  # fmt: skip


def ill_data(name):
    """Data with which something goes wrong, or the usual ones."""
    rng = np.random.default_rng(7)
    if name == "unscaled":
        X, y = data_of("cancer")
        return X * 100 + 500, y
    if name == "shuffled":
        X, y = data_of("digits")
        return X, rng.permutation(y)
    if name == "exclusive or":
        X = np.tile([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (50, 1))
        return X, (X[:, :1] != X[:, 1:]).astype(float)
    if name == "few":
        X, Y = data_of("diabetes")
        return X[:120], Y[:120]
    return data_of(name)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
@slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("illness", "name", "sizes", "settings", "how"), ILL.values(), ids=ILL)
def test_a_planted_illness_is_named(illness, name, sizes, settings, how):
    X, Y = ill_data(name)
    history = fastmlp.MLP(sizes, rng=3, **settings).fit(X, Y, progress=False, monitor=True, **how)
    found = history.diagnosis
    assert illness in found.illnesses, found
    # nothing is named that does not go with it
    assert set(found.illnesses) - {illness} <= GOES_WITH.get(illness, set()), found
    finding = next(finding for finding in found.findings if finding.illness == illness)
    text = str(finding)
    assert f"epoch {finding.epoch}" in text
    assert "Try:" in text
    assert text in " ".join(str(found).split())


GOES_WITH = {
    "diverging": {"step too long", "hasty updates"},
    "step too long": {"diverging", "hasty updates"},
    "saturated units": {"vanishing gradient"},
    "dead rectifiers": {"hasty updates", "step too long"},
}


@slow
def test_nothing_is_wrong_where_nothing_is_left_to_learn(rng):
    mlp = fastmlp.MLP([3, 8, 1], rng=0)
    X = rng.standard_normal((100, 3))
    history = mlp.fit(X, mlp.predict(X), epochs=5, optimizer="sgd", learning_rate=0.1, monitor=True, progress=False)
    assert history.loss == [0.0] * 5
    assert not history.diagnosis.findings


def test_dead_units_are_counted_and_their_layer_named():
    X, Y = data_of("surface")
    mlp = fastmlp.MLP([5, 32, 32, 2], rng=0, **RELU)
    pairs = [(W.copy(), b.copy()) for W, b in mlp.parameters]
    pairs[1][1][:16] = -20
    mlp.parameters = pairs
    found = mlp.fit(X, Y, epochs=4, progress=False, monitor=True).diagnosis
    assert found.illnesses == ["dead rectifiers"]
    assert found.findings[0].layer == 2
    assert "50%" in found.findings[0].quantity
    assert [m.silent[1] for m in found.measured] == [0.5] * 4
    assert all(m.silent[0] < 0.2 for m in found.measured)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_a_loss_that_is_not_finite_is_told_with_its_layer(rng):
    X, Y = rng.standard_normal((50, 3)), rng.standard_normal((50, 1))
    mlp = fastmlp.MLP([3, 8, 1], hidden_activation="relu", rng=0)
    history = mlp.fit(X, Y, epochs=20, optimizer="sgd", learning_rate=1e6, progress=False, monitor=True)
    assert "not finite" in history.stopped
    assert history.diagnosis.illnesses[0] == "diverging"
    assert "layer" in str(history.diagnosis)


# ------------------------------------------------------------------------------------------------------------------
# what is measured


def test_predictions_are_those_of_the_expansion(dtype, rng):
    """Of small steps, the second order predicts much better than the first, and the first well."""
    X, Y = rng.standard_normal((64, 3)), rng.standard_normal((64, 2))
    mlp = fastmlp.MLP([3, 8, 2], hidden_activation="tanh", rng=0, dtype=dtype, penalty=fastmlp.Penalty(l2=0.1))
    history = mlp.fit(X, Y, epochs=6, batch_size=16, optimizer="sgd", learning_rate=0.05, progress=False, monitor=True)
    for m in history.diagnosis.measured:
        assert m.first_order < 0
        assert abs(m.observed - m.second_order) < 0.05 * abs(m.observed - m.first_order)
        assert m.observed == pytest.approx(m.first_order, rel=0.2)


def test_first_order_is_the_gradient_times_the_step(rng):
    X, Y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    mlp = fastmlp.MLP([3, 8, 2], rng=0)
    before, gradients = mlp.parameter_vector.copy(), mlp.loss_and_gradients(X, Y)[1]
    loss = mlp.loss(X, Y)
    history = mlp.fit(
        X, Y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=0.1, progress=False, monitor=True
    )
    (m,) = history.diagnosis.measured
    assert m.loss == pytest.approx(loss, rel=1e-12)
    assert m.first_order == pytest.approx(-0.1 * (gradients.vector**2).sum(), rel=1e-12)
    assert m.observed == pytest.approx(mlp.loss(X, Y) - loss, rel=1e-9)
    change = mlp.parameter_vector - before
    product = mlp.hessian_vector_product(X, Y, change)  # at the new place, a little beside the old one
    assert m.second_order - m.first_order == pytest.approx(change @ product / 2, rel=0.05)
    assert m.limit == pytest.approx(20)


def test_curvature_is_the_largest_eigenvalue(rng):
    X, Y = rng.standard_normal((30, 3)), rng.standard_normal((30, 2))
    mlp = fastmlp.MLP([3, 5, 2], hidden_activation="tanh", rng=0)
    history = mlp.fit(
        X, Y, epochs=15, batch_size=None, optimizer="sgd", learning_rate=1e-9, progress=False, monitor=True
    )
    size = mlp.parameter_vector.size
    hessian = np.array([mlp.hessian_vector_product(X, Y, e) for e in np.eye(size)])
    largest = np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    assert history.diagnosis.measured[-1].curvature == pytest.approx(largest, rel=1e-2)


def test_updates_and_gradients_by_layer(rng):
    X, Y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    mlp = fastmlp.MLP([3, 8, 2], rng=0)
    before = [W.copy() for W, _ in mlp.parameters]
    history = mlp.fit(
        X, Y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=0.1, progress=False, monitor=True
    )
    (m,) = history.diagnosis.measured
    expected = [np.linalg.norm(W - W0) / np.linalg.norm(W0) for (W, _), W0 in zip(mlp.parameters, before, strict=True)]
    np.testing.assert_allclose(m.updates, expected, rtol=1e-12)
    forward_pass = network.forward(mlp.parameters, X.T, activations=["sigmoid", "identity"])
    dZ = network.output_gradient(forward_pass, Y.T)
    of_layers = network.backward_from(
        mlp.parameters, forward_pass, dZ, activations=["sigmoid", "identity"]
    ).of_pre_activations
    np.testing.assert_allclose(m.gradients, [np.sqrt((d**2).mean()) for d in of_layers], rtol=1e-12)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "binary_cross_entropy", "softmax_cross_entropy",
                                  "poisson", "quantile"])  # fmt: skip
def test_the_best_constant_is_known(loss, rng):
    """No other constant has a smaller loss."""
    X = rng.standard_normal((100, 2))
    Y = rng.dirichlet([1, 2, 3], 100) if loss == "softmax_cross_entropy" else rng.uniform(0, 1, (100, 3))
    mlp = fastmlp.MLP([2, 3], loss=loss, rng=0)
    history = mlp.fit(X, Y, epochs=1, progress=False, monitor=True)
    constant = history.monitored_network["constant"]

    def loss_of(b):
        mlp.parameters = [(np.zeros((3, 2)), b)]
        return mlp.loss(X, Y)

    rng = np.random.default_rng(0)
    best = min(loss_of(b) for b in rng.normal(0, 1, (300, 3)))
    assert constant <= best + 1e-9


def test_the_run_is_the_same_to_the_bit(dtype, rng, tmp_path):
    X, labels = rng.standard_normal((90, 4)), rng.integers(0, 3, 90)
    runs = []
    for with_it in (False, True):
        mlp = fastmlp.MLP([4, 8, 3], loss="softmax_cross_entropy", dropout=0.2, dtype=dtype, rng=0)
        history = mlp.fit(X, labels, epochs=4, batch_size=16, validation=0.2, progress=False, monitor=with_it)
        runs.append((mlp.parameter_vector.copy(), history.loss, history.validation_loss))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_a_checkpoint_keeps_what_was_measured(rng, tmp_path):
    X, Y = rng.standard_normal((60, 3)), rng.standard_normal((60, 1))
    whole = fastmlp.MLP([3, 6, 1], rng=0).fit(X, Y, epochs=6, progress=False, monitor=True)
    path = tmp_path / "run.ckpt"
    for epochs in (3, 6):
        mlp = fastmlp.MLP([3, 6, 1], rng=0)
        history = mlp.fit(X, Y, epochs=epochs, progress=False, monitor=True, checkpoint=path)
    assert len(history.monitored) == 6
    assert [m["observed"] for m in history.monitored] == [m["observed"] for m in whole.monitored]


def test_weights_labels_and_a_loss_of_ones_own(rng):
    X, Y = rng.standard_normal((60, 3)).astype(np.float32), rng.standard_normal((60, 1))

    def loss(predictions, targets):
        error = predictions - targets
        return float((error**2).mean()), 2 * error / error.size

    history = fastmlp.MLP([3, 6, 1], loss=loss, rng=0).fit(X, Y, epochs=3, progress=False, monitor=True)
    assert all(m.second_order is None and m.curvature is None for m in history.diagnosis.measured)
    assert history.diagnosis.ok
    weight = rng.uniform(0.5, 2, 60)
    mlp = fastmlp.MLP([3, 6, 1], rng=0)
    history = mlp.fit(X, Y, epochs=1, batch_size=None, sample_weight=weight, progress=False, monitor=True)
    before = fastmlp.MLP([3, 6, 1], rng=0).loss(X, Y, sample_weight=weight)
    assert history.diagnosis.measured[0].loss == pytest.approx(before, rel=1e-12)


def test_without_a_monitor_there_is_no_diagnosis(rng):
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((20, 1))
    history = fastmlp.MLP([3, 4, 1], rng=0).fit(X, Y, epochs=1, progress=False)
    with pytest.raises(RuntimeError, match="monitor=True"):
        _ = history.diagnosis
    with pytest.raises(TypeError, match="monitor"):
        fastmlp.MLP([3, 4, 1], rng=0).fit(X, Y, epochs=1, progress=False, monitor="yes")


# ------------------------------------------------------------------------------------------------------------------
# the rules, alone


def measured(**changed):
    """Of an epoch in which all is well."""
    usual = {
        "epoch": 1, "flat": [0.0, 0.0], "gain": 0.2, "gain_error": 0.01, "loss": 1.0,
        "first_order": -0.1, "second_order": -0.09, "observed": -0.09, "curvature": 5.0, "limit": 20.0,
        "silent": [0.0, 0.0], "gradients": [0.1, 0.1, 0.1], "updates": [0.01, 0.01, 0.01],
    }  # fmt: skip
    return Measured(**{**usual, **changed})


def run_of(*epochs, loss=None, validation_loss=(), constant=0.5, stopped=""):
    """What the rules look at."""
    falling = [1.0 / (k + 1) for k in range(len(epochs))]
    epochs = [replace(epoch, epoch=k + 1) for k, epoch in enumerate(epochs)]
    return Watched(epochs, loss or falling, list(validation_loss), ["relu", "tanh"], constant, stopped)


def test_one_bad_epoch_is_none():
    ill = measured(silent=[0.9, 0.9], gradients=[1e-9, 1e-9, 1.0], observed=0.5, updates=[0.9, 0.9, 0.9])
    assert diagnose(run_of(*[measured()] * 5, ill)).ok
    assert diagnose(run_of(*[measured()] * 5, ill, ill)).ok
    found = diagnose(run_of(*[measured()] * 5, ill, ill, ill))
    assert set(found.illnesses) == {
        "dead rectifiers", "saturated units", "vanishing gradient", "step too long", "hasty updates",
    }  # fmt: skip
    assert {finding.epoch for finding in found.findings} == {6}
    layers = {finding.illness: finding.layer for finding in found.findings}
    assert layers["dead rectifiers"] == 1
    assert layers["saturated units"] == 2
    assert layers["vanishing gradient"] == 2  # the last layer that the gradient does not reach


def test_a_negative_loss_that_falls_is_well():
    epochs = [measured()] * 12
    falling = [-12.0 - 3 * (1 - 0.5**k) for k in range(12)]
    assert diagnose(run_of(*epochs, loss=falling, constant=-11.0)).ok
    rising = [-12.0, -14.0, -15.0, *(-15.0 + k for k in range(9))]
    assert diagnose(run_of(*epochs, loss=rising, constant=-11.0)).illnesses == ["diverging"]


def test_leaky_rectifiers_do_not_die(rng):
    X, Y = rng.standard_normal((60, 3)), rng.standard_normal((60, 1))
    mlp = fastmlp.MLP([3, 6, 1], hidden_activation="leaky_relu", rng=0)
    mlp.parameters = [(W, b - 10 * (k == 0)) for k, (W, b) in enumerate(mlp.parameters)]
    assert "dead rectifiers" not in mlp.fit(X, Y, epochs=4, progress=False, monitor=True).diagnosis.illnesses


@slow
@pytest.mark.parametrize("seed", range(6))
def test_little_is_not_nothing(seed):
    """Targets of which the input explains 8 % are no plateau, targets of which it explains nothing are one."""
    rng = np.random.default_rng(seed)
    X, noise = rng.uniform(-1, 1, (4000, 5)), rng.standard_normal((4000, 1))
    for signal, illnesses in ((0.5, []), (0.0, ["plateau"])):
        mlp = fastmlp.MLP([5, 8, 1], hidden_activation="tanh", rng=seed)
        history = mlp.fit(
            X, signal * X[:, :1] + noise, epochs=20, batch_size=100, learning_rate=1e-3, progress=False, monitor=True
        )
        assert history.diagnosis.illnesses == illnesses, history.diagnosis


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True), (0.5, True)])
def test_gradient_descent_is_stable_up_to_the_limit(momentum, nesterov):
    """Of one weight on one sample, whose curvature is 1 (with the bias fixed at 0 by its own, 2)."""
    X, Y = np.array([[1.0]]), np.array([[0.0]])
    for rate, grows in ((0.97, False), (1.03, True)):
        limit = monitor._limit(fastmlp.SGD(1.0, momentum=momentum, nesterov=nesterov), 1.0)
        mlp = fastmlp.MLP([1, 1], rng=0)
        optimizer = fastmlp.SGD(rate * limit / 2.0, momentum=momentum, nesterov=nesterov)
        losses = [mlp.train_step(X, Y, optimizer=optimizer) for _ in range(600)]
        assert (losses[-1] > losses[0]) == grows


def test_a_resumed_run_counts_its_epochs_on(rng, tmp_path):
    X, Y = rng.standard_normal((60, 3)), rng.standard_normal((60, 1))
    how = {"optimizer": "sgd", "learning_rate": 1e-8, "progress": False, "checkpoint": tmp_path / "run.ckpt"}
    fastmlp.MLP([3, 6, 1], rng=0).fit(X, Y, epochs=5, **how)
    history = fastmlp.MLP([3, 6, 1], rng=0).fit(X, Y, epochs=9, monitor=True, **how)
    assert [m.epoch for m in history.diagnosis.measured] == [6, 7, 8, 9]
    assert [finding.epoch for finding in history.diagnosis.findings] == [6]


def test_overfitting_that_was_cured_is_not_told():
    epochs, falling = [measured()] * 12, [1.0 / (k + 1) for k in range(12)]
    rising = [1.0, 0.5, 0.4, *(0.45 + 0.05 * k for k in range(9))]
    run = run_of(*epochs, loss=falling, validation_loss=rising)
    assert diagnose(run._replace(restores=True)).ok


def test_what_has_passed_is_not_told():
    ill = measured(silent=[0.9, 0.0])
    assert diagnose(run_of(ill, ill, ill, ill, measured())).ok


def test_a_long_run_is_shown_by_its_ends():
    text = str(diagnose(run_of(*[measured()] * 40)))
    assert "…" in text
    assert text.count("\n") < diagnosis._SHOWN + 6


def test_overfitting_needs_a_rise_that_lasts():
    epochs, falling = [measured()] * 12, [1.0 / (k + 1) for k in range(12)]
    rising = [1.0, 0.5, 0.4, *(0.45 + 0.05 * k for k in range(9))]
    found = diagnose(run_of(*epochs, loss=falling, validation_loss=rising))
    assert found.illnesses == ["overfitting"]
    assert found.findings[0].epoch == 3
    level = [1.0, 0.5, 0.4, *([0.42] * 9)]
    assert diagnose(run_of(*epochs, loss=falling, validation_loss=level)).ok


def test_second_derivatives_serve_the_expansion(rng):
    """The product that the second order is made of is the oracle's, with the penalty."""
    parameters = network.initialize([3, 4, 2], rng, 0.5)
    X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    names, penalty = ["tanh", "identity"], network.Penalty(l2=0.5)
    both = [
        derivatives.hessian_vector_product(parameters, X, Y, parameters, activations=names, penalty=chosen)
        for chosen in (None, penalty)
    ]
    for (with_none, _), (with_it, _), (W, _) in zip(*both, parameters, strict=True):
        np.testing.assert_allclose(with_it - with_none, 0.5 * W, rtol=1e-12)


def test_a_schedule_that_has_ended_is_no_missing_gradient(rng):
    X, Y = rng.standard_normal((2, 64, 3))
    mlp = fastmlp.MLP([3, 8, 3], rng=0)
    settings = {"batch_size": 32, "learning_rate": fastmlp.CosineDecay(0.01, 8), "progress": False}
    mlp.fit(X, Y, epochs=4, **settings)
    history = mlp.fit(X, Y, epochs=4, monitor=True, **settings)  # its steps are counted on
    assert history.diagnosis.illnesses == ["no learning rate"]
    mlp.parameters = mlp.parameters
    assert "no learning rate" not in mlp.fit(X, Y, epochs=4, monitor=True, **settings).diagnosis.illnesses
