"""A model in training: its optimiser, its learning rate, its moving average, and one step of them."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.augmentation import BatchAugmentation
from ..errors import UsageError
from ..optimization import parameter_groups
from .arguments import LoopArguments


# outputs of a classifier, pixel values [B, C, height, width] and targets ([B] or [B, K]) to a loss
Criterion = Callable[[Any, Tensor, Tensor], Tensor]

# tells the random choices of a step from those of an image, whose keys are integers too
STEP_KEY = 1


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """The mean cross-entropy of a batch, with smoothing where the targets are labels; mixed ones are smooth already.

    Args:
        logits: [B, K].
        targets: labels [B], or probabilities [B, K].
        label_smoothing: of labels.
    """
    smoothing = label_smoothing if targets.dim() == 1 else 0.0
    return nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)


class Learner:
    """A model with what changes its weights.

    Args:
        accelerator: of the run; prepares model and optimiser.
        model: a classifier.
        augment: a batch of images and labels to pixel values and targets.
        arguments: how to train.
        updates_per_epoch: changes of the weights in an epoch.
        criterion: the loss; the cross-entropy by default.

    Raises:
        UsageError: a moving average was asked for where the weights are sharded, or a compiled model of a torch that
            cannot trace it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        augment: BatchAugmentation,
        arguments: LoopArguments,
        updates_per_epoch: int,
        criterion: Criterion | None = None,
    ):
        self.accelerator, self.arguments, self.augment = accelerator, arguments, augment
        self.criterion = criterion or self._cross_entropy
        self.config = model.config
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        if arguments.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.ema = self._make_ema(model)
        if arguments.compile:
            if torch.__version__ < "2.7":
                raise UsageError(
                    f"`compile` needs torch 2.7, which can trace ViT, or later; this is {torch.__version__}."
                )
            # in place, so that the weights keep their names
            model.compile()
        self.learning_rate = peak_learning_rate(arguments, effective_batch_size(arguments, accelerator))
        groups = parameter_groups(model, arguments.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        self.schedule = LearningRate(optimizer, arguments, updates_per_epoch)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def _cross_entropy(self, outputs: Any, pixel_values: Tensor, targets: Tensor) -> Tensor:
        return smoothed_cross_entropy(outputs.logits.float(), targets, self.arguments.label_smoothing_factor)

    def _make_ema(self, model: PreTrainedModel) -> ModelEmaV3 | None:
        if not self.arguments.ema_decay:
            return None
        if self.accelerator.distributed_type == DistributedType.FSDP:
            raise UsageError("a moving average of sharded weights cannot be kept: give --ema_decay 0, or use DDP.")
        ema = ModelEmaV3(model.to(self.accelerator.device), decay=self.arguments.ema_decay)
        self.accelerator.register_for_checkpointing(ema)
        return ema

    @property
    def trained_model(self) -> PreTrainedModel:
        """The model that is evaluated and saved: the trained weights, or their moving average."""
        # the parts of a sharded model come together in its own forward pass alone
        is_sharded = self.accelerator.distributed_type == DistributedType.FSDP
        return self.model if is_sharded else self.whole_model

    @property
    def whole_model(self) -> PreTrainedModel:
        """The model without what a distributed run wraps around it; its weights may be sharded."""
        if self.arguments.save_ema:
            return self.ema.module
        # `accelerate launch` may have compiled it, too
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of `whole_model`, put together; all processes have to call this."""
        if self.arguments.save_ema:
            return self.ema.module.state_dict()
        state_dict = self.accelerator.get_state_dict(self.model)
        # where `accelerate launch` has compiled the model
        return {name.removeprefix("_orig_mod."): tensor for name, tensor in state_dict.items()}

    def loss(self, batch: dict[str, Tensor], epoch: int, number: int) -> Tensor:
        """The loss of the batch with that number in an epoch, whose random choices follow from these and the seed."""
        key = (self.arguments.seed, epoch, number, self.accelerator.process_index, STEP_KEY)
        pixel_values, targets = self.augment(batch["pixel_values"], batch["labels"], *key)
        return self.criterion(self.model(pixel_values=pixel_values), pixel_values, targets)

    def step(self, batch: dict[str, Tensor], epoch: int, number: int) -> Tensor:
        """Learn from a batch; the weights change with the last of those that are accumulated.

        Returns:
            The loss.
        """
        with self.accelerator.accumulate(self.model):
            loss = self.loss(batch, epoch, number)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.arguments.max_grad_norm:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.ema is not None and self.accelerator.sync_gradients:
            self.ema.update(self.accelerator.unwrap_model(self.model))
        return loss.detach()

    def has_finite_weights(self) -> bool:
        """Whether all weights of this process are numbers."""
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())


def effective_batch_size(arguments: LoopArguments, accelerator: Accelerator) -> int:
    """Images in an update."""
    per_process = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return per_process * accelerator.num_processes


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
