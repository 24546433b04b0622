"""What is printed is what runs: every formula of an explanation is executed, in letters and in matrices."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import fastmlp
from fastmlp import explain, formulas, verify
from fastmlp.oracle import layer as oracle_layer
from fastmlp.oracle import losses, network
from fastmlp.oracle.activations import ACTIVATIONS, OUTPUT_ACTIVATIONS
from index_lines import execute, parse

SAMPLES = 7


def targets_for(loss, outputs, rng):
    """Targets that a loss may have."""
    if loss == "poisson":
        return rng.poisson(2.0, (SAMPLES, outputs)).astype(float)
    if loss == "softmax_cross_entropy":
        return rng.dirichlet(np.ones(outputs), SAMPLES)
    return rng.uniform(0, 1, (SAMPLES, outputs))


def explained(sizes, rng, *, loss="squared_error", verify=False, sample_weight=None, **settings):
    """An MLP, its explanation, and every array that its formulas name."""
    mlp = fastmlp.MLP(sizes, loss=loss, rng=1, **settings)
    mlp.parameters = [(W, rng.standard_normal(b.shape) / 2) for W, b in mlp.parameters]
    X = rng.standard_normal((SAMPLES, sizes[0]))
    Y = targets_for(mlp._loss, sizes[-1], rng)
    explanation = mlp.explain(X, Y, verify=verify, sample_weight=sample_weight)
    arrays = {"X": X.T.astype(mlp._dtype), "Y": Y.T.astype(mlp._dtype), "s": network.shares(SAMPLES, sample_weight)}
    for number, (W, b) in enumerate(mlp.parameters, start=1):
        arrays |= {f"W{number}": W, f"b{number}": b}
    arrays |= {step.name: step.values for step in explanation.steps}
    return mlp, explanation, {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def functions_of(mlp, step):
    """What ``f``, ``f'`` and the pieces of a loss mean in a step."""
    name = mlp._activations[_layer_of(step) - 1]
    known = {}
    if name in OUTPUT_ACTIVATIONS:
        function, slope = OUTPUT_ACTIVATIONS[name].function, OUTPUT_ACTIVATIONS[name].slope
        known = {
            "f": lambda z: float(function(np.array(z))),
            "f'": lambda z: float(slope(np.array(z), function(np.array(z)))),
        }
    t, outputs = mlp._objective.setting, mlp._sizes[-1]
    return known | {
        "cut": lambda e: max(-t, min(e, t)),
        "pinball": lambda e: max((1 - t) * e, -t * e),
        "pinball'": lambda e: (1 - t) * (e > 0) - t * (e < 0),
        "smooth": lambda y: (1 - t) * y + t / outputs,
    }


def _layer_of(step):
    found = re.match(r"d?[A-Z](\d+)$", step.name)
    return int(found[1]) if found else 1


def assert_agrees(found, expected, mlp, what):
    """Each value comes from others that the kernels computed: only the roundings of one formula lie between."""
    terms = max(*mlp._sizes, SAMPLES)
    scale = max(np.abs(expected).max(), np.abs(found).max(), 1e-3)
    assert np.abs(found - expected).max() <= 16 * terms * np.finfo(mlp._dtype).eps * scale, what


def assert_every_formula_is_computed(mlp, explanation, arrays):
    for step in explanation.steps:
        found = execute(parse(step.formula), arrays, functions_of(mlp, step))
        assert found.shape == step.values.shape, step.formula
        assert_agrees(step.values, found, mlp, step.formula)


