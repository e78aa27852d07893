"""Checkpoints of plain ViT load whole, stay ViT-CB when saved, and say when their outputs change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)
from transformers.utils import logging

from helpers import is_scale, randomise_, save_in_module_layout, tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel


SDPA = {"rtol": 1e-6, "atol": 1e-6}
LAYOUTS = ["transformers-layout", "module-layout"]
OFF = {"context_broadcast": None}
ZERO_START = {
    "off": OFF,
    "attn_scale": {**OFF, "attn_scale": True},
    "feat_scale": {**OFF, "feat_scale": True},
    "cb_s": {"context_broadcast": "scaled"},
    "cb_s-mlp_mid": {"context_broadcast": "scaled", "context_broadcast_position": "mlp_mid"},
    "all": {"context_broadcast": "scaled", "attn_scale": True, "feat_scale": True},
}
# our class, its counterpart
PAIRS = {
    "classifier": (ViTCBForImageClassification, ViTForImageClassification),
    "base": (ViTCBModel, ViTModel),
    "masked-images": (ViTCBForMaskedImageModeling, ViTForMaskedImageModeling),
}

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_zero_start = pytest.mark.parametrize("fields", ZERO_START.values(), ids=ZERO_START)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Folders of plain ViT checkpoints by (kind, layout)."""
    root, folders = tmp_path_factory.mktemp("plain"), {}
    for kind, (_, vit_class) in PAIRS.items():
        model = randomise_(vit_class(tiny_vit_config()))
        folders[kind, LAYOUTS[0]] = root / kind / LAYOUTS[0]
        model.save_pretrained(folders[kind, LAYOUTS[0]])
        folders[kind, LAYOUTS[1]] = save_in_module_layout(model, root / kind / LAYOUTS[1])
    return folders


