"""Where memory turns: every element of ``M[i,n]`` stands at the place that the docstring of ``layout.py`` names.

The tile functions are run through small programs made here. Buffers are full of NaN before, so that nothing passes by
being left alone, and everything outside of what may be written is compared with that.
"""

import numpy as np
import pytest

import fastmlp
from conftest import compiled
from fastmlp.kernels import layout, simd
from fastmlp.kernels.layout import (
    NARROW_FEATURES,
    feature_blocks_of,
    gather_labels,
    gather_narrow,
    gather_rows,
    row_of,
    sample_blocks_of,
    scatter_rows,
    turn_rows,
)
from fastmlp.kernels.samples import TILE_BLOCKS
from fastmlp.kernels.simd import lanes

NO_ORDER = np.empty(0, np.int64)

# features and samples: one, and around a vector of L elements, a block of B, and a tile of T
SIZES = {
    "1": lambda L, B, T: 1,
    "lanes-1": lambda L, B, T: L - 1,
    "lanes": lambda L, B, T: L,
    "lanes+1": lambda L, B, T: L + 1,
    "block-1": lambda L, B, T: B - 1,
    "block": lambda L, B, T: B,
    "block+1": lambda L, B, T: B + 1,
    "tile-1": lambda L, B, T: T - 1,
    "tile": lambda L, B, T: T,
    "tile+1": lambda L, B, T: T + 1,
}


def lanes_of(dtype):
    """Elements of a vector."""
    return simd.VECTOR_BYTES // dtype.itemsize


def size_of(name, dtype):
    """A size by its name."""
    L = lanes_of(dtype)
    return SIZES[name](L, 2 * L, 2 * L * TILE_BLOCKS)


