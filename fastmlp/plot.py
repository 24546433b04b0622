"""Pictures of training and of what was learned. It needs matplotlib: ``pip install fastmlp[plot]``.

Each function draws into the Axes it is given, or into a new figure, and returns the Axes.

Examples
--------
>>> import fastmlp
>>> import numpy as np
>>> from fastmlp import plot
>>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
>>> mlp = fastmlp.MLP([2, 8, 1], hidden_activation="tanh", rng=0)
>>> layers = plot.LayerRecorder()
>>> history = mlp.fit(X, X[:, :1] * X[:, 1:], epochs=20, validation=0.2, callbacks=layers, progress=False)
>>> axes = plot.training_curves(history)
>>> axes = plot.layer_norms(layers)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:  # pragma: no cover (the tests have it)
    raise ImportError("fastmlp.plot needs matplotlib: pip install fastmlp[plot]") from error

from fastmlp.mlp import MLP
from fastmlp.training import History
from fastmlp.verify import Report


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt  # noqa: PLC0415 (only where a figure of its own is to be shown)

    figure: Figure = plt.figure(layout="constrained")
    return figure.add_subplot()


def _epochs(count: int) -> NDArray[np.int64]:
    return np.arange(1, count + 1)


def training_curves(history: History | Sequence[History], ax: Axes | None = None) -> Axes:
    """Training and validation loss by epoch, the best epoch marked.

    Parameters
    ----------
    history : History or sequence of them
        Of :meth:`fastmlp.MLP.fit`; or of each member, of :meth:`fastmlp.Ensemble.fit`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    histories = [history] if isinstance(history, History) else list(history)
    width = 1.5 if len(histories) == 1 else 0.7
    for k, one in enumerate(histories):
        of_kinds = (("training", one.loss, "C0"), ("validation", one.validation_loss, "C1"))
        for kind, losses, color in of_kinds:
            if losses:  # a label that begins with _ is not in the legend
                ax.plot(_epochs(one.n_epochs), losses, color, linewidth=width, label=kind if k == 0 else f"_{kind}")
    if len(histories) == 1:
        best = histories[0].best_epoch
        if best:
            ax.axvline(best, color="gray", linestyle=":", label=f"best, epoch {best}")
        ax.set(title=histories[0].stopped)
    if min((loss for one in histories for loss in one.loss + one.validation_loss), default=0.0) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


class LayerRecorder:
    """A callback of ``fit`` that notes, after each epoch, how large each layer's gradient and change were.

    Attributes
    ----------
    gradient_norms : list of list of float
        By epoch and layer: the length of the weights' gradient in the epoch's last step.
    update_ratios : list of list of float
        By epoch and layer: by how much the weights moved in the epoch, as a part of their length.
    """

    def __init__(self) -> None:
        self.gradient_norms: list[list[float]] = []
        self.update_ratios: list[list[float]] = []
        self._before: list[NDArray[Any]] | None = None

    def __call__(self, mlp: MLP, history: History) -> None:  # noqa: ARG002 (what callbacks are given)
        """Note an epoch."""
        weights = [W.astype(np.float64) for W, _ in mlp.parameters]
        before = self._before or weights
        self.gradient_norms.append([_length(dW) for dW, _ in mlp._pairs(mlp._gradient)])
        moved = [_length(W - W0) / max(_length(W0), 1e-300) for W, W0 in zip(weights, before, strict=True)]
        self.update_ratios.append(moved)
        self._before = weights


def _length(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).sum()))


