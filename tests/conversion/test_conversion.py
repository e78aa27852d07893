"""Published checkpoints become ViT-CB: the same outputs, the right preprocessing, each tensor placed or named."""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from checkpoints import GOLDENS, SMALL, golden, save, timm_vit, to_google, with_techniques
from helpers import tiny_config, tiny_vit_config
from hf_cb import ViTCBConfig, ViTCBForImageClassification
from hf_cb.cli.parser import run
from hf_cb.conversion.checkpoint import CheckpointError
from hf_cb.conversion.convert import convert_checkpoint, to_timm_state_dict
from hf_cb.errors import UsageError


TOLERANCE = {"rtol": 0, "atol": 2e-5}
FAMILIES = {"vit_plain": 5, "deit_attnscale": None, "deit_featscale": 4}


@pytest.fixture(scope="module")
def main(convert_script):
    return convert_script.main


def load(folder):
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model) is ViTCBForImageClassification
    assert not any(info.values())
    return model.eval()


@torch.no_grad()
def converted(state_dict, folder, name="file.pth", **arguments):
    """The ViT-CB that a state dict becomes, by way of its files."""
    file = save(state_dict, folder / name)
    convert_checkpoint(file, folder / "out", **arguments)
    return load(folder / "out")


@torch.no_grad()
def compare_to_golden(model, expected):
    output = model(expected["input"], output_hidden_states=True)
    assert_close(output.logits, expected["logits"], **TOLERANCE)
    assert len(output.hidden_states) > 2
    for index, hidden in enumerate(output.hidden_states[1:]):
        assert_close(hidden, expected[f"hidden.{index}"], **TOLERANCE)


@torch.no_grad()
def images_and_logits(model, size=32, seed=0):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images, model(images)


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_golden_keeps_its_outputs(family, name, tmp_path):
    weights, expected = golden(family)
    compare_to_golden(converted(weights, tmp_path, name, num_attention_heads=FAMILIES[family]), expected)


@pytest.mark.parametrize("family", ["deit_attnscale", "deit_featscale"])
def test_a_published_checkpoint_keeps_its_outputs_through_the_command_line(family, main, tmp_path, capsys):
    heads = [] if FAMILIES[family] is None else ["--num_attention_heads", str(FAMILIES[family])]
    checkpoint = str(GOLDENS / f"{family}.pth")
    main(["--checkpoint", checkpoint, "--output_dir", str(tmp_path / "out"), *heads])
    compare_to_golden(load(tmp_path / "out"), golden(family)[1])
    assert "leaving out its optimizer, lr_scheduler, epoch, model_ema, scaler, args" in capsys.readouterr().out


def test_the_moving_average_gives_other_logits(tmp_path):
    _, expected = golden("deit_attnscale")
    convert_checkpoint(GOLDENS / "deit_attnscale.pth", tmp_path / "out", use_ema=True)
    with torch.no_grad():
        logits = load(tmp_path / "out")(expected["input"]).logits
    assert (logits - expected["logits"]).abs().max() > 0.01


def test_a_gain_of_1_does_not_reproduce_the_published_featscale(main, tmp_path):
    arguments = ["--checkpoint", str(GOLDENS / "deit_featscale.pth"), "--num_attention_heads", "4"]
    main([*arguments, "--output_dir", str(tmp_path / "out"), "--featscale_gain", "1"])
    _, expected = golden("deit_featscale")
    with torch.no_grad():
        logits = load(tmp_path / "out")(expected["input"]).logits
    assert (logits - expected["logits"]).abs().max() > 0.1


