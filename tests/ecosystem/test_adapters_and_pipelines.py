"""PEFT's adapters and transformers' pipelines take ViT-CB as they take ViT."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModel, ViTImageProcessor, pipeline

from helpers import is_scale, tiny_images
from hf_cb import ViTCBForImageClassification, ViTCBModel
from models_with_everything import CASES, ROUNDING, build, differ, run


LABELS = torch.tensor([1, 4])

each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)


# PEFT


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


TECHNIQUES = ["attn_scale", "feat_scale", "cb", "classifier"]


def with_lora(peft, **fields):
    """A classifier with adapters on every projection, its techniques and head trained whole, after two steps."""
    settings = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj", "fc1", "fc2"], modules_to_save=TECHNIQUES, init_lora_weights=False
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(build(**fields), settings).train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(tiny_images(), labels=LABELS).loss.backward()
        optimiser.step()
    return model.eval()


def logits_of(model, images):
    # called as PEFT's users call it, by name
    with torch.no_grad():
        return model(pixel_values=images).logits


@each_case
def test_lora_trains_the_adapters_the_scales_and_the_head(fields, peft):
    model, base = with_lora(peft, **fields), dict(build(**fields).named_parameters())
    scales = {name for name in base if is_scale(name)}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum("lora_" in name for name in trained) == 3 * 4 * 2
    whole = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", ""): parameter
        for name, parameter in trained.items()
        if "lora_" not in name
    }
    assert set(whole) == scales | {"classifier.weight", "classifier.bias"}
    assert all(differ(parameter, base[name]) for name, parameter in whole.items())


@each_case
def test_an_adapter_saves_and_loads(fields, images, peft, tmp_path):
    model = with_lora(peft, **fields)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(build(**fields), tmp_path).eval()
    assert_close(logits_of(loaded, images), logits_of(model, images), **ROUNDING)
    assert differ(logits_of(build(**fields), images), logits_of(model, images))


@each_case
def test_a_merged_adapter_is_a_vit_cb_again(fields, images, peft, tmp_path):
    model = with_lora(peft, **fields)
    expected = logits_of(model, images)
    merged = model.merge_and_unload()
    assert type(merged) is ViTCBForImageClassification
    assert set(merged.state_dict()) == set(build(**fields).state_dict())
    assert_close(logits_of(merged, images), expected, **ROUNDING)
    merged.save_pretrained(tmp_path)
    assert_close(run(ViTCBForImageClassification.from_pretrained(tmp_path), images), expected, **ROUNDING)


# pipelines


@pytest.fixture
def folder(tmp_path):
    names = ["cat", "dog", "fox", "hen", "owl"]
    model = build(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def photos():
    pixels = np.random.default_rng(0).integers(256, size=(2, 20, 30, 3), dtype=np.uint8)
    return [Image.fromarray(photo) for photo in pixels]


def pixels_of(folder, photos):
    return AutoImageProcessor.from_pretrained(folder)(photos, return_tensors="pt")["pixel_values"]


def test_the_classification_pipeline_gives_the_probabilities_of_the_model(folder, photos):
    answers = pipeline("image-classification", model=str(folder), device="cpu")(photos, top_k=5)
    model = ViTCBForImageClassification.from_pretrained(folder)
    probabilities = run(model, pixels_of(folder, photos)).softmax(-1)
    for answer, expected in zip(answers, probabilities, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert [scores[name] for name in model.config.label2id] == pytest.approx(expected.tolist(), abs=1e-5)
    assert differ(*probabilities)


def test_the_feature_pipeline_gives_the_tokens_of_the_model(folder, photos):
    features = pipeline("image-feature-extraction", model=str(folder), device="cpu")(photos)
    model = AutoModel.from_pretrained(folder)
    assert type(model) is ViTCBModel
    assert_close(torch.tensor(features).squeeze(1), run(model, pixels_of(folder, photos)), **ROUNDING)
