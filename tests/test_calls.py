"""Packed calls: a step or a prediction that is like the last one does what any other does, whatever came between."""

import copy
import ctypes
import dataclasses
import gc
import itertools
import signal
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import checks, stepping
from fastmlp.buffers import Workspace
from fastmlp.kernels import again, calls, crew, network, objects, simd
from fastmlp.kernels.door import all_finite


def network_of(dtype, **settings):
    return fastmlp.MLP([3, 4, 2], hidden_activation="tanh", dtype=dtype, rng=0, **settings)


def batches(dtype, rng, count, samples=5):
    return [
        (rng.standard_normal((samples, 3)).astype(dtype), rng.standard_normal((samples, 2)).astype(dtype))
        for _ in range(count)
    ]


def copied(optimizer):
    """An optimizer that is equal but another object: a step with it is not like the last one."""
    return dataclasses.replace(optimizer)


def both(dtype, n_threads=None):
    """A model whose steps are packed, and one that takes the same steps unpacked."""
    return network_of(dtype, n_threads=n_threads), network_of(dtype, n_threads=n_threads)


THREADS = pytest.mark.parametrize("n_threads", [None, 2])


def assert_same(one, other):
    np.testing.assert_array_equal(one.parameter_vector, other.parameter_vector)
    np.testing.assert_array_equal(one._memory, other._memory)
    assert one._steps == other._steps


OPTIMIZERS = [
    fastmlp.SGD(0.1),
    fastmlp.SGD(0.1, momentum=0.9),
    fastmlp.Adam(0.01, weight_decay=0.1),
    fastmlp.Adam(0.01, max_gradient_norm=0.1),
    fastmlp.SGD(lambda step: 0.1 / (1 + step), momentum=0.9),
]


@THREADS
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_steps_like_the_last_one_have_the_same_bits(optimizer, n_threads, dtype, rng):
    packed, plain = both(dtype, n_threads)
    for X, Y in batches(dtype, rng, 6):
        losses = packed.train_step(X, Y, optimizer=optimizer), plain.train_step(X, Y, optimizer=copied(optimizer))
        assert losses[0] == losses[1]
        assert_same(packed, plain)
    assert (packed._prepared is not None) == (not (INTERPRETED or CHECKED))
    assert plain._prepared is None


@THREADS
@pytest.mark.parametrize("of_weights", [np.float64, np.float32])
def test_steps_with_weights_have_the_same_bits(of_weights, n_threads, dtype, rng):
    """Those that are refused change nothing; steps without any may come between."""
    packed, plain = both(dtype, n_threads)
    optimizer = OPTIMIZERS[2]
    for k, (X, Y) in enumerate(batches(dtype, rng, 11)):
        weights = None if k in (3, 7) else rng.integers(0, 3, len(X)).astype(of_weights) + of_weights(k == 0)
        losses = [
            packed.train_step(X, Y, optimizer=optimizer, sample_weight=weights),
            plain.train_step(X, Y, optimizer=copied(optimizer), sample_weight=weights),
        ]
        assert losses[0] == losses[1]
        assert_same(packed, plain)
        assert (packed._prepared is not None) == (k > 0 and not (INTERPRETED or CHECKED))
    for wrong in (np.nan, np.inf, -1.0, 0.0):
        weights = np.zeros(len(X), of_weights)
        weights[-1] = wrong
        with pytest.raises(ValueError, match="sample_weight must be"):
            packed.train_step(X, Y, optimizer=optimizer, sample_weight=weights)
        with pytest.raises(ValueError, match=r"sample_weight must have shape"):
            packed.train_step(X, Y, optimizer=optimizer, sample_weight=weights[1:])
        assert_same(packed, plain)
    # large ones are looked at in another way, without a warning
    with pytest.raises(ValueError, match="sample_weight must have a finite sum"):
        packed.train_step(X, Y, optimizer=optimizer, sample_weight=np.full(len(X), 1e308))
    for large in (np.full(len(X), 2e280), np.full(len(X), 2, np.longdouble)):
        packed.train_step(X, Y, optimizer=optimizer, sample_weight=large)
        plain.train_step(X, Y, optimizer=copied(optimizer), sample_weight=large)
        assert_same(packed, plain)
    whole = np.arange(len(X))  # whole numbers are not prepared, but taken
    for _ in range(3):
        packed.train_step(X, Y, optimizer=optimizer, sample_weight=whole)
        plain.train_step(X, Y, optimizer=copied(optimizer), sample_weight=whole)
        assert_same(packed, plain)


def targets_of(kind, rng, dtype):
    """Five samples' targets of a kind, for two outputs; or for one."""
    classes = rng.integers(0, 2, 5)
    return {
        "labels": classes,
        "one-hot": np.eye(2, dtype=dtype)[classes],
        "binary": rng.integers(0, 2, (5, 2)).astype(dtype),
        "counts": rng.poisson(2, (5, 2)).astype(dtype),
        "numbers of one output": rng.standard_normal(5).astype(dtype),
        "binary of one output": classes.astype(dtype),
    }[kind]


KINDS = {
    "labels": ("softmax_cross_entropy", 2), "one-hot": ("softmax_cross_entropy", 2),
    "binary": ("binary_cross_entropy", -1), "counts": ("poisson", -1),
    "numbers of one output": ("squared_error", None), "binary of one output": ("binary_cross_entropy", 2),
}  # fmt: skip
"""The loss of each kind of targets, and what none of these may be."""


