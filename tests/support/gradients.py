"""The gradients of the first update of a training run, in one process or several."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from hf_cb.cli.parser import ArgumentParser, ConfigArguments, config_overrides
from hf_cb.data.augmentation import AugmentationArguments
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.training.accelerator import make_accelerator
from hf_cb.training.arguments import (
    CheckpointArguments,
    LoopArguments,
    ModelArguments,
    PreprocessingArguments,
    TrackingArguments,
)
from hf_cb.training.loop import RunArguments, Training
from hf_cb.training.recipes import RecipeArguments, parse_with_recipe
from hf_cb.training.start import make_image_processor, make_model


def first_gradients(script: ModuleType, words: Sequence[str], folder: Path) -> dict[str, Tensor]:
    """By the parameters' names; the flags are those of `scripts/train.py`."""
    parts = parse_with_recipe(ArgumentParser(*script.ARGUMENTS), words, script.default_recipe)
    part = {type(part): part for part in parts}
    recipe, start, loop = (part[kind] for kind in (RecipeArguments, ModelArguments, LoopArguments))
    AcceleratorState._reset_state()
    accelerator = make_accelerator(loop, part[TrackingArguments], folder)
    data = load_data(part[DataArguments])
    torch.manual_seed(0)
    model, _ = make_model(start, config_overrides(part[ConfigArguments]), data.label_names)
    others = (part[kind] for kind in (AugmentationArguments, CheckpointArguments, TrackingArguments))
    image_processor = make_image_processor(start, model.config, part[PreprocessingArguments])
    how = RunArguments(loop, *others, recipe.recipe)
    training = Training(accelerator, model, image_processor, data, how, folder, {})
    found = {}

    def record():
        if accelerator.sync_gradients:
            found.update({name: p.grad.clone() for name, p in training.learner.whole_model.named_parameters()})

    training.learner.optimizer.step = record
    for number, batch in enumerate(training.train_loader.epoch(0)):
        training.learner.step(batch, 0, number)
        if found:
            return found
    raise AssertionError("there was no update")
