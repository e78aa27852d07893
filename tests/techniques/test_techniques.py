"""`apply_techniques` on every architecture: off, on, literally, away again; and against ViT-CB."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch.testing import assert_close
from transformers import ResNetConfig, ResNetForImageClassification, ViTForImageClassification

from helpers import is_scale, random_mask, randomise_, tiny_config, tiny_images, tiny_vit_config
from hf_cb import (
    TechniqueConfig,
    ViTCBForImageClassification,
    apply_techniques,
    remove_techniques,
    technique_parameters,
)
from hf_cb.techniques.architectures import ARCHITECTURES
from literal_techniques import make_literal, scales_of
from models_with_everything import differ
from technique_models import (
    CASES,
    EVERYTHING,
    layer_outputs,
    layers_of,
    plain,
    randomise_scales_,
    run,
    with_techniques,
)


# float32, values of order 1
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
POSITIONS = ["mlp_end", "mlp_mid", "mlp_front", "attn_end"]
# what masks the models' own attention
MASKED = ["vit", "deit", "deit-distilled", "vit-msn", "ijepa"]

each_model = pytest.mark.parametrize("name", CASES)


def settings_for(name):
    """Every technique alone, all of them with CB in each place, and some layers only."""
    settings = {
        "cb": {"context_broadcast": "plain"},
        "attn": {"attn_scale": True},
        "feat": {"feat_scale": True},
        "layers-0-2": {**EVERYTHING, "apply_layers": [0, 2]},
        **{f"all-{position}": {**EVERYTHING, "context_broadcast_position": position} for position in POSITIONS},
    }
    if CASES[name].is_gated:
        del settings["all-mlp_mid"]
    return settings


each_setting = pytest.mark.parametrize(
    ("name", "fields"),
    [pytest.param(name, fields, id=f"{name}-{key}") for name in CASES for key, fields in settings_for(name).items()],
)


def weights_of(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_same_weights(first, second):
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_tests_have_every_architecture_of_the_table():
    types = {
        module.config.model_type
        for name in CASES
        for module in CASES[name].build().modules()
        if "config" in dir(module)
    }
    assert set(ARCHITECTURES) <= types


# zero, not zero, away again


@each_model
def test_learned_techniques_at_their_start_change_nothing(name):
    model = plain(name)
    before = run(name, model)
    assert apply_techniques(model, TechniqueConfig(**EVERYTHING)) is model
    assert all((parameter == 0).all() for parameter in technique_parameters(model))
    assert_close(run(name, model), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@each_setting
def test_techniques_equal_their_definitions(name, fields, implementation, monkeypatch):
    if implementation == "sdpa" and name.startswith("upernet"):
        pytest.skip("UperNet is eager alone")
    model, stock = with_techniques(name, **fields), plain(name)
    model.set_attn_implementation(implementation)
    actual, without = layer_outputs(name, model), layer_outputs(name, stock)
    make_literal(name, stock, TechniqueConfig(**fields), scales_of(name, model), monkeypatch)
    assert_close(actual, layer_outputs(name, stock), **CLOSE)
    assert differ(actual[-1], without[-1])


@each_model
def test_removing_the_techniques_gives_the_model_back_to_the_bit(name):
    model = plain(name)
    weights, output, config = weights_of(model), run(name, model), model.config.to_dict()
    kind, hooks = type(model), [len(module._forward_hooks) for module in model.modules()]
    randomise_scales_(apply_techniques(model, TechniqueConfig(**EVERYTHING)))
    assert differ(run(name, model), output)
    assert remove_techniques(model) is model
    assert_same_weights(model.state_dict(), weights)
    assert torch.equal(run(name, model), output)
    assert type(model) is kind and model.config.to_dict() == config
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert list(technique_parameters(model)) == []
    assert not any({"token_mask", "techniques"} & set(vars(module)) for module in model.modules())


@each_model
def test_only_the_layers_of_the_vision_model_get_parameters(name):
    model = plain(name)
    before = set(dict(model.named_parameters()))
    apply_techniques(model, TechniqueConfig(**EVERYTHING))
    added = {key: parameter for key, parameter in model.named_parameters() if key not in before}
    in_layers = [
        parameter for layer in layers_of(name, model) for key, parameter in layer.named_parameters() if is_scale(key)
    ]
    assert {id(parameter) for parameter in added.values()} == {id(parameter) for parameter in in_layers}
    assert {id(parameter) for parameter in technique_parameters(model)} == {id(parameter) for parameter in in_layers}
    assert len(in_layers) == 4 * len(layers_of(name, model))
    assert all(is_scale(key) for key in added)


@each_model
def test_techniques_can_be_applied_again_after_their_removal(name):
    model = with_techniques(name)
    expected = run(name, model)
    remove_techniques(model)
    apply_techniques(model, TechniqueConfig(**EVERYTHING))
    randomise_scales_(model)
    assert_close(run(name, model), expected, rtol=0, atol=1e-6)


def test_two_models_in_one_process_keep_their_own_settings():
    alone = {key: run("vit", with_techniques("vit", **fields)) for key, fields in settings_for("vit").items()}
    models = {key: with_techniques("vit", **fields) for key, fields in settings_for("vit").items()}
    for key, model in models.items():
        assert torch.equal(run("vit", model), alone[key])
    remove_techniques(models["all-mlp_end"])
    assert torch.equal(run("vit", models["all-mlp_mid"]), alone["all-mlp_mid"])


# attention implementations


@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip-vision", "swin", "clip"])
def test_attn_scale_stays_when_the_attention_implementation_changes(name):
    model = with_techniques(name, attn_scale=True)
    expected, without = run(name, model), run(name, plain(name))
    for implementation in ("eager", "sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        assert_close(run(name, model), expected, **CLOSE)
    assert differ(expected, without)


@pytest.mark.parametrize("name", ["vit", "dinov2", "siglip-vision", "dinov3", "beit"])
def test_attentions_are_the_softmax_attention(name):
    model = with_techniques(name)
    model.set_attn_implementation("eager")
    attentions = run_for_attentions(name, model)
    assert len(attentions) == len(layers_of(name, model))
    for attention in attentions:
        assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    stock = plain(name)
    stock.set_attn_implementation("eager")
    assert torch.equal(attentions[0], run_for_attentions(name, stock)[0])
    assert differ(attentions[-1], run_for_attentions(name, stock)[-1])


def run_for_attentions(name, model):
    with torch.no_grad():
        return model(pixel_values=tiny_images(), output_attentions=True, **CASES[name].inputs).attentions


# masks


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MASKED)
def test_masked_tokens_take_part_in_no_mean(name, implementation, monkeypatch):
    num_tokens = layer_outputs(name, plain(name))[0].shape[1]
    mask, model, stock = random_mask(num_tokens=num_tokens), with_techniques(name), plain(name)
    model.set_attn_implementation(implementation)
    actual = layer_outputs(name, model, attention_mask=mask)
    make_literal(name, stock, TechniqueConfig(**EVERYTHING), scales_of(name, model), monkeypatch, mask)
    expected = layer_outputs(name, stock, attention_mask=mask)
    assert_close(actual, expected, **CLOSE)
    assert differ(actual[-1], layer_outputs(name, model)[-1])


def test_a_mask_does_not_outlive_its_forward_pass():
    model = with_techniques("vit")
    before = run("vit", model)
    run("vit", model, attention_mask=random_mask())
    assert torch.equal(run("vit", model), before)


def test_layers_without_techniques_take_masks_too():
    model = with_techniques("vit", **EVERYTHING, apply_layers=[1])
    masked = run("vit", model, attention_mask=random_mask())
    assert differ(masked, run("vit", model))


# ViT-CB


COMBINATIONS = [
    {"context_broadcast": broadcast, "context_broadcast_position": position, "attn_scale": attn, "feat_scale": feat}
    for broadcast, position, attn, feat in itertools.product(
        [None, "plain", "scaled"], POSITIONS, [False, True], [False, True]
    )
    if broadcast is not None or position == "mlp_end"
]


def with_weights_of_vit_cb(vit_cb, fields):
    """HF's ViT with the same techniques and the same weights."""
    model = apply_techniques(ViTForImageClassification(tiny_vit_config()), TechniqueConfig(**fields)).eval()
    weights = {}
    for key, tensor in vit_cb.state_dict().items():
        if is_scale(key):
            layer, scale = key.split(".")[2], key.rpartition(".")[2]
            (key,) = (
                own for own in model.state_dict() if own.startswith(f"vit.layers.{layer}.") and own.endswith(scale)
            )
        weights[key] = tensor
    model.load_state_dict(weights, strict=True)
    return model