def layer_norms(recorder: LayerRecorder, ax: Axes | None = None) -> Axes:
    """Gradient norm (lines) and update by weight (dashed) of each layer, by epoch.

    A layer whose line is far below the others learns nothing; updates of more than a hundredth of the weights per step
    are hasty.

    Parameters
    ----------
    recorder : LayerRecorder
        After ``fit(..., callbacks=recorder)``.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = _axes(ax)
    norms, ratios = np.array(recorder.gradient_norms), np.array(recorder.update_ratios)
    for layer in range(norms.shape[1]):
        (line,) = ax.plot(_epochs(len(norms)), norms[:, layer], label=f"layer {layer + 1}, gradient")
        # nothing is known of the first epoch's update
        later, color = _epochs(len(norms))[1:], line.get_color()
        ax.plot(later, ratios[1:, layer], "--", color=color, label=f"layer {layer + 1}, update")
    ax.set(xlabel="epoch", ylabel="‖gradient‖; ‖update‖ / ‖weights‖", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small")
    return ax


def verification(report: Report, ax: Axes | None = None) -> Axes:
    """The V-curve: error of central differences over the step, and what rounding explains of it (dotted).

    Towards small steps it falls with their square, until rounding, divided by the step, makes it grow. The error of a
    wrong gradient stays where it is.

    Parameters
    ----------
    report : Report
        Of :meth:`fastmlp.MLP.verify`.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If the report has no curves: the check was not thorough, or every direction crosses a kink.
    """
    if not report.curves:
        raise ValueError("report must have curves, as mlp.verify makes them; got none")
    ax = _axes(ax)
    for curve in report.curves:
        # an error of 0 has no place on a logarithmic scale
        line = ax.loglog(curve.steps, np.where(curve.errors > 0, curve.errors, np.nan), marker=".", label=curve.name)
        ax.loglog(curve.steps, curve.rounding, linestyle=":", color=line[0].get_color(), alpha=0.6)
    steps = report.curves[0].steps[:4]
    ax.loglog(steps, 3 * report.curves[0].errors[0] * (steps / steps[0]) ** 2, color="gray", label="falls with ε²")
    ax.set(xlabel="step ε", ylabel="error of the central difference", title="V-curve")
    ax.legend(fontsize="small")
    return ax


def predictions(mlp: MLP, X: ArrayLike, Y: ArrayLike, ax: Axes | None = None) -> Axes:
    """Predictions against targets, an output a colour; a perfect model has all points on the line.

    Parameters
    ----------
    mlp : MLP
    X : array_like of shape (n_samples, n_features)
    Y : array_like of shape (n_samples, n_outputs)
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    found, targets = mlp.predict(X), np.asarray(Y, np.float64)
    if targets.shape != found.shape and (targets.ndim != 1 or targets.size != found.size):
        raise ValueError(f"Y must have the predictions' shape, {found.shape}; got {targets.shape}")
    ax, targets = _axes(ax), targets.reshape(found.shape)
    for output in range(found.shape[1]):
        label = f"output {output + 1}" if found.shape[1] > 1 else None
        ax.scatter(targets[:, output], found[:, output], s=8, alpha=0.6, label=label)
    low, high = min(targets.min(), found.min()), max(targets.max(), found.max())
    ax.plot([low, high], [low, high], color="gray", linewidth=1)
    ax.set(xlabel="target", ylabel="prediction", aspect="equal")
    if found.shape[1] > 1:
        ax.legend()
    return ax


def _labels(Y: ArrayLike, n_samples: int, n_classes: int) -> NDArray[np.int64]:
    """Class indices, from indices, one-hot rows, or a column of 0 and 1."""
    given = np.asarray(Y)
    if given.ndim == 2 and given.shape[1] > 1:
        given = given.argmax(axis=1)
    given = given.reshape(-1)
    if len(given) != n_samples or not np.isin(given, np.arange(n_classes)).all():
        expected = f"{n_samples} class indices from 0 to {n_classes - 1}, one for each sample, or one-hot rows"
        raise ValueError(f"Y must hold {expected}; got shape {np.shape(Y)}")
    return given.astype(np.int64)


def _classes(mlp: MLP, X: ArrayLike) -> NDArray[np.int64]:
    found = mlp.predict(X)
    return (found[:, 0] > 0.5).astype(np.int64) if found.shape[1] == 1 else np.asarray(found.argmax(axis=1), np.int64)


