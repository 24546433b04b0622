"""``python -m fastmlp``: check this machine, and show what fastmlp does, on real data.

Writes nothing but Numba's cache of compiled code; needs no network.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import fastmlp
from fastmlp.data import load_digits
from fastmlp.oracle import network

_ACCURACY_WANTED = 0.96


def main() -> None:
    """Run the four parts; an error in any of them ends the program with it."""
    start = time.perf_counter()
    show_machine()
    show_proof()
    show_training()
    show_speed()
    print(f"\nEverything works. {time.perf_counter() - start:.0f} s in all.")


def heading(text: str) -> None:
    """Print a heading, at once: what follows may take seconds."""
    print(f"\n{text}\n{'=' * len(text)}", flush=True)


def show_machine() -> None:
    """Versions, processor, threads, cache."""
    heading("This machine")
    fastmlp.show_config()


def show_proof() -> None:
    """Verify the original program's network."""
    heading("The original network, 3-4-4-2, and the proof of its gradients")
    print("(compiling, once: the result is cached)", flush=True)
    rng = np.random.default_rng(0)
    mlp = fastmlp.MLP([3, 4, 4, 2], weight_scale=0.5, rng=rng)
    report = mlp.verify(rng.standard_normal((5, 3)), rng.standard_normal((5, 2)))
    print(report)
    report.raise_if_failed()


def show_training() -> None:
    """Train on the optical digits, and test on a fifth that was held out."""
    heading("Real data: the UCI optical digits, 1,797 images of 8 by 8")
    images, labels = load_digits()
    X = images / 16.0
    order = np.random.default_rng(0).permutation(len(X))
    held_out, training = order[: len(X) // 5], order[len(X) // 5 :]
    validation = (X[held_out], labels[held_out])
    mlp = fastmlp.MLP([64, 64, 10], hidden_activation="relu", loss="softmax_cross_entropy", rng=0)
    # a copy compiles what is needed, so that the seconds below are those of training
    copy.deepcopy(mlp).fit(X[:32], labels[:32], epochs=1, validation=validation, progress=False)
    history = mlp.fit(X[training], labels[training], epochs=40, batch_size=32, validation=validation)
    right = np.mean(mlp.predict(X[held_out]).argmax(axis=1) == labels[held_out])
    print(f"64-64-10, relu, softmax cross-entropy, Adam: {history}")
    print(f"{right:.1%} of {len(held_out)} held-out images are recognized")
    if right < _ACCURACY_WANTED:
        raise SystemExit(f"less than the {_ACCURACY_WANTED:.0%} that this network reaches: something is wrong")
    report = mlp.verify(X[training], labels[training])
    print(report if not report.ok else f"its gradients on all {len(training)} images: {str(report).splitlines()[-1]}")
    report.raise_if_failed()


def show_speed() -> None:
    """One training step beside the oracle's NumPy, on the same network and data."""
    heading("One training step (forward, backward, gradient descent) in float64, in microseconds")
    print(f"{'network @ batch':24}{'NumPy':>9}{'fastmlp':>9}{'ratio':>8}")
    for sizes, batch in (([3, 4, 4, 2], 5), ([10, 32, 32, 1], 32), ([64, 128, 64, 10], 128)):
        rng = np.random.default_rng(0)
        mlp = fastmlp.MLP(sizes, rng=0)
        X, Y = rng.standard_normal((batch, sizes[0])), rng.standard_normal((batch, sizes[-1]))
        parameters = [network.Parameters(W.copy(), b.copy()) for W, b in mlp.parameters]
        # the same step before the clock runs: what is timed has been checked
        mlp.train_step(X, Y, learning_rate=0.01)
        numpy_step(parameters, X.T, Y.T)
        for pair, expected in zip(mlp.parameters, parameters, strict=True):
            np.testing.assert_allclose(pair.weights, expected.weights, rtol=0, atol=1e-13)
        plain, fast = microseconds(
            partial(numpy_step, parameters, X.T, Y.T), partial(mlp.train_step, X, Y, learning_rate=0.01)
        )
        name = f"{'-'.join(map(str, sizes))} @ {batch}"
        print(f"{name:24}{plain:9.1f}{fast:9.1f}{plain / fast:7.1f}x", flush=True)


def numpy_step(parameters: list[network.Parameters], X: np.ndarray, Y: np.ndarray) -> None:
    """Take a training step with the oracle, in place."""
    forward_pass = network.forward(parameters, X)
    gradients = network.backward(parameters, forward_pass, Y)
    for pair, gradient in zip(parameters, gradients, strict=True):
        pair.weights[:] -= 0.01 * gradient.weights
        pair.biases[:] -= 0.01 * gradient.biases


def microseconds(*steps: Callable[[], object], rounds: int = 6, seconds: float = 0.05) -> list[float]:
    """Return the lower quartile of each step's durations. They take turns: others may be busy for a while."""
    durations: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, found in zip(steps, durations, strict=True):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                step()
                found.append(time.perf_counter() - start)
    return [float(np.percentile(found, 25)) * 1e6 for found in durations]


if __name__ == "__main__":
    main()
