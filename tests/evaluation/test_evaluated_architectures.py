"""Evaluating models of other architectures than ViT-CB, techniques added or not."""

import pytest

from architectures import FEW, call
from command_lines import refusal


def test_techniques_that_are_asked_for_are_evaluated(tmp_path, architectures):
    plain = call("evaluate_model", architectures / "dinov2", tmp_path / "plain")
    broadcast = call("evaluate_model", architectures / "dinov2", tmp_path / "cb", "--context_broadcast", "plain")
    assert plain["eval_loss"] != pytest.approx(broadcast["eval_loss"], abs=1e-3)
    assert broadcast["arguments"]["context_broadcast"] == "plain"


MISTAKES = {
    "techniques on a ResNet": ("resnet", ["--attn_scale"], "the model type must be one of aim"),
    "techniques twice": ("dinov2-with", ["--attn_scale"], "leave out --attn_scale."),
    "an unknown value": ("dinov2", ["--context_broadcast", "often"], "got 'often'"),
    "a value for a ViT-CB": ("vit-cb", ["--context_broadcast", "often"], "got 'often'"),
}


@pytest.mark.parametrize(("model", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(model, arguments, said, architectures, tmp_path, capsys):
    given = ["--model_name_or_path", architectures / model, "--output_dir", tmp_path / "out", *FEW, *arguments]
    assert said in refusal("evaluate_model", given, capsys)
    assert list(tmp_path.iterdir()) == []
