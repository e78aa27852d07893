"""Fine-tuning with transformers' Trainer: augmentation, metrics, and what Trainer needs told."""

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as PILImage
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..data.dataset import IGNORED_LABEL, ImageDataset, collate, raise_mistake
from ..data.digits import DIGITS_CROP_SCALE
from ..errors import UsageError
from ..metrics import first_guesses, top_k_accuracy
from ..models.classifier import PixelScale
from ..models.loading import from_pretrained
from ..optimization import parameter_groups
from .arguments import AugmentationArguments


logger = logging.get_logger(__name__)


class RandomView:
    """A random part of an image at the model's size, perhaps mirrored, prepared as the image processor does.

    Args:
        image_processor: gives size, interpolation and normalisation.
        crop_scale: smallest share of the area.
        horizontal_flip: probability that an image is mirrored.
    """

    def __init__(self, image_processor: BaseImageProcessor, crop_scale: float, horizontal_flip: float):
        self.scale = PixelScale(image_processor)
        interpolation = PIL_INTERPOLATIONS.get(image_processor.resample, InterpolationMode.BILINEAR)
        crop = v2.RandomResizedCrop(self.scale.size, scale=(crop_scale, 1.0), interpolation=interpolation)
        self.augment = v2.Compose([crop, v2.RandomHorizontalFlip(horizontal_flip)])

    def __call__(self, image: PILImage.Image) -> Tensor:
        """An RGB image to [3, height, width] in float32."""
        picture = F.pil_to_tensor(self.augment(image)).float() / 255
        return self.scale(picture)


# of Pillow's numbers, which image processors hold
PIL_INTERPOLATIONS = {
    PILImage.Resampling.NEAREST: InterpolationMode.NEAREST,
    PILImage.Resampling.BILINEAR: InterpolationMode.BILINEAR,
    PILImage.Resampling.BICUBIC: InterpolationMode.BICUBIC,
    PILImage.Resampling.LANCZOS: InterpolationMode.LANCZOS,
}


def make_augmentation(
    arguments: AugmentationArguments, image_processor: BaseImageProcessor, is_digits: bool
) -> RandomView:
    """The augmentation that was asked for, or what is usual for the data."""
    scale, flip = arguments.crop_scale, arguments.horizontal_flip
    scale = (DIGITS_CROP_SCALE if is_digits else 0.08) if scale is None else scale
    return RandomView(image_processor, scale, (0.0 if is_digits else 0.5) if flip is None else flip)


class Collator:
    """Rows of `ImageDataset` to a batch for Trainer; each image that cannot be read is named once."""

    def __init__(self) -> None:
        self.named: set[int] = set()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values` [B, 3, height, width] and `labels` [B]."""
        batch = collate(rows)
        for index, why in batch.pop("skipped", ()):
            if index not in self.named:
                self.named.add(index)
                logger.warning(f"an image cannot be read and is left out: {why}")
        return batch


class EpochImages(ImageDataset):
    """`ImageDataset` read by index alone, as Trainer does: the epoch is that of the last `set_epoch`."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the rows are read in."""
        self.epoch = epoch

    def __getitems__(self, keys: Sequence[int]) -> list[dict[str, Any]]:
        return super().__getitems__([(index, self.epoch, 0) for index in keys])


class NewEpoch(TrainerCallback):
    """Tells the training images which epoch they are read in: Accelerate does so in one process alone."""

    def __init__(self, data: EpochImages):
        self.data = data

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.data.set_epoch(int(state.epoch or 0))


class EpochLines(TrainerCallback):
    """A line after each evaluation and each report of the loss, where a progress bar would fill a log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        shown = {name: (logs or {}).get(name) for name in ("loss", "eval_loss", "eval_accuracy")}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, float))
        if numbers and state.is_world_process_zero:
            print(f"epoch {state.epoch or 0:g}/{args.num_train_epochs:g}: {numbers}", file=sys.stderr, flush=True)


class FineTuner(Trainer):
    """Trainer that decays what `parameter_groups` says, and reports the plain mean cross-entropy as `eval_loss`."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay."""
        groups = parameter_groups(model, weight_decay=1.0)
        decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
        return [name for name, parameter in model.named_parameters() if id(parameter) in decayed]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        raise_mistake(inputs)
        return super()._prepare_inputs(inputs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's, each image counting once and without label smoothing."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        loss = output.metrics.pop(f"{metric_key_prefix}_cross_entropy", None)
        if loss is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = loss
        return output

    # Trainer (transformers 5.9 to 5.23) reads a checkpoint's names as they stand in the file, where the weights of many
    # have those of before transformers 5; ViT-CB knows them, in another model it finds none of the layers and goes on
    # with the weights it has

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_whole_model():
            self._load_whole_model(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._is_whole_model():
            self._load_whole_model(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _is_whole_model(self) -> bool:
        # PEFT's models are of another class
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return isinstance(self.model, PreTrainedModel) and not sharded

    def _load_whole_model(self, folder: str) -> None:
        saved = from_pretrained(folder, type(self.model), dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run writes its own card."""


def mean_cross_entropy(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Trainer's `compute_loss_func` for classifiers that compute no loss themselves, such as the distilled DeiT.

    Args:
        outputs: have `logits` [B, classes].
        labels: [B].
        num_items_in_batch: images in the update that the batch is a part of; by default those of the batch.
        label_smoothing: of the labels.
    """
    loss = nn.functional.cross_entropy(
        outputs["logits"].float(), labels, reduction="sum", ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing
    )
    return loss / ((labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch)


def loss_function_of(model: nn.Module, label_smoothing: float) -> Callable[..., Tensor] | None:
    """`mean_cross_entropy` where the model takes no labels; otherwise None, and Trainer takes the model's own loss."""
    takes_labels = "labels" in inspect.signature(model.forward).parameters
    return None if takes_labels else partial(mean_cross_entropy, label_smoothing=label_smoothing)


def ranked_guesses(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the metrics need of a batch: the first guesses [B, 5] and the cross-entropy of each image [B]."""
    logits = (logits[0] if isinstance(logits, tuple) else logits).float()
    losses = nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
    return first_guesses(logits), losses


def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
    """Accuracy, top-5 accuracy, mean cross-entropy and number of images; those that cannot be read are left out.

    Args:
        evaluated: `predictions` as `ranked_guesses` gives them, and `label_ids`.

    Raises:
        UsageError: none of the images can be read.
    """
    guesses, losses = evaluated.predictions
    readable = evaluated.label_ids != IGNORED_LABEL
    if not readable.any():
        raise UsageError(f"none of the {len(readable)} images to evaluate on can be read.")
    return {
        **top_k_accuracy(guesses[readable], evaluated.label_ids[readable]),
        "cross_entropy": float(losses[readable].astype(np.float64).mean()),
        "samples": int(readable.sum()),
    }


def history_of(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of training and evaluation at the same epoch, for `save_training_curves`.

    Args:
        log: Trainer's `state.log_history`.
    """
    losses = {row["epoch"]: row["loss"] for row in log if "loss" in row}
    keys = ("eval_loss", "eval_accuracy", "eval_top_5_accuracy")
    return [
        {"epoch": row["epoch"], "train_loss": losses[row["epoch"]], **{key: row[key] for key in keys}}
        for row in log
        if "eval_loss" in row and row["epoch"] in losses
    ]
