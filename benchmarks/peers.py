"""The ladder: fastmlp beside everything else that trains a perceptron from Python, in one run on one machine.

::

    python -m benchmarks.peers                      # training steps, float32 and float64
    python -m benchmarks.peers --fit --predict      # whole trainings, and predictions
    python -m benchmarks.peers --layers 20-50-3@100 # any other network and batch
    python -m benchmarks.peers --help

Every program of :mod:`benchmarks.contestants` runs in two processes of its own, with one thread and with two; all are
prepared for a case and compared with the oracle, and then they take turns, again and again, so that a noisy machine is
noisy for all. The better number of threads counts. Peers that are not installed are left out with a word.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmlp.oracle import network as oracle

from .contestants import CONTESTANTS, NEEDS, TAKE_PART, Case, Contestant, environment
from .control import handover_seconds

LADDER = [
    "3-4-4-2@5", "2-16-16-1@64", "10-32-32-1@32", "4-32-16-4@512", "4-120-84-2@32", "10-45-45-10@128",
    "10-46-46-10@128", "64-128-64-10@128", "784-128-64-10@128", "784-512-256-10@256", "1024-1024-1024-1024@512",
]  # fmt: skip

TRAININGS = {
    "digits 64-64-10": {
        "layer_sizes": (64, 64, 10), "batch_size": 64, "data": "digits", "output": "softmax", "epochs": 50,
    },
    "curve 4-32-16-4": {
        "layer_sizes": (4, 32, 16, 4), "batch_size": 10_000, "data": "curve", "activation": "tanh", "epochs": 100,
    },
    "images 784-128-64-10": {
        "layer_sizes": (784, 128, 64, 10), "batch_size": 128, "data": "images", "activation": "relu",
        "output": "softmax", "epochs": 10,
    },
}  # fmt: skip
"""Whole trainings with Adam: 1,797 real digits, a function of four numbers in one batch, 5,000 real images."""

PREDICTIONS = [
    f"{layers}@{n}"
    for n in (1, 1000)
    for layers in ("4-32-16-4", "10-32-32-1", "64-128-64-10", "784-128-64-10")
]  # fmt: skip

FLOPS_IN_A_CALL = 2e9  # a call of many steps takes about so many at most, and at most 2,000 steps; one at least
NUMBERS_IN_A_CALL = 1 << 24  # over at most so many: more than a cache holds, and every contestant has its own


def case_of(text: str, kind: str, dtype: str) -> Case:
    """From a text such as ``3-4-4-2@5``: the layers, and the samples at once."""
    layers, batch_size = text.split("@")
    case = Case(kind, tuple(int(size) for size in layers.split("-")), int(batch_size), dtype, learning_rate=1e-3)
    if kind == "step":
        numbers = case.batch_size * (case.layer_sizes[0] + case.layer_sizes[-1])
        n_steps = min(FLOPS_IN_A_CALL / case.flops, NUMBERS_IN_A_CALL / numbers, 2000)
        case = case._replace(n_steps=max(int(n_steps), 1))
    return case


# ------------------------------------------------------------------------------------------------------------------
# a contestant's process: it is told on its standard input what to do, a line each, and answers with a line


def work(name: str, n_threads: int) -> None:
    """Be a contestant."""
    if n_threads == 1 and name.startswith("JAX") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # it has no switch that all of its parts obey
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    contestant: Contestant | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                contestant = None  # free the old one's memory first
                case = Case(**{**request["case"], "layer_sizes": tuple(request["case"]["layer_sizes"])})
                start = time.perf_counter()
                contestant = CONTESTANTS[name](case, n_threads)
                result: Any = prepare(contestant, case)
                answer = {"prepared": result, "seconds": time.perf_counter() - start}
            else:
                assert contestant is not None
                answer = {"seconds": measure(contestant, request["seconds"])}
        except Exception as error:  # noqa: BLE001 (said in the table's foot; the others go on)
            contestant, answer = None, {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


def prepare(contestant: Contestant, case: Case) -> dict[str, float]:
    """Let a contestant compile, and compare what it computes with the oracle."""
    if isinstance(contestant, CONTESTANTS["peak"]):
        contestant.call()
        return {}
    if case.kind == "predict":
        compare(contestant.predict(), outputs(case, case.parameters(), contestant.X), case.dtype)
        return {}
    contestant.call()
    if case.kind == "step":
        expected = after_steps(case, case.n_steps if contestant.steps_in_a_call else 1)
        start = case.parameters()
        for found, wanted, before in zip(contestant.parameters(), expected, start, strict=True):
            for f, w, b in zip(found, wanted, before, strict=True):
                compare(f, w, case.dtype, moved=float(np.abs(w - b).max()))
        return {}
    last = outputs(case, contestant.parameters(), contestant.X)
    if case.output == "softmax":
        return {"accuracy": float((last.argmax(axis=1) == contestant.Y.argmax(axis=1)).mean())}
    return {"loss": float(0.5 * ((last - contestant.Y) ** 2).sum() / len(last))}


def measure(contestant: Contestant, seconds: float) -> list[float]:
    """Seconds of a step (or a call), again and again; short ones many at a time."""
    steps = contestant.case.n_steps if contestant.steps_in_a_call else 1
    start = time.perf_counter()
    contestant.call()
    once = time.perf_counter() - start
    at_once = max(1, int(1e-4 / once))
    found = []
    while time.perf_counter() - start < seconds or not found:
        begun = time.perf_counter()
        for _ in range(at_once):
            contestant.call()
        found.append((time.perf_counter() - begun) / (at_once * steps))
    return found


# ------------------------------------------------------------------------------------------------------------------
# what is right


def activations_of(case: Case) -> list[str]:
    """Names, layer by layer."""
    return [case.activation] * (len(case.layer_sizes) - 2) + [case.output]


def outputs(case: Case, parameters: list[tuple[np.ndarray, np.ndarray]], X: np.ndarray) -> np.ndarray:
    """The oracle's output, as rows."""
    exact = [oracle.Parameters(W.astype(np.float64), b.astype(np.float64)) for W, b in parameters]
    return oracle.forward(exact, X.T.astype(np.float64), activations=activations_of(case)).activations[-1].T


