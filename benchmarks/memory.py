"""Peak memory of a process that trains on a mapped file that is larger than it: the whole process, Python included.

::

    python -m benchmarks.memory                     # 2 GB of float32
    python -m benchmarks.memory --gigabytes 8

Linux counts the pages of a mapped file that are in memory as the process's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

N_FEATURES = 256

PROGRAM = f"""
import resource, sys
from time import perf_counter
import numpy as np
import fastmlp

n, shuffle = int(sys.argv[2]), sys.argv[3] == "shuffled"
X = np.memmap(sys.argv[1], np.float32, "r", shape=(n, {N_FEATURES}))
Y = np.zeros((n, 1), np.float32)
mlp = fastmlp.MLP([{N_FEATURES}, 64, 1], dtype="float32", rng=0)
start = perf_counter()
history = mlp.fit(X, Y, epochs=1, batch_size=128, shuffle=shuffle, progress=False)
assert history.n_epochs == 1, history
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, perf_counter() - start)
"""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    given = parser.parse_args()
    n_samples = int(given.gigabytes * 1e9 / (4 * N_FEATURES))
    print("| rows | data, MB | peak memory, MB | seconds of an epoch |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X"
        with path.open("wb") as file:
            file.truncate(n_samples * 4 * N_FEATURES)  # zeros, which take no room on the disk
        for rows in ("in order", "shuffled"):
            command = [sys.executable, "-c", PROGRAM, str(path), str(n_samples), rows]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, seconds = map(float, ended.stdout.split())
            print(f"| {rows} | {given.gigabytes * 1e3:.0f} | {peak / 1e6:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
