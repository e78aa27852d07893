"""scripts/finetune.py: transformers' Trainer on ViT-CB, from a model of the digits and from plain ViT, and LoRA."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TrainerCallback,
    ViTForImageClassification,
    ViTImageProcessor,
)

from command_lines import load_script
from helpers import is_scale, randomise_, tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification, parameter_groups
from hf_cb.cli.parser import run
from hf_cb.data.dataset import ImageDataset, evaluation_transform
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.errors import UsageError
from hf_cb.finetuning.arguments import AugmentationArguments, FineTuningArguments
from hf_cb.finetuning.trainer import EpochImages, FineTuner, RandomView, compute_metrics, make_augmentation
from hf_cb.models.classifier import load_classifier
from hf_cb.models.heads import load_for_labels
from hf_cb.models.image_processors import load_image_processor
from hf_cb.models.lora import add_lora, load_adapter, technique_modules
from photos import write_photos


SIZES = {"image_size": 32, "patch_size": 8}
QUICK = "--num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 4 --disable_tqdm true --seed 0".split()


@pytest.fixture(scope="module")
def script():
    return load_script("finetune")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def held_back(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "held back", per_class=3, seed=1)


@pytest.fixture(scope="module")
def plain_vit(tmp_path_factory):
    """A random plain ViT for 5 classes, without an image processor."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    randomise_(ViTForImageClassification(tiny_vit_config(**SIZES))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    """A ViT-CB for the digits with the image processor that a run saves."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    labels = {"id2label": {i: str(i) for i in range(10)}, "label2id": {str(i): i for i in range(10)}}
    config = tiny_config(**{**SIZES, "num_labels": 10}, context_broadcast="scaled", **labels)
    randomise_(ViTCBForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def finetune(script, model, folder, *arguments):
    script.main(["--model_name_or_path", str(model), "--output_dir", str(folder), *QUICK, *map(str, arguments)])
    return json.loads((folder / "all_results.json").read_text())


def accuracy_and_loss(model, folder, data, label_names):
    """Of every image once, with the saved processor, in the data's order."""
    images = ImageDataset(data, evaluation_transform(AutoImageProcessor.from_pretrained(folder)))
    pixel_values = torch.stack([images[i]["pixel_values"] for i in range(len(images))])
    labels = torch.tensor([images[i]["labels"] for i in range(len(images))])
    assert list(model.config.id2label.values()) == label_names
    with torch.no_grad():
        logits = model.eval()(pixel_values=pixel_values).logits
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return (logits.argmax(1) == labels).float().mean().item(), loss.item()


# from a plain ViT, on a folder of JPEGs


@pytest.fixture(scope="module")
def from_plain(script, plain_vit, photos, held_back, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    data = ["--train_dir", photos, "--validation_dir", held_back]
    smoothing = ["--label_smoothing_factor", "0.1", "--per_device_eval_batch_size", "4"]
    return folder, finetune(script, plain_vit, folder, *data, "--feat_scale", *smoothing)


def test_a_run_on_jpegs_leaves_model_processor_card_results_and_picture(from_plain):
    folder, results = from_plain
    names = {path.name for path in folder.iterdir()}
    assert {
        "README.md",
        "all_results.json",
        "config.json",
        "model.safetensors",
        "modeling_vit_cb.py",
        "preprocessor_config.json",
        "training_curves.png",
    } <= names
    assert not any(name.startswith(".") for name in names)
    card = (folder / "README.md").read_text()
    assert "FeatScale" in card and "scripts/finetune.py" in card and "photos" in card
    assert results["train_samples"] == 16 and results["num_processes"] == 1
    assert results["arguments"]["label_smoothing_factor"] == 0.1 and results["arguments"]["feat_scale"] is True
    assert {"hf_cb", "torch", "transformers"} <= set(results["versions"]) and "hardware" in results
    assert [row["epoch"] for row in results["history"]] == [1, 2]


def test_results_count_each_image_once_and_describe_the_saved_weights_without_smoothing(from_plain, held_back):
    folder, results = from_plain
    data = load_data(DataArguments(validation_dir=str(held_back)))
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.feat_scale and model.config.context_broadcast == "plain"
    # 6 images in batches of 4
    accuracy, loss = accuracy_and_loss(model, folder, data.evaluation, ["flower", "temple"])
    assert results["eval_samples"] == 6
    assert results["eval_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert results["eval_loss"] == pytest.approx(loss, abs=1e-5)


def test_fine_tuning_starts_from_the_weights_of_the_plain_vit(from_plain, plain_vit):
    start = ViTForImageClassification.from_pretrained(plain_vit).state_dict()
    end = ViTCBForImageClassification.from_pretrained(from_plain[0]).state_dict()
    # eight updates of at most 1e-3 or so
    near = [key for key in start if not key.startswith("classifier")]
    assert max((start[key] - end[key]).abs().max().item() for key in near) < 0.02
    assert any(not torch.equal(start[key], end[key]) for key in near)


def test_a_new_head_and_a_missing_processor_are_told(script, plain_vit, photos, tmp_path, capsys):
    finetune(script, plain_vit, tmp_path, "--train_dir", photos, "--attn_scale", "--do_train", "--max_steps", 1)
    out = capsys.readouterr().out
    assert "new head for 2 classes" in out and "has no image processor" in out and "attn_scale" in out


# from the digits model


def test_digits_model_without_change_is_evaluated_alone(script, digits_model, tmp_path):
    results = finetune(script, digits_model, tmp_path / "out", "--do_eval")
    model = ViTCBForImageClassification.from_pretrained(digits_model)
    names = [str(i) for i in range(10)]
    accuracy, loss = accuracy_and_loss(model, digits_model, load_data(DataArguments()).evaluation, names)
    assert results["eval_samples"] == 360 and "train_loss" not in results
    assert results["eval_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert results["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all_results.json"]


def test_digits_model_learns_photos(script, digits_model, photos, tmp_path):
    results = finetune(script, digits_model, tmp_path / "out", "--train_dir", photos, "--num_train_epochs", 6)
    assert results["history"][-1]["train_loss"] < results["history"][0]["train_loss"]
    assert ViTCBForImageClassification.from_pretrained(tmp_path / "out").config.context_broadcast == "scaled"


# going on


class StopAfter(TrainerCallback):
    """What a killed process looks like from inside: no further step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [[], ["--lora_r", "2", "--lora_dropout", "0.1"]], ids=["whole", "lora"])
def test_going_on_from_a_checkpoint_gives_the_weights_of_an_uninterrupted_run(
    lora, script, plain_vit, photos, tmp_path, monkeypatch
):
    if lora:
        pytest.importorskip("peft")
    # 14 images in batches of 4 are four steps an epoch: the checkpoint of step 6 lies amid the second
    options = ["--train_dir", photos, "--attn_scale", "--hidden_dropout_prob", "0.1", "--save_strategy", "steps"]
    options += ["--save_steps", 3, "--num_train_epochs", 3, *lora]
    finetune(script, plain_vit, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        original = script.make_trainer

        def interrupted(*arguments):
            trainer = original(*arguments)
            trainer.add_callback(StopAfter(7))
            return trainer

        patch.setattr(script, "make_trainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(script, plain_vit, tmp_path / "parts", *options)
    assert not (tmp_path / "parts" / "all_results.json").exists()
    # killed while it wrote the next
    shutil.copytree(tmp_path / "parts" / "checkpoint-6", tmp_path / "parts" / "checkpoint-9")
    (tmp_path / "parts" / "checkpoint-9" / "trainer_state.json").write_text('{"epoch": ')
    finetune(script, plain_vit, tmp_path / "parts", *options, "--resume_from_checkpoint")
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (tmp_path / "parts" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_going_on_where_there_is_no_checkpoint_starts_from_the_beginning(script, plain_vit, photos, tmp_path, capsys):
    options = ["--train_dir", photos, "--max_steps", 1, "--do_train", "--save_strategy", "no"]
    finetune(script, plain_vit, tmp_path / "anew", *options, "--resume_from_checkpoint", "latest")
    assert "from the beginning" in capsys.readouterr().out
    finetune(script, plain_vit, tmp_path / "plainly", *options)
    files = [tmp_path / name / "model.safetensors" for name in ("anew", "plainly")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_each_epoch_sees_other_augmentations_of_an_image_and_the_same_in_another_run(photos):
    data = load_data(DataArguments(train_dir=str(photos))).train
    images = EpochImages(data, RandomView(ViTImageProcessor(size={"height": 16, "width": 16}), 0.5, True), seed=0)
    first = images[3]["pixel_values"]
    images.set_epoch(1)
    second = images.__getitems__([5, 3])[1]["pixel_values"]
    assert not torch.equal(first, second)
    images.set_epoch(0)
    assert torch.equal(images[3]["pixel_values"], first)


def test_the_best_model_at_the_end_is_the_checkpoint_of_that_epoch(script, plain_vit, photos, held_back, tmp_path):
    options = ["--train_dir", photos, "--validation_dir", held_back, "--load_best_model_at_end", "true"]
    # a rate at which no epoch after the first is better
    results = finetune(script, plain_vit, tmp_path, *options, "--learning_rate", 0.3, "--metric_for_best_model", "loss")
    losses = [row["eval_loss"] for row in results["history"]]
    assert losses[0] != losses[1] and results["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    best = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[np.argmin(losses)]
    assert (best / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_another_run_in_the_folder_is_refused_and_replaced_on_request(script, plain_vit, photos, tmp_path):
    options = ["--train_dir", photos, "--max_steps", 2, "--do_train", "--save_strategy", "steps", "--save_steps", 1]
    finetune(script, plain_vit, tmp_path, *options)
    assert (tmp_path / "checkpoint-2").is_dir()
    with pytest.raises(UsageError, match="already holds a run"):
        finetune(script, plain_vit, tmp_path, *options)
    finetune(script, plain_vit, tmp_path, *options, "--max_steps", 1, "--overwrite_output_dir")
    assert (tmp_path / "checkpoint-1").is_dir() and not (tmp_path / "checkpoint-2").exists()


# LoRA


def test_lora_trains_its_own_parameters_the_techniques_and_the_head_alone():
    pytest.importorskip("peft")
    model = ViTCBForImageClassification(tiny_config(context_broadcast="scaled", attn_scale=True, feat_scale=True))
    assert technique_modules(model) == ["attn_scale", "cb", "feat_scale"]
    names = [name for name, p in add_lora(model, 2, 16.0).named_parameters() if p.requires_grad]
    lora = [name for name in names if "lora_" in name]
    # A and B of three projections in three layers
    assert len(lora) == 2 * 3 * 3
    assert all("_proj.lora_" in name for name in lora)
    rest = [name for name in names if name not in lora]
    assert len([name for name in rest if is_scale(name)]) == 3 * 4
    assert len([name for name in rest if "classifier" in name]) == 2
    assert len(rest) == 3 * 4 + 2


@pytest.fixture(scope="module")
def adapter(script, plain_vit, photos, held_back, tmp_path_factory):
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    data = ["--train_dir", photos, "--validation_dir", held_back, "--feat_scale", "--context_broadcast", "none"]
    return folder, finetune(script, plain_vit, folder, *data, "--lora_r", 2), data


def test_an_adapter_loads_with_what_was_measured_and_leaves_the_base_as_it_was(adapter, plain_vit, held_back):
    folder, results, _ = adapter
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"} <= names
    assert "model.safetensors" not in names
    assert "load_adapter" in (folder / "README.md").read_text()
    model = load_adapter(folder)
    data = load_data(DataArguments(validation_dir=str(held_back)))
    accuracy, loss = accuracy_and_loss(model, folder, data.evaluation, ["flower", "temple"])
    assert results["eval_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert results["eval_loss"] == pytest.approx(loss, abs=1e-5)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(pixel_values=pictures * 2 - 1).logits
    assert_close(load_classifier(str(folder))(pictures), expected, rtol=1e-5, atol=1e-5)
    base = ViTForImageClassification.from_pretrained(plain_vit).state_dict()
    loaded = model.base_model.model.state_dict()
    for key in ("vit.layers.0.mlp.fc1.weight", "vit.embeddings.cls_token"):
        assert torch.equal(loaded[key], base[key])
    assert loaded["vit.layers.0.feat_scale.modules_to_save.default.dc_scale"].abs().max() > 0


def test_an_adapter_is_refused_as_a_start(adapter):
    with pytest.raises(ValueError, match="is an adapter"):
        load_for_labels(str(adapter[0]), ["flower", "temple"])


def test_a_merged_adapter_is_a_whole_model_with_the_same_logits(adapter, script, plain_vit, tmp_path, images):
    folder, _, data = adapter
    finetune(script, plain_vit, tmp_path / "merged", *data, "--lora_r", 2, "--merge_lora")
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert type(merged) is ViTCBForImageClassification
    pictures = torch.nn.functional.interpolate(images, size=32)
    with torch.no_grad():
        expected = load_adapter(folder).eval()(pixel_values=pictures).logits
        assert_close(merged(pictures).logits, expected, rtol=1e-5, atol=1e-5)


# parts


def test_trainer_decays_what_parameter_groups_decays(tmp_path):
    model = ViTCBForImageClassification(tiny_config(attn_scale=True, feat_scale=True))
    arguments = FineTuningArguments(output_dir=str(tmp_path), weight_decay=0.05, eval_strategy="no")
    optimizer = FineTuner(model=model, args=arguments).create_optimizer()
    mine = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(p): group["weight_decay"] for group in parameter_groups(model, 0.05) for p in group["params"]}
    assert mine == expected and set(expected.values()) == {0.0, 0.05}


def test_the_same_classes_in_another_order_keep_their_rows_of_the_head(digits_model):
    names = [str(i) for i in range(10)]
    straight = load_for_labels(str(digits_model), names)[0].model
    turned, lines = load_for_labels(str(digits_model), names[::-1])
    turned = turned.model
    assert torch.equal(turned.classifier.weight, straight.classifier.weight.flip(0))
    assert torch.equal(turned.classifier.bias, straight.classifier.bias.flip(0))
    assert turned.config.id2label[0] == "9" and "order" in lines[0]


def test_another_image_size_reaches_model_and_processor(digits_model):
    model = load_for_labels(str(digits_model), [str(i) for i in range(10)], {"image_size": 48})[0].model
    processor, line = load_image_processor(str(digits_model), model.config)
    assert processor.size["height"] == 48 and "48x48" in line
    assert model(pixel_values=torch.zeros(1, 3, 48, 48)).logits.shape == (1, 10)


def test_images_that_cannot_be_read_count_in_no_metric():
    class Evaluated:
        predictions = (np.array([[1, 0], [0, 1], [1, 0]]), np.array([0.5, 0.0, 1.5], dtype=np.float32))
        label_ids = np.array([1, -100, 0])

    expected = {"accuracy": 0.5, "top_5_accuracy": 1.0, "cross_entropy": 1.0, "samples": 2}
    assert compute_metrics(Evaluated) == expected


def test_digits_are_mirrored_only_on_request():
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    flips = [
        make_augmentation(AugmentationArguments(horizontal_flip=flip), processor, digits).augment.transforms[1].p
        for flip, digits in [(None, True), (None, False), (0.5, True), (0, False)]
    ]
    assert flips == [0.0, 0.5, 0.5, 0.0]


def test_the_manuals_lines_for_a_notebook_train_a_model(plain_vit, photos, tmp_path):
    manual = (Path(__file__).parents[2] / "scripts" / "README.md").read_text()
    (lines,) = (block for block in re.findall("```python\n(.*?)```", manual, re.DOTALL) if "Trainer(" in block)
    folder = shutil.copytree(plain_vit, tmp_path / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    for name, path in {
        "google/vit-base-patch16-224": folder,
        "photos": photos,
        "outputs/notebook": tmp_path / "out",
    }.items():
        assert f'"{name}"' in lines
        lines = lines.replace(f'"{name}"', repr(str(path)))
    variables = {}
    exec(lines, variables)
    model = variables["model"]
    start = ViTForImageClassification.from_pretrained(plain_vit).vit.state_dict()
    assert model.config.id2label == {0: "flower", 1: "temple"} and model.classifier.out_features == 2
    assert model.config.label2id == {"flower": 0, "temple": 1}
    assert not torch.equal(model.vit.layers[0].mlp.fc1.weight.cpu(), start["layers.0.mlp.fc1.weight"])


# mistakes

MISTAKES = [
    pytest.param(["--no_such_flag"], "--no_such_flag", id="unknown flag"),
    pytest.param(["--model_name_or_path", "nowhere/at-all"], "nowhere/at-all", id="no such model"),
    pytest.param(["--hidden_size", "48"], "shape", id="another width than the weights"),
    pytest.param(["--num_hidden_layers", "2"], "shape", id="fewer layers than the weights"),
    pytest.param(["--num_hidden_layers", "4"], "shape", id="more layers than the weights"),
    pytest.param(["--context_broadcast", "everything"], "everything", id="unknown variant"),
    pytest.param(["--apply_layers", "9"], "apply_layers", id="layer out of range"),
    pytest.param(["--lora_r", "0"], "lora_r", id="rank 0"),
    pytest.param(["--merge_lora"], "lora_r", id="merging nothing"),
    pytest.param(["--lora_r", "2", "--lora_target_modules", "nothing"], "nothing", id="LoRA on nothing"),
    pytest.param(["--crop_scale", "2"], "crop_scale", id="crop beyond the image"),
    pytest.param(["--learning_rate", "0"], "learning_rate", id="no learning rate"),
    pytest.param(["--learning_rate", "nan"], "learning_rate", id="rate that is no number"),
    pytest.param(["--num_train_epochs", "0"], "num_train_epochs", id="no epochs"),
    pytest.param(["--per_device_train_batch_size", "0"], "batch_size", id="empty batch"),
    pytest.param(["--eval_strategy", "often"], "often", id="unknown strategy"),
    pytest.param(["--remove_unused_columns", "true"], "remove_unused_columns", id="image column removed"),
    pytest.param(["--train_dir", "/nowhere"], "/nowhere", id="no such folder"),
    pytest.param(["--streaming", "--dataset_name", "x"], "stream", id="streaming"),
    pytest.param(["--resume_from_checkpoint", "--overwrite_output_dir"], "overwrite", id="go on and replace"),
    pytest.param(["--resume_from_checkpoint", "--do_eval"], "do_train", id="go on without training"),
    pytest.param(["--resume_from_checkpoint", "/nowhere"], "/nowhere", id="no such checkpoint"),
    pytest.param(["--ignore_mismatched_sizes", "false", "PHOTOS"], "2", id="head of another size"),
    pytest.param(["PHOTOS", "--learning_rate", "1e30", "--max_grad_norm", "1e30"], "learning_rate", id="diverging"),
    pytest.param(["--report_to", "no_such_service"], "no_such_service", id="unknown service"),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2_and_leaves_nothing(
    arguments, named, script, digits_model, photos, tmp_path, capfd
):
    arguments = [part for word in arguments for part in (["--train_dir", str(photos)] if word == "PHOTOS" else [word])]
    with pytest.raises(SystemExit) as exit_:
        model = ["--model_name_or_path", str(digits_model), "--output_dir", str(tmp_path / "out")]
        run(script.main, [*model, "--disable_tqdm", "true", *arguments])
    error = capfd.readouterr().err.rstrip("\n").splitlines()[-1]
    assert exit_.value.code == 2
    assert named in error and "error: " in error and "Traceback" not in error
    assert not list((tmp_path / "out").glob("[!c]*"))
