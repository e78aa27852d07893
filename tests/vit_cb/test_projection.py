"""Techniques inside the linear layer before them: where that is so, and that both forms give the same."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close

import reference
from helpers import random_mask, randomise_, tiny_config, tiny_images
from hf_cb import ViTCBForImageClassification
from hf_cb.vit_cb import layers_vit_cb as layers
from hf_cb.vit_cb import ops_vit_cb as ops
from models_with_everything import EVERYTHING, build, differ, run


EXACT = {"rtol": 1e-12, "atol": 1e-12}
TECHNIQUES = {"attn_scale": (True, False), "feat_scale": (False, True), "both": (True, True)}

each_technique = pytest.mark.parametrize("techniques", TECHNIQUES.values(), ids=TECHNIQUES)
either_bias = pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
either_mask = pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])


def random_tensor(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values_and_gradients(function, inputs):
    """The output and, for a fixed random direction, the gradient of each input."""
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    output = function(**inputs)
    direction = random_tensor(*output.shape, seed=99).to(output.dtype)
    return output, *torch.autograd.grad((output * direction).sum(), list(inputs.values()))


# the operation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@either_bias
def test_project_is_linear_to_the_bit_and_no_view(with_bias, dtype):
    tokens, weight = random_tensor(3, 7, 12).to(dtype).requires_grad_(), random_tensor(5, 12, seed=1).to(dtype)
    bias = random_tensor(5, seed=2).to(dtype) if with_bias else None
    projected = ops.project(tokens, weight, bias)
    assert torch.equal(projected, F.linear(tokens, weight, bias))
    assert not projected._is_view()


@either_bias
def test_project_takes_tokens_that_lie_apart(with_bias):
    tokens, weight = random_tensor(7, 3, 12).transpose(0, 1), random_tensor(5, 12, seed=1)
    bias = random_tensor(5, seed=2) if with_bias else None
    assert_close(ops.project(tokens, weight, bias), F.linear(tokens, weight, bias), **EXACT)


def inputs_of(techniques, batch_size=2, num_tokens=17, heads=3, width=4, with_bias=True, scale=0.5):
    """Queries, keys, values, a projection and scales, in float64."""
    attn, feat = techniques
    inner = heads * width
    tensors = {
        **{name: 2 * random_tensor(batch_size, heads, num_tokens, width, seed=i) for i, name in enumerate("qkv")},
        "weight": random_tensor(10, inner, seed=3, scale=inner**-0.5),
        "bias": random_tensor(10, seed=4) if with_bias else None,
        "omega": random_tensor(heads, seed=5, scale=scale) if attn else None,
        "dc_scale": random_tensor(10, seed=6, scale=scale) if feat else None,
        "hc_scale": random_tensor(10, seed=7, scale=scale) if feat else None,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def by_definition(q, k, v, weight, bias=None, omega=None, dc_scale=None, hc_scale=None, mask=None):
    attention = reference.softmax_attention(q, k, mask)
    if omega is not None:
        attention = reference.attn_scale(attention, omega, mask)
    tokens = (attention @ v).transpose(1, 2).flatten(2) @ weight.T
    tokens = tokens if bias is None else tokens + bias
    return tokens if dc_scale is None else reference.feat_scale(tokens, dc_scale, hc_scale, mask)


def in_one(q, k, v, weight, bias=None, omega=None, dc_scale=None, hc_scale=None, mask=None):
    output = (reference.softmax_attention(q, k, mask) @ v).transpose(1, 2)
    mean_value = None if omega is None else ops.token_mean(v.transpose(1, 2), mask)
    mean_output = None if dc_scale is None else ops.token_mean(output, mask)
    return ops.project_scaled(output, weight, bias, mean_value, omega, mean_output, dc_scale, hc_scale)


def one_by_one(q, k, v, weight, bias=None, omega=None, dc_scale=None, hc_scale=None, mask=None):
    tokens, value = (reference.softmax_attention(q, k, mask) @ v).transpose(1, 2), v.transpose(1, 2)
    if omega is not None:
        tokens = ops.scale_attention(tokens, ops.token_mean(value, mask), omega)
    tokens = F.linear(tokens.flatten(2), weight, bias)
    return tokens if dc_scale is None else ops.scale_features(tokens, ops.token_mean(tokens, mask), dc_scale, hc_scale)


@each_technique
@either_bias
@either_mask
@pytest.mark.parametrize("heads", [1, 3], ids="heads-{}".format)
@pytest.mark.parametrize("num_tokens", [1, 2, 17], ids="tokens-{}".format)
def test_project_scaled_equals_the_definitions(num_tokens, heads, masked, with_bias, techniques):
    if masked and num_tokens == 1:
        pytest.skip("the class token always attends")
    inputs = inputs_of(techniques, num_tokens=num_tokens, heads=heads, with_bias=with_bias)
    mask = random_mask(2, num_tokens).bool() if masked else None
    actual = values_and_gradients(partial(in_one, mask=mask), inputs)
    assert_close(actual, values_and_gradients(partial(by_definition, mask=mask), inputs), **EXACT)
    assert_close(actual, values_and_gradients(partial(one_by_one, mask=mask), inputs), **EXACT)


@each_technique
@either_bias
def test_the_dtype_is_that_of_the_projection_under_autocast_too(with_bias, techniques):
    inputs = {name: tensor.float() for name, tensor in inputs_of(techniques, with_bias=with_bias).items()}
    assert in_one(**inputs).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert in_one(**inputs).dtype == torch.bfloat16


WRONG = {
    "twice-omega": {"omega": lambda omega: 2 * omega},
    "dc-and-hc-swapped": {"dc_scale": lambda scale: -scale},
    "mean-of-all": {"mask": lambda mask: None},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_wrong_factor_or_mean_is_caught(changes):
    inputs = {**inputs_of(TECHNIQUES["both"]), "mask": random_mask().bool()}
    wrong = {**inputs, **{name: change(inputs[name]) for name, change in changes.items()}}
    assert_close(in_one(**inputs), by_definition(**inputs), **EXACT)
    assert differ(in_one(**wrong), by_definition(**inputs))


@each_technique
@either_bias
def test_gradients_of_gradients_and_forward_mode_hold(with_bias, techniques):
    inputs = inputs_of(techniques, batch_size=2, num_tokens=3, heads=2, width=2, with_bias=with_bias)
    names, tensors = list(inputs), [tensor.requires_grad_() for tensor in inputs.values()]

    def function(*tensors):
        return in_one(**dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, tensors)


@each_technique
@either_bias
@pytest.mark.parametrize("name", ["q", "v", "weight", "bias", "omega", "dc_scale", "hc_scale"])
def test_functorch_takes_each_input_alone(name, with_bias, techniques):
    inputs = inputs_of(techniques, with_bias=with_bias)
    if name not in inputs:
        pytest.skip("this case does not have it")
    others = {key: tensor for key, tensor in inputs.items() if key != name}
    tangent = random_tensor(*inputs[name].shape, seed=9)

    def all_of(form):
        function = lambda tensor: form(**{name: tensor}, **others)  # noqa: E731
        stacked = torch.stack([inputs[name], inputs[name] + tangent])
        return (
            torch.func.grad(lambda tensor: function(tensor).square().sum())(inputs[name]),
            *torch.func.jvp(function, (inputs[name],), (tangent,)),
            torch.func.vmap(function)(stacked),
            torch.func.vmap(torch.func.grad(lambda tensor: function(tensor).square().sum()))(stacked),
        )

    assert_close(all_of(in_one), all_of(one_by_one), **EXACT)


def error(form, inputs, dtype, exact):
    rounded = form(**{name: tensor.to(dtype) for name, tensor in inputs.items()})
    return ((rounded.double() - exact).square().sum() / exact.square().sum()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shared", [0, 1, 5], ids="mean-{}".format)
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("name", ["feat_scale", "both"])
def test_in_half_precision_one_form_is_as_exact_as_the_other(name, scale, shared, dtype):
    errors = {in_one: 0.0, one_by_one: 0.0}
    for seed in range(4):
        # a mean of the values up to five times as large as what they differ in, as in deep layers
        inputs = inputs_of(TECHNIQUES[name], batch_size=4, num_tokens=65, width=32, scale=scale)
        inputs["v"] = inputs["v"] + shared * random_tensor(4, 3, 1, 32, seed=seed + 20)
        inputs = {key: tensor.to(dtype).double() for key, tensor in inputs.items()}
        exact = one_by_one(**inputs)
        for form in errors:
            errors[form] += error(form, inputs, dtype, exact)
    assert errors[in_one] ** 0.5 <= 1.05 * errors[one_by_one] ** 0.5


# where it is used


@pytest.fixture
def folded(monkeypatch):
    """Which techniques are computed inside the projection, call by call."""
    calls = []

    def project_scaled(output, weight, bias, **scales):
        calls.append({"omega", "dc_scale"} & scales.keys())
        return ops.project_scaled(output, weight, bias, **scales)

    monkeypatch.setattr(layers, "project_scaled", project_scaled)
    return calls


def one_layer(**fields):
    fields = {"num_hidden_layers": 1, **EVERYTHING, "context_broadcast": "plain", **fields}
    return randomise_(ViTCBForImageClassification(tiny_config(**fields))).double()


def with_lora(layer):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["o_proj", "fc2"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, layer)


def with_adapted_scales(layer):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["attn_scale"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, layer)


def with_another_forward(layer):
    o_proj = layer.attention.o_proj
    o_proj.forward = partial(nn.Linear.forward, o_proj)


class Quantised(nn.Module):
    """A parametrisation, as `torch.nn.utils.parametrize` takes it."""

    def forward(self, weight):
        return (weight * 64).round() / 64


def ignore(*_):
    """A hook that only looks."""


BOTH = {"omega", "dc_scale"}
# what is done to a layer, and what is inside the projection then
LISTENERS = {
    "nothing": (lambda layer: None, BOTH),
    "hook on the projection": (lambda layer: layer.attention.o_proj.register_forward_hook(ignore), None),
    "pre-hook on the projection": (lambda layer: layer.attention.o_proj.register_forward_pre_hook(ignore), None),
    "backward hook on the projection": (
        lambda layer: layer.attention.o_proj.register_full_backward_hook(ignore),
        None,
    ),
    "another forward": (with_another_forward, None),
    "LoRA": (with_lora, None),
    "AttnScale under PEFT": (with_adapted_scales, {"dc_scale"}),
    "parametrised": (
        lambda layer: nn.utils.parametrize.register_parametrization(layer.attention.o_proj, "weight", Quantised()),
        None,
    ),
    "hook on AttnScale": (lambda layer: layer.attention.attn_scale.register_forward_hook(ignore), {"dc_scale"}),
    "hook on FeatScale": (lambda layer: layer.feat_scale.register_forward_hook(ignore), {"omega"}),
    "hook on the attention": (lambda layer: layer.attention.register_forward_hook(ignore), {"omega"}),
    "hook on dropout": (lambda layer: layer.dropout.register_forward_hook(ignore), {"omega"}),
    "hook on the layer": (lambda layer: layer.register_forward_hook(ignore), BOTH),
}


@pytest.mark.parametrize(("listen", "inside"), LISTENERS.values(), ids=LISTENERS)
def test_only_what_nothing_listens_to_is_computed_inside_the_projection(listen, inside, folded, images64):
    model = one_layer()
    listen(model.vit.layers[0])
    model.double().eval()(images64)
    assert folded == ([] if inside is None else [inside])


def gradients(model, images, **arguments):
    logits = model(images, **arguments).logits
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return logits, dict(zip(parameters, torch.autograd.grad(logits.square().sum(), list(parameters.values()))))


@either_mask
@pytest.mark.parametrize("fields", [{}, {"attn_scale": False}, {"feat_scale": False}], ids=["both", "feat", "attn"])
def test_both_forms_give_the_same_values_and_gradients(fields, masked, folded, images64):
    inside, outside = build(**fields).double(), build(**fields).double()
    for layer in outside.vit.layers:
        for module in (layer.attention.o_proj, layer.mlp.fc2):
            module.register_forward_hook(ignore)
    mask = {"attention_mask": random_mask()} if masked else {}
    actual = gradients(inside, images64, **mask)
    assert len(folded) == 3
    assert_close(actual, gradients(outside, images64, **mask), **EXACT)
    assert len(folded) == 3


def test_a_hook_on_all_modules_sees_every_call(folded, images64):
    seen = []
    handle = register_module_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    try:
        one_layer()(images64)
    finally:
        handle.remove()
    assert folded == []
    assert {"AttnScale", "FeatScale", "ContextBroadcast"} <= set(seen)
    assert seen.count("Linear") == 7


def test_quantised_weights_are_multiplied_as_they_are(folded, images):
    quantization = pytest.importorskip("torchao.quantization")
    model = one_layer().float()
    expected = run(copy.deepcopy(model), images)
    assert folded == [BOTH]
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert type(model.vit.layers[0].attention.o_proj) is nn.Linear
    logits = run(model, images)
    assert folded == [BOTH]
    assert_close(logits, expected, rtol=0.05, atol=0.05)


def test_asking_for_attentions_leaves_the_form_as_it_is(folded, images64):
    model = one_layer(attn_implementation="eager")
    before = run(model, images64)
    model(images64, output_attentions=True, output_hidden_states=True)
    assert torch.equal(run(model, images64), before)
    assert folded == [BOTH] * 3


def test_hooks_see_what_they_saw_before(images64):
    """What is between the modules: the branch before FeatScale, the MLP's output before CB, each kept as it was."""
    model, seen = one_layer(), {}
    layer = model.vit.layers[0]
    parts = {"attention": layer.attention, "feat_scale": layer.feat_scale, "mlp": layer.mlp, "cb": layer.cb}

    def keep(name, module, inputs, output):
        seen[name] = (inputs, output[0] if isinstance(output, tuple) else output)

    for name, module in parts.items():
        module.register_forward_hook(partial(keep, name))
    run(model, images64)
    scales = layer.feat_scale.dc_scale, layer.feat_scale.hc_scale
    assert_close(seen["feat_scale"][1], reference.feat_scale(seen["attention"][1], *scales), **EXACT)
    assert_close(seen["cb"][1], reference.context_broadcast(seen["mlp"][1]), **EXACT)
    assert torch.equal(seen["cb"][0][0], seen["mlp"][1])


