"""The benchmark as tables and as a figure."""

from pathlib import Path
from typing import Any

from ..reports.figures import new_figure, save, tidy
from ..reports.tables import markdown_table


COLUMNS = ("model", "forward, ms", "ratio (range), of best", "training step, ms", "ratio (range), of best")
MEMORY_COLUMNS = ("memory, MiB", "ratio", "training memory, MiB", "ratio", "GFLOP an image")
SWEEP_COLUMNS = ("tokens", "model", "forward, ms", "ratio (range), of best", "memory, MiB", "ratio", "GFLOP an image")


def _time(measured: dict[str, Any]) -> tuple[str, str]:
    median, shortest, longest = (f"{1e3 * measured[name]:.1f}" for name in ("median", "min", "max"))
    ratios = f"{measured['ratio']:.3f} ({measured['ratio_min']:.3f} to {measured['ratio_max']:.3f})"
    return f"{median} ({shortest} to {longest})", f"{ratios}, {measured['ratio_of_best']:.3f}"


def _memory(measured: dict[str, Any]) -> tuple[str, str]:
    return f"{measured['peak_bytes'] / 2**20:.0f}", f"{measured['peak_ratio']:.3f}"


def _gflops(model: dict[str, Any]) -> str:
    return f"{model['gflops']:.2f}"


def format_tables(results: dict[str, Any]) -> str:
    """What `benchmark_models` returned, as tables in Markdown: time, memory with operations, and the sweep."""
    labels = {name: model["label"] for name, model in results["models"].items()}
    models = results["models"].values()
    times = [(model["label"], *_time(model["forward"]), *_time(model["training"])) for model in models]
    memories = [
        (model["label"], *_memory(model["forward"]), *_memory(model["training"]), _gflops(model)) for model in models
    ]
    sweep = [
        (f"{tokens:,}", labels[name], *_time(model["forward"]), *_memory(model["forward"]), _gflops(model))
        for tokens, measured in results["sweep"].items()
        for name, model in measured.items()
    ]
    tables = [markdown_table(COLUMNS, times), markdown_table(("model", *MEMORY_COLUMNS), memories)]
    return "\n\n".join(tables + ([markdown_table(SWEEP_COLUMNS, sweep)] if sweep else []))


def save_figure(results: dict[str, Any], file: Path) -> None:
    """Time over the baseline's of every model, and, after a sweep, time over the number of tokens.

    Args:
        results: as `benchmark_models` returns them.
        file: the PNG to write.
    """
    figure = new_figure(11 if results["sweep"] else 6.5, 4.6)
    panels = figure.subplots(1, 2 if results["sweep"] else 1, squeeze=False)[0]
    _draw_ratios(panels[0], results["models"], results["baseline"])
    if results["sweep"]:
        _draw_sweep(panels[1], results["sweep"], results["models"])
    for axes in panels:
        tidy(axes)
    figure.suptitle(results["setting"], fontsize="medium")
    save(figure, file)


def _draw_ratios(axes: Any, models: dict[str, Any], baseline: str) -> None:
    for offset, phase in ((-0.15, "forward"), (0.15, "training")):
        measured = [model[phase] for model in models.values()]
        below = [entry["ratio"] - entry["ratio_min"] for entry in measured]
        above = [entry["ratio_max"] - entry["ratio"] for entry in measured]
        places = [index + offset for index in range(len(measured))]
        axes.errorbar([entry["ratio"] for entry in measured], places, xerr=(below, above), fmt="o", label=phase)
    axes.set_yticks(range(len(models)), [model["label"] for model in models.values()])
    axes.invert_yaxis()
    axes.set(xlabel=f"time over that of {models[baseline]['label']}: median and range")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.legend(frameon=False)


def _draw_sweep(axes: Any, sweep: dict[int, Any], models: dict[str, Any]) -> None:
    tokens = list(sweep)
    for name in sweep[tokens[0]]:
        measured = [sweep[number][name]["forward"] for number in tokens]
        medians = [1e3 * entry["median"] for entry in measured]
        below = [median - 1e3 * entry["min"] for median, entry in zip(medians, measured)]
        above = [1e3 * entry["max"] - median for median, entry in zip(medians, measured)]
        axes.errorbar(tokens, medians, yerr=(below, above), marker="o", label=models[name]["label"])
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="forward pass, ms: median and range")
    axes.set_xticks(tokens, [f"{number:,}" for number in tokens])
    axes.minorticks_off()
    axes.legend(frameon=False)