@THREADS
@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_every_kind_are_prepared_and_looked_at_each_time(kind, n_threads, dtype, rng):
    """What does not fit is refused as it would be at first, changes nothing, and does not end the preparation."""
    prepared = None
    loss, wrong = KINDS[kind]
    sizes, optimizer = [3, 4, 1 if "of one output" in kind else 2], fastmlp.Adam(0.01)
    packed, plain = (fastmlp.MLP(sizes, loss=loss, dtype=dtype, rng=0, n_threads=n_threads) for _ in range(2))
    for turn in range(6):
        X, Y = rng.standard_normal((5, 3)).astype(dtype), targets_of(kind, rng, dtype)
        if wrong is not None and turn > 2:
            bad = Y.copy()
            bad.flat[-1] = wrong
            with pytest.raises(ValueError, match=f"Y must .*; got {wrong}"):
                packed.train_step(X, bad, optimizer=optimizer)
        assert packed.train_step(X, Y, optimizer=optimizer) == plain.train_step(X, Y, optimizer=copied(optimizer))
        assert_same(packed, plain)
        assert prepared is None or packed._prepared is prepared
        prepared = packed._prepared
    assert (prepared is not None) == (not (INTERPRETED or CHECKED))


@THREADS
def test_steps_on_labels_leave_none_behind(n_threads, dtype, rng):
    """Their address stayed in the workspace, and whatever used that next took them for labels, alive or not."""
    optimizer = fastmlp.Adam(0.01)
    packed, plain = (
        fastmlp.MLP([3, 4, 2], loss="softmax_cross_entropy", dtype=dtype, rng=0, n_threads=n_threads) for _ in range(2)
    )
    for kind in ("labels", "one-hot", "labels", "one-hot"):
        for _ in range(4):
            X, Y = rng.standard_normal((5, 3)).astype(dtype), targets_of(kind, rng, dtype)
            packed.train_step(X, Y, optimizer=optimizer)
            plain.train_step(X, Y, optimizer=copied(optimizer))
            assert_same(packed, plain)
            del X, Y
        X, Y = rng.standard_normal((5, 3)).astype(dtype), targets_of("one-hot", rng, dtype)
        assert packed.loss(X, Y) == plain.loss(X, Y)
        for model in (packed, plain):
            model.fit(X, Y, epochs=1, batch_size=2, optimizer=copied(optimizer), progress=False)
        assert_same(packed, plain)


@pytest.mark.parametrize("masked", ["X", "Y"])
def test_masked_entries_are_refused_by_a_prepared_step(masked, dtype, rng):
    mlp, optimizer = network_of(dtype), OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    given = {"X": X, "Y": Y}
    given[masked] = np.ma.masked_array(given[masked], given[masked] > 0)
    with pytest.raises(ValueError, match=f"{masked} must have a value everywhere; got a masked array"):
        mlp.train_step(given["X"], given["Y"], optimizer=optimizer)
    assert mlp._steps == 4


def test_a_refused_step_leaves_the_forward_pass(dtype, rng):
    mlp, optimizer = network_of(dtype), OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    mlp.forward(X)
    for wrong, message in ((X[:, :2].copy(), "X must have shape"), (np.full_like(X, np.nan), "X must be finite")):
        with pytest.raises(ValueError, match=message):
            mlp.train_step(wrong, Y, optimizer=optimizer)
        mlp.backward(Y)


def test_what_is_converted_is_not_prepared(rng):
    """Lists and other dtypes are not the arrays that the next step would find."""
    mlp, optimizer = network_of(np.float32), fastmlp.Adam(0.01)
    (X, Y), *_ = batches(np.float32, rng, 1)
    for given in ((X.tolist(), Y), (X, Y.tolist()), (X.astype(float), Y), (X, Y.astype(float)), (X[::-1], Y)):
        for _ in range(3):
            mlp.train_step(*given, optimizer=optimizer)
        assert mlp._prepared is None


LOSSES_OF_SOME = ("poisson", "binary_cross_entropy", "softmax_cross_entropy")


@pytest.mark.parametrize("loss", LOSSES_OF_SOME)
def test_targets_fit_where_the_door_lets_them_in(loss, dtype):
    special = [-0.1, 0, 0.3, 0.7, 1, 1.2, np.nan]
    for values in itertools.product(special, repeat=3):
        Y = np.array([[0, 1, 0], values], dtype)
        try:
            checks.targets("Y", Y, 3, loss, 2, np.dtype(dtype))
        except ValueError:
            assert not checks.fit(Y, 3, loss)
        else:
            # NumPy's smallest number of some with NaN is NaN, so there more come in; they are refused in the step
            assert checks.fit(Y, 3, loss) or np.isnan(Y).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(value, dtype):
    size = 9 * simd.VECTOR_BYTES // np.dtype(dtype).itemsize + 3
    A = np.full(size, np.finfo(dtype).max, dtype)
    assert all_finite(A)
    for k in range(size):
        A[k] = value
        assert not all_finite(A), k
        A[k] = -1


@pytest.mark.parametrize(("labels", "fit"), [([0, 2], True), ([0, 3], False), ([-1, 2], False), ([2, 2], True)])
def test_labels_fit_if_they_are_classes(labels, fit):
    assert checks.fit(np.array(labels), 3, "softmax_cross_entropy") is fit


@pytest.mark.parametrize(
    ("weights", "total"),
    [([1, 0, 2.5], 3.5), ([0, 0], np.nan), ([1, -1e-300], np.nan), ([1, np.nan], np.nan), ([1, 2e280], np.nan)],
)
def test_weights_have_a_sum_if_they_are_some(weights, total):
    """Those that need a longer look have none here."""
    np.testing.assert_equal(checks.sum_of_weights(np.array(weights, float)), total)


@THREADS
def test_a_rate_alone_is_prepared_too(n_threads, dtype, rng):
    packed, plain = both(dtype, n_threads)
    rate = 0.1
    for X, Y in batches(dtype, rng, 5):
        packed.train_step(X, Y, learning_rate=rate)
        plain.train_step(X, Y, optimizer=fastmlp.SGD(rate))
        assert_same(packed, plain)
    assert (packed._prepared is not None) == (not (INTERPRETED or CHECKED))


