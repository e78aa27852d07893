"""A model from its configuration and weights, and what in it they do not hold."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification, PreTrainedModel

from ..errors import UsageError, one_line
from ..techniques.apply import applied_techniques, apply_techniques
from ..techniques.config import TechniqueConfig, find_techniques
from ..vit_cb import modeling_vit_cb
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.layers_vit_cb import ZeroStart
from ..vit_cb.modeling_vit_cb import ViTCBPreTrainedModel


# how transformers' image classifiers call what stands on the vision model
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "head")
# what transformers raises for folders and names that hold no such model
LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, ImportError)
LOADING_ERRORS += (SafetensorError, StrictDataclassError)
# arguments of `from_pretrained`, though configurations have attributes of these names
NO_FIELDS = ("attn_implementation", "dtype", "quantization_config", "torch_dtype")


@dataclass(frozen=True)
class Loaded:
    """A model, and what in it did not come from its files.

    Args:
        model: with its techniques.
        missing: parameters that the files lack, a new head's among them.
        mismatched: parameters that the files hold in another shape: name, shape there, shape here.
        unexpected: what the files hold and the model has no place for.
        new_scales: parameters of techniques that were asked for and that the files lack: they start at 0.
        new_head: the head, or the pooler before it, is among the missing or the mismatched.
    """

    model: PreTrainedModel
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[Any, ...], ...] = ()
    unexpected: tuple[str, ...] = ()
    new_scales: tuple[str, ...] = ()
    new_head: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, info: Mapping[str, Any], techniques: Mapping[str, Any] | None) -> "Loaded":
        """From what `from_pretrained` returns with `output_loading_info=True`, and the techniques asked for."""
        new_scales = set() if techniques is None else {*info["missing_keys"]} & scales_of(model)
        missing, mismatched = {*info["missing_keys"]} - new_scales, info["mismatched_keys"]
        new_head = any(map(_is_of_a_head, (*missing, *(key[0] for key in mismatched))))
        names = (tuple(sorted(keys)) for keys in (missing, mismatched, info["unexpected_keys"], new_scales))
        return cls(model, *names, new_head)

    def info(self) -> dict[str, Any]:
        """What `from_pretrained` of transformers tells, under its names."""
        names = ("missing", "unexpected", "mismatched")
        return {**{f"{name}_keys": set(getattr(self, name)) for name in names}, "error_msgs": []}

    def check_whole(self, name: str | Path) -> None:
        """Refuse a model whose weights and configuration do not fit to the last one.

        Args:
            name: the model's, for the message.

        Raises:
            UsageError: naming the first that started anew or has no place.
        """
        if strays := [*self.anew(), *self.unexpected]:
            raise UsageError(f"{str(name)!r}: its weights do not fit its configuration, first {strays[0]!r}.")

    def anew(self, but_a_head: bool = False, but: Sequence[str] = ()) -> list[str]:
        """Names of the parameters that started anew, sorted, but for what the caller can do without.

        Args:
            but_a_head: those of a head, or of a pooler before it.
            but: those with one of these in their names.
        """
        names = {*self.missing, *(key[0] for key in self.mismatched)}
        allowed = {name for name in names if but_a_head and _is_of_a_head(name) or any(part in name for part in but)}
        return sorted(names - allowed)


def _is_of_a_head(name: str) -> bool:
    # checkpoints that were trained without a head may lack the pooler too
    parts = name.split(".")
    return parts[0] in HEADS or "pooler" in parts


def scales_of(model: nn.Module) -> set[str]:
    """Names of the techniques' parameters."""
    return {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, ZeroStart)
        for parameter, _ in module.named_parameters(recurse=False)
    }


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """What fails in it is a mistake of who named the model.

    Raises:
        UsageError: in place of whatever transformers raises; a damaged folder can fail anywhere.
    """
    try:
        yield
    except UsageError:
        raise
    except LOADING_ERRORS as error:
        raise UsageError(f"{str(name)!r} cannot be loaded: {one_line(error)}") from error


