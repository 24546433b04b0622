"""Optimizers, schedules, penalties and weights as a user meets them; against PyTorch where it is installed."""

import numpy as np
import pytest

import fastmlp
from fastmlp import settings

SIZES = [3, 6, 5, 2]

OPTIMIZERS = {
    "sgd": fastmlp.SGD(0.05),
    "momentum": fastmlp.SGD(0.05, momentum=0.9),
    "nesterov": fastmlp.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": fastmlp.RMSprop(0.01),
    "rmsprop with momentum": fastmlp.RMSprop(0.01, momentum=0.5, decay=0.9),
    "adam": fastmlp.Adam(0.01),
    "adamw": fastmlp.AdamW(0.01, weight_decay=0.1, decay_biases=True),
    "limited": fastmlp.SGD(0.05, momentum=0.9, max_gradient_norm=0.1),
}

LOSSES = {
    "squared_error": "squared_error",
    "absolute_error": "absolute_error",
    "huber": fastmlp.Huber(0.7),
    "quantile": fastmlp.Quantile(0.2),
    "poisson": "poisson",
    "binary_cross_entropy": "binary_cross_entropy",
    "softmax_cross_entropy": fastmlp.SoftmaxCrossEntropy(0.2),
}

HIDDEN = ["sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu"]


def data_for(loss, rng, n_samples=40):
    """Samples, and targets that fit a loss."""
    X = rng.standard_normal((n_samples, SIZES[0]))
    if loss == "poisson":
        return X, rng.poisson(2, (n_samples, SIZES[-1])).astype(float)
    if loss == "binary_cross_entropy":
        return X, rng.integers(0, 2, (n_samples, SIZES[-1])).astype(float)
    if loss == "softmax_cross_entropy":
        return X, rng.integers(0, SIZES[-1], n_samples)
    return X, rng.standard_normal((n_samples, SIZES[-1]))


# ------------------------------------------------------------------------------------------------------------------
# PyTorch


