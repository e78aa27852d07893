"""The models against the outputs of the published code, https://arxiv.org/abs/2203.05962; see `goldens/README.md`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from hf_cb import ViTCBConfig, ViTCBForImageClassification


FOLDER = Path(__file__).parents[1] / "goldens"
TOLERANCE = {"rtol": 0, "atol": 2e-5}
# the released DeiT code adds FeatScale's two parts twice; the paper has a gain of 1
PUBLISHED_GAIN = 2

FAMILIES = {
    "vit_plain": {},
    "deit_attnscale": {"attn_scale": True},
    "deit_featscale": {"feat_scale": True},
}
# names in the published checkpoints and in ours; queries, keys and values are stacked there
OUTSIDE_BLOCKS = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}
INSIDE_BLOCKS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "attn.lamb": "attention.attn_scale.omega",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "lamb1": "feat_scale.dc_scale",
    "lamb2": "feat_scale.hc_scale",
}


def read(family):
    """The tensors by key and the hyper-parameters of a golden file."""
    with safe_open(FOLDER / f"{family}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, {name: json.loads(text) for name, text in file.metadata().items()}


def config_of(parameters, **techniques):
    return ViTCBConfig(
        context_broadcast=None,
        image_size=parameters["img_size"],
        patch_size=parameters["patch_size"],
        hidden_size=parameters["embed_dim"],
        num_hidden_layers=parameters["depth"],
        num_attention_heads=parameters["num_heads"],
        intermediate_size=int(parameters["embed_dim"] * parameters["mlp_ratio"]),
        num_labels=parameters["num_classes"],
        qkv_bias=parameters["qkv_bias"],
        layer_norm_eps=parameters["norm_eps"],
        **techniques,
    )


def renamed(name, tensor, feature_gain):
    """One published tensor as (name, tensor) pairs of ours."""
    if not name.startswith("blocks."):
        stem = next(stem for stem in OUTSIDE_BLOCKS if name == stem or name.startswith(f"{stem}."))
        return [(OUTSIDE_BLOCKS[stem] + name.removeprefix(stem), tensor)]
    _, index, inside = name.split(".", 2)
    prefix = f"vit.layers.{index}."
    if inside.startswith("attn.qkv."):
        kind = inside.removeprefix("attn.qkv.")
        return [
            (f"{prefix}attention.{part}_proj.{kind}", rows) for part, rows in zip("qkv", tensor.chunk(3), strict=True)
        ]
    stem = next(stem for stem in INSIDE_BLOCKS if inside == stem or inside.startswith(f"{stem}."))
    if inside in ("lamb1", "lamb2"):
        tensor = feature_gain * tensor
    return [(prefix + INSIDE_BLOCKS[stem] + inside.removeprefix(stem), tensor)]


def outputs(family, attention="sdpa", feature_gain=PUBLISHED_GAIN):
    """What our model computes with a golden file's weights, and what the file holds: logits and hidden states."""
    tensors, parameters = read(family)
    model = ViTCBForImageClassification(config_of(parameters, **FAMILIES[family])).eval()
    model.set_attn_implementation(attention)
    published = {key.removeprefix("state_dict."): tensors[key] for key in tensors if key.startswith("state_dict.")}
    weights = [pair for name in published for pair in renamed(name, published[name], feature_gain)]
    model.load_state_dict(dict(weights), strict=True)
    with torch.no_grad():
        actual = model(tensors["input"], output_hidden_states=True)
    hidden = [tensors[f"hidden.{index}"] for index in range(parameters["depth"])]
    return actual.logits, tensors["logits"], list(actual.hidden_states[1:]), hidden


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_equal_those_of_the_published_code(family, attention):
    logits, expected_logits, hidden, expected_hidden = outputs(family, attention)
    assert_close(logits, expected_logits, **TOLERANCE)
    assert_close(hidden, expected_hidden, **TOLERANCE)


def test_a_feature_gain_of_1_does_not_reproduce_the_published_code():
    logits, expected_logits, hidden, expected_hidden = outputs("deit_featscale", feature_gain=1)
    assert (logits - expected_logits).abs().max() > 0.1
    assert (hidden[0] - expected_hidden[0]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["deit_attnscale", "deit_featscale"])
def test_without_its_technique_a_golden_is_missed(family, monkeypatch):
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES[family], "apply_layers": [0, 1]})
    load = ViTCBForImageClassification.load_state_dict
    monkeypatch.setattr(
        ViTCBForImageClassification, "load_state_dict", lambda self, weights, strict: load(self, weights, strict=False)
    )
    logits, expected_logits, hidden, expected_hidden = outputs(family)
    assert_close(hidden[:2], expected_hidden[:2], **TOLERANCE)
    assert (logits - expected_logits).abs().max() > 0.05


@pytest.mark.parametrize("family", ["deit_attnscale", "deit_featscale"])
def test_no_scale_of_a_golden_is_0(family):
    tensors, _ = read(family)
    scales = [tensor for name, tensor in tensors.items() if "lamb" in name]
    assert scales and min(scale.abs().min() for scale in scales) >= 0.05
