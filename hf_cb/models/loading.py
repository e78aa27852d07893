"""transformers' Auto classes for models that may have techniques, and classifiers of any architecture to train."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..techniques.apply import applied_techniques, apply_techniques, num_technique_parameters, technique_parameters
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.layers_vit_cb import ZeroStart
from ..vit_cb.loading_vit_cb import HUB_ARGUMENTS, saved_config
from .technique_loading import find_techniques, from_pretrained


# how transformers' image classifiers call what stands on the vision model
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "head")
# what the line that tells of one begins with
NEW_HEAD = "new head"
LOADING_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError, SafetensorError)


def auto_model(name_or_path: str, techniques: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """`AutoModel.from_pretrained`, with the techniques that the checkpoint has, or with those that are asked for.

    A classifier of which a model for images and texts has the image tower alone, such as SigLIP's, comes as that.

    Args:
        name_or_path: a folder or a name on the Hub.
        techniques: see `add_techniques`; of a ViT-CB, they take the place of those in its configuration.
        kwargs: of `from_pretrained`.

    Raises:
        ValueError: see `add_techniques`.
    """
    if _is_classifier_with_a_tower(saved_config(name_or_path, kwargs)):
        return auto_classifier(name_or_path, techniques, **kwargs)
    return _auto(AutoModel, MODEL_MAPPING, name_or_path, techniques or {}, kwargs)


def auto_classifier(name_or_path: str, techniques: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """`AutoModelForImageClassification.from_pretrained`; otherwise as `auto_model`."""
    mapping = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return _auto(AutoModelForImageClassification, mapping, name_or_path, techniques or {}, kwargs)


def _is_classifier_with_a_tower(saved: dict[str, Any]) -> bool:
    # the model itself would get a text tower of random weights
    architecture = (saved.get("architectures") or [""])[0]
    return "vision_config" in saved and architecture.endswith("ForImageClassification")


def _auto(auto_class: Any, mapping: Any, name_or_path: str, techniques: Mapping[str, Any], kwargs: Any) -> Any:
    saved = saved_config(name_or_path, kwargs)
    if saved.get("model_type") == ViTCBConfig.model_type:
        loaded = auto_class.from_pretrained(name_or_path, **techniques, **kwargs)
        return _without_new_scales(loaded) if techniques else loaded
    if find_techniques(saved) is None:
        loaded = auto_class.from_pretrained(name_or_path, **kwargs)
    else:
        loaded = from_pretrained(name_or_path, _class_of(mapping, name_or_path, kwargs), **kwargs)
    add_techniques(loaded[0] if isinstance(loaded, tuple) else loaded, techniques, name_or_path)
    return loaded


def _class_of(mapping: Any, name_or_path: str, kwargs: dict[str, Any]) -> type[PreTrainedModel]:
    source = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    config = AutoConfig.from_pretrained(name_or_path, **source)
    found = mapping[type(config)]
    classes = found if isinstance(found, tuple) else (found,)
    named = [model_class for model_class in classes if model_class.__name__ in (config.architectures or [])]
    return (named or classes)[0]


def _without_new_scales(loaded: Any) -> Any:
    """What was loaded, in whose list of missing weights those of techniques are not: they start at 0."""
    if isinstance(loaded, tuple):
        model, info = loaded
        scales = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, ZeroStart))
        info["missing_keys"] = {key for key in info["missing_keys"] if not key.startswith(scales)}
    return loaded


def label_fields(label_names: Sequence[str]) -> dict[str, dict]:
    """The configuration fields that name a classifier's classes."""
    return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}


