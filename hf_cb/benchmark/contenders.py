"""Who takes part in the models' benchmark: models with each technique, and what they are measured against. Needs timm.

Of ViT-CB these are transformers' ViT, the techniques as their published code computes them, and timm's ViT; of any
other architecture the plain model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, ViTConfig, ViTForImageClassification

from ..models.classifier import Logits
from ..techniques.apply import apply_techniques, technique_parameters
from ..techniques.architectures import ARCHITECTURES
from ..techniques.config import TechniqueConfig
from ..techniques.variants import VARIANTS
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .published import as_published


BASELINE, BASELINE_OF_OTHERS = "vit", "plain"
# Swin's stages have other widths than a preset's; ViT-MAE leaves out patches
MODEL_TYPES = (ViTCBConfig.model_type, *(name for name in ARCHITECTURES if name not in ("swin", "vit_mae")))

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "layer_norm_eps",
)
IMAGENET_CLASSES = 1000


def sizes_of(config: ViTCBConfig) -> dict[str, Any]:
    """What all contenders have in common: the sizes of a configuration, and ImageNet's number of classes."""
    return {"num_labels": IMAGENET_CLASSES, **{name: getattr(config, name) for name in SIZES}}


def _stock_vit(sizes: dict[str, Any]) -> nn.Module:
    return Logits(ViTForImageClassification(ViTConfig(**sizes, attn_implementation="sdpa")))


def _vit_cb(sizes: dict[str, Any], technique: str, published: bool = False) -> nn.Module:
    model = ViTCBForImageClassification(ViTCBConfig(**sizes, **VARIANTS[technique], attn_implementation="sdpa"))
    _spread_scales(model)
    return Logits(as_published(model) if published else model)


def _spread_scales(model: nn.Module) -> None:
    for parameter in technique_parameters(model):
        # away from 0, so that nothing is measured that computes with zeros alone
        nn.init.normal_(parameter, std=0.1)


class PooledLogits(nn.Module):
    """A vision model of transformers with a linear head on the mean of its tokens.

    Args:
        model: returns `last_hidden_state`.
        num_labels: outputs of the head.
    """

    def __init__(self, model: nn.Module, num_labels: int):
        super().__init__()
        self.model, self.head = model, nn.Linear(model.config.hidden_size, num_labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, height, width] to [B, classes]."""
        return self.head(self.model(pixel_values).last_hidden_state.mean(1))


def _of_architecture(sizes: dict[str, Any], model_type: str, technique: str | None = None) -> nn.Module:
    # DINOv2 has a ratio in the place of the MLP's width; BEiT drops paths by default
    more = {"mlp_ratio": sizes["intermediate_size"] // sizes["hidden_size"], "drop_path_rate": 0.0}
    config = AutoConfig.for_model(model_type, **sizes)
    for name, value in more.items():
        if name in config.to_dict():
            setattr(config, name, value)
    model = AutoModel.from_config(config, attn_implementation="sdpa")
    if technique is not None:
        _spread_scales(apply_techniques(model, TechniqueConfig(**VARIANTS[technique])))
    return PooledLogits(model, sizes["num_labels"])


def _timm_vit(sizes: dict[str, Any]) -> nn.Module:
    return VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        num_classes=sizes["num_labels"],
        embed_dim=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        mlp_ratio=sizes["intermediate_size"] / sizes["hidden_size"],
    )


Builder = Callable[[dict[str, Any]], nn.Module]
LABELS = {
    "cb": "CB",
    "cb_s": "CB_S",
    "attn_scale": "AttnScale",
    "feat_scale": "FeatScale",
    "all": "CB, AttnScale, FeatScale",
}
# name: (label, builder)
CONTENDERS: dict[str, tuple[str, Builder]] = {
    BASELINE: ("ViT (transformers)", _stock_vit),
    **{name: (label, partial(_vit_cb, technique=name)) for name, label in LABELS.items()},
    "cb_published": ("CB, as published", partial(_vit_cb, technique="cb", published=True)),
    "attn_scale_published": ("AttnScale, as published", partial(_vit_cb, technique="attn_scale", published=True)),
    "feat_scale_published": ("FeatScale, as published", partial(_vit_cb, technique="feat_scale", published=True)),
    "all_published": ("all three, as published", partial(_vit_cb, technique="all", published=True)),
    "timm": ("ViT (timm)", _timm_vit),
}
# how cost grows with the tokens is shown for these
SWEPT = (BASELINE, BASELINE_OF_OTHERS, "all", "all_published", "timm")


def contenders_of(model_type: str) -> dict[str, tuple[str, Builder]]:
    """Label and builder of each model, by name; all are measured against the first.

    Args:
        model_type: one of `MODEL_TYPES`.
    """
    if model_type == ViTCBConfig.model_type:
        return CONTENDERS
    techniques = {name: (label, partial(_of_architecture, technique=name)) for name, label in LABELS.items()}
    found = {BASELINE_OF_OTHERS: (f"{model_type} (transformers)", _of_architecture), **techniques}
    return {name: (label, partial(builder, model_type=model_type)) for name, (label, builder) in found.items()}


def build(
    name: str,
    sizes: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    model_type: str = ViTCBConfig.model_type,
) -> nn.Module:
    """A contender: images [B, 3, height, width] to logits [B, classes].

    Args:
        name: a key of `contenders_of(model_type)`.
        sizes: as `sizes_of` returns them.
        device: where it is to be.
        dtype: of its weights.
        model_type: one of `MODEL_TYPES`.
    """
    torch.manual_seed(0)
    return contenders_of(model_type)[name][1](sizes).to(device=device, dtype=dtype)


def num_tokens(sizes: dict[str, Any], model_type: str) -> int:
    """How many tokens attend."""
    name = next(iter(contenders_of(model_type)))
    # no number is computed on the meta device
    model = build(name, sizes, torch.device("meta"), torch.float32, model_type).eval().model
    with torch.no_grad():
        images = torch.empty(1, 3, sizes["image_size"], sizes["image_size"], device="meta")
        outputs = (model.vit if model_type == ViTCBConfig.model_type else model)(images)
    return outputs.last_hidden_state.shape[1]
