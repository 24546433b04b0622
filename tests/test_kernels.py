"""Second link, the whole: the training step over tiles computes what the oracle's forward and backward do."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import INTERPRETED, compiled
from fastmlp.buffers import Objective, Workspace, aligned
from fastmlp.kernels import calls, columns, dropout, prediction, simd, stages
from fastmlp.kernels import network as kernels
from fastmlp.kernels import optimizers as codes
from fastmlp.kernels import samples as over_samples
from fastmlp.kernels import weights as over_weights
from fastmlp.oracle import network as oracle
from fastmlp.oracle import optimizers as rules
from fastmlp.oracle.losses import LOSSES
from fastmlp.rows import flat

ROWS, BLOCK = simd.ROWS, simd.block(np.empty(0, np.float32))


NO_ORDER = np.empty(0, np.int64)
NO_LABELS = np.empty(0, np.int64)
NO_WEIGHTS = np.empty(0, np.float64)
RATE = (0.1,)  # plain gradient descent
NOTHING = dropout.NOTHING_DROPPED

WIDE = over_samples.VECTORS_FOR_TWO * simd.lanes(np.empty(0, np.float32))
"""Inputs from which rows are left where they stand, in both precisions, if a first layer has one output or two."""

# layer sizes and samples: distinct, square, 1, around the tile's rows, its block, and a tile of samples
SHAPES = [
    ([3, 4, 4, 2], 5),
    ([4, 4, 4], 4),
    ([1, 1], 1),
    ([1, 1, 1], BLOCK + 1),
    ([ROWS, ROWS + 1, ROWS - 1], BLOCK - 1),
    ([BLOCK + 1, BLOCK - 1, BLOCK], BLOCK),
    ([5, 2 * ROWS + 1, 3], over_samples.TILE_BLOCKS * BLOCK + 1),
    ([2 * BLOCK + 1, 3, 2, 5, 1], 2 * over_samples.TILE_BLOCKS * BLOCK),
    ([20, 21, 20], 2 * kernels.GROUP_SAMPLES + 2),  # two groups of samples
    ([40, 70, 37, 3], 1),  # a few samples, one by one
    ([40, 70, 37, 3], 2),
    ([WIDE + 5, 1], over_samples.TILE_BLOCKS * BLOCK + 3),  # rows that are left where they stand
    ([2 * WIDE, 3, 5], 2 * kernels.GROUP_SAMPLES + 2),
]
if not INTERPRETED:
    SHAPES += [
        ([2000, 2], 300),
        ([64, 33, 10], 130),
        ([7, 100, 50, 3], 300),
        ([2, 3, 2], (over_weights.BLOCKS_AT_ONCE + 1) * BLOCK + 1),
    ]

PENALTY = (0.02, 0.03, False)
WAYS = {
    "plain": {},
    "penalty": {"penalty": PENALTY},
    "penalty of biases too": {"penalty": (0.02, 0.03, True)},
    "weights of samples": {"weighted": True},
    "decay": {"decay": (0.3, 0)},
    "decay of biases too": {"decay": (0.3, 1)},
    "limited": {"limit": 0.05},
    "all": {"penalty": PENALTY, "weighted": True, "decay": (0.3, 0), "limit": 0.05},
}
"""What may be added to a step."""


CASES = [
    ("squared_error", "sigmoid", "identity"),
    ("squared_error", "tanh", "sigmoid"),
    ("squared_error", "relu", "tanh"),
    ("binary_cross_entropy", "tanh", "sigmoid"),
    ("softmax_cross_entropy", "relu", "softmax"),
    ("softmax_cross_entropy", "identity", "softmax"),
    ("absolute_error", "leaky_relu", "identity"),
    ("huber", "elu", "softplus"),
    ("quantile", "softplus", "identity"),
    ("poisson", "silu", "exp"),
    ("squared_error", "gelu", "gelu"),
]


def as_array(settings):
    """Settings of an optimizer, with zeros for those that are not given."""
    return np.array([*settings, *[0.0] * (codes.N_SETTINGS - len(settings))])


class Network:
    """A network with its workspace, and the oracle's view of it."""

    def __init__(self, sizes, samples, case, dtype, rng, whole=False, penalty=()):
        self.loss, hidden, output = case
        self.names = [hidden] * (len(sizes) - 2) + [output]
        self.sizes, self.samples = sizes, samples
        draw = (lambda shape: rng.integers(-2, 3, shape)) if whole else rng.standard_normal
        size = sum((i + 1) * j for i, j in zip(sizes[:-1], sizes[1:], strict=True))
        self.vector = aligned(size, dtype)
        self.vector[:] = draw(size) * (1 if whole else 0.5)
        self.data = draw((samples, sizes[0])).astype(dtype)
        self.targets = draw((samples, sizes[-1])).astype(dtype)
        if self.loss == "poisson":
            self.targets = rng.poisson(2, self.targets.shape).astype(dtype)
        elif self.loss.endswith("entropy"):
            self.targets = rng.dirichlet(np.ones(sizes[-1]), samples).astype(dtype)
        self.labels, self.weights = NO_ORDER, NO_WEIGHTS
        self.objective = Objective(self.loss, LOSSES[self.loss].setting or 0.0, *penalty)
        self.workspace = Workspace(sizes, self.names, self.objective, dtype, samples)
        self.gradient, self.memory = np.full_like(self.vector, np.nan), np.zeros(2 * size, dtype)

    def pairs(self, vector):
        """The oracle's parameters from a vector."""
        found, start = [], 0
        for i, j in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            W, b = vector[start : start + i * j].reshape(j, i), vector[start + i * j : start + (i + 1) * j]
            found.append(oracle.Parameters(W.astype(np.float64), b.astype(np.float64)))
            start += (i + 1) * j
        return found

    def expected(self, rows=slice(None)):
        """Loss, gradient vector and output by the oracle."""
        parameters = self.pairs(self.vector)
        X, Y = self.data[rows].T.astype(np.float64), self.targets[rows].T.astype(np.float64)
        forward_pass = oracle.forward(parameters, X, activations=self.names)
        weights = self.weights[rows] if self.weights.size else None
        penalty = oracle.Penalty(*self.objective[2:5])
        gradients = oracle.backward(
            parameters, forward_pass, Y, activations=self.names, loss=self.loss, sample_weight=weights, penalty=penalty
        )
        flat = np.concatenate([part.ravel() for pair in gradients for part in pair])
        value = oracle.loss_value(forward_pass, Y, loss=self.loss, sample_weight=weights)
        return value + oracle.penalty_value(parameters, penalty), flat, forward_pass

    @property
    def first(self):
        """What every kernel takes first."""
        return self.workspace.plan, self.vector, self.workspace.arena, self.workspace.report

    def predict_alone(self, output):
        """Predict sample by sample."""
        workspace = self.workspace
        prediction.write_panels(workspace.plan, self.vector, workspace.panels)
        return prediction.predict_alone(
            workspace.plan, self.vector, workspace.panels, workspace.arena, workspace.report, flat(self.data), output,
            0, self.samples,
        )  # fmt: skip

    def train(self, n_threads=1, batch_size=None, n_steps=1, optimizer=codes.NO_UPDATE, settings=RATE, order=NO_ORDER):
        """Run the training kernel."""
        self.workspace.divide(n_threads)
        return kernels.train(
            self.workspace.crew, kernels.ALL_PASSES, *self.first, self.gradient, self.memory, flat(self.data),
            flat(self.targets), flat(self.labels), self.weights, order, self.samples, batch_size or self.samples, 0,
            n_steps, optimizer, as_array(settings), 1, 0.0, kernels.ONE_EPOCH, n_threads=n_threads,
        )  # fmt: skip


