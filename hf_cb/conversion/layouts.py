"""What the tensors of published checkpoints are called, what shapes they have, and where our models keep them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint.

    Args:
        source: its name there.
        shape: its dimensions as symbols: D width, F width inside the MLP, H heads, A width of a head, C classes, P
            patch, N tokens; numbers stand for themselves, 3D for three times D.
        target: its name in our model; `{}` where queries, keys and values, stacked in this order, become three.
        convert: from the layout there to ours.
        gained: FeatScale's factor multiplies it.
    """

    source: str
    shape: str
    target: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
    gained: bool = False

    @property
    def targets(self) -> list[str]:
        """The names in our model."""
        return [self.target.format(part) for part in "qkv"] if "{}" in self.target else [self.target]

    def inside(self, source_prefix: str, target_prefix: str) -> "Row":
        """The same tensor of one block."""
        source, target = source_prefix + self.source, target_prefix + self.target
        return Row(source, self.shape, target, self.convert, self.gained)


@dataclass(frozen=True)
class Layout:
    """A family of checkpoints.

    Args:
        block: the prefix of block `{}`.
        outside: the tensors outside the blocks.
        inside: those of every block.
        optional: those that every block has or none, by the configuration field that says so.
        techniques: those that only blocks with a technique have, by its configuration field.
        target: the prefix of block `{}` in our model.
        kind: what it is of, in words.
        holder: what our model is called.
        num_extra_tokens: those before the patches.
    """

    block: str
    outside: tuple[Row, ...]
    inside: tuple[Row, ...]
    optional: dict[str, tuple[Row, ...]]
    techniques: dict[str, tuple[Row, ...]]
    target: str = "vit.layers.{}."
    kind: str = "a ViT with class token"
    holder: str = "ViT-CB"
    num_extra_tokens: int = 1

    def rows_of_block(self, index: int, fields: set[str]) -> Iterator[Row]:
        """The tensors of a block whose configuration has these fields on."""
        chosen = [rows for name, rows in {**self.optional, **self.techniques}.items() if name in fields]
        for row in sum(chosen, self.inside):
            yield row.inside(self.block.format(index), self.target.format(index))


def _of_kernel(kernel: Tensor) -> Tensor:
    """JAX's [in, out] to [out, in]."""
    return kernel.transpose(0, 1)


def _of_split_kernel(kernel: Tensor) -> Tensor:
    """JAX's [D, H, A] to [H A, D]: queries, keys or values."""
    return kernel.flatten(1).transpose(0, 1)


def _of_merging_kernel(kernel: Tensor) -> Tensor:
    """JAX's [H, A, D] to [D, H A]: the attention's output projection."""
    return kernel.flatten(0, 1).transpose(0, 1)


def _of_patch_kernel(kernel: Tensor) -> Tensor:
    """JAX's [P, P, 3, D] to [D, 3, P, P]."""
    return kernel.permute(3, 2, 0, 1)


EMBEDDINGS = "vit.embeddings."

# timm's VisionTransformer, the DeiT code, and with its `lamb`s the published code of AttnScale and FeatScale
TIMM = Layout(
    block="blocks.{}.",
    outside=(
        Row("cls_token", "1 1 D", f"{EMBEDDINGS}cls_token"),
        Row("pos_embed", "1 N D", f"{EMBEDDINGS}position_embeddings"),
        Row("patch_embed.proj.weight", "D 3 P P", f"{EMBEDDINGS}patch_embeddings.projection.weight"),
        Row("patch_embed.proj.bias", "D", f"{EMBEDDINGS}patch_embeddings.projection.bias"),
        Row("norm.weight", "D", "vit.layernorm.weight"),
        Row("norm.bias", "D", "vit.layernorm.bias"),
        Row("head.weight", "C D", "classifier.weight"),
        Row("head.bias", "C", "classifier.bias"),
    ),
    inside=(
        Row("norm1.weight", "D", "layernorm_before.weight"),
        Row("norm1.bias", "D", "layernorm_before.bias"),
        Row("attn.qkv.weight", "3D D", "attention.{}_proj.weight"),
        Row("attn.proj.weight", "D D", "attention.o_proj.weight"),
        Row("attn.proj.bias", "D", "attention.o_proj.bias"),
        Row("norm2.weight", "D", "layernorm_after.weight"),
        Row("norm2.bias", "D", "layernorm_after.bias"),
        Row("mlp.fc1.weight", "F D", "mlp.fc1.weight"),
        Row("mlp.fc1.bias", "F", "mlp.fc1.bias"),
        Row("mlp.fc2.weight", "D F", "mlp.fc2.weight"),
        Row("mlp.fc2.bias", "D", "mlp.fc2.bias"),
    ),
    optional={"qkv_bias": (Row("attn.qkv.bias", "3D", "attention.{}_proj.bias"),)},
    techniques={
        "attn_scale": (Row("attn.lamb", "H", "attention.attn_scale.omega"),),
        "feat_scale": (
            Row("lamb1", "D", "feat_scale.dc_scale", gained=True),
            Row("lamb2", "D", "feat_scale.hc_scale", gained=True),
        ),
    },
)

# where `apply_techniques` adds them to models whose attention branch ends with the attention
APPLIED_TECHNIQUES = {
    "attn_scale": (Row("attn.lamb", "H", "attention.attn_scale.omega"),),
    "feat_scale": (
        Row("lamb1", "D", "attention.feat_scale.dc_scale", gained=True),
        Row("lamb2", "D", "attention.feat_scale.hc_scale", gained=True),
    ),
}


