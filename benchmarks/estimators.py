"""``fit`` of fastmlp's estimators beside scikit-learn's, on the same data with the same settings, in one run.

::

    python -m benchmarks.estimators                 # needs scikit-learn
    python -m benchmarks.estimators --dtypes float32 --rounds 5

Both take the same steps, so both do the same number of epochs: what is compared is seconds. The largest difference
between their predictions is shown beside the times; float32 ends further apart, as roundings grow.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np
import scipy.sparse
import sklearn.neural_network
from sklearn import datasets

import fastmlp.sklearn

PAUSE = 0.3
"""Seconds before each fit: the threads of the program before, which go on waiting busily, are asleep then."""


class Case(NamedTuple):
    """Data, and how they are fitted."""

    name: str
    load: Callable
    is_classification: bool
    settings: dict
    epochs: int


def _bundled(name):
    def load(_):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        X = (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-12)
        return X, y

    return load


def _classes(samples, features, classes, density=1.0):
    def load(rng):
        X = rng.standard_normal((samples, features))
        y = (X @ rng.standard_normal((features, classes))).argmax(axis=1)
        if density == 1.0:
            return X, y
        return scipy.sparse.random(samples, features, density, format="csr", random_state=0), y

    return load


def _curve(samples, features):
    def load(rng):
        X = rng.standard_normal((samples, features))
        return X, np.sin(X[:, 0]) + X[:, 1] * X[:, 2]

    return load


CASES = [
    Case("iris, 150 x 4, (100,)", _bundled("iris"), True, {}, 200),
    Case("wine, 178 x 13, (32, 16)", _bundled("wine"), True, {"hidden_layer_sizes": (32, 16)}, 200),
    Case("breast cancer, 569 x 30, (50,)", _bundled("breast_cancer"), True, {"hidden_layer_sizes": (50,)}, 100),
    Case("diabetes, 442 x 10, (32, 32)", _bundled("diabetes"), False, {"hidden_layer_sizes": (32, 32)}, 100),
    Case("digits, 1797 x 64, (100,)", _bundled("digits"), True, {}, 50),
    Case("digits, logistic, batch 64", _bundled("digits"), True, {"activation": "logistic", "batch_size": 64}, 20),
    Case("curve, 10000 x 4, (32, 16), tanh", _curve(10_000, 4), False,
         {"hidden_layer_sizes": (32, 16), "activation": "tanh"}, 20),
    Case("20000 x 50, (64, 32)", _classes(20_000, 50, 5), True, {"hidden_layer_sizes": (64, 32)}, 5),
    Case("images, 5000 x 784, (100,)", _classes(5_000, 784, 10), True, {}, 5),
    Case("images, 5000 x 784, (256, 128)", _classes(5_000, 784, 10), True, {"hidden_layer_sizes": (256, 128)}, 5),
    Case("sparse 1 %, 4000 x 5000, (50,)", _classes(4_000, 5_000, 4, 0.01), True, {"hidden_layer_sizes": (50,)}, 3),
]  # fmt: skip


def _fit(case, module, solver, X, y):
    estimator = module.MLPClassifier if case.is_classification else module.MLPRegressor
    model = estimator(
        solver=solver, max_iter=case.epochs, tol=0.0, n_iter_no_change=10**9, random_state=0, **case.settings
    )
    sleep(PAUSE)
    start = perf_counter()
    model.fit(X, y)
    return perf_counter() - start, model


def measure(case, solver, dtype, rounds):
    """Best and median seconds of ours and of theirs, and how far their predictions are apart."""
    X, y = case.load(np.random.default_rng(0))
    X = X.astype(dtype)
    y = y if case.is_classification else ((y - y.mean()) / y.std()).astype(dtype)
    _fit(case._replace(epochs=1), fastmlp.sklearn, solver, X, y)  # compiles, or loads
    seconds = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, module in (("ours", fastmlp.sklearn), ("theirs", sklearn.neural_network)):
            taken, model = _fit(case, module, solver, X, y)
            seconds[name].append(taken)
            if name == "ours":
                ours = model
    predict = "predict_proba" if case.is_classification else "predict"
    apart = np.abs(getattr(ours, predict)(X) - getattr(model, predict)(X)).max()
    assert dtype != "float64" or apart < 1e-6, f"{case.name}: predictions are {apart} apart"
    return seconds, apart


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float64"])
    parser.add_argument("--solvers", nargs="+", default=["adam", "sgd"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| data, hidden layers | dtype | solver | fastmlp, ms | scikit-learn, ms | ratio (of medians) | apart |")
    print("|---|---|---|---|---|---|---|")
    for dtype in arguments.dtypes:
        for case in CASES:
            for solver in arguments.solvers:
                seconds, apart = measure(case, solver, dtype, arguments.rounds)
                ours, theirs = (1e3 * min(seconds[name]) for name in ("ours", "theirs"))
                middle = median(seconds["theirs"]) / median(seconds["ours"])
                row = f"{ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} ({middle:.1f}) | {apart:.0e}"
                print(f"| {case.name} | {dtype} | {solver} | {row} |", flush=True)


if __name__ == "__main__":
    main()
