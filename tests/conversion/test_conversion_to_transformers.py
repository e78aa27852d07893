"""Distilled DeiTs and Swins of the published code become transformers' models with techniques."""

import json

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close
from transformers import (
    AutoImageProcessor,
    DeiTForImageClassificationWithTeacher,
    SwinForImageClassification,
)

import hf_cb
from checkpoints import GOLDENS, golden, save
from hf_cb.cli.parser import run
from hf_cb.conversion.convert import convert_checkpoint
from hf_cb.techniques.apply import applied_techniques


TOLERANCE = {"rtol": 0, "atol": 2e-5}
FAMILIES = {
    "deit_attnscale_distilled": DeiTForImageClassificationWithTeacher,
    "swin_attnscale": SwinForImageClassification,
    "swin_featscale": SwinForImageClassification,
}

each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def main(convert_script):
    return convert_script.main


def load(folder):
    model, info = hf_cb.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


def converted(weights, folder, name="file.pth", **arguments):
    convert_checkpoint(save(weights, folder / name), folder / "out", **arguments)
    return load(folder / "out")


@torch.no_grad()
def blocks_of(model, images):
    """The logits, and what each block returns."""
    found = []
    paths = {"deit": "deit.layers.", "swin": "swin.encoder.layers."}[model.config.model_type]
    for name, module in model.named_modules():
        is_block = name.startswith(paths) and name.split(".")[-1].isdigit() and type(module).__name__.endswith("Layer")
        if is_block:
            keep = lambda m, args, out: found.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
            module.register_forward_hook(keep)
    return model(images).logits, found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
@each_family
def test_a_golden_keeps_its_outputs(family, name, attention, tmp_path):
    weights, expected = golden(family)
    model = converted(weights, tmp_path, name)
    model.set_attn_implementation(attention)
    assert type(model) is FAMILIES[family]
    logits, blocks = blocks_of(model, expected["input"])
    assert_close(logits, expected["logits"], **TOLERANCE)
    assert len(blocks) == sum(key.startswith("hidden.") for key in expected)
    assert_close(blocks, [expected[f"hidden.{index}"] for index in range(len(blocks))], **TOLERANCE)


@each_family
def test_without_its_technique_a_golden_is_missed(family, tmp_path):
    weights, expected = golden(family)
    model = hf_cb.remove_techniques(converted(weights, tmp_path))
    assert (blocks_of(model, expected["input"])[0] - expected["logits"]).abs().max() > 0.01


