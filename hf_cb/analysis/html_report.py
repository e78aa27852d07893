"""Reports: one HTML file with its pictures inside, which loads nothing."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .catalogue import MEASURES


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Args:
        title: above it.
        file: the PNG.
        caption: below it: what it shows and where it comes from.
        left_out: models that are not in it, with the reason.
    """

    title: str
    file: Path
    caption: str
    left_out: Mapping[str, str]

    @property
    def data(self) -> str:
        """Its bytes for an HTML attribute."""
        return base64.b64encode(self.file.read_bytes()).decode("ascii")


TEMPLATES = Path(__file__).parent / "templates"


def render_report(
    results: Mapping[str, dict[str, Any]],
    labels: Mapping[str, str],
    pictures: Sequence[Picture],
    run: Mapping[str, Any],
) -> str:
    """The report of an analysis.

    Args:
        results: of each model, as in `analysis.json`.
        labels: of the models in the pictures.
        pictures: in their order.
        run: `data` (a sentence), `command`, `versions` and `hardware`.

    Returns:
        HTML.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    return environment.get_template("report.html").render(
        results=results, labels=labels, pictures=pictures, run=run, measures=MEASURES
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