def torch_network(torch, mlp, hidden):
    """The same network there."""
    kinds = {
        "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU,
        "leaky_relu": torch.nn.LeakyReLU, "softplus": torch.nn.Softplus, "silu": torch.nn.SiLU, "gelu": torch.nn.GELU,
    }  # fmt: skip
    layers = []
    for (weights, biases), name in zip(mlp.parameters, [*hidden, None], strict=True):
        linear = torch.nn.Linear(weights.shape[1], weights.shape[0], dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(weights.astype(float)), torch.tensor(biases.astype(float))
        layers += [linear] if name is None else [linear, kinds[name]()]
    return torch.nn.Sequential(*layers)


def torch_loss(torch, loss, Z, Y):
    """The same loss there: the mean over samples of the sum over outputs."""
    F = torch.nn.functional
    each = {
        "squared_error": lambda: 0.5 * (Z - Y) ** 2,
        "absolute_error": lambda: (Z - Y).abs(),
        "huber": lambda: F.huber_loss(Z, Y, delta=0.7, reduction="none"),
        "quantile": lambda: torch.maximum(0.8 * (Z - Y), 0.2 * (Y - Z)),
        "poisson": lambda: F.poisson_nll_loss(Z, Y, log_input=True, reduction="none"),
        "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(Z, Y, reduction="none"),
        "softmax_cross_entropy": lambda: F.cross_entropy(Z, Y, label_smoothing=0.2, reduction="none")[:, None],
    }
    return each[loss]().sum(dim=1).mean()


def torch_optimizer(torch, chosen, parameters):
    """The same optimizer there."""
    if isinstance(chosen, fastmlp.SGD):
        return torch.optim.SGD(parameters, chosen.learning_rate, chosen.momentum, nesterov=chosen.nesterov)
    if isinstance(chosen, fastmlp.RMSprop):
        return torch.optim.RMSprop(
            parameters, chosen.learning_rate, alpha=chosen.decay, eps=chosen.epsilon, momentum=chosen.momentum
        )
    return torch.optim.AdamW(parameters, chosen.learning_rate, weight_decay=chosen.weight_decay)


@pytest.mark.parametrize("n_steps", [1, 100])
@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        *((name, "squared_error") for name in OPTIMIZERS),
        *(("adam", name) for name in LOSSES if name != "squared_error"),
    ],
)
def test_steps_are_pytorchs(optimizer, loss, n_steps, rng):
    """In float64, to rounding: what is left after a hundred steps is how far roundings have grown."""
    torch = pytest.importorskip("torch")
    hidden = [str(name) for name in rng.choice(HIDDEN, len(SIZES) - 2)]
    mlp = fastmlp.MLP(SIZES, hidden_activation=hidden, loss=LOSSES[loss], rng=1)
    network, chosen = torch_network(torch, mlp, hidden), OPTIMIZERS[optimizer]
    theirs = torch_optimizer(torch, chosen, network.parameters())
    X, Y = data_for(loss, rng)
    for _ in range(n_steps):
        theirs.zero_grad()
        value = torch_loss(torch, loss, network(torch.tensor(X)), torch.tensor(Y))
        value.backward()
        if chosen.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), chosen.max_gradient_norm)
        theirs.step()
        assert mlp.train_step(X, Y, optimizer=chosen) == pytest.approx(value.item(), rel=1e-6)
    # PyTorch limits a norm to 1e-6 less
    tolerance = 1e-4 if chosen.max_gradient_norm else 1e-12 if n_steps == 1 else 1e-7
    found = np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])
    np.testing.assert_allclose(mlp.parameter_vector, found, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------------------
# schedules


def test_a_schedule_gives_each_step_its_rate(rng, dtype):
    """Many steps in one call of fit are the steps one by one, at the rates of the schedule."""
    X, Y = data_for("squared_error", rng)
    schedule = fastmlp.WarmUp(fastmlp.CosineDecay(0.1, n_steps=12, final=0.01), n_steps=3)
    fitted, stepped = (fastmlp.MLP(SIZES, dtype=dtype, rng=1) for _ in range(2))
    history = fitted.fit(
        X, Y, epochs=3, batch_size=8, learning_rate=schedule, optimizer="sgd", shuffle=False, progress=False
    )
    for step in range(15):
        part = slice(step % 5 * 8, step % 5 * 8 + 8)
        stepped.train_step(X[part], Y[part], learning_rate=schedule(step))
    np.testing.assert_array_equal(fitted.parameter_vector, stepped.parameter_vector)
    assert history.learning_rate == [schedule(4), schedule(9), schedule(14)]


def test_a_schedule_is_any_function_and_its_rates_are_checked(rng):
    X, Y = data_for("squared_error", rng)
    mlp = fastmlp.MLP(SIZES, rng=1)
    before = mlp.parameter_vector.copy()
    mlp.train_step(X, Y, learning_rate=lambda _: 0.0)
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    for rate in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="learning_rate must be a finite number at least 0; got"):
            mlp.train_step(X, Y, learning_rate=lambda _, rate=rate: rate)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def test_a_plateau_reduces_the_rate(rng):
    """Targets that cannot be learned, and a rate that is too high: the loss stays, the rate falls to the least."""
    X, Y = rng.standard_normal((16, 3)), rng.standard_normal((16, 2))
    rate = fastmlp.ReduceOnPlateau(0.5, factor=0.1, patience=2, minimum_gain=1e9, least=0.004)
    mlp = fastmlp.MLP([3, 2], rng=1)
    history = mlp.fit(X, Y, epochs=8, batch_size=None, optimizer=fastmlp.SGD(rate), progress=False)
    np.testing.assert_allclose(history.learning_rate, [0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.004])


# ------------------------------------------------------------------------------------------------------------------
# penalties, weights, limits