def add_techniques(model: nn.Module, fields: Mapping[str, Any], name: str) -> None:
    """Add the techniques that a user asks for, in place; nothing where all that is asked for is that they are off.

    Args:
        model: of any architecture with techniques but ViT-CB.
        fields: those of `TechniqueConfig` that the user gave.
        name: the model's, for the message.

    Raises:
        ValueError: the model has techniques already or cannot have these, or none is on and the fields say where.
    """
    if not fields:
        return
    config = TechniqueConfig.from_fields(fields)
    flags = ", ".join(f"--{field}" for field in fields)
    if applied_techniques(model) is not None:
        raise ValueError(f"{name!r} has techniques already, which stay as they are: leave out {flags}.")
    if config.context_broadcast or config.attn_scale or config.feat_scale:
        apply_techniques(model, config)
    elif {"apply_layers", "context_broadcast_position"} & fields.keys():
        raise ValueError(
            f"no technique is on in {name!r}: give --context_broadcast, --attn_scale or --feat_scale too, or leave out"
            f" {flags}."
        )


def load_with_techniques(
    name_or_path: str, label_names: Sequence[str], overrides: dict[str, Any], **source: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A classifier of any architecture that transformers has, with techniques and a head for the data's classes.

    Args:
        name_or_path: a folder or a name on the Hub.
        label_names: of the data.
        overrides: configuration fields; those of `TechniqueConfig` say which techniques are added.
        source: what else chooses a file on the Hub.

    Returns:
        The model, and lines that say what is new in it.

    Raises:
        ValueError: the checkpoint cannot be loaded, has no such field, or cannot have the techniques.
    """
    known = TechniqueConfig().to_dict()
    techniques = {name: value for name, value in overrides.items() if name in known}
    others = {name: value for name, value in overrides.items() if name not in known}
    try:
        lines = _check_fields(name_or_path, others, source)
        model, info = auto_classifier(
            name_or_path,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **label_fields(label_names),
            **others,
            **source,
        )
    except LOADING_ERRORS as error:
        raise ValueError(f"{name_or_path!r} cannot be loaded: {error}") from error
    lines += _check_loaded(name_or_path, info, len(label_names))
    add_techniques(model, techniques, name_or_path)
    if count := num_technique_parameters(model):
        lines.append(f"techniques with {count:,} parameters.")
    return model, lines


def _check_fields(name_or_path: str, fields: dict[str, Any], source: dict[str, Any]) -> list[str]:
    """Take stochastic depth out where the architecture has none; refuse every other field that it does not have."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(name_or_path, **source)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(f"transformers has no image classifier of type {config.model_type!r}.")
    unknown = [name for name in fields if name not in config.to_dict()]
    lines = []
    if "drop_path_rate" in unknown:
        unknown.remove("drop_path_rate")
        fields.pop("drop_path_rate")
        lines.append(f"{config.model_type} has no stochastic depth: trained without.")
    if unknown:
        raise ValueError(f"a model of type {config.model_type!r} has no `{unknown[0]}`: leave the flag out.")
    return lines


def _check_loaded(name_or_path: str, info: dict[str, Any], num_labels: int) -> list[str]:
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    new = [*info["missing_keys"], *mismatched]
    # a pooler is between model and head: checkpoints that were trained without a head may lack it too
    wrong = sorted(key for key in new if key.split(".")[0] not in HEADS and "pooler" not in key.split("."))
    if wrong:
        raise ValueError(f"the weights of {name_or_path!r} do not fit its configuration, first {wrong[0]!r}.")
    return [f"{NEW_HEAD} for {num_labels} classes."] if new else []


def train_only_techniques(model: nn.Module, news: Sequence[str] = ()) -> str:
    """Freeze everything but the techniques' parameters, a new head too.

    Args:
        model: changed in place.
        news: what is new in it, as `load_with_techniques` says it.

    Returns:
        A line that says what is trained.

    Raises:
        ValueError: there are none to train.
    """
    parameters = list(technique_parameters(model))
    if not parameters:
        raise ValueError(
            "`train_only_techniques` needs techniques that learn: give --attn_scale, --feat_scale or"
            " --context_broadcast scaled."
        )
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    line = f"only the techniques' {num_technique_parameters(model):,} parameters are trained"
    has_new_head = any(new.startswith(NEW_HEAD) for new in news)
    return f"{line}; the new head stays random, so train that first." if has_new_head else f"{line}."
