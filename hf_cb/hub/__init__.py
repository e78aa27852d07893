"""Sharing on the Hub: a folder is checked where this package cannot be imported, and goes up in one commit.

It imports `models`, `data` and the floors below, and no other job.
"""

from .folder import HubError
from .push import Destination, HubArguments, Push, check_destination, prepare_push, push_run, push_to_hub
from .verify import check_loads_elsewhere


__all__ = [
    "Destination",
    "HubArguments",
    "HubError",
    "Push",
    "check_destination",
    "check_loads_elsewhere",
    "prepare_push",
    "push_run",
    "push_to_hub",
]
