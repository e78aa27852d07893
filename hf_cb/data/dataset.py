"""Rows of images and labels as the tensors that a model takes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate, get_worker_info
from transformers import BaseImageProcessor

from ..errors import UsageError
from ..vit_cb.image_processing_vit_cb import shortened
from .images import UnreadableImageError, read_image
from .randomness import preserved_random_state, seed_random_generators


# torch's cross-entropy leaves out images with this label
IGNORED_LABEL = -100
# the index of a row that only fills a batch up
PADDING = -1
# under which a row, and then its batch, holds a user's mistake that a loader process met
MISTAKE = "mistake"

Transform = Callable[[PILImage.Image], torch.Tensor]


def evaluation_transform(image_processor: BaseImageProcessor) -> Transform:
    """What the saved image processor does to one RGB image: [C, height, width] in float32."""
    # not a closure: loader processes may get the transform pickled
    return partial(_process, image_processor)


def _process(image_processor: BaseImageProcessor, image: PILImage.Image) -> torch.Tensor:
    return image_processor(shortened(image, image_processor), return_tensors="pt")["pixel_values"][0]


def blank_image() -> PILImage.Image:
    """What stands in a batch where there is no image."""
    return PILImage.new("RGB", (32, 32))


class ImageDataset(TorchDataset):
    """Rows of a `datasets.Dataset` as `pixel_values` and `labels`, augmented reproducibly.

    A row is asked for by its index, or by (index, epoch, repeat), where `repeat` counts an image's copies in an epoch.
    Every random choice of the transform is a function of (seed, epoch, index, repeat) alone, whatever the number of
    workers and the order in which rows are read.

    An image that cannot be read is named under `skipped`. To train on (with a seed), the next that can be read takes
    its place; to evaluate on (without), it gets the label -100, which the loss leaves out. The index -1 is a blank
    image with that label.

    Args:
        data: with the columns `image` and `label`.
        transform: an RGB image to [C, height, width].
        seed: of the random choices; None for a transform that makes none.
    """

    def __init__(self, data: Dataset, transform: Transform, seed: int | None = None):
        self.data, self.transform, self.seed = data, transform, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int, int]]) -> list[dict[str, Any]]:
        keys = [(key, 0, 0) if isinstance(key, int) else key for key in keys]
        try:
            return self._rows(keys)
        except UsageError as error:
            return [mistaken_row(error)]

    def _rows(self, keys: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
        # one reading of the table for all of them
        rows = self.data[[max(index, 0) for index, _, _ in keys]]
        with preserved_random_state():
            return [
                self._row(key, {"image": image, "label": label})
                for key, image, label in zip(keys, rows["image"], rows["label"], strict=True)
            ]

    def _row(self, key: tuple[int, int, int], row: dict[str, Any]) -> dict[str, Any]:
        index, epoch, repeat = key
        if index == PADDING:
            return self._blank([])
        try:
            image, skipped = read_image(row["image"]), []
        except UnreadableImageError as error:
            skipped = [(index, str(error))]
            if self.seed is None:
                return self._blank(skipped)
            image, row = self._next_readable(index, skipped)
        if self.seed is not None:
            seed_random_generators(self.seed, epoch, index, repeat)
        return {"pixel_values": self.transform(image), "labels": row["label"], "skipped": skipped}

    def _blank(self, skipped: list[tuple[int, str]]) -> dict[str, Any]:
        return {"pixel_values": self.transform(blank_image()), "labels": IGNORED_LABEL, "skipped": skipped}

    def _next_readable(self, index: int, skipped: list[tuple[int, str]]) -> tuple[PILImage.Image, dict[str, Any]]:
        for step in range(1, len(self)):
            other = (index + step) % len(self)
            row = self.data[other]
            try:
                return read_image(row["image"]), row
            except UnreadableImageError as error:
                skipped.append((other, str(error)))
        raise UsageError(f"none of the {len(self)} images can be read; the last is {skipped[-1][1]}.")


def mistaken_row(mistake: UsageError) -> dict[str, Any]:
    """What a loader process gives in place of raising: torch would make one text of the error and its traceback."""
    if get_worker_info() is None:
        raise mistake
    return {MISTAKE: str(mistake)}


def raise_mistake(batch: dict[str, Any]) -> None:
    """Raise, in the main process, the mistake that a loader process met."""
    if MISTAKE in batch:
        raise UsageError(batch[MISTAKE])


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows to a batch: `pixel_values` [B, C, height, width], `labels` [B] and `skipped`, the unreadable images met.

    Where a row is a user's mistake, it is all there is in the batch: see `raise_mistake`.
    """
    mistakes = [row[MISTAKE] for row in rows if MISTAKE in row]
    if mistakes:
        return {MISTAKE: mistakes[0]}
    return {
        # in a loader process it writes them where the main process reads them
        "pixel_values": default_collate([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "skipped": [entry for row in rows for entry in row["skipped"]],
    }
