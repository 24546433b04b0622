"""Every operation of ``simd.py`` three times: its machine form, its interpreted twin, and its definition.

In compiled code a public function of ``simd.py`` is replaced by its machine form; outside of it the same name is the
interpreted twin. So each small program here is run compiled and as plain Python, and both are compared, bit by bit,
with a definition that this file writes out in scalars. A definition also tells which elements it touches: every other
element must be left alone, and an array that lacks one of them must raise ``IndexError``.

Which operations there are is asked of the module and of Numba, so that a new one cannot stay untested.
"""

import ast
import inspect
import itertools
import math
import operator
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import types
from numba.core.errors import TypingError
from numba.core.imputils import builtin_registry

from conftest import CHECKED, INTERPRETED, compiled
from fastmlp.kernels import activations, elementary, simd
from fastmlp.kernels.jit import tile_function
from fastmlp.kernels.simd import (
    ROWS,
    VECTOR_BYTES,
    add_to_counter,
    block,
    choice_of,
    column,
    exponent,
    fill,
    gather,
    gather_four,
    give_way,
    lanes,
    load,
    load_first,
    load_tile,
    load_wide,
    nearest,
    pause,
    polynomial,
    power_of_two,
    prefetch,
    random_words,
    rank1,
    read_counter,
    scatter,
    set_counter,
    store,
    store_columns,
    store_first,
    store_tile,
    sum_lanes,
    sum_lanes_of_four,
    times_power_of_two,
    transpose,
    transpose_finite,
    where,
    wide,
    zeros,
)
from fastmlp.oracle.dropout import philox

PUBLIC = {
    name: function
    for name, function in vars(simd).items()
    if inspect.isfunction(function) and function.__module__ == simd.__name__ and not name.startswith("_")
}

COVERED = set()
"""Names of the public functions that have a case in this file."""


def covers(*names):
    """Note that a test or a program has the cases of these functions."""
    COVERED.update(names)
    return lambda function: function


def machine_forms():
    """Everything that Numba knows how to lower: functions, each with the types of its operands."""
    return [(function, signature) for _, function, signature in builtin_registry.functions]


def both(program):
    """Make both sides of a comparison: the compiled program, and the same as plain Python."""
    return program, getattr(program, "py_func", program)


def n_lanes(dtype):
    """Elements of a vector."""
    return VECTOR_BYTES // dtype.itemsize


def n_block(dtype):
    """Elements of a block."""
    return simd.VECTORS * n_lanes(dtype)


def n_wide(dtype):
    """Elements of a wide vector."""
    return simd.AT_ONCE * n_lanes(dtype)


def bits(array):
    """The array's bits, in which -0 is not 0 and a NaN equals itself."""
    return array.view(f"u{array.dtype.itemsize}")


def one_nan(array):
    """The array with the same bits in every NaN: arithmetic may give it any sign."""
    return np.where(np.isnan(array), np.array(np.nan, array.dtype), array)


def same_bits(found, expected, message=""):
    """Compare results bit by bit."""
    __tracebackhide__ = True
    if not np.array_equal(bits(found), bits(expected)):
        np.testing.assert_array_equal(found, expected, err_msg=message)
        np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"bits of {message}")


# ------------------------------------------------------------------------------------------------------------------
# elementwise operations: the same text is compiled, interpreted on registers, and evaluated by definitions on arrays

# a, b, c are vectors; x, y floating point numbers; i a whole number
EXACT = [
    "a + b", "a + x", "x + a", "a + i", "i + a",
    "a - b", "a - x", "x - a", "a - i", "i - a",
    "a * b", "a * x", "x * a", "a * i", "i * a",
    "a / b", "a / x", "x / a", "a / i", "i / a",
    "square_root(a)",
]  # fmt: skip
MOVING = [
    "-a", "absolute(a)",
    "where(a < b, c, a)", "where(a < x, c, a)", "where(x < a, c, a)", "where(a < i, c, a)", "where(i < a, c, a)",
    "where(a > b, c, a)", "where(a > x, c, a)", "where(x > a, c, a)", "where(a > i, c, a)", "where(i > a, c, a)",
    "where(a < b, x, a)", "where(a < b, a, x)", "where(a < b, i, a)", "where(a < b, a, i)",
    "maximum(a, b)", "maximum(a, x)", "maximum(x, a)", "maximum(a, i)",
    "minimum(a, b)", "minimum(a, x)", "minimum(x, a)", "minimum(a, i)",
    "fill(A, x)", "fill(A, i)", "fill_like(a, x)", "fill_like(a, i)",
    "a * by_precision(a, 0.5, 2.0)",
]  # fmt: skip
MULTIPLY_ADD = [
    "fma(a, b, c)", "fma(a, b, x)", "fma(a, x, b)", "fma(x, a, b)", "fma(x, y, a)", "fma(x, a, y)", "fma(a, x, y)",
    "fma(a, i, x)", "fma(i, a, b)", "fma(a, b, i)",
]  # fmt: skip

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.Lt: operator.lt, ast.Gt: operator.gt,
}  # fmt: skip


def kind(node):
    """What a name of an expression stands for: a vector or a number."""
    return "Vector" if node.id in "abc" else "Number"


def operators_in(expression):
    """The operators of an expression, each with the kinds of its operands."""
    for node in ast.walk(ast.parse(expression)):
        match node:
            case ast.BinOp(left=ast.Name() as left, op=sign, right=ast.Name() as right):
                yield OPERATORS[type(sign)], (kind(left), kind(right))
            case ast.Compare(left=ast.Name() as left, ops=[sign], comparators=[ast.Name() as right]):
                yield OPERATORS[type(sign)], (kind(left), kind(right))
            case ast.UnaryOp(op=sign, operand=ast.Name() as operand):
                yield OPERATORS[type(sign)], (kind(operand),)


def functions_in(expression):
    """The functions that an expression calls."""
    return {node.func.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Call)}


for _expression in [*EXACT, *MOVING, *MULTIPLY_ADD]:
    covers(*functions_in(_expression))


def program_of(expressions):
    """Compile a loop that stores each expression of the vectors of A, B and C in a row of its own."""
    rows = "\n".join(f"        store(out, {r} * A.size + k, {text})" for r, text in enumerate(expressions))
    source = f"""
def run(A, B, C, x, y, i, out):
    for k in range(0, A.size, lanes(A)):
        a, b, c = load(A, k), load(B, k), load(C, k)
{rows}
"""
    scope = dict(PUBLIC)
    exec(source, scope)  # noqa: S102
    return compiled(scope["run"])


PROGRAMS = {name: program_of(globals()[name]) for name in ("EXACT", "MOVING", "MULTIPLY_ADD")}


