"""ViT's image processors, with the crop that published vision transformers were evaluated with."""

from typing import Any

from transformers import ViTImageProcessor, ViTImageProcessorPil


# longer side over shorter one, beyond which only the middle is resized: the crop keeps less than 2 of it, and the whole
# of an image of 1 x 20,000 pixels would become one of 256 x 5,120,000
MOST_ELONGATED = 64


def middle_of(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of an image that are no more elongated than `MOST_ELONGATED`."""
    longest = MOST_ELONGATED * min(height, width)
    starts = (max(side - longest, 0) // 2 for side in (height, width))
    return tuple(slice(start, start + longest) for start in starts)


def takes_the_middle(image_processor: Any) -> bool:
    """Whether a processor of transformers resizes the shorter side and throws the ends of the longer one away."""
    edge = image_processor.size.get("shortest_edge")
    if edge is None or image_processor.size.get("longest_edge"):
        return False
    # ConvNeXt's has no such switch, and crops below this size
    crops = getattr(image_processor, "do_center_crop", None)
    return bool(crops) or (hasattr(image_processor, "crop_pct") and edge < 384)


def shortened(image: Any, image_processor: Any) -> Any:
    """A PIL image without the ends that a processor of transformers would resize and throw away."""
    if max(image.size) <= MOST_ELONGATED * min(image.size) or not takes_the_middle(image_processor):
        return image
    rows, columns = middle_of(image.height, image.width)
    right, bottom = min(columns.stop, image.width), min(rows.stop, image.height)
    return image.crop((columns.start, rows.start, right, bottom))


class TorchvisionCrop:
    """Makes `do_center_crop` take the same pixels as torchvision's `CenterCrop`.

    Where an odd number of pixels is cut off, transformers rounds the crop's offset down and torchvision to the nearest
    even number; one pixel beside moves a photograph's values by 28 to 52 / 255 on average (scikit-learn's two sample
    photographs in full, 256 to 224, normalised).
    """

    def resize(self, image: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        """[..., height, width] to its shorter edge; of very elongated images the middle, which is all that is kept."""
        if takes_the_middle(self):
            image = image[(..., *middle_of(*image.shape[-2:]))]
        return super().resize(image, size, *args, **kwargs)

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
