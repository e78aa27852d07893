"""Results of an evaluation as figures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..reports.figures import legend_below, marks_only, new_figure, set_apart, style_of, tidy, title_of
from ..reports.fonts import shown_names
from .robustness import LEVELS


# beyond so many classes their names do not fit beside the matrix, and beyond the other their numbers not into it
MOST_NAMED_CLASSES, MOST_COUNTED_CLASSES = 40, 20
LONGEST_CLASS_NAME = 28
COLUMNS = 4

Rows = Sequence[Mapping[str, Any]]


def classes_in_pictures(label_names: Sequence[str]) -> list[str]:
    """What pictures call the classes: their names, or their numbers where these cannot be shown."""
    numbers = list(map(str, range(len(label_names))))
    if len(label_names) > MOST_NAMED_CLASSES:
        return numbers
    return shown_names(label_names, numbers, LONGEST_CLASS_NAME)


def models_in_pictures(names: Iterable[str]) -> dict[str, str]:
    """What pictures call each model: its name, or its number where that cannot be shown."""
    names = list(names)
    return dict(zip(names, shown_names(names, [f"model {k}" for k in range(1, len(names) + 1)])))


def draw_confusion_matrix(matrix: Tensor, label_names: Sequence[str], model: str) -> Figure:
    """Shares of each class' images that are taken for each class.

    Args:
        matrix: [classes, guesses], counts; a last column beyond the classes is for other guesses.
        label_names: of the classes.
        model: what pictures call it.
    """
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    classes = classes_in_pictures(label_names)
    columns = [*classes, "other"][: matrix.shape[1]]
    side = min(2.6 + 0.32 * len(columns), 11)
    # the longest name stands at the left, and once more below
    margin = 0.075 * max(map(len, columns))
    figure = new_figure(side + margin + 2.2, side + margin + 1.0)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    figure.colorbar(image, ax=axes, label="share of the class' images")
    numbered = "" if classes == list(label_names) else " (numbers and names: eval_tables.md)"
    axes.set(xlabel=f"answer{numbered}", ylabel="class")
    accuracy = matrix.diagonal().sum().item() / max(matrix.sum().item(), 1)
    title = f"{title_of('Confusion matrix', model)}\naccuracy {accuracy:.4f} on {int(matrix.sum()):,} images"
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    if len(columns) <= MOST_NAMED_CLASSES + 1:
        axes.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 3 else 0)
        axes.set_yticks(range(len(classes)), classes)
    if len(columns) <= MOST_COUNTED_CLASSES:
        _write_counts(axes, matrix, shares)
    return figure


def _write_counts(axes: Axes, matrix: Tensor, shares: Tensor) -> None:
    for row, column in torch.nonzero(matrix).tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", color=colour, fontsize=8)


def draw_reliability_diagram(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy over confidence, with what perfect calibration would be.

    Args:
        models: for each name `reliability`, bins with `confidence`, `accuracy` and `samples`, and
            `eval_calibration_error`.
    """
    width = 5.4
    figure = new_figure(width, 4.9 + 0.2 * len(models))
    axes = figure.subplots()
    (perfect,) = axes.plot([0, 1], [0, 1], color="grey", linestyle=":", zorder=1)
    handles, labels = [perfect], ["perfect calibration"]
    shown = models_in_pictures(models)
    for place, (name, result) in enumerate(models.items()):
        bins = sorted(result["reliability"], key=lambda row: row["confidence"])
        style = style_of(place)
        handles.append(_draw_bins(axes, bins, {**style, "linewidth": style["linewidth"] / 2}))
        labels.append(f"{shown[name]}: calibration error {result['eval_calibration_error']:.3f}")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.03))
    axes.set_title("the area of a point is its number of images", fontsize="small")
    what = title_of("Reliability", *shown.values()) if len(shown) == 1 else "Reliability"
    figure.suptitle(what, fontsize="medium", fontweight="bold")
    tidy(axes)
    legend_below(figure, handles, labels, width)
    return figure


def _draw_bins(axes: Axes, bins: Rows, style: Mapping[str, Any]) -> Line2D:
    x, y = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    largest = max(row["samples"] for row in bins)
    areas = [12 + 90 * row["samples"] / largest for row in bins]
    axes.plot(x, y, **{**style, "marker": ""})
    axes.scatter(x, y, s=areas, color=style["color"], marker=style["marker"], alpha=0.7, zorder=style["zorder"])
    # for the legend alone, since the points differ in size
    return Line2D([], [], **style)


