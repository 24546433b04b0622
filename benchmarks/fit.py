"""``MLP.fit``: one epoch of minibatches with Adam, on real and on large data, and how much memory it takes."""

from __future__ import annotations

import numpy as np

import fastmlp
from fastmlp.data import load_digits

from .shapes import DTYPES, THREADS, Shape, assert_close, expected, problem

LAYER_SIZES = (64, 128, 64, 10)
BATCH_SIZE = 128


class Digits:
    """Classification of the digits that come with the package."""

    params = (DTYPES, THREADS)
    param_names = ("dtype", "n_threads")

    def setup(self, dtype, n_threads):
        """Compile, and see that the loss of a first epoch is that of the oracle's forward pass."""
        images, self.labels = load_digits()
        self.X = (images / 16).astype(dtype)
        loss = "softmax_cross_entropy"
        self.mlp = fastmlp.MLP(
            LAYER_SIZES, hidden_activation="relu", loss=loss, dtype=dtype, rng=0, n_threads=n_threads
        )
        one_hot = np.eye(10)[self.labels]
        oracle = expected(self.mlp, self.X, one_hot, activations=["relu", "relu", "softmax"], loss=loss)
        # all samples in one batch: the loss of this epoch is that of the initial parameters
        history = self.mlp.fit(self.X, self.labels, epochs=1, batch_size=None, progress=False)
        assert_close(history.loss[0], oracle.loss, dtype)
        self.time_epoch(dtype, n_threads)

    def time_epoch(self, dtype, n_threads):
        self.mlp.fit(self.X, self.labels, epochs=1, batch_size=BATCH_SIZE, optimizer="adam", progress=False)


class LargeData:
    """More samples than any cache holds: what a step takes must not grow with them."""

    params = (["float32"], THREADS)
    param_names = ("dtype", "n_threads")

    def setup(self, dtype, n_threads):
        """Compile, and compare the loss of all samples with the oracle's."""
        self.mlp, self.X, self.Y = problem(Shape(LAYER_SIZES, 100_000), dtype, n_threads=n_threads)
        few = slice(0, 2_000)
        assert_close(self.mlp.loss(self.X[few], self.Y[few]), expected(self.mlp, self.X[few], self.Y[few]).loss, dtype)
        self.mlp.fit(self.X[few], self.Y[few], epochs=1, batch_size=BATCH_SIZE, optimizer="adam", progress=False)

    def time_epoch(self, dtype, n_threads):
        self.mlp.fit(self.X, self.Y, epochs=1, batch_size=BATCH_SIZE, optimizer="adam", progress=False)

    def peakmem_epoch(self, dtype, n_threads):
        self.mlp.fit(self.X, self.Y, epochs=1, batch_size=BATCH_SIZE, optimizer="adam", progress=False)
