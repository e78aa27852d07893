"""What a study found: means, paired differences with their intervals, a table and a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ..reports.figures import legend_below, marks_only, new_figure, save, style_of_variant, tidy
from ..reports.tables import markdown_table
from .catalogue import MEASURES
from .plots import Line, draw_lines
from .study import Run


# of two sides
CONFIDENCE = 0.95
RUN_RESULTS = ("eval_accuracy", "eval_loss", "train_loss", "train_runtime")
# measures of the last layer in the second table, and over the layers in the figure
SHOWN_MEASURES = ("high_frequency_ratio", "token_similarity", "attention_density", "attention_frequency_response")
DRAWN_MEASURES = ("high_frequency_ratio", "token_similarity")

ON_ACCURACIES = (
    "Mean and standard deviation over seeds. Differences are paired: the same seed gives the same first weights, order"
    " and augmentation. Intervals are by Student's t, each for itself, not corrected for their number; one that holds 0"
    " does not show a difference."
)
ON_MEASURES = "Mean over the images that accuracy was measured on, then mean and standard deviation over seeds."

Results = Mapping[Run, Mapping[str, Any]]


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean of paired differences and its 95 % interval by Student's t, which takes them to be normally distributed.

    Args:
        differences: one for each pair.

    Returns:
        Mean, lower and upper end; None for fewer than two pairs.
    """
    count = len(differences)
    if count < 2:
        return None
    mean, std = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / math.sqrt(count)
    return mean, mean - half, mean + half


def _mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def summarise(results: Results, baseline: str = "plain") -> list[dict[str, Any]]:
    """A row for each depth and variant, in the order of the runs.

    Args:
        results: of each run, with `eval_accuracy` and the others of `RUN_RESULTS`.
        baseline: the variant that the others are compared to, seed by seed.

    Returns:
        Rows with `depth`, `variant`, `n`, mean and standard deviation of each result, and `difference`: mean, lower and
        upper end of the difference in accuracy to the baseline; None for itself, without it, and for a single seed.
    """
    rows = []
    for depth, variant in dict.fromkeys((run.depth, run.variant) for run in results):
        seeds = [run.seed for run in results if (run.depth, run.variant) == (depth, variant)]
        of_seed = {seed: results[Run(depth, variant, seed)] for seed in seeds}
        pairs = [
            of_seed[seed]["eval_accuracy"] - results[Run(depth, baseline, seed)]["eval_accuracy"]
            for seed in seeds
            if variant != baseline and Run(depth, baseline, seed) in results
        ]
        values = {name: _mean_and_std([of_seed[seed][name] for seed in seeds]) for name in RUN_RESULTS}
        rows.append(
            {"depth": depth, "variant": variant, "n": len(seeds), **values, "difference": paired_interval(pairs)}
        )
    return rows


