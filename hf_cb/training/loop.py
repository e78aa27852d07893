"""The training loop, with Accelerate: resumable after every update, to the bit."""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from ..cli.progress import progress_bar
from ..data.augmentation import (
    AugmentationArguments,
    BatchAugmentation,
    Normalization,
    training_transform,
)
from ..data.dataset import evaluation_transform
from ..data.sources import ImageData
from ..errors import Terminated, UsageError
from .accelerator import TerminationRequest
from .arguments import CheckpointArguments, LoopArguments, TrackingArguments
from .checkpoints import Progress, RunCheckpoints
from .learner import Criterion, Learner, effective_batch_size
from .loaders import SkippedImages, TrainingLoader, evaluation_loader
from .plan import Plan
from .validation import EndedEarlyError, evaluate_model


# on a GPU the host runs ahead of the device; looking at the loss makes it wait
UPDATES_BETWEEN_CHECKS_ON_GPU = 10


@dataclass
class RunArguments:
    """The groups of flags that the loop needs, and the name of the recipe that their values come from."""

    loop: LoopArguments
    augmentation: AugmentationArguments
    checkpoints: CheckpointArguments
    tracking: TrackingArguments
    recipe: str


class Training:
    """One training run, and the evaluation of what it trains after every epoch.

    Args:
        accelerator: of the run.
        model: a classifier.
        image_processor: saved with the model; training images get its size, mean and standard deviation.
        data: to train and to evaluate on.
        arguments: how.
        folder: of the checkpoints.
        fingerprint: what the run depends on; data and effective batch size are added.
        criterion: the loss; the cross-entropy by default.

    Raises:
        UsageError: arguments do not go together.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        image_processor: BaseImageProcessor,
        data: ImageData,
        arguments: RunArguments,
        folder: Path,
        fingerprint: dict[str, Any],
        criterion: Criterion | None = None,
    ):
        loop = arguments.loop
        self.accelerator, self.arguments, self.loop = accelerator, arguments, loop
        self.progress, self.skipped = Progress(), SkippedImages()
        self.last_checkpoint: Path | None = None
        # losses that have not been looked at yet, with the learning rate of each
        self.pending: list[tuple[Tensor, float]] = []
        self.rate = 0.0
        self.started = time.perf_counter()
        self.bar = progress_bar(disable=True)
        self.termination = TerminationRequest(accelerator)
        self._make_loaders(data, image_processor)
        augment = self._batch_augmentation(image_processor, len(data.label_names))
        self.images_per_update = effective_batch_size(loop, accelerator)
        self.updates_per_epoch = self.train_loader.num_batches // loop.gradient_accumulation_steps
        self.learner = Learner(accelerator, model, augment, loop, self.updates_per_epoch, criterion)
        facts = {"effective_batch_size": self.images_per_update, "label_names": data.label_names}
        facts["num_train_images"] = self.train_loader.num_images
        limit = arguments.checkpoints.save_total_limit
        self.checkpoints = RunCheckpoints(folder, accelerator, {**fingerprint, **facts}, limit)

    def _make_loaders(self, data: ImageData, image_processor: BaseImageProcessor) -> None:
        transform = training_transform(image_processor, self.arguments.augmentation)
        repeats = self.arguments.augmentation.repeated_augmentation
        self.train_loader = TrainingLoader(
            data.train, transform, len(data.label_names), self.loop, repeats, self.accelerator, self.skipped
        )
        evaluated = evaluation_transform(image_processor)
        self.eval_loader = evaluation_loader(data.evaluation, evaluated, self.loop, self.accelerator, self.skipped)

    def _batch_augmentation(self, image_processor: BaseImageProcessor, num_labels: int) -> BatchAugmentation:
        augmentation, size = self.arguments.augmentation, self.loop.per_device_train_batch_size
        if augmentation.mixes() and size % 2:
            raise UsageError(
                f"mixup and CutMix mix images in pairs: `per_device_train_batch_size` must be even, got {size}."
            )
        smoothing = self.loop.label_smoothing_factor
        normalization = Normalization.of(image_processor)
        return BatchAugmentation(normalization, augmentation, smoothing, num_labels, self.accelerator.device)

    def plan(self) -> Plan:
        """The size of the run."""
        loop = self.loop
        return Plan(
            recipe=self.arguments.recipe,
            num_parameters=self.learner.num_parameters,
            num_train_images=self.train_loader.num_images,
            per_device_train_batch_size=loop.per_device_train_batch_size,
            num_processes=self.accelerator.num_processes,
            gradient_accumulation_steps=loop.gradient_accumulation_steps,
            learning_rate=self.learner.learning_rate,
            warmup_epochs=self.learner.schedule.warmup_epochs,
            num_train_epochs=loop.num_train_epochs,
            updates_per_epoch=self.updates_per_epoch,
        )

    def resume(self, checkpoint: Path) -> None:
        """Go back to where a checkpoint was written; all processes have to call this.

        Raises:
            UsageError: it is of another run, or cannot be read.
        """
        self.progress = self.checkpoints.load(checkpoint)
        self.skipped.keys = set(self.progress.skipped)
        self.last_checkpoint = checkpoint

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            `eval_*` of the weights that are to be saved, `train_*`, and the history of the epochs.

        Raises:
            UsageError: the loss or a weight is no number any more.
            Terminated: the process was asked to end; a checkpoint was written.
        """
        facts = {
            name: fact for name, fact in self.checkpoints.fingerprint.items() if isinstance(fact, str | int | float)
        }
        self.accelerator.init_trackers("hf_cb", facts)
        self.started = time.perf_counter() - self.progress.seconds
        total = self.loop.num_train_epochs * self.updates_per_epoch * self.images_per_update
        done = self.progress.step * self.images_per_update
        hidden = self.loop.disable_tqdm or not self.accelerator.is_main_process or not sys.stderr.isatty()
        with (
            self.termination,
            progress_bar(total=total, initial=done, unit="img", unit_scale=True, disable=hidden) as self.bar,
        ):
            while self.progress.epoch < self.loop.num_train_epochs:
                self._train_epoch()
                self._finish_epoch()
        return self._results()

    def _train_epoch(self) -> None:
        self.learner.model.train()
        per_update = self.loop.gradient_accumulation_steps
        first = self.progress.updates * per_update
        losses = []
        for number, batch in enumerate(self.train_loader.epoch(self.progress.epoch, first), start=first):
            if not losses:
                self.rate = self.learner.schedule.set(self.progress.epoch, self.progress.updates)
            losses.append(self.learner.step(batch, self.progress.epoch, number))
            if len(losses) == per_update:
                self.pending.append((torch.stack(losses).mean(), self.rate))
                losses = []
                self._after_update()
        self._look_at_losses()

    def _after_update(self) -> None:
        progress = self.progress
        progress.updates += 1
        progress.step += 1
        self.bar.update(self.images_per_update)
        interval = UPDATES_BETWEEN_CHECKS_ON_GPU if self.accelerator.device.type == "cuda" else 1
        if progress.step % interval == 0:
            self._look_at_losses()
            if self.termination.agreed():
                self._end()
        tracking = self.arguments.tracking
        if tracking.with_tracking and progress.step % tracking.logging_steps == 0:
            mean = progress.loss_sum / max(1, progress.loss_count)
            self.accelerator.log({"train_loss": mean, "learning_rate": self.rate}, step=progress.step)
        steps = self.arguments.checkpoints.checkpointing_steps
        if steps not in (None, "epoch") and progress.step % int(steps) == 0:
            self._save(f"step_{progress.step}")

    def _look_at_losses(self) -> None:
        """Add the losses of the last updates up, and stop where one is no number; all processes come here together."""
        if not self.pending:
            return
        pending, rates = zip(*self.pending)
        losses = self.accelerator.reduce(torch.stack(pending), reduction="mean").tolist()
        self.pending = []
        for step, (loss, rate) in enumerate(zip(losses, rates), start=self.progress.step - len(losses) + 1):
            if not math.isfinite(loss):
                self._stop_at(f"the training loss became {loss} at step {step}", rate)
            self.progress.loss_sum += loss
            self.progress.loss_count += 1
        mean = self.progress.loss_sum / self.progress.loss_count
        self.bar.set_postfix(self._postfix(mean), refresh=False)

    def _postfix(self, loss: float) -> dict[str, Any]:
        shown = {
            "epoch": f"{self.progress.epoch + 1}/{self.loop.num_train_epochs}",
            "loss": f"{loss:.3f}",
            "lr": f"{self.rate:.1e}",
        }
        if self.progress.history:
            shown["accuracy"] = f"{self.progress.history[-1]['eval_accuracy']:.3f}"
        return shown

    def _stop_at(self, what: str, rate: float) -> NoReturn:
        last = (
            f"the last good checkpoint is {self.last_checkpoint}" if self.last_checkpoint else "there is no checkpoint"
        )
        raise UsageError(
            f"{what} in epoch {self.progress.epoch + 1}, at a learning rate of {rate:.3g}; {last}. Give a lower"
            f" --learning_rate than {self.loop.learning_rate:g}, or a longer warm-up."
        )

    def _save(self, name: str) -> None:
        self._look_at_losses()
        # asked to end right after one was written
        if self.last_checkpoint == self.checkpoints.folder / name:
            return
        # a checkpoint that cannot be continued from must not stand for the last good one
        if not self.learner.has_finite_weights():
            self._stop_at(f"weights became infinite or no number at step {self.progress.step}", self.rate)
        self.progress.seconds = time.perf_counter() - self.started
        self.progress.skipped = self.skipped.of_all_processes()
        self.last_checkpoint = self.checkpoints.save(name, self.progress)

    def _end(self) -> NoReturn:
        self._save(f"step_{self.progress.step}")
        raise Terminated(
            f"asked to end after step {self.progress.step}; wrote {self.last_checkpoint}. The same command with"
            " --resume_from_checkpoint latest continues."
        )

    def _finish_epoch(self) -> None:
        progress, loader = self.progress, self.eval_loader
        self.skipped.of_all_processes()
        self.bar.set_description("evaluating")
        should_end = self.termination.agreed if loader.is_even else None
        try:
            metrics = evaluate_model(self.accelerator, self.learner.trained_model, loader, should_end)
        except EndedEarlyError:
            self._end()
        self.bar.set_description("")
        progress.epoch += 1
        row = {"epoch": progress.epoch, "train_loss": progress.loss_sum / progress.loss_count, **metrics}
        progress.history.append(row)
        progress.updates, progress.loss_sum, progress.loss_count = 0, 0.0, 0
        self._tell_of_epoch(row)
        if self.arguments.tracking.with_tracking:
            self.accelerator.log(row, step=progress.step)
        if self.arguments.checkpoints.checkpointing_steps == "epoch":
            self._save(f"epoch_{progress.epoch}")

    def _tell_of_epoch(self, row: dict[str, Any]) -> None:
        """Off a terminal, a line in place of the bar."""
        if self.accelerator.is_main_process and not self.loop.disable_tqdm and not sys.stderr.isatty():
            numbers = f"loss {row['train_loss']:.4f}, accuracy {row['eval_accuracy']:.4f}"
            print(f"epoch {row['epoch']}/{self.loop.num_train_epochs}: {numbers}", file=sys.stderr, flush=True)

    def _results(self) -> dict[str, Any]:
        if not self.learner.has_finite_weights():
            self._stop_at(f"weights became infinite or no number at step {self.progress.step}", self.rate)
        seconds, last = time.perf_counter() - self.started, self.progress.history[-1]
        images = self.progress.step * self.images_per_update
        return {
            **{name: value for name, value in last.items() if name.startswith("eval_")},
            "epoch": self.loop.num_train_epochs,
            "train_loss": last["train_loss"],
            "train_runtime": seconds,
            "train_samples": self.train_loader.num_images,
            "train_samples_per_second": images / seconds,
            "train_steps": self.progress.step,
            "skipped_images": len(self.skipped.of_all_processes()),
            "num_processes": self.accelerator.num_processes,
            "history": self.progress.history,
        }
