"""The equations of Context Broadcasting, AttnScale and FeatScale, as functions of tensors.

Nothing here knows of ViT or of a configuration. Every technique is one primitive with other factors,

    mix(x) = a * x + b * mean_tokens(x)

          a        b        mean of
    CB    1/2      1/2      the MLP's output
    CB_S  1        Lambda   the MLP's output
    Feat  1 + t    s - t    the attention branch's output
    Attn  1 + w    -w       the values: A'V = (1 + w) AV - w mean_j V_j

so a technique costs one reduction over the tokens and one pass, and AttnScale never needs the attention matrix. Around
a linear layer AttnScale and FeatScale are that layer with other weights, plus one vector an image: `project_scaled`.

Shapes: B batch, N tokens that attend (class token included), D width, H heads, d width of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def token_mean(tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Mean over the tokens that attend: DC, the signal's component of frequency 0.

    Args:
        tokens: [B, N, ...].
        token_mask: [B, N], bool, True where a token attends; None when all do. A row without any gives 0.

    Returns:
        [B, 1, ...], in the dtype of `tokens`; sums are accumulated in at least float32.
    """
    count = tokens.shape[1]
    if token_mask is not None:
        mask = token_mask.view(*token_mask.shape, *[1] * (tokens.dim() - 2))
        # masked_fill, not a product: whatever stands in a masked token, infinities included, takes no part
        tokens = tokens.masked_fill(~mask, 0)
        count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    # not torch.mean, whose gradient is written out for every token, where a sum's is one row seen from all of them
    total = tokens.sum(dim=1, keepdim=True, dtype=torch.promote_types(tokens.dtype, torch.float32))
    return (total / count).to(tokens.dtype)


def mix_tokens(tokens: Tensor, mean: Tensor, token_gain: Tensor | None, mean_gain: Tensor) -> Tensor:
    """The primitive: y = (1 + token_gain) * x + mean_gain * mean.

    The learned part of `a` stays apart from its 1: in bfloat16 `1 + gain` would round away every gain below 0.4 %.

    Args:
        tokens: [B, N, ...], x.
        mean: [B, 1, ...], as `token_mean` returns it.
        token_gain: broadcastable to `tokens`, a - 1; None for 0.
        mean_gain: broadcastable to `tokens`, b.
    """
    mean, mean_gain = mean.to(tokens.dtype), mean_gain.to(tokens.dtype)
    if token_gain is None:
        return tokens + mean_gain * mean
    return torch.addcmul(tokens, token_gain.to(tokens.dtype), tokens) + mean_gain * mean


def broadcast_context(tokens: Tensor, mean: Tensor) -> Tensor:
    """Give every token the mean of all: Context Broadcasting (CB), https://arxiv.org/abs/2210.08457.

        y_i = (x_i + mean_j x_j) / 2

    Args:
        tokens: [B, N, D], x.
        mean: [B, 1, D], as `token_mean` returns it.
    """
    # one pass over the tokens forward, and none over a gradient for the mean backward, unlike torch.lerp
    return torch.add(mean / 2, tokens, alpha=0.5)


def broadcast_context_(tokens: Tensor, mean: Tensor) -> Tensor:
    """`broadcast_context` in place, to the bit the same.

    Args:
        tokens: [B, N, D], x; it becomes y. Nothing else may need x, the gradient of what made it included.
        mean: [B, 1, D], as `token_mean` returns it.
    """
    return tokens.mul_(0.5).add_(mean / 2)


def broadcast_scaled_context(tokens: Tensor, mean: Tensor, context_scale: Tensor) -> Tensor:
    """Give every token a learned share of the mean: dimension-scaled CB (CB_S), https://arxiv.org/abs/2210.08457.

        y_i = x_i + Lambda * mean_j x_j

    The paper names this variant; its exact form and start could not be read again for this implementation. The form
    above is our reading of it, and Lambda = 0 at the start, where it is the identity, our choice.

    Args:
        tokens: [B, N, D], x.
        mean: [B, 1, D], as `token_mean` returns it.
        context_scale: [D], Lambda.
    """
    return mix_tokens(tokens, mean, None, context_scale)


def scale_features(tokens: Tensor, mean: Tensor, dc_scale: Tensor, hc_scale: Tensor) -> Tensor:
    """Weigh the mean of the tokens and the rest of them apart: FeatScale, https://arxiv.org/abs/2203.05962.

        y = x + s * DC(x) + t * HC(x)                DC(x) = mean_j x_j,  HC(x) = x - DC(x)
          = (1 + t) * x + (s - t) * DC(x)

    Args:
        tokens: [B, N, D], x.
        mean: [B, 1, D], DC(x), as `token_mean` returns it.
        dc_scale: [D], s; 0 with `hc_scale` 0 is the identity.
        hc_scale: [D], t.
    """
    return mix_tokens(tokens, mean, hc_scale, dc_scale - hc_scale)


def scale_attention(output: Tensor, mean_value: Tensor, omega: Tensor) -> Tensor:
    """Amplify what each attention map A adds to plain averaging: AttnScale, https://arxiv.org/abs/2203.05962.

        A'   = J/N + (1 + w_h) (A - J/N)             J: all ones
        A' V = A V + w_h (A V - mean_n V)            so A never has to exist in memory

    Exact while attention dropout is 0. With dropout the published code drops entries of A', this form entries of A.

    Args:
        output: [B, N, H, d], A V as the attention kernel returns it.
        mean_value: [B, 1, H, d], the values' mean over the tokens that attend (`token_mean` knows the mask).
        omega: [H], the w_h; 0 is plain attention.
    """
    # a = 1 + w and b = -w sum to 1: mixing them is one pass from A V towards the mean, by -w
    return torch.lerp(output, mean_value.to(output.dtype), -omega.view(-1, 1).to(output.dtype))