def draw_comparison(rows: Rows) -> Figure:
    """Accuracy of several models, and their paired differences to the first with 95 % intervals.

    Args:
        rows: those of one condition from `robustness.measure`, one for each model.
    """
    shown = list(models_in_pictures(row["model"] for row in rows).values())
    margin = 0.075 * max(map(len, shown))
    figure = new_figure(6.4 + margin, 1.6 + 0.36 * len(rows))
    accuracies, differences = figure.subplots(1, 2, sharey=True)
    differences.axvline(0, color="grey", linewidth=1, zorder=1)
    for place, row in enumerate(rows):
        style = marks_only(style_of(place))
        accuracies.plot([row["accuracy"]], [place], **style)
        if "difference" in row:
            ends = [[end] for end in _ends(row)]
            differences.errorbar([row["difference"]], [place], xerr=ends, capsize=4, **style)
    accuracies.set_yticks(range(len(rows)), shown)
    accuracies.set(xlabel="accuracy", ylim=(len(rows) - 0.5, -0.5))
    differences.set(xlabel=f"accuracy less that of {shown[0]}\n(difference and 95 % interval)")
    for axes in (accuracies, differences):
        tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    figure.suptitle(f"Comparison on {rows[0]['samples']:,} images", fontsize="medium", fontweight="bold")
    return figure


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """How far an interval reaches below and above its difference."""
    # percentiles of a lopsided few can lie on one side of it
    below, above = row["difference"] - row["difference_low"], row["difference_high"] - row["difference"]
    return max(0.0, below), max(0.0, above)


def draw_robustness_curves(rows: Rows, heading: str) -> Figure:
    """Accuracy over the level of each perturbation, a line for each model, and below each its differences to the first.

    Args:
        rows: those of one kind from `robustness.measure`.
        heading: of that kind.
    """
    names = list(dict.fromkeys(row["perturbation"] for row in rows))
    shown = models_in_pictures(dict.fromkeys(row["model"] for row in rows))
    num_columns = min(COLUMNS, len(names))
    lines_of_panels, height = -(-len(names) // num_columns), 1 + (len(shown) > 1)
    width = 1.4 + 2.9 * max(num_columns, 1.5)
    figure = new_figure(width, 1.3 + 0.2 * len(shown) + 2.4 * lines_of_panels * height)
    grid = figure.subplots(lines_of_panels * height, num_columns, squeeze=False)
    for index, name in enumerate(names):
        line, column = divmod(index, num_columns)
        panels = grid[line * height : (line + 1) * height, column]
        _draw_perturbation(panels, [row for row in rows if row["perturbation"] == name], list(shown))
        if len(names) > 1:
            panels[0].set_title(name.replace("_", " "), fontsize="medium")
        panels[-1].set_xlabel(LEVELS[rows[0]["kind"]])
    _share_scales(grid, height, len(names))
    figure.suptitle(
        title_of(heading, *shown.values()) if len(shown) == 1 else heading, fontsize="medium", fontweight="bold"
    )
    if len(shown) > 1:
        handles = [Line2D([], [], **style_of(place)) for place in range(len(shown))]
        first, *others = shown.values()
        legend_below(figure, handles, [f"{first} (the first)", *others], width)
    return figure


def _draw_perturbation(panels: np.ndarray, rows: Rows, models: Sequence[str]) -> None:
    for axes in panels[1:]:
        axes.sharex(panels[0])
    levels = sorted({row["level"] for row in rows})
    for place, model in enumerate(models):
        mine, style = [row for row in rows if row["model"] == model], style_of(place)
        accuracies = [row["accuracy"] for row in mine]
        drawn = panels[0].plot([row["level"] for row in mine], accuracies, **style)
        set_apart(panels[0], drawn, place, len(models), len(levels))
        if place and len(panels) > 1:
            bars = _draw_differences(panels[1], mine, style)
            set_apart(panels[1], bars.get_children(), place, len(models), len(levels))
    for axes in panels:
        tidy(axes)
        # as many as fit without a number running into the next
        axes.set_xticks(levels if len(levels) <= 6 else levels[::3])
    if len(panels) > 1:
        panels[1].axhline(0, color="grey", linewidth=1, zorder=1)


def _draw_differences(axes: Axes, rows: Rows, style: Mapping[str, Any]) -> ErrorbarContainer:
    x, y = [row["level"] for row in rows], [row["difference"] for row in rows]
    thin = {**style, "linewidth": 1, "markersize": style["markersize"] * 0.7}
    return axes.errorbar(x, y, yerr=np.transpose([_ends(row) for row in rows]), capsize=2, **thin)


def _share_scales(grid: np.ndarray, height: int, used: int) -> None:
    """One scale for all accuracies, one for all differences; what is written at the left stands there once."""
    num_columns = grid.shape[1]
    labels = ("accuracy", "accuracy less the first's\n(95 % interval)")
    for kind in range(height):
        panels = [axes for index, axes in _numbered(grid, height, kind) if index < used]
        low, high = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
        for index, axes in _numbered(grid, height, kind):
            axes.set_axis_on() if index < used else axes.set_axis_off()
            axes.set_ylim((0, 1.03) if kind == 0 else (low, high))
            axes.tick_params(labelleft=index % num_columns == 0)
            if index % num_columns == 0:
                axes.set_ylabel(labels[kind])


def _numbered(grid: np.ndarray, height: int, kind: int) -> Iterable[tuple[int, Axes]]:
    """The panels of accuracies (kind 0) or of differences (1), counted as the perturbations are."""
    return enumerate(grid[kind::height].flat)