@THREADS
@pytest.mark.parametrize("name", ["adam", None])
def test_other_rates_of_an_optimizer_by_name_are_prepared_too(name, n_threads, dtype, rng):
    packed, plain = both(dtype, n_threads)
    for k, (X, Y) in enumerate(batches(dtype, rng, 6)):
        rate = (np.float64 if k == 4 else float)(0.1 / (1 + k // 2))  # some of them twice
        packed.train_step(X, Y, optimizer=name, learning_rate=rate)
        plain.train_step(X, Y, optimizer=(fastmlp.Adam if name else fastmlp.SGD)(rate))
        assert_same(packed, plain)
        assert (packed._prepared is not None) == (k > 0 and not (INTERPRETED or CHECKED))
    before = packed.__getstate__()
    for rate in (0.0, -0.1, np.nan, np.inf, "fast"):
        with pytest.raises((TypeError, ValueError), match="learning_rate must be"):
            packed.train_step(X, Y, optimizer=name, learning_rate=rate)
        for key, value in packed.__getstate__().items():
            np.testing.assert_equal(value, before[key])
    packed.train_step(X, Y, optimizer=name, learning_rate=0.1)
    plain.train_step(X, Y, optimizer=(fastmlp.Adam if name else fastmlp.SGD)(0.1))
    assert_same(packed, plain)


def test_a_schedule_that_fails_changes_nothing(dtype, rng):
    failing = []

    def rate(step):
        if failing:
            raise KeyError("failing")
        return 0.1

    mlp, optimizer = network_of(dtype), fastmlp.SGD(rate, momentum=0.9)
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    before, failing[:] = mlp.__getstate__(), [True]
    with pytest.raises(KeyError, match="failing"):
        mlp.train_step(X, Y, optimizer=optimizer)
    for name, value in mlp.__getstate__().items():
        np.testing.assert_equal(value, before[name])


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0, 4.0, 5.0], np.arange(5), None], ids=["list", "whole", "none"])
def test_a_schedule_is_asked_once_for_each_step(weights, dtype, rng):
    asked = []

    def rate(step):
        asked.append(step)
        return 0.1

    mlp, optimizer = network_of(dtype), fastmlp.SGD(rate)
    for k, (X, Y) in enumerate(batches(dtype, rng, 6)):
        mlp.train_step(X, Y, optimizer=optimizer, sample_weight=np.ones(5) if k < 3 else weights)
    assert asked == list(range(6))


def test_data_that_may_not_be_written_to_are_not_prepared_each_time(dtype, rng, monkeypatch):
    prepared, prepare = [], stepping.prepare
    monkeypatch.setattr(stepping, "prepare", lambda *given: prepared.append(prepare(*given)))
    mlp, optimizer = network_of(dtype), fastmlp.Adam(0.01)
    for X, Y in batches(dtype, rng, 5):
        X.flags.writeable = False
        mlp.train_step(X, Y, optimizer=optimizer)
    assert prepared == []


def another_batch(model, rng):
    X, Y = batches(model.config["dtype"], rng, 1, samples=40)[0]
    model.train_step(X, Y, optimizer=OPTIMIZERS[1])


def another_optimizer(model, rng):
    X, Y = batches(model.config["dtype"], rng, 1)[0]
    model.train_step(X, Y, optimizer=fastmlp.RMSprop(0.01))


def other_parameters(model, rng):
    model.parameter_vector = np.full_like(model.parameter_vector, 0.25)


def own_gradients(model, rng):
    model.update(np.ones_like(model.parameter_vector), fastmlp.SGD(0.1, momentum=0.9))


def an_epoch(model, rng):
    X, Y = batches(model.config["dtype"], rng, 1, samples=23)[0]
    model.fit(X, Y, epochs=1, batch_size=7, optimizer=fastmlp.SGD(0.1, momentum=0.9), progress=False)


def weighted(model, rng):
    X, Y = batches(model.config["dtype"], rng, 1)[0]
    model.train_step(X, Y, optimizer=OPTIMIZERS[1], sample_weight=[1, 2, 0, 3, 1])


def adam_after_momentum(model, rng):
    """Its second step is in a workspace that was prepared for the other, at another step with that number."""
    for X, Y in batches(model.config["dtype"], rng, 4):
        model.train_step(X, Y, optimizer=fastmlp.Adam(0.01))


def another_state(model, rng):
    state = model.__getstate__()
    state["memory"] = np.ones_like(state["memory"])
    model._restore(state)


BETWEEN = [
    adam_after_momentum, another_batch, another_optimizer, other_parameters, own_gradients, an_epoch, weighted,
    another_state,
]  # fmt: skip


@THREADS
@pytest.mark.parametrize("between", BETWEEN, ids=lambda f: f.__name__)
def test_whatever_comes_between(between, n_threads, dtype, rng):
    packed, plain = both(dtype, n_threads)
    optimizer = OPTIMIZERS[1]
    for turn in range(3):
        for X, Y in batches(dtype, rng, 7):
            packed.train_step(X, Y, optimizer=optimizer)
            plain.train_step(X, Y, optimizer=copied(optimizer))
        assert_same(packed, plain)
        for model in (packed, plain):
            between(model, np.random.default_rng(turn))
        assert_same(packed, plain)


@pytest.mark.parametrize(
    "changed",
    [np.asfortranarray, lambda X: X.astype("f8" if X.dtype == "f4" else "f4"), lambda X: np.repeat(X, 2, 0)[::2]],
    ids=["other order", "other dtype", "strided"],
)
def test_data_that_do_not_fit_the_packed_call_are_converted(changed, dtype, rng):
    packed, plain = both(dtype)
    optimizer = OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 3):
        for model in (packed, plain):
            model.train_step(X, Y, optimizer=optimizer)
    X, Y = batches(dtype, rng, 1)[0]
    X = np.round(X, 2).astype("f4").astype(dtype)  # the same in both precisions
    frozen = X.copy()
    frozen.flags.writeable = False
    packed.train_step(X, Y, optimizer=optimizer)
    plain.train_step(changed(X), Y, optimizer=optimizer)
    assert_same(packed, plain)
    packed.train_step(X, Y, optimizer=optimizer)
    plain.train_step(frozen, Y, optimizer=optimizer)
    assert_same(packed, plain)


