"""Many ranks take the steps of one: as threads of this process, and as processes under ``mpiexec``."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import distributed, fitting


class Aborted(BaseException):
    """The job has been ended."""


class Threads:
    """A communicator between threads, in the place of MPI's; whoever waits too long fails."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.shared = rank, size, shared

    @classmethod
    def world(cls, size):
        shared = {"barrier": threading.Barrier(size, timeout=60), "values": [None] * size, "aborted": []}
        return [cls(rank, size, shared) for rank in range(size)]

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def allgather(self, value):
        self.shared["values"][self.rank] = pickle.dumps(value)
        self.shared["barrier"].wait()
        found = [pickle.loads(each) for each in self.shared["values"]]  # each rank's are its own
        self.shared["barrier"].wait()
        return found

    def gather(self, value, root=0):
        found = self.allgather(value)
        return found if self.rank == root else None

    def Allreduce(self, sent, received):
        received[:] = sum(self.allgather(sent.copy()))

    def Abort(self, code):
        self.shared["aborted"].append(self.rank)
        self.shared["barrier"].abort()
        raise Aborted


def on_ranks(size, work):
    """What each rank returns, or raises."""
    comms = Threads.world(size)

    def guarded(comm):
        try:
            return work(comm)
        except BaseException as error:  # noqa: BLE001 (it is what is tested)
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, comms))


N = 83
FEATURES = 5


def data(rng, kind="values"):
    X = rng.standard_normal((N, FEATURES))
    return X, rng.integers(0, 3, N) if kind == "labels" else np.sin(X[:, :3]) + 0.1 * rng.standard_normal((N, 3))


def network(dtype="float64", kind="values", rng=7, **settings):
    loss = "softmax_cross_entropy" if kind == "labels" else "squared_error"
    return fastmlp.MLP([FEATURES, 8, 3], hidden_activation="tanh", loss=loss, dtype=dtype, rng=rng, **settings)


