"""Training on several ranks: measured on this machine's processors, and a cost model for more of them.

::

    python -m benchmarks.ranks                      # needs mpi4py and mpiexec
    python -m benchmarks.ranks --latency 2e-6 --bandwidth 12e9      # of your network, for the model

The model: a step of P ranks takes

    share + overhead + update + 2 log2(P) latency + 2 (P - 1)/P bytes / bandwidth

where the share is the time of the samples of the rank that has most of them, some B/P (1 + sqrt(2 ln(P) P / B)), since
rows fall to ranks by chance. Share, overhead and update are measured on one rank; latency and bandwidth are measured
between two ranks of this machine, or given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fastmlp

CASES = {
    "4-32-16-4": ([4, 32, 16, 4], 512),
    "64-128-64-10": ([64, 128, 64, 10], 128),
    "784-128-64-10": ([784, 128, 64, 10], 128),
    "784-512-256-10": ([784, 512, 256, 10], 256),
    "1024-1024-1024-1024": ([1024, 1024, 1024, 1024], 512),
}
BATCHES = 1, 2, 8
"""Each network's own batch size is multiplied by them."""

RANKS = 2, 4, 16, 64, 256
SIZES = 100, 1_000_000
"""Numbers that are added up, to measure latency and bandwidth."""


def network(sizes: list[int]) -> fastmlp.MLP:
    """One thread for each rank."""
    return fastmlp.MLP(sizes, hidden_activation="relu", dtype="float32", rng=0, n_threads=1)


def seconds_per_step(comm: Any, sizes: list[int], batch: int, rounds: int = 7) -> float:
    """The median of epochs, training together."""
    rank, size = comm.Get_rank(), comm.Get_size()
    operations = 6 * batch * sum(i * j for i, j in zip(sizes[:-1], sizes[1:], strict=True))
    steps = max(4, min(200, int(2e10 / operations)))
    n_samples = steps * batch
    rng = np.random.default_rng(rank)
    own = n_samples * (rank + 1) // size - n_samples * rank // size
    X, Y = rng.standard_normal((own, sizes[0]), np.float32), np.zeros((own, sizes[-1]), np.float32)
    history = network(sizes).fit(X, Y, epochs=rounds, batch_size=batch, comm=comm, progress=False)
    assert np.isfinite(history.loss).all()
    return float(np.median(history.seconds)) / steps


def seconds_of_sum(comm: Any, count: int) -> float:
    """The median of adding up so many float32."""
    sent, received = np.ones(count, np.float32), np.empty(count, np.float32)
    found = []
    for _ in range(30):
        comm.Barrier()
        start = perf_counter()
        for _ in range(10):
            comm.Allreduce(sent, received)
        found.append((perf_counter() - start) / 10)
    assert (received == comm.Get_size()).all()
    return float(np.median(found))


def seconds_of_update(sizes: list[int]) -> float:
    """What a rank does to all parameters in a step, whatever the number of samples: copies, Adam."""
    mlp = network(sizes)
    chosen = fastmlp.Adam()
    ones = np.ones_like(mlp.parameter_vector)
    mlp.update(ones, chosen)
    found = []
    for _ in range(20):
        start = perf_counter()
        mlp._gradient[:] = ones
        mlp._apply(chosen, 1.0)
        found.append(perf_counter() - start)
    return float(np.median(found))


def on_this_rank() -> None:
    """What each rank measures; rank 0 prints it."""
    from mpi4py import MPI  # noqa: PLC0415 (the launching process need not have it)

    comm = MPI.COMM_WORLD
    found: dict[str, Any] = {
        name: [seconds_per_step(comm, sizes, times * batch) for times in BATCHES]
        for name, (sizes, batch) in CASES.items()
    }
    found["sums"] = [seconds_of_sum(comm, count) for count in SIZES]
    if comm.Get_rank() == 0:
        print(json.dumps(found))


