"""Rows in a random order, from numbers that were drawn beforehand.

Source: Durstenfeld 1964, *Algorithm 235: Random permutation*, which is Fisher's and Yates's method, in the form that
fills the order as it goes along.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shuffle(rows: NDArray[np.int64], draws: NDArray[np.float64], first: int, orders: NDArray[np.int64]) -> None:
    """Put ``rows`` into random orders, from row ``first`` on; those before stand there already.

    Parameters
    ----------
    rows : ndarray of shape (n_samples,)
        Or empty: the rows as they stand.
    draws : ndarray of shape (n_orders, rows to be put)
        Evenly distributed from 0 to below 1: row ``n`` comes to any of the ``n + 1`` places up to its own, each as
        probable as the others (but for the rounding of the draws, 2**-53).
    first : int
    orders : ndarray of shape (n_orders, n_samples)
        The result.
    """
    # what stands at a random place k moves to the end, n, and row n takes its place
    for order, u in zip(orders, draws, strict=True):
        for n in range(first, first + len(u)):
            k = int((n + 1) * u[n - first])
            order[n] = order[k]
            order[k] = rows[n] if len(rows) else n
