"""The benchmark as tables and as a figure."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..reports.figures import (
    hollow,
    legend_below,
    marks_only,
    new_figure,
    plain_log_numbers,
    save,
    set_apart,
    style_of_variant,
    tidy,
)
from ..reports.tables import markdown_table


COLUMNS = ("model", "forward, ms", "ratio (range), of best", "training step, ms", "ratio (range), of best")
MEMORY_COLUMNS = ("memory, MiB", "ratio", "training memory, MiB", "ratio")
KEPT_COLUMNS = ("kept for the backward pass, MiB", "ratio", "GFLOP an image")
SWEEP_COLUMNS = ("tokens", "model", "forward, ms", "ratio (range), of best", "memory, MiB", "ratio", "GFLOP an image")


def _time(measured: dict[str, Any]) -> tuple[str, str]:
    median, shortest, longest = (f"{1e3 * measured[name]:.1f}" for name in ("median", "min", "max"))
    ratios = f"{measured['ratio']:.3f} ({measured['ratio_min']:.3f} to {measured['ratio_max']:.3f})"
    return f"{median} ({shortest} to {longest})", f"{ratios}, {measured['ratio_of_best']:.3f}"


def _memory(measured: dict[str, Any], kind: str = "peak") -> tuple[str, str]:
    return f"{measured[f'{kind}_bytes'] / 2**20:.0f}", f"{measured[f'{kind}_ratio']:.3f}"


def _gflops(model: dict[str, Any]) -> str:
    return f"{model['gflops']:.2f}"


def format_tables(results: dict[str, Any]) -> str:
    """What `benchmark_models` returned, as tables in Markdown: time, memory with operations, and the sweep."""
    labels = {name: model["label"] for name, model in results["models"].items()}
    models = results["models"].values()
    times = [(model["label"], *_time(model["forward"]), *_time(model["training"])) for model in models]
    memories = [
        (
            model["label"],
            *_memory(model["forward"]),
            *_memory(model["training"]),
            *_memory(model["training"], "kept"),
            _gflops(model),
        )
        for model in models
    ]
    sweep = [
        (f"{tokens:,}", labels[name], *_time(model["forward"]), *_memory(model["forward"]), _gflops(model))
        for tokens, measured in results["sweep"].items()
        for name, model in measured.items()
    ]
    tables = [markdown_table(COLUMNS, times), markdown_table(("model", *MEMORY_COLUMNS, *KEPT_COLUMNS), memories)]
    return "\n\n".join(tables + ([markdown_table(SWEEP_COLUMNS, sweep)] if sweep else []))


def draw_benchmark(results: dict[str, Any]) -> Figure:
    """Time over the baseline's of every model, and, after a sweep, time over the number of tokens.

    Args:
        results: as `benchmark_models` returns them.
    """
    models, sweep = results["models"], results["sweep"]
    width = 12.0 if sweep else 7.0
    figure = new_figure(width, 2.6 + max(0.36 * len(models), 2.6))
    panels = figure.subplots(1, 2 if sweep else 1, squeeze=False)[0]
    _draw_ratios(panels[0], models, results["baseline"])
    grey = {"color": "dimgrey", "marker": "o", "linestyle": "", "linewidth": 1.5, "markersize": 7.0}
    handles = [Line2D([], [], **grey), Line2D([], [], **hollow(grey))]
    labels = ["forward pass", "training step"]
    if sweep:
        drawn = _draw_sweep(panels[1], sweep, models)
        handles, labels = handles + list(drawn.values()), labels + list(drawn)
    for axes in panels:
        tidy(axes)
    figure.suptitle(results["setting"].replace("; ", "\n"), fontsize="medium")
    legend_below(figure, handles, labels, width)
    return figure


def save_figure(results: dict[str, Any], file: Path) -> None:
    """`draw_benchmark` as a PNG; `file` is its path."""
    save(draw_benchmark(results), file)


def _draw_ratios(axes: Axes, models: dict[str, Any], baseline: str) -> None:
    axes.axvline(1, color="grey", linewidth=1, zorder=1)
    for place, (name, model) in enumerate(models.items()):
        style = marks_only(style_of_variant(name))
        for offset, phase, looks in ((-0.17, "forward", style), (0.17, "training", hollow(style))):
            measured = model[phase]
            ends = (measured["ratio"] - measured["ratio_min"], measured["ratio_max"] - measured["ratio"])
            looks = {**looks, "linewidth": 1.5}
            axes.errorbar([measured["ratio"]], [place + offset], xerr=[[end] for end in ends], capsize=3, **looks)
    axes.set_yticks(range(len(models)), [model["label"] for model in models.values()])
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlabel(f"time over that of {models[baseline]['label']}\n(median and range of the rounds)")


def _draw_sweep(axes: Axes, sweep: dict[int, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Times over the tokens, on axes of logarithms; what a legend shows, by its words."""
    numbers, names = np.array(list(map(int, sweep))), list(next(iter(sweep.values())))
    handles, drawn = {}, []
    for name in names:
        forward = [measured[name]["forward"] for measured in sweep.values()]
        median, shortest, longest = (np.array([1e3 * of[key] for of in forward]) for key in ("median", "min", "max"))
        style, bars = style_of_variant(name), {"yerr": (median - shortest, longest - median), "elinewidth": 1.2}
        drawn.append(axes.errorbar(numbers, median, capsize=3, **bars, **style))
        handles[models[name]["label"]] = Line2D([], [], **style)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="forward pass, ms (median and range)")
    for place, container in enumerate(drawn):
        set_apart(axes, container.get_children(), place, len(names), len(numbers))
    plain_log_numbers(axes.yaxis)
    plain_log_numbers(axes.xaxis)
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    return handles
