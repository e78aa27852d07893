"""From a checkpoint's tensors to a configuration and the weights of our model, each tensor placed or named."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..vit_cb.configuration_vit_cb import ViTCBConfig
from .checkpoint import Checkpoint
from .checks import check_names, check_shapes, first_match, read_sizes, techniques_in
from .layouts import CANNOT_HOLD, DISTILLED, GOOGLE, HUGGING_FACE_VIT, OF_DISTILLED, TIMM, Layout, Row


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
    culprits = {what: first_match(checkpoint, pattern) for pattern, what in CANNOT_HOLD.items()}
    found = [f"{checkpoint.named(name)} {what}" for what, name in culprits.items() if name is not None]
    if found:
        raise checkpoint.error(f"cannot be held by ViT-CB: the tensor {', '.join(found)}.")
    name = first_match(checkpoint, HUGGING_FACE_VIT)
    if name is not None:
        raise checkpoint.error(
            f"{checkpoint.named(name)} is a Hugging Face ViT's, which needs no conversion:"
            " ViTCBForImageClassification.from_pretrained reads its folder."
        )
    if first_match(checkpoint, OF_DISTILLED) is not None:
        return DISTILLED
    return GOOGLE if is_google(checkpoint) else TIMM


def is_google(checkpoint: Checkpoint) -> bool:
    """Whether the tensors have the names of Google's `.npz`."""
    return any(name.startswith(("Transformer/", "embedding/")) for name in checkpoint.tensors)


@dataclass(frozen=True)
class ReadCheckpoint:
    """What a checkpoint's tensors tell.

    Args:
        rows: where each of them goes.
        fields: of the model's configuration.
        techniques: of `TechniqueConfig`.
        kind: what it is of, in words.
    """

    rows: list[Row]
    fields: dict[str, Any]
    techniques: dict[str, Any]
    kind: str


def read_vit(
    checkpoint: Checkpoint, num_attention_heads: int | None = None, layer_norm_eps: float = LAYER_NORM_EPS
) -> ReadCheckpoint:
    """Everything that the tensors of a ViT or a distilled DeiT determine.

    Args:
        checkpoint: with a layout that is known.
        num_attention_heads: where the tensors do not tell it; read off them, or the width / 64, if None.
        layer_norm_eps: of the configuration.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, named as in the file.
    """
    layout = layout_of(checkpoint)
    rows, techniques, optional = _expected_rows(checkpoint, layout)
    sizes = read_sizes(checkpoint, rows)
    heads = _read_heads(checkpoint, sizes, rows, num_attention_heads)
    check_shapes(checkpoint, rows, {**sizes, "H": heads, "A": sizes["D"] // heads})
    fields = {
        "hidden_size": sizes["D"],
        "intermediate_size": sizes["F"],
        "num_attention_heads": heads,
        "patch_size": sizes["P"],
        # what masked image modelling asks for
        "encoder_stride": sizes["P"],
        "image_size": sizes["P"] * _grid_size(checkpoint, layout, sizes["N"]),
        "num_labels": sizes["C"],
        "layer_norm_eps": layer_norm_eps,
        "hidden_act": "gelu",
        **optional,
    }
    return ReadCheckpoint(rows, fields, techniques, layout.kind)


def read_weights(checkpoint: Checkpoint, rows: list[Row], featscale_gain: int) -> dict[str, Tensor]:
    """The weights under our model's names; each tensor is taken out of the checkpoint as it is placed.

    Args:
        checkpoint: that `rows` were read from.
        rows: of all its tensors.
        featscale_gain: what FeatScale's scales are multiplied with.

    Raises:
        CheckpointError: a tensor holds something else than floating point numbers, or one that is not finite.
    """
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


def _expected_rows(checkpoint: Checkpoint, layout: Layout) -> tuple[list[Row], dict[str, Any], dict[str, Any]]:
    """The rows of all tensors, and the techniques and configuration fields that their names determine."""
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
    check_names(checkpoint, rows, layout.kind, layout.holder)
    if depth == 0:
        raise checkpoint.error(
            f"the tensor {checkpoint.named(layout.block.format(0) + layout.inside[0].source)} is missing."
        )
    return rows, techniques_in(checkpoint, layers, depth), {"num_hidden_layers": depth, **optional}


def _names_in_blocks(checkpoint: Checkpoint, layout: Layout) -> dict[int, set[str]]:
    """The tensors' names inside each block, without its prefix."""
    pattern = re.compile(re.escape(layout.block).replace(r"\{\}", r"(\d{1,4})") + "(.*)", re.DOTALL)
    blocks = defaultdict(set)
    for match in filter(None, map(pattern.fullmatch, checkpoint.tensors)):
        blocks[int(match[1])].add(match[2])
    return blocks


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
            " give `num_attention_heads`."
        )
    if heads < 1 or width % heads:
        raise checkpoint.error(f"`num_attention_heads` must divide the width {width}, got {heads}.")
    return heads


def _grid_size(checkpoint: Checkpoint, layout: Layout, num_tokens: int) -> int:
    """Patches along one side of the image."""
    extra = layout.num_extra_tokens
    side = math.isqrt(max(num_tokens - extra, 0))
    if side < 1 or side**2 != num_tokens - extra:
        name = next(row.source for row in layout.outside if "N" in row.shape.split())
        raise checkpoint.error(
            f"{checkpoint.named(name)} is of {num_tokens} tokens, which are not {extra} more than a square of patches."
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
