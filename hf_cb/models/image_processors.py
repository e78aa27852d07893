"""A model's image processor, at the size that the model has now."""

from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedConfig, ViTImageProcessor

from ..vit_cb.configuration_vit_cb import ViTCBConfig, as_pair
from .classifier import PixelScale


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
        ValueError: the file is broken, or there is none and the configuration has no size, or see `PixelScale`.
    """
    # models for images and texts have a configuration for each
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    try:
        processor, line = AutoImageProcessor.from_pretrained(name_or_path, **source), None
    except (OSError, ValueError) as error:
        if "preprocessor_config.json" not in str(error) and "image processor" not in str(error):
            raise ValueError(f"the image processor of {name_or_path!r} cannot be read: {error}") from error
        if size is None:
            raise ValueError(
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
