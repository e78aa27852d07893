"""A classifier to train from pretrained weights, with a head for the data's classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)

from ..errors import UsageError
from ..techniques.apply import num_technique_parameters, technique_parameters
from ..techniques.config import TechniqueConfig, find_techniques
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .loaded import HEADS, Loaded, load_files, loading
from .lora import is_adapter


# parts that a classifier does without, which a checkpoint may hold, and the techniques, which may be turned off
NEEDLESS = ("pooler", "mask_token", "decoder", "attn_scale", "feat_scale", "cb")


def label_fields(label_names: Sequence[str]) -> dict[str, dict]:
    """The configuration fields that name a classifier's classes."""
    return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}


def load_for_labels(
    name_or_path: str,
    label_names: Sequence[str],
    overrides: dict[str, Any] | None = None,
    new_head: bool = True,
    **source: Any,
) -> tuple[Loaded, list[str]]:
    """A classifier of the data's classes from pretrained weights, with any change of its configuration.

    A ViT-CB or plain ViT becomes a ViT-CB; another vision transformer stays what it is, and gets the techniques by
    `apply_techniques`. The head stays where the number of classes does; where they are the same classes in another
    order, its rows are put in the data's. Otherwise a new one starts at random.

    Args:
        name_or_path: a folder or a name on the Hub.
        label_names: of the data.
        overrides: configuration fields, such as `attn_scale`.
        new_head: allow a new head.
        source: what else chooses a file on the Hub, such as `revision` or `token`.

    Returns:
        The model, and lines that say what is new in it.

    Raises:
        UsageError: the checkpoint is of another kind, lacks weights, or does not fit the changed configuration.
    """
    label_names = list(label_names)
    with loading(name_or_path):
        saved = PreTrainedConfig.get_config_dict(name_or_path, **source)[0]
        if is_adapter(name_or_path, saved, **source):
            raise UsageError(
                f"{name_or_path!r} is an adapter and no whole model: save `load_adapter(...).merge_and_unload()` of"
                " `hf_cb.lora`, or run with --merge_lora."
            )
        if not new_head and _number_of_labels(saved) != len(label_names):
            raise UsageError(
                f"{name_or_path!r} has a head for {_number_of_labels(saved)} classes and the data have"
                f" {len(label_names)}: allow a new head with --ignore_mismatched_sizes."
            )
        fields = dict(overrides or {})
        techniques = {name: fields.pop(name) for name in TechniqueConfig().to_dict() if name in fields}
        # a plain ViT that `apply_techniques` gave some keeps them
        is_vit = saved.get("model_type") in (ViTCBConfig.model_type, ViTConfig.model_type)
        is_vit = is_vit and not find_techniques(saved)
        lines = [] if is_vit else _check_fields(saved, fields)
        loaded = load_files(
            name_or_path,
            saved,
            ViTCBForImageClassification if is_vit else AutoModelForImageClassification,
            techniques,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            **label_fields(label_names),
            **fields,
            **source,
        )
    _check_weights(name_or_path, loaded)
    lines += _news(name_or_path, loaded, saved)
    lines += _put_in_order(loaded.model, saved, label_names)
    return loaded, lines


def _labels_of(saved: dict[str, Any]) -> dict[int, str]:
    return {int(index): name for index, name in (saved.get("id2label") or {}).items()}


def _number_of_labels(saved: dict[str, Any]) -> int:
    # transformers writes no labels where there are its default two
    return len(_labels_of(saved)) or saved.get("num_labels", PreTrainedConfig().num_labels)


def _check_fields(saved: dict[str, Any], fields: dict[str, Any]) -> list[str]:
    """Take stochastic depth out where the architecture has none; a `ValueError` for every other field it has not."""
    model_type = saved.get("model_type")
    if model_type is None:
        raise ValueError("its config.json names no `model_type`, or there is none.")
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(f"transformers has no image classifier of type {model_type!r}.")
    unknown = [name for name in fields if name not in CONFIG_MAPPING[model_type].from_dict(dict(saved)).to_dict()]
    lines = []
    if "drop_path_rate" in unknown:
        unknown.remove("drop_path_rate")
        fields.pop("drop_path_rate")
        lines.append(f"{model_type} has no stochastic depth: trained without.")
    if unknown:
        raise ValueError(f"a model of type {model_type!r} has no `{unknown[0]}`: leave the flag out.")
    return lines


def _check_weights(name_or_path: str, loaded: Loaded) -> None:
    """Anything new but a head is an error, and so is a ViT's layer that is left out."""
    wrong = loaded.anew(but_a_head=True)
    if isinstance(loaded.model, ViTCBForImageClassification):
        wrong = wrong or [key for key in loaded.unexpected if _is_of_a_layer(key)]
    if wrong:
        raise UsageError(
            f"the weights of {name_or_path!r} do not fit its configuration, first {wrong[0]!r}: give no --hidden_size,"
            " --num_hidden_layers or other flag that changes the shape of what is there."
        )


def _is_of_a_layer(key: str) -> bool:
    return "layer" in key and not any(part in NEEDLESS for part in key.split("."))


def _news(name_or_path: str, loaded: Loaded, saved: dict[str, Any]) -> list[str]:
    """Lines on what starts anew."""
    model, lines = loaded.model, []
    is_vit_cb = isinstance(model, ViTCBForImageClassification)
    if loaded.new_head:
        before = f" ({name_or_path} has {_number_of_labels(saved)})" if is_vit_cb else ""
        lines.append(f"new head for {model.config.num_labels} classes{before}.")
    if is_vit_cb and loaded.new_scales:
        modules = {name.split(".")[-2] for name in loaded.new_scales}
        lines.append(f"new parameters, which start at 0: {', '.join(sorted(modules))}.")
    elif not is_vit_cb and (count := num_technique_parameters(model)):
        lines.append(f"techniques with {count:,} parameters.")
    return lines


@torch.no_grad()
def _put_in_order(model: PreTrainedModel, saved: dict[str, Any], label_names: list[str]) -> list[str]:
    """The head's rows where the same classes come in another order, and a line on it."""
    saved_names = [str(name) for _, name in sorted(_labels_of(saved).items())]
    if saved_names == label_names or sorted(saved_names) != sorted(set(label_names)):
        return []
    order = [saved_names.index(name) for name in label_names]
    heads = [head for name, head in model.named_children() if name in HEADS]
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, nn.Linear)]
    for parameter in (p for layer in layers if layer.out_features == len(order) for p in layer.parameters()):
        parameter.copy_(parameter[order].clone())
    return ["the head's classes are put in the data's order."]


def train_only_techniques(loaded: Loaded) -> str:
    """Freeze everything but the techniques' parameters, a new head too.

    Args:
        loaded: its model is changed in place.

    Returns:
        A line that says what is trained.

    Raises:
        UsageError: there are none to train.
    """
    parameters = list(technique_parameters(loaded.model))
    if not parameters:
        raise UsageError(
            "`train_only_techniques` needs techniques that learn: give --attn_scale, --feat_scale or"
            " --context_broadcast scaled."
        )
    loaded.model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    line = f"only the techniques' {num_technique_parameters(loaded.model):,} parameters are trained"
    return f"{line}; the new head stays random, so train that first." if loaded.new_head else f"{line}."