def elementwise(function):
    """Apply a Python function to each element of its arguments, which are arrays or numbers."""

    def apply(*arguments):
        arrays = np.broadcast_arrays(*arguments)
        dtype = next(array.dtype for array in arrays if array.dtype != bool)
        return np.array([function(*elements) for elements in zip(*arrays, strict=True)], dtype)

    return apply


DEFINITIONS = {
    "where": elementwise(lambda mask, a, b: a if mask else b),
    # Python's own: the first unless the second is larger, so the first if either is NaN
    "maximum": elementwise(max),
    "minimum": elementwise(min),
    "absolute": elementwise(lambda a: np.copysign(a, a.dtype.type(1))),
    # a root rounded from more than twice the digits is the correctly rounded one; float64's is the machine's own
    "square_root": lambda a: np.sqrt(a.astype(np.float64)).astype(a.dtype),
    "fma": lambda a, b, c: a * b + c,
    "fill": elementwise(lambda _, x: x),
    "fill_like": elementwise(lambda _, x: x),
    "by_precision": lambda a, single, double: a.dtype.type({4: single, 8: double}[a.dtype.itemsize]),
}


def check_elementwise(name, arrays, numbers, canonical):
    """Run a program compiled and interpreted and compare both with the definitions."""
    expressions, A = globals()[name], arrays[0]
    scope = dict(zip("ABCabc", [*arrays, *arrays], strict=True), **DEFINITIONS)
    scope |= {letter: A.dtype.type(number) for letter, number in zip("xyi", numbers, strict=True)}
    with np.errstate(all="ignore"):
        expected = np.array([eval(text, scope) for text in expressions], A.dtype)  # noqa: S307
        for run in both(PROGRAMS[name]):
            found = np.full(expected.shape, 77, A.dtype)
            run(*arrays, *numbers, found.reshape(-1))
            for expression, ours, theirs in zip(expressions, found, expected, strict=True):
                same_bits(canonical(ours), canonical(theirs), f"{expression} with x, y, i = {numbers}")


def special_values(dtype):
    """Numbers at which something could go wrong."""
    limits = np.finfo(dtype)
    positive = [0, limits.smallest_subnormal, limits.tiny, 1, 1 + limits.eps, 0.1, 3, limits.max, np.inf, np.nan]
    return np.array([sign * np.array(value, dtype) for value in positive for sign in (1, -1)], dtype)


