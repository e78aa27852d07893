"""The definitions, literally: slow and obvious, in plain torch, without a line of the package.

Token averages are products with an N x N matrix, attention matrices are materialised, and masks follow the definition
"a token that is left out takes part in no mean". Weights come as a state dict with the names of the module tree.

    CB, CB_S               https://arxiv.org/abs/2210.08457
    AttnScale, FeatScale   https://arxiv.org/abs/2203.05962
    ViT                    https://arxiv.org/abs/2010.11929

Shapes: B batch, N tokens, D width, H heads, d width of a head. Masks are [B, N], true where a token attends.
"""

import math

import torch


def averaging_matrix(batch_size, num_tokens, mask=None, dtype=torch.float64):
    """[B, N, N]: each row holds 1 over the number of attending tokens in their columns and 0 in the others."""
    if mask is None:
        mask = torch.ones(batch_size, num_tokens)
    columns = mask.to(dtype)[:, None, :].repeat(1, num_tokens, 1)
    return columns / columns.sum(dim=-1, keepdim=True)


def average(tokens, mask=None):
    """DC: [B, N, D] to [B, N, D] with the mean of the attending tokens in every row."""
    return averaging_matrix(tokens.shape[0], tokens.shape[1], mask, tokens.dtype) @ tokens


def context_broadcast(tokens, mask=None):
    """CB: y_i = (x_i + mean_j x_j) / 2."""
    return (tokens + average(tokens, mask)) / 2


def scaled_context_broadcast(tokens, context_scale, mask=None):
    """CB_S: y_i = x_i + Lambda * mean_j x_j."""
    return tokens + context_scale * average(tokens, mask)


def feat_scale(tokens, dc_scale, hc_scale, mask=None):
    """FeatScale: y = x + s * DC(x) + t * HC(x), HC(x) = x - DC(x)."""
    dc = average(tokens, mask)
    hc = tokens - dc
    return tokens + dc_scale * dc + hc_scale * hc


def attn_scale(attention, omega, mask=None):
    """AttnScale: A' = 1/N + (1 + omega_h) (A - 1/N), for A of [B, H, N, N]."""
    batch_size, _, num_tokens, _ = attention.shape
    uniform = averaging_matrix(batch_size, num_tokens, mask, attention.dtype)[:, None]
    return uniform + (1 + omega[:, None, None]) * (attention - uniform)


def softmax_attention(query, key, mask=None):
    """A: [B, H, N, d] twice to [B, H, N, N], softmax in the dtype of the input."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], -math.inf)
    return torch.softmax(scores, dim=-1)


def gelu(tokens):
    return tokens * (1 + torch.erf(tokens / math.sqrt(2))) / 2


def layer_norm(tokens, weights, name, eps):
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(tokens, weights, name):
    return tokens @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def embed(weights, config, pixel_values):
    """[B, C, height, width] to [B, N, D]: class token and patches, row by row, plus position embeddings."""
    batch_size, channels, height, width = pixel_values.shape
    size = config.patch_size
    patches = pixel_values.reshape(batch_size, channels, height // size, size, width // size, size)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, N - 1, C * size * size]
    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"].flatten(1)
    patches = patches @ kernel.T + weights["vit.embeddings.patch_embeddings.projection.bias"]
    class_token = weights["vit.embeddings.cls_token"].repeat(batch_size, 1, 1)
    return torch.cat([class_token, patches], dim=1) + weights["vit.embeddings.position_embeddings"]


def attention_branch(tokens, weights, name, config, scaled, mask=None):
    """Multi-head self-attention with its output projection, [B, N, D]; `scaled` puts AttnScale on each map."""
    batch_size, num_tokens, width = tokens.shape
    heads = config.num_attention_heads
    query, key, value = (
        linear(tokens, weights, f"{name}.{projection}")
        .reshape(batch_size, num_tokens, heads, width // heads)
        .transpose(1, 2)
        for projection in ("q_proj", "k_proj", "v_proj")
    )
    attention = softmax_attention(query, key, mask)
    if scaled:
        attention = attn_scale(attention, weights[f"{name}.attn_scale.omega"], mask)
    output = (attention @ value).transpose(1, 2).reshape(batch_size, num_tokens, width)
    return linear(output, weights, f"{name}.o_proj")


def layer(tokens, weights, index, config, mask=None):
    """One pre-norm layer, [B, N, D], with what the configuration asks for at this index."""
    name = f"vit.layers.{index}"
    applies = config.apply_layers is None or index in config.apply_layers

    def broadcast(tokens, position):
        if not applies or config.context_broadcast is None or config.context_broadcast_position != position:
            return tokens
        if config.context_broadcast == "plain":
            return context_broadcast(tokens, mask)
        return scaled_context_broadcast(tokens, weights[f"{name}.cb.context_scale"], mask)

    branch = layer_norm(tokens, weights, f"{name}.layernorm_before", config.layer_norm_eps)
    branch = attention_branch(branch, weights, f"{name}.attention", config, applies and config.attn_scale, mask)
    if applies and config.feat_scale:
        scales = weights[f"{name}.feat_scale.dc_scale"], weights[f"{name}.feat_scale.hc_scale"]
        branch = feat_scale(branch, *scales, mask)
    tokens = tokens + broadcast(branch, "attn_end")

    branch = layer_norm(tokens, weights, f"{name}.layernorm_after", config.layer_norm_eps)
    branch = linear(broadcast(branch, "mlp_front"), weights, f"{name}.mlp.fc1")
    branch = linear(broadcast(gelu(branch), "mlp_mid"), weights, f"{name}.mlp.fc2")
    return tokens + broadcast(branch, "mlp_end")


def reference_hidden_states(state_dict, config, pixel_values, attention_mask=None, kept=None):
    """The embeddings and every layer's output, each [B, N, D]; `kept` cuts the sequence down to these tokens."""
    tokens = embed(state_dict, config, pixel_values)
    if kept is not None:
        tokens = tokens[:, kept]
    hidden_states = [tokens]
    for index in range(config.num_hidden_layers):
        hidden_states.append(layer(hidden_states[-1], state_dict, index, config, attention_mask))
    return hidden_states


