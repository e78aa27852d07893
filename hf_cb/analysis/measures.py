"""Measures of attention maps and tokens: how dense, how low-pass, how alike.

Pure functions of tensors on any device, each with its equation. What both papers begin with, Context Broadcasting
(https://arxiv.org/abs/2210.08457) and AttnScale with FeatScale (https://arxiv.org/abs/2203.05962), can be measured
with them on any Vision Transformer.

Shapes: B batch, N tokens, Q queries, D width, H heads, F frequencies, `...` any leading dimensions. Attention maps
hold a query in each row. Half precision is computed in float32; results are float32, or float64 for float64.

Nothing hides what is not finite: a NaN or an infinity makes the results it belongs to NaN or infinite, and no others
of the batch. What is not defined is NaN too; each function says where that is. Wrong shapes and integers raise a
`ValueError`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..vit_cb.ops_vit_cb import scale_attention


def attention_density(attention: Tensor) -> Tensor:
    """How evenly queries look at all tokens; https://arxiv.org/abs/2210.08457 begins with how dense attention is.

        mean_q H(a_q) / ln N,   H(a) = -sum_j a_j ln a_j

    1 is uniform attention, 0 attention to one token each. NaN, not defined, for maps of a single token and for those
    with negative entries, which AttnScale's A' can have.

    Args:
        attention: [..., Q, N], rows sum to 1.

    Returns:
        [...].
    """
    attention = _checked(attention, "attention", "[..., Q, N]")
    # not torch.special.entr, which takes negative entries for -inf
    entropy = -torch.special.xlogy(attention, attention).sum(dim=-1).mean(dim=-1)
    num_tokens = attention.shape[-1]
    return entropy / math.log(num_tokens) if num_tokens > 1 else torch.full_like(entropy, math.nan)


def softmax_jacobian_norm(attention: Tensor) -> Tensor:
    """How steep softmax is at an attention map; https://arxiv.org/abs/2210.08457 finds dense maps where it is steep.

        mean_q ||diag(a_q) - a_q a_q^T||_F,   the derivative of softmax by its scores

    0 for attention to one token, sqrt(N - 1) / N for uniform attention, 1/2 for two tokens alike and nothing else.

    Args:
        attention: [..., Q, N], rows sum to 1.

    Returns:
        [...].
    """
    attention = _checked(attention, "attention", "[..., Q, N]")
    squares = attention.square()
    # the squared norm is sum_i a_i^2 ((1 - a_i)^2 + sum_{j != i} a_j^2); the inner sum is a difference except for the
    # largest entry, where the difference would cancel
    others = (squares.sum(dim=-1, keepdim=True) - squares).clamp(min=0)
    largest = attention.argmax(dim=-1, keepdim=True)
    others = others.scatter(-1, largest, squares.scatter(-1, largest, 0.0).sum(dim=-1, keepdim=True))
    return (squares * ((1 - attention).square() + others)).sum(dim=-1).sqrt().mean(dim=-1)


def high_frequency_ratio(hidden: Tensor) -> Tensor:
    """How large the tokens' differences are beside their mean, https://arxiv.org/abs/2203.05962.

        ||HC(X)||_F / ||DC(X)||_F,   DC(X) = the mean in every row,   HC(X) = X - DC(X)

    The paper proves that attention alone drives it to 0 with depth. 0 for equal tokens, a single one included; infinite
    where the mean is 0, NaN where every token is.

    Args:
        hidden: [..., N, D].

    Returns:
        [...].
    """
    hidden = _checked(hidden, "hidden", "[..., N, D]")
    mean = hidden.mean(dim=-2, keepdim=True)
    norm_of_mean = math.sqrt(hidden.shape[-2]) * torch.linalg.vector_norm(mean, dim=(-2, -1))
    return torch.linalg.vector_norm(hidden - mean, dim=(-2, -1)) / norm_of_mean


def dc_share(hidden: Tensor) -> Tensor:
    """The mean's share of the tokens' energy: `||DC(X)||_F^2 / ||X||_F^2`, from 0 to 1.

    The same as `high_frequency_ratio` r, as `1 / (1 + r^2)`: NaN where every token is 0.

    Args:
        hidden: [..., N, D].

    Returns:
        [...].
    """
    return 1 / (1 + high_frequency_ratio(hidden).square())


def token_similarity(hidden: Tensor) -> Tensor:
    """How alike tokens point: the mean cosine of all pairs of distinct tokens.

        sum_{i != j} cos(x_i, x_j) / (N (N - 1)) = (||sum_i u_i||^2 - N) / (N (N - 1)),   u_i = x_i / ||x_i||

    1 for tokens of one direction, 0 for orthogonal ones. A token of zeros has the cosine 0 with every other, as in
    `torch.nn.functional.cosine_similarity`. NaN for a single token, which has no pair.

    Args:
        hidden: [..., N, D].

    Returns:
        [...].
    """
    hidden = _checked(hidden, "hidden", "[..., N, D]")
    directions = F.normalize(hidden, dim=-1)
    num_tokens = hidden.shape[-2]
    # the squared lengths are 1, or 0 for tokens of zeros
    pairs = directions.sum(dim=-2).square().sum(dim=-1) - directions.square().sum(dim=(-2, -1))
    return pairs / (num_tokens * (num_tokens - 1)) if num_tokens > 1 else torch.full_like(pairs, math.nan)


def attention_similarity(attentions: Sequence[Tensor]) -> Tensor:
    """How alike the attention maps of two layers are: the cosine of what the same query looks at in both.

        S_lm = mean over images, heads and queries q of cos(a_q in layer l, a_q in layer m)

    Deep Vision Transformers show maps that grow alike (attention collapse), where https://arxiv.org/abs/2203.05962
    sets out from.

    Args:
        attentions: of L layers, each [B, H, N, N].

    Returns:
        [L, L], symmetric, with ones on its diagonal.

    Raises:
        ValueError: there is no layer, or maps differ in shape.
    """
    maps = [_checked(attention, "attentions", "[B, H, N, N]") for attention in attentions]
    if len({attention.shape for attention in maps}) != 1:
        shapes = ", ".join(str(tuple(attention.shape)) for attention in maps) or "none"
        raise ValueError(f"`attentions` must be maps of one shape from at least one layer, got {shapes}.")
    rows = torch.stack([F.normalize(attention, dim=-1).flatten() for attention in maps])  # [L, B * H * N * N]
    return rows @ rows.T / maps[0].shape[:-1].numel()


def feature_spectrum(hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Relative log amplitude of the tokens' spatial frequencies, after https://arxiv.org/abs/2202.06709.

        S_f = ln mean_{(u, v) in ring f} A(u, v) - ln A(0, 0),   A(u, v) = mean_d |2-D Fourier transform of X_d|(u, v)

    Ring f holds the frequencies within half a step of `radial_frequencies(grid)[f]`. The source takes the diagonal of
    the plane of frequencies; rings take all of it. Amplitudes below the rounding of the largest (machine epsilon times
    it) count as that much, so that exact zeros stay finite. NaN where every token is 0.

    Args:
        hidden: [..., N, D], the patch tokens alone, row by row.
        grid: their rows and columns.

    Returns:
        [..., F], in natural logarithms; the first is 0, and -1 is an amplitude of 1/e of the mean's.
    """
    hidden = _checked(hidden, "hidden", "[..., N, D]")
    _check_grid(grid, hidden.shape[-2])
    amplitude = torch.fft.fft2(hidden.unflatten(-2, tuple(grid)), dim=(-3, -2)).abs().mean(dim=-1).flatten(-2)
    floor = torch.finfo(amplitude.dtype).eps * amplitude.amax(dim=-1, keepdim=True)
    ring = _rings(grid).to(hidden.device)
    members = F.one_hot(ring).to(amplitude.dtype)  # [N, F]
    log_amplitude = torch.maximum(amplitude @ (members / members.sum(dim=0)), floor).log()
    return log_amplitude - log_amplitude[..., :1]


