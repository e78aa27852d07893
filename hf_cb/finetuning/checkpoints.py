"""Trainer's checkpoints on the disk: which were written whole, and which of them can still be read."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import UsageError


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that Trainer wrote to their end, the latest last."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(filter(is_whole, found), key=lambda path: int(path.name.removeprefix("checkpoint-")))


def is_whole(checkpoint: Path) -> bool:
    """Whether Trainer came to the end of writing it: its own state is the last file."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def check_readable(checkpoint: Path) -> None:
    """Each of its files can be read to the end.

    Raises:
        UsageError: naming one that cannot, as after a disk was full, and the checkpoint before it that can be used.
    """
    damage = _damage(checkpoint)
    if damage is None:
        return
    others = whole_checkpoints(checkpoint.parent)
    before = others[: others.index(checkpoint)] if checkpoint in others else []
    usable = next((other for other in reversed(before) if _damage(other) is None), None)
    advice = "no earlier one can be used" if usable is None else f"go on from the one before it, {str(usable)!r}"
    raise UsageError(f"the checkpoint {str(checkpoint)!r} is damaged: {damage}; {advice}.")


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files."""
    files = sorted(checkpoint.iterdir())
    if not any(map(_may_hold_weights, files)):
        return "its weights are missing"
    damaged = next((file.name for file in files if file.is_file() and not _can_be_read(file)), None)
    return damaged and f"{damaged} cannot be read to its end"


def _may_hold_weights(path: Path) -> bool:
    # FSDP and DeepSpeed write them into folders
    return path.is_dir() or path.suffix in (".safetensors", ".bin") and path.name != "training_args.bin"


def _can_be_read(file: Path) -> bool:
    """Whether a file is what its ending says; torch.save's have checksums, safetensors its length."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return True
        if file.suffix in (".bin", ".pt", ".pth"):
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        if file.suffix == ".json":
            json.loads(file.read_text())
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError):
        return False
    return True
