"""From a checkpoint's tensors to a configuration and the weights of a ViT-CB, each tensor placed or named."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from .checkpoint_files import Checkpoint
from .checkpoint_layouts import CANNOT_HOLD, GOOGLE, HUGGING_FACE_VIT, TIMM, Layout, Row
from .configuration_vit_cb import ViTCBConfig


# of DeiT, timm's ViT and Google's
LAYER_NORM_EPS = 1e-6
# of every published DeiT and ViT
USUAL_HEAD_WIDTH = 64
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def layout_of(checkpoint: Checkpoint) -> Layout:
    """How the tensors are laid out.

    Raises:
        CheckpointError: they are of a model that ViT-CB cannot hold, or of none that is known.
    """
    culprits = {what: _first_match(checkpoint, pattern) for pattern, what in CANNOT_HOLD.items()}
    found = [f"{checkpoint.named(name)} {what}" for what, name in culprits.items() if name is not None]
    if found:
        raise checkpoint.error(f"cannot be held by ViT-CB: the tensor {', '.join(found)}.")
    name = _first_match(checkpoint, HUGGING_FACE_VIT)
    if name is not None:
        raise checkpoint.error(
            f"{checkpoint.named(name)} is a Hugging Face ViT's, which needs no conversion:"
            " ViTCBForImageClassification.from_pretrained reads its folder."
        )
    return GOOGLE if any(name.startswith(("Transformer/", "embedding/")) for name in checkpoint.tensors) else TIMM


def _first_match(checkpoint: Checkpoint, pattern: str) -> str | None:
    return next((name for name in checkpoint.tensors if re.search(pattern, name)), None)


def read_config(
    checkpoint: Checkpoint,
    num_attention_heads: int | None = None,
    context_broadcast: str | None = None,
    layer_norm_eps: float = LAYER_NORM_EPS,
) -> ViTCBConfig:
    """Everything that the tensors determine.

    Args:
        checkpoint: with a layout that is known.
        num_attention_heads: where the tensors do not tell it; read off them, or the width / 64, if None.
        context_broadcast: as in `ViTCBConfig`.
        layer_norm_eps: as in `ViTCBConfig`.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, named as in the file.
    """
    layout = layout_of(checkpoint)
    rows, fields = _expected_rows(checkpoint, layout)
    sizes = _read_sizes(checkpoint, rows)
    heads = _read_heads(checkpoint, sizes, rows, num_attention_heads)
    _check_shapes(checkpoint, rows, {**sizes, "H": heads, "A": sizes["D"] // heads})
    image_size = sizes["P"] * _grid_size(checkpoint, layout, sizes["N"])
    try:
        return ViTCBConfig(
            hidden_size=sizes["D"],
            intermediate_size=sizes["F"],
            num_attention_heads=heads,
            patch_size=sizes["P"],
            # what masked image modelling asks for
            encoder_stride=sizes["P"],
            image_size=image_size,
            num_labels=sizes["C"],
            layer_norm_eps=layer_norm_eps,
            hidden_act="gelu",
            context_broadcast=context_broadcast,
            **fields,
        )
    except ValueError as error:
        raise checkpoint.error(str(error)) from error


def read_weights(checkpoint: Checkpoint, config: ViTCBConfig, featscale_gain: int) -> dict[str, Tensor]:
    """The weights under ViT-CB's names; each tensor is taken out of the checkpoint as it is placed.

    Args:
        checkpoint: that `config` was read from.
        config: of the model.
        featscale_gain: what FeatScale's scales are multiplied with.

    Raises:
        CheckpointError: a tensor holds something else than floating point numbers, or one that is not finite.
    """
    rows, _ = _expected_rows(checkpoint, layout_of(checkpoint))
    dtype = _common_dtype(checkpoint)
    weights, storages = {}, set()
    for row in rows:
        tensor = checkpoint.tensors.pop(row.source)
        if not torch.isfinite(tensor).all():
            raise checkpoint.error(f"the tensor {checkpoint.named(row.source)} holds values that are not finite.")
        tensor = row.convert(tensor).to(dtype)
        tensor = tensor * featscale_gain if row.gained else tensor
        for target, part in zip(row.targets, tensor.chunk(len(row.targets))):
            weights[target] = _unshared(part, storages)
    return weights


def _unshared(tensor: Tensor, storages: set[int]) -> Tensor:
    """The tensor, copied where another one is in the same memory: safetensors writes no such tensors."""
    tensor = tensor.contiguous()
    if tensor.untyped_storage().data_ptr() in storages:
        tensor = tensor.clone()
    storages.add(tensor.untyped_storage().data_ptr())
    return tensor


def timm_rows(config: ViTCBConfig) -> Iterator[Row]:
    """timm's tensors of a ViT without techniques."""
    yield from (row for row in TIMM.outside if config.num_labels > 0 or not row.source.startswith("head."))
    for index in range(config.num_hidden_layers):
        yield from TIMM.rows_of_block(index, {"qkv_bias"} if config.qkv_bias else set())


