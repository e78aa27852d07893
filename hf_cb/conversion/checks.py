"""Whether a checkpoint's tensors are those of a layout: names, shapes, techniques."""

import re
from collections import defaultdict
from typing import Any

from .checkpoint import Checkpoint
from .layouts import Row


def first_match(checkpoint: Checkpoint, pattern: str) -> str | None:
    """The first tensor whose name a regular expression finds something in."""
    return next((name for name in checkpoint.tensors if re.search(pattern, name)), None)


def check_names(checkpoint: Checkpoint, rows: list[Row], kind: str, holder: str) -> None:
    """Each tensor has a row, and each row its tensor.

    Args:
        checkpoint: the tensors.
        rows: of all that there should be.
        kind: what the checkpoint is of.
        holder: what our model is called.

    Raises:
        CheckpointError: it is not so.
    """
    expected = {row.source for row in rows}
    missing = next((row.source for row in rows if row.source not in checkpoint.tensors), None)
    unknown = next((name for name in checkpoint.tensors if name not in expected), None)
    holds = f" holds {checkpoint.named(unknown)}, for which {holder} has no place" if unknown is not None else ""
    if missing is not None:
        has = f"; it{holds}" if holds else ""
        raise checkpoint.error(f"the tensor {checkpoint.named(missing)} of {kind} is missing{has}.")
    if unknown is not None:
        raise checkpoint.error(f"the file{holds}.")


def techniques_in(checkpoint: Checkpoint, layers: dict[str, list[int]], depth: int) -> dict[str, Any]:
    """Fields of the techniques.

    Args:
        checkpoint: for the error.
        layers: by the name of a technique, the blocks that have it.
        depth: the number of blocks.

    Raises:
        CheckpointError: two techniques are in different blocks.
    """
    found = [indices for indices in layers.values() if indices]
    if any(indices != found[0] for indices in found):
        raise checkpoint.error(
            f"its techniques are in different blocks, {found[0]} and {found[1]}, and there is one `apply_layers`"
            " for all."
        )
    apply_layers = None if not found or len(found[0]) == depth else found[0]
    return {**{name: bool(indices) for name, indices in layers.items()}, "apply_layers": apply_layers}


def votes_of(checkpoint: Checkpoint, rows: list[Row]) -> dict[str, dict[int, list[str]]]:
    """For each symbol and each size of it, the tensors that have it."""
    votes = defaultdict(lambda: defaultdict(list))
    for row in rows:
        symbols, shape = row.shape.split(), checkpoint.tensors[row.source].shape
        if len(symbols) == len(shape):
            for symbol, size in zip(symbols, shape):
                votes[symbol][size].append(row.source)
    return votes


def read_sizes(checkpoint: Checkpoint, rows: list[Row], needed: str = "DFPNC") -> dict[str, int]:
    """What each symbol stands for in most tensors.

    Args:
        checkpoint: with a tensor for each row.
        rows: of all tensors.
        needed: symbols that must have a size.

    Raises:
        CheckpointError: a tensor has no size for its symbol.
    """
    sizes = {}
    for symbol, voters in votes_of(checkpoint, rows).items():
        sizes[symbol] = max(voters, key=lambda size, voters=voters: len(voters[size]))
    for row in rows:
        for symbol in row.shape.split():
            if symbol in needed and not sizes.get(symbol):
                shape = list(checkpoint.tensors[row.source].shape)
                raise checkpoint.error(
                    f"the tensor {checkpoint.named(row.source)} must have {len(row.shape.split())} dimensions of at"
                    f" least 1, and its shape is {shape}."
                )
    return sizes


def check_shapes(checkpoint: Checkpoint, rows: list[Row], sizes: dict[str, int]) -> None:
    """Each tensor has the shape that its row and the symbols' sizes give.

    Raises:
        CheckpointError: it is not so.
    """
    votes = votes_of(checkpoint, rows)
    for row in rows:
        symbols, shape = row.shape.split(), list(checkpoint.tensors[row.source].shape)
        expected = [size_of(symbol, sizes) for symbol in symbols]
        if shape != expected:
            pairs = zip(symbols, expected, shape) if len(shape) == len(symbols) else ()
            agreeing = [
                name for symbol, size, actual in pairs if size != actual for name in votes[symbol].get(size, [])
            ]
            witness = next((f", like {checkpoint.named(name)}" for name in agreeing if name != row.source), "")
            raise checkpoint.error(
                f"the tensor {checkpoint.named(row.source)} has the shape {shape}, and {expected} is expected{witness}."
            )


def size_of(symbol: str, sizes: dict[str, int]) -> int:
    """Of a symbol, of a number, or of a multiple such as 3D."""
    number, letter = re.fullmatch(r"(\d*)([A-Z]?)", symbol).groups()
    return int(number or 1) * (sizes[letter] if letter else 1)
