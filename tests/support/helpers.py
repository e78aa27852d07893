"""Small models and inputs for the tests."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTConfig

from hf_cb import ViTCBConfig


# 16 patches and the class token
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 4,
    "encoder_stride": 4,
    "num_labels": 5,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
NUM_TOKENS = 17


def tiny_config(**overrides) -> ViTCBConfig:
    """A three-layer ViT-CB; every field can be overridden."""
    return ViTCBConfig(**{**TINY, **overrides})


def tiny_vit_config(**overrides) -> ViTConfig:
    """The plain ViT of the same size."""
    return ViTConfig(**{**TINY, **overrides})


def tiny_images(batch_size: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)


@torch.no_grad()
def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter in place so that each one matters, and return the model in evaluation mode.

    Scales are in [-0.5, 1] and never near 0. Matrices have a gain near 1, queries and keys one of 2: attention is far
    from uniform, so that a technique that acts on its mean shows.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(_spread(name, noise))
    return model.eval()


def _spread(name: str, noise: Tensor) -> Tensor:
    if is_scale(name):
        uniform = noise.erf() * 0.35  # [-0.35, 0.35]
        return uniform + torch.where(uniform < 0, -0.1, 0.5)
    if "layernorm" in name and name.endswith("weight"):
        return 1 + 0.2 * noise
    if noise.dim() < 2 or "embeddings" in name and "projection" not in name:
        return 0.2 * noise
    gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
    return gain * noise / noise[0].numel() ** 0.5


def is_scale(name: str) -> bool:
    """Whether a parameter belongs to a technique."""
    return name.endswith(("context_scale", "omega", "dc_scale", "hc_scale"))


def random_mask(batch_size: int = 2, num_tokens: int = NUM_TOKENS, seed: int = 0) -> Tensor:
    """[batch_size, num_tokens]: 1 for two thirds of the tokens or so, the class token among them, never for all."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(batch_size, num_tokens, generator=generator) < 0.67).long()
    mask[:, 0] = 1
    mask[:, -1] = 0
    return mask


def save_in_module_layout(model: PreTrainedModel, folder: Path) -> Path:
    """Write `config.json` and weights under the names of the module tree, not those that transformers writes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_diff_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder
