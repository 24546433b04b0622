"""Rows in a random order: the twin of :mod:`fastmlp.oracle.order`.

NumPy's own ``permutation`` takes two to three times as long.
"""

from __future__ import annotations

from fastmlp.kernels.jit import plain_function
from fastmlp.kernels.layout import row_of


@plain_function
def shuffle(rows, draws, first, orders):
    """Put ``rows`` into random orders, from row ``first`` on; those before stand there already.

    Parameters
    ----------
    rows : ndarray of shape (n_samples,)
        Or empty: the rows as they stand.
    draws : ndarray of shape (n_orders, rows to be put)
    first : int
    orders : ndarray of shape (n_orders, n_samples)
        The result.
    """
    # what stands at a random place k moves to the end, n, and row n takes its place
    for e in range(orders.shape[0]):
        for m in range(draws.shape[1]):
            n = first + m
            k = int((n + 1) * draws[e, m])
            orders[e, n] = orders[e, k]
            orders[e, k] = row_of(rows, n)