def of_whole_vectors(rows, dtype):
    """The rows, repeated from the start to fill whole vectors, one more than needed."""
    rows = np.array(rows, dtype)
    size = (rows.shape[1] // n_lanes(dtype) + 2) * n_lanes(dtype)
    return [np.ascontiguousarray(row) for row in np.tile(rows, 2 + size // rows.shape[1])[:, :size]]


@pytest.mark.parametrize(("name", "canonical"), [("EXACT", one_nan), ("MOVING", np.asarray)])
def test_arithmetic_and_comparisons_of_special_values(name, canonical, dtype):
    """Every pair of special values, as vectors and as numbers, among them 0.1, which float32 rounds.

    What only moves bits must keep those of a NaN too.
    """
    special = special_values(dtype)
    arrays = of_whole_vectors([*zip(*itertools.product(special, special), strict=True), 7 + np.arange(400)], dtype)
    for x, i in zip(special, itertools.cycle([0, 1, -3, 5]), strict=False):
        check_elementwise(name, arrays, (float(x), 2.0, i), canonical)
    check_elementwise(name, arrays, (0.1, 2.0, 2**24 + 1), canonical)


def test_arithmetic_of_random_numbers(dtype, rng):
    arrays = [rng.standard_normal(4 * n_block(dtype)).astype(dtype) for _ in range(3)]
    check_elementwise("EXACT", arrays, (1.7, 0.3, 3), one_nan)
    check_elementwise("MOVING", arrays, (0.3, 0.3, 1), one_nan)


def test_multiply_add_of_whole_and_special_numbers(dtype):
    """Products and sums of small whole numbers are exact, so that it cannot be seen how often they were rounded."""
    values = [0, -0.0, 1, -2, 5, 11, np.inf, -np.inf, np.nan]
    arrays = of_whole_vectors(list(zip(*itertools.product(values, repeat=3), strict=True)), dtype)
    for x, y, i in itertools.product(values, [3.0, -0.0, np.inf], [0, -3]):
        check_elementwise("MULTIPLY_ADD", arrays, (x, y, i), one_nan)


def rounded(x, dtype):
    """The nearest number of a dtype to a fraction in the range of its normal numbers, by its definition."""
    if x == 0:
        return dtype.type(0)
    digits = np.finfo(dtype).nmant + 1
    e = math.frexp(float(x))[1]  # float() of a fraction may round up to the next power of two: then one digit less
    e -= abs(x) < Fraction(2) ** (e - 1)
    unit = Fraction(2) ** (e - digits)
    return dtype.type(float(round(x / unit) * unit))  # round() of a fraction is to even


def test_multiply_add_rounds_once_by_machine_and_twice_by_twin(dtype, rng):
    size = 256 * n_lanes(dtype)
    a, b = rng.standard_normal((2, size)).astype(dtype)
    c = (-a * b * (1 + rng.standard_normal(size) * np.finfo(dtype).eps * 4 ** rng.integers(0, 9, size))).astype(dtype)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    once, twice = np.array([rounded(x, dtype) for x in exact]), a * b + c
    # c nearly cancels a b, so that the second rounding is seen
    assert (once != twice).mean() > 0.5
    results = []
    for run in both(PROGRAMS["MULTIPLY_ADD"]):
        out = np.empty((len(MULTIPLY_ADD), size), dtype)
        run(a, b, c, 1.0, 1.0, 1, out.reshape(-1))
        results.append(out[0])
    machine, twin = results
    np.testing.assert_array_equal(twin, twice)
    if INTERPRETED:
        return  # there is no machine form: both are the twin
    if simd.HAS_FMA:
        np.testing.assert_array_equal(machine, once)
    else:  # LLVM may do either
        assert ((machine == once) | (machine == twice)).all()


COEFFICIENTS = {
    "three": ([2.0, -3.0, 5.0], [7.0, 0.0, -2.0, 4.0]),
    "one": ([3.0], [-4.0]),
    "tenths": ([0.1, 0.2, 0.3, -0.4, 0.5], [0.3, -0.1, 0.2, 0.7, -0.6, 0.9]),
}
three, one, tenths = (polynomial(single, double) for single, double in COEFFICIENTS.values())


@compiled
def evaluate_polynomials(X, out):
    """All three polynomials of X, one after the other."""
    for k in range(0, X.size, lanes(X)):
        store(out, k, three(load(X, k)))
        store(out, X.size + k, one(load(X, k)))
        store(out, 2 * X.size + k, tenths(load(X, k)))


@covers("polynomial")
@pytest.mark.parametrize("whole", [True, False], ids=["whole numbers", "random numbers"])
def test_polynomial_is_horners_rule_with_the_coefficients_of_the_precision(whole, dtype, rng):
    size = 8 * n_lanes(dtype)
    X = (rng.integers(-9, 10, size) if whole else rng.uniform(-1.5, 1.5, size)).astype(dtype)
    for run in both(evaluate_polynomials):
        out = np.full((3, size), np.nan, dtype)
        run(X, out.reshape(-1))
        for row, (single, double) in zip(out, COEFFICIENTS.values(), strict=True):
            coefficients = [Fraction(float(dtype.type(c))) for c in (single if dtype == np.float32 else double)]
            for x, found in zip(X, row, strict=True):
                powers = [Fraction(float(x)) ** k for k in range(len(coefficients))]
                exact = sum(c * p for c, p in zip(coefficients, powers, strict=True))
                # whole numbers stay exact. Others: of Horner's rule (Higham, Accuracy and Stability, 5.1) at most 2
                # roundings per degree of half an eps each, relative to the sum of the terms' sizes
                size_of_terms = sum(abs(c * p) for c, p in zip(coefficients, powers, strict=True))
                bound = len(coefficients) * np.finfo(dtype).eps * float(size_of_terms)
                integral = all(c.denominator == 1 for c in coefficients)
                assert abs(Fraction(float(found)) - exact) <= (0 if whole and integral else bound)


# ------------------------------------------------------------------------------------------------------------------
# sums over lanes; and exponents, powers of two and whole numbers over all of their range


@compiled
def sums_of_lanes(X, out):
    """The sum of each vector of X."""
    for k in range(0, X.size, lanes(X)):
        out[k // lanes(X)] = sum_lanes(load(X, k))


def in_halves(values):
    """The sum of a power of two of values: lane ``k`` with lane ``k + half``, again and again."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return in_halves([values[k] + values[k + half] for k in range(half)])


@covers("sum_lanes")
def test_sum_of_lanes_is_taken_in_halves(dtype, rng):
    size = n_lanes(dtype)
    # of very different sizes, so that another order rounds to other bits
    X = (rng.standard_normal(500 * size) * 10.0 ** rng.integers(-6, 7, 500 * size)).astype(dtype)
    expected = np.array([in_halves(list(vector)) for vector in X.reshape(-1, size)])
    in_order = np.array([sum(vector[1:], start=vector[0]) for vector in X.reshape(-1, size)])
    if size > 2:
        assert (expected != in_order).mean() > 0.2  # the test of the test
    for run in both(sums_of_lanes):
        found = np.full(500, np.nan, dtype)
        run(X, found)
        same_bits(found, expected)


@compiled
def sums_of_four_vectors(X, out):
    """The sums of every four vectors of X."""
    step = lanes(X)
    for k in range(0, X.size // step, 4):
        sums = sum_lanes_of_four(
            load(X, k * step), load(X, (k + 1) * step), load(X, (k + 2) * step), load(X, (k + 3) * step)
        )
        out[k], out[k + 1], out[k + 2], out[k + 3] = sums


@covers("sum_lanes_of_four")
def test_four_vectors_sums_are_those_of_each(dtype, rng):
    size = n_lanes(dtype)
    X = (rng.standard_normal(400 * size) * 10.0 ** rng.integers(-6, 7, 400 * size)).astype(dtype)
    expected = np.array([in_halves(list(vector)) for vector in X.reshape(-1, size)])
    for run in both(sums_of_four_vectors):
        found = np.full(400, np.nan, dtype)
        run(X, found)
        same_bits(found, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sum_of_lanes_lets_no_lane_hide_what_is_not_finite(value, dtype):
    size = n_lanes(dtype)
    X = np.ones((size, size), dtype)
    np.fill_diagonal(X, value)
    for run in both(sums_of_lanes):
        found = np.zeros(size, dtype)
        run(X.reshape(-1), found)
        np.testing.assert_array_equal(found, value)


@compiled
def exponents(X, out):
    """``exponent`` of every element."""
    for k in range(0, X.size, lanes(X)):
        store(out, k, exponent(load(X, k)))


@compiled
def powers_of_two(X, out):
    """``power_of_two`` of every element."""
    for k in range(0, X.size, lanes(X)):
        store(out, k, power_of_two(load(X, k)))


@compiled
def nearest_whole_numbers(X, out):
    """``nearest`` of every element."""
    for k in range(0, X.size, lanes(X)):
        store(out, k, nearest(load(X, k)))


def with_neighbours(values, dtype):
    """The values with the next smaller and the next larger number of each."""
    values, infinity = np.array(values, dtype), dtype.type(np.inf)
    return np.concatenate([np.nextafter(values, -infinity), values, np.nextafter(values, infinity)])


@covers("nearest")
def test_nearest_whole_number(dtype, rng):
    """Halves go to the even neighbour. What ``nearest`` does with the sign of a zero is left open."""
    limit = 2.0**22
    halves = np.arange(-4096.5, 4097)
    large = np.concatenate([limit - np.arange(0.5, 200, 0.5), 2.0 ** np.arange(-30, 22)])
    spread = rng.uniform(1, 2, 4000) * 2.0 ** rng.integers(-30, 22, 4000)
    X = with_neighbours(np.concatenate([[0.0], halves, large, -large, spread, -spread]), dtype)
    [X] = of_whole_vectors([X[np.abs(X) < limit]], dtype)
    expected = np.array([round(float(x)) for x in X], dtype)
    for run in both(nearest_whole_numbers):
        found = np.full_like(X, np.nan)
        run(X, found)
        np.testing.assert_array_equal(found, expected)


@covers("power_of_two")
def test_power_of_two_over_the_range_of_normal_numbers(dtype):
    limits = np.finfo(dtype)
    [n] = of_whole_vectors([np.arange(limits.minexp, limits.maxexp)], dtype)
    expected = np.array([math.ldexp(1.0, int(k)) for k in n], dtype)
    assert expected.min() == limits.tiny
    for run in both(powers_of_two):
        found = np.full_like(n, np.nan)
        run(n, found)
        same_bits(found, expected)


@compiled
def products_with_powers_of_two(X, N, out):
    """``times_power_of_two`` of every pair of elements."""
    for k in range(0, X.size, lanes(X)):
        store(out, k, times_power_of_two(load(X, k), load(N, k)))


@covers("times_power_of_two")
def test_times_power_of_two_reaches_from_subnormal_numbers_to_infinity(dtype, rng):
    """Two factors round once, where the product is subnormal: the exact product in more digits is rounded once too."""
    limits = np.finfo(dtype)
    powers = np.arange(2 * limits.minexp + 2, 2 * limits.maxexp - 2)
    x = rng.uniform(0.5, 1.5, powers.size)
    X, N = of_whole_vectors([x, powers], dtype)
    with np.errstate(over="ignore", under="ignore"):
        expected = np.array([np.ldexp(a, int(n)) for a, n in zip(X, N, strict=True)], dtype)
    assert (np.abs(expected) < limits.tiny).any()
    assert np.isinf(expected).any()
    for run in both(products_with_powers_of_two):
        found = np.full_like(X, np.nan)
        with np.errstate(over="ignore", under="ignore"):
            run(X, N, found)
        normal = np.abs(expected) >= limits.tiny
        same_bits(found[normal], expected[normal])
        # the first factor may round, and then the second: never by more than the last digit there is
        assert (np.abs(found[~normal] - expected[~normal]) <= limits.smallest_subnormal).all()


@covers("exponent")
def test_exponent_over_the_range_of_normal_numbers(dtype):
    """Every exponent there is, with fractions at both ends and at both sides of the seam, which is √½ rounded."""
    limits = np.finfo(dtype)
    seam = dtype.type(math.sqrt(0.5))
    fractions = [0.5, np.nextafter(dtype.type(0.5), seam), 0.6, *with_neighbours([seam], dtype)]
    fractions += [0.75, np.nextafter(dtype.type(1), seam)]
    powers = np.arange(limits.minexp + 1, limits.maxexp + 1)
    [X] = of_whole_vectors([[math.ldexp(float(f), int(e)) for f in fractions for e in powers]], dtype)
    assert X.min() == limits.tiny
    assert X.max() == limits.max
    expected = []
    for x in X:
        fraction, e = math.frexp(float(x))
        expected.append(e if fraction >= seam else e - 1)
    for run in both(exponents):
        found = np.full_like(X, np.nan)
        run(X, found)
        np.testing.assert_array_equal(found, np.array(expected, dtype))


# ------------------------------------------------------------------------------------------------------------------
# sizes


@compiled
def sizes_of(A):
    """Lanes and block of an array, and elements of a wide vector."""
    return lanes(A), block(A), wide(A)


@covers("lanes", "block", "wide")
def test_lanes_block_and_wide_vector(dtype):
    for shape in (0, 5, (2, 3)):
        for run in both(sizes_of):
            assert run(np.empty(shape, dtype)) == (n_lanes(dtype), n_block(dtype), n_wide(dtype))
    assert VECTOR_BYTES in (16, 32, 64)
    assert simd.VECTORS * ROWS >= 8  # sums under way at once, to hide the latency of a multiply-add
    assert ROWS >= 1


# ------------------------------------------------------------------------------------------------------------------
# operations that address memory: small programs, each beside its definition, element by element
#
# An offset has the small letter of its array. ``V`` holds what is stored, ``T`` and ``U`` of what a tile is made.


@compiled
def run_load(A, a, out):
    """Return what was loaded."""
    store(out, 0, load(A, a))


def define_load(A, a, out):
    for k in range(n_lanes(A.dtype)):
        out[k] = A[a + k]


@compiled
def run_store(A, a, V):
    """Store a vector."""
    store(A, a, load(V, 0))


def define_store(A, a, V):
    for k in range(n_lanes(A.dtype)):
        A[a + k] = V[k]


@compiled
def run_load_wide(A, a, out):
    """Return what was loaded."""
    store(out, 0, load_wide(A, a))


def define_load_wide(A, a, out):
    for k in range(n_wide(A.dtype)):
        out[k] = A[a + k]


@compiled
def run_load_first(A, a, count, out):
    """Return what was loaded."""
    store(out, 0, load_first(A, a, count))


def define_load_first(A, a, count, out):
    for k in range(n_lanes(A.dtype)):
        out[k] = A[a + k] if k < count else 0


@compiled
def run_store_first(A, a, V, count):
    """Store a part of a vector."""
    store_first(A, a, load(V, 0), count)


def define_store_first(A, a, V, count):
    for k in range(min(count, n_lanes(A.dtype))):
        A[a + k] = V[k]


@compiled
def run_gather(A, a, stride, rows, out):
    """Return what was gathered."""
    store(out, 0, gather(A, a, stride, rows))


def define_gather(A, a, stride, rows, out):
    for k in range(n_lanes(A.dtype)):
        out[k] = A[a + min(k, rows - 1) * stride]


@compiled
def run_scatter(A, a, stride, V, count):
    """Store the lanes of a vector one by one."""
    scatter(A, a, stride, load(V, 0), count)


def define_scatter(A, a, stride, V, count):
    for k in range(min(count, n_lanes(A.dtype))):
        A[a + k * stride] = V[k]


def tile_programs(rows):
    """Programs for tiles of so many rows, which is fixed when they are compiled; each with its definition."""

    @compiled
    def run_column(A, a, out):
        store_tile(column(A, a, rows), out, 0, block(out))

    def define_column(A, a, out):
        for r, k in itertools.product(range(rows), range(n_block(A.dtype))):
            out[r * n_block(A.dtype) + k] = A[a + r]

    @compiled
    def run_load_tile(A, a, stride, columns, out):
        store_tile(load_tile(A, a, stride, columns, rows), out, 0, block(out))

    def define_load_tile(A, a, stride, columns, out):
        for r, k in itertools.product(range(rows), range(n_block(A.dtype))):
            out[r * n_block(A.dtype) + k] = A[a + r * stride + k] if k < columns else 0

    @compiled
    def run_rank1(T, A, a, stride, B, b, out):
        # two steps of a sum of products, the second one with a tile that differs in every element
        t = rank1(column(T, 0, rows), A, a, stride, B, b)
        t = rank1(t, A, a, stride, B, b)
        store_tile(t, out, 0, block(out))

    def define_rank1(T, A, a, stride, B, b, out):
        for r, k in itertools.product(range(rows), range(n_block(A.dtype))):
            product = A[a + r * stride] * B[b + k]
            out[r * n_block(A.dtype) + k] = T[r] + product + product

    @compiled
    def run_store_tile(T, U, C, c, stride):
        # the tile T[r] + U[k]
        store_tile(rank1(column(T, 0, rows), one_element(T), 0, 0, U, 0), C, c, stride)

    def define_store_tile(T, U, C, c, stride):
        define_store_columns(T, U, C, c, stride, n_block(C.dtype))

    @compiled
    def run_store_columns(T, U, C, c, stride, columns):
        store_columns(rank1(column(T, 0, rows), one_element(T), 0, 0, U, 0), C, c, stride, columns)

    def define_store_columns(T, U, C, c, stride, columns):
        for r, k in itertools.product(range(rows), range(min(columns, n_block(C.dtype)))):
            C[c + r * stride + k] = T[r] + U[k]

    # rows that follow each other, that leave gaps, that overlap, and that go backward
    def strides(L):
        return {"stride": [2 * L, 2 * L + 3, 1, -2 * L - 1]}

    def columns(L):
        return {"columns": [-1, *beyond(2 * L)]}

    return {
        f"column {rows}": (run_column, define_column, lambda _: {}, "out"),
        f"load_tile {rows}": (run_load_tile, define_load_tile, lambda L: strides(L) | columns(L), "out"),
        f"rank1 {rows}": (run_rank1, define_rank1, lambda L: {"stride": [0, 1, 2, 2 * L + 1, -3]}, "out"),
        f"store_tile {rows}": (run_store_tile, define_store_tile, strides, "C"),
        f"store_columns {rows}": (run_store_columns, define_store_columns, lambda L: strides(L) | columns(L), "C"),
    }


@compiled
def one_element(T):
    """Return an array of a single one."""
    one = np.empty(1, T.dtype)
    one[0] = 1
    return one


@compiled
def run_transpose(A, a, a_stride, a_rows, B, b, b_stride, b_rows):
    """Transpose a square."""
    transpose(A, a, a_stride, a_rows, B, b, b_stride, b_rows)


@compiled
def run_transpose_finite(A, a, a_stride, a_rows, B, b, b_stride, b_rows):
    """Transpose a square."""
    transpose_finite(A, a, a_stride, a_rows, B, b, b_stride, b_rows)


def define_transpose(A, a, a_stride, a_rows, B, b, b_stride, b_rows):
    square = range(n_lanes(A.dtype))
    turned = {(k, r): A[a + min(r, a_rows - 1) * a_stride + k] for r in square for k in square}
    for k, r in itertools.product(square, square):
        if k < b_rows:
            B[b + k * b_stride + r] = turned[k, r]


def beyond(size, first=0):
    """Counts from the first to two more than there are."""
    return range(first, size + 3)


def squares(L):
    """Where the rows of a square are, and of what it becomes."""
    strides = [L, 2 * L + 1, 1]
    return {"a_stride": strides, "a_rows": beyond(L, 1), "b_stride": strides, "b_rows": beyond(L)}


# operation: program, definition, the values that its numbers take for a vector's L lanes, the array that it writes
MEMORY = {
    "load": (run_load, define_load, lambda _: {}, "out"),
    "load_wide": (run_load_wide, define_load_wide, lambda _: {}, "out"),
    "store": (run_store, define_store, lambda _: {}, "A"),
    "load_first": (run_load_first, define_load_first, lambda L: {"count": beyond(L)}, "out"),
    "store_first": (run_store_first, define_store_first, lambda L: {"count": [-2, -1, *beyond(L)]}, "A"),
    "gather": (run_gather, define_gather, lambda L: {"stride": [1, 3, -2], "rows": beyond(L, 1)}, "out"),
    "scatter": (run_scatter, define_scatter, lambda L: {"stride": [1, 3, -2], "count": [-1, *beyond(L)]}, "A"),
    "transpose": (run_transpose, define_transpose, squares, "B"),
    "transpose_finite": (run_transpose_finite, define_transpose, squares, "B"),
}
HEIGHTS = sorted({1, 2, ROWS // 2, ROWS - 1, ROWS})
for _rows in HEIGHTS:
    MEMORY |= tile_programs(_rows)
covers(*(name.split()[0] for name in MEMORY))

CANARY = -77.0
MARGIN = 128
"""Elements around what an operation touches: more than a wrong row or vector goes astray."""


class Watched:
    """An array of a definition, which notes the places of its elements that were touched."""

    def __init__(self, array):
        self.array, self.dtype, self.places = array, array.dtype, set()

    def __getitem__(self, place):
        assert 0 <= place < self.array.size
        self.places.add(place)
        return self.array[place]

    def __setitem__(self, place, value):
        assert 0 <= place < self.array.size
        self.places.add(place)
        self.array[place] = value


def cases_of(name, dtype):
    """Every combination of an operation's numbers, by their names."""
    numbers = MEMORY[name][2](n_lanes(dtype))
    for values in itertools.product(*numbers.values()):
        yield dict(zip(numbers, values, strict=True))


def parameters_of(name):
    """Names of what an operation's program takes."""
    return list(inspect.signature(MEMORY[name][1]).parameters)


def arrays_of(name, dtype, rng):
    """Arrays of small whole numbers for a program: room on both sides of what is addressed, none where it is not."""
    exact = {"out": ROWS * n_block(dtype), "V": n_lanes(dtype), "T": ROWS, "U": n_block(dtype)}
    room = 2 * (ROWS + n_lanes(dtype)) * (2 * n_lanes(dtype) + 3) + 2 * MARGIN
    arrays = {}
    for parameter in parameters_of(name):
        if parameter in exact or parameter.isupper():
            arrays[parameter] = rng.integers(-9, 10, exact.get(parameter, room)).astype(dtype)
    return arrays


def given_to(name, arrays, numbers, offsets):
    """A program's arguments in order."""
    given = {**arrays, **numbers, **offsets}
    return [given[parameter] for parameter in parameters_of(name)]


def definition_of(name, arrays, numbers, offsets):
    """What an operation should do: its arrays after it, with the places that it touched."""
    watched = {letter: Watched(array.copy()) for letter, array in arrays.items()}
    MEMORY[name][1](*given_to(name, watched, numbers, offsets))
    return watched


def offsets_of(name, of):
    """The offset of every array that has one."""
    parameters = parameters_of(name)
    return {p.lower(): of[p] for p in parameters if p.isupper() and p.lower() in parameters}


@pytest.mark.parametrize("name", MEMORY)
def test_what_is_read_and_written(name, dtype, rng):
    """The named elements and no other, at every place relative to the alignment of a vector."""
    program, _, _, written = MEMORY[name]
    for turn, numbers in enumerate(cases_of(name, dtype)):
        arrays = arrays_of(name, dtype, rng)
        arrays[written][:] = CANARY
        middle = {letter: array.size // 2 + (turn + 3 * n) % 8 for n, (letter, array) in enumerate(arrays.items())}
        offsets = offsets_of(name, middle)
        watched = definition_of(name, arrays, numbers, offsets)
        for letter, array in arrays.items():
            touched = sorted(watched[letter].places)
            if letter.lower() in offsets and touched:
                assert touched[0] >= MARGIN
                assert touched[-1] < array.size - MARGIN
            if letter != written:  # what need not be read would make itself known
                hidden = np.ones(array.size, bool)
                hidden[touched] = False
                array[hidden & (letter.lower() in offsets)] = np.nan
        for run in both(program):
            copies = {letter: array.copy() for letter, array in arrays.items()}
            with np.errstate(invalid="ignore"):
                run(*given_to(name, copies, numbers, offsets))
            for letter, copy in copies.items():
                expected = watched[letter].array if letter == written else arrays[letter]
                same_bits(copy, expected, f"{letter} after {name} {numbers}")


@compiled
def four_columns(A, features, order, n, count, out):
    """``gather_four``, vector after vector."""
    size = lanes(A)
    v0, v1, v2, v3 = gather_four(A, features, order, n, count)
    store(out, 0, v0)
    store(out, size, v1)
    store(out, 2 * size, v2)
    store(out, 3 * size, v3)


@covers("gather_four")
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "in a row"])
@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 9])
def test_first_columns_of_some_rows(features, ordered, dtype, rng):
    size, n = n_lanes(dtype), 3
    for count in range(1, size + 3):
        rows = np.arange(n, n + min(count, size))
        order = np.empty(0, np.int64)
        if ordered:
            order = rng.permutation(len(rows) + n)
            rows = order[rows]
        # the last row ends where the data do, and nothing else may be read
        data = np.full((rows.max() + 1, features), np.nan, dtype)
        data[rows] = rng.standard_normal((len(rows), features))
        repeated = rows[np.minimum(np.arange(size), len(rows) - 1)]
        expected = np.zeros((4, size), dtype)
        expected[: min(features, 4)] = data[repeated, :4].T
        for run in both(four_columns):
            found = np.full(4 * size, np.nan, dtype)
            run(data.ravel(), features, order, n, count, found)
            same_bits(found, expected.ravel())


@pytest.mark.parametrize("rows", HEIGHTS)
def test_tiles_are_added(rows, dtype, rng):
    @compiled
    def program(A, B, out):
        a, b = load_tile(A, 0, block(A), block(A), rows), load_tile(B, 0, block(B), block(B), rows)
        store_tile(a + b, out, 0, block(out))

    A, B = (rng.standard_normal(rows * n_block(dtype)).astype(dtype) for _ in range(2))
    for run in both(program):
        found = np.full_like(A, np.nan)
        run(A, B, found)
        same_bits(found, A + B)


@covers("zeros", "fill")
@pytest.mark.parametrize("rows", HEIGHTS)
def test_zero_tile_and_filled_vectors_do_not_read_their_array(rows, dtype):
    """They take no more than the dtype of it, which may be empty."""

    @compiled
    def program(A, tile, vector):
        store_tile(zeros(A, rows), tile, 0, block(tile))
        store(vector, 0, fill(A, 2.5))

    for run in both(program):
        tile, vector = np.full(rows * n_block(dtype), np.nan, dtype), np.full(n_lanes(dtype), np.nan, dtype)
        run(np.empty(0, dtype), tile, vector)
        same_bits(tile, np.zeros_like(tile))
        same_bits(vector, np.full_like(vector, 2.5))


@compiled
def checked_transpose(A, a, a_stride, a_rows, B, b, b_stride, b_rows, out):
    """Transpose a square, and return what was found in it."""
    store(out, 0, transpose_finite(A, a, a_stride, a_rows, B, b, b_stride, b_rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_transpose_tells_the_columns_that_are_not_finite(value, dtype, rng):
    side = n_lanes(dtype)
    A = rng.standard_normal(side * (side + 3)).astype(dtype)
    A[0] = np.finfo(dtype).max  # large, but finite
    for rows, other in itertools.product((1, side - 1, side), (None, 0, side // 2, side - 1)):
        given = A.copy()
        expected, check = np.zeros(side * side, dtype), np.zeros(side, dtype)
        if other is not None:
            given[min(other, rows - 1) * (side + 3) + other] = value
            check[other] = np.nan
        for run in both(checked_transpose):
            found, out = np.zeros_like(expected), np.full(side, 7, dtype)
            run_transpose(given, 0, side + 3, rows, expected, 0, side, side)
            with np.errstate(invalid="ignore"):
                run(given, 0, side + 3, rows, found, 0, side, side, out)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(out, check)


@pytest.mark.parametrize("apart", [0, 1, 3, -2])
def test_transpose_within_one_array(apart, dtype):
    """The whole square is read before it is written, so that it may be turned in place."""
    side = n_lanes(dtype)
    A = np.arange(side * (side + 8), dtype=dtype)
    expected, a = A.copy(), 4
    for r, k in itertools.product(range(side), range(side)):
        expected[a + apart + k * side + r] = A[a + r * side + k]
    for run in both(run_transpose):
        found = A.copy()
        run(found, a, side, side, found, a + apart, side, side)
        same_bits(found, expected)


def test_a_whole_product_of_matrices(dtype, rng):
    """Steps of a sum of products, one for each term, over panels as the layers use them; exact in whole numbers."""
    terms = 40
    A, B = rng.integers(-9, 10, (terms, ROWS)), rng.integers(-9, 10, (terms, n_block(dtype)))
    for run in both(run_product):
        C = np.full((ROWS, n_block(dtype)), np.nan, dtype)
        run(A.astype(dtype).reshape(-1), B.astype(dtype).reshape(-1), terms, C.reshape(-1))
        np.testing.assert_array_equal(C, A.T @ B)


@compiled
def run_product(A, B, terms, C):
    """``C[r,k] = Σ_t A[t,r] B[t,k]``."""
    tile = zeros(C, ROWS)
    for t in range(terms):
        tile = rank1(tile, A, t * ROWS, 1, B, t * block(B))
    store_tile(tile, C, 0, block(C))


@compiled
def ask_for(A, a):
    """Ask for ``A[a]``, wherever that is."""
    prefetch(A, a)
    return A[0]


@covers("prefetch")
@pytest.mark.parametrize("a", [0, 5, -1_000_000_007, 10**15])
def test_anything_may_be_asked_for_beforehand(a, dtype):
    for run in both(ask_for):
        A = np.arange(3, dtype=dtype) + 7
        assert run(A, a) == 7
        assert A.tolist() == [7, 8, 9]


# ------------------------------------------------------------------------------------------------------------------
# counters that threads share


@compiled
def count_along(A, times):
    """Add 1 so many times, and 2 to a counter of one's own; return the sum of what stood there before."""
    seen = 0
    for _ in range(times):
        seen += add_to_counter(A, 1, 1)
        pause()
    give_way()
    set_counter(A, 3, read_counter(A, 1) * 2)
    return seen


@covers("add_to_counter", "read_counter", "set_counter", "pause", "give_way")
def test_counters(rng):
    for run in both(count_along):
        A = np.array([7, 10, 7, 7], np.int64)
        assert run(A, 3) == 10 + 11 + 12
        assert A.tolist() == [7, 13, 7, 26]


@pytest.mark.skipif(INTERPRETED, reason="Python adds in more than one piece")
def test_no_count_of_any_thread_is_lost():
    times, n_threads = 20_000, 4

    @numba.njit(nogil=True)  # noqa: TID251 (as a user's own thread would run it)
    def count(A, times):
        return count_along(A, times)

    A = np.zeros(4, np.int64)
    count(A, 0)
    with ThreadPoolExecutor(n_threads) as pool:
        seen = list(pool.map(lambda _: count(A, times), range(n_threads)))
    total = n_threads * times
    assert A[1] == total
    assert sum(seen) == total * (total - 1) // 2  # every number was seen once


@pytest.mark.parametrize("place", [-1, 2])
def test_counters_are_checked_too(place):
    if not CHECKED or INTERPRETED:
        pytest.skip("only the checked build checks them")

    @compiled
    def read(A, a):
        return read_counter(A, a)

    with pytest.raises(IndexError):
        read(np.zeros(2, np.int64), place)


@pytest.mark.parametrize(
    ("rows", "order", "n"),
    [
        pytest.param(2, [], 1, id="no such row"),
        pytest.param(3, [0, 1], 1, id="no such place in the order"),
        pytest.param(3, [0, 1, 3], 1, id="the order names no row"),
        pytest.param(3, [0, 1, -1], 1, id="the order names a row before the first"),
        pytest.param(3, [], -1, id="a row before the first"),
    ],
)
def test_rows_that_are_not_there(rows, order, n, dtype):
    """Two rows are gathered, of three numbers each."""
    for run in both(four_columns) if CHECKED or INTERPRETED else both(four_columns)[1:]:
        with pytest.raises(IndexError):
            run(np.zeros(3 * rows, dtype), 3, np.array(order, np.int64), n, 2, np.zeros(4 * n_lanes(dtype), dtype))


# ------------------------------------------------------------------------------------------------------------------
# the checked build: an element too few at either end


def check_bounds(name, dtype, rng, run):
    """Give an array exactly the elements that are touched, and then one less at its end, and at its start."""
    for numbers in cases_of(name, dtype):
        arrays = arrays_of(name, dtype, rng)
        middle = offsets_of(name, {letter: array.size // 2 for letter, array in arrays.items()})
        watched = definition_of(name, arrays, numbers, middle)
        for letter in {letter for letter in arrays if letter.lower() in middle}:

            def attempt(array, offset, letter=letter, arrays=arrays, numbers=numbers, middle=middle):
                offsets = {**middle, letter.lower(): offset}
                run(*given_to(name, {**arrays, letter: array}, numbers, offsets))

            if not watched[letter].places:
                attempt(np.empty(0, dtype), 0)
                continue
            first, last = min(watched[letter].places), max(watched[letter].places)
            offset = middle[letter.lower()] - first
            array = arrays[letter][first : last + 1].copy()
            attempt(array, offset)
            for missing, shorter, shifted in (("last", array[:-1], offset), ("first", array[1:], offset - 1)):
                try:
                    attempt(shorter.copy(), shifted)
                except IndexError:
                    continue
                pytest.fail(f"{name} {numbers}: {letter} lacks the {missing} element, and nothing was raised")


@pytest.mark.parametrize("name", MEMORY)
def test_interpreted_twin_raises_out_of_bounds(name, dtype, rng):
    check_bounds(name, dtype, rng, both(MEMORY[name][0])[1])


@pytest.mark.skipif(not CHECKED or INTERPRETED, reason="only the checked build checks; the next test starts one")
@pytest.mark.parametrize("name", MEMORY)
def test_machine_form_raises_out_of_bounds(name, dtype, rng):
    check_bounds(name, dtype, rng, MEMORY[name][0])


@pytest.mark.skipif(INTERPRETED, reason="there is no machine form in interpreted mode")
@pytest.mark.skipif(CHECKED, reason="this is the checked build: the test before has run")
def test_machine_forms_raise_out_of_bounds_in_the_checked_build():
    """Run the test before in a process of its own, where ``NUMBA_BOUNDSCHECK=1`` was set from the start."""
    here = Path(__file__).resolve()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{here.parent.name}/{here.name}"]
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "FASTMLP_CACHE": "0"}
    done = subprocess.run(
        [*command, "-k", test_machine_form_raises_out_of_bounds.__name__],
        cwd=here.parent.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(MEMORY)} passed" in done.stdout
    assert "skipped" not in done.stdout


# ------------------------------------------------------------------------------------------------------------------
# random words


@compiled
def words_of(A, counters, keys, out):
    for k in range(counters.shape[0]):
        n, group, layer, step = counters[k]
        words = random_words(A, n, group, layer, step, keys[k, 0], keys[k, 1], -1)
        for r in range(4):
            store(out, (4 * k + r) * lanes(A), words[r])


@covers("random_words")
def test_random_words_are_the_oracles(dtype, rng):
    """The high 24 bits of Philox's words; a lane is a sample; counters and keys are taken modulo 2^32."""
    size, A = n_lanes(dtype), np.zeros(2 * n_lanes(dtype), dtype)
    counters, keys = rng.integers(0, 2**33, (200, 4)), rng.integers(0, 2**32, (200, 2))
    counters[:3, 0] = 0, 2**32 - 2, 2**31 - 2  # here lanes begin again at 0, or change their sign
    for run in both(words_of):
        found = np.full((200, 4, size), np.nan, dtype)
        run(A, counters, keys, found.reshape(-1))
        for (n, *rest), (key0, key1), words in zip(counters, keys, found, strict=True):
            lane_counters = (n + np.arange(size)) % 2**32
            expected = philox((lane_counters, *(np.uint64(word % 2**32) for word in rest)), int(key0), int(key1))
            same_bits(words, (np.stack(np.broadcast_arrays(*expected)) >> np.uint64(8)).astype(dtype))


@compiled
def words_of_given_places(A, p, out):
    words = random_words(A, 77, 1, 2, 3, 4, 5, p)
    for r in range(4):
        store(out, r * lanes(A), words[r])


def test_random_words_of_given_places(dtype, rng):
    size = n_lanes(dtype)
    A = rng.integers(0, 2**24, 3 * size).astype(dtype)
    for run in both(words_of_given_places):
        for p in (0, 3, 2 * size):
            found = np.full((4, size), np.nan, dtype)
            run(A, p, found.reshape(-1))
            expected = philox((A[p : p + size].astype(np.uint64), *(np.uint64(word) for word in (1, 2, 3))), 4, 5)
            same_bits(found, (np.stack(np.broadcast_arrays(*expected)) >> np.uint64(8)).astype(dtype))


# ------------------------------------------------------------------------------------------------------------------
# wide vectors


FORMULAS = [
    activations.sigmoid, activations.tanh, activations.relu, activations.leaky_relu, activations.elu,
    activations.softplus, activations.silu, activations.gelu, activations.exponential, elementary.log,
]  # fmt: skip
"""Between them, they have every operation on elements but the square root."""


def by_vectors_and_by_wide_vectors(formula):
    """A program that computes a formula in both ways."""

    @compiled
    def program(X, narrow, broad):
        for k in range(0, X.size, lanes(X)):
            store(narrow, k, formula(load(X, k)))
        for k in range(0, X.size, wide(X)):
            store(broad, k, formula(load_wide(X, k)))

    return program


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_wide_vector_is_vectors_side_by_side(formula, dtype, rng):
    X = np.concatenate([special_values(dtype), rng.standard_normal(7 * n_wide(dtype)) * 30]).astype(dtype)
    X = X[: X.size // n_wide(dtype) * n_wide(dtype)]
    if formula is elementary.log:
        X = 1 + np.abs(np.nan_to_num(X, posinf=3, neginf=3)) % 1000
    narrow, broad = np.full((2, X.size), np.nan, dtype)
    with np.errstate(all="ignore"):
        by_vectors_and_by_wide_vectors(formula)(X, narrow, broad)
    same_bits(one_nan(broad), one_nan(narrow))


# ------------------------------------------------------------------------------------------------------------------
# completeness


def test_every_public_function_has_a_case():
    assert set(PUBLIC) == COVERED


def test_every_public_function_has_a_machine_form():
    """``polynomial`` and ``choice_of`` make functions, which have theirs."""
    with_machine_form = {function for function, _ in machine_forms()}
    assert {name for name, function in PUBLIC.items() if function not in with_machine_form} == {
        "polynomial",
        "choice_of",
    }
    assert {three, CHOICE} <= with_machine_form


def test_every_operator_on_vectors_has_a_case():
    """All operators that Numba knows a lowering for, with each kind of operands."""
    kinds = {simd.Vector: "Vector", types.Number: "Number"}
    expected = {
        (function, tuple(kinds[operand] for operand in signature))
        for function, signature in machine_forms()
        if simd.Vector in signature
    }
    tested = {case for expression in [*EXACT, *MOVING] for case in operators_in(expression)}
    assert len(expected) == 19  # + - * / < > in three forms, and the minus sign
    assert tested == expected


def _noting(k):
    """Make a function that notes its number, and what it is given."""

    @tile_function
    def note(A, a, value):
        A[a] = 10 * k + value

    return note


CHOICE = choice_of([_noting(k) for k in range(1, 6)])
CHOICE_OF_ONE = choice_of([_noting(7)])


@covers("choice_of")
def test_choice_of_calls_the_function_of_its_number():
    """And no other; also where the number is known when it is compiled."""

    def program(number, A):
        CHOICE(number, A, number, 1)
        CHOICE(3, A, 6, number)
        CHOICE_OF_ONE(1, A, 7, 2)

    run = compiled(program)
    for number in range(1, 6):
        A, expected = np.zeros(8), np.zeros(8)
        expected[[number, 6, 7]] = 10 * number + 1, 30 + number, 72
        run(number, A)
        np.testing.assert_array_equal(A, expected)


def test_every_operation_that_addresses_memory_has_bounds_to_test():
    """Those that take an array and its offset."""
    addressing = set()
    for name, function in PUBLIC.items():
        parameters = inspect.signature(function).parameters
        if name.endswith("_counter") or name == "prefetch":
            continue  # they have tests of their own; and what is only asked for may lie anywhere
        addressing |= {(name, p) for p in parameters if len(p) == 1 and p.isupper() and p.lower() in parameters}
    tested = {
        (name.split()[0], p)
        for name in MEMORY
        for p in parameters_of(name)
        if p.isupper() and p.lower() in parameters_of(name)
    }
    assert tested == addressing


def test_every_program_calls_the_operation_that_it_is_named_after():
    for name, (program, *_) in MEMORY.items():
        assert name.split()[0] in both(program)[1].__code__.co_names


# ------------------------------------------------------------------------------------------------------------------
# what is refused: at compile time, by types

DOUBLE, SINGLE, WHOLE, READ_ONLY = np.zeros(64), np.zeros(64, np.float32), np.zeros(64, np.int64), np.zeros(64)
READ_ONLY.flags.writeable = False
REFUSED = {
    "vectors of two precisions": (lambda A, B: store(A, 0, load(A, 0) + load(B, 0)), DOUBLE, SINGLE),
    "a comparison of two precisions": (
        lambda A, B: store(A, 0, where(load(A, 0) < load(B, 0), load(A, 0), 0)),
        DOUBLE,
        SINGLE,
    ),
    "whole numbers": (lambda A, B: store(B, 0, load(A, 0)), WHOLE, DOUBLE),
    "a matrix": (lambda A, B: store(B, 0, load(A, 0)), np.zeros((8, 8)), DOUBLE),
    "an array with gaps": (lambda A, B: store(B, 0, load(A, 0)), DOUBLE[::2], DOUBLE),
    "a square of two precisions": (lambda A, B: transpose(A, 0, 8, 8, B, 0, 8, 8), DOUBLE, SINGLE),
    "a product of two precisions": (lambda A, B: rank1(zeros(A, 1), A, 0, 1, B, 0), DOUBLE, SINGLE),
    "a tile of another precision": (lambda A, B: store_tile(zeros(A, 1), B, 0, 1), DOUBLE, SINGLE),
    "a stored vector of another precision": (lambda A, B: store(B, 0, load(A, 0)), DOUBLE, SINGLE),
    "a stored part of a vector of another precision": (lambda A, B: store_first(B, 0, load(A, 0), 1), DOUBLE, SINGLE),
    "a tile whose rows are not known": (lambda A, B: store_tile(zeros(A, int(A[0])), A, 0, 1), DOUBLE, DOUBLE),
    "a counter that is not a whole number": (lambda A, B: add_to_counter(A, 0, 1), DOUBLE, DOUBLE),
    "a choice by a number with a fraction": (lambda A, B: CHOICE(A[0], A, 0, 1), DOUBLE, DOUBLE),
    "storing into a read-only array": (lambda A, B: store(B, 0, load(A, 0)), DOUBLE, READ_ONLY),
}


@pytest.mark.skipif(INTERPRETED, reason="types are refused by the compiler")
@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_machine_form_is_refused(what):
    program, A, B = REFUSED[what]
    with pytest.raises(TypingError):
        compiled(program)(A, B)
