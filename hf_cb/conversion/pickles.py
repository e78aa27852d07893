"""Somebody's pickles: torch reads them without executing anything, and what asks for more is refused by name."""

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .checkpoint import CheckpointError, quoted


class NumpyValue:
    """Stands for a number or an array of numpy's beside the weights, whose pickle calls this and nothing of numpy."""

    def __init__(self, *parts: Any):
        # what numpy would make of a few bytes has no bounds: a number of 2 GB, say
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# numpy 2 renamed its core
NUMPY = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
# what training scripts store beside their weights, and torch does not allow of its own accord
ALLOWED = [argparse.Namespace, *((NumpyValue, name) for name in NUMPY)]
# what torch does allow, as far as checkpoints have it
USUAL = re.compile(
    r"argparse\.Namespace|collections\.OrderedDict|_codecs\.encode|torch\._utils\._rebuild_\w+|torch\.(cuda\.)?\w+Storage"
)
# torch's format before 1.6: the pickles of magic number, version, platform, contents and storage keys
PICKLES_OF_A_LEGACY_FILE = 5
# of torch.save, which its safe reader is made for
PROTOCOL = 2


def load_pickle(path: Path, mmap: bool) -> Any:
    """What torch.save wrote; nothing in it is executed.

    Args:
        path: a file of torch.save's, in its format of today or that of before torch 1.6.
        mmap: leave the tensors in the file, which the format of today allows.

    Raises:
        CheckpointError: the file asks for something to be executed, or is of another protocol.
    """
    with safe_globals(ALLOWED), warnings.catch_warnings():
        # torch warns of what it then refuses
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception:
            refuse_what_it_asks_for(path)
            raise


def refuse_what_it_asks_for(path: Path) -> None:
    """Say why torch does not read a file, where the reason is in its pickle.

    Raises:
        CheckpointError: it asks for something to be executed, or is of another protocol.
    """
    names = _unsafe_globals(path)
    if names:
        raise CheckpointError(
            f"{path}: its pickle asks for {', '.join(map(quoted, names[:5]))}, which a checkpoint has no need of;"
            " refused, and nothing in it was executed. Save the weights alone: torch.save(model.state_dict(), FILE)."
        )
    start = next((file.read(2) for file in _pickles_in(path)), b"")
    if start[:1] == b"\x80" and PROTOCOL < start[1] <= pickle.HIGHEST_PROTOCOL:
        raise CheckpointError(
            f"{path}: is no checkpoint that can be read without executing anything: it is a pickle of protocol"
            f" {start[1]}, and must be one of {PROTOCOL}, as torch.save writes it by default."
        )


def _unsafe_globals(path: Path) -> list[str]:
    """What a file asks for beyond what torch allows, as dotted names; it is taken apart, and not unpickled."""
    try:
        with safe_globals(ALLOWED):
            return sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:
        # torch does so with its own default alone: no file of before 1.6, none of another protocol, no damaged one
        names = [name for file in _pickles_in(path) for name in _globals_until_damage(file)]
        return [name for name in dict.fromkeys(names) if name not in NUMPY and not USUAL.fullmatch(name)]


def _pickles_in(path: Path) -> Iterator[BinaryIO]:
    """The pickles of a file, each open at its start."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        if not is_zip:
            yield from [file] * PICKLES_OF_A_LEGACY_FILE
            return
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if Path(record.filename).name == "data.pkl":
                    with archive.open(record) as opened:
                        yield opened


def _globals_until_damage(file: BinaryIO) -> list[str]:
    has_header = file.peek(1)[:1] == b"\x80"
    names = []
    try:
        for name in globals_in_pickle(file):
            names.append(name)
    except Exception:
        # text may begin like a pickle of the oldest protocol, and is none if it does not end like one
        return names if has_header else []
    return names


def globals_in_pickle(file: BinaryIO) -> Iterator[str]:
    """What a pickle asks for, as dotted names; nothing is imported or executed.

    Args:
        file: open at the pickle's start; read to its end.
    """
    # protocol 4 takes names from the stack; the memo is where it keeps those that it needs again
    strings, memo, last = [], {}, None
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        if opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = last
            continue
        last = memo.get(argument) if opcode.name in ("GET", "BINGET", "LONG_BINGET") else argument
        strings += [last] if isinstance(last, str) else []
