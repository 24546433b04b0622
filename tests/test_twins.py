"""Second link: oracle → kernel. The twins are enumerated: a kernel without one fails, a new pair is tested as it is.

Every public function of a kernel file has an oracle function of the same name, whose parameters are its first ones (a
kernel's results are appended). Arrays are drawn by the letters of their names, laid out as the kernel takes them, and
what it computes is compared with the oracle's float64.
"""

import importlib
import inspect

import numpy as np
import pytest

from conftest import INTERPRETED, compiled
from fastmlp.kernels import activations, layout, losses, optimizers, simd
from fastmlp.kernels.jit import Kernel
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS

FILES = ["activations", "derivatives", "dropout", "layer", "losses", "network", "optimizers", "order"]

# the machinery around the formulas: not a formula of its own, so it has no twin
MACHINERY = {
    "dropout": {"drop_block"},
    "activations": {"activate_vectors", "curvature_vectors", "slope_vectors"},
    "layer": {
        "for_every_height", "n_strips", "strip_of", "most_rows",
        "affine_sample", "affine_strip", "input_gradient_strip", "weight_gradient_strip", "bias_gradient_strip",
        "affine_by_sample", "input_gradient_by_sample", "narrow_gradient_strip",
        "affine_rows", "affine_row", "weight_gradient_rows",
    },
    "losses": {
        *(f"{name}_block" for name in losses.CODES), "softmax_block", "given_gradient_block", "loss_block",
    },
    "optimizers": {
        "rates_of", "decays", "decay_range", "penalize_range", "penalty_of_range", "square_of_range", "scale_range",
        "update_beside_others", "update_rows",
    },
    "network": {"operations", "status_of", "train", "update"},
    "derivatives": {"affine_moved_strip", "input_gradient_moved_strip"},
}  # fmt: skip

# which letters an argument's axes have, and which layout a kernel takes it in
AXES = {
    "W": "ji", "b": "j", "X": "in", "Z": "jn", "A": "jn", "Y": "jn", "L": "n",
    "D": "jn", "dZ": "jn", "dA": "jn", "dX": "in", "dW": "ji", "db": "j",
    "V": "ji", "v": "j", "RX": "in", "RZ": "jn", "RdZ": "jn", "RdA": "jn", "RdX": "in", "RdW": "ji", "Rdb": "j",
}  # fmt: skip
NUMBERS = {"threshold": 0.6, "q": 0.8, "smoothing": 0.1}
OF_DROPOUT = {"threshold": 5_000_000, "key0": 0x9ABCDEF0, "key1": 3, "step": 2**32 + 7, "layer": 1}
FEATURE_BLOCKED = {("affine_backward", "X"), ("affine_backward_moved", "X"), ("affine_backward_moved", "RX")}

# pairwise distinct, square, 1, and around the sizes of a tile
ROWS, BLOCK64, BLOCK32 = simd.ROWS, simd.block(np.empty(0)), simd.block(np.empty(0, np.float32))
SIZES = [
    {"i": 3, "j": 5, "n": 7},
    {"i": 4, "j": 4, "n": 4},
    {"i": 1, "j": 1, "n": 1},
    {"i": ROWS, "j": ROWS + 1, "n": BLOCK64},
    {"i": ROWS - 1, "j": ROWS, "n": BLOCK64 + 1},
    {"i": BLOCK32 + 1, "j": 2 * ROWS + 1, "n": BLOCK32 - 1},
    {"i": BLOCK64 - 1, "j": BLOCK64 + 1, "n": 3 * BLOCK32 + 1},
    {"i": 2 * BLOCK32, "j": 2 * ROWS, "n": 2 * BLOCK32},
]