def project(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `nn.Linear` computes, as a tensor of its own, which may be changed in place.

    `nn.Linear` returns tokens as a view of its rows, and in the backward pass a change in place of a view costs a copy.

    Args:
        tokens: [B, N, D]; where they lie one after the other, the result is `nn.Linear`'s to the bit.
        weight: [E, D].
        bias: [E], or None.

    Returns:
        [B, N, E].
    """
    rows = F.linear(tokens.flatten(0, -2), weight, bias)  # [B * N, E]
    # a view that counts as none, since its base is dropped: torch's own matmul ends so
    return torch.ops.aten._unsafe_view(rows, [*tokens.shape[:-1], rows.shape[-1]])


def scale_weight(weight: Tensor, column_gain: Tensor | None, row_gain: Tensor | None) -> Tensor:
    """Weights whose columns and rows have gains: W_ij (1 + column_gain_j) (1 + row_gain_i).

    As in `mix_tokens`, what is learned stays apart from its 1.

    Args:
        weight: [E, D].
        column_gain: [D]; None for 0.
        row_gain: [E]; None for 0. Not both are None.
    """
    gain = column_gain if row_gain is None else row_gain[:, None]
    if column_gain is not None and row_gain is not None:
        gain = torch.addcmul(gain + column_gain, gain, column_gain)  # [E, D]
    return torch.addcmul(weight, weight, gain.to(weight.dtype))


def project_scaled(
    output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean_value: Tensor | None = None,
    omega: Tensor | None = None,
    mean_output: Tensor | None = None,
    dc_scale: Tensor | None = None,
    hc_scale: Tensor | None = None,
) -> Tensor:
    """AttnScale, output projection and FeatScale in one: https://arxiv.org/abs/2203.05962.

    With z = A V, m = mean V, W and b the projection, and w the w_h of each column's head,

        x = W z' + b                 z' = (1 + w) z - w m              `scale_attention`
        y = (1 + t) x + (s - t) mean x                                 `scale_features`

    is affine in z, with one matrix for all tokens. So for any token p whose y is known,

        y = W' (z - p) + y(p)        W'_ij = (1 + t_i) W_ij (1 + w_j)
          = W' z + (1 + s) b + c     c = y(p) - (1 + s) b - W' p, the same for all tokens of an image

        AttnScale alone: p = m       y(p) = W m + b                    A' leaves the mean as it is
        with FeatScale:  p = mean z  y(p) = (1 + s) (W p' + b)         of the mean of x there is only DC

    No token is scaled: c is added in place, and beside z, which attention keeps anyway, nothing is kept for the
    backward pass that grows with the tokens. W' appears in c as W' - W, so that in half precision the rounding of W'
    falls on what the tokens differ in and not on what they share.

    Args:
        output: [B, N, H, d], z, as the attention kernel returns it.
        weight: [D, H * d], W.
        bias: [D], b, or None.
        mean_value: [B, 1, H, d], m, as `token_mean` returns it, and
        omega: [H], the w_h: AttnScale; both None for none.
        mean_output: [B, 1, H, d], mean z, as `token_mean` returns it, and
        dc_scale, hc_scale: [D], s and t: FeatScale; all None for none. One of both techniques is given.

    Returns:
        [B, N, D], y.
    """
    # [H * d], each head's for its columns
    column_gain = None if omega is None else omega[:, None].expand(-1, output.shape[-1]).flatten()
    scaled_weight = scale_weight(weight, column_gain, hc_scale)
    point = mean_value if dc_scale is None else mean_output
    constant = -F.linear(point.flatten(2), scaled_weight - weight)  # [B, 1, D], (W - W') p
    if dc_scale is None:
        return project(output.flatten(2), scaled_weight, bias).add_(constant)
    scaled_point = point
    if omega is not None:
        scaled_point = scale_attention(point, mean_value, omega)  # p'
        constant = constant + F.linear((scaled_point - point).flatten(2), weight)
    gain = dc_scale.to(weight.dtype)
    constant = torch.addcmul(constant, F.linear(scaled_point.flatten(2), weight), gain)
    if bias is None:
        # not in place: functorch allows that where the tokens depend on all that is added, as below on s through b
        tokens = project(output.flatten(2), scaled_weight, None)
        return tokens + constant.to(tokens.dtype)
    return project(output.flatten(2), scaled_weight, torch.addcmul(bias, bias, gain)).add_(constant)


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Drop a residual branch for whole samples: stochastic depth, https://arxiv.org/abs/1603.09382.

    Args:
        branch: [B, ...].
        rate: probability of dropping, in [0, 1). Kept samples are divided by 1 - rate, as in timm.
        training: outside training, the identity.
    """
    if rate == 0.0 or not training:
        return branch
    keep = branch.new_empty(branch.shape[0], *[1] * (branch.dim() - 1)).bernoulli_(1 - rate)
    return branch * keep.div_(1 - rate)
