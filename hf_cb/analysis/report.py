"""What an analysis leaves: its numbers, a figure for each measure, and a report: one HTML file that loads nothing."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..cli.output_dir import write_json
from ..reports.figures import save, style_of
from ..reports.fonts import shown_names
from ..reports.papers import SCALE_PAPER
from ..reports.tables import short_names
from .catalogue import MEASURES, Measure
from .examples import Examples
from .plots import MAX_MAPS, Line, draw_examples, draw_measure


TEMPLATES = Path(__file__).parent / "templates"
# what an analysis writes; a new one in the same folder removes it
ANALYSIS_FILES = ("analysis.json", "report.html", *(f"{measure.name}.png" for measure in MEASURES), "examples_*.png")
MAX_LABEL = 40


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report.

    Args:
        title: above it.
        file: the PNG.
        caption: below it: what it shows and where it comes from.
        left_out: models that are not in it, with the reason.
        is_wide: a narrow screen shows a part of it at a time.
    """

    title: str
    file: Path
    caption: str
    left_out: Mapping[str, str]
    is_wide: bool = False

    @property
    def data(self) -> str:
        """Its bytes for an HTML attribute."""
        return base64.b64encode(self.file.read_bytes()).decode("ascii")


def short_labels(paths: Sequence[str]) -> dict[str, str]:
    """Labels for figures: the models' `short_names`, the last 40 characters at most; numbers where no font has them."""
    names = [name if len(name) <= MAX_LABEL else f"...{name[3 - MAX_LABEL :]}" for name in short_names(paths)]
    numbers = [f"model {number}" for number in range(1, len(paths) + 1)]
    return dict(zip(paths, shown_names(names, numbers, MAX_LABEL), strict=True))


def write_analysis(
    folder: Path, results: Mapping[str, dict[str, Any]], examples: Mapping[str, Examples], run: Mapping[str, Any]
) -> None:
    """Everything that an analysis leaves.

    Args:
        folder: to write into.
        results: of each model by its path.
        examples: likewise.
        run: `data` (a sentence), `command`, `versions` and `hardware`, for the report.
    """
    labels = short_labels(list(results))
    write_json(folder / "analysis.json", results, allow_nan=False)
    figures = [_draw_measure(measure, results, labels, folder) for measure in MEASURES]
    for index, (path, example) in enumerate(examples.items(), start=1):
        figures.append(_draw_examples(example, labels[path], folder / f"examples_{index}.png"))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    report = environment.get_template("report.html").render(
        results=results, labels=labels, figures=list(filter(None, figures)), run=run, measures=MEASURES
    )
    (folder / "report.html").write_text(report, encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def lines_of(name: str, results: Mapping[str, dict[str, Any]], labels: Mapping[str, str]) -> list[Line]:
    """The lines of a measure, of the models that have it."""
    return [
        Line(
            labels[path],
            result[name],
            result["model"]["num_layers"],
            style_of(place),
            scaled=result.get("effective_attention", {}).get(name),
        )
        for place, (path, result) in enumerate(results.items())
        if name in result
    ]


def _draw_measure(
    measure: Measure, results: Mapping[str, dict[str, Any]], labels: Mapping[str, str], folder: Path
) -> ReportFigure | None:
    lines = lines_of(measure.name, results, labels)
    if not lines:
        return None
    file = folder / f"{measure.name}.png"
    save(draw_measure(measure, lines), file)
    band = " Lines are means over images and heads, bands one standard deviation over images."
    if measure.first_layer == 0:
        band = " Lines are means over images, bands one standard deviation over them."
    if len(lines) > 1:
        band += " At the same layer the models' points stand a little apart, so that equal ones are seen."
    if any(line.scaled for line in lines):
        band += (
            " Hollow points: AttnScale's A', what a layer with AttnScale does to its values, beside its softmax"
            " attention A."
        )
    left_out = {
        labels[path]: r["left_out"][measure.name] for path, r in results.items() if measure.name in r["left_out"]
    }
    return ReportFigure(measure.title, file, measure.caption + band, left_out)


def _draw_examples(examples: Examples, label: str, file: Path) -> ReportFigure:
    save(draw_examples(examples, label), file)
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
    return ReportFigure(f"Examples: {label}", file, caption, {}, is_wide=True)
