"""The main job: data, metric, parameter groups, and what a run leaves behind."""

import json
import random

import evaluate
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as sklearn_digits
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

import hf_cb.metrics
from helpers import tiny_config
from hf_cb import ViTCBForImageClassification, parameter_groups
from hf_cb.cli.output_dir import replacing
from hf_cb.data.augmentation import AugmentationArguments, BatchAugmentation, Normalization, training_transform
from hf_cb.data.dataset import ImageDataset, collate, evaluation_transform
from hf_cb.data.digits import load_digits
from hf_cb.errors import UsageError
from hf_cb.metrics import TopKAccuracy
from hf_cb.training.arguments import ModelArguments, PreprocessingArguments
from hf_cb.training.start import make_image_processor


SMALL = "--num_train_epochs 2 --hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 16"


def train(script, folder, *arguments):
    script.main([*SMALL.split(), "--disable_tqdm", "--output_dir", str(folder), *arguments])
    return json.loads((folder / "all_results.json").read_text())


@pytest.fixture(scope="module")
def trained(train_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, train(train_script, folder, "--attn_scale", "--feat_scale")


def weights(folder):
    return AutoModelForImageClassification.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_digits_are_scikit_learns_with_other_peoples_last(digits):
    grey = np.rint(sklearn_digits().images * 255 / 16).astype(np.uint8)
    assert (len(digits["train"]), len(digits["test"])) == (1437, 360)
    for row, index in ((digits["train"][0], 0), (digits["train"][1436], 1436), (digits["test"][0], 1437)):
        assert row["image"].mode == "RGB"
        assert np.array_equal(np.asarray(row["image"]), np.repeat(grey[index][..., None], 3, axis=2))
        assert row["label"] == sklearn_digits().target[index]


def augmented(digits, image_processor, seed, epoch, indices):
    augmentation = AugmentationArguments(rotation=15, translation=0.12, scaling=0.15, shear=10)
    data = ImageDataset(digits["train"], training_transform(image_processor, augmentation), seed)
    return collate(data.__getitems__([(index, epoch, 0) for index in indices]))["pixel_values"]


@pytest.fixture
def processor():
    return make_image_processor(ModelArguments(), tiny_config(), PreprocessingArguments())


def test_augmentation_depends_on_seed_epoch_and_index_alone(digits, processor):
    images = augmented(digits, processor, seed=1, epoch=2, indices=[3, 4])
    torch.rand(7)
    random.random()
    assert torch.equal(augmented(digits, processor, seed=1, epoch=2, indices=[4, 3]), images.flip(0))
    assert not torch.equal(augmented(digits, processor, seed=1, epoch=3, indices=[3, 4]), images)
    assert not torch.equal(augmented(digits, processor, seed=2, epoch=2, indices=[3, 4]), images)


def test_augmentation_leaves_the_global_generators_as_they_were(digits, processor):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    augmented(digits, processor, seed=1, epoch=2, indices=[3])
    assert torch.equal(torch.rand(3), expected)


def test_without_augmentation_training_images_equal_the_image_processors(digits, processor):
    image = digits["test"][0]["image"]
    still = training_transform(processor, AugmentationArguments())(image)[None]
    augment = BatchAugmentation(Normalization.of(processor), AugmentationArguments(), 0.0, 10, torch.device("cpu"))
    pixel_values, _ = augment(still, torch.tensor([0]), 0)
    # one grey level of 255, in units of the standard deviation 0.5: PIL and torch round their resizing apart
    torch.testing.assert_close(pixel_values[0], evaluation_transform(processor)(image), rtol=0, atol=2.01 / 255)


def test_the_metric_counts_first_guesses_and_guesses_among_five():
    predictions = [[1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [6, 5, 4, 3, 2], [0, 9, 8, 7, 6]]
    result = TopKAccuracy(keep_in_memory=True).compute(predictions=predictions, references=[1, 1, 1, 6])
    assert result == {"accuracy": 0.25, "top_5_accuracy": 0.75}


def test_the_metric_loads_by_path_without_network():
    metric = evaluate.load(hf_cb.metrics.__file__, keep_in_memory=True)
    result = metric.compute(predictions=[[0, 1], [0, 1]], references=[0, 1])
    assert result == {"accuracy": 0.5, "top_5_accuracy": 1.0}


def decayed(model):
    groups = parameter_groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


def test_weight_decay_falls_on_weight_matrices_alone():
    model = ViTCBForImageClassification(tiny_config(context_broadcast="scaled", attn_scale=True, feat_scale=True))
    model.vit.layers[0].mlp.fc1.weight.requires_grad_(False)
    matrices = {
        name
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and "layernorm" not in name and parameter.requires_grad
    }
    assert decayed(model) == matrices


def test_weight_decay_is_the_same_for_a_plain_vit():
    config = tiny_config(context_broadcast=None)
    assert decayed(ViTForImageClassification(ViTConfig(**config.to_diff_dict()))) == decayed(
        ViTCBForImageClassification(config)
    )


def test_a_run_leaves_model_processor_card_results_and_picture(trained):
    folder, _ = trained
    names = {path.name for path in folder.iterdir()}
    assert {
        "README.md",
        "all_results.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training_curves.png",
    } <= names
    assert not any(name.startswith(".") for name in names)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert Image.open(folder / "training_curves.png").size[0] > 500


def test_results_describe_the_saved_weights(trained, digits):
    folder, results = trained
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    pixel_values = processor(list(digits["test"]["image"]), return_tensors="pt")["pixel_values"]
    labels = torch.tensor(digits["test"]["label"])
    with torch.no_grad():
        logits = model(pixel_values).logits
    assert results["eval_samples"] == 360
    assert results["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item(), abs=1e-6)
    assert results["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert model.config.id2label[7] == "7"


def test_results_hold_arguments_versions_processes_and_every_epoch(trained):
    folder, results = trained
    assert results["num_processes"] == 1
    assert results["arguments"]["attn_scale"] is True and results["arguments"]["hidden_size"] == 16
    assert {"hf_cb", "torch", "transformers"} <= set(results["versions"])
    assert [row["epoch"] for row in results["history"]] == [1, 2]
    assert results["history"][-1]["eval_accuracy"] == results["eval_accuracy"]


def test_training_lowers_the_loss(trained):
    history = trained[1]["history"]
    assert history[1]["train_loss"] < history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train_script, trained, tmp_path):
    folder, _ = trained
    train(train_script, tmp_path / "again", "--attn_scale", "--feat_scale")
    train(train_script, tmp_path / "other", "--attn_scale", "--feat_scale", "--seed", "1")
    expected, again, other = weights(folder), weights(tmp_path / "again"), weights(tmp_path / "other")
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert not torch.equal(other["classifier.weight"], expected["classifier.weight"])


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_nothing(train_script, tmp_path):
    with pytest.raises(UsageError, match="became .* at step .* in epoch 1, .*there is no checkpoint.* Give a lower"):
        train(train_script, tmp_path / "run", "--learning_rate", "1e30", "--max_grad_norm", "1e30")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_replaced_only_on_request(train_script, trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    train(train_script, folder, "--overwrite_output_dir")
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit_cb"


def test_a_failure_while_writing_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(RuntimeError), replacing(folder) as staging:
        (staging / "old").write_text("new")
        raise RuntimeError
    assert (folder / "old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_files_of_the_replaced_run_go_and_others_stay(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("all_results.json", "model-00001-of-00002.safetensors", "notes.txt", "adapter.safetensors"):
        (folder / name).write_text("old")
    with replacing(folder) as staging:
        (staging / "config.json").write_text("new")
    assert {path.name for path in folder.iterdir()} == {"config.json", "notes.txt", "adapter.safetensors"}


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_moves(tmp_path):
    (tmp_path / "README.md").mkdir()
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(UsageError, match="README.md is a folder"), replacing(tmp_path) as staging:
        (staging / "README.md").write_text("new")
        (staging / "config.json").write_text("new")
    assert (tmp_path / "config.json").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json"}


def test_a_linked_output_folder_is_written_through_the_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with replacing(tmp_path / "link") as staging:
        (staging / "config.json").write_text("new")
    assert (tmp_path / "there" / "config.json").read_text() == "new"


def test_the_card_is_valid_and_shows_the_techniques(trained):
    from huggingface_hub import ModelCard

    folder, results = trained
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "transformers"
    assert card.data.eval_results[0].metric_value == round(results["eval_accuracy"], 4)
    for words in ("Context Broadcasting", "AttnScale", "FeatScale", "2210.08457", "2203.05962", "--attn_scale"):
        assert words in card.text
