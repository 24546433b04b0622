"""Threads, forks and signals."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import mlp as module_of_mlp
from fastmlp.kernels import jit

SAMPLES = 30 if INTERPRETED else 400


def make(rng, n_threads=2):
    """Make a network and data."""
    mlp = fastmlp.MLP([5, 16, 3], rng=0, n_threads=n_threads)
    return mlp, rng.standard_normal((SAMPLES, 5)), rng.standard_normal((SAMPLES, 3))


def test_many_threads_predict_with_one_model(rng):
    mlp, X, _ = make(rng)
    parts = [X[k:] for k in range(20)]
    expected = [mlp.predict(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(mlp.predict, parts * 3))
    for one, other in zip(found, expected * 3, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_of_two_threads_do_not_mix(rng):
    """Full batches, whose steps are all alike: in whatever order the threads take them, the result is the same."""
    mlp, X, Y = make(rng)
    alone, _, _ = make(rng)
    for _ in range(10):
        alone.train_step(X, Y, learning_rate=0.01)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: mlp.train_step(X, Y, learning_rate=0.01), range(10)))
    np.testing.assert_array_equal(mlp.parameter_vector, alone.parameter_vector)


def test_gradients_of_two_threads_are_each_their_own(rng):
    mlp, X, Y = make(rng)
    parts = [slice(k, None) for k in range(8)]
    expected = [mlp.loss_and_gradients(X[p], Y[p]) for p in parts]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda p: mlp.loss_and_gradients(X[p], Y[p]), parts))
    for (loss, gradients), (expected_loss, expected_gradients) in zip(found, expected, strict=True):
        assert loss == expected_loss
        np.testing.assert_array_equal(gradients.vector, expected_gradients.vector)


def test_predict_while_another_thread_trains(rng):
    mlp, X, Y = make(rng)
    with ThreadPoolExecutor(2) as pool:
        training = pool.submit(mlp.fit, X, Y, epochs=3, batch_size=64, progress=False)
        while not training.done():
            assert np.isfinite(mlp.predict(X)).all()
    assert training.result().stopped == "all epochs done"


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="kernels run serially")
def test_the_callers_thread_count_is_put_back(rng):
    mlp, X, Y = make(rng)
    numba.set_num_threads(1)  # noqa: TID251 (as a caller may)
    try:
        mlp.train_step(X, Y, learning_rate=0.01)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(jit.max_threads())  # noqa: TID251


PROGRAM = """
import sys
import threading
import numpy as np
import fastmlp
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((300, 5)), rng.standard_normal((300, 3))

def work(_=None):
    mlp = fastmlp.MLP([5, 16, 3], rng=0, n_threads=2)
    for _ in range(5):
        mlp.train_step(X, Y, learning_rate=0.1)
    return mlp.parameter_vector.copy()
"""
THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    results = list(pool.map(work, range(8)))
assert all((result == results[0]).all() for result in results)
import numba
print("layer", numba.threading_layer())
"""
FORK = """
import multiprocessing
import warnings
from fastmlp import threads
expected = work()
prepared = fastmlp.MLP([64, 128, 64, 10], rng=0, n_threads=2)  # a step that is packed for two threads
batch, optimizer = (np.ones((128, 64)), np.ones((128, 10))), fastmlp.SGD(0.01)
for _ in range(3):
    prepared.train_step(*batch, optimizer=optimizer)

def one_step(_):
    return prepared.train_step(*batch, optimizer=optimizer)

warnings.simplefilter("ignore")  # Python warns of forking with threads, which is what is tried here

def share(_):
    return threads.share()

def stay_at_work(arrived, end):
    with threads.at_work:
        arrived.set()
        end.wait()

alone, arrived, end = threads.share(), threading.Event(), threading.Event()
threading.Thread(target=stay_at_work, args=(arrived, end)).start()
arrived.wait()
with multiprocessing.get_context("fork").Pool(2) as pool:
    end.set()
    for result in pool.map(work, range(3), chunksize=1):
        assert (result == expected).all()
    assert pool.map(share, range(3)) == [alone] * 3  # who was at work in the parent is not here
    assert one_step(0) in pool.map(one_step, range(2))
print("forked")
"""


