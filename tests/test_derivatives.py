"""Derivatives for their own sake: the oracle against differences, the kernels against the oracle and torch."""

import numpy as np
import pytest

import fastmlp
from fastmlp.kernels import calls
from fastmlp.kernels import derivatives as kernels
from fastmlp.oracle import derivatives, losses, network
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS

SIZES, SAMPLES = [3, 5, 4, 2], 6

SMOOTH = [name for name, activation in ACTIVATIONS.items() if not activation.has_seam]


def targets_for(loss, shape, rng):
    """Targets that a loss may have, as columns."""
    if loss == "poisson":
        return rng.poisson(2.0, shape).astype(float)
    if loss == "softmax_cross_entropy":
        return rng.dirichlet(np.ones(shape[0]), shape[1]).T
    return rng.uniform(0, 1, shape)


def case_of(rng, *, hidden="tanh", loss="squared_error", output=None, sizes=SIZES, samples=SAMPLES):
    """Parameters, X, Y as columns, and the settings of the oracle's functions."""
    parameters = [
        network.Parameters(W, rng.standard_normal(b.shape) / 2) for W, b in network.initialize(sizes, rng, "glorot")
    ]
    X, Y = rng.standard_normal((sizes[0], samples)), targets_for(loss, (sizes[-1], samples), rng)
    last = output or losses.LOSSES[loss].output_activation
    return parameters, X, Y, {"activations": [hidden] * (len(sizes) - 2) + [last], "loss": loss}


def loss_of(parameters, X, Y, *, activations, loss, sample_weight=None, penalty=None):
    """Loss with the penalty."""
    forward_pass = network.forward(parameters, X, activations=activations)
    value = network.loss_value(forward_pass, Y, loss=loss, sample_weight=sample_weight)
    return value + (network.penalty_value(parameters, penalty) if penalty else 0.0)


def mlp_of(parameters, *, activations, loss, dtype=np.float64, **settings):
    """The same network as an MLP."""
    sizes = [parameters[0].weights.shape[1], *(len(b) for _, b in parameters)]
    own = losses.LOSSES[loss].output_activation
    output = None if activations[-1] == own else activations[-1]
    mlp = fastmlp.MLP(
        sizes, hidden_activation=activations[:-1] or "sigmoid", output_activation=output, loss=loss, dtype=dtype,
        rng=0, **settings,
    )  # fmt: skip
    mlp.parameters = parameters
    return mlp


def flat(pairs):
    """All of them in one vector."""
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


