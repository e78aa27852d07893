"""The models that are compared with each other: without a technique, with each, and with all."""

from typing import Any


# fields of a configuration; `all` has CB in its plain form, since both of its forms at once there are not
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"context_broadcast": None},
    "cb": {"context_broadcast": "plain"},
    "cb_s": {"context_broadcast": "scaled"},
    "attn_scale": {"context_broadcast": None, "attn_scale": True},
    "feat_scale": {"context_broadcast": None, "feat_scale": True},
    "all": {"context_broadcast": "plain", "attn_scale": True, "feat_scale": True},
}
