"""The file format: a model, or a checkpoint of its training, in one safetensors file.

The tensors are ``layer.0.weights``, ``layer.0.biases`` and so on, then ``optimizer`` (velocity or first moment of
every parameter, then the second), and in a checkpoint ``best`` (parameters). The metadata have one entry, ``fastmlp``:
JSON with the format's version, the configuration, the state, and the SHA-256 of the whole file, computed with the
hash's own 64 characters set to 0.

Reading trusts nothing: the hash first, then closed lists of names, then sizes that follow from the configuration; all
before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from fastmlp import settings
from fastmlp.kernels import optimizers
from fastmlp.oracle import network

VERSION = 1
"""Of the format. It rises when an older fastmlp could not read, or would misread, what is written."""

_NO_HASH = "0" * 64

_OBJECTS = {
    kind.__name__: kind
    for kind in (
        settings.Huber, settings.Quantile, settings.SoftmaxCrossEntropy, settings.Penalty, settings.SGD,
        settings.RMSprop, settings.Adam, settings.AdamW, settings.StepDecay, settings.CosineDecay, settings.WarmUp,
        settings.ReduceOnPlateau, settings.EarlyStopping,
    )
}  # fmt: skip
"""The objects that a file may hold."""

_CONFIG = {
    "layer_sizes", "hidden_activation", "output_activation", "loss", "penalty", "dropout", "weight_scale", "dtype",
    "rng", "n_threads", "verify",
}  # fmt: skip

GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
"""The random generators that a model may have."""


class CorruptFileError(ValueError):
    """A file is not one that fastmlp has written, or not as it has written it."""


class Stored(NamedTuple):
    """What a file holds."""

    state: dict[str, Any]
    """Of the model, as ``MLP.__getstate__`` makes it."""
    training: dict[str, Any]
    """Of a checkpoint: the settings of the run, and its history."""
    best: NDArray[Any] | None
    """Of a checkpoint: the best parameters so far."""


# ------------------------------------------------------------------------------------------------------------------
# objects and arrays as JSON


def as_json(value: Any, *, names_of_functions: bool = False) -> Any:
    """Return the same in terms of JSON; of functions their names, if they are only to be compared."""
    if names_of_functions and callable(value) and type(value).__name__ not in _OBJECTS:
        return {"function": getattr(value, "__qualname__", type(value).__name__)}
    again = partial(as_json, names_of_functions=names_of_functions)
    if type(value).__name__ in _OBJECTS:
        return {"object": type(value).__name__, **{f.name: again(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.name}
    if isinstance(value, Mapping):
        return {str(key): again(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [again(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a file cannot hold {value!r}: functions of your own must be given again where they are needed")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "object" in value:
        rest = {key: _from_json(each) for key, each in value.items() if key != "object"}
        return _OBJECTS[value["object"]](**rest)
    if "array" in value:
        return np.array(value["array"], value["dtype"])
    return {key: _from_json(each) for key, each in value.items()}


# ------------------------------------------------------------------------------------------------------------------
# writing


def write(
    path: str | os.PathLike[str],
    state: dict[str, Any],
    layer_sizes: tuple[int, ...],
    training: dict[str, Any] | None = None,
    best: NDArray[Any] | None = None,
) -> None:
    """Write a model's state, and that of its training, in the place of the file that is there."""
    if not np.isfinite(state["vector"]).all():
        raise ValueError(f"the parameters must be finite to be written to {os.fspath(path)!r}; they are not")
    tensors = _tensors(state["vector"], layer_sizes)
    tensors["optimizer"] = state["memory"]
    if best is not None:
        tensors["best"] = best
    about = {
        "version": VERSION, "sha256": _NO_HASH, "config": as_json(state["config"]), "steps": state["steps"],
        "optimizer_code": state["optimizer_code"], "rate_factor": state["rate_factor"], "rng": as_json(state["rng"]),
        "training": as_json(training or {}),
    }  # fmt: skip
    content = safetensors.numpy.save(tensors, {"fastmlp": json.dumps(about)})
    digest = hashlib.sha256(content).hexdigest()
    _replace(path, content.replace(_NO_HASH.encode(), digest.encode(), 1))


def _tensors(vector: NDArray[Any], layer_sizes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """The parameters, array by array."""
    pairs = enumerate(network.split(vector, layer_sizes))
    return {f"layer.{layer}.{part}": array for layer, pair in pairs for part, array in pair._asdict().items()}


def _replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Write beside the file, let the disk have it, and put it in the file's place: there is always a whole one."""
    target = os.path.realpath(os.fspath(path))  # not the link that may lead there
    folder = os.path.dirname(target)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".fastmlp-", dir=folder)
    except OSError as error:  # it names the file beside
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _usual_mode(path))
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):  # it may be in its place already
            os.unlink(temporary)
        raise