@each_family
def test_everything_is_read_off_the_tensors(family, tmp_path):
    with safe_open(GOLDENS / f"{family}.safetensors", "pt") as file:
        stored = {name: json.loads(text) for name, text in file.metadata().items()}
    model = converted(golden(family)[0], tmp_path)
    config = model.config
    assert (config.image_size, config.patch_size) == (stored["img_size"], stored["patch_size"])
    assert (config.layer_norm_eps, config.qkv_bias) == (stored["norm_eps"], stored["qkv_bias"])
    assert config.num_labels == stored["num_classes"]
    if config.model_type == "swin":
        ours = (config.embed_dim, config.depths, config.num_heads, config.window_size, config.mlp_ratio)
        assert ours == tuple(stored[name] for name in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio"))
    else:
        ours = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
        assert ours == (stored["embed_dim"], stored["depth"], stored["num_heads"])
    techniques = applied_techniques(model).config
    assert (techniques.attn_scale, techniques.feat_scale) == ("attnscale" in family, "featscale" in family)
    assert techniques.context_broadcast is None and techniques.apply_layers is None


@pytest.mark.parametrize("without", ["attn_mask", "relative_position_index"])
def test_swins_buffers_may_be_missing(without, tmp_path):
    weights, expected = golden("swin_attnscale")
    weights = {name: tensor for name, tensor in weights.items() if without not in name}
    logits, _ = blocks_of(converted(weights, tmp_path), expected["input"])
    assert_close(logits, expected["logits"], **TOLERANCE)


def test_a_larger_map_is_read_off_the_masks(tmp_path):
    weights, _ = golden("swin_attnscale")
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    assert converted(weights, tmp_path).config.image_size == 64


def test_blocks_with_the_technique_are_counted_through_the_stages(tmp_path):
    weights, _ = golden("swin_featscale")
    kept = {name: tensor for name, tensor in weights.items() if "lamb" not in name or "layers.1.blocks.0" in name}
    model = converted(kept, tmp_path)
    assert applied_techniques(model).config.apply_layers == [2]
    scale = model.swin.encoder.layers[1].blocks[0].drop_path.feat_scale.dc_scale
    assert torch.equal(scale, weights["layers.1.blocks.0.lamb1"])


@pytest.mark.parametrize("gain", [None, 1, 2])
def test_swins_factor_is_1_unless_2_is_asked_for(gain, tmp_path):
    weights, _ = golden("swin_featscale")
    model = converted(weights, tmp_path, featscale_gain=gain)
    scale = model.swin.encoder.layers[0].blocks[0].drop_path.feat_scale.hc_scale
    assert torch.equal(scale, (gain or 1) * weights["layers.0.blocks.0.lamb2"])
    assert f"(`--featscale_gain`) | {gain or 1} |" in (tmp_path / "out" / "README.md").read_text()


def test_a_distilled_deit_with_featscale_has_the_factor_2(tmp_path):
    weights, _ = golden("deit_attnscale_distilled")
    scales = {f"blocks.{i}.lamb{j}": torch.rand(40) for i in range(2) for j in (1, 2)}
    model = converted({**weights, **scales}, tmp_path)
    assert torch.equal(model.deit.layers[1].attention.feat_scale.dc_scale, 2 * scales["blocks.1.lamb1"])


@each_family
def test_without_techniques_the_plain_model_comes_out(family, tmp_path):
    weights = {name: tensor for name, tensor in golden(family)[0].items() if "lamb" not in name}
    heads = {"num_attention_heads": 5} if "deit" in family else {}
    model = converted(weights, tmp_path, **heads)
    assert applied_techniques(model) is None and "technique_config" not in model.config.to_dict()
    assert type(FAMILIES[family].from_pretrained(tmp_path / "out")) is FAMILIES[family]


def test_context_broadcast_is_added_on_request(tmp_path):
    weights, expected = golden("swin_attnscale")
    model = converted(weights, tmp_path, context_broadcast="scaled")
    assert applied_techniques(model).config.context_broadcast == "scaled"
    assert_close(blocks_of(model, expected["input"])[0], expected["logits"], **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@each_family
def test_weights_keep_their_dtype(family, dtype, tmp_path):
    weights = {name: tensor.to(dtype) for name, tensor in golden(family)[0].items()}
    converted(weights, tmp_path)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}


def test_the_command_line_says_what_it_converted(main, tmp_path, capsys):
    file = save(golden("swin_featscale")[0], tmp_path / "swin.pth")
    main(["--checkpoint", str(file), "--output_dir", str(tmp_path / "out")])
    assert "a Swin of 2 + 2 layers, width 24 + 48, 2 + 4 heads, windows of 4" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hf_cb.from_pretrained" in card and "transformers' Swin" in card and "AutoModel" not in card
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor(torch.zeros(3, 50, 70, dtype=torch.uint8), return_tensors="pt").pixel_values.shape[-2:] == (32, 32)


def swin(**changes):
    weights = {**golden("swin_featscale")[0], **changes}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def deit(**changes):
    weights = {**golden("deit_attnscale_distilled")[0], **changes}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
ONE = torch.ones(1)


def tables(*shapes):
    names = {f"layers.{s}.blocks.{b}.attn.relative_position_bias_table": s for s in range(2) for b in range(2)}
    return {name: torch.ones(shapes[stage]) for name, stage in names.items()}


BAD_TENSORS = {
    "no distillation token": (deit(dist_token=None), "'dist_token' of a distilled DeiT is missing"),
    "no head for it": (deit(**{"head_dist.bias": None}), "'head_dist.bias' of a distilled DeiT is missing"),
    "a token too few": (deit(pos_embed=torch.ones(1, 17, 40)), "'pos_embed' is of 17 tokens"),
    "unknown in a DeiT": (deit(extra=ONE), "holds 'extra', for which DeiT has no place"),
    "head of another size": (deit(**{"head_dist.weight": torch.ones(7, 40)}), "'head_dist.weight' has the shape [7,"),
    "unknown in a Swin": (swin(**{"layers.0.blocks.0.extra": ONE}), "'layers.0.blocks.0.extra', for which Swin has no"),
    "absolute positions": (swin(absolute_pos_embed=ONE), "'absolute_pos_embed'"),
    "no merging": (swin(**{"layers.0.downsample.norm.weight": None}), "'layers.0.downsample.norm.weight' of a Swin"),
    "one of FeatScale's two": (swin(**{"layers.1.blocks.1.lamb2": None}), "'layers.1.blocks.1.lamb2' of a Swin"),
    "qkv bias in some blocks": (swin(**{"layers.1.blocks.1.attn.qkv.bias": None}), "'layers.1.blocks.1.attn.qkv.bias'"),
    "a stage skipped": (swin(**{"layers.3.blocks.0.norm1.weight": ONE}), "'layers.3.blocks.0.norm1.weight'"),
    "no square of offsets": (swin(**tables([50, 2], [50, 4])), "has 50 rows"),
    "another window": (swin(**{TABLE: torch.ones(9, 2)}), f"'{TABLE}' has the shape [9, 2]"),
    "a flat table": (swin(**tables([98], [49, 4])), f"'{TABLE}' must have 2 dimensions"),
    "heads that do not divide": (swin(**tables([49, 5], [49, 4])), "is of 5 heads"),
    "an oblong map": (swin(**{"layers.0.blocks.1.attn_mask": torch.zeros(6, 16, 16)}), "'layers.0.blocks.1.attn_mask'"),
    "a width that does not double": (swin(**{"norm.weight": torch.ones(40)}), "'norm.weight' has the shape [40]"),
    "Swin V2": (swin(**{"layers.0.blocks.0.attn.logit_scale": ONE}), "Swin V2"),
    "not finite": (swin(**{"norm.bias": torch.full((48,), torch.nan)}), "'norm.bias' holds values that are not finite"),
}  # fmt: skip

MISTAKES = {
    "heads of a Swin": (swin(), ["--num_attention_heads", "2"], "`num_attention_heads` does not go with a Swin"),
    "heads that contradict": (deit(), ["--num_attention_heads", "4"], "'blocks.0.attn.lamb'"),
    "timm's model for a Swin": (
        swin(),
        ["--timm_model", "vit_tiny_patch16_224"],
        "`timm_model` does not go with a Swin",
    ),
    "a factor for AttnScale": (deit(), ["--featscale_gain", "2"], "has no FeatScale"),
}


@pytest.mark.parametrize("case", [*BAD_TENSORS, *MISTAKES])
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(case, main, tmp_path, capsys):
    weights, named, arguments = *(BAD_TENSORS.get(case) or MISTAKES[case][::2]), MISTAKES.get(case, (0, []))[1]
    file = save(weights, tmp_path / "bad.pth")
    with pytest.raises(SystemExit) as exit_:
        run(main, ["--checkpoint", str(file), "--output_dir", str(tmp_path / "out"), *arguments])
    out, err = capsys.readouterr()
    assert exit_.value.code == 2 and out == "" and err.count("\n") == 1
    assert named in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]
