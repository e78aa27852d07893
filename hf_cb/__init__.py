"""Context Broadcasting, AttnScale and FeatScale for Hugging Face Vision Transformers.

Importing this package registers ViT-CB with transformers' Auto classes; nothing is downloaded, printed or patched.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from .configuration_vit_cb import ViTCBConfig
from .modeling_vit_cb import (
    ViTCBBackbone,
    ViTCBForImageClassification,
    ViTCBForMaskedImageModeling,
    ViTCBModel,
    ViTCBPreTrainedModel,
)
from .optimization import parameter_groups


__version__ = "0.1.0"

AutoConfig.register(ViTCBConfig.model_type, ViTCBConfig)
AutoModel.register(ViTCBConfig, ViTCBModel)
AutoModelForImageClassification.register(ViTCBConfig, ViTCBForImageClassification)
AutoModelForMaskedImageModeling.register(ViTCBConfig, ViTCBForMaskedImageModeling)
AutoBackbone.register(ViTCBConfig, ViTCBBackbone)
AutoImageProcessor.register(
    ViTCBConfig, image_processor_classes={"torchvision": ViTImageProcessor, "pil": ViTImageProcessorPil}
)

__all__ = [
    "ViTCBBackbone",
    "ViTCBConfig",
    "ViTCBForImageClassification",
    "ViTCBForMaskedImageModeling",
    "ViTCBModel",
    "ViTCBPreTrainedModel",
    "parameter_groups",
]
