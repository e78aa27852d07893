"""Which techniques a model gets: the part of `ViTCBConfig` that any vision transformer can have."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from ..vit_cb.configuration_vit_cb import with_one_line_errors


@with_one_line_errors
@strict
@dataclass
class TechniqueConfig:
    """Which techniques a model gets, and where: the fields, values, errors and meaning of `ViTCBConfig`.

    Everything is off by default.

    Args:
        context_broadcast: "plain" for CB, "scaled" for CB_S, None for none.
        context_broadcast_position: "mlp_end", "mlp_mid" (MLPs without gate), "mlp_front" or "attn_end".
        attn_scale: AttnScale in the selected layers.
        feat_scale: FeatScale in the selected layers.
        apply_layers: indices of the layers that get the techniques, counted from 0, through all stages where a model
            has stages; None for all, [] for none.

    Raises:
        ValueError: a value is not allowed; the message names field, value and what is allowed.
    """

    context_broadcast: Literal["plain", "scaled"] | None = None
    context_broadcast_position: Literal["mlp_end", "mlp_mid", "mlp_front", "attn_end"] = "mlp_end"
    attn_scale: bool = False
    feat_scale: bool = False
    apply_layers: list[int] | tuple[int, ...] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, list(value) if isinstance(value, tuple) else value)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "TechniqueConfig":
        """From those of many fields that are the techniques', such as `config_overrides` returns.

        Raises:
            ValueError: a value is not allowed.
        """
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)

    def applies_to(self, layer_index: int) -> bool:
        """Whether a layer, counted from 0, gets the techniques."""
        return self.apply_layers is None or layer_index in self.apply_layers


def find_techniques(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """The techniques that a configuration file names, its own or those of a part."""
    own = saved.get("technique_config")
    if own is not None:
        return own
    parts = (find_techniques(part) for part in saved.values() if isinstance(part, dict))
    return next((found for found in parts if found is not None), None)
