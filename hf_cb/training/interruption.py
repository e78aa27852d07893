"""Ending a run when the machine asks for it (SIGTERM), at a moment where nothing is lost."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator


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
