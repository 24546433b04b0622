"""Networks for other runtimes, and from other frameworks: the same predictions."""

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastmlp.torch import from_state_dict, to_state_dict

LOSSES = ["squared_error", "poisson", "binary_cross_entropy", "softmax_cross_entropy"]


def network(rng, dtype, **settings):
    """A network whose biases and pre-activations are not small: all parts of its activations are met."""
    mlp = fastmlp.MLP([5, 17, 9, 3], dtype=dtype, rng=1, weight_scale=1.0, **settings)
    mlp.parameter_vector = rng.standard_normal(mlp.parameter_vector.size)
    return mlp


def run_onnx(model, X):
    """Predict by onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X})[0]


def assert_onnx(mlp, X):
    onnx = pytest.importorskip("onnx")
    model = pytest.importorskip("fastmlp.onnx").to_onnx(mlp)
    onnx.checker.check_model(model)
    expected = mlp.predict(X)
    for rows in (X, X[:1]):
        found = run_onnx(model, rows)
        assert found.dtype == X.dtype
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected[: len(rows)], atol=1e-6 * scale)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_onnx_of_every_activation(activation, dtype, rng):
    X = rng.standard_normal((40, 5)).astype(dtype)
    assert_onnx(network(rng, dtype, hidden_activation=activation), X)


@pytest.mark.parametrize("loss", LOSSES)
def test_onnx_of_every_output(loss, dtype, rng):
    X = rng.standard_normal((40, 5)).astype(dtype) / 4
    assert_onnx(network(rng, dtype, hidden_activation="tanh", loss=loss), X)


@pytest.mark.parametrize("activation", OUTPUT_ACTIVATIONS)
def test_onnx_has_every_output_activation(activation):
    pytest.importorskip("onnx")
    assert activation in pytest.importorskip("fastmlp.onnx")._ACTIVATIONS


def test_an_activation_without_nodes_is_named(monkeypatch):
    pytest.importorskip("onnx")
    exporting = pytest.importorskip("fastmlp.onnx")
    monkeypatch.delitem(exporting._ACTIVATIONS, "tanh")
    with pytest.raises(ValueError, match=r"mlp must have activations that are written down in .*; got tanh"):
        exporting.to_onnx(fastmlp.MLP([2, 3, 1], hidden_activation="tanh", rng=0))


def test_onnx_files(tmp_path, rng):
    onnx = pytest.importorskip("onnx")
    mlp = fastmlp.MLP([2, 3], dtype="float32", rng=0)
    model = pytest.importorskip("fastmlp.onnx").to_onnx(mlp, tmp_path / "model.onnx")
    assert onnx.load(str(tmp_path / "model.onnx")) == model
    X = rng.standard_normal((4, 2)).astype(np.float32)
    np.testing.assert_allclose(run_onnx(model, X), mlp.predict(X), atol=1e-6)


def test_state_dicts_come_and_go(dtype, rng):
    mlp = network(rng, dtype, hidden_activation="relu")
    arrays = to_state_dict(mlp)
    assert list(arrays) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    same = from_state_dict(arrays, hidden_activation="relu")
    np.testing.assert_array_equal(same.parameter_vector, mlp.parameter_vector)
    assert same.config["dtype"] == dtype
    arrays["0.weight"][:] = 0  # copies
    np.testing.assert_array_equal(same.parameter_vector, mlp.parameter_vector)
    others = {f"model.layers.{3 * int(key[0])}{key[1:]}": array for key, array in reversed(to_state_dict(mlp).items())}
    np.testing.assert_array_equal(from_state_dict(others).parameter_vector, mlp.parameter_vector)


@pytest.mark.skipif(INTERPRETED, reason="nothing of it is compiled")
@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "Softplus", "SiLU", "GELU"])
def test_torch_predicts_the_same(name, rng):
    torch = pytest.importorskip("torch")
    ours = {"ReLU": "relu", "LeakyReLU": "leaky_relu"}.get(name, name.lower())
    activation = getattr(torch.nn, name)
    linear = torch.nn.Linear
    model = torch.nn.Sequential(linear(5, 8), activation(), torch.nn.Dropout(), linear(8, 3)).eval()
    X = rng.standard_normal((20, 5)).astype(np.float32)
    expected = model(torch.from_numpy(X)).detach().numpy()
    mlp = from_state_dict(model.state_dict(), hidden_activation=ours)
    np.testing.assert_allclose(mlp.predict(X), expected, atol=1e-5)
    back = torch.nn.Sequential(linear(5, 8), activation(), linear(8, 3))
    back.load_state_dict({key: torch.from_numpy(array) for key, array in to_state_dict(mlp).items()})
    np.testing.assert_allclose(back(torch.from_numpy(X)).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("state_dict", "error", "message"),
    [
        ([1, 2], TypeError, "state_dict must be a mapping"),
        ({0: np.ones((2, 3))}, ValueError, "must hold <number>.weight"),
        ({}, ValueError, "must hold a linear layer"),
        ({"0.weight": np.ones((2, 3))}, ValueError, "must hold weights"),
        ({"0.weight": np.ones((2, 3)), "0.bias": np.ones(3)}, ValueError, "must hold weights"),
        ({"0.weight": np.ones((2, 3, 3, 3)), "0.bias": np.ones(2)}, ValueError, "must hold weights"),
        ({"0.weight": np.ones((2, 3)), "1.running_mean": np.ones(2)}, ValueError, "running_mean"),
        ({"a.0.weight": np.ones((2, 3)), "b.0.bias": np.ones(2)}, ValueError, "must be of one nn.Sequential"),
        (
            {"0.weight": np.ones((2, 3)), "0.bias": np.ones(2), "2.weight": np.ones((1, 5)), "2.bias": np.ones(1)},
            ValueError, "as many outputs as the next has inputs; got 2, 5",
        ),
    ],
)  # fmt: skip
def test_other_state_dicts_are_refused(state_dict, error, message):
    with pytest.raises(error, match=message):
        from_state_dict(state_dict)


def test_what_is_not_a_network_is_refused():
    pytest.importorskip("onnx")
    with pytest.raises(TypeError, match=r"mlp must be a fastmlp\.MLP; got int"):
        pytest.importorskip("fastmlp.onnx").to_onnx(3)
    with pytest.raises(TypeError, match=r"mlp must be a fastmlp\.MLP; got int"):
        to_state_dict(3)
    with pytest.raises(TypeError, match="layer_sizes must not be given"):
        from_state_dict({"0.weight": np.ones((2, 3)), "0.bias": np.ones(2)}, layer_sizes=[3, 2])
