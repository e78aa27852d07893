"""Configuration of ViT-CB: ViT with Context Broadcasting, AttnScale and FeatScale."""

import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, Literal, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassError,
    StrictDataclassFieldValidationError,
)
from transformers import PreTrainedConfig, ViTConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin


# of an image or a patch, in pixels: one side, or height and width
Size = int | list[int] | tuple[int, ...]

# which class each Auto class finds in a saved folder; kept by the config itself, since transformers lists in
# `auto_map` only the classes that were saved
AUTO_MAP = {
    "AutoConfig": "configuration_vit_cb.ViTCBConfig",
    "AutoModel": "modeling_vit_cb.ViTCBModel",
    "AutoModelForImageClassification": "modeling_vit_cb.ViTCBForImageClassification",
    "AutoModelForMaskedImageModeling": "modeling_vit_cb.ViTCBForMaskedImageModeling",
    "AutoBackbone": "modeling_vit_cb.ViTCBBackbone",
}

# table 1 of DeiT, https://arxiv.org/abs/2012.12877: Ti, S and B
PRESETS = {
    "tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}

POSITIVE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "num_channels",
    "encoder_stride",
    "image_size",
    "patch_size",
)
ACTIVATION_FIELDS = ("hidden_act", "pooler_act")
PROBABILITY_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")


# how alike two names are, from 0 to 1, of which one is taken for a slip of the other
LIKENESS = 0.75
# files of other versions of transformers hold fields that this one does not know, and load all the same
_is_read_from_a_file: ContextVar[bool] = ContextVar("_is_read_from_a_file", default=False)

Class = TypeVar("Class")


class InvalidConfigError(StrictDataclassError, ValueError):
    """A configuration value that is not allowed; the message names field, value and what is allowed."""


def with_one_line_errors(cls: type[Class]) -> type[Class]:
    """Test values by `IS_ALLOWED` and types by `@strict`, and tell of both in one line, as `InvalidConfigError`."""
    strict_setattr, strict_validate = cls.__setattr__, cls.validate
    types = {field.name: getattr(field.type, "__name__", str(field.type)) for field in fields(cls)}

    def refusal(name: str, value: Any) -> InvalidConfigError:
        allowed = ALLOWED.get(name, f"of type {types.get(name)}")
        return InvalidConfigError(f"`{name.lstrip('_')}` must be {allowed}, got {value!r}.")

    @wraps(strict_setattr)
    def set_field(self: Any, name: str, value: Any) -> None:
        if not _is_allowed(name, value):
            raise refusal(name, value)
        try:
            strict_setattr(self, name, value)
        except StrictDataclassFieldValidationError as error:
            raise refusal(name, value) from error

    @wraps(strict_validate)
    def validate(self: Any) -> None:
        try:
            strict_validate(self)
        except StrictDataclassClassValidationError as error:
            raise InvalidConfigError(str(error.__cause__)) from error

    validate.__is_defined_by_strict_decorator__ = True
    cls.__setattr__, cls.validate = set_field, validate
    return cls


def _is_allowed(name: str, value: Any) -> bool:
    try:
        return name not in IS_ALLOWED or IS_ALLOWED[name](value)
    # of a type that cannot be compared, and so not the field's
    except TypeError:
        return False


def _is_distinct_indices(value: list[int] | tuple[int, ...] | None) -> bool:
    return value is None or (all(index >= 0 for index in value) and len(set(value)) == len(value))


def _is_positive(value: Size) -> bool:
    return len(as_pair(value)) == 2 and all(part > 0 for part in as_pair(value))


def _check_spelling(names: Iterable[str], config: PreTrainedConfig) -> None:
    """Refuse what can only be meant for a field; other names are attributes of a user's own, as in transformers."""
    ours = {f.name.lstrip("_") for f in fields(config)} - {f.name for f in fields(PreTrainedConfig)}
    for name in names:
        meant = get_close_matches(name, ours, 1, LIKENESS)
        if meant and not hasattr(config, name):
            raise InvalidConfigError(f"{type(config).__name__} has no field {name!r}: did you mean {meant[0]!r}?")


def as_pair(size: Size) -> tuple[int, ...]:
    """Height and width of a size that may be one number."""
    return (size, size) if isinstance(size, int) else tuple(size)


