"""Output folders: refused where they hold a run, and written as a whole or not at all."""

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import UsageError


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# what an evaluation writes, perhaps beside the model; a new one in the same folder removes it
EVALUATION_FILES = (
    "eval_results.json",
    "eval_tables.md",
    "confusion_matrix.png",
    "reliability_diagram.png",
    "comparison.png",
    "patch_drop.png",
    "corruptions.png",
    "fgsm.png",
    "pgd.png",
)
# what a run writes; a new run in the same folder removes it, since it describes the old weights
RUN_FILES = (
    *EVALUATION_FILES,
    "README.md",
    "all_results.json",
    "benchmark.png",
    "config.json",
    "preprocessor_config.json",
    "training_curves.png",
    "model.onnx",
    "model.onnx.data",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "adapter_config.json",
    "adapter_model.*",
    "trainer_state.json",
)
# and what says that a run wrote here
RUN_MARKERS = (*RUN_FILES, "step_*", "epoch_*", "checkpoint-*")


def check_output_dir(output_dir: str, overwrite: bool, markers: Sequence[str] = RUN_MARKERS) -> Path:
    """The folder a run may write to; nothing is made yet.

    Args:
        output_dir: where the run is to be written.
        overwrite: a run that stands there may be replaced.
        markers: patterns of what says that a run wrote there.

    Raises:
        UsageError: the path is a file, cannot be written, or holds a run.
    """
    if not output_dir:
        raise UsageError("`output_dir` must name a folder, got an empty name.")
    try:
        folder = Path(output_dir).resolve()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        found = next((path for marker in markers for path in folder.glob(marker)), None)
        # names that no file can have; `exists` keeps silent about them in newer Pythons
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"`output_dir` {output_dir!r} cannot be used: {error}.") from error
    if not existing.is_dir():
        raise UsageError(f"`output_dir` must name a folder, got {output_dir!r}, where {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"`output_dir` {output_dir!r} cannot be written: no right to write to {existing}.")
    if found is not None and not overwrite:
        raise UsageError(
            f"`output_dir` {output_dir!r} already holds a run ({found.name}): name another folder, or give"
            " --overwrite_output_dir."
        )
    return Path(output_dir)


def write_json(file: Path, content: Any, allow_nan: bool = True, default: Callable[[Any], Any] | None = None) -> None:
    """Write a file of results or settings.

    Args:
        file: to write.
        content: JSON values, and what `default` turns into one.
        allow_nan: NaN and infinity may be among them, which no other reader than Python's has to know.
        default: of a value that JSON does not have.
    """
    text = json.dumps(content, indent=2, default=default, allow_nan=allow_nan)
    file.write_text(text + "\n", encoding="utf-8")


def is_file_of_a_run(file: Path, folder: Path) -> bool:
    """Whether a run in `folder` would replace this file."""
    return file.resolve().parent == folder.resolve() and any(file.match(pattern) for pattern in RUN_FILES)


@contextmanager
def replacing(folder: Path, replaced: Sequence[str] = RUN_FILES) -> Iterator[Path]:
    """A hidden folder to write files into.

    When the context ends well, the files take their places in `folder`, and what an earlier run wrote there goes. When
    it does not, `folder` is as it was and the hidden one is gone.

    Args:
        folder: where the files are to be.
        replaced: patterns of what an earlier run wrote.

    Raises:
        UsageError: a folder stands where a file is to be written, or the disk is full.
    """
    folder = folder.resolve()
    exists = folder.exists()
    # within a folder that is there: it may be a mount, and its parent need not be ours to write to
    parent = folder if exists else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".writing-{folder.name}-"
    # of a run that was killed here
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield staging
        _give_usual_rights(staging)
        if exists:
            _move_into(staging, folder, replaced)
        else:
            os.replace(staging, folder)
    # safetensors has an error of its own for a full disk
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        raise UsageError(
            f"{str(folder)!r} cannot be written: {error}. Make room; what has left checkpoints is continued from there."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_into(staging: Path, folder: Path, replaced: Sequence[str]) -> None:
    names = {file.name for file in staging.iterdir()}
    blocked = next((name for name in sorted(names) if (folder / name).is_dir()), None)
    if blocked is not None:
        raise UsageError(f"{folder / blocked} is a folder, where a file is to be written: move it away.")
    for name in names:
        os.replace(staging / name, folder / name)
    for old in [path for pattern in replaced for path in folder.glob(pattern)]:
        if old.name not in names and old.is_file():
            old.unlink()


def _give_usual_rights(folder: Path) -> None:
    # mkdtemp and safetensors write for their owner alone
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
