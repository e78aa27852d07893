"""The techniques as modules: each holds its parameters, all of which start at 0, and applies its equation.

Every module initialises itself through `reset_parameters`, which models call from their `_init_weights`: parameters
that a checkpoint lacks are materialised empty and filled there alone.

Where nothing listens to the modules between, `scaled_projection` and `projection_with_context` compute technique and
linear layer in one; elsewhere they call one module after the other. Both give the same.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers import initialization as init

from .ops_vit_cb import (
    broadcast_context,
    broadcast_context_,
    broadcast_scaled_context,
    project,
    project_scaled,
    scale_attention,
    scale_features,
    token_mean,
)


# the module of transformers' hooks that record attentions and hidden states
RECORDER = "transformers.utils.output_capturing"


class ZeroStart(nn.Module):
    """A module whose parameters all start at 0."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for parameter in self.parameters(recurse=False):
            init.zeros_(parameter)


class ContextBroadcast(ZeroStart):
    """CB, or with `scaled` CB_S: `broadcast_context` and `broadcast_scaled_context`.

    Args:
        width: D of the tokens.
        scaled: learn a factor for each dimension (`context_scale`, [D]).
    """

    def __init__(self, width: int, scaled: bool):
        super().__init__()
        self.context_scale = nn.Parameter(torch.zeros(width)) if scaled else None

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None, in_place: bool = False) -> Tensor:
        """[B, N, D] and, optionally, [B, N] to [B, N, D]; `in_place` allows to change the tokens."""
        mean = token_mean(tokens, token_mask)
        if self.context_scale is None:
            return (broadcast_context_ if in_place else broadcast_context)(tokens, mean)
        return broadcast_scaled_context(tokens, mean, self.context_scale)

    def extra_repr(self) -> str:
        return "plain" if self.context_scale is None else f"scaled, width={self.context_scale.numel()}"


class AttnScale(ZeroStart):
    """AttnScale on the output of any attention kernel: `scale_attention`.

    Args:
        num_heads: H; `omega` is [H].
    """

    def __init__(self, num_heads: int):
        super().__init__()
        self.omega = nn.Parameter(torch.zeros(num_heads))

    def forward(self, output: Tensor, value: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Output and values, both [B, N, H, d], and, optionally, a mask [B, N] to [B, N, H, d]."""
        return scale_attention(output, token_mean(value, token_mask), self.omega)

    def extra_repr(self) -> str:
        return f"num_heads={self.omega.numel()}"


class FeatScale(ZeroStart):
    """FeatScale on the output of the attention branch: `scale_features`.

    Args:
        width: D of the tokens; `dc_scale` (s) and `hc_scale` (t) are [D].
    """

    def __init__(self, width: int):
        super().__init__()
        self.dc_scale = nn.Parameter(torch.zeros(width))
        self.hc_scale = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """[B, N, D] and, optionally, [B, N] to [B, N, D]."""
        return scale_features(tokens, token_mean(tokens, token_mask), self.dc_scale, self.hc_scale)

    def extra_repr(self) -> str:
        return f"width={self.dc_scale.numel()}"


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether to call a module is to call the forward of `kind`: no subclass, no hook, no other forward in its place.

    The hooks that transformers leaves behind once attentions were asked for do not count: they record those alone.
    """
    if type(module) is not kind or "forward" in module.__dict__:
        return False
    if module._forward_pre_hooks or module._backward_pre_hooks or module._backward_hooks or _a_hook_is_on_all_modules():
        return False
    return all(getattr(hook, "__module__", None) == RECORDER for hook in module._forward_hooks.values())


def _a_hook_is_on_all_modules() -> bool:
    # torch 2.6 has no function for it
    return bool(
        torch_module._global_forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_backward_pre_hooks
        or torch_module._global_backward_hooks
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is `nn.Linear` and no more, with weights that are numbers: not quantised, not sharded."""
    # asked of the type: of the tensor itself, compilers do not know
    return is_plain(module, nn.Linear) and not hasattr(type(module.weight), "__tensor_flatten__")


def scaled_projection(
    projection: nn.Module,
    output: Tensor,
    value: Tensor,
    token_mask: Tensor | None,
    attn_scale: nn.Module | None,
    feat_scale: nn.Module | None,
) -> Tensor:
    """AttnScale, output projection and FeatScale: by `project_scaled` as far as these are plain modules.

    Args:
        projection: linear, H * d to D.
        output: [B, N, H, d], as the attention kernel returns it.
        value: [B, N, H, d].
        token_mask: [B, N], or None.
        attn_scale: `AttnScale`, what stands for it, or None.
        feat_scale: `FeatScale`, what stands for it, or None.

    Returns:
        [B, N, D].
    """
    linear, inside = is_plain_linear(projection), {}
    if linear and is_plain(attn_scale, AttnScale):
        inside |= {"mean_value": token_mean(value, token_mask), "omega": attn_scale.omega}
    elif attn_scale is not None:
        output = attn_scale(output, value, token_mask)
    if linear and is_plain(feat_scale, FeatScale):
        scales = {"dc_scale": feat_scale.dc_scale, "hc_scale": feat_scale.hc_scale}
        inside |= {"mean_output": token_mean(output, token_mask), **scales}
        feat_scale = None
    if inside:
        tokens = project_scaled(output, projection.weight, projection.bias, **inside)
    else:
        tokens = projection(output.flatten(2))
    return tokens if feat_scale is None else feat_scale(tokens, token_mask)


def projection_with_context(projection: nn.Module, cb: nn.Module, tokens: Tensor, token_mask: Tensor | None) -> Tensor:
    """A linear layer and Context Broadcasting on its output: in place as far as these are plain modules.

    Args:
        projection: linear, E to D.
        cb: `ContextBroadcast`, or what stands for it.
        tokens: [B, N, E].
        token_mask: [B, N], or None.

    Returns:
        [B, N, D].
    """
    if not (is_plain_linear(projection) and is_plain(cb, ContextBroadcast)):
        return cb(projection(tokens), token_mask)
    return cb(project(tokens, projection.weight, projection.bias), token_mask, in_place=True)
