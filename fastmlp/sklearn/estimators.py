"""``MLPClassifier`` and ``MLPRegressor`` with scikit-learn's parameters, attributes and behaviour."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fastmlp import checks, settings
from fastmlp.mlp import MLP
from fastmlp.sklearn.solvers import Data, LossInTheirTerms, Stochastic, Validated, fit_lbfgs
from fastmlp.sklearn.sparse import SparseNetwork, SparseRows, reads_values

Array = NDArray[Any]

_OURS = {"logistic": "sigmoid"}
"""scikit-learn's words, in fastmlp's."""

_SOLVERS = ("lbfgs", "sgd", "adam", "adamw", "rmsprop")


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit needs a solver that trains by minibatches; got 'lbfgs'")
    return True


class InvalidParameterError(ValueError, TypeError):
    """A parameter of an estimator does not fit; both kinds of error, as scikit-learn's is."""


class _Estimator(BaseEstimator):
    """What the classifier and the regressor have in common."""

    def _take(self, given: dict[str, Any]) -> None:
        """Keep the parameters as they are given: they are checked when they are used, as in scikit-learn."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # -- training ---------------------------------------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        validation: tuple[Any, Any] = (None, None),
        *,
        incremental: bool = False,
    ) -> None:
        before = dict(self.__dict__)
        try:
            train = self._made_ready(X, y, sample_weight, validation, incremental=incremental)
        except BaseException:  # what is refused changes nothing
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        train()

    def _made_ready(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, Any], *, incremental: bool
    ) -> Callable[[], None]:
        """Check everything, and begin anew or go on: returns what trains."""
        try:
            hidden = self._check_parameters()
        except (TypeError, ValueError) as error:
            raise InvalidParameterError(str(error)) from None
        if (validation[0] is None) != (validation[1] is None):
            raise ValueError("X_val and y_val belong together; got one of them")
        if self.solver == "lbfgs" and (np.any(self.dropout) or validation[0] is not None):
            raise ValueError("dropout, X_val and y_val need a solver that trains by minibatches; got 'lbfgs'")
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._checked(X, y, reset=is_first)
        dtype = X.dtype if is_first else self._dtype_of_parameters(X.dtype)
        self._learn_classes(y, incremental=incremental)
        self._own_loss()
        targets = self._targets(y, dtype)
        targets.weights = self._weights(sample_weight, y, targets, X.shape[0])
        n_outputs = len(self.classes_) if targets.labels.size else targets.values.shape[1]
        sizes = [X.shape[1], *hidden, n_outputs]
        random_state = check_random_state(self.random_state)
        if is_first:
            self._begin(sizes, dtype, random_state)
        self.n_outputs_ = n_outputs
        mlp = self._network_of(sizes, dtype, random_state)
        self._link(mlp)  # already now: what is learned before an error is kept
        data, validate = Data(_rows_of(X), targets), None
        if self.solver == "lbfgs":
            return partial(fit_lbfgs, self, mlp, data)
        held = self._validation(X, y, targets, validation, random_state, dtype)
        if held is not None:
            data, held_data, held_y = held
            loss = LossInTheirTerms(mlp, held_data)

            def validate() -> Validated:
                return Validated(self._score(mlp, held_data, held_y), loss.of(held_data))

        if not incremental or not hasattr(self, "_learning_rate"):
            self._learning_rate = float(self.learning_rate_init)
            mlp._forget()  # nothing is refused any more
        stochastic = Stochastic(self, mlp, data, validate)
        epochs = 1 if incremental else self.max_iter
        return partial(stochastic.fit, random_state, epochs=epochs, warns=not incremental, is_first=is_first)

    def _begin(self, sizes: list[int], dtype: np.dtype, random_state: np.random.RandomState) -> None:
        """Draw initial parameters, in scikit-learn's order; and forget what was before."""
        self.__dict__.pop("_network", None)
        self.n_iter_, self.t_, self.n_layers_ = 0, 0, len(sizes)
        self.out_activation_ = self._output_activation()
        names = self._activations(len(sizes) - 2)
        self.coefs_, self.intercepts_ = [], []
        # scikit-learn has one activation, and draws the last layer by it too
        of_last = names[-1] if names else self._activations(1)[0] if isinstance(self.activation, str) else "relu"
        for inputs, outputs, name in zip(sizes[:-1], sizes[1:], [*names, of_last], strict=True):
            # Glorot & Bengio 2010, for the sigmoid a third of the variance
            bound = np.sqrt((2 if name == "sigmoid" else 6) / (inputs + outputs))
            self.coefs_.append(random_state.uniform(-bound, bound, (inputs, outputs)).astype(dtype, copy=False))
            self.intercepts_.append(random_state.uniform(-bound, bound, outputs).astype(dtype, copy=False))
        self._no_improvement_count = 0
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self.best_loss_ = None if self.early_stopping else np.inf
            self.best_validation_score_ = -np.inf if self.early_stopping else None
            self.validation_scores_: list[float] | None = None
            self.validation_loss_curve_: list[float] | None = None

    def _network_of(self, sizes: list[int], dtype: np.dtype, random_state: np.random.RandomState) -> MLP:
        """The network with ``coefs_`` and ``intercepts_``: the one that is there, as long as its settings are."""
        kept: MLP | None = self.__dict__.get("_network")
        penalty = settings.Penalty(l2=float(self.alpha), divided_by_samples=True) if self.alpha else None
        wanted = {
            "layer_sizes": tuple(sizes), "hidden_activation": tuple(self._activations(len(sizes) - 2)),
            "loss": self._own_loss(), "penalty": penalty, "dropout": self.dropout, "dtype": dtype.name,
            "n_threads": self.n_threads,
        }  # fmt: skip
        if kept is not None and all(kept.config[name] == value for name, value in wanted.items()):
            mlp = kept
        else:
            seed = 0 if kept is None else kept.config["rng"]
            if kept is None and np.any(self.dropout):
                seed = int(random_state.randint(np.iinfo(np.int32).max))
            mlp = MLP(**wanted, rng=seed)
            if kept is not None and kept._memory.shape == mlp._memory.shape and kept._dtype == mlp._dtype:
                mlp._remember_as(kept)
        self._synchronize(mlp)
        return mlp

    def _validation(
        self,
        X: Any,
        y: Any,
        targets: checks.Targets,
        given: tuple[Any, Any],
        random_state: np.random.RandomState,
        dtype: np.dtype,
    ) -> tuple[Data, Data, Any] | None:
        """What is trained on, what is held out, and its ``y``; nothing if nothing is held out."""
        rows = np.arange(X.shape[0])
        if given[0] is not None:
            X_held, y_held = self._checked(*given, reset=False)
            self._check_known(y_held, "y_val")
            if np.shape(y_held)[1:] != np.shape(y)[1:]:
                expected = f"(n_samples, {y.shape[1]})" if y.ndim == 2 else "(n_samples,)"
                raise ValueError(f"y_val must have shape {expected}, as y has; got {y_held.shape}")
            held = Data(_rows_of(X_held), self._targets(y_held, dtype))
            training, kept = X, targets
        elif self.early_stopping:
            # of each class the same part, but not of several labels at once
            stratify = targets.values.astype(bool) if is_classifier(self) and self.n_outputs_ == 1 else None
            rows, held_rows = train_test_split(
                rows, random_state=random_state, test_size=self.validation_fraction, stratify=stratify
            )
            if len(held_rows) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
            y_held = y[held_rows]
            held = Data(_rows_of(X[held_rows]), targets.of_rows(held_rows, dtype))
            training, kept = X[rows], targets.of_rows(rows, dtype)
        else:
            return None
        if held.targets.weights.size and held.targets.weights.max() == 0:
            raise ValueError("sample_weight must be above 0 somewhere among the samples held out; got zero for all")
        if self.validation_scores_ is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
        return Data(_rows_of(training), kept), held, y_held

    def _weights(self, sample_weight: Any, y: Any, targets: checks.Targets, n_samples: int) -> NDArray[np.float64]:
        if isinstance(sample_weight, Real):
            sample_weight = np.full(n_samples, float(sample_weight))
        weights = checks.sample_weight(sample_weight, None, targets, n_samples)
        class_weight = getattr(self, "class_weight", None)
        if class_weight is None:
            return weights
        of_classes = compute_sample_weight(class_weight, y)
        return checks.sample_weight(of_classes * weights if weights.size else of_classes, None, targets, n_samples)

    # -- parameters -------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> list[int]:
        """Refuse what does not fit, naming it; returns the widths of the hidden layers."""
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if not all(isinstance(size, int | np.integer) and size > 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        self._activations(len(hidden))
        if isinstance(self.solver, str):
            checks.one_of("solver", self.solver, _SOLVERS)
        elif not isinstance(self.solver, settings.Optimizer):
            raise TypeError(
                f"solver must be one of {', '.join(_SOLVERS)}, or fastmlp's optimizer; got {self.solver!r}"
            )
        elif isinstance(self.solver.learning_rate, settings.ReduceOnPlateau):
            raise TypeError(
                f"solver must not wait for a plateau, as learning_rate='adaptive' does; got {self.solver!r}"
            )
        checks.one_of("learning_rate", self.learning_rate, ("constant", "invscaling", "adaptive"))
        if self.batch_size != "auto":
            checks.integer("batch_size", self.batch_size)
        for name in ("alpha", "tol", "power_t"):
            settings.check_number(name, getattr(self, name), low=0)
        for name in ("learning_rate_init", "epsilon"):
            settings.check_number(name, getattr(self, name), low=0, low_allowed=False)
        for name in ("momentum", "validation_fraction", "beta_1", "beta_2"):
            settings.check_number(name, getattr(self, name), low=0, high=1)
        for name in ("max_iter", "max_fun"):
            checks.integer(name, getattr(self, name))
        if self.n_iter_no_change != np.inf:
            checks.integer("n_iter_no_change", self.n_iter_no_change)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            settings.check_flag(name, getattr(self, name))
        return [int(size) for size in hidden]

    def _activations(self, n_hidden: int) -> list[str]:
        """Names of the hidden layers' activations, as fastmlp has them."""
        given = self.activation
        if not isinstance(given, str | list | tuple):
            raise TypeError(f"activation must be a name, or one for each hidden layer; got {given!r}")
        names = [given] * n_hidden if isinstance(given, str) else list(given)
        if len(names) != n_hidden:
            raise ValueError(
                f"activation must be one name, or one for each of {n_hidden} hidden layers; got {given!r}"
            )
        known = ("identity", "logistic", "tanh", "relu", "sigmoid", "leaky_relu", "elu", "softplus", "silu", "gelu")
        return [_OURS.get(name, name) for name in (checks.one_of("activation", name, known) for name in names)]

    def _synchronize(self, mlp: MLP) -> None:
        """Let the network have ``coefs_`` and ``intercepts_``, which anybody may have changed or replaced."""
        if self._widths() != list(mlp._sizes):
            raise ValueError(
                f"hidden_layer_sizes and data must fit the parameters that training goes on with, whose layers are"
                f" {self._widths()} wide; got {list(mlp._sizes)}"
            )
        for pair, coefs, intercepts in zip(mlp._pairs(mlp._vector), self.coefs_, self.intercepts_, strict=True):
            for view, array in zip(pair, (np.asarray(coefs).T, np.asarray(intercepts)), strict=True):
                if not _is_same_memory(view, array):
                    view[...] = array
        mlp._parameters_changed()

    def _widths(self) -> list[int]:
        """Of the layers that ``coefs_`` and ``intercepts_`` are of."""
        shapes = [np.shape(coefs) for coefs in self.coefs_]
        widths = [shapes[0][0], *(shape[1] for shape in shapes)]
        fit = [*zip(widths[:-1], widths[1:], strict=True)]
        if shapes != fit or [np.shape(b) for b in self.intercepts_] != [(width,) for width in widths[1:]]:
            of_biases = [np.shape(b) for b in self.intercepts_]
            raise ValueError(
                f"coefs_ and intercepts_ must be of layers that follow each other; got {shapes}, {of_biases}"
            )
        return widths

    def _dtype_of_parameters(self, otherwise: np.dtype) -> np.dtype:
        found = np.asarray(self.coefs_[0]).dtype
        return found if found in (np.float64, np.float32) else otherwise

    def _link(self, mlp: MLP) -> None:
        """Let ``coefs_`` and ``intercepts_`` be the network's own parameters, in scikit-learn's orientation."""
        self._network = mlp
        pairs = mlp._pairs(mlp._vector)
        self.coefs_, self.intercepts_ = [W.T for W, _ in pairs], [b for _, b in pairs]

    @property
    def mlp_(self) -> MLP:
        """The network, with the present ``coefs_`` and ``intercepts_``."""
        if "_network" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} has no network yet: call fit first")
        widths = self._widths()
        if widths != list(self._network._sizes):  # somebody has taken units away, or added some
            self._network = MLP(**{**self._network.config, "layer_sizes": widths})
        self._synchronize(self._network)
        return self._network

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_network" in self.__dict__:
            self._link(self.mlp_)

    # -- prediction -------------------------------------------------------------------------------------------------

    def _output(self, X: Any) -> Array:
        """What the network says of rows as a user gives them; of one output, a vector."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return _outputs(self.mlp_, _rows_of(X))

    def _score(self, mlp: MLP, held: Data, y: Any) -> float:
        """What ``score`` says of validation data; it is asked after each epoch, and takes less than an epoch."""
        output = _outputs(mlp, held.X)
        if not np.isfinite(output).all():
            return float("nan")
        weights = held.targets.weights if held.targets.weights.size else None
        with np.errstate(over="ignore"):  # of a run that diverges
            return self._score_of(output, held.targets, y, weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _rows_of(X: Any) -> Any:
    return SparseRows(X) if issparse(X) else X


def _outputs(mlp: MLP, X: Any) -> Array:
    """Predictions; of one output, a vector."""
    if reads_values(X, mlp):
        output = SparseNetwork(mlp, X.matrix).predict()
    else:
        parts = X.parts(mlp._dtype) if isinstance(X, SparseRows) else [X]
        output = np.concatenate([mlp.predict(part) for part in parts])
    return output.ravel() if output.shape[1] == 1 else output


def _is_same_memory(one: Array, other: Array) -> bool:
    first, second = one.__array_interface__, other.__array_interface__
    is_same = first["data"][0] == second["data"][0] and one.strides == other.strides
    return bool(is_same and one.dtype == other.dtype and one.shape == other.shape)


class MLPClassifier(ClassifierMixin, _Estimator):
    """A classifier with scikit-learn's interface, trained by fastmlp.

    It does what ``sklearn.neural_network.MLPClassifier`` does, with the same parameters, defaults and attributes
    [1]_; with the same ``random_state`` it takes the same steps. It needs ``pip install "fastmlp[sklearn]"``.

    Parameters
    ----------
    hidden_layer_sizes, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, \
beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn [1]_.
    activation : str or sequence of str
        "identity", "logistic", "tanh", "relu", or fastmlp's "leaky_relu", "elu", "softplus", "silu", "gelu"; one for
        all hidden layers, or one for each.
    solver : str or optimizer
        "lbfgs", "sgd", "adam", or "adamw", "rmsprop", or an object such as ``fastmlp.Adam(fastmlp.CosineDecay(...))``,
        whose settings then count instead of scikit-learn's.
    loss : str or SoftmaxCrossEntropy
        "log_loss"; or, for three classes or more, ``fastmlp.SoftmaxCrossEntropy(label_smoothing=0.1)``.
    dropout : float or sequence of float
        The part of each hidden layer's units that is set to 0 in a training step.
    class_weight : None, "balanced" or mapping from class to weight
        Multiplies the weights of the samples, as in scikit-learn's other classifiers.
    n_threads : int, optional
        At most so many threads; by default it is chosen from the size of the work.

    Attributes
    ----------
    classes_, coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, \
n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn [1]_.
    validation_loss_curve_ : list of float
        The loss of the validation data after each epoch, if there are any.
    mlp_ : fastmlp.MLP
        The network: for ``verify``, ``explain``, ``save``.

    Raises
    ------
    TypeError, ValueError
        In ``fit``, of each parameter or array that does not fit.

    References
    ----------
    .. [1] https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.MLPClassifier.html

    Examples
    --------
    >>> from fastmlp.sklearn import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, X_test, y, y_test = train_test_split(*load_iris(return_X_y=True), random_state=0)
    >>> classifier = MLPClassifier((8,), solver="lbfgs", alpha=0.1, random_state=0)
    >>> model = make_pipeline(StandardScaler(), classifier).fit(X, y)
    >>> bool(model.score(X_test, y_test) > 0.95)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Any = "log_loss",
        dropout: Any = 0.0,
        class_weight: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self._take(locals())

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> MLPClassifier:
        """Train.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
        y : array_like of shape (n_samples,) or (n_samples, n_labels)
            Classes, of any kind; or for several labels at once, 0 or 1 for each.
        sample_weight : array_like of shape (n_samples,), optional
        X_val, y_val : optional
            Validation data, instead of a part of the others; scored after each epoch.

        Returns
        -------
        MLPClassifier
            Itself.
        """
        self._fit(X, y, sample_weight, (X_val, y_val))
        return self

    @available_if(_is_stochastic)
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, classes: ArrayLike | None = None
    ) -> MLPClassifier:
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``.
        classes : array_like of shape (n_classes,), optional
            All classes there will be: needed in the first call.

        Returns
        -------
        MLPClassifier
            Itself.
        """
        known = getattr(self, "classes_", None)
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            given = unique_labels(classes)
            if known is not None and not np.array_equal(known, given):
                raise ValueError(f"classes must be those of the first call, {known}; got {given}")
            if known is None:
                several = type_of_target(y).startswith("multilabel")
                self._binarizer = LabelBinarizer().fit(y if several else given)
                self.classes_ = given
        try:
            self._fit(X, y, sample_weight, incremental=True)
        except BaseException:
            if known is None and not hasattr(self, "coefs_"):  # a refused first call has taught no classes
                del self.classes_, self._binarizer
            raise
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Class of each sample.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        output = self._output(X)
        return self._binarizer.inverse_transform(output)

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each class.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        output = self._output(X)
        return np.stack([1 - output, output], axis=1) if output.ndim == 1 else output

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Logarithm of :meth:`predict_proba`, with the same arguments."""
        return np.log(self.predict_proba(X))

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=reset
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _learn_classes(self, y: Any, *, incremental: bool) -> None:
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._binarizer.classes_
            return
        classes = unique_labels(y)
        if self.warm_start and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                f" Previously got {self.classes_}, `y` has {classes}"
            )
        self._check_known(y, "y")

    def _check_known(self, y: Any, name: str) -> None:
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(f"{name} must have classes among {self.classes_}, which are known; got {classes}")

    def _targets(self, y: Any, dtype: np.dtype) -> checks.Targets:
        if self._binarizer.y_type_ == "multiclass":
            return checks.Targets(np.empty(0, dtype), np.searchsorted(self.classes_, y).astype(np.int64))
        return checks.Targets(np.ascontiguousarray(self._binarizer.transform(y).astype(bool), dtype))

    def _own_loss(self) -> Any:
        of_one_class = self._binarizer.y_type_ == "multiclass"
        if isinstance(self.loss, settings.SoftmaxCrossEntropy) and of_one_class:
            return self.loss
        if self.loss != "log_loss":
            expected = "'log_loss', or fastmlp.SoftmaxCrossEntropy(...) for three classes or more"
            raise ValueError(f"loss must be {expected}; got {self.loss!r}")
        return "softmax_cross_entropy" if of_one_class else "binary_cross_entropy"

    def _output_activation(self) -> str:
        return "softmax" if self._binarizer.y_type_ == "multiclass" else "logistic"

    def _score_of(self, output: Array, targets: checks.Targets, _: Any, weights: Array | None) -> float:
        """The accuracy; of several labels, the share of samples of which all are right."""
        if targets.labels.size:
            right = output.argmax(axis=1) == targets.labels
        elif len(self.classes_) == 1:
            right = np.ones(len(output), bool)  # it is what is predicted, whatever the output
        else:
            right = ((output.reshape(targets.values.shape) > 0.5) == (targets.values > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _Estimator):
    """A regressor with scikit-learn's interface, trained by fastmlp.

    It does what ``sklearn.neural_network.MLPRegressor`` does, with the same parameters, defaults and attributes
    [1]_; with the same ``random_state`` it takes the same steps. It needs ``pip install "fastmlp[sklearn]"``.

    Parameters
    ----------
    loss : str or Huber or Quantile
        "squared_error", "poisson", or fastmlp's "absolute_error", "huber", "quantile", or an object such as
        ``fastmlp.Quantile(0.9)``. Of several outputs, ``loss_`` tells the mean, as scikit-learn does.
    hidden_layer_sizes, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, \
beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn [1]_.
    activation, solver, dropout, n_threads
        As in :class:`MLPClassifier`.

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, \
n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn [1]_.
    validation_loss_curve_, mlp_
        As in :class:`MLPClassifier`.

    Raises
    ------
    TypeError, ValueError
        In ``fit``, of each parameter or array that does not fit.

    References
    ----------
    .. [1] https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.MLPRegressor.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.sklearn import MLPRegressor
    >>> X = np.linspace(-3, 3, 50)[:, None]
    >>> y = np.sin(X).ravel()
    >>> model = MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", solver="lbfgs", random_state=0)
    >>> bool(model.fit(X, y).score(X, y) > 0.99)
    True
    """

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        n_threads: int | None = None,
    ) -> None:
        self._take(locals())

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> MLPRegressor:
        """Train.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array_like of shape (n_samples,), optional
        X_val, y_val : optional
            Validation data, instead of a part of the others; scored after each epoch.

        Returns
        -------
        MLPRegressor
            Itself.
        """
        self._fit(X, y, sample_weight, (X_val, y_val))
        return self

    @available_if(_is_stochastic)
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> MLPRegressor:
        """Train for one epoch more; the arguments are those of ``fit``."""
        self._fit(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Output of each sample.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._output(X)

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _learn_classes(self, y: Any, *, incremental: bool) -> None:
        """There are none."""

    def _check_known(self, y: Any, name: str) -> None:
        """Any number is."""

    def _targets(self, y: Any, dtype: np.dtype) -> checks.Targets:
        if np.asarray(y).dtype.kind in "mM":
            raise TypeError(f"y must hold real numbers; got dtype {np.asarray(y).dtype}")
        rows = np.ascontiguousarray(y, dtype).reshape(len(y), -1)
        return checks.targets("y", rows, rows.shape[1], settings.loss_name(self.loss), len(rows), dtype)

    def _own_loss(self) -> Any:
        try:
            name = settings.loss_name(self.loss)
        except (TypeError, ValueError):  # it names losses that are of no use here, too
            name = "own"
        if name == "own" or name.endswith("entropy"):
            known = "squared_error, poisson, absolute_error, huber, quantile, or an object such as fastmlp.Huber()"
            raise ValueError(f"loss must be one of {known}; got {self.loss!r}")
        return self.loss

    def _output_activation(self) -> str:
        return "exp" if settings.loss_name(self.loss) == "poisson" else "identity"

    def _score_of(self, output: Array, _: checks.Targets, y: Any, weights: Array | None) -> float:
        """R², the mean over outputs: of one that does not vary, 1 if it is met and else 0."""
        missed = np.average((y - output) ** 2, axis=0, weights=weights)
        spread = np.average((y - np.average(y, axis=0, weights=weights)) ** 2, axis=0, weights=weights)
        of_constant = np.where(missed == 0, 1.0, 0.0)
        return float(np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), of_constant).mean())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