CASES = {
    "the original": {"sizes": [3, 4, 4, 2]},
    "one layer": {"sizes": [3, 2]},
    "wide": {"sizes": [5, 20, 3]},
    "deep": {"sizes": [3, 2, 4, 3, 5, 2, 4, 1], "hidden_activation": "tanh"},
    "one unit": {"sizes": [1, 1, 1]},
    "penalty": {"sizes": [3, 4, 2], "penalty": fastmlp.Penalty(l1=0.03, l2=0.2, biases=True)},
    "tiny penalty": {"sizes": [3, 4, 2], "penalty": fastmlp.Penalty(l2=1e-7)},
    "sample weights": {"sizes": [3, 4, 2], "sample_weight": np.array([1, 2, 0, 3, 1, 1, 0.5])},
    "dropout": {"sizes": [3, 4, 2], "dropout": 0.5},
    **{name: {"sizes": [3, 4, 2], "hidden_activation": name, "output_activation": name} for name in ACTIVATIONS},
    **{name: {"sizes": [3, 4, 3], "loss": name} for name in losses.LOSSES},
    "huber 0.3": {"sizes": [3, 4, 3], "loss": fastmlp.Huber(0.3)},
    "quantile 0.8": {"sizes": [3, 4, 3], "loss": fastmlp.Quantile(0.8)},
    "smoothed": {"sizes": [3, 4, 3], "loss": fastmlp.SoftmaxCrossEntropy(0.2)},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_formula_gives_what_the_kernels_computed(case, dtype, rng):
    mlp, explanation, arrays = explained(rng=rng, dtype=dtype, **case)
    assert_every_formula_is_computed(mlp, explanation, arrays)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_product_of_matrices_gives_the_same(case, rng):
    mlp, explanation, arrays = explained(rng=rng, **case)
    products = [step for step in explanation.steps if "Σ" in step.formula and step.part != "loss" and step.matrices]
    assert {step.name[:2] for step in products} >= {"dW", "db", "Z1"}
    for step in products:
        left, right = step.matrices.split(" = ")
        total = sum(matrix_value(term, arrays) for term in right.split(" + "))
        assert_agrees(arrays[left], total, mlp, step.matrices)
        assert step.shapes.startswith(f"({'×'.join(map(str, arrays[left].shape))}) = ")


def matrix_value(term, arrays):
    """Value of a product: names, turned or not, a column of ones, a number before them, ``sign(...)``."""
    value = None
    for factor in re.findall(r"sign\(\w+\)|ones\(\d+\)|[\d.]+(?= )|\w+ᵀ?", term):
        if factor.startswith("sign("):
            array = np.sign(arrays[factor[5:-1]])
        elif factor.startswith("ones("):
            array = np.ones(int(factor[5:-1]))
        elif factor[0].isdigit():
            array = np.array(float(factor))
        else:
            array = arrays[factor.removesuffix("ᵀ")]
            array = array.T if factor.endswith("ᵀ") else array
        value = array if value is None else value * array if value.ndim == 0 else value @ array
    # a bias is the same for every sample
    return value[:, np.newaxis] if re.fullmatch(r"b\d+", term) else value


def test_shapes_and_reasons_of_the_original(rng):
    explanation = explained([3, 4, 4, 2], rng)[1]
    assert explanation["dW2"].shapes == f"(4×4) = (4×{SAMPLES})·(4×{SAMPLES})ᵀ"
    assert "[j,n]·[n,i], so A1[i,n] is transposed; j and i stay" in explanation["dW2"].reason
    assert "n is left over" in explanation["dW2"].reason
    assert explanation["dA2"].matrices == "dA2 = W3ᵀ dZ3"
    assert "a (1 - a)" in explanation["dZ1"].reason
    expected = "Z1 A1 Z2 A2 Z3 A3 L loss dA3 dZ3 dW3 db3 dA2 dZ2 dW2 db2 dA1 dZ1 dW1 db1"
    assert " ".join(step.name for step in explanation.steps) == expected
    with pytest.raises(KeyError, match="there is no step 'dW9'"):
        explanation["dW9"]


def test_a_changed_line_in_the_source_changes_what_is_printed(rng, monkeypatch):
    """The formula has one place: where it is wrong there, it is wrong here, and the test above would see it."""

    def wrong(W, X, dZ):
        # dX[i,n] = Σ_j W[j,i] dZ[j,n]
        # dW[j,i] = Σ_n dZ[j,n] X[i,n] X[i,n]
        # db[j] = Σ_n dZ[j,n]
        return right(W, X, dZ)

    right = oracle_layer.affine_backward
    monkeypatch.setattr(oracle_layer, "affine_backward", wrong)
    mlp, explanation, arrays = explained([3, 4, 2], rng)
    with pytest.raises(AssertionError, match=re.escape("dW2[j,i] = Σ_n dZ2[j,n] A1[i,n] A1[i,n]")):
        assert_every_formula_is_computed(mlp, explanation, arrays)


# ------------------------------------------------------------------------------------------------------------------
# proofs


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_right_is_proved(case, dtype, rng):
    explanation = explained(rng=rng, dtype=dtype, verify=True, **case)[1]
    assert explanation.ok, explanation
    explanation.raise_if_failed()
    backward = [step for step in explanation.steps if step.part == "backward"]
    assert all(step.proof is not None for step in backward)
    assert "proofs hold" in str(explanation)


def test_what_is_wrong_is_located(rng):
    """An error in one array is told of that array, and of no other."""
    parameters = network.initialize([3, 4, 4, 2], rng, 0.7)
    X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    net = verify.Network(parameters, X, Y, network.original_activations(3), losses.chosen("squared_error"))
    forward_pass = net.forward(parameters)
    for kind, number in itertools.product(("dW", "db", "dZ", "A"), (1, 2, 3)):
        backward_pass = net.backward(forward_pass)
        arrays = {
            "dW": backward_pass.gradients[number - 1].weights,
            "db": backward_pass.gradients[number - 1].biases,
            "dZ": backward_pass.of_pre_activations[number - 1],
            "A": forward_pass.activations[number],
        }
        kept = arrays[kind].copy()
        arrays[kind].flat[1] += 1e-3
        found = explain.Computed([A.copy() for A in forward_pass.activations], backward_pass, np.dtype(np.float64))
        explanation = explain.explain(net, found)
        arrays[kind][...] = kept
        wrong = {step.name for step in explanation.steps if step.proof is not None and not step.proof.ok}
        # dA is what the formula makes of the dZ above it
        below = {f"dA{number - 1}"} if kind == "dZ" and number > 1 else set()
        assert wrong == {f"{kind}{number}"} | below
        assert not explanation.ok
        with pytest.raises(fastmlp.GradientMismatch, match=rf"{kind}{number}\["):
            explanation.raise_if_failed()
        assert f"{kind}{number}" in str(explanation).rsplit("WRONG", 1)[1]


def test_nothing_is_proved_if_that_is_not_wanted(rng):
    explanation = explained([3, 4, 2], rng)[1]
    assert all(step.proof is None for step in explanation.steps)
    assert "Nothing was proved" in str(explanation)
    with pytest.raises(TypeError, match="verify"):
        explained([3, 4, 2], rng, verify="yes")


def test_a_loss_of_ones_own_is_explained(rng):
    def loss(predictions, targets):
        error = predictions - targets
        return float((error**2).mean()), 2 * error / error.size

    explanation = explained([3, 4, 2], rng, loss=loss, verify=True)[1]
    assert explanation.ok
    assert "your loss" in explanation["dA2"].reason


def test_the_last_forward_pass_is_left_as_it_was(rng):
    """Explaining, verifying and deriving other data comes between forward and backward."""
    mlp = fastmlp.MLP([3, 4, 2], rng=0)
    A, B, C, D = (rng.standard_normal((5, width)) for width in (3, 2, 3, 2))
    expected = mlp.loss_and_gradients(A, B)[1].vector
    mlp.forward(A)
    mlp.explain(C, D)
    mlp.verify(C, D)
    mlp.hessian_vector_product(C, D, np.ones(26))
    np.testing.assert_allclose(mlp.backward(B).vector, expected, rtol=1e-12)


def test_what_is_not_finite_is_not_explained(rng):
    mlp = fastmlp.MLP([2, 1], loss="poisson", rng=0)
    with pytest.raises(ValueError, match="loss must be finite"):
        mlp.explain(1e6 * np.ones((3, 2)) * np.sign(mlp.parameters[0][0]), np.ones((3, 1)))


def test_the_model_is_left_as_it_was(rng):
    mlp = fastmlp.MLP([3, 4, 2], rng=0)
    before = mlp.parameter_vector.copy()
    X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    first, second = str(mlp.explain(X, Y)), str(mlp.explain(X, Y))
    assert first == second
    assert np.array_equal(mlp.parameter_vector, before)
    with pytest.raises(ValueError, match="X must"):
        mlp.explain(X[:, :2], Y)


# ------------------------------------------------------------------------------------------------------------------
# how it looks


def test_a_deep_network_is_folded(rng):
    explanation = explained([3, *[4] * 9, 2], rng)[1]
    folded, whole = explanation.text(), explanation.text(fold=False)
    assert folded.count("… layers 3 to 9 in the same way …") == 2
    assert "dW5[j,i]" not in folded
    assert all(step.formula in whole for step in explanation.steps)
    for number in (1, 2, 10):
        assert f"dW{number}[j,i]" in folded


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_notebook_gets_html_that_is_well_formed(case, rng):
    explanation = explained(rng=rng, **case)[1]
    html = explanation._repr_html_()
    root = ET.fromstring(html)  # noqa: S314 (it is our own)
    formulas_shown = root.iter("math")
    texts = ["".join(element.itertext()) for element in formulas_shown]
    assert any("dW" in text for text in texts)
    assert root.find(".//svg") is not None
    # letters and numbers are all there, in their order up to sub- and superscripts
    shown = sorted("".join(texts[0]))
    step = explanation.steps[0]
    assert [c for c in shown if c.isalpha()] == sorted(c for c in step.formula if c.isalpha() and c != "Σ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]", ("Z = W X + b", "(4×5) = (4×3)·(3×5) + (4)")),
        ("dX[i,n] = Σ_j W[j,i] dZ[j,n]", ("dX = Wᵀ dZ", "(3×5) = (4×3)ᵀ·(4×5)")),
        ("dW[j,i] = Σ_n dZ[j,n] X[i,n]", ("dW = dZ Xᵀ", "(4×3) = (4×5)·(3×5)ᵀ")),
        ("dW[j,i] = Σ_n X[i,n] dZ[j,n]", ("dW = dZ Xᵀ", "(4×3) = (4×5)·(3×5)ᵀ")),
        ("M[i,j] = Σ_n dZ[j,n] X[i,n]", ("M = X dZᵀ", "(3×4) = (3×5)·(4×5)ᵀ")),
        ("db[j] = Σ_n dZ[j,n]", ("db = dZ ones(5)", "(4) = (4×5)·(5)")),
        ("dZ[j,n] = dA[j,n] f'(Z[j,n])", ("dZ = dA ∘ f'(Z)", "(4×5), by elements")),
    ],
)
def test_matrices_follow_from_letters(line, expected):
    assert formulas.in_matrices(line, {"n": 5, "i": 3, "j": 4})[:2] == expected
