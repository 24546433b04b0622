"""fit: epochs, minibatches, order, validation, history."""

import re
import signal

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED
from fastmlp import oracle, training
from fastmlp.metrics import METRICS

SAMPLES = 23


@pytest.fixture
def data(rng):
    """Return X and Y of a smooth function."""
    X = rng.uniform(-1, 1, (SAMPLES, 2))
    return X, np.sin(3 * X[:, :1]) * X[:, 1:]


def test_fit_is_train_step_over_minibatches(data, dtype):
    X, Y = data
    fitted, stepped = (fastmlp.MLP([2, 5, 1], dtype=dtype, rng=3) for _ in range(2))
    history = fitted.fit(X, Y, epochs=2, batch_size=10, learning_rate=0.01, shuffle=False, progress=False)
    losses = []
    for _ in range(2):
        total = 0.0
        for first in (0, 10, 20):
            part = slice(first, first + 10)
            total += len(X[part]) * stepped.train_step(X[part], Y[part], optimizer=fastmlp.Adam(0.01))
        losses.append(total / SAMPLES)
    np.testing.assert_array_equal(fitted.parameter_vector, stepped.parameter_vector)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-14)


def test_order_is_drawn_anew_for_each_epoch(data):
    """Two epochs in one call are two calls of one epoch; the order depends on the seed; every sample is seen once."""
    X, Y = data
    once, twice, other = (fastmlp.MLP([2, 5, 1], rng=seed) for seed in (3, 3, 4))
    other.parameter_vector = once.parameter_vector
    once.fit(X, Y, epochs=2, batch_size=4, progress=False)
    for _ in range(2):
        twice.fit(X, Y, epochs=1, batch_size=4, progress=False)
    other.fit(X, Y, epochs=2, batch_size=4, progress=False)
    np.testing.assert_array_equal(once.parameter_vector, twice.parameter_vector)
    assert not np.array_equal(once.parameter_vector, other.parameter_vector)

    for rows in (None, np.array([2, 3, 5, 7, 11])):
        plan = training.Plan(rows, SAMPLES, SAMPLES, epochs=3, batch_size=4, shuffle=True, progress=False)
        generator = np.random.default_rng(0)
        orders = [plan.order(generator) for _ in range(3)]
        np.testing.assert_array_equal(np.sort(orders, axis=1), [np.arange(SAMPLES) if rows is None else rows] * 3)
        assert not np.array_equal(orders[0], orders[1])


def test_it_learns(rng):
    X = rng.uniform(-1, 1, (200, 2))
    Y = np.sin(3 * X[:, :1]) * X[:, 1:]
    mlp = fastmlp.MLP([2, 12, 1], hidden_activation="tanh", rng=0)
    history = mlp.fit(X, Y, epochs=20 if INTERPRETED else 300, batch_size=50, learning_rate=0.02, progress=False)
    assert history.loss[-1] < (0.7 if INTERPRETED else 0.03) * history.loss[0]
    assert history.n_epochs == len(history.loss) == len(history.seconds)
    assert history.stopped == "all epochs done"
    assert history.validation_loss == []


def test_validation_is_the_loss_after_each_epoch(data):
    X, Y = data
    mlp, other = fastmlp.MLP([2, 5, 1], rng=3), fastmlp.MLP([2, 5, 1], rng=3)
    history = mlp.fit(X, Y, epochs=3, batch_size=8, validation=(X[:7], Y[:7]), progress=False)
    for epoch in range(3):
        other.fit(X, Y, epochs=1, batch_size=8, progress=False)
        assert history.validation_loss[epoch] == other.loss(X[:7], Y[:7])
    assert "validation loss" in str(history)


def test_a_batch_of_all_samples(data):
    X, Y = data
    mlp, other = fastmlp.MLP([2, 5, 1], rng=3), fastmlp.MLP([2, 5, 1], rng=3)
    mlp.fit(X, Y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=0.1, shuffle=False, progress=False)
    other.train_step(X, Y, learning_rate=0.1)
    np.testing.assert_array_equal(mlp.parameter_vector, other.parameter_vector)


