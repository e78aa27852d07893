"""A classifier to train from pretrained weights, with a head for the data's classes, and its image processor."""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)

from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.layers_vit_cb import ZeroStart
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .loading import HEADS, NEW_HEAD, label_fields, load_with_techniques
from .lora import is_adapter
from .technique_loading import find_techniques


# parts that a classifier does without, which a checkpoint may hold
NEEDLESS = ("pooler", "mask_token", "decoder")
HEAD = "classifier."
LOADING_ERRORS = (OSError, RuntimeError, KeyError, SafetensorError)


def load_pretrained(
    name_or_path: str,
    label_names: Sequence[str],
    overrides: dict[str, Any] | None = None,
    new_head: bool = True,
    **source: Any,
) -> tuple[PreTrainedModel, list[str]]:
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
        ValueError: the checkpoint is of another kind, lacks weights, or does not fit the changed configuration.
    """
    saved, label_names = _saved_config(name_or_path, source), list(label_names)
    num_saved = _number_of_labels(saved)
    if num_saved != len(label_names) and not new_head:
        raise ValueError(
            f"{name_or_path!r} has a head for {num_saved} classes and the data have {len(label_names)}: allow a new"
            " head with --ignore_mismatched_sizes."
        )
    # a plain ViT that `apply_techniques` gave some keeps them
    is_vit = saved.get("model_type") in (ViTCBConfig.model_type, ViTConfig.model_type) and not find_techniques(saved)
    model, lines = (_load_vit_cb if is_vit else load_with_techniques)(
        name_or_path, label_names, overrides or {}, **source
    )
    saved_names = [str(name) for _, name in sorted(_labels_of(saved).items())]
    if saved_names != label_names and sorted(saved_names) == sorted(set(label_names)):
        _reorder_head(model, [saved_names.index(name) for name in label_names])
        lines.append("the head's classes are put in the data's order.")
    return model, lines


def _load_vit_cb(
    name_or_path: str, label_names: list[str], overrides: dict[str, Any], **source: Any
) -> tuple[PreTrainedModel, list[str]]:
    try:
        model, info = ViTCBForImageClassification.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **label_fields(label_names),
            **overrides,
            **source,
        )
    except LOADING_ERRORS as error:
        raise ValueError(f"{name_or_path!r} cannot be loaded: {error}") from error
    return model, _check_loaded(name_or_path, model, info, _number_of_labels(_saved_config(name_or_path, source)))


def _saved_config(name_or_path: str, source: dict[str, Any]) -> dict[str, Any]:
    try:
        saved = PreTrainedConfig.get_config_dict(name_or_path, **source)[0]
    except LOADING_ERRORS as error:
        raise ValueError(f"{name_or_path!r} is no model that can be read: {error}") from error
    if is_adapter(name_or_path, **source):
        raise ValueError(
            f"{name_or_path!r} is an adapter and no whole model: save `load_adapter(...).merge_and_unload()` of"
            " `hf_cb.lora`, or run with --merge_lora."
        )
    return saved


def _labels_of(saved: dict[str, Any]) -> dict[int, str]:
    return {int(index): name for index, name in (saved.get("id2label") or {}).items()}


def _number_of_labels(saved: dict[str, Any]) -> int:
    # transformers writes no labels where there are its default two
    return len(_labels_of(saved)) or saved.get("num_labels", PreTrainedConfig().num_labels)


def _check_loaded(
    name_or_path: str, model: ViTCBForImageClassification, info: dict[str, Any], num_saved: int
) -> list[str]:
    """Lines on what started anew; anything but head and techniques is an error."""
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    missing, unexpected = list(info["missing_keys"]), list(info["unexpected_keys"])
    techniques = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, ZeroStart)
        for parameter, _ in module.named_parameters(recurse=False)
    }
    absent = [key for key in missing if key not in techniques and not key.startswith(HEAD)]
    wrong = absent or [key for key in mismatched if not key.startswith(HEAD)]
    wrong = wrong or [key for key in unexpected if _is_of_a_layer(key)]
    if wrong:
        raise ValueError(
            f"the weights of {name_or_path!r} do not fit the configuration, the first that does not being"
            f" {sorted(wrong)[0]!r}: give no --hidden_size, --num_hidden_layers or other flag that changes the shape of"
            " what is there."
        )
    lines = []
    if any(key.startswith(HEAD) for key in (*mismatched, *missing)):
        lines.append(f"{NEW_HEAD} for {model.config.num_labels} classes ({name_or_path} has {num_saved}).")
    new = sorted({key.rpartition(".")[0].rpartition(".")[2] for key in techniques & set(missing)})
    if new:
        lines.append(f"new parameters, which start at 0: {', '.join(new)}.")
    return lines


def _is_of_a_layer(key: str) -> bool:
    """Whether an unexpected weight belongs to a layer, and not to a technique that was turned off."""
    techniques = ("attn_scale", "feat_scale", "cb")
    return not any(part in key.split(".") for part in (*NEEDLESS, *techniques)) and "layer" in key


@torch.no_grad()
def _reorder_head(model: PreTrainedModel, order: Sequence[int]) -> None:
    heads = [head for name, head in model.named_children() if name in HEADS]
    layers = [layer for head in heads for layer in head.modules() if isinstance(layer, nn.Linear)]
    for parameter in (p for layer in layers if layer.out_features == len(order) for p in layer.parameters()):
        parameter.copy_(parameter[list(order)].clone())
