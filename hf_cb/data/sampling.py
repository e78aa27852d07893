"""Which images a process sees, in which order."""

import math
from collections.abc import Iterator

from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DistributedSampler, Sampler

from .dataset import PADDING
from .randomness import mixed


Key = tuple[int, int, int]


class TrainingBatches(Sampler):
    """The batches of one process in an epoch, as (index, epoch, repeat), in an order that follows from (seed, epoch).

    The order of all processes together does not depend on their number n, but for what fills the last step up: of the
    images of a step, each process takes every n-th. Every image comes up in an epoch; the last step is filled up with
    the first images of the order, so that all steps are of one size. With repeats, timm's `RepeatAugSampler` makes the
    order (as many images an epoch as without, those that come up several times each), otherwise torch's
    `DistributedSampler`; both shard, so that Accelerate must not do it again.

    Args:
        num_images: of the data set.
        batch_size: of one process.
        batches_per_update: the number of batches is a multiple of it.
        seed: of the order.
        num_repeats: copies of an image.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        batches_per_update: int = 1,
        seed: int = 0,
        num_repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.batch_size, self.seed, self.num_repeats = batch_size, seed, num_repeats
        self.rank, self.world_size = rank, world_size
        images = range(num_images)
        if num_repeats > 1:
            self.order = RepeatAugSampler(images, world_size, rank, num_repeats=num_repeats)
        else:
            self.order = DistributedSampler(images, world_size, rank)
        self.num_batches = math.ceil(len(self.order) / (batch_size * batches_per_update)) * batches_per_update
        self.epoch, self.first_batch = 0, 0

    def start_at(self, epoch: int, first_batch: int = 0) -> None:
        """Say which epoch comes next, and how many of its batches are done."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[Key]]:
        # both samplers seed a generator with the epoch
        self.order.set_epoch(mixed(self.seed, self.epoch))
        indices = list(self.order)
        for batch in range(self.first_batch, self.num_batches):
            positions = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [self._key(indices, position) for position in positions]

    def _key(self, indices: list[int], position: int) -> Key:
        turn, position = divmod(position, len(indices))
        # the copies of an image stand side by side in the order of all processes
        repeat = (self.rank + position * self.world_size) % self.num_repeats
        return indices[position], self.epoch, turn * self.num_repeats + repeat


class EvaluationBatches(Sampler):
    """The batches of one process, as indices; every image comes up in one of the processes, once.

    All processes have equally many batches of the same size, filled up with -1.

    Args:
        num_images: of the data set.
        batch_size: of one process.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1):
        share = math.ceil(num_images / world_size)
        self.indices = list(range(num_images))[rank::world_size]
        self.indices += [PADDING] * (share - len(self.indices))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield self.indices[start : start + self.batch_size]
