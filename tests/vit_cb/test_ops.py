"""The operations against the literal definitions, values and gradients."""

import pytest
import torch
from torch.testing import assert_close

import reference
from hf_cb.vit_cb import layers_vit_cb as layers
from hf_cb.vit_cb import ops_vit_cb as ops


SHAPES = {"one-token": (2, 1, 6), "one-head": (2, 5, 1), "two-tokens": (3, 2, 4), "vit": (2, 17, 6)}
MASKED_SHAPES = {name: shape for name, shape in SHAPES.items() if name != "one-token"}


def assert_equal(actual, expected):
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def random_tensor(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def token_mask(batch_size, num_tokens):
    """[B, N], never all true: row i leaves out the last token and every third from i on, and keeps the first."""
    left_out = (torch.arange(num_tokens) - torch.arange(batch_size)[:, None]) % 3 == 1
    left_out[:, -1], left_out[:, 0] = True, False
    return ~left_out


def values_and_gradients(function, *inputs):
    """The output and, for a fixed random direction, the gradient of each input."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return output, *torch.autograd.grad((output * random_tensor(*output.shape, seed=99)).sum(), inputs)


def attention_of(query, key, value, mask=None):
    """AttnScale's two inputs: A V and V, both [B, N, H, d], from queries, keys and values of [B, H, N, d]."""
    output = reference.softmax_attention(query, key, mask) @ value
    return output.transpose(1, 2), value.transpose(1, 2)


# name: (fast form, literal form), both of tokens, scale, second scale and mask
FEATURE_OPS = {
    "cb": (
        lambda x, s, t, mask: ops.broadcast_context(x, ops.token_mean(x, mask)),
        lambda x, s, t, mask: reference.context_broadcast(x, mask),
    ),
    "cb_s": (
        lambda x, s, t, mask: ops.broadcast_scaled_context(x, ops.token_mean(x, mask), s),
        lambda x, s, t, mask: reference.scaled_context_broadcast(x, s, mask),
    ),
    "feat_scale": (
        lambda x, s, t, mask: ops.scale_features(x, ops.token_mean(x, mask), s, t),
        lambda x, s, t, mask: reference.feat_scale(x, s, t, mask),
    ),
}


def compare_feature_op(fast, literal, shape, mask=None):
    tensors = random_tensor(*shape), random_tensor(shape[-1], seed=1), random_tensor(shape[-1], seed=2)

    def with_every_input(function):
        # adding 0 times the sum: a form without scales has gradients of 0 for them
        return lambda x, s, t: function(x, s, t, mask) + 0 * (s + t).sum()

    actual = values_and_gradients(with_every_input(fast), *tensors)
    expected = values_and_gradients(with_every_input(literal), *tensors)
    assert_equal(actual, expected)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("op", FEATURE_OPS)
def test_feature_ops_equal_their_definitions(op, shape):
    compare_feature_op(*FEATURE_OPS[op], shape)


@pytest.mark.parametrize("shape", MASKED_SHAPES.values(), ids=MASKED_SHAPES)
@pytest.mark.parametrize("op", FEATURE_OPS)
def test_masked_feature_ops_equal_their_definitions(op, shape):
    compare_feature_op(*FEATURE_OPS[op], shape, token_mask(*shape[:2]))


@pytest.mark.parametrize("op", FEATURE_OPS)
def test_a_mask_changes_what_a_feature_op_returns(op):
    fast, literal = FEATURE_OPS[op]
    with pytest.raises(AssertionError):
        compare_feature_op(lambda x, s, t, mask: fast(x, s, t, None), literal, (2, 17, 6), token_mask(2, 17))


WRONG_FEATURE_OPS = {
    "cb": lambda x, s, t, mask: x + reference.average(x, mask),
    "cb_s": lambda x, s, t, mask: reference.scaled_context_broadcast(x, 2 * s, mask),
    "feat_scale": lambda x, s, t, mask: reference.feat_scale(x, 2 * s, 2 * t, mask),
}


@pytest.mark.parametrize("op", WRONG_FEATURE_OPS)
def test_a_wrong_factor_in_a_feature_op_is_caught(op):
    with pytest.raises(AssertionError):
        compare_feature_op(FEATURE_OPS[op][0], WRONG_FEATURE_OPS[op], (2, 17, 6))


def compare_attn_scale(num_tokens, num_heads, mask=None, literal=reference.attn_scale):
    shape = (2, num_heads, num_tokens, 4)
    tensors = *(2 * random_tensor(*shape, seed=seed) for seed in range(3)), random_tensor(num_heads, seed=3)

    def fast_form(query, key, value, omega):
        output, value = attention_of(query, key, value, mask)
        return ops.scale_attention(output, ops.token_mean(value, mask), omega)

    def literal_form(query, key, value, omega):
        scaled = literal(reference.softmax_attention(query, key, mask), omega, mask)
        return (scaled @ value).transpose(1, 2)

    assert_equal(values_and_gradients(fast_form, *tensors), values_and_gradients(literal_form, *tensors))


@pytest.mark.parametrize("num_heads", [1, 3], ids="heads-{}".format)
@pytest.mark.parametrize("num_tokens", [1, 2, 17], ids="tokens-{}".format)
def test_scale_attention_equals_scaling_the_map(num_tokens, num_heads):
    compare_attn_scale(num_tokens, num_heads)


@pytest.mark.parametrize("num_heads", [1, 3], ids="heads-{}".format)
@pytest.mark.parametrize("num_tokens", [2, 17], ids="tokens-{}".format)
def test_masked_scale_attention_equals_scaling_the_map_of_the_tokens_that_attend(num_tokens, num_heads):
    compare_attn_scale(num_tokens, num_heads, token_mask(2, num_tokens))


WRONG_MAPS = {
    "twice-omega": lambda attention, omega, mask: reference.attn_scale(attention, 2 * omega, mask),
    "omega-without-its-1": lambda attention, omega, mask: reference.attn_scale(attention, omega - 1, mask),
    "map-scaled-whole": lambda attention, omega, mask: (1 + omega[:, None, None]) * attention,
}


@pytest.mark.parametrize("literal", WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_a_wrong_factor_in_attn_scale_is_caught(literal):
    with pytest.raises(AssertionError):
        compare_attn_scale(17, 3, literal=literal)


@pytest.mark.parametrize("with_token_gain", [True, False], ids=["a-and-b", "b-alone"])
def test_mix_tokens_equals_the_primitive(with_token_gain):
    tokens, gain = random_tensor(2, 5, 6), random_tensor(6, seed=1)
    token_gain = random_tensor(6, seed=2) if with_token_gain else None
    a = 1 + token_gain if with_token_gain else 1
    mixed = ops.mix_tokens(tokens, ops.token_mean(tokens), token_gain, gain)
    assert_equal(mixed, a * tokens + gain * reference.average(tokens))


@pytest.mark.parametrize("trailing", [(6,), (3, 4)], ids=["tokens", "values"])
def test_token_mean_is_the_mean_of_the_tokens_that_attend(trailing):
    tokens, mask = random_tensor(2, 7, *trailing), token_mask(2, 7)
    rows = [tokens[row, mask[row]].mean(dim=0, keepdim=True) for row in range(2)]
    assert_equal(ops.token_mean(tokens, mask), torch.stack(rows))
    assert not torch.allclose(ops.token_mean(tokens, mask), ops.token_mean(tokens))


def test_nothing_in_a_token_that_is_left_out_reaches_the_mean():
    mask = token_mask(2, 7)
    tokens = random_tensor(2, 7, 6)
    spoilt = tokens.masked_fill(~mask[..., None], float("inf"))
    assert torch.equal(ops.token_mean(spoilt, mask), ops.token_mean(tokens, mask))


def test_the_mean_of_no_tokens_is_0():
    mask = torch.tensor([[False, False], [True, False]])
    mean = ops.token_mean(random_tensor(2, 2, 6), mask)
    assert torch.equal(mean[0], torch.zeros(1, 6, dtype=torch.float64))
    assert mean[1].abs().min() > 0


def test_a_masked_mean_in_bfloat16_is_summed_in_float32():
    # in bfloat16 a running sum of ones stops at 256
    tokens, mask = torch.ones(1, 1000, 2, dtype=torch.bfloat16), torch.ones(1, 1000, dtype=torch.bool)
    mask[:, 500] = False
    mean = ops.token_mean(tokens, mask)
    assert mean.dtype == torch.bfloat16
    assert torch.equal(mean, torch.ones(1, 1, 2, dtype=torch.bfloat16))


SMALL = 2.0**-10
SMALL_GAIN_OPS = {
    "cb_s": lambda x, mean, gain: ops.broadcast_scaled_context(x, mean, gain),
    "feat_scale-dc": lambda x, mean, gain: ops.scale_features(x, mean, gain, torch.zeros_like(gain)),
    "feat_scale-hc": lambda x, mean, gain: ops.scale_features(x, mean, torch.zeros_like(gain), -gain),
    "attn_scale": lambda x, mean, gain: ops.scale_attention(x[..., None], mean[..., None], -gain)[..., 0],
}


@pytest.mark.parametrize("op", SMALL_GAIN_OPS.values(), ids=SMALL_GAIN_OPS)
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16], ids=["float32-scales", "bfloat16-scales"])
def test_bfloat16_keeps_a_gain_of_a_thousandth(op, scale_dtype):
    # the first token is 0: all that its output holds is gain * mean, lost by any form that adds the mean first
    tokens = torch.tensor([0.0, 2.0, 1.0], dtype=torch.bfloat16).view(1, 3, 1).repeat(1, 1, 4)
    output = op(tokens, ops.token_mean(tokens), torch.full((4,), SMALL, dtype=scale_dtype))
    assert output.dtype == torch.bfloat16
    assert torch.equal(output[:, 0], torch.full((1, 4), SMALL, dtype=torch.bfloat16))


