"""Tables in Markdown, and what models are called in them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a line break at its end."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole where two would be alike."""
    last = [PurePath(path).name or path for path in paths]
    return list(paths) if max(Counter(last).values(), default=0) > 1 else last