# Context Broadcasting in place


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@either_mask
def test_cb_in_place_is_cb_to_the_bit(masked, dtype):
    tokens, mask = random_tensor(2, 17, 6).to(dtype), random_mask().bool() if masked else None
    mean = ops.token_mean(tokens, mask)
    expected = ops.broadcast_context(tokens, mean)
    changed = tokens.clone()
    assert ops.broadcast_context_(changed, mean) is changed
    assert torch.equal(changed, expected) and not torch.equal(changed, tokens)


CHANGED = {"plain": True, "scaled": False}


@pytest.mark.parametrize("kind", CHANGED)
def test_the_mlps_output_is_changed_in_place_where_nothing_listens(kind, images64, monkeypatch):
    tokens = []
    monkeypatch.setattr(layers, "project", lambda *inputs: tokens.append(ops.project(*inputs)) or tokens[-1])
    model = one_layer(context_broadcast=kind)
    untouched = []
    monkeypatch.setattr(layers, "token_mean", lambda x, mask: untouched.append(x.clone()) or ops.token_mean(x, mask))
    run(model, images64)
    assert len(tokens) == 1
    assert torch.equal(tokens[0], untouched[-1]) != CHANGED[kind]
    model.vit.layers[0].mlp.register_forward_hook(ignore)
    run(model, images64)
    assert len(tokens) == 1


