"""Progress of long work: a bar on a terminal, lines elsewhere, where a bar would fill a log with its every state."""

import os
import sys
from typing import Any

from tqdm.auto import tqdm


LINES = 10


def progress_bar(*args: Any, disable: bool = False, **kwargs: Any) -> tqdm:
    """`tqdm`, or `ProgressLines` off a terminal; arguments as of `tqdm`."""
    if disable or sys.stderr.isatty():
        return tqdm(*args, disable=disable, **kwargs)
    return ProgressLines(*args, **kwargs)


class ProgressLines(tqdm):
    """A line on stderr after each tenth of the work; what has no known end stays silent."""

    def __init__(self, *args: Any, **kwargs: Any):
        # each step is looked at, and no state of the bar is shown
        super().__init__(*args, **{**kwargs, "file": open(os.devnull, "w"), "miniters": 1, "mininterval": 0})
        self.told = 0 if self.total is None else LINES * self.initial // self.total

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if self.total and LINES * self.n // self.total > self.told:
            self.told = LINES * self.n // self.total
            what = f"{self.desc.rstrip(': ')}: " if self.desc else ""
            print(f"{what}{self.n:,} of {self.total:,} {self.unit}", file=sys.stderr, flush=True)
        return shown

    def close(self) -> None:
        super().close()
        if not self.fp.closed:
            self.fp.close()
