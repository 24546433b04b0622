"""Data of any real dtype and layout, in memory or in a mapped file, is trained on without a copy of the whole."""

import subprocess
import sys

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import rows

KINDS = ["u1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", "?"]


def trained(X, Y, dtype, **settings):
    """Parameters after two epochs in a random order."""
    mlp = fastmlp.MLP([X.shape[1], 6, Y.shape[1]], dtype=dtype, rng=3)
    history = mlp.fit(X, Y, epochs=2, batch_size=8, progress=False, **settings)
    return mlp.parameter_vector.copy(), history.loss


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in a row"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_trains_as_its_conversion_does(kind, shuffle, dtype, rng, monkeypatch):
    monkeypatch.setattr(rows, "_CONVERTED_BYTES", 2000)  # so that an epoch takes several conversions
    X, Y = rng.integers(0, 2, (90, 7)).astype(kind), rng.standard_normal((90, 2)).astype(dtype)
    expected = trained(X.astype(dtype), Y, dtype, shuffle=shuffle)
    found = trained(X, Y, dtype, shuffle=shuffle)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)  # it is added up in other parts


AT_ONCE = pytest.mark.parametrize("converted_bytes", [500, 1 << 24], ids=["some at a time", "all at once"])


@AT_ONCE
def test_targets_and_layouts_are_converted_too(converted_bytes, dtype, rng, monkeypatch):
    monkeypatch.setattr(rows, "_CONVERTED_BYTES", converted_bytes)
    X, Y = rng.standard_normal((90, 7)), rng.integers(0, 3, (90, 2))
    expected = trained(X.astype(dtype), Y.astype(dtype), dtype)[0]
    for other in (X.copy("F"), np.repeat(X, 2, axis=0)[::2], X[::-1].copy()[::-1]):
        np.testing.assert_array_equal(trained(other, Y, dtype)[0], expected)


def test_read_only_rows_are_taken_where_they_are_and_live_as_long_as_needed():
    X = np.arange(6.0).reshape(2, 3)
    X.flags.writeable = False
    flat = rows.flat(X)
    assert flat.flags.writeable
    assert not X.flags.writeable
    assert np.shares_memory(flat, X)
    expected = X.ravel().tolist()
    del X
    assert flat.tolist() == expected


@AT_ONCE
def test_labels_go_with_converted_rows(converted_bytes, dtype, rng, monkeypatch):
    monkeypatch.setattr(rows, "_CONVERTED_BYTES", converted_bytes)
    X, labels = rng.integers(0, 255, (60, 5)).astype(np.uint8), rng.integers(0, 3, 60)
    results = []
    for data in (X, X.astype(dtype)):
        mlp = fastmlp.MLP([5, 4, 3], loss="softmax_cross_entropy", dtype=dtype, rng=0)
        mlp.fit(data, labels, epochs=2, batch_size=7, progress=False)
        results.append(mlp.parameter_vector.copy())
    np.testing.assert_array_equal(*results)


def test_what_is_infinite_only_as_float32_is_refused_before_anything_changes(rng):
    X = rng.standard_normal((50, 3))
    X[41, 2] = 1e300
    mlp = fastmlp.MLP([3, 2], dtype="float32", rng=0)
    before = mlp.parameter_vector.copy()
    with pytest.raises(ValueError, match=r"X must be finite; got inf as float32 at X\[41, 2\]"):
        mlp.fit(X, X[:, :2], progress=False)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_mapped_file_trains_as_an_array_does(mode, dtype, rng, tmp_path, monkeypatch):
    """Also when its pages are given back all the time; and what was changed in memory only is not lost."""
    monkeypatch.setattr(rows, "_MAPPED_BYTES", 100)
    monkeypatch.setattr(rows, "_WHOLE_BYTES", 0)
    X, Y = rng.standard_normal((90, 7)).astype(dtype), rng.standard_normal((90, 2)).astype(dtype)
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", dtype, mode, shape=X.shape)
    if mode != "r":
        X[5] = mapped[5] = 0.25
    for given in (mapped, np.asarray(mapped)):
        np.testing.assert_array_equal(trained(given, Y, dtype)[0], trained(X, Y, dtype)[0])
    np.testing.assert_array_equal(mapped, X)


PROGRAM = """
import sys
import numpy as np
import fastmlp
def peak():  # not ru_maxrss, which a process has from the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
n = int(sys.argv[2])
X = np.memmap(sys.argv[1], np.float32, "r", shape=(n, 256))
Y = np.zeros((n, 1), np.float32)
mlp = fastmlp.MLP([256, 8, 1], dtype="float32", rng=0)
mlp.fit(X[:1000], Y[:1000], epochs=1, progress=False)
before = peak()
mlp.fit(X, Y, epochs=1, batch_size=32, progress=False)
print(peak() - before)
"""


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="it takes its time, and memory is the same in compiled code")
@pytest.mark.skipif(sys.platform != "linux", reason="measured by Linux's count of resident pages")
def test_memory_does_not_grow_with_a_mapped_file(tmp_path):
    """A file of 600 MB, of which the process never holds more than about a quarter."""
    n = 600_000
    with (tmp_path / "X").open("wb") as file:
        file.truncate(n * 256 * 4)  # a file full of zeros, which takes no room on the disk
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "X"), str(n)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 220e6
