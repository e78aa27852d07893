"""How images become the input of a converted checkpoint."""

import math
from dataclasses import dataclass

from transformers.image_utils import PILImageResampling

from ..vit_cb.image_processing_vit_cb import ViTCBImageProcessor


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How images become a model's input.

    Args:
        mean: of the three channels, from 0 to 1.
        std: likewise.
        crop_pct: the image's size by that of the shorter edge before the crop; 0.875 is 256 to 224.
        interpolation: a filter of Pillow's, by name.
        squash: resize both edges, giving up the aspect.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    squash: bool = False

    def image_processor(self, image_size: int) -> ViTCBImageProcessor:
        """The image processor of a model for square images."""
        edge = math.floor(image_size / self.crop_pct)
        return ViTCBImageProcessor(
            size={"height": edge, "width": edge} if self.squash else {"shortest_edge": edge},
            do_center_crop=True,
            crop_size={"height": image_size, "width": image_size},
            resample=PILImageResampling[self.interpolation.upper()],
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    def describe(self, image_size: int) -> str:
        """In words, for a model card."""
        edge = math.floor(image_size / self.crop_pct)
        resize = f"resize to {edge}x{edge}" if self.squash else f"resize the shorter edge to {edge}"
        return (
            f"{resize} ({self.interpolation}), crop {image_size}x{image_size} from the centre, mean {list(self.mean)},"
            f" standard deviation {list(self.std)}"
        )


DEIT_PREPROCESSING = Preprocessing()
GOOGLE_PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
