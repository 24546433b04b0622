"""The machine itself: if this differs between two runs, so does everything else, and it is not fastmlp."""

from __future__ import annotations

import numpy as np

from .shapes import DTYPES


class Machine:
    """A product of two matrices, by NumPy alone."""

    params = (DTYPES,)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Draw the matrices."""
        rng = np.random.default_rng(0)
        self.A, self.B = (rng.standard_normal((512, 512)).astype(dtype) for _ in range(2))

    def time_dot(self, dtype):
        np.dot(self.A, self.B)