def reference_logits(state_dict, config, pixel_values, attention_mask=None, kept=None):
    """[B, C, height, width] to [B, classes]: the classifier on the class token after the final norm."""
    tokens = reference_hidden_states(state_dict, config, pixel_values, attention_mask, kept)[-1]
    tokens = layer_norm(tokens, state_dict, "vit.layernorm", config.layer_norm_eps)
    return linear(tokens[:, 0], state_dict, "classifier")


# measures, for single maps [N, N] and single token matrices [N, D]


def attention_density(attention):
    """mean_q H(a_q) / ln N, with 0 ln 0 = 0."""
    entropies = [-sum(a * math.log(a) for a in row if a > 0) for row in attention.tolist()]
    return sum(entropies) / len(entropies) / math.log(attention.shape[-1])


def softmax_jacobian_norm(attention):
    """mean_q ||diag(a_q) - a_q a_q^T||_F."""
    norms = [torch.linalg.matrix_norm(torch.diag(row) - torch.outer(row, row)) for row in attention]
    return sum(norms) / len(norms)


def high_frequency_ratio(tokens):
    """||HC||_F / ||DC||_F, both as N x D matrices."""
    dc = average(tokens[None])[0]
    return torch.linalg.matrix_norm(tokens - dc) / torch.linalg.matrix_norm(dc)


def cosine(first, second):
    return (first @ second) / (first.norm() * second.norm())


def token_similarity(tokens):
    """The mean cosine of all pairs of distinct tokens."""
    count = len(tokens)
    pairs = [cosine(tokens[i], tokens[j]) for i in range(count) for j in range(count) if i != j]
    return sum(pairs) / len(pairs)


def attention_similarity(attentions):
    """[L, L]: the cosine of the same query's rows in two layers, averaged over images, heads and queries."""
    layers = [attention.flatten(0, 2) for attention in attentions]
    return torch.stack(
        [torch.stack([sum(map(cosine, one, two)) / len(one) for two in layers]) for one in layers]
    )  # fmt: skip


def wave(frequency, count):
    """[N]: exp(2 pi i j k / N) / sqrt(N)."""
    return torch.exp(2j * math.pi * frequency * torch.arange(count, dtype=torch.float64) / count) / math.sqrt(count)


def feature_spectrum(tokens, rows, columns):
    """ln of the mean amplitude at each whole radial frequency, less that at frequency 0; frequencies one by one."""
    grid = tokens.reshape(rows, columns, -1).to(torch.complex128)
    rings = {}
    for u in range(rows):
        for v in range(columns):
            plane_wave = torch.outer(wave(u, rows), wave(v, columns)).conj()
            amplitude = (grid * plane_wave[..., None]).sum(dim=(0, 1)).abs().mean().item()
            # of two waves that agree on the grid the slower one
            radius = math.hypot(min(u, rows - u) / rows, min(v, columns - v) / columns)
            rings.setdefault(round(radius * max(rows, columns)), []).append(amplitude)
    amplitudes = [sum(rings[ring]) / len(rings[ring]) for ring in sorted(rings)]
    return [math.log(amplitude / amplitudes[0]) for amplitude in amplitudes]


def attention_frequency_response(attention):
    """||HC(A f_k)|| for each wave f_k, and ||DC(A f_0)|| for the constant one."""
    count = len(attention)
    response = []
    for frequency in range(count // 2 + 1):
        passed = attention.to(torch.complex128) @ wave(frequency, count)
        constant = passed.mean().expand(count)
        response.append((constant if frequency == 0 else passed - constant).norm())
    return torch.stack(response)


def attention_distance(attention, rows, columns):
    """The attention's mean of the distance between the patches that it joins, in patches."""
    places = [(row, column) for row in range(rows) for column in range(columns)]
    total = sum(a * math.dist(p, q) for p, weights in zip(places, attention.tolist()) for q, a in zip(places, weights))
    return total / attention.sum().item()
