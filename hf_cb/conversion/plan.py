"""The model that a checkpoint becomes: ViT-CB, or DeiT or Swin of transformers with techniques applied."""

from dataclasses import dataclass

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedConfig,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
)

from ..techniques.apply import apply_techniques
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .checkpoint import Checkpoint
from .checks import first_match
from .layouts import CANNOT_HOLD, DISTILLED, Row
from .swin import OF_SWIN, read_swin
from .vit import layout_of, read_vit


@dataclass(frozen=True)
class ConversionPlan:
    """What a checkpoint becomes.

    Args:
        model_class: of the model.
        config: of the model.
        techniques: that it has.
        rows: where each tensor goes.
        default_gain: what FeatScale's scales are multiplied with unless another factor is asked for.
    """

    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    techniques: TechniqueConfig
    rows: list[Row]
    default_gain: int

    def build(self, weights: dict[str, Tensor]) -> PreTrainedModel:
        """The model around the weights, which are not copied."""
        dtype = next(iter(weights.values())).dtype
        # Swin has buffers that no checkpoint holds
        with torch.device("cpu" if self.model_class is SwinForImageClassification else "meta"):
            model = self.model_class(self.config)
        if self.has_techniques and self.model_class is not ViTCBForImageClassification:
            apply_techniques(model, self.techniques)
        for name, parameter in model.named_parameters():
            if name.endswith("cb.context_scale"):
                weights[name] = torch.zeros(parameter.shape, dtype=dtype)
        model.load_state_dict(weights, strict=True, assign=True)
        return model.eval()

    @property
    def has_techniques(self) -> bool:
        """Whether any is on."""
        techniques = self.techniques
        return techniques.context_broadcast is not None or techniques.attn_scale or techniques.feat_scale


# the released DeiT code adds FeatScale's two parts twice, so that its scales count double; before its change of
# April 2022 they counted once, and in the code for Swin they do
PUBLISHED_GAIN, PUBLISHED_GAIN_OF_SWIN = 2, 1


def plan_model(
    checkpoint: Checkpoint,
    num_attention_heads: int | None,
    context_broadcast: str | None,
    layer_norm_eps: float,
) -> ConversionPlan:
    """Everything that the tensors determine.

    Args:
        checkpoint: the tensors.
        num_attention_heads: where they do not tell it; read off them, or the width / 64, if None.
        context_broadcast: as in `TechniqueConfig`.
        layer_norm_eps: of a ViT or DeiT.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, or of a model that cannot be held.
    """
    if is_swin(checkpoint):
        read, gain = read_swin(checkpoint), PUBLISHED_GAIN_OF_SWIN
        config_class, model_class = SwinConfig, SwinForImageClassification
    else:
        is_distilled = layout_of(checkpoint) is DISTILLED
        read, gain = read_vit(checkpoint, num_attention_heads, layer_norm_eps), PUBLISHED_GAIN
        config_class, model_class = ViTCBConfig, ViTCBForImageClassification
        if is_distilled:
            config_class, model_class = DeiTConfig, DeiTForImageClassificationWithTeacher
    try:
        techniques = TechniqueConfig(context_broadcast=context_broadcast, **read.techniques)
        own = techniques.to_dict() if config_class is ViTCBConfig else {}
        return ConversionPlan(model_class, config_class(**read.fields, **own), techniques, read.rows, gain)
    except (ValueError, StrictDataclassError) as error:
        raise checkpoint.error(" ".join(str(error).split())) from error


def is_swin(checkpoint: Checkpoint) -> bool:
    """Whether the tensors have the names of a Swin's."""
    is_another = any(first_match(checkpoint, pattern) for pattern in CANNOT_HOLD)
    return not is_another and first_match(checkpoint, OF_SWIN) is not None
