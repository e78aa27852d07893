"""The techniques as their published code computes them, with the attention matrix in memory: to measure against.

Follows the code of https://arxiv.org/abs/2203.05962 and the equation of https://arxiv.org/abs/2210.08457. Nothing but
the benchmark uses it: the models' equations are those of `ops_vit_cb`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..vit_cb.layers_vit_cb import ContextBroadcast, FeatScale
from ..vit_cb.modeling_vit_cb import ViTCBAttention


class PublishedContextBroadcast(ContextBroadcast):
    """`ContextBroadcast`, as an average of two terms; CB_S as a sum of two."""

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """[B, N, D] to [B, N, D]; a mask is not looked at."""
        mean = tokens.mean(dim=1, keepdim=True)
        return (tokens + mean) / 2 if self.context_scale is None else tokens + self.context_scale * mean


class PublishedFeatScale(FeatScale):
    """`FeatScale`, with DC and HC apart."""

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """[B, N, D] to [B, N, D]; a mask is not looked at."""
        dc = tokens.mean(dim=-2, keepdim=True)
        hc = tokens - dc
        return tokens + self.dc_scale * dc + self.hc_scale * hc


class PublishedAttention(ViTCBAttention):
    """`ViTCBAttention`, with every attention matrix written out, and scaled there."""

    def forward(self, hidden_states: Tensor, *unused: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, N, D] to [B, N, D] and A' (A without AttnScale), [B, H, N, N]; a mask is not looked at."""
        batch_size, num_tokens, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch_size, num_tokens, -1, self.head_dim).transpose(1, 2)  # [B, H, N, d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention = (query @ key.transpose(-2, -1)) * self.scaling
        attention = attention.softmax(dim=-1).to(value.dtype)
        if self.attn_scale is not None:
            dc = torch.ones_like(attention[:1, :1]) / num_tokens
            attention = dc + (attention - dc) * (1 + self.attn_scale.omega[:, None, None]).to(value.dtype)
        output = (attention @ value).transpose(1, 2).reshape(batch_size, num_tokens, -1)
        return self.o_proj(output), attention


PUBLISHED = {cls.__base__: cls for cls in (PublishedContextBroadcast, PublishedFeatScale, PublishedAttention)}


def as_published(model: nn.Module) -> nn.Module:
    """Let a ViT-CB compute as the published code does, in place, with the same weights; returns it."""
    for module in model.modules():
        if type(module) in PUBLISHED:
            module.__class__ = PUBLISHED[type(module)]
    return model
