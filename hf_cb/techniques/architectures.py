"""Where transformers' vision transformers keep what the techniques touch: one row for each model type.

To add an architecture, add a row here and one to the table of `tests/technique_models.py`. Its attention has to call
transformers' attention interface, and each of its layers has to call the parts that the row names once.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UsageError


# what only MLPs of the form down(act(gate(x)) * up(x)) have; `weights_in` is gate and up in one
GATES = ("gate_proj", "weights_in")


@dataclass(frozen=True)
class Architecture:
    """The parts of a vision transformer by name.

    Args:
        layers: path from the vision model to the list of its layers; `*` stands for each of several stages.
        norm: in a layer, the norm before the attention, which is as wide as the tokens.
        attention: in a layer, what computes the attention branch, output projection included.
        heads: the attribute of the attention that holds their number.
        mlp: in a layer, what computes the MLP branch.
        branch: in a layer, what has the attention branch for the whole image as its output; None for `attention`.
        branch_is_input: `branch` has it as its input.
    """

    layers: str
    norm: str
    attention: str = "attention"
    heads: str = "num_attention_heads"
    mlp: str = "mlp"
    branch: str | None = None
    branch_is_input: bool = False

    def layers_of(self, module: nn.Module) -> list[nn.Module]:
        """All layers in the order of the forward pass; none where the module has nothing at this path."""
        found = [module]
        for name in self.layers.split("."):
            found = [child for parent in found for key, child in parent.named_children() if name in ("*", key)]
        return [layer for container in found for layer in container.children()]


VIT = Architecture(layers="layers", norm="layernorm_before")
DINOV2 = Architecture(layers="encoder.layer", norm="norm1")
CLIP = Architecture(layers="encoder.layers", norm="layer_norm1", attention="self_attn", heads="num_heads")

# by the `model_type` of the vision model's configuration
ARCHITECTURES = {
    "vit": VIT,
    "deit": VIT,
    "beit": VIT,
    "vit_mae": VIT,
    "vit_msn": VIT,
    "ijepa": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_vit": Architecture(layers="model.layer", norm="norm1", heads="num_heads"),
    "clip_vision_model": CLIP,
    "siglip_vision_model": CLIP,
    "aimv2_vision_model": Architecture(layers="encoder.layers", norm="rms_norm1", heads="num_heads", mlp="ffn"),
    # attention within windows, whose outputs are put together before stochastic depth: only there is all of the map
    "swin": Architecture(
        layers="encoder.layers.*.blocks", norm="layernorm_before", branch="drop_path", branch_is_input=True
    ),
}


@dataclass(frozen=True)
class LayerParts:
    """The modules of one layer that the techniques touch.

    Args:
        attention: what calls transformers' attention interface.
        num_heads: its heads.
        branch_start: what computes the attention branch.
        branch: what has the attention branch for the whole image as its output, or input.
        branch_is_input: as its input.
        mlp: what computes the MLP branch.
        width: of the tokens.
    """

    attention: nn.Module
    num_heads: int
    branch_start: nn.Module
    branch: nn.Module
    branch_is_input: bool
    mlp: nn.Module
    width: int

    @property
    def is_gated(self) -> bool:
        """Whether the MLP is down(act(gate(x)) * up(x)), such as SwiGLU."""
        return any(name in GATES for name, _ in self.mlp.named_children())

    @property
    def activation(self) -> nn.Module:
        """The activation function of an MLP without gate: its only part without weights."""
        (activation,) = (child for child in self.mlp.children() if not any(True for _ in child.parameters()))
        return activation

    @property
    def mlp_width(self) -> int:
        """The width between the two linear layers of an MLP without gate."""
        return next(child for child in self.mlp.children() if any(True for _ in child.parameters())).out_features


@dataclass(frozen=True)
class VisionModel:
    """A vision transformer that the techniques can be added to.

    Args:
        module: the model that holds the layers, possibly within a larger one.
        model_type: its row of `ARCHITECTURES`.
        layers: the layers in the order of the forward pass.
    """

    module: PreTrainedModel
    model_type: str
    layers: list[nn.Module]

    def parts(self) -> list[LayerParts]:
        """The modules of each layer."""
        return [self._parts_of(layer) for layer in self.layers]

    def _parts_of(self, layer: nn.Module) -> LayerParts:
        row = ARCHITECTURES[self.model_type]
        branch_start = layer.get_submodule(row.attention)
        # only the part that calls the attention interface, itself or a part of it, holds the configuration
        (attention,) = (m for m in branch_start.modules() if isinstance(vars(m).get("config"), PreTrainedConfig))
        norm = layer.get_submodule(row.norm)
        return LayerParts(
            attention=attention,
            num_heads=getattr(attention, row.heads),
            branch_start=branch_start,
            branch=layer.get_submodule(row.branch or row.attention),
            branch_is_input=row.branch_is_input,
            mlp=layer.get_submodule(row.mlp),
            width=norm.weight.numel(),
        )


def find_vision_model(model: nn.Module) -> VisionModel:
    """The vision transformer that `model` is or holds.

    Raises:
        ValueError: there is none of the architectures of the table, or more than one.
    """
    found = []
    for module in model.modules():
        row = ARCHITECTURES.get(module.config.model_type) if isinstance(module, PreTrainedModel) else None
        layers = [] if row is None else row.layers_of(module)
        if layers:
            found.append(VisionModel(module, module.config.model_type, layers))
    if len(found) > 1:
        names = ", ".join(type(vision_model.module).__name__ for vision_model in found)
        raise UsageError(
            f"{type(model).__name__} holds {len(found)} vision transformers ({names}): pass the one meant."
        )
    if not found:
        raise UsageError(
            f"{type(model).__name__} neither is nor holds a vision transformer that the techniques can be added to:"
            f" the model type must be one of {', '.join(sorted(ARCHITECTURES))}.{_hint(model)}"
        )
    return found[0]


def _hint(model: nn.Module) -> str:
    types = {module.config.model_type for module in model.modules() if isinstance(module, PreTrainedModel)}
    if "vit_cb" in types:
        return " ViT-CB has the techniques built in: set them in `ViTCBConfig`."
    return f" It is of type {', '.join(sorted(types))}." if types else ""
