"""What a bug report should tell: versions, processor, threads, cache."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from fastmlp.kernels import jit, network, simd

_PACKAGES = (
    "fastmlp", "numpy", "numba", "llvmlite", "safetensors", "tqdm", "scipy", "scikit-learn", "joblib",
    "distributed", "matplotlib", "onnx", "onnxruntime", "torch", "pandas",
)  # fmt: skip
"""The needed ones, and those that there may be; they are looked up, not imported."""


def show_config(*, as_dict: bool = False) -> dict[str, dict[str, Any]] | None:
    """Print versions, processor, threads and cache, for a bug report.

    Parameters
    ----------
    as_dict : bool
        Return them instead.

    Returns
    -------
    dict or None

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.show_config(as_dict=True)["processor"]["float32 in a vector"] >= 4
    True
    """
    found: dict[str, dict[str, Any]] = {
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"system": platform.platform(), "architecture": platform.machine()},
        "processor": {
            "name": jit.processor(),
            "float32 in a vector": simd.VECTOR_BYTES // 4,
            "float64 in a vector": simd.VECTOR_BYTES // 8,
            "multiply-add": "one instruction" if simd.HAS_FMA else "two instructions",
            "rows of a register tile": simd.ROWS,
        },
        "threads": jit.threads_in_words(),
        "compiled code": jit.cache_in_words(network.train.serial),
    }
    if as_dict:
        return found
    width = max(len(name) for part in found.values() for name in part)
    for heading, part in found.items():
        print(heading)
        for name, value in part.items():
            print(f"  {name:{width}}  {value}")
    return None


def _versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