def test_bfloat16_does_not_round_a_gain_to_the_1_beside_it():
    gain = torch.tensor([0.0035])
    assert 1 + gain.bfloat16() == 1
    tokens = torch.full((1, 1, 1), 2 - 2**-7, dtype=torch.bfloat16)
    mixed = ops.mix_tokens(tokens, torch.zeros_like(tokens), gain, torch.zeros(1))
    assert mixed.item() == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all-attend", "masked"])
@pytest.mark.parametrize("name", ["cb_s", "feat_scale", "attn_scale"])
def test_a_zero_start_is_the_identity_to_the_bit(name, masked, dtype):
    mask = token_mask(2, 7) if masked else None
    module = zero_start_modules()[name].to(dtype)
    tokens = random_tensor(2, 7, 3, 4, dtype=dtype) if name == "attn_scale" else random_tensor(2, 7, 12, dtype=dtype)
    arguments = (tokens, 3 * tokens.flip(1)) if name == "attn_scale" else (tokens,)
    assert torch.equal(module(*arguments, mask), tokens)


@pytest.mark.parametrize("name", ["cb_s", "feat_scale", "attn_scale"])
def test_away_from_zero_no_technique_is_the_identity(name):
    module = zero_start_modules()[name].double()
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.25)
    tokens = random_tensor(2, 7, 3, 4) if name == "attn_scale" else random_tensor(2, 7, 12)
    arguments = (tokens, 3 * tokens.flip(1)) if name == "attn_scale" else (tokens,)
    assert (module(*arguments) - tokens).abs().max() > 0.1


