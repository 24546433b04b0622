"""A network in other people's compiled code: ``mlp.compiled()``."""

import gc
import pickle
import subprocess
import sys
import threading
import warnings

import numba
import numpy as np
import pytest
from numba import prange

import fastmlp
from conftest import CHECKED, INTERPRETED, compiled

NETWORKS = {
    "no hidden layer": ([3, 2], {}),
    "sigmoid": ([4, 32, 16, 4], {}),
    "gelu": ([10, 33, 32, 1], {"hidden_activation": "gelu"}),
    "softmax": ([5, 17, 3], {"hidden_activation": "silu", "loss": "softmax_cross_entropy"}),
    "exp": ([2, 3, 1], {"hidden_activation": ["tanh"], "loss": "poisson"}),
    "wide then narrow": ([70, 1, 40, 2], {"hidden_activation": "relu", "loss": "binary_cross_entropy"}),
}
SAMPLES = [1, 2, 3, 4, 15, 16, 17, 33]


@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_bits_of_predict(name, dtype, rng):
    sizes, settings = NETWORKS[name]
    mlp = fastmlp.MLP(sizes, dtype=dtype, rng=1, **settings)
    function = mlp.compiled()
    for samples in SAMPLES:
        x = rng.standard_normal((samples, sizes[0])).astype(dtype)
        out = np.full((samples, sizes[-1]), np.nan, dtype)
        function(x, out)
        np.testing.assert_array_equal(out, mlp.predict(x))
    one = np.full(sizes[-1], np.nan, dtype)
    function(x[0], one)
    np.testing.assert_array_equal(one, out[0])


def test_a_compiled_simulation_calls_it(rng):
    """From a loop and from many threads, each with arrays of its own."""
    mlp = fastmlp.MLP([2, 9, 2], hidden_activation="tanh", rng=0)
    rate = mlp.compiled()

    def simulate(starts, steps):
        for k in prange(len(starts)):
            x, change = starts[k].copy(), np.empty(2)
            for _ in range(steps):
                rate(x, change)
                x += 0.1 * change
            starts[k] = x
        return starts

    starts = rng.standard_normal((40, 2))
    expected = starts.copy()
    for _ in range(30):
        expected += 0.1 * mlp.predict(expected)
    for parallel in (False, True):
        program = numba.njit(parallel=parallel and not CHECKED)(simulate)  # noqa: TID251 (a user's program)
        np.testing.assert_allclose(program(starts.copy(), 30), expected, atol=1e-12)


def test_it_needs_no_memory(rng):
    """No call allocates: Numba counts the arrays that its code makes."""
    mlp = fastmlp.MLP([6, 20, 3], rng=0)
    function = mlp.compiled()
    x, out = rng.standard_normal((40, 6)), np.empty((40, 3))

    @compiled
    def many(x, out, times):
        for _ in range(times):
            function(x, out)
            function(x[0], out[0])

    many(x, out, 1)
    if INTERPRETED:
        return
    assert "NRT_Allocate" not in many.inspect_llvm(many.signatures[0])
    assert "NRT_MemInfo_alloc" not in many.inspect_llvm(many.signatures[0])


def test_it_keeps_the_parameters_of_its_time(rng):
    mlp = fastmlp.MLP([3, 5, 2], rng=0)
    x, before, after = rng.standard_normal((4, 3)), np.empty((4, 2)), np.empty((4, 2))
    expected, old = mlp.predict(x), mlp.compiled()
    mlp.fit(x, np.ones((4, 2)), epochs=3, progress=False)
    new = mlp.compiled()
    trained = mlp.predict(x)
    del mlp
    gc.collect()
    old(x, before)
    new(x, after)
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(after, trained)


def test_threads_of_python_share_it(rng):
    mlp = fastmlp.MLP([8, 30, 4], rng=0)
    function, X = mlp.compiled(), rng.standard_normal((200, 8))
    expected, found = mlp.predict(X), np.empty((200, 4))

    def work(rows):
        for row in rows:
            function(X[row], found[row])

    workers = [threading.Thread(target=work, args=(range(k, 200, 4),)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(found, expected)


def test_other_shapes_are_refused():
    function = fastmlp.MLP([3, 5, 2], rng=0).compiled()
    for x, out in (
        (np.ones(4), np.ones(2)), (np.ones(3), np.ones(3)), (np.ones((2, 3)), np.ones((3, 2))),
        (np.ones((3, 2)), np.ones((3, 2))), (np.ones((2, 3)), np.ones(2)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="x and out must be"):
            function(x, out)


@pytest.mark.skipif(INTERPRETED, reason="types are compiled code's")
@pytest.mark.parametrize("x", [np.ones(3, np.float32), np.ones((3, 2)).T, np.ones(6)[::2], np.ones((1, 1, 3))])
def test_other_types_are_refused(x):
    function = fastmlp.MLP([3, 5, 2], rng=0).compiled()
    with pytest.raises(numba.TypingError, match="x must be"):
        function(x, np.ones(2))


@pytest.mark.skipif(INTERPRETED, reason="types are compiled code's")
def test_nothing_is_written_where_nothing_may_be():
    function, out = fastmlp.MLP([3, 2], rng=0).compiled(), np.zeros(2)
    x = np.ones(3)
    x.flags.writeable = out.flags.writeable = False
    with pytest.raises(numba.TypingError, match="out must be an array that can be written to"):
        function(x, out)
    function(x, np.empty(2))


@pytest.mark.skipif(INTERPRETED, reason="nothing is cached then")
def test_code_that_calls_it_is_not_cached():
    """It holds addresses of this process: Numba says so, and does not write it."""
    function = fastmlp.MLP([3, 5, 2], rng=0).compiled()

    def caller(x, out):
        function(x, out)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = numba.njit(cache=True)(caller)  # noqa: TID251 (a user's program)
        program(np.ones(3), np.ones(2))
    assert any("dynamic globals" in str(warning.message) for warning in caught)
    assert not sum(program.stats.cache_hits.values())


def test_too_wide_a_network_is_refused():
    with pytest.raises(ValueError, match="layers that fit on a stack"):
        fastmlp.MLP([1, 20_000, 1], rng=0).compiled()


@pytest.mark.skipif(INTERPRETED, reason="an interpreted function is a closure, which is not pickled")
def test_another_process_gets_it_by_pickle(rng):
    """The addresses in its code would be nothing there: it died of them."""
    mlp = fastmlp.MLP([3, 9, 2], hidden_activation="tanh", rng=0)
    rate, X = mlp.compiled(), rng.standard_normal((20, 3))

    @numba.njit  # noqa: TID251 (a user's program)
    def twice(x, out):
        rate(x, out)
        out *= 2

    twice(X, np.empty((20, 2)))
    program = "import pickle, sys; f, X, out = pickle.load(sys.stdin.buffer); f(X, out); print(out.tobytes().hex())"
    for function, times in ((rate, 1), (twice, 2)):
        for rows in (X, X[:2]):
            sent = pickle.dumps((function, rows, np.empty((len(rows), 2))))
            run = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
            assert bytes.fromhex(run.stdout.decode()) == (times * mlp.predict(rows)).tobytes()