@pytest.mark.parametrize("biases", [False, True])
def test_a_penalty_is_part_of_the_loss_and_of_its_gradient(biases, rng, dtype):
    X, Y = data_for("squared_error", rng)
    plain = fastmlp.MLP(SIZES, dtype=dtype, rng=1)
    penalty = fastmlp.Penalty(l1=0.01, l2=0.3, biases=biases)
    penalized = fastmlp.MLP(SIZES, penalty=penalty, dtype=dtype, rng=1)
    for mlp in (plain, penalized):
        mlp.parameter_vector = np.linspace(-1, 1, mlp.parameter_vector.size)
    parts = [part for W, b in plain.parameters for part in ([W, b] if biases else [W])]
    value = sum(0.01 * abs(part).sum() + 0.15 * (part**2).sum() for part in parts)
    close = 1e-12 if dtype == np.float64 else 1e-4
    loss, gradients = penalized.loss_and_gradients(X, Y)
    without, plain_gradients = plain.loss_and_gradients(X, Y)
    assert loss == pytest.approx(without + value, rel=close)
    assert penalized.loss(X, Y) == pytest.approx(loss, rel=close)
    assert penalized.train_step(X, Y, learning_rate=1e-9) == pytest.approx(loss, rel=close)
    for (dW, db), (plain_dW, plain_db), (W, b) in zip(gradients, plain_gradients, plain.parameters, strict=True):
        np.testing.assert_allclose(dW, plain_dW + 0.01 * np.sign(W) + 0.3 * W, atol=close)
        np.testing.assert_allclose(db, plain_db + (0.01 * np.sign(b) + 0.3 * b if biases else 0), atol=close)
    assert penalized.verify(X, Y).ok
    penalized.forward(X)
    np.testing.assert_allclose(penalized.backward(Y).vector, penalized.loss_and_gradients(X, Y)[1].vector)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_a_penalty_divided_by_samples_counts_once_in_the_sum_of_their_losses(loss, rng):
    """In every batch it is the plain penalty divided by the samples of that batch, or by their weights."""
    n_samples = 2500  # more than are looked at in one go
    X, Y = data_for(loss, rng, n_samples)
    weights = rng.uniform(0.5, 2, n_samples)
    whole, part = fastmlp.Penalty(3, 5, biases=True, divided_by_samples=True), fastmlp.Penalty(3, 5, biases=True)
    for some, kwargs in [(2500, {}), (7, {}), (2500, {"sample_weight": weights})]:
        total = kwargs["sample_weight"].sum() if kwargs else some
        divided = fastmlp.MLP(SIZES, loss=loss, penalty=whole, rng=1)
        plain = fastmlp.MLP(SIZES, loss=loss, penalty=fastmlp.Penalty(3 / total, 5 / total, biases=True), rng=1)
        data = X[:some], Y[:some]
        value, gradients = divided.loss_and_gradients(*data, **kwargs)
        expected, expected_gradients = plain.loss_and_gradients(*data, **kwargs)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradients.vector, expected_gradients.vector, atol=1e-13)
        assert divided.loss(*data, **kwargs) == pytest.approx(expected, rel=1e-12)
        along = np.ones_like(gradients.vector)
        product, expected = (m.hessian_vector_product(*data, along, **kwargs) for m in (divided, plain))
        np.testing.assert_allclose(product, expected, atol=1e-12)
    assert divided.verify(X[:9], Y[:9]).ok
    # the last minibatch has fewer samples than the others, so the penalty counts more there
    fitted, expected = (fastmlp.MLP(SIZES, loss=loss, penalty=p, rng=1) for p in (whole, part))
    fitted.fit(X[:10], Y[:10], batch_size=4, epochs=1, shuffle=False, optimizer="sgd", progress=False)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        n = rows.stop - rows.start
        step = fastmlp.MLP(SIZES, loss=loss, penalty=fastmlp.Penalty(3 / n, 5 / n, biases=True), rng=1)
        step.parameter_vector = expected.parameter_vector
        step.train_step(X[rows], Y[rows], optimizer="sgd")
        expected.parameter_vector = step.parameter_vector
    np.testing.assert_allclose(fitted.parameter_vector, expected.parameter_vector, atol=1e-14)


