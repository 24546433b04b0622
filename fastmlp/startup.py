"""Compile before the first user comes: for the building of a container, or the first minute of a service."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastmlp.ensemble import Ensemble
from fastmlp.kernels import jit, prediction
from fastmlp.mlp import MLP
from fastmlp.settings import SGD


def warm_up(dtype: DTypeLike = np.float64, *, derivatives: bool = False) -> None:
    """Compile everything that training and prediction of one dtype need, or find it in the cache.

    It takes some 20 seconds where nothing is cached, and about one where all is. Later processes that use the same
    cache (``NUMBA_CACHE_DIR``) on the same kind of processor then start at once.

    Parameters
    ----------
    dtype : dtype
        float64 or float32.
    derivatives : bool
        Whether the derivatives beside the gradient are to be compiled too, such as ``jacobian``: some 25 seconds more.

    Raises
    ------
    TypeError, ValueError
        If it is neither.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.warm_up("float32")
    """
    step = SGD()
    for n_threads in range(1, min(jit.max_threads(), 2) + 1):
        mlp = MLP([1, 1], dtype=dtype, rng=0, n_threads=n_threads)
        X = np.zeros((prediction.SAMPLES_ALONE + 1, 1), mlp.config["dtype"])
        mlp.fit(X, X, epochs=1, validation=(X, X), progress=False)
        for samples in (1, len(X), len(X)):  # the third one is packed
            mlp.predict(X[:samples])
        for targets in (X, X[:, 0].copy()):
            for sample_weight in (None, None, None, *[np.ones(len(X))] * 3):  # the third one of a kind is packed
                mlp.train_step(X, targets, optimizer=step, sample_weight=sample_weight)
        classifier = MLP([1, 2], loss="softmax_cross_entropy", dtype=dtype, rng=0, n_threads=n_threads)
        labels = np.zeros(len(X), np.int64)
        for targets in (labels, np.eye(2, dtype=X.dtype)[labels]):
            for _ in range(3):
                classifier.train_step(X, targets, optimizer=step)
        mlp.forward(X)
        Ensemble(2, [1, 1], dtype=dtype, rng=0, n_threads=n_threads).fit(X, X, epochs=1)
        mlp.update(mlp.backward(X), "sgd")
        if derivatives:
            mlp.jacobian(X)
            mlp.input_gradient(X, X)
            mlp.per_sample_gradients(X, X)
            MLP([1, 1, 1], dtype=dtype, rng=0, n_threads=n_threads).hessian_vector_product(X, X, np.ones(4))
