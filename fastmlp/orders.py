"""Random orders of rows, drawn from NumPy's generators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.layout import NO_ORDER
from fastmlp.kernels.order import shuffle

Order = NDArray[np.int64]

_DRAWS_AT_ONCE = 1 << 13
"""Most random numbers that are drawn at once: they stay in the cache, and in memory that is at hand. With as many
draws as rows, and new memory for each order, 100,000 rows took 12 ns each instead of 4: it had to be made ready."""


def shuffled(rows: Order | int, rng: np.random.Generator, n_orders: int = 1, memory: Order = NO_ORDER) -> Order:
    """Orders of rows, or of so many, one after the other; drawn together they are what they would be one by one.

    Orders that are no longer needed may be given as ``memory``, in which the new ones are then written, if they fit.
    """
    rows, n = (NO_ORDER, rows) if isinstance(rows, int) else (rows, len(rows))
    memory = memory[: n_orders * n] if len(memory) >= n_orders * n else np.empty(n_orders * n, np.int64)
    orders, together = memory.reshape(n_orders, n), max(_DRAWS_AT_ONCE // max(n, 1), 1)
    for e in range(0, n_orders, together):
        some = orders[e : e + together]
        for first in range(0, n, _DRAWS_AT_ONCE):
            shuffle(rows, rng.random((len(some), min(_DRAWS_AT_ONCE, n - first))), first, some)
    return memory
