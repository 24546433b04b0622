"""One step of training: forward, backward, update; and the gradients alone."""

from __future__ import annotations

from fastmlp.oracle import optimizers

from .shapes import DTYPES, LEARNING_RATE, SHAPES, assert_close, assert_pairs_close, expected, problem


class TrainStep:
    """``MLP.train_step`` with plain gradient descent."""

    params = (list(SHAPES), DTYPES, [1])
    param_names = ("shape", "dtype", "n_threads")

    def setup(self, shape, dtype, n_threads):
        """Compile, and see that a step goes where the oracle's does."""
        self.mlp, self.X, self.Y = problem(SHAPES[shape], dtype, n_threads=n_threads)
        before = [(W.copy(), b.copy()) for W, b in self.mlp.parameters]
        oracle = expected(self.mlp, self.X, self.Y)
        # a large step, so that the gradient shows beside the parameters
        loss = self.mlp.train_step(self.X, self.Y, learning_rate=1.0)
        assert_close(loss, oracle.loss, dtype)
        after = [
            tuple(optimizers.sgd(old, gradient, 0, 1.0, 0)[0] for old, gradient in zip(*pairs, strict=True))
            for pairs in zip(before, oracle.gradients, strict=True)
        ]
        assert_pairs_close(self.mlp.parameters, after, dtype)

    def time_train_step(self, shape, dtype, n_threads):
        self.mlp.train_step(self.X, self.Y, learning_rate=LEARNING_RATE)


class TrainStepOnTwoThreads(TrainStep):
    """The same, where there is work enough for two."""

    params = (list(SHAPES)[2:], DTYPES, [2])


class Gradients:
    """``MLP.loss_and_gradients``: what ``scipy.optimize`` pays for."""

    params = (["3-4-4-2 @ 5", "64-128-64-10 @ 128"], DTYPES)
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        """Compile, and compare loss and gradients with the oracle's."""
        self.mlp, self.X, self.Y = problem(SHAPES[shape], dtype, n_threads=1)
        oracle = expected(self.mlp, self.X, self.Y)
        loss, gradients = self.mlp.loss_and_gradients(self.X, self.Y)
        assert_close(loss, oracle.loss, dtype)
        assert_pairs_close(gradients, oracle.gradients, dtype)

    def time_loss_and_gradients(self, shape, dtype):
        self.mlp.loss_and_gradients(self.X, self.Y)