@pytest.mark.parametrize("gain", [None, 1, 2])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("container", ["bare", "model", "model_ema", "state_dict", "safetensors"])
def test_featscales_factor_is_2_in_every_container_unless_1_is_asked_for(container, prefix, gain, tmp_path):
    weights = with_techniques(timm_vit().state_dict())
    stored = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    content = stored if container in ("bare", "safetensors") else {container: stored, "args": argparse.Namespace(lr=1)}
    name = "file.safetensors" if container == "safetensors" else "file.pth"
    model = converted(content, tmp_path, name, featscale_gain=gain, use_ema=container == "model_ema")
    for index, layer in enumerate(model.vit.layers):
        assert torch.equal(layer.feat_scale.dc_scale, (gain or 2) * weights[f"blocks.{index}.lamb1"])
        assert torch.equal(layer.feat_scale.hc_scale, (gain or 2) * weights[f"blocks.{index}.lamb2"])
        assert torch.equal(layer.attention.attn_scale.omega, weights[f"blocks.{index}.attn.lamb"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"(`--featscale_gain`) | {gain or 2} |" in card


def test_a_card_without_featscale_names_no_factor(tmp_path):
    converted(timm_vit().state_dict(), tmp_path)
    assert "featscale_gain" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="default"),
        pytest.param({"qkv_bias": False}, id="no qkv bias"),
        pytest.param({"patch_size": 16, "img_size": 48}, id="other sizes"),
        pytest.param({"depth": 11, "mlp_ratio": 0.5, "num_classes": 1}, id="two-digit blocks"),
    ],
)
def test_everything_that_the_tensors_determine_is_read_off_them(overrides, tmp_path):
    source = timm_vit(**overrides)
    model = converted(source.state_dict(), tmp_path)
    images, expected = images_and_logits(source, size=overrides.get("img_size", 32))
    assert_close(model(images).logits, expected, **TOLERANCE)
    expected = {**SMALL, "qkv_bias": True, **overrides}
    config = model.config
    assert config.image_size == expected["img_size"] and config.patch_size == expected["patch_size"]
    assert config.hidden_size == 128 and config.intermediate_size == int(128 * expected["mlp_ratio"])
    assert config.num_hidden_layers == expected["depth"] and config.num_labels == expected["num_classes"]
    assert config.num_attention_heads == 2 and config.qkv_bias == expected["qkv_bias"]
    assert config.layer_norm_eps == 1e-6 and config.hidden_act == "gelu" and config.context_broadcast is None


@pytest.mark.parametrize(
    ("techniques", "expected"),
    [
        pytest.param({"attn": True, "feat": False, "blocks": (1,)}, (True, False, [1]), id="one block"),
        pytest.param({"attn": False, "feat": True}, (False, True, None), id="all blocks"),
        pytest.param({"attn": True, "feat": True, "blocks": (0, 2)}, (True, True, [0, 2]), id="both techniques"),
    ],
)
def test_the_techniques_and_their_layers_are_read_off_the_tensors(techniques, expected, tmp_path):
    weights = timm_vit(depth=3).state_dict()
    config = converted(with_techniques(weights, **{"blocks": (0, 1, 2), **techniques}), tmp_path).config
    assert (config.attn_scale, config.feat_scale, config.apply_layers) == expected


def test_the_number_of_heads_comes_from_the_flag_or_attnscale_or_the_width(tmp_path):
    weights, heads = timm_vit(num_heads=4).state_dict(), []
    for index, (stored, arguments) in enumerate(
        [
            (weights, {"num_attention_heads": 8}),
            (with_techniques(weights, feat=False, heads=4), {}),
            (with_techniques(weights, feat=False, heads=4), {"num_attention_heads": 4}),
            (weights, {}),
        ]
    ):
        (tmp_path / str(index)).mkdir()
        heads.append(converted(stored, tmp_path / str(index), **arguments).config.num_attention_heads)
    assert heads == [8, 4, 4, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(dtype, tmp_path):
    weights = {name: tensor.to(dtype) for name, tensor in timm_vit().state_dict().items()}
    model = converted(weights, tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in to_timm_state_dict(model).items())


def test_weights_of_two_dtypes_take_the_wider(tmp_path):
    weights = timm_vit().state_dict()
    mixed = {name: tensor.half() if "mlp" in name else tensor for name, tensor in weights.items()}
    assert {parameter.dtype for parameter in converted(mixed, tmp_path).parameters()} == {torch.float32}


def test_tensors_that_share_their_memory_are_all_written(tmp_path):
    weights = timm_vit().state_dict()
    weights |= {name: weights["norm.weight"] for name in weights if name.endswith(("norm1.weight", "norm2.weight"))}
    model = converted(weights, tmp_path)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in to_timm_state_dict(model).items())