def sum_by_weights(network):
    """Let the gradients be summed strip by strip of the weights, in a network whose plan says otherwise."""
    network.workspace.plan[-1, columns.PARTIALS_IN_CACHE] = 0


def by_members(kernel, *arguments):
    """Call a kernel as a crew of two does, one member after the other: what the last call returns."""
    return [kernel.serial(me, *arguments) for me in (calls.OPENING, 1, 0, calls.CLOSING)][-1]


@pytest.mark.parametrize("limit", [0, 0.05])
def test_members_do_together_what_one_does_alone(limit, dtype, rng):
    """Whoever comes first: it does what the other has left."""
    found = []
    settings = as_array((0.1, 0.9, 0.99, 1e-8, 0, 0, limit))
    for call in (lambda kernel, *arguments: kernel(*arguments), by_members):
        network = Network([20, 21, 20], 130, CASES[0], dtype, np.random.default_rng(5))
        workspace = network.workspace
        workspace.divide(2)
        output = np.empty_like(network.targets)
        arguments = network.gradient, network.memory, flat(network.data), flat(network.targets), NO_LABELS
        steps = NO_WEIGHTS, NO_ORDER, 130, 65, 0, 2, codes.ADAM, settings, 1, 0.0, kernels.ONE_EPOCH
        result = call(kernels.train, workspace.crew, kernels.ALL_PASSES, *network.first, *arguments, *steps)
        update = network.vector, network.gradient, network.memory, codes.ADAM, settings, 3, 65.0
        call(kernels.update, workspace.plan, workspace.report, *update)
        status = call(prediction.predict, *network.first, flat(network.data), flat(output), 0, 130)
        network.data[129, 0] = np.nan
        bad = call(prediction.predict, *network.first, flat(network.data), flat(output.copy()), 0, 130)
        assert (result[0], result[2], status, bad) == (columns.FINITE, 2, columns.FINITE, columns.X_NOT_FINITE)
        found.append((result[1], network.vector, network.memory, output))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bytes_apart", [9 * simd.VECTOR_BYTES * simd.VECTORS + 8, over_weights.TWO_SETS_BYTES])
def test_weights_are_updated_alike_tile_by_tile_and_in_rows(bytes_apart, dtype):
    """One thread does the latter, and two where rows share a place in the cache."""
    found, outputs = [], over_weights.STRIPS_AT_ONCE * ROWS + 1
    settings = as_array((0.1, 0.9, 0.99, 1e-8, 0.01, 1, 0))
    for threads, call in ((1, lambda kernel, *arguments: kernel(*arguments)), (2, by_members)):
        rng = np.random.default_rng(5)
        sizes = [bytes_apart // dtype.itemsize, outputs, 3]
        network = Network(sizes, BLOCK + 3, CASES[0], dtype, rng, penalty=PENALTY)
        network.workspace.divide(threads)
        arguments = network.gradient, network.memory, flat(network.data), flat(network.targets), NO_LABELS
        steps = NO_WEIGHTS, NO_ORDER, BLOCK + 3, BLOCK + 3, 0, 1, codes.ADAM, settings, 1, 0.0, kernels.ONE_EPOCH
        before = network.vector.copy()
        call(kernels.train, network.workspace.crew, kernels.ALL_PASSES, *network.first, *arguments, *steps)
        assert (network.vector != before).all()
        found.append((network.gradient, network.vector, network.memory))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("samples", "groups"), [(1, 1), (60, 1), (130, 2), (307, 2), (308, 4), (10_000, 16)])
