"""Every buffer of one workspace: sized once, allocated once, and where each one lies.

A workspace serves batches of up to ``capacity`` samples. All that a training step works on lies in one array, the
*arena*, and the *plan* says where (columns as named in :mod:`fastmlp.kernels.columns`). With ``N`` the capacity padded
to whole blocks (and, where gradients are summed by groups of samples, room behind each group: so many samples as fill
4,096 bytes of a block of features), and ``I`` the inputs of a layer padded to whole blocks:

==================  ===================  ==================  =====================================================
what                elements             layout              note
==================  ===================  ==================  =====================================================
``X`` of layer 0    inputs × N           sample-blocked      the batch
``X_BY_FEATURES``   I × N, each layer    feature-blocked     what enters the layer, for ``dW = dZ Xᵀ``
``A``               outputs × N, each    sample-blocked      what leaves the layer, the next one's ``X``
``Z``               0, or outputs × N    sample-blocked      lies on ``A`` where the slope can be had from ``A`` alone;
                                                             apart where it cannot (silu, gelu), and where the loss is
                                                             a function of ``Z``
``DZ``              outputs × N, each    sample-blocked      the gradient of ``Z``
``TARGETS``         outputs × N          sample-blocked      of the last layer
``TARGETS_BY_FEATURES``  O × N           feature-blocked     the same, on their way; ``O``: outputs in whole blocks
``SHARES``          N                    by sample           each sample's share in the mean
``SAMPLE_LOSSES``   N                    by sample           ``L[n]``
``X_LEFT``          0, or inputs × N,    sample-blocked      what is left of the activations that enter the layer where
                    each layer                               some are dropped
``PLACES``          0, or N              by sample           its number in the minibatch, of which this batch is a part
``PARTIALS``        0, or parameters     by group of         each group's own gradient, where there are several and
                    × groups             samples             they stay in the cache; at least 4,096 bytes lie between
                                                             two of them
==================  ===================  ==================  =====================================================

So the arena takes about ``N × (2 × inputs + 3 × hidden units + 4 or 5 × outputs)`` elements, and nothing in it grows
with the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels import activations, again, calls, columns, crew, dropout, losses, network, prediction, simd
from fastmlp.kernels.layer import NARROW_INPUTS

_ALIGNMENT = 128  # bytes: a cache line, and the one that is fetched with it

_NAMES_OF_THE_USERS = "gradient memory data targets labels sample_weights order settings ended"

_OF_THE_USER = [network.train.position(name) for name in _NAMES_OF_THE_USERS.split()]
"""Arguments of ``train`` that a workspace does not keep alive after a call."""

_TO_PREDICT = [prediction.predict.position(name) for name in ("data", "output")]
"""The same of ``predict``."""


class Objective(NamedTuple):
    """What training makes small: a loss with its setting, and a penalty; and what it drops meanwhile."""

    loss: str | None
    """None: its gradient is given from outside."""
    setting: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    biases: bool = False
    """Whether biases are penalized too."""
    dropout: tuple[float, ...] = ()
    """The part of each hidden layer's units that is dropped in training; none if it is empty."""
    key: tuple[int, int] = (0, 0)
    """From which it follows which they are."""
    divides_penalty: bool = False
    """Whether the penalty stands beside the sum of the losses instead of their mean."""
    has_places: bool = False
    """Whether units are dropped by samples' given places in the minibatch, instead of those in the batch here."""

    @property
    def code(self) -> int:
        """The integer by which compiled code knows the loss."""
        return losses.GIVEN_GRADIENT if self.loss is None else losses.CODES[self.loss]

    @property
    def penalizes(self) -> int:
        """What is penalized, as compiled code knows it."""
        if self.l1 == self.l2 == 0:
            return columns.NOTHING
        return columns.EVERYTHING if self.biases else columns.WEIGHTS_ALONE


