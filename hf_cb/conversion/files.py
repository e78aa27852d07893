"""Checkpoints are somebody's files: read without running anything in them, and refused by name where they are bad."""

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import UsageError


# the published training scripts' entry for the weights and for their moving average, then timm's
CONTAINERS = (("model", "model_ema"), ("state_dict", "state_dict_ema"))
PREFIX_OF_DATA_PARALLEL = "module."

# what the published scripts store in a pickle: tensors, state dicts and their arguments
STORED_GLOBALS = re.compile(
    r"argparse\.Namespace|collections\.OrderedDict|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(cuda\.)?\w+Storage"
)
# torch's format before 1.6: the pickles of magic number, version, platform, contents and storage keys
PICKLES_OF_A_LEGACY_FILE = 5

# a file whose tensors claim more than this many times its size is made to exhaust the memory
MAX_EXPANSION = 10
SMALL_ENOUGH = 64 * 2**20


class CheckpointError(UsageError, ValueError):
    """A checkpoint that cannot be converted: one sentence that names the file and the first culprit."""


@dataclass
class Checkpoint:
    """The tensors of a checkpoint.

    Args:
        source: the file, or what stands for it in messages.
        tensors: by name, without the prefix.
        prefix: what all names in the file begin with, "module." or nothing.
        entry: which entry of a training script's checkpoint this is, or nothing.
        left_out: the file's other entries.
    """

    source: str
    tensors: dict[str, Tensor]
    prefix: str = ""
    entry: str = ""
    left_out: list[str] = field(default_factory=list)

    def named(self, name: str) -> str:
        """A tensor's name as it stands in the file, in quotes."""
        return quoted(self.prefix + name)

    def error(self, sentence: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.source}: {sentence}")


def quoted(name: object) -> str:
    """Somebody's text in quotes, on one line and not too long for it."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:100]}...{text[-10:]}"


def read_checkpoint(path: str | Path, use_ema: bool = False) -> Checkpoint:
    """The tensors of a `.pth`, `.pt`, `.safetensors` or `.npz` file; what it is, its contents tell.

    Tensors stay in the file, mapped into memory, where its format allows that. Nothing in it is executed.

    Args:
        path: the file.
        use_ema: take the weights' moving average (`model_ema`) from a training script's checkpoint.

    Raises:
        CheckpointError: there is no such file, it is damaged, is no checkpoint, or asks for something to be executed.
    """
    if not str(path):
        raise CheckpointError("the checkpoint must be a file, got an empty name.")
    path = Path(path)
    with _refusing_what_cannot_be_read(path):
        if not path.is_file():
            what = "is a folder; from_pretrained reads a Hugging Face ViT as it is" if path.is_dir() else "no such file"
            raise CheckpointError(f"{path}: {what}.")
        content = _read(path)
    if use_ema and _container_of(content) is None:
        raise CheckpointError(f"{path}: `use_ema` needs an entry `model_ema`, and the file has no entries.")
    checkpoint = _select(str(path), content, use_ema)
    _check_tensors(checkpoint, path.stat().st_size)
    return _without_prefix(checkpoint)


@contextmanager
def _refusing_what_cannot_be_read(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        # damaged bytes can end a parser in any way, and its message may advise to load the file unsafely
        raise CheckpointError(f"{path}: is truncated, damaged or no checkpoint ({type(error).__name__}).") from error


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK"):
        return _read_zip(path)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"\x80"):
        return _read_legacy_pickle(path)
    _check_globals(path, _globals_without_a_header(path))
    raise CheckpointError(
        f"{path}: is no checkpoint: it must be written by torch.save, safetensors or numpy.savez"
        f"{', and is empty' if not start else ''}."
    )


def _globals_without_a_header(path: Path) -> list[str]:
    """What a file asks for if it is a pickle of the oldest protocol, which begins like any text."""
    with path.open("rb") as file:
        try:
            return list(globals_in_pickle(file))
        except Exception:
            # no pickle at all
            return []


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        pickles = [record for record in records if Path(record.filename).name == "data.pkl"]
        if not pickles and not any(record.filename.endswith(".npy") for record in records):
            raise CheckpointError(f"{path}: is no checkpoint: a zip archive of neither torch.save nor numpy.savez.")
        _check_size(path, sum(record.file_size for record in records), path.stat().st_size)
        if not pickles:
            return _read_npz(path)
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CheckpointError(f"{path}: its records are compressed, which torch.save never does.")
        for record in pickles:
            with archive.open(record) as file:
                _check_globals(path, globals_in_pickle(file))
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: is damaged: the record {quoted(damaged)} fails its checksum.")
    return _load(path, mmap=True)


def _read_npz(path: Path) -> dict[str, Tensor]:
    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                tensors[name] = torch.from_numpy(arrays[name])
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{path}: the array {quoted(name)} cannot be read: {error}.") from error
    return tensors


def _read_legacy_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        for _ in range(PICKLES_OF_A_LEGACY_FILE):
            _check_globals(path, globals_in_pickle(file))
    return _load(path, mmap=False)


def _load(path: Path, mmap: bool) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        # torch warns of what it then refuses
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


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


def _check_globals(path: Path, names: Iterable[str]) -> None:
    strange = []
    try:
        strange += (name for name in names if not STORED_GLOBALS.fullmatch(name))
    finally:
        # also where the pickle turned out to be damaged further on
        if strange:
            names = ", ".join(map(quoted, [*dict.fromkeys(strange)][:5]))
            raise CheckpointError(
                f"{path}: its pickle asks for {names}, which a checkpoint has no need of; refused, and nothing in it"
                " was executed."
            )


def _check_size(path: object, claimed: int, actual: int) -> None:
    if claimed > max(MAX_EXPANSION * actual, SMALL_ENOUGH):
        raise CheckpointError(f"{path}: claims {claimed} bytes of tensors, but is a file of {actual} bytes.")


def _container_of(content: Any) -> tuple[str, str] | None:
    """The names of a training script's entries for weights and moving average, or None for a bare state dict."""
    if not isinstance(content, dict):
        return None
    return next((names for names in CONTAINERS if any(name in content for name in names)), None)


