"""Dropout: the generator is the published one, and a mask depends on seed, step, layer, unit and sample alone."""

import numpy as np
import pytest

import fastmlp
from fastmlp import verify
from fastmlp.kernels import simd
from fastmlp.oracle import dropout, network

SIZES = [4, 9, 6, 2]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)  # fmt: skip
def test_the_generator_gives_the_published_words(counter, key, expected):
    """The known answers that Philox4x32-10 was published with."""
    words = dropout.philox(tuple(np.array(word, np.uint64) for word in counter), *key)
    assert tuple(int(word) for word in words) == expected


def test_the_interpreted_vectors_have_the_same_words(dtype):
    """The compiled ones are compared with the oracle by ``test_twins.py``."""
    A = np.zeros(8, dtype)
    counter = 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344
    words = simd.random_words(A, *counter, 0xA4093822, 0x299F31D0, -1)
    assert [int(word[0]) for word in words] == [0xD16CFE, 0x94FDCC, 0x5001E4, 0x24126E]


def test_a_mask_drops_its_part_and_keeps_the_mean():
    for rate in (0.1, 0.5, 0.9):
        m = dropout.mask(round(rate * dropout.WORDS), 1, 2, 3, 0, 400, 500)
        deviation = np.sqrt(rate * (1 - rate) / m.size)
        assert abs((m == 0).mean() - rate) < 5 * deviation
        assert m.max() == pytest.approx(1 / (1 - rate))
        assert abs(m.mean() - 1) < 5 * deviation / (1 - rate)


def test_masks_of_other_seeds_steps_layers_units_and_samples_are_others():
    given = (dropout.WORDS // 2, 1, 2, 3, 0)
    m = dropout.mask(*given, 64, 64)
    for k in range(1, 5):
        changed = list(given)
        changed[k] += 1
        assert 0.4 < (dropout.mask(*changed, 64, 64) != m).mean() < 0.6
    rows, columns = {tuple(row) for row in m}, {tuple(column) for column in m.T}
    assert len(rows) == len(columns) == 64
    np.testing.assert_array_equal(dropout.mask(*given, 7, 5), m[:7, :5])


@pytest.mark.parametrize("batch", [5, 300])
def test_a_step_is_the_oracles_step_with_its_masks(batch, dtype, rng):
    mlp = fastmlp.MLP(SIZES, hidden_activation=["gelu", "tanh"], dropout=[0.5, 0.2], dtype=dtype, rng=3)
    X, Y = rng.standard_normal((batch, 4)).astype(dtype), rng.standard_normal((batch, 2)).astype(dtype)
    for step in range(3):
        parameters = [network.Parameters(W.astype(float), b.astype(float)) for W, b in mlp.parameters]
        masks = mlp._masks(step, batch)
        passed = network.forward(parameters, X.T.astype(float), activations=mlp._activations, masks=masks)
        gradients = network.backward(parameters, passed, Y.T.astype(float), activations=mlp._activations)
        loss = mlp.train_step(X, Y, learning_rate=0.1)
        assert loss == pytest.approx(
            network.loss_value(passed, Y.T.astype(float)), rel=1e-4 if dtype == "f4" else 1e-12
        )
        for found, before, gradient in zip(mlp.parameters, parameters, gradients, strict=True):
            for f, p, g in zip(found, before, gradient, strict=True):
                np.testing.assert_allclose(f, p - 0.1 * g, atol=1e-5 if dtype == "f4" else 1e-14)


def test_dropout_is_verified_with_its_mask_held_fast(dtype, rng):
    mlp = fastmlp.MLP(SIZES, hidden_activation="silu", dropout=0.5, dtype=dtype, rng=3, verify=True)
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    assert mlp.verify(X, Y).ok
    mlp.fit(X, Y, epochs=2, batch_size=7, progress=False)
    report = mlp.verify(X, Y)
    assert report.ok, report
    parameters = [network.Parameters(W, b) for W, b in mlp.parameters]
    gradients = network.backward(parameters, network.forward(parameters, X.T), Y.T)
    other = verify.check(
        parameters, X.T, Y.T, masks=mlp._masks(0, 20), computed=verify.Computed(gradients, np.dtype(dtype))
    )
    assert not other.ok  # the gradient without the mask is another


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [(SIZES, 300), ([4, 41, 50, 2], 64), ([4, 500, 300, 2], 7)],
    ids=["one group", "two groups", "stages"],
)
def test_the_same_bits_at_any_number_of_threads_and_in_any_call(sizes, batch, dtype, rng):
    """Where gradients are summed by groups of samples, these lie apart if there are several threads.

    And in a step on a few samples, threads share the units of a layer.
    """
    count = 7 * batch // 3
    X, Y = rng.standard_normal((count, 4)).astype(dtype), rng.standard_normal((count, 2)).astype(dtype)
    results = []
    for n_threads in (1, 2, 1):
        mlp = fastmlp.MLP(sizes, dropout=0.3, dtype=dtype, rng=3, n_threads=n_threads)
        if len(results) < 2:
            mlp.fit(
                X, Y, epochs=2, batch_size=batch, optimizer="sgd", learning_rate=0.1, shuffle=False, progress=False
            )
        else:
            for _ in range(2):
                for start in range(0, count, batch):
                    part = slice(start, start + batch)
                    mlp.train_step(X[part], Y[part], learning_rate=0.1)
        results.append(mlp.parameter_vector)
    for found in results[1:]:
        np.testing.assert_array_equal(found, results[0])
    other = fastmlp.MLP(sizes, dropout=0.3, dtype=dtype, rng=4, n_threads=1)
    assert other._objective.key != mlp._objective.key


def test_nothing_is_dropped_but_in_training(rng):
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    whole, dropped = (fastmlp.MLP(SIZES, dropout=rate, rng=3) for rate in (0.0, 0.5))
    np.testing.assert_array_equal(dropped.predict(X), whole.predict(X))
    np.testing.assert_array_equal(dropped.forward(X), whole.forward(X))
    assert dropped.loss(X, Y) == whole.loss(X, Y)
    np.testing.assert_array_equal(dropped.loss_and_gradients(X, Y)[1].vector, whole.loss_and_gradients(X, Y)[1].vector)
    np.testing.assert_array_equal(dropped.backward(Y).vector, whole.backward(Y).vector)
    assert dropped.train_step(X, Y, learning_rate=0.1) != whole.train_step(X, Y, learning_rate=0.1)


def test_a_loss_of_ones_own_drops_the_same_units(rng):
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    half_square = lambda A, Y: (0.5 * float(((A - Y) ** 2).sum()) / len(A), (A - Y) / len(A))  # noqa: E731
    own, built_in = (fastmlp.MLP(SIZES, loss=loss, dropout=0.4, rng=3) for loss in (half_square, "squared_error"))
    for mlp in (own, built_in):
        mlp.fit(X, Y, epochs=2, batch_size=8, progress=False)
    np.testing.assert_allclose(own.parameter_vector, built_in.parameter_vector, atol=1e-13)


@pytest.mark.parametrize("dropout", [1.0, -0.1, [0.5], [0.5, 0.5, 0.5], [0.5, 1.5], "half", None])
def test_dropout_is_checked(dropout):
    with pytest.raises((TypeError, ValueError), match="dropout"):
        fastmlp.MLP(SIZES, dropout=dropout)


@pytest.mark.parametrize("rate", [1 - 1e-9, [0.1, 1 - 1e-9]])
def test_some_units_are_left(rate):
    with pytest.raises(ValueError, match=r"dropout.* must be at most 1 - 2\^-24"):
        fastmlp.MLP([3, 4, 4, 2], dropout=rate)
