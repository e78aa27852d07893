"""ViT's image processors, with the crop that published vision transformers were evaluated with."""

from typing import Any

from transformers import ViTImageProcessor, ViTImageProcessorPil


class TorchvisionCrop:
    """Makes `do_center_crop` take the same pixels as torchvision's `CenterCrop`.

    Where an odd number of pixels is cut off, transformers rounds the crop's offset down and torchvision to the nearest
    even number; one pixel beside moves a photograph's values by 28 to 52 / 255 on average (scikit-learn's two sample
    photographs in full, 256 to 224, normalised).
    """

    def center_crop(self, image: Any, size: Any, **kwargs: Any) -> Any:
        """[..., height, width] to [..., size.height, size.width]."""
        excess = (have - want for have, want in zip(image.shape[-2:], (size.height, size.width)))
        top, left = (max(round(pixels / 2), 0) for pixels in excess)
        image = image[..., top : top + size.height, left : left + size.width]
        return super().center_crop(image, size, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, and that there is no video processor.

        Otherwise pipelines, which look for one, take this class' code for one's and ask on the terminal whether to
        trust it (transformers 5.23).
        """
        return {**super().to_dict(), "video_processor_type": "none"}


class ViTCBImageProcessor(TorchvisionCrop, ViTImageProcessor):
    """`ViTImageProcessor` with the pixels of torchvision's crop."""


class ViTCBImageProcessorPil(TorchvisionCrop, ViTImageProcessorPil):
    """The same on Pillow and numpy."""


ViTCBImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["ViTCBImageProcessor", "ViTCBImageProcessorPil"]
