"""The estimators: scikit-learn's steps, scikit-learn's checks, scikit-learn's own tests, and what is beyond them."""

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastmlp

pytest.importorskip("sklearn", minversion="1.7")
import joblib
import scipy.sparse
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from conftest import CHECKED, INTERPRETED
from fastmlp.sklearn import MLPClassifier, MLPRegressor, from_sklearn, to_sklearn

pytestmark = [
    pytest.mark.skipif(INTERPRETED or CHECKED, reason="nothing here is compiled; it takes minutes"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

DIGITS, DIABETES, IRIS = (load(return_X_y=True) for load in (load_digits, load_diabetes, load_iris))
DIGITS, DIABETES = (DIGITS[0][:600] / 16, DIGITS[1][:600]), (DIABETES[0], DIABETES[1] / 100)
SEVERAL_OUTPUTS = DIABETES[0], np.stack([DIABETES[1], DIABETES[1] ** 2, -DIABETES[1]], axis=1)
SEVERAL_LABELS = make_multilabel_classification(200, random_state=0)
TWO_CLASSES = IRIS[0][:100], np.array(["setosa", "versicolor"])[IRIS[1][:100]]
SPARSE = scipy.sparse.csr_matrix(DIGITS[0]), DIGITS[1]
VERY_SPARSE = scipy.sparse.random(300, 200, 0.03, format="csr", random_state=0), DIGITS[1][:300]
VERY_SPARSE_REGRESSION = VERY_SPARSE[0].tocsc(), DIABETES[1][:300]
BOTH = [MLPClassifier, MLPRegressor]

# name: (data, parameters); the estimator follows from the data
SAME_STEPS = {
    "adam": (DIGITS, {}),
    "adam with a strong penalty": (DIGITS, {"alpha": 1.0, "batch_size": 64}),
    "sgd": (DIGITS, {"solver": "sgd", "learning_rate_init": 0.1}),
    "sgd without nesterov": (DIGITS, {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.1}),
    "sgd without momentum": (DIGITS, {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.1}),
    "invscaling": (DIGITS, {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1}),
    "adaptive": (
        IRIS,
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "max_iter": 300, "tol": 1e-2},
    ),
    "as they stand": (DIGITS, {"shuffle": False, "batch_size": 100}),
    "early stopping": (DIGITS, {"early_stopping": True, "max_iter": 60}),
    "early stopping of two classes": (TWO_CLASSES, {"early_stopping": True}),
    "two classes": (TWO_CLASSES, {"hidden_layer_sizes": (5, 4), "activation": "logistic"}),
    "several labels": (SEVERAL_LABELS, {"activation": "tanh"}),
    "sparse": (SPARSE, {}),
    "very sparse": (VERY_SPARSE, {"hidden_layer_sizes": (20, 10), "alpha": 0.1}),
    "very sparse, early stopping": (VERY_SPARSE, {"early_stopping": True, "solver": "sgd", "batch_size": 32}),
    "very sparse, lbfgs": (VERY_SPARSE, {"solver": "lbfgs", "max_iter": 8, "activation": "tanh"}),
    "very sparse regression": (VERY_SPARSE_REGRESSION, {"activation": "logistic", "shuffle": False}),
    "no hidden activation": (IRIS, {"activation": "identity"}),
    "no hidden layer": (IRIS, {"activation": "logistic", "hidden_layer_sizes": ()}),
    "regression": (DIABETES, {"hidden_layer_sizes": (20, 10)}),
    "early stopping of a regression": (DIABETES, {"early_stopping": True, "max_iter": 100}),
    "several outputs": (SEVERAL_OUTPUTS, {"alpha": 0.5, "batch_size": 50}),
    "poisson": (DIABETES, {"loss": "poisson"}),
    "lbfgs": (DIGITS, {"solver": "lbfgs", "max_iter": 8}),
    "lbfgs of a regression": (DIABETES, {"solver": "lbfgs", "max_iter": 8, "loss": "poisson", "alpha": 0.3}),
}


def pair(data, parameters):
    """Fastmlp's and scikit-learn's estimator for these data."""
    is_class = data[1].dtype.kind in "iuUO" and data is not DIABETES
    ours = MLPClassifier if is_class else MLPRegressor
    given = {"random_state": 5, "max_iter": 20, **parameters}
    return ours(**given), getattr(theirs, ours.__name__)(**given)


def assert_same(ours, scikit_learns, close=1e-11):
    for one, other in zip(
        ours.coefs_ + ours.intercepts_, scikit_learns.coefs_ + scikit_learns.intercepts_, strict=True
    ):
        np.testing.assert_allclose(one, other, atol=close)
    told = ("loss_", "best_loss_", "n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")
    for name in (*told, "loss_curve_", "validation_scores_", "best_validation_score_", "classes_"):
        if hasattr(scikit_learns, name):
            one, other = getattr(ours, name), getattr(scikit_learns, name)
            if one is None or isinstance(one, str) or name == "classes_":
                assert np.all(one == other), name
            else:
                np.testing.assert_allclose(one, other, atol=close, err_msg=name)


# ------------------------------------------------------------------------------------------------------------------
# scikit-learn's steps


@pytest.mark.parametrize("case", SAME_STEPS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_steps_are_scikit_learns_to_rounding(case, weighted, rng):
    data, parameters = SAME_STEPS[case]
    ours, scikit_learns = pair(data, parameters)
    weights = {"sample_weight": rng.uniform(0.5, 2, data[0].shape[0])} if weighted else {}
    for estimator in (ours, scikit_learns):
        estimator.fit(*data, **weights)
    # an adaptive rate of 1,000 epochs, or a line search, lets roundings grow
    assert_same(ours, scikit_learns, 1e-8 if case == "adaptive" or "lbfgs" in case else 1e-11)
    np.testing.assert_allclose(
        *(getattr(e, "predict_proba", e.predict)(data[0]) for e in (ours, scikit_learns)), atol=1e-8
    )
    np.testing.assert_array_equal(
        *(np.round(np.asarray(e.predict(data[0]), float), 6) if data[1].dtype.kind == "f" else e.predict(data[0])
          for e in (ours, scikit_learns))
    )  # fmt: skip


@pytest.mark.parametrize("case", ["adam", "sgd", "regression", "several labels"])
def test_going_on_takes_scikit_learns_steps(case):
    """``warm_start`` begins the optimizer afresh, ``partial_fit`` does not; a changed penalty counts at once."""
    data, parameters = SAME_STEPS[case]
    estimators = pair(data, parameters | {"warm_start": True, "max_iter": 3})
    for estimator in estimators:
        estimator.fit(*data).fit(*data)
        estimator.set_params(alpha=0.5)
        estimator.partial_fit(*data).partial_fit(*data)
    assert_same(*estimators)
    estimators = pair(data, parameters)
    more = {"classes": np.unique(data[1])} if data is DIGITS else {}
    if data is SEVERAL_LABELS:
        more = {"classes": np.arange(data[1].shape[1])}
    for estimator in estimators:
        for _ in range(4):
            estimator.partial_fit(*data, **more)
        estimator.set_params(learning_rate_init=0.01, alpha=0.1)
        estimator.partial_fit(*data)
    assert_same(*estimators)


def test_float32_stays_float32():
    X, y = DIGITS[0].astype(np.float32), DIGITS[1]
    for solver in ("adam", "lbfgs"):
        ours, scikit_learns = (e.set_params(solver=solver, max_iter=10).fit(X, y) for e in pair(DIGITS, {}))
        assert {part.dtype for part in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float32)}
        assert ours.predict_proba(X).dtype == np.float32
        np.testing.assert_allclose(ours.predict_proba(X), scikit_learns.predict_proba(X), atol=1e-4)


def test_parameters_may_be_changed_from_outside():
    """``coefs_`` and ``intercepts_`` are what the network computes with, changed in place or replaced."""
    X, y = DIGITS
    ours, scikit_learns = (e.fit(X, y) for e in pair(DIGITS, {}))
    for estimator in (ours, scikit_learns):
        estimator.coefs_[0][:, 3] *= 2
        estimator.intercepts_ = [b + 0.5 for b in estimator.intercepts_]
    for rows in (X, X[:1]):
        np.testing.assert_allclose(ours.predict_proba(rows), scikit_learns.predict_proba(rows), atol=1e-12)
    other = pickle.loads(pickle.dumps(ours))
    other.coefs_[1][:] = 0
    assert np.abs(other.predict_proba(X) - ours.predict_proba(X)).max() > 0.1


def test_the_network_is_the_estimators(rng):
    """Trained, unpickled or replaced: what it predicts is what the estimator does."""
    X, y = DIGITS
    model = MLPClassifier((9,), max_iter=3, random_state=0).fit(X, y)
    for same in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        same.mlp_.fit(X, y, epochs=2, progress=False)
        np.testing.assert_array_equal(same.predict_proba(X), same.mlp_.predict(X))
        assert np.abs(same.coefs_[0].T - same.mlp_.parameters[0].weights).max() == 0
    model.coefs_ = [rng.standard_normal(coefs.shape) for coefs in model.coefs_]
    np.testing.assert_array_equal(model.mlp_.parameters[0].weights, model.coefs_[0].T)
    with pytest.raises(AttributeError, match="call fit first"):
        _ = MLPClassifier().mlp_


@pytest.mark.parametrize("estimator", BOTH)
def test_subclasses_may_have_parameters_of_their_own(estimator):
    class Narrow(estimator):
        def __init__(self, width=5):
            self.width = width
            super().__init__(hidden_layer_sizes=(width,), max_iter=3)

    class Same(estimator):
        pass

    for model in (clone(Narrow(4)), Same(hidden_layer_sizes=4, max_iter=3)):
        assert model.fit(*IRIS).coefs_[0].shape == (4, 4)


def test_units_may_be_taken_away():
    X, y = DIABETES
    models = pair(DIABETES, {"hidden_layer_sizes": (20,)})
    for model in models:
        model.fit(X, y)
        model.coefs_ = [model.coefs_[0][:, :5], model.coefs_[1][:5]]
        model.intercepts_ = [model.intercepts_[0][:5], model.intercepts_[1]]
    np.testing.assert_allclose(*(model.predict(X) for model in models))
    models[0].coefs_[0] = models[0].coefs_[0][:, :1]
    with pytest.raises(ValueError, match="coefs_ and intercepts_ must be of layers that follow each other"):
        models[0].predict(X)


def test_warm_starts_with_early_stopping_take_scikit_learns_steps():
    estimators = pair(IRIS, {"warm_start": True, "early_stopping": True, "max_iter": 5, "n_iter_no_change": 2})
    for _ in range(8):
        for estimator in estimators:
            estimator.fit(*IRIS)
        assert_same(*estimators)


def test_the_dtype_stays_where_training_goes_on():
    X, y = IRIS
    estimators = pair(IRIS, {})
    for kind in (np.float64, np.float32, np.float64):
        for estimator in estimators:
            estimator.partial_fit(
                X.astype(kind), y, **({} if hasattr(estimator, "coefs_") else {"classes": [0, 1, 2]})
            )
    assert estimators[0].coefs_[0].dtype == np.float64
    assert_same(*estimators, close=1e-6)


def test_labels_that_are_not_zero_and_one():
    X, Y = SEVERAL_LABELS
    models = [MLPClassifier(max_iter=5, random_state=0).fit(X, labels) for labels in (Y, 2 * Y)]
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(X))