def confusion_matrix(mlp: MLP, X: ArrayLike, Y: ArrayLike, ax: Axes | None = None) -> Axes:
    """How many samples of each class (rows) are taken for each class (columns).

    Parameters
    ----------
    mlp : MLP
        That tells classes.
    X : array_like of shape (n_samples, n_features)
    Y : array_like
        Class indices, or one-hot rows.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    if not isinstance(mlp, MLP):
        raise TypeError(
            f"mlp must be a fastmlp.MLP; got {type(mlp).__name__}. Of scikit-learn's estimators,"
            " sklearn.metrics.ConfusionMatrixDisplay.from_estimator draws it"
        )
    found, n_classes = _classes(mlp, X), max(2, mlp.config["layer_sizes"][-1])
    ax, right = _axes(ax), _labels(Y, len(found), n_classes)
    counts = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(counts, (right, found), 1)
    ax.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = count > counts[row].sum() / 2
            ax.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    share = np.trace(counts) / max(counts.sum(), 1)
    ax.set(xlabel="predicted class", ylabel="class", title=f"{share:.1%} right")
    ax.set_xticks(range(n_classes))
    ax.set_yticks(range(n_classes))
    return ax


def decision_boundary(mlp: MLP, X: ArrayLike, Y: ArrayLike, ax: Axes | None = None, *, points: int = 200) -> Axes:
    """The classes of a network of two features over the plane, and the samples on it.

    Parameters
    ----------
    mlp : MLP
        With two inputs, that tells classes.
    X : array_like of shape (n_samples, 2)
    Y : array_like
        Class indices, or one-hot rows.
    ax : matplotlib Axes, optional
    points : int
        Of the grid, along each axis.

    Returns
    -------
    matplotlib Axes
    """
    if mlp.config["layer_sizes"][0] != 2:
        raise ValueError(f"decision_boundary needs a network of 2 inputs; got {mlp.config['layer_sizes'][0]}")
    data = np.asarray(X, np.float64)
    ax, right = _axes(ax), _labels(Y, len(data), max(2, mlp.config["layer_sizes"][-1]))
    low, high = data.min(axis=0), data.max(axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1)
    first, second = (np.linspace(low[k] - margin[k], high[k] + margin[k], points) for k in (0, 1))
    grid = np.stack(np.meshgrid(first, second), axis=-1)
    n_classes = max(2, mlp.config["layer_sizes"][-1])
    found = _classes(mlp, grid.reshape(-1, 2)).reshape(points, points)
    settings = {"cmap": "tab10", "vmin": 0, "vmax": 9}
    ax.pcolormesh(first, second, found % 10, alpha=0.3, shading="nearest", rasterized=True, **settings)
    if n_classes > 1:
        ax.contour(first, second, found, levels=np.arange(n_classes - 1) + 0.5, colors="gray", linewidths=0.8)
    ax.scatter(data[:, 0], data[:, 1], c=right % 10, s=12, edgecolors="black", linewidths=0.3, **settings)
    ax.set(xlabel="feature 1", ylabel="feature 2")
    return ax


def first_layer(mlp: MLP, shape: tuple[int, int], ax: Axes | None = None, *, units: int = 64) -> Axes:
    """The weights of the first layer as images, one for each unit, red above 0 and blue below.

    Parameters
    ----------
    mlp : MLP
        Whose features are the pixels of an image, row by row.
    shape : (int, int)
        Rows and columns of the image.
    ax : matplotlib Axes, optional
    units : int
        At most so many are drawn.

    Returns
    -------
    matplotlib Axes
    """
    weights = mlp.parameters[0].weights[:units]
    if shape[0] * shape[1] != weights.shape[1]:
        raise ValueError(f"shape must have {weights.shape[1]} pixels, as many as there are features; got {shape}")
    ax = _axes(ax)
    across = int(np.ceil(np.sqrt(len(weights))))
    down = -(-len(weights) // across)
    sheet = np.full((down * (shape[0] + 1) - 1, across * (shape[1] + 1) - 1), np.nan)
    for unit, row in enumerate(weights):
        top, left = unit // across * (shape[0] + 1), unit % across * (shape[1] + 1)
        sheet[top : top + shape[0], left : left + shape[1]] = row.reshape(shape)
    largest = float(np.abs(weights).max())
    ax.imshow(sheet, cmap="RdBu_r", vmin=-largest, vmax=largest)
    ax.set_axis_off()
    ax.set_title(f"weights of {len(weights)} units, up to ±{largest:.2g}")
    return ax