def radial_frequencies(grid: tuple[int, int]) -> Tensor:
    """The frequencies of `feature_spectrum` on a grid of rows and columns: [F], from 0.

    A step is one period across the longer side. 1 is the highest frequency of a row or column, half a period a patch;
    diagonal waves reach the square root of 2.
    """
    return torch.arange(int(_rings(grid).max()) + 1, dtype=torch.float64) * 2 / max(grid)


def _rings(grid: tuple[int, int]) -> Tensor:
    """[N]: in which ring each coefficient of the 2-D Fourier transform lies, counted from 0."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) * max(grid) for side in grid)
    return torch.hypot(rows[:, None], columns[None, :]).round().long().flatten()


def attention_frequency_response(attention: Tensor) -> Tensor:
    """How much of a wave over the tokens an attention map lets through, frequency by frequency.

        r_k = ||HC(A f_k)||_2 for k > 0,   r_0 = ||DC(A f_0)||_2,   f_k(j) = exp(2 pi i j k / N) / sqrt(N)

    with DC and HC as in `high_frequency_ratio`: https://arxiv.org/abs/2203.05962 calls attention a low-pass filter,
    since it keeps DC (r_0 = 1) and weakens the rest. What a map turns from a wave into a constant does not count as let
    through. A shift-invariant filter has its usual gain, a permutation 1 everywhere, uniform attention 0 above 0;
    AttnScale multiplies all but r_0 by 1 + omega. The waves run through the tokens in their order.

    Args:
        attention: [..., N, N], rows sum to 1.

    Returns:
        [..., N // 2 + 1]; the frequencies are `token_frequencies(N)`.
    """
    attention = _checked_square(attention)
    # a map times all waves is the Fourier transform of its rows, up to complex conjugation
    passed = torch.fft.rfft(attention, dim=-1, norm="ortho")  # [..., N, F]
    mean = passed.mean(dim=-2, keepdim=True)
    response = torch.linalg.vector_norm(passed - mean, dim=-2)
    dc = math.sqrt(attention.shape[-1]) * mean[..., 0, :1].abs()
    return torch.cat([dc, response[..., 1:]], dim=-1)


def token_frequencies(num_tokens: int) -> Tensor:
    """The frequencies of `attention_frequency_response` for N tokens: [N // 2 + 1]; 1 is half a period a token."""
    return torch.arange(num_tokens // 2 + 1, dtype=torch.float64) * 2 / num_tokens


def attention_distance(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far a head looks: the mean distance between patches, weighed with the attention between them.

        sum_qj a_qj ||p_q - p_j||_2 / sum_qj a_qj,   p: row and column of a patch

    after https://arxiv.org/abs/2010.11929, section 4.5. The division only matters where the columns of class and
    register tokens have been cut off. NaN where no attention falls on patches.

    Args:
        attention: [..., N, N] among the patch tokens alone, row by row.
        grid: their rows and columns.

    Returns:
        [...], in patches.
    """
    attention = _checked_square(attention)
    _check_grid(grid, attention.shape[-1])
    sides = [torch.arange(side, device=attention.device, dtype=attention.dtype) for side in grid]
    places = torch.cartesian_prod(*sides)  # [N, 2]
    distances = torch.linalg.vector_norm(places[:, None] - places[None, :], dim=-1)
    return (attention * distances).sum(dim=(-2, -1)) / attention.sum(dim=(-2, -1))


def effective_attention(attention: Tensor, omega: Tensor) -> Tensor:
    """AttnScale's A', https://arxiv.org/abs/2203.05962: what a layer with the scales omega does to its values.

        A' = 1/N + (1 + omega_h) (A - 1/N)

    Rows still sum to 1; with omega above 0 entries can be negative.

    Args:
        attention: [B, H, N, N], the softmax attention A that models return.
        omega: [H].

    Returns:
        [B, H, N, N].

    Raises:
        ValueError: there is not one omega for each head.
    """
    attention = _checked_square(attention)
    if attention.dim() != 4 or omega.shape != attention.shape[1:2]:
        raise ValueError(
            f"`attention` must be [B, H, N, N] and `omega` [H], got {tuple(attention.shape)} and {tuple(omega.shape)}."
        )
    # the values that give A' itself are those of the identity, whose mean is 1/N
    uniform = torch.full_like(attention[:, :1, :1], 1 / attention.shape[-1])  # [B, 1, 1, N]
    return scale_attention(attention.transpose(1, 2), uniform, omega.to(attention)).transpose(1, 2)


def _checked(tensor: Tensor, name: str, layout: str) -> Tensor:
    """The tensor in at least float32, if it has the last two dimensions of its layout and they are not empty."""
    if tensor.dim() < 2 or 0 in tensor.shape[-2:] or not tensor.is_floating_point():
        raise ValueError(
            f"`{name}` must be a floating-point tensor {layout}, got {tuple(tensor.shape)} of {tensor.dtype}."
        )
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _checked_square(attention: Tensor) -> Tensor:
    attention = _checked(attention, "attention", "[..., N, N]")
    if attention.shape[-1] != attention.shape[-2]:
        raise ValueError(f"`attention` must have as many queries as tokens, [..., N, N], got {tuple(attention.shape)}.")
    return attention


def _check_grid(grid: tuple[int, int], num_tokens: int) -> None:
    rows, columns = grid
    if rows < 1 or columns < 1 or rows * columns != num_tokens:
        raise ValueError(
            f"`grid` must be the rows and columns of {num_tokens} patch tokens, without class and register tokens, got"
            f" {tuple(grid)}."
        )
