"""Another image size than the checkpoint's: position embeddings are resampled on load."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from helpers import randomise_, tiny_config
from hf_cb import ViTCBConfig, ViTCBForImageClassification, ViTCBModel


SMALL, LARGE = 16, 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = ViTCBForImageClassification(tiny_config(attn_scale=True, image_size=SMALL, patch_size=4)).eval()
    randomise_(model, seed=0)
    folder = tmp_path_factory.mktemp("small")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def large_images():
    return torch.randn(2, 3, LARGE, LARGE, generator=torch.Generator().manual_seed(0))


LOADERS = {
    "argument": lambda folder, _: ViTCBForImageClassification.from_pretrained(folder, image_size=LARGE),
    "Auto class": lambda folder, _: AutoModelForImageClassification.from_pretrained(folder, image_size=LARGE),
    "config": lambda folder, model: ViTCBForImageClassification.from_pretrained(
        folder, config=ViTCBConfig.from_dict({**model.config.to_dict(), "image_size": LARGE})
    ),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_model_loaded_at_another_size_computes_what_interpolation_computes(load, checkpoint, large_images):
    folder, small = checkpoint
    large = load(folder, small).eval()
    assert large.config.image_size == LARGE
    expected = small(large_images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(large(large_images).logits, expected, rtol=0, atol=1e-6)


def test_nothing_but_the_position_embeddings_changes(checkpoint):
    folder, small = checkpoint
    large, info = ViTCBForImageClassification.from_pretrained(folder, image_size=24, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    changed = {
        name
        for name, parameter in small.state_dict().items()
        if parameter.shape != large.state_dict()[name].shape or not torch.equal(parameter, large.state_dict()[name])
    }
    assert changed == {"vit.embeddings.position_embeddings"}


def test_a_resized_model_saves_and_loads_at_its_new_size(checkpoint, tmp_path):
    folder, _ = checkpoint
    resized = ViTCBForImageClassification.from_pretrained(folder, image_size=[16, 24]).eval()
    resized.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 16, 24)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images).logits, resized(images).logits)


def test_the_way_back_is_close_for_smooth_embeddings():
    model = ViTCBModel(tiny_config(image_size=32, patch_size=4))
    ramp = torch.linspace(0, 1, 64)[None, :, None].expand(1, 64, model.config.hidden_size)
    model.embeddings.position_embeddings.data[:, 1:] = ramp
    before = model.embeddings.position_embeddings.clone()
    model.resize_position_embeddings(64)
    assert model.embeddings.position_embeddings.shape[1] == 1 + 256
    model.resize_position_embeddings(32)
    torch.testing.assert_close(model.embeddings.position_embeddings, before, rtol=0, atol=0.02)


def test_a_size_that_patches_do_not_tile_is_refused(checkpoint):
    folder, _ = checkpoint
    with pytest.raises(ValueError, match="`image_size` must be a multiple of `patch_size`"):
        ViTCBForImageClassification.from_pretrained(folder, image_size=23)
