"""Figures of the measures: all models in one, a line with a band for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from ..reports.figures import COLOURS, new_figure, save, style_of, tidy, whole_numbers
from .catalogue import Measure
from .examples import Examples


PANELS_IN_A_ROW = 3
# as many layers of an example as fit beside each other
MAX_MAPS = 8


@dataclass(frozen=True)
class Line:
    """One model in a figure.

    Args:
        label: in the legend.
        result: of the measure.
        num_layers: of the model.
        place: of the model among all, which gives it the same colour and marker in every figure.
        scaled: the measure of AttnScale's A', where there is one.
    """

    label: str
    result: dict[str, Any]
    num_layers: int
    place: int
    scaled: dict[str, Any] | None = None


def draw_lines(axes: Axes, lines: Sequence[Line], label: str) -> None:
    """A measure over the layers, with a band of one standard deviation about each line.

    Models of different depth share the axis as shares of their depth.

    Args:
        axes: to draw on.
        lines: of all models.
        label: of the values.
    """
    by_share = len({line.num_layers for line in lines}) > 1
    for line in lines:
        style = style_of(line.place)
        _draw_line(axes, line, line.result, by_share, label=line.label, **style)
        if line.scaled is not None:
            style = {**style, "markerfacecolor": "white", "linestyle": "--"}
            _draw_line(axes, line, line.scaled, by_share, label=f"{line.label}, A' (AttnScale)", **style)
    axes.set(xlabel="share of the depth (layer / number of layers)" if by_share else "layer", ylabel=label)
    if not by_share:
        whole_numbers(axes)
    tidy(axes)


def _draw_line(axes: Axes, line: Line, result: dict[str, Any], by_share: bool, **style: Any) -> None:
    x = np.array(result["layers"]) / (line.num_layers if by_share else 1)
    mean, std = np.array(result["mean"]), np.array([value or 0.0 for value in result["std"]])
    axes.plot(x, mean, markersize=3.5, linewidth=1.4, **style)
    axes.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)


def save_measure(measure: Measure, lines: Sequence[Line], file: Path) -> None:
    """A measure of all models over the layers; below it for each model what else there is, curves or a matrix.

    Args:
        measure: which.
        lines: of the models that have it.
        file: the PNG to write.
    """
    panels = [line for line in lines if "curves" in line.result or "matrix" in line.result]
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    figure = new_figure(7.2, 3.6 + 2.6 * rows)
    upper, *lower = figure.subfigures(2, 1, height_ratios=(3.6, 2.6 * rows)) if rows else [figure]
    axes = upper.subplots()
    draw_lines(axes, lines, measure.axis)
    axes.set_title(measure.title, loc="left", fontsize="medium", fontweight="bold")
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if lower:
        grid = lower[0].subplots(rows, PANELS_IN_A_ROW, squeeze=False, sharey=measure.frequencies is not None)
        _draw_panels(measure, panels, grid, lower[0])
    save(figure, file)


def _draw_panels(measure: Measure, panels: Sequence[Line], grid: np.ndarray, figure: Any) -> None:
    used, unused = grid.flat[: len(panels)], grid.flat[len(panels) :]
    draw = _draw_curves if measure.frequencies is not None else _draw_matrix
    for axes, line in zip(used, panels):
        draw(axes, line)
        axes.set_title(line.label, fontsize="small")
        axes.tick_params(labelsize="x-small")
    for axes in unused:
        axes.set_visible(False)
    if measure.frequencies is not None:
        figure.supxlabel(measure.frequency_axis, fontsize="small")
        figure.supylabel(measure.axis.splitlines()[0].rstrip(","), fontsize="small")
        scale, label = ScalarMappable(Normalize(0, 1), colormaps["viridis"]), "share of the depth"
    else:
        figure.supxlabel("layer", fontsize="small")
        figure.supylabel("layer", fontsize="small")
        scale, label = ScalarMappable(Normalize(0, 1), colormaps["magma"]), "cosine"
    figure.colorbar(scale, ax=list(used), label=label, shrink=0.9)


def _draw_curves(axes: Axes, line: Line) -> None:
    frequencies = line.result["frequencies"]
    for layer, curve in zip(line.result["layers"], line.result["curves"]["mean"]):
        axes.plot(frequencies, curve, color=colormaps["viridis"](layer / line.num_layers), linewidth=1)
    tidy(axes)


def _draw_matrix(axes: Axes, line: Line) -> None:
    edges = (0.5, line.num_layers + 0.5)
    axes.imshow(line.result["matrix"]["mean"], cmap="magma", vmin=0, vmax=1, origin="lower", extent=(*edges, *edges))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)


def save_examples(examples: Examples, title: str, file: Path) -> None:
    """Example images, what a model looks at in them, and the mean's share of its tokens.

    Args:
        examples: of the model.
        title: its label.
        file: the PNG to write.
    """
    num_layers = len(next(iter(examples.maps.values()), ()))
    layers = np.unique(np.linspace(0, num_layers - 1, min(num_layers, MAX_MAPS)).round().astype(int))
    kinds = list(examples.maps) or [None]
    rows = [(index, kind) for index in range(len(examples.images)) for kind in kinds]
    figure = new_figure(1.1 * (len(layers) + 1) + 2.2, 1.25 * len(rows) + 0.7)
    grid = figure.subplots(len(rows), len(layers) + 2, squeeze=False, width_ratios=[1] * (len(layers) + 1) + [1.7])
    for axes, (index, kind) in zip(grid, rows):
        _draw_maps(axes[1:-1], examples, index, kind, layers)
        axes[0].set_ylabel(kind or "")
        # an image stands once, beside the first of its maps
        if kind == kinds[0]:
            axes[0].imshow(examples.images[index].numpy())
            axes[0].set_title("image", fontsize="x-small")
            _draw_shares(axes[-1], examples, index)
        else:
            axes[0].spines[:].set_visible(False)
            axes[-1].set_visible(False)
        axes[0].set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize="medium", fontweight="bold")
    save(figure, file)


def _draw_maps(panels: Sequence[Axes], examples: Examples, index: int, kind: str | None, layers: np.ndarray) -> None:
    for panel, layer in zip(panels, layers):
        values = examples.maps[kind][layer, index].numpy()
        panel.imshow(values, cmap="magma", vmin=min(values.min(), 0.0))
        share = "" if examples.dc_share is None else f", DC {100 * examples.dc_share[index, layer + 1]:.0f} %"
        panel.set_title(f"layer {layer + 1}{share}", fontsize="xx-small")
        panel.set(xticks=[], yticks=[])


def _draw_shares(axes: Axes, examples: Examples, index: int) -> None:
    if examples.dc_share is None:
        axes.set_visible(False)
        return
    axes.plot(100 * examples.dc_share[index].numpy(), marker="o", markersize=2.5, linewidth=1, color=COLOURS[0])
    axes.set(ylim=(-3, 103), yticks=(0, 50, 100))
    axes.set_title("DC share (%) over layers", fontsize="x-small")
    axes.tick_params(labelsize="x-small")
    whole_numbers(axes)
    tidy(axes)
