"""The flags of a training run: how the model starts, how it is trained, what happens to images, what is kept."""

import math
import os
from dataclasses import dataclass

from ..cli.flags import Checked, HfArg, ThreadArguments
from ..cli.record import available_cores
from ..errors import UsageError
from ..vit_cb.configuration_vit_cb import PRESETS


REPORT_TO = ("tensorboard", "trackio", "wandb", "all")


def _cores_of_this_process() -> int:
    # torchrun and accelerate launch say how many processes share the machine; 8 loaders keep up with one GPU
    return min(8, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@dataclass
class ModelArguments(Checked):
    """What the model starts from."""

    _argument_group_name = "model"

    model_name_or_path: str | None = HfArg(
        default=None, help="Pretrained vision transformer to start from: a folder or a repository of the Hub."
    )
    preset: str | None = HfArg(
        default=None, help="DeiT's widths for a model from scratch.", metadata={"choices": list(PRESETS)}
    )
    train_only_techniques: bool = HfArg(
        default=False, help="Train the techniques' parameters alone; a new head stays as it began."
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path and self.preset:
            raise UsageError("`preset` makes a new model: leave it out, or leave out --model_name_or_path.")


@dataclass
class DistillationArguments(Checked):
    """A teacher, as in DeiT."""

    _argument_group_name = "distillation"

    teacher_model_name_or_path: str | None = HfArg(
        default=None, help="Image classifier of the same classes, in the same order, to learn from."
    )
    distillation_type: str = HfArg(
        default="hard",
        help="hard: learn the teacher's first guess; soft: learn its probabilities.",
        metadata={"choices": ["soft", "hard"]},
    )
    distillation_alpha: float = HfArg(default=0.5, help="Weight of the teacher in the loss.")
    distillation_tau: float = HfArg(default=1.0, help="Temperature of soft distillation.")

    def __post_init__(self) -> None:
        self.require_all("distillation_alpha", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        self.require_all("distillation_tau", lambda value: 0 < value < math.inf, "a number above 0")


@dataclass
class LoopArguments(ThreadArguments):
    """How a model is trained."""

    _argument_group_name = "loop"

    num_train_epochs: int = HfArg(default=70, help="Passes over the training images.")
    per_device_train_batch_size: int = HfArg(default=32, help="Images in a step of one process.")
    per_device_eval_batch_size: int = HfArg(default=256, help="Images in an evaluation batch of one process.")
    gradient_accumulation_steps: int = HfArg(default=1, help="Batches in an update.")
    learning_rate: float = HfArg(default=3e-3, help="Highest learning rate of AdamW.")
    learning_rate_batch_size: int | None = HfArg(
        default=None,
        help="Effective batch size that the learning rate is meant for; it grows in proportion to the actual one.",
    )
    min_learning_rate: float = HfArg(default=0.0, help="Learning rate at the end of the cosine.")
    lr_step: str = HfArg(
        default="update", help="When the learning rate changes.", metadata={"choices": ["update", "epoch"]}
    )
    warmup_ratio: float | None = HfArg(default=None, help="Share of the training with a rising learning rate.")
    warmup_epochs: float | None = HfArg(default=None, help="Epochs with a rising learning rate, in place of a share.")
    warmup_learning_rate: float = HfArg(default=0.0, help="Learning rate that the warm-up starts from.")
    weight_decay: float = HfArg(default=0.05, help="Decay of the weight matrices.")
    label_smoothing_factor: float = HfArg(default=0.0, help="Smoothing of the training labels.")
    max_grad_norm: float = HfArg(default=1.0, help="Gradients are clipped to this norm; 0 does not clip.")
    ema_decay: float = HfArg(
        default=0.0, help="Decay of a moving average of the weights, after each update; 0 keeps none."
    )
    save_ema: bool = HfArg(default=False, help="Evaluate and save the moving average in place of the trained weights.")
    mixed_precision: str | None = HfArg(
        default=None,
        help="Arithmetic; by default what `accelerate launch` was told, else no.",
        metadata={"choices": ["no", "bf16", "fp16"]},
    )
    gradient_checkpointing: bool = HfArg(default=False, help="Compute activations twice in place of keeping them.")
    compile: bool = HfArg(default=False, help="Compile the model with torch.compile.")
    dataloader_num_workers: int | None = HfArg(
        default=None,
        help="Processes that load images, for each training process; by default as many as it has cores, 8 at most.",
    )
    seed: int = HfArg(default=0, help="Seed of weights, order and augmentation.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")

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
        self.require_all("dataloader_num_workers", lambda value: value >= 0, "at least 0")
        super().__post_init__()
        # the range of numpy's and torch's seeds
        self.require("seed", 0 <= self.seed < 2**32, "an integer from 0 to 2**32 - 1")
        if self.save_ema and not self.ema_decay:
            raise UsageError("`save_ema` saves a moving average of the weights: give --ema_decay, for example 0.9999.")


@dataclass
class PreprocessingArguments(Checked):
    """What the image processor of a model from scratch does; pretrained models bring theirs."""

    _argument_group_name = "augmentation"

    image_mean: list[float] = HfArg(
        default_factory=lambda: [0.5, 0.5, 0.5], help="Mean of the three channels, from 0 to 1."
    )
    image_std: list[float] = HfArg(
        default_factory=lambda: [0.5, 0.5, 0.5], help="Standard deviation of the three channels."
    )
    eval_interpolation: str = HfArg(
        default="bilinear",
        help="Filter of the resizing.",
        metadata={"choices": ["nearest", "bilinear", "bicubic", "lanczos"]},
    )
    eval_crop_ratio: float | None = HfArg(
        default=None, help="Size of the centre crop by that of the shorter edge; by default the whole image is resized."
    )

    def __post_init__(self) -> None:
        self.require_all(
            "image_mean image_std", lambda value: len(value) == 3, "three numbers, for red, green and blue"
        )
        self.require("image_std", all(value > 0 for value in self.image_std), "three numbers above 0")
        self.require_all("eval_crop_ratio", lambda value: 0 < value <= 1, "a share in (0, 1]")


@dataclass
class CheckpointArguments(Checked):
    """What is kept of a run while it lasts."""

    _argument_group_name = "output"

    output_dir: str | None = HfArg(default=None, help="Folder of the trained model; by default one in outputs/.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the run in that folder.")
    checkpointing_steps: str | None = HfArg(
        default=None, help="Write a checkpoint every so many updates, or every `epoch`."
    )
    save_total_limit: int | None = HfArg(default=None, help="Keep only so many checkpoints, the newest.")
    resume_from_checkpoint: str | None = HfArg(
        default=None, help="Continue from a checkpoint: its folder, or `latest`."
    )

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
class TrackingArguments(Checked):
    """Where the run can be watched."""

    _argument_group_name = "output"

    with_tracking: bool = HfArg(default=False, help="Report loss and metrics to experiment trackers.")
    report_to: str = HfArg(
        default="all", help="Which tracker; all takes those that are installed.", metadata={"choices": list(REPORT_TO)}
    )
    logging_steps: int = HfArg(default=50, help="Updates between two reports to trackers.")

    def __post_init__(self) -> None:
        self.require_all("logging_steps", lambda value: value >= 1, "at least 1")
