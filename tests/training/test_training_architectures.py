"""Training models of other architectures than ViT-CB, the techniques alone among them."""

import shutil

import pytest
import torch
from transformers import ResNetForImageClassification

import hf_cb
from architectures import ALONE, FEW, call, call_analysis, state
from command_lines import load_script, refusal
from helpers import is_scale


@pytest.fixture(scope="module")
def trained(tmp_path_factory, architectures):
    folder = tmp_path_factory.mktemp("runs") / "techniques"
    return folder, call("train", architectures / "dinov2", folder, *ALONE, "--checkpointing_steps", "epoch")


def test_training_the_techniques_of_a_frozen_random_dinov2_lowers_the_loss_and_leaves_all_else(
    trained, tmp_path, architectures
):
    folder, results = trained
    assert results["history"][-1]["train_loss"] < results["history"][0]["train_loss"] - 0.02
    assert results["eval_loss"] < call("evaluate_model", architectures / "dinov2", tmp_path)["eval_loss"] - 0.02
    before, after = state(architectures / "dinov2"), state(folder)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    scales = after.keys() - before.keys()
    assert len(scales) == 4 * 3 and all(is_scale(name) and after[name].abs().max() > 0 for name in scales)


def test_a_run_that_trains_the_techniques_alone_goes_on_from_a_checkpoint_to_the_same_weights(
    trained, tmp_path, architectures
):
    folder, _ = trained
    shutil.copytree(folder / "epoch_1", tmp_path / "epoch_1")
    arguments = [*ALONE, "--checkpointing_steps", "epoch", "--resume_from_checkpoint", "latest"]
    results = call("train", architectures / "dinov2", tmp_path, *arguments)
    assert results["train_steps"] == 2 * 5
    expected, found = state(folder), state(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_moving_average_is_of_the_techniques(trained, tmp_path, architectures):
    call("train", architectures / "dinov2", tmp_path, *ALONE, "--ema_decay", "0.5", "--save_ema")
    before, last, averaged = state(architectures / "dinov2"), state(trained[0]), state(tmp_path)
    assert all(torch.equal(averaged[name], value) for name, value in before.items())
    assert not any(torch.equal(averaged[name], last[name]) for name in averaged.keys() - before.keys())


def test_what_was_trained_is_what_is_evaluated_and_analysed(trained, tmp_path):
    folder, results = trained
    evaluated = call("evaluate_model", folder, tmp_path / "evaluation")
    for name in ("eval_accuracy", "eval_loss"):
        assert evaluated[name] == pytest.approx(results[name], abs=1e-5)
    analysed = call_analysis(folder, tmp_path / "analysis")
    omegas = [value.tolist() for name, value in state(folder).items() if name.endswith("omega")]
    assert list(analysed["effective_attention"]["omega"].values()) == omegas


def test_a_resnet_without_technique_flags_trains_as_it_is(tmp_path, capsys, architectures):
    call("train", architectures / "resnet", tmp_path, "--context_broadcast", "none")
    assert "resnet has no stochastic depth: trained without." in capsys.readouterr().out
    assert type(hf_cb.from_pretrained(tmp_path)) is ResNetForImageClassification


MISTAKES = {
    "techniques on a ResNet": ("resnet", ["--attn_scale"], "the model type must be one of aimv2_vi"),
    "no classifier": ("siglip-vision", [], "has no image classifier of type 'siglip_vision_model'"),
    "techniques twice": ("dinov2-with", ["--feat_scale"], "has techniques already, which stay as they are: l"),
    "where and not what": ("dinov2", ["--apply_layers", "1"], "no technique is on in"),
    "a layer that is not there": ("dinov2", ["--attn_scale", "--apply_layers", "7"], "got 7 in [7]"),
    "a field of another": ("dinov2", ["--encoder_stride", "4"], "of type 'dinov2' has no `encoder_stride`"),
    "another size": ("dinov2", ["--hidden_size", "36"], "do not fit its configuration"),
    "nothing that learns": ("dinov2", ["--train_only_techniques"], "`train_only_techniques` needs techniques"),
}


@pytest.mark.parametrize(("model", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(model, arguments, said, architectures, tmp_path, capsys):
    given = ["--model_name_or_path", architectures / model, "--output_dir", tmp_path / "out", *FEW, *arguments]
    assert said in refusal("train", given, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_will_be_refused_is_refused_before_the_training(architectures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(load_script("train"), "prepare_push", lambda *arguments: object())
    given = ["--model_name_or_path", architectures / "dinov2", "--output_dir", tmp_path / "out", "--attn_scale"]
    assert "hf_cb.push_techniques_to_hub" in refusal("train", [*given, "--push_to_hub"], capsys)
    assert list(tmp_path.iterdir()) == []
