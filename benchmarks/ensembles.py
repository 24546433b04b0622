"""64 networks at once: an ensemble beside scikit-learn in a loop, joblib, PyTorch stacked, and JAX's vmap, in one run.

::

    python -m benchmarks.ensembles                  # 64 times 10-32-32-1, 1,000 samples, batch 32, 20 epochs of Adam
    python -m benchmarks.ensembles --members 16 --layers 4-16-2 --samples 500 --batch 50

Peers that are not installed are left out with a word. All train in float32; each draws an order of the samples for
each epoch and each network. PyTorch is written without autograd, all networks in one ``bmm``; JAX as a ``scan`` over
steps of a ``vmap`` over networks, compiled before it is timed.
"""

# ruff: noqa: PLC0415 (a peer is imported where it is measured, if it is there)

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np

import fastmlp

PAUSE = 0.3
"""Seconds before each run: the threads of the program before are asleep then."""


class Task(NamedTuple):
    """What all do."""

    members: int
    sizes: list[int]
    X: np.ndarray
    Y: np.ndarray
    batch: int
    epochs: int


def fastmlp_ensemble(task, n_threads=None):
    """Ours."""

    def run():
        ensemble = fastmlp.Ensemble(
            task.members, task.sizes, hidden_activation="relu", dtype="float32", rng=0, n_threads=n_threads
        )
        ensemble.fit(task.X, task.Y, epochs=task.epochs, batch_size=task.batch)
        return ensemble.predict(task.X).mean

    return run


