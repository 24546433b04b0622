"""Many networks at once: each member is the network that it would be alone, to the bit."""

import itertools
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED
from fastmlp.kernels import calls, jit

SIZES = [3, 5, 2]
EPOCHS = 2 if INTERPRETED else 4


@pytest.fixture
def data(rng):
    """Of a regression, in float64."""
    X = rng.standard_normal((37, 3))
    return X, np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)


def assert_alone(ensemble, histories, data, k, fit, **settings):
    """Train one member alone, and compare all that there is."""
    mlp = fastmlp.MLP(SIZES, rng=ensemble[k].config["rng"], **settings)
    history = mlp.fit(*data, progress=False, **fit)
    np.testing.assert_array_equal(mlp.parameter_vector, ensemble[k].parameter_vector)
    for name in ("loss", "validation_loss", "metrics", "gradient_norm", "learning_rate", "best_epoch", "stopped"):
        assert getattr(history, name) == getattr(histories[k], name), name
    X = data[0]
    for model in (mlp, ensemble[k]):
        model.train_step(*data, optimizer="adam")  # the optimizer's memory is the same, too
    np.testing.assert_array_equal(mlp.predict(X), ensemble[k].predict(X))


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    "fit",
    [
        {"batch_size": 8},
        {"batch_size": 7, "epochs": 60},
        {"batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1, "shuffle": False},
        {"batch_size": None, "optimizer": fastmlp.SGD(0.1, momentum=0.9, max_gradient_norm=0.1)},
        {"batch_size": 8, "optimizer": fastmlp.AdamW(fastmlp.CosineDecay(0.1, n_steps=10))},
        {"batch_size": 5, "validation": 0.3, "early_stopping": fastmlp.EarlyStopping(patience=1), "metrics": "r2"},
        {"batch_size": 8, "optimizer": fastmlp.Adam(fastmlp.ReduceOnPlateau(0.3, patience=1, minimum_gain=1.0))},
    ],
    ids=["adam", "many epochs", "sgd in order", "limited", "scheduled", "validated", "plateau"],
)
def test_members_are_what_they_would_be_alone(fit, n_threads, data, dtype):
    fit = {"epochs": EPOCHS, **fit}
    ensemble = fastmlp.Ensemble(5, SIZES, dtype=dtype, rng=1, n_threads=n_threads)
    histories = ensemble.fit(*data, **fit)
    assert len({history.loss[-1] for history in histories}) == 5
    for k in (0, 4):
        assert_alone(ensemble, histories, data, k, fit, dtype=dtype)


def test_where_calls_are_not_packed_members_take_the_same_steps(data, monkeypatch):
    """As in the child of a process that had threads, and in the checked build."""
    fit = {"batch_size": 7, "epochs": 60}
    monkeypatch.setattr(jit, "may_launch", lambda: False)
    ensemble = fastmlp.Ensemble(3, SIZES, rng=1)
    histories = ensemble.fit(*data, **fit)
    assert_alone(ensemble, histories, data, 2, fit)


def test_each_member_may_have_settings_of_its_own(data):
    penalties = [None, fastmlp.Penalty(l2=0.1), fastmlp.Penalty(l1=0.1)]
    stoppings = [False, fastmlp.EarlyStopping(patience=1, minimum_gain=10.0), False]
    rates = [0.01, 0.1, fastmlp.StepDecay(0.1, every=3)]
    optimizers = ["adam", "sgd", "rmsprop"]
    ensemble = fastmlp.Ensemble(3, SIZES, penalty=penalties, rng=[7, 7, 7], dropout=0.2)
    histories = ensemble.fit(
        *data, epochs=EPOCHS, optimizer=optimizers, learning_rate=rates, early_stopping=stoppings, batch_size=8
    )
    assert histories[1].n_epochs == 2 <= EPOCHS == histories[0].n_epochs
    for k in range(3):
        fit = {
            "epochs": EPOCHS, "optimizer": optimizers[k], "learning_rate": rates[k], "early_stopping": stoppings[k],
            "batch_size": 8,
        }  # fmt: skip
        assert_alone(ensemble, histories, data, k, fit, penalty=penalties[k], dropout=0.2)