def test_adams_epsilon_may_come_before_the_correction(rng, dtype):
    """The second form of the rule, at the end of section 2 of Kingma & Ba."""
    X, Y = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    mlp = fastmlp.MLP([3, 2], dtype=dtype, rng=1)
    w = mlp.parameter_vector.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    optimizer = fastmlp.Adam(0.1, beta1=0.8, beta2=0.9, epsilon=0.01, epsilon_first=True)
    for t in range(1, 5):
        g = mlp.loss_and_gradients(X, Y)[1].vector.astype(np.float64)
        mlp.train_step(X, Y, optimizer=optimizer)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w = w - 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(mlp.parameter_vector, w, atol=1e-14 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_is_how_often_a_sample_counts(loss, rng):
    """Whole weights are the sample again and again; 0 is the sample left out; the mean is over the weights."""
    X, Y = data_for(loss, rng, 12)
    weights = rng.integers(0, 4, 12)
    again = np.repeat(np.arange(12), weights)
    mlp = fastmlp.MLP(SIZES, loss=LOSSES[loss], rng=1)
    value, gradients = mlp.loss_and_gradients(X, Y, sample_weight=weights)
    expected, expected_gradients = mlp.loss_and_gradients(X[again], Y[again])
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(gradients.vector, expected_gradients.vector, atol=1e-14)
    assert mlp.loss(X, Y, sample_weight=weights) == pytest.approx(expected, rel=1e-13)
    assert mlp.verify(X, Y, sample_weight=weights).ok
    assert mlp.objective(X, Y, sample_weight=weights)(mlp.parameter_vector)[0] == pytest.approx(expected, rel=1e-13)
    copies = [fastmlp.MLP(SIZES, loss=LOSSES[loss], rng=1) for _ in range(2)]
    one = copies[0].train_step(X, Y, sample_weight=weights, learning_rate=0.1)
    two = copies[1].train_step(X[again], Y[again], learning_rate=0.1)
    assert one == pytest.approx(two, rel=1e-13)
    np.testing.assert_allclose(copies[0].parameter_vector, copies[1].parameter_vector, atol=1e-14)


@pytest.mark.parametrize("kind", ["labels", "one-hot", "binary"])
def test_class_weights_are_weights_of_samples(kind, rng):
    X, labels = rng.standard_normal((30, 3)), np.repeat([0, 1, 1], 10)
    loss, outputs = ("binary_cross_entropy", 1) if kind == "binary" else ("softmax_cross_entropy", 2)
    Y = {"labels": labels, "one-hot": np.eye(2)[labels], "binary": labels}[kind]
    fitted, expected = (fastmlp.MLP([3, outputs], loss=loss, rng=1) for _ in range(2))
    more = {"epochs": 2, "batch_size": 7, "progress": False}
    own = rng.uniform(0.5, 2, 30)
    history = fitted.fit(X, Y, class_weight="balanced", sample_weight=own, **more)
    balanced = np.where(labels == 0, 30 / (2 * 10), 30 / (2 * 20)) * own
    other = expected.fit(X, Y, sample_weight=balanced, **more)
    np.testing.assert_array_equal(fitted.parameter_vector, expected.parameter_vector)
    assert history.loss == other.loss
    fitted.fit(X, Y, class_weight={1: 0.25}, **more)
    expected.fit(X, Y, sample_weight=np.where(labels == 1, 0.25, 1.0), **more)
    np.testing.assert_array_equal(fitted.parameter_vector, expected.parameter_vector)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"sample_weight": np.ones(5)}, ValueError, r"sample_weight must have shape \(6,\), one for each sample; got"),
        ({"sample_weight": [-1, 1, 1, 1, 1, 1]}, ValueError, "sample_weight must be at least 0, .*; got -1"),
        ({"sample_weight": np.zeros(6)}, ValueError, "zero everywhere"),
        ({"sample_weight": [np.nan] * 6}, ValueError, r"sample_weight must be finite; got nan at sample_weight\[0\]"),
        ({"class_weight": "even"}, TypeError, "class_weight must be 'balanced' or a mapping"),
        ({"class_weight": {2: 1.0}}, ValueError, r"class_weight must name classes that are there, \[0, 1\]; got 2"),
        ({"class_weight": {0: -1.0}}, ValueError, "class_weight must hold finite numbers"),
    ],
)
def test_weights_are_checked(given, error, words, rng):
    mlp = fastmlp.MLP([3, 2], loss="softmax_cross_entropy", rng=1)
    before = mlp.parameter_vector.copy()
    with pytest.raises(error, match=words):
        mlp.fit(rng.standard_normal((6, 3)), [0, 1, 0, 1, 0, 1], progress=False, **given)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


