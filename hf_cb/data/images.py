"""Reading images of any mode as RGB."""

import hashlib
import warnings
from typing import Any

import numpy as np
from datasets import Image
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError


DECODER = Image()


class UnreadableImageError(ValueError):
    """A file or a row holds no image that can be decoded."""


def read_image(value: Any) -> PILImage.Image:
    """An image as RGB, in the orientation that its EXIF data ask for.

    Args:
        value: a PIL image, or what `datasets.Image(decode=False)` gives: `{"bytes": ..., "path": ...}`, of which one
            may be None.

    Raises:
        UnreadableImageError: it cannot be decoded: truncated, no image, missing, or large enough to fill the memory.
    """
    try:
        # an image may carry warnings about its metadata, which concern nobody here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_decoded = isinstance(value, PILImage.Image)
            # `datasets` turns what it decodes; turning costs a copy even where there is nothing to turn
            return to_rgb(ImageOps.exif_transpose(value) if is_decoded else DECODER.decode_example(value))
    # its message holds the place in memory where the bytes were
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"{name_of(value)}: no image of a kind that Pillow reads") from error
    # Pillow's readers raise errors of many kinds for broken files
    except Exception as error:
        raise UnreadableImageError(f"{name_of(value)}: {type(error).__name__}: {error}") from error


def name_of(value: Any) -> str:
    """The file's name of an undecoded image, and a digest of its content where that is in the row."""
    parts = value if isinstance(value, dict) else {}
    path, content = parts.get("path"), parts.get("bytes")
    name = str(path or "an image without a file name")
    # files of different folders may bear the same name in a table
    return f"{name} (SHA-1 {hashlib.sha1(content).hexdigest()[:12]})" if content else name


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """A PIL image of any mode as RGB with 8 bits a channel.

    Grey values of 16 bits are divided by 257 (Pillow would cut them off at 255), floating-point ones are taken to be
    from 0 to 1. Transparency is dropped, as transformers' image classification pipeline does.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _from_grey(np.asarray(image) / 257)
    if image.mode == "F":
        return _from_grey(np.asarray(image) * 255)
    if image.mode == "P":
        # a palette may hold transparent colours, which Pillow converts to RGB only by way of RGBA
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_grey(values: np.ndarray) -> PILImage.Image:
    return PILImage.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8)).convert("RGB")