def measured(n_ranks: int) -> dict[str, Any]:
    """Run so many ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise SystemExit("there is no mpiexec: pip install mpi4py mpich")
    command = [
        launcher,
        "-n",
        str(n_ranks),
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "benchmarks.ranks",
        "--on-this-rank",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


class Model:
    """The time of a step, from measured terms."""

    def __init__(self, alone: list[float], sizes: list[int], batch: int, latency: float, bandwidth: float) -> None:
        self.update = seconds_of_update(sizes)
        # a straight line through the steps on one rank: seconds of a sample, and what every step costs
        per_sample, fixed = np.polyfit([times * batch for times in BATCHES], alone, 1, w=1 / np.array(alone))
        self.per_sample, self.overhead = float(per_sample), max(0.0, float(fixed) - self.update)
        self.bytes = 4 * sum((i + 1) * j for i, j in zip(sizes[:-1], sizes[1:], strict=True))
        self.latency, self.bandwidth = latency, bandwidth

    def seconds(self, ranks: int, batch: int) -> float:
        """Of a step."""
        each = batch / ranks
        most = min(batch, each * (1 + math.sqrt(2 * math.log(ranks) / each))) if ranks > 1 else each
        sum_up = 0.0
        if ranks > 1:
            sum_up = 2 * math.log2(ranks) * self.latency + 2 * (ranks - 1) / ranks * self.bytes / self.bandwidth
        return self.per_sample * most + self.overhead + self.update + sum_up

    def efficiency(self, ranks: int, batch: int) -> float:
        """What each rank does, by what one does alone."""
        return self.seconds(1, batch) / (ranks * self.seconds(ranks, batch))

    def pays_from(self, ranks: int, wanted: float = 0.5) -> int | None:
        """The least batch, a power of two, at which ranks are worth that part of themselves; None above a million."""
        batch = ranks
        while batch <= 1 << 20:
            if self.efficiency(ranks, batch) >= wanted:
                return 1 << (batch - 1).bit_length()
            batch *= 2
        return None


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float)
    parser.add_argument("--bandwidth", type=float)
    parser.add_argument("--on-this-rank", action="store_true")
    given = parser.parse_args()
    if given.on_this_rank:
        on_this_rank()
        return
    one, two = measured(1), measured(min(2, os.cpu_count() or 1))
    of_few, of_many = two["sums"]
    latency, bandwidth = of_few / 2, SIZES[1] * 4 / (of_many - of_few)
    print(f"Between two ranks of this machine: latency {1e6 * latency:.1f} us, bandwidth {bandwidth / 1e9:.2f} GB/s.")
    here = {name: Model(one[name], sizes, batch, latency, bandwidth) for name, (sizes, batch) in CASES.items()}
    print("\n| layers @ batch | one rank, ms | two ranks, ms | speed-up | the model's |\n|---|---|---|---|---|")
    for name, (_, batch) in CASES.items():
        for k, times in enumerate(BATCHES):
            modelled = one[name][k] / here[name].seconds(2, times * batch)
            ratio = one[name][k] / two[name][k]
            seconds = f"{1e3 * one[name][k]:.3g} | {1e3 * two[name][k]:.3g}"
            print(f"| {name} @ {times * batch} | {seconds} | {ratio:.2f} | {modelled:.2f} |")
    latency, bandwidth = given.latency or latency, given.bandwidth or bandwidth
    print(f"\nPredicted with {1e6 * latency:.1f} us and {bandwidth / 1e9:.2f} GB/s, one thread a rank:")
    print("efficiency, and the batch from which half of each rank is won.\n")
    print(f"| layers @ batch | {' | '.join(f'{ranks} ranks' for ranks in RANKS)} |\n|---|{'---|' * len(RANKS)}")
    for name, (sizes, batch) in CASES.items():
        model = Model(one[name], sizes, batch, latency, bandwidth)
        cells = [f"{100 * model.efficiency(ranks, 8 * batch):.0f} %, {model.pays_from(ranks)}" for ranks in RANKS]
        print(f"| {name} @ {8 * batch} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