def test_class_weights_need_classes(rng):
    X = rng.standard_normal((6, 3))
    with pytest.raises(ValueError, match="class_weight needs targets of which each sample's one class can be told"):
        fastmlp.MLP([3, 2], rng=1).fit(X, X[:, :2], class_weight="balanced", progress=False)


@pytest.mark.parametrize("way", ["fit", "update"])
def test_a_gradient_whose_square_is_beyond_float32_is_limited_too(way):
    mlp, optimizer = (
        fastmlp.MLP([1, 1], dtype="float32", loss="absolute_error", rng=0),
        fastmlp.SGD(1.0, max_gradient_norm=1.0),
    )
    mlp.parameters = [([[0.0]], [0.0])]
    if way == "fit":
        history = mlp.fit([[1e20]], [[1.0]], epochs=1, optimizer=optimizer, progress=False)
        assert history.gradient_norm == [pytest.approx(1e20)]
    else:
        mlp.update(np.array([-1e20, 0], np.float32), optimizer)
    assert mlp.parameter_vector[0] == pytest.approx(1)


def test_a_gradient_is_limited_and_the_history_tells_what_it_was(rng):
    X, Y = data_for("squared_error", rng)
    mlp = fastmlp.MLP(SIZES, rng=1)
    norm = np.linalg.norm(mlp.loss_and_gradients(X, Y)[1].vector)
    before = mlp.parameter_vector.copy()
    history = mlp.fit(
        X, Y, epochs=1, batch_size=None, optimizer=fastmlp.SGD(1.0, max_gradient_norm=norm / 4), progress=False
    )
    assert np.linalg.norm(mlp.parameter_vector - before) == pytest.approx(norm / 4)
    assert history.gradient_norm[0] == pytest.approx(norm)
    norm = np.linalg.norm(mlp.loss_and_gradients(X, Y)[1].vector)  # and nothing of the limit is left behind
    assert mlp.fit(X, Y, epochs=1, batch_size=None, optimizer="sgd", progress=False).gradient_norm == [
        pytest.approx(norm)
    ]


# ------------------------------------------------------------------------------------------------------------------
# a loss of one's own


def fourth_power(predictions, targets):
    """A quarter of the fourth power of the error."""
    error = predictions - targets
    return 0.25 * float(np.mean((error**4).sum(axis=1))), error**3 / len(error)


def half_square(predictions, targets):
    """What ``squared_error`` is."""
    error = predictions - targets
    return 0.5 * float(np.mean((error**2).sum(axis=1))), error / len(error)


def test_a_loss_of_ones_own_trains_as_the_built_in_one(rng, dtype):
    X, Y = data_for("squared_error", rng)
    own, built_in = (fastmlp.MLP(SIZES, loss=loss, penalty=fastmlp.Penalty(l2=0.1), dtype=dtype, rng=1)
                     for loss in (half_square, "squared_error"))  # fmt: skip
    close = {"rtol": 1e-10, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-3, "atol": 1e-4}
    assert own.loss(X, Y) == pytest.approx(built_in.loss(X, Y), rel=1e-5)
    histories = [mlp.fit(X, Y, epochs=3, batch_size=16, validation=0.25, metrics="r2", progress=False)
                 for mlp in (own, built_in)]  # fmt: skip
    np.testing.assert_allclose(own.parameter_vector, built_in.parameter_vector, **close)
    for name in ("loss", "validation_loss", "gradient_norm"):
        np.testing.assert_allclose(*(getattr(history, name) for history in histories), rtol=1e-3)
    own.forward(X)
    np.testing.assert_allclose(own.backward(Y).vector, own.loss_and_gradients(X, Y)[1].vector)
    assert own.train_step(X, Y, learning_rate=0.1) == pytest.approx(
        built_in.train_step(X, Y, learning_rate=0.1), rel=1e-3
    )


