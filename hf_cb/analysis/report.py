"""What an analysis leaves: its numbers, a picture for each measure, and the report."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from .catalogue import MEASURES, SCALE_PAPER, Measure
from .examples import Examples
from .html_report import Picture, render_report
from .plots import MAX_MAPS, Line, save_examples, save_measure


# what an analysis writes; a new one in the same folder removes it
ANALYSIS_FILES = ("analysis.json", "report.html", *(f"{measure.name}.png" for measure in MEASURES), "examples_*.png")
MAX_LABEL = 40


def short_labels(paths: Sequence[str]) -> dict[str, str]:
    """Labels for pictures: the last part of each path where that tells them apart, at most 40 characters."""
    names = {path: PurePath(path).name or path for path in paths}
    counts = Counter(names.values())
    labels = {path: path if counts[name] > 1 else name for path, name in names.items()}
    return {
        path: label if len(label) <= MAX_LABEL else f"...{label[3 - MAX_LABEL :]}" for path, label in labels.items()
    }


def write_analysis(
    folder: Path, results: Mapping[str, dict[str, Any]], examples: Mapping[str, Examples], run: Mapping[str, Any]
) -> None:
    """Everything that an analysis leaves.

    Args:
        folder: to write into.
        results: of each model by its path.
        examples: likewise.
        run: of the report, `hf_cb.report.render_report`.
    """
    labels = short_labels(list(results))
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / "analysis.json").write_text(text + "\n", encoding="utf-8")
    pictures = [_draw_measure(measure, results, labels, folder) for measure in MEASURES]
    for index, (path, example) in enumerate(examples.items(), start=1):
        pictures.append(_draw_examples(example, labels[path], folder / f"examples_{index}.png"))
    report = render_report(results, labels, [picture for picture in pictures if picture is not None], run)
    (folder / "report.html").write_text(report, encoding="utf-8")


def lines_of(name: str, results: Mapping[str, dict[str, Any]], labels: Mapping[str, str]) -> list[Line]:
    """The lines of a measure, of the models that have it."""
    return [
        Line(
            labels[path],
            result[name],
            result["model"]["num_layers"],
            place,
            scaled=result.get("effective_attention", {}).get(name),
        )
        for place, (path, result) in enumerate(results.items())
        if name in result
    ]


def _draw_measure(
    measure: Measure, results: Mapping[str, dict[str, Any]], labels: Mapping[str, str], folder: Path
) -> Picture | None:
    lines = lines_of(measure.name, results, labels)
    if not lines:
        return None
    file = folder / f"{measure.name}.png"
    save_measure(measure, lines, file)
    band = " Lines are means over images and heads, bands one standard deviation over images."
    if measure.first_layer == 0:
        band = " Lines are means over images, bands one standard deviation over them."
    if any(line.scaled for line in lines):
        band += (
            " Dashed: AttnScale's A', what a layer with AttnScale does to its values, beside its softmax attention A."
        )
    left_out = {
        labels[path]: r["left_out"][measure.name] for path, r in results.items() if measure.name in r["left_out"]
    }
    return Picture(measure.title, file, measure.caption + band, left_out)


def _draw_examples(examples: Examples, label: str, file: Path) -> Picture:
    save_examples(examples, label, file)
    caption = (
        f"What {examples.query} looks at in layers of {label}, mean over heads, brighter being more, each map on its"
        f" own scale; at most {MAX_MAPS} layers, evenly chosen."
        if examples.maps
        else f"Images as {label} gets them."
    )
    if "A'" in examples.maps:
        caption += " A is softmax attention, A' with AttnScale, where black can be below 0."
    if examples.dc_share is not None:
        caption += (
            " DC is the share of the tokens' energy that lies in their mean, after the layer: at 100 % all tokens are"
            f" alike (after {SCALE_PAPER})."
        )
    return Picture(f"Examples: {label}", file, caption, {})