def test_groups_follow_from_the_batch_alone(samples, groups, rng):
    """Also where the workspace is larger: each of several groups leaves its own part of the memory unlike it was."""
    for room in (samples, 3 * samples):
        network = Network([20, 21, 20], samples, CASES[0], np.dtype(np.float32), rng)
        network.workspace = Workspace(network.sizes, network.names, network.objective, np.dtype(np.float32), room)
        partials = unlike_partials(network)
        network.train()
        summed = groups if groups > 1 else 0
        assert np.isfinite(partials[:summed]).all()
        assert np.isnan(partials[summed:]).all()
        if summed:
            total = partials[:summed].sum(axis=0, dtype=np.float64)
            np.testing.assert_allclose(network.gradient, total, atol=1e-6)


@pytest.mark.parametrize(("samples", "outputs", "is_grouped"), [(31, 12, False), (32, 12, True), (32, 30, False)])
def test_a_group_may_be_of_fewer_samples_where_its_gradient_is_small(samples, outputs, is_grouped, rng):
    """There is room for groups of a larger batch."""
    sizes, dtype = [400, outputs, 2], np.dtype(np.float64)
    network = Network(sizes, samples, CASES[0], dtype, rng)
    network.workspace = Workspace(sizes, network.names, network.objective, dtype, 64)
    partials = unlike_partials(network)
    network.train()
    assert np.isfinite(partials).any() == is_grouped


def unlike_partials(network):
    """The room for gradients of groups of samples, a row for each, filled with NaN."""
    workspace = network.workspace
    place, size = workspace.plan[-1, columns.PARTIALS], workspace.plan[-1, columns.PARTIAL_SIZE]
    partials = workspace.arena[place:].reshape(-1, size)[:, : network.vector.size]
    partials[:] = np.nan
    return partials


@pytest.mark.parametrize(("samples", "by_samples"), [(64, True), (1024, False), (200, True)])
def test_gradients_are_summed_by_samples_while_they_stay_in_the_cache(samples, by_samples):
    """Sixteen of them would be too many; and a batch is summed alike where a larger one would fit."""
    sizes, dtype, found = [150, 220, 10], np.dtype(np.float64), []
    for room in (samples, 1024):
        network = Network(sizes, samples, CASES[0], dtype, np.random.default_rng(3))
        network.workspace = Workspace(sizes, network.names, network.objective, dtype, room)
        partials = unlike_partials(network)
        network.train()
        assert np.isfinite(partials).any() == by_samples
        found.append(network.gradient)
    np.testing.assert_array_equal(*found)


def tolerance(network, expected):
    """Rounding: the root of the longest sum, once per layer and direction, in units of the largest entry and of 1."""
    terms = max(*network.sizes, network.samples)
    depth = 2 * len(network.sizes)
    return 6 * np.sqrt(terms) * depth * np.finfo(network.vector.dtype).eps * max(abs(expected).max(), 1)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize(("sizes", "samples"), SHAPES, ids=str)
def test_training_step_computes_the_oracles_gradient(sizes, samples, case, dtype, rng):
    network = Network(sizes, samples, case, dtype, rng)
    loss, gradient, _ = network.expected()
    status, total, taken = network.train()
    assert (status, taken) == (columns.FINITE, 1)
    assert total / samples == pytest.approx(loss, abs=tolerance(network, np.array(loss)))
    np.testing.assert_allclose(network.gradient, gradient, rtol=0, atol=tolerance(network, gradient))


@compiled
def leave_rows(plan, arena, samples):
    return over_samples.can_read_in_place(plan, arena) and over_samples.few_of(samples, arena) == 0


def reads_in_place(network):
    """Whether a step, whose gradients are summed by groups, reads the rows where they stand."""
    return leave_rows(network.workspace.plan, network.workspace.arena, network.samples)


@pytest.mark.parametrize("way", ["as planned", "by weights"])
@pytest.mark.parametrize(("sizes", "samples"), SHAPES, ids=str)
def test_forward_then_backward_is_the_training_step(sizes, samples, way, dtype, rng):
    """The same bits: both are made of the same strips. Where rows are left where they stand, their sums are not."""
    network = Network(sizes, samples, CASES[0], dtype, rng)
    if way == "by weights":
        sum_by_weights(network)
    _, total, _ = network.train()
    gradient = np.full_like(network.gradient, np.nan)
    first = network.workspace.crew, *network.first
    assert kernels.forward(*first, flat(network.data), NO_ORDER, 0, samples, NOTHING) == columns.FINITE
    status, loss = kernels.backward(
        network.workspace.crew,
        *network.first,
        flat(network.targets),
        NO_LABELS,
        NO_WEIGHTS,
        NO_ORDER,
        0,
        samples,
        NOTHING,
        gradient,
    )
    assert status == columns.FINITE
    if way == "as planned" and reads_in_place(network):
        assert loss * samples == pytest.approx(total, abs=tolerance(network, np.array(total)))
        np.testing.assert_allclose(gradient, network.gradient, rtol=0, atol=tolerance(network, gradient))
    else:
        assert loss * samples == total
        np.testing.assert_array_equal(gradient, network.gradient)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize(("sizes", "samples"), [*SHAPES[:7], SHAPES[8]], ids=str)