def test_context_broadcast_is_added_on_request_alone(main, tmp_path):
    source = timm_vit()
    file = save(source.state_dict(), tmp_path / "file.pth")
    images, expected = images_and_logits(source)
    logits = {}
    for kind in ("none", "plain", "scaled"):
        main(["--checkpoint", str(file), "--output_dir", str(tmp_path / kind), "--context_broadcast", kind])
        model = load(tmp_path / kind)
        assert model.config.context_broadcast == (None if kind == "none" else kind)
        logits[kind] = model(images).logits.detach()
    assert_close(logits["none"], expected, **TOLERANCE)
    assert_close(logits["scaled"], expected, **TOLERANCE)
    assert (logits["plain"] - expected).abs().max() > 0.01


def test_googles_arrays_give_timms_logits(tmp_path):
    source = timm_vit()
    file = save(source.state_dict(), tmp_path / "file.npz")
    by_timm = VisionTransformer(**SMALL).eval()
    by_timm.load_pretrained(str(file))
    model = converted(source.state_dict(), tmp_path, "file.npz")
    images, expected = images_and_logits(by_timm)
    assert_close(model(images).logits, expected, **TOLERANCE)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in to_timm_state_dict(model).items())


def test_googles_arrays_tell_the_number_of_heads(tmp_path):
    file = tmp_path / "file.npz"
    np.savez(file, **to_google(timm_vit(num_heads=4).state_dict(), head_width=32))
    convert_checkpoint(file, tmp_path / "out")
    assert load(tmp_path / "out").config.num_attention_heads == 4
    with pytest.raises(CheckpointError, match="contradicts .*query/kernel"):
        convert_checkpoint(file, tmp_path / "other", num_attention_heads=2)


def test_to_timm_and_back_is_equal_to_the_bit(main, tmp_path, capsys):
    source = timm_vit(mlp_ratio=1.3)
    file = save(source.state_dict(), tmp_path / "file.pth")
    main(["--checkpoint", str(file), "--output_dir", str(tmp_path / "there")])
    main(["--checkpoint", str(tmp_path / "there"), "--output_dir", str(tmp_path / "back"), "--to", "timm"])
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == source.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in source.state_dict().items())
    expression = capsys.readouterr().out.split("timm.models.vision_transformer.")[-1]
    assert eval(expression, {"VisionTransformer": VisionTransformer}).load_state_dict(back)


TECHNIQUES = {
    "Context Broadcasting": {"context_broadcast": "plain"},
    "dimension-scaled": {"context_broadcast": "scaled"},
    "AttnScale": {"attn_scale": True},
    "FeatScale": {"feat_scale": True},
}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_vit_cb_with_a_technique_does_not_go_to_timm(technique, main, tmp_path):
    fields = {"context_broadcast": None, **TECHNIQUES[technique]}
    ViTCBForImageClassification(tiny_config(**fields)).save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=technique):
        main(["--to", "timm", "--checkpoint", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "named"), [({"hidden_act": "gelu_new"}, "hidden_act"), ({"layer_norm_eps": 1e-5}, "layer_norm_eps")]
)
def test_what_timm_would_compute_otherwise_does_not_go_there(fields, named):
    with pytest.raises(UsageError, match=named):
        to_timm_state_dict(ViTCBForImageClassification(tiny_config(context_broadcast=None, **fields)))


@pytest.fixture
def imagenet_checkpoint(tmp_path):
    return save(timm_vit(num_classes=1000, depth=1).state_dict(), tmp_path / "imagenet.pth")


def test_a_thousand_classes_have_imagenets_names(imagenet_checkpoint, tmp_path):
    convert_checkpoint(imagenet_checkpoint, tmp_path / "out")
    config = ViTCBConfig.from_pretrained(tmp_path / "out")
    info = ImageNetInfo()
    assert len(config.label2id) == 1000
    for index, name in config.id2label.items():
        # timm calls both 134, the bird, and 517, the machine, a crane
        id_ = f" ({info.index_to_label_name(index)})" if index in (134, 517) else ""
        assert name == info.index_to_description(index) + id_
    assert config.id2label[0] == "tench, Tinca tinca" and config.label2id["tench, Tinca tinca"] == 0
    assert config.num_labels == 1000


