"""Blocks of rows are trained on like an array, whatever their sizes; and memory does not depend on their number."""

import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import pools, rows


@pytest.fixture(autouse=True, params=[1 << 30, 0], ids=["by pools", "by blocks"])
def small_pools(request, monkeypatch):
    """An epoch takes several of them; or blocks of two minibatches and more are taken as they are."""
    monkeypatch.setattr(pools, "_POOL_BYTES", 1500)
    monkeypatch.setattr(pools, "_LARGE_BYTES", request.param)


class Stream:
    """Blocks that can be gone through again and again, and in no other order."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def __iter__(self):
        return iter(self.blocks)


def cut(arrays, sizes):
    """Blocks of these sizes, again and again, from arrays."""
    blocks, start, k = [], 0, 0
    while start < len(arrays[0]):
        blocks.append(tuple(array[start : start + sizes[k % len(sizes)]] for array in arrays))
        start += sizes[k % len(sizes)]
        k += 1
    return blocks


def data(rng, dtype, kind):
    X = rng.standard_normal((103, 7)).astype(dtype)
    Y = rng.integers(0, 3, 103) if kind == "labels" else rng.standard_normal((103, 3)).astype(dtype)
    return (X, Y, rng.uniform(0, 2, 103)) if kind == "weights" else (X, Y)


def network(dtype, kind, **settings):
    loss = "softmax_cross_entropy" if kind == "labels" else "squared_error"
    return fastmlp.MLP([7, 6, 3], loss=loss, dtype=dtype, rng=3, **settings)


@pytest.mark.parametrize("sizes", [[1], [5, 0, 31], [200]], ids=str)
@pytest.mark.parametrize("kind", ["values", "labels", "weights"])
def test_blocks_in_a_row_give_the_bits_of_an_array(kind, sizes, dtype, rng):
    X, Y, *weights = data(rng, dtype, kind)
    settings = {"epochs": 2, "batch_size": 8, "shuffle": False, "progress": False}
    expected, found = network(dtype, kind), network(dtype, kind)
    history = expected.fit(X, Y, sample_weight=weights[0] if weights else None, **settings)
    of_blocks = found.fit(Stream(*cut((X, Y, *weights), sizes)), **settings)
    np.testing.assert_array_equal(found.parameter_vector, expected.parameter_vector)
    np.testing.assert_allclose(of_blocks.loss, history.loss, rtol=1e-14)


def own_loss(seen):
    """A loss that notes which samples it has met."""

    def loss(predictions, targets):
        seen.append(targets[:, 0].copy())
        return 0.5 * ((predictions - targets) ** 2).sum() / len(targets), (predictions - targets) / len(targets)

    return loss


@pytest.mark.parametrize("source", [list, lambda blocks: Stream(*blocks)], ids=["in any order", "in one order"])
def test_a_shuffled_epoch_meets_every_row_once_and_each_in_another_order(source, rng):
    X, Y = rng.standard_normal((103, 4)), np.arange(103.0)[:, None]
    seen = []
    mlp = fastmlp.MLP([4, 1], loss=own_loss(seen), rng=0)
    mlp.fit(source(cut((X, Y), [9])), epochs=2, batch_size=8, learning_rate=1e-9, progress=False)
    assert [len(batch) for batch in seen] == 2 * (12 * [8] + [7])
    epochs = np.concatenate(seen).reshape(2, 103)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(103)] * 2)
    assert (epochs[0] != epochs[1]).any()
    far = np.abs(epochs[0] - np.arange(103)).max()
    assert far > 60 if source is list else far < 60  # whole blocks have moved, or only rows of some


def test_the_order_follows_from_the_seed(dtype, rng):
    blocks = cut(data(rng, dtype, "values"), [10])
    found = [network(dtype, "values", n_threads=k) for k in (1, 2)]
    for mlp in found:
        mlp.fit(blocks, epochs=3, batch_size=8, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in found))


@pytest.mark.parametrize("kind", ["u1", "f2", ">f4", "i8"])
def test_blocks_of_any_dtype_are_converted(kind, dtype, rng):
    X, Y = rng.integers(0, 9, (60, 7)).astype(kind), rng.integers(0, 9, (60, 3)).astype(kind)
    found = [network(dtype, "values") for _ in range(2)]
    for mlp, (A, B) in zip(found, ((X, Y), (X.astype(dtype), Y.astype(dtype))), strict=True):
        mlp.fit(cut((A, B), [10]), batch_size=8, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in found))


def test_files_are_blocks(dtype, rng, tmp_path):
    X, Y, weights = data(rng, dtype, "weights")
    for name, array in (("X", X), ("Y", Y), ("w", weights)):
        np.save(tmp_path / f"{name}.npy", array)
    blocks = fastmlp.Blocks(tmp_path / "X.npy", str(tmp_path / "Y.npy"), tmp_path / "w.npy", rows_per_block=10)
    assert (len(blocks), blocks.n_samples, len(blocks[-1][0])) == (11, 103, 3)
    for found, expected in zip(blocks, cut((X, Y, weights), [10]), strict=True):
        for part, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, wanted)
    assert len(blocks[2:4]) == 2
    mlps = [network(dtype, "weights") for _ in range(2)]
    mlps[0].fit(blocks, batch_size=8, progress=False)
    mlps[1].fit(fastmlp.Blocks(X, Y, weights, rows_per_block=10), batch_size=8, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in mlps))


def test_validation_stopping_metrics_and_checkpoints_work_beside_blocks(dtype, rng, tmp_path):
    X, labels = data(rng, dtype, "labels")
    blocks, held = cut((X, labels), [10]), (X[:20], labels[:20])
    settings = {"batch_size": 8, "validation": held, "metrics": "accuracy", "progress": False, "learning_rate": 0.01}
    whole = network(dtype, "labels")
    history = whole.fit(blocks, epochs=6, **settings)
    assert history.metrics == {}
    assert len(history.validation_metrics["accuracy"]) == len(history.validation_loss) == 6
    for epochs in (2, 6):
        mlp = network(dtype, "labels")
        again = mlp.fit(blocks, epochs=epochs, checkpoint=tmp_path / "run", **settings)
    np.testing.assert_array_equal(mlp.parameter_vector, whole.parameter_vector)
    assert again.loss == history.loss
    stopping = fastmlp.EarlyStopping(patience=1, minimum_gain=10)
    assert network(dtype, "labels").fit(blocks, epochs=9, early_stopping=stopping, **settings).n_epochs == 2


def test_a_block_may_weigh_nothing(dtype, rng):
    X, Y, weights = data(rng, dtype, "weights")
    weights[20:40] = 0
    mlps = [network(dtype, "weights") for _ in range(2)]
    mlps[0].fit(X, Y, sample_weight=weights, batch_size=8, shuffle=False, progress=False)
    mlps[1].fit(cut((X, Y, weights), [10]), batch_size=8, shuffle=False, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in mlps))


@pytest.mark.parametrize("batch_size", [103, 5000, 10**9])
def test_a_batch_may_be_larger_than_all_blocks(batch_size, dtype, rng):
    X, Y = data(rng, dtype, "values")
    mlps = [network(dtype, "values") for _ in range(2)]
    mlps[0].fit(X, Y, batch_size=None, progress=False)
    mlps[1].fit(cut((X, Y), [10]), batch_size=batch_size, shuffle=False, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in mlps))


def test_many_small_blocks_make_a_pool_grow(rng, monkeypatch):
    monkeypatch.setattr(pools, "_POOL_BYTES", 1 << 20)
    monkeypatch.setattr(pools, "_ROWS_AT_FIRST", 16)
    X, Y, weights = data(rng, "float64", "weights")
    mlps = [network("float64", "weights") for _ in range(2)]
    mlps[0].fit(X, Y, sample_weight=weights, batch_size=8, shuffle=False, progress=False)
    mlps[1].fit(cut((X, Y, weights), [10]), batch_size=8, shuffle=False, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in mlps))


class Slow(Stream):
    """Blocks that come slowly; after some of them somebody interrupts."""

    def __iter__(self):
        for k, block in enumerate(self.blocks):
            if k == 3:
                signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)
            yield block
        raise AssertionError("it was read to its end")


def test_an_interruption_is_seen_while_blocks_are_read(rng):
    mlp = network("float64", "values")
    history = mlp.fit(Slow(*cut(data(rng, "float64", "values"), [1])), batch_size=100, progress=False)
    assert history.stopped == "interrupted in epoch 1"


def test_every_step_may_be_verified(rng):
    blocks = cut(data(rng, "float64", "values"), [40])
    mlps = [network("float64", "values", verify=verify) for verify in (False, True)]
    for mlp in mlps:
        mlp.fit(blocks, epochs=1, batch_size=30, progress=False)
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in mlps))


# ------------------------------------------------------------------------------------------------------------------
# what cannot be trained on


X, Y = np.ones((20, 7)), np.ones((20, 3))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (X, "X must be blocks of rows: an iterable .*; got ndarray"),
        (7, "X must be blocks of rows: .*; got int"),
        (
            iter([(X, Y)]),
            "which can be gone through again and again; got list_iterator, which can be gone through once",
        ),
        ([X], r"block 0: it must be a tuple \(X, Y\) or \(X, Y, sample_weight\); got a ndarray"),
        ([(X, Y), (X[:, :5], Y)], r"block 1: X must have shape \(n_samples, 7\).*; got \(20, 5\)"),
        ([(X, Y), (X, Y[:9])], "block 1: Y must have as many samples as X, which has 20; got 9"),
        ([(X, Y), (X, Y, np.ones(20))], "block 1: .*got rows of shape .* with weights after .* without weights"),
        ([(X, Y), (X, Y, -np.ones(20))], "block 1: sample_weight must be at least 0"),
        ([(X[:0], Y[:0])], "X must be blocks of rows; got no row in epoch 1"),
        ([], "X must be blocks of rows; got no row in epoch 1"),
        ((X, Y), "got a tuple of arrays. Pass X and Y as two arguments"),
        ([(X,)], "block 0: .*; got a tuple of 1"),
        ([(X, Y, np.zeros(20))], "sample_weight must be above 0 somewhere; got zero in all blocks"),
    ],
)
def test_what_is_no_block_is_refused_in_words(source, message):
    with pytest.raises((TypeError, ValueError), match=message):
        network("float64", "values").fit(source, shuffle=False, progress=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": None}, "batch_size must be a whole number where X is blocks"),
        ({"validation": 0.2}, r"validation must be a pair \(X, Y\) where X is blocks; got 0.2"),
        ({"monitor": True}, "monitor must be False where X is blocks; got True"),
        ({"sample_weight": np.ones(20)}, "sample_weight must be None where X is blocks"),
        ({"class_weight": "balanced"}, "class_weight must be None where X is blocks"),
    ],
)
def test_what_does_not_go_with_blocks_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        network("float64", "values").fit([(X, Y)], progress=False, **setting)


@pytest.mark.parametrize("name", ["X", "Y"])
def test_values_that_are_not_finite_are_told_by_their_block(name):
    arrays = {"X": X.copy(), "Y": Y.copy()}
    arrays[name][13, 2] = np.nan
    mlp = network("float64", "values")
    with pytest.raises(ValueError, match=rf"block 2: {name} must be finite; got nan at {name}\[3, 2\]"):
        mlp.fit(cut((arrays["X"], arrays["Y"]), [5]), batch_size=4, shuffle=False, progress=False)
    assert np.isfinite(mlp.parameter_vector).all()


def test_targets_of_ones_own_loss_keep_one_dtype():
    mlp = fastmlp.MLP([7, 3], loss=own_loss([]), rng=0)
    with pytest.raises(ValueError, match=r"block 1: Y must be of the same kind .*float64 .*after .*int64"):
        mlp.fit([(X, Y.astype(np.int64)), (X, Y)], shuffle=False, progress=False)


def test_blocks_that_do_not_come_again_are_told():
    class Once(Stream):
        def __iter__(self):
            yield from self.blocks
            self.blocks = ()

    with pytest.raises(ValueError, match="which must be there again in each epoch; got no row in epoch 2"):
        network("float64", "values").fit(Once((X, Y)), epochs=3, progress=False)


def test_a_file_that_has_changed_is_told(tmp_path):
    blocks = fastmlp.Blocks(save(tmp_path / "X.npy", X), Y)
    save(tmp_path / "X.npy", X[:3])
    with pytest.raises(ValueError, match=r"X.npy' has changed since it was opened"):
        network("float64", "values").fit(blocks, progress=False)


def test_what_goes_wrong_while_reading_is_raised_and_the_reader_ends():
    class Failing(Stream):
        def __iter__(self):
            yield X, Y
            raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        network("float64", "values").fit(Failing(), batch_size=4, progress=False)
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_a_run_that_diverges_says_where():
    mlp = network("float64", "values")
    history = mlp.fit([(X, 1e200 * Y)], epochs=3, batch_size=4, optimizer="sgd", learning_rate=1e9, progress=False)
    assert re.match(r"stopped because the loss was not finite at step \d", history.stopped)


def save(path, array, **settings):
    np.save(path, array, **settings)
    return path


def test_files_that_are_not_whole_are_refused_at_opening(tmp_path):
    path = save(tmp_path / "X.npy", X)
    content = path.read_bytes()
    for length in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"X (is cut off|must be a file that numpy.save has written)"):
            fastmlp.Blocks(path, Y)
    with pytest.raises(FileNotFoundError):
        fastmlp.Blocks(tmp_path / "none.npy", Y)
    with pytest.raises(ValueError, match="Y must have as many rows as X, 20; got 3"):
        fastmlp.Blocks(X, Y[:3])
    with pytest.raises(ValueError, match="X must have rows; got none"):
        fastmlp.Blocks(X[:0], Y[:0])
    with pytest.raises(ValueError, match="X must be a path, or an array"):
        fastmlp.Blocks(3, Y)
    with pytest.raises(ValueError, match="must be stored row by row"):
        fastmlp.Blocks(save(tmp_path / "F.npy", np.asfortranarray(X)), Y)
    with pytest.raises(TypeError, match="must hold rows of numbers"):
        fastmlp.Blocks(save(tmp_path / "O.npy", X.astype(object), allow_pickle=True), Y)


# ------------------------------------------------------------------------------------------------------------------
# mapped files, and memory


@pytest.mark.parametrize("n_threads", [1, 2])
def test_shuffled_rows_of_a_mapped_file_give_the_bits_of_an_array(n_threads, dtype, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_MAPPED_BYTES", 700)
    monkeypatch.setattr(rows, "_WHOLE_BYTES", 0)
    X, labels, weights = *data(rng, dtype, "labels"), rng.uniform(0, 2, 103)
    mapped = np.load(save(tmp_path / "X.npy", X), mmap_mode="r")
    settings = {"epochs": 3, "batch_size": 8, "sample_weight": weights, "validation": 0.1, "metrics": "accuracy"}
    found = [network(dtype, "labels", n_threads=n_threads) for _ in range(2)]
    histories = [
        mlp.fit(data, labels, progress=False, **settings) for mlp, data in zip(found, (X, mapped), strict=True)
    ]
    np.testing.assert_array_equal(*(mlp.parameter_vector for mlp in found))
    assert histories[0].loss == histories[1].loss
    assert histories[0].metrics == histories[1].metrics


PROGRAM = """
import resource, sys
import numpy as np
import fastmlp
path, bytes_of_file = sys.argv[1], int(sys.argv[2])
def status(name):  # not ru_maxrss, which a process has from the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
mlp = fastmlp.MLP([256, 8, 1], dtype="float32", rng=0)
X = np.zeros((1000, 256), np.float32)
mlp.fit(X, X[:, :1], epochs=1, progress=False)
mlp.fit(fastmlp.Blocks(X, X[:, :1]), epochs=1, progress=False)
n = (bytes_of_file - 128) // 1024
blocks = fastmlp.Blocks(path, np.zeros((n, 1), np.float32))
limit = status("VmSize") + bytes_of_file // 4
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # the process may have so much more
try:
    np.load(path)