def parts(size, cuts=None):
    """Which rows each rank has: unequal parts, an empty one among them if there are more than two."""
    cuts = {1: [], 2: [31], 3: [50, 50], 4: [7, 40, 40]}[size] if cuts is None else cuts
    edges = [0, *cuts, N]
    return [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def same(found, expected, dtype="float64"):
    """To rounding, which 200 steps make larger."""
    limit = 1e-12 if dtype == "float64" else 2e-4
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


SETTINGS = {
    "plain": ({}, {}),
    "one batch": ({}, {"batch_size": None, "epochs": 50}),
    "in a row": ({}, {"shuffle": False}),
    "momentum": ({}, {"optimizer": fastmlp.SGD(0.05, momentum=0.9, nesterov=True)}),
    "limited": ({}, {"optimizer": fastmlp.Adam(max_gradient_norm=0.1)}),
    "penalty": ({"penalty": fastmlp.Penalty(l1=0.01, l2=0.1, biases=True)}, {}),
    "penalty divided": ({"penalty": fastmlp.Penalty(l2=1.0, divided_by_samples=True)}, {}),
    "dropout": ({"dropout": 0.3}, {"batch_size": 40}),
    "schedule": ({}, {"learning_rate": fastmlp.CosineDecay(0.01, n_steps=200)}),
    "plateau": ({}, {"learning_rate": fastmlp.ReduceOnPlateau(0.05, patience=1), "validation": 0.2}),
    "validation": ({}, {"validation": 0.25, "metrics": ["r2", "mean_squared_error"]}),
    "stopping": ({}, {"validation": 0.25, "early_stopping": fastmlp.EarlyStopping(patience=2, minimum_gain=0.01)}),
    "verified": ({"verify": True}, {"epochs": 2}),
}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_take_the_steps_of_one(name, size, rng):
    of_network, of_fit = SETTINGS[name]
    of_fit = {"epochs": 20, "batch_size": 9, "metrics": "r2", **of_fit, "progress": False}
    if INTERPRETED or CHECKED:
        of_fit["epochs"] = min(3, of_fit["epochs"])
    X, Y = data(rng)
    alone = network(**of_network)
    history = alone.fit(X, Y, **of_fit)

    def work(comm):
        part, mlp = parts(size)[comm.Get_rank()], network(**of_network)
        return mlp, mlp.fit(X[part], Y[part], comm=comm, **of_fit)

    found = on_ranks(size, work)
    for mlp, of_rank in found:
        np.testing.assert_array_equal(mlp.parameter_vector, found[0][0].parameter_vector)
        same(mlp.parameter_vector, alone.parameter_vector)
        assert of_rank.stopped == history.stopped
        for one in ("loss", "validation_loss", "learning_rate", "gradient_norm"):
            np.testing.assert_allclose(getattr(of_rank, one), getattr(history, one), rtol=1e-9)
        assert of_rank.metrics.keys() == history.metrics.keys()
        for metric, values in history.metrics.items():
            np.testing.assert_allclose(of_rank.metrics[metric], values, rtol=1e-9)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("weighted", ["samples", "classes", "balanced", "both"])
def test_weights_and_classes_are_of_all_ranks(weighted, size, dtype, rng):
    X, labels = data(rng, "labels")
    weights = rng.uniform(0, 2, N) if weighted in ("samples", "both") else None
    class_weight = {"samples": None, "classes": {0: 3.0, 2: 0.5}, "balanced": "balanced", "both": "balanced"}[weighted]
    settings = {"epochs": 20, "batch_size": 9, "class_weight": class_weight, "validation": 0.2, "metrics": "accuracy"}
    order = np.argsort(labels, kind="stable")  # no rank has all classes
    X, labels = X[order], labels[order]
    alone = network(dtype, "labels")
    history = alone.fit(X, labels, sample_weight=weights, progress=False, **settings)

    def work(comm):
        part, mlp = parts(size, None if size == 2 else [20, 60])[comm.Get_rank()], network(dtype, "labels")
        some = None if weights is None else weights[part]
        return mlp, mlp.fit(X[part], labels[part], sample_weight=some, comm=comm, **settings)

    for mlp, of_rank in on_ranks(size, work):
        same(mlp.parameter_vector, alone.parameter_vector, dtype)
        np.testing.assert_allclose(of_rank.loss, history.loss, rtol=1e-4 if dtype == np.float32 else 1e-9)
        assert of_rank.metrics == history.metrics


def test_a_loss_of_ones_own_and_data_of_other_dtypes(rng):
    def loss(predictions, targets):
        return 0.5 * ((predictions - targets) ** 2).sum() / len(targets), (predictions - targets) / len(targets)

    X, Y = rng.integers(0, 9, (N, FEATURES)).astype(np.uint8), rng.integers(0, 4, (N, 3))
    for settings in ({}, {"loss": loss}):
        make = {"hidden_activation": "tanh", "rng": 3, "penalty": fastmlp.Penalty(l2=0.01), **settings}
        alone = fastmlp.MLP([FEATURES, 8, 3], **make)
        history = alone.fit(X, Y, batch_size=9, progress=False)

        def work(comm, make=make):
            mlp, part = fastmlp.MLP([FEATURES, 8, 3], **make), parts(3)[comm.Get_rank()]
            of_rank = mlp.fit(X[part], Y[part], batch_size=9, comm=comm)
            return mlp.parameter_vector.copy(), of_rank.loss

        for found, losses in on_ranks(3, work):
            same(found, alone.parameter_vector)
            np.testing.assert_allclose(losses, history.loss, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-46, 1e-20, 1e30])
def test_only_the_ratios_of_weights_matter_in_float32_too(scale, rng):
    X, Y = data(rng)
    weights, fit = rng.random(N), {"batch_size": 20, "epochs": 3, "validation": 0.2, "progress": False}
    expected = network("float32")
    history = expected.fit(X, Y, sample_weight=weights * scale, **fit)

    def work(comm):
        part, mlp = parts(2)[comm.Get_rank()], network("float32")
        losses = mlp.fit(X[part], Y[part], sample_weight=weights[part] * scale, comm=comm, **fit)
        return mlp.parameter_vector, losses

    for vector, losses in on_ranks(2, work):
        same(vector, expected.parameter_vector, "float32")
        np.testing.assert_allclose(losses.loss, history.loss, rtol=1e-4)
        np.testing.assert_allclose(losses.validation_loss, history.validation_loss, rtol=1e-4)


