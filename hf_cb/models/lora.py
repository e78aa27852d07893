"""LoRA through PEFT: low-rank adapters on the attention, the techniques and the head trained whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file

from ..techniques.apply import applied_techniques, apply_techniques
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.layers_vit_cb import ZeroStart
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .loading import HEADS, auto_classifier


if TYPE_CHECKING:
    from peft import PeftModel

# the attention's query, key and value, as ViT's modules are called
TARGET_MODULES = ("q_proj", "k_proj", "v_proj")


def add_lora(
    model: PreTrainedModel,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: Sequence[str] = TARGET_MODULES,
) -> "PeftModel":
    """A classifier of which only LoRA's matrices, the techniques' parameters and the head are trained.

    LoRA, https://arxiv.org/abs/2106.09685: a weight W becomes W + (alpha / rank) B A, with B starting at 0.

    Args:
        model: changed in place.
        rank: rows of A.
        alpha: see above.
        dropout: of the input of A.
        target_modules: last parts of the names of the linear layers that get it.

    Raises:
        ValueError: no layer bears such a name.
        ImportError: PEFT is not installed.
    """
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    unknown = next((name for name in target_modules if name not in linear), None)
    if unknown is not None or not target_modules:
        found = "nothing" if unknown is None else repr(unknown)
        raise ValueError(f"LoRA's target modules must be among {', '.join(sorted(linear))}, got {found}.")
    from peft import LoraConfig, get_peft_model

    heads = [name for name, _ in model.named_children() if name in HEADS]
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules),
        modules_to_save=[*heads, *technique_modules(model)],
    )
    return get_peft_model(model, settings)


def technique_modules(model: torch.nn.Module) -> list[str]:
    """Last parts of the names of the modules that hold the techniques' parameters, each once, sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, ZeroStart) and any(True for _ in module.parameters())
        }
    )


def is_adapter(name_or_path: str, **source: Any) -> bool:
    """Whether a folder, or a page of the Hub, holds an adapter with the configuration of its model beside it.

    Args:
        name_or_path: the folder, or the page's name.
        source: what else chooses a file on the Hub, such as `revision`.
    """
    if find_adapter_config_file(name_or_path, **source) is None:
        return False
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **source)
    return "model_type" in config


def load_adapter(folder: str | Path, is_trainable: bool = False) -> "PeftModel":
    """The classifier that `scripts/finetune.py --lora_r` wrote: an adapter, and the configuration beside it.

    The base's weights come from where the adapter's configuration says they were taken from.

    Args:
        folder: or the name of a page on the Hub, with `adapter_config.json`, `adapter_model.safetensors` and the
            model's `config.json`.
        is_trainable: leave the adapter open to further training.

    Raises:
        OSError: the folder lacks a file, or the base is no longer where it was.
        ValueError: a file of the folder does not fit.
    """
    from peft import PeftConfig, PeftModel

    folder = str(folder)
    base = _load_base(PeftConfig.from_pretrained(folder).base_model_name_or_path, AutoConfig.from_pretrained(folder))
    return PeftModel.from_pretrained(base, folder, is_trainable=is_trainable)


def _load_base(name_or_path: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The model that an adapter goes on, which holds the head and the techniques whole."""
    kwargs = {"config": config, "dtype": torch.float32, "ignore_mismatched_sizes": True}
    if config.model_type == ViTCBConfig.model_type:
        # from plain ViT weights too
        return ViTCBForImageClassification.from_pretrained(name_or_path, **kwargs)
    model = auto_classifier(name_or_path, **kwargs)
    techniques = config.to_dict().get("technique_config")
    if techniques is not None and applied_techniques(model) is None:
        apply_techniques(model, TechniqueConfig.from_fields(techniques))
    return model
