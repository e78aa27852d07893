"""Fields of the dataclasses that command lines are made of, and their limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import hf_argparser

from ..errors import UsageError


# of transformers, which declares what the function returns and not what a checker is to take it for
HfArg: Callable[..., Any] = hf_argparser.HfArg


class Checked:
    """Values of flags with limits."""

    def require(self, name: str, condition: bool, allowed: str) -> None:
        """Raise `UsageError` unless the condition holds."""
        if not condition:
            raise UsageError(f"`{name}` must be {allowed}, got {getattr(self, name)!r}.")

    def require_all(self, names: str, condition: Callable[[Any], bool], allowed: str) -> None:
        """The same for several flags; those that are None are left out."""
        for name in names.split():
            value = getattr(self, name)
            self.require(name, value is None or condition(value), allowed)


@dataclass(kw_only=True)
class ThreadArguments(Checked):
    """How much of the machine a process takes."""

    num_cpu_threads: int = HfArg(
        default=1,
        help="Threads of a process for arithmetic on a CPU; 0 leaves it to torch. Small models gain little from a"
        " second one, and lose much where it has to wait for a busy core.",
    )

    def __post_init__(self) -> None:
        # more than any machine has; torch takes no number beyond 31 bits
        self.require_all("num_cpu_threads", lambda number: 0 <= number <= 1024, "from 0 to 1024")

    def limit_threads(self) -> None:
        """Take no more than that, from here on."""
        if self.num_cpu_threads:
            torch.set_num_threads(self.num_cpu_threads)