def load(model_class, folder, **fields):
    """The model in evaluation mode, and what was missing, unexpected or wrong."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True, **fields)
    return model.eval(), info


def assert_whole(info):
    """Nothing is missing but scales, which start at 0, and nothing is left over."""
    assert all(map(is_scale, info["missing_keys"])), info
    assert not info["unexpected_keys"] and not info["mismatched_keys"] and not info["error_msgs"], info


def test_the_two_layouts_name_their_tensors_differently(plain):
    old, new = (load_file(plain["classifier", layout] / "model.safetensors").keys() for layout in LAYOUTS)
    assert "vit.encoder.layer.0.attention.attention.query.weight" in old
    assert "vit.layers.0.attention.q_proj.weight" in new


@each_layout
@each_zero_start
def test_a_plain_classifier_loads_whole(fields, layout, plain):
    folder = plain["classifier", layout]
    ours, info = load(ViTCBForImageClassification, folder, **fields)
    assert_whole(info)
    assert bool(info["missing_keys"]) == (fields != OFF)
    expected = ViTForImageClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(ours.state_dict()[name], expected[name]) for name in expected)


@each_layout
@each_zero_start
def test_a_plain_classifier_keeps_its_logits_exactly_in_eager(fields, layout, plain, images):
    folder = plain["classifier", layout]
    ours, _ = load(ViTCBForImageClassification, folder, attn_implementation="eager", **fields)
    theirs = ViTForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    assert torch.equal(ours(images).logits, theirs(images).logits)


@each_layout
@each_zero_start
def test_a_plain_classifier_keeps_its_logits_under_sdpa(fields, layout, plain, images):
    folder = plain["classifier", layout]
    ours, _ = load(ViTCBForImageClassification, folder, attn_implementation="sdpa", **fields)
    theirs = ViTForImageClassification.from_pretrained(folder, attn_implementation="sdpa").eval()
    assert_close(ours(images).logits, theirs(images).logits, **SDPA)


@each_layout
@pytest.mark.parametrize("kind", ["base", "masked-images"])
def test_other_plain_models_load_whole_and_keep_their_outputs(kind, layout, plain, images):
    our_class, vit_class = PAIRS[kind]
    ours, info = load(our_class, plain[kind, layout], attn_implementation="eager", **OFF)
    assert_whole(info)
    theirs = vit_class.from_pretrained(plain[kind, layout], attn_implementation="eager").eval()
    assert torch.equal(first_output(ours, images), first_output(theirs, images))


def first_output(model, images):
    """Hidden states, logits or a reconstruction."""
    if "MaskedImage" in type(model).__name__:
        return model(images, bool_masked_pos=torch.arange(16).repeat(2, 1) % 3 == 0).reconstruction
    return model(images)[0]


@each_layout
def test_the_base_model_loads_from_a_classifier(layout, plain, images):
    folder = plain["classifier", layout]
    ours, info = load(ViTCBModel, folder, attn_implementation="eager", **OFF)
    assert info["missing_keys"] == {"pooler.dense.weight", "pooler.dense.bias"}
    assert info["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    theirs = ViTModel.from_pretrained(folder, attn_implementation="eager").eval()
    assert torch.equal(ours(images).last_hidden_state, theirs(images).last_hidden_state)


@each_layout
def test_a_classifier_takes_from_a_base_model_what_plain_vit_takes(layout, plain):
    # with transformers 5.9 that is nothing for the layout it writes itself
    ours, info = load(ViTCBForImageClassification, plain["base", layout], **OFF)
    theirs, expected = load(ViTForImageClassification, plain["base", layout])
    assert (info["missing_keys"], info["unexpected_keys"]) == (expected["missing_keys"], expected["unexpected_keys"])
    taken = theirs.state_dict().keys() - expected["missing_keys"]
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in taken)


def test_a_classifier_loads_whole_from_a_base_model_in_the_module_layout(plain, images):
    ours, info = load(ViTCBForImageClassification, plain["base", "module-layout"], **OFF)
    assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
    hidden = ViTModel.from_pretrained(plain["base", "module-layout"]).eval()(images).last_hidden_state
    assert_close(ours.vit(images).last_hidden_state, hidden, **SDPA)


@each_layout
@pytest.mark.parametrize("fields", [{}, {"attn_scale": True}], ids=["cb", "cb+attn_scale"])
def test_plain_cb_changes_the_logits_of_a_plain_classifier(fields, layout, plain, images):
    folder = plain["classifier", layout]
    ours, info = load(ViTCBForImageClassification, folder, **fields)
    assert_whole(info)
    theirs = ViTForImageClassification.from_pretrained(folder).eval()
    assert (ours(images).logits - theirs(images).logits).abs().max() > 0.01


@each_layout
def test_scales_that_a_checkpoint_lacks_are_exactly_0(layout, plain):
    model, info = load(ViTCBForImageClassification, plain["classifier", layout], **ZERO_START["all"])
    scales = {name: parameter for name, parameter in model.named_parameters() if is_scale(name)}
    # four for each of three layers
    assert info["missing_keys"] == scales.keys() and len(scales) == 12
    assert all(torch.equal(scale, torch.zeros_like(scale)) for scale in scales.values())


def test_scales_that_a_checkpoint_holds_are_loaded(tmp_path, images):
    model = randomise_(ViTCBForImageClassification(tiny_config(**ZERO_START["all"])))
    model.save_pretrained(tmp_path)
    loaded, info = load(ViTCBForImageClassification, tmp_path)
    assert not info["missing_keys"]
    assert_whole(info)
    assert all(scale.abs().min() > 0.05 for name, scale in loaded.named_parameters() if is_scale(name))
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_vit_cb_loads_from_the_module_layout_too(tmp_path, images):
    model = randomise_(ViTCBForImageClassification(tiny_config(**ZERO_START["all"])))
    loaded, info = load(ViTCBForImageClassification, save_in_module_layout(model, tmp_path / "saved"))
    assert not info["missing_keys"]
    assert_whole(info)
    assert torch.equal(loaded(images).logits, model(images).logits)


AUTO = {
    "classifier": AutoModelForImageClassification,
    "base": AutoModel,
    "masked-images": AutoModelForMaskedImageModeling,
}


@each_layout
@pytest.mark.parametrize("kind", AUTO)
def test_a_model_that_began_as_a_plain_vit_stays_vit_cb(kind, layout, plain, tmp_path, images):
    ours, _ = load(PAIRS[kind][0], plain[kind, layout], attn_scale=True)
    assert ours.config.model_type == "vit_cb"
    randomise_(ours, seed=1).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vit_cb"
    assert AutoConfig.from_pretrained(tmp_path).model_type == "vit_cb"
    again, info = load(AUTO[kind], tmp_path)
    assert type(again) is PAIRS[kind][0]
    assert again.config.context_broadcast == "plain" and again.config.attn_scale
    assert not info["missing_keys"]
    assert_whole(info)
    assert torch.equal(first_output(again, images), first_output(ours, images))


@each_layout
def test_another_number_of_labels_gives_a_new_head_and_keeps_the_rest(layout, plain):
    folder = plain["classifier", layout]
    ours, info = load(ViTCBForImageClassification, folder, num_labels=7, ignore_mismatched_sizes=True, **OFF)
    assert {key for key, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]
    assert ours.classifier.weight.shape == (7, 24) and ours.config.num_labels == 7
    assert torch.isfinite(ours.classifier.weight).all() and ours.classifier.weight.std() < 0.1
    expected = ViTForImageClassification.from_pretrained(folder).vit.state_dict()
    assert all(torch.equal(ours.vit.state_dict()[name], expected[name]) for name in expected)


def test_another_number_of_labels_is_refused_unless_asked_for(plain):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load(ViTCBForImageClassification, plain["classifier", LAYOUTS[0]], num_labels=7, **OFF)


@pytest.fixture
def warnings_of(caplog):
    """A function that loads a folder and returns every warning that any logger gave."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_warning()
    logging.enable_propagation()

    def load_and_listen(model_class, folder, **arguments):
        caplog.clear()
        model_class.from_pretrained(folder, **arguments)
        return [record.getMessage() for record in caplog.records]

    yield load_and_listen
    logging.disable_propagation()
    logging.set_verbosity(verbosity)