def _sklearn_fit(task, seed):
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(
        hidden_layer_sizes=tuple(task.sizes[1:-1]),
        batch_size=task.batch, max_iter=task.epochs, alpha=0, tol=0, n_iter_no_change=10**9,
        random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(task.X, task.Y.ravel() if task.Y.shape[1] == 1 else task.Y)


def sklearn_loop(task):
    """One after the other."""

    def run():
        return np.mean([_sklearn_fit(task, seed).predict(task.X) for seed in range(task.members)], axis=0)

    return run


def sklearn_joblib(task):
    """Two at a time, in processes."""
    from joblib import Parallel, delayed

    def run():
        models = Parallel(n_jobs=2)(delayed(_sklearn_fit)(task, seed) for seed in range(task.members))
        return np.mean([model.predict(task.X) for model in models], axis=0)

    return run


def _initial(task, rng):
    """Weights and biases of all networks, stacked."""
    pairs = []
    for i, j in zip(task.sizes[:-1], task.sizes[1:], strict=True):
        pairs.append(rng.standard_normal((task.members, i, j)).astype(np.float32) * np.float32(np.sqrt(2 / (i + j))))
        pairs.append(np.zeros((task.members, 1, j), np.float32))
    return pairs


def torch_stacked(task):
    """All networks in one product, the backward pass and Adam by hand."""
    import torch

    rng = np.random.default_rng(0)

    @torch.no_grad()
    def run():
        X, Y = torch.from_numpy(task.X), torch.from_numpy(task.Y)
        p = [torch.from_numpy(a) for a in _initial(task, rng)]
        m, v = [torch.zeros_like(a) for a in p], [torch.zeros_like(a) for a in p]
        step, layers = 0, len(p) // 2
        for _ in range(task.epochs):
            order = torch.argsort(torch.rand(task.members, len(X)), dim=1)
            for start in range(0, len(X), task.batch):
                some = order[:, start : start + task.batch]
                A, y = [X[some]], Y[some]
                for k in range(layers):
                    z = torch.baddbmm(p[2 * k + 1], A[-1], p[2 * k])
                    A.append(z.relu_() if k < layers - 1 else z)
                d = (A[-1] - y) / some.shape[1]
                gradients = [None] * len(p)
                for k in range(layers - 1, -1, -1):
                    gradients[2 * k] = torch.bmm(A[k].transpose(1, 2), d)
                    gradients[2 * k + 1] = d.sum(1, keepdim=True)
                    if k:
                        d = torch.bmm(d, p[2 * k].transpose(1, 2)) * (A[k] > 0)
                step += 1
                torch._foreach_lerp_(m, gradients, 0.1)
                torch._foreach_mul_(v, 0.999)
                torch._foreach_addcmul_(v, gradients, gradients, 0.001)
                root = torch._foreach_sqrt(v)
                torch._foreach_div_(root, (1 - 0.999**step) ** 0.5)
                torch._foreach_add_(root, 1e-8)
                torch._foreach_addcdiv_(p, m, root, -1e-3 / (1 - 0.9**step))
        A = X.expand(task.members, -1, -1)
        for k in range(layers):
            A = torch.baddbmm(p[2 * k + 1], A, p[2 * k])
            A = A.relu() if k < layers - 1 else A
        return A.mean(0).numpy()

    return run


def jax_vmap(task):
    """A step of one network, mapped over all of them; whole trainings in one compiled call."""
    import jax
    import jax.numpy as jnp

    layers, n, batch = len(task.sizes) - 1, len(task.X), task.batch
    whole = n // batch * batch

    def output(p, x):
        for k in range(layers):
            x = x @ p[2 * k] + p[2 * k + 1]
            x = jax.nn.relu(x) if k < layers - 1 else x
        return x

    def loss(p, x, y):
        return 0.5 * ((output(p, x) - y) ** 2).sum() / len(x)

    def one_step(state, some, X, Y):
        p, m, v, t = state
        g = jax.grad(loss)(p, X[some], Y[some])
        t = t + 1
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
        a1, a2 = 1 - 0.9**t, 1 - 0.999**t
        p = [w - 1e-3 * (a / a1) / (jnp.sqrt(b / a2) + 1e-8) for w, a, b in zip(p, m, v, strict=True)]
        return p, m, v, t

    @jax.jit
    def train(p, key, X, Y):
        def member(p, key):
            def epoch(state, key):
                order = jax.random.permutation(key, n)
                state, _ = jax.lax.scan(
                    lambda s, some: (one_step(s, some, X, Y), None), state, order[:whole].reshape(-1, batch)
                )
                return (one_step(state, order[whole:], X, Y) if whole < n else state), None

            zeros = [jnp.zeros_like(a) for a in p]
            state, _ = jax.lax.scan(epoch, (p, zeros, zeros, 0.0), jax.random.split(key, task.epochs))
            return output(state[0], X)

        return jax.vmap(member)(p, jax.random.split(key, task.members)).mean(0)

    rng, X, Y = np.random.default_rng(0), jnp.asarray(task.X), jnp.asarray(task.Y)

    def run():
        return np.asarray(train([jnp.asarray(a) for a in _initial(task, rng)], jax.random.key(0), X, Y))

    run()  # compiles
    return run


PROGRAMS: dict[str, tuple[str, Callable]] = {
    "fastmlp.Ensemble": ("fastmlp", fastmlp_ensemble),
    "fastmlp.Ensemble, one thread": ("fastmlp", lambda task: fastmlp_ensemble(task, 1)),
    "PyTorch, bmm": ("torch", torch_stacked),
    "JAX, vmap and scan": ("jax", jax_vmap),
    "scikit-learn, joblib": ("joblib", sklearn_joblib),
    "scikit-learn, a loop": ("sklearn", sklearn_loop),
}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--layers", default="10-32-32-1")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sizes = [int(size) for size in given.layers.split("-")]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((given.samples, sizes[0])).astype(np.float32)
    Y = np.sin(X @ rng.standard_normal((sizes[0], sizes[-1])).astype(np.float32))
    task = Task(given.members, sizes, X, Y, given.batch, given.epochs)
    programs, seconds = {}, {}
    for name, (module, make) in PROGRAMS.items():
        if importlib.util.find_spec(module) is None:
            print(f"({name}: {module} is not installed)")
        else:
            programs[name], seconds[name] = make(task), []
    spread = float(((Y - Y.mean(axis=0)) ** 2).mean())
    programs["fastmlp.Ensemble"]()  # compiles, or loads
    for turn in range(given.rounds):
        for name, run in programs.items():
            if turn and name.startswith("scikit-learn"):
                continue  # ten seconds are enough, once
            sleep(PAUSE)
            start = perf_counter()
            mean = run()
            seconds[name].append(perf_counter() - start)
            left = float(((mean.reshape(Y.shape) - Y) ** 2).mean()) / spread
            assert left < 0.9, f"{name} has learned nothing: {left} of the variance is left"
    best = min(seconds["fastmlp.Ensemble"])
    print(
        f"{given.members} networks {given.layers}, {given.samples} samples, batch {given.batch}, {given.epochs} epochs"
    )
    print("\n| program | seconds, best (median) | by fastmlp's |\n|---|---|---|")
    for name, found in seconds.items():
        print(f"| {name} | {min(found):.3f} ({np.median(found):.3f}) | {min(found) / best:.2f} |")


if __name__ == "__main__":
    main()