def test_a_part_may_weigh_nothing(rng):
    X, Y = data(rng)
    weights = np.where(np.arange(N) < 31, 0.0, 1.5)
    alone = network()
    alone.fit(X, Y, sample_weight=weights, batch_size=9, progress=False)

    def work(comm):
        mlp, part = network(), parts(2)[comm.Get_rank()]
        mlp.fit(X[part], Y[part], sample_weight=weights[part], batch_size=9, comm=comm)
        return mlp.parameter_vector.copy()

    for found in on_ranks(2, work):
        same(found, alone.parameter_vector)


def test_who_draws_from_the_generator_that_was_given_changes_no_order(rng):
    X, Y = data(rng)

    def fit(X, Y, draws, **settings):
        given = np.random.default_rng(7)
        mlp = network(rng=given)
        mlp.fit(X, Y, callbacks=lambda *_: draws and given.random() > 2, progress=False, **settings)
        return mlp.parameter_vector.copy()

    expected = fit(X, Y, False)
    for found in on_ranks(2, lambda comm: fit(*(each[parts(2)[comm.Get_rank()]] for each in (X, Y)), True, comm=comm)):
        same(found, expected)


def test_random_states_that_differ_are_found(rng):
    X, Y = data(rng)

    def work(comm):
        network().fit(X, Y, epochs=9, callbacks=lambda mlp, _: comm.rank and mlp._rng.random() > 2, comm=comm)

    for error in on_ranks(2, work):
        with pytest.raises(RuntimeError, match=r"random state"):
            raise error


def test_a_mapped_file_on_each_rank(rng, tmp_path, monkeypatch):
    from fastmlp import rows  # noqa: PLC0415 (its constant is changed)

    monkeypatch.setattr(rows, "_MAPPED_BYTES", 100)
    monkeypatch.setattr(rows, "_WHOLE_BYTES", 0)
    X, Y = data(rng)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")

    def work(comm, X):
        mlp, part = network(), parts(2)[comm.Get_rank()]
        mlp.fit(X[part], Y[part], batch_size=9, comm=comm)
        return mlp.parameter_vector.copy()

    np.testing.assert_array_equal(*(on_ranks(2, lambda comm, X=X: work(comm, X)) for X in (X, mapped)))


