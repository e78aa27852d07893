"""Rows of a stream of images, shared over processes and loader workers by `datasets`."""

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from ..errors import UsageError
from .columns import SHUFFLE_BUFFER
from .dataset import IGNORED_LABEL, Transform, blank_image, mistaken_row
from .images import UnreadableImageError, name_of, read_image
from .randomness import mixed, preserved_random_state, seed_random_generators


def count_images(data: IterableDataset) -> int:
    """The number of images in a stream; where its source does not say, the labels are read once."""
    splits = data.info.splits
    if splits is not None and data.split in splits and splits[data.split].num_examples:
        return splits[data.split].num_examples
    return sum(1 for _ in data.select_columns(["label"]))


class StreamedTrainingImages(TorchIterableDataset):
    """An endless stream of augmented rows, shuffled in a buffer: when the data end, they begin again.

    Which images come together is not restored when a run is resumed; everything else is.

    Args:
        data: with the columns `image` and `label`.
        transform: an RGB image to [C, height, width].
        num_labels: labels are below it.
        seed: of order and augmentation.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, data: IterableDataset, transform: Transform, num_labels: int, seed: int, rank: int, world_size: int
    ):
        shuffled = data.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.data = split_dataset_by_node(shuffled, rank=rank, world_size=world_size)
        self.transform, self.num_labels, self.key, self.start = transform, num_labels, (seed, rank), (0, 0)

    def start_at(self, epoch: int, first_batch: int = 0) -> None:
        """Say which epoch comes next, and how many of its batches are done; each gives another order."""
        self.start = epoch, first_batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._rows()
        except UsageError as error:
            # as often as it takes to fill a batch, since the last one is dropped where it is not full
            yield from repeat(mistaken_row(error))

    def _rows(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        key = (*self.key, *self.start, 0 if worker is None else worker.id)
        skipped, number = [], 0
        for turn in count():
            # another order after each resumption too: where runs are short, the end of a stream has its turn
            self.data.set_epoch(mixed(*self.start, turn))
            before = number
            for row in self.data:
                try:
                    image = read_image(row["image"])
                except UnreadableImageError as error:
                    skipped.append((name_of(row["image"]), str(error)))
                    continue
                with preserved_random_state():
                    seed_random_generators(*key, number)
                    pixel_values = self.transform(image)
                yield {"pixel_values": pixel_values, "labels": self._label(row), "skipped": skipped}
                skipped, number = [], number + 1
            # a worker without a share, or nothing that can be read
            if number == before:
                return

    def _label(self, row: dict[str, Any]) -> int:
        label = row["label"]
        if label is None or not 0 <= label < self.num_labels:
            raise UsageError(f"an image of the stream has the label {label!r}, which is no class to train on.")
        return label


class StreamedEvaluationImages(TorchIterableDataset):
    """The rows of one process, each once; an unreadable image gets the label -100.

    Args:
        data: with the columns `image` and `label`.
        transform: an RGB image to [C, height, width].
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, data: IterableDataset, transform: Transform, rank: int, world_size: int):
        self.data = split_dataset_by_node(data, rank=rank, world_size=world_size)
        self.transform = transform

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.data:
            try:
                image, label, skipped = read_image(row["image"]), row["label"], []
            except UnreadableImageError as error:
                image, label, skipped = blank_image(), IGNORED_LABEL, [(name_of(row["image"]), str(error))]
            yield {"pixel_values": self.transform(image), "labels": label, "skipped": skipped}
