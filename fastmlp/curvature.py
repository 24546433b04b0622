"""The directions of the largest and the smallest curvature of a loss. Large networks need SciPy: the extra ``scipy``.

They are the Hessian's eigenvectors, found from its products with vectors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DENSE = 200
"""Hessians of up to so many rows are written out, product by product; no SciPy is needed."""

_TOLERANCE = 1e-6
"""Of an eigenvalue, relative to the largest."""

_MOST_PRODUCTS = 3000
"""Products after which what has been found is taken."""


class Extreme(NamedTuple):
    """An eigenvalue of the Hessian at one end, and its direction of length 1."""

    name: str
    eigenvalue: float
    direction: Array


def extremes(product: Callable[[Array], Array], size: int) -> list[Extreme]:
    """Find the largest and the smallest eigenvalue of a symmetric matrix of ``size`` rows, with their eigenvectors.

    Parameters
    ----------
    product : function
        From a vector to the matrix times the vector.
    size : int

    Returns
    -------
    list of Extreme
        The largest one first.

    Raises
    ------
    ImportError
        If there are more than 200 rows and SciPy is not installed.
    """
    found = _of_written_out(product, size) if size <= DENSE else _by_lanczos(product, size)
    return [Extreme(f"{name} curvature", *pair) for name, pair in zip(("largest", "smallest"), found, strict=True)]


def _of_written_out(product: Callable[[Array], Array], size: int) -> list[tuple[float, Array]]:
    hessian = np.array([product(row) for row in np.eye(size)])
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return [(float(values[k]), vectors[:, k]) for k in (-1, 0)]


def _by_lanczos(product: Callable[[Array], Array], size: int) -> list[tuple[float, Array]]:
    try:
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ImportError("curvature of a network this large needs SciPy: pip install fastmlp[scipy]") from error
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    found = []
    for which in ("LA", "SA"):
        try:
            most = _MOST_PRODUCTS // 20
            vector = eigsh(operator, k=1, which=which, v0=start, tol=_TOLERANCE, maxiter=most)[1][:, 0]
        except ArpackError as error:
            # the flat end of a spectrum may have no one direction, or all be flat: any flat direction will do
            known = getattr(error, "eigenvectors", np.empty(0))
            vector = known[:, 0] if known.size else start / np.linalg.norm(start)
        found.append((float(vector @ product(vector)), vector))
    return found
