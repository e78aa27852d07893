"""Data: where images and labels come from, and how they become the tensors that a model takes."""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2
from transformers import BaseImageProcessor


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


def training_transform(
    image_processor: BaseImageProcessor, rotation: float, translation: float, scaling: float, shear: float
) -> Callable[[PILImage.Image], torch.Tensor]:
    """Random affine augmentation between the image processor's resizing and its normalisation.

    Args:
        image_processor: gives size, interpolation, mean and standard deviation, so that training and use agree.
        rotation: largest angle in degrees.
        translation: largest shift as a share of the image's side.
        scaling: largest change of size as a share.
        shear: largest shear in degrees.

    Returns:
        A function of an RGB image, [C, height, width] in float32.
    """
    size = image_processor.size
    return v2.Compose(
        [
            v2.Resize((size["height"], size["width"]), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomAffine(
                degrees=rotation,
                translate=(translation, translation),
                scale=(1 - scaling, 1 + scaling),
                shear=(-shear, shear),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(image_processor.image_mean, image_processor.image_std),
        ]
    )


def evaluation_transform(image_processor: BaseImageProcessor) -> Callable[[PILImage.Image], torch.Tensor]:
    """What the saved image processor does to one RGB image: [C, height, width] in float32."""
    # not a closure: loader processes may get the transform pickled
    return partial(_process, image_processor)


def _process(image_processor: BaseImageProcessor, image: PILImage.Image) -> torch.Tensor:
    return image_processor(image, return_tensors="pt")["pixel_values"][0]


class ImageDataset(TorchDataset):
    """Rows of a `datasets.Dataset` as `pixel_values` and `labels`, augmented reproducibly.

    Every random choice of the transform is a function of (seed, epoch, index) alone, whatever the number of workers
    and the order in which rows are read.

    Args:
        data: with the columns `image` and `label`.
        transform: an RGB image to [C, height, width].
        seed: of the random choices; None for a transform that makes none.
    """

    def __init__(self, data: Dataset, transform: Callable[[PILImage.Image], torch.Tensor], seed: int | None = None):
        self.data, self.transform, self.seed, self.epoch = data, transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the rows are read in."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.data[list(indices)]
        with preserved_random_state():
            return [
                {"pixel_values": self._transform(image.convert("RGB"), index), "labels": label}
                for index, image, label in zip(indices, rows["image"], rows["label"], strict=True)
            ]

    def _transform(self, image: PILImage.Image, index: int) -> torch.Tensor:
        if self.seed is not None:
            seed_random_generators(self.seed, self.epoch, index)
        return self.transform(image)


def seed_random_generators(*key: int) -> None:
    """Make the states of Python's, numpy's and torch's generators on the CPU a function of some integers alone."""
    # numpy's seed sequence mixes the integers well; three words, one for each generator
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # not torch.manual_seed, which seeds every device too and takes a millisecond
    torch.default_generator.manual_seed(int(words[2]))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """After the context, the random generators are where they were before it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows to a batch: `pixel_values` [B, C, height, width] and `labels` [B]."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
