"""Fine-tuning models of other architectures than ViT-CB, with techniques and with LoRA."""

import shutil

import pytest
import torch
from torch.testing import assert_close

import hf_cb
from architectures import ALONE, TECHNIQUES, call, pictures, state
from command_lines import refusal
from hf_cb import technique_parameters
from hf_cb.models.classifier import load_classifier
from hf_cb.models.lora import load_adapter


@pytest.mark.parametrize("name", ["siglip", "beit", "swin", "deit", "deit-distilled"])
def test_a_fine_tuned_model_comes_back_with_the_logits_that_were_measured(name, tmp_path, architectures):
    results = call("finetune", architectures / name, tmp_path / "run", *TECHNIQUES)
    evaluated = call("evaluate_model", tmp_path / "run", tmp_path / "evaluation")
    few = call("evaluate_model", tmp_path / "run", tmp_path / "few", "--max_eval_samples", "20")
    assert few["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-5) != evaluated["eval_loss"]
    model = hf_cb.from_pretrained(tmp_path / "run").eval()
    assert type(model) is type(hf_cb.from_pretrained(architectures / name))
    assert all(parameter.abs().max() > 0 for parameter in technique_parameters(model))
    with torch.no_grad():
        expected = load_classifier(str(tmp_path / "run"))(pictures())
        assert_close(model(pixel_values=2 * pictures() - 1).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_fine_tuning_of_the_techniques_alone_is_resumed_to_the_same_weights(tmp_path, architectures):
    call("finetune", architectures / "dinov2", tmp_path / "whole", *ALONE)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    call("finetune", architectures / "dinov2", tmp_path / "resumed", *ALONE, "--resume_from_checkpoint")
    before, expected, found = (
        state(folder) for folder in (architectures / "dinov2", tmp_path / "whole", tmp_path / "resumed")
    )
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(found[name], value) for name, value in before.items())
    at_the_checkpoint = state(tmp_path / "whole" / "checkpoint-3")
    assert not any(torch.equal(found[name], at_the_checkpoint[name]) for name in found.keys() - before.keys())


@pytest.mark.parametrize("name", ["siglip", "deit-distilled"])
def test_an_adapter_of_another_architecture_loads_with_what_was_measured(name, tmp_path, architectures):
    pytest.importorskip("peft")
    results = call("finetune", architectures / name, tmp_path / "adapter", *TECHNIQUES, "--lora_r", "2")
    assert "load_adapter" in (tmp_path / "adapter" / "README.md").read_text()
    evaluated = call("evaluate_model", tmp_path / "adapter", tmp_path / "evaluation", "--max_eval_samples", "20")
    assert evaluated["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-5)
    whole = load_adapter(tmp_path / "adapter").merge_and_unload()
    assert type(whole) is type(hf_cb.from_pretrained(architectures / name))
    whole.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected = load_classifier(str(tmp_path / "adapter"))(pictures())
        loaded = hf_cb.from_pretrained(tmp_path / "merged").eval()
        assert_close(loaded(pixel_values=2 * pictures() - 1).logits, expected, rtol=1e-5, atol=1e-5)


MISTAKES = {
    "techniques on a ResNet": ("resnet", ["--attn_scale"], "vit_msn. It is of type resnet."),
    "techniques twice": ("dinov2-with", ["--feat_scale"], "leave out --feat_scale."),
    "fixed CB alone": (
        "dinov2",
        ["--train_only_techniques", "--context_broadcast", "plain"],
        "give --attn_scale, --feat_scale or --context_broadcast scaled",
    ),
    "techniques or LoRA": (
        "dinov2",
        ["--attn_scale", "--train_only_techniques", "--lora_r", "2"],
        "`train_only_techniques` and `lora_r` each say what is trained",
    ),
    "LoRA's targets": (
        "dinov2",
        ["--lora_r", "2", "--lora_target_modules", "to_q"],
        "LoRA's target modules must be among classifier, fc1, fc2,",
    ),
}


@pytest.mark.parametrize(("model", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(model, arguments, said, architectures, tmp_path, capsys):
    given = ["--model_name_or_path", architectures / model, "--output_dir", tmp_path / "out", *arguments]
    assert said in refusal("finetune", given, capsys)
    assert list(tmp_path.iterdir()) == []