def _expected_rows(checkpoint: Checkpoint, layout: Layout) -> tuple[list[Row], dict[str, object]]:
    """The rows of all tensors, and the configuration fields that their names determine."""
    blocks = _names_in_blocks(checkpoint, layout)
    depth = max(blocks, default=-1) + 1
    optional = {
        name: any(row.source in inside for inside in blocks.values() for row in rows)
        for name, rows in layout.optional.items()
    }
    layers = {
        name: [index for index in sorted(blocks) if any(row.source in blocks[index] for row in rows)]
        for name, rows in layout.techniques.items()
    }
    rows = list(layout.outside)
    for index in range(depth):
        present = {name for name, on in optional.items() if on} | {name for name in layers if index in layers[name]}
        rows += layout.rows_of_block(index, present)
        # a made-up index is found out before the rows of all blocks up to it exist
        if index not in blocks:
            break
    _check_names(checkpoint, rows)
    if depth == 0:
        raise checkpoint.error(
            f"the tensor {checkpoint.named(layout.block.format(0) + layout.inside[0].source)} is missing."
        )
    techniques = {name: bool(indices) for name, indices in layers.items()}
    apply_layers = _apply_layers(checkpoint, [indices for indices in layers.values() if indices], depth)
    return rows, {"num_hidden_layers": depth, "apply_layers": apply_layers, **optional, **techniques}


def _names_in_blocks(checkpoint: Checkpoint, layout: Layout) -> dict[int, set[str]]:
    """The tensors' names inside each block, without its prefix."""
    pattern = re.compile(re.escape(layout.block).replace(r"\{\}", r"(\d{1,4})") + "(.*)", re.DOTALL)
    blocks = defaultdict(set)
    for match in filter(None, map(pattern.fullmatch, checkpoint.tensors)):
        blocks[int(match[1])].add(match[2])
    return blocks


def _check_names(checkpoint: Checkpoint, rows: list[Row]) -> None:
    expected = {row.source for row in rows}
    missing = next((row.source for row in rows if row.source not in checkpoint.tensors), None)
    unknown = next((name for name in checkpoint.tensors if name not in expected), None)
    holds = f" holds {checkpoint.named(unknown)}, for which ViT-CB has no place" if unknown is not None else ""
    if missing is not None:
        has = f"; it{holds}" if holds else ""
        raise checkpoint.error(f"the tensor {checkpoint.named(missing)} of a ViT with class token is missing{has}.")
    if unknown is not None:
        raise checkpoint.error(f"the file{holds}.")


def _apply_layers(checkpoint: Checkpoint, layers: list[list[int]], depth: int) -> list[int] | None:
    if any(indices != layers[0] for indices in layers):
        raise checkpoint.error(
            f"its techniques are in different blocks, {layers[0]} and {layers[1]}, and ViT-CB has one `apply_layers`"
            " for all."
        )
    return None if not layers or len(layers[0]) == depth else layers[0]


