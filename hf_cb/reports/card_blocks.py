"""Parts of model cards: what a push or a comparison renders anew in a card that is there."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Template


TEMPLATES = Path(__file__).parent / "templates"

# what a card names before a push has an address and a revision for it
ADDRESS, REVISION = "USER/{name}", "REVISION"

# parts of a card that are rendered anew later stand between two comments, which no page shows
BLOCK = "<!-- {name} -->\n{text}\n<!-- end of {name} -->"


def render_template(file: str, **variables: Any) -> str:
    """A file of `templates/` with its variables filled in."""
    return Template((TEMPLATES / file).read_text()).render(**variables).rstrip()


def loading_block(task: str, address: str, revision: str, is_pushed: bool = True) -> str:
    """The part of a card that says how to load the model.

    Args:
        task: of the pipeline.
        address: the model's name on the Hub.
        revision: what to pin.
        is_pushed: both are of a page that is there.
    """
    text = render_template("loading.md", task=task, address=address, revision=revision, is_pushed=is_pushed)
    return BLOCK.format(name="loading", text=text)


def replace_block(card: str, name: str, block: str) -> str:
    """A card's text with another block of this name; unchanged where it has none."""
    start, end = (re.escape(part) for part in BLOCK.format(name=name, text="\0").split("\0"))
    return re.sub(f"{start}.*?{end}", lambda _: block, card, count=1, flags=re.DOTALL)


def results_block(results: dict[str, Any], plain: dict[str, Any] | None = None) -> str:
    """The part of a card that shows the results.

    Args:
        results: of the run.
        plain: results of the plain ViT of the same size, trained in the same way, if there is one.
    """
    columns = {
        "test images": ("eval_samples", "{}"),
        "accuracy": ("eval_accuracy", "{:.4f}"),
        "top-5 accuracy": ("eval_top_5_accuracy", "{:.4f}"),
        "cross-entropy per image": ("eval_loss", "{:.4f}"),
    }
    columns = {title: column for title, column in columns.items() if results.get(column[0]) is not None}
    models = {"this model": results, **({"plain ViT of the same size": plain} if plain else {})}
    rows = [["model", *columns], ["---"] * (1 + len(columns))]
    for model, its_results in models.items():
        values = ((its_results.get(key), form) for key, form in columns.values())
        rows.append([model, *("" if value is None else form.format(value) for value, form in values)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return BLOCK.format(name="results", text=f"{table}\n\n{_remark(results, plain)}")


def _remark(results: dict[str, Any], plain: dict[str, Any] | None) -> str:
    seed = results["arguments"].get("seed")
    runs = "One run" if plain is None else "One run each"
    remark = f"{runs}{'' if seed is None else f' with seed {seed}'}; the measured weights are the ones in this folder."
    if plain is not None:
        remark += " A single pair of runs does not tell a small difference from chance."
    skipped = results.get("skipped_images")
    number = sum(skipped.values()) if isinstance(skipped, dict) else skipped
    return remark + (f" Images that could not be read and took no part: {number}." if number else "")