WRONG_SHAPES = {
    "X as a vector": lambda X, Y: (X.ravel(), Y),
    "Y as a vector": lambda X, Y: (X, Y.ravel()),
    "another X of that size": lambda X, Y: (X.reshape(3, 5), Y),
    "another Y of that size": lambda X, Y: (X, Y.reshape(2, 5)),
    "a row of X too few": lambda X, Y: (X[1:], Y),
    "a row of Y too few": lambda X, Y: (X, Y[1:]),
    "no arrays": lambda X, Y: ("X", None),
}


@THREADS
@pytest.mark.parametrize("wrong", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_other_shapes_are_refused_as_at_first(wrong, n_threads, dtype, rng):
    packed, plain = both(dtype, n_threads)
    for X, Y in batches(dtype, rng, 4):
        for model in (packed, plain):
            model.train_step(X, Y, optimizer=OPTIMIZERS[2])
        said = []
        for model, optimizer in ((packed, OPTIMIZERS[2]), (plain, copied(OPTIMIZERS[2]))):
            with pytest.raises((TypeError, ValueError)) as refusal:
                model.train_step(*wrong(X, Y), optimizer=optimizer)
            said.append(str(refusal.value))
        assert said[0] == said[1]
        assert_same(packed, plain)


def test_what_is_wrong_is_told_and_changes_nothing(dtype, rng):
    mlp, optimizer = network_of(dtype), OPTIMIZERS[1]
    for X, Y in batches(dtype, rng, 3):
        mlp.train_step(X, Y, optimizer=optimizer)
    before = mlp.__getstate__()
    X, Y = batches(dtype, rng, 1)[0]
    for spoiled, name in ((X, "X"), (Y, "Y")):
        spoiled[2, 1] = np.nan
        with pytest.raises(ValueError, match=rf"{name} must be finite; got nan.* at {name}\[2, 1\]"):
            mlp.train_step(X, Y, optimizer=optimizer)
        spoiled[2, 1] = 0
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        mlp.train_step(X, np.full_like(Y, np.finfo(dtype).max), optimizer=optimizer)
    for name, value in mlp.__getstate__().items():
        np.testing.assert_equal(value, before[name])
    with pytest.raises(ValueError, match="X must have shape"):
        mlp.train_step(X[:, :2], Y, optimizer=optimizer)
    mlp.train_step(X, Y, optimizer=optimizer)


@pytest.mark.parametrize("between", BETWEEN, ids=lambda f: f.__name__)
def test_a_single_prediction_is_of_the_present_parameters(between, dtype, rng):
    mlp = network_of(dtype)
    X, _ = batches(dtype, rng, 1, samples=8)[0]
    for turn in range(3):
        for few in (1, 1, 2, 2, 3, 1, 4, 4, 3, 8):
            np.testing.assert_array_equal(mlp.predict(X[:few]), mlp.predict(X)[:few])
        between(mlp, np.random.default_rng(turn))


@pytest.mark.parametrize("n_threads", [1, 2, None])
@pytest.mark.parametrize("between", BETWEEN, ids=lambda f: f.__name__)
def test_prediction_of_many_rows_again_is_what_a_new_network_predicts(between, n_threads, dtype, rng):
    mlp = network_of(dtype, n_threads=n_threads)
    X, _ = batches(dtype, rng, 1, samples=300)[0]
    frozen = X.copy()
    frozen.flags.writeable = False
    for turn in range(3):
        for rows in (X, X, X[:90], X[90:180], frozen, X[::-1], X.tolist(), X, X + 1):
            np.testing.assert_array_equal(mlp.predict(rows), copy.deepcopy(mlp).predict(rows))
        between(mlp, np.random.default_rng(turn))


@pytest.mark.parametrize("way", ["prepared", "plain"])
def test_what_interrupts_a_step_leaves_it_counted(way, dtype, rng, monkeypatch):
    """Ctrl-C may come when the step has been taken, and is not yet counted."""
    mlp, optimizer = network_of(dtype), fastmlp.SGD(0.1)
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
        mlp.predict(X[:1])

    def interrupted(function):
        def run(*arguments):
            function(*arguments)
            raise KeyboardInterrupt

        return run

    with monkeypatch.context() as patch:
        if mlp._prepared is not None:
            patch.setattr(mlp._prepared, "step_again", interrupted(mlp._prepared.step_again))
        patch.setattr(Workspace, "train", interrupted(Workspace.train))
        with pytest.raises(KeyboardInterrupt):
            mlp.train_step(X, Y, optimizer=optimizer if way == "prepared" else fastmlp.SGD(0.1))
    assert mlp._steps == 5
    np.testing.assert_array_equal(mlp.predict(X[:1]), mlp.predict(X)[:1])
    mlp.train_step(X, Y, optimizer=optimizer)
    assert mlp._steps == 6


def prepared_step(mlp, X, Y):
    """The step as compiled code takes it, or does not."""
    return mlp._prepared.step_again(mlp._prepared.call.table, 0.1, X, Y)


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="calls are not packed")
def test_no_step_is_taken_while_another_thread_holds_the_lock(dtype, rng):
    mlp, optimizer = network_of(dtype), OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    taken, released = threading.Event(), threading.Event()

    def hold():
        with mlp._lock:
            taken.set()
            released.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    before = mlp.parameter_vector.copy()
    assert np.isnan(prepared_step(mlp, X, Y))
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    assert mlp._steps == 4
    released.set()
    holder.join()
    with mlp._lock:  # one's own does not matter
        assert prepared_step(mlp, X, Y) > 0
    assert prepared_step(mlp, X, Y) > 0
    assert mlp._steps == 6


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="calls are not packed")
def test_a_step_that_was_forgotten_is_not_taken(dtype, rng):
    """Another thread may have got it before."""
    mlp, optimizer = network_of(dtype), OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    forgotten, other = mlp._prepared, fastmlp.RMSprop(0.1)
    for _ in range(3):
        mlp.train_step(X, Y, optimizer=other)
        before = mlp.parameter_vector.copy()
        assert np.isnan(forgotten.step_again(forgotten.call.table, 0.1, X, Y))
        np.testing.assert_array_equal(mlp.parameter_vector, before)
    assert mlp._prepared not in (None, forgotten)


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="calls are not packed")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_step_that_waits_and_is_forgotten_leaves_its_workspace_alone(n_threads, rng, monkeypatch):
    """Others use it: to divide it for other threads made their call wait for ever."""
    X, Y, weights = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), np.ones(5)
    mlp, optimizer = network_of(np.float64, n_threads=n_threads), fastmlp.Adam(0.1)
    for _ in range(4):
        mlp.train_step(X, Y, optimizer=optimizer, sample_weight=weights)
    prepared, divided = mlp._prepared, []
    divide = Workspace.divide
    monkeypatch.setattr(Workspace, "divide", lambda self, count: divided.append(self) or divide(self, count))
    with mlp._lock:
        thread = threading.Thread(target=stepping.take_prepared, args=(mlp, prepared, None, X, Y, weights))
        thread.start()  # it waits for the lock
        stepping.forget(mlp)
    thread.join()
    assert prepared.workspace not in divided
    assert mlp._steps == 4


