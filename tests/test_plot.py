"""Pictures: what they show is what there is. They have been looked at, too."""

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib.figure import Figure  # noqa: E402

from fastmlp import plot  # noqa: E402

pytestmark = pytest.mark.skipif(INTERPRETED, reason="pictures do not depend on it")


@pytest.fixture
def ax():
    """Return Axes of a figure of its own."""
    return Figure().add_subplot()


@pytest.fixture
def fitted(rng):
    """Return a model that tells classes of points in the plane, its data, its history and its recorder."""
    X = rng.uniform(-1, 1, (120, 2))
    labels = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
    mlp = fastmlp.MLP([2, 8, 3], loss="softmax_cross_entropy", rng=1)
    recorder = plot.LayerRecorder()
    history = mlp.fit(X, labels, epochs=5, learning_rate=0.05, validation=0.25, callbacks=recorder, progress=False)
    return mlp, X, labels, history, recorder


def test_training_curves(fitted, ax):
    history = fitted[3]
    assert plot.training_curves(history, ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), history.loss)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history.validation_loss)
    assert ax.lines[2].get_xdata()[0] == history.best_epoch
    assert ax.get_yscale() == "log"


def test_training_curves_of_an_ensemble(rng, ax):
    X, Y = rng.standard_normal((2, 40, 2))
    histories = fastmlp.Ensemble(3, [2, 4, 2], rng=0).fit(X, Y, epochs=4, validation=0.25)
    plot.training_curves(histories, ax)
    expected = [losses for one in histories for losses in (one.loss, one.validation_loss)]
    assert [list(line.get_ydata()) for line in ax.lines] == expected
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]


def test_layer_norms(fitted, ax):
    mlp, recorder = fitted[0], fitted[4]
    assert plot.layer_norms(recorder, ax) is ax
    assert len(ax.lines) == 4
    norms = np.array(recorder.gradient_norms)
    assert norms.shape == (5, 2)
    last = [np.linalg.norm(dW) for dW, _ in mlp._pairs(mlp._gradient)]
    np.testing.assert_allclose(norms[-1], last)
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), norms[:, 1])
    assert (np.array(recorder.update_ratios)[1:] > 0).all()


def test_verification(rng, ax):
    mlp = fastmlp.MLP([3, 4, 2], rng=1)
    X, Y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    report = mlp.verify(X, Y)
    assert plot.verification(report, ax) is ax
    assert len(ax.lines) == 2 * len(report.curves) + 1
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), report.curves[0].steps)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    with pytest.raises(ValueError, match="report must have curves"):
        plot.verification(fastmlp.Report("empty"))


def test_predictions(rng, ax):
    X = rng.standard_normal((30, 3))
    mlp = fastmlp.MLP([3, 2], rng=1)
    plot.predictions(mlp, X, X[:, :2], ax)
    for output, points in enumerate(ax.collections):
        np.testing.assert_allclose(points.get_offsets()[:, 0], X[:, output])
        np.testing.assert_allclose(points.get_offsets()[:, 1], mlp.predict(X)[:, output])


@pytest.mark.parametrize("one_hot", [False, True])
def test_confusion_matrix(fitted, ax, one_hot):
    mlp, X, labels, *_ = fitted
    plot.confusion_matrix(mlp, X, np.eye(3)[labels] if one_hot else labels, ax)
    found = mlp.predict(X).argmax(axis=1)
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in ax.texts}
    expected = {(k, m): ((labels == k) & (found == m)).sum() for k in range(3) for m in range(3)}
    assert shown == {place: count for place, count in expected.items() if count}
    assert ax.get_title() == f"{(labels == found).mean():.1%} right"


def test_a_confusion_matrix_is_of_a_network(fitted):
    _, X, labels, *_ = fitted
    with pytest.raises(TypeError, match=r"mlp must be a fastmlp\.MLP; got str\. Of scikit-learn's estimators"):
        plot.confusion_matrix("mlp", X, labels)


def test_decision_boundary(fitted, ax, rng):
    mlp, X, labels, *_ = fitted
    plot.decision_boundary(mlp, X, labels, ax, points=50)
    assert len(ax.collections) >= 2
    binary = fastmlp.MLP([2, 1], loss="binary_cross_entropy", rng=1)
    plot.decision_boundary(binary, X, labels[:, None] > 0, Figure().add_subplot(), points=20)
    with pytest.raises(ValueError, match="needs a network of 2 inputs; got 3"):
        plot.decision_boundary(fastmlp.MLP([3, 2], rng=1), rng.standard_normal((5, 3)), [0, 1, 0, 1, 0], ax)


def test_first_layer(ax):
    mlp = fastmlp.MLP([6, 5, 1], rng=1)
    plot.first_layer(mlp, (2, 3), ax)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1)
    np.testing.assert_array_equal(sheet[3:5, 4:7], mlp.parameters[0].weights[4].reshape(2, 3))
    with pytest.raises(ValueError, match="shape must have 6 pixels"):
        plot.first_layer(mlp, (2, 2), ax)


def test_a_figure_of_its_own(fitted):
    from matplotlib import pyplot as plt  # noqa: PLC0415

    try:
        assert plot.training_curves(fitted[3]).figure.number
    finally:
        plt.close("all")


@pytest.mark.parametrize(
    "labels", [[-1, 0, 1, 0], [0, 1, 2, 0], [0.5, 0, 1, 0], [0, 1, 0], ["a", "b", "a", "b"]], ids=str
)
def test_labels_that_are_no_classes_are_refused(labels, rng):
    mlp = fastmlp.MLP([2, 2], loss="softmax_cross_entropy", rng=0)
    with pytest.raises(ValueError, match="Y must hold 4 class indices from 0 to 1"):
        plot.confusion_matrix(mlp, rng.standard_normal((4, 2)), labels)


def test_targets_of_another_shape_are_refused(rng):
    mlp = fastmlp.MLP([2, 2], rng=0)
    with pytest.raises(ValueError, match=r"Y must have the predictions' shape, \(4, 2\); got \(2, 4\)"):
        plot.predictions(mlp, rng.standard_normal((4, 2)), rng.standard_normal((2, 4)))