@pytest.mark.parametrize("fields", COMBINATIONS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_techniques_on_vit_equal_vit_cb(fields, images64):
    # in float64, since ViT-CB sums in another order
    vit_cb = randomise_(ViTCBForImageClassification(tiny_config(**fields))).double()
    model = with_weights_of_vit_cb(vit_cb, fields).double()
    with torch.no_grad():
        for arguments in ({}, {"attention_mask": random_mask()}):
            expected = vit_cb(images64, **arguments).logits
            assert_close(model(images64, **arguments).logits, expected, rtol=0, atol=1e-12)


def test_techniques_on_vit_have_the_gradients_of_vit_cb(images):
    vit_cb = randomise_(ViTCBForImageClassification(tiny_config(**EVERYTHING)))
    model = with_weights_of_vit_cb(vit_cb, EVERYTHING)
    labels = torch.tensor([1, 4])
    for one in (model, vit_cb):
        one(images, labels=labels, attention_mask=random_mask()).loss.backward()
    scales = [
        sorted((key.split(".")[2], key.rpartition(".")[2]) for key, _ in m.named_parameters() if is_scale(key))
        for m in (model, vit_cb)
    ]
    assert scales[0] == scales[1]
    sums = [sum(p.grad.double().pow(2).sum() for k, p in m.named_parameters() if is_scale(k)) for m in (model, vit_cb)]
    assert_close(*sums, rtol=1e-5, atol=0)


# copies


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "swin"])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_techniques_of_its_own(duplicate, name):
    model = with_techniques(name)
    expected, without = run(name, model), run(name, plain(name))
    other = duplicate(model)
    assert torch.equal(run(name, other), expected)
    for implementation in ("eager", "sdpa"):
        other.set_attn_implementation(implementation)
        assert_close(run(name, other), expected, **CLOSE)
    with torch.no_grad():
        for parameter in technique_parameters(other):
            parameter.zero_()
    assert_close(run(name, other), without, rtol=0, atol=1e-6)
    assert_close(run(name, remove_techniques(other)), without, rtol=0, atol=1e-6)
    assert torch.equal(run(name, model), expected)


