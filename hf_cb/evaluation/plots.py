"""Results of an evaluation as figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..reports.figures import new_figure, save, tidy
from .robustness import LEVELS


# beyond so many classes their names do not fit beside the matrix
MOST_NAMED_CLASSES = 40
COLUMNS = 4


def save_confusion_matrix(matrix: Tensor, label_names: Sequence[str], file: Path) -> None:
    """Shares of each class' images that are taken for each class.

    Args:
        matrix: [classes, guesses], counts; a last column beyond the classes is for other guesses.
        label_names: of the classes.
        file: the PNG to write.
    """
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    columns = [*label_names, "other"][: matrix.shape[1]]
    side = min(4 + 0.25 * len(columns), 14)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the class' images", shrink=0.8)
    axes.set(xlabel="answer", ylabel="class")
    if len(columns) <= MOST_NAMED_CLASSES:
        axes.set_xticks(range(len(columns)), columns, rotation=90)
        axes.set_yticks(range(len(label_names)), label_names)
    if len(columns) <= MOST_NAMED_CLASSES / 2:
        for row, column in torch.nonzero(matrix).tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    # a square in a figure that is none: the layout alone would cut labels off
    save(figure, file, bbox_inches="tight")


def save_reliability_diagram(models: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Accuracy over confidence, with what perfect calibration would be.

    Args:
        models: for each name `reliability`, bins with `confidence`, `accuracy` and `samples`, and
            `eval_calibration_error`.
        file: the PNG to write.
    """
    figure = new_figure(4.6, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect calibration")
    for name, result in models.items():
        bins = result["reliability"]
        largest = max(row["samples"] for row in bins)
        line = axes.plot(
            [row["confidence"] for row in bins],
            [row["accuracy"] for row in bins],
            label=f"{name}: calibration error {result['eval_calibration_error']:.3f}",
        )
        # the area of a point is its number of images
        areas = [10 + 90 * row["samples"] / largest for row in bins]
        axes.scatter(*line[0].get_data(), s=areas, color=line[0].get_color(), alpha=0.6)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
    tidy(axes)
    axes.legend(frameon=False, fontsize=8)
    save(figure, file)


def save_robustness_curves(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Accuracy over the level of each perturbation, a line for each model.

    Args:
        rows: those of one kind from `robustness.measure`.
        file: the PNG to write.
    """
    names = list(dict.fromkeys(row["perturbation"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    num_columns = min(COLUMNS, len(names))
    num_rows = -(-len(names) // num_columns)
    figure = new_figure(1.2 + 3.1 * max(num_columns, 1.4), 0.6 + 2.6 * num_rows)
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).flat
    for name, axes in zip(names, panels):
        for model in models:
            mine = [row for row in rows if (row["perturbation"], row["model"]) == (name, model)]
            axes.plot([row["level"] for row in mine], [row["accuracy"] for row in mine], marker="o", ms=3, label=model)
        axes.set(title=name.replace("_", " "), xlabel=LEVELS[rows[0]["kind"]], ylim=(0, 1.03))
        tidy(axes)
    for axes in list(panels):
        axes.set_axis_off()
    first = figure.axes[0]
    first.set_ylabel("accuracy")
    first.legend(frameon=False, fontsize=8)
    save(figure, file)
