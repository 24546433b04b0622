"""How far exp, log and what is made of them are from the exact value, in units in the last place (ULP).

The exact value is computed by mpmath in 160 binary digits. One ULP of it is the spacing of the numbers of the dtype at
the exact value rounded to that dtype; below the normal numbers that is the smallest subnormal.

Measured maxima. float32: over *every* number of the domain (to 2^14 for log), against float64. float64: over 15
million random numbers for each, gathered where the error is largest, against 80-bit arithmetic. Both with fused
multiply-adds. ``negative`` is ``exp_of_negative``, which is what the others are made of:

========  ==============  ========  ========  ===============
function  domain          float64   float32   oracle, float64
========  ==============  ========  ========  ===============
exp       all             0.798     0.869
negative  x <= 88         0.981     1.096
expm1     x <= 0          1.131     1.009
log1p     [0, 1]          1.951     1.969
log       [1, 2^100]      1.992     1.969
sigmoid   [-1000, 1000]   2.439     2.402     2.416
tanh      all             2.509     2.499     1.193
========  ==============  ========  ========  ===============
"""

import math
import warnings
from typing import NamedTuple

import mpmath
import numpy as np
import pytest

from conftest import INTERPRETED, compiled
from fastmlp.kernels import activations, elementary, simd
from fastmlp.kernels.simd import lanes, load, store
from fastmlp.oracle import activations as oracle

mp = mpmath.MPContext()
mp.prec = 160

N_RANDOM = 300 if INTERPRETED else 2000
"""Random numbers in each of three distributions; interpreted vectors are slow."""


class Case(NamedTuple):
    """A function, the domain that it is meant for, and the error that it may have."""

    kernel: object
    exact: object
    low: float
    high: float
    ulp: dict
    """The bound for each precision."""
    rounded_twice: float
    """How much more it may be where a multiply-add is rounded twice: in interpreted twins, and by some machines."""
    hard: tuple = ()
    """Numbers at which the error was found to be largest, some for each precision."""


CASES = {
    # Half an ULP is the last rounding; f, of half of e's size at most, adds up to a quarter where e < 1, and f² tail
    # a little. float32 adds the error of its shorter polynomial.
    # Rounded twice, f² tail < 0.07 adds a 14th of the ULP of e < 1.
    "exp": Case(
        elementary.exp, mp.exp, -1000, 1000, {8: 1.0, 4: 1.0}, 0.1, (-27.3788223, -708.74875312060544),
    ),
    # The same without what 1 + f rounds off: a quarter more where e < 1. float32 adds the error of its shorter
    # polynomial: 1.096 at 5.198865.
    "negative": Case(
        elementary.exp_of_negative, mp.exp, -1000, 88, {8: 1.0, 4: 1.1}, 0.1,
        (5.198864936828613, 59.26770401000977, -4.451434213279142, -316.37798303624965),
    ),
    # Like exp, and from x = -0.35 on, where 2^n (f + …) and 2^n - 1 are of one size and opposite signs, what was lost
    # before is up to twice as many ULP of the result; the maximum is a measured one with some room.
    "expm1": Case(
        elementary.expm1, mp.expm1, -1000, 0, {8: 1.25, 4: 1.25}, 0.1,
        (-0.3619414051359301, -0.34834379697468465, -0.28572246432304382),
    ),
    # t is the quotient of a rounded sum: two relative errors of half an eps, each of which is almost one ULP where the
    # result is just below a power of two; and half an ULP for the last sum.
    # Rounded twice: the tail's share is a 25th of the whole.
    "log1p": Case(
        elementary.log1p, mp.log1p, 0, 1, {8: 2.5, 4: 2.5}, 0.1,
        (0.030431186485789796, 0.007833632135586518, 0.003861784934997559, 0.28033483028411865),
    ),
    # As log1p: here both the difference and the sum under t are rounded, but m - 1 is exact.
    # Rounded twice: half an ULP of e ln 2, which may be twice as large as the result.
    "log": Case(
        elementary.log, mp.log, 1, 2.0**100, {8: 2.5, 4: 2.5}, 1.1,
        (1.000243985976567, 1.0039137529468058, 1.00386178493499756, 1.0155462026596069),
    ),
    # The bound that the kernels promise. exp's error, up to doubled where the quotient's ULP is smaller, half an ULP
    # each for 1 + e (doubled likewise) and for the quotient would be 3.5, if they ever met: they do not.
    "sigmoid": Case(
        activations.sigmoid, lambda x: 1 / (1 + mp.exp(-x)), -1000, 1000, {8: 3.0, 4: 3.0}, 0,
        (-4.144967685378702, -4.15346198226863, -4.157293796539307, 2.9469813823794304, -4.848332629850308),
    ),
    "tanh": Case(
        activations.tanh, mp.tanh, -1000, 1000, {8: 3.0, 4: 3.0}, 0,
        (0.22145426601090912, -3.629267746137408, 4.505090713500977, 3.2751429080963135, 0.5007269734769968),
    ),
}  # fmt: skip


