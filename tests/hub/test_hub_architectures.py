"""Pushing models of other architectures than ViT-CB, which go to the Hub another way."""

import pytest

from command_lines import refusal


MISTAKES = {
    "with techniques": ("dinov2-with", "share the techniques alone with `hf_cb.push_techniques_to_hub`"),
    "without": ("dinov2", "holds a model of type 'dinov2': push that with the model's own `push_to_hub`"),
}


@pytest.mark.parametrize(("model", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_model_of_another_architecture_is_refused_in_one_line(model, said, architectures, capsys):
    given = ["--model_dir", architectures / model, "--hub_model_id", "ann/x", "--dry_run"]
    assert said in refusal("push_to_hub", given, capsys)
