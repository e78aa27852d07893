"""`ViTCBBackbone`: feature maps of the stages asked for, from any checkpoint of ViT-CB, inside other models."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoBackbone, PreTrainedModel, UperNetConfig, UperNetForSemanticSegmentation

from helpers import random_mask, randomise_, save_in_module_layout, tiny_config
from hf_cb import ViTCBBackbone, ViTCBConfig, ViTCBForImageClassification
from models_with_everything import CASES, CLASSES, EVERYTHING, ROUNDING, build, check_same, differ, run


STAGES = ["stem", "stage1", "stage2", "stage3"]

each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)


def segmenter():
    """UperNet on a backbone with every technique."""
    config = tiny_config(**EVERYTHING, out_features=STAGES)
    widths = {"hidden_size": 8, "auxiliary_in_channels": 24, "auxiliary_channels": 8}
    return randomise_(
        UperNetForSemanticSegmentation(UperNetConfig(backbone_config=config, num_labels=4, **widths)), seed=0
    )


# maps


@each_case
@torch.no_grad()
def test_maps_are_the_normed_patches_of_the_hidden_states(fields, images):
    model, classifier = build(ViTCBBackbone, out_features=STAGES, **fields), build(**fields)
    model.vit.load_state_dict(classifier.vit.state_dict())
    maps = model(images).feature_maps
    states = classifier(images, output_hidden_states=True).hidden_states
    assert len(maps) == len(STAGES)
    for feature_map, tokens in zip(maps, states, strict=True):
        patches = classifier.vit.layernorm(tokens)[:, 1:]
        for row in range(4):
            for column in range(4):
                assert_close(feature_map[:, :, row, column], patches[:, 4 * row + column])
    assert differ(maps[0], maps[1])


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (8, 32), (12, 20)], ids=str)
@torch.no_grad()
def test_maps_have_a_cell_for_each_patch(size):
    model = build(ViTCBBackbone, out_features=STAGES)
    output = model(torch.randn(2, 3, *size))
    assert [tuple(map_.shape) for map_ in output.feature_maps] == [(2, 24, size[0] // 4, size[1] // 4)] * 4


@torch.no_grad()
def test_a_model_for_oblong_images_gives_oblong_maps():
    model = build(ViTCBBackbone, image_size=[8, 16])
    assert model(torch.randn(2, 3, 8, 16)).feature_maps[0].shape == (2, 24, 2, 4)


@torch.no_grad()
def test_rows_and_columns_of_a_map_are_those_of_the_image():
    model, images = build(ViTCBBackbone, out_features=["stem"]), torch.randn(1, 3, 8, 32)
    changed = images.clone()
    changed[:, :, 4:, 28:] += 1  # the second row's last patch
    difference = (model(images).feature_maps[0] - model(changed).feature_maps[0]).abs().amax(dim=(0, 1))
    assert difference.nonzero().tolist() == [[1, 7]]


@torch.no_grad()
def test_a_mask_leaves_patches_out_of_the_maps_of_the_others(images):
    model, changed = build(ViTCBBackbone), images.clone()
    changed[:, :, 12:, 12:] += 1  # the last patch, which `random_mask` leaves out
    first, second = (run(model, pixels, attention_mask=random_mask()) for pixels in (images, changed))
    assert torch.equal(first[:, :, :3], second[:, :, :3])
    assert differ(run(model, images)[:, :, :3], run(model, changed)[:, :, :3])


# stages


@pytest.mark.parametrize(
    ("fields", "indices"),
    [
        ({}, [3]),
        ({"out_features": ["stage1", "stage3"]}, [1, 3]),
        ({"out_indices": [0, 2]}, [0, 2]),
        ({"out_indices": [-2, -1]}, [2, 3]),
        ({"out_features": STAGES}, [0, 1, 2, 3]),
    ],
    ids=["default", "features", "indices", "from-the-end", "all"],
)
@torch.no_grad()
def test_a_backbone_returns_the_stages_asked_for(fields, indices, images):
    model, everything = build(ViTCBBackbone, **fields), build(ViTCBBackbone, out_features=STAGES)
    assert model.stage_names == STAGES
    assert model.out_features == [STAGES[index] for index in indices]
    assert model.channels == [24] * len(indices)
    maps = everything(images).feature_maps
    assert_close(model(images).feature_maps, tuple(maps[index] for index in indices), rtol=0, atol=0)


def test_stages_can_be_changed_on_a_configuration(images):
    model = build(ViTCBBackbone)
    model.out_features = ["stem", "stage2"]
    assert len(model(images).feature_maps) == 2


@pytest.mark.parametrize(
    "fields",
    [{"out_features": ["stage4"]}, {"out_indices": [4]}, {"out_features": ["stage1"], "out_indices": [2]}],
    ids=["feature", "index", "contradiction"],
)
def test_a_stage_that_does_not_exist_is_an_error(fields):
    with pytest.raises(ValueError, match="out_features|out_indices"):
        ViTCBBackbone(tiny_config(**fields))


def test_saving_keeps_the_stages(tmp_path, images):
    model = build(ViTCBBackbone, out_features=["stem", "stage2"])
    model.save_pretrained(tmp_path)
    loaded = ViTCBBackbone.from_pretrained(tmp_path)
    assert loaded.out_features == ["stem", "stage2"]
    assert_close(loaded(images).feature_maps, model(images).feature_maps, **ROUNDING)


# checkpoints and other models


@each_case
@torch.no_grad()
def test_a_backbone_loads_whole_from_a_saved_classifier(fields, images, tmp_path):
    classifier = build(**fields)
    classifier.save_pretrained(tmp_path)
    model, info = ViTCBBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert set(info["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    tokens = classifier.vit(images).last_hidden_state[:, 1:]
    assert_close(run(model, images).flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize(
    ("name", "save"),
    # transformers 5.9 gives a model with a head nothing of a bare model's file in its own layout, plain ViT included
    [("base", save_in_module_layout), ("mim", PreTrainedModel.save_pretrained)],
    ids=["base", "mim"],
)
def test_a_backbone_loads_whole_from_the_other_classes(name, save, tmp_path):
    model = build(CLASSES[name])
    save(model, tmp_path)
    backbone, info = ViTCBBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert torch.equal(backbone.vit.layers[1].cb.context_scale, model.base_model.layers[1].cb.context_scale)


def test_a_classifier_takes_all_but_its_head_from_a_saved_backbone(tmp_path):
    build(ViTCBBackbone).save_pretrained(tmp_path)
    _, info = ViTCBForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]


def test_auto_backbone_builds_it_from_a_configuration():
    model = AutoBackbone.from_config(tiny_config(**EVERYTHING, out_features=["stage1"]))
    assert type(model) is ViTCBBackbone and model.out_features == ["stage1"]


@torch.no_grad()
def test_upernet_segments_with_it():
    model, images = segmenter(), torch.randn(2, 3, 24, 32)
    assert type(model.backbone) is ViTCBBackbone
    logits = model(images).logits
    assert logits.shape == (2, 4, 24, 32)
    for layer in model.backbone.vit.layers:
        layer.cb.context_scale.zero_()
    assert differ(model(images).logits, logits)


def test_upernet_trains_every_parameter_of_it(images):
    model = segmenter().train()
    model(images, labels=torch.randint(4, (2, 16, 16))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_upernet_with_it_saves_and_loads(images, tmp_path):
    model = segmenter()
    model.save_pretrained(tmp_path)
    loaded, info = UperNetForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded.config.backbone_config, ViTCBConfig)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    check_same(loaded, model, images)
