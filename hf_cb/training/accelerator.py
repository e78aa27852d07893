"""The accelerator of a run: devices, precision and trackers."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin

from ..errors import UsageError
from .arguments import REPORT_TO, LoopArguments, TrackingArguments


def make_accelerator(arguments: LoopArguments, tracking: TrackingArguments, folder: Path) -> Accelerator:
    """The accelerator of a run; sets the number of threads of this process, and the precision where none was given.

    Args:
        arguments: precision, accumulation and threads.
        tracking: which trackers.
        folder: where trackers write that write files.

    Raises:
        UsageError: the device cannot compute in the precision that was asked for, or a tracker is not installed.
    """
    arguments.limit_threads()
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


class TerminationRequest:
    """Notes SIGTERM while its context lasts, so that the loop can end between two updates.

    Args:
        accelerator: whose processes agree: one request ends all of them.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.received, self._before = accelerator, False, None

    def __enter__(self) -> Self:
        # Python sets handlers in the main thread alone
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> Any:
        self.received = True

    def agreed(self) -> bool:
        """Whether any process was asked to end; all of them have to call this."""
        if self.accelerator.num_processes == 1:
            return self.received
        flag = torch.tensor(float(self.received), device=self.accelerator.device)
        return self.accelerator.reduce(flag).item() > 0
