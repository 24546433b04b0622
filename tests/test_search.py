"""Searches and cross-validations in many processes and threads: the bits of one, and no threads too many."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.7")
import joblib
import numba
from scipy.stats import loguniform
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score, cross_validate

from conftest import CHECKED, INTERPRETED
from fastmlp import threads
from fastmlp.kernels import jit
from fastmlp.sklearn import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.skipif(INTERPRETED or CHECKED, reason="interpreted or checked kernels take minutes"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

DIGITS, DIABETES = (load(return_X_y=True) for load in (load_digits, load_diabetes))
DIGITS, DIABETES = (DIGITS[0][:600] / 16, DIGITS[1][:600]), (DIABETES[0], DIABETES[1] / 100)
BATCH = 200
"""Samples of a minibatch: with 64 units, enough work for several threads."""

MOST_SECONDS = 120
"""How long a fit waits for another one that must be there at the same time."""


@pytest.fixture
def backend(request):
    """Make scikit-learn use one of joblib's backends: "threading", "loky", or a cluster of Dask's."""
    with ExitStack() as stack:
        if request.param.startswith("dask"):
            stack.enter_context(request.getfixturevalue(request.param).as_current())
            stack.enter_context(joblib.parallel_config("dask"))
        else:
            stack.enter_context(joblib.parallel_config(request.param, n_jobs=2))
        yield request.param


def dask_cluster(workers, threads_of_each, **environment):
    """Start real processes on this machine; yields a client of them."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra dask")
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=threads_of_each, processes=True, dashboard_address=":0",
            memory_limit=0, silence_logs="ERROR", env=environment,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


@pytest.fixture(scope="module")
def dask_of_two_workers():
    """Two processes of one thread."""
    yield from dask_cluster(2, 1)


@pytest.fixture(scope="module")
def dask_of_two_threads():
    """One process of two threads, with the threading layer that aborts when both launch at once without a lock."""
    yield from dask_cluster(1, 2, NUMBA_THREADING_LAYER="workqueue")


BACKENDS = ["threading", "loky", "dask_of_two_workers", "dask_of_two_threads"]

# ------------------------------------------------------------------------------------------------------------------
# right results


def grid():
    """Search a grid, with as many threads as there happen to be: scores, what is best, and what it has learned."""
    model = MLPClassifier((64,), batch_size=BATCH, max_iter=3, learning_rate_init=0.01, random_state=0)
    search = GridSearchCV(model, {"alpha": [1e-4, 10.0], "activation": ["relu", "tanh"]}, cv=2, error_score="raise")
    search.fit(*DIGITS)
    return search.cv_results_["mean_test_score"], search.best_params_, search.best_estimator_.mlp_.parameter_vector


def random():
    """The same of random choices, of solvers too, by two threads each wherever it may be."""
    model = MLPRegressor(hidden_layer_sizes=(64,), batch_size=BATCH, max_iter=10, random_state=0, n_threads=2)
    choices = {"alpha": loguniform(1e-4, 1), "solver": ["adam", "lbfgs"]}
    search = RandomizedSearchCV(model, choices, n_iter=3, cv=2, random_state=0, error_score="raise").fit(*DIABETES)
    return search.cv_results_["mean_test_score"], search.best_params_, search.best_estimator_.mlp_.parameter_vector


def scores():
    """Of cross-validations, and what each fit has learned."""
    stopping = MLPClassifier((64,), max_iter=4, early_stopping=True, dropout=0.2, random_state=0)
    found = cross_validate(stopping, *DIGITS, cv=2, return_estimator=True, error_score="raise")
    small = MLPRegressor(hidden_layer_sizes=(8, 8), max_iter=5, random_state=0)
    several = cross_val_score(small, *DIABETES, cv=2, error_score="raise")
    learned = np.concatenate([each.mlp_.parameter_vector for each in found["estimator"]])
    return np.concatenate([found["test_score"], several]), None, learned


@pytest.fixture(scope="module")
def of_one():
    """What a single thread finds, after the other."""
    return {work: work() for work in (grid, random, scores)}


