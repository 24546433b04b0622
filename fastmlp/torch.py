"""Parameters to and from the ``state_dict`` of PyTorch's ``nn.Sequential``: plain arrays, torch is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.mlp import MLP

_KEY = re.compile(r"(?P<module>(?:.*\.)?(?P<number>\d+))\.(?P<part>weight|bias)")


def to_state_dict(mlp: MLP) -> dict[str, NDArray[Any]]:
    """Parameters under the names that ``nn.Sequential(Linear, activation, Linear, ...)`` gives them.

    Parameters
    ----------
    mlp : MLP

    Returns
    -------
    dict of str to ndarray
        ``"0.weight"``, ``"0.bias"``, ``"2.weight"`` and so on: every other module is an activation. Copies.

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp.torch import to_state_dict
    >>> arrays = to_state_dict(fastmlp.MLP([3, 4, 2], rng=0))
    >>> {name: array.shape for name, array in arrays.items()}
    {'0.weight': (4, 3), '0.bias': (4,), '2.weight': (2, 4), '2.bias': (2,)}

    In PyTorch, ``model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})``.
    """
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp must be a fastmlp.MLP; got {type(mlp).__name__}")
    return {
        f"{2 * layer}.{part}": array.copy()
        for layer, pair in enumerate(mlp.parameters)
        for part, array in zip(("weight", "bias"), pair, strict=True)
    }


def from_state_dict(state_dict: Mapping[str, Any], **settings: Any) -> MLP:
    """Make a network of the ``state_dict`` of an ``nn.Sequential`` of linear layers and what has no parameters.

    Parameters
    ----------
    state_dict : mapping from str to tensor or array
        ``"<number>.weight"`` and ``"<number>.bias"`` of each linear layer, with any prefix in common.
    **settings
        Of :class:`fastmlp.MLP`, such as ``hidden_activation`` ("sigmoid" if it is not given) and ``loss``, which no
        ``state_dict`` tells. The layer sizes, and the dtype unless it is given, are those of the arrays.

    Returns
    -------
    MLP

    Raises
    ------
    TypeError, ValueError
        If there is anything else in it, or if the layers do not follow each other.

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp.torch import from_state_dict, to_state_dict
    >>> mlp = fastmlp.MLP([3, 4, 2], hidden_activation="relu", rng=0)
    >>> same = from_state_dict(to_state_dict(mlp), hidden_activation="relu")
    >>> bool((same.parameter_vector == mlp.parameter_vector).all())
    True
    """
    if "layer_sizes" in settings:
        raise TypeError(f"layer_sizes must not be given: they follow from the arrays; got {settings['layer_sizes']!r}")
    pairs = _pairs(state_dict)
    sizes = [pairs[0][0].shape[1], *(W.shape[0] for W, _ in pairs)]
    dtype = np.float64 if pairs[0][0].dtype == np.float64 else np.float32
    mlp = MLP(**{"layer_sizes": sizes, "dtype": dtype, "rng": 0, **settings})
    mlp.parameters = pairs
    return mlp


def _pairs(state_dict: Mapping[Any, Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Weights and biases of each layer, in the order of the modules' numbers."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping from names to arrays; got {type(state_dict).__name__}")
    found: dict[int, dict[str, NDArray[Any]]] = {}
    prefixes = set()
    for key, value in state_dict.items():
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise ValueError(f"state_dict must hold <number>.weight and <number>.bias of linear layers; got {key!r}")
        prefixes.add(match["module"].removesuffix(match["number"]))
        found.setdefault(int(match["number"]), {})[match["part"]] = checks.numbers(f"state_dict[{key!r}]", value, None)
    if len(prefixes) > 1:
        raise ValueError(f"state_dict must be of one nn.Sequential; got {', '.join(sorted(prefixes))}")
    layers = [found[number] for number in sorted(found)]
    for number, layer in zip(sorted(found), layers, strict=True):
        shapes = {part: array.shape for part, array in layer.items()}
        weights, biases = shapes.get("weight", ()), shapes.get("bias", ())
        if len(weights) != 2 or biases != weights[:1]:
            raise ValueError(
                f"state_dict must hold weights (outputs, inputs) and biases (outputs,); got {shapes} in {number}"
            )
    if not layers:
        raise ValueError("state_dict must hold a linear layer; got none")
    for number, (below, above) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        outputs, inputs = below["weight"].shape[0], above["weight"].shape[1]
        if outputs != inputs:
            raise ValueError(
                f"layer {number} must have as many outputs as the next has inputs; got {outputs}, {inputs}"
            )
    return [(layer["weight"], layer["bias"]) for layer in layers]
