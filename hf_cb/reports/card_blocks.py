"""Parts of model cards, of which a push renders some anew in a card that is there."""

import re
import shlex
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jinja2 import Template

from .tables import markdown_table


TEMPLATES = Path(__file__).parent / "templates"

# what a card names before a push has an address and a revision for it
ADDRESS, REVISION = "USER/{name}", "REVISION"

# parts of a card that are rendered anew later stand between two comments, which no page shows
BLOCK = "<!-- {name} -->\n{text}\n<!-- end of {name} -->"


def render_template(file: str, **variables: Any) -> str:
    """A file of `templates/` with its variables filled in."""
    return Template((TEMPLATES / file).read_text()).render(**variables).rstrip()


def without_way(path: str) -> str:
    """A path's last part where it is absolute: the way to it is of one machine alone."""
    kind = next((kind for kind in (PurePosixPath, PureWindowsPath) if kind(path).is_absolute()), None)
    return path if kind is None else kind(path).name or path


def portable_command(command: str) -> str:
    """A command line without absolute paths, for a card."""
    words = shlex.split(command)
    # `--flag=path` is one word
    short = [f"{flag}{equals}{without_way(path)}" for flag, equals, path in map(_flag_and_value, words)]
    return command if short == words else shlex.join(short)


def _flag_and_value(word: str) -> tuple[str, str, str]:
    flag, equals, value = word.partition("=")
    return (flag, equals, value) if word.startswith("-") and equals else ("", "", word)


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


def results_block(results: dict[str, Any]) -> str:
    """The part of a card that shows the results of a run; what they do not hold has no column."""
    columns = {
        "test images": ("eval_samples", "{}"),
        "accuracy": ("eval_accuracy", "{:.4f}"),
        "top-5 accuracy": ("eval_top_5_accuracy", "{:.4f}"),
        "cross-entropy per image": ("eval_loss", "{:.4f}"),
    }
    measured = {
        title: form.format(results[key]) for title, (key, form) in columns.items() if results.get(key) is not None
    }
    table = markdown_table(["model", *measured], [["this model", *measured.values()]])
    return BLOCK.format(name="results", text=f"{table}\n\n{_remark(results)}")


def _remark(results: dict[str, Any]) -> str:
    seed, skipped = results["arguments"].get("seed"), results.get("skipped_images")
    run = "One run" if seed is None else f"One run with seed {seed}"
    number = sum(skipped.values()) if isinstance(skipped, dict) else skipped
    left_out = f" Images that could not be read and took no part: {number}." if number else ""
    return f"{run}; the measured weights are the ones in this folder.{left_out}"
