"""Derivatives for their own sake, and what looking at a network costs: explanation, proof, monitor."""

from __future__ import annotations

import numpy as np

from fastmlp.oracle import derivatives, network

from .shapes import DTYPES, Shape, assert_close, expected, problem


class Derivatives:
    """By the input, by sample, of the output, and along a direction the second one."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Compile, and compare each with the oracle's."""
        self.mlp, self.X, self.Y = problem(Shape((64, 128, 64, 10), 256), dtype, n_threads=1)
        self.direction = np.random.default_rng(0).standard_normal(self.mlp.parameter_vector.size).astype(dtype)
        parameters = [network.Parameters(*(part.astype(float) for part in pair)) for pair in self.mlp.parameters]
        names = ["sigmoid", "sigmoid", "identity"]
        X, Y = self.X.T.astype(float), self.Y.T.astype(float)
        assert_close(
            self.mlp.input_gradient(self.X, self.Y),
            derivatives.input_gradient(parameters, X, Y, activations=names).T,
            dtype,
        )
        assert_close(self.mlp.jacobian(self.X), derivatives.jacobian(parameters, X, activations=names), dtype)
        by_sample = derivatives.per_sample_gradients(parameters, X, Y, activations=names)
        flat = np.concatenate([part.reshape(X.shape[1], -1) for pair in by_sample for part in pair], axis=1)
        assert_close(self.mlp.per_sample_gradients(self.X, self.Y), flat, dtype)
        along = network.split(self.direction.astype(float), (64, 128, 64, 10))
        product = derivatives.hessian_vector_product(parameters, X, Y, along, activations=names)
        flat = np.concatenate([part.ravel() for pair in product for part in pair])
        assert_close(self.mlp.hessian_vector_product(self.X, self.Y, self.direction), flat, dtype)

    def time_input_gradient(self, dtype):
        self.mlp.input_gradient(self.X, self.Y)

    def time_jacobian(self, dtype):
        self.mlp.jacobian(self.X)

    def time_per_sample_gradients(self, dtype):
        self.mlp.per_sample_gradients(self.X, self.Y)

    def time_hessian_vector_product(self, dtype):
        self.mlp.hessian_vector_product(self.X, self.Y, self.direction)


class Monitor:
    """An epoch with the monitor and without."""

    params = ([False, True],)
    param_names = ("monitor",)

    def setup(self, monitor):
        """Compile, and compare the loss with the oracle's."""
        self.mlp, self.X, self.Y = problem(Shape((10, 32, 32, 1), 2_000), "float64")
        assert_close(self.mlp.loss(self.X, self.Y), expected(self.mlp, self.X, self.Y).loss, "float64")
        self.time_epoch(monitor)

    def time_epoch(self, monitor):
        self.mlp.fit(self.X, self.Y, epochs=1, progress=False, monitor=monitor)


class Looking:
    """Explanation and proof of the original network."""

    def setup(self):
        """See that all is right."""
        self.mlp, self.X, self.Y = problem(Shape((3, 4, 4, 2), 5), "float64")
        assert self.mlp.explain(self.X, self.Y).ok
        assert self.mlp.verify(self.X, self.Y).ok

    def time_explain(self):
        self.mlp.explain(self.X, self.Y)

    def time_verify(self):
        self.mlp.verify(self.X, self.Y)