# dropout


def literal_layer(layer, tokens, drop):
    """One layer by its parts, in the order of the released code."""
    branch, _ = layer.attention(layer.layernorm_before(tokens))
    branch = drop(branch)
    tokens = tokens + reference.feat_scale(branch, layer.feat_scale.dc_scale, layer.feat_scale.hc_scale)
    return tokens + reference.context_broadcast(drop(layer.mlp(layer.layernorm_after(tokens))))


def test_feat_scale_and_cb_follow_dropout(folded):
    layer = one_layer(hidden_dropout_prob=0.5).vit.layers[0].train()
    tokens, rate = random_tensor(2, 17, 24), layer.dropout.p
    torch.manual_seed(0)
    actual = layer(tokens)
    assert folded == [{"omega"}]
    torch.manual_seed(0)
    expected = literal_layer(layer, tokens, lambda branch: F.dropout(branch, rate))
    assert_close(actual, expected, **EXACT)
    torch.manual_seed(0)
    # the other way round: dropout sees the same random numbers and other tokens
    layer.dropout.p = 0.0
    before = literal_layer(layer, tokens, lambda branch: branch)
    assert differ(actual, before)


@pytest.mark.parametrize("switch", ["eval", "rate-0"])
def test_without_dropout_the_order_does_not_matter(switch, folded):
    layer = one_layer(hidden_dropout_prob=0.5 if switch == "eval" else 0.0).vit.layers[0].train(switch != "eval")
    tokens = random_tensor(2, 17, 24)
    actual = layer(tokens)
    assert folded == [BOTH]
    assert_close(actual, literal_layer(layer, tokens, lambda branch: branch), **EXACT)


