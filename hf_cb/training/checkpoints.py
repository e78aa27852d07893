"""Checkpoints of a run: written as a whole or not at all, found again, and refused where they belong to another run."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from ..cli.output_dir import write_json
from ..cli.record import INCIDENTAL, arguments_of
from ..errors import UsageError


NAME = re.compile(r"(step|epoch)_(\d+)")
PROGRESS_FILE = "progress.json"
LATEST = "latest"
# torch and safetensors have errors of their own where the disk is full
WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)
# what Accelerate raises for files that are gone, cut off or of another model
LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)

# of the effective batch size, which may not change, the parts may
FREE_TO_CHANGE = INCIDENTAL | {"per_device_train_batch_size", "gradient_accumulation_steps"}


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: whole epochs done, with their evaluation.
        updates: updates done in the epoch that follows.
        step: updates done altogether.
        seconds: time spent.
        loss_sum: of the images of this epoch so far, over all processes.
        loss_count: number of those images.
        history: a row for each epoch done.
        skipped: images met that cannot be read.
    """

    epoch: int = 0
    updates: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, Any]] = field(default_factory=list)


class RunCheckpoints:
    """The checkpoints of one output folder.

    Args:
        folder: of the run.
        accelerator: has prepared everything that is to be saved.
        fingerprint: what the run depends on; a checkpoint of another run is refused.
        limit: how many are kept; None for all.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, fingerprint: dict[str, Any], limit: int | None = None):
        self.folder, self.accelerator, self.limit = folder, accelerator, limit
        # as it comes back from the file
        self.fingerprint = json.loads(json.dumps(fingerprint))

    def save(self, name: str, progress: Progress) -> Path:
        """Write a checkpoint; all processes have to call this.

        Everything goes into a hidden folder, which takes its name at the end: a process that is killed leaves no
        checkpoint that looks whole.

        Returns:
            The checkpoint's folder.

        Raises:
            UsageError: it cannot be written, for example because the disk is full.
        """
        hidden, final = self.folder / f".{name}", self.folder / name
        try:
            self._write(hidden, progress)
            if self.accelerator.is_main_process:
                _discard(final)
                os.replace(hidden, final)
                self._remove_old(final)
        except WRITING_ERRORS as error:
            shutil.rmtree(hidden, ignore_errors=True)
            raise UsageError(f"the checkpoint {str(final)!r} cannot be written: {error}") from error
        self.accelerator.wait_for_everyone()
        return final

    def _write(self, folder: Path, progress: Progress) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(folder))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            content = {"progress": asdict(progress), "run": self.fingerprint}
            write_json(folder / PROGRESS_FILE, content)

    def _remove_old(self, newest: Path) -> None:
        kept = [path for path in complete_checkpoints(self.folder) if path != newest]
        for path in kept[: max(0, len(kept) + 1 - self.limit)] if self.limit else []:
            _discard(path)

    def load(self, checkpoint: Path) -> Progress:
        """Put everything back as it was; all processes have to call this.

        Raises:
            UsageError: the checkpoint is of a run with other arguments, or cannot be read.
        """
        content = read_progress(checkpoint)
        self._require_same_run(checkpoint, content["run"])
        try:
            self.accelerator.load_state(str(checkpoint))
        except LOADING_ERRORS as error:
            raise UsageError(f"the checkpoint {str(checkpoint)!r} cannot be read: {error}") from error
        progress = Progress(**content["progress"])
        progress.skipped = [tuple(key) for key in progress.skipped]
        return progress

    def _require_same_run(self, checkpoint: Path, saved: Mapping[str, Any]) -> None:
        names = [*saved, *(name for name in self.fingerprint if name not in saved)]
        changed = [name for name in names if saved.get(name) != self.fingerprint.get(name)]
        if changed:
            listed = "; ".join(
                f"`{name}` was {saved.get(name)!r} and is {self.fingerprint.get(name)!r}" for name in changed
            )
            raise UsageError(
                f"the checkpoint {str(checkpoint)!r} is of another run: {listed}. Give the same arguments again, or"
                " start anew in another output folder."
            )


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its run.

    Raises:
        UsageError: it is none.
    """
    try:
        content = json.loads((checkpoint / PROGRESS_FILE).read_text())
        Progress(**content["progress"])
        return {"progress": content["progress"], "run": dict(content["run"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{str(checkpoint)!r} is no checkpoint of scripts/train.py, which holds {PROGRESS_FILE}: name a folder"
            f" step_N or epoch_N, or {LATEST}."
        ) from error


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first; what a killed process left half-written is none."""
    found = []
    for path in folder.glob("*_*"):
        if NAME.fullmatch(path.name) and path.is_dir():
            with suppress(UsageError):
                found.append((read_progress(path)["progress"]["step"], path))
    return [path for _, path in sorted(found)]


def checkpoint_to_resume(folder: Path, name: str | None) -> Path | None:
    """The checkpoint that a user asked for; None where there is none to continue from.

    Args:
        folder: of the run.
        name: `latest`, or the way to a checkpoint.

    Raises:
        UsageError: there is no such checkpoint.
    """
    if name is None:
        return None
    if name != LATEST:
        read_progress(Path(name))
        return Path(name)
    return next(reversed(complete_checkpoints(folder)), None)


def _discard(folder: Path) -> None:
    # hidden first: a folder that is half removed must not look like a checkpoint
    hidden = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        os.replace(folder, hidden)
        shutil.rmtree(hidden)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process has left half-written, or half removed."""
    for path in folder.glob(".*_*"):
        if NAME.fullmatch(path.name.removeprefix(".").removeprefix("removing-")) and path.is_dir():
            shutil.rmtree(path)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in a folder, since a new run writes its own there."""
    remove_unfinished(folder)
    for path in folder.glob("*_*"):
        if NAME.fullmatch(path.name) and path.is_dir():
            _discard(path)


def fingerprint_of(*parts: Any) -> dict[str, Any]:
    """The arguments that a run depends on: those with which it may be continued."""
    return {name: value for name, value in arguments_of(*parts).items() if name not in FREE_TO_CHANGE}