def run(program, **environment):
    """Run a program in a new process; a crash of the interpreter is a failure."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="kernels run serially")
@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_four_threads_launch_at_once(layer):
    """Numba's workqueue layer aborts the process at that, if it is not locked."""
    assert "layer" in run(THREADS, NUMBA_THREADING_LAYER=layer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.skipif(INTERPRETED or CHECKED, reason="kernels run serially")
def test_a_forked_child_works_and_gives_the_same_bits():
    """GNU OpenMP kills a child that launches after its parent has."""
    assert "forked" in run(FORK)


def interrupt_soon(started):
    """Send Ctrl-C to this process once training is under way."""
    started.wait(60)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stops_and_keeps_what_was_learned(rng):
    mlp, X, Y = make(rng)
    mlp.fit(X, Y, epochs=1, batch_size=8, progress=False)
    before, handler = mlp.parameter_vector.copy(), signal.getsignal(signal.SIGINT)
    started = threading.Event()
    thread = threading.Thread(target=interrupt_soon, args=(started,))
    thread.start()
    started.set()
    history = mlp.fit(X, Y, epochs=10**7, batch_size=8, progress=False)
    thread.join()
    assert "interrupted in epoch" in history.stopped
    assert np.isfinite(mlp.parameter_vector).all()
    assert not np.array_equal(mlp.parameter_vector, before)
    assert signal.getsignal(signal.SIGINT) is handler
    mlp.fit(X, Y, epochs=1, batch_size=8, progress=False)  # and it goes on


def test_fit_works_outside_of_the_main_thread(rng):
    mlp, X, Y = make(rng)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(mlp.fit, X, Y, epochs=2, progress=False).result().n_epochs == 2


def ctrl_c(*_):
    signal.raise_signal(signal.SIGINT)


def nested(inner, outer, data):
    return outer.fit(
        *data, epochs=1000, progress=False,
        callbacks=lambda *_: inner.fit(*data, callbacks=ctrl_c) and None,
    )  # fmt: skip


@pytest.mark.parametrize("of_user", ["nothing", "ignored", "own"])
def test_whoever_ctrl_c_is_for_gets_it(of_user, rng):
    """It ends the training in a callback, and that around it; the user's handler is called; ignored, it is ignored."""
    (inner, X, Y), (outer, *_) = make(rng), make(rng)
    called, before = [], signal.getsignal(signal.SIGINT)
    handler = {"nothing": before, "ignored": signal.SIG_IGN, "own": lambda *_: called.append(1)}[of_user]
    signal.signal(signal.SIGINT, handler)
    try:
        if of_user == "ignored":
            history = outer.fit(
                X, Y, epochs=3, progress=False, callbacks=lambda *_: signal.raise_signal(signal.SIGINT)
            )
            assert history.stopped == "all epochs done"
        else:
            assert "interrupted" in nested(inner, outer, (X, Y)).stopped
        assert called == ([1] if of_user == "own" else [])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_model_that_is_being_made_is_not_met_by_a_fork(monkeypatch):
    def failing(*_):
        raise KeyError

    monkeypatch.setattr(module_of_mlp, "Paces", failing)
    with pytest.raises(KeyError) as failure:  # which keeps the model alive
        fastmlp.MLP([3, 4, 2])
    assert all(hasattr(mlp, "_prepared") for mlp in module_of_mlp._alive)
    assert failure.traceback


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_may_use_what_a_thread_of_its_parent_was_training(rng):
    (mlp, X, Y), end = make(rng), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(mlp.fit, X, Y, epochs=1_000_000, progress=False, callbacks=lambda *_: end.is_set())
        while mlp._steps == 0:
            pass
        child = os.fork()
        if child == 0:
            pickle.dumps(mlp)
            os._exit(0)
        for _ in range(1000):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = -1
        end.set()
        training.result()
    assert status == 0
