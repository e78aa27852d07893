"""The configuration: bad values, presets, saving and loading."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig

from helpers import tiny_config, tiny_images, tiny_vit_config
from hf_cb import ViTCBConfig, ViTCBForImageClassification, ViTCBModel
from hf_cb.vit_cb import modeling_vit_cb


# field, value, what the message must say is allowed
BAD = [
    ("context_broadcast", "dense", "None, 'plain' (CB) or 'scaled' (CB_S)"),
    ("context_broadcast", "none", "None, 'plain' (CB) or 'scaled' (CB_S)"),
    ("context_broadcast", True, "None, 'plain' (CB) or 'scaled' (CB_S)"),
    ("context_broadcast_position", "mlp", "'mlp_end', 'mlp_mid', 'mlp_front' or 'attn_end'"),
    ("context_broadcast_position", None, "'mlp_end', 'mlp_mid', 'mlp_front' or 'attn_end'"),
    ("attn_scale", "yes", "True or False"),
    ("attn_scale", 1, "True or False"),
    ("attn_scale", None, "True or False"),
    ("feat_scale", 0, "True or False"),
    ("feat_scale", "true", "True or False"),
    ("apply_layers", [3], "from 0 to 2"),
    ("apply_layers", [0, 7], "from 0 to 2"),
    ("apply_layers", [0, -1], "distinct layer indices, counted from 0"),
    ("apply_layers", [1, 1], "distinct layer indices, counted from 0"),
    ("apply_layers", "all", "distinct layer indices, counted from 0"),
    ("apply_layers", 1, "distinct layer indices, counted from 0"),
    ("apply_layers", [0.5], "distinct layer indices, counted from 0"),
    ("apply_layers", ["0"], "distinct layer indices, counted from 0"),
    ("apply_layers", [True], "distinct layer indices, counted from 0"),
    ("drop_path_rate", -0.1, "a number in [0, 1)"),
    ("drop_path_rate", 1.0, "a number in [0, 1)"),
    ("drop_path_rate", 1, "a number in [0, 1)"),
    ("drop_path_rate", float("nan"), "a number in [0, 1)"),
    ("drop_path_rate", "0.1", "a number in [0, 1)"),
    ("drop_path_rate", True, "a number in [0, 1)"),
    ("drop_path_rate", None, "a number in [0, 1)"),
    ("hidden_dropout_prob", 1.5, "a number in [0, 1)"),
    ("attention_probs_dropout_prob", -1, "a number in [0, 1)"),
    ("image_size", 18, "a multiple of `patch_size` (4)"),
    ("image_size", [16, 18], "a multiple of `patch_size` (4)"),
    ("image_size", 0, "a positive integer or a pair"),
    ("image_size", -16, "a positive integer or a pair"),
    ("image_size", "16", "a positive integer or a pair"),
    ("image_size", 16.0, "a positive integer or a pair"),
    ("image_size", None, "a positive integer or a pair"),
    ("image_size", [16, 16, 16], "a positive integer or a pair"),
    ("image_size", [], "a positive integer or a pair"),
    ("patch_size", 0, "a positive integer or a pair"),
    ("patch_size", [4, 4, 4], "a positive integer or a pair"),
    ("hidden_size", 0, "a positive integer"),
    ("hidden_size", 24.0, "a positive integer"),
    ("num_attention_heads", 0, "a positive integer"),
    ("num_hidden_layers", 0, "a positive integer"),
    ("num_hidden_layers", 1.5, "a positive integer"),
    ("num_hidden_layers", True, "a positive integer"),
    ("intermediate_size", -1, "a positive integer"),
    ("num_channels", 0, "a positive integer"),
    ("encoder_stride", 0, "a positive integer"),
    ("qkv_bias", "yes", "bool"),
    ("layer_norm_eps", "small", ""),
    ("hidden_act", 3, "gelu"),
    # values that ViTConfig itself lets through
    ("hidden_act", "gellu", "gelu"),
    ("pooler_act", "tahn", "tanh"),
    ("layer_norm_eps", -1.0, ""),
    ("initializer_range", -1.0, ""),
    ("num_labels", -1, ""),
    ("num_labels", "five", ""),
]
each_bad_value = pytest.mark.parametrize(
    ("field", "value", "allowed"), BAD, ids=[f"{field}={value!r}" for field, value, _ in BAD]
)


def assert_tells(error, field, value, allowed):
    """One line that names the field, the value and what is allowed."""
    message = str(error.value)
    assert "\n" not in message
    assert f"`{field}`" in message
    value = repr(value)
    # an index out of range may be named alone
    assert value in message or value.strip("[]").split(", ")[-1] in message
    assert allowed in message
    assert "must be" in message or "must hold" in message


@each_bad_value
def test_a_bad_value_is_an_error_that_tells_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as error:
        tiny_config(**{field: value})
    assert_tells(error, field, value, allowed)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_config().save_pretrained(folder)
    return folder


@each_bad_value
def test_a_bad_value_for_a_saved_configuration_is_the_same_error(field, value, allowed, saved):
    with pytest.raises(ValueError) as error:
        ViTCBConfig.from_pretrained(saved, **{field: value})
    assert_tells(error, field, value, allowed)


@each_bad_value
def test_no_model_is_built_from_a_value_that_was_set_badly(field, value, allowed):
    config = tiny_config()
    with pytest.raises(ValueError) as error:
        setattr(config, field, value)
        ViTCBModel(config)
    assert_tells(error, field, value, allowed)


@each_bad_value
def test_a_bad_value_in_a_file_is_the_same_error(field, value, allowed, saved, tmp_path):
    fields = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, field: value}))
    with pytest.raises(ValueError) as error:
        ViTCBConfig.from_pretrained(tmp_path)
    assert_tells(error, field, value, allowed)


def test_a_patch_size_that_does_not_tile_the_image_is_an_error():
    with pytest.raises(ValueError, match=r"`image_size` must be a multiple of `patch_size` \(5\), got 16"):
        tiny_config(patch_size=5)


@pytest.mark.parametrize("depth", [2, 5], ids=["fewer", "more"])
@pytest.mark.parametrize("make", [tiny_config, tiny_vit_config], ids=["ViT-CB", "plain ViT"])
def test_another_depth_than_the_files_loads_saves_and_loads_again(make, depth, tmp_path):
    make().save_pretrained(tmp_path / "first")
    config = ViTCBConfig.from_pretrained(tmp_path / "first", num_hidden_layers=depth)
    config.save_pretrained(tmp_path / "second")
    assert ViTCBConfig.from_pretrained(tmp_path / "second").out_features == [f"stage{depth}"]


def test_chosen_stages_stay_when_the_depth_changes(tmp_path):
    tiny_config(out_features=["stem", "stage1"]).save_pretrained(tmp_path)
    config = ViTCBConfig.from_pretrained(tmp_path, num_hidden_layers=2)
    assert config.out_features == ["stem", "stage1"] and config.out_indices == [0, 1]


def test_more_heads_than_dimensions_are_an_error():
    with pytest.raises(ValueError, match=r"`num_attention_heads` must be at most `hidden_size` \(24\), got 25"):
        tiny_config(num_attention_heads=25)


def test_heads_need_not_divide_the_width_as_in_vit():
    model = ViTCBForImageClassification(tiny_config(num_attention_heads=5, attn_scale=True))
    assert model.vit.layers[0].attention.o_proj.in_features == 5 * 4
    assert model(tiny_images()).logits.shape == (2, 5)


def test_removing_layers_below_a_selected_one_is_an_error():
    config = tiny_config(apply_layers=[2])
    config.num_hidden_layers = 2
    with pytest.raises(ValueError, match=r"`apply_layers` must hold layer indices from 0 to 1 .* got 2 in \[2\]"):
        ViTCBModel(config)


GOOD = [
    ("context_broadcast", None),
    ("context_broadcast", "plain"),
    ("context_broadcast", "scaled"),
    *(("context_broadcast_position", position) for position in ("mlp_end", "mlp_mid", "mlp_front", "attn_end")),
    ("attn_scale", True),
    ("feat_scale", True),
    ("apply_layers", None),
    ("apply_layers", []),
    ("apply_layers", [2, 0]),
    ("drop_path_rate", 0),
    ("drop_path_rate", 0.999),
    ("image_size", [16, 32]),
    ("image_size", 32),
]


@pytest.mark.parametrize(("field", "value"), GOOD, ids=[f"{field}={value!r}" for field, value in GOOD])
def test_an_allowed_value_is_kept_over_save_and_load(field, value, tmp_path):
    config = tiny_config(**{field: value})
    config.save_pretrained(tmp_path)
    assert getattr(config, field) == value
    assert getattr(ViTCBConfig.from_pretrained(tmp_path), field) == value
    assert ViTCBModel(config).config is config


def test_defaults_are_plain_cb_after_every_mlp():
    config = ViTCBConfig()
    assert (config.context_broadcast, config.context_broadcast_position) == ("plain", "mlp_end")
    assert (config.attn_scale, config.feat_scale, config.apply_layers) == (False, False, None)
    assert config.drop_path_rate == 0.0


@pytest.mark.parametrize(
    ("name", "width", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)], ids=["tiny", "small", "base"]
)
def test_presets_have_the_widths_of_deit(name, width, heads):
    config = ViTCBConfig.from_preset(name)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (width, heads, 4 * width)
    assert (config.patch_size, config.image_size, config.num_hidden_layers) == (16, 224, 12)
    assert config.layer_norm_eps == 1e-6


def test_a_preset_takes_a_depth_and_any_other_field():
    config = ViTCBConfig.from_preset("tiny", num_hidden_layers=24, image_size=32, patch_size=4, feat_scale=True)
    assert (config.num_hidden_layers, config.image_size, config.patch_size) == (24, 32, 4)
    assert config.feat_scale and config.hidden_size == 192


def test_an_unknown_preset_is_an_error_that_lists_the_presets():
    with pytest.raises(ValueError, match=r"'tiny', 'small', 'base', got 'huge'\.$"):
        ViTCBConfig.from_preset("huge")


def test_a_bad_value_beside_a_preset_is_an_error():
    with pytest.raises(ValueError, match=r"`drop_path_rate` must be a number in \[0, 1\), got 2"):
        ViTCBConfig.from_preset("tiny", drop_path_rate=2)


NOT_DEFAULT = {
    "context_broadcast": "scaled",
    "context_broadcast_position": "mlp_mid",
    "attn_scale": True,
    "feat_scale": True,
    "apply_layers": [0, 2],
    "drop_path_rate": 0.125,
    "hidden_dropout_prob": 0.25,
    "qkv_bias": False,
    "out_features": ["stem", "stage2"],
    "num_labels": 7,
}


@pytest.mark.parametrize("loader", [ViTCBConfig, AutoConfig], ids=["ViTCBConfig", "AutoConfig"])
def test_saving_and_loading_keeps_every_field(loader, tmp_path):
    config = tiny_config(**NOT_DEFAULT)
    config.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is ViTCBConfig
    # where a configuration came from is no field of it
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    assert {name: getattr(loaded, name) for name in NOT_DEFAULT} == NOT_DEFAULT


def test_a_saved_configuration_says_what_it_is(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["model_type"] == "vit_cb"
    assert fields["auto_map"]["AutoConfig"].endswith("ViTCBConfig")
    assert fields["auto_map"]["AutoModel"].endswith("ViTCBModel")


def test_configurations_that_differ_are_not_equal():
    assert tiny_config().to_dict() != tiny_config(attn_scale=True).to_dict()


def test_a_plain_vit_file_becomes_a_vit_cb_configuration(tmp_path):
    plain = tiny_vit_config(hidden_act="relu", num_labels=7)
    plain.save_pretrained(tmp_path)
    config = ViTCBConfig.from_pretrained(tmp_path, feat_scale=True)
    assert config.model_type == config.to_dict()["model_type"] == "vit_cb"
    assert (config.hidden_act, config.num_labels, config.feat_scale) == ("relu", 7, True)
    config.save_pretrained(tmp_path / "again")
    assert type(AutoConfig.from_pretrained(tmp_path / "again")) is ViTCBConfig


def test_unused_arguments_come_back_on_request(saved):
    config, unused = ViTCBConfig.from_pretrained(saved, feat_scale=True, unheard_of=1, return_unused_kwargs=True)
    assert config.feat_scale
    assert unused == {"unheard_of": 1}


def test_out_features_and_out_indices_name_the_same_stages():
    by_name, by_index = tiny_config(out_features=["stem", "stage3"]), tiny_config(out_indices=[0, 3])
    for config in (by_name, by_index):
        assert config.stage_names == ["stem", "stage1", "stage2", "stage3"]
        assert list(config.out_features) == ["stem", "stage3"]
        assert list(config.out_indices) == [0, 3]


def test_the_last_stage_is_the_default_output():
    assert list(tiny_config().out_features) == ["stage3"]
    assert list(tiny_config(num_hidden_layers=5).out_features) == ["stage5"]


@pytest.mark.parametrize("fields", [{"out_features": ["stage4"]}, {"out_indices": [4]}], ids=["feature", "index"])
def test_a_stage_that_does_not_exist_is_an_error(fields):
    with pytest.raises(ValueError, match=rf"{next(iter(fields))} .*stage3'?\].* got .*4"):
        tiny_config(**fields)


@pytest.mark.parametrize(
    ("depth", "rates"), [(1, [0.0]), (2, [0.0, 0.3]), (4, [0.0, 0.1, 0.2, 0.3])], ids=["one", "two", "four"]
)
def test_drop_path_rises_linearly_from_0_to_its_rate(depth, rates, images, monkeypatch):
    used = []
    monkeypatch.setattr(modeling_vit_cb, "drop_path", lambda branch, rate, training: used.append(rate) or branch)
    config = tiny_config(num_hidden_layers=depth, drop_path_rate=0.3)
    ViTCBModel(config)(images)
    assert [config.drop_path_rate_of(index) for index in range(depth)] == pytest.approx(rates)
    # the attention branch's and the MLP's
    assert used[::2] == used[1::2] == pytest.approx(rates)


def test_drop_path_acts_in_training_alone_and_differs_between_the_images(images):
    torch.manual_seed(0)
    model, same_images = ViTCBModel(tiny_config(drop_path_rate=0.5)), images[:1].repeat(8, 1, 1, 1)
    trained, evaluated = (model.train(mode)(same_images).last_hidden_state for mode in (True, False))
    assert len(trained.unique(dim=0)) > 1
    assert_close(evaluated, evaluated[:1].expand_as(evaluated))


@pytest.mark.parametrize(
    ("apply_layers", "applies"),
    [(None, [True, True, True]), ([], [False, False, False]), ([2, 0], [True, False, True])],
    ids=["all", "none", "two"],
)
def test_apply_layers_selects_layers_by_their_index_from_0(apply_layers, applies):
    config = tiny_config(apply_layers=apply_layers, context_broadcast="scaled", attn_scale=True, feat_scale=True)
    assert [config.applies_to(index) for index in range(3)] == applies
    layers = ViTCBModel(config).layers
    for part in (lambda layer: layer.cb, lambda layer: layer.feat_scale, lambda layer: layer.attention.attn_scale):
        assert [part(layer) is not None for layer in layers] == applies


@pytest.mark.parametrize(
    ("name", "meant"),
    [("attn_scales", "attn_scale"), ("feat_scal", "feat_scale"), ("context_broadcasting", "context_broadcast")]
    + [("layer_norm_epsilon", "layer_norm_eps"), ("aply_layers", "apply_layers"), ("drop_path", "drop_path_rate")],
)
@pytest.mark.parametrize("make", [ViTCBConfig, lambda **fields: ViTCBConfig.from_preset("tiny", **fields)])
def test_a_misspelt_field_is_refused_with_the_nearest_name(make, name, meant):
    with pytest.raises(ValueError, match=f"no field '{name}': did you mean '{meant}'?"):
        make(**{name: True})


def test_a_file_of_another_version_loads_with_fields_that_this_one_does_not_know(tmp_path):
    content = {**tiny_config(attn_scale=True).to_dict(), "attn_scales": [1], "hidden_sizes": [24]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded = ViTCBConfig.from_pretrained(tmp_path)
    assert loaded.attn_scale is True and loaded.attn_scales == [1]
    # and what is said afterwards is looked at again
    with pytest.raises(ValueError, match="attn_scale"):
        ViTCBConfig(attn_scales=True)


def test_a_name_of_a_users_own_stays_as_in_transformers():
    assert ViTCBConfig(my_note="of Tuesday").my_note == "of Tuesday"