def mean_over_seeds(analyses: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """The measures of each layer, by depth and variant: mean and standard deviation over seeds of the mean over images.

    Args:
        analyses: of each run, as `running.analyze` gives them.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for depth, variant in dict.fromkeys((run.depth, run.variant) for run in analyses):
        of_seeds = [result for run, result in analyses.items() if (run.depth, run.variant) == (depth, variant)]
        found.setdefault(str(depth), {})[variant] = {
            measure.name: _over_seeds([result[measure.name] for result in of_seeds])
            for measure in MEASURES
            if all(measure.name in result for result in of_seeds)
        }
    return found


def _over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    layers = [_mean_and_std(values) for values in zip(*(result["mean"] for result in results))]
    return {
        "layers": results[0]["layers"],
        "mean": [layer["mean"] for layer in layers],
        "std": [layer["std"] for layer in layers],
        "n": len(results),
    }


def _plus_minus(values: Mapping[str, Any], digits: int) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.{digits}f}"
    return f"{values['mean']:.{digits}f}{spread}"


def render_table(summary: Sequence[Mapping[str, Any]], layers: Mapping[str, Any], words: str) -> str:
    """The study in Markdown: accuracies, and the measures after the last layer.

    Args:
        summary: of `summarise`.
        layers: of `mean_over_seeds`.
        words: what was trained, on what.
    """
    parts = (words, _accuracies(summary), ON_ACCURACIES, "After the last layer:", _measures(layers), ON_MEASURES)
    return "\n\n".join(parts) + "\n"


def _accuracies(summary: Sequence[Mapping[str, Any]]) -> str:
    columns = ["layers", "variant", "accuracy", "difference to plain, 95 % interval", "training loss", "n"]
    rows = [
        [
            str(row["depth"]),
            row["variant"],
            _plus_minus(row["eval_accuracy"], 4),
            _interval(row["difference"]),
            _plus_minus(row["train_loss"], 3),
            str(row["n"]),
        ]
        for row in summary
    ]
    return markdown_table(columns, rows)


def _measures(layers: Mapping[str, Any]) -> str:
    titles = {measure.name: measure.title.lower() for measure in MEASURES}
    rows = [
        [depth, variant, *(_last(found.get(name)) for name in SHOWN_MEASURES)]
        for depth, variants in layers.items()
        for variant, found in variants.items()
    ]
    return markdown_table(["layers", "variant", *(titles[name] for name in SHOWN_MEASURES)], rows)


def _interval(difference: tuple[float, float, float] | None) -> str:
    if difference is None:
        return ""
    mean, low, high = difference
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _last(result: Mapping[str, Any] | None) -> str:
    return "" if result is None else _plus_minus({"mean": result["mean"][-1], "std": result["std"][-1]}, 3)


def draw_study(results: Results, summary: Sequence[Mapping[str, Any]], layers: Mapping[str, Any]) -> Figure:
    """The study as a figure: for each depth accuracies, differences to plain, and two measures over the layers.

    Args:
        results: of each run.
        summary: of `summarise`.
        layers: of `mean_over_seeds`.
    """
    depths, variants = ({row[key]: None for row in summary} for key in ("depth", "variant"))
    width, forest = 4.2 * len(depths) + 1.4, 0.9 + 0.3 * len(variants)
    heights = [forest, forest, *[3.0] * len(DRAWN_MEASURES)]
    figure = new_figure(width, sum(heights) + 1)
    grid = figure.subplots(len(heights), len(depths), squeeze=False, sharey="row", height_ratios=heights)
    handles: dict[str, Any] = {}
    for column, depth in enumerate(depths):
        rows = [row for row in summary if row["depth"] == depth]
        _draw_accuracies(grid[0, column], rows, results, list(variants))
        _draw_differences(grid[1, column], rows, list(variants))
        grid[0, column].set_title(f"{depth} layers", fontweight="bold")
        handles |= _draw_measures(grid[2:, column], layers[str(depth)], depth)
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for row in grid[:2]:
        ends = [end for axes in row for end in axes.get_xlim()]
        for axes in row:
            axes.set_xlim(min(ends), max(ends))
    figure.suptitle("Techniques compared", fontsize="large", fontweight="bold")
    legend_below(figure, list(handles.values()), list(handles), width)
    return figure


def save_study(results: Results, summary: Sequence[Mapping[str, Any]], layers: Mapping[str, Any], file: Path) -> None:
    """`draw_study` as a PNG; `file` is its path."""
    save(draw_study(results, summary, layers), file)


def _draw_measures(panels: np.ndarray, found: Mapping[str, Any], depth: int) -> dict[str, Any]:
    axis_of = {measure.name: measure.axis for measure in MEASURES}
    handles: dict[str, Any] = {}
    for axes, name in zip(panels, DRAWN_MEASURES):
        lines = [Line(v, found[v][name], depth, style_of_variant(v)) for v in found if name in found[v]]
        handles |= draw_lines(axes, lines, axis_of[name])
        axes.set_xlabel("layer (band: standard deviation over seeds)")
    return handles


def _draw_accuracies(axes: Axes, rows: Sequence[Mapping[str, Any]], results: Results, variants: Sequence[str]) -> None:
    for row in rows:
        place, style = variants.index(row["variant"]), marks_only(style_of_variant(row["variant"]))
        values = [
            result["eval_accuracy"]
            for run, result in results.items()
            if (run.depth, run.variant) == (row["depth"], row["variant"])
        ]
        axes.plot(values, [place] * len(values), **{**style, "markersize": 5, "alpha": 0.7})
        axes.vlines(row["eval_accuracy"]["mean"], place - 0.35, place + 0.35, color=style["color"], linewidth=2)
    _name_variants(axes, variants)
    axes.set_xlabel("accuracy (points: seeds, line: mean)")


def _draw_differences(axes: Axes, rows: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> None:
    axes.axvline(0, color="grey", linewidth=1, zorder=1)
    for row in rows:
        if row["difference"] is not None:
            place, style = variants.index(row["variant"]), marks_only(style_of_variant(row["variant"]))
            mean, low, high = row["difference"]
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], capsize=4, **style)
    _name_variants(axes, variants)
    axes.set_xlabel("accuracy less plain's (mean and 95 % interval)")


def _name_variants(axes: Axes, variants: Sequence[str]) -> None:
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=6)
    tidy(axes)