def momentum():
    return fastmlp.SGD(0.1, momentum=0.9)


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_schedule_that_trains_with_the_optimizer_before_prepares_nothing_that_is_taken(is_prepared, dtype, rng):
    """The memory that its steps went to is then replaced, by that of the optimizer whose schedule it is."""
    (X, Y), *_ = batches(dtype, rng, 1)
    mlp, inside, optimizer = network_of(dtype), [], momentum()

    def again_by():
        return optimizer if is_prepared else momentum()

    def rate(step):
        if not inside:
            inside.append(step)
            for _ in range(3):
                mlp.train_step(X, Y, optimizer=again_by())
        return 0.01

    for _ in range(3):
        mlp.train_step(X, Y, optimizer=again_by())
    mlp.train_step(X, Y, optimizer=fastmlp.Adam(rate))
    after, code = mlp.parameter_vector.copy(), mlp._optimizer_code
    mlp.train_step(X, Y, optimizer=again_by())
    assert mlp._steps == 1
    assert mlp._optimizer_code != code
    expected = network_of(dtype)
    expected.parameter_vector = after
    expected.train_step(X, Y, optimizer=momentum())
    assert_same(mlp, expected)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_schedule_is_asked_once_for_a_step_that_diverges(n_threads, dtype, rng):
    asked = []

    def rate(step):
        asked.append(step)
        return 0.1

    mlp, optimizer = network_of(dtype, n_threads=n_threads), fastmlp.SGD(rate)
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        mlp.train_step(X, np.full_like(Y, np.finfo(dtype).max), optimizer=optimizer)
    X[1, 1] = np.nan
    with pytest.raises(ValueError, match="X must be finite"):
        mlp.train_step(X, Y, optimizer=optimizer)
    assert asked == [*range(4), 4, 4]


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="calls are not packed")
@pytest.mark.parametrize("between", ["weights and step", "rows and call"])
def test_what_the_handler_of_a_signal_trains_is_another_step(between, dtype, rng, monkeypatch):
    """It finds no prepared step, and leaves the one alone that is being taken: its rows, weights, number and rate."""
    n_threads = 2 if between == "rows and call" else 1
    packed, plain = both(dtype, n_threads)
    optimizer, weights, others = momentum(), np.ones(5), np.array([100.0, 0, 0, 0, 0])
    (X, Y), (other_X, other_Y), *_ = batches(dtype, rng, 2)
    for _ in range(4):
        packed.train_step(X, Y, optimizer=optimizer, sample_weight=weights)
        plain.train_step(X, Y, optimizer=copied(optimizer), sample_weight=weights)
    place = (calls.Call, "run") if between == "rows and call" else (again, "set_weight")
    function, interrupted = getattr(*place), []

    def late(*arguments):
        if not interrupted:
            interrupted.append(True)
            if between == "weights and step":
                function(*arguments)
            packed.train_step(other_X, other_Y, optimizer=optimizer, sample_weight=others)
            if between == "weights and step":
                return None
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*place, late)
        packed.train_step(X, Y, optimizer=optimizer, sample_weight=weights)
    assert interrupted
    plain.train_step(other_X, other_Y, optimizer=copied(optimizer), sample_weight=others)
    plain.train_step(X, Y, optimizer=copied(optimizer), sample_weight=weights)
    np.testing.assert_array_equal(packed.parameter_vector, plain.parameter_vector)
    assert len({id(workspace) for workspace in packed._free}) == len(packed._free)


def test_a_schedule_predicts_with_the_parameters_that_it_finds(rng):
    """Steps are taken in several calls of compiled code, and it is asked before each."""
    X, Y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    mlp, found = network_of(np.float64, n_threads=1), []
    for _ in range(2):
        mlp.predict(X[:1])

    def rate(step):
        found.append((mlp.predict(X[:1])[0], mlp.predict(X[:9])[0]))
        return 0.1

    run = stepping.Run(fastmlp.SGD(rate), 10, 40)
    targets = checks.targets("Y", Y, 2, "squared_error", 40, np.dtype(np.float64))
    for first in range(0, 40, 10):
        stepping.take(mlp, X, targets, stepping.NO_ORDER, first, 1, run)
    assert len(found) == 4
    for one, of_many in found:
        np.testing.assert_array_equal(one, of_many)