# what a field may hold, in words and as a test; `@strict` tests the type
ALLOWED: dict[str, str] = {
    "context_broadcast": "None, 'plain' (CB) or 'scaled' (CB_S)",
    "context_broadcast_position": "'mlp_end', 'mlp_mid', 'mlp_front' or 'attn_end'",
    "attn_scale": "True or False",
    "feat_scale": "True or False",
    "apply_layers": "None (all layers) or a list of distinct layer indices, counted from 0",
    "drop_path_rate": "a number in [0, 1)",
    "hidden_dropout_prob": "a number in [0, 1)",
    "attention_probs_dropout_prob": "a number in [0, 1)",
    **dict.fromkeys(POSITIVE_FIELDS, "a positive integer"),
    "layer_norm_eps": "a positive number",
    "initializer_range": "a positive number",
    "_out_features": "None or a list of stage names, 'stem', 'stage1', ...",
    "_out_indices": "None or a list of stage indices, 0 for the stem",
    "num_labels": "an integer of at least 0",
    "image_size": "a positive integer or a pair of them, height and width in pixels",
    "patch_size": "a positive integer or a pair of them, height and width in pixels",
    **dict.fromkeys(ACTIVATION_FIELDS, "the name of an activation function, one of " + ", ".join(sorted(ACT2FN))),
}
IS_ALLOWED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(ACTIVATION_FIELDS, lambda value: value in ACT2FN),
    "apply_layers": _is_distinct_indices,
    **dict.fromkeys(("layer_norm_eps", "initializer_range"), lambda value: 0 < value < math.inf),
    "num_labels": lambda value: type(value) is int and value >= 0,
    **dict.fromkeys(POSITIVE_FIELDS, _is_positive),
    **dict.fromkeys(PROBABILITY_FIELDS, lambda value: 0 <= value < 1),
}


