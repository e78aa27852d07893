"""Checkpoints of Swin, https://arxiv.org/abs/2103.14030, and of the published AttnScale and FeatScale code for it."""

import math
import re
from collections.abc import Iterator

from .checkpoint import Checkpoint
from .checks import check_names, check_shapes, read_sizes, techniques_in
from .layouts import Row
from .vit import ReadCheckpoint


KIND = "a Swin with patch merging at the end of its stages"
OF_SWIN = r"^layers\.\d{1,2}\.(blocks\.\d|downsample\.)"
# Swin's default, which timm's code and transformers' share
LAYER_NORM_EPS = 1e-5
# a stage doubles the width of the one before; its number of heads is its own
HEADS = "HIJKLM"
# stages' buffers, which the window and the image's size determine
BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)")
FIRST_MASK = "layers.0.blocks.1.attn_mask"

OUTSIDE = (
    Row("patch_embed.proj.weight", "D 3 P P", "swin.embeddings.patch_embeddings.projection.weight"),
    Row("patch_embed.proj.bias", "D", "swin.embeddings.patch_embeddings.projection.bias"),
    Row("patch_embed.norm.weight", "D", "swin.embeddings.norm.weight"),
    Row("patch_embed.norm.bias", "D", "swin.embeddings.norm.bias"),
)
# D, F and H are those of the stage
BLOCK = (
    Row("norm1.weight", "D", "layernorm_before.weight"),
    Row("norm1.bias", "D", "layernorm_before.bias"),
    Row("attn.qkv.weight", "3D D", "attention.{}_proj.weight"),
    Row("attn.proj.weight", "D D", "attention.o_proj.weight"),
    Row("attn.proj.bias", "D", "attention.o_proj.bias"),
    Row("attn.relative_position_bias_table", "W H", "attention.relative_position_bias.relative_position_bias_table"),
    Row("norm2.weight", "D", "layernorm_after.weight"),
    Row("norm2.bias", "D", "layernorm_after.bias"),
    Row("mlp.fc1.weight", "F D", "mlp.fc1.weight"),
    Row("mlp.fc1.bias", "F", "mlp.fc1.bias"),
    Row("mlp.fc2.weight", "D F", "mlp.fc2.weight"),
    Row("mlp.fc2.bias", "D", "mlp.fc2.bias"),
)
QKV_BIAS = Row("attn.qkv.bias", "3D", "attention.{}_proj.bias")
TECHNIQUES = {
    "attn_scale": (Row("attn.lamb", "H", "attention.attn_scale.omega"),),
    "feat_scale": (
        Row("lamb1", "D", "drop_path.feat_scale.dc_scale", gained=True),
        Row("lamb2", "D", "drop_path.feat_scale.hc_scale", gained=True),
    ),
}
MERGING = (
    Row("downsample.reduction.weight", "2D 4D", "downsample.reduction.weight"),
    Row("downsample.norm.weight", "4D", "downsample.norm.weight"),
    Row("downsample.norm.bias", "4D", "downsample.norm.bias"),
)
HEAD = (
    Row("norm.weight", "D", "swin.layernorm.weight"),
    Row("norm.bias", "D", "swin.layernorm.bias"),
    Row("head.weight", "C D", "classifier.weight"),
    Row("head.bias", "C", "classifier.bias"),
)


def read_swin(checkpoint: Checkpoint) -> ReadCheckpoint:
    """Everything that the tensors of a Swin determine; heads and window are read off its bias tables.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, named as in the file.
    """
    buffers = {name: checkpoint.tensors.pop(name) for name in [*filter(BUFFER.fullmatch, checkpoint.tensors)]}
    depths = _depths(checkpoint)
    layers = {name: _blocks_with(checkpoint, depths, rows[0].source) for name, rows in TECHNIQUES.items()}
    rows = list(_expected_rows(checkpoint, depths))
    check_names(checkpoint, rows, KIND, "Swin")
    sizes = read_sizes(checkpoint, rows, needed=f"DFPCW{HEADS}")
    check_shapes(checkpoint, rows, sizes)
    window = _window(checkpoint, sizes["W"])
    for stage in range(len(depths)):
        _check_heads(checkpoint, stage, sizes)
    fields = {
        "embed_dim": sizes["D"],
        "depths": depths,
        "num_heads": [sizes[HEADS[stage]] for stage in range(len(depths))],
        "window_size": window,
        "mlp_ratio": _mlp_ratio(sizes),
        "patch_size": sizes["P"],
        "image_size": _image_size(checkpoint, buffers, window, sizes["P"], len(depths)),
        # what masked image modelling asks for
        "encoder_stride": sizes["P"] * 2 ** (len(depths) - 1),
        "num_labels": sizes["C"],
        "qkv_bias": QKV_BIAS.inside("layers.0.blocks.0.", "").source in checkpoint.tensors,
        "layer_norm_eps": LAYER_NORM_EPS,
        "hidden_act": "gelu",
        "drop_path_rate": 0.0,
    }
    return ReadCheckpoint(rows, fields, techniques_in(checkpoint, layers, sum(depths)), KIND)