def over_arrays(function):
    """Compile a loop that applies an elementwise kernel."""

    @compiled
    def run(X, out):
        for k in range(0, X.size, lanes(X)):
            store(out, k, function(load(X, k)))

    def apply(X):
        whole = np.resize(X, -(-X.size // 16) * 16)
        out = np.full_like(whole, np.nan)
        with np.errstate(all="ignore"):
            run(whole, out)
        return out[: X.size]

    return apply


KERNELS = {name: over_arrays(case.kernel) for name, case in CASES.items()}
ORACLE = {"sigmoid": oracle.sigmoid, "tanh": oracle.tanh}


def ulp_of(exact, dtype):
    """The spacing of a dtype's numbers at an exact value rounded to that dtype."""
    limits = np.finfo(dtype)
    smallest = limits.minexp - limits.nmant
    with mp.workprec(limits.nmant + 1):
        rounded = +exact
    if rounded == 0:
        return mp.mpf(2) ** smallest
    e = mp.frexp(rounded)[1]
    return mp.mpf(2) ** max(e - limits.nmant - 1, smallest)


def error_in_ulp(found, exact, dtype):
    """Distance from the exact value; infinite for what is not finite."""
    return float(abs(mp.mpf(float(found)) - exact) / ulp_of(exact, dtype)) if np.isfinite(found) else math.inf


def points(case, dtype, rng):
    """Numbers of the domain: its ends, near zero, at powers of two, where the range reduction steps; and random."""
    limits = np.finfo(dtype)
    low, high = case.low, case.high
    powers = 2.0 ** np.array([*range(limits.minexp - limits.nmant, -60, 61), *range(-60, 101)])
    seams = (np.arange(-1500, 1500, 13 if INTERPRETED else 3) + 0.5) * math.log(2)  # where n of exp steps
    log_seams = math.sqrt(0.5) * 2.0 ** np.arange(102)  # where e of log steps
    results_end = [math.log(limits.max), math.log(limits.tiny), math.log(limits.smallest_subnormal) - math.log(2)]
    largest = np.log2(min(max(abs(low), high), 2.0**100))
    centres = np.concatenate(
        [
            [low, high, 0, 1, 0.5, limits.eps, *results_end, *case.hard],
            powers,
            1 + powers,
            1 - powers,
            seams,
            log_seams,
        ]
    )
    with np.errstate(over="ignore", under="ignore"):
        centres = np.concatenate([centres, -centres]).astype(dtype)
        neighbours = [np.nextafter(centres, dtype.type(end)) for end in (-np.inf, np.inf)]
    random = [
        rng.uniform(low, min(high, 1000), N_RANDOM),
        rng.uniform(max(low, -8), min(high, 8), N_RANDOM),
        rng.choice([-1, 1], N_RANDOM) * 2.0 ** rng.uniform(-30, largest, N_RANDOM),
    ]
    X = np.unique(np.concatenate([centres, *neighbours, *random]).astype(dtype))
    return X[(low <= X) & (high >= X)]


def worst(name, function, X):
    """The largest error in ULP and where it is, over those numbers whose exact value does not overflow."""
    case, found = CASES[name], function(X)
    errors = []
    for x, y in zip(X, found, strict=True):
        exact = case.exact(mp.mpf(float(x)))
        if exact <= mp.mpf(float(np.finfo(X.dtype).max)):
            errors.append((error_in_ulp(y, exact, X.dtype), x))
        else:
            assert y == np.inf, x
    return max(errors, key=lambda pair: pair[0])


@pytest.mark.parametrize("name", CASES)
def test_error_of_kernels(name, dtype, rng):
    case = CASES[name]
    bound = case.ulp[dtype.itemsize]
    if INTERPRETED or not simd.HAS_FMA:
        bound += case.rounded_twice
    error, where = worst(name, KERNELS[name], points(case, dtype, rng))
    assert error <= bound, f"{error} ULP at {where!r} = {float(where).hex()}"


@pytest.mark.parametrize("name", ORACLE)
def test_error_of_oracle(name, rng):
    """The same bound as the kernels'."""
    case, dtype = CASES[name], np.dtype(np.float64)
    error, where = worst(name, ORACLE[name], points(case, dtype, rng))
    assert error <= case.ulp[8], f"{error} ULP at {where!r} = {float(where).hex()}"


@pytest.mark.skipif(INTERPRETED or not simd.HAS_FMA, reason="measured where multiply-adds are rounded once")
@pytest.mark.parametrize("name", CASES)
def test_the_table_of_measured_maxima_is_reached(name, dtype):
    """At the worst numbers that were found, the error is as large as the table says: the yardstick is not blind."""
    row = next(line.split() for line in __doc__.splitlines() if line.startswith(name + " "))
    measured = float(row[-3] if name in ORACLE else row[-2]), float(row[-2] if name in ORACLE else row[-1])
    X = np.array(CASES[name].hard, dtype)
    error, where = worst(name, KERNELS[name], X)
    assert error == pytest.approx(measured[dtype == np.float32], abs=0.002), f"at {where!r}"


# ------------------------------------------------------------------------------------------------------------------
# ends: overflow, underflow, infinities and what is not a number


def test_exp_overflows_where_its_value_does(dtype):
    limits = np.finfo(dtype)
    last = dtype.type(float(mp.log(mp.mpf(float(limits.max)))))
    while mp.exp(mp.mpf(float(last))) > mp.mpf(float(limits.max)):
        last = np.nextafter(last, dtype.type(0))
    X = np.array([last, np.nextafter(last, dtype.type(np.inf)), limits.max, np.inf], dtype)
    np.testing.assert_array_equal(np.isinf(KERNELS["exp"](X)), [False, True, True, True])


def test_exp_reaches_every_size_of_subnormal_and_then_zero(dtype):
    limits = np.finfo(dtype)
    # the exact logarithm of k of the smallest subnormals, rounded: exp of it must round back to k of them. Rounding x
    # changes exp(x) by |x| eps / 2 < 1e-5 of it, and exp's own error before the last rounding is an eps or so of it:
    # both are far less than the half of one in a hundred that would lead to the neighbour
    counts = np.arange(1, 100)
    smallest = mp.mpf(2) ** (limits.minexp - limits.nmant)
    X = np.array([float(mp.log(int(k) * smallest)) for k in counts], dtype)
    np.testing.assert_array_equal(KERNELS["exp"](X), counts * limits.smallest_subnormal)
    below = np.array([float(mp.log(smallest / 2)) - 0.1, -1e4, -limits.max, -np.inf], dtype)
    np.testing.assert_array_equal(KERNELS["exp"](below), 0)


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("exp", [0.0, -0.0, np.inf, -np.inf], [1, 1, np.inf, 0]),
        ("expm1", [0.0, -0.0, -1e9, -np.inf], [0, 0, -1, -1]),
        ("log1p", [0.0], [0]),
        ("log", [1.0], [0]),
        ("sigmoid", [0.0, -0.0, 1e9, -1e9, np.inf, -np.inf], [0.5, 0.5, 1, 0, 1, 0]),
        ("tanh", [0.0, -0.0, 1e9, -1e9, np.inf, -np.inf], [0, 0, 1, -1, 1, -1]),
    ],
)
def test_exact_values(name, at, expected, dtype):
    np.testing.assert_array_equal(KERNELS[name](np.array(at, dtype)), expected)
    if name in ORACLE:
        np.testing.assert_array_equal(ORACLE[name](np.array(at)), expected)


