"""fastmlp: a multilayer perceptron whose mathematics you can read, whose gradients are proved, and which is fast.

Where to read on:

* :mod:`fastmlp.oracle` — the mathematics, in plain NumPy: the original program, for any number of layers.
* :mod:`fastmlp.verify` — the proof: finite differences, adjoint identity, Taylor rate, rounding model.
* :mod:`fastmlp.kernels` — the speed: the oracle's functions under the same names, compiled.
* :class:`fastmlp.MLP` — the network that a program uses.
"""

from fastmlp.blocks import Blocks
from fastmlp.configuration import show_config
from fastmlp.ensemble import Ensemble
from fastmlp.files import CorruptFileError
from fastmlp.mlp import MLP, Gradients, load
from fastmlp.oracle.network import Parameters
from fastmlp.settings import (
    SGD,
    Adam,
    AdamW,
    Checkpoint,
    CosineDecay,
    EarlyStopping,
    Huber,
    Penalty,
    Quantile,
    ReduceOnPlateau,
    RMSprop,
    SoftmaxCrossEntropy,
    StepDecay,
    WarmUp,
)
from fastmlp.startup import warm_up
from fastmlp.training import History
from fastmlp.verify import GradientMismatch, Report

__version__ = "0.1.0"

__all__ = [
    "MLP", "SGD", "Adam", "AdamW", "Blocks", "Checkpoint", "CorruptFileError", "CosineDecay", "EarlyStopping",
    "Ensemble", "GradientMismatch", "Gradients", "History", "Huber", "Parameters", "Penalty", "Quantile",
    "RMSprop", "ReduceOnPlateau", "Report", "SoftmaxCrossEntropy", "StepDecay", "WarmUp", "__version__", "load",
    "show_config", "warm_up",
]  # fmt: skip
