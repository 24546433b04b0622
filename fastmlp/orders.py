"""Random orders of rows, drawn from NumPy's generators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.order import shuffle

Order = NDArray[np.int64]

_DRAWS_AT_ONCE = 1 << 20
"""Most random numbers that are drawn at once, which take as much memory as an order of as many rows."""


def shuffled(rows: Order | int, rng: np.random.Generator, n_orders: int = 1) -> Order:
    """Orders of rows, or of so many, one after the other; drawn together they are what they would be one by one."""
    rows = np.arange(rows, dtype=np.int64) if isinstance(rows, int) else rows
    n = len(rows)
    orders = np.empty((n_orders, n), np.int64)
    if orders.size <= _DRAWS_AT_ONCE:
        shuffle(rows, rng.random((n_orders, n)), 0, orders)
        return orders.ravel()
    for e in range(n_orders):
        for first in range(0, n, _DRAWS_AT_ONCE):
            shuffle(rows, rng.random((1, min(_DRAWS_AT_ONCE, n - first))), first, orders[e : e + 1])
    return orders.ravel()
