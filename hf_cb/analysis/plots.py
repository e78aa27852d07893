"""Figures of the measures: all models in one, a line with a band for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from ..reports.figures import COLOURS, hollow, legend_below, new_figure, set_apart, tidy, title_of, whole_numbers
from ..reports.fonts import shortened
from .catalogue import Measure
from .examples import Examples


# a telephone shows so many inches with letters of a readable size
WIDTH = 5.6
PANELS_IN_A_ROW, LONGEST_PANEL_NAME = 2, 28
# from the first layer to the last; the yellow at the end would be faint on white
DEPTHS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.87, 256)))
# as many layers of an example as fit beside each other
MAX_MAPS = 8


@dataclass(frozen=True)
class Line:
    """One model in a figure.

    Args:
        label: in the legend.
        result: of the measure.
        num_layers: of the model.
        style: of the model in every figure, as `reports.figures.style_of` gives it.
        scaled: the measure of AttnScale's A', where there is one.
    """

    label: str
    result: dict[str, Any]
    num_layers: int
    style: dict[str, Any]
    scaled: dict[str, Any] | None = None


def draw_lines(axes: Axes, lines: Sequence[Line], label: str) -> dict[str, Artist]:
    """A measure over the layers, with a band of one standard deviation about each line.

    Models of different depth share the axis as shares of their depth.

    Args:
        axes: to draw on.
        lines: of all models.
        label: of the values.

    Returns:
        What a legend shows, by its words.
    """
    by_share = len({line.num_layers for line in lines}) > 1
    parts = []
    for line in lines:
        parts.append((line.label, line, line.result, line.style))
        if line.scaled is not None:
            parts.append((f"{line.label}, A' (AttnScale)", line, line.scaled, hollow(line.style)))
    handles = {}
    for place, (name, line, result, style) in enumerate(parts):
        x = np.array(result["layers"]) / (line.num_layers if by_share else 1)
        drawn = _draw_line(axes, x, result, style)
        set_apart(axes, drawn, place, len(parts), len(x))
        handles[name] = drawn[0]
    axes.set(xlabel="share of the depth (layer / number of layers)" if by_share else "layer", ylabel=label)
    if not by_share:
        whole_numbers(axes.xaxis)
    tidy(axes)
    return handles


def _draw_line(axes: Axes, x: np.ndarray, result: dict[str, Any], style: dict[str, Any]) -> tuple[Artist, Artist]:
    mean, std = np.array(result["mean"]), np.array([value or 0.0 for value in result["std"]])
    (line,) = axes.plot(x, mean, **style)
    return line, axes.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.12, linewidth=0)


def draw_measure(measure: Measure, lines: Sequence[Line]) -> Figure:
    """A measure of all models over the layers; below it for each model what else there is, curves or a matrix.

    Args:
        measure: which.
        lines: of the models that have it.
    """
    panels = [line for line in lines if "curves" in line.result or "matrix" in line.result]
    columns = min(PANELS_IN_A_ROW, len(panels))
    rows = -(-len(panels) // max(columns, 1))
    entries = len(lines) + sum(line.scaled is not None for line in lines)
    heights = (3.7 + 0.2 * entries, 2.5 * rows + 0.4)
    figure = new_figure(WIDTH, sum(heights) if rows else heights[0])
    upper, *lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat if rows else [figure]
    handles = draw_lines(upper.subplots(), lines, measure.axis)
    title = title_of(measure.title, lines[0].label) if len(lines) == 1 else measure.title
    upper.suptitle(title, fontsize="medium", fontweight="bold")
    if len(handles) > 1:
        legend_below(upper, list(handles.values()), list(handles), WIDTH)
    if lower:
        grid = lower[0].subplots(rows, columns, squeeze=False, sharey=measure.frequencies is not None)
        _draw_panels(measure, panels, grid, lower[0])
    return figure


def _draw_panels(measure: Measure, panels: Sequence[Line], grid: np.ndarray, figure: Any) -> None:
    used, unused = grid.flat[: len(panels)], grid.flat[len(panels) :]
    draw = _draw_curves if measure.frequencies is not None else _draw_matrix
    for axes, line in zip(used, panels):
        draw(axes, line)
        # no longer than its panel is wide
        axes.set_title(shortened(line.label, LONGEST_PANEL_NAME), fontsize="small")
        axes.tick_params(labelsize="small")
    for axes in unused:
        axes.set_visible(False)
    if measure.frequencies is not None:
        figure.supxlabel(measure.frequency_axis, fontsize="small")
        figure.supylabel(measure.axis.splitlines()[0].rstrip(","), fontsize="small")
        scale, label = ScalarMappable(Normalize(0, 1), DEPTHS), "share of the depth"
    else:
        figure.supxlabel("layer", fontsize="small")
        figure.supylabel("layer", fontsize="small")
        scale, label = ScalarMappable(Normalize(0, 1), colormaps["magma"]), "cosine"
    figure.colorbar(scale, ax=list(used), label=label, shrink=0.9)


def _draw_curves(axes: Axes, line: Line) -> None:
    frequencies = line.result["frequencies"]
    for layer, curve in zip(line.result["layers"], line.result["curves"]["mean"]):
        axes.plot(frequencies, curve, color=DEPTHS(layer / line.num_layers), linewidth=1)
    tidy(axes)


def _draw_matrix(axes: Axes, line: Line) -> None:
    edges = (0.5, line.num_layers + 0.5)
    axes.imshow(line.result["matrix"]["mean"], cmap="magma", vmin=0, vmax=1, origin="lower", extent=(*edges, *edges))
    for axis in (axes.xaxis, axes.yaxis):
        whole_numbers(axis)


def draw_examples(examples: Examples, title: str) -> Figure:
    """Example images, what a model looks at in them, and the mean's share of its tokens.

    Args:
        examples: of the model.
        title: its label.
    """
    num_layers = len(next(iter(examples.maps.values()), ()))
    layers = np.unique(np.linspace(0, num_layers - 1, min(num_layers, MAX_MAPS)).round().astype(int))
    kinds = list(examples.maps) or [None]
    rows = [(index, kind) for index in range(len(examples.images)) for kind in kinds]
    figure = new_figure(1.25 * (len(layers) + 1) + 3.2, 1.5 * len(rows) + 0.9)
    grid = figure.subplots(len(rows), len(layers) + 2, squeeze=False, width_ratios=[1] * (len(layers) + 1) + [1.7])
    for axes, (index, kind) in zip(grid, rows):
        is_first = kind == kinds[0]
        if kind is not None:
            _draw_maps(axes[1:-1], examples.maps[kind], index, layers)
        axes[0].set_ylabel(kind or "")
        # what belongs to the image stands once, beside and above the first of its maps
        if is_first:
            axes[0].imshow(examples.images[index].numpy())
            _head(axes[:-1], examples, index, layers)
            _draw_shares(axes[-1], examples, index)
            place = index * len(kinds)
            axes[-1].set_subplotspec(axes[-1].get_gridspec()[place : place + len(kinds), -1])
        else:
            axes[0].spines[:].set_visible(False)
            axes[-1].set_visible(False)
        axes[0].set(xticks=[], yticks=[])
    figure.suptitle(title_of("Examples", title), fontsize="medium", fontweight="bold")
    if len(layers):
        _add_scale(figure, grid[:, :-1], "0" if len(kinds) == 1 else "0 or less")
    return figure


def _add_scale(figure: Figure, grid: np.ndarray, least: str) -> None:
    """What the colours of maps mean, each on a scale of its own."""
    scale = ScalarMappable(Normalize(0, 1), colormaps["magma"])
    bar = figure.colorbar(scale, ax=list(grid.flat), location="left", shrink=0.6, aspect=30, ticks=[0, 1])
    bar.ax.set_yticklabels([least, "most"], fontsize="small")
    bar.set_label("attention,\neach map on its own scale", fontsize="small")


def _draw_maps(panels: Sequence[Axes], maps: Tensor, index: int, layers: np.ndarray) -> None:
    for panel, layer in zip(panels, layers):
        values = maps[layer, index].numpy()
        panel.imshow(values, cmap="magma", vmin=min(values.min(), 0.0))
        panel.set(xticks=[], yticks=[])


def _head(panels: Sequence[Axes], examples: Examples, index: int, layers: np.ndarray) -> None:
    panels[0].set_title("image", fontsize="small")
    for panel, layer in zip(panels[1:], layers):
        share = "" if examples.dc_share is None else f"\nDC {100 * examples.dc_share[index, layer + 1]:.0f} %"
        panel.set_title(f"layer {layer + 1}{share}", fontsize="small")


def _draw_shares(axes: Axes, examples: Examples, index: int) -> None:
    if examples.dc_share is None:
        axes.set_visible(False)
        return
    axes.plot(100 * examples.dc_share[index].numpy(), marker="o", markersize=2.5, linewidth=1, color=COLOURS[0])
    axes.set(ylim=(-3, 103), yticks=(0, 50, 100))
    if index == len(examples.images) - 1:
        axes.set_xlabel("layer", fontsize="small")
    axes.set_ylabel("DC share (%)", fontsize="small")
    axes.tick_params(labelsize="small")
    whole_numbers(axes.xaxis)
    tidy(axes)
