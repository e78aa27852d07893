"""The flags of a training run: how the model starts, how it is trained, what happens to images, what is kept."""

import math
import os
from dataclasses import dataclass, field
from typing import Any

from .cli import UsageError
from .configuration_vit_cb import PRESETS
from .cores import available_cores


# flags that change neither weights nor results
INCIDENTAL = frozenset(
    "output_dir overwrite_output_dir checkpointing_steps save_total_limit resume_from_checkpoint"
    " per_device_eval_batch_size dataloader_num_workers num_cpu_threads disable_tqdm with_tracking report_to"
    " logging_steps push_to_hub hub_model_id hub_private_repo hub_revision".split()
)

REPORT_TO = ("tensorboard", "trackio", "wandb", "all")


def _flag(default: Any, help_text: str, **metadata: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help_text, **metadata})
    return field(default=default, metadata={"help": help_text, **metadata})


class _Checked:
    """Values of flags with limits."""

    def require(self, name: str, condition: bool, allowed: str) -> None:
        """Raise `UsageError` unless the condition holds."""
        if not condition:
            raise UsageError(f"`{name}` must be {allowed}, got {getattr(self, name)!r}.")

    def require_all(self, names: str, condition: Any, allowed: str) -> None:
        """The same for several flags; those that are None are left out."""
        for name in names.split():
            value = getattr(self, name)
            self.require(name, value is None or condition(value), allowed)


