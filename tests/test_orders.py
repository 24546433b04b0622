"""Random orders of rows."""

import itertools

import numpy as np
import pytest

from conftest import INTERPRETED
from fastmlp import orders
from fastmlp.kernels import order as kernels
from fastmlp.oracle import order as oracle


@pytest.mark.parametrize("n_samples", [1, 2, 7, 100])
@pytest.mark.parametrize("first", [0, 1])
def test_kernel_puts_rows_where_the_oracle_does(rng, n_samples, first):
    rows, draws = rng.permutation(2 * n_samples)[:n_samples], rng.random((3, n_samples - first))
    found, expected = (np.tile(rows, (3, 1)) for _ in range(2))
    kernels.shuffle(rows, draws, first, found)
    oracle.shuffle(rows, draws, first, expected)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.sort(found), np.sort([rows] * 3))


@pytest.mark.parametrize("n_samples", [1, 2, 7, 100])
def test_no_rows_are_the_rows_as_they_stand(rng, n_samples):
    rows, draws = np.arange(n_samples), rng.random((3, n_samples))
    for shuffle in (kernels.shuffle, oracle.shuffle):
        found, expected = np.empty((2, 3, n_samples), np.int64)
        shuffle(rows[:0], draws, 0, found)
        shuffle(rows, draws, 0, expected)
        np.testing.assert_array_equal(found, expected)


def test_largest_and_smallest_draws_stay_inside(rng):
    """Just below 1 is the row's own place, never the one behind it; 0 is the first."""
    n_samples = 2000 if INTERPRETED else 100_000
    rows, found = np.arange(n_samples), np.full((1, n_samples), -1)
    kernels.shuffle(rows, np.full((1, n_samples), np.nextafter(1, 0)), 0, found)
    np.testing.assert_array_equal(found[0], rows)
    kernels.shuffle(rows, np.zeros((1, n_samples)), 0, found)
    np.testing.assert_array_equal(found[0], np.roll(rows, 1))


def test_every_order_is_as_probable_as_the_others():
    """Pearson's test: of 23 degrees of freedom, above 49.7 once in a thousand times. Always with the same numbers."""
    n_orders = 2400 if INTERPRETED else 48_000
    found = orders.shuffled(4, np.random.default_rng(1), n_orders).reshape(-1, 4)
    kinds = {kind: k for k, kind in enumerate(itertools.permutations(range(4)))}
    counts = np.bincount([kinds[tuple(each)] for each in found.tolist()], minlength=24)
    expected = n_orders / 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7


@pytest.mark.parametrize("at_once", [1, 4, 5, 16, 32, 33])
def test_drawn_together_is_drawn_one_by_one(monkeypatch, at_once):
    """And in pieces, as are those of more rows than are drawn at once."""
    rows = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31])
    generator = np.random.default_rng(5)
    expected = np.concatenate([orders.shuffled(rows, generator) for _ in range(3)])
    monkeypatch.setattr(orders, "_DRAWS_AT_ONCE", at_once)
    again = np.random.default_rng(5)
    np.testing.assert_array_equal(orders.shuffled(rows, again, 3), expected)
    assert again.bit_generator.state == generator.bit_generator.state
    assert rows.tolist() == sorted(rows)


@pytest.mark.parametrize("n_orders", [1, 2, 3, 4])
def test_orders_are_written_where_others_were_if_they_fit(n_orders):
    """And are the same as in new memory; those of so many rows as those of the rows by name."""
    memory = orders.shuffled(11, np.random.default_rng(1), 3)
    found = orders.shuffled(11, np.random.default_rng(2), n_orders, memory)
    expected = orders.shuffled(np.arange(11), np.random.default_rng(2), n_orders)
    np.testing.assert_array_equal(found, expected)
    assert np.shares_memory(found, memory) == (n_orders <= 3)
