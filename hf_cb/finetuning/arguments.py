"""Arguments of fine-tuning: transformers' own with defaults for images, the model's and the augmentation's."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..cli.flags import Checked, HfArg, ThreadArguments
from ..cli.parser import ArgumentParser
from ..errors import UsageError
from ..models.lora import TARGET_MODULES
from .checkpoints import check_readable, is_whole, whole_checkpoints


LATEST = "latest"


@dataclass
class ModelArguments(ThreadArguments):
    """What is fine-tuned, and with how many parameters."""

    _argument_group_name = "model"

    model_name_or_path: str = HfArg(help="Model to start from: a folder or a name on the Hub.")
    image_processor_name: str | None = HfArg(default=None, help="By default the model's own.")
    cache_dir: str | None = HfArg(default=None, help="Where downloads are kept.")
    model_revision: str = HfArg(default="main", help="Branch, tag or commit on the Hub.")
    token: str | None = HfArg(default=None, help="Of the Hub, by default the one you are logged in with.")
    ignore_mismatched_sizes: bool = HfArg(
        default=True, help="Start a new head where the number of classes differs, rather than refuse."
    )
    train_only_techniques: bool = HfArg(
        default=False, help="Train the techniques' parameters alone; a new head stays as it began."
    )
    lora_r: int | None = HfArg(
        default=None, help="Rank of LoRA: only its matrices, the techniques' parameters and the head are trained."
    )
    lora_alpha: float = HfArg(default=16.0, help="LoRA's matrices count alpha / r times.")
    lora_dropout: float = HfArg(default=0.0, help="Dropout of the input of LoRA's matrices.")
    lora_target_modules: list[str] = HfArg(
        default_factory=lambda: list(TARGET_MODULES), help="Linear layers that get LoRA."
    )
    merge_lora: bool = HfArg(
        default=False, help="Save a whole model, LoRA added to its weights, rather than an adapter."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_all("lora_r", lambda rank: rank >= 1, "at least 1")
        self.require_all("lora_dropout", lambda share: 0 <= share < 1, "a number in [0, 1)")
        self.require_all("lora_alpha", lambda alpha: 0 < alpha < float("inf"), "a number above 0")
        if self.train_only_techniques and self.lora_r is not None:
            raise UsageError("`train_only_techniques` and `lora_r` each say what is trained: give one of them.")
        if self.merge_lora and self.lora_r is None:
            raise UsageError("`merge_lora` needs LoRA: give --lora_r, its rank.")

    def leaves_an_adapter(self) -> bool:
        """Whether LoRA's matrices are saved apart, and no whole model."""
        return self.lora_r is not None and not self.merge_lora

    def source(self) -> dict[str, Any]:
        """What chooses a file on the Hub."""
        source = {"cache_dir": self.cache_dir, "revision": self.model_revision, "token": self.token}
        return {name: value for name, value in source.items() if value is not None}


@dataclass
class AugmentationArguments(Checked):
    """What training images undergo; the defaults are those of transformers' own example, milder for the digits."""

    _argument_group_name = "augmentation"

    crop_scale: float | None = HfArg(
        default=None, help="Smallest share of an image's area that is cut out; usually 0.08, for the digits 0.6."
    )
    horizontal_flip: float | None = HfArg(
        default=None,
        help="Probability of a horizontal flip; usually 0.5, for the digits 0. Give 0 for letters and signs.",
    )

    def __post_init__(self) -> None:
        self.require_all("horizontal_flip", lambda share: 0 <= share <= 1, "a probability from 0 to 1")
        self.require_all("crop_scale", lambda share: 0 < share <= 1, "a number in (0, 1]")


@dataclass
class FineTuningArguments(TrainingArguments, Checked):
    """transformers' own arguments, with defaults for this purpose."""

    _argument_group_name = "loop"

    output_dir: str = HfArg(default="outputs/finetuned", help="Folder of the trained model.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the run in that folder.")
    seed: int = HfArg(default=0, help="Seed of weights, order, augmentation, and of a split of the data.")
    eval_strategy: str | None = HfArg(default=None, help="When to evaluate: no, steps or epoch; by default each epoch.")
    save_strategy: str = HfArg(default="epoch", help="When to save a checkpoint: no, steps, epoch, best.")
    logging_strategy: str = HfArg(default="epoch", help="When to report: no, steps or epoch.")
    report_to: None | str | list[str] = HfArg(default="none", help="Services to report to.")
    remove_unused_columns: bool = HfArg(
        default=False, help="Must stay false: images become a model's input when they are read."
    )

    def may_continue(self) -> bool:
        """Whether the output folder may hold a run already."""
        asked = self.resume_from_checkpoint
        return self.overwrite_output_dir or (asked is not None and asked.lower() != "false")

    def __post_init__(self) -> None:
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise UsageError("a run is either continued or replaced: leave out --overwrite_output_dir.")
        if not (self.do_train or self.do_eval):
            self.do_train = self.do_eval = True
        if self.eval_strategy is None:
            self.eval_strategy = "epoch" if self.do_train and self.do_eval else "no"
        if self.label_names is None:
            self.label_names = ["labels"]
        # without a GPU there is no memory to pin, and torch would say so at each epoch
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        if self.remove_unused_columns:
            raise UsageError("`remove_unused_columns` must be false, since the column `image` becomes the input.")
        if self.dataloader_persistent_workers:
            raise UsageError("`dataloader_persistent_workers` must be false: such a process is not told of new epochs.")
        self.require_all("seed", lambda seed: 0 <= seed < 2**32, "an integer from 0 to 2**32 - 1")
        super().__post_init__()
        if self.max_steps <= 0:
            self.require_all("num_train_epochs", lambda epochs: epochs > 0, "above 0")
        self.require_all("learning_rate", lambda rate: 0 < rate < float("inf"), "a number above 0")
        sizes = "per_device_train_batch_size per_device_eval_batch_size"
        self.require_all(sizes, lambda size: size >= 1, "at least 1")


def find_checkpoint(arguments: FineTuningArguments) -> str | None:
    """The checkpoint to go on from; None to start from the beginning, as where the latest was asked for and none is.

    Raises:
        UsageError: what was asked for is no checkpoint that was written whole, or is damaged, or nothing is to be
            trained.
    """
    asked = arguments.resume_from_checkpoint
    if asked is None or asked.lower() == "false":
        return None
    if not arguments.do_train:
        raise UsageError("`resume_from_checkpoint` is for training: give --do_train too.")
    if asked.lower() in (LATEST, "true"):
        found = whole_checkpoints(Path(arguments.output_dir))
        if not found:
            return None
        asked = str(found[-1])
    if not is_whole(Path(asked)):
        raise UsageError(f"`resume_from_checkpoint` must name a checkpoint that Trainer saved whole, got {asked!r}.")
    check_readable(Path(asked))
    return asked


def _probability(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        probability = 0.5 if string_to_bool(text) else 0.0
    print(f"--horizontal_flip is a probability now: {text} is {probability:g}.", file=sys.stderr)
    return probability


# argparse names it in its messages
_probability.__name__ = "float or none"


class FineTuningParser(ArgumentParser):
    """`ArgumentParser` in which `--resume_from_checkpoint` alone means the latest one, and a flip may be yes or no."""

    def __init__(self, *dataclass_types: type, **kwargs: Any):
        super().__init__(*dataclass_types, **kwargs)
        for action in self._actions:
            if action.dest == "resume_from_checkpoint":
                action.nargs, action.const = "?", LATEST
            if action.dest == "horizontal_flip":
                # it was a switch once
                action.nargs, action.const, action.type = "?", 0.5, _probability
