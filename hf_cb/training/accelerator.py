"""The accelerator of a run: devices, precision and trackers."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin

from .cli import UsageError
from .run_arguments import REPORT_TO, LoopArguments, TrackingArguments


def make_accelerator(arguments: LoopArguments, tracking: TrackingArguments, folder: Path) -> Accelerator:
    """The accelerator of a run; sets the number of threads of this process, and the precision where none was given.

    Args:
        arguments: precision, accumulation and threads.
        tracking: which trackers.
        folder: where trackers write that write files.

    Raises:
        UsageError: the device cannot compute in the precision that was asked for, or a tracker is not installed.
    """
    if arguments.num_cpu_threads:
        torch.set_num_threads(arguments.num_cpu_threads)
    # a plugin, since the bare number gives way to an environment variable; the loaders are not Accelerate's
    accumulation = GradientAccumulationPlugin(arguments.gradient_accumulation_steps, sync_with_dataloader=False)
    try:
        accelerator = Accelerator(
            mixed_precision=arguments.mixed_precision,
            gradient_accumulation_plugin=accumulation,
            log_with=_trackers(tracking),
            project_dir=str(folder),
        )
    except ValueError as error:
        raise UsageError(f"`mixed_precision` {arguments.mixed_precision!r} cannot be used here: {error}") from error
    arguments.mixed_precision = accelerator.mixed_precision
    return accelerator


def _trackers(tracking: TrackingArguments) -> list[str] | None:
    if not tracking.with_tracking:
        return None
    available = [str(tracker.value) for tracker in get_available_trackers() if str(tracker.value) in REPORT_TO]
    wanted = available if tracking.report_to == "all" else [tracking.report_to]
    missing = [name for name in wanted if name not in available]
    if missing or not wanted:
        raise UsageError(
            f"`report_to` {tracking.report_to} needs a tracker that is not installed: pip install"
            f" {missing[0] if missing else 'tensorboard'}."
        )
    return wanted
