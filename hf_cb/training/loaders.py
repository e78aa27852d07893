"""Batches of images on the device of this process."""

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object
from datasets import IterableDataset
from torch.utils.data import DataLoader

from ..data.dataset import ImageDataset, Transform, collate, raise_mistake
from ..data.sampling import EvaluationBatches, TrainingBatches
from ..data.sources import AnyDataset, ImageData
from ..data.streaming import StreamedEvaluationImages, StreamedTrainingImages, count_images
from ..errors import UsageError
from .arguments import LoopArguments


logger = logging.getLogger(__name__)


class SkippedImages:
    """The images that could not be read, each named once in a warning."""

    def __init__(self) -> None:
        self.keys: set[tuple[str, Any]] = set()
        self.unnamed: dict[tuple[str, Any], str] = {}

    def add(self, split: str, skipped: list[tuple[Any, str]]) -> None:
        """Take note of some, with what is wrong with them."""
        for index, reason in skipped:
            if (split, index) not in self.keys:
                self.unnamed[split, index] = reason
        # several processes may meet the same one; they put theirs together now and then
        if PartialState().num_processes == 1:
            self.of_all_processes()

    def of_all_processes(self) -> list[tuple[str, Any]]:
        """Those that any process met, of which the main process names the new ones; all have to call this."""
        new = {tuple(key): reason for key, reason in gather_object(list(self.unnamed.items()))}
        self.unnamed = {}
        for (split, index), reason in new.items():
            if PartialState().is_main_process and (split, index) not in self.keys:
                logger.warning("skipped, cannot be read: %s", reason)
        self.keys |= new.keys()
        return sorted(self.keys, key=str)


class Loader:
    """The batches of this process, on its device.

    Args:
        loader: gives them, from `collate`.
        split: what they are for.
        accelerator: of the run.
        skipped: takes note of images that cannot be read.
        is_even: all processes have equally many batches.
    """

    def __init__(
        self,
        loader: DataLoader,
        split: str,
        accelerator: Accelerator,
        skipped: SkippedImages,
        is_even: bool = True,
    ):
        self.is_even = is_even
        self.loader, self.split, self.device, self.skipped = loader, split, accelerator.device, skipped

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader:
            raise_mistake(batch)
            self.skipped.add(self.split, batch.pop("skipped"))
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


class TrainingLoader(Loader):
    """The training batches, an epoch after the other.

    `num_images` is the number of training images, `num_batches` that of batches in an epoch, a multiple of the batches
    in an update.
    """

    def __init__(
        self,
        data: AnyDataset,
        transform: Transform,
        num_labels: int,
        arguments: LoopArguments,
        num_repeats: int,
        accelerator: Accelerator,
        skipped: SkippedImages,
    ):
        place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
        size, per_update = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
        if isinstance(data, IterableDataset):
            if num_repeats > 1:
                raise UsageError("`repeated_augmentation` needs data that are not streamed: set it to 1.")
            self.num_images = count_images(data)
            self.num_batches = math.ceil(self.num_images / (size * place["world_size"] * per_update)) * per_update
            self.position = StreamedTrainingImages(data, transform, num_labels, arguments.seed, **place)
            loader = _data_loader(arguments, dataset=self.position, batch_size=size, drop_last=True)
        else:
            self.num_images = len(data)
            self.position = TrainingBatches(len(data), size, per_update, arguments.seed, num_repeats, **place)
            self.num_batches = self.position.num_batches
            images = ImageDataset(data, transform, arguments.seed)
            # what an image becomes follows from its key, so that the processes may live on
            loader = _data_loader(arguments, lasting=True, dataset=images, batch_sampler=self.position)
        super().__init__(loader, "train", accelerator, skipped)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of an epoch from a certain one on: `pixel_values` in uint8 and `labels`.

        Raises:
            UsageError: no image can be read, or a stream has no more.
        """
        self.position.start_at(epoch, first_batch)
        number = first_batch
        for batch in islice(self, self.num_batches - first_batch):
            yield batch
            number += 1
        if number < self.num_batches:
            raise UsageError("the stream of training images has none that can be read.")


def evaluation_loader(
    data: AnyDataset,
    transform: Transform,
    arguments: LoopArguments,
    accelerator: Accelerator,
    skipped: SkippedImages,
) -> Loader:
    """The batches to evaluate on, each image in one of the processes: `pixel_values` in float32 and `labels`."""
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    size = arguments.per_device_eval_batch_size
    if isinstance(data, IterableDataset):
        loader = _data_loader(arguments, dataset=StreamedEvaluationImages(data, transform, **place), batch_size=size)
    else:
        batches = EvaluationBatches(len(data), size, **place)
        images = ImageDataset(data, transform)
        loader = _data_loader(arguments, lasting=True, dataset=images, batch_sampler=batches)
    is_even = accelerator.num_processes == 1 or not isinstance(data, IterableDataset)
    # all processes take part in every forward pass there, and those of a stream have unequal shares
    if not is_even and accelerator.distributed_type == DistributedType.FSDP:
        raise UsageError("a stream cannot be evaluated on sharded weights: leave out --streaming, or use DDP.")
    return Loader(loader, "evaluation", accelerator, skipped, is_even)


def _data_loader(arguments: LoopArguments, lasting: bool = False, **kwargs: Any) -> DataLoader:
    workers = arguments.dataloader_num_workers
    return DataLoader(
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=lasting and workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_end_with_the_main_process,
        **kwargs,
    )


def _end_with_the_main_process(_: int) -> None:
    """Let a loader process end when its parent says so, and not before.

    A signal to end often reaches all processes of a job at once; the main one needs its loaders to finish the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # other systems do not tell who sent a signal
    if sys.platform != "linux":
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_parents_signal, daemon=True).start()


def _wait_for_the_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def load_on_main_first(accelerator: Accelerator, load: Any) -> ImageData:
    """Load data in one process of each machine before the others, which then find what `datasets` prepared."""
    data = error = None
    with accelerator.local_main_process_first():
        # a mistake is said by every process; one that left here would let the others wait for it
        try:
            data = load()
        except UsageError as mistake:
            error = mistake
    if error is not None:
        raise error
    return data