def _depths(checkpoint: Checkpoint) -> list[int]:
    """The number of blocks in each stage, up to a gap."""
    matches = (re.match(r"layers\.(\d{1,2})\.blocks\.(\d{1,3})\.", name) for name in checkpoint.tensors)
    found = {(int(match[1]), int(match[2])) for match in matches if match}
    depths = []
    while (len(depths), 0) in found and len(depths) < len(HEADS):
        stage = len(depths)
        depths.append(next(block for block in range(len(found) + 1) if (stage, block) not in found))
    if not depths:
        raise checkpoint.error(f"the tensor {checkpoint.named('layers.0.blocks.0.norm1.weight')} of {KIND} is missing.")
    return depths


def _blocks_with(checkpoint: Checkpoint, depths: list[int], name: str) -> list[int]:
    """The blocks, counted through all stages, that have a tensor of this name."""
    blocks = [f"layers.{stage}.blocks.{block}." for stage, depth in enumerate(depths) for block in range(depth)]
    return [index for index, block in enumerate(blocks) if block + name in checkpoint.tensors]


def _expected_rows(checkpoint: Checkpoint, depths: list[int]) -> Iterator[Row]:
    yield from OUTSIDE
    has_bias = any(name.endswith(QKV_BIAS.source) for name in checkpoint.tensors)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}."
            techniques = (
                row
                for rows in TECHNIQUES.values()
                if any(prefix + row.source in checkpoint.tensors for row in rows)
                for row in rows
            )
            for row in (*BLOCK, *[QKV_BIAS] * has_bias, *techniques):
                yield _of_stage(row, stage).inside(prefix, f"swin.encoder.{prefix}")
        if stage < len(depths) - 1:
            for row in MERGING:
                yield _of_stage(row, stage).inside(f"layers.{stage}.", f"swin.encoder.layers.{stage}.")
    yield from (_of_stage(row, len(depths) - 1) for row in HEAD)


def _of_stage(row: Row, stage: int) -> Row:
    """With D and F as multiples of the first stage's, and H by the stage's own letter."""

    def symbol(text: str) -> str:
        number, letter = re.fullmatch(r"(\d*)([A-Z]?)", text).groups()
        if letter == "H":
            return HEADS[stage]
        factor = int(number or 1) * 2**stage
        return f"{factor if factor > 1 else ''}{letter}" if letter and letter in "DF" else text

    return Row(row.source, " ".join(map(symbol, row.shape.split())), row.target, row.convert, row.gained)


def _window(checkpoint: Checkpoint, table_length: int) -> int:
    """The side of a window, whose bias table has (2 side - 1)^2 rows."""
    side = (math.isqrt(table_length) + 1) // 2
    if (2 * side - 1) ** 2 != table_length:
        name = checkpoint.named("layers.0.blocks.0.attn.relative_position_bias_table")
        raise checkpoint.error(f"{name} has {table_length} rows, which are not (2 w - 1)^2 for a window of w x w.")
    return side


def _check_heads(checkpoint: Checkpoint, stage: int, sizes: dict[str, int]) -> None:
    heads, width = sizes[HEADS[stage]], sizes["D"] * 2**stage
    if heads < 1 or width % heads:
        name = checkpoint.named(f"layers.{stage}.blocks.0.attn.relative_position_bias_table")
        raise checkpoint.error(f"{name} is of {heads} heads, which must divide the stage's width {width}.")


def _mlp_ratio(sizes: dict[str, int]) -> float:
    """As transformers wants it, which rounds ratio times width down."""
    ratio = sizes["F"] / sizes["D"]
    return ratio if int(ratio * sizes["D"]) == sizes["F"] else math.nextafter(ratio, math.inf)


def _image_size(checkpoint: Checkpoint, buffers: dict, window: int, patch: int, num_stages: int) -> int:
    """From the masks of the shifted windows, of which there are as many as windows on the map; else the usual one."""
    if FIRST_MASK not in buffers:
        # 224 for windows of 7, 384 for windows of 12: the last stage has one window
        return patch * 2 ** (num_stages - 1) * window
    shape = list(buffers[FIRST_MASK].shape)
    side = math.isqrt(shape[0]) if shape else 0
    if shape != [side**2, window**2, window**2] or side < 1:
        raise checkpoint.error(
            f"the tensor {checkpoint.named(FIRST_MASK)} has the shape {shape}, and [windows, {window**2}, {window**2}]"
            " is expected, for a square of windows."
        )
    return side * window * patch