@each_layout
@pytest.mark.parametrize("kind", PAIRS)
def test_plain_cb_on_a_plain_vit_gives_exactly_one_warning(kind, layout, plain, warnings_of):
    (message,) = warnings_of(PAIRS[kind][0], plain[kind, layout])
    assert str(plain[kind, layout]) in message
    assert "`context_broadcast='plain'`" in message and "`context_broadcast=None`" in message
    assert "\n" not in message


def test_plain_cb_in_a_given_configuration_gives_the_warning_too(plain, warnings_of):
    folder = plain["classifier", LAYOUTS[0]]
    (message,) = warnings_of(ViTCBForImageClassification, folder, config=tiny_config())
    assert "`context_broadcast='plain'`" in message


@pytest.mark.parametrize(
    "fields", [OFF, {"apply_layers": []}, {**OFF, "attn_scale": True, "apply_layers": []}], ids=str
)
def test_a_plain_vit_without_a_technique_gives_no_warning(fields, plain, warnings_of):
    assert warnings_of(ViTCBForImageClassification, plain["classifier", LAYOUTS[0]], **fields) == []


@each_zero_start
def test_zero_started_techniques_give_no_warning_about_changed_outputs(fields, plain, warnings_of):
    messages = warnings_of(ViTCBForImageClassification, plain["classifier", LAYOUTS[0]], **fields)
    # transformers' own list of the scales that start anew is welcome
    assert not [message for message in messages if "context_broadcast" in message]
    assert not [message for message in messages if "scale" not in message and "omega" not in message]


def test_a_vit_cb_checkpoint_gives_no_warning(tmp_path, warnings_of):
    ViTCBForImageClassification(tiny_config()).save_pretrained(tmp_path)
    assert warnings_of(ViTCBForImageClassification, tmp_path) == []
    assert warnings_of(AutoModelForImageClassification, tmp_path) == []


IMPORT_SCRIPT = """
import socket, sys

def refuse(*arguments):
    raise AssertionError(f"import hf_cb opened a connection: {arguments}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
# what transformers' ViT brings along has its own to say, in some versions
from transformers import AutoConfig, ViTConfig, ViTModel
print("hf_cb from here", file=sys.stderr, flush=True)
import hf_cb
assert type(AutoConfig.for_model("vit_cb")) is hf_cb.ViTCBConfig
assert type(AutoConfig.for_model("vit")) is ViTConfig and ViTModel.__module__.startswith("transformers.")
"""


def test_import_prints_nothing_and_downloads_nothing(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("HF_HUB_OFFLINE")
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr.partition("hf_cb from here\n")[1:] == ("hf_cb from here\n", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
