"""scikit-learn's handwritten digits as a data set of images."""

import io
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from ..reports.cards import DataDescription


DIGITS = DataDescription(
    name="handwritten digits (scikit-learn)",
    dataset_type="sklearn-digits",
    description=(
        "scikit-learn's handwritten digits (UCI 1998, CC BY 4.0), 8x8 grey values as RGB images; the first 1,437 for"
        " training, the last 360, which other people wrote, for the test."
    ),
    limits=(
        "It has seen only scanned digits of 8x8 pixels, bright on black, upright and centred, and answers with a digit"
        " to any other image too. It shows how the library works; it is no digit reader for practice."
    ),
    split="test",
)


# the images hold nothing but the digit, whose mirror image is none
DIGITS_CROP_SCALE = 0.6
# writers of the first 1,437 digits are not among those of the last 360
NUM_TRAIN_DIGITS = 1437


def load_digits() -> DatasetDict:
    """scikit-learn's handwritten digits (UCI, 1998): 8x8 pictures of ten classes, shipped with the package.

    The grey values 0 to 16 become `round(v * 255 / 16)`, in three equal channels, since the image classification
    pipeline makes every image RGB. The last 360, which other people wrote, are the test split.

    Returns:
        Splits `train` (1,437) and `test` (360) with the columns `image` (RGB) and `label`.
    """
    from sklearn.datasets import load_digits as load_grey_values

    digits = load_grey_values()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    rows = {"image": [_png(picture) for picture in grey], "label": digits.target.tolist()}
    data = Dataset.from_dict(rows, features=features)
    return DatasetDict(train=data.select(range(NUM_TRAIN_DIGITS)), test=data.select(range(NUM_TRAIN_DIGITS, len(data))))


def _png(grey: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    PILImage.fromarray(grey).convert("RGB").save(file, "png")
    return {"bytes": file.getvalue(), "path": None}
