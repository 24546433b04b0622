"""fit: epochs, minibatches, order, validation, history."""

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED
from fastmlp import training

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

    seen = []

    def steps(order, first, n_steps):
        seen.append(order[first : first + 4 * n_steps])
        return 0.0, n_steps

    plan = training.Plan(SAMPLES, epochs=3, batch_size=4, shuffle=True, progress=False)
    training.fit(plan, steps, np.random.default_rng(0))
    orders = np.concatenate(seen).reshape(3, SAMPLES)
    np.testing.assert_array_equal(np.sort(orders, axis=1), [np.arange(SAMPLES)] * 3)
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
    history = mlp.fit(
        X, Y, epochs=50, batch_size=4, optimizer="sgd", learning_rate=1e150, shuffle=False, progress=False
    )
    assert "not finite" in history.stopped
    assert "epoch" in history.stopped
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