def test_prediction_loss_and_activations(sizes, samples, case, dtype, rng):
    network = Network(sizes, samples, case, dtype, rng)
    loss, _, forward_pass = network.expected()
    output = np.full((samples, sizes[-1]), np.nan, dtype)
    prediction.predict(*network.first, flat(network.data), output.reshape(-1), 0, samples)
    expected = forward_pass.activations[-1].T
    np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance(network, expected))
    status, found = kernels.loss_value(
        network.workspace.crew, *network.first, flat(network.data), flat(network.targets), NO_LABELS, NO_WEIGHTS,
        NO_ORDER, 0, samples,
    )  # fmt: skip
    assert status == columns.FINITE
    assert found == pytest.approx(loss, abs=tolerance(network, np.array(loss)))


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids="-".join)
@pytest.mark.parametrize(
    "sizes",
    [[3, 4, 2], [1, 1], [BLOCK - 1, BLOCK + 1, 2 * BLOCK + 3, BLOCK], [33, 70, 5], [WIDE + 7, 2], [2 * WIDE, 3, 4]],
    ids=str,
)
def test_one_sample_has_the_bits_that_it_has_among_others(sizes, case, dtype, rng):
    """One by one, a few at a time, in tiles of one thread or two, whose arena holds a part of the samples only."""
    samples = 5 * BLOCK + 3
    network = Network(sizes, samples, case, dtype, rng)
    tile = Workspace(sizes, network.names, network.objective, dtype, 2 * prediction.PREDICTED_BLOCKS * BLOCK)
    outputs = []
    for workspace, n_threads, at_once in [
        (network.workspace, 1, samples), (tile, 1, samples), (tile, 2, samples), (tile, 2, BLOCK + 1), (tile, 1, 1),
        (tile, 1, 2), (tile, 1, prediction.SAMPLES_ALONE + 1),
    ]:  # fmt: skip
        alone = n_threads == 1 and at_once <= prediction.SAMPLES_ALONE
        output = np.full((samples, sizes[-1]), np.nan, dtype)
        workspace.arena[:] = np.nan
        workspace.divide(n_threads)
        for first in range(0, samples, at_once):
            rest = (
                workspace.arena, workspace.report, flat(network.data), output.reshape(-1), first,
                min(at_once, samples - first),
            )  # fmt: skip
            if alone:
                prediction.write_panels(workspace.plan, network.vector, workspace.panels)
                status = prediction.predict_alone(workspace.plan, network.vector, workspace.panels, *rest)
            else:
                status = prediction.predict(workspace.plan, network.vector, *rest, n_threads=n_threads)
            assert status == columns.FINITE
        outputs.append(output)
    expected = network.expected()[2].activations[-1].T
    np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=tolerance(network, expected))
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


@pytest.mark.parametrize("samples", [1, 2, prediction.SAMPLES_ALONE + 1, 3 * BLOCK])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sizes", [[BLOCK + 1, 3, 2], [WIDE + 1, 2]], ids=str)
def test_prediction_tells_what_is_not_finite(sizes, samples, value, dtype, rng):
    network = Network(sizes, samples, CASES[1], dtype, rng)
    output = np.empty(2 * samples, dtype)
    for feature in (0, sizes[0] - 1):
        network.data[samples - 1, feature] = value
        assert prediction.predict(*network.first, flat(network.data), output, 0, samples) == columns.X_NOT_FINITE
        assert network.predict_alone(output) == columns.X_NOT_FINITE
        network.data[samples - 1, feature] = 1
    assert prediction.predict(*network.first, flat(network.data), output, 0, samples) == columns.FINITE
    assert network.predict_alone(output) == columns.FINITE


@pytest.mark.parametrize(("sizes", "samples"), SHAPES, ids=str)
def test_whole_numbers_give_exact_sums(sizes, samples, dtype, rng):
    """Identity layers over small whole numbers: every sum of both regions is exact, so the bits must be right.

    The one division, by the number of samples, is exact for a power of two; there the sample count is rounded down.
    """
    samples = 2 ** int(np.log2(samples))
    network = Network(sizes, samples, ("squared_error", "identity", "identity"), dtype, rng, whole=True)
    loss, gradient, forward_pass = network.expected()
    largest = max(abs(gradient).max(), *(abs(A).max() for A in forward_pass.activations)) * samples
    if max(largest, loss * samples * 2) * max(sizes) > 1 / np.finfo(dtype).eps:
        pytest.skip("the sums of this deep network exceed what is exact in float32")
    _, total, _ = network.train()
    assert total / samples == loss
    np.testing.assert_array_equal(network.gradient, gradient)


