"""From the start of a process to its first result: import, compilation, memory. Each time in a new process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from os import environ
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
