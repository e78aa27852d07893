"""Checkpoints in the layouts of other libraries, for the tests of the conversion."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from helpers import randomise_


GOLDENS = Path(__file__).parents[1] / "goldens"
ATTENTION = "MultiHeadDotProductAttention_1"
# a width that is a multiple of 64, so that the number of heads, 2, needs no telling
SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 1.5,
    "num_classes": 5,
}


def timm_vit(seed: int = 0, **overrides) -> nn.Module:
    """A small VisionTransformer of timm's with random weights."""
    return randomise_(VisionTransformer(**{**SMALL, **overrides}), seed)


def with_techniques(state_dict: dict[str, Tensor], blocks=(0, 1), attn=True, feat=True, heads=2) -> dict[str, Tensor]:
    """A state dict with the published names of the techniques' scales added."""
    generator, width = torch.Generator().manual_seed(1), state_dict["cls_token"].shape[-1]
    sizes = {"attn.lamb": heads} if attn else {}
    sizes |= {"lamb1": width, "lamb2": width} if feat else {}
    scales = {
        f"blocks.{index}.{name}": torch.rand(size, generator=generator)
        for index in blocks
        for name, size in sizes.items()
    }
    return {**state_dict, **scales}


def golden(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A golden file's state dict, and its input and outputs."""
    with safe_open(GOLDENS / f"{family}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights = {name.removeprefix("state_dict."): tensor for name, tensor in tensors.items() if "state_dict." in name}
    return weights, {name: tensor for name, tensor in tensors.items() if "state_dict." not in name}


def save(state_dict: dict[str, Tensor], path: Path) -> Path:
    """Write a state dict as what the file's name says."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state_dict.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **to_google(state_dict))
    else:
        torch.save(state_dict, path)
    return path


def to_google(state_dict: dict[str, Tensor], head_width: int = 64) -> dict[str, np.ndarray]:
    """timm's state dict under Google's names and shapes."""
    width = state_dict["cls_token"].shape[-1]
    heads = width // head_width
    depth = 1 + max(int(name.split(".")[1]) for name in state_dict if name.startswith("blocks."))
    arrays = {
        "cls": state_dict["cls_token"],
        "Transformer/posembed_input/pos_embedding": state_dict["pos_embed"],
        "embedding/kernel": state_dict["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state_dict["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state_dict["norm.weight"],
        "Transformer/encoder_norm/bias": state_dict["norm.bias"],
        "head/kernel": state_dict["head.weight"].T,
        "head/bias": state_dict["head.bias"],
    }
    for index in range(depth):
        block = {name: state_dict[f"blocks.{index}.{name}"] for name in BLOCK_OF_TIMM}
        prefix = f"Transformer/encoderblock_{index}/"
        for part, weight, bias in zip(
            ("query", "key", "value"), block["attn.qkv.weight"].chunk(3), block["attn.qkv.bias"].chunk(3)
        ):
            arrays[f"{prefix}{ATTENTION}/{part}/kernel"] = weight.T.reshape(width, heads, head_width)
            arrays[f"{prefix}{ATTENTION}/{part}/bias"] = bias.reshape(heads, head_width)
        arrays[f"{prefix}{ATTENTION}/out/kernel"] = block["attn.proj.weight"].T.reshape(heads, head_width, width)
        arrays[f"{prefix}{ATTENTION}/out/bias"] = block["attn.proj.bias"]
        for ours, theirs in {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}.items():
            arrays[f"{prefix}{theirs}/scale"] = block[f"{ours}.weight"]
            arrays[f"{prefix}{theirs}/bias"] = block[f"{ours}.bias"]
        for ours, theirs in {"mlp.fc1": "Dense_0", "mlp.fc2": "Dense_1"}.items():
            arrays[f"{prefix}MlpBlock_3/{theirs}/kernel"] = block[f"{ours}.weight"].T
            arrays[f"{prefix}MlpBlock_3/{theirs}/bias"] = block[f"{ours}.bias"]
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in arrays.items()}


BLOCK_OF_TIMM = [
    f"{module}.{kind}"
    for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
]


class Malicious:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)
