"""scripts/evaluate_model.py and its measures: known answers, labels by name, paired differences, files."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTImageProcessor,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from command_lines import load_script
from helpers import TINY, randomise_, tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification
from hf_cb.cli.parser import run
from hf_cb.data.dataset import ImageDataset, evaluation_transform
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.evaluation.panel import LoadingArguments, Panel, Treatment, label_indices
from hf_cb.evaluation.perturbations import Corruption
from hf_cb.evaluation.scores import (
    calibration_error,
    classification_metrics,
    confusion_matrix,
    paired_difference,
    per_class_accuracy,
    reliability,
)
from hf_cb.metrics import first_guesses
from hf_cb.models.classifier import PixelScale, load_classifier
from hf_cb.reports.tables import short_names
from photos import write_photos


DIGITS = [str(i) for i in range(10)]
PHOTOS = ["flower", "temple"]


def labels_of(names):
    label2id = {name: index for index, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": label2id}


# measures


def probabilities(confidences):
    """Of three outputs, the first the likeliest."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, (1 - first) * 0.6, (1 - first) * 0.4], dim=1)


def test_the_calibration_error_of_a_perfectly_calibrated_toy_is_0():
    # 10 images at 0.7 of which 7 are right, 5 at 0.8 of which 4 are
    labels = torch.tensor([0] * 7 + [1] * 3 + [0] * 4 + [2])
    assert calibration_error(probabilities([0.7] * 10 + [0.8] * 5), labels) == pytest.approx(0, abs=1e-6)


def test_the_calibration_error_is_the_mean_distance_of_accuracy_and_confidence():
    # two thirds of the images 0.2 too sure, one third 0.4 not sure enough
    labels = torch.tensor([0] * 5 + [1] * 5 + [0] * 5)
    error = calibration_error(probabilities([0.7] * 10 + [0.6] * 5), labels)
    assert error == pytest.approx((10 * 0.2 + 5 * 0.4) / 15, abs=1e-6)
    bins = reliability(probabilities([0.7] * 10 + [0.6] * 5), labels)
    assert [row["samples"] for row in bins] == [5, 10]
    assert [row["accuracy"] for row in bins] == [1.0, 0.5]


def test_metrics_of_a_hand_made_case():
    logits = torch.zeros(3, 7)
    logits[:, :6] = torch.tensor([6.0, 5, 4, 3, 2, 1])
    metrics = classification_metrics(logits, torch.tensor([0, 4, 6]))
    assert metrics["eval_accuracy"] == pytest.approx(1 / 3) and metrics["eval_samples"] == 3
    assert metrics["eval_top_5_accuracy"] == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(logits.double(), torch.tensor([0, 4, 6])).item()
    assert metrics["eval_loss"] == pytest.approx(expected)


