"""Training beside other busy processes, and without them: the mean step over several seconds, in one run.

::

    python -m benchmarks.busy                       # fastmlp, and what of its peers is installed
    python -m benchmarks.busy --only "fastmlp fit" --seconds 10

With as many busy processes as cores, a fair half of the machine would be a mean twice as long. What makes it longer is
waiting for a thread whose core was taken away. The mean counts every stall, as the best or the median would not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .contestants import TAKE_PART
from .peers import Entry, case_of, enter

BY_DEFAULT = [name for name in TAKE_PART["step"] if name != "torch.compile"]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5 if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def mean(entry: Entry, seconds: float) -> float:
    """Mean seconds of a step of a contestant that is prepared."""
    found = entry.ask({"seconds": seconds})["seconds"]
    return sum(found) / len(found)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__.split("\n")[0])
    parser.add_argument("--layers", default="64-128-64-10@128", metavar="I-…-J@N")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="+", default=BY_DEFAULT, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    case = case_of(given.layers, "step", given.dtype)
    print(f"{given.layers} {given.dtype}, mean µs of a step over {given.seconds:g} s\n")
    print(f"| program | threads | quiet | beside {given.processes} busy processes | ratio |\n|---|---|---|---|---|")
    entries = [entry for entry in enter(given.only, [1, 2]) if entry.name != "peak"]
    for entry in entries:
        answer = entry.ask({"case": case._asdict()})
        if "error" in answer:
            print(f"| {entry.name} | {entry.n_threads} | {answer['error']} | | |", flush=True)
            continue
        mean(entry, 1.0)  # fastmlp measures in its first second how many threads pay
        with busy_processes(0):
            quiet = mean(entry, given.seconds)
        with busy_processes(given.processes):
            busy = mean(entry, given.seconds)
        print(
            f"| {entry.name} | {entry.n_threads} | {quiet * 1e6:.4g} | {busy * 1e6:.4g} | {busy / quiet:.2f} |",
            flush=True,
        )
    for entry in entries:
        assert entry.process.stdin is not None
        entry.process.stdin.close()
        entry.process.wait()


if __name__ == "__main__":
    main()
