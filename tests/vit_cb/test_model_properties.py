"""What any model of transformers can do, with every technique on: initialise, save, load, resize, train, repeat."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers import is_scale, random_mask, tiny_config, tiny_images
from hf_cb import ViTCBForImageClassification
from models_with_everything import CASES, CLASSES, ROUNDING, build, check_same, differ, run
from reference import reference_logits


each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
each_class = pytest.mark.parametrize("model_class", CLASSES.values(), ids=CLASSES)
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def is_whole(info):
    """Whether loading found every weight at its size and used all that it found."""
    return not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])


# initialisation


@each_case
@each_class
def test_scales_start_at_0_and_all_else_as_in_vit(model_class, fields):
    model = model_class(tiny_config(**fields, initializer_range=0.02))
    scales = [parameter for name, parameter in model.named_parameters() if is_scale(name)]
    assert scales and all(torch.equal(scale, torch.zeros_like(scale)) for scale in scales)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.25)  # 120 numbers or more: 4 sigma
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones(24)) and not module.bias.any()


@each_class
def test_initialising_again_brings_every_scale_back_to_0(model_class):
    model = build(model_class)
    model.apply(lambda module: setattr(module, "_is_hf_initialized", False))
    for parameter in model.parameters():
        parameter._is_hf_initialized = False
    model.initialize_weights()
    assert not any(parameter.any() for name, parameter in model.named_parameters() if is_scale(name))


# saving and loading


@each_case
@each_class
def test_a_saved_model_loads_whole_and_gives_the_same_output(model_class, fields, images, tmp_path):
    model = build(model_class, **fields)
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert is_whole(info)
    check_same(loaded, model, images)
    assert differ(run(build(model_class, seed=1, **fields), images), run(model, images))


@each_class
def test_a_model_saved_in_many_shards_loads_whole(model_class, images, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert is_whole(info)
    check_same(loaded, model, images)


def test_a_scale_of_another_width_is_refused(tmp_path):
    build(context_broadcast_position="mlp_end").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ViTCBForImageClassification.from_pretrained(tmp_path, context_broadcast_position="mlp_mid")


def test_a_scale_of_another_width_starts_at_0_when_asked_for(tmp_path):
    model = build(context_broadcast_position="mlp_end")
    model.save_pretrained(tmp_path)
    loaded, info = ViTCBForImageClassification.from_pretrained(
        tmp_path, context_broadcast_position="mlp_mid", ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {entry[0] for entry in info["mismatched_keys"]} == {f"vit.layers.{i}.cb.context_scale" for i in range(3)}
    assert not any(layer.cb.context_scale.any() for layer in loaded.vit.layers)
    assert torch.equal(loaded.vit.layers[0].feat_scale.dc_scale, model.vit.layers[0].feat_scale.dc_scale)


def check_again(again, model, images):
    assert torch.equal(run(again, images), run(model, images))
    with torch.no_grad():
        again.base_model.layers[0].attention.attn_scale.omega.add_(1)
    assert differ(run(again, images), run(model, images))


@each_class
def test_a_copy_gives_the_same_output_and_has_weights_of_its_own(model_class, images):
    model = build(model_class)
    check_again(copy.deepcopy(model), model, images)


# not the backbone: the hooks with which transformers records hidden states cannot be pickled, in no backbone
@pytest.mark.parametrize("name", ["base", "classifier", "mim"])
def test_a_pickle_gives_the_same_output(name, images):
    model = build(CLASSES[name])
    check_again(pickle.loads(pickle.dumps(model)), model, images)


# one result for one input


@each_class
def test_the_same_images_give_the_same_output_to_the_bit(model_class, images):
    model = build(model_class, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.1)
    assert torch.equal(run(model, images), run(model, images))


def test_in_training_the_seed_decides(images):
    model = build(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.1).train()

    def logits(seed):
        torch.manual_seed(seed)
        return run(model, images)

    assert torch.equal(logits(0), logits(0))
    assert differ(logits(0), logits(1))


@each_case
def test_a_batch_of_8_equals_eight_of_1(fields):
    model, images, mask = build(**fields), tiny_images(8), random_mask(8)
    together = run(model, images, attention_mask=mask)
    alone = [run(model, images[i : i + 1], attention_mask=mask[i : i + 1]) for i in range(8)]
    assert_close(together, torch.cat(alone), **ROUNDING)
    assert all(differ(one, other) for one, other in pairwise(alone))


# other sizes


@each_case
@pytest.mark.parametrize("size", [(24, 24), (8, 12), (16, 32)], ids=str)
def test_means_run_over_the_patches_of_images_of_another_size(size, fields):
    model, images = build(**fields).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    embeddings = model.vit.embeddings
    with torch.no_grad():
        tokens = embeddings(images, interpolate_pos_encoding=True)
        weights = dict(model.named_parameters())
        positions = embeddings.interpolate_pos_encoding(tokens, *size)
        expected = reference_logits({**weights, "vit.embeddings.position_embeddings": positions}, model.config, images)
    assert_close(run(model, images, interpolate_pos_encoding=True), expected, rtol=1e-12, atol=1e-12)


@each_class
def test_interpolation_changes_nothing_at_the_size_of_the_model(model_class, images):
    model = build(model_class)
    assert torch.equal(run(model, images, interpolate_pos_encoding=True), run(model, images))


@pytest.mark.parametrize("name", ["base", "classifier", "mim"])
def test_another_size_is_an_error_without_interpolation(name):
    with pytest.raises(ValueError, match="24"):
        run(build(CLASSES[name]), torch.randn(2, 3, 24, 24))


@each_case
def test_one_patch_is_enough(fields):
    model = build(**fields, image_size=4).double()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = reference_logits(dict(model.named_parameters()), model.config, images)
    assert_close(run(model, images), expected, rtol=1e-12, atol=1e-12)
    assert differ(run(model, images)[:1], run(model, images)[1:])


@each_class
def test_images_may_have_one_channel(model_class):
    model, images = build(model_class, num_channels=1), torch.randn(2, 1, 16, 16)
    assert differ(run(model, images)[:1], run(model, images)[1:])


# other precisions


# machine epsilons that three layers pile up: 6 at most in these cases and 3 without a technique (torch 2.15, CPU)
HALF_PRECISION = 12


def relative_error(value, exact):
    return ((value.double() - exact).norm() / exact.norm()).item()


@each_case
@each_half
@pytest.mark.parametrize("masked", [False, True], ids=["all-tokens", "masked"])
def test_half_precision_is_close_to_float64(masked, dtype, fields, images):
    model, mask = build(**fields), random_mask() if masked else None
    exact = run(copy.deepcopy(model).double(), images.double(), attention_mask=mask)
    logits = run(copy.deepcopy(model).to(dtype), images, attention_mask=mask)
    bound = HALF_PRECISION * torch.finfo(dtype).eps
    assert logits.dtype == dtype
    assert relative_error(logits, exact) < bound
    for parameter in (parameter for name, parameter in model.named_parameters() if is_scale(name)):
        parameter.data.zero_()
    assert relative_error(run(model, images, attention_mask=mask), exact) > bound


@each_class
@each_half
def test_a_model_loads_in_the_precision_asked_for(dtype, model_class, images, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    exact = run(model.double(), images)
    assert relative_error(run(loaded, images), exact) < HALF_PRECISION * torch.finfo(dtype).eps


def test_autocast_is_close_to_float32(images):
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run(model, images)
    assert relative_error(logits, run(model, images)) < HALF_PRECISION * torch.finfo(torch.bfloat16).eps
    assert differ(logits.float(), run(model, images))