# ------------------------------------------------------------------------------------------------------------------
# the oracle


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_input_gradient_is_the_central_difference(loss, rng):
    parameters, X, Y, settings = case_of(rng, loss=loss)
    weight = rng.uniform(0.5, 2, SAMPLES)
    gradient = derivatives.input_gradient(parameters, X, Y, sample_weight=weight, **settings)
    step = 1e-6
    for index in np.ndindex(X.shape):
        moved = np.zeros_like(X)
        moved[index] = step
        ahead, behind = (
            loss_of(parameters, X + sign * moved, Y, sample_weight=weight, **settings) for sign in (1, -1)
        )
        assert gradient[index] == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_the_mean_over_samples_is_the_gradient(loss, rng):
    parameters, X, Y, settings = case_of(rng, loss=loss)
    by_sample = derivatives.per_sample_gradients(parameters, X, Y, **settings)
    forward_pass = network.forward(parameters, X, activations=settings["activations"])
    gradients = network.backward(parameters, forward_pass, Y, **settings)
    for (dW, db), (mean_W, mean_b) in zip(by_sample, gradients, strict=True):
        np.testing.assert_allclose(dW.mean(axis=0), mean_W, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(db.mean(axis=0), mean_b, rtol=1e-12, atol=1e-14)
    # and each is the gradient of a network that sees this sample alone
    for n in range(SAMPLES):
        alone = network.forward(parameters, X[:, [n]], activations=settings["activations"])
        of_it = network.backward(parameters, alone, Y[:, [n]], **settings)
        np.testing.assert_allclose(flat([(dW[n], db[n]) for dW, db in by_sample]), flat(of_it), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("output", [*SMOOTH, "exp", "softmax"])
def test_jacobian_is_the_central_difference(output, rng):
    parameters, X, _, settings = case_of(rng, output=output)
    J = derivatives.jacobian(parameters, X, activations=settings["activations"])
    step = 1e-6
    for i in range(X.shape[0]):
        moved = np.zeros_like(X)
        moved[i] = step
        ahead, behind = (
            network.forward(parameters, X + sign * moved, activations=settings["activations"]).activations[-1]
            for sign in (1, -1)
        )
        np.testing.assert_allclose(J[:, :, i], ((ahead - behind) / (2 * step)).T, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", OUTPUT_ACTIVATIONS)
def test_curvature_is_the_derivative_of_the_slope(name, rng):
    z, step = rng.uniform(-3, 3, 200), 1e-6
    z = z[np.abs(z) > 1e-3]  # no derivative at a kink
    activation = OUTPUT_ACTIVATIONS[name]
    ahead, behind = (activation.slope(x, activation.function(x)) for x in (z + step, z - step))
    found = activation.curvature(z, activation.function(z))
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


HESSIANS = {
    **{f"hidden {name}": {"hidden": name} for name in ACTIVATIONS},
    **{f"output {name}": {"output": name} for name in ACTIVATIONS},
    **{loss: {"loss": loss} for loss in losses.LOSSES},
    "one layer": {"sizes": [3, 2]},
    "deep": {"sizes": [3, 4, 3, 5, 4, 2]},
}


@pytest.mark.parametrize("case", HESSIANS.values(), ids=HESSIANS)
def test_hessian_vector_product_is_the_difference_of_gradients(case, rng):
    parameters, X, Y, settings = case_of(rng, **case)
    direction = [network.Parameters(*(rng.standard_normal(part.shape) for part in pair)) for pair in parameters]
    weight, penalty = rng.uniform(0.5, 2, SAMPLES), network.Penalty(l2=0.3, biases=True)
    more = {**settings, "sample_weight": weight, "penalty": penalty}
    product = derivatives.hessian_vector_product(parameters, X, Y, direction, **more)

    def gradient(step):
        moved = [
            network.Parameters(W + step * V, b + step * v)
            for (W, b), (V, v) in zip(parameters, direction, strict=True)
        ]
        forward_pass = network.forward(moved, X, activations=settings["activations"])
        return flat(network.backward(moved, forward_pass, Y, **more))

    step = 1e-6
    expected = (gradient(step) - gradient(-step)) / (2 * step)
    np.testing.assert_allclose(flat(product), expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_hessian_vector_product_with_dropout_holds_the_mask(rng):
    parameters, X, Y, settings = case_of(rng)
    masks = [2.0 * rng.integers(0, 2, (width, SAMPLES)) for width in SIZES[1:-1]]
    direction = [network.Parameters(*(rng.standard_normal(part.shape) for part in pair)) for pair in parameters]
    product = derivatives.hessian_vector_product(parameters, X, Y, direction, masks=masks, **settings)
    step = 1e-6

    def gradient(sign):
        moved = [
            network.Parameters(W + sign * step * V, b + sign * step * v)
            for (W, b), (V, v) in zip(parameters, direction, strict=True)
        ]
        forward_pass = network.forward(moved, X, activations=settings["activations"], masks=masks)
        return flat(network.backward(moved, forward_pass, Y, **settings))

    expected = (gradient(1) - gradient(-1)) / (2 * step)
    np.testing.assert_allclose(flat(product), expected, rtol=0, atol=1e-7 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------------------------
# the kernels


NETWORKS = {
    "the original": {"hidden": "sigmoid", "sizes": [3, 4, 4, 2], "samples": 5},
    "one layer": {"sizes": [3, 2]},
    "several tiles": {"sizes": [19, 37, 70, 5], "samples": 150},
    "a single sample": {"samples": 1},
    "one unit": {"sizes": [1, 1, 1], "samples": 17},
    **{f"hidden {name}": {"hidden": name} for name in ACTIVATIONS},
    **{f"output {name}": {"output": name} for name in SMOOTH},
    **{loss: {"loss": loss, "sizes": [3, 4, 3]} for loss in losses.LOSSES},
}


def assert_close(found, expected, dtype, depth):
    """Apart by the roundings of sums of 100 terms through so many layers, there and back."""
    assert found.dtype == dtype
    bound = 64 * depth * np.finfo(dtype).eps * max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
def test_kernels_compute_what_the_oracle_does(case, n_threads, dtype, rng):
    parameters, X, Y, settings = case_of(rng, **case)
    parameters = [network.Parameters(*(part.astype(dtype).astype(float) for part in pair)) for pair in parameters]
    X, Y = X.astype(dtype).astype(float), Y.astype(dtype).astype(float)
    mlp = mlp_of(parameters, dtype=dtype, n_threads=n_threads, **settings)
    depth, weight = len(parameters), rng.uniform(0.5, 2, X.shape[1])
    expected = derivatives.input_gradient(parameters, X, Y, sample_weight=weight, **settings)
    assert_close(mlp.input_gradient(X.T, Y.T, sample_weight=weight), expected.T, dtype, depth)
    by_sample = derivatives.per_sample_gradients(parameters, X, Y, **settings)
    expected = np.concatenate([part.reshape(X.shape[1], -1) for pair in by_sample for part in pair], axis=1)
    assert_close(mlp.per_sample_gradients(X.T, Y.T), expected, dtype, depth)
    expected = derivatives.jacobian(parameters, X, activations=settings["activations"])
    assert_close(mlp.jacobian(X.T), expected, dtype, depth)
    v = rng.standard_normal(mlp.parameter_vector.size)
    direction = network.split(v.astype(dtype).astype(float), mlp.config["layer_sizes"])
    expected = flat(derivatives.hessian_vector_product(parameters, X, Y, direction, **settings))
    assert_close(mlp.hessian_vector_product(X.T, Y.T, v), expected, dtype, depth)


def test_more_samples_than_fit_into_one_call(dtype, rng):
    mlp = fastmlp.MLP([2, 3, 2], loss="softmax_cross_entropy", dtype=dtype, rng=0)
    X, labels = rng.standard_normal((2500, 2)), rng.integers(0, 2, 2500)
    J, by_sample = mlp.jacobian(X), mlp.per_sample_gradients(X, labels)
    for n in (0, 1023, 1024, 2499):
        np.testing.assert_array_equal(J[n], mlp.jacobian(X[n : n + 1])[0])
        few = mlp.per_sample_gradients(X[n : n + 1], labels[n : n + 1])[0]
        np.testing.assert_allclose(by_sample[n], few, rtol=0, atol=4 * np.finfo(dtype).eps * abs(few).max())
    np.testing.assert_allclose(J.sum(axis=1), 0, atol=8 * np.finfo(dtype).eps)  # probabilities sum to 1


def test_the_same_bits_at_any_number_of_threads(dtype, rng):
    X, Y = rng.standard_normal((300, 20)), rng.standard_normal((300, 3))
    results = []
    for n_threads in (1, 2):
        mlp = fastmlp.MLP([20, 30, 3], dtype=dtype, rng=0, n_threads=n_threads)
        results.append((mlp.input_gradient(X, Y), mlp.jacobian(X), mlp.per_sample_gradients(X, Y)))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_members_of_a_crew_compute_what_one_does_alone(dtype, rng):
    """Each takes its blocks; one opens, one closes. Here they run one after the other."""
    X, Y = rng.standard_normal((100, 5)).astype(dtype), rng.standard_normal((100, 3)).astype(dtype)
    mlp = fastmlp.MLP([5, 6, 3], dtype=dtype, rng=0)
    none, no_order = np.empty(0), np.empty(0, np.int64)
    given = [Y.ravel(), no_order, none]
    for kernel, expected, targets in (
        (kernels.input_gradient, mlp.input_gradient(X, Y), given),
        (kernels.per_sample_gradients, mlp.per_sample_gradients(X, Y), given),
        (kernels.jacobian, mlp.jacobian(X), []),
    ):
        workspace, output = mlp._borrow(100), np.full_like(expected, np.nan)
        workspace.divide(2)
        arguments = (
            workspace.plan, mlp._vector, workspace.arena, workspace.report, X.ravel(), *targets, no_order, 100,
            output.reshape(-1),
        )  # fmt: skip
        for me in (calls.OPENING, 1, 0):
            assert kernel.serial(me, *arguments) == 0
        assert kernel.serial(calls.CLOSING, *arguments) == 0
        np.testing.assert_array_equal(output, expected)


def test_a_loss_of_ones_own(rng):
    def loss(predictions, targets):
        error = predictions - targets
        return float((error**2).mean()), 2 * error / error.size

    mlp, X, Y = fastmlp.MLP([3, 4, 2], loss=loss, rng=0), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    gradient, step = mlp.input_gradient(X, Y), 1e-6
    for index in np.ndindex(X.shape):
        moved = np.zeros_like(X)
        moved[index] = step
        difference = (mlp.loss(X + moved, Y) - mlp.loss(X - moved, Y)) / (2 * step)
        assert gradient[index] == pytest.approx(difference, rel=1e-6, abs=1e-9)
    with pytest.raises(ValueError, match=r"per_sample_gradients .* your own"):
        mlp.per_sample_gradients(X, Y)
    with pytest.raises(ValueError, match=r"hessian_vector_product .* your own"):
        mlp.hessian_vector_product(X, Y, np.ones(26))


def test_what_does_not_fit_is_refused(rng):
    mlp, X, Y = fastmlp.MLP([3, 4, 2], rng=0), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    with pytest.raises(ValueError, match=r"direction must have shape \(26,\); got \(25,\)"):
        mlp.hessian_vector_product(X, Y, np.ones(25))
    with pytest.raises(ValueError, match="X must"):
        mlp.jacobian(X[:, :2])
    X[2, 1] = np.nan
    for call in (mlp.jacobian, lambda X: mlp.input_gradient(X, Y), lambda X: mlp.per_sample_gradients(X, Y)):
        with pytest.raises(ValueError, match=r"X must be finite; got nan at X\[2, 1\]"):
            call(X)


# ------------------------------------------------------------------------------------------------------------------
# torch


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy", "softmax_cross_entropy"])
def test_torch_agrees(loss, rng):
    torch = pytest.importorskip("torch")
    parameters, X, Y, settings = case_of(rng, loss=loss)
    mlp = mlp_of(parameters, **settings)
    rows, wanted = torch.tensor(X.T.copy()), torch.tensor(Y.T.copy())
    sizes = mlp.config["layer_sizes"]

    def pre_activations(vector, x):
        for number, (W, b) in enumerate(split(vector)):
            x = x @ W.T + b
            x = torch.tanh(x) if number < len(sizes) - 2 else x
        return x

    def split(vector):
        start = 0
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            middle, end = start + inputs * outputs, start + (inputs + 1) * outputs
            yield vector[start:middle].reshape(outputs, inputs), vector[middle:end]
            start = end

    def output(vector, x):
        z = pre_activations(vector, x)
        return {"squared_error": lambda: z, "binary_cross_entropy": lambda: torch.sigmoid(z)}.get(
            loss, lambda: torch.softmax(z, -1)
        )()

    def loss_of_one(vector, x, y):
        z = pre_activations(vector, x)
        if loss == "squared_error":
            return ((z - y) ** 2).sum() / 2
        if loss == "binary_cross_entropy":
            return torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum")
        return -(y * torch.log_softmax(z, -1)).sum()

    def mean(vector, x):
        return torch.func.vmap(loss_of_one, (None, 0, 0))(vector, x, wanted).mean()

    theta = torch.tensor(mlp.parameter_vector.copy())
    v = torch.tensor(rng.standard_normal(theta.shape[0]))
    pairs = [
        (mlp.input_gradient(X.T, Y.T), torch.func.grad(mean, 1)(theta, rows)),
        (
            mlp.per_sample_gradients(X.T, Y.T),
            torch.func.vmap(torch.func.grad(loss_of_one), (None, 0, 0))(theta, rows, wanted),
        ),
        (mlp.jacobian(X.T), torch.func.vmap(torch.func.jacrev(output, 1), (None, 0))(theta, rows)),
        (
            mlp.hessian_vector_product(X.T, Y.T, v.numpy()),
            torch.func.jvp(torch.func.grad(lambda t: mean(t, rows)), (theta,), (v,))[1],
        ),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-11, atol=1e-13)