def _cores_of_this_process() -> int:
    # torchrun and accelerate launch say how many processes share the machine; 8 loaders keep up with one GPU
    return min(8, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@dataclass
class ModelArguments(_Checked):
    """What the model starts from."""

    model_name_or_path: str | None = _flag(
        None, "Pretrained vision transformer to start from: a folder or a repository of the Hub."
    )
    preset: str | None = _flag(None, "DeiT's widths for a model from scratch.", choices=list(PRESETS))
    train_only_techniques: bool = _flag(False, "Train the techniques' parameters alone; a new head stays as it began.")

    def __post_init__(self) -> None:
        if self.model_name_or_path and self.preset:
            raise UsageError("`preset` makes a new model: leave it out, or leave out --model_name_or_path.")


@dataclass
class DistillationArguments(_Checked):
    """A teacher, as in DeiT."""

    teacher_model_name_or_path: str | None = _flag(
        None, "Image classifier of the same classes, in the same order, to learn from."
    )
    distillation_type: str = _flag("hard", "Learn its first guess, or its probabilities.", choices=["soft", "hard"])
    distillation_alpha: float = _flag(0.5, "Weight of the teacher in the loss.")
    distillation_tau: float = _flag(1.0, "Temperature of soft distillation.")

    def __post_init__(self) -> None:
        self.require_all("distillation_alpha", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        self.require_all("distillation_tau", lambda value: 0 < value < math.inf, "a number above 0")


@dataclass
class LoopArguments(_Checked):
    """How a model is trained."""

    num_train_epochs: int = _flag(70, "Passes over the training images.")
    per_device_train_batch_size: int = _flag(32, "Images in a step of one process.")
    per_device_eval_batch_size: int = _flag(256, "Images in an evaluation batch of one process.")
    gradient_accumulation_steps: int = _flag(1, "Batches in an update.")
    learning_rate: float = _flag(3e-3, "Highest learning rate of AdamW.")
    learning_rate_batch_size: int | None = _flag(
        None, "Effective batch size that the learning rate is meant for; it grows in proportion to the actual one."
    )
    min_learning_rate: float = _flag(0.0, "Learning rate at the end of the cosine.")
    lr_step: str = _flag("update", "When the learning rate changes.", choices=["update", "epoch"])
    warmup_ratio: float | None = _flag(None, "Share of the training with a rising learning rate.")
    warmup_epochs: float | None = _flag(None, "Epochs with a rising learning rate, in place of a share.")
    warmup_learning_rate: float = _flag(0.0, "Learning rate that the warm-up starts from.")
    weight_decay: float = _flag(0.05, "Decay of the weight matrices.")
    label_smoothing_factor: float = _flag(0.0, "Smoothing of the training labels.")
    max_grad_norm: float = _flag(1.0, "Gradients are clipped to this norm; 0 does not clip.")
    ema_decay: float = _flag(0.0, "Decay of a moving average of the weights, after each update; 0 keeps none.")
    save_ema: bool = _flag(False, "Evaluate and save the moving average in place of the trained weights.")
    mixed_precision: str | None = _flag(
        None, "Arithmetic; by default what `accelerate launch` was told, else no.", choices=["no", "bf16", "fp16"]
    )
    gradient_checkpointing: bool = _flag(False, "Compute activations twice in place of keeping them.")
    compile: bool = _flag(False, "Compile the model with torch.compile.")
    dataloader_num_workers: int | None = _flag(
        None, "Processes that load images, for each training process; by default as many as it has cores, 8 at most."
    )
    num_cpu_threads: int = _flag(
        1,
        "Threads of a process for arithmetic on a CPU; 0 leaves it to torch. Small models gain little from a second"
        " one, and lose much where it has to wait for a busy core.",
    )
    seed: int = _flag(0, "Seed of weights, order and augmentation.")
    disable_tqdm: bool = _flag(False, "Show no progress bar.")

    def __post_init__(self) -> None:
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = _cores_of_this_process()
        self.require_all(
            "num_train_epochs per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps"
            " learning_rate_batch_size",
            lambda value: value >= 1,
            "at least 1",
        )
        self.require_all("learning_rate", lambda value: 0 < value < math.inf, "a number above 0")
        if self.warmup_ratio is not None and self.warmup_epochs is not None:
            raise UsageError("the warm-up has one length: give --warmup_ratio or --warmup_epochs.")
        self.require_all("warmup_ratio label_smoothing_factor ema_decay", lambda v: 0 <= v < 1, "a number in [0, 1)")
        self.require_all(
            "weight_decay max_grad_norm min_learning_rate warmup_learning_rate warmup_epochs",
            lambda value: 0 <= value < math.inf,
            "a number of at least 0",
        )
        self.require_all("dataloader_num_workers num_cpu_threads", lambda value: value >= 0, "at least 0")
        # more than any machine has; torch takes no number beyond 31 bits
        self.require("num_cpu_threads", self.num_cpu_threads <= 1024, "at most 1024")
        # the range of numpy's and torch's seeds
        self.require("seed", 0 <= self.seed < 2**32, "an integer from 0 to 2**32 - 1")
        if self.save_ema and not self.ema_decay:
            raise UsageError("`save_ema` saves a moving average of the weights: give --ema_decay, for example 0.9999.")


@dataclass
class AugmentationArguments(_Checked):
    """What happens to training images before the model sees them."""

    random_resized_crop: list[float] | None = _flag(
        None,
        "Least and greatest share of the image's area in a random crop; without values, the whole image is resized.",
    )
    train_interpolation: str = _flag(
        "bilinear", "Filter of that resizing.", choices=["bilinear", "bicubic", "lanczos", "random"]
    )
    rotation: float = _flag(0.0, "Largest random rotation, in degrees.")
    translation: float = _flag(0.0, "Largest random shift, as a share of the side.")
    scaling: float = _flag(0.0, "Largest random change of size, as a share.")
    shear: float = _flag(0.0, "Largest random shear, in degrees.")
    horizontal_flip: float = _flag(0.0, "Probability of a horizontal flip.")
    color_jitter: float = _flag(0.0, "Strength of random brightness, contrast and saturation; off with --auto_augment.")
    auto_augment: str | None = _flag(None, "timm's name of an augmentation policy, such as rand-m9-mstd0.5-inc1.")
    random_erasing: float = _flag(0.0, "Probability that a rectangle is replaced by noise.")
    mixup: float = _flag(0.0, "Alpha of mixup; 0 is off.")
    cutmix: float = _flag(0.0, "Alpha of CutMix; 0 is off.")
    mixup_prob: float = _flag(1.0, "Probability that a batch is mixed.")
    mixup_switch_prob: float = _flag(0.5, "Probability of CutMix where mixup is on too.")
    repeated_augmentation: int = _flag(1, "Copies of an image in an epoch, each augmented anew; 1 is off.")

    def __post_init__(self) -> None:
        # the flag without values turns a recipe's crop off
        self.random_resized_crop = self.random_resized_crop or None
        if self.auto_augment == "none":
            self.auto_augment = None
        crop = self.random_resized_crop
        allowed = "two shares of the area in (0, 1], the least first, or no value at all"
        self.require("random_resized_crop", crop is None or (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1), allowed)
        self.require_all(
            "horizontal_flip random_erasing mixup_prob mixup_switch_prob",
            lambda value: 0 <= value <= 1,
            "a probability from 0 to 1",
        )
        self.require_all("translation scaling", lambda value: 0 <= value < 1, "a share in [0, 1)")
        self.require_all("rotation shear", lambda value: 0 <= value <= 180, "degrees from 0 to 180")
        self.require_all("color_jitter mixup cutmix", lambda v: 0 <= v < math.inf, "a number of at least 0")
        self.require_all("repeated_augmentation", lambda value: value >= 1, "at least 1")

    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class PreprocessingArguments(_Checked):
    """What the image processor of a model from scratch does; pretrained models bring theirs."""

    image_mean: list[float] = _flag([0.5, 0.5, 0.5], "Mean of the three channels, from 0 to 1.")
    image_std: list[float] = _flag([0.5, 0.5, 0.5], "Standard deviation of the three channels.")
    eval_interpolation: str = _flag(
        "bilinear", "Filter of the resizing.", choices=["nearest", "bilinear", "bicubic", "lanczos"]
    )
    eval_crop_ratio: float | None = _flag(
        None, "Size of the centre crop by that of the shorter edge; by default the whole image is resized."
    )

    def __post_init__(self) -> None:
        self.require_all(
            "image_mean image_std", lambda value: len(value) == 3, "three numbers, for red, green and blue"
        )
        self.require("image_std", all(value > 0 for value in self.image_std), "three numbers above 0")
        self.require_all("eval_crop_ratio", lambda value: 0 < value <= 1, "a share in (0, 1]")


@dataclass
class CheckpointArguments(_Checked):
    """What is kept of a run while it lasts."""

    output_dir: str | None = _flag(None, "Folder of the trained model; by default one in outputs/.")
    overwrite_output_dir: bool = _flag(False, "Replace the run in that folder.")
    checkpointing_steps: str | None = _flag(None, "Write a checkpoint every so many updates, or every `epoch`.")
    save_total_limit: int | None = _flag(None, "Keep only so many checkpoints, the newest.")
    resume_from_checkpoint: str | None = _flag(None, "Continue from a checkpoint: its folder, or `latest`.")

    def __post_init__(self) -> None:
        steps = self.checkpointing_steps
        if steps == "none":
            self.checkpointing_steps = steps = None
        is_number = steps is not None and steps.isascii() and steps.isdigit() and int(steps) > 0
        self.require("checkpointing_steps", steps in (None, "epoch") or is_number, "a number of updates or epoch")
        self.require_all("save_total_limit", lambda value: value >= 1, "at least 1")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise UsageError("a run is either continued or replaced: leave out --overwrite_output_dir.")

    def may_continue(self) -> bool:
        """Whether the output folder may hold a run already."""
        return self.overwrite_output_dir or self.resume_from_checkpoint is not None


@dataclass
class TrackingArguments(_Checked):
    """Where the run can be watched."""

    with_tracking: bool = _flag(False, "Report loss and metrics to experiment trackers.")
    report_to: str = _flag("all", "Which tracker; all takes those that are installed.", choices=list(REPORT_TO))
    logging_steps: int = _flag(50, "Updates between two reports to trackers.")

    def __post_init__(self) -> None:
        self.require_all("logging_steps", lambda value: value >= 1, "at least 1")