def zero_start_modules():
    return {
        "cb_s": layers.ContextBroadcast(12, scaled=True),
        "feat_scale": layers.FeatScale(12),
        "attn_scale": layers.AttnScale(3),
    }


def test_drop_path_drops_at_its_rate_and_keeps_the_expectation():
    torch.manual_seed(0)
    branch = torch.ones(20_000, 2, 3, dtype=torch.float64)
    dropped = ops.drop_path(branch, 0.3, training=True)
    # four standard deviations of a mean of 20,000 draws: 4 * sqrt(0.3 * 0.7 / 20000) = 0.013
    assert abs((dropped[:, 0, 0] == 0).double().mean().item() - 0.3) < 0.013
    assert abs(dropped.mean().item() - 1) < 0.013 / 0.7


def test_drop_path_keeps_or_drops_whole_samples():
    torch.manual_seed(0)
    branch = random_tensor(64, 5, 3)
    dropped = ops.drop_path(branch, 0.25, training=True)
    kept = (dropped != 0).flatten(1).all(dim=1)
    assert 0 < kept.sum() < 64
    assert_equal(dropped[kept], branch[kept] / 0.75)
    assert torch.equal(dropped[~kept], torch.zeros_like(branch[~kept]))


def test_drop_path_repeats_with_the_same_seed_and_differs_with_another():
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(ops.drop_path(torch.ones(64, 2, 3), 0.5, training=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)], ids=["eval", "rate-0"])
def test_drop_path_off_returns_the_branch_and_draws_nothing(rate, training):
    branch, state = random_tensor(64, 2, 3), torch.get_rng_state()
    assert torch.equal(ops.drop_path(branch, rate, training), branch)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_gradient_flows_through_a_dropped_sample():
    torch.manual_seed(0)
    branch = torch.ones(64, 2, 3, requires_grad=True)
    dropped = ops.drop_path(branch, 0.5, training=True)
    dropped.sum().backward()
    assert torch.equal(branch.grad, dropped.detach())