def _of_deit(row: Row) -> Row:
    target = row.target.replace("vit.", "deit.", 1) if row.target.startswith("vit.") else f"cls_{row.target}"
    return replace(row, target=target)


# the DeiT code's model with distillation token, https://arxiv.org/abs/2012.12877
DISTILLED = replace(
    TIMM,
    outside=(
        *map(_of_deit, TIMM.outside),
        Row("dist_token", "1 1 D", "deit.embeddings.distillation_token"),
        Row("head_dist.weight", "C D", "distillation_classifier.weight"),
        Row("head_dist.bias", "C", "distillation_classifier.bias"),
    ),
    techniques=APPLIED_TECHNIQUES,
    target="deit.layers.{}.",
    kind="a distilled DeiT",
    holder="DeiT",
    num_extra_tokens=2,
)
# what only its checkpoints have
OF_DISTILLED = r"^(dist_token$|head_dist\.)"

ATTENTION = "MultiHeadDotProductAttention_1"

# Google's `.npz`, https://github.com/google-research/vision_transformer
GOOGLE = Layout(
    block="Transformer/encoderblock_{}/",
    outside=(
        Row("cls", "1 1 D", f"{EMBEDDINGS}cls_token"),
        Row("Transformer/posembed_input/pos_embedding", "1 N D", f"{EMBEDDINGS}position_embeddings"),
        Row("embedding/kernel", "P P 3 D", f"{EMBEDDINGS}patch_embeddings.projection.weight", _of_patch_kernel),
        Row("embedding/bias", "D", f"{EMBEDDINGS}patch_embeddings.projection.bias"),
        Row("Transformer/encoder_norm/scale", "D", "vit.layernorm.weight"),
        Row("Transformer/encoder_norm/bias", "D", "vit.layernorm.bias"),
        Row("head/kernel", "D C", "classifier.weight", _of_kernel),
        Row("head/bias", "C", "classifier.bias"),
    ),
    inside=(
        Row("LayerNorm_0/scale", "D", "layernorm_before.weight"),
        Row("LayerNorm_0/bias", "D", "layernorm_before.bias"),
        Row(f"{ATTENTION}/query/kernel", "D H A", "attention.q_proj.weight", _of_split_kernel),
        Row(f"{ATTENTION}/query/bias", "H A", "attention.q_proj.bias", Tensor.flatten),
        Row(f"{ATTENTION}/key/kernel", "D H A", "attention.k_proj.weight", _of_split_kernel),
        Row(f"{ATTENTION}/key/bias", "H A", "attention.k_proj.bias", Tensor.flatten),
        Row(f"{ATTENTION}/value/kernel", "D H A", "attention.v_proj.weight", _of_split_kernel),
        Row(f"{ATTENTION}/value/bias", "H A", "attention.v_proj.bias", Tensor.flatten),
        Row(f"{ATTENTION}/out/kernel", "H A D", "attention.o_proj.weight", _of_merging_kernel),
        Row(f"{ATTENTION}/out/bias", "D", "attention.o_proj.bias"),
        Row("LayerNorm_2/scale", "D", "layernorm_after.weight"),
        Row("LayerNorm_2/bias", "D", "layernorm_after.bias"),
        Row("MlpBlock_3/Dense_0/kernel", "D F", "mlp.fc1.weight", _of_kernel),
        Row("MlpBlock_3/Dense_0/bias", "F", "mlp.fc1.bias"),
        Row("MlpBlock_3/Dense_1/kernel", "F D", "mlp.fc2.weight", _of_kernel),
        Row("MlpBlock_3/Dense_1/bias", "D", "mlp.fc2.bias"),
    ),
    optional={},
    techniques={},
)

# by a pattern in a tensor's name; families of models first, then the parts that make a ViT another model
CANNOT_HOLD = {
    r"^deit\.|embeddings\.distillation_token|^distillation_classifier": "is of a Hugging Face DeiT",
    r"^blocks_token_only\.|\.attn\.proj_[lw]\.": "is of a CaiT",
    r"^swin\.": "is of a Hugging Face Swin",
    r"\.attn\.(cpb_mlp|logit_scale)": "is of a Swin V2",
    r"^blocks\.\d+\.attn\.(relative_position|rel_pos|q_bias)": "is of a BEiT or another model of relative positions",
    r"^conv_root/|^patch_embed\.(backbone|conv)": "is of a hybrid with a convolutional stem",
    r"MixerBlock|mlp_tokens": "is of an MLP-Mixer",
    r"^(params|opt)/|MAPHead|MultiHeadDotProductAttention_0": "is of big_vision's layout",
    r"\.ls[12]\.gamma$|\.gamma_[12]$": "is a LayerScale",
    r"\.attn\.[qk]_norm\.": "is one of the q/k norms",
    r"^(reg_token|register_tokens)$": "is for registers",
    r"^fc_norm\.": "is the norm of average pooling",
    r"^attn_pool\.": "is of attention pooling",
    r"^norm_pre\.": "is of a norm before the blocks, of a CLIP",
    r"^pre_logits[./]": "is of a representation layer before the head (pre_logits)",
    r"\.mlp\.(w12|w3|fc1_[gx])\.": "is of a gated MLP",
}
# as transformers names a ViT's tensors
HUGGING_FACE_VIT = r"^(vit\.|embeddings\.patch_embeddings\.|encoder\.layer\.)"
