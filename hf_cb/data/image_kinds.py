"""What kinds of images a data set holds that others read differently, told before they are used."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image as PILImage

from .images import is_of_many_bits
from .layouts.tree import counted


# a second on a disk of one's own, since the beginning of a file says its kind
MOST_LOOKED_AT = 1000
# a stream would be read twice
MOST_OF_A_STREAM = 8
# of other kinds further frames are previews or layers
MOVING_KINDS = frozenset({"GIF", "TIFF", "WEBP", "PNG", "AVIF", "FLI"})


@dataclass(frozen=True)
class ImageKinds:
    """Counts of images that were looked at.

    Args:
        looked_at: how many, spread over the data.
        many_bits: with grey values of more than 8 bits.
        several_frames: with more than one frame.
    """

    looked_at: int
    many_bits: int
    several_frames: int

    def lines(self) -> list[str]:
        """What a run says of them."""
        among = f"of {counted(self.looked_at, 'image')} looked at"
        said = {
            f"{self.many_bits:,} {among} have 16-bit or 32-bit grey values, which are scaled to 8 bits with their"
            f" contrast; {PIPELINE}": self.many_bits,
            f"{self.several_frames:,} {among} have several frames, of which the first is read": self.several_frames,
        }
        return [line for line, count in said.items() if count]

    def for_card(self) -> str:
        """What a card says of them; empty where there is nothing to say."""
        if not self.many_bits:
            return ""
        return f" 16-bit and 32-bit grey values were scaled to 8 bits with their contrast; {PIPELINE}."


PIPELINE = (
    "transformers' pipeline cuts off what is above 255 in such files: convert them to 8 bits, or give it"
    " hf_cb.data.images.read_image(PIL.Image.open(file)) in place of the file"
)


def kinds_of(splits: Iterable[Dataset | IterableDataset]) -> ImageKinds:
    """Look at the beginnings of images, evenly spread over each split; of a stream at the first few.

    Args:
        splits: with a column `image`, not decoded.
    """
    looked_at = many_bits = several_frames = 0
    for data in splits:
        for row in _some(data):
            # a broken one is named where it is read
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = _opened(row["image"])
                looked_at += 1
                many_bits += is_of_many_bits(image.mode)
                several_frames += image.format in MOVING_KINDS and getattr(image, "is_animated", False)
    return ImageKinds(looked_at, many_bits, several_frames)


def _some(data: Dataset | IterableDataset) -> Iterable[dict[str, Any]]:
    if isinstance(data, IterableDataset):
        return data.take(MOST_OF_A_STREAM)
    places = np.unique(np.linspace(0, len(data) - 1, min(len(data), MOST_LOOKED_AT)).astype(int))
    return (data[int(place)] for place in places)


def _opened(value: dict[str, Any]) -> PILImage.Image:
    """An image whose pixels are not decoded."""
    return PILImage.open(value["path"] if value["bytes"] is None else BytesIO(value["bytes"]))