except MemoryError:
    history = mlp.fit(blocks, epochs=1, batch_size=256, progress=False)
    print(history.n_epochs, status("VmHWM"))
"""


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="it takes its time, and memory is the same in compiled code")
@pytest.mark.skipif(sys.platform != "linux", reason="Linux can limit the memory of a process")
def test_a_file_four_times_as_large_as_memory_is_trained_on(tmp_path):
    """The process may take a quarter of the file more than it has when it begins."""
    n = 800_000
    path = tmp_path / "X.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, 256)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(128 + n * 1024)  # zeros, which take no room on the disk
    command = [sys.executable, "-c", PROGRAM, str(path), str(128 + n * 1024)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    epochs, peak = done.stdout.split()
    assert int(epochs) == 1
    assert int(peak) < (128 + n * 1024) / 3


def test_a_list_of_paths_is_refused_at_once():
    with pytest.raises(TypeError, match="X must be one path, or an array of numbers; got list of <U5"):
        fastmlp.Blocks(["a.npy", "b.npy"], Y)


def test_blocks_say_what_they_are():
    assert repr(fastmlp.Blocks(X, Y, rows_per_block=8)) == "<Blocks: 20 rows, 3 blocks of at most 8>"


def test_metrics_of_blocks_need_validation_data():
    """Over the blocks themselves they would take another pass: nothing was computed, and nothing said."""
    with pytest.raises(ValueError, match=r"metrics of blocks are of validation data, .*; got r2 without any"):
        network("float64", "values").fit(fastmlp.Blocks(X[:, :7], Y), metrics="r2", progress=False)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_the_step_that_diverges_has_the_number_it_has_with_arrays(rng):
    """The last piece of a large block is shorter than a minibatch."""
    X, Y = np.zeros((130_000, 8)), np.zeros((130_000, 1))
    Y[-1] = 1e200
    for given in ((X, Y), ([(X, Y)],)):
        mlp = fastmlp.MLP([8, 1], rng=0)
        history = mlp.fit(*given, batch_size=40_000, shuffle=False, progress=False, epochs=1)
        assert "at step 4 " in history.stopped
