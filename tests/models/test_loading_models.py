"""Loading any model: what comes, what in it is new, and how often its configuration is read."""

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hf_cb
from architectures import DIGITS, pictures, state
from helpers import is_scale, randomise_, tiny_vit_config
from hf_cb import TechniqueConfig, ViTCBForImageClassification, apply_techniques
from hf_cb.analysis.models import AnalyzedModel
from hf_cb.errors import UsageError
from hf_cb.models.classifier import load_classifier
from hf_cb.models.heads import load_for_labels, train_only_techniques
from hf_cb.models.loaded import Loaded
from hf_cb.models.loading import load
from hf_cb.models.lora import add_lora, load_adapter
from technique_models import randomise_scales_


@pytest.mark.parametrize("name", ["dinov2", "deit-distilled", "resnet", "vit-cb"])
def test_a_head_of_the_same_classes_is_put_in_the_datas_order(name, architectures):
    classifier = load_classifier(str(architectures / name))
    loaded, lines = load_for_labels(str(architectures / name), DIGITS[::-1])
    assert not loaded.new_head and "the head's classes are put in the data's order." in lines
    with torch.no_grad():
        logits = loaded.model.eval()(pixel_values=2 * pictures() - 1).logits
        assert_close(logits, classifier(pictures()).flip(1), rtol=1e-5, atol=1e-5)


def test_a_new_head_can_be_refused(architectures):
    loaded, lines = load_for_labels(str(architectures / "dinov2"), ["cat", "dog"])
    assert lines == ["new head for 2 classes."] and loaded.model.config.num_labels == 2
    with pytest.raises(ValueError, match="has a head for 10 classes and the data have 2"):
        load_for_labels(str(architectures / "dinov2"), ["cat", "dog"], new_head=False)


def test_a_vit_that_has_techniques_keeps_them(tmp_path, images):
    model = apply_techniques(randomise_(ViTForImageClassification(tiny_vit_config())), TechniqueConfig(feat_scale=True))
    randomise_scales_(model).save_pretrained(tmp_path)
    loaded = load_for_labels(str(tmp_path), [f"LABEL_{i}" for i in range(5)])[0].model
    with torch.no_grad():
        assert_close(loaded.eval()(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)
        hf_cb.remove_techniques(model)
        assert not torch.allclose(loaded(images).logits, model(images).logits, rtol=1e-3)


def test_a_new_head_that_is_not_trained_is_said(architectures):
    for labels, said in ((DIGITS, "parameters are trained."), (["cat", "dog"], "the new head stays random")):
        loaded, _ = load_for_labels(str(architectures / "dinov2"), labels, {"attn_scale": True})
        assert loaded.new_head == (labels != DIGITS) and said in train_only_techniques(loaded)


@pytest.mark.parametrize("name", ["dinov2", "vit", "vit-cb"])
def test_fixed_cb_can_be_added_to_what_is_evaluated(name, architectures):
    plain, broadcast = (
        load_classifier(str(architectures / name), techniques=fields)(pictures())
        for fields in ({}, {"context_broadcast": "plain", "apply_layers": [1]})
    )
    if name == "vit-cb":
        overrides = {"context_broadcast": "plain", "apply_layers": [1]}
        model = ViTCBForImageClassification.from_pretrained(architectures / name, **overrides).eval()
    else:
        config = TechniqueConfig(context_broadcast="plain", apply_layers=[1])
        model = apply_techniques(hf_cb.from_pretrained(architectures / name), config).eval()
    with torch.no_grad():
        assert_close(broadcast, model(pixel_values=2 * pictures() - 1).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, broadcast, rtol=1e-2)


def test_scales_that_are_new_in_a_vit_cb_start_at_0(architectures):
    plain = load_classifier(str(architectures / "vit-cb"))
    scaled = load_classifier(str(architectures / "vit-cb"), techniques={"feat_scale": True})
    # beside an AttnScale that has learnt, FeatScale at 0 changes the order of the sums: equal in float64
    pixel_values = plain.scale(pictures()).double()
    logits = [one.model.double()(pixel_values=pixel_values).logits for one in (scaled, plain)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)


# what in a model is new


def test_what_the_files_lack_and_hold_is_told_by_fields(architectures, tmp_path):
    folder = str(architectures / "vit-cb")
    loaded = load(folder)
    assert loaded == Loaded(loaded.model)
    loaded = load(folder, techniques={"feat_scale": True, "attn_scale": False})
    assert len(loaded.new_scales) == 3 * 2 and len(loaded.unexpected) == 3
    assert not loaded.missing and not loaded.mismatched and not loaded.new_head and loaded.anew() == []
    loaded = load(folder, num_labels=4, ignore_mismatched_sizes=True)
    assert [key[0] for key in loaded.mismatched] == ["classifier.bias", "classifier.weight"] == loaded.anew()
    assert loaded.new_head and loaded.anew(but_a_head=True) == loaded.anew(but=["classifier."]) == []
    loaded = load(architectures / "dinov2", techniques={"attn_scale": True})
    assert len(loaded.new_scales) == 3 and not loaded.missing


def test_the_pair_of_transformers_is_what_transformers_gives(architectures):
    for name, fields in (("dinov2", {"num_labels": 3}), ("vit", {"num_hidden_layers": 2}), ("vit-cb", {})):
        arguments = {**fields, "ignore_mismatched_sizes": True, "output_loading_info": True}
        auto = AutoModelForImageClassification
        (mine, info), (theirs, expected) = (
            load.from_pretrained(architectures / name, *more, **arguments)
            for load, more in ((hf_cb, [auto]), (auto, []))
        )
        assert info == expected and type(mine) is type(theirs)


def test_scales_that_a_configuration_names_must_be_there_unless_they_are_asked_for(architectures, tmp_path):
    shutil.copytree(architectures / "vit-cb", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "feat_scale": True}))
    with pytest.raises(UsageError, match="its weights lack vit.layers.0.feat_scale.dc_scale"):
        load_classifier(str(tmp_path))
    assert load_classifier(str(tmp_path), techniques={"feat_scale": True}).label_names == DIGITS