@pytest.mark.parametrize("owner_is_known", [True, False])
def test_steps_of_many_threads_are_one_after_the_other(owner_is_known, dtype, rng, monkeypatch):
    """All alike, but for their numbers, by which Adam goes: in whatever order threads take them, it is the same."""
    if not owner_is_known:
        monkeypatch.setattr(objects, "_OWNER", None)
    n_threads, n_steps = 4, 10 if INTERPRETED else 300
    (X, Y), *_ = batches(dtype, rng, 1)
    together, alone, optimizer = network_of(dtype), network_of(dtype), OPTIMIZERS[2]

    def steps(_):
        for k in range(n_steps):
            together.train_step(X, Y, optimizer=optimizer)
            if k % 50 == 0:
                together.__getstate__()  # under the lock

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(steps, range(n_threads)))
    finally:
        sys.setswitchinterval(before)
    for _ in range(n_threads * n_steps):
        alone.train_step(X, Y, optimizer=optimizer)
    assert_same(together, alone)
    if not (INTERPRETED or CHECKED):
        assert alone._prepared.needs_lock is not owner_is_known


def test_of_a_lock_of_another_kind_the_owner_is_not_known():
    """Somebody may have put another one in the place of Python's."""
    assert objects.owner_at(threading._PyRLock()) is None
    assert objects.owner_at(threading.Lock()) is None


def test_the_owner_of_a_lock_is_where_it_was_found():
    lock = threading.RLock()
    if objects.owner_at(lock) is None:
        pytest.skip("it was not found")

    def owner():
        return ctypes.c_size_t.from_address(objects.owner_at(lock)).value

    assert owner() == 0
    with lock:
        assert owner() == threading.get_ident()
        with lock:
            assert owner() == threading.get_ident()
        assert owner() == threading.get_ident()
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(lock.acquire, blocking=False).result()
        assert owner() == threading.get_ident()
    assert owner() == 0


def interrupting(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("samples", [1, 2, 300])
def test_an_interrupted_first_prediction_leaves_no_half_made_call(samples, dtype, rng, monkeypatch):
    mlp, X = network_of(dtype), rng.standard_normal((samples, 3)).astype(dtype)
    with monkeypatch.context() as patch:
        patch.setattr(again, "vary", interrupting)
        if not (INTERPRETED or CHECKED):
            with pytest.raises(KeyboardInterrupt):
                mlp.predict(X)
    for _ in range(3):
        np.testing.assert_array_equal(mlp.predict(X), network_of(dtype).predict(X))


def test_an_interrupt_before_a_step_counts_none(dtype, rng, monkeypatch):
    mlp = network_of(dtype, n_threads=2)
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=OPTIMIZERS[0])
    for place in ("fastmlp.pacing.Paces.__call__", "fastmlp.buffers.Workspace.divide"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupting)
            with pytest.raises(KeyboardInterrupt):
                mlp.train_step(X, Y, optimizer=OPTIMIZERS[0])
        assert mlp._steps == 4
    mlp.train_step(X, Y, optimizer=OPTIMIZERS[0])
    assert mlp._steps == 5


def test_an_interrupt_while_room_for_threads_is_made_leaves_too_many_of_none(monkeypatch):
    workspace = network_of(np.float64)._borrow(5)
    with monkeypatch.context() as patch:
        patch.setattr("fastmlp.buffers.aligned", interrupting)
        with pytest.raises(KeyboardInterrupt):
            workspace.divide(16)
    workspace.divide(16)
    assert workspace.crew.size >= crew.n_counters(16)


WAYS = {
    "prepared": lambda mlp, X, Y: mlp.train_step(X, Y, optimizer=OPTIMIZERS[2]),
    "plain": lambda mlp, X, Y: mlp.train_step(X, Y, optimizer=copied(OPTIMIZERS[2])),
    "scheduled": lambda mlp, X, Y: mlp.train_step(X, Y, optimizer="adam", learning_rate=lambda step: 0.01),
    "update": lambda mlp, X, Y: mlp.update(np.ones_like(mlp.parameter_vector), OPTIMIZERS[2]),
}


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is interrupted in the middle of a step")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_as_many_steps_are_counted_as_were_taken_whenever_an_interrupt_comes(way, n_threads, rng):
    X, Y = batches(np.float64, rng, 1)[0]
    warm, known = (network_of(np.float64, n_threads=n_threads) for _ in "12")
    for _ in range(4):  # what is to be compiled is compiled
        WAYS[way](warm, X, Y)
    states = [known.parameter_vector.copy()]  # after so many steps
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(10 if CHECKED else 60):
            mlp = network_of(np.float64, n_threads=n_threads)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 3e-3))
                while True:
                    WAYS[way](mlp, X, Y)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            while len(states) <= mlp._steps:
                WAYS[way](known, X, Y)
                states.append(known.parameter_vector.copy())
            np.testing.assert_array_equal(mlp.parameter_vector, states[mlp._steps])
            assert not mlp._lock._is_owned()
    finally:
        signal.signal(signal.SIGALRM, before)


class OddRows:
    """Rows whose shape is like the last one's, but of other numbers."""

    def __init__(self, X):
        self.X, self.shape = X, (np.float32(X.shape[0]), X.shape[1])

    def __array__(self, dtype=None, copy=None):
        return self.X


def test_what_has_a_shape_and_is_no_array_is_converted(dtype, rng):
    mlp, X = network_of(dtype), rng.standard_normal((20, 3)).astype(dtype)
    expected = mlp.predict(X)
    for _ in range(2):
        np.testing.assert_array_equal(mlp.predict(X), expected)
        np.testing.assert_array_equal(mlp.predict(OddRows(X)), expected)
    assert len(mlp._free) == 1