def test_labels_weights_and_going_on(rng):
    X, labels = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    weights = rng.uniform(0.5, 2, 40)
    ensemble = fastmlp.Ensemble(3, SIZES, loss="softmax_cross_entropy", rng=0)
    for _ in range(2):
        ensemble.fit(X, labels, epochs=2, sample_weight=weights, batch_size=16)
    alone = fastmlp.MLP(SIZES, loss="softmax_cross_entropy", rng=ensemble[2].config["rng"])
    alone.fit(X, labels, epochs=4, sample_weight=weights, batch_size=16, progress=False)
    np.testing.assert_array_equal(alone.parameter_vector, ensemble[2].parameter_vector)


def test_bootstrap_trains_each_on_its_own_draw(data):
    X, Y = data
    ensemble = fastmlp.Ensemble(3, SIZES, rng=0)
    ensemble.fit(X, Y, epochs=2, batch_size=8, bootstrap=True)
    draws = []
    for mlp in ensemble:
        seed = np.random.SeedSequence(mlp.config["rng"]).spawn(3)[2]
        draws.append(np.random.default_rng(seed).integers(37, size=37))
        alone = fastmlp.MLP(SIZES, rng=mlp.config["rng"])
        alone.fit(X[draws[-1]], Y[draws[-1]], epochs=2, batch_size=8, progress=False)
        np.testing.assert_array_equal(alone.parameter_vector, mlp.parameter_vector)
    assert len({tuple(draw) for draw in draws}) == 3
    assert all(0.4 < len(set(draw)) / 37 < 0.85 for draw in draws)


def test_predictions_are_mean_spread_and_members(data):
    X, _ = data
    ensemble = fastmlp.Ensemble(4, SIZES, rng=0)
    found = ensemble.predict(X)
    each = np.stack([mlp.predict(X) for mlp in ensemble])
    np.testing.assert_array_equal(found.members, each)
    np.testing.assert_array_equal(found.mean, each.mean(axis=0))
    np.testing.assert_array_equal(found.spread, each.std(axis=0))
    assert found.mean.shape == (37, 2)


def test_the_best_member_has_the_lowest_validation_loss(data):
    ensemble = fastmlp.Ensemble(4, SIZES, rng=0)
    with pytest.raises(RuntimeError, match="no best member"):
        _ = ensemble.best
    histories = ensemble.fit(*data, epochs=2, validation=data)
    losses = [min(history.validation_loss) for history in histories]
    assert ensemble.best is ensemble[int(np.argmin(losses))]
    assert len(ensemble) == 4
    assert repr(ensemble).startswith("<Ensemble of 4: <MLP 3-5-2")


def test_a_member_that_diverged_is_not_the_best(data):
    ensemble = fastmlp.Ensemble(3, SIZES, rng=0, dtype="float32", hidden_activation="identity")
    rates = [0.01, 1e19, 0.01]
    with np.errstate(all="ignore"):
        histories = ensemble.fit(
            *data, epochs=1, batch_size=None, optimizer="sgd", learning_rate=rates, validation=data
        )
    assert not np.isfinite(histories[1].validation_loss).any()
    losses = [histories[k].validation_loss[0] for k in (0, 2)]
    assert ensemble.best is ensemble[2 * int(np.argmin(losses))]


@pytest.mark.skipif(INTERPRETED, reason="it takes many epochs")
def test_many_epochs_with_something_to_do_between_them(data):
    """More steps at once in each round, eight times as many, are more than a float can hold after 340 rounds."""
    histories = fastmlp.Ensemble(2, SIZES, rng=0).fit(*data, epochs=400, validation=0.2)
    assert [history.n_epochs for history in histories] == [400, 400]


