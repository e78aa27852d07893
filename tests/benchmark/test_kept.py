"""What the techniques keep for the backward pass: a count, at the size at which it is promised."""

import json

import pytest
import torch
from torch import nn

from command_lines import load_script
from hf_cb import ViTCBConfig
from hf_cb.benchmark.contenders import BASELINE, build, sizes_of
from hf_cb.benchmark.timing import kept_bytes


CPU = torch.device("cpu")
# 197 tokens
SIZES = sizes_of(ViTCBConfig.from_preset("tiny", num_hidden_layers=4))
BATCH_SIZE = 32


def kept(name, sizes=SIZES, batch_size=BATCH_SIZE):
    model = build(name, sizes, CPU, torch.float32).train()
    images = torch.randn(batch_size, 3, sizes["image_size"], sizes["image_size"])
    return kept_bytes(lambda: model(images), model.parameters())


@pytest.fixture(scope="module")
def plain():
    return kept(BASELINE)


@pytest.mark.parametrize("technique", ["cb", "cb_s", "attn_scale", "feat_scale", "all"])
def test_a_technique_keeps_at_most_a_hundredth_more_than_plain_vit(technique, plain):
    assert plain <= kept(technique) <= 1.01 * plain


def test_plain_cb_keeps_nothing(plain):
    assert kept("cb") == plain


def test_as_published_they_keep_more(plain):
    assert kept("all_published") > 1.5 * plain


def test_what_is_kept_is_counted_as_by_hand():
    linear, tokens = nn.Linear(6, 4), torch.randn(5, 6)
    # its input, and what the exponential function returns
    assert kept_bytes(lambda: linear(tokens), linear.parameters()) == 4 * (5 * 6)
    assert kept_bytes(lambda: linear(tokens).exp(), linear.parameters()) == 4 * (5 * 6 + 5 * 4)
    # and its weights, if they are not said to be there anyway
    assert kept_bytes(lambda: linear(tokens.requires_grad_()), []) == 4 * (5 * 6 + 6 * 4)


def test_views_of_one_storage_count_once():
    tokens = torch.randn(4, 6, requires_grad=True)
    copied = tokens.detach().clone().requires_grad_()
    assert kept_bytes(lambda: tokens[:2] * tokens[2:], []) == 4 * 4 * 6
    assert kept_bytes(lambda: tokens * copied, []) == 2 * 4 * 4 * 6


def test_the_command_tells_what_is_kept(tmp_path, capsys):
    script = load_script("benchmark")
    small = ["--preset", "tiny", "--num_hidden_layers", "1", "--image_size", "32", "--batch_size", "2"]
    script.main([*small, "--num_rounds", "1", "--sweep_image_sizes", "--disable_tqdm", "--output_dir", str(tmp_path)])
    models = json.loads((tmp_path / "all_results.json").read_text())["models"]
    sizes = sizes_of(ViTCBConfig.from_preset("tiny", num_hidden_layers=1, image_size=32))
    printed = capsys.readouterr().out
    assert "kept for the backward pass, MiB" in printed
    for name, model in models.items():
        training = model["training"]
        assert training["kept_ratio"] == training["kept_bytes"] / models[BASELINE]["training"]["kept_bytes"]
        assert f"{training['kept_ratio']:.3f}" in printed
        assert "kept_bytes" not in model["forward"]
        # the loss keeps a few numbers itself
        assert 0 <= training["kept_bytes"] - kept(name, sizes, 2) < 4 * 4 * 2 * 1000