class _Partials:
    """Gradients of groups of samples: how many there may be, and how large and how far apart they are."""

    def __init__(self, layer_sizes: Sequence[int], itemsize: int, capacity: int, block: int) -> None:
        pairs = list(zip(layer_sizes[:-1], layer_sizes[1:], strict=True))
        n_parameters, elements = sum((i + 1) * j for i, j in pairs), network.BYTES_APART // itemsize
        size = n_parameters * itemsize
        self.in_cache = max(network.PARTIAL_BYTES // size, min(1, network.SINGLE_BYTES // size))
        self.size, self.samples_apart = round_up(n_parameters, elements) + elements, elements // block
        of_a_sample = network.operations(layer_sizes) * itemsize // 4
        self.least_samples = -(-network.GROUP_OPERATIONS // of_a_sample)
        is_shallow = n_parameters <= network.LEAST_SHALLOW_SAMPLES * sum(i for i, _ in pairs)
        self.least_group = network.LEAST_SHALLOW_SAMPLES if is_shallow else network.LEAST_GROUP_SAMPLES
        of_work = capacity // self.least_samples
        most = max(min(2, capacity // self.least_group), min(capacity // network.GROUP_SAMPLES, of_work), 1)
        self.groups = min(network.MOST_GROUPS, most if of_work > 0 else 1, self.in_cache)
        """Of a batch that fills the workspace, or of a smaller one: 0 if there are none of any."""


class Workspace:
    """The buffers for batches of up to ``capacity`` samples of one network, in one dtype."""

    plan: NDArray[np.int64]
    """One row per layer and one for the batch: sizes, codes and places."""
    arena: NDArray[np.floating]
    """Everything that a step works on."""
    report: NDArray[np.float64]
    """One row per block of samples: its loss, and whether its ``X`` and ``Y`` are finite; then sums over ranges of
    parameters, and a row each for the penalty, the settings, the batch, and the run."""
    results: NDArray[np.float64]
    """The report's last row: status, sum of losses, steps taken."""
    crew: NDArray[np.int64]
    """Counters by which the threads of a training run share out its tasks."""
    panels_of_version: int
    """Which version of the parameters the panels were made of."""
    packed: dict[calls.CrewKernel, calls.Call]
    """The last call of a kernel in this workspace."""
    predict_call: calls.Call | None
    """The last prediction of a few samples."""
    predict_again: Callable[[Any, int, Any, Any], bool]
    """Which makes it again, once there is one."""
    predicted_again: tuple[NDArray[np.floating] | None, tuple[int, ...], bool]
    """Parameters, and the shape of the data, of the last prediction of many rows, if its call can be made again; and
    whether it is one by one thread, and brief."""
    block: int
    """Samples of a block."""
    objective: Objective
    """What it was made for: with another one, dropout's key may be another."""
    room: int
    """Samples for which there is room: the capacity, and what is left free behind groups."""

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation_names: Sequence[str],
        objective: Objective,
        dtype: np.dtype,
        capacity: int,
    ) -> None:
        block = simd.VECTORS * (simd.VECTOR_BYTES // dtype.itemsize)
        self.capacity, self.objective = round_up(capacity, block), objective
        self.block, self._itemsize = block, dtype.itemsize
        self._used = 0
        partials = _Partials(layer_sizes, dtype.itemsize, self.capacity, block)
        self.room = self.capacity + (partials.groups * partials.samples_apart if partials.groups > 1 else 0)
        plan = aligned(len(layer_sizes) * columns.PLAN_COLUMNS, np.dtype(np.int64))
        self.plan = plan.reshape(-1, columns.PLAN_COLUMNS)
        self._place_layers(layer_sizes, activation_names, objective.code >= losses.POISSON)
        self._place_batch(layer_sizes[-1], objective)
        self._place_partials(partials)
        self._place_dropout(objective)
        self._note_narrow_layers()
        self.arena = aligned(self._used, dtype)
        rows = self.capacity // block + columns.REPORT_ROWS
        self.report = aligned(rows * 3, np.dtype(np.float64)).reshape(-1, 3)
        self.report[columns.SETTINGS] = objective.setting, objective.l1, objective.l2
        self.panels_of_version = -1
        self.results = self.report[columns.RUN]
        self.packed, self.predict_call, self.predicted_again = {}, None, (None, (), False)
        self.crew = aligned(crew.n_counters(1), np.dtype(np.int64))

    def _place_layers(self, layer_sizes: Sequence[int], names: Sequence[str], of_pre_activations: bool) -> None:
        parameters, last = 0, len(layer_sizes) - 2
        entering = self._take(layer_sizes[0])
        for layer, (inputs, outputs) in enumerate(zip(layer_sizes[:-1], layer_sizes[1:], strict=True)):
            row = self.plan[layer]
            row[columns.INPUTS], row[columns.OUTPUTS] = inputs, outputs
            row[columns.ACTIVATION] = activations.CODES[names[layer]]
            row[columns.WEIGHTS], row[columns.BIASES] = parameters, parameters + inputs * outputs
            parameters += (inputs + 1) * outputs
            row[columns.X] = entering
            row[columns.X_BY_FEATURES] = self._take(round_up(inputs, self.block))
            row[columns.A] = entering = self._take(outputs)
            is_needed = int(row[columns.ACTIVATION]) in activations.SLOPE_NEEDS_Z
            apart = is_needed or (layer == last and of_pre_activations)
            row[columns.Z] = self._take(outputs) if apart else row[columns.A]
            row[columns.DZ] = self._take(outputs)

    def _place_batch(self, outputs: int, objective: Objective) -> None:
        row = self.plan[-1]
        row[columns.LOSS], row[columns.ROOM] = objective.code, self.room
        row[columns.PENALIZES], row[columns.DIVIDES_PENALTY] = objective.penalizes, objective.divides_penalty
        row[columns.TARGETS] = self._take(outputs)
        row[columns.TARGETS_BY_FEATURES] = self._take(round_up(outputs, self.block))
        row[columns.THREADS] = self._n_threads = 1
        row[columns.SHARES], row[columns.SAMPLE_LOSSES] = self._take(1), self._take(1)

    def _place_dropout(self, objective: Objective) -> None:
        """Take room for what is left of activations; without dropout they are all left, where they are."""
        self.plan[:-1, columns.X_LEFT] = self.plan[:-1, columns.X]
        for layer, rate in enumerate(objective.dropout):
            threshold = round(rate * dropout.WORDS)
            if threshold > 0:
                self.plan[layer, columns.DROPPED] = threshold
                self.plan[layer + 1, columns.X_LEFT] = self._take(int(self.plan[layer, columns.OUTPUTS]))
                self.plan[-1, columns.DROPS] = 1
        self.plan[-1, columns.KEY0], self.plan[-1, columns.KEY1] = objective.key
        self.plan[-1, columns.PLACES] = self._take(1) if objective.has_places else -1

    def _note_narrow_layers(self) -> None:
        """Of whose inputs, which are few, dropout leaves all."""
        layers = self.plan[:-1]
        all_left = layers[:, columns.X_LEFT] == layers[:, columns.X]
        layers[:, columns.IS_NARROW] = all_left & (layers[:, columns.INPUTS] <= NARROW_INPUTS)

    def _place_partials(self, partials: _Partials) -> None:
        """Take room for a gradient of each group of samples."""
        row = self.plan[-1]
        row[columns.PARTIALS_IN_CACHE], row[columns.LEAST_SAMPLES] = partials.in_cache, partials.least_samples
        row[columns.PARTIALS], row[columns.PARTIAL_SIZE] = self._used, partials.size
        row[columns.LEAST_GROUP] = partials.least_group
        row[columns.APART] = partials.samples_apart // self.block
        if partials.groups > 1:  # a single one is summed where the batch's gradient belongs
            self._used += partials.groups * partials.size

    def _take(self, features: int) -> int:
        """Take room for ``features`` of every sample; return where it begins."""
        place = self._used
        self._used += features * self.room
        return place

    def divide(self, n_threads: int) -> None:
        """Make the plan ready for so many threads."""
        if self._n_threads != n_threads:
            if self.crew.size < crew.n_counters(n_threads):
                self.crew = aligned(crew.n_counters(n_threads), np.dtype(np.int64))
            # room comes first, and what says that nothing is to be done comes last: Ctrl-C may come between
            self.plan[-1, columns.THREADS] = n_threads
            self._n_threads = n_threads

    @cached_property
    def panels(self) -> NDArray[np.floating]:
        """The weights once more, as the prediction of a few samples reads them; only where there is one."""
        vector = simd.VECTOR_BYTES // self.arena.itemsize
        inputs, outputs = self.plan[:-1, columns.INPUTS], self.plan[:-1, columns.OUTPUTS]
        return aligned(int((inputs * -(-outputs // vector) * vector).sum()), self.arena.dtype)

    def train(self, *arguments: Any) -> tuple[int, float, int]:
        """Call the kernel ``train``, packed if it can be, with the threads that the plan is divided for.

        Returns its status, sum of losses, and steps taken.
        """
        if self._n_threads == 1 or not calls.are_packed():
            found: tuple[int, float, int] = network.train(*arguments)
            return found
        call = self.pack(*arguments)
        call.run(self._n_threads)
        call.let_go(_OF_THE_USER)
        status, total, taken = self.results.tolist()
        return int(status), total, int(taken)

    def predict(self, n_threads: int, *arguments: Any) -> bool:
        """Call the kernel ``predict``, packed if it can be: whether the data were finite."""
        if not calls.are_packed():
            return bool(prediction.predict(*arguments) == columns.FINITE)
        call = self.pack(*arguments, kernel=prediction.predict)
        call.run(n_threads)
        call.let_go(_TO_PREDICT)
        return call.status == columns.FINITE

    def pack(self, *arguments: Any, kernel: calls.CrewKernel = network.train) -> calls.Call:
        """Pack a call of a kernel: anew, or what has changed since the last one."""
        call = self.packed.get(kernel)
        if call is None:
            call = calls.Call(kernel, *arguments)
            if kernel is prediction.predict:
                again.vary(call, *self.what_is_predicted())
            self.packed[kernel] = call  # only now: Ctrl-C may have come before it was ready
        else:
            call.set(*arguments)
        return call

    def what_is_predicted(self) -> tuple[str, again.Rows, again.Rows]:
        """What varies from one prediction to the next: how many samples, their rows, and the output's."""
        dtype, inputs, outputs = self.arena.dtype, self.plan[0, columns.INPUTS], self.plan[-2, columns.OUTPUTS]
        data = again.Rows("data", dtype, (again.BY_NUMBER, inputs))
        return "samples", data, again.Rows("output", dtype, (again.BY_NUMBER, outputs))

    def for_prediction(self) -> tuple[NDArray[np.int64], int]:
        """Make a plan of the same network for predictions of one block, and tell how large an arena it needs.

        Layers take turns at two places, as only the one before matters; the last one has places of its own, as the
        softmax needs several.
        """
        plan, layers = self.plan.copy(), len(self.plan) - 1
        widths = [int(plan[0, columns.INPUTS]), *map(int, plan[:layers, columns.OUTPUTS])]
        plan[-1, columns.ROOM], plan[-1, columns.THREADS] = self.block, 1
        plan[0, columns.X_BY_FEATURES], used = 0, round_up(widths[0], self.block) * self.block
        places = [used, used + max(widths[:-1]) * self.block]
        used = places[1] + max(widths[:-1]) * self.block
        entering = places[0]
        for layer in range(layers - 1):
            leaving = places[(layer + 1) % 2]
            plan[layer, columns.X], plan[layer, columns.Z], plan[layer, columns.A] = entering, leaving, leaving
            entering = leaving
        last = plan[layers - 1]
        of_last = [used + k * widths[-1] * self.block for k in range(3)]
        last[columns.X], last[columns.Z], last[columns.A], last[columns.DZ] = entering, *of_last
        return plan, used + 3 * widths[-1] * self.block

    def features(self, layer: int, inputs: int) -> NDArray[np.floating]:
        """What enters a layer in feature blocks, as an array ``[i // B, n, i % B]``."""
        place, size = self.plan[layer, columns.X_BY_FEATURES], round_up(inputs, self.block) * self.room
        return self.arena[place : place + size].reshape(-1, self.room, self.block)

    def set_places(self, places: NDArray[np.int64]) -> None:
        """Write the samples' places in the minibatch, if there is room for them."""
        start = int(self.plan[-1, columns.PLACES])
        if start >= 0:
            self.arena[start : start + len(places)] = places

    def view(self, place: int, features: int, samples: int) -> NDArray[np.floating]:
        """What stands sample-blocked at a place of the arena, as an array ``[n // B, i, n % B]``."""
        blocks = -(-samples // self.block)
        size = blocks * features * self.block
        return self.arena[place : place + size].reshape(blocks, features, self.block)


def aligned(size: int, dtype: np.dtype) -> NDArray[Any]:
    """Zeros on cache lines of their own: no thread writes on a line that others read all the time."""
    extra = _ALIGNMENT // dtype.itemsize
    room = np.zeros(size + 2 * extra, dtype)
    skip = (-calls.address(room) % _ALIGNMENT) // dtype.itemsize
    return room[skip : skip + size]


def round_up(number: int, multiple: int) -> int:
    """The next multiple, or the number itself."""
    return -(-number // multiple) * multiple
