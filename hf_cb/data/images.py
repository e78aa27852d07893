"""Reading images of any mode as RGB."""

import hashlib
import warnings
from typing import Any

import numpy as np
from datasets import Image
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError


DECODER = Image()
# of grey values, from the fewest: in steps of 4, so that a dark image keeps 16 of 256 levels at least
BITS = range(8, 33, 4)


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

    | grey values of more than 8 bits | white is |
    |---|---|
    | integers, none above 255 | 255 |
    | integers, none above 4,095, as many cameras and scanners write | 4,095 |
    | integers of 16 bits | 65,535 |
    | greater integers | 2^20 - 1, 2^24 - 1, 2^28 - 1 or 2^32 - 1, the first that none exceeds |
    | floating-point numbers from 0 to 1 | 1 |
    | other floating-point numbers | as of integers |
    | any, with values below 0 | the greatest in the image, and black the least |

    Pillow, and with it transformers' pipeline, takes 255 for white in all of them. Transparency is dropped, as
    transformers' image classification pipeline does; of several frames the first is read.

    Raises:
        ValueError: a floating-point image has no finite value.
    """
    if image.mode == "RGB":
        return image
    if is_of_many_bits(image.mode):
        return _from_grey(np.asarray(image).astype(np.float32), is_float=image.mode == "F")
    if image.mode == "P":
        # a palette may hold transparent colours, which Pillow converts to RGB only by way of RGBA
        image = image.convert("RGBA")
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


def is_of_many_bits(mode: str) -> bool:
    """Whether Pillow, on the way to RGB, cuts off what an image of this mode has above 255."""
    return mode.startswith("I") or mode == "F"


def _from_grey(values: np.ndarray, is_float: bool) -> PILImage.Image:
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel has a finite value")
    low, high = values[finite].min(), values[finite].max()
    black, white = (low, high) if low < 0 else (0, _white(high, is_float))
    # infinite values are the brightest or the darkest, and what is no number is black
    values = np.nan_to_num((values - black) * (255 / max(white - black, np.finfo(np.float32).tiny)), nan=0)
    return PILImage.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8)).convert("RGB")


def _white(high: float, is_share: bool) -> float:
    if is_share and high <= 1:
        return 1
    return next((2**bits - 1 for bits in BITS if high <= 2**bits - 1), high)
