"""scripts/analyze.py on tiny random models of many kinds: what it measures, what it leaves out, and what it writes."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, ViTConfig, ViTImageProcessor

from helpers import randomise_
from hf_cb import ViTCBConfig, analysis
from hf_cb.analysis.catalogue import MEASURES
from hf_cb.analysis.models import AnalyzedModel
from hf_cb.analysis.report import short_labels
from hf_cb.analysis.running import ImageBatches, RunningMoments, analyze
from hf_cb.cli.parser import run
from hf_cb.data.digits import load_digits
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.errors import UsageError
from hf_cb.reports.figures import DOTS_PER_INCH


SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 4,
}
DINO_SIZES = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
# configuration class, its fields, tokens before the patches
KINDS = {
    "vit": ("ViTConfig", {**SIZES, "num_hidden_layers": 2}, 1),
    "deit": ("DeiTConfig", SIZES, 2),
    "beit": ("BeitConfig", {**SIZES, "use_relative_position_bias": True}, 1),
    "dinov2": ("Dinov2Config", DINO_SIZES, 1),
    "dinov2-registers": ("Dinov2WithRegistersConfig", {**DINO_SIZES, "num_register_tokens": 4}, 5),
    "siglip": ("SiglipVisionConfig", SIZES, 0),
    "not-square": ("ViTConfig", {**SIZES, "image_size": [8, 16]}, 1),
    "swin": ("SwinConfig", SWIN, None),
}
NAMES = [measure.name for measure in MEASURES]
NUM_IMAGES = 12


def image_processor(size):
    height, width = (size, size) if isinstance(size, int) else size
    return ViTImageProcessor(size={"height": height, "width": width})


def save(config, folder, seed=0):
    """A random model whose attention is far from uniform, and its image processor."""
    torch.manual_seed(seed)
    model = randomise_(AutoModel.from_config(config), seed)
    model.save_pretrained(folder)
    image_processor(config.image_size).save_pretrained(folder)
    return str(folder)


def run_script(script, paths, output_dir, *arguments):
    script.main(
        ["--model_name_or_path", *paths, "--output_dir", str(output_dir), "--disable_tqdm"]
        + ["--max_eval_samples", str(NUM_IMAGES), *arguments]
    )
    return json.loads((output_dir / "analysis.json").read_text())


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    found = {
        kind: save(getattr(transformers, name)(**fields), root / kind) for kind, (name, fields, _) in KINDS.items()
    }
    found["vit-cb"] = save(ViTCBConfig(**SIZES, attn_scale=True, feat_scale=True, apply_layers=[0, 2]), root / "vit-cb")
    return found


@pytest.fixture(scope="module")
def analysed(analyze_script, paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis") / "report"
    return folder, run_script(analyze_script, paths.values(), folder)


def pixel_values_of(path):
    """The same images as the script's, by the model's own image processor."""
    batches = ImageBatches(load_digits()["test"].select(drawn()), AnalyzedModel.from_pretrained(path), NUM_IMAGES)
    (batch,) = batches
    return batch["pixel_values"]


def drawn():
    """Which of the digits' test images the script draws."""
    evaluation = load_data(DataArguments(max_eval_samples=NUM_IMAGES), 0).evaluation
    every = [row["image"]["bytes"] for row in load_data(DataArguments()).evaluation]
    return [every.index(row["image"]["bytes"]) for row in evaluation]


def outputs_of(path):
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(pixel_values=pixel_values_of(path), output_attentions=True, output_hidden_states=True)