def test_a_loss_that_is_not_finite_ends_training_in_words(data):
    X, Y = data
    mlp = fastmlp.MLP([2, 5, 1], hidden_activation="identity", rng=3)
    with pytest.warns(RuntimeWarning, match="training stopped because the loss was not finite at step"):
        history = mlp.fit(
            X, Y, epochs=50, batch_size=4, optimizer="sgd", learning_rate=1e150, shuffle=False, progress=False
        )
    assert re.fullmatch(
        r"stopped because the loss was not finite at step \d \(rows \d+ to \d+ of the epoch;"
        r" (layer \d|the loss itself) overflows\) in epoch 1",
        history.stopped,
    )
    assert np.isfinite(mlp.parameter_vector).all()


def test_progress_bar_shows_every_step(data, capsys, monkeypatch):
    X, Y = data
    bars = []
    tqdm_auto = pytest.importorskip("tqdm.auto")
    plain = tqdm_auto.tqdm

    class Recorded(plain):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **{**settings, "disable": False})
            bars.append(self)

    monkeypatch.setattr(tqdm_auto, "tqdm", Recorded)
    fastmlp.MLP([2, 5, 1], rng=3).fit(X, Y, epochs=3, batch_size=5, validation=(X, Y))
    assert len(bars) == 1
    assert bars[0].n == bars[0].total == 15
    assert "loss" in bars[0].postfix
    assert "validation" in bars[0].postfix


def test_nothing_is_printed_without_a_terminal(data, capsys):
    X, Y = data
    fastmlp.MLP([2, 5, 1], rng=3).fit(X, Y, epochs=1)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------------------
# validation by a fraction


def test_held_out_rows_are_a_fraction_of_each_class(rng):
    classes = np.repeat([0, 1, 2], [50, 30, 20])
    kept, held = training.hold_out(100, 0.2, classes, rng)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(100))
    np.testing.assert_array_equal(np.bincount(classes[held]), [10, 6, 4])
    kept, held = training.hold_out(7, 0.3, np.arange(7), rng)  # classes of one sample each
    assert (len(kept), len(held)) == (5, 2)
    kept, held = training.hold_out(10, 0.3, None, rng)
    assert (len(kept), len(held)) == (7, 3)
    for fraction in (0.01, 0.99):
        with pytest.raises(ValueError, match="validation must leave samples on both sides"):
            training.hold_out(10, fraction, None, rng)


@pytest.mark.parametrize("shuffle", [True, False])
def test_validation_by_a_fraction_is_training_on_the_others(data, shuffle):
    """The same rows for the same seed, and again in the next fit; the others are never trained on."""
    X, Y = data
    mlp = fastmlp.MLP([2, 5, 1], rng=3)
    history = mlp.fit(X, Y, epochs=2, batch_size=4, validation=0.3, shuffle=shuffle, progress=False)
    assert len(history.validation_loss) == 2
    seed = np.random.SeedSequence([3]).spawn(1)[0]
    kept, held = training.hold_out(SAMPLES, 0.3, None, np.random.default_rng(seed))
    assert history.validation_loss[-1] == pytest.approx(mlp.loss(X[held], Y[held]), rel=1e-13)
    spoiled = Y.copy()
    spoiled[held] = 1e3
    other = fastmlp.MLP([2, 5, 1], rng=3)
    other.fit(X, spoiled, epochs=2, batch_size=4, validation=0.3, shuffle=shuffle, progress=False)
    np.testing.assert_array_equal(other.parameter_vector, mlp.parameter_vector)
    if not shuffle:
        alone = fastmlp.MLP([2, 5, 1], rng=3)
        losses = alone.fit(X[kept], Y[kept], epochs=2, batch_size=4, shuffle=False, progress=False).loss
        np.testing.assert_array_equal(alone.parameter_vector, mlp.parameter_vector)
        assert losses == history.loss


def test_validation_by_a_fraction_of_other_data_and_weights(data):
    """Converted data, weights and a generator as rng: all ways give the same."""
    X, Y = (array.astype(np.float32) for array in data)
    weights = np.linspace(0.1, 2, SAMPLES)
    results = []
    for given_X in (X, X.astype(np.float64), np.asfortranarray(X)):
        mlp = fastmlp.MLP([2, 5, 1], dtype="float32", rng=np.random.default_rng(4))
        history = mlp.fit(given_X, Y, epochs=2, batch_size=4, validation=0.3, sample_weight=weights, progress=False)
        results.append((mlp.parameter_vector, history.loss, history.validation_loss))
    for found in results[1:]:
        np.testing.assert_array_equal(found[0], results[0][0])
        np.testing.assert_allclose(found[1:], results[0][1:], rtol=1e-6)