def test_of_equal_logits_the_first_is_the_guess_as_argmax_has_it():
    logits = torch.tensor([[0.0, 2, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    assert first_guesses(logits).tolist() == [[1, 3, 4, 2, 0], [0, 1, 2, 3, 4]]
    assert torch.equal(first_guesses(logits)[:, 0], logits.argmax(1))
    assert first_guesses(logits[:, :2]).tolist() == [[1, 0], [0, 1]]


def test_the_confusion_matrix_counts_and_has_a_column_for_other_guesses():
    # the model's outputs 2 and 0 are the data's classes; 1 is none of them
    logits = torch.eye(3)[torch.tensor([2, 0, 1, 2, 0])]
    labels = torch.tensor([2, 2, 2, 2, 0])
    matrix = confusion_matrix(logits, labels, indices=torch.tensor([2, 0]))
    assert matrix.tolist() == [[2, 1, 1], [0, 1, 0]]
    accuracies = per_class_accuracy(matrix, ["two", "zero"])
    assert accuracies == {"two": {"accuracy": 0.5, "samples": 4}, "zero": {"accuracy": 1.0, "samples": 1}}
    assert per_class_accuracy(torch.zeros(1, 1, dtype=torch.long), ["none"])["none"]["accuracy"] is None


def resampled_interval(correct, reference, num_resamples, seed):
    """Images drawn with replacement, one by one."""
    generator = np.random.default_rng(seed)
    difference = (correct.long() - reference.long()).numpy()
    drawn = generator.integers(len(difference), size=(num_resamples, len(difference)))
    return np.percentile(difference[drawn].mean(1), [2.5, 97.5])


def test_the_paired_interval_is_that_of_resampled_images():
    generator = torch.Generator().manual_seed(0)
    correct, reference = (torch.rand(200, generator=generator) < share for share in (0.9, 0.8))
    found = paired_difference(correct, reference, 20_000, seed=0)
    low, high = resampled_interval(correct, reference, 20_000, seed=1)
    assert found["difference"] == pytest.approx(correct.double().mean() - reference.double().mean())
    # one image of 200 is the smallest step
    assert found["difference_low"] == pytest.approx(low, abs=0.0051)
    assert found["difference_high"] == pytest.approx(high, abs=0.0051)
    assert found == paired_difference(correct, reference, 20_000, seed=0)


def test_pairing_narrows_the_interval_of_models_that_err_alike():
    reference = torch.arange(400) < 300
    alike = reference.clone()
    alike[:4] = False
    unlike = reference.roll(96)
    widths = [
        found["difference_high"] - found["difference_low"]
        for found in (paired_difference(model, reference) for model in (alike, unlike))
    ]
    assert widths[0] < widths[1] / 4
    assert paired_difference(reference, reference) == {
        "difference": 0.0,
        "difference_low": 0.0,
        "difference_high": 0.0,
    }


# labels


def test_labels_are_found_by_name_in_any_order_and_among_others():
    assert label_indices(["a", "b"], ["b", "c", "a"], "m").tolist() == [2, 0]
    assert label_indices(["a", "b"], ["a", "b"], "m").tolist() == [0, 1]
    with pytest.raises(ValueError, match="has no label 'd'"):
        label_indices(["a", "d", "e"], ["a", "b", "c"], "m")
    with pytest.raises(ValueError, match="several labels 'crane'"):
        label_indices(["crane"], ["bird", "crane", "crane"], "m")


def test_names_are_short_where_that_tells_models_apart():
    assert short_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert short_names(["x/model", "y/model"]) == ["x/model", "y/model"]


# models of every kind

PROCESSORS = {
    "squash": ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.1]
    ),
    "crop": DeiTImageProcessor(size={"height": 20, "width": 20}, crop_size={"height": 16, "width": 16}),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 32}),
    "no normalisation": ViTImageProcessor(size={"height": 16, "width": 16}, do_normalize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_view_and_scale_together_are_the_image_processor(name):
    processor = PROCESSORS[name]
    pixels = np.random.default_rng(1).integers(256, size=(37, 53, 3), dtype=np.uint8)
    scale = PixelScale(processor)
    view = scale.view(Image.fromarray(pixels))
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert view.dtype == torch.uint8 and tuple(view.shape[1:]) == scale.size
    torch.testing.assert_close(scale(view[None].float() / 255), expected, rtol=1e-5, atol=1e-5)


def test_a_processor_that_gives_several_sizes_is_refused():
    with pytest.raises(ValueError, match="one size"):
        PixelScale(DeiTImageProcessor(size={"shortest_edge": 20}, do_center_crop=False))


def save(folder, model, processor):
    randomise_(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    """A ViT-CB that knows some digits: a few epochs of the main job, small."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    small = "--num_train_epochs 3 --hidden_size 32 --num_hidden_layers 2 --intermediate_size 64"
    load_script("train").main([*small.split(), "--attn_scale", "--disable_tqdm", "--output_dir", str(folder)])
    return str(folder)


@pytest.fixture(scope="module")
def models_of_photos(tmp_path_factory):
    """Random classifiers of the photographs of other kinds, sizes and orders of the labels."""
    folder = tmp_path_factory.mktemp("photo models")
    vit = ViTForImageClassification(tiny_vit_config(**labels_of(PHOTOS)))
    deit_config = DeiTConfig(**{**TINY, "image_size": 32, "patch_size": 8, **labels_of(PHOTOS[::-1])})
    convnext_config = ConvNextConfig(
        hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1], image_size=32, **labels_of(["other", *PHOTOS])
    )
    crop = {"height": 32, "width": 32}
    return {
        "vit": save(folder / "vit", vit, PROCESSORS["squash"]),
        "deit": save(
            folder / "deit",
            DeiTForImageClassification(deit_config),
            DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=crop),
        ),
        "convnext": save(folder / "convnext", ConvNextForImageClassification(convnext_config), PROCESSORS["convnext"]),
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(write_photos(tmp_path_factory.mktemp("data") / "photos", per_class=4))


@pytest.fixture(scope="module")
def script():
    return load_script("evaluate_model")


def evaluate(script, folder, *arguments):
    script.main(["--output_dir", str(folder), "--disable_tqdm", *map(str, arguments)])
    return json.loads((folder / "eval_results.json").read_text())


def logits_of(folder, data):
    classifier = load_classifier(folder)
    images = ImageDataset(data.evaluation, evaluation_transform(classifier.scale.image_processor))
    rows = [images[i] for i in range(len(images))]
    with torch.no_grad():
        logits = classifier.model(pixel_values=torch.stack([row["pixel_values"] for row in rows])).logits
    return logits, torch.tensor([row["labels"] for row in rows])


def rows_of(results, kind, perturbation=None):
    return {
        (row["perturbation"], row["level"], row["model"]): row
        for row in results["robustness"]
        if row["kind"] == kind and perturbation in (None, row["perturbation"])
    }


@pytest.fixture(scope="module")
def digits_results(script, digits_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations") / "out"
    options = "--patch_drop 0 0.5 0.9 --corruptions gaussian_noise jpeg --fgsm_epsilons 4 8 --pgd_epsilons 4"
    data = "--max_eval_samples 120 --pgd_steps 3 --per_device_eval_batch_size 50"
    return folder, evaluate(script, folder, "--model_name_or_path", digits_model, *options.split(), *data.split())


def test_results_are_those_of_the_model_on_every_image_once(digits_results, digits_model):
    _, results = digits_results
    logits, labels = logits_of(digits_model, load_data(DataArguments(max_eval_samples=120)))
    assert results["eval_samples"] == 120 and results["num_processes"] == 1
    assert results["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-9)
    assert results["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert results["eval_accuracy"] > 0.3
    model = results["models"]["digits"]
    hits = sum(row["accuracy"] * row["samples"] for row in model["per_class_accuracy"].values())
    assert hits / 120 == pytest.approx(results["eval_accuracy"])
    assert np.trace(model["confusion_matrix"]) / 120 == pytest.approx(results["eval_accuracy"])
    assert np.sum(model["confusion_matrix"]) == 120 and list(model["per_class_accuracy"]) == DIGITS
    assert results["arguments"]["patch_drop"] == [0, 0.5, 0.9] and "torch" in results["versions"]


def test_no_perturbation_of_any_kind_is_the_clean_accuracy(digits_results):
    _, results = digits_results
    accuracy = results["eval_accuracy"]
    for kind, name in [
        ("patch_drop", "patch_drop"),
        ("corruptions", "jpeg"),
        ("fgsm", "fgsm"),
        ("fgsm", "random_signs"),
        ("pgd", "pgd"),
    ]:
        assert rows_of(results, kind)[name, 0, "digits"]["accuracy"] == accuracy


def test_occlusion_and_attack_lower_the_accuracy_and_fgsm_more_than_noise_of_its_size(digits_results):
    _, results = digits_results
    dropped, attacked, projected = (rows_of(results, kind) for kind in ("patch_drop", "fgsm", "pgd"))
    assert dropped["patch_drop", 0.9, "digits"]["accuracy"] < results["eval_accuracy"] - 0.1
    for epsilon in (4, 8):
        noise = attacked["random_signs", epsilon, "digits"]["accuracy"]
        assert attacked["fgsm", epsilon, "digits"]["accuracy"] < noise - 0.05
    assert projected["pgd", 4, "digits"]["accuracy"] <= attacked["fgsm", 4, "digits"]["accuracy"] + 0.02


def test_an_evaluation_leaves_results_tables_and_pictures(digits_results):
    folder, results = digits_results
    assert {path.name for path in folder.iterdir()} == {
        "confusion_matrix.png",
        "corruptions.png",
        "eval_results.json",
        "fgsm.png",
        "patch_drop.png",
        "pgd.png",
        "reliability_diagram.png",
        "eval_tables.md",
    }
    assert all(min(Image.open(file).size) > 250 for file in folder.glob("*.png"))
    tables = (folder / "eval_tables.md").read_text()
    accuracy = rows_of(results, "patch_drop")["patch_drop", 0.5, "digits"]["accuracy"]
    assert f"| patch drop | 0.5 | {accuracy:.4f} |" in tables


def test_models_of_other_kinds_are_compared_on_the_same_images_by_the_names_of_the_labels(
    script, models_of_photos, photos, tmp_path
):
    names = list(models_of_photos)
    models = ["--model_name_or_path", models_of_photos["vit"], "--compare", *list(models_of_photos.values())[1:]]
    options = ["--validation_dir", photos, "--patch_drop", 0, 0.5, "--corruptions", "contrast", "--fgsm_epsilons", 4]
    results = evaluate(script, tmp_path / "out", *models, *options)
    data = load_data(DataArguments(validation_dir=photos))
    for name in names:
        logits, labels = logits_of(models_of_photos[name], data)
        indices = label_indices(PHOTOS, load_classifier(models_of_photos[name]).label_names, name)
        accuracy = (logits.argmax(1) == indices[labels]).double().mean().item()
        assert results["models"][name]["eval_accuracy"] == pytest.approx(accuracy)
        assert rows_of(results, "patch_drop")["patch_drop", 0, name]["accuracy"] == pytest.approx(accuracy)
    for (_, _, name), row in rows_of(results, "corruptions").items():
        assert ("difference" in row) == (name != "vit")
        if name != "vit":
            first = rows_of(results, "corruptions")[row["perturbation"], row["level"], "vit"]
            assert row["difference"] == pytest.approx(row["accuracy"] - first["accuracy"])
            assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert "deit - vit" in (tmp_path / "out" / "eval_tables.md").read_text()
    assert len(results["models"]["convnext"]["confusion_matrix"][0]) == 3


def test_two_runs_and_a_model_beside_itself_agree_to_the_bit(script, digits_model, digits_results, tmp_path):
    copy = shutil.copytree(digits_model, tmp_path / "copy")
    options = "--patch_drop 0.5 --corruptions gaussian_noise --pgd_epsilons 4 --pgd_steps 3 --max_eval_samples 120"
    models = ["--compare", digits_model, copy]
    # in batches of another size
    results = evaluate(script, tmp_path / "out", *models, *options.split(), "--per_device_eval_batch_size", 32)
    for row in results["robustness"]:
        if row["model"] == "copy":
            assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    for kind in ("patch_drop", "corruptions"):
        again, before = rows_of(results, kind), rows_of(digits_results[1], kind)
        same = [key for key in again if key in before]
        assert len(same) >= 1 and all(again[key]["accuracy"] == before[key]["accuracy"] for key in same)


def test_models_of_one_size_see_the_same_perturbed_pixels_and_others_the_same_picture(models_of_photos, photos):
    data = load_data(DataArguments(validation_dir=photos))
    vit, deit = (load_classifier(models_of_photos[name]) for name in ("vit", "deit"))
    one = Panel([vit, vit], data.evaluation, PHOTOS, LoadingArguments(disable_tqdm=True))
    assert len(one.scales) == 1
    two = Panel([vit, deit], data.evaluation, PHOTOS, LoadingArguments(disable_tqdm=True))
    assert len(two.scales) == 2 and two.scale_of == [0, 1]
    logits = two.logits("", Treatment(perturbation=Corruption("posterize", 5)))
    plain = two.logits("", Treatment(at_shared_size=True))
    assert all(not torch.equal(a, b) for a, b in zip(logits, plain))


def test_an_image_that_cannot_be_read_is_left_out_and_named(script, models_of_photos, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "temple" / "1.jpg").write_bytes(b"no picture")
    results = evaluate(
        script, tmp_path / "out", "--model_name_or_path", models_of_photos["vit"], "--validation_dir", folder
    )
    assert results["eval_samples"] == 7 and results["skipped_images"] == 1
    assert "1.jpg" in results["skipped_image_names"][0]


def test_the_results_may_stand_beside_the_model(script, digits_model, tmp_path):
    folder = shutil.copytree(digits_model, tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    for again in ([], ["--overwrite_output_dir"]):
        evaluate(script, folder, "--model_name_or_path", folder, "--max_eval_samples", 20, *again)
    assert (folder / "model.safetensors").read_bytes() == before and (folder / "README.md").exists()


# mistakes


@pytest.fixture(scope="module")
def broken_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    labelled = ViTCBForImageClassification(tiny_config(**labels_of(["cat", "dog", "fox", "hen", "owl"])))
    save(folder / "animals", labelled, PROCESSORS["squash"])
    ViTModel(tiny_vit_config(**labels_of(DIGITS))).save_pretrained(folder / "headless")
    PROCESSORS["squash"].save_pretrained(folder / "headless")
    ViTForImageClassification(tiny_vit_config(**labels_of(DIGITS))).save_pretrained(folder / "unprepared")
    (folder / "cut off").mkdir()
    for file in (folder / "animals").iterdir():
        shutil.copy(file, folder / "cut off" / file.name)
    weights = (folder / "animals" / "model.safetensors").read_bytes()
    (folder / "cut off" / "model.safetensors").write_bytes(weights[:1000])
    return folder


MISTAKES = [
    pytest.param([], "--model_name_or_path", id="no model"),
    pytest.param(["--model_name_or_path", "nowhere/at-all"], "nowhere/at-all", id="no such model"),
    pytest.param(["--model_name_or_path", "BROKEN/animals"], "'0'", id="other labels"),
    pytest.param(["--model_name_or_path", "BROKEN/headless"], "classifier", id="no head"),
    pytest.param(["--model_name_or_path", "BROKEN/unprepared"], "image processor", id="no image processor"),
    pytest.param(["--model_name_or_path", "BROKEN/cut off"], "cut off", id="cut-off weights"),
    pytest.param(["--model_name_or_path", "DIGITS", "--compare", "DIGITS"], "once", id="model twice"),
    pytest.param(["--model_name_or_path", "DIGITS", "--compare", "BROKEN/animals"], "animals", id="one does not fit"),
    pytest.param(["--model_name_or_path", "DIGITS", "--patch_drop", "1"], "patch_drop", id="every patch"),
    pytest.param(["--model_name_or_path", "DIGITS", "--patch_drop", "half"], "half", id="share in words"),
    pytest.param(["--model_name_or_path", "DIGITS", "--corruptions", "rain"], "rain", id="unknown corruption"),
    pytest.param(["--model_name_or_path", "DIGITS", "--fgsm_epsilons", "-1"], "fgsm_epsilons", id="negative distance"),
    pytest.param(["--model_name_or_path", "DIGITS", "--pgd_epsilons", "nan"], "pgd_epsilons", id="no number"),
    pytest.param(["--model_name_or_path", "DIGITS", "--pgd_steps", "0"], "pgd_steps", id="no steps"),
    pytest.param(["--model_name_or_path", "DIGITS", "--seed", "-1"], "seed", id="negative seed"),
    pytest.param(["--model_name_or_path", "DIGITS", "--per_device_eval_batch_size", "0"], "batch_size", id="no batch"),
    pytest.param(["--model_name_or_path", "DIGITS", "--dataloader_num_workers", "-1"], "workers", id="no workers"),
    pytest.param(["--model_name_or_path", "DIGITS", "--validation_dir", "/nowhere"], "/nowhere", id="no such data"),
    pytest.param(["--model_name_or_path", "DIGITS", "--no_such_flag"], "--no_such_flag", id="unknown flag"),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2_and_leaves_nothing(
    arguments, named, script, digits_model, broken_models, tmp_path, capsys
):
    arguments = [word.replace("BROKEN", str(broken_models)).replace("DIGITS", digits_model) for word in arguments]
    with pytest.raises(SystemExit) as exit_:
        run(script.main, ["--output_dir", str(tmp_path / "out"), "--disable_tqdm", *arguments])
    out, error = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and named in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_in_the_folder_is_refused_by_name(script, digits_model, tmp_path, capsys):
    (tmp_path / "eval_results.json").write_text("mine")
    with pytest.raises(SystemExit) as exit_:
        run(script.main, ["--model_name_or_path", digits_model, "--output_dir", str(tmp_path)])
    assert exit_.value.code == 2 and "--overwrite_output_dir" in capsys.readouterr().err
    assert (tmp_path / "eval_results.json").read_text() == "mine"


def test_streamed_data_are_evaluated_as_often_as_needed(script, models_of_photos, photos, tmp_path):
    options = ["--model_name_or_path", models_of_photos["vit"], "--validation_dir", photos, "--patch_drop", 0.5]
    streamed = evaluate(script, tmp_path / "streamed", *options, "--streaming")
    assert streamed["robustness"] == evaluate(script, tmp_path / "read", *options)["robustness"]