def test_own_settings_may_stand_in_arrays(data):
    rates = np.array([0.1, 0.2])
    given, listed = (fastmlp.Ensemble(2, SIZES, rng=seeds) for seeds in (np.array([3, 4]), [3, 4]))
    given.fit(*data, epochs=1, learning_rate=rates)
    listed.fit(*data, epochs=1, learning_rate=rates.tolist())
    for one, other in zip(given, listed, strict=True):
        np.testing.assert_array_equal(one.parameter_vector, other.parameter_vector)
    with pytest.raises(TypeError, match="rng must be"):
        fastmlp.Ensemble(2, SIZES, rng=b"ab")


def test_what_has_no_packed_call_is_trained_too(data):
    """A loss of one's own, and other builds."""

    def loss(A, Y):
        return 0.5 * ((A - Y) ** 2).sum() / len(A), (A - Y) / len(A)

    own, built_in = fastmlp.Ensemble(2, SIZES, loss=loss, rng=0), fastmlp.Ensemble(2, SIZES, rng=0)
    for ensemble in (own, built_in):
        ensemble.fit(*data, epochs=2)
    for one, other in zip(own, built_in, strict=True):
        np.testing.assert_allclose(one.parameter_vector, other.parameter_vector, atol=1e-12)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_one_that_diverges_does_not_stop_the_others(data):
    X, Y = data
    rates = [1e200, 0.01, 0.01]
    ensemble = fastmlp.Ensemble(3, SIZES, rng=0, hidden_activation="identity")
    histories = ensemble.fit(X, Y, epochs=3, optimizer="sgd", learning_rate=rates, batch_size=8)
    assert "not finite" in histories[0].stopped
    assert np.isfinite(ensemble[0].parameter_vector).all()
    assert [history.n_epochs for history in histories[1:]] == [3, 3]
    fit = {"epochs": 3, "optimizer": "sgd", "learning_rate": 0.01, "batch_size": 8}
    assert_alone(ensemble, histories, data, 1, fit, hidden_activation="identity")


def test_data_of_other_kinds_are_converted_once(data):
    X, Y = data
    plain, other = (
        fastmlp.Ensemble(2, SIZES, dtype="float32", rng=0),
        fastmlp.Ensemble(2, SIZES, dtype="float32", rng=0),
    )
    plain.fit(X.astype(np.float32), Y.astype(np.float32), epochs=2)
    other.fit(np.asfortranarray(X), np.asfortranarray(Y), epochs=2)
    for one, two in zip(plain, other, strict=True):
        np.testing.assert_array_equal(one.parameter_vector, two.parameter_vector)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_interrupting_ends_all_between_two_steps(n_threads, data, monkeypatch):
    if not calls.are_packed():
        pytest.skip("there are no packed calls")
    ensemble = fastmlp.Ensemble(3, SIZES, rng=0, n_threads=n_threads)
    run_each, seen = calls.run_each, []

    def interrupting(*arguments):
        seen.append(1)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        run_each(*arguments)

    monkeypatch.setattr(calls, "run_each", interrupting)
    histories = ensemble.fit(*data, epochs=1_000_000, batch_size=1)
    assert all("interrupted" in history.stopped for history in histories)
    if n_threads == 1:
        assert len(seen) == 3


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_ends_all(n_threads, data):
    """In the thread where it comes from and in the others; and the members are let go."""
    ensemble, numbers = fastmlp.Ensemble(4, SIZES, rng=0, n_threads=n_threads), itertools.count(1)

    def metric(predictions, targets):
        if next(numbers) == 5:
            raise ZeroDivisionError("of the user's")
        return 0.0

    with pytest.raises(ZeroDivisionError, match="of the user's"):
        ensemble.fit(*data, epochs=4 if INTERPRETED else 5000, metrics=metric)
    assert next(numbers) < 10_000  # of 20,000
    assert_free(ensemble, data)