def public(module):
    """Functions and kernels that a kernel module defines itself."""
    own = {name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
    return {n: f for n, f in own.items() if not n.startswith("_") and (callable(f) or isinstance(f, Kernel))}


def pairs():
    """All (file, name, kernel, oracle function)."""
    found = []
    for file in FILES:
        kernels = importlib.import_module(f"fastmlp.kernels.{file}")
        oracle = importlib.import_module(f"fastmlp.oracle.{file}")
        for name, kernel in public(kernels).items():
            if name not in MACHINERY.get(file, ()):
                found.append((file, name, kernel, getattr(oracle, name, None)))
    return found


def python_of(function):
    """The Python function that a kernel or a compiled function was made from."""
    return getattr(function, "python", None) or getattr(function, "py_func", function)


@pytest.mark.parametrize(("file", "name", "kernel", "oracle"), pairs(), ids=lambda value: str(value)[:30])
def test_every_kernel_has_a_twin(file, name, kernel, oracle):
    assert oracle is not None, f"fastmlp/kernels/{file}.py has {name}, fastmlp/oracle/{file}.py has not"
    if file in ("network", "derivatives"):
        return  # the whole network has another face in each: test_kernels.py and test_derivatives.py compare them
    theirs = list(inspect.signature(python_of(kernel)).parameters)
    ours = list(inspect.signature(oracle).parameters)
    assert theirs[: len(ours)] == ours


def test_every_activation_loss_and_optimizer_of_the_oracle_has_a_twin():
    oracle_losses = importlib.import_module("fastmlp.oracle.losses")
    oracle_optimizers = importlib.import_module("fastmlp.oracle.optimizers")
    assert set(activations.CODES) == {*OUTPUT_ACTIVATIONS, "softmax"}
    assert set(losses.CODES) == set(oracle_losses.LOSSES)
    assert set(optimizers.CODES) == set(public(oracle_optimizers)) - {"decayed", "penalty_gradient"}
    for file in ("activations", "layer", "losses"):
        names = set(public(importlib.import_module(f"fastmlp.oracle.{file}")))
        names -= {"Activation", "Loss", "chosen", "normal_density", "normal_distribution"}
        assert names <= set(public(importlib.import_module(f"fastmlp.kernels.{file}")))


# ------------------------------------------------------------------------------------------------------------------
# kernels over whole arrays: layer.py and losses.py

ARRAY_PAIRS = [pair for pair in pairs() if pair[0] in ("dropout", "layer", "losses") or pair[1].endswith("_moved")]


def laid_out(name, argument, array):
    """An array as the kernel takes it."""
    lanes = simd.block(array)
    if AXES[argument] in ("in", "jn"):
        turn = layout.to_feature_blocks if (name, argument) in FEATURE_BLOCKED else layout.to_sample_blocks
        return turn(array, lanes)
    if AXES[argument] == "n":
        return np.zeros(-(-array.size // lanes) * lanes, array.dtype)
    return np.ascontiguousarray(array)


def taken_back(argument, array, sizes):
    """What a kernel computed, as a plain array."""
    if AXES[argument] in ("in", "jn"):
        return layout.from_sample_blocks(array, sizes["n"])
    return array[: sizes["n"]] if AXES[argument] == "n" else array


def run_pair(name, kernel, oracle, sizes, draw, dtype, activation=None, n_threads=1):
    """Run both twins on the same data: (result's name, what the kernel computed, what the oracle did)."""
    arguments = list(inspect.signature(oracle).parameters)
    results = [p for p in inspect.signature(kernel.python).parameters if p not in arguments]
    given = {}
    for argument in arguments:
        if argument == "activation":
            given[argument] = activation
        elif name == "drop" and argument in OF_DROPOUT:
            given[argument] = OF_DROPOUT[argument]
        elif argument in NUMBERS:
            given[argument] = NUMBERS[argument]
        else:
            given[argument] = draw(tuple(sizes[letter] for letter in AXES[argument])).astype(dtype)
    if "A" in given and "Z" in given:
        given["A"] = ACTIVATIONS[activation].function(given["Z"].astype(float)).astype(dtype)
    exact = {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    expected = oracle(**exact)
    expected = expected if isinstance(expected, tuple) else (expected,)
    room = [np.full([sizes[letter] for letter in AXES[result]], np.nan, dtype) for result in results]
    outputs = [laid_out(name, result, array) for result, array in zip(results, room, strict=True)]
    inputs = [
        laid_out(name, argument, value) if isinstance(value, np.ndarray) else activations.CODES.get(value, value)
        for argument, value in given.items()
    ]
    kernel(*inputs, *outputs, n_threads=n_threads)
    found = [taken_back(result, output, sizes) for result, output in zip(results, outputs, strict=True)]
    # results come in the oracle's order: dX, dW, db; L, dA
    return list(zip(results, found, expected, strict=True))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("file", "name", "kernel", "oracle"), ARRAY_PAIRS, ids=lambda value: str(value)[:20])
def test_kernel_computes_what_the_oracle_does(file, name, kernel, oracle, sizes, dtype, rng):
    uses_activation = "activation" in inspect.signature(oracle).parameters
    for activation in ACTIVATIONS if uses_activation else [None]:
        results = run_pair(name, kernel, oracle, sizes, rng.standard_normal, dtype, activation)
        for result, found, expected in results:
            # rounding grows like the root of the number of terms (the rounding model); 8 units are the functions' own
            terms = max(sizes.values()) + 2
            bound = (6 * np.sqrt(terms) + 8) * np.finfo(dtype).eps * (abs(expected).max() + terms**0.5)
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=f"{result} {activation}")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_sums_of_whole_numbers_are_exact(sizes, dtype, rng, n_threads):
    """Every sum of small whole numbers is exact in any order: one term too many, too few or misplaced is seen."""
    for _, name, kernel, oracle in ARRAY_PAIRS:
        if name in ("affine", "affine_backward", "affine_moved", "affine_backward_moved", "squared_error"):

            def draw(shape):
                return rng.integers(-8, 9, shape)

            for result, found, expected in run_pair(name, kernel, oracle, sizes, draw, dtype, n_threads=n_threads):
                np.testing.assert_array_equal(found, expected, err_msg=f"{name} {result}")


def test_a_kernel_that_does_nothing_would_be_seen(rng):
    """The test of the test: the results are filled with NaN before, so nothing passes by being left alone."""

    class Idle:
        python = staticmethod(importlib.import_module("fastmlp.kernels.layer").affine.python)

        def __call__(self, *arguments, n_threads):
            """Do nothing."""

    oracle = importlib.import_module("fastmlp.oracle.layer").affine
    results = run_pair("affine", Idle(), oracle, SIZES[0], rng.standard_normal, np.dtype(np.float64))
    assert np.isnan(results[0][1]).all()


@pytest.mark.skipif(not INTERPRETED, reason="compiled code has wide vectors or has none, as suits the processor")
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("vectors", [1, 3, 4, 9])
def test_activations_reach_the_last_vector(vectors, at_once, dtype, rng, monkeypatch):
    """Of whole wide vectors, and of what is left behind them."""
    monkeypatch.setattr(simd, "AT_ONCE", at_once)
    z = rng.standard_normal((vectors + 1) * simd.lanes(np.empty(0, dtype))).astype(dtype)
    a, count = np.full_like(z, np.nan), vectors * simd.lanes(z)
    activations.activate_vectors(activations.SIGMOID, z, 0, a, 0, count)
    np.testing.assert_array_equal(a[:count], activations.sigmoid(z[:count]))
    assert np.isnan(a[count:]).all()


# ------------------------------------------------------------------------------------------------------------------
# elementwise twins: activations.py and optimizers.py, a vector register at a time

ELEMENT_PAIRS = [pair for pair in pairs() if pair[0] in ("activations", "optimizers")]


def over_arrays(function, n_arrays, n_results):
    """Compile a loop that runs an elementwise kernel over the rows of a matrix."""
    source = f"""
def run(data, numbers, results, size):
    for k in range(0, size, lanes(data)):
        values = function({", ".join([f"load(data, {r} * size + k)" for r in range(n_arrays)] + ["*numbers"])})
        {
        "".join(f"store(results, {r} * size + k, values[{r}]); " for r in range(n_results))
        if n_results > 1
        else "store(results, k, values)"
    }
"""
    scope = {"function": function, "lanes": simd.lanes, "load": simd.load, "store": simd.store}
    exec(source, scope)  # noqa: S102
    return compiled(scope["run"])


@pytest.mark.parametrize(("file", "name", "kernel", "oracle"), ELEMENT_PAIRS, ids=lambda value: str(value)[:20])
def test_elementwise_kernel_computes_what_the_oracle_does(file, name, kernel, oracle, dtype, rng):
    parameters = list(inspect.signature(oracle).parameters)
    arrays = [p for p in parameters if p in ("z", "a", "parameter", "gradient", "velocity") or p.endswith("_moment")]
    size = 64
    # rates and decays below 1, so that what they multiply and what they divide stay of one size
    numbers = tuple(float(x) for x in rng.uniform(0.1, 0.9, len(parameters) - len(arrays)))
    data = rng.standard_normal((len(arrays), size)).astype(dtype)
    if "a" in arrays:
        shorter = name.removesuffix("_slope").removesuffix("_curvature").removesuffix("onential")
        data[1] = OUTPUT_ACTIVATIONS[shorter].function(data[0].astype(float))
    if "second_moment" in arrays:
        data[arrays.index("second_moment")] **= 2
    expected = oracle(*data.astype(np.float64), *numbers)
    expected = expected if isinstance(expected, tuple) else (expected,)
    results = np.full((len(expected), size), np.nan, dtype)
    over_arrays(kernel, len(arrays), len(expected))(data.reshape(-1), numbers, results.reshape(-1), size)
    for found, wanted in zip(results, expected, strict=True):
        # a dozen roundings, of numbers up to the largest result
        np.testing.assert_allclose(found, wanted, rtol=0, atol=12 * np.finfo(dtype).eps * max(abs(wanted).max(), 1))