def _select(source: str, content: Any, use_ema: bool) -> Checkpoint:
    container = _container_of(content)
    if container is None:
        return Checkpoint(source, content)
    entry = container[use_ema]
    if entry not in content:
        raise CheckpointError(f"{source}: has no entry {entry!r}; it has {', '.join(map(quoted, [*content][:10]))}.")
    left_out = [name if re.fullmatch(r"\w{1,60}", str(name)) else quoted(name) for name in content if name != entry]
    return Checkpoint(source, content[entry], entry=entry, left_out=left_out)


def _check_tensors(checkpoint: Checkpoint, file_size: int) -> None:
    tensors, where = checkpoint.tensors, f"its entry {checkpoint.entry!r}" if checkpoint.entry else "it"
    if not isinstance(tensors, dict) or not tensors:
        what = "an empty one" if isinstance(tensors, dict) else type(tensors).__name__
        raise checkpoint.error(f"{where} must be a state dict, a dictionary of tensors, and is {what}.")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise checkpoint.error(f"{where} is no state dict: {quoted(name)} is {type(tensor).__name__}, no tensor.")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise checkpoint.error(
                f"the tensor {quoted(name)} is sparse, quantised or empty; it must hold plain numbers."
            )
    _check_size(checkpoint.source, sum(tensor.nbytes for tensor in tensors.values()), file_size)
    checkpoint.tensors = {name: tensor.detach() for name, tensor in tensors.items()}


def _without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    while all(name.startswith(PREFIX_OF_DATA_PARALLEL) for name in checkpoint.tensors):
        checkpoint.tensors = {
            name.removeprefix(PREFIX_OF_DATA_PARALLEL): tensor for name, tensor in checkpoint.tensors.items()
        }
        checkpoint.prefix += PREFIX_OF_DATA_PARALLEL
    return checkpoint