def test_after_an_error_of_one_member_the_steps_of_others_are_counted(data):
    """Their parameters have changed."""

    def metric(predictions, targets):
        raise ZeroDivisionError

    ensemble = fastmlp.Ensemble(2, SIZES, rng=0, n_threads=1)
    member, alone = ensemble[1], fastmlp.MLP(SIZES, rng=ensemble[1].config["rng"])
    member.forward(data[0])
    with pytest.raises(ZeroDivisionError):
        ensemble.fit(*data, batch_size=None, optimizer="sgd", learning_rate=0.5, metrics=metric)
    assert member._steps == 1
    alone.train_step(*data, learning_rate=0.5)
    with pytest.raises(RuntimeError, match="backward needs a forward pass of the present parameters"):
        member.backward(data[1])
    np.testing.assert_array_equal(member.parameter_vector, alone.parameter_vector)


@pytest.mark.skipif(INTERPRETED, reason="it would take too long")
def test_interrupting_members_with_a_loss_of_ones_own_ends_within_an_epoch(rng):
    def loss(A, Y):
        return 0.5 * ((A - Y) ** 2).sum() / len(A), (A - Y) / len(A)

    X, Y = rng.standard_normal((200_000, 3)), rng.standard_normal((200_000, 2))
    ensemble = fastmlp.Ensemble(2, SIZES, loss=loss, rng=0, n_threads=1)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    histories = ensemble.fit(X, Y, epochs=1, batch_size=2)
    timer.join()
    assert all("interrupted" in history.stopped for history in histories)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no alarms")
def test_an_alarm_ends_all(data):
    """An error in the thread that waits for the others."""
    ensemble = fastmlp.Ensemble(4, SIZES, rng=0, n_threads=2)

    def ring(*_):
        raise TimeoutError("the alarm")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(TimeoutError, match="the alarm"):
            ensemble.fit(*data, epochs=10_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_free(ensemble, data)


def assert_free(ensemble, data):
    """Any thread may train the members."""
    with ThreadPoolExecutor(1) as pool:
        for mlp in ensemble:
            pool.submit(mlp.train_step, *data, optimizer="sgd").result(timeout=60)
    assert len(ensemble.fit(*data, epochs=1)) == 4


def test_it_can_be_pickled(data):
    ensemble = fastmlp.Ensemble(3, SIZES, rng=0)
    ensemble.fit(*data, epochs=1)
    other = pickle.loads(pickle.dumps(ensemble))
    for one in (ensemble, other):
        one.fit(*data, epochs=2)
    np.testing.assert_array_equal(ensemble.predict(data[0]).members, other.predict(data[0]).members)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda X, Y: fastmlp.Ensemble(0, SIZES), "n_members must be a whole number of at least 1; got 0"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES, rng=[1]), "rng must be one, or one for each of 2 members; got 1"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES, rng=[1, -1]), r"rng\[1\] must be a whole number"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES, penalty=[None] * 3), "penalty must be one, or one for each of 2"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES, loss="cubic"), "loss must be one of"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES).fit(X, Y, learning_rate=[0.1]), "learning_rate must be one, or one"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES).fit(X, Y[:3]), "Y must have as many samples as X"),
        (lambda X, Y: fastmlp.Ensemble(2, SIZES).predict(X[:, :2]), "X must have shape"),
    ],
)
def test_what_cannot_be_is_refused(make, message, data):
    with pytest.raises(ValueError, match=message):
        make(*data)


def test_what_is_refused_draws_nothing(rng):
    generator = np.random.default_rng(3)
    before = generator.bit_generator.state
    with pytest.raises(ValueError, match="loss must be"):
        fastmlp.Ensemble(3, [2, 3, 1], rng=generator, loss="cubic")
    assert generator.bit_generator.state == before
    ensemble = fastmlp.Ensemble(3, [2, 3, 1], rng=0, n_threads=2)
    before = [member.__getstate__()["rng"] for member in ensemble]
    X, Y = rng.standard_normal((12, 2)), rng.standard_normal((12, 1))
    with pytest.raises(ValueError, match="learning_rate must be"):
        ensemble.fit(X, Y, optimizer=fastmlp.SGD(lambda step: np.nan))
    assert [member.__getstate__()["rng"] for member in ensemble] == before
