"""Output folders: refused where they hold a run, and written as a whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cli import UsageError


# any of these in a folder says that a run wrote there
RUN_MARKERS = ("config.json", "model.safetensors", "all_results.json", "step_*", "epoch_*")


def check_output_dir(output_dir: str, overwrite: bool) -> Path:
    """The folder a run may write to; nothing is made yet.

    Args:
        output_dir: where the run is to be written.
        overwrite: a run that stands there may be replaced.

    Raises:
        UsageError: the path is a file, cannot be written, or holds a run.
    """
    folder = Path(output_dir)
    if not output_dir or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"`output_dir` must name a folder, got {output_dir!r}, which is none.")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"`output_dir` {output_dir!r} cannot be written: no right to write to {existing}.")
    if not overwrite and any(any(folder.glob(marker)) for marker in RUN_MARKERS):
        raise UsageError(
            f"`output_dir` {output_dir!r} already holds a run: name another folder, or give --overwrite_output_dir."
        )
    return folder


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, to write files into.

    When the context ends well, the files take their places in `folder`, over those of the same names. When it does
    not, `folder` is as it was and the hidden one is gone.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield staging
        _give_usual_rights(staging)
        if folder.exists():
            for file in staging.iterdir():
                os.replace(file, folder / file.name)
        else:
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _give_usual_rights(folder: Path) -> None:
    # mkdtemp and safetensors write for their owner alone
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
