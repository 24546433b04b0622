"""The arguments of :class:`fastmlp.MLP` and of its ``fit``, checked, each in one sentence that names it.

What is data is checked in :mod:`fastmlp.checks`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastmlp import checks, files, settings
from fastmlp.oracle import dropout as dropout_words
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastmlp.oracle.losses import LOSSES


def activations(hidden: str | Sequence[str], output: str | None, loss: str, n_layers: int) -> list[str]:
    """One name per layer, checked."""
    known = list(ACTIVATIONS)
    if isinstance(hidden, str):
        names = [checks.one_of("hidden_activation", hidden, known)] * (n_layers - 1)
    elif isinstance(hidden, Sequence):
        if len(hidden) != n_layers - 1:
            raise ValueError(
                f"hidden_activation must be one name, or one for each of the {n_layers - 1} hidden layers;"
                f" got {len(hidden)}"
            )
        names = [checks.one_of(f"hidden_activation[{index}]", name, known) for index, name in enumerate(hidden)]
    else:
        raise TypeError(
            f"hidden_activation must be one of {', '.join(known)}, or one for each hidden layer; got {hidden!r}"
        )
    own = "identity" if loss == "own" else LOSSES[loss].output_activation
    if output is None:
        return [*names, own]
    if loss == "own":
        return [*names, checks.one_of("output_activation", output, list(OUTPUT_ACTIVATIONS))]
    if not LOSSES[loss].of_pre_activations:
        return [*names, checks.one_of("output_activation", output, known)]
    if output != own:
        raise ValueError(f"output_activation must be {own!r} or None for {loss}, which goes with it; got {output!r}")
    return [*names, output]


def dropout(value: Any, n_hidden: int) -> float | tuple[float, ...]:
    """One rate for all hidden layers, or one for each, checked."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != n_hidden:
            raise ValueError(
                f"dropout must be one rate, or one for each of {n_hidden} hidden layers; got {len(value)}"
            )
        return tuple(_rate_of_dropout(f"dropout[{index}]", rate) for index, rate in enumerate(value))
    return _rate_of_dropout("dropout", value)


def _rate_of_dropout(name: str, value: Any) -> float:
    settings.check_number(name, value, low=0, high=1)
    if round(value * dropout_words.WORDS) == dropout_words.WORDS:
        raise ValueError(f"{name} must be at most 1 - 2^-24, so that some units are left; got {value!r}")
    return float(value)


def check_weight_scale(weight_scale: object) -> None:
    """Refuse what is neither a number nor a name."""
    if isinstance(weight_scale, str):
        if weight_scale not in ("glorot", "he"):
            raise ValueError(f"weight_scale must be a number, 'glorot' or 'he'; got {weight_scale!r}")
    else:
        settings.check_number("weight_scale", weight_scale, low=0)


_DTYPES = {np.dtype(np.float64): "float64", np.dtype(np.float32): "float32"}


def dtype_name(dtype: DTypeLike) -> str:
    """float64 or float32, whatever its byte order: arrays have the machine's."""
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be float64 or float32; got {dtype!r}") from None
    name = _DTYPES.get(chosen.newbyteorder("="))
    if name is None:
        raise ValueError(f"dtype must be float64 or float32; got {chosen}")
    return name


def flag(name: str, value: object) -> bool:
    """True or False."""
    settings.check_flag(name, value)
    return bool(value)


def batch_size(value: object, n_samples: int | None) -> int:
    """Samples of a step: all of them for None, and never more than there are, if it is known how many."""
    if value is None and n_samples is not None:
        return n_samples
    wanted = checks.integer("batch_size", value)
    return wanted if n_samples is None else min(wanted, n_samples)


def generator(rng: Any) -> tuple[Any, np.random.Generator]:
    """A generator, and what makes it again: a seed, or the state that a given generator was in."""
    if isinstance(rng, np.random.Generator):
        return rng.bit_generator.state, rng
    if isinstance(rng, dict):
        with suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError):
            if rng["bit_generator"] in files.GENERATORS:
                bit_generator = getattr(np.random, rng["bit_generator"])()
                bit_generator.state = rng
                return rng, np.random.Generator(bit_generator)
    if rng is None:
        rng = np.random.SeedSequence().entropy
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0:
        expected = "None, a seed (a whole number of at least 0) or a numpy.random.Generator"
        raise TypeError(f"rng must be {expected}; got {rng!r}")
    return int(rng), np.random.default_rng(int(rng))


def entropy(seed: Any) -> list[int]:
    """Whole numbers from a seed, or from the state that a given generator was in."""
    if isinstance(seed, dict):
        return [zlib.crc32(json.dumps(files.as_json(seed), sort_keys=True).encode())]
    return [int(seed)]


def dropout_key(seed: Any) -> tuple[int, int]:
    """From which it follows which units are dropped."""
    _, own = np.random.SeedSequence(entropy(seed)).spawn(2)  # the first is for validation data
    key0, key1 = map(int, own.generate_state(2, np.uint32))
    return key0, key1


def early_stopping(value: object) -> settings.EarlyStopping | None:
    """From True, False or an object."""
    if isinstance(value, settings.EarlyStopping):
        return value
    if isinstance(value, bool | np.bool_):
        return settings.EarlyStopping() if value else None
    raise TypeError(f"early_stopping must be True, False or a fastmlp.EarlyStopping; got {value!r}")


def checkpoint(value: Any) -> settings.Checkpoint | None:
    """From a path or an object."""
    return value if value is None or isinstance(value, settings.Checkpoint) else settings.Checkpoint(value)


def callbacks(mlp: Any, value: Any) -> list[Callable[[Any], object]]:
    """Functions of the history, from one or several of the model and the history."""
    if not callable(value) and not isinstance(value, Iterable):
        raise TypeError(f"callbacks must be functions of the model and the history; got {value!r}")
    several = [value] if callable(value) else list(value)
    for callback in several:
        if not callable(callback):
            raise TypeError(f"callbacks must be functions of the model and the history; got {callback!r}")
    return [partial(callback, mlp) for callback in several]
