"""Context Broadcasting, AttnScale and FeatScale for Hugging Face Vision Transformers.

Importing this package registers ViT-CB with transformers' Auto classes; nothing is downloaded, printed or patched.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
)

from .optimization import parameter_groups
from .vit_cb.configuration_vit_cb import ViTCBConfig
from .vit_cb.image_processing_vit_cb import ViTCBImageProcessor, ViTCBImageProcessorPil
from .vit_cb.modeling_vit_cb import (
    ViTCBBackbone,
    ViTCBForImageClassification,
    ViTCBForMaskedImageModeling,
    ViTCBModel,
    ViTCBPreTrainedModel,
)


__version__ = "0.1.0"

AutoConfig.register(ViTCBConfig.model_type, ViTCBConfig)
AutoModel.register(ViTCBConfig, ViTCBModel)
AutoModelForImageClassification.register(ViTCBConfig, ViTCBForImageClassification)
AutoModelForMaskedImageModeling.register(ViTCBConfig, ViTCBForMaskedImageModeling)
AutoBackbone.register(ViTCBConfig, ViTCBBackbone)
AutoImageProcessor.register(
    ViTCBConfig, image_processor_classes={"torchvision": ViTCBImageProcessor, "pil": ViTCBImageProcessorPil}
)

# imported when they are first asked for: who trains a ViT-CB need not wait for them
_LATER = {
    "TechniqueConfig": "techniques.config",
    "apply_techniques": "techniques.apply",
    "from_pretrained": "models.loading",
    "load_techniques": "models.technique_files",
    "push_techniques_to_hub": "models.technique_files",
    "remove_techniques": "techniques.apply",
    "save_techniques": "models.technique_files",
    "technique_parameters": "techniques.apply",
}

if TYPE_CHECKING:
    from .models.loading import from_pretrained
    from .models.technique_files import load_techniques, push_techniques_to_hub, save_techniques
    from .techniques.apply import apply_techniques, remove_techniques, technique_parameters
    from .techniques.config import TechniqueConfig
else:
    # a checker that saw it would take every misspelt name for one of these
    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "TechniqueConfig",
    "ViTCBBackbone",
    "ViTCBConfig",
    "ViTCBForImageClassification",
    "ViTCBForMaskedImageModeling",
    "ViTCBImageProcessor",
    "ViTCBImageProcessorPil",
    "ViTCBModel",
    "ViTCBPreTrainedModel",
    "apply_techniques",
    "from_pretrained",
    "load_techniques",
    "parameter_groups",
    "push_techniques_to_hub",
    "remove_techniques",
    "save_techniques",
    "technique_parameters",
]
