"""How far exponentials and activations are from the exact value, in units in the last place (ULP).

::

    python -m benchmarks.accuracy                   # float32: every number there is; float64: ten million
    python -m benchmarks.accuracy --every 1000      # float32: one of a thousand

The exact value of float32 is taken from float64, that of float64 from long double, where that has more digits
(SciPy's normal distribution, which has not, is good for float32 only). One ULP is the spacing of the numbers of the
dtype at the exact value; below the normal numbers that is the smallest subnormal.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from fastmlp.kernels import activations, elementary
from fastmlp.kernels.simd import lanes, load, store

Array = np.ndarray[Any, Any]


def sigmoid(z: Array) -> Array:
    """Without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def normal(z: Array) -> Array:
    """The normal distribution."""
    from scipy.special import ndtr  # noqa: PLC0415 (this one function needs it)

    return ndtr(z)


EXACT: dict[str, tuple[Any, Callable[[Array], Array], float, float]] = {
    "exp": (elementary.exp, np.exp, -np.inf, np.inf),
    "expm1 of x <= 0": (elementary.expm1, np.expm1, -np.inf, 0),
    "log1p of 0 to 1": (elementary.log1p, np.log1p, 0, 1),
    "log of 1 to 2^100": (elementary.log, np.log, 1, 2.0**100),
    "sigmoid": (activations.sigmoid, sigmoid, -np.inf, np.inf),
    "tanh": (activations.tanh, np.tanh, -np.inf, np.inf),
    "elu": (activations.elu, lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), -np.inf, np.inf),
    "softplus": (activations.softplus, lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), -np.inf, np.inf),
    "silu": (activations.silu, lambda z: z * sigmoid(z), -np.inf, np.inf),
    "silu from -80 on": (activations.silu, lambda z: z * sigmoid(z), -80, np.inf),
    "normal distribution": (elementary.normal_distribution, normal, -np.inf, np.inf),
    "gelu": (activations.gelu, lambda z: z * normal(z), -np.inf, np.inf),
    "gelu from -12 on": (activations.gelu, lambda z: z * normal(z), -12, np.inf),
}
"""Name, what is measured, what is exact, and the domain."""

AT_ONCE = 1 << 22


def over_arrays(function: Any) -> Callable[[Array], Array]:
    """Compile a loop that applies an elementwise kernel."""

    @numba.njit(error_model="numpy")  # noqa: TID251 (a kernel would be cached)
    def run(X: Any, out: Any) -> None:
        for k in range(0, X.size, lanes(X)):
            store(out, k, function(load(X, k)))

    def apply(X: Array) -> Array:
        out = np.empty_like(X)
        run(X, out)
        return out

    return apply


def errors(found: Array, exact: Array, dtype: np.dtype) -> Array:
    """In ULP; 0 where both overflow."""
    limits = np.finfo(dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
        spacing = np.maximum(np.spacing(np.abs(rounded)), limits.smallest_subnormal).astype(exact.dtype)
        error = np.abs(found.astype(exact.dtype) - exact) / spacing
    return np.where(np.isinf(rounded) & (found == rounded), 0, np.where(np.isfinite(error), error, np.inf))


def numbers_float32(every: int) -> Any:
    """All numbers of float32 that are finite, or every so many."""
    for start in range(0, 1 << 32, AT_ONCE * every):
        bits = np.arange(start, min(start + AT_ONCE * every, 1 << 32), every, np.uint64).astype(np.uint32)
        X = bits.view(np.float32)
        yield X[np.isfinite(X)]


def numbers_float64(count: int) -> Any:
    """Random numbers: of all sizes, and where functions bend."""
    rng = np.random.default_rng(0)
    for _ in range(0, count, 3 * (AT_ONCE // 8)):
        part = AT_ONCE // 8
        sizes = rng.choice([-1.0, 1.0], part) * 2.0 ** rng.uniform(-40, 11, part)
        yield np.concatenate([rng.uniform(-750, 750, part), rng.uniform(-8, 8, part), sizes])


def measure(name: str, batches: Any, dtype: np.dtype) -> tuple[float, float]:
    """The largest error, and where."""
    kernel, exact, low, high = EXACT[name]
    wide = np.float64 if dtype == np.float32 else np.longdouble
    apply, worst, where = over_arrays(kernel), -1.0, 0.0
    for batch in batches:
        X = batch[(batch >= low) & (batch <= high)]
        if not X.size:
            continue
        X = np.resize(X, -(-X.size // 64) * 64)
        with np.errstate(all="ignore"):
            error = errors(apply(X), exact(X.astype(wide)), dtype)
        k = int(error.argmax())
        if error[k] > worst:
            worst, where = float(error[k]), float(X[k])
    return worst, where


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="float32: take one number of so many")
    parser.add_argument("--count", type=int, default=10_000_000, help="float64: so many numbers")
    parser.add_argument("--only", nargs="+", default=list(EXACT), metavar="NAME")
    given = parser.parse_args()
    print("| function | float32 | at | float64 | at |\n|---|---|---|---|---|")
    for name in given.only:
        needs_scipy = name in ("normal distribution", "gelu", "gelu from -12 on")
        if needs_scipy and importlib.util.find_spec("scipy") is None:
            print(f"| {name} | needs SciPy | | | |")
            continue
        cells = "{:.3f} | {:.9g}".format(*measure(name, numbers_float32(given.every), np.dtype(np.float32)))
        if needs_scipy or np.finfo(np.longdouble).nmant <= 52:
            print(f"| {name} | {cells} | | |", flush=True)
            continue
        more = "{:.3f} | {:.17g}".format(*measure(name, numbers_float64(given.count), np.dtype(np.float64)))
        print(f"| {name} | {cells} | {more} |", flush=True)


if __name__ == "__main__":
    main()