def test_results_are_by_the_paths_as_they_were_given(analysed, paths):
    assert list(analysed[1]) == list(paths.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swin"])
def test_every_measure_of_every_layer_is_the_functions_on_the_models_own_outputs(analysed, paths, kind):
    result, outputs = analysed[1][paths[kind]], outputs_of(paths[kind])
    prefix, grid = KINDS[kind][2], tuple(result["model"]["grid"])
    assert grid == ((2, 4) if kind == "not-square" else (4, 4))
    assert result["model"]["num_prefix_tokens"] == prefix and result["left_out"] == {}
    expected = {
        "attention_density": [analysis.attention_density(a).mean(1) for a in outputs.attentions],
        "softmax_jacobian_norm": [analysis.softmax_jacobian_norm(a).mean(1) for a in outputs.attentions],
        "attention_distance": [
            analysis.attention_distance(a[..., prefix:, prefix:], grid).mean(1) for a in outputs.attentions
        ],
        "attention_frequency_response": [
            analysis.attention_frequency_response(a)[..., 1:].mean((1, 2)) for a in outputs.attentions
        ],
        "high_frequency_ratio": [analysis.high_frequency_ratio(h) for h in outputs.hidden_states],
        "token_similarity": [analysis.token_similarity(h) for h in outputs.hidden_states],
        "feature_spectrum": [
            analysis.feature_spectrum(h[:, prefix:], grid)[:, 1:].mean(1) for h in outputs.hidden_states
        ],
    }
    for name, layers in expected.items():
        values = torch.stack(layers).double()
        assert_close(torch.tensor(result[name]["mean"]).double(), values.mean(1), rtol=1e-4, atol=1e-5)
        assert_close(torch.tensor(result[name]["std"]).double(), values.std(1), rtol=1e-3, atol=1e-5)
        assert result[name]["images"] == NUM_IMAGES
    matrix = analysis.attention_similarity(outputs.attentions)
    assert_close(torch.tensor(result["attention_similarity"]["matrix"]["mean"]), matrix, rtol=1e-4, atol=1e-5)
    assert_close(torch.tensor(result["attention_similarity"]["mean"]), matrix.diagonal(1), rtol=1e-4, atol=1e-5)


def test_layers_of_attention_count_from_1_and_those_of_tokens_from_the_embeddings(analysed, paths):
    result = analysed[1][paths["deit"]]
    assert result["attention_density"]["layers"] == [1, 2, 3]
    assert result["attention_similarity"]["layers"] == [2, 3]
    assert result["token_similarity"]["layers"] == [0, 1, 2, 3]
    assert [len(heads) for heads in result["attention_distance"]["heads"]["mean"]] == [3, 3, 3]


def test_attn_scale_shows_a_prime_beside_a(analysed, paths):
    result = analysed[1][paths["vit-cb"]]
    effective = result["effective_attention"]
    assert set(effective["omega"]) == {"1", "3"} and set(effective["omega"]["1"]) != {0.0}
    outputs = outputs_of(paths["vit-cb"])
    for layer, attention in enumerate(outputs.attentions, start=1):
        omega = torch.tensor(effective["omega"].get(str(layer), [0.0] * 3))
        curve = ((1 + omega)[:, None] * analysis.attention_frequency_response(attention)[..., 1:]).mean((0, 1, 2))
        shown = effective["attention_frequency_response"]["mean"][layer - 1]
        assert shown == pytest.approx(curve.item(), rel=1e-4)
    assert effective["attention_frequency_response"]["mean"][1] == result["attention_frequency_response"]["mean"][1]
    assert "attention_density" not in effective
    assert all("effective_attention" not in analysed[1][paths[kind]] for kind in KINDS)


def test_results_do_not_depend_on_the_batches(analysed, analyze_script, paths, tmp_path):
    path = paths["dinov2-registers"]
    again = run_script(
        analyze_script, [path], tmp_path / "out", "--per_device_eval_batch_size", "5", "--num_examples", "0"
    )
    for name in NAMES:
        first, second = (torch.tensor(r[path][name]["mean"]) for r in (analysed[1], again))
        assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_a_hierarchical_model_is_measured_as_far_as_it_can_be_and_the_rest_is_named(analysed, paths):
    folder, results = analysed
    result, report = results[paths["swin"]], (folder / "report.html").read_text()
    assert set(result["left_out"]) == {"attention_distance", "attention_similarity", "feature_spectrum"}
    assert {"attention_density", "high_frequency_ratio", "token_similarity"} <= set(result)
    for reason in result["left_out"].values():
        assert reason in report


class Page(HTMLParser):
    """Every tag with its attributes; unclosed ones stay in `open`."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_well_formed_file_that_loads_nothing(analysed):
    folder, _ = analysed
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in (folder / "report.html").read_text()


def test_the_report_can_be_read_on_a_telephone(analysed):
    report = (analysed[0] / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in report
    # what is broader than the screen is pushed sideways, or shrinks to it
    assert ".wide { overflow-x: auto; }" in report and "max-width: min(100%" in report
    assert len(re.findall(r'<div class="wide"><table', report)) == report.count("<table") == 2
    alt = re.findall(r'<div( class="wide")?><img alt="(\w+)', report)
    assert len(alt) == report.count("<img")
    assert all(bool(is_wide) == (title == "Examples") for is_wide, title in alt)
    # letters of 10 points are as high there: an inch of the picture is at least 60 of the screen's 358 pixels
    pictures = [Image.open(file) for file in analysed[0].glob("*.png") if not file.name.startswith("examples")]
    assert len(pictures) == len(NAMES) and max(picture.size[0] / DOTS_PER_INCH for picture in pictures) <= 358 / 60


def test_the_report_holds_every_picture_with_its_source(analysed, paths):
    folder, _ = analysed
    report = (folder / "report.html").read_text()
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert {f"{name}.png" for name in NAMES} <= set(pictures)
    assert len(pictures) == len(NAMES) + len(paths)
    inline = re.findall(r'src="data:image/png;base64,([^"]+)"', report)
    assert sorted(map(base64.b64decode, inline)) == sorted(pictures.values())
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", report, re.DOTALL)
    assert len(captions) == len(pictures) and all("arXiv:" in caption for caption in captions)


def test_pictures_are_large_enough_to_read(analysed):
    for path in analysed[0].glob("*.png"):
        assert min(Image.open(path).size) > 300


def test_names_in_the_report_are_text_and_no_html(analyze_script, paths, tmp_path):
    folder = tmp_path / "<b>bold & co"
    folder.symlink_to(paths["vit"])
    run_script(analyze_script, [str(folder)], tmp_path / "out")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;bold &amp; co" in report and "<b>bold" not in report


def test_labels_are_short_where_they_can_be():
    assert short_labels(["a/x", "b/y"]) == {"a/x": "x", "b/y": "y"}
    assert short_labels(["a/x", "b/x"]) == {"a/x": "a/x", "b/x": "b/x"}
    (label,) = short_labels(["a" * 60]).values()
    assert len(label) == 40 and label.startswith("...")


def analyze_folder(path, images=None, num_examples=0):
    model = AnalyzedModel.from_pretrained(str(path))
    batches = ImageBatches(load_digits()["test"].select(range(4)) if images is None else images, model, 4)
    return analyze(model, batches, torch.device("cpu"), num_examples, disable=True)


def test_a_model_that_returns_no_attentions_is_switched_to_eager(paths):
    model = AnalyzedModel.from_pretrained(paths["vit"])
    assert model.model.config._attn_implementation == "sdpa"
    assert len(model.run(torch.zeros(1, 3, 16, 16)).attentions) == 2
    assert model.model.config._attn_implementation == "eager"


def test_a_model_that_cannot_be_switched_is_named_with_what_is_left_out(paths, monkeypatch):
    monkeypatch.setattr(transformers.ViTModel, "set_attn_implementation", lambda self, name: None)
    result, _ = analyze_folder(paths["vit"])
    attention = {measure.name for measure in MEASURES if "attentions" in measure.needs}
    assert set(result["left_out"]) == attention and len(attention) == 5
    assert all("returns no attentions" in reason for reason in result["left_out"].values())
    assert result["high_frequency_ratio"]["images"] == 4


def test_a_model_of_a_single_patch_is_measured_as_far_as_it_can_be(tmp_path):
    fields = {**SIZES, "patch_size": 16}
    result, examples = analyze_folder(save(transformers.SiglipVisionConfig(**fields), tmp_path), num_examples=2)
    assert result["model"]["num_tokens"] == 1
    undefined = {"attention_density", "token_similarity", "feature_spectrum", "attention_frequency_response"}
    assert set(result["left_out"]) == undefined
    assert result["high_frequency_ratio"]["mean"] == [0.0] * 4
    assert examples.maps["A"].shape == (3, 2, 1, 1)


def test_values_that_are_not_finite_are_left_out_and_named(paths, tmp_path):
    model = AnalyzedModel.from_pretrained(paths["vit"])
    with torch.no_grad():
        model.model.layers[1].mlp.fc2.bias.fill_(torch.nan)
    model.model.save_pretrained(tmp_path)
    model.image_processor.save_pretrained(tmp_path)
    result, _ = analyze_folder(tmp_path)
    assert set(result["left_out"]) == {"high_frequency_ratio", "token_similarity", "feature_spectrum"}
    assert "not finite" in result["left_out"]["token_similarity"]
    json.dumps(result, allow_nan=False)


def test_images_that_cannot_be_read_are_counted_and_take_no_part(analyze_script, paths, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(2):
            Image.new("L", (20, 20), 60 * index + 40).save(tmp_path / "images" / label / f"{index}.png")
    (tmp_path / "images" / "b" / "broken.png").write_bytes(b"no image")
    path = paths["vit"]
    result = run_script(analyze_script, [path], tmp_path / "out", "--validation_dir", str(tmp_path / "images"))[path]
    assert (result["model"]["images"], result["model"]["images_unreadable"]) == (4, 1)
    assert "1 could not be read" in (tmp_path / "out" / "report.html").read_text()


def test_running_moments_are_those_of_all_images_at_once():
    values = 1e6 + torch.randn(23, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    running = RunningMoments()
    for part in values.split([5, 1, 10, 0, 7]):
        running.add(part)
    mean, std = map(torch.tensor, running.result())
    assert_close(mean.double(), values.mean(0), rtol=1e-6, atol=0)
    # large values with small differences: sums of squares would have lost them
    assert_close(std.double(), values.std(0), rtol=1e-6, atol=1e-6)


def test_running_moments_leave_out_what_is_not_finite():
    running = RunningMoments()
    running.add(torch.tensor([1.0, torch.nan, 3.0, torch.inf]))
    assert running.result()[0] == 2.0 and (running.count, running.num_left_out) == (2, 2)
    assert RunningMoments().result() == (None, None)


def a_text_model(folder, paths):
    fields = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    transformers.BertModel(transformers.BertConfig(**fields, intermediate_size=8)).save_pretrained(folder)


def without_image_processor(folder, paths):
    AutoModel.from_pretrained(paths["vit"]).save_pretrained(folder)


def without_a_tensor(folder, paths):
    save(ViTConfig(**SIZES), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "layer.1." not in name}, folder / "model.safetensors")


def with_broken_weights(folder, paths):
    save(ViTConfig(**SIZES), folder)
    (folder / "model.safetensors").write_bytes(b"no weights")


def with_images_of_another_size(folder, paths):
    save(ViTConfig(**SIZES), folder)
    image_processor(24).save_pretrained(folder)


def a_convolutional_model(folder, paths):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    AutoModel.from_config(config).save_pretrained(folder)
    image_processor(32).save_pretrained(folder)


def a_shuffling_model(folder, paths):
    save(transformers.ViTMAEConfig(**SIZES), folder)


def nothing(folder, paths):
    folder.mkdir()


BAD_MODELS = {
    "an empty folder": (nothing, "cannot be loaded"),
    "a text model": (a_text_model, "takes `input_ids`"),
    "no image processor": (without_image_processor, "preprocessor_config.json"),
    "weights that are not all there": (without_a_tensor, "would be random"),
    "broken weights": (with_broken_weights, "cannot be loaded"),
    "an image processor for another size": (with_images_of_another_size, "(3, 24, 24)"),
    "no tokens": (a_convolutional_model, "nothing to measure"),
    "shuffled tokens": (a_shuffling_model, "ViTModel.from_pretrained"),
}


@pytest.mark.parametrize(("make", "named"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_cannot_be_measured_is_one_line_with_its_name(
    make, named, analyze_script, paths, tmp_path, capsys
):
    make(tmp_path / "bad", paths)
    arguments = ["--model_name_or_path", paths["vit"], str(tmp_path / "bad"), "--output_dir", str(tmp_path / "out")]
    err = failing(analyze_script, [*arguments, "--max_eval_samples", "2", "--disable_tqdm"], capsys)
    assert named in err and str(tmp_path / "bad") in err
    assert not (tmp_path / "out").exists()


def failing(script, arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(script.main, arguments)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


BAD_FLAGS = {
    "no models": (["--model_name_or_path"], "at least one model"),
    "a model twice": (["--model_name_or_path", "{vit}", "{vit}"], "twice"),
    "a folder that is not there": (["--model_name_or_path", "no/such/folder"], "no/such/folder"),
    "no images": (["--max_eval_samples", "0"], "max_eval_samples"),
    "an empty batch": (["--per_device_eval_batch_size", "0"], "per_device_eval_batch_size"),
    "fewer examples than none": (["--num_examples", "-1"], "num_examples"),
    "an unknown flag": (["--max_images", "3"], "--max_images"),
    "data that are not there": (["--validation_dir", "no/such/images"], "no/such/images"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_a_mistaken_flag_is_one_line(arguments, named, analyze_script, paths, tmp_path, capsys):
    defaults = ["--model_name_or_path", paths["vit"], "--output_dir", str(tmp_path / "out")]
    arguments = [argument.format(vit=paths["vit"]) for argument in arguments]
    assert named in failing(analyze_script, [*defaults, *arguments], capsys)
    assert not (tmp_path / "out").exists()


def test_a_report_is_replaced_only_on_request_and_a_model_beside_it_stays(analyze_script, tmp_path):
    path = tmp_path / "model"
    save(ViTConfig(**SIZES), path)
    weights = (path / "model.safetensors").read_bytes()
    run_script(analyze_script, [str(path)], path)
    with pytest.raises(UsageError, match="--overwrite_output_dir"):
        run_script(analyze_script, [str(path)], path)
    run_script(analyze_script, [str(path)], path, "--overwrite_output_dir", "--num_examples", "0")
    assert (path / "model.safetensors").read_bytes() == weights and (path / "preprocessor_config.json").is_file()
    # of the first report, which had examples
    assert not list(path.glob("examples_*.png"))
