"""The benchmark: whom it measures, how it counts, and its command line. Nothing here asserts on time."""

import copy
import json

import pytest
import torch
from torch.testing import assert_close
from tqdm.auto import tqdm

from command_lines import load_script
from hf_cb import ViTCBConfig
from hf_cb.benchmark.contenders import BASELINE, CONTENDERS, build, sizes_of
from hf_cb.benchmark.published import PUBLISHED, as_published
from hf_cb.benchmark.timing import WARMUP_ROUNDS, count_flops, interleaved_seconds, peak_bytes, summarize
from hf_cb.cli.parser import run
from hf_cb.techniques.variants import VARIANTS
from models_with_everything import CASES
from models_with_everything import build as build_tiny
from reference import attn_scale, reference_logits, softmax_attention


CPU = torch.device("cpu")
SIZES = sizes_of(ViTCBConfig.from_preset("tiny", num_hidden_layers=2, image_size=64))


@pytest.fixture(scope="module")
def script():
    return load_script("benchmark")


def images(batch_size=2):
    return torch.randn(batch_size, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# whom it measures


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_the_published_formulation_equals_the_definitions(fields, images64):
    model = as_published(build_tiny(**fields).double())
    assert {type(module) for module in model.modules()} & set(PUBLISHED.values())
    with torch.no_grad():
        expected = reference_logits(dict(model.named_parameters()), model.config, images64)
        assert_close(model(images64).logits, expected, rtol=1e-12, atol=1e-12)


def test_the_published_formulation_has_the_scaled_attention_matrix_in_memory():
    layer = as_published(build_tiny().double()).vit.layers[0].attention
    tokens = torch.randn(2, 17, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        query, key = (p(tokens).view(2, 17, 3, 8).transpose(1, 2) for p in (layer.q_proj, layer.k_proj))
        expected = attn_scale(softmax_attention(query, key), layer.attn_scale.omega)
        assert_close(layer(tokens)[1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("technique", [name for name in VARIANTS if f"{name}_published" in CONTENDERS])
def test_the_published_formulation_computes_what_ours_does(technique):
    ours, theirs = (build(name, SIZES, CPU, torch.float32) for name in (technique, f"{technique}_published"))
    plain = build(BASELINE, SIZES, CPU, torch.float32)
    theirs.load_state_dict(ours.state_dict())
    plain.load_state_dict({name: ours.state_dict()[name] for name in plain.state_dict()})
    with torch.no_grad():
        assert_close(theirs(images()), ours(images()), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(plain(images()), ours(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_model_has_the_same_sizes(name):
    model = build(name, SIZES, CPU, torch.float32)
    baseline = build(BASELINE, SIZES, CPU, torch.float32)
    with torch.no_grad():
        assert model(images()).shape == (2, 1000)
    count, expected = (sum(p.numel() for n, p in m.named_parameters() if "scale" not in n) for m in (model, baseline))
    assert count == expected


# how it counts


def flops_of_vit(tokens, width, inner, layers, classes, patch_inputs):
    """Two operations for each product of a weight, or of a query, key or value, that is summed."""
    layer = 2 * tokens * (4 * width * width + 2 * tokens * width + 2 * width * inner)
    return 2 * (tokens - 1) * patch_inputs * width + layers * layer + 2 * width * classes


@pytest.mark.parametrize("name", CONTENDERS)
def test_operations_are_counted_as_by_hand(name):
    model = build(name, SIZES, CPU, torch.float32).eval()
    with torch.no_grad():
        counted = count_flops(lambda: model(images(batch_size=1)))
    assert counted == flops_of_vit(17, 192, 768, layers=2, classes=1000, patch_inputs=3 * 16 * 16)


def test_peak_memory_is_what_is_held_at_once():
    def step():
        first = torch.empty(2**18)
        second = torch.empty(2**19)
        del first, second
        return torch.empty(2**17)

    assert peak_bytes(step, CPU) == 4 * (2**18 + 2**19)


def test_attention_matrices_in_memory_show_in_the_peak_of_training():
    sizes = sizes_of(ViTCBConfig.from_preset("tiny", num_hidden_layers=2, image_size=224))
    pixel_values = torch.randn(2, 3, 224, 224)
    models = {name: build(name, sizes, CPU, torch.float32) for name in (BASELINE, "all", "all_published")}
    peaks = {name: peak_bytes(lambda m=m: m(pixel_values).sum().backward(), CPU) for name, m in models.items()}
    assert peaks[BASELINE] < peaks["all"]
    # two matrices of 197 x 197 for each of 2 images, 3 heads and 2 layers, in float32
    assert peaks["all_published"] - peaks["all"] > 2 * 197**2 * 2 * 3 * 2 * 4


def test_steps_are_timed_in_turn_each_once_a_round():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = interleaved_seconds(steps, 5, CPU, tqdm(disable=True))
    assert {name: len(times) for name, times in seconds.items()} == {"a": 5, "b": 5, "c": 5}
    rounds = [called[index : index + 3] for index in range(0, len(called), 3)]
    assert len(rounds) == WARMUP_ROUNDS + 5
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_ratios_are_of_times_in_the_same_round():
    summary = summarize({"vit": [1.0, 2.0, 4.0], "cb": [1.5, 2.0, 2.0]}, "vit")
    assert summary["vit"]["ratio"] == summary["vit"]["ratio_of_best"] == 1
    expected = {"median": 2.0, "min": 1.5, "max": 2.0, "ratio": 1.0, "ratio_min": 0.5, "ratio_max": 1.5}
    assert {name: summary["cb"][name] for name in expected} == expected
    assert summary["cb"]["ratio_of_best"] == 1.5


# its command line

SMALL = ["--preset", "tiny", "--num_hidden_layers", "1", "--image_size", "32", "--batch_size", "1"]
SMALL += ["--num_rounds", "2", "--sweep_num_rounds", "1", "--disable_tqdm"]


def test_a_run_prints_a_table_and_leaves_numbers_and_a_picture(script, tmp_path, capsys):
    output_dir = tmp_path / "out"
    script.main([*SMALL, "--sweep_image_sizes", "48", "32", "--output_dir", str(output_dir)])
    results = json.loads((output_dir / "all_results.json").read_text())
    printed = capsys.readouterr().out
    assert list(results["models"]) == list(CONTENDERS)
    for name, model in results["models"].items():
        assert model["label"] in printed
        for phase in ("forward", "training"):
            measured = model[phase]
            assert len(measured["seconds"]) == 2
            assert measured["min"] <= measured["median"] <= measured["max"]
            assert f"{measured['ratio']:.3f} ({measured['ratio_min']:.3f} to {measured['ratio_max']:.3f})" in printed
            assert measured["peak_bytes"] > 0
        assert name != BASELINE or model["forward"]["ratio"] == 1
    assert list(results["sweep"]) == ["5", "10"]
    assert results["arguments"]["num_rounds"] == 2 and results["versions"]["timm"]
    assert results["setting"] in printed
    assert (output_dir / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in output_dir.iterdir()} == {"all_results.json", "benchmark.png"}


def test_models_can_be_chosen_the_sweep_left_out_and_arithmetic_be_in_bfloat16(script, tmp_path):
    chosen = ["--models", "cb", "--sweep_image_sizes", "--dtype", "bfloat16", "--output_dir", str(tmp_path)]
    script.main([*SMALL, *chosen])
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert list(results["models"]) == ["vit", "cb"]
    assert results["sweep"] == {}
    models = results["models"]
    # weights of half the size
    assert models["vit"]["forward"]["peak_bytes"] < 0.3 * models["vit"]["training"]["peak_bytes"]


def test_a_folder_with_results_is_refused_unless_told_otherwise(script, tmp_path, capsys):
    arguments = [*SMALL, "--models", "--sweep_image_sizes", "--output_dir", str(tmp_path)]
    (tmp_path / "all_results.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        run(script.main, arguments)
    assert exit_.value.code == 2 and "all_results.json" in capsys.readouterr().err
    script.main([*arguments, "--overwrite_output_dir"])
    assert "models" in json.loads((tmp_path / "all_results.json").read_text())


MISTAKES = {
    "flag that is gone": (["--what", "loader"], "--what"),
    "unknown flag": (["--bathc_size", "2"], "bathc_size"),
    "unknown model": (["--models", "resnet"], "resnet"),
    "patches do not tile": (["--image_size", "230"], "230"),
    "patches do not tile the sweep": (["--sweep_image_sizes", "64", "100"], "100"),
    "no images": (["--batch_size", "0"], "batch_size"),
    "no rounds": (["--num_rounds", "0"], "num_rounds"),
    "no layers": (["--num_hidden_layers", "0"], "num_hidden_layers"),
    "unknown device": (["--device", "abacus"], "abacus"),
    "device that is not there": (["--device", "cuda:99"], "cuda:99"),
    "unknown dtype": (["--dtype", "int8"], "int8"),
    "threads beyond counting": (["--num_cpu_threads", "99999"], "num_cpu_threads"),
}


@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2(arguments, named, script, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(script.main, ["--output_dir", str(tmp_path / "out"), *arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and err.count("\n") == 1 and named in err
    assert list(tmp_path.iterdir()) == []


def test_memory_that_does_not_suffice_is_one_line(script, tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("hf_cb.benchmark.measure.interleaved_seconds", refuse)
    with pytest.raises(SystemExit) as exit_:
        run(script.main, [*SMALL, "--output_dir", str(tmp_path / "out")])
    assert exit_.value.code == 2 and "smaller batch" in capsys.readouterr().err


def test_what_is_measured_when_compiled_is_what_is_measured_when_not():
    model = build("all", SIZES, CPU, torch.float32).eval()
    with torch.no_grad():
        compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", dynamic=False)(images())
        assert_close(compiled, model(images()), rtol=1e-5, atol=1e-5)
