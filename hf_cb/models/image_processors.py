"""Image processors: what they do to a picture's values, and a model's own, at the size that the model has now."""

from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig, ViTImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME

from ..errors import UsageError, one_line
from ..vit_cb.configuration_vit_cb import ViTCBConfig, as_pair
from ..vit_cb.image_processing_vit_cb import shortened
from .loaded import LOADING_ERRORS


# a processor's output may be this far, as a share of the range of its values, from 256 levels in even steps
ROUNDING = 1e-3


class PixelScale:
    """What an image processor does to the values of a picture once its pixels are chosen: `low + (high - low) x`.

    Found by sending a black and a white picture through it, so that rescaling, normalisation and their order need not
    be known. Channels stay where the processor puts them.

    Args:
        image_processor: of any image classifier.

    Raises:
        UsageError: the processor gives images of several sizes, or does more than choose pixels and scale them.
    """

    def __init__(self, image_processor: BaseImageProcessor):
        self.image_processor = image_processor
        self.low, self.high = (self._process(_uniform(level)).double().mean((1, 2)) for level in (0, 255))
        noise = np.random.default_rng(0).integers(256, size=(48, 80, 3), dtype=np.uint8)
        result = self._process(PILImage.fromarray(noise)).double()
        steps = self._to_levels(result)
        if result.shape != self._process(_uniform(0)).shape or (steps - steps.round()).abs().max() > 255 * ROUNDING:
            raise UsageError(
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
        return self.image_processor(shortened(image, self.image_processor), return_tensors="pt")["pixel_values"][0]

    def _to_levels(self, pixel_values: Tensor) -> Tensor:
        low, high = self.low.view(3, 1, 1), self.high.view(3, 1, 1)
        return (pixel_values - low) / (high - low) * 255


def _uniform(level: int) -> PILImage.Image:
    return PILImage.new("RGB", (64, 64), (level, level, level))


def _read(name_or_path: str, source: dict[str, Any]) -> BaseImageProcessor:
    # without the file's name transformers looks into the model's configuration first
    return AutoImageProcessor.from_pretrained(name_or_path, image_processor_filename=IMAGE_PROCESSOR_NAME, **source)


def own_image_processor(name_or_path: str, **source: Any) -> BaseImageProcessor:
    """A model's image processor as it was saved.

    Args:
        name_or_path: a folder or a name on the Hub.
        source: what else chooses a file on the Hub.

    Raises:
        UsageError: there is none that can be read.
    """
    try:
        return _read(name_or_path, source)
    except LOADING_ERRORS as error:
        raise UsageError(
            f"the model {name_or_path!r} has no image processor that can be loaded: save the one that it was trained"
            f" with beside it, as {IMAGE_PROCESSOR_NAME} ({one_line(error)})"
        ) from error


def load_image_processor(
    name_or_path: str, config: PreTrainedConfig, **source: Any
) -> tuple[BaseImageProcessor, str | None]:
    """The model's image processor, of a ViT-CB at the size that it has now.

    Args:
        name_or_path: a folder or a name on the Hub.
        config: of the model.
        source: what else chooses a file on the Hub.

    Returns:
        The processor, and a line where it is not the checkpoint's own.

    Raises:
        UsageError: the file is broken, or there is none and the configuration has no size, or see `PixelScale`.
    """
    # models for images and texts have a configuration for each
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    try:
        processor, line = _read(name_or_path, source), None
    except (OSError, ValueError) as error:
        if IMAGE_PROCESSOR_NAME not in str(error) and "image processor" not in str(error):
            raise UsageError(f"the image processor of {name_or_path!r} cannot be read: {error}") from error
        if size is None:
            raise UsageError(
                f"{name_or_path!r} has no image processor, and its configuration no size of images: save the processor"
                " that it was trained with beside it."
            ) from error
        height, width = as_pair(size)
        processor = ViTImageProcessor(size={"height": height, "width": width})
        line = f"{name_or_path} has no image processor: images are resized and normalised with mean and deviation 0.5."
    old_height, old_width = PixelScale(processor).size
    # many other models are used at another size than the one in their configuration, which they interpolate from
    height, width = as_pair(size) if config.model_type == ViTCBConfig.model_type else (old_height, old_width)
    if (old_height, old_width) != (height, width):
        _resize_processor(processor, height / old_height, height, width)
        line = line or f"images are now prepared at {height}x{width} pixels, no longer {old_height}x{old_width}."
    return processor, line


def _resize_processor(processor: BaseImageProcessor, factor: float, height: int, width: int) -> None:
    size = {"height": height, "width": width}
    if getattr(processor, "do_center_crop", False) and "shortest_edge" in processor.size:
        edge = round(processor.size["shortest_edge"] * factor)
        processor.size, processor.crop_size = {"shortest_edge": edge}, size
    else:
        processor.size = size
        processor.crop_size = size if getattr(processor, "do_center_crop", False) else processor.crop_size
