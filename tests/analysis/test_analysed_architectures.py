"""Analysing models of other architectures than ViT-CB, techniques added or not."""

import pytest
from torch.testing import assert_close
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from architectures import FEW, LABELS, call_analysis
from command_lines import refusal
from helpers import randomise_
from hf_cb import TechniqueConfig, apply_techniques
from hf_cb.analysis.models import AnalyzedModel
from reference import attn_scale
from technique_models import SWIN, randomise_scales_


def test_techniques_that_are_asked_for_are_analysed(tmp_path, architectures):
    analysed = call_analysis(architectures / "dinov2", tmp_path / "analysis", "--attn_scale", "--apply_layers", "1")
    assert analysed["effective_attention"]["omega"] == {"2": [0.0, 0.0, 0.0]}


def test_the_windows_of_a_layer_have_the_same_omega(images):
    config = SwinConfig(**{**SWIN, "depths": [1, 1]}, **LABELS)
    model = apply_techniques(randomise_(SwinForImageClassification(config)), TechniqueConfig(attn_scale=True))
    analysed = AnalyzedModel(randomise_scales_(model), ViTImageProcessor(), "swin")
    outputs = analysed.run(images)
    assert analysed.why_omegas_are_left_out(outputs) is None
    scaled = outputs.with_effective_attention(analysed.omegas)
    for layer, omega in analysed.omegas.items():
        windows = outputs.attentions[layer].unflatten(1, (-1, len(omega)))
        expected = attn_scale(windows.flatten(0, 1), omega).unflatten(0, windows.shape[:2]).flatten(1, 2)
        assert_close(scaled.attentions[layer], expected, rtol=1e-5, atol=1e-6)


def test_omegas_that_belong_to_no_map_are_left_out_and_said(tmp_path, architectures):
    analysed = call_analysis(architectures / "swin", tmp_path, "--attn_scale")
    assert analysed["left_out"]["effective_attention"] == "the model returns attention maps of 2 of its 4 layers"
    assert "effective_attention" not in analysed


MISTAKES = {
    "techniques on a ResNet": ("resnet", ["--attn_scale"], "the model type must be one of aimv2_vision_model"),
    "techniques twice": ("dinov2-with", ["--attn_scale"], "leave out --attn_scale."),
}


@pytest.mark.parametrize(("model", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(model, arguments, said, architectures, tmp_path, capsys):
    given = ["--model_name_or_path", architectures / model, "--output_dir", tmp_path / "out", *FEW, *arguments]
    assert said in refusal("analyze", given, capsys)
    assert list(tmp_path.iterdir()) == []