def after_steps(case: Case, n_steps: int) -> list[oracle.Parameters]:
    """The parameters after steps over minibatches in a row, by the oracle in float64."""
    X, Y = case.samples()
    exact = [oracle.Parameters(W.astype(np.float64), b.astype(np.float64)) for W, b in case.parameters()]
    for k in range(n_steps):
        rows = slice(k * case.batch_size, (k + 1) * case.batch_size)
        columns, targets = X[rows].T.astype(np.float64), Y[rows].T.astype(np.float64)
        passed = oracle.forward(exact, columns, activations=activations_of(case))
        gradients = oracle.backward(exact, passed, targets, activations=activations_of(case), loss="squared_error")
        exact = [
            oracle.Parameters(p.weights - case.learning_rate * g.weights, p.biases - case.learning_rate * g.biases)
            for p, g in zip(exact, gradients, strict=True)
        ]
    return exact


def compare(found: np.ndarray, expected: np.ndarray, dtype: str, moved: float = 0.0) -> None:
    """Refuse a result that is off by more than rounding; or, of parameters, than a hundredth of how far they moved."""
    tolerance = 500 * np.finfo(dtype).eps * max(np.abs(expected).max(), 0.1) + 0.01 * moved
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:
        raise ValueError(f"differs from the oracle by {worst:.2g}; {tolerance:.2g} are allowed")


# ------------------------------------------------------------------------------------------------------------------
# all of them


class Entry(NamedTuple):
    """A contestant's process."""

    name: str
    n_threads: int
    process: subprocess.Popen[str]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "its process has ended"}