def test_the_model_of_rank_0_counts_and_only_callbacks_may_differ(rng):
    X, Y = data(rng)
    seen = []

    def work(comm):
        rank, part = comm.Get_rank(), parts(2)[comm.Get_rank()]
        mlp = network(rng=rank)
        callbacks = [lambda mlp, history: seen.append(history.n_epochs) or history.n_epochs == 3] if rank else []
        history = mlp.fit(X[part], Y[part], epochs=9, callbacks=callbacks, comm=comm)
        return mlp, history

    found = on_ranks(2, work)
    alone = network(rng=0)
    alone.fit(X, Y, epochs=3, progress=False)
    assert seen == [1, 2, 3]
    for mlp, history in found:
        same(mlp.parameter_vector, alone.parameter_vector)
        assert mlp.config["rng"] == 0
        assert history.stopped == "a callback asked to stop"


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (4, 1)])
def test_a_checkpoint_goes_on_with_any_number_of_ranks(before, after, rng, tmp_path):
    X, Y = data(rng)
    settings = {"batch_size": 9, "validation": 0.2, "early_stopping": True, "progress": False}
    alone = network()
    history = alone.fit(X, Y, epochs=6, **settings)

    def work(comm, epochs):
        part, mlp = parts(comm.Get_size())[comm.Get_rank()], network()
        path = tmp_path / "run.ckpt"
        return mlp, mlp.fit(X[part], Y[part], epochs=epochs, checkpoint=path, comm=comm, **settings)

    on_ranks(before, lambda comm: work(comm, 2))
    for mlp, of_rank in on_ranks(after, lambda comm: work(comm, 6)):
        same(mlp.parameter_vector, alone.parameter_vector)
        np.testing.assert_allclose(of_rank.loss, history.loss, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------------
# what goes wrong on one rank ends all, with words


def test_dropout_after_it_is_that_of_rank_0(rng):
    """Also in a workspace that a step was prepared in, or a forward pass lies in, before."""
    X, Y = data(rng)
    models, optimizer = [network(rng=k, dropout=0.5) for k in range(2)], fastmlp.SGD(0.1)
    for model in models:
        for _ in range(3):
            model.train_step(X, Y, optimizer=optimizer)
        model.forward(X)

    def work(comm):
        part = parts(2)[comm.rank]
        models[comm.rank].fit(X[part], Y[part], epochs=1, comm=comm, progress=False, optimizer=optimizer)

    assert on_ranks(2, work) == [None, None]
    for model in models:
        model.forward(X)
    for _ in range(4):
        one, other = [model.train_step(X, Y, optimizer=optimizer) for model in models]
        assert one == other
    assert models[1].verify(X[:5], Y[:5]).ok


def test_a_checkpoint_of_another_run_leaves_each_rank_its_model(rng, tmp_path):
    X, Y = data(rng)
    network().fit(X, Y, epochs=1, batch_size=7, checkpoint=tmp_path / "run", progress=False)
    models = [network(rng=k) for k in range(2)]
    before = [model.__getstate__() for model in models]

    def work(comm):
        part = parts(2)[comm.rank]
        models[comm.rank].fit(X[part], Y[part], checkpoint=tmp_path / "run", comm=comm, progress=False)

    for error in on_ranks(2, work):
        assert isinstance(error, ValueError)
        assert "is of another run" in str(error)
    for model, state in zip(models, before, strict=True):
        for name, value in model.__getstate__().items():
            np.testing.assert_equal(value, state[name])


def failing(*_):
    raise OSError("the disk is gone")


WRONG = {
    "rows": (lambda X, Y: {"X": X[:, :3]}, ValueError, r"X must have shape \(n_samples, 5\)"),
    "values": (lambda X, Y: {"X": X * np.nan}, ValueError, "X must be finite"),
    "weights": (lambda X, Y: {"sample_weight": -np.ones(len(X))}, ValueError, "sample_weight must be at least 0"),
    "callback": (lambda X, Y: {"callbacks": lambda mlp, history: failing(history)}, OSError, "the disk is gone"),
}


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize("what", WRONG)
def test_an_error_on_one_rank_is_raised_on_all(what, culprit, rng):
    X, Y = data(rng)
    change, kind, message = WRONG[what]

    def work(comm):
        part = parts(3, [20, 60])[comm.Get_rank()]
        given = {"X": X[part], "Y": Y[part]}
        if comm.Get_rank() == culprit:
            given |= change(X[part], Y[part])
        network().fit(**given, batch_size=9, comm=comm)

    for rank, error in enumerate(on_ranks(3, work)):
        if rank == culprit:
            with pytest.raises(kind, match=message):
                raise error
        else:
            with pytest.raises(RuntimeError, match=rf"rank {culprit} of 3 failed: {kind.__name__}: .*{message}"):
                raise error


def test_an_error_within_a_step_or_in_a_metric_or_while_saving_is_raised_on_all(rng, tmp_path):
    X, Y = data(rng)

    def metric(predictions, targets):
        raise ZeroDivisionError("no targets")

    def step(comm):
        def loss(predictions, targets):
            if comm.Get_rank() == 1 and predictions.shape[0] == 5:
                raise ZeroDivisionError("no such batch")
            return 0.0, np.zeros_like(predictions)

        mlp = fastmlp.MLP([FEATURES, 3], loss=loss, rng=0)
        mlp.fit(X[:40], Y[:40], epochs=50, batch_size=10, comm=comm)

    def measure(comm):
        network().fit(X, Y, metrics=metric, comm=comm)

    def save(comm):
        network().fit(X, Y, epochs=1, checkpoint=tmp_path / "no" / "folder", comm=comm)

    for work in (step, measure, save):
        errors = on_ranks(2, work)
        assert all(isinstance(error, Exception) for error in errors), (work, errors)
        assert any("rank" in str(error) and "failed" in str(error) for error in errors), (work, errors)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (lambda rank: {"batch_size": 9 + rank}, "batch_size must be the same on all ranks; got 9 on 0, 10 on 1"),
        (lambda rank: {"optimizer": "adam" if rank else "sgd"}, "optimizer must be the same on all ranks"),
        (lambda rank: {"validation": 0.2 if rank else None}, "validation must be the same on all ranks"),
        (lambda rank: {"X": np.empty((0, FEATURES)), "Y": np.empty((0, 3))}, "X must have a sample on one rank"),
        (lambda rank: {"sample_weight": np.ones(N) if rank else None}, "weights on all or on none"),
        (
            lambda rank: {"sample_weight": np.zeros(N)},
            "sample_weight must be above 0 somewhere; got zero on all ranks",
        ),
        (lambda rank: {"monitor": True}, "monitor must be False beside comm"),
        (lambda rank: {"Y": None}, "X and Y must be arrays beside comm"),
        (
            lambda rank: {"sample_weight": np.eye(N)[0] * (rank == 0), "validation": 0.3},
            "sample_weight must be above 0 somewhere among the samples that are",
        ),
        (lambda rank: {"X": np.empty((0, FEATURES))} if rank else {}, "Y must have as many samples as X, which has"),
        (lambda rank: {"X": 3.0}, "X must have shape"),
        (lambda rank: {"epochs": 0}, "epochs must be"),
        (lambda rank: {"batch_size": 0}, "batch_size must be"),
        (lambda rank: {"validation": 1.5}, "validation must be"),
        (lambda rank: {"early_stopping": 3}, "early_stopping must be"),
        (lambda rank: {"callbacks": 5 if rank else ()}, "callbacks must be"),
        (lambda rank: {"validation": (np.empty((0, FEATURES)), np.empty((0, 3)))}, "validation must have a sample"),
    ],
)
def test_what_cannot_be_trained_on_together_is_refused_on_all(setting, message, rng):
    X, Y = data(rng)
    models = [network(rng=rank) for rank in range(2)]
    before = [model.__getstate__() for model in models]

    def work(comm):
        rank = comm.Get_rank()
        models[rank].fit(**{"X": X, "Y": Y, "comm": comm, **setting(rank)})

    for error in on_ranks(2, work):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            raise error
    for model, state in zip(models, before, strict=True):  # a refused call changes nothing
        for name, value in model.__getstate__().items():
            np.testing.assert_equal(value, state[name])