def round_up(number, multiple):
    """The next multiple."""
    return -(-number // multiple) * multiple


def by_all_sizes(test):
    """Run a test for all pairs of sizes."""
    return pytest.mark.parametrize("features", SIZES)(pytest.mark.parametrize("samples", SIZES)(test))


# ------------------------------------------------------------------------------------------------------------------
# whole arrays, in NumPy


@by_all_sizes
def test_blocks_of_a_whole_array(features, samples, dtype, rng):
    features, samples, B = size_of(features, dtype), size_of(samples, dtype), simd.VECTORS * lanes_of(dtype)
    M = rng.standard_normal((features, samples)).astype(dtype)
    before = M.copy()
    sample_blocked, feature_blocked = layout.to_sample_blocks(M, B), layout.to_feature_blocks(M, B)
    expected_by_sample = np.zeros((-(-samples // B), features, B), dtype)
    expected_by_feature = np.zeros((-(-features // B), round_up(samples, B), B), dtype)
    for i, n in np.ndindex(features, samples):
        expected_by_sample[n // B, i, n % B] = M[i, n]
        expected_by_feature[i // B, n, i % B] = M[i, n]
    for found, expected in ((sample_blocked, expected_by_sample), (feature_blocked, expected_by_feature)):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == dtype
        assert found.flags.c_contiguous
    np.testing.assert_array_equal(layout.from_sample_blocks(sample_blocked, samples), M)
    np.testing.assert_array_equal(M, before)


def test_blocks_of_a_view_with_gaps(dtype, rng):
    """A transposed view and one with steps are turned like any other array."""
    M = rng.standard_normal((9, 14)).astype(dtype)
    for view in (M.T, M[::2, ::-3]):
        blocks = layout.to_sample_blocks(view, 4)
        np.testing.assert_array_equal(blocks, layout.to_sample_blocks(view.copy(), 4))
        np.testing.assert_array_equal(layout.from_sample_blocks(blocks, view.shape[1]), view)
        np.testing.assert_array_equal(layout.to_feature_blocks(view, 4), layout.to_feature_blocks(view.copy(), 4))


# ------------------------------------------------------------------------------------------------------------------
# the way of a batch: rows, feature blocks, sample blocks, feature blocks again, sample blocks again, rows


@compiled
def there_and_back(
    X, features, order, first, samples, p0, p1, size, F, f, room, S, s, F_again, S_again, rows, first_row
):
    """Take blocks ``p0`` to ``p1`` all the way. Returns the check of the rows that were read."""
    check, i0 = 0.0, 0
    while i0 < features:  # in parts, each a vector longer than the one before
        i1 = min(2 * i0 + lanes(F), features)
        check += gather_rows(X, features, i0, i1, order, first, samples, p0 * size, p1 * size, F, f, room)
        sample_blocks_of(F, f, features, i0, i1, room, p0, p1, S, s)
        feature_blocks_of(S, s, features, i0, i1, room, p0, p1, F_again, f + 1)
        sample_blocks_of(F_again, f + 1, features, i0, i1, room, p0, p1, S_again, s + 1)
        i0 = i1
    scatter_rows(S_again, s + 1, features, samples, p0, p1, rows, first_row * features, features)
    return check


@compiled
def labels_of(labels, outputs, order, first, samples, p0, p1, one_hot, s):
    """Labels of blocks ``p0`` to ``p1``."""
    return gather_labels(labels, outputs, order, first, samples, p0, p1, one_hot, s)


def test_code_compiled_by_others_has_tile_functions_of_its_own(dtype):
    """The functions of a kernel, to which less is handed over, are not taken for them: LLVM's loader goes by names."""
    fastmlp.MLP([3, 2], dtype=dtype.name).train_step(np.ones((2, 3)), np.ones((2, 2)), learning_rate=0.1)

    @compiled
    def labels_again(labels, outputs, order, first, samples, p0, p1, one_hot, s):
        return gather_labels(labels, outputs, order, first, samples, p0, p1, one_hot, s)

    size = simd.VECTORS * lanes_of(dtype)
    one_hot = np.full(5 * size, 7, dtype)
    assert labels_again(np.array([2, 1, 0]), 3, NO_ORDER, 0, 3, 0, 1, one_hot, size) == 0
    expected = np.full((5, size), 7)
    expected[1:4] = 0
    expected[[3, 2, 1], [0, 1, 2]] = 1
    np.testing.assert_array_equal(one_hot.reshape(5, size), expected)


@pytest.mark.parametrize("wrong", [-1, 3, 10**12])
def test_a_label_that_is_no_class_is_found_and_written_nowhere(wrong, dtype):
    size, labels = simd.VECTORS * lanes_of(dtype), np.array([2, wrong, 0])
    one_hot = np.full(5 * size, 7, dtype)
    assert np.isnan(labels_of(labels, 3, NO_ORDER, 0, 3, 0, 1, one_hot, size))
    expected = np.full((5, size), 7)
    expected[1:4] = 0
    expected[1 + 2, 0] = expected[1 + 0, 2] = 1
    np.testing.assert_array_equal(one_hot.reshape(5, size), expected)
    assert labels_of(labels[::2].copy(), 3, NO_ORDER, 0, 2, 0, 1, one_hot, size) == 0


class Batch:
    """Rows of data, of which an order or the first row picks a batch; and the places of its elements."""

    def __init__(self, features, samples, ordered, dtype, rng):
        self.features, self.samples, self.dtype = features, samples, dtype
        self.size = simd.VECTORS * lanes_of(dtype)
        self.first = 3
        n_rows = samples + self.first + 4
        # a row may be drawn twice, and some are not drawn; the batch begins within the order
        self.order = rng.integers(0, n_rows, samples + self.first + 2) if ordered else NO_ORDER
        chosen = slice(self.first, self.first + samples)
        self.rows = self.order[chosen] if ordered else np.arange(n_rows)[chosen]
        self.data = rng.standard_normal((n_rows, features)).astype(dtype)
        self.data[self.rows[0], 0] = np.finfo(dtype).max  # large, but finite
        # rows outside of the batch must not be read: they would make themselves known
        outside = np.setdiff1d(np.arange(n_rows), self.rows)
        self.data[outside] = np.nan
        self.n_blocks = -(-samples // self.size)
        self.room = (self.n_blocks + 1) * self.size  # a block more than there is
        self.place_of_features, self.place_of_samples = 5, 7  # where the buffers begin: nowhere aligned

    def matrix(self):
        """``M[i,n]``, filled up with zeros."""
        M = np.zeros((self.features, self.room), self.dtype)
        M[:, : self.samples] = self.data[self.rows].T
        return M

    def feature_places(self, features=None):
        """Place of ``[i,n]`` among feature blocks."""
        i, n = np.indices((features or self.features, self.room))
        return self.place_of_features + (i // self.size * self.room + n) * self.size + i % self.size

    def sample_places(self):
        """Place of ``[i,n]`` among sample blocks."""
        i, n = np.indices((self.features, self.room))
        return self.place_of_samples + (n // self.size * self.features + i) * self.size + n % self.size

    def feature_buffer(self):
        """Room for feature blocks, with some before and behind."""
        return np.full(round_up(self.features, self.size) * self.room + 20, np.nan, self.dtype)

    def sample_buffer(self):
        """Room for sample blocks, with some before and behind."""
        return np.full(self.features * self.room + 20, np.nan, self.dtype)

    def check_feature_blocks(self, F, n0, n1, shift=0):
        """Samples ``n0`` to ``n1`` stand at their places, and no others were touched."""
        places = self.feature_places() + shift
        np.testing.assert_array_equal(F[places[:, n0:n1]], self.matrix()[:, n0:n1])
        # what pads the last block of features may be anything
        may_be_written = np.zeros(F.size, bool)
        may_be_written[self.feature_places(round_up(self.features, self.size))[:, n0:n1] + shift] = True
        assert np.isnan(F[~may_be_written]).all()

    def check_sample_blocks(self, S, n0, n1, shift=0):
        """Samples ``n0`` to ``n1`` stand at their places, and no other element was touched."""
        expected = self.sample_buffer()
        expected[self.sample_places()[:, n0:n1] + shift] = self.matrix()[:, n0:n1]
        np.testing.assert_array_equal(S, expected)


@by_all_sizes
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "in a row"])
def test_there_and_back_again(features, samples, ordered, dtype, rng):
    batch = Batch(size_of(features, dtype), size_of(samples, dtype), ordered, dtype, rng)
    last = batch.n_blocks
    for p0, p1 in {(0, last), (0, 1), (last - 1, last), (last // 2, last), (last, last + 1)}:
        F, F_again = batch.feature_buffer(), batch.feature_buffer()
        S, S_again = batch.sample_buffer(), batch.sample_buffer()
        rows = np.full((batch.samples + 5, batch.features), np.nan, dtype)
        n0, n1 = p0 * batch.size, p1 * batch.size
        check = there_and_back(
            batch.data.reshape(-1), batch.features, batch.order, batch.first, batch.samples, p0, p1, batch.size,
            F, batch.place_of_features, batch.room, S, batch.place_of_samples, F_again, S_again,
            rows.reshape(-1), 2,
        )  # fmt: skip
        assert check == 0
        batch.check_feature_blocks(F, n0, n1)
        batch.check_feature_blocks(F_again, n0, n1, shift=1)
        batch.check_sample_blocks(S, n0, n1)
        batch.check_sample_blocks(S_again, n0, n1, shift=1)
        expected = np.full_like(rows, np.nan)
        expected[2 + n0 : 2 + min(n1, batch.samples)] = batch.data[batch.rows[n0:n1]]
        np.testing.assert_array_equal(rows, expected)


@compiled
def few_of_rows(X, features, order, first, samples, p0, p1, S, s):
    """Rows to blocks ``p0`` to ``p1``."""
    return gather_narrow(X, features, order, first, samples, p0, p1, S, s)


def few_features(batch, p0, p1):
    """The sample blocks of a batch of few features, and the check of its rows."""
    S = batch.sample_buffer()
    check = few_of_rows(
        batch.data.ravel(), batch.features, batch.order, batch.first, batch.samples, p0, p1, S, batch.place_of_samples
    )
    return S, check


@pytest.mark.parametrize("features", range(1, NARROW_FEATURES + 1))
@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "in a row"])
def test_rows_of_few_features(features, samples, ordered, dtype, rng):
    """What fills up the last block is the last sample once more; and no other element is touched."""
    batch = Batch(features, size_of(samples, dtype), ordered, dtype, rng)
    last = batch.n_blocks
    repeated = batch.data[batch.rows[np.minimum(np.arange(batch.room), batch.samples - 1)]].T
    for p0, p1 in {(0, last), (0, 1), (last - 1, last), (last // 2, last), (last, last + 1)}:
        S, check = few_features(batch, p0, p1)
        assert check == 0
        expected, n = batch.sample_buffer(), slice(p0 * batch.size, p1 * batch.size)
        expected[batch.sample_places()[:, n]] = repeated[:, n]
        np.testing.assert_array_equal(S, expected)


@pytest.mark.parametrize("features", range(1, NARROW_FEATURES + 1))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_few_features_hide_what_is_not_finite(value, features, dtype, rng):
    batch = Batch(features, 2 * lanes_of(dtype) * simd.VECTORS + 1, True, dtype, rng)
    for n, i in np.ndindex(batch.samples, features):
        row = batch.data[batch.rows[n]]
        kept, row[i] = row[i], value
        with np.errstate(invalid="ignore"):
            found = {p for p in range(batch.n_blocks) if np.isnan(few_features(batch, p, p + 1)[1])}
        # a row may be drawn twice
        assert found == {int(k) // batch.size for k in np.flatnonzero(batch.rows == batch.rows[n])}
        row[i] = kept


@compiled
def turned_rows(X, features, first, samples, p0, p1, S, s):
    """Rows to blocks ``p0`` to ``p1``."""
    return turn_rows(X, features, first, samples, p0, p1, S, s)


@pytest.mark.parametrize("features", [name for name in SIZES if name not in ("1", "lanes-1")])
@pytest.mark.parametrize("samples", SIZES)
def test_rows_one_after_the_other(features, samples, dtype, rng):
    """What fills up the last block is the last sample once more; and no other element is touched."""
    batch = Batch(size_of(features, dtype), size_of(samples, dtype), False, dtype, rng)
    last = batch.n_blocks
    # nothing stands behind the last row
    data = batch.data[: batch.first + batch.samples].ravel()
    repeated = batch.data[batch.rows[np.minimum(np.arange(batch.room), batch.samples - 1)]].T
    for p0, p1 in {(0, last), (0, 1), (last - 1, last), (last // 2, last), (last, last + 1)}:
        S, place = batch.sample_buffer(), batch.place_of_samples
        assert turned_rows(data, batch.features, batch.first, batch.samples, p0, p1, S, place) == 0
        expected, n = batch.sample_buffer(), slice(p0 * batch.size, p1 * batch.size)
        expected[batch.sample_places()[:, n]] = repeated[:, n]
        np.testing.assert_array_equal(S, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_row_hides_what_is_not_finite(value, dtype, rng):
    batch = Batch(lanes_of(dtype) + 1, 2 * lanes_of(dtype) * simd.VECTORS + 1, False, dtype, rng)
    for n, i in np.ndindex(batch.samples, batch.features):
        data = batch.data[: batch.first + batch.samples].copy()
        data[batch.first + n, i] = value
        for p in range(batch.n_blocks):
            S, place = batch.sample_buffer(), batch.place_of_samples
            with np.errstate(invalid="ignore"):
                found = turned_rows(data.ravel(), batch.features, batch.first, batch.samples, p, p + 1, S, place)
            assert np.isnan(found) == (p == n // batch.size)


@by_all_sizes
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "in a row"])
def test_one_hot_labels(features, samples, ordered, dtype, rng):
    batch = Batch(size_of(features, dtype), size_of(samples, dtype), ordered, dtype, rng)
    outputs, last = batch.features, batch.n_blocks
    labels = rng.integers(0, outputs, len(batch.data))
    classes = np.zeros((outputs, batch.room), dtype)
    classes[labels[batch.rows], np.arange(batch.samples)] = 1
    for p0, p1 in {(0, last), (0, 1), (last - 1, last), (last, last + 1)}:
        n0, n1 = p0 * batch.size, p1 * batch.size
        one_hot = batch.sample_buffer()
        labels_of(labels, outputs, batch.order, batch.first, batch.samples, p0, p1, one_hot, batch.place_of_samples)
        expected = batch.sample_buffer()
        expected[batch.sample_places()[:, n0:n1]] = classes[:, n0:n1]
        np.testing.assert_array_equal(one_hot, expected)


@pytest.mark.parametrize(("n0", "n1"), [(0, 1), (1, 4), (2, 2), (3, 9), (7, 11)])
def test_samples_may_begin_and_end_within_a_block(n0, n1, dtype, rng):
    batch = Batch(lanes_of(dtype) + 1, 9, True, dtype, rng)
    F = batch.feature_buffer()
    check = rows_of(batch, F, n0, n1)
    assert check == 0
    batch.check_feature_blocks(F, n0, n1)


@pytest.mark.parametrize("rows", [[], [6], [4, 4, 0, 7]], ids=["empty", "of one", "of four"])
def test_row_of_an_order(rows):
    order = np.array(rows, np.int64)
    expected = rows or [0, 1, 2, 3]
    assert [picked_row(order, n) for n in range(len(expected))] == expected


@compiled
def picked_row(order, n):
    """One row of an order."""
    return row_of(order, n)


# ------------------------------------------------------------------------------------------------------------------
# what is not finite


@compiled
def gathered(X, features, order, first, samples, n0, n1, F, f, room):
    """Gather rows only."""
    return gather_rows(X, features, 0, features, order, first, samples, n0, n1, F, f, room)


def rows_of(batch, F, n0, n1):
    """Gather samples ``n0`` to ``n1`` of a batch."""
    with np.errstate(invalid="ignore"):  # inf - inf, which is how it is found
        return gathered(
            batch.data.reshape(-1), batch.features, batch.order, batch.first, batch.samples, n0, n1,
            F, batch.place_of_features, batch.room,
        )  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "in a row"])
def test_what_is_not_finite_is_reported_from_any_position(value, ordered, dtype, rng):
    """From every row and feature of the batch, and only by the part of the batch that has it."""
    size = simd.VECTORS * lanes_of(dtype)
    batch = Batch(size + 1, size + 2, ordered, dtype, rng)
    F = batch.feature_buffer()
    for row in np.unique(batch.rows):
        has_it = np.flatnonzero(batch.rows == row)
        for i in range(batch.features):
            kept, batch.data[row, i] = batch.data[row, i], value
            assert np.isnan(rows_of(batch, F, 0, batch.room))
            # one sample too many or too few would be seen
            assert np.isnan(rows_of(batch, F, has_it[0], has_it[0] + 1))
            assert rows_of(batch, F, 0, has_it[0]) == 0
            assert rows_of(batch, F, has_it[-1] + 1, batch.room) == 0
            for p in range(3):
                expected = ((has_it >= p * size) & (has_it < (p + 1) * size)).any()
                assert np.isnan(rows_of(batch, F, p * size, (p + 1) * size)) == expected
            batch.data[row, i] = kept
    assert rows_of(batch, F, 0, batch.room) == 0


def test_two_that_cancel_are_reported_too(dtype, rng):
    """``inf`` and ``-inf`` in one row and in one lane."""
    batch = Batch(lanes_of(dtype) * 3, 4, False, dtype, rng)
    batch.data[batch.rows[1], [0, lanes_of(dtype)]] = np.inf, -np.inf
    assert np.isnan(rows_of(batch, batch.feature_buffer(), 0, 4))
