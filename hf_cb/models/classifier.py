"""Any Hugging Face image classifier as a function of pictures with values from 0 to 1, its normalisation inside."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, BaseImageProcessor

from ..errors import UsageError
from .image_processors import PixelScale, own_image_processor
from .loading import load


class Classifier:
    """A classifier in evaluation mode, without gradients for its weights.

    Args:
        model: its output has `logits`.
        image_processor: the model's own.
        name: how results call it.

    Raises:
        UsageError: see `PixelScale`.
    """

    def __init__(self, model: nn.Module, image_processor: BaseImageProcessor, name: str = "model"):
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.scale = PixelScale(image_processor)
        self.label_names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def patch_size(self) -> int:
        """Side of the model's patches in pixels, 16 where it has none."""
        # models for images and texts have a configuration for each
        size = getattr(getattr(self.model.config, "vision_config", self.model.config), "patch_size", None)
        size = size[0] if isinstance(size, (list, tuple)) and size else size
        return size if isinstance(size, int) else 16

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, height, width] with values from 0 to 1 to logits [B, classes] in float32."""
        return self.model(pixel_values=self.scale(pictures)).logits.float()


class Logits(nn.Module):
    """A classifier of transformers that returns its logits alone, as timm's do."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, C, height, width] to [B, classes]."""
        return self.model(pixel_values).logits


def load_classifier(
    name_or_path: str,
    device: torch.device | str = "cpu",
    techniques: Mapping[str, Any] | None = None,
    **source: Any,
) -> Classifier:
    """Any image classifier: ViT-CB with its techniques, a folder with a LoRA adapter, or another of transformers'.

    Args:
        name_or_path: a folder or a name on the Hub.
        device: where it is to run.
        techniques: what is added to it, see `hf_cb.from_pretrained`.
        source: what else chooses a file on the Hub, such as `revision` or `token`.

    Raises:
        UsageError: it cannot be loaded, lacks a trained head or an image processor, or see `PixelScale`.
    """
    loaded = load(name_or_path, AutoModelForImageClassification, techniques, dtype=torch.float32, **source)
    if lacking := loaded.anew():
        raise UsageError(
            f"{name_or_path!r} cannot be loaded as an image classifier: its weights lack {lacking[0]}; fine-tune it"
            " first."
        )
    image_processor = own_image_processor(name_or_path, **source)
    try:
        classifier = Classifier(loaded.model.to(device), image_processor, name_or_path)
        with torch.inference_mode():
            # a processor made for another size shows here
            classifier(torch.zeros(1, 3, *classifier.scale.size, device=device))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"{name_or_path!r} and its image processor cannot be used: {error}") from error
    return classifier
