"""Train a ViT-CB.

    python scripts/train.py

trains a small ViT-CB on scikit-learn's handwritten digits (shipped with the package, nothing is downloaded) in about a
minute on two cores, to a test accuracy of about 0.96, and writes model, image processor, model card, results and a
picture of the training curves to `outputs/vit-cb-digits`. Every field of `ViTCBConfig` is a flag of the same name, for
example

    python scripts/train.py --context_broadcast none --feat_scale --seed 1 --output_dir outputs/featscale

The papers' setting, DeiT's recipe on ImageNet, with eight GPUs; killed at any moment, the second line continues it:

    accelerate launch scripts/train.py --dataset_name imagenet-1k --recipe deit --preset small --mixed_precision bf16
    accelerate launch scripts/train.py ... --resume_from_checkpoint latest
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import set_seed

from .. import ViTCBConfig
from ..cli.output_dir import check_output_dir, replacing, write_json
from ..cli.parser import ArgumentParser, ConfigArguments, command_line, config_overrides, print_next
from ..cli.record import describe_run
from ..data.augmentation import AugmentationArguments, Normalization
from ..data.sources import DataArguments, load_data
from ..errors import UsageError
from ..hub.folder import check_model_can_be_pushed
from ..hub.push import HubArguments, prepare_push, push_run
from ..reports.cards import DataDescription, render_card
from ..reports.figures import save_training_curves
from ..training.accelerator import make_accelerator
from ..training.arguments import (
    CheckpointArguments,
    DistillationArguments,
    LoopArguments,
    ModelArguments,
    PreprocessingArguments,
    TrackingArguments,
)
from ..training.checkpoints import checkpoint_to_resume, fingerprint_of, remove_checkpoints, remove_unfinished
from ..training.distillation import distillation_criterion
from ..training.loaders import load_on_main_first
from ..training.loop import RunArguments, Training
from ..training.recipes import RecipeArguments, parse_with_recipe
from ..training.start import make_image_processor, make_model


class Arguments(NamedTuple):
    """The flags, group by group."""

    recipe: RecipeArguments
    data: DataArguments
    model: ModelArguments
    distillation: DistillationArguments
    checkpoints: CheckpointArguments
    loop: LoopArguments
    augmentation: AugmentationArguments
    preprocessing: PreprocessingArguments
    tracking: TrackingArguments
    hub: HubArguments
    config: ConfigArguments


ARGUMENTS = tuple(Arguments.__annotations__.values())


def default_recipe(given: Mapping[str, Any]) -> str:
    """The recipe of a command line that names none."""
    if given.get("model_name_or_path"):
        return "finetune"
    source = DataArguments(**{f.name: given[f.name] for f in fields(DataArguments) if f.name in given})
    return "digits" if source.is_digits() else "deit"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(*ARGUMENTS, description=__doc__)
    given = Arguments(*parse_with_recipe(parser, arguments, default_recipe))
    loop = given.loop
    output_dir = check_output_dir(folder_of(given), given.checkpoints.may_continue())
    checkpoint = checkpoint_to_resume(output_dir, given.checkpoints.resume_from_checkpoint)
    destination = prepare_push(given.hub, output_dir)
    accelerator = make_accelerator(loop, given.tracking, output_dir)
    data = load_on_main_first(accelerator, lambda: load_data(given.data, loop.seed))
    if data.train is None:
        raise UsageError("there are no images to train on: give --train_dir, --train_file or --dataset_name.")

    set_seed(loop.seed)
    model, news = make_model(given.model, config_overrides(given.config), data.label_names)
    if destination is not None:
        check_model_can_be_pushed(model.config)
    image_processor = make_image_processor(given.model, model.config, given.preprocessing)
    normalization = Normalization.of(image_processor)
    criterion = distillation_criterion(
        given.distillation, data.label_names, normalization, loop.label_smoothing_factor, accelerator.device
    )
    how = RunArguments(loop, given.augmentation, given.checkpoints, given.tracking, given.recipe.recipe)
    training = Training(accelerator, model, image_processor, data, how, output_dir, fingerprint_of(*given), criterion)
    begin(training, checkpoint, given.checkpoints)
    plan = training.plan()
    accelerator.print(*data.lines, *news, plan, sep="\n")
    results = {**training.run(), "plan": plan.to_dict(), **data.to_results(), **describe_run(*given)}

    state_dict = training.learner.state_dict()
    if accelerator.is_main_process:
        with replacing(output_dir) as folder:
            training.learner.whole_model.save_pretrained(folder, state_dict=state_dict)
            image_processor.save_pretrained(folder)
            command = command_line("train.py", arguments)
            describe(folder, model.config, results, data.description, command, output_dir.absolute().name)
        print(f"accuracy {results['eval_accuracy']:.4f} on {results['eval_samples']} images: {output_dir}")
        print_next("evaluate", "--model_name_or_path", str(output_dir), *given.data.words())
        if destination is not None:
            print(push_run(destination, output_dir, not loop.disable_tqdm).url)
    accelerator.end_training()


def folder_of(given: Arguments) -> str:
    """Where the run goes."""
    return (
        given.checkpoints.output_dir or f"outputs/vit-cb-{'digits' if given.data.is_digits() else given.recipe.recipe}"
    )


def begin(training: Training, checkpoint: Path | None, arguments: CheckpointArguments) -> None:
    """Continue from a checkpoint, or start from the beginning, and say which."""
    accelerator = training.accelerator
    if checkpoint is not None:
        training.resume(checkpoint)
        if accelerator.is_main_process:
            remove_unfinished(training.checkpoints.folder)
        accelerator.print(f"continuing from {checkpoint}, after step {training.progress.step}")
        return
    if accelerator.is_main_process:
        remove_checkpoints(training.checkpoints.folder)
    if arguments.resume_from_checkpoint is not None:
        accelerator.print("there is no complete checkpoint to continue from: starting from the beginning")


def describe(
    folder: Path, config: ViTCBConfig, results: dict[str, Any], data: DataDescription, command: str, name: str
) -> None:
    """Results, curves and card."""
    write_json(folder / "all_results.json", results)
    save_training_curves(results["history"], folder / "training_curves.png", name)
    render_card(config, results, data, command, name).save(folder / "README.md")