def test_what_is_no_communicator_is_refused(rng):
    with pytest.raises(TypeError, match=r"comm must be a communicator such as mpi4py's .*; got int"):
        network().fit(*data(rng), comm=3)


def test_ranks_that_differ_are_found(rng, monkeypatch):
    monkeypatch.setattr(distributed, "_STEPS_PER_CHECK", 5)
    X, Y = data(rng)

    def work(comm):
        def disturb(mlp, history):
            if comm.Get_rank() == 1:
                mlp._vector[0] += 1e-9

        network().fit(X, Y, batch_size=20, callbacks=disturb, comm=comm)

    for error in on_ranks(2, work):
        with pytest.raises(RuntimeError, match=r"ranks \[1\] have other parameters, or another random state"):
            raise error


def test_a_failure_that_no_meeting_tells_ends_the_job(rng, monkeypatch):
    X, Y = data(rng)

    def work(comm):
        network().fit(X, Y, comm=comm)

    divide = distributed.ShardTrainee._divide
    monkeypatch.setattr(
        distributed.ShardTrainee, "_divide", lambda self, order: (failing if self._ranks.rank else divide)(self, order)
    )
    found = on_ranks(2, work)
    assert isinstance(found[1], Aborted)
    assert isinstance(found[0], threading.BrokenBarrierError | Aborted)


def test_a_schedule_that_fails_on_one_rank_is_an_error_on_all(rng):
    X, Y = data(rng)

    def work(comm):
        def rate(step):
            return 0.1 if comm.Get_rank() == 0 or step < 20 else 1 / 0

        network().fit(X, Y, epochs=20, learning_rate=rate, comm=comm)

    first, second = on_ranks(2, work)
    assert isinstance(second, ZeroDivisionError)
    assert "rank 1 of 2 failed: ZeroDivisionError" in str(first)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_all_before_that_step(rng):
    X, Y = data(rng)

    def work(comm):
        mlp = network()
        history = mlp.fit(
            X, 1e200 * Y, epochs=9, batch_size=9, optimizer="sgd", learning_rate=1e5, comm=comm, progress=False
        )
        return history.stopped, mlp.parameter_vector.copy()

    found = on_ranks(2, work)
    assert found[0][0] == found[1][0]
    assert "stopped because the loss was not finite at step" in found[0][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_interrupting_one_rank_ends_all_at_the_same_step(rng, monkeypatch):
    X, Y = data(rng)
    make = fitting.trainee_for

    def interrupted_at_step_12(mlp, *given, **settings):
        """Make a trainee with an event of its own, which rank 1 sets."""
        trainee, event = make(mlp, *given, **settings), threading.Event()
        sum_gradient, epoch = trainee._sum_gradient, trainee.epoch

        def sum_and_interrupt(first, last):
            if trainee._ranks.rank == 1 and mlp._steps == 12:
                event.set()
            return sum_gradient(first, last)

        trainee._sum_gradient = sum_and_interrupt
        trainee.epoch = lambda order, _, bar: epoch(order, event, bar)
        return trainee

    monkeypatch.setattr(fitting, "trainee_for", interrupted_at_step_12)

    def work(comm):
        mlp = network()
        history = mlp.fit(X, Y, epochs=9, batch_size=20, comm=comm)
        return mlp._steps, history.stopped, mlp.parameter_vector.copy()

    found = on_ranks(2, work)
    assert [steps for steps, _, _ in found] == [12, 12]
    assert {stopped for _, stopped, _ in found} == {"interrupted in epoch 2"}
    np.testing.assert_array_equal(found[0][2], found[1][2])


# ------------------------------------------------------------------------------------------------------------------
# under mpiexec

needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or INTERPRETED or CHECKED, reason="mpi4py is not installed, or kernels are slow"
)

