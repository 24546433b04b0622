"""Networks to and from ``sklearn.neural_network``, by their arrays: the same predictions to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from fastmlp.mlp import MLP

_LOSSES = {
    "identity": "squared_error",
    "exp": "poisson",
    "logistic": "binary_cross_entropy",
    "softmax": "softmax_cross_entropy",
}
"""By scikit-learn's output activation."""


def from_sklearn(estimator: Any) -> MLP:
    """Make a network of a fitted one of scikit-learn's.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted; or one of fastmlp's with the same interface.

    Returns
    -------
    MLP
        Whose ``predict`` is ``predict_proba`` of a classifier (of two classes: of the second one), or ``predict``.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> import numpy as np
    >>> import sklearn.neural_network
    >>> from fastmlp.sklearn import from_sklearn
    >>> X = np.linspace(0, 1, 20)[:, None]
    >>> theirs = sklearn.neural_network.MLPRegressor(solver="lbfgs", random_state=0).fit(X, X.ravel())
    >>> bool(np.allclose(from_sklearn(theirs).predict(X).ravel(), theirs.predict(X)))
    True
    """
    if not (hasattr(estimator, "hidden_layer_sizes") and hasattr(estimator, "activation")):
        raise TypeError(f"estimator must be a fitted MLPClassifier or MLPRegressor; got {type(estimator).__name__}")
    check_is_fitted(estimator)
    if hasattr(estimator, "mlp_"):  # one of fastmlp's: its loss may have settings
        config = {**estimator.mlp_.config, "rng": 0}
    else:
        sizes = [estimator.coefs_[0].shape[0], *(coefs.shape[1] for coefs in estimator.coefs_)]
        names = {"logistic": "sigmoid"}
        config = {
            "layer_sizes": sizes,
            "hidden_activation": names.get(estimator.activation, estimator.activation),
            "loss": _LOSSES[estimator.out_activation_],
            "dtype": estimator.coefs_[0].dtype,
            "rng": 0,
        }
    mlp = MLP(**config)
    mlp.parameters = [(W.T, b) for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    return mlp


def to_sklearn(mlp: MLP, classes: ArrayLike | None = None) -> Any:
    """Make scikit-learn's own fitted estimator of a network.

    Parameters
    ----------
    mlp : MLP
        With one activation for all hidden layers, one that scikit-learn has ("identity", "sigmoid", "tanh", "relu"),
        and one of its losses: "squared_error", "poisson", or a cross-entropy.
    classes : array_like, optional
        Of a classifier, in the order of its outputs; two of them for one output. By default 0, 1, 2, ... (The columns
        of scikit-learn's ``predict_proba`` are in the order of the sorted classes.)

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor

    Raises
    ------
    TypeError, ValueError
        If it is no network, or none that scikit-learn has.

    Examples
    --------
    >>> import fastmlp, numpy as np
    >>> from fastmlp.sklearn import to_sklearn
    >>> mlp = fastmlp.MLP([4, 8, 3], hidden_activation="relu", loss="softmax_cross_entropy", rng=0)
    >>> theirs = to_sklearn(mlp, classes=["blue", "green", "red"])
    >>> X = np.eye(4)
    >>> bool(np.allclose(theirs.predict_proba(X), mlp.predict(X)))
    True
    """
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp must be a fastmlp.MLP; got {type(mlp).__name__}")
    sizes, names = mlp.config["layer_sizes"], set(mlp._activations[:-1])
    activation = {"sigmoid": "logistic"}.get(*names, *names) if len(names) == 1 else "relu"
    output = {"sigmoid": "logistic"}.get(mlp._activations[-1], mlp._activations[-1])
    if len(names) > 1 or activation not in ("identity", "logistic", "tanh", "relu"):
        raise ValueError(f"mlp must have one hidden activation that scikit-learn has; got {', '.join(sorted(names))}")
    if _LOSSES.get(output) != mlp._loss:
        raise ValueError(f"mlp must have a loss of scikit-learn's, with the output that belongs to it; got {mlp!r}")
    is_classifier = mlp._loss.endswith("entropy")
    kind = MLPClassifier if is_classifier else MLPRegressor
    loss = {} if is_classifier else {"loss": mlp._loss}
    theirs = kind(hidden_layer_sizes=tuple(sizes[1:-1]), activation=activation, **loss)
    theirs.coefs_ = [np.array(W.T, order="C") for W, _ in mlp.parameters]  # copies, of a single row or column too
    theirs.intercepts_ = [b.copy() for _, b in mlp.parameters]
    theirs.n_features_in_, theirs.n_outputs_, theirs.n_layers_ = sizes[0], sizes[-1], len(sizes)
    theirs.out_activation_, theirs.n_iter_, theirs.t_ = output, 0, 0
    # so that partial_fit, or fit with warm_start, can go on
    theirs.loss_curve_, theirs.best_loss_, theirs._no_improvement_count = [], np.inf, 0
    theirs.validation_scores_ = theirs.best_validation_score_ = None
    if is_classifier:
        _set_classes(theirs, mlp, classes)
    return theirs


def _set_classes(theirs: Any, mlp: MLP, classes: ArrayLike | None) -> None:
    outputs = mlp.config["layer_sizes"][-1]
    several = outputs > 1 and mlp._loss == "binary_cross_entropy"
    n_classes = 2 if outputs == 1 else outputs
    given = np.arange(n_classes) if classes is None else np.asarray(classes)
    if given.shape != (n_classes,):
        raise ValueError(f"classes must be {n_classes} of them, in the order of the outputs; got {classes!r}")
    if len(np.unique(given)) != n_classes:
        raise ValueError(f"classes must be all different; got {classes!r}")
    order = np.arange(outputs) if several else np.argsort(given)  # scikit-learn's classes are sorted, labels are not
    theirs.classes_ = given[order]
    if several:
        theirs._label_binarizer = LabelBinarizer().fit(np.eye(outputs, dtype=int))
        return
    theirs._label_binarizer = LabelBinarizer().fit(given)
    if outputs == 1 and order[0] == 1:
        theirs.coefs_[-1], theirs.intercepts_[-1] = -theirs.coefs_[-1], -theirs.intercepts_[-1]
    elif outputs > 1:
        theirs.coefs_[-1] = np.ascontiguousarray(theirs.coefs_[-1][:, order])
        theirs.intercepts_[-1] = theirs.intercepts_[-1][order]