def steps_of_adam(network, n_threads, batch_size, n_steps, ways):
    """Take some, the last one on fewer samples; return everything that they leave."""
    samples = network.samples
    if "weighted" in ways:
        network.weights = np.random.default_rng(8).uniform(0, 2, samples)
    order = np.random.default_rng(3).integers(0, samples, n_steps * batch_size - batch_size // 3)
    settings = as_array((0.1, 0.9, 0.99, 1e-8, *ways.get("decay", (0, 0)), ways.get("limit", 0)))
    network.workspace.divide(n_threads)
    status, total, taken = kernels.train(
        network.workspace.crew, kernels.ALL_PASSES, *network.first, network.gradient, network.memory,
        flat(network.data), flat(network.targets), NO_LABELS, network.weights, order, order.size, batch_size, 0,
        n_steps, codes.ADAM, settings, 1, 0.0, kernels.ONE_EPOCH, n_threads=n_threads,
    )  # fmt: skip
    assert (status, taken) == (columns.FINITE, n_steps)
    return network.vector.copy(), network.gradient.copy(), network.memory.copy(), np.array(total)


def assert_same_bits(results):
    """What several trainings left is the same."""
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("extra", ["plain", "all"])
@pytest.mark.parametrize("way", ["as planned", "by weights"])
@pytest.mark.parametrize(("sizes", "samples"), SHAPES, ids=str)
def test_same_bits_at_any_number_of_threads(sizes, samples, way, extra, dtype, rng):
    """Many steps, the last one of each epoch smaller, so that threads meet each other in every phase."""
    ways = WAYS[extra]
    results, n_steps = [], 1 if INTERPRETED else 9
    batch_size = max(1, samples * 2 // 3)
    for n_threads in (1, 2, 3, 1):
        network = Network(sizes, samples, CASES[1], dtype, np.random.default_rng(7), penalty=ways.get("penalty", ()))
        if way == "by weights":
            sum_by_weights(network)
        results.append(steps_of_adam(network, n_threads, batch_size, n_steps, ways))
    assert_same_bits(results)


# ------------------------------------------------------------------------------------------------------------------
# stages, in which threads share the features of a layer


STAGED = [3 * BLOCK + 1, 4 * BLOCK + 3, 3 * BLOCK - 1, 2 * BLOCK + 3] if INTERPRETED else [400, 300, 100, 140]
"""Layers with so much to do that there are stages, and parts of the last one; where kernels are interpreted, this is
made so."""


@pytest.fixture
def staged(monkeypatch):
    monkeypatch.setattr(stages, "STAGE_OPERATIONS", 0 if INTERPRETED else stages.STAGE_OPERATIONS)
    monkeypatch.setattr(stages, "PART_OPERATIONS", 100 if INTERPRETED else stages.PART_OPERATIONS)


@compiled
def n_stages_of(plan, arena, samples):
    """Stages of a batch of so many samples."""
    return stages.n_stages(plan, arena, samples)


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize(
    ("samples", "n_threads", "has_stages"),
    [(5, 1, False), (5, 2, True), (BLOCK, 2, True), (BLOCK + 1, 2, False), (BLOCK + 1, 3, True), (3 * BLOCK, 2, True),
     (5 * BLOCK, 2, False), (3 * BLOCK, 7, True)],
)  # fmt: skip
def test_stages_are_for_blocks_that_threads_cannot_share(samples, n_threads, has_stages, rng):
    # in a narrow layer there is nothing to share
    of_narrow = 5 if has_stages and samples <= BLOCK and INTERPRETED else 1
    for sizes, expected in ((STAGED, 7 if has_stages else 1), ([3, 4, 2], of_narrow)):
        network = Network(sizes, samples, CASES[0], np.dtype(np.float32), rng)
        network.workspace.divide(n_threads)
        assert n_stages_of(network.workspace.plan, network.workspace.arena, samples) == expected


@compiled
def may_have_stages_of(plan, arena, samples):
    """Whether a batch of so many samples may have stages."""
    return kernels._may_have_stages(plan, arena, samples)


@pytest.mark.parametrize(("samples", "may"), [(BLOCK // 2, True), (BLOCK // 2 + 1, False)])
def test_a_group_that_is_summed_tile_by_tile_has_no_stages(samples, may, rng):
    """Of nine samples, 1-97-95 is too little work for two groups, but seven threads would save enough by stages."""
    workspace = Network([1, 97, 95], samples, CASES[0], np.dtype(np.float32), rng).workspace
    workspace.divide(7)
    assert may_have_stages_of(workspace.plan, workspace.arena, samples) == may


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize("extra", ["plain", "all"])
@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[10]], ids="-".join)
@pytest.mark.parametrize("samples", [3, 5, BLOCK, 3 * BLOCK - 1])
def test_stages_change_no_bit(samples, case, extra, dtype, rng):
    """The last step of some is on fewer samples. One thread alone has no stages, whose gradient is tested above."""
    ways = WAYS[extra]
    results, n_steps = [], 2 if INTERPRETED else 9
    for n_threads in (1, 2, 5):
        network = Network(STAGED, samples, case, dtype, np.random.default_rng(7), penalty=ways.get("penalty", ()))
        results.append(steps_of_adam(network, n_threads, samples, n_steps, ways))
    assert_same_bits(results)


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize(
    ("bad", "feature", "status"),
    [("data", 0, columns.X_NOT_FINITE), ("data", -1, columns.X_NOT_FINITE), ("targets", 1, columns.Y_NOT_FINITE)],
)
def test_stages_tell_what_is_not_finite(bad, feature, status, dtype, rng):
    network = Network(STAGED, 5, CASES[0], dtype, rng)
    getattr(network, bad)[-1, feature] = np.inf
    before = network.vector.copy()
    assert network.train(2, optimizer=codes.SGD)[::2] == (status, 0)
    np.testing.assert_array_equal(network.vector, before)
    getattr(network, bad)[-1, feature] = 0.5  # the buffers remember nothing of it
    assert network.train(2, optimizer=codes.SGD)[0] == columns.FINITE
    assert np.isfinite(network.vector).all()


@pytest.mark.skipif(not INTERPRETED, reason="compiled code has these numbers in it; large shapes meet them above")
@pytest.mark.parametrize(("outputs", "strips", "blocks"), [(1, 1, 1), (3, 2, 2), (5, 3, 4)])
def test_sums_in_parts_are_the_same(outputs, strips, blocks, rng, monkeypatch):
    """In whole numbers, whose sums are exact: however many rows, strips and blocks are taken at once."""
    case, dtype = ("squared_error", "identity", "identity"), np.dtype(np.float64)
    network = Network([ROWS + 1, 2 * ROWS + 3, 4, 2], 4 * BLOCK, case, dtype, rng, whole=True)
    sum_by_weights(network)
    _, expected, _ = network.train()
    gradient = network.gradient.copy()
    monkeypatch.setattr(over_samples, "OUTPUTS_AT_ONCE", outputs)
    monkeypatch.setattr(over_samples, "FAR_BYTES", 0)
    monkeypatch.setattr(over_weights, "STRIPS_AT_ONCE", strips)
    monkeypatch.setattr(over_weights, "BLOCKS_AT_ONCE", blocks)
    network.gradient[:] = np.nan
    assert network.train()[1] == expected
    np.testing.assert_array_equal(network.gradient, gradient)


@pytest.mark.skipif(not INTERPRETED, reason="compiled threads are met above")
@pytest.mark.parametrize(("sizes", "batch_size", "expected"), [([3, 4, 2], BLOCK, 1), (STAGED, 3, 7)])
@pytest.mark.usefixtures("staged")
def test_interpreted_threads_wait_for_each_other(sizes, batch_size, expected):
    """The schedule itself, read and run as Python: two threads take the steps that one takes."""
    rows = 3 * batch_size
    networks = [Network(sizes, rows, CASES[1], np.dtype(np.float64), np.random.default_rng(1)) for _ in "12"]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # they take turns all the time
    try:
        for network, n_threads in zip(networks, (1, 2), strict=True):
            sum_by_weights(network)
            network.workspace.divide(2)
            arguments = (
                network.workspace.crew, kernels.ALL_PASSES, *network.first, network.gradient, network.memory,
                flat(network.data), flat(network.targets), NO_LABELS, NO_WEIGHTS, NO_ORDER, rows, batch_size, 0,
                3, codes.PLAIN_SGD, as_array(RATE), 1,
            )  # fmt: skip
            kernels.train.python(calls.OPENING, *arguments, 0.0, kernels.ONE_EPOCH)
            n_stages = stages.n_stages(network.workspace.plan, network.workspace.arena, batch_size)
            assert n_stages == expected
            division = kernels._divided(network.workspace.plan, network.workspace.arena, batch_size, n_stages)
            with ThreadPoolExecutor(n_threads) as pool:
                for result in [
                    pool.submit(kernels._train_along, me, *arguments, kernels.ONE_EPOCH, n_stages, division)
                    for me in range(n_threads)
                ]:
                    result.result(timeout=60)
    finally:
        sys.setswitchinterval(before)
    alone, together = networks
    assert together.workspace.report[-1].tolist() == alone.workspace.report[-1].tolist()
    assert alone.workspace.report[-1, 2] == 3  # steps
    np.testing.assert_array_equal(together.vector, alone.vector)


@pytest.mark.skipif(not INTERPRETED, reason="compiled members have their claims in them")
def test_a_member_that_finds_no_task_waits_for_the_next_phase(monkeypatch):
    waits, nothing, claim = [], [kernels.NO_TASK] * 2, kernels.claim
    monkeypatch.setattr(kernels, "claim", lambda *crew: (0, nothing.pop()) if nothing else claim(*crew))
    monkeypatch.setattr(kernels, "wait_for_next", lambda crew, me, phase: waits.append((me, phase)))
    waiting, plain = (
        Network([3, 4, 2], BLOCK, CASES[1], np.dtype(np.float64), np.random.default_rng(1)) for _ in "12"
    )
    waiting.train(optimizer=codes.PLAIN_SGD)
    assert waits == [(0, 0), (0, 0)]
    plain.train(optimizer=codes.PLAIN_SGD)
    assert waits == [(0, 0), (0, 0)]
    np.testing.assert_array_equal(waiting.vector, plain.vector)


@pytest.mark.parametrize(("sizes", "samples"), SHAPES, ids=str)
def test_both_ways_of_summing_give_the_gradient(sizes, samples, dtype, rng):
    """Exactly, in whole numbers; else they differ by rounding alone."""
    network = Network(sizes, samples, CASES[0], dtype, rng)
    network.train()
    planned = network.gradient.copy()
    sum_by_weights(network)
    network.gradient[:] = np.nan
    network.train()
    np.testing.assert_allclose(network.gradient, planned, rtol=0, atol=tolerance(network, planned))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_what_the_arena_held_before_does_not_count(n_threads, dtype, rng):
    """A smaller batch after a larger one, and after NaN in every element: padding is written, never trusted."""
    samples = 2 * BLOCK + 3
    network = Network([5, ROWS + 2, 3], samples, CASES[0], dtype, rng)
    network.train(n_threads)
    expected = network.gradient.copy()
    network.workspace.arena[:] = np.nan
    network.workspace.report[: columns.SETTINGS] = np.nan
    network.workspace.report[columns.BATCH :] = np.nan
    network.workspace.crew[:] = 99
    network.gradient[:] = np.nan
    network.train(n_threads)
    np.testing.assert_array_equal(network.gradient, expected)


def test_class_indices_are_one_hot_columns(dtype, rng):
    network = Network([4, 6, 3], 21, CASES[4], dtype, rng)
    labels = rng.integers(0, 3, 21)
    network.targets[:] = np.eye(3)[labels]
    network.train()
    with_columns = network.gradient.copy()
    network.gradient[:] = np.nan
    network.labels, network.targets = labels, np.empty((0, 3), dtype)
    network.train()
    np.testing.assert_array_equal(network.gradient, with_columns)


OPTIMIZERS = ["sgd", "nesterov", "rmsprop", "adam"]


def oracle_step(optimizer, vector, gradient, m, v, settings, step):
    """One step of the oracle's rule."""
    rate, first, second, epsilon = settings[:4]
    if optimizer in ("sgd", "nesterov"):
        return *getattr(rules, optimizer)(vector, gradient, m, rate, first), v
    if optimizer == "rmsprop":
        return rules.rmsprop(vector, gradient, m, v, rate, first, second, epsilon)
    return rules.adam(vector, gradient, m, v, rate, first, second, epsilon, 1 - first**step, 1 - second**step)


@pytest.mark.parametrize("summed", ["as planned", "by weights"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_over_minibatches_are_the_oracles_steps(optimizer, way, summed, dtype, rng):
    """An epoch in a random order, the last minibatch smaller than the others; with all that may be added to a step."""
    ways = WAYS[way]
    samples, batch_size = 2 * BLOCK + 5, BLOCK - 3
    network = Network([3, ROWS + 1, 2], samples, CASES[0], dtype, rng, penalty=ways.get("penalty", ()))
    if summed == "by weights":
        sum_by_weights(network)
    if "weighted" in ways:
        network.weights = rng.uniform(0, 3, samples)
    decay, limit = ways.get("decay", (0, 0)), ways.get("limit", 0.0)
    settings = (0.05, 0.9, 0.99, 1e-8, *decay, limit)
    order = rng.permutation(samples)
    n_steps = -(-samples // batch_size)
    start = Network(
        [3, ROWS + 1, 2], samples, CASES[0], np.dtype(np.float64), rng, penalty=ways.get("penalty", ())
    )  # fmt: skip
    start.data, start.targets, start.weights = (
        network.data.astype(float),
        network.targets.astype(float),
        network.weights,
    )
    start.vector[:] = network.vector
    vector, m, v, total = start.vector, np.zeros(start.vector.size), np.zeros(start.vector.size), 0.0
    are_weights = np.concatenate([[part == 0] * pair[part].size for pair in start.pairs(vector) for part in (0, 1)])
    for step in range(n_steps):
        rows = order[step * batch_size : (step + 1) * batch_size]
        loss, gradient, _ = start.expected(rows)
        total += loss * (start.weights[rows].sum() if start.weights.size else rows.size)
        norm = np.linalg.norm(gradient)
        if limit and norm > limit:
            gradient = gradient * (limit / norm)
        if decay[0]:
            decaying = are_weights | bool(decay[1])
            vector[decaying] = rules.decayed(vector[decaying], settings[0], decay[0])
        vector[:], m, v = oracle_step(optimizer, vector, gradient, m, v, settings, step + 1)
    status, found, taken = network.train(
        batch_size=batch_size, n_steps=n_steps, optimizer=codes.CODES[optimizer], settings=settings, order=order
    )
    assert (status, taken) == (columns.FINITE, n_steps)
    # Adam divides by the root of a small second moment, which magnifies a gradient's rounding up to 1/epsilon's root
    bound = 1e-9 if dtype == np.float64 else 3e-4
    assert found == pytest.approx(total, rel=bound)
    np.testing.assert_allclose(network.vector, vector, rtol=0, atol=bound)


@pytest.mark.parametrize("limit", [0, 0.01, 100])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_update_alone_is_the_update_of_the_step(optimizer, limit, dtype, rng):
    network = Network([3, ROWS + 1, 2], 9, CASES[0], dtype, rng)
    settings, code = (0.05, 0.9, 0.99, 1e-8, 0.1, 0, limit), codes.CODES[optimizer]
    vector, memory = network.vector.copy(), network.memory.copy()
    network.train()
    gradient = network.gradient.copy()
    network.train(optimizer=code, settings=settings)
    network.gradient[:] = gradient  # before it was limited
    kernels.update(
        network.workspace.plan, network.workspace.report, vector, network.gradient, memory,
        code, as_array(settings), 1, -1.0,
    )  # fmt: skip
    np.testing.assert_array_equal(vector, network.vector)
    np.testing.assert_array_equal(memory, network.memory)


@pytest.mark.parametrize("limit", [0, 1e9])
@pytest.mark.parametrize("penalty", [(), (0.1, 0.2, False), (0.0, 0.2, True)], ids=["", "of weights", "of everything"])
def test_a_sum_over_samples_becomes_the_gradient_before_the_update(penalty, limit, dtype, rng):
    """Its mean, with the gradient of the penalty, whose value is noted; of no weight, the penalty's alone."""
    seed, samples = int(rng.integers(1000)), 40
    alone, summed = (
        Network([3, ROWS + 1, 2], samples, CASES[0], dtype, np.random.default_rng(seed), penalty=each)
        for each in (penalty, ())
    )
    alone.train()
    summed.train()
    plan, report = alone.workspace.plan, alone.workspace.report
    value = oracle.penalty_value(alone.pairs(alone.vector), oracle.Penalty(*penalty))
    for weight in (float(samples), 0.0):
        gradient, vector = summed.gradient * dtype.type(weight), alone.vector.copy()
        settings = as_array((0.0, 0, 0, 0, 0, 0, limit))
        kernels.update(
            plan, report, vector, gradient, alone.memory, codes.PLAIN_SGD, settings, 1, weight
        )  # fmt: skip
        expected = alone.gradient if weight else alone.gradient - summed.gradient
        np.testing.assert_allclose(
            gradient, expected, rtol=0, atol=20 * np.finfo(dtype).eps * np.abs(alone.gradient).max()
        )
        np.testing.assert_allclose(report[columns.PENALTY, columns.PENALTIES], value * weight, rtol=1e-5)


@pytest.mark.parametrize(("bad", "status"), [("data", columns.X_NOT_FINITE), ("targets", columns.Y_NOT_FINITE)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, BLOCK, -1])
def test_what_is_not_finite_comes_back_as_a_status_and_changes_nothing(bad, status, value, row, dtype, rng):
    network = Network([3, 4, 2], 5 * BLOCK + 1, CASES[0], dtype, rng)
    getattr(network, bad)[row, 1] = value
    before = network.vector.copy()
    assert network.train(optimizer=codes.SGD)[::2] == (status, 0)
    np.testing.assert_array_equal(network.vector, before)
    getattr(network, bad)[row, 1] = 0.5  # the buffers remember nothing of it
    assert network.train(optimizer=codes.SGD)[0] == columns.FINITE
    assert np.isfinite(network.vector).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("feature", [0, WIDE - 1, WIDE])
def test_rows_that_are_left_where_they_stand_tell_what_is_not_finite(feature, value, dtype, rng):
    """Even where the weight of a value is zero; and the padding, which belongs to nobody, tells nothing."""
    network = Network([WIDE + 1, 2], 2 * BLOCK + 1, CASES[0], dtype, rng)
    assert reads_in_place(network)
    network.vector[:] = 0
    for row in (0, BLOCK + 1, -1):
        kept, network.data[row, feature] = network.data[row, feature], value
        with np.errstate(invalid="ignore"):
            assert network.train(optimizer=codes.SGD)[::2] == (columns.X_NOT_FINITE, 0)
        assert not network.vector.any()
        network.data[row, feature] = kept
    assert network.train()[0] == columns.FINITE


def test_finite_rows_whose_sums_are_not_are_not_to_blame(dtype, rng):
    network = Network([WIDE + 1, 2], 2 * BLOCK + 1, ("squared_error", "identity", "identity"), dtype, rng)
    assert reads_in_place(network)
    network.data[:], network.vector[:] = 2, np.finfo(dtype).max
    with np.errstate(over="ignore", invalid="ignore"):
        assert network.train(optimizer=codes.SGD)[::2] == (columns.LOSS_NOT_FINITE, 0)


def test_a_loss_that_is_not_finite_stops_before_the_update(dtype, rng):
    network = Network([2, 3, 1], 8, ("squared_error", "identity", "identity"), dtype, rng)
    network.vector[:] = np.finfo(dtype).max / 8
    before = network.vector.copy()
    status, _, taken = network.train(optimizer=codes.SGD, n_steps=1)
    assert (status, taken) == (columns.LOSS_NOT_FINITE, 0)
    np.testing.assert_array_equal(network.vector, before)


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids="-".join)
@pytest.mark.parametrize("sizes", [[5, 7, 3, 2], [130, 140, 130]], ids=str)
def test_buffers_do_not_overlap_and_hold_the_stated_size(sizes, case, dtype, rng):
    """Places of the plan are disjoint and fill the arena; the size is what the docstring of ``buffers.py`` says."""
    samples = 70
    workspace = Network(sizes, samples, case, dtype, rng).workspace
    block = simd.block(np.empty(0, dtype))
    groups, page = workspace.plan[-1, columns.PARTIALS_IN_CACHE], 4096 // dtype.itemsize
    operations = 6 * sum(i * j for i, j in itertools.pairwise(sizes)) + 30 * (sizes[0] + sizes[-1])
    operations += 40 * sum(sizes[1:])
    least = -(-kernels.GROUP_OPERATIONS // (operations * dtype.itemsize // 4))
    groups = min(2 if workspace.capacity >= least else 1, groups)
    N = workspace.capacity + (groups * page // block if groups > 1 else 0)
    plan, taken = workspace.plan, []
    taken.append((plan[0, columns.X], sizes[0] * N))
    for layer, (i, j) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        taken.append((plan[layer, columns.X_BY_FEATURES], -(-i // block) * block * N))
        places = {plan[layer, columns.A], plan[layer, columns.Z], plan[layer, columns.DZ]}
        taken += [(place, j * N) for place in places]
    outputs, n_parameters = sizes[-1], sum((i + 1) * j for i, j in zip(sizes[:-1], sizes[1:], strict=True))
    taken += [
        (plan[-1, columns.TARGETS], outputs * N),
        (plan[-1, columns.TARGETS_BY_FEATURES], -(-outputs // block) * block * N),
        (plan[-1, columns.SHARES], N),
        (plan[-1, columns.SAMPLE_LOSSES], N),
    ]
    of_groups = groups if groups > 1 else 0
    taken.append((plan[-1, columns.PARTIALS], of_groups * (-(-n_parameters // page) + 1) * page))
    taken.sort()
    ends = [place + size for place, size in taken]
    assert [place for place, _ in taken] == [0, *ends[:-1]]
    assert workspace.arena.size == ends[-1]
    assert samples <= workspace.capacity < samples + block
    for array in (workspace.arena, workspace.plan, workspace.report, workspace.crew):
        assert array.ctypes.data % 128 == 0


@pytest.mark.skipif(not INTERPRETED, reason="compiled threads come late by chance")
def test_a_member_that_comes_late_finds_how_the_present_batch_is_divided():
    """It comes to the second batch, which is smaller than the first, by which it was called."""
    case, dtype, rows = CASES[1], np.dtype(np.float64), BLOCK + 3
    late, plain = (Network([3, 4, 2], rows, case, dtype, np.random.default_rng(1)) for _ in "12")
    for network, first in ((late, 0), (plain, BLOCK)):
        workspace = network.workspace
        arguments = (
            workspace.crew, kernels.ALL_PASSES, *network.first, network.gradient, network.memory, flat(network.data),
            flat(network.targets), NO_LABELS, NO_WEIGHTS, NO_ORDER, rows, BLOCK, first, 2 if network is late else 1,
            codes.PLAIN_SGD, as_array(RATE), 1,
        )  # fmt: skip
        if network is plain:
            kernels.train.python(calls.ALONE, *arguments, 0.0, kernels.ONE_EPOCH)
            continue
        kernels.train.python(calls.OPENING, *arguments, 0.0, kernels.ONE_EPOCH)
        over_samples.weigh(workspace.plan, workspace.report, NO_WEIGHTS, NO_ORDER, BLOCK, 3)
        kernels.open_phase(workspace.crew, 1, 2, 1)  # the first one of the second step
        division = kernels._divided(workspace.plan, workspace.arena, BLOCK, stages.NO_STAGES)
        kernels._train_along(0, *arguments, kernels.ONE_EPOCH, stages.NO_STAGES, division)
    np.testing.assert_array_equal(late.vector, plain.vector)