def _usual_mode(path: str | os.PathLike[str]) -> int:
    """The permissions of the file that is replaced, or those of any new file."""
    try:
        return os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


# ------------------------------------------------------------------------------------------------------------------
# reading


def read(path: str | os.PathLike[str]) -> Stored:
    """Read and check a file."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _parsed(content)
    except CorruptFileError as error:
        raise CorruptFileError(f"{os.fspath(path)!r} {error}") from None
    except Exception as error:  # whatever a wrong byte leads to, it is one kind of error
        raise CorruptFileError(f"{os.fspath(path)!r} is not a file of fastmlp: {error}") from error


def _parsed(content: bytes) -> Stored:
    about = _metadata(content)
    config = _config(about)
    tensors = safetensors.numpy.load(content)
    sizes, dtype = config["layer_sizes"], np.dtype(config["dtype"])
    n_parameters = sum((i + 1) * j for i, j in zip(sizes[:-1], sizes[1:], strict=True))
    parameters = _tensors(np.broadcast_to(dtype.type(0), n_parameters), sizes)  # which takes no memory
    expected = {name: array.shape for name, array in parameters.items()}
    expected["optimizer"] = (2 * n_parameters,)
    if "best" in tensors:
        expected["best"] = (n_parameters,)
    found = {name: array.shape for name, array in tensors.items()}
    if found != expected or any(array.dtype != dtype for array in tensors.values()):
        raise CorruptFileError("holds other arrays than its configuration says")
    vector = np.concatenate([tensors[name].ravel() for name in parameters])
    state: dict[str, Any] = {
        "config": config, "vector": vector, "memory": tensors["optimizer"], "rng": _generator_state(about["rng"]),
        "steps": int(about["steps"]), "optimizer_code": int(about["optimizer_code"]),
        "rate_factor": float(about["rate_factor"]),
    }  # fmt: skip
    if not (0 <= state["steps"] < 2**53 and state["rate_factor"] > 0):
        raise CorruptFileError(f"has impossible steps or rate_factor: {state['steps']}, {state['rate_factor']}")
    if state["optimizer_code"] not in (optimizers.NO_UPDATE, optimizers.PLAIN_SGD, *optimizers.CODES.values()):
        raise CorruptFileError(f"has an unknown optimizer_code: {state['optimizer_code']}")
    if not all(np.isfinite(tensors[name]).all() for name in (*parameters, *(["best"] if "best" in tensors else []))):
        raise CorruptFileError("holds parameters that are not finite")
    return Stored(state, about["training"], tensors.get("best"))


def _metadata(content: bytes) -> dict[str, Any]:
    """The metadata, after the hash has been found to be right."""
    if len(content) < 8:
        raise CorruptFileError(f"is too short: {len(content)} bytes")
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise CorruptFileError("is cut off, or is not a file of fastmlp")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if "fastmlp" not in metadata:
        raise CorruptFileError("is not a file of fastmlp: it was written by another program")
    about = json.loads(metadata["fastmlp"])
    if about["version"] != VERSION:
        raise CorruptFileError(f"has version {about['version']} of the format; this fastmlp reads {VERSION}")
    digest = about["sha256"]
    if not (isinstance(digest, str) and len(digest) == 64 and content.count(digest.encode()) == 1):
        raise CorruptFileError("has no hash where it should be")
    if hashlib.sha256(content.replace(digest.encode(), _NO_HASH.encode())).hexdigest() != digest:
        raise CorruptFileError("has changed since it was written: its SHA-256 is another")
    return about


def _config(about: dict[str, Any]) -> dict[str, Any]:
    config = {**about["config"]}
    if set(config) != _CONFIG:
        raise CorruptFileError(f"has a configuration of other entries: {', '.join(sorted(set(config) ^ _CONFIG))}")
    seed = config["rng"]
    config = {key: _from_json(value) for key, value in config.items() if key != "rng"}
    config["rng"] = _generator_state(seed) if isinstance(seed, dict) else int(seed)
    config["layer_sizes"] = tuple(int(size) for size in config["layer_sizes"])
    if len(config["layer_sizes"]) < 2 or min(config["layer_sizes"]) < 1:
        raise CorruptFileError(f"has impossible layer sizes: {config['layer_sizes']}")
    if config["dtype"] not in ("float64", "float32"):
        raise CorruptFileError(f"has the dtype {config['dtype']}")
    for key in ("hidden_activation", "dropout"):
        if isinstance(config[key], list):
            config[key] = tuple(config[key])
    return config


def _generator_state(value: Any) -> dict[str, Any]:
    if value.get("bit_generator") not in GENERATORS:
        raise CorruptFileError(f"has a random generator that is not known: {value.get('bit_generator')}")
    state: dict[str, Any] = _from_json(value)
    getattr(np.random, value["bit_generator"])().state = state  # refuses what does not fit
    return state