def _votes(checkpoint: Checkpoint, rows: list[Row]) -> dict[str, dict[int, list[str]]]:
    """For each symbol and each size of it, the tensors that have it."""
    votes = defaultdict(lambda: defaultdict(list))
    for row in rows:
        symbols, shape = row.shape.split(), checkpoint.tensors[row.source].shape
        if len(symbols) == len(shape):
            for symbol, size in zip(symbols, shape):
                votes[symbol][size].append(row.source)
    return votes


def _read_sizes(checkpoint: Checkpoint, rows: list[Row]) -> dict[str, int]:
    """What each symbol stands for in most tensors."""
    sizes = {}
    for symbol, voters in _votes(checkpoint, rows).items():
        sizes[symbol] = max(voters, key=lambda size, voters=voters: len(voters[size]))
    for row in rows:
        for symbol in row.shape.split():
            if symbol in "DFPNC" and not sizes.get(symbol):
                shape = list(checkpoint.tensors[row.source].shape)
                raise checkpoint.error(
                    f"the tensor {checkpoint.named(row.source)} must have {len(row.shape.split())} dimensions of at"
                    f" least 1, and its shape is {shape}."
                )
    return sizes


def _read_heads(checkpoint: Checkpoint, sizes: dict[str, int], rows: list[Row], given: int | None) -> int:
    width, stored = sizes["D"], sizes.get("H")
    if given is not None and stored is not None and given != stored:
        name = next(row.source for row in rows if "H" in row.shape.split())
        raise checkpoint.error(
            f"`num_attention_heads` {given} contradicts {checkpoint.named(name)}, which is of {stored} heads."
        )
    heads = given if given is not None else stored
    if heads is None and width % USUAL_HEAD_WIDTH == 0:
        heads = width // USUAL_HEAD_WIDTH
    if heads is None:
        raise checkpoint.error(
            f"does not tell the number of heads, and its width {width} is no multiple of {USUAL_HEAD_WIDTH}:"
            " give --num_attention_heads."
        )
    if heads < 1 or width % heads:
        raise checkpoint.error(f"`num_attention_heads` must divide the width {width}, got {heads}.")
    return heads


def _check_shapes(checkpoint: Checkpoint, rows: list[Row], sizes: dict[str, int]) -> None:
    votes = _votes(checkpoint, rows)
    for row in rows:
        symbols, shape = row.shape.split(), list(checkpoint.tensors[row.source].shape)
        expected = [_size(symbol, sizes) for symbol in symbols]
        if shape != expected:
            pairs = zip(symbols, expected, shape) if len(shape) == len(symbols) else ()
            agreeing = [
                name for symbol, size, actual in pairs if size != actual for name in votes[symbol].get(size, [])
            ]
            witness = next((f", like {checkpoint.named(name)}" for name in agreeing if name != row.source), "")
            raise checkpoint.error(
                f"the tensor {checkpoint.named(row.source)} has the shape {shape}, and {expected} is expected{witness}."
            )


def _size(symbol: str, sizes: dict[str, int]) -> int:
    """Of a symbol, of a number, or of a multiple such as 3D."""
    number, letter = re.fullmatch(r"(\d*)([A-Z]?)", symbol).groups()
    return int(number or 1) * (sizes[letter] if letter else 1)


def _grid_size(checkpoint: Checkpoint, layout: Layout, num_tokens: int) -> int:
    """Patches along one side of the image."""
    side = math.isqrt(num_tokens - 1)
    if side < 1 or side**2 != num_tokens - 1:
        name = next(row.source for row in layout.outside if "N" in row.shape.split())
        raise checkpoint.error(
            f"{checkpoint.named(name)} is of {num_tokens} tokens, which are not a class token and a square of patches."
        )
    return side


def _common_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of all tensors, or the widest where they differ; checkpoints of half precision stay so."""
    dtype = None
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
            raise checkpoint.error(
                f"the tensor {checkpoint.named(name)} is of {tensor.dtype}; it must be one of {allowed}."
            )
        dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    return dtype
