"""The parts of a fine-tuning run: the model, Trainer, the training, and what is left of it."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback

from ..cli.output_dir import replacing
from ..cli.parser import print_next
from ..cli.record import describe_run
from ..data.dataset import ImageDataset
from ..data.sources import ImageData
from ..errors import Terminated, UsageError
from ..models.heads import load_for_labels, train_only_techniques
from ..models.image_processors import load_image_processor
from ..models.lora import add_lora
from .arguments import (
    FineTuningArguments,
    ModelArguments,
)
from .report import FineTuned, write_results
from .trainer import (
    Collator,
    EpochImages,
    EpochLines,
    FineTuner,
    NewEpoch,
    compute_metrics,
    history_of,
    loss_function_of,
    ranked_guesses,
)


def load(
    arguments: ModelArguments, overrides: dict[str, Any], data: ImageData, training: FineTuningArguments
) -> tuple[PreTrainedModel, Any]:
    """The model, with LoRA if asked for, and its image processor; what is new in them is printed."""
    source = arguments.source()
    loaded, lines = load_for_labels(
        arguments.model_name_or_path, data.label_names, overrides, arguments.ignore_mismatched_sizes, **source
    )
    processor_name = arguments.image_processor_name or arguments.model_name_or_path
    model = loaded.model
    image_processor, line = load_image_processor(processor_name, model.config, **source)
    if arguments.train_only_techniques:
        lines.append(train_only_techniques(loaded))
    if arguments.lora_r is not None:
        try:
            model = add_lora(
                model, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.lora_target_modules
            )
        except ImportError as error:
            raise UsageError("--lora_r needs PEFT: pip install peft.") from error
        model.peft_config["default"].base_model_name_or_path = arguments.model_name_or_path
        model.peft_config["default"].revision = arguments.model_revision
    if training.should_save:
        for told in filter(None, [*lines, line]):
            print(told)
    return model, image_processor


def make_trainer(
    model: PreTrainedModel,
    image_processor: Any,
    training: FineTuningArguments,
    train_data: EpochImages | None,
    eval_data: ImageDataset | None,
) -> FineTuner:
    """Trainer, ready."""
    is_silent, training.disable_tqdm = training.disable_tqdm, training.disable_tqdm or not sys.stderr.isatty()
    try:
        trainer = FineTuner(
            model=model,
            args=training,
            data_collator=Collator(),
            train_dataset=train_data,
            eval_dataset=eval_data,
            processing_class=image_processor,
            compute_metrics=compute_metrics,
            compute_loss_func=loss_function_of(model, training.label_smoothing_factor),
            preprocess_logits_for_metrics=ranked_guesses,
            callbacks=[NewEpoch(train_data)] if train_data is not None else None,
        )
    # a service that is not installed, arithmetic that the device lacks, a Hub that refuses
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        raise UsageError(f"the training cannot be set up: {error}") from error
    if training.disable_tqdm and not is_silent:
        # its lines are dictionaries
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(EpochLines)
    return trainer


def train(trainer: FineTuner, checkpoint: str | None, output_dir: Path) -> dict[str, Any]:
    """Train, and the results of it."""
    if checkpoint is None and trainer.args.should_save:
        # of the run that is replaced: going on from one of them later would mix the two
        for old in output_dir.glob("checkpoint-*"):
            shutil.rmtree(old)
    if trainer.args.resume_from_checkpoint and trainer.args.should_save:
        print("starting from the beginning" if checkpoint is None else f"continuing from {checkpoint}")
    # Trainer looks at the flag too
    trainer.args.resume_from_checkpoint = checkpoint
    try:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    except Terminated as error:
        raise Terminated("terminated; --resume_from_checkpoint goes on from the last checkpoint.") from error
    if not all(parameter.isfinite().all() for parameter in trainer.model.parameters()):
        raise UsageError(
            f"the weights are no longer numbers: give a lower --learning_rate than {trainer.args.learning_rate:g};"
            " nothing was written but checkpoints."
        )
    return {
        **metrics,
        "train_samples": len(trainer.train_dataset),
        "history": history_of(trainer.state.log_history),
    }


def describe(training: FineTuningArguments, *others: Any) -> dict[str, Any]:
    """Arguments, versions and hardware."""
    record = describe_run(*others)
    values = {name: value for name, value in training.to_dict().items() if value is not None}
    arguments = {**record["arguments"], **values}
    # nobody's secrets belong in a file that is passed on
    arguments = {name: value for name, value in arguments.items() if not name.endswith("token")}
    return {**record, "arguments": arguments, "num_processes": training.world_size}


def save(
    trainer: FineTuner,
    output_dir: Path,
    results: dict[str, Any],
    arguments: ModelArguments,
    data: ImageData,
    command: str,
    source: Sequence[str] = (),
) -> None:
    """Everything that the run leaves, at once; `source` are the flags of where the data come from."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.args.do_train:
        with replacing(output_dir, replaced=()) as folder:
            write_results(results, folder)
    else:
        if arguments.merge_lora:
            model = trainer.model = model.merge_and_unload()
        is_adapter = arguments.leaves_an_adapter()
        outcome = FineTuned(model, trainer.processing_class, results, data.description, command, is_adapter)
        outcome.save(output_dir)
    if trainer.args.do_eval:
        print(f"accuracy {results['eval_accuracy']:.4f} on {results['eval_samples']} images: {output_dir}")
    if trainer.args.do_train:
        print_next("evaluate", "--model_name_or_path", str(output_dir), *source)