@pytest.mark.parametrize("samples", [1, 2, 20, 300])
def test_a_prediction_tells_what_is_not_finite(samples, dtype):
    mlp, X = network_of(dtype), np.zeros((samples, 3), dtype)
    for value in (1, 1, np.nan, 2, -np.inf, 3):
        X[-1, 1] = value
        if np.isfinite(value):
            assert np.isfinite(mlp.predict(X)).all()
        else:
            with pytest.raises(ValueError, match=rf"X must be finite; got .* at X\[{samples - 1}, 1\]"):
                mlp.predict(X)


def test_a_prediction_again_has_room_for_its_threads(rng):
    """An ensemble's members predict by one thread in a workspace that one of them keeps."""
    X = rng.standard_normal((2000, 3))
    ensemble = fastmlp.Ensemble(2, [3, 20, 2], hidden_activation="tanh", rng=0)
    for _ in range(3):
        for member, expected in zip(ensemble.members, ensemble.predict(X).members, strict=True):
            np.testing.assert_array_equal(member.predict(X), expected)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_data_are_not_kept_alive(n_threads, dtype, rng):
    mlp = network_of(dtype, n_threads=n_threads)
    X, Y = batches(dtype, rng, 1, samples=90)[0]
    x = X[:1].copy()
    watched = [weakref.ref(array) for array in (X, Y, x)]
    mlp.fit(X, Y, epochs=2, validation=(X, Y), progress=False)
    for _ in range(4):
        mlp.train_step(X, Y, learning_rate=0.01)
        mlp.predict(X)
        mlp.predict(x)
    mlp.loss(X, Y)
    mlp.loss_and_gradients(X, Y)
    mlp.forward(X)
    mlp.backward(Y)
    del X, Y, x
    gc.collect()
    assert [reference() for reference in watched] == [None, None, None]


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="calls are not packed")
def test_a_packed_call_is_the_call(dtype, rng):
    """Arrays of one and two axes, whole numbers and floats come out of the table as they went in."""
    mlp = network_of(dtype)
    X, Y = batches(dtype, rng, 1, samples=40)[0]
    found = []
    for packed in (False, True):
        workspace = mlp._borrow(40)
        workspace.divide(2)
        vector, memory = mlp.parameter_vector.copy(), np.zeros_like(mlp._memory)
        arguments = (
            workspace.crew, network.ALL_PASSES, workspace.plan, vector, workspace.arena, workspace.report,
            np.zeros_like(vector), memory, X.ravel(), Y.ravel(), np.empty(0, np.int64), rng.uniform(1, 1, 40),
            np.arange(40)[::-1].copy(), 40, 16, 0, 3, OPTIMIZERS[2].code, OPTIMIZERS[2].array, 5, 0.75,
            network.ONE_EPOCH,
        )  # fmt: skip
        if packed:
            call = calls.Call(network.train, *arguments)
            call.run(2)
            found.append((*workspace.results.tolist(), vector, memory))
        else:
            found.append((*network.train(*arguments), vector, memory))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


class Another(np.ndarray):
    """A subclass, which may mean something else."""


def test_rows_are_looked_at_in_compiled_code_as_in_python(dtype, rng):
    """But for read-only ones, which it takes: nothing is written there. Of what is refused, nothing is put."""
    mlp, optimizer = network_of(dtype), OPTIMIZERS[0]
    for X, Y in batches(dtype, rng, 4):
        mlp.train_step(X, Y, optimizer=optimizer)
    if INTERPRETED or CHECKED:
        pytest.skip("calls are not packed")
    call, place = mlp._prepared.call, network.train.slot("data")
    not_aligned = np.zeros(X.nbytes + 1, np.uint8)[1:].view(dtype).reshape(X.shape)
    read_only, one_more = X.copy(), np.zeros((len(X) + 1, 3), dtype)
    read_only.flags.writeable = False
    right = [X, X.copy(), one_more[1:], read_only]
    wrong = [
        not_aligned, X.astype(X.dtype.newbyteorder()), X.astype(np.float16), X.view(f"i{X.itemsize}"), X.view(Another),
        X.view(np.memmap), np.ma.masked_array(X), np.asfortranarray(X), np.repeat(X, 2, 0)[::2], X[::-1], X.T.copy(),
        X.ravel(), X[None], X[:-1], X[:0], one_more, Y, X[0, 0], np.array(1, dtype), X.tolist(), None, 1.5, "X",
        object(), np.ndarray, X.dtype, memoryview(X),
    ]  # fmt: skip
    for rows in right:
        assert checks.is_such(rows, X.dtype, X.shape) == (rows is not read_only)
        assert again.set_rows(call, 7, rows, Y)
        assert call.table[place : place + 2].tolist() == [rows.__array_interface__["data"][0], rows.size]
    for rows in wrong:
        assert not checks.is_such(rows, X.dtype, X.shape)
        before = call.table[: calls.STATUS_AT].tolist()
        for given in ((rows, Y), (X, rows if rows is not Y else X)):
            assert not again.set_rows(call, 8, *given)
            assert call.status == again.OTHER_ROWS
        assert call.table[: calls.STATUS_AT].tolist() == before