PROGRAM = """
import sys, os, signal, time
import numpy as np, fastmlp
from mpi4py import MPI
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
rng = np.random.default_rng(0)
X = rng.standard_normal((301, 6)); Y = np.sin(X[:, :2])
edges = np.linspace(0, 301, size + 1).astype(int)
part = slice(edges[rank], edges[rank + 1])
mlp = fastmlp.MLP([6, 12, 2], hidden_activation="tanh", rng=1)
def fit(**settings):
    return mlp.fit(X[part], Y[part], **{"epochs": 20, "batch_size": 31, "comm": comm, "progress": False, **settings})
"""


def mpiexec(size, program, *arguments, timeout=100):
    """Run a program on ranks, whose processes end with it."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    command = [launcher, "-n", str(size), sys.executable, "-m", "mpi4py", "-c", PROGRAM + textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


@needs_mpi
def test_processes_take_the_steps_of_one(tmp_path):
    found = {}
    for size in (1, 2, 3, 4):
        done = mpiexec(
            size, "fit()\nif rank == 0: np.save(sys.argv[1], mlp.parameter_vector)", tmp_path / f"{size}.npy"
        )
        assert done.returncode == 0, done.stderr
        found[size] = np.load(tmp_path / f"{size}.npy")
    for vector in found.values():
        same(vector, found[1])


@needs_mpi
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("if rank == 1: raise OSError('the disk is gone')\nfit()", "the disk is gone"),
        ("if rank == 1: X[200] = np.nan\nfit()", "X must be finite"),
        ("fit(callbacks=[lambda *given: 1 / 0] if rank == 1 else [])", "ZeroDivisionError"),
        ("if rank == 1: mlp._make_objective = None\nmlp.config['rng'] = rank\nfit()", "'NoneType' object is not"),
        ("import fastmlp.distributed as d\nif rank == 1: d.ShardTrainee._divide = None\nfit()", "is not callable"),
        ("fit(epochs=10**6, callbacks=lambda mlp, history: rank and os.kill(os.getpid(), signal.SIGKILL))", ""),
    ],
    ids=["before", "its data", "a callback", "its model", "within", "killed"],
)
def test_a_rank_that_fails_ends_the_job(program, message):
    done = mpiexec(2, program)
    assert done.returncode != 0
    assert message in done.stderr


@needs_mpi
def test_a_killed_job_goes_on_with_another_number_of_ranks(tmp_path):
    path = tmp_path / "run.ckpt"
    program = """
    def dies(mlp, history):
        if history.n_epochs == 8 and rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
    fit(checkpoint=sys.argv[1], callbacks=dies if sys.argv[2] == "dies" else [])
    if rank == 0: np.save(sys.argv[3], mlp.parameter_vector)
    """
    assert mpiexec(3, program, path, "dies", tmp_path / "no").returncode != 0
    assert path.exists()
    assert mpiexec(2, program, path, "lives", tmp_path / "found").returncode == 0
    assert mpiexec(1, program, tmp_path / "other", "lives", tmp_path / "expected").returncode == 0
    same(np.load(tmp_path / "found.npy"), np.load(tmp_path / "expected.npy"))