def test_a_whole_model_survives_torch_save():
    model, file = with_techniques("dinov2"), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(run("dinov2", torch.load(file, weights_only=False)), run("dinov2", model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@each_model
def test_the_techniques_follow_the_model_into_another_dtype(name, dtype):
    if dtype == torch.bfloat16 and name in ("vit-mae", "clip", "siglip") or name.startswith("upernet"):
        pytest.skip("its parts outside the vision model do not")
    model = with_techniques(name).to(dtype)
    assert all(parameter.dtype == dtype for parameter in technique_parameters(model))
    output = layer_outputs(name, model)[0]
    assert output.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    assert_close(output.float(), layer_outputs(name, with_techniques(name))[0], rtol=tolerance, atol=tolerance)


# mistakes


BAD_VALUES = [
    {"context_broadcast": "full"},
    {"context_broadcast": True},
    {"context_broadcast_position": "mlp"},
    {"context_broadcast_position": None},
    {"attn_scale": 1},
    {"attn_scale": "yes"},
    {"feat_scale": None},
    {"apply_layers": "all"},
    {"apply_layers": 3},
    {"apply_layers": [0, 0]},
    {"apply_layers": [-1]},
    {"apply_layers": [0.5]},
]


@pytest.mark.parametrize("fields", BAD_VALUES, ids=str)
def test_a_bad_value_is_the_error_of_vit_cbs_configuration(fields):
    with pytest.raises(ValueError) as expected:
        tiny_config(**fields)
    with pytest.raises(ValueError) as error:
        TechniqueConfig(**fields)
    assert str(error.value) == str(expected.value) and type(error.value) is type(expected.value)
    config = TechniqueConfig()
    with pytest.raises(ValueError):
        setattr(config, *next(iter(fields.items())))


def test_the_configuration_has_vit_cbs_fields_and_everything_off():
    config = TechniqueConfig()
    assert config.to_dict() == {
        "context_broadcast": None,
        "context_broadcast_position": "mlp_end",
        "attn_scale": False,
        "feat_scale": False,
        "apply_layers": None,
    }
    assert TechniqueConfig.from_fields({"attn_scale": True, "hidden_size": 3}) == TechniqueConfig(attn_scale=True)
    assert TechniqueConfig(apply_layers=(0, 2)).to_dict()["apply_layers"] == [0, 2]


def two_vision_models():
    return torch.nn.ModuleList([plain("vit"), plain("swin")])


def with_techniques_on_its_part(name, part):
    model = plain(name)
    apply_techniques(model.get_submodule(part), TechniqueConfig(feat_scale=True))
    return model


ON = TechniqueConfig(attn_scale=True)
CB_MID = TechniqueConfig(context_broadcast="scaled", context_broadcast_position="mlp_mid")
MISTAKES = {
    "twice": (lambda: with_techniques("vit"), lambda m: apply_techniques(m, ON), "has techniques already"),
    "twice, on a part": (lambda: with_techniques("clip"), lambda m: apply_techniques(m.vision_model, ON), "already"),
    "twice, on the whole": (
        lambda: with_techniques_on_its_part("clip", "vision_model"),
        lambda m: apply_techniques(m, ON),
        "already",
    ),
    "nothing to remove": (lambda: plain("vit"), remove_techniques, "has no techniques"),
    "another architecture": (
        lambda: ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)),
        lambda m: apply_techniques(m, ON),
        "aimv2_vision_model, beit, clip_vision_model, deit, dinov2",
    ),
    "a text model": (lambda: plain("clip").text_model, lambda m: apply_techniques(m, ON), "of type clip_text_model"),
    "no model of transformers": (lambda: torch.nn.Linear(2, 2), lambda m: apply_techniques(m, ON), "Linear neither"),
    "ViT-CB": (
        lambda: ViTCBForImageClassification(tiny_config()),
        lambda m: apply_techniques(m, ON),
        "ViT-CB has the techniques built in",
    ),
    "two vision models": (two_vision_models, lambda m: apply_techniques(m, ON), "2 vision transformers"),
    "a dictionary": (lambda: plain("vit"), lambda m: apply_techniques(m, {"attn_scale": True}), "got dict"),
    "a layer too many": (
        lambda: plain("dinov2"),
        lambda m: apply_techniques(m, TechniqueConfig(attn_scale=True, apply_layers=[3])),
        "from 0 to 2 (Dinov2Model has 3 layers), got 3",
    ),
    "a layer too many, in stages": (
        lambda: plain("swin"),
        lambda m: apply_techniques(m, TechniqueConfig(attn_scale=True, apply_layers=[0, 4])),
        "from 0 to 3",
    ),
    "inside a gated MLP": (lambda: plain("aimv2"), lambda m: apply_techniques(m, CB_MID), "Aimv2MLP"),
    "inside a SwiGLU": (lambda: plain("dinov2-swiglu"), lambda m: apply_techniques(m, CB_MID), "Dinov2SwiGLUFFN"),
    "a mask of another length": (
        lambda: with_techniques("vit"),
        lambda m: run("vit", m, attention_mask=torch.ones(2, 16)),
        "(2, 17), (batch, tokens), got (2, 16)",
    ),
    "a mask for each query": (
        lambda: with_techniques("vit"),
        lambda m: run("vit", m, attention_mask=torch.ones(2, 1, 17, 17).bool()),
        "(batch, tokens) where ViTModel has techniques, got (2, 1, 17, 17)",
    ),
    "a mask for who takes none": (
        lambda: with_techniques("siglip-vision"),
        lambda m: run("siglip-vision", m, attention_mask=torch.ones(2, 16)),
        "SiglipVisionModel takes no `attention_mask`",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_an_error_that_says_what_came_and_leaves_the_model_as_it_was(case):
    build, mistake, named = MISTAKES[case]
    model = build()
    before = weights_of(model)
    with pytest.raises(ValueError) as error:
        mistake(model)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert_same_weights(model.state_dict(), before)


@each_model
def test_techniques_that_are_off_change_nothing(name):
    for config in (TechniqueConfig(), TechniqueConfig(**EVERYTHING, apply_layers=[])):
        model = plain(name)
        weights, output = weights_of(model), run(name, model)
        apply_techniques(model, config)
        assert torch.equal(run(name, model), output)
        assert_same_weights(model.state_dict(), weights)
        remove_techniques(model)