def test_without_timm_imagenets_names_are_asked_for(imagenet_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        convert_checkpoint(imagenet_checkpoint, tmp_path / "out")


def test_a_folder_works_where_hf_cb_is_not_installed(tmp_path):
    model = converted(with_techniques(timm_vit().state_dict()), tmp_path)
    images, logits = images_and_logits(lambda images: model(images).logits)
    torch.save(images, tmp_path / "images.pt")
    script = """
import sys
sys.modules["hf_cb"] = None
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder = sys.argv[1]
processor = AutoImageProcessor.from_pretrained(f"{folder}/out", trust_remote_code=True)
assert type(processor).__name__ == "ViTCBImageProcessor", type(processor)
assert processor(torch.zeros(3, 50, 70, dtype=torch.uint8), return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)
model = AutoModelForImageClassification.from_pretrained(f"{folder}/out", trust_remote_code=True)
torch.save(model(torch.load(f"{folder}/images.pt")).logits.detach(), f"{folder}/logits.pt")
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert_close(torch.load(tmp_path / "logits.pt"), logits)


def changed(**changes):
    """A state dict with tensors added, replaced, or left out where the change is None."""

    def make():
        weights = {**with_techniques(timm_vit().state_dict()), **changes}
        return {name: tensor for name, tensor in weights.items() if tensor is not None}

    return make


def renamed(name, new):
    def make():
        weights = with_techniques(timm_vit().state_dict())
        weights[new] = weights.pop(name)
        return weights

    return make


def google(**changes):
    return lambda: {
        **{name: torch.from_numpy(array) for name, array in to_google(timm_vit().state_dict()).items()},
        **changes,
    }


def hugging_face(prefix):
    return lambda: {
        name.replace("vit.", prefix): tensor
        for name, tensor in ViTForImageClassification(tiny_vit_config()).state_dict().items()
    }


def techniques_apart():
    attn_scale = with_techniques(timm_vit().state_dict(), blocks=(0,), feat=False)
    return with_techniques(attn_scale, blocks=(1,), attn=False)


ONE = torch.ones(1)
BAD_TENSORS = {
    # one that is missing
    "no class token": (changed(cls_token=None), "'cls_token'"),
    "no head": (changed(**{"head.weight": None, "head.bias": None}), "'head.weight'"),
    "no bias in a block": (changed(**{"blocks.1.mlp.fc2.bias": None}), "'blocks.1.mlp.fc2.bias'"),
    "qkv bias in one block": (changed(**{"blocks.1.attn.qkv.bias": None}), "'blocks.1.attn.qkv.bias'"),
    "one of FeatScale's two": (changed(**{"blocks.1.lamb2": None}), "'blocks.1.lamb2'"),
    "a block skipped": (changed(**{"blocks.9999.norm1.weight": torch.ones(128)}), "'blocks.2.norm1.weight'"),
    # one that is unknown
    "unknown": (changed(extra=ONE), "'extra'"),
    "unknown in a block": (changed(**{"blocks.0.attn.extra": ONE}), "'blocks.0.attn.extra'"),
    "index with a leading 0": (changed(**{"blocks.00.lamb1": torch.ones(128)}), "'blocks.00.lamb1'"),
    "misspelt": (renamed("norm.weight", "norm.wieght"), "'norm.weight'"),
    # one of another shape
    "head's bias": (changed(**{"head.bias": torch.ones(4)}), "'head.bias'"),
    "inside the MLP": (changed(**{"blocks.1.mlp.fc1.bias": torch.ones(7)}), "'blocks.1.mlp.fc1.bias'"),
    "qkv": (changed(**{"blocks.0.attn.qkv.weight": torch.ones(128, 128)}), "'blocks.0.attn.qkv.weight'"),
    "lamb1": (changed(**{"blocks.0.lamb1": torch.ones(2)}), "'blocks.0.lamb1'"),
    "norm of two dimensions": (changed(**{"blocks.0.norm1.bias": torch.ones(1, 128)}), "'blocks.0.norm1.bias'"),
    "one lamb of other heads": (changed(**{"blocks.1.attn.lamb": torch.ones(4)}), "'blocks.1.attn.lamb'"),
    "grey images": (changed(**{"patch_embed.proj.weight": torch.ones(128, 1, 8, 8)}), "'patch_embed.proj.weight'"),
    "oblong patches": (changed(**{"patch_embed.proj.weight": torch.ones(128, 3, 8, 4)}), "'patch_embed.proj.weight'"),
    "flat patches": (changed(**{"patch_embed.proj.weight": torch.ones(128, 192)}), "'patch_embed.proj.weight'"),
    "oblong image": (changed(pos_embed=torch.ones(1, 19, 128)), "'pos_embed' is of 19 tokens"),
    "no positions": (changed(pos_embed=torch.ones(1, 0, 128)), "'pos_embed'"),
    "a width of 0": (changed(cls_token=torch.ones(1, 1, 0)), "'cls_token'"),
    # one of other numbers
    "integers": (changed(**{"norm.bias": torch.ones(128, dtype=torch.long)}), "'norm.bias' is of torch.int64"),
    "not finite": (changed(**{"norm.bias": torch.full((128,), torch.nan)}), "'norm.bias' holds values that are not"),
    # techniques
    "in different blocks": (techniques_apart, "[0] and [1]"),
    # families
    "distilled DeiT": (changed(dist_token=ONE), "distilled DeiT"),
    "Hugging Face DeiT": (hugging_face("deit."), "Hugging Face DeiT"),
    "Hugging Face ViT": (hugging_face("vit."), "needs no conversion"),
    "LayerScale": (changed(**{"blocks.0.ls1.gamma": ONE}), "LayerScale"),
    "LayerScale of DeiT III": (changed(**{"blocks.0.gamma_1": ONE}), "LayerScale"),
    "q/k norms": (changed(**{"blocks.0.attn.q_norm.weight": ONE}), "q/k norms"),
    "registers": (changed(reg_token=ONE), "registers"),
    "average pooling": (changed(**{"fc_norm.weight": ONE}), "average pooling"),
    "representation layer": (changed(**{"pre_logits.fc.weight": ONE}), "pre_logits"),
    "CaiT": (lambda: timm.create_model("cait_xxs24_224", depth=1).state_dict(), "CaiT"),
    "Swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1,)).state_dict(), "Swin"),
    "BEiT": (changed(**{"blocks.0.attn.relative_position_bias_table": ONE}), "BEiT"),
    "ResNet": (lambda: {"conv1.weight": ONE, "bn1.running_mean": ONE}, "'conv1.weight'"),
    "one number": (lambda: {"weight": torch.tensor(1.0)}, "'weight'"),
    "Google's, with representation layer": (google(**{"pre_logits/kernel": ONE}), "pre_logits"),
    "Google's, one missing": (google(**{"head/kernel": torch.ones(3, 5)}), "'head/kernel'"),
    "Google's hybrid": (google(**{"conv_root/kernel": ONE}), "hybrid"),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_file_is_one_line_that_names_it_and_the_culprit(case, prefix, main, tmp_path, capsys):
    make, named = BAD_TENSORS[case]
    file = save({f"{prefix}{name}": tensor for name, tensor in make().items()}, tmp_path / "bad.pth")
    with pytest.raises(SystemExit) as exit_:
        run(main, ["--checkpoint", str(file), "--output_dir", str(tmp_path / "runs" / "out")])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and err.count("\n") == 1
    assert str(file) in err and named.replace("'", f"'{prefix}", 1) in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_of_two_features_that_cannot_be_held_both_are_named(tmp_path):
    weights = changed(reg_token=ONE, **{"blocks.0.ls1.gamma": ONE})()
    with pytest.raises(CheckpointError, match="LayerScale.*registers"):
        convert_checkpoint(save(weights, tmp_path / "bad.pth"), tmp_path / "out")


PLAIN = ["--checkpoint", "plain.pth"]
MISTAKES = {
    "nothing to convert": ([], "checkpoint"),
    "no file": (["--checkpoint", "nowhere.pth"], "nowhere.pth: no such file"),
    "no checkpoint": (["--checkpoint", "text.txt"], "text.txt: is no checkpoint"),
    "unknown flag": ([*PLAIN, "--heads", "2"], "--heads"),
    "heads that contradict lamb": (["--checkpoint", "lamb.pth", "--num_attention_heads", "4"], "'blocks.0.attn.lamb'"),
    "heads that do not divide": ([*PLAIN, "--num_attention_heads", "3"], "must divide the width 128, got 3"),
    "no heads": ([*PLAIN, "--num_attention_heads", "0"], "got 0"),
    "heads that nothing tells": (["--checkpoint", "narrow.pth"], "give `num_attention_heads`"),
    "another factor": ([*PLAIN, "--featscale_gain", "3"], "must be 1 or 2, got 3"),
    "no moving average": ([*PLAIN, "--use_ema"], "model_ema"),
    "another broadcast": ([*PLAIN, "--context_broadcast", "mean"], "'mean'"),
    "unknown timm model": (["--timm_model", "vit_nowhere"], "'vit_nowhere'"),
    "timm model of another kind": ([*PLAIN, "--timm_model", "resnet18"], "ResNet"),
    "timm model of another width": (
        [*PLAIN, "--timm_model", "vit_tiny_patch16_224"],
        "'cls_token' has the shape [1, 1, 128]",
    ),
    "timm model of another depth": (
        ["--checkpoint", "shallow.pth", "--timm_model", "vit_tiny_patch16_224"],
        "2 blocks",
    ),
    "timm model with average pooling": ([*PLAIN, "--timm_model", "vit_base_patch16_gap_224"], "average pooling"),
    "to nowhere": ([*PLAIN, "--to", "jax"], "'jax'"),
    "file to timm": ([*PLAIN, "--to", "timm"], "must be a ViT-CB's folder"),
    "nothing to timm": (["--to", "timm"], "--checkpoint"),
    "plain ViT to timm": (["--to", "timm", "--checkpoint", "vit"], "of model type 'vit'"),
    "folder without weights to timm": (["--to", "timm", "--checkpoint", "empty"], "empty' cannot be loaded"),
    "heads to timm": (["--to", "timm", "--checkpoint", "vit", "--num_attention_heads", "2"], "num_attention_heads"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    save(timm_vit().state_dict(), folder / "plain.pth")
    save(timm_vit(embed_dim=40).state_dict(), folder / "narrow.pth")
    save(with_techniques(timm_vit().state_dict()), folder / "lamb.pth")
    save(timm.create_model("vit_tiny_patch16_224", depth=2).state_dict(), folder / "shallow.pth")
    (folder / "text.txt").write_text("hello\n")
    ViTForImageClassification(tiny_vit_config()).save_pretrained(folder / "vit")
    tiny_config(context_broadcast=None).save_pretrained(folder / "empty")
    return folder


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2_and_leaves_nothing(
    case, main, workplace, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(workplace)
    arguments, named = MISTAKES[case]
    with pytest.raises(SystemExit) as exit_:
        run(main, ["--output_dir", str(tmp_path / "runs" / "out"), *arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == "" and err.count("\n") == 1 and named in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_run_is_replaced_on_request_alone(main, workplace, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    arguments = ["--checkpoint", str(workplace / "plain.pth"), "--output_dir", str(tmp_path)]
    with pytest.raises(UsageError, match="--overwrite_output_dir"):
        main(arguments)
    assert (tmp_path / "config.json").read_text() == "{}"
    main([*arguments, "--overwrite_output_dir"])
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 128


def test_the_card_tells_file_entry_and_command(main, tmp_path):
    save({"model": timm_vit().state_dict(), "epoch": 3, "a|b\nc": 1}, tmp_path / "weights.pth")
    main(["--checkpoint", str(tmp_path / "weights.pth"), "--output_dir", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "`weights.pth`" in card and "its entry `model`" in card and r"epoch, 'a|b\nc'" in card
    assert "python scripts/convert_checkpoint.py --checkpoint" in card
    assert "{{" not in card and "{%" not in card


def test_an_image_processor_comes_with_the_folder(workplace, tmp_path):
    convert_checkpoint(workplace / "plain.pth", tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = torch.zeros(3, 70, 50, dtype=torch.uint8)
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


# argv: a file and a folder; prints the bytes of memory above the imports
COST = """
import sys
from hf_cb.conversion.convert import convert_checkpoint

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

memory = kilobytes("VmRSS")
convert_checkpoint(sys.argv[1], sys.argv[2])
print(1024 * (kilobytes("VmHWM") - memory))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_vit_base_converts_in_twice_its_memory_with_the_optimizers_state_left_in_the_file(tmp_path):
    with torch.device("meta"):
        shapes = timm.create_model("vit_base_patch16_224").state_dict()
    weights = {name: torch.full(tensor.shape, 0.01) for name, tensor in shapes.items()}
    size = sum(tensor.nbytes for tensor in weights.values())
    file = save({"model": weights, "optimizer": {"state": torch.ones(size // 4)}}, tmp_path / "file.pth")
    command = [sys.executable, "-c", COST, str(file), str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > size > 300e6
    for path in (file, tmp_path / "out" / "model.safetensors"):
        path.unlink()
    assert int(ran.stdout) < 2 * size
