"""The scripts on other architectures than ViT-CB, and what a user can get wrong with them."""

import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hf_cb
from command_lines import load_script
from helpers import is_scale, randomise_, tiny_config, tiny_vit_config
from hf_cb import TechniqueConfig, ViTCBForImageClassification, apply_techniques, technique_parameters
from hf_cb.analysis.models import AnalysedModel
from hf_cb.benchmark.contenders import build, sizes_of
from hf_cb.cli.parser import run
from hf_cb.models.classifier import load_classifier
from hf_cb.models.heads import load_pretrained
from hf_cb.models.loading import train_only_techniques
from hf_cb.models.lora import load_adapter
from reference import attn_scale
from technique_models import BEIT, MLP, SWIN, TINY, randomise_scales_


DIGITS = [str(i) for i in range(10)]
LABELS = {"id2label": dict(enumerate(DIGITS)), "label2id": {name: i for i, name in enumerate(DIGITS)}}
SIGLIP = {"vision_config": SiglipVisionConfig(**TINY, **MLP).to_dict(), **LABELS}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
MODELS = {
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**TINY, **LABELS, mlp_ratio=2)),
    "siglip": lambda: SiglipForImageClassification(SiglipConfig(**SIGLIP)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**{**BEIT, **LABELS, "num_labels": 10})),
    "swin": lambda: SwinForImageClassification(SwinConfig(**SWIN, **LABELS)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**TINY, **MLP, **LABELS)),
    "deit-distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, **MLP, **LABELS)),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(**RESNET, **LABELS)),
    "siglip-vision": lambda: SiglipVisionModel(SiglipVisionConfig(**TINY, **MLP)),
    "vit": lambda: ViTForImageClassification(tiny_vit_config(**{**LABELS, "num_labels": 10})),
    "vit-cb": lambda: ViTCBForImageClassification(
        tiny_config(**{**LABELS, "num_labels": 10}, context_broadcast=None, attn_scale=True)
    ),
}
TECHNIQUES = ["--attn_scale", "--feat_scale", "--context_broadcast", "scaled"]
FEW = ["--max_train_samples", "160", "--max_eval_samples", "40"]
# nothing at random but the order
TRAINING = "--random_resized_crop --horizontal_flip 0 --color_jitter 0 --label_smoothing_factor 0 --num_train_epochs 2"
TRAINING += " --learning_rate 0.05 --learning_rate_batch_size 32 --per_device_train_batch_size 32 --disable_tqdm"
TRAINING = [*TRAINING.split(), "--dataloader_num_workers", "0", "--num_cpu_threads", "1", *FEW]
FINE_TUNING = "--num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 16 --disable_tqdm true".split()
FINE_TUNING += ["--max_train_samples", "48", "--max_eval_samples", "20"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The random models of `MODELS`, each with an image processor."""
    place = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        randomise_(make()).save_pretrained(place / name)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / name)
    model = Dinov2ForImageClassification.from_pretrained(place / "dinov2")
    config = TechniqueConfig(context_broadcast="scaled", attn_scale=True)
    randomise_scales_(apply_techniques(model, config)).save_pretrained(place / "dinov2-with")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / "dinov2-with")
    return place


@pytest.fixture(scope="module")
def scripts():
    names = ("train", "finetune", "evaluate_model", "analyze", "benchmark", "push_to_hub")
    return {name: load_script(name) for name in names}


@pytest.fixture(scope="module")
def call(scripts, folders):
    """Runs a script on a model, and returns its results."""

    def call(script, model, output_dir, *arguments):
        usual = {"train": TRAINING, "finetune": FINE_TUNING}.get(script, [*FEW[2:], "--disable_tqdm"])
        given = ["--model_name_or_path", folders / model, "--output_dir", output_dir, *usual, *arguments]
        scripts[script].main([str(argument) for argument in given])
        files = {"evaluate_model": "eval_results.json", "analyze": "analysis.json"}
        return json.loads((output_dir / files.get(script, "all_results.json")).read_text())

    return call


def state(folder):
    return hf_cb.from_pretrained(folder).state_dict()


def pictures(batch_size=2):
    return torch.rand(batch_size, 3, 16, 16, generator=torch.Generator().manual_seed(0))


# training the techniques alone

ALONE = [*TECHNIQUES, "--train_only_techniques"]


@pytest.fixture(scope="module")
def trained(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "techniques"
    return folder, call("train", "dinov2", folder, *ALONE, "--checkpointing_steps", "epoch")


def test_training_the_techniques_of_a_frozen_random_dinov2_lowers_the_loss_and_leaves_all_else(
    trained, call, folders, tmp_path
):
    folder, results = trained
    assert results["history"][-1]["train_loss"] < results["history"][0]["train_loss"] - 0.02
    assert results["eval_loss"] < call("evaluate_model", "dinov2", tmp_path)["eval_loss"] - 0.02
    before, after = state(folders / "dinov2"), state(folder)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    scales = after.keys() - before.keys()
    assert len(scales) == 4 * 3 and all(is_scale(name) and after[name].abs().max() > 0 for name in scales)


def test_a_run_that_trains_the_techniques_alone_goes_on_from_a_checkpoint_to_the_same_weights(trained, call, tmp_path):
    folder, _ = trained
    shutil.copytree(folder / "epoch_1", tmp_path / "epoch_1")
    arguments = [*ALONE, "--checkpointing_steps", "epoch", "--resume_from_checkpoint", "latest"]
    results = call("train", "dinov2", tmp_path, *arguments)
    assert results["train_steps"] == 2 * 5
    expected, found = state(folder), state(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_moving_average_is_of_the_techniques(trained, call, folders, tmp_path):
    call("train", "dinov2", tmp_path, *ALONE, "--ema_decay", "0.5", "--save_ema")
    before, last, averaged = state(folders / "dinov2"), state(trained[0]), state(tmp_path)
    assert all(torch.equal(averaged[name], value) for name, value in before.items())
    assert not any(torch.equal(averaged[name], last[name]) for name in averaged.keys() - before.keys())


def test_what_was_trained_is_what_is_evaluated_and_analysed(trained, call, tmp_path):
    folder, results = trained
    evaluated = call("evaluate_model", folder, tmp_path / "evaluation")
    for name in ("eval_accuracy", "eval_loss"):
        assert evaluated[name] == pytest.approx(results[name], abs=1e-5)
    analysed = call_analysis(call, folder, tmp_path / "analysis")
    omegas = [value.tolist() for name, value in state(folder).items() if name.endswith("omega")]
    assert list(analysed["effective_attention"]["omega"].values()) == omegas


def call_analysis(call, model, output_dir, *arguments):
    (results,) = call("analyze", model, output_dir, "--num_examples", "0", *arguments).values()
    return results


# fine-tuning


@pytest.mark.parametrize("name", ["siglip", "beit", "swin", "deit", "deit-distilled"])
def test_a_fine_tuned_model_comes_back_with_the_logits_that_were_measured(name, call, folders, tmp_path):
    results = call("finetune", name, tmp_path / "run", *TECHNIQUES)
    evaluated = call("evaluate_model", tmp_path / "run", tmp_path / "evaluation")
    few = call("evaluate_model", tmp_path / "run", tmp_path / "few", "--max_eval_samples", "20")
    assert few["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-5) != evaluated["eval_loss"]
    model = hf_cb.from_pretrained(tmp_path / "run").eval()
    assert type(model) is type(hf_cb.from_pretrained(folders / name))
    assert all(parameter.abs().max() > 0 for parameter in technique_parameters(model))
    with torch.no_grad():
        expected = load_classifier(str(tmp_path / "run"))(pictures())
        assert_close(model(pixel_values=2 * pictures() - 1).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_fine_tuning_of_the_techniques_alone_is_resumed_to_the_same_weights(call, folders, tmp_path):
    call("finetune", "dinov2", tmp_path / "whole", *ALONE)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    call("finetune", "dinov2", tmp_path / "resumed", *ALONE, "--resume_from_checkpoint")
    before, expected, found = (
        state(folder) for folder in (folders / "dinov2", tmp_path / "whole", tmp_path / "resumed")
    )
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(found[name], value) for name, value in before.items())
    at_the_checkpoint = state(tmp_path / "whole" / "checkpoint-3")
    assert not any(torch.equal(found[name], at_the_checkpoint[name]) for name in found.keys() - before.keys())


@pytest.mark.parametrize("name", ["siglip", "deit-distilled"])
def test_an_adapter_of_another_architecture_loads_with_what_was_measured(name, call, folders, tmp_path):
    pytest.importorskip("peft")
    results = call("finetune", name, tmp_path / "adapter", *TECHNIQUES, "--lora_r", "2")
    assert "load_adapter" in (tmp_path / "adapter" / "README.md").read_text()
    evaluated = call("evaluate_model", tmp_path / "adapter", tmp_path / "evaluation", "--max_eval_samples", "20")
    assert evaluated["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-5)
    whole = load_adapter(tmp_path / "adapter").merge_and_unload()
    assert type(whole) is type(hf_cb.from_pretrained(folders / name))
    whole.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected = load_classifier(str(tmp_path / "adapter"))(pictures())
        loaded = hf_cb.from_pretrained(tmp_path / "merged").eval()
        assert_close(loaded(pixel_values=2 * pictures() - 1).logits, expected, rtol=1e-5, atol=1e-5)


# what loading does


@pytest.mark.parametrize("name", ["dinov2", "deit-distilled", "resnet", "vit-cb"])
def test_a_head_of_the_same_classes_is_put_in_the_datas_order(name, folders):
    classifier = load_classifier(str(folders / name))
    model, lines = load_pretrained(str(folders / name), DIGITS[::-1])
    assert "the head's classes are put in the data's order." in lines
    with torch.no_grad():
        logits = model.eval()(pixel_values=2 * pictures() - 1).logits
        assert_close(logits, classifier(pictures()).flip(1), rtol=1e-5, atol=1e-5)


def test_a_new_head_can_be_refused(folders):
    model, lines = load_pretrained(str(folders / "dinov2"), ["cat", "dog"])
    assert lines == ["new head for 2 classes."] and model.config.num_labels == 2
    with pytest.raises(ValueError, match="has a head for 10 classes and the data have 2"):
        load_pretrained(str(folders / "dinov2"), ["cat", "dog"], new_head=False)


def test_a_vit_that_has_techniques_keeps_them(tmp_path, images):
    model = apply_techniques(randomise_(ViTForImageClassification(tiny_vit_config())), TechniqueConfig(feat_scale=True))
    randomise_scales_(model).save_pretrained(tmp_path)
    loaded, _ = load_pretrained(str(tmp_path), [f"LABEL_{i}" for i in range(5)])
    with torch.no_grad():
        assert_close(loaded.eval()(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)
        hf_cb.remove_techniques(model)
        assert not torch.allclose(loaded(images).logits, model(images).logits, rtol=1e-3)


def test_a_new_head_that_is_not_trained_is_said(folders):
    for labels, said in ((DIGITS, "parameters are trained."), (["cat", "dog"], "the new head stays random")):
        model, lines = load_pretrained(str(folders / "dinov2"), labels, {"attn_scale": True})
        assert said in train_only_techniques(model, lines)


def test_a_resnet_without_technique_flags_trains_as_it_is(call, tmp_path, capsys):
    call("train", "resnet", tmp_path, "--context_broadcast", "none")
    assert "resnet has no stochastic depth: trained without." in capsys.readouterr().out
    assert type(hf_cb.from_pretrained(tmp_path)) is ResNetForImageClassification


# techniques that are added to what is evaluated or analysed


@pytest.mark.parametrize("name", ["dinov2", "vit", "vit-cb"])
def test_fixed_cb_can_be_added_to_what_is_evaluated(name, folders):
    plain, broadcast = (
        load_classifier(str(folders / name), techniques=fields)(pictures())
        for fields in ({}, {"context_broadcast": "plain", "apply_layers": [1]})
    )
    if name == "vit-cb":
        overrides = {"context_broadcast": "plain", "apply_layers": [1]}
        model = ViTCBForImageClassification.from_pretrained(folders / name, **overrides).eval()
    else:
        config = TechniqueConfig(context_broadcast="plain", apply_layers=[1])
        model = apply_techniques(hf_cb.from_pretrained(folders / name), config).eval()
    with torch.no_grad():
        assert_close(broadcast, model(pixel_values=2 * pictures() - 1).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, broadcast, rtol=1e-2)


def test_scales_that_are_new_in_a_vit_cb_start_at_0(folders):
    plain = load_classifier(str(folders / "vit-cb"))(pictures())
    assert torch.equal(load_classifier(str(folders / "vit-cb"), techniques={"feat_scale": True})(pictures()), plain)


def test_flags_of_evaluation_and_analysis_reach_the_models(call, tmp_path):
    plain = call("evaluate_model", "dinov2", tmp_path / "plain")
    broadcast = call("evaluate_model", "dinov2", tmp_path / "cb", "--context_broadcast", "plain")
    assert plain["eval_loss"] != pytest.approx(broadcast["eval_loss"], abs=1e-3)
    assert broadcast["arguments"]["context_broadcast"] == "plain"
    analysed = call_analysis(call, "dinov2", tmp_path / "analysis", "--attn_scale", "--apply_layers", "1")
    assert analysed["effective_attention"]["omega"] == {"2": [0.0, 0.0, 0.0]}


def test_the_windows_of_a_layer_have_the_same_omega(folders, images):
    config = SwinConfig(**{**SWIN, "depths": [1, 1]}, **LABELS)
    model = apply_techniques(randomise_(SwinForImageClassification(config)), TechniqueConfig(attn_scale=True))
    analysed = AnalysedModel(randomise_scales_(model), ViTImageProcessor(), "swin")
    outputs = analysed.run(images)
    assert analysed.why_omegas_are_left_out(outputs) is None
    scaled = outputs.with_effective_attention(analysed.omegas)
    for layer, omega in analysed.omegas.items():
        windows = outputs.attentions[layer].unflatten(1, (-1, len(omega)))
        expected = attn_scale(windows.flatten(0, 1), omega).unflatten(0, windows.shape[:2]).flatten(1, 2)
        assert_close(scaled.attentions[layer], expected, rtol=1e-5, atol=1e-6)


def test_omegas_that_belong_to_no_map_are_left_out_and_said(call, tmp_path):
    analysed = call_analysis(call, "swin", tmp_path, "--attn_scale")
    assert analysed["left_out"]["effective_attention"] == "the model returns attention maps of 2 of its 4 layers"
    assert "effective_attention" not in analysed


# the benchmark


@pytest.mark.parametrize(("model_type", "tokens"), [("dinov2", 10), ("siglip_vision_model", 9), ("deit", 11)])
def test_the_benchmark_measures_another_architecture_against_its_plain_model(model_type, tokens, scripts, tmp_path):
    arguments = "--preset tiny --num_hidden_layers 1 --image_size 32 --batch_size 1 --num_rounds 1 --sweep_num_rounds 1"
    arguments += f" --sweep_image_sizes 48 --disable_tqdm --model_type {model_type} --output_dir {tmp_path}"
    scripts["benchmark"].main(arguments.split())
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert list(results["models"]) == ["plain", "cb", "cb_s", "attn_scale", "feat_scale", "all"]
    assert results["baseline"] == "plain" and results["models"]["plain"]["forward"]["ratio"] == 1
    assert list(results["sweep"]) == [str(tokens)] and list(results["sweep"][str(tokens)]) == ["plain", "all"]
    assert len({model["gflops"] for model in results["models"].values()}) == 1
    assert model_type in results["setting"]


def test_what_the_benchmark_measures_has_the_techniques():
    sizes = sizes_of(hf_cb.ViTCBConfig.from_preset("tiny", num_hidden_layers=2, image_size=32))
    models = {name: build(name, sizes, torch.device("cpu"), torch.float32, "dinov2") for name in ("plain", "all")}
    counts = {name: len(list(technique_parameters(model))) for name, model in models.items()}
    assert counts == {"plain": 0, "all": 2 * 3}
    images = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(models["plain"](images), models["all"](images), rtol=1e-3)


# mistakes: script, model, arguments, what the line says

MISTAKES = {
    "techniques on a ResNet": (
        "train",
        "resnet",
        ["--attn_scale"],
        "the model type must be one of aimv2_vi",
    ),
    "the same in fine-tuning": (
        "finetune",
        "resnet",
        ["--attn_scale"],
        "vit_msn. It is of type resnet.",
    ),
    "the same in evaluation": (
        "evaluate_model",
        "resnet",
        ["--attn_scale"],
        "the model type must be one of aim",
    ),
    "the same in analysis": ("analyze", "resnet", ["--attn_scale"], "the model type must be one of aimv2_vision_model"),
    "no classifier": ("train", "siglip-vision", [], "has no image classifier of type 'siglip_vision_model'"),
    "techniques twice": ("train", "dinov2-with", ["--feat_scale"], "has techniques already, which stay as they are: l"),
    "twice in fine-tuning": ("finetune", "dinov2-with", ["--feat_scale"], "leave out --feat_scale."),
    "twice in evaluation": ("evaluate_model", "dinov2-with", ["--attn_scale"], "leave out --attn_scale."),
    "twice in analysis": ("analyze", "dinov2-with", ["--attn_scale"], "leave out --attn_scale."),
    "where and not what": ("train", "dinov2", ["--apply_layers", "1"], "no technique is on in"),
    "a layer that is not there": ("train", "dinov2", ["--attn_scale", "--apply_layers", "7"], "got 7 in [7]"),
    "an unknown value": ("evaluate_model", "dinov2", ["--context_broadcast", "often"], "got 'often'"),
    "a value for a ViT-CB": ("evaluate_model", "vit-cb", ["--context_broadcast", "often"], "got 'often'"),
    "a field of another": ("train", "dinov2", ["--encoder_stride", "4"], "of type 'dinov2' has no `encoder_stride`"),
    "another size": ("train", "dinov2", ["--hidden_size", "36"], "do not fit its configuration"),
    "nothing that learns": ("train", "dinov2", ["--train_only_techniques"], "`train_only_techniques` needs techniques"),
    "fixed CB alone": (
        "finetune",
        "dinov2",
        ["--train_only_techniques", "--context_broadcast", "plain"],
        "give --attn_scale, --feat_scale or --context_broadcast scaled",
    ),
    "techniques or LoRA": (
        "finetune",
        "dinov2",
        ["--attn_scale", "--train_only_techniques", "--lora_r", "2"],
        "`train_only_techniques` and `lora_r` each say what is trained",
    ),
    "LoRA's targets": (
        "finetune",
        "dinov2",
        ["--lora_r", "2", "--lora_target_modules", "to_q"],
        "LoRA's target modules must be among classifier, fc1, fc2,",
    ),
}


@pytest.mark.parametrize(("script", "model", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(script, model, arguments, said, scripts, folders, tmp_path, capsys):
    usual = [] if script == "finetune" else FEW[2:]
    given = ["--model_name_or_path", str(folders / model), "--output_dir", str(tmp_path / "out"), *usual, *arguments]
    with pytest.raises(SystemExit) as exit_:
        run(scripts[script].main, given)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


OTHER_MISTAKES = {
    "no such size": ("benchmark", ["--model_type", "swin", "--output_dir", "OUT"], "invalid choice: 'swin'"),
    "models of ViT-CB": (
        "benchmark",
        ["--model_type", "dinov2", "--models", "timm", "--output_dir", "OUT"],
        "`models` must be of plain, cb, cb_s, attn_scale, feat_scale, all, got 'timm'",
    ),
    "a push with techniques": (
        "push_to_hub",
        ["--model_dir", "dinov2-with", "--repo_id", "ann/x", "--dry_run"],
        "share the techniques alone with `hf_cb.push_techniques_to_hub`",
    ),
    "a push without": (
        "push_to_hub",
        ["--model_dir", "dinov2", "--repo_id", "ann/x", "--dry_run"],
        "holds a model of type 'dinov2': push that with the model's own `push_to_hub`",
    ),
}


@pytest.mark.parametrize(("script", "arguments", "said"), OTHER_MISTAKES.values(), ids=OTHER_MISTAKES)
def test_so_is_a_mistake_of_the_other_scripts(script, arguments, said, scripts, folders, tmp_path, capsys):
    places = {"OUT": str(tmp_path / "out"), **{name: str(folders / name) for name in ("dinov2", "dinov2-with")}}
    after_a_folder = {"--output_dir", "--model_dir"}
    given = [
        places.get(value, value) if before in after_a_folder else value
        for before, value in zip([None, *arguments], arguments)
    ]
    with pytest.raises(SystemExit) as exit_:
        run(scripts[script].main, given)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_will_be_refused_is_refused_before_the_training(scripts, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scripts["train"], "prepare_push", lambda *arguments: object())
    given = ["--model_name_or_path", str(folders / "dinov2"), "--output_dir", str(tmp_path / "out"), "--attn_scale"]
    with pytest.raises(SystemExit) as exit_:
        run(scripts["train"].main, [*given, "--push_to_hub"])
    assert exit_.value.code == 2 and "hf_cb.push_techniques_to_hub" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
