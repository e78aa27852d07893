"""Eager, SDPA and flex attention agree, masked or not; attentions and hidden states come on request."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AttentionInterface, AutoModelForImageClassification
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from helpers import NUM_TOKENS, random_mask, tiny_images
from hf_cb import ViTCBForImageClassification, ViTCBModel
from models_with_everything import CASES, CLASSES, ROUNDING, build, differ, run
from reference import attn_scale, layer_norm, linear, reference_hidden_states, softmax_attention


IMPLEMENTATIONS = ["eager", "sdpa", "flex_attention"]

each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
each_class = pytest.mark.parametrize("model_class", CLASSES.values(), ids=CLASSES)


@pytest.fixture(autouse=True)
def uncompiled():
    # transformers compiles flex attention, which takes half a minute; uncompiled it computes the same
    with torch.compiler.set_stance("force_eager"):
        yield


def build_with(implementation, model_class=ViTCBForImageClassification, **fields):
    model = build(model_class, **fields)
    model.set_attn_implementation(implementation)
    return model


def without_tokens(model, kept):
    """Cut the sequence after the embeddings, so that the layers see nothing but the tokens in `kept`."""
    model.vit.embeddings.register_forward_hook(lambda module, inputs, tokens: tokens[:, kept])
    return model


# one implementation against another


@each_case
@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_every_implementation_gives_the_logits_of_sdpa(implementation, masked, fields, images):
    mask = random_mask() if masked else None
    logits = run(build_with(implementation, **fields), images, attention_mask=mask)
    assert_close(logits, run(build_with("sdpa", **fields), images, attention_mask=mask), **ROUNDING)


@each_implementation
@each_class
def test_every_class_runs_every_implementation(model_class, implementation, images):
    output = run(build_with(implementation, model_class), images)
    assert_close(output, run(build_with("sdpa", model_class), images), **ROUNDING)


@each_case
def test_eager_gives_the_gradients_of_sdpa(fields, images):
    gradients = {}
    for implementation in ("eager", "sdpa"):
        model = build_with(implementation, **fields)
        model(images, labels=torch.tensor([1, 4]), attention_mask=random_mask()).loss.backward()
        gradients[implementation] = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_close(gradients["eager"], gradients["sdpa"], **ROUNDING)


def test_other_weights_give_other_logits(images):
    assert differ(run(build(seed=0), images), run(build(seed=1), images))


def test_switching_the_implementation_changes_nothing_but_rounding(images):
    model = build_with("sdpa")
    before = run(model, images)
    for implementation in ("eager", "flex_attention"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        assert_close(run(model, images), before, **ROUNDING)
    model.set_attn_implementation("sdpa")
    assert torch.equal(run(model, images), before)


@each_implementation
def test_a_model_loads_with_the_implementation_asked_for(implementation, images, tmp_path):
    model = build_with("sdpa")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation=implementation)
    assert loaded.config._attn_implementation == implementation
    assert_close(run(loaded, images), run(model, images), **ROUNDING)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="slow_attention"):
        build().set_attn_implementation("slow_attention")


# masks


@each_case
@each_implementation
def test_a_mask_equals_leaving_the_tokens_out(implementation, fields, images):
    mask = random_mask(1).expand(2, -1)
    masked = run(build_with(implementation, **fields), images, attention_mask=mask)
    cut = run(without_tokens(build_with(implementation, **fields), mask[0].bool()), images)
    assert_close(masked, cut, **ROUNDING)
    assert differ(masked, run(build_with(implementation, **fields), images))


@each_implementation
def test_each_image_has_a_mask_of_its_own(implementation, images):
    model, mask = build_with(implementation), random_mask()
    assert not torch.equal(mask[0], mask[1])
    together = run(model, images, attention_mask=mask)
    alone = [run(model, images[i : i + 1], attention_mask=mask[i : i + 1]) for i in range(2)]
    assert_close(together, torch.cat(alone), **ROUNDING)


@each_implementation
def test_a_mask_of_ones_changes_nothing_but_rounding(implementation, images):
    model = build_with(implementation)
    ones = torch.ones(2, NUM_TOKENS, dtype=torch.long)
    assert_close(run(model, images, attention_mask=ones), run(model, images), **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32], ids=str)
def test_a_mask_may_have_any_dtype(dtype, images):
    model = build()
    expected = run(model, images, attention_mask=random_mask())
    assert torch.equal(run(model, images, attention_mask=random_mask().to(dtype)), expected)


@each_class
def test_every_class_takes_a_mask(model_class, images):
    mask = random_mask(1).expand(2, -1)
    hidden_dropped = images.clone()
    # the pixels of the last patch, which `random_mask` always leaves out
    hidden_dropped[:, :, 12:, 12:] = 7.0
    model = build(model_class)
    first, second = (run(model, pixels, attention_mask=mask) for pixels in (images, hidden_dropped))
    if model_class is ViTCBModel:
        first, second = first[:, mask[0].bool()], second[:, mask[0].bool()]
    elif model_class is not ViTCBForImageClassification:
        # maps hold the token that was left out as well, at the lower right
        kept = slice(None, first.shape[-1] * 3 // 4)
        first, second = first[..., kept], second[..., kept]
    assert torch.equal(first, second)
    assert differ(run(model, images), run(model, images, attention_mask=mask))


@pytest.mark.parametrize("shape", [(2, NUM_TOKENS - 1), (1, NUM_TOKENS), (2, 1, NUM_TOKENS, NUM_TOKENS)], ids=str)
@each_implementation
@each_class
def test_a_mask_of_another_shape_is_an_error_that_names_both_shapes(model_class, implementation, shape, images):
    with pytest.raises(ValueError) as error:
        run(build_with(implementation, model_class), images, attention_mask=torch.ones(shape))
    assert str((2, NUM_TOKENS)) in str(error.value) and str(shape) in str(error.value)


def test_the_shape_of_a_mask_follows_the_size_of_the_images():
    model, large = build(), torch.randn(2, 3, 24, 16)
    tokens = 6 * 4 + 1
    run(model, large, attention_mask=torch.ones(2, tokens), interpolate_pos_encoding=True)
    with pytest.raises(ValueError, match=rf"\(2, {tokens}\)"):
        run(model, large, attention_mask=torch.ones(2, NUM_TOKENS), interpolate_pos_encoding=True)


# hidden states and attentions


def maps_of_the_definition(model, images, mask):
    """A of every layer, [B, H, N, N], by the reference."""
    weights, config = dict(model.named_parameters()), model.config
    heads = config.num_attention_heads
    maps = []
    for index, tokens in enumerate(reference_hidden_states(weights, config, images, mask)[:-1]):
        name = f"vit.layers.{index}"
        branch = layer_norm(tokens, weights, f"{name}.layernorm_before", config.layer_norm_eps)
        query, key = (
            linear(branch, weights, f"{name}.attention.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("q_proj", "k_proj")
        )
        maps.append(softmax_attention(query, key, mask))
    return maps


@each_case
@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
@torch.no_grad()
def test_attentions_are_the_softmax_attention(masked, fields, images):
    model, mask = build_with("eager", **fields), random_mask() if masked else None
    attentions = model(images, attention_mask=mask, output_attentions=True).attentions
    expected_maps = maps_of_the_definition(model, images, mask)
    for index, (attention, expected) in enumerate(zip(attentions, expected_maps, strict=True)):
        assert_close(attention, expected, **ROUNDING)
        assert_close(attention.sum(-1), torch.ones(2, 3, NUM_TOKENS))
        if model.config.applies_to(index):
            assert differ(attention, attn_scale(attention, model.vit.layers[index].attention.attn_scale.omega, mask))


@each_case
@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
@torch.no_grad()
def test_hidden_states_are_the_embeddings_and_what_each_layer_returns(masked, fields, images64):
    model, mask = build(**fields).double(), random_mask() if masked else None
    hidden_states = model(images64, attention_mask=mask, output_hidden_states=True).hidden_states
    expected = reference_hidden_states(dict(model.named_parameters()), model.config, images64, mask)
    assert_close(hidden_states, tuple(expected), rtol=1e-12, atol=1e-12)
    assert differ(hidden_states[1], hidden_states[2])


@each_class
@torch.no_grad()
def test_states_and_maps_come_with_every_class_and_only_on_request(model_class, images):
    model = build_with("eager", model_class)
    output = model(images)
    assert output.hidden_states is None and output.attentions is None
    output = model(images, output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, NUM_TOKENS, 24)] * 4
    assert [tuple(maps.shape) for maps in output.attentions] == [(2, 3, NUM_TOKENS, NUM_TOKENS)] * 3


@each_class
@torch.no_grad()
def test_states_and_maps_can_be_asked_for_in_the_configuration(model_class, images):
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = build(model_class, attn_implementation="eager", **asked)(images)
    assert len(output.hidden_states) == 4 and len(output.attentions) == 3


@torch.no_grad()
def test_a_model_saved_with_attentions_on_loads_again(images, tmp_path):
    build(attn_implementation="eager", output_attentions=True).save_pretrained(tmp_path)
    ViTCBForImageClassification.from_pretrained(tmp_path)
    loaded = ViTCBForImageClassification.from_pretrained(tmp_path, attn_implementation="eager")
    assert len(loaded(images).attentions) == 3


@each_class
@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds(model_class, images):
    model = build_with("eager", model_class)
    asked = {"output_hidden_states": True, "output_attentions": True}
    assert_close(model(images, return_dict=False, **asked), model(images, **asked).to_tuple(), rtol=0, atol=0)


def test_gradients_reach_hidden_states_and_attentions():
    model = build_with("eager")
    output = model(tiny_images(), output_hidden_states=True, output_attentions=True)
    watched = [output.hidden_states[0], output.attentions[0]]
    for tensor in watched:
        tensor.retain_grad()
    output.logits[:, 0].sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in watched)


# flash attention


def flash_like(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """What a flash kernel does, in torch: takes a 2-D mask or none, drops masked tokens, returns [B, N, H, d] alone."""
    assert attention_mask is None or attention_mask.dim() == 2
    assert "token_mask" not in kwargs
    output = torch.zeros_like(query)
    kept = attention_mask.bool() if attention_mask is not None else query.new_ones(len(query), query.shape[2]).bool()
    for image, row in enumerate(kept):
        q, k, v = (tensor[image : image + 1, :, row] for tensor in (query, key, value))
        output[image, :, row] = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling)[0]
    return output.transpose(1, 2), None


@pytest.fixture(scope="module")
def flash_stand_in():
    # a name with "flash" in it makes transformers look for a kernel of that name
    AttentionInterface.register("kernel_stand_in", flash_like)
    AttentionMaskInterface.register("kernel_stand_in", flash_attention_mask)
    return "kernel_stand_in"


@each_case
@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
def test_a_kernel_with_flashs_interface_gives_the_logits_of_sdpa(flash_stand_in, masked, fields, images):
    mask = random_mask() if masked else None
    logits = run(build_with(flash_stand_in, **fields), images, attention_mask=mask)
    assert_close(logits, run(build_with("sdpa", **fields), images, attention_mask=mask), **ROUNDING)


def test_vit_cb_declares_flash_attention_as_vit_does():
    for model_class in CLASSES.values():
        assert model_class._supports_flash_attn and model_class._supports_flex_attn and model_class._supports_sdpa