def test_a_loss_of_ones_own_is_verified(rng):
    X, Y = data_for("squared_error", rng)
    assert fastmlp.MLP(SIZES, loss=fourth_power, rng=1).verify(X, Y).ok
    wrong = fastmlp.MLP(SIZES, loss=lambda A, Y: (fourth_power(A, Y)[0], 1.01 * fourth_power(A, Y)[1]), rng=1)
    assert not wrong.verify(X, Y).ok


def test_a_loss_of_ones_own_of_a_positive_output(rng, dtype):
    """The deviance of the gamma distribution, with the output that is else poisson's."""

    def gamma(A, Y):
        return float(np.mean((Y / A + np.log(A)).sum(axis=1))), (1 / A - Y / A**2) / len(A)

    X, Y = rng.standard_normal((40, 3)), rng.gamma(3, size=(40, 2))
    mlp = fastmlp.MLP(SIZES, loss=gamma, output_activation="exp", dtype=dtype, rng=1)
    report = mlp.verify(X, Y)
    assert report.ok, report
    history = mlp.fit(X, Y, epochs=20, learning_rate=0.01, progress=False)
    assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda A, Y: 0.0, TypeError, r"your loss must return \(loss, gradient\)"),
        (lambda A, Y: (0.0, A[:1]), ValueError, "must have the predictions' shape"),
        (lambda A, Y: ("much", A), TypeError, r"your loss must return \(loss, gradient\)"),
        (lambda A, Y: (0.0, A * np.nan), ValueError, "must be finite"),
    ],
    ids=["no pair", "another shape", "no number", "not finite"],
)
def test_what_a_loss_of_ones_own_returns_is_checked(loss, error, words, rng):
    X, Y = data_for("squared_error", rng)
    mlp = fastmlp.MLP(SIZES, loss=loss, rng=1)
    before = mlp.parameter_vector.copy()
    with pytest.raises(error, match=words):
        mlp.train_step(X, Y, learning_rate=0.1)
    np.testing.assert_array_equal(mlp.parameter_vector, before)


@pytest.mark.filterwarnings("ignore:training stopped:RuntimeWarning")
def test_a_loss_of_ones_own_that_is_not_finite_stops(rng):
    X, Y = data_for("squared_error", rng)
    mlp = fastmlp.MLP(SIZES, loss=lambda A, Y: (np.inf, A), rng=1)
    with pytest.raises(FloatingPointError, match="not finite"):
        mlp.train_step(X, Y, learning_rate=0.1)
    assert "not finite at step 1" in mlp.fit(X, Y, progress=False).stopped
    with pytest.raises(ValueError, match="sample_weight and class_weight must be None beside a loss of your own"):
        mlp.loss(X, Y, sample_weight=np.ones(40))


# ------------------------------------------------------------------------------------------------------------------
# settings at the door


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fastmlp.Huber(0), "threshold must be a finite number above 0; got 0"),
        (lambda: fastmlp.Quantile(1), "q must be a finite number above 0 and below 1; got 1"),
        (lambda: fastmlp.SoftmaxCrossEntropy(1.0), "label_smoothing must be .* below 1; got 1.0"),
        (
            lambda: fastmlp.MLP(
                SIZES, loss=lambda A, Y: (0.0, A), penalty=fastmlp.Penalty(1, divided_by_samples=True)
            ),
            "penalty must not be divided by samples beside a loss of your own",
        ),
        (lambda: fastmlp.Penalty(l1=-1), "l1 must be a finite number at least 0; got -1"),
        (lambda: fastmlp.SGD(nesterov=True), "momentum must be above 0 with nesterov=True"),
        (lambda: fastmlp.SGD(weight_decay=-1), "weight_decay must be"),
        (lambda: fastmlp.Adam(max_gradient_norm=0), "max_gradient_norm must be a finite number above 0; got 0"),
        (lambda: fastmlp.RMSprop(epsilon=0), "epsilon must be"),
        (lambda: fastmlp.StepDecay(0.1, every=0), "every must be"),
        (lambda: fastmlp.CosineDecay(0.0, 10), "learning_rate must be"),
        (lambda: fastmlp.WarmUp(0.1, 0), "n_steps must be"),
        (lambda: fastmlp.ReduceOnPlateau(0.1, factor=1), "factor must be"),
        (lambda: fastmlp.EarlyStopping(patience=0), "patience must be"),
        (lambda: fastmlp.Checkpoint("x", every_epochs=0), "every_epochs must be"),
        (lambda: fastmlp.MLP([1, 1], loss="none"), "loss must be one of squared_error, .*; got 'none'"),
    ],
)
def test_wrong_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