@pytest.mark.parametrize("validation", [0.0, 1.0, 1.5, (1,), "half", 3])
def test_validation_is_checked(data, validation):
    with pytest.raises((ValueError, TypeError), match="validation"):
        fastmlp.MLP([2, 1], rng=0).fit(*data, validation=validation, progress=False)


# ------------------------------------------------------------------------------------------------------------------
# early stopping, metrics, callbacks


def test_early_stopping_gives_back_the_best_parameters(rng):
    """Few samples of pure noise: the validation loss soon rises."""
    X, Y = rng.standard_normal((20, 5)), rng.standard_normal((20, 1))
    held = rng.standard_normal((50, 5)), rng.standard_normal((50, 1))
    seen = []
    mlp = fastmlp.MLP([5, 20, 1], hidden_activation="tanh", rng=1)
    history = mlp.fit(
        X, Y, epochs=500, batch_size=5, learning_rate=0.02, validation=held, progress=False,
        early_stopping=fastmlp.EarlyStopping(patience=4),
        callbacks=lambda model, _: seen.append(model.parameter_vector.copy()),
    )  # fmt: skip
    assert history.n_epochs < 500
    assert history.n_epochs == history.best_epoch + 4
    assert history.stopped == f"stopped early: 4 epochs without a gain; the best was epoch {history.best_epoch}"
    assert history.best_epoch == np.argmin(history.validation_loss) + 1
    np.testing.assert_array_equal(mlp.parameter_vector, seen[history.best_epoch - 1])
    assert mlp.loss(*held) == history.validation_loss[history.best_epoch - 1]
    last = fastmlp.MLP([5, 20, 1], hidden_activation="tanh", rng=1)
    last.fit(
        X, Y, epochs=500, batch_size=5, learning_rate=0.02, validation=held, progress=False,
        early_stopping=fastmlp.EarlyStopping(patience=4, restore_best=False),
    )  # fmt: skip
    np.testing.assert_array_equal(last.parameter_vector, seen[-1])


def test_early_stopping_without_validation_watches_the_training_loss(data):
    mlp = fastmlp.MLP([2, 1], rng=1)
    stopping = fastmlp.EarlyStopping(patience=2, minimum_gain=1e9)
    history = mlp.fit(*data, epochs=50, early_stopping=stopping, progress=False)
    assert history.n_epochs == 3
    assert mlp.fit(*data, epochs=3, early_stopping=True, progress=False).n_epochs == 3


def test_metrics_by_name_and_by_function(rng):
    X, labels = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    mlp = fastmlp.MLP([3, 3], loss="softmax_cross_entropy", rng=1)

    def largest(predictions, targets):
        assert targets.shape == predictions.shape
        return predictions.max()

    history = mlp.fit(X, labels, epochs=2, validation=0.25, metrics=["accuracy", largest], progress=False)
    assert set(history.metrics) == set(history.validation_metrics) == {"accuracy", "largest"}
    seed = np.random.SeedSequence([1]).spawn(1)[0]
    kept, held = training.hold_out(40, 0.25, labels, np.random.default_rng(seed))
    right = mlp.predict(X).argmax(axis=1) == labels
    assert history.metrics["accuracy"][-1] == right[kept].mean()
    assert history.validation_metrics["accuracy"][-1] == right[held].mean()
    assert mlp.fit(X, labels, epochs=1, metrics=largest, progress=False).metrics["largest"] == [mlp.predict(X).max()]
    named = {"top": largest, "lowest": lambda predictions, _: predictions.min(), "right": "accuracy"}
    found = mlp.fit(X, labels, epochs=1, metrics=named, progress=False).metrics
    assert found["top"] == [mlp.predict(X).max()]
    assert found["lowest"] == [mlp.predict(X).min()]
    assert found["right"] == [(mlp.predict(X).argmax(axis=1) == labels).mean()]