@with_one_line_errors
@strict
class ViTCBConfig(BackboneConfigMixin, ViTConfig):
    r"""Configuration of the ViT-CB models: a `ViTConfig` with the fields of the techniques.

    Every value that is not allowed raises a `ValueError` that names the field, the value and what is allowed.

    Args:
        context_broadcast (`"plain"`, `"scaled"` or `None`, defaults to `"plain"`):
            Context Broadcasting, https://arxiv.org/abs/2210.08457: `"plain"` for CB, `y_i = (x_i + mean_j x_j) / 2`,
            `"scaled"` for CB_S, `y_i = x_i + context_scale * mean_j x_j`, `None` for none. CB_S is our reading of the
            paper's dimension-scaled CB, its start at 0 our choice.
        context_broadcast_position (`str`, defaults to `"mlp_end"`):
            Where: `"mlp_end"` (the MLP's output, before the residual sum), `"mlp_mid"` (before the MLP's second
            linear layer), `"mlp_front"` (before its first, after the norm) or `"attn_end"` (the attention branch's
            output, after FeatScale).
        attn_scale (`bool`, defaults to `False`):
            AttnScale, https://arxiv.org/abs/2203.05962, in the selected layers: `A' = 1/N + (1 + omega)(A - 1/N)`
            with one omega a head. Exact while `attention_probs_dropout_prob` is 0; otherwise dropout falls on A, in
            the published code on A'.
        feat_scale (`bool`, defaults to `False`):
            FeatScale, same paper, in the selected layers: `y = x + dc_scale * DC(x) + hc_scale * HC(x)`.
        apply_layers (`list[int]`, *optional*):
            Indices of the layers that get the techniques, counted from 0. `None` for all, `[]` for none.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth, https://arxiv.org/abs/1603.09382: the probability of dropping a residual branch, rising
            linearly from 0 at the first layer to this at the last.
        out_features (`list[str]`, *optional*):
            For `ViTCBBackbone`: which of `"stem"`, `"stage1"`, ... it returns. Defaults to the last.
        out_indices (`list[int]`, *optional*):
            The same as indices; 0 is `"stem"`.
        hidden_size (`int`, defaults to 768), num_hidden_layers (`int`, defaults to 12):
            Width of the tokens, and number of layers.
        num_attention_heads (`int`, defaults to 12), qkv_bias (`bool`, defaults to `True`):
            Heads of `hidden_size // num_attention_heads` dimensions, and whether their projections have a bias.
        intermediate_size (`int`, defaults to 3072), hidden_act (`str`, defaults to `"gelu"`):
            Width and activation function of the MLPs.
        image_size, patch_size (`int` or a pair of them, default to 224 and 16):
            In pixels, one side or height and width; the image's must be a multiple of the patch's.
        num_channels (`int`, defaults to 3):
            Channels of the images.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`, default to 0.0):
            Dropout of the embeddings and residual branches, and of the attention.
        layer_norm_eps (`float`, defaults to 1e-12), initializer_range (`float`, defaults to 0.02):
            Epsilon of the layer norms, and standard deviation of the initial weight matrices.
        encoder_stride (`int`, defaults to 16):
            For `ViTCBForMaskedImageModeling`: by how much its decoder enlarges the map of patches.
        pooler_output_size (`int`, *optional*), pooler_act (`str`, defaults to `"tanh"`):
            Width (by default `hidden_size`) and activation function of `ViTCBModel`'s pooler.

    Example:

    ```python
    >>> from hf_cb import ViTCBConfig, ViTCBForImageClassification

    >>> config = ViTCBConfig.from_preset("tiny", num_hidden_layers=12, attn_scale=True, num_labels=10)
    >>> model = ViTCBForImageClassification(config)
    ```"""

    model_type = "vit_cb"

    context_broadcast: Literal["plain", "scaled"] | None = "plain"
    context_broadcast_position: Literal["mlp_end", "mlp_mid", "mlp_front", "attn_end"] = "mlp_end"
    attn_scale: bool = False
    feat_scale: bool = False
    apply_layers: list[int] | tuple[int, ...] | None = None
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    @classmethod
    def from_preset(cls, name: str, num_hidden_layers: int = 12, **overrides: Any) -> "ViTCBConfig":
        """DeiT's widths with patches of 16 pixels on images of 224, https://arxiv.org/abs/2012.12877.

        Args:
            name: "tiny" (width 192, 3 heads), "small" (384, 6) or "base" (768, 12).
            num_hidden_layers: depth.
            overrides: any other field.

        Raises:
            ValueError: the name is none of these, or a field has a value that is not allowed.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise ValueError(f"The preset must be one of {', '.join(map(repr, PRESETS))}, got {name!r}.")
        fields_of_deit = {"patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-6, **PRESETS[name]}
        return cls(**{**fields_of_deit, "num_hidden_layers": num_hidden_layers, **overrides})

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "apply_layers" and isinstance(value, tuple):
            # as it comes back from JSON
            value = list(value)
        depth = self.__dict__.get("num_hidden_layers")
        super().__setattr__(name, value)
        if name == "num_hidden_layers" and depth is not None and self.__dict__.get("_out_indices") == [depth]:
            # the default, the last stage, stays the last
            self.set_output_features_output_indices(None, None)

    def __post_init__(self, **kwargs: Any) -> None:
        # a plain ViT's file says "vit" here: kept, it would be saved, and AutoModel would give a plain ViT back
        kwargs.pop("model_type", None)
        kwargs.pop("stage_names", None)
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        if not _is_read_from_a_file.get():
            _check_spelling(kwargs, self)
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; what the keyword arguments change is validated too."""
        token = _is_read_from_a_file.set(True)
        try:
            result = super().from_dict(config_dict, **kwargs)
        finally:
            _is_read_from_a_file.reset(token)
        (result[0] if isinstance(result, tuple) else result).validate_geometry()
        return result

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; a plain ViT's file is one of ours."""
        config_dict, kwargs = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == ViTConfig.model_type:
            config_dict["model_type"] = cls.model_type
        return config_dict, kwargs

    @property
    def stage_names(self) -> list[str]:
        """Names of a backbone's feature maps: the embeddings' and each layer's."""
        return ["stem", *(f"stage{index}" for index in range(1, self.num_hidden_layers + 1))]

    def applies_to(self, layer_index: int) -> bool:
        """Whether a layer, counted from 0, gets the techniques."""
        return self.apply_layers is None or layer_index in self.apply_layers

    def drop_path_rate_of(self, layer_index: int) -> float:
        """Stochastic depth's rate in a layer, counted from 0."""
        return self.drop_path_rate * layer_index / max(self.num_hidden_layers - 1, 1)

    def validate_geometry(self) -> None:
        """Part of the `@strict` validation: fields that depend on each other.

        Raises:
            ValueError: a layer of `apply_layers` does not exist, patches do not tile the image, or heads have no width.
        """
        for index in self.apply_layers or []:
            if index >= self.num_hidden_layers:
                raise InvalidConfigError(
                    f"`apply_layers` must hold layer indices from 0 to {self.num_hidden_layers - 1}"
                    f" (`num_hidden_layers` is {self.num_hidden_layers}), got {index} in {self.apply_layers}."
                )
        if any(side % patch for side, patch in zip(as_pair(self.image_size), as_pair(self.patch_size))):
            raise InvalidConfigError(
                f"`image_size` must be a multiple of `patch_size` ({self.patch_size}), got {self.image_size!r}."
            )
        # heads need not divide the width, as in ViT
        if self.num_attention_heads > self.hidden_size:
            raise InvalidConfigError(
                f"`num_attention_heads` must be at most `hidden_size` ({self.hidden_size}), got"
                f" {self.num_attention_heads}."
            )


ViTCBConfig.register_for_auto_class()

__all__ = ["ViTCBConfig"]