def test_stochastic_depth_goes_with_it():
    layer = one_layer().vit.layers[0].train()
    layer.drop_path_rate = 0.5
    tokens = random_tensor(8, 17, 24)
    torch.manual_seed(0)
    inside = layer(tokens)
    for module in (layer.attention, layer.mlp):
        module.register_forward_hook(ignore)
    torch.manual_seed(0)
    assert_close(layer(tokens), inside, **EXACT)


# other precisions, in whole models


def errors_of_both_forms(fields, cast):
    """Mean squares of the relative errors of the last hidden states against float64, over seeds."""
    errors = [0.0, 0.0]
    for seed in range(24):
        model = build(seed=seed, **fields)
        pixel_values = tiny_images(8, seed)
        exact = run(copy.deepcopy(model.vit).double(), pixel_values.double())
        listened_to = copy.deepcopy(model)
        for layer in listened_to.vit.layers:
            layer.attention.o_proj.register_forward_hook(ignore)
        for index, form in enumerate((model, listened_to)):
            hidden = cast(form.vit, pixel_values).double()
            errors[index] += ((hidden - exact).square().sum() / exact.square().sum()).item()
    return errors


def under_autocast(model, pixel_values):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return run(model, pixel_values)


CASTS = {
    "bfloat16": lambda model, pixel_values: run(model.bfloat16(), pixel_values),
    "float16": lambda model, pixel_values: run(model.half(), pixel_values),
    "autocast": under_autocast,
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("fields", [{}, {"attn_scale": False}, {"feat_scale": False}], ids=["both", "feat", "attn"])
def test_in_half_precision_a_model_is_as_exact_in_either_form(fields, cast):
    inside, outside = errors_of_both_forms({**fields, "context_broadcast": None}, cast)
    assert inside > 0 and inside != outside
    assert inside**0.5 <= 1.05 * outside**0.5
