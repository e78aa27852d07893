"""The learning rate over a run: warm-up and cosine, from timm."""

import torch
from timm.scheduler import CosineLRScheduler

from .run_arguments import LoopArguments


def peak_learning_rate(arguments: LoopArguments, effective_batch_size: int) -> float:
    """The highest learning rate, in proportion to the effective batch size where the arguments say for which it is."""
    if arguments.learning_rate_batch_size is None:
        return arguments.learning_rate
    return arguments.learning_rate * effective_batch_size / arguments.learning_rate_batch_size


class LearningRate:
    """Linear warm-up and cosine decay, by epoch (as DeiT) or by update.

    Args:
        optimizer: with the highest learning rate in its groups.
        arguments: lengths and limits.
        updates_per_epoch: number of updates in an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, arguments: LoopArguments, updates_per_epoch: int):
        self.optimizer = optimizer
        self.updates_per_epoch = 1 if arguments.lr_step == "epoch" else updates_per_epoch
        self.by_epoch = arguments.lr_step == "epoch"
        total = arguments.num_train_epochs * self.updates_per_epoch
        warmup = (arguments.warmup_ratio or 0) * total
        if arguments.warmup_epochs is not None:
            warmup = arguments.warmup_epochs * self.updates_per_epoch
        self.warmup_epochs = round(warmup) / self.updates_per_epoch
        self.schedule = CosineLRScheduler(
            optimizer,
            t_initial=total,
            lr_min=arguments.min_learning_rate,
            warmup_t=round(warmup),
            warmup_lr_init=arguments.warmup_learning_rate,
        )

    def set(self, epoch: int, update: int) -> float:
        """Set the rate of an update of an epoch, both counted from 0, and return it."""
        self.schedule.step(epoch if self.by_epoch else epoch * self.updates_per_epoch + update)
        return self.optimizer.param_groups[0]["lr"]