DAMAGED = {
    "a size in words": {"hidden_size": "many"},
    "labels in a list": {"id2label": ["cat"]},
}


@pytest.mark.parametrize("fields", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("how", [load, lambda folder: load_for_labels(str(folder), DIGITS)], ids=["use", "training"])
def test_a_damaged_configuration_is_one_sentence_with_the_models_name(how, fields, architectures, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(architectures / "dinov2", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(UsageError, match="damaged") as error:
        how(folder)
    assert "\n" not in str(error.value)


# the classes that a model can be had in

AUTO = {
    "the base of a model with techniques": ("dinov2-with", AutoModel, "Dinov2Model"),
    "its classifier": ("dinov2-with", AutoModelForImageClassification, "Dinov2ForImageClassification"),
    "its backbone": ("dinov2-with", AutoBackbone, "Dinov2Backbone"),
    "a plain backbone": ("dinov2", AutoBackbone, "Dinov2Backbone"),
    "the base of a ViT-CB": ("vit-cb", AutoModel, "ViTCBModel"),
    "the backbone of a ViT-CB": ("vit-cb", AutoBackbone, "ViTCBBackbone"),
    "a tower with a head": ("siglip", AutoModel, "SiglipForImageClassification"),
    "the class among several that was saved": (
        "deit-distilled",
        AutoModelForImageClassification,
        "DeiTForImageClassificationWithTeacher",
    ),
}


@pytest.mark.parametrize(("name", "auto", "expected"), AUTO.values(), ids=AUTO)
def test_an_auto_class_gives_its_class_with_the_techniques(name, auto, expected, architectures):
    model, info = hf_cb.from_pretrained(architectures / name, auto, output_loading_info=True)
    saved = state(architectures / name)
    assert type(model).__name__ == expected and not {key for key in info["missing_keys"] if "pooler" not in key}
    scales = {key: value for key, value in saved.items() if is_scale(key)}
    found = {key: value for key, value in model.state_dict().items() if is_scale(key)}
    assert len(found) == len(scales)
    assert all(any(torch.equal(value, other) for other in scales.values()) for value in found.values())


def test_an_auto_class_that_has_no_such_model_says_so(architectures):
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        hf_cb.from_pretrained(architectures / "siglip-vision", AutoModelForImageClassification)
    with pytest.raises(UsageError, match="siglip-vision' cannot be loaded: Unrecognized configuration class"):
        load(architectures / "siglip-vision", AutoModelForImageClassification)


@pytest.mark.parametrize("name", ["dinov2", "vit-cb"])
def test_techniques_can_be_given_as_they_are(name, architectures):
    config = TechniqueConfig(context_broadcast="plain", feat_scale=True)
    images = 2 * pictures() - 1
    mine, theirs = (
        hf_cb.from_pretrained(architectures / name, techniques=techniques).eval()(images).logits
        for techniques in (config, config.to_dict())
    )
    plain = hf_cb.from_pretrained(architectures / name).eval()(images).logits
    assert torch.equal(mine, theirs) and not torch.allclose(mine, plain, rtol=1e-2)


# adapters


@pytest.fixture(scope="module")
def adapters(architectures, tmp_path_factory):
    """Adapters of three architectures, as fine-tuning writes them."""
    pytest.importorskip("peft")
    place = tmp_path_factory.mktemp("adapters")
    for name in ("vit", "siglip", "dinov2"):
        loaded, _ = load_for_labels(str(architectures / name), DIGITS, {"context_broadcast": None, "attn_scale": True})
        adapter = randomise_(add_lora(loaded.model, rank=2, alpha=4.0))
        adapter.peft_config["default"].base_model_name_or_path = str(architectures / name)
        adapter.save_pretrained(place / name)
        adapter.base_model.model.config.save_pretrained(place / name)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / name)
    return place


@pytest.mark.parametrize(("name", "base"), [("vit", "ViTCBModel"), ("siglip", None), ("dinov2", "Dinov2Model")])
def test_an_adapter_comes_merged_into_its_base(name, base, adapters):
    expected = load_adapter(adapters / name).merge_and_unload().eval()
    images = 2 * pictures() - 1
    for auto in (None, AutoModelForImageClassification, type(expected)):
        model = hf_cb.from_pretrained(adapters / name, auto).eval()
        with torch.no_grad():
            assert type(model) is type(expected) and torch.equal(model(images).logits, expected(images).logits)
    below = hf_cb.from_pretrained(adapters / name, AutoModel).eval()
    assert base in (None, type(below).__name__) and below.main_input_name == "pixel_values"
    with pytest.raises(UsageError, match=f"is an adapter of a {type(expected).__name__}, and no AutoBackbone"):
        hf_cb.from_pretrained(adapters / name, AutoBackbone)
    with pytest.raises(UsageError, match="is an adapter: leave out --attn_scale"):
        load_classifier(str(adapters / name), techniques={"attn_scale": True})


# how often config.json is read

opened: list[str] | None = None


def note(event, arguments):
    if event == "open" and opened is not None and isinstance(arguments[0], (str, Path)):
        opened.append(os.path.realpath(arguments[0]))


# a hook stays as long as the process
sys.addaudithook(note)

READERS = {
    "a plain ViT to train": lambda place, _: load_for_labels(str(place / "vit"), DIGITS),
    "a ViT-CB to train": lambda place, _: load_for_labels(str(place / "vit-cb"), DIGITS, {"image_size": 32}),
    "a DINOv2 with techniques to train": lambda place, _: load_for_labels(str(place / "dinov2-with"), DIGITS),
    "a DINOv2 that gets techniques": lambda place, _: load_for_labels(
        str(place / "dinov2"), ["a", "b"], {"attn_scale": True}
    ),
    "a ViT-CB": lambda place, _: hf_cb.from_pretrained(place / "vit-cb"),
    "a ViT-CB by an Auto class": lambda place, _: hf_cb.from_pretrained(place / "vit-cb", AutoModel),
    "a DINOv2 with techniques": lambda place, _: hf_cb.from_pretrained(place / "dinov2-with"),
    "the same by an Auto class": lambda place, _: hf_cb.from_pretrained(place / "dinov2-with", AutoModel),
    "a tower with a head": lambda place, _: hf_cb.from_pretrained(place / "siglip", AutoModel),
    "an adapter of a ViT-CB": lambda _, place: hf_cb.from_pretrained(place / "vit"),
    "an adapter of a SigLIP": lambda _, place: hf_cb.from_pretrained(place / "siglip"),
    "an adapter to evaluate": lambda _, place: load_classifier(str(place / "vit")),
    "a ViT-CB to evaluate": lambda place, _: load_classifier(str(place / "vit-cb"), techniques={"feat_scale": True}),
    "a DINOv2 to evaluate": lambda place, _: load_classifier(str(place / "dinov2"), techniques={"feat_scale": True}),
    "a model to analyse": lambda place, _: AnalyzedModel.from_pretrained(str(place / "dinov2-with")),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_configuration_is_read_at_most_twice(read, architectures, adapters, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "opened", [])
    read(architectures, adapters)
    counts = Counter(path for path in opened if Path(path).name == "config.json")
    assert counts and max(counts.values()) <= 2, counts
