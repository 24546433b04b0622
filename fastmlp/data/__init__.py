"""Real data, small enough to come with the package: see ``README.md`` beside this file for where it is from."""

from __future__ import annotations

import gzip
from importlib import resources

import numpy as np
from numpy.typing import NDArray


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Handwritten digits, 8 by 8 pixels each.

    Returns
    -------
    images : ndarray of shape (1797, 64)
        Grey values from 0 to 16, row by row: ``images[k].reshape(8, 8)`` is a picture.
    labels : ndarray of shape (1797,)
        The digit that each image shows, from 0 to 9.

    References
    ----------
    .. [1] E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998,
       https://doi.org/10.24432/C50P49.

    Examples
    --------
    >>> from fastmlp.data import load_digits
    >>> images, labels = load_digits()
    >>> images.shape, labels.shape
    ((1797, 64), (1797,))
    >>> labels[:10].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> for row in images[0].reshape(8, 8):
    ...     print("".join(" .:#"[value // 5] for value in row).rstrip())
      .:.
      :#:#.
      #  :.
      :  ..
     ..  ..
      :  :.
      :.::
      .::
    """
    compressed = resources.files(__name__).joinpath("digits.csv.gz").read_bytes()
    lines = gzip.decompress(compressed).decode("ascii").splitlines()
    table = np.loadtxt(lines, dtype=np.uint8, delimiter=",")
    return np.ascontiguousarray(table[:, :64]), table[:, 64].astype(np.int64)
