"""From the start of a process to its first result: import, compilation, memory. Each time in a new process.

::

    python -m benchmarks.startup                    # beside JAX, PyTorch and scikit-learn, as far as installed
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from os import environ
from time import perf_counter
from typing import NamedTuple

from .shapes import DTYPES, SHAPES, assert_close, expected, problem

SHAPE = SHAPES["64-128-64-10 @ 128"]
REPETITIONS = 2

PROGRAM = f"""
import resource, sys
from time import perf_counter

start = perf_counter()
import fastmlp
import_seconds = perf_counter() - start

import numpy as np

dtype = sys.argv[1]
rng = np.random.default_rng(0)
X = rng.standard_normal(({SHAPE.n_samples}, {SHAPE.layer_sizes[0]})).astype(dtype)
Y = rng.standard_normal(({SHAPE.n_samples}, {SHAPE.layer_sizes[-1]})).astype(dtype)
mlp = fastmlp.MLP({SHAPE.layer_sizes}, dtype=dtype, rng=0, n_threads=1)

start = perf_counter()
loss = mlp.train_step(X, Y, learning_rate=0.1)
first_step_seconds = perf_counter() - start

unit = 1 if sys.platform == "darwin" else 1024
print(import_seconds, first_step_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, loss)
"""
"""The same network and data as :func:`benchmarks.shapes.problem` makes."""


class Measured(NamedTuple):
    """What the program prints."""

    import_seconds: float
    first_step_seconds: float
    peak_bytes: float
    loss: float


def run(dtype: str, cache: str) -> Measured:
    """Run the program in a new process, with this folder as Numba's cache, and compare its loss with the oracle's."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, dtype],
        cwd=cache,  # so that the installed package is imported, wherever asv was started
        env={**environ, "NUMBA_CACHE_DIR": cache},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measured = Measured(*map(float, ended.stdout.split()))
    assert_close(measured.loss, expected(*problem(SHAPE, dtype)).loss, dtype)
    return measured


class Startup:
    """Of a process that compiles, and of one that finds everything in the cache."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup_cache(self):
        """Measure once, for all numbers below: by dtype, the compiling process and the best of the later ones."""
        measured = {}
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as cache:
                compiling = run(dtype, cache)
                later = [run(dtype, cache) for _ in range(REPETITIONS)]
                measured[dtype] = tuple(compiling), tuple(map(min, zip(*later, strict=True)))
        return measured

    setup_cache.timeout = 300

    def setup(self, measured, dtype):
        """Give the numbers their names."""
        self.compiling, self.cached = (Measured(*numbers) for numbers in measured[dtype])

    def track_import(self, measured, dtype):
        return self.cached.import_seconds

    def track_first_step_compiling(self, measured, dtype):
        return self.compiling.first_step_seconds

    def track_first_step_from_cache(self, measured, dtype):
        return self.cached.first_step_seconds

    def track_peak_memory_compiling(self, measured, dtype):
        return self.compiling.peak_bytes

    def track_peak_memory_from_cache(self, measured, dtype):
        return self.cached.peak_bytes

    track_import.unit = track_first_step_compiling.unit = track_first_step_from_cache.unit = "seconds"
    track_peak_memory_compiling.unit = track_peak_memory_from_cache.unit = "bytes"


# ------------------------------------------------------------------------------------------------------------------
# beside the peers: from the start of Python to the end of the first training step

_DATA = f"""
import resource, sys
import numpy as np

rng = np.random.default_rng(0)
X = rng.standard_normal(({SHAPE.n_samples}, {SHAPE.layer_sizes[0]})).astype("float32")
Y = rng.standard_normal(({SHAPE.n_samples}, {SHAPE.layer_sizes[-1]})).astype("float32")
sizes = {SHAPE.layer_sizes}
"""

_MEMORY = """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""

PEERS = {
    "numba": "import numba",
    "fastmlp": """
import fastmlp
fastmlp.MLP(sizes, dtype="float32", rng=0).train_step(X, Y, learning_rate=0.1)
""",
    "sklearn": """
from sklearn.neural_network import MLPRegressor
MLPRegressor(hidden_layer_sizes=sizes[1:-1], activation="logistic", solver="sgd", batch_size=len(X)).partial_fit(X, Y)
""",
    "torch": """
import torch
layers = []
for i, j in zip(sizes[:-1], sizes[1:]):
    layers += [torch.nn.Linear(i, j), torch.nn.Sigmoid()]
model = torch.nn.Sequential(*layers[:-1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = 0.5 * ((model(torch.from_numpy(X)) - torch.from_numpy(Y)) ** 2).sum() / len(X)
loss.backward()
optimizer.step()
""",
    "jax": """
import jax, jax.numpy as jnp
parameters = [
    (jnp.asarray(rng.standard_normal((j, i)), "float32"), jnp.zeros(j, "float32"))
    for i, j in zip(sizes[:-1], sizes[1:])
]
def loss(parameters, X, Y):
    for W, b in parameters[:-1]:
        X = jax.nn.sigmoid(X @ W.T + b)
    W, b = parameters[-1]
    return 0.5 * ((X @ W.T + b - Y) ** 2).sum() / len(Y)
@jax.jit
def step(parameters, X, Y):
    return jax.tree.map(lambda p, g: p - 0.1 * g, parameters, jax.grad(loss)(parameters, X, Y))
jax.block_until_ready(step(parameters, X, Y))
""",
}
"""What each does; ``numba`` only imports, which is what fastmlp's import is measured against."""


def started(program: str, cache: str) -> tuple[float, float]:
    """Seconds and peak bytes of a process, which finds its libraries as bytecode, as pip leaves them."""
    variables = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _DATA + program + _MEMORY],
        env={**variables, "NUMBA_CACHE_DIR": cache}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return perf_counter() - start, float(ended.stdout)


def main() -> None:
    """Let all start in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    programs = {name: program for name, program in PEERS.items() if importlib.util.find_spec(name)}
    programs["import fastmlp"] = "import fastmlp"
    with tempfile.TemporaryDirectory() as cache:
        compiling, _ = started(PEERS["fastmlp"], cache)  # and fill the cache
        found = [{name: started(program, cache) for name, program in programs.items()} for _ in range(given.rounds)]
    print("Process to the end of the first training step: 64-128-64-10 @ 128, float32\n")
    print("| program | seconds, best (median) | peak memory, MB |\n|---|---|---|")
    for name in programs:
        seconds = [times[name][0] for times in found]
        peak = max(times[name][1] for times in found)
        print(f"| {name} | {min(seconds):.2f} ({statistics.median(seconds):.2f}) | {peak / 1e6:.0f} |")
    print(f"\nWith an empty cache fastmlp takes {compiling:.1f} s.")


if __name__ == "__main__":
    main()