# ------------------------------------------------------------------------------------------------------------------
# scikit-learn's own judgement


def known_to_fail(estimator):
    """What scikit-learn's own estimator does not pass either."""
    if estimator.solver != "lbfgs":
        return {}
    return {"check_classifiers_multilabel_output_format_predict_proba": "a probability may be rounded to 1"}


@parametrize_with_checks(
    [
        MLPClassifier(max_iter=100), MLPRegressor(max_iter=100), MLPClassifier(solver="lbfgs"),
        MLPRegressor(loss="huber", activation="gelu", solver="sgd", max_iter=150),
    ],
    expected_failed_checks=known_to_fail,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs; tests/test_verify.py proves the gradient",
    "test_learning_rate_warmstart": "reads _optimizer; test_the_steps_are_scikit_learns_to_rounding[invscaling]",
    "test_adaptive_learning_rate": "reads _optimizer; test_the_steps_are_scikit_learns_to_rounding[adaptive]",
}
"""Tests of scikit-learn's that reach into what is private, and what stands for them here."""


def test_scikit_learns_own_tests(tmp_path):
    """Theirs, run against ours: see in_place_of_sklearn.py."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    module = "sklearn.neural_network.tests.test_mlp"
    here = str(Path(__file__).parent)
    others = " and ".join(f"not {name}" for name in PRIVATE)
    ended = subprocess.run(
        [
            sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r}); import pytest; sys.exit(pytest.main())",
            "-c", "pytest.ini", "-q", "-p", "in_place_of_sklearn", "-p", "no:cacheprovider", "--pyargs", module,
            "-k", others,
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert int(ended.stdout.split(" passed")[0].split()[-1]) > 40, ended.stdout[-300:]


# ------------------------------------------------------------------------------------------------------------------
# at home


def test_in_pipelines_searches_and_calibration():
    X, y = DIGITS
    model = make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=30, learning_rate_init=0.01, random_state=0))
    assert clone(model).set_output(transform="pandas").fit(X, y).score(X, y) > 0.9
    found = {}
    for backend in ("threading", "loky"):
        with joblib.parallel_backend(backend, n_jobs=2):
            search = GridSearchCV(model, {"mlpclassifier__alpha": [1e-4, 10.0]}, cv=2).fit(X, y)
        found[backend] = search.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found["threading"], found["loky"])
    calibrated = CalibratedClassifierCV(MLPClassifier((16,), max_iter=30, random_state=0), cv=2).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    importance = permutation_importance(model.fit(X, y), X, y, n_repeats=1, random_state=0).importances_mean
    assert importance[0] == 0  # a pixel that is always white
    assert importance.max() > 0


def test_pandas_names_are_checked():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(IRIS[0], columns=["a", "b", "c", "d"])
    model = MLPClassifier((5,), max_iter=5).fit(X, IRIS[1])
    assert list(model.feature_names_in_) == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[["b", "a", "c", "d"]])


def test_pickles_go_on(tmp_path):
    ours = MLPClassifier((16,), random_state=np.random.RandomState(3), max_iter=5).fit(*DIGITS)
    joblib.dump(ours, tmp_path / "model")
    other = joblib.load(tmp_path / "model")
    for model in (ours, other):
        model.partial_fit(*DIGITS)
    np.testing.assert_array_equal(ours.mlp_.parameter_vector, other.mlp_.parameter_vector)


# ------------------------------------------------------------------------------------------------------------------
# beyond scikit-learn


def test_every_activation_loss_and_optimizer():
    X, y = DIABETES
    for activation in ("leaky_relu", "elu", "softplus", "silu", "gelu", ("tanh", "relu")):
        model = MLPRegressor(
            "squared_error", (20, 10), activation, max_iter=200, learning_rate_init=0.01, random_state=0
        )
        assert model.fit(X, y).score(X, y) > 0.4
    for loss in ("absolute_error", "huber", "quantile", fastmlp.Huber(0.5)):
        assert MLPRegressor(loss, max_iter=200, learning_rate_init=0.01, random_state=0).fit(X, y).score(X, y) > 0.3
    high = MLPRegressor(fastmlp.Quantile(0.9), max_iter=300, learning_rate_init=0.01, random_state=0).fit(X, y)
    assert np.mean(y < high.predict(X)) == pytest.approx(0.9, abs=0.05)
    rate = fastmlp.CosineDecay(0.01, n_steps=600)
    for solver in ("adamw", "rmsprop", fastmlp.Adam(rate, max_gradient_norm=1.0), fastmlp.SGD(0.01, momentum=0.9)):
        assert MLPRegressor(solver=solver, max_iter=200, random_state=0).fit(X, y).score(X, y) > 0.3
    smooth = MLPClassifier(loss=fastmlp.SoftmaxCrossEntropy(0.2), random_state=0, max_iter=100).fit(*IRIS)
    assert smooth.predict_proba(IRIS[0]).max() < 0.95


def test_dropout_changes_training_alone():
    X, y = DIGITS
    models = [MLPClassifier(dropout=0.5, random_state=0, max_iter=20).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(X))
    plain = MLPClassifier(random_state=0, max_iter=20).fit(X, y)
    assert models[0].loss_ > 1.2 * plain.loss_


def test_sparse_rows_of_all_kinds(rng):
    """Through the first layer that reads values, where it can, and else dense: the same as dense data."""
    X, y = VERY_SPARSE
    for parameters in ({}, {"dropout": 0.2}, {"hidden_layer_sizes": ()}, {"activation": "gelu"}, {"n_threads": 2}):
        model = MLPClassifier(max_iter=5, random_state=0).set_params(**parameters)
        dense = clone(model).fit(X.toarray(), y)
        model.fit(X, y, X_val=X[:50].astype(np.float32), y_val=y[:50])
        np.testing.assert_allclose(model.predict_proba(X), dense.predict_proba(X.toarray()), atol=1e-12)
        np.testing.assert_allclose(
            model.predict_proba(X[:2].tocsc()), dense.predict_proba(X[:2].toarray()), atol=1e-12
        )
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        MLPRegressor(solver="sgd", activation="identity", learning_rate_init=1e6).fit(X, DIABETES[1][:300])


def test_class_weights_are_weights_of_samples():
    X, y = DIGITS
    weighted = MLPClassifier(class_weight={3: 5.0}, random_state=0, max_iter=10).fit(X, y)
    samples = MLPClassifier(random_state=0, max_iter=10).fit(X, y, sample_weight=np.where(y == 3, 5.0, 1.0))
    np.testing.assert_array_equal(weighted.mlp_.parameter_vector, samples.mlp_.parameter_vector)
    with pytest.raises(ValueError, match=r"weight.*zero"):
        MLPClassifier().fit(X, y, sample_weight=np.zeros(len(y)))
    for wrong in (-1, 0):
        with pytest.raises(ValueError, match="weight must be at least 0"):
            MLPClassifier(class_weight=dict.fromkeys(range(10), wrong)).fit(X, y)


@pytest.mark.parametrize("stops", [False, True])
def test_validation_data_of_ones_own(stops):
    X, y = DIGITS
    model = MLPClassifier((16,), random_state=0, max_iter=60, early_stopping=stops, n_iter_no_change=3)
    model.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    assert (
        len(model.validation_scores_) == len(model.validation_loss_curve_) == len(model.loss_curve_) == model.n_iter_
    )
    if stops:
        assert model.score(X[400:], y[400:]) == model.best_validation_score_ == max(model.validation_scores_)
    else:
        assert model.score(X[400:], y[400:]) == model.validation_scores_[-1]
    likelihood = -np.log(model.predict_proba(X[400:])[np.arange(len(y) - 400), y[400:]]).mean()
    if not stops:
        assert model.validation_loss_curve_[-1] == pytest.approx(likelihood)
    with pytest.raises(ValueError, match="X_val and y_val belong together"):
        model.fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="y_val must have classes among"):
        model.fit(X, y, X_val=X[:2], y_val=[3, 77])


def test_validation_scores_are_what_score_says(rng):
    for data in (DIGITS, TWO_CLASSES, SEVERAL_LABELS, DIABETES, SEVERAL_OUTPUTS):
        X, y = data
        half = rng.permutation(len(X))[: len(X) // 2]
        y_val = np.roll(y[half], 1, axis=0)  # so that not all is right
        model = pair(data, {"max_iter": 30})[0].fit(X, y, X_val=X[half], y_val=y_val)
        assert model.validation_scores_[-1] == pytest.approx(model.score(X[half], y_val), abs=1e-12)
    constant = np.full(len(half), 2.0)
    model = MLPRegressor(max_iter=2).fit(X, y[:, 0], X_val=X[half], y_val=constant)
    assert model.validation_scores_[-1] == model.score(X[half], constant) == 0


def test_the_network_can_be_proved_and_saved(tmp_path):
    X, y = IRIS
    model = MLPClassifier((8,), activation="tanh", random_state=0, max_iter=20).fit(X, y)
    assert model.mlp_.verify(X, y).ok
    model.mlp_.save(tmp_path / "model")
    np.testing.assert_array_equal(fastmlp.load(tmp_path / "model").predict(X), model.predict_proba(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be > 0"),
        ({"activation": "cubic"}, "activation must be one of"),
        ({"activation": None}, "activation must be a name, or one for each"),
        ({"activation": ("relu", "tanh")}, "activation must be one name, or one for each of 1"),
        ({"solver": "newton"}, "solver must be one of"),
        ({"solver": 3}, "solver must be one of"),
        ({"alpha": -1}, "alpha must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"learning_rate": "fast"}, "learning_rate must be one of"),
        ({"learning_rate_init": 0}, "learning_rate_init must be"),
        ({"momentum": 2}, "momentum must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"n_iter_no_change": 0}, "n_iter_no_change must be"),
        ({"shuffle": "yes"}, "shuffle must be True or False"),
        ({"power_t": "half"}, "power_t must be a finite number"),
        ({"dropout": 1}, "dropout must be"),
        ({"power_t": -1.0}, "power_t must be"),
        ({"power_t": np.nan}, "power_t must be"),
        ({"loss": "hinge"}, "loss must be"),
        ({"loss": lambda A, Y: (0.0, A)}, "loss must be"),
        ({"solver": fastmlp.Adam(fastmlp.ReduceOnPlateau(0.1))}, "must not wait for a plateau"),
        ({"solver": "lbfgs", "dropout": 0.1}, "need a solver that trains by minibatches"),
        ({"n_threads": 0}, "n_threads must be"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    for kind in BOTH:
        with pytest.raises(ValueError, match=message) as caught:
            kind(**parameters).fit(*IRIS)
        by_the_network = parameters.keys() & {"loss", "n_threads", "dropout"}
        assert by_the_network or isinstance(caught.value, TypeError)  # as scikit-learn's own error is both


def test_what_diverges_is_told():
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        MLPRegressor(solver="sgd", activation="identity", learning_rate_init=1e3).fit(*DIABETES)
    model = MLPRegressor(activation="identity", max_iter=3, random_state=0).fit(*DIABETES)
    model.set_params(solver="sgd", learning_rate_init=1e3)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.fit(*DIABETES)
    assert np.isfinite(model.predict(DIABETES[0])).all()  # the last step that was finite
    with pytest.warns(ConvergenceWarning, match="was not finite"):
        MLPRegressor(solver="sgd", activation="identity", learning_rate_init=1e3, early_stopping=True).fit(*DIABETES)


# ------------------------------------------------------------------------------------------------------------------
# networks to and from scikit-learn's


@pytest.mark.parametrize("data", [DIGITS, TWO_CLASSES, SEVERAL_LABELS, DIABETES, SEVERAL_OUTPUTS])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_networks_of_scikit_learn_come_and_go(data, activation):
    X = data[0]
    estimator = pair(data, {"activation": activation, "hidden_layer_sizes": (7, 5), "max_iter": 5})[1].fit(*data)
    mlp = from_sklearn(estimator)
    predict = getattr(estimator, "predict_proba", estimator.predict)
    expected = predict(X).reshape(len(X), -1)
    np.testing.assert_allclose(mlp.predict(X), expected[:, -mlp.config["layer_sizes"][-1] :], atol=1e-12)
    back = to_sklearn(mlp, getattr(estimator, "classes_", None))
    np.testing.assert_allclose(getattr(back, "predict_proba", back.predict)(X), predict(X), atol=1e-12)
    if hasattr(estimator, "classes_"):
        np.testing.assert_array_equal(back.predict(X), estimator.predict(X))
    ours = pair(data, {"max_iter": 3})[0].fit(*data)
    np.testing.assert_array_equal(from_sklearn(ours).parameter_vector, ours.mlp_.parameter_vector)


def test_a_network_given_to_scikit_learn_is_a_copy():
    """Of one output as well, whose weights lie in memory as their transpose does."""
    X, Y = DIABETES[0], DIABETES[1][:, None]
    mlp = fastmlp.MLP([X.shape[1], 8, 1], hidden_activation="relu", rng=0)
    converted = to_sklearn(mlp)
    before = converted.predict(X)
    mlp.train_step(X, Y, learning_rate=0.01)
    np.testing.assert_array_equal(converted.predict(X), before)
    converted.partial_fit(X, Y[:, 0])
    assert not np.array_equal(converted.predict(X), before)


def test_a_single_class_is_always_right(rng):
    X, y = rng.standard_normal((60, 3)), np.zeros(60, int)
    ours, scikit_learns = pair((X, y), {"early_stopping": True})
    for estimator in (ours, scikit_learns):
        estimator.fit(X, y)
    assert set(ours.validation_scores_) == {1.0}
    assert ours.n_iter_ == scikit_learns.n_iter_


def test_held_out_samples_without_weight_are_refused(rng):
    X, y = rng.standard_normal((50, 3)), np.repeat([0, 1], 25)
    model = MLPClassifier((3,), early_stopping=True, max_iter=2, random_state=0)
    with pytest.raises(ValueError, match="sample_weight must be above 0 somewhere among the samples held out"):
        model.fit(X, y, sample_weight=np.r_[np.ones(2), np.zeros(48)])


def test_dropout_may_stand_in_lists():
    X, y = DIABETES
    for solver, dropout in (("adam", [0.1, 0.2]), ("lbfgs", [0.0, 0.0])):
        MLPRegressor(hidden_layer_sizes=(3, 3), dropout=dropout, solver=solver, max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(TypeError, match="dropout must be"):
        MLPRegressor(hidden_layer_sizes=(3, 3), dropout=np.array([0.1, 0.1])).fit(X, y)


def test_training_goes_on_in_scikit_learn():
    X, y = IRIS
    model = MLPClassifier((9,), max_iter=50, learning_rate_init=0.01, random_state=0).fit(X, y)
    goes_on = to_sklearn(model.mlp_).set_params(learning_rate_init=0.01)
    for _ in range(50):
        goes_on.partial_fit(X, y)
    assert goes_on.loss_ < model.loss_
    goes_on.set_params(warm_start=True, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes and data must fit .* \[4, 9, 3\] wide; got \[4, 5, 3\]"):
        model.set_params(warm_start=True, hidden_layer_sizes=(5,)).fit(X, y)


def test_classes_are_sorted_on_their_way():
    X = np.random.default_rng(0).standard_normal((9, 4))
    for outputs, names in ((3, ["red", "green", "blue"]), (1, ["yes", "no"])):
        loss = "softmax_cross_entropy" if outputs > 1 else "binary_cross_entropy"
        mlp = fastmlp.MLP([4, 6, outputs], hidden_activation="relu", loss=loss, rng=0)
        A = mlp.predict(X)
        expected = np.array(names)[A.argmax(axis=1)] if outputs > 1 else np.array(names)[(A[:, 0] > 0.5).astype(int)]
        np.testing.assert_array_equal(to_sklearn(mlp, names).predict(X), expected)
        for wrong in (names[:1], ["a"] * len(names)):
            with pytest.raises(ValueError, match="classes must be"):
                to_sklearn(mlp, wrong)


def test_several_labels_keep_their_order_and_a_line_has_no_layer(rng):
    X = rng.standard_normal((9, 4))
    mlp = fastmlp.MLP([4, 6, 2], hidden_activation="relu", loss="binary_cross_entropy", rng=0)
    several = to_sklearn(mlp, ["b", "a"])
    np.testing.assert_allclose(several.predict_proba(X), mlp.predict(X))
    assert list(several.classes_) == ["b", "a"]
    line = fastmlp.MLP([4, 1], rng=0)
    np.testing.assert_allclose(to_sklearn(line).predict(X), line.predict(X).ravel())


def test_what_scikit_learn_has_not_is_refused():
    for mlp in (
        fastmlp.MLP([2, 3, 1], hidden_activation="gelu"), fastmlp.MLP([2, 3, 1], loss="huber"),
        fastmlp.MLP([2, 3, 3, 1], hidden_activation=["tanh", "relu"]),
        fastmlp.MLP([2, 3, 1], output_activation="tanh"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="mlp must"):
            to_sklearn(mlp)
    with pytest.raises(TypeError, match="estimator must be a fitted"):
        from_sklearn(StandardScaler())
    with pytest.raises(TypeError, match=r"mlp must be a fastmlp\.MLP; got MLPClassifier"):
        to_sklearn(MLPClassifier())


def test_warnings_name_the_line_of_the_user():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MLPClassifier(max_iter=1).fit(*IRIS)
        MLPClassifier(max_iter=1, batch_size=1000).fit(*IRIS)
        MLPRegressor(max_iter=1, solver="lbfgs").fit(*DIABETES)
    assert len(caught) == 4
    assert {warning.filename for warning in caught} == {__file__}


REFUSED_FITS = {
    "validation of other features": ({}, lambda X, y: {"X_val": X[:, :2], "y_val": y}),
    "validation of other classes": ({}, lambda X, y: {"X_val": X, "y_val": y + 5}),
    "validation of another shape": ({}, lambda X, y: {"X_val": X, "y_val": np.eye(3)[y]}),
    "no such dropout": ({"dropout": 2.0}, lambda X, y: {}),
    "no such threads": ({"n_threads": -1}, lambda X, y: {}),
    "no such random state": ({"random_state": "x"}, lambda X, y: {}),
    "weights below 0": ({}, lambda X, y: {"sample_weight": -np.ones(len(X))}),
    "too little held out": ({"early_stopping": True, "validation_fraction": 0.01}, lambda X, y: {}),
}


@pytest.mark.parametrize("refused", REFUSED_FITS)
def test_a_refused_fit_changes_nothing(refused, rng):
    parameters, given = REFUSED_FITS[refused]
    X = rng.standard_normal((60, 4))
    y = (X[:, 0] > 0).astype(int)
    model = MLPClassifier((5,), max_iter=20, learning_rate_init=0.02, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    before, predicted = dict(vars(model)), model.predict_proba(X)
    model.set_params(**parameters)
    for targets in (y, np.arange(60) % 3):
        with pytest.raises((TypeError, ValueError)):
            model.fit(X, targets, **given(X, targets))
        model.set_params(**{name: before[name] for name in parameters})
        np.testing.assert_array_equal(model.predict_proba(X), predicted)
        assert vars(model).keys() == before.keys()
        assert all(vars(model)[name] is value for name, value in before.items())
        model.set_params(**parameters)
    unfitted = MLPClassifier((5,), max_iter=20, random_state=0).set_params(**parameters)
    names = set(vars(unfitted))
    with pytest.raises((TypeError, ValueError)):
        unfitted.fit(X, y, **given(X, y))
    assert set(vars(unfitted)) == names


def test_a_refused_first_partial_fit_teaches_no_classes(rng):
    X, y = rng.standard_normal((60, 4)), np.arange(60) % 3
    model = MLPClassifier((5,), random_state=0)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.partial_fit(X[:7], y % 2, classes=[0, 1])
    model.partial_fit(X, y, classes=[0, 1, 2])


def test_a_minibatch_of_sparse_rows_may_weigh_nothing(rng):
    X, y = scipy.sparse.random(40, 60, 0.03, format="csr", random_state=0), np.arange(40) % 3
    settings = {"class_weight": {0: 0.0, 1: 0.0, 2: 1.0}, "batch_size": 1, "max_iter": 2, "random_state": 0}
    with pytest.warns(ConvergenceWarning):
        models = [MLPClassifier((4,), **settings).fit(rows, y) for rows in (X, X.toarray())]
    np.testing.assert_allclose(models[0].coefs_[0], models[1].coefs_[0], rtol=0, atol=1e-12)