def test_a_prediction_like_the_last_one_looks_at_what_it_is_given(dtype, rng):
    """Whatever has the shape of one sample; and arrays of several, after one."""
    mlp = network_of(dtype)
    X = rng.standard_normal((5, 3)).astype(dtype)
    expected = mlp.predict(X)
    read_only = X[:1].copy()
    read_only.flags.writeable = False
    one = X[:1]
    for _ in range(3):
        for rows in (one, read_only, one.tolist(), one.astype(float), one.view(Another), np.repeat(one, 2, 1)[:, ::2]):
            np.testing.assert_array_equal(mlp.predict(rows), expected[:1])
        np.testing.assert_array_equal(mlp.predict(X[:2]), expected[:2])
        with pytest.raises(ValueError, match="X must have"):
            mlp.predict(X[:0])
        with pytest.raises(ValueError, match="X must have shape"):
            mlp.predict(X[:2, :2].copy())
    with pytest.raises(ValueError, match="X must have a value everywhere; got a masked array"):
        mlp.predict(np.ma.masked_array(X[:1], [[True, False, False]]))
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 3\)"):
        mlp.predict(np.zeros((1, 4), dtype))


def test_arguments_have_their_places_in_the_table():
    names = ["crew", "passes", "plan", "parameters", "arena"]
    assert [network.train.position(name) for name in names] == list(range(5))
    assert network.train.slot("plan") == 2 * calls.SLOTS


# ------------------------------------------------------------------------------------------------------------------
# anything in any order

TARGETS_OF = {
    "squared_error": ["numbers", "numbers of one output"], "huber": ["numbers"], "poisson": ["counts"],
    "binary_cross_entropy": ["binary", "binary of one output"], "softmax_cross_entropy": ["labels", "one-hot"],
}  # fmt: skip

LAYOUTS = [
    lambda A: A, lambda A: A, lambda A: A.copy(), lambda A: A.tolist(), np.asfortranarray, lambda A: A[::-1][::-1],
    lambda A: np.repeat(A, 2, 0)[::2], lambda A: A.astype(A.dtype.newbyteorder(">")), lambda A: A.view(np.memmap),
]  # fmt: skip


class Pair:
    """Two equal networks: one takes steps like the last one as such, the other each as if it were the first."""

    def __init__(self, loss, one_output, dtype, rng):
        self.loss, self.outputs, self.dtype, self.rng = loss, 1 if one_output else 2, dtype, rng
        sizes, threads = [3, 4, self.outputs], rng.choice([1, 2])
        self.networks = [fastmlp.MLP(sizes, loss=loss, dtype=dtype, rng=0, n_threads=int(threads)) for _ in "12"]
        self.optimizers = [OPTIMIZERS[0], *OPTIMIZERS[2:]]

    def kind(self):
        """Targets of which kind, and how many samples."""
        kinds = [kind for kind in TARGETS_OF[self.loss] if ("one output" in kind) <= (self.outputs == 1)]
        return str(self.rng.choice(kinds)), int(self.rng.choice([5, 5, 5, 4]))

    def data(self, kind, count):
        if kind == "numbers" or (self.outputs == 1 and "one output" not in kind):
            Y = self.rng.integers(0, 2, (5, self.outputs)).astype(self.dtype)
        else:
            Y = targets_of(kind, self.rng, self.dtype)
        X = self.rng.standard_normal((5, 3)).astype(self.dtype)
        layouts = [LAYOUTS[max(0, self.rng.integers(-40, len(LAYOUTS)))] for _ in "XY"]  # most of them plain
        return layouts[0](X[:count]), layouts[1](Y[:count])

    def steps(self):
        """Some steps in a row that are alike, but for some layouts, and for the rates of an optimizer by name."""
        kind, chosen, losses = self.kind(), self.rng.choice([*self.optimizers, "adam", None]), []
        packed, plain = self.networks
        for _ in range(self.rng.integers(1, 7)):
            X, Y = self.data(*kind)
            if isinstance(chosen, fastmlp.SGD | fastmlp.Adam):
                losses.append(packed.train_step(X, Y, optimizer=chosen))
                losses.append(plain.train_step(X, Y, optimizer=copied(chosen)))
            else:
                rate = float(self.rng.choice([0.01, 0.02]))
                losses.append(packed.train_step(X, Y, optimizer=chosen, learning_rate=rate))
                another = (fastmlp.Adam if chosen else fastmlp.SGD)(rate)
                losses.append(plain.train_step(X, Y, optimizer=another))
        return losses[::2], losses[1::2]

    def each(self, call):
        """The results, or what is said where they are refused: samples of one class, such as ``fit`` does not take."""

        def outcome(network):
            try:
                return call(network)
            except ValueError as refusal:
                return str(refusal)

        return [outcome(network) for network in self.networks]

    def renewed(self):
        self.networks = [copy.deepcopy(network) for network in self.networks]
        return [0, 0]

    def anything(self):
        """Do something, with the same result twice."""
        what = self.rng.integers(12)
        if what < 5:
            return self.steps()
        X, Y = self.data(*self.kind())
        rows = np.asarray(X)
        few = rows[: self.rng.integers(1, 4)]
        return [
            lambda: self.each(lambda network: network.predict(few)),
            lambda: self.each(lambda network: network.predict(np.tile(rows, (70, 1)))),
            lambda: self.each(lambda network: network.loss(X, Y)),
            lambda: self.each(lambda network: network.loss_and_gradients(X, Y)[1].vector),
            lambda: self.each(lambda network: (network.forward(X), network.backward(Y).vector)[1]),
            lambda: self.each(lambda network: network.fit(X, Y, epochs=2, batch_size=2, progress=False).loss),
            self.renewed,
        ][what - 5]()


CASES = {loss: (loss, False) for loss in TARGETS_OF} | {
    f"{loss}, one output": (loss, True) for loss in ("squared_error", "binary_cross_entropy")
}


@pytest.mark.parametrize(("loss", "one_output"), CASES.values(), ids=CASES)
def test_steps_like_the_last_one_among_anything_else(loss, one_output, dtype, rng):
    for _ in range(2 if INTERPRETED or CHECKED else 25):
        pair = Pair(loss, one_output, dtype, rng)
        for _ in range(40):
            one, other = pair.anything()
            np.testing.assert_array_equal(one, other)
            assert_same(*pair.networks)
