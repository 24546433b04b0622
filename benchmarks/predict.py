"""Prediction: of one sample, where the call itself is the cost, and of many."""

from __future__ import annotations

from .shapes import DTYPES, THREADS, Shape, assert_close, expected, problem


class Predict:
    """``MLP.predict``."""

    params = ([1, 10_000], DTYPES, THREADS)
    param_names = ("n_samples", "dtype", "n_threads")

    def setup(self, n_samples, dtype, n_threads):
        """Compile, and compare the output with the oracle's."""
        self.mlp, self.X, Y = problem(Shape((64, 128, 64, 10), n_samples), dtype, n_threads=n_threads)
        assert_close(self.mlp.predict(self.X), expected(self.mlp, self.X, Y).output, dtype)

    def time_predict(self, n_samples, dtype, n_threads):
        self.mlp.predict(self.X)