class Times(NamedTuple):
    """Of a step or a call, in seconds."""

    best: float
    median: float
    n_threads: int


def enter(names: list[str], numbers_of_threads: list[int]) -> list[Entry]:
    """Start the processes."""
    entries = []
    for name in [*names, "peak"]:
        missing = [module for module in NEEDS.get(name, []) if importlib.util.find_spec(module) is None]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} is not installed", flush=True)
            continue
        for n_threads in numbers_of_threads:
            command = [sys.executable, "-m", "benchmarks.peers", "--work", name, str(n_threads)]
            process = subprocess.Popen(
                command, env=environment(n_threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            entries.append(Entry(name, n_threads, process))
    return entries


def compete(entries: list[Entry], case: Case, rounds: int, seconds: float) -> tuple[dict[str, Times], dict[str, str]]:
    """Prepare all for a case, and let them take turns: the better number of threads of each; and words on each."""
    ready, words = [], {}
    for entry in entries:
        answer = entry.ask({"case": case._asdict()})
        if "error" in answer:
            print(f"    {entry.name}, {entry.n_threads} threads: {answer['error']}", flush=True)
            continue
        ready.append(entry)
        words[entry.name] = ", ".join(f"{what} {value:.3f}" for what, value in answer["prepared"].items())
    times: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(rounds):
        for entry in ready:
            found = entry.ask({"seconds": seconds})
            times.setdefault((entry.name, entry.n_threads), []).append(found["seconds"])
    best: dict[str, Times] = {}
    for (name, n_threads), found in times.items():
        of_these = Times(min(map(min, found)), statistics.median(map(statistics.median, found)), n_threads)
        if name not in best or of_these.best < best[name].best:
            best[name] = of_these
    return best, words


def row_of(label: str, case: Case, best: dict[str, Times]) -> dict[str, Any]:
    """What the table says of a case."""
    peak = 1e9 / best.pop("peak").best
    ours = {name: times for name, times in best.items() if name.startswith("fastmlp")}
    peers = {name: times for name, times in best.items() if name not in ours}
    first = min(peers, key=lambda name: peers[name].best) if peers else ""
    rate = 0.0 if case.kind == "fit" else case.flops / min(times.best for times in ours.values())
    return {
        "case": label, "dtype": case.dtype, "kind": case.kind, "flops": case.flops, "peak": peak, "rate": rate,
        "best peer": first, "times": {name: times._asdict() for name, times in best.items()},
    }  # fmt: skip


def words_for(row: dict[str, Any], unit: float) -> list[str]:
    """A line of the summary for each of fastmlp's programs."""
    lines, peer = [], row["times"].get(row["best peer"])
    for name, times in row["times"].items():
        if not name.startswith("fastmlp"):
            continue
        text = f"| {row['case']} | {row['dtype']} | {name.removeprefix('fastmlp ')} "
        text += f"| {times['best'] * unit:.4g} ({times['median'] * unit:.4g}) | {times['n_threads']} "
        if row["rate"]:
            rate = row["flops"] / times["best"]
            text += f"| {rate / 1e9:.3g} | {100 * rate / row['peak']:.3g} % "
        if peer:
            text += f"| {row['best peer']} {peer['best'] * unit:.4g} ({peer['median'] * unit:.4g}) "
            text += f"| {peer['best'] / times['best']:.2f} ({peer['median'] / times['median']:.2f}) |"
        lines.append(text)
    return lines


def show(rows: list[dict[str, Any]], title: str, unit: float, unit_name: str) -> None:
    """Print the summary, and all programs side by side."""
    rates = " GFLOP/s | of peak |" if rows[0]["rate"] else ""
    print(f"\n{title}: {unit_name}, best (median); ratio: the best peer's time by fastmlp's, best (median)\n")
    head = f"| case | dtype | fastmlp | {unit_name} | threads |{rates} best peer | ratio |"
    print(head + "\n" + "|---" * (head.count("|") - 1) + "|")
    print("\n".join(line for row in rows for line in words_for(row, unit)))
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    print(f"\n| case | dtype | {' | '.join(names)} |\n" + "|---" * (len(names) + 2) + "|")
    for row in rows:
        cells = [f"{row['times'][n]['best'] * unit:.4g}" if n in row["times"] else "" for n in names]
        print(f"| {row['case']} | {row['dtype']} | {' | '.join(cells)} |")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time of a step against its work, both logarithmic."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (only for the chart)

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure = Figure(figsize=(6 * len(dtypes), 5), layout="constrained")
    for axes, dtype in zip(figure.subplots(1, len(dtypes), squeeze=False)[0], dtypes, strict=True):
        chosen = sorted((row for row in rows if row["dtype"] == dtype), key=lambda row: row["flops"])
        for name in dict.fromkeys(name for row in chosen for name in row["times"]):
            points = [(row["flops"], row["times"][name]["best"] * 1e6) for row in chosen if name in row["times"]]
            ours = name.startswith("fastmlp")
            axes.loglog(*zip(*points, strict=True), marker=".", label=name, linewidth=2.5 if ours else 1)
        work = np.array([row["flops"] for row in chosen])
        axes.loglog(work, work / np.median([row["peak"] for row in chosen]) * 1e6, "k:", label="peak")
        axes.set(xlabel="floating point operations of a step", ylabel="µs per step", title=dtype)
        axes.legend(fontsize="small")
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--layers", nargs="+", metavar="I-…-J@N", help="networks and batches instead of the ladder's")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--fit", action="store_true", help="whole trainings")
    parser.add_argument("--predict", action="store_true", help="predictions")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these programs alone")
    parser.add_argument("--without", nargs="+", default=["torch.compile"], metavar="NAME",
                        help="by default torch.compile, which takes seconds for each case")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each turn")
    parser.add_argument("--json", type=Path, help="write all times there")
    parser.add_argument("--chart", type=Path, help="draw the training steps there (needs matplotlib)")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def cases_of(kind: str, given: argparse.Namespace) -> dict[tuple[str, str], Case]:
    """All cases of a kind, by label and dtype."""
    found = {}
    for dtype in given.dtypes:
        if kind == "fit":
            for label, settings in TRAININGS.items():
                case = Case("fit", dtype=dtype, optimizer="adam", learning_rate=1e-3, **settings)
                found[label, dtype] = case
        else:
            texts = given.layers or (LADDER if kind == "step" else PREDICTIONS)
            found |= {(text, dtype): case_of(text, kind, dtype) for text in texts}
    return found


def main() -> None:
    """Run what the command line asks for."""
    given = arguments()
    if given.work:
        work(given.work[0], int(given.work[1]))
        return
    kinds = [kind for kind in ("fit", "predict") if getattr(given, kind)] or ["step"]
    everything = []
    for kind in kinds:
        names = [name for name in TAKE_PART[kind] if name not in given.without]
        entries = enter([name for name in names if not given.only or name in given.only], given.threads)
        rows = []
        for (label, _), case in cases_of(kind, given).items():
            best, words = compete(entries, case, given.rounds, given.seconds)
            rows.append(row_of(label, case, best))
            print("\n".join(words_for(rows[-1], 1e3 if kind == "fit" else 1e6)), flush=True)
            print(f"    from one thread to another: {handover_seconds() * 1e9:.0f} ns", flush=True)
            for name, said in words.items():
                if said:
                    print(f"    {name}: {said}", flush=True)
        for entry in entries:
            assert entry.process.stdin is not None
            entry.process.stdin.close()
            entry.process.wait()
        title = {"step": "Training steps", "fit": "Whole trainings", "predict": "Predictions"}[kind]
        show(rows, title, 1e3 if kind == "fit" else 1e6, "ms" if kind == "fit" else "µs")
        everything += rows
        if given.chart and kind == "step":
            draw(rows, given.chart)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
