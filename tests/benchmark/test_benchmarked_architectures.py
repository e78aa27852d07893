"""The benchmark of other architectures than ViT-CB."""

import json

import pytest
import torch

import hf_cb
from command_lines import load_script, refusal
from hf_cb import technique_parameters
from hf_cb.benchmark.contenders import build, sizes_of


@pytest.mark.parametrize(("model_type", "tokens"), [("dinov2", 10), ("siglip_vision_model", 9), ("deit", 11)])
def test_the_benchmark_measures_another_architecture_against_its_plain_model(model_type, tokens, tmp_path):
    arguments = "--preset tiny --num_hidden_layers 1 --image_size 32 --batch_size 1 --num_rounds 1 --sweep_num_rounds 1"
    arguments += f" --sweep_image_sizes 48 --disable_tqdm --model_type {model_type} --output_dir {tmp_path}"
    load_script("benchmark").main(arguments.split())
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


MISTAKES = {
    "no such size": (["--model_type", "swin"], "invalid choice: 'swin'"),
    "models of ViT-CB": (
        ["--model_type", "dinov2", "--models", "timm"],
        "`models` must be of plain, cb, cb_s, attn_scale, feat_scale, all, got 'timm'",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, said, tmp_path, capsys):
    assert said in refusal("benchmark", [*arguments, "--output_dir", tmp_path / "out"], capsys)
    assert list(tmp_path.iterdir()) == []
