"""LoRA through PEFT: low-rank adapters on the attention, the techniques and the head trained whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file

from ..errors import UsageError
from ..techniques.apply import applied_techniques
from ..techniques.config import find_techniques
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.loading_vit_cb import HUB_ARGUMENTS, saved_config
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .loaded import HEADS, add_techniques, load_files, scales_of


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
        raise UsageError(f"LoRA's target modules must be among {', '.join(sorted(linear))}, got {found}.")
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
    return sorted({name.split(".")[-2] for name in scales_of(model)})


def is_adapter(name_or_path: str | Path, saved: Mapping[str, Any] | None = None, **source: Any) -> bool:
    """Whether a folder, or a page of the Hub, holds an adapter with the configuration of its model beside it.

    Args:
        name_or_path: the folder, or the page's name.
        saved: that configuration, where it was read already.
        source: what else chooses a file on the Hub, such as `revision`.
    """
    if find_adapter_config_file(name_or_path, **source) is None:
        return False
    return "model_type" in (PreTrainedConfig.get_config_dict(name_or_path, **source)[0] if saved is None else saved)


def load_adapter(folder: str | Path, is_trainable: bool = False, **kwargs: Any) -> "PeftModel":
    """The classifier that `scripts/finetune.py --lora_r` wrote: an adapter, and the configuration beside it.

    The base's weights come from where the adapter's configuration says they were taken from.

    Args:
        folder: or the name of a page on the Hub, with `adapter_config.json`, `adapter_model.safetensors` and the
            model's `config.json`.
        is_trainable: leave the adapter open to further training.
        kwargs: of the base's `from_pretrained`, such as `dtype`, by default float32; what chooses a file on the Hub is
            the adapter's.

    Raises:
        OSError: the folder lacks a file, or the base is no longer where it was.
        ValueError: a file of the folder does not fit.
    """
    from peft import PeftConfig, PeftModel

    folder = str(folder)
    source = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    settings, config = (kind.from_pretrained(folder, **source) for kind in (PeftConfig, AutoConfig))
    kwargs |= {"revision": settings.revision} if settings.revision else {}
    base = _load_base(settings.base_model_name_or_path, config, kwargs)
    return PeftModel.from_pretrained(base, folder, is_trainable=is_trainable, **source)


def _load_base(name_or_path: str, config: PreTrainedConfig, kwargs: dict[str, Any]) -> PreTrainedModel:
    """The model that an adapter goes on, which holds the head and the techniques whole."""
    # a ViT-CB from plain ViT weights too
    is_vit_cb = config.model_type == ViTCBConfig.model_type
    model_class = ViTCBForImageClassification if is_vit_cb else AutoModelForImageClassification
    kwargs = {"dtype": torch.float32, **kwargs, "config": config, "ignore_mismatched_sizes": True}
    loaded = load_files(name_or_path, saved_config(name_or_path, kwargs), model_class, **kwargs)
    if applied_techniques(loaded.model) is None:
        loaded = add_techniques(loaded, find_techniques(config.to_dict()) or {}, name_or_path)
    return loaded.model
