"""Small models of every architecture that takes the techniques, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    BeitConfig,
    BeitForImageClassification,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    IJepaConfig,
    IJepaForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from helpers import randomise_, tiny_images
from hf_cb import TechniqueConfig, apply_techniques, technique_parameters


# 16 patches, so that no two of the counts that matter are the same
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 16,
    "patch_size": 4,
}
MLP = {"intermediate_size": 40}
LABELS = {"num_labels": 5}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11, "projection_dim": 8}
# two stages, the second with one window; the shifted layer 1 has masked windows
SWIN = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 2, "image_size": 16, "patch_size": 2}
SWIN["drop_path_rate"] = 0.0
UPERNET = {"hidden_size": 16, "num_labels": 5, "use_auxiliary_head": False, "pool_scales": [1, 2]}
BEIT = {
    **TINY,
    **MLP,
    **LABELS,
    "drop_path_rate": 0.0,
    "use_relative_position_bias": True,
    "layer_scale_init_value": 0.5,
}
EVERYTHING = {"context_broadcast": "scaled", "attn_scale": True, "feat_scale": True}


@dataclass(frozen=True)
class Case:
    """A small model.

    Args:
        build: the model, with transformers' own initialisation.
        layers: path to the layers of its vision model.
        attention, mlp: of a layer.
        is_gated: the MLP has a gate.
        takes_masks: its forward takes `attention_mask`.
        inputs: besides the images.
    """

    build: Callable[[], torch.nn.Module]
    layers: str
    attention: str = "attention"
    mlp: str = "mlp"
    is_gated: bool = False
    takes_masks: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)


def upernet(backbone_config: Any) -> torch.nn.Module:
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone_config, **UPERNET))


def two_towers(config_class: type, model_class: type, vision_config_class: type, text: dict) -> torch.nn.Module:
    vision = vision_config_class(**TINY, **MLP)
    return model_class(config_class(text_config=text, vision_config=vision.to_dict(), projection_dim=8))


IDS = {"input_ids": torch.tensor([[1, 4, 7, 10], [2, 3, 4, 10]])}
NOISE = {"noise": torch.rand(2, 16, generator=torch.Generator().manual_seed(0))}

CASES = {
    "vit": Case(lambda: ViTForImageClassification(ViTConfig(**TINY, **MLP, **LABELS)), "vit.layers", takes_masks=True),
    "deit": Case(
        lambda: DeiTForImageClassification(DeiTConfig(**TINY, **MLP, **LABELS)), "deit.layers", takes_masks=True
    ),
    "deit-distilled": Case(
        lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, **MLP, **LABELS)),
        "deit.layers",
        takes_masks=True,
    ),
    "beit": Case(lambda: BeitForImageClassification(BeitConfig(**BEIT)), "beit.layers", takes_masks=True),
    "dinov2": Case(
        lambda: Dinov2ForImageClassification(Dinov2Config(**TINY, **LABELS, mlp_ratio=2)), "dinov2.encoder.layer"
    ),
    "dinov2-swiglu": Case(
        lambda: Dinov2ForImageClassification(Dinov2Config(**TINY, **LABELS, use_swiglu_ffn=True)),
        "dinov2.encoder.layer",
        is_gated=True,
    ),
    "dinov2-backbone": Case(lambda: Dinov2Backbone(Dinov2Config(**TINY, mlp_ratio=2)), "encoder.layer"),
    "dinov2-registers": Case(
        lambda: Dinov2WithRegistersForImageClassification(
            Dinov2WithRegistersConfig(**TINY, **LABELS, mlp_ratio=2, num_register_tokens=2)
        ),
        "dinov2_with_registers.encoder.layer",
    ),
    "dinov3": Case(lambda: DINOv3ViTModel(DINOv3ViTConfig(**TINY, **MLP, num_register_tokens=2)), "model.layer"),
    "dinov3-gated": Case(
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**TINY, **MLP, use_gated_mlp=True)), "model.layer", is_gated=True
    ),
    "siglip-vision": Case(lambda: SiglipVisionModel(SiglipVisionConfig(**TINY, **MLP)), "encoder.layers", "self_attn"),
    "siglip-classifier": Case(
        lambda: SiglipForImageClassification(
            SiglipConfig(vision_config=SiglipVisionConfig(**TINY, **MLP).to_dict(), **LABELS)
        ),
        "vision_model.encoder.layers",
        "self_attn",
    ),
    "siglip": Case(
        lambda: two_towers(SiglipConfig, SiglipModel, SiglipVisionConfig, {**TEXT, "projection_size": 24}),
        "vision_model.encoder.layers",
        "self_attn",
        inputs=IDS,
    ),
    "clip-vision": Case(lambda: CLIPVisionModel(CLIPVisionConfig(**TINY, **MLP)), "encoder.layers", "self_attn"),
    "clip": Case(
        lambda: two_towers(CLIPConfig, CLIPModel, CLIPVisionConfig, {**TEXT, "eos_token_id": 10}),
        "vision_model.encoder.layers",
        "self_attn",
        inputs=IDS,
    ),
    "vit-mae": Case(
        lambda: ViTMAEForPreTraining(
            ViTMAEConfig(
                **TINY,
                **MLP,
                mask_ratio=0.5,
                decoder_hidden_size=24,
                decoder_num_hidden_layers=2,
                decoder_num_attention_heads=3,
                decoder_intermediate_size=40,
            )
        ),
        "vit.layers",
        inputs=NOISE,
    ),
    "vit-msn": Case(
        lambda: ViTMSNForImageClassification(ViTMSNConfig(**TINY, **MLP, **LABELS)), "vit.layers", takes_masks=True
    ),
    "ijepa": Case(
        lambda: IJepaForImageClassification(IJepaConfig(**TINY, **MLP, **LABELS)), "ijepa.layers", takes_masks=True
    ),
    "aimv2": Case(
        lambda: Aimv2VisionModel(Aimv2VisionConfig(**TINY, **MLP)), "encoder.layers", mlp="ffn", is_gated=True
    ),
    "swin": Case(lambda: SwinForImageClassification(SwinConfig(**SWIN, **LABELS)), "swin.encoder.layers.*.blocks"),
    # patches and windows that do not tile the map: 6 x 6, then 3 x 3
    "swin-padded": Case(
        lambda: SwinForImageClassification(SwinConfig(**{**SWIN, **LABELS, "patch_size": 3, "drop_path_rate": 0.1})),
        "swin.encoder.layers.*.blocks",
    ),
    "upernet-swin": Case(
        lambda: upernet(SwinConfig(**SWIN, out_features=["stage1", "stage2"])), "backbone.swin.encoder.layers.*.blocks"
    ),
    "upernet-dinov2": Case(
        lambda: upernet(Dinov2Config(**TINY, mlp_ratio=2, out_features=["stage1", "stage3"])), "backbone.encoder.layer"
    ),
    "upernet-beit": Case(
        lambda: upernet(BeitConfig(**{**BEIT, "out_features": ["stage1", "stage3"]})), "backbone.beit.layers"
    ),
}


def plain(name: str, seed: int = 0) -> torch.nn.Module:
    """A model without techniques, in evaluation mode, every weight of which matters."""
    return randomise_(CASES[name].build(), seed)


def with_techniques(name: str, seed: int = 0, **fields: Any) -> torch.nn.Module:
    """The model of `plain` with the techniques of `fields`, by default all of them, whose scales are not 0."""
    model = apply_techniques(plain(name, seed), TechniqueConfig(**(fields or EVERYTHING)))
    return randomise_scales_(model, seed + 1)


@torch.no_grad()
def randomise_scales_(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Fill the techniques' parameters in place, none near 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in technique_parameters(model):
        noise = torch.rand(parameter.shape, generator=generator)
        parameter.copy_(torch.where(noise < 0.3, -0.1 - noise, noise))
    return model


def layers_of(name: str, model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of the vision model, in the order of the forward pass."""
    path, star, rest = CASES[name].layers.partition(".*.")
    containers = [model.get_submodule(path)]
    if star:
        containers = [stage.get_submodule(rest) for stage in containers[0]]
    return [layer for container in containers for layer in container]


def run(name: str, model: torch.nn.Module, images: torch.Tensor | None = None, **arguments: Any) -> torch.Tensor:
    """Logits, reconstruction, similarities, a feature map or the last hidden state; without gradients."""
    images = tiny_images(dtype=next(model.parameters()).dtype) if images is None else images
    with torch.no_grad():
        output = model(pixel_values=images, **CASES[name].inputs, **arguments)
    if "feature_maps" in output:
        return output.feature_maps[-1]
    keys = ("logits", "logits_per_image", "last_hidden_state")
    return next(output[key] for key in keys if key in output)


def layer_outputs(name: str, model: torch.nn.Module, **arguments: Any) -> list[torch.Tensor]:
    """The tokens that each layer of the vision model returns."""
    found = []

    def keep(layer: torch.nn.Module, args: tuple, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers_of(name, model)]
    run(name, model, **arguments)
    for handle in handles:
        handle.remove()
    return found