@pytest.mark.parametrize("work", [grid, random, scores])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_all_backends_find_what_one_process_finds(backend, work, of_one):
    (found, best, learned), (expected, expected_best, expected_learned) = work(), of_one[work]
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(found, expected)
    assert best == expected_best
    np.testing.assert_array_equal(learned, expected_learned)


def test_two_threads_of_a_dask_worker_have_used_the_layer_that_aborts(dask_of_two_threads):
    with dask_of_two_threads.as_current(), joblib.parallel_config("dask"):
        random()
    assert set(dask_of_two_threads.run(numba.threading_layer).values()) == {"workqueue"}


SEARCH = f"""
import warnings
import joblib
import numba
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from fastmlp.sklearn import MLPClassifier
warnings.simplefilter("ignore")  # it does not converge
X, y = load_digits(return_X_y=True)
model = MLPClassifier((64,), batch_size={BATCH}, max_iter=3, random_state=0, n_threads=2)
expected = cross_val_score(model, X, y, cv=4)
with joblib.parallel_config("threading", n_jobs=4):
    assert (cross_val_score(model, X, y, cv=4) == expected).all()
print(numba.threading_layer())
"""


@pytest.mark.skipif(jit.max_threads() == 1, reason="there is one processor")
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_no_threading_layer_aborts(layer):
    """Four fits at once, each of which launches two threads."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    ended = subprocess.run(
        [sys.executable, "-c", SEARCH], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if "No threading layer could be loaded" in ended.stderr:
        pytest.skip(f"Numba has no {layer} here")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [layer]


# ------------------------------------------------------------------------------------------------------------------
# no more threads than there are


class Watched(MLPClassifier):
    """Notes, within its fit, how many threads its steps may take."""

    def fit(self, X, y):
        self.numbers_ = set()
        return super().fit(X, y)

    def _score(self, mlp, held, y):  # it is asked after each epoch
        self.numbers_.update(mlp._pace(BATCH).candidates)
        return super()._score(mlp, held, y)


ARRIVE, LEAVE = threading.Barrier(2, timeout=MOST_SECONDS), threading.Barrier(2, timeout=MOST_SECONDS)


class SideBySide(Watched):
    """Of which two are in their fits whenever they look."""

    def _score(self, mlp, held, y):
        ARRIVE.wait()
        found = super()._score(mlp, held, y)
        LEAVE.wait()
        return found


def most_threads(model, X, y):
    """Tell a watched model's number of threads in the place of its score."""
    return max(model.numbers_)


def numbers_of_two_fits(model, **settings):
    """Fit twice, at the same time if the backend does so."""
    model = model((64,), batch_size=BATCH, max_iter=3, early_stopping=True, random_state=0, **settings)
    found = cross_val_score(model, *DIGITS, cv=2, scoring=most_threads, error_score="raise")
    return [int(number) for number in found]


def test_a_fit_by_itself_may_take_all_threads():
    assert numbers_of_two_fits(Watched) == [jit.max_threads()] * 2


@pytest.mark.parametrize("backend", ["threading"], indirect=True)
def test_two_threads_share_the_processors(backend):
    assert numbers_of_two_fits(SideBySide) == [max(1, jit.max_threads() // 2)] * 2
    assert threads.share() == jit.max_threads()  # nobody is at work any more


@pytest.mark.parametrize("backend", ["loky"], indirect=True)
def test_workers_of_loky_share_the_processors(backend):
    """By NUMBA_NUM_THREADS, which joblib sets in its workers; to what the user has set it to, if so."""
    of_each = int(os.environ.get("NUMBA_NUM_THREADS", max(1, joblib.cpu_count() // 2)))
    assert numbers_of_two_fits(Watched) == [of_each] * 2


@pytest.mark.parametrize("backend", ["dask_of_two_workers", "dask_of_two_threads"], indirect=True)
def test_tasks_of_dask_take_one_thread_for_each_of_their_workers(backend):
    model = SideBySide if backend == "dask_of_two_threads" else Watched
    assert numbers_of_two_fits(model) == [1, 1]


@pytest.mark.parametrize("backend", ["threading", "dask_of_two_workers"], indirect=True)
def test_the_number_that_is_asked_for_is_taken(backend):
    assert numbers_of_two_fits(Watched, n_threads=2) == [min(2, jit.max_threads())] * 2
