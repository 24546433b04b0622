"""Peak memory of a process that trains on a file that is larger than it: the whole process, Python included.

::

    python -m benchmarks.memory                     # 2 GB of float32
    python -m benchmarks.memory --gigabytes 8
    python -m benchmarks.memory --speed             # epochs from a warm file beside epochs from memory

Linux counts the pages of a mapped file that are in memory as the process's own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import fastmlp

N_FEATURES = 256

PROGRAM = f"""
import sys
from time import perf_counter
import numpy as np
import fastmlp

n, kind = int(sys.argv[2]), sys.argv[3]
data = np.load(sys.argv[1], mmap_mode="r"), np.zeros((n, 1), np.float32)
if kind == "blocks":
    data = (fastmlp.Blocks(sys.argv[1], data[1]),)
mlp = fastmlp.MLP([{N_FEATURES}, 64, 1], dtype="float32", rng=0)
start = perf_counter()
history = mlp.fit(*data, epochs=1, batch_size=128, shuffle=kind != "in order", progress=False)
assert history.n_epochs == 1, history
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, perf_counter() - start)
"""


def measure_speed(rounds: int) -> None:
    """Compare epochs over 60,000 rows of 784 features, relu 128-64, softmax over 10, float32, 128 at a time."""
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((60_000, 784), np.float32), rng.integers(0, 10, 60_000)
    print("| rows from | s an epoch, best (median) | by memory |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.npy" for name in ("X", "labels")]
        for path, array in zip(files, (X, labels), strict=True):
            np.save(path, array)
        sources = {
            "memory": (X, labels),
            "blocks of a file": (fastmlp.Blocks(*files),),
            "a mapped file": (np.load(files[0], mmap_mode="r"), labels),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for turn in range(rounds + 1):
            for name, source in sources.items():
                mlp = fastmlp.MLP(
                    [784, 128, 64, 10], hidden_activation="relu", loss="softmax_cross_entropy", dtype="float32", rng=0
                )
                history = mlp.fit(*source, epochs=3, batch_size=128, progress=False)
                assert np.isfinite(history.loss).all(), name
                seconds[name] += history.seconds if turn else []  # the first turn warms up
    for name, found in seconds.items():
        ratio = statistics.median(found) / statistics.median(seconds["memory"])
        print(f"| {name} | {min(found):.3f} ({statistics.median(found):.3f}) | {ratio:.2f} |")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if given.speed:
        measure_speed(given.rounds)
        return
    n_samples = int(given.gigabytes * 1e9 / (4 * N_FEATURES))
    print("| rows | data, MB | peak memory, MB | seconds of an epoch |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n_samples, N_FEATURES)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + n_samples * 4 * N_FEATURES)  # zeros, which take no room on the disk
        for rows in ("in order", "shuffled", "blocks"):
            command = [sys.executable, "-c", PROGRAM, str(path), str(n_samples), rows]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, seconds = map(float, ended.stdout.split())
            print(f"| {rows} | {given.gigabytes * 1e3:.0f} | {peak / 1e6:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