@pytest.mark.parametrize("name", ["exp", "expm1", "log1p", "sigmoid", "tanh"])
def test_what_is_not_a_number_stays_so(name, dtype):
    X = np.array([0.25, np.nan, 0.5, -np.nan], dtype) * (-1 if name == "expm1" else 1)
    np.testing.assert_array_equal(np.isnan(KERNELS[name](X)), [False, True, False, True])


def test_sigmoid_reaches_subnormal_numbers(dtype):
    """Down there sigmoid is exp, and nothing is flushed to zero."""
    limits = np.finfo(dtype)
    X = np.linspace(math.log(limits.smallest_subnormal), math.log(limits.tiny), 200).astype(dtype)[1:-1]
    found = KERNELS["sigmoid"](X)
    assert ((found > 0) & (found < limits.tiny)).all()
    np.testing.assert_array_equal(found, KERNELS["negative"](X))


@pytest.mark.parametrize("shape", [(-1,), (7, -1), ()])
def test_the_oracles_sigmoid_is_silent(shape):
    """Neither overflow nor underflow, nor anything else that NumPy could warn of, from -1000 to 1000."""
    z = np.linspace(-1000, 1000, 70007)
    z = np.concatenate([z, [-0.0, 5e-324, -5e-324, *np.nextafter([-745.13, -708.4, 708.4, 745.13], 0)], [0.0] * 7])
    values = list(z[::100]) if shape == () else [z[: z.size // 7 * 7].reshape(shape)]
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in values:
            a = oracle.sigmoid(np.asarray(value))
            assert np.isfinite(a).all()
            assert ((a >= 0) & (a <= 1)).all()
