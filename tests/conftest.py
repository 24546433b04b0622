"""What the tests share: seeds, sizes, and the mode that the suite runs in.

The suite runs in three modes: compiled; with ``NUMBA_DISABLE_JIT=1`` on the interpreted twins; and with
``NUMBA_BOUNDSCHECK=1`` on the checked build. ``FASTMLP_TEST_SEED`` replaces the seed of every random test.
"""

import os
import signal

import numba
import numpy as np
import pytest
from numba.core import config

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background: some tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

INTERPRETED = bool(config.DISABLE_JIT)
CHECKED = bool(config.BOUNDSCHECK)


def compiled(function):
    """Compile a small program of a test: tile functions become part of it, and cannot be called from Python."""
    return numba.njit(error_model="numpy")(function)  # noqa: TID251 (a kernel would be cached and have a twin)


def pytest_report_header():
    """Say in which mode the suite runs."""
    mode = "interpreted" if INTERPRETED else "checked build" if CHECKED else "compiled"
    return f"fastmlp: {mode}, seed {os.environ.get('FASTMLP_TEST_SEED', '42')}"


@pytest.fixture
def rng():
    """Return a random generator: 42 by default, any other by ``FASTMLP_TEST_SEED``, so that none leans on its luck."""
    return np.random.default_rng(int(os.environ.get("FASTMLP_TEST_SEED", "42")))


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def dtype(request):
    """Both precisions."""
    return np.dtype(request.param)
