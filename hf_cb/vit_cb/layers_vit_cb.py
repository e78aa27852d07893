"""The techniques as modules: each holds its parameters, all of which start at 0, and applies its equation.

Every module initialises itself through `reset_parameters`, which models call from their `_init_weights`: parameters
that a checkpoint lacks are materialised empty and filled there alone.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .ops_vit_cb import broadcast_context, broadcast_scaled_context, scale_attention, scale_features, token_mean


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

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """[B, N, D] and, optionally, [B, N] to [B, N, D]."""
        mean = token_mean(tokens, token_mask)
        if self.context_scale is None:
            return broadcast_context(tokens, mean)
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
