"""What a run's results depend on, written with them."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch


# flags that change neither weights nor results
INCIDENTAL = frozenset(
    "output_dir overwrite_output_dir checkpointing_steps save_total_limit resume_from_checkpoint"
    " per_device_eval_batch_size dataloader_num_workers num_cpu_threads disable_tqdm with_tracking report_to"
    " logging_steps push_to_hub hub_model_id hub_private_repo hub_revision".split()
)


REPORTED_VERSIONS = ("torch", "transformers", "accelerate", "datasets", "evaluate", "timm")


def arguments_of(*parts: Any) -> dict[str, Any]:
    """The arguments of several dataclasses that have a value."""
    return {name: value for part in parts for name, value in asdict(part).items() if value is not None}


def describe_run(*parts: Any, libraries: Sequence[str] = REPORTED_VERSIONS) -> dict[str, Any]:
    """Arguments, versions and hardware, for `all_results.json`."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("hf_cb", *libraries)}}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "arguments": arguments_of(*parts),
        "versions": versions,
        "hardware": f"{device}, {available_cores()} cores",
    }


def available_cores() -> int:
    """Those that this process may use: a container or a job's scheduler may leave it less than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
