"""Any Hugging Face image classifier as a function of pictures with values from 0 to 1, its normalisation inside."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedModel

from .loading import auto_classifier
from .lora import is_adapter, load_adapter


# a processor's output may be this far, as a share of the range of its values, from 256 levels in even steps
ROUNDING = 1e-3
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)


class PixelScale:
    """What an image processor does to the values of a picture once its pixels are chosen: `low + (high - low) x`.

    Found by sending a black and a white picture through it, so that rescaling, normalisation and their order need not
    be known. Channels stay where the processor puts them.

    Args:
        image_processor: of any image classifier.

    Raises:
        ValueError: the processor gives images of several sizes, or does more than choose pixels and scale them.
    """

    def __init__(self, image_processor: BaseImageProcessor):
        self.image_processor = image_processor
        self.low, self.high = (self._process(_uniform(level)).double().mean((1, 2)) for level in (0, 255))
        noise = np.random.default_rng(0).integers(256, size=(48, 80, 3), dtype=np.uint8)
        result = self._process(PILImage.fromarray(noise)).double()
        steps = self._to_levels(result)
        if result.shape != self._process(_uniform(0)).shape or (steps - steps.round()).abs().max() > 255 * ROUNDING:
            raise ValueError(
                f"{type(image_processor).__name__} does more than resize, crop, rescale and normalise to one size."
            )
        self.size = tuple(result.shape[1:])

    def view(self, image: PILImage.Image) -> Tensor:
        """The picture that the model sees, before normalisation: uint8, [3, height, width]."""
        return self._to_levels(self._process(image).double()).round().clamp(0, 255).to(torch.uint8)

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, 3, height, width] with values from 0 to 1 to what the model takes, of the same shape."""
        low, high = (bound.to(pictures).view(3, 1, 1) for bound in (self.low, self.high))
        return low + (high - low) * pictures

    def _process(self, image: PILImage.Image) -> Tensor:
        return self.image_processor(image, return_tensors="pt")["pixel_values"][0]

    def _to_levels(self, pixel_values: Tensor) -> Tensor:
        low, high = self.low.view(3, 1, 1), self.high.view(3, 1, 1)
        return (pixel_values - low) / (high - low) * 255


def _uniform(level: int) -> PILImage.Image:
    return PILImage.new("RGB", (64, 64), (level, level, level))


class Classifier:
    """A classifier in evaluation mode, without gradients for its weights.

    Args:
        model: its output has `logits`.
        image_processor: the model's own.
        name: how results call it.

    Raises:
        ValueError: see `PixelScale`.
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
        techniques: what is added to it, see `hf_cb.auto_loading.auto_model`.
        source: what else chooses a file on the Hub, such as `revision` or `token`.

    Raises:
        ValueError: it cannot be loaded, lacks a trained head or an image processor, or see `PixelScale`.
    """
    try:
        model = _load_model(name_or_path, techniques or {}, source)
    except LOADING_ERRORS as error:
        raise ValueError(f"{name_or_path!r} cannot be loaded as an image classifier: {error}") from error
    try:
        image_processor = AutoImageProcessor.from_pretrained(name_or_path, **source)
    except LOADING_ERRORS as error:
        raise ValueError(
            f"{name_or_path!r} has no image processor that can be loaded, so that its preprocessing is unknown: {error}"
        ) from error
    try:
        classifier = Classifier(model.to(device), image_processor, name_or_path)
        with torch.inference_mode():
            # a processor made for another size shows here
            classifier(torch.zeros(1, 3, *classifier.scale.size, device=device))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name_or_path!r} and its image processor cannot be used: {error}") from error
    return classifier


def _load_model(name_or_path: str, techniques: Mapping[str, Any], source: dict[str, Any]) -> PreTrainedModel:
    if is_adapter(name_or_path, **source):
        if techniques:
            raise ValueError(f"it is an adapter: leave out {', '.join(f'--{name}' for name in techniques)}.")
        return load_adapter(name_or_path).merge_and_unload()
    model, info = auto_classifier(name_or_path, techniques, dtype=torch.float32, output_loading_info=True, **source)
    if info["missing_keys"]:
        raise ValueError(f"its weights lack {sorted(info['missing_keys'])[0]}; fine-tune it first.")
    return model
