"""The classifier that a training run starts from, and its image processor."""

import math
from typing import Any

from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, ViTImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.utils import logging

from ..errors import UsageError
from ..models.heads import label_fields, load_for_labels, train_only_techniques
from ..models.image_processors import load_image_processor
from ..models.loaded import Loaded
from ..vit_cb.configuration_vit_cb import ViTCBConfig, as_pair
from ..vit_cb.image_processing_vit_cb import ViTCBImageProcessor
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .arguments import ModelArguments, PreprocessingArguments


def make_model(
    arguments: ModelArguments, overrides: dict[str, Any], label_names: list[str]
) -> tuple[PreTrainedModel, list[str]]:
    """A classifier from scratch or from pretrained weights, with the user's changes of its configuration.

    Args:
        arguments: what to start from, and whether the techniques alone are trained.
        overrides: configuration fields.
        label_names: the classes.

    Returns:
        The model, and lines that say what is new in pretrained weights.

    Raises:
        UsageError: a value is wrong, or the weights cannot be loaded.
    """
    loaded, lines = _from_scratch_or_pretrained(arguments, overrides, label_names)
    model = loaded.model
    if arguments.train_only_techniques:
        lines.append(train_only_techniques(loaded))
    if getattr(model.config, "num_channels", 3) != 3:
        raise UsageError(f"`num_channels` must be 3, since every image becomes RGB, got {model.config.num_channels}.")
    return model, lines


def _from_scratch_or_pretrained(
    arguments: ModelArguments, overrides: dict[str, Any], label_names: list[str]
) -> tuple[Loaded, list[str]]:
    if arguments.model_name_or_path:
        # what is new in the model is said in the lines
        logging.set_verbosity_error()
        try:
            return load_for_labels(arguments.model_name_or_path, label_names, overrides)
        finally:
            logging.set_verbosity_warning()
    values = {**overrides, **label_fields(label_names)}
    try:
        config = ViTCBConfig.from_preset(arguments.preset, **values) if arguments.preset else ViTCBConfig(**values)
    except ValueError as error:
        # of a field that the user gave; of a backbone's, transformers raises it
        raise UsageError(str(error)) from error
    return Loaded(ViTCBForImageClassification(config)), []


def make_image_processor(
    arguments: ModelArguments, config: PreTrainedConfig, preprocessing: PreprocessingArguments
) -> BaseImageProcessor:
    """What the model needs done to an image, saved with it.

    Args:
        arguments: pretrained weights bring their own image processor.
        config: gives the size.
        preprocessing: of a model from scratch.

    Raises:
        UsageError: the pretrained model's image processor cannot be read.
    """
    if arguments.model_name_or_path:
        return load_image_processor(arguments.model_name_or_path, config)[0]
    height, width = as_pair(config.image_size)
    size = {"height": height, "width": width}
    values = {
        "image_mean": preprocessing.image_mean,
        "image_std": preprocessing.image_std,
        "resample": PILImageResampling[preprocessing.eval_interpolation.upper()],
    }
    if preprocessing.eval_crop_ratio is None:
        return ViTImageProcessor(size=size, **values)
    edge = math.floor(max(height, width) / preprocessing.eval_crop_ratio)
    return ViTCBImageProcessor(size={"shortest_edge": edge}, do_center_crop=True, crop_size=size, **values)
