"""Whole models with techniques, back from a folder or the Hub."""

from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from ..techniques.apply import apply_techniques, technique_parameters
from ..techniques.config import TechniqueConfig
from ..vit_cb import modeling_vit_cb
from ..vit_cb.loading_vit_cb import HUB_ARGUMENTS, saved_config
from .technique_files import load_techniques, read_technique_config


def from_pretrained(
    folder_or_repo: str | Path, model_class: type[PreTrainedModel] | None = None, **kwargs: Any
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    """A model with its techniques, from what its `save_pretrained` or `push_to_hub` wrote; or any other model.

    Where only techniques were saved (`save_techniques`), they are added to the model that they were saved from.

    Args:
        folder_or_repo: a folder, or a repository on the Hub.
        model_class: a class of transformers; the one that was saved by default.
        kwargs: of the class' `from_pretrained`.

    Returns:
        The model; with `output_loading_info=True` a pair, as in transformers.

    Raises:
        ValueError: there is no such model, its class is unknown, or weights of its techniques are missing.
    """
    source = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    saved = saved_config(folder_or_repo, source)
    if not saved:
        return _from_techniques_alone(folder_or_repo, model_class, source, kwargs)
    model_class = model_class or _class_of(folder_or_repo, saved)
    fields = find_techniques(saved)
    if fields is None:
        return model_class.from_pretrained(folder_or_repo, **kwargs)
    return _load(folder_or_repo, model_class, TechniqueConfig.from_fields(fields), kwargs)


def _class_of(name: str | Path, saved: dict[str, Any]) -> type[PreTrainedModel]:
    architecture = (saved.get("architectures") or [None])[0]
    for library in (transformers, modeling_vit_cb):
        if architecture is not None and architecture in dir(library):
            return getattr(library, architecture)
    raise ValueError(
        f"The configuration of {name} must name a class of transformers under `architectures`, and names"
        f" {architecture!r}: give `model_class`."
    )


def find_techniques(saved: dict[str, Any]) -> dict[str, Any] | None:
    """The techniques in a configuration, or in that of a part."""
    own = saved.get("technique_config")
    if own is not None:
        return own
    parts = (find_techniques(part) for part in saved.values() if isinstance(part, dict))
    return next((found for found in parts if found is not None), None)


def _load(
    name: str | Path, model_class: type[PreTrainedModel], config: TechniqueConfig, kwargs: dict[str, Any]
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    wants_info = kwargs.pop("output_loading_info", False)
    with_techniques = _with_techniques(model_class, config)
    model, info = with_techniques.from_pretrained(name, output_loading_info=True, **kwargs)
    model.__class__ = model_class
    _check_loaded(name, model, info)
    return (model, info) if wants_info else model


def _with_techniques(model_class: type[PreTrainedModel], config: TechniqueConfig) -> type[PreTrainedModel]:
    """A class whose models have the techniques from the start, so that transformers loads them with all else."""

    def build(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        apply_techniques(self, config)

    # transformers goes by the names of classes
    names = {name: getattr(model_class, name) for name in ("__module__", "__qualname__")}
    return type(model_class.__name__, (model_class,), {"__init__": build, **names})


def _check_loaded(name: str | Path, model: nn.Module, info: dict[str, Any]) -> None:
    # transformers leaves undefined what it did not find and does not know how to initialise
    absent = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    techniques = {id(parameter) for parameter in technique_parameters(model)}
    lost = [key for key, parameter in model.named_parameters() if id(parameter) in techniques and key in absent]
    if lost:
        raise ValueError(
            f"{name} must hold the weights of the techniques that its configuration names, and lacks"
            f" {lost[0]!r}{f' and {len(lost) - 1} more' if lost[1:] else ''}."
        )


def _from_techniques_alone(
    name: str | Path,
    model_class: type[PreTrainedModel] | None,
    source: dict[str, Any],
    kwargs: dict[str, Any],
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    try:
        _, base = read_technique_config(name, **source)
    except ValueError as error:
        raise ValueError(f"{str(name)!r} holds neither a model (config.json) nor techniques: {error}") from error
    base_name = base["base_model_name_or_path"]
    if base_name is None:
        raise ValueError(
            f"{name} holds techniques without the name of their model: load that and use `load_techniques`."
        )
    own = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
    loaded = from_pretrained(base_name, model_class, **own)
    load_techniques(loaded[0] if isinstance(loaded, tuple) else loaded, name, **source)
    return loaded
