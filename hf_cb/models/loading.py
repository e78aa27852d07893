"""Any model that is only to be used: with its techniques or new ones, an adapter merged into its base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoModelForImageClassification, PreTrainedModel

from ..errors import UsageError
from ..techniques.config import TechniqueConfig
from ..vit_cb.loading_vit_cb import HUB_ARGUMENTS, saved_config
from .loaded import Loaded, add_techniques, load_files, loading
from .lora import is_adapter, load_adapter
from .technique_files import load_techniques, read_technique_config


Techniques = TechniqueConfig | Mapping[str, Any] | None


def from_pretrained(
    folder_or_repo: str | Path, model_class: Any = None, techniques: Techniques = None, **kwargs: Any
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    """A model with its techniques, from what its `save_pretrained` or `push_to_hub` wrote; or any other model.

    Where only techniques were saved (`save_techniques`), they are added to the model that they were saved from. An
    adapter with its model's configuration, as `scripts/finetune.py --lora_r` writes it, is merged into its base.

    Args:
        folder_or_repo: a folder, or a repository on the Hub.
        model_class: a class of transformers, or one of its Auto classes; the class that was saved by default. A
            classifier of which a model for images and texts has the image tower alone, such as SigLIP's, is itself for
            `AutoModel`.
        techniques: to add, or fields of `TechniqueConfig`; of a ViT-CB, they take the place of those in its
            configuration. Those that learn start at 0.
        kwargs: of the class' `from_pretrained`.

    Returns:
        The model; with `output_loading_info=True` a pair, as in transformers.

    Raises:
        ValueError: there is no such model, its class is unknown, weights of its techniques are missing, or it cannot
            have those that are asked for.
    """
    wants_info = kwargs.pop("output_loading_info", False)
    loaded = _load(folder_or_repo, model_class, techniques, kwargs)
    return (loaded.model, loaded.info()) if wants_info else loaded.model


def load(name: str | Path, model_class: Any = None, techniques: Techniques = None, **kwargs: Any) -> Loaded:
    """`from_pretrained` with all that is to be known of what was loaded.

    Raises:
        UsageError: there is no such model, or it cannot be loaded, whatever the reason.
    """
    with loading(name):
        return _load(name, model_class, techniques, kwargs)


def _load(name: str | Path, model_class: Any, techniques: Techniques, kwargs: dict[str, Any]) -> Loaded:
    techniques = techniques.to_dict() if isinstance(techniques, TechniqueConfig) else techniques or None
    source = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    saved = saved_config(name, source)
    if not saved:
        return add_techniques(_load_techniques_alone(name, model_class, source, kwargs), techniques or {}, name)
    if not is_adapter(name, saved, **source):
        return load_files(name, saved, model_class, techniques, **kwargs)
    if techniques:
        raise UsageError(f"{str(name)!r} is an adapter: leave out {', '.join(f'--{field}' for field in techniques)}.")
    return Loaded(_merged(name, model_class, kwargs))


def _load_techniques_alone(
    name: str | Path, model_class: Any, source: dict[str, Any], kwargs: dict[str, Any]
) -> Loaded:
    try:
        _, base = read_technique_config(name, **source)
    except ValueError as error:
        raise UsageError(
            f"{str(name)!r} cannot be loaded: it holds neither a model (config.json) nor techniques: {error}"
        ) from error
    base_name = base["base_model_name_or_path"]
    if base_name is None:
        raise UsageError(
            f"{name} holds techniques without the name of their model: load that and use `load_techniques`."
        )
    own = {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}
    loaded = _load(base_name, model_class, None, own)
    load_techniques(loaded.model, name, **source)
    return loaded


def _merged(name: str | Path, model_class: Any, kwargs: dict[str, Any]) -> PreTrainedModel:
    """The classifier that an adapter makes of its base; for `AutoModel`, what stands below its head."""
    model = load_adapter(name, **kwargs).merge_and_unload()
    if model_class is AutoModel:
        return model.base_model
    if model_class in (None, AutoModelForImageClassification) or isinstance(model, model_class):
        return model
    raise UsageError(f"{str(name)!r} is an adapter of a {type(model).__name__}, and no {model_class.__name__}.")