def test_metrics_that_cannot_be_kept_are_refused(rng):
    X, Y = rng.standard_normal((2, 9, 3))
    mlp = fastmlp.MLP([3, 3], rng=0)
    with pytest.raises(ValueError, match=r"metrics must have different names, .*; got '<lambda>' twice"):
        mlp.fit(X, Y, metrics=[lambda a, b: 1.0, lambda a, b: 2.0], progress=False)
    with pytest.raises(TypeError, match=r"the metric 'each' must return a number; got array\("):
        mlp.fit(X, Y, epochs=1, metrics={"each": lambda predictions, _: predictions[0]}, progress=False)


@pytest.mark.parametrize("name", ["accuracy", "mean_squared_error", "mean_absolute_error", "r2"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_metrics_are_scikit_learns(name, outputs, rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    A, Y = rng.standard_normal((30, outputs)), rng.standard_normal((30, outputs))
    if name == "accuracy":
        A, Y = rng.random((30, outputs)), np.eye(3)[rng.integers(0, 3, 30)][:, :outputs]
        of = (A > 0.5, Y > 0.5) if outputs == 1 else (A.argmax(1), Y.argmax(1))
        expected = sklearn.accuracy_score(*of)
    else:
        expected = getattr(sklearn, name if name.startswith("mean") else "r2_score")(Y, A)
    assert METRICS[name](A, Y) == pytest.approx(expected)


def test_callbacks_see_each_epoch_and_may_stop(data):
    mlp, epochs = fastmlp.MLP([2, 1], rng=1), []

    def third(model, history):
        assert model is mlp
        epochs.append(history.n_epochs)
        return history.n_epochs == 3

    history = mlp.fit(*data, epochs=9, callbacks=[third, lambda *_: None], progress=False)
    assert epochs == [1, 2, 3]
    assert history.stopped == "a callback asked to stop"


@pytest.mark.parametrize("settings", [{"metrics": "precision"}, {"metrics": 3}, {"callbacks": [3]},
                                      {"early_stopping": 3}, {"checkpoint": 3}])  # fmt: skip
def test_what_fit_is_given_is_checked(data, settings):
    mlp = fastmlp.MLP([2, 1], rng=1)
    before = mlp.parameter_vector.copy()
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(settings))} must|path must"):
        mlp.fit(*data, progress=False, **settings)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def test_history_has_an_entry_for_each_epoch(data):
    history = fastmlp.MLP([2, 1], rng=1).fit(*data, epochs=4, learning_rate=0.02, validation=0.2, progress=False)
    for name in ("loss", "validation_loss", "learning_rate", "gradient_norm", "seconds", "samples_per_second"):
        assert len(getattr(history, name)) == 4, name
    assert history.learning_rate == [0.02] * 4
    assert all(norm > 0 for norm in history.gradient_norm)


@pytest.mark.parametrize("kind", ["labels", "one-hot", "binary"])
def test_a_single_class_is_refused(kind, rng):
    """By fit; a piece of a stream may well hold only one."""
    X, labels = rng.standard_normal((6, 2)), np.ones(6, int)
    loss, outputs = ("binary_cross_entropy", 1) if kind == "binary" else ("softmax_cross_entropy", 3)
    Y = np.eye(3)[labels] if kind == "one-hot" else labels
    mlp = fastmlp.MLP([2, outputs], loss=loss, rng=1)
    before = mlp.parameter_vector.copy()
    with pytest.raises(ValueError, match="Y must hold samples of two classes or more; got class 1 alone"):
        mlp.fit(X, Y, progress=False)
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    mlp.partial_fit(X, Y)
    assert not np.array_equal(mlp.parameter_vector, before)


def test_partial_fit_takes_a_stream(data, dtype):
    X, Y = data
    streamed, fitted = (fastmlp.MLP([2, 5, 1], dtype=dtype, rng=3) for _ in range(2))
    losses = [streamed.partial_fit(X[k : k + 8], Y[k : k + 8], batch_size=4) for k in (0, 8)]
    history = fitted.fit(X[:16], Y[:16], epochs=1, batch_size=4, shuffle=False, progress=False)
    np.testing.assert_array_equal(streamed.parameter_vector, fitted.parameter_vector)
    assert np.mean(losses) == pytest.approx(history.loss[0])
    with pytest.raises(FloatingPointError, match="not finite"):
        fastmlp.MLP([2, 2, 1], hidden_activation="identity", rng=0).partial_fit(
            X, Y, batch_size=1, optimizer="sgd", learning_rate=1e200
        )


# ------------------------------------------------------------------------------------------------------------------
# epochs between which there is nothing to do are trained in one call

AHEAD = {
    "shuffled": {},
    "in a row": {"shuffle": False},
    "all samples": {"batch_size": None},
    "a fraction is held out": {"validation": 0.2},
    "weighted": {"sample_weight": np.linspace(0, 2, 53)},
    "momentum": {"optimizer": fastmlp.SGD(0.05, momentum=0.9)},
    "limited": {"optimizer": fastmlp.Adam(max_gradient_norm=0.05)},
    "schedule": {"learning_rate": fastmlp.CosineDecay(0.01, n_steps=150)},
    "best in the middle": {"optimizer": "sgd", "learning_rate": lambda step: 0.01 if step < 130 else step // 60 / 9},
    "limited schedule": {"optimizer": fastmlp.SGD(lambda step: 0.1 / (1 + step), max_gradient_norm=0.05)},
}


def watched(*_):
    """A callback that does nothing, but must be called after each epoch."""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", AHEAD)
def test_many_epochs_at_once_are_those_one_by_one(name, n_threads, dtype, rng):
    X, Y = rng.standard_normal((53, 4)).astype(dtype), rng.standard_normal((53, 2)).astype(dtype)
    settings = {"epochs": 40, "batch_size": 9, "progress": False, **AHEAD[name]}
    make = {"dropout": 0.2, "penalty": fastmlp.Penalty(l2=0.01), "dtype": dtype, "rng": 3, "n_threads": n_threads}
    found = []
    for callbacks in ((), watched):
        mlp = fastmlp.MLP([4, 7, 2], **make)
        history = mlp.fit(X, Y, callbacks=callbacks, **settings)
        found.append((mlp, history))
    (ahead, of_ahead), (one_by_one, expected) = found
    np.testing.assert_array_equal(ahead.parameter_vector, one_by_one.parameter_vector)
    assert ahead._rng.random() == one_by_one._rng.random()
    assert of_ahead.loss == expected.loss
    assert of_ahead.learning_rate == expected.learning_rate
    assert of_ahead.validation_loss == expected.validation_loss
    assert of_ahead.gradient_norm == expected.gradient_norm
    assert (of_ahead.stopped, of_ahead.best_epoch) == (expected.stopped, expected.best_epoch)
    assert len(of_ahead.seconds) == len(of_ahead.samples_per_second) == 40
    assert (expected.best_epoch < 40) or name != "best in the middle"


@pytest.mark.parametrize("kind", ["f8", "f4", "u1"])
def test_epochs_are_trained_ahead(kind, monkeypatch):
    """Otherwise the test above compares nothing. Few rows of another dtype are converted once, before that."""
    seen = []
    original = fastmlp.mlp.Trainee.epochs
    monkeypatch.setattr(fastmlp.mlp.Trainee, "epochs", lambda self, of: seen.append(of.n_epochs) or original(self, of))
    X = np.ones((20, 1), kind)
    fastmlp.MLP([1, 1], rng=0).fit(X, X, epochs=100, batch_size=7, progress=False)
    assert sum(seen) > 50
    assert max(seen) > 4


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
@pytest.mark.parametrize("epoch", [1, 2, 7, 40])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loss_that_is_not_finite_ends_training_in_the_same_step_ahead(epoch, shuffle, rng):
    X, Y = rng.standard_normal((53, 4)), rng.standard_normal((53, 2))
    found = []
    for callbacks in ((), watched):
        mlp = fastmlp.MLP([4, 2], rng=3)
        # in the third step of an epoch the rate is such that the fourth one is not finite
        schedule = lambda step: 1e300 if step == 6 * (epoch - 1) + 2 else 0.01  # noqa: E731
        history = mlp.fit(
            X, Y, epochs=50, batch_size=9, optimizer="sgd", learning_rate=schedule, shuffle=shuffle, progress=False,
            callbacks=callbacks,
        )  # fmt: skip
        found.append((mlp.parameter_vector.tolist(), history.stopped, history.loss, mlp._rng.random()))
    assert found[0] == found[1]
    assert f"at step 4 (rows 27 to 35 of the epoch; the loss itself overflows) in epoch {epoch}" in found[0][1]


@pytest.mark.parametrize("loss", ["poisson", "squared_error", "huber", "binary_cross_entropy"])
def test_a_sample_without_weight_counts_for_nothing_even_if_it_overflows(loss, dtype):
    X, Y = np.array([[np.finfo(dtype).max / 4], [1]], dtype), np.array([[0], [1]], dtype)
    both, one = (fastmlp.MLP([1, 1], loss=loss, dtype=dtype, rng=0) for _ in "12")
    for mlp in (both, one):
        mlp.parameters = [(np.full((1, 1), 0.5), np.zeros(1))]
    weights = np.array([0.0, 1.0])
    with np.errstate(over="ignore"):
        forward_pass = oracle.network.forward(both.parameters, X.T.astype(float), activations=["identity"])
        expected = oracle.network.loss_value(forward_pass, Y.T, loss=loss, sample_weight=weights)
        gradient = oracle.network.output_gradient(forward_pass, Y.T, loss=loss, sample_weight=weights)
    found, gradients = both.loss_and_gradients(X, Y, sample_weight=weights)
    assert found == pytest.approx(expected, rel=1e-6)
    assert gradients[0].biases[0] == pytest.approx(gradient[0, 1], rel=1e-6)
    assert gradient[0, 0] == 0
    fit = {"batch_size": 2, "shuffle": False, "optimizer": "sgd", "epochs": 2, "progress": False}
    assert both.fit(X, Y, sample_weight=weights, **fit).loss == one.fit(X[1:], Y[1:], **fit).loss
    np.testing.assert_array_equal(both.parameter_vector, one.parameter_vector)


def test_a_loss_that_is_not_a_number_is_never_the_best_one():
    def loss(A, Y):
        difference = A - Y
        is_far = len(A) == 3 and abs(A).max() > 1
        return np.nan if is_far else float((difference**2).mean() / 2), difference / len(A)

    mlp = fastmlp.MLP([1, 1], loss=loss, rng=0)
    mlp.parameters = [([[2.0]], [0.0])]
    stopping = fastmlp.EarlyStopping(patience=3)
    history = mlp.fit(
        np.ones((8, 1)), np.zeros((8, 1)), epochs=20, batch_size=8, optimizer="sgd", learning_rate=0.1,
        validation=(np.ones((3, 1)), np.zeros((3, 1))), early_stopping=stopping, progress=False,
    )  # fmt: skip
    assert np.isnan(history.validation_loss[0])
    assert history.best_epoch == 20
    assert mlp.predict([[1.0]])[0, 0] < 0.5


def test_weights_whose_sum_is_not_finite_are_refused(rng):
    X, Y = rng.standard_normal((4, 2)), rng.standard_normal((4, 1))
    for train in (fastmlp.MLP.fit, fastmlp.MLP.train_step, fastmlp.MLP.loss_and_gradients):
        given = {} if train == fastmlp.MLP.loss_and_gradients else {"optimizer": "adam"}
        with pytest.raises(ValueError, match=r"sample_weight must have a finite sum; got weights up to 1e\+308"):
            train(fastmlp.MLP([2, 3, 1], rng=0), X, Y, sample_weight=np.full(4, 1e308), **given)


@pytest.mark.parametrize("row", range(10))
def test_weights_that_leave_nothing_on_one_side_of_a_split_are_refused(row, rng):
    X, Y = rng.standard_normal((10, 3)), rng.standard_normal((10, 2))
    mlp = fastmlp.MLP([3, 5, 2], rng=0)
    before = mlp.parameter_vector.copy()
    message = "sample_weight must be above 0 somewhere among the samples that are (trained on|held out by validation)"
    with pytest.raises(ValueError, match=message):
        mlp.fit(X, Y, sample_weight=np.eye(10)[row], validation=0.3)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def test_a_loss_of_ones_own_whose_gradient_is_not_finite_is_told(rng):
    X, Y = rng.standard_normal((4, 2)), rng.standard_normal((4, 1))
    mlp = fastmlp.MLP([2, 3, 1], loss=lambda A, Y: (1.0, A * np.nan), rng=0)
    with pytest.raises(ValueError, match=r"the gradient of your loss must be finite; got nan"):
        mlp.fit(X, Y, progress=False)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_interrupting_partial_fit_interrupts_it(batch_size, rng):
    """It went on, or called it a loss that is not finite."""
    interrupt = [True]

    def rate(step):
        if interrupt and step:
            interrupt.clear()
            signal.raise_signal(signal.SIGINT)
        return 0.01

    mlp = fastmlp.MLP([2, 3, 1], rng=0)
    X, Y = rng.standard_normal((12, 2)), rng.standard_normal((12, 1))
    mlp.train_step(X, Y, optimizer="adam", learning_rate=0.01)
    with pytest.raises(KeyboardInterrupt):
        mlp.partial_fit(X, Y, batch_size=batch_size, learning_rate=rate)
    before = mlp._steps
    mlp.partial_fit(X, Y, batch_size=batch_size, learning_rate=rate)
    assert mlp._steps == before + (1 if batch_size is None else 3)


def test_ctrl_c_with_the_last_steps_is_told(rng):
    mlp = fastmlp.MLP([2, 3, 1], rng=0)
    X, Y = rng.standard_normal((12, 2)), rng.standard_normal((12, 1))

    def last(model, history):
        if history.n_epochs == 2:
            signal.raise_signal(signal.SIGINT)

    history = mlp.fit(X, Y, epochs=2, callbacks=last, progress=False)
    assert (history.stopped, history.n_epochs) == ("interrupted in epoch 2", 2)


@pytest.mark.parametrize("place", ["no/folder/run", "."])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(place, tmp_path, rng):
    mlp = fastmlp.MLP([2, 3, 1], rng=0)
    X, Y, before = rng.standard_normal((12, 2)), rng.standard_normal((12, 1)), mlp.__getstate__()
    with pytest.raises(OSError, match="checkpoint must be"):
        mlp.fit(X, Y, checkpoint=fastmlp.Checkpoint(tmp_path / place, resume=False), progress=False)
    for name, value in mlp.__getstate__().items():
        np.testing.assert_equal(value, before[name])


def broken(*_):
    raise KeyError("broken")


BAD_FIRST_STEPS = {
    "a rate that is none": {"optimizer": fastmlp.SGD(lambda step: np.nan)},
    "a schedule that fails": {"learning_rate": broken},
    "a loss that fails": {"loss": broken},
    "a first block that is none": {"blocks": [3]},
    "a first block with NaN": {"blocks": [(np.full((4, 2), np.nan), np.zeros((4, 1)))]},
}


@pytest.mark.parametrize("bad", BAD_FIRST_STEPS)
def test_what_is_refused_in_the_first_step_has_drawn_no_order(bad, rng):
    settings = dict(BAD_FIRST_STEPS[bad])
    mlp = fastmlp.MLP([2, 3, 1], loss=settings.pop("loss", "squared_error"), rng=0)
    given, before = settings.pop("blocks", None), mlp.__getstate__()
    given = (given,) if given else (rng.standard_normal((12, 2)), rng.standard_normal((12, 1)))
    with pytest.raises((KeyError, TypeError, ValueError)):
        mlp.fit(*given, batch_size=5, progress=False, **settings)
    for name, value in mlp.__getstate__().items():
        np.testing.assert_equal(value, before[name])


def test_metrics_of_a_loss_of_ones_own_take_targets_as_a_vector(rng):
    X = rng.standard_normal((40, 3))

    def loss(predictions, Y):
        error = predictions[:, 0] - Y
        return float((error**2).mean()), (2 * error / len(error))[:, None]

    mlp = fastmlp.MLP([3, 4, 1], loss=loss, rng=0)
    history = mlp.fit(X, X[:, 0], epochs=1, metrics=["mean_squared_error", "r2"], progress=False)
    assert history.metrics["mean_squared_error"][0] == pytest.approx(np.mean((mlp.predict(X)[:, 0] - X[:, 0]) ** 2))
    with pytest.raises(ValueError, match=r"metrics by name need targets of shape \(40, 2\), as predictions"):
        fastmlp.MLP([3, 4, 2], loss=lambda P, Y: (0.0, 0 * P), rng=0).fit(
            X, np.arange(40), epochs=1, metrics="accuracy", progress=False
        )


def test_r2_of_what_does_not_vary_tells_whether_it_is_met():
    """As scikit-learn's does."""
    targets = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert METRICS["r2"](targets + np.array([0, 1]), targets) == 0.5
