"""scikit-learn's own interface: :class:`MLPClassifier` and :class:`MLPRegressor`, trained by fastmlp.

Change ``from sklearn.neural_network import MLPClassifier`` into ``from fastmlp.sklearn import MLPClassifier`` and keep
everything else: parameters, defaults, attributes, pipelines, grid searches. It needs
``pip install "fastmlp[sklearn]"``.

* :mod:`fastmlp.sklearn.estimators` — the interface.
* :mod:`fastmlp.sklearn.solvers` — how scikit-learn trains, step for step, in fastmlp's steps.
* :mod:`fastmlp.sklearn.conversion` — networks to and from scikit-learn's.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:  # pragma: no cover (of an environment without it)
    raise ImportError('fastmlp.sklearn needs scikit-learn: pip install "fastmlp[sklearn]"') from error

from fastmlp.sklearn.conversion import from_sklearn, to_sklearn
from fastmlp.sklearn.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "from_sklearn", "to_sklearn"]