def load_files(
    name: str | Path,
    saved: dict[str, Any],
    model_class: Any = None,
    techniques: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Loaded:
    """A whole model, with the techniques that it was saved with, or with those that are asked for.

    Args:
        name: a folder, or a repository on the Hub.
        saved: its configuration file.
        model_class: a class of transformers, Auto classes among them; the one that was saved by default.
        techniques: fields of `TechniqueConfig` to add; of a ViT-CB, they take the place of those in its configuration.
            None asks for none: parameters of techniques that the files lack are missing then.
        kwargs: of the class' `from_pretrained`.

    Raises:
        ValueError: the class is unknown, or weights of techniques are missing, or see `add_techniques`.
    """
    model_class = built = _class_of(name, saved, model_class)
    is_vit_cb = issubclass(model_class, ViTCBPreTrainedModel)
    fields = None if is_vit_cb else find_techniques(saved)
    if is_vit_cb:
        kwargs = _with_config(saved, techniques or {}, kwargs)
    elif fields is not None and issubclass(model_class, PreTrainedModel):
        built = _with_techniques(model_class, TechniqueConfig.from_fields(fields))
    model, info = built.from_pretrained(name, output_loading_info=True, **kwargs)
    if is_vit_cb:
        return Loaded.of(model, info, techniques)
    model.__class__ = type(model) if built is model_class else model_class
    return add_techniques(_check_scales(name, Loaded.of(model, info, None)), techniques or {}, name)


def _class_of(name: str | Path, saved: dict[str, Any], model_class: Any) -> Any:
    """The class that is meant; an Auto class itself where it has none for the type of the model."""
    architecture = (saved.get("architectures") or [None])[0]
    if model_class is None:
        for library in (transformers, modeling_vit_cb):
            if architecture is not None and architecture in dir(library):
                return getattr(library, architecture)
        raise UsageError(
            f"The configuration of {name}, of type {saved.get('model_type')!r}, must name a class of transformers under"
            f" `architectures`, and names {architecture!r}: give `model_class`."
        )
    if model_class is AutoModel and "vision_config" in saved and str(architecture).endswith("ForImageClassification"):
        # of a model for images and texts it has the image tower alone: the model would get a random text tower
        model_class = AutoModelForImageClassification
    mapping, model_type = getattr(model_class, "_model_mapping", ()), saved.get("model_type")
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in mapping:
        return model_class
    found = mapping[CONFIG_MAPPING[model_type]]
    classes = found if isinstance(found, tuple) else (found,)
    return next((known for known in classes if known.__name__ == architecture), classes[0])


def _with_config(saved: dict[str, Any], techniques: Mapping[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with a ViT-CB's configuration made of the file, which transformers then does not read again."""
    if "config" in kwargs:
        if techniques:
            raise UsageError("`config` and `techniques` each say which techniques a ViT-CB has: give one of them.")
        return kwargs
    others = {key: kwargs.pop(key) for key in NO_FIELDS if key in kwargs}
    config, rest = ViTCBConfig.from_dict(dict(saved), return_unused_kwargs=True, **{**kwargs, **techniques})
    return {**rest, **others, "config": config}


def _with_techniques(model_class: type[PreTrainedModel], config: TechniqueConfig) -> type[PreTrainedModel]:
    """A class whose models have the techniques from the start, so that transformers loads them with all else."""

    def build(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, *args, **kwargs)
        apply_techniques(self, config)

    # transformers goes by the names of classes
    names = {name: getattr(model_class, name) for name in ("__module__", "__qualname__")}
    return type(model_class.__name__, (model_class,), {"__init__": build, **names})


def _check_scales(name: str | Path, loaded: Loaded) -> Loaded:
    # transformers leaves undefined what it did not find and does not know how to initialise
    lost = sorted(scales_of(loaded.model) & {*loaded.anew()})
    if lost:
        raise UsageError(
            f"{name} must hold the weights of the techniques that its configuration names, and lacks"
            f" {lost[0]!r}{f' and {len(lost) - 1} more' if lost[1:] else ''}."
        )
    return loaded


def add_techniques(loaded: Loaded, fields: Mapping[str, Any], name: str | Path) -> Loaded:
    """Add the techniques that a user asks for, in place; nothing where all that is asked for is that they are off.

    Args:
        loaded: of any architecture with techniques but ViT-CB.
        fields: those of `TechniqueConfig` that the user gave.
        name: the model's, for the message.

    Raises:
        ValueError: the model has techniques already or cannot have these, or none is on and the fields say where.
    """
    if not fields:
        return loaded
    config = TechniqueConfig.from_fields(fields)
    flags = ", ".join(f"--{field}" for field in fields)
    if applied_techniques(loaded.model) is not None:
        raise UsageError(f"{str(name)!r} has techniques already, which stay as they are: leave out {flags}.")
    if config.context_broadcast or config.attn_scale or config.feat_scale:
        apply_techniques(loaded.model, config)
    elif {"apply_layers", "context_broadcast_position"} & fields.keys():
        raise UsageError(
            f"no technique is on in {str(name)!r}: give --context_broadcast, --attn_scale or --feat_scale too, or leave"
            f" out {flags}."
        )
    return replace(loaded, new_scales=tuple(sorted(scales_of(loaded.model))))
