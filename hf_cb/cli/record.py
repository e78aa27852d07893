"""What a run's results depend on, written with them."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from . import __version__
from .cores import available_cores
from .run_checkpoints import FREE_TO_CHANGE


REPORTED_VERSIONS = ("torch", "transformers", "accelerate", "datasets", "evaluate", "timm")


def arguments_of(*parts: Any) -> dict[str, Any]:
    """The arguments of several dataclasses that have a value."""
    return {name: value for part in parts for name, value in asdict(part).items() if value is not None}


def fingerprint_of(*parts: Any) -> dict[str, Any]:
    """The arguments that a run depends on: those with which it may be continued."""
    return {name: value for name, value in arguments_of(*parts).items() if name not in FREE_TO_CHANGE}


def describe_run(*parts: Any) -> dict[str, Any]:
    """Arguments, versions and hardware, for `all_results.json`."""
    libraries = {name: version(name) for name in REPORTED_VERSIONS}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "arguments": arguments_of(*parts),
        "versions": {"python": platform.python_version(), "hf_cb": __version__, **libraries},
        "hardware": f"{device}, {available_cores()} cores",
    }
