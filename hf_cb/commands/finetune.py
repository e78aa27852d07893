"""Fine-tune a ViT-CB, or any image classifier of transformers with techniques, with transformers' Trainer.

    python scripts/finetune.py --model_name_or_path google/vit-base-patch16-224-in21k --train_dir photos \\
        --feat_scale --context_broadcast none --learning_rate 5e-5 --num_train_epochs 5 --output_dir outputs/photos

trains on a folder of images with a folder for each class, evaluates each epoch on 15 % that it holds back (or on
`--validation_dir`), and writes model, image processor, model card, training curves and `all_results.json`. The flags
are those of transformers' `run_image_classification.py`: all of `TrainingArguments`, the data's, and every field of
`ViTCBConfig`. Without `--do_train` and `--do_eval` it does both. A plain ViT becomes a ViT-CB and gets Context
Broadcasting unless `--context_broadcast none`; a DINOv2, SigLIP, BEiT, DeiT or Swin stays one and gets the techniques
whose flags are given.

    python scripts/finetune.py --model_name_or_path facebook/dinov2-small-imagenet1k-1-layer --train_dir photos \\
        --attn_scale --feat_scale --train_only_techniques --output_dir outputs/techniques

trains the techniques' parameters and leaves every other weight as it is.

    python scripts/finetune.py --model_name_or_path outputs/vit-cb-digits --lora_r 8 --output_dir outputs/adapter

trains LoRA's matrices, the techniques' parameters and the head alone, and writes an adapter; with `--merge_lora` a
whole model.

    python scripts/finetune.py ... --resume_from_checkpoint

goes on from the latest checkpoint of the output folder, where there is one, or from the one that is named.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from .. import ViTCBConfig
from ..cli.output_dir import check_output_dir
from ..cli.parser import ConfigArguments, command_line, config_overrides
from ..data.dataset import ImageDataset, evaluation_transform
from ..data.sources import DataArguments, load_data
from ..errors import UsageError
from ..finetuning.arguments import (
    AugmentationArguments,
    FineTuningArguments,
    FineTuningParser,
    ModelArguments,
    find_checkpoint,
)
from ..finetuning.run import describe, load, make_trainer, save, train
from ..finetuning.trainer import (
    EpochImages,
    FineTuner,
    make_augmentation,
)
from ..hub.push import Destination, prepare_push, push_run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = FineTuningParser(
        ModelArguments, DataArguments, AugmentationArguments, FineTuningArguments, ConfigArguments, description=__doc__
    )
    try:
        model_arguments, data_arguments, augmentation, training, config_arguments = parser.parse(arguments)
    except (ImportError, NotImplementedError) as error:
        raise UsageError(str(error)) from error
    command = without_tokens(command_line("finetune.py", arguments), model_arguments, training)
    model_arguments.limit_threads()
    checkpoint = find_checkpoint(training)
    logging.disable_progress_bar()
    output_dir = check_output_dir(training.output_dir, training.may_continue())
    if data_arguments.streaming:
        raise UsageError("scripts/finetune.py does not stream data: leave out --streaming, or use scripts/train.py.")
    with training.main_process_first(desc="loading the data"):
        data = load_data(data_arguments, training.seed)
    if training.do_train and data.train is None:
        raise UsageError("there are no images to train on: give --train_dir, --train_file or --dataset_name.")
    if training.should_save:
        for line in data.lines:
            print(line)

    set_seed(training.seed)
    model, image_processor = load(model_arguments, config_overrides(config_arguments), data, training)
    augment = make_augmentation(augmentation, image_processor, data_arguments.is_digits())
    destination = take_over_push(training, model_arguments, model, output_dir)
    train_data = EpochImages(data.train, augment, training.seed) if training.do_train else None
    eval_data = ImageDataset(data.evaluation, evaluation_transform(image_processor)) if training.do_eval else None
    trainer = make_trainer(model, image_processor, training, train_data, eval_data)

    results = {}
    if training.do_train:
        results |= train(trainer, checkpoint, output_dir)
    if training.do_eval:
        metrics = trainer.evaluate()
        results |= metrics | {"skipped_images": len(eval_data) - metrics["eval_samples"]}
    results |= data.to_results() | describe(training, model_arguments, data_arguments, augmentation, config_arguments)
    if training.should_save:
        save(trainer, output_dir, results, model_arguments, data, command, data_arguments.words())
    if training.push_to_hub and training.do_train:
        push(trainer, output_dir)
    if destination is not None and training.should_save:
        print(push_run(destination, output_dir, not training.disable_tqdm).url)


def without_tokens(command: str, arguments: ModelArguments, training: FineTuningArguments) -> str:
    """The command line for the card; Trainer, too, is left without the Hub's token, which then is the environment's."""
    for secret in filter(None, (arguments.token, training.hub_token)):
        command = command.replace(secret, "TOKEN")
    if training.hub_token is not None:
        # Trainer pickles its arguments into every checkpoint, and pushes them
        os.environ["HF_TOKEN"], training.hub_token = training.hub_token, None
    return command


def take_over_push(
    training: FineTuningArguments, arguments: ModelArguments, model: PreTrainedModel, output_dir: Path
) -> Destination | None:
    """Where a whole ViT-CB goes after the training, asked before it; Trainer pushes adapters and other models."""
    is_ours = model.config.model_type == ViTCBConfig.model_type and not arguments.leaves_an_adapter()
    if not (training.push_to_hub and training.do_train and is_ours):
        return None
    destination = prepare_push(training, output_dir)
    training.push_to_hub = False
    return destination


def push(trainer: FineTuner, output_dir: Path) -> None:
    """Upload the folder; every process calls it, and Trainer lets the first one push."""
    try:
        trainer.push_to_hub()
    except OSError as error:
        raise UsageError(f"the run is in {output_dir}, but the push failed: {error}") from error