COUNTED = {
    "StepDecay": (lambda: fastmlp.StepDecay(0.1, every=2.5), "every"),
    "CosineDecay": (lambda: fastmlp.CosineDecay(0.1, 10.5), "n_steps"),
    "WarmUp": (lambda: fastmlp.WarmUp(0.1, 1.5), "n_steps"),
    "ReduceOnPlateau": (lambda: fastmlp.ReduceOnPlateau(0.1, patience=2.5), "patience"),
    "EarlyStopping": (lambda: fastmlp.EarlyStopping(patience=2.5), "patience"),
    "Checkpoint": (lambda: fastmlp.Checkpoint("x", every_epochs=1.5), "every_epochs"),
}


@pytest.mark.parametrize(("make", "name"), COUNTED.values(), ids=COUNTED)
def test_what_is_counted_is_a_whole_number(make, name):
    with pytest.raises(TypeError, match=rf"{name} must be a whole number of at least 1; got \d+\.5"):
        make()


def test_a_schedule_that_returns_no_number_is_told_with_its_step():
    mlp = fastmlp.MLP([1, 1], rng=0)
    with pytest.raises(ValueError, match="learning_rate must be a finite number at least 0; got 'slow' at step 0"):
        mlp.train_step([[1.0]], [[1.0]], learning_rate=lambda step: "slow")


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastmlp.SGD(learning_rate="high"),
        lambda: fastmlp.Penalty(biases=1),
        lambda: fastmlp.Penalty(divided_by_samples=1),
        lambda: fastmlp.Adam(epsilon_first=1),
        lambda: fastmlp.Checkpoint(3),
        lambda: fastmlp.MLP([1, 1], loss=3),
        lambda: fastmlp.MLP([1, 1], loss=fastmlp.Huber),
        lambda: fastmlp.MLP([1, 1], penalty=0.1),
    ],
    ids=["rate", "flag", "divided", "epsilon", "path", "number", "class", "penalty"],
)
def test_wrong_kinds_are_refused(make):
    with pytest.raises(TypeError, match="must be"):
        make()


def test_names_are_the_objects_with_their_defaults():
    for name, kind in settings.OPTIMIZERS.items():
        assert settings.as_optimizer(name, None) == kind()
        assert settings.as_optimizer(name, 0.5) == kind(learning_rate=0.5)
    poisson = fastmlp.MLP([3, 2], loss="poisson", rng=1)
    assert (poisson.predict(np.ones((4, 3))) > 0).all()
    with pytest.raises(ValueError, match="Y must be counts, at least 0, for poisson; got -1"):
        poisson.loss(np.ones((1, 3)), [[1, -1]])


def test_lbfgs_drives_the_network(rng):
    """Any optimizer of SciPy does."""
    optimize = pytest.importorskip("scipy.optimize")
    X = rng.uniform(-1, 1, (60, 2))
    mlp = fastmlp.MLP([2, 8, 1], hidden_activation="tanh", penalty=fastmlp.Penalty(l2=1e-6), rng=1)
    f = mlp.objective(X, X[:, :1] * X[:, 1:])
    result = optimize.minimize(f, mlp.parameter_vector, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    start = mlp.loss(X, X[:, :1] * X[:, 1:])
    mlp.parameter_vector = result.x
    assert mlp.loss(X, X[:, :1] * X[:, 1:]) < 0.01 * start
