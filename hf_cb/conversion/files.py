"""Checkpoints are somebody's files: read without running anything in them, and refused by name where they are bad."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from .checkpoint import Checkpoint, CheckpointError, quoted
from .pickles import load_pickle, refuse_what_it_asks_for


# the published training scripts' entry for the weights and for their moving average, then timm's
CONTAINERS = (("model", "model_ema"), ("state_dict", "state_dict_ema"))

# a file whose tensors claim more than this many times its size is made to exhaust the memory
MAX_EXPANSION = 10
SMALL_ENOUGH = 64 * 2**20


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
    checkpoint.unwrap()
    return checkpoint


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
        return load_pickle(path, mmap=False)
    # a pickle of the oldest protocol begins like any text
    refuse_what_it_asks_for(path)
    raise CheckpointError(
        f"{path}: is no checkpoint: it must be written by torch.save, safetensors or numpy.savez"
        f"{', and is empty' if not start else ''}."
    )


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
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: is damaged: the record {quoted(damaged)} fails its checksum.")
    return load_pickle(path, mmap=True)


def _read_npz(path: Path) -> dict[str, Tensor]:
    tensors = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                tensors[name] = torch.from_numpy(arrays[name])
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{path}: the array {quoted(name)} cannot be read: {error}.") from error
    return tensors


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
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
            raise checkpoint.error(
                f"the tensor {quoted(name)} is sparse, nested, quantised or empty; it must hold plain numbers."
            )
    _check_size(checkpoint.source, sum(tensor.nbytes for tensor in tensors.values()), file_size)
    checkpoint.tensors = {name: tensor.detach() for name, tensor in tensors.items()}
