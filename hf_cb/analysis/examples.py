"""What a model looks at in a few images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .catalogue import NEEDS
from .measures import dc_share
from .models import AnalyzedModel, LayerOutputs


@dataclass(frozen=True)
class Examples:
    """What a model sees in a few images, for figures.

    Args:
        images: [B, height, width, C] as they enter the model, stretched to the range from 0 to 1.
        maps: what the query looks at in each layer, mean over heads, [L, B, rows, columns], as `A` and, with AttnScale,
            `A'`; empty without attention over a grid.
        query: whose attention the maps are.
        dc_share: of the embeddings and after each layer, [B, L + 1]; None without tokens.
    """

    images: Tensor
    maps: dict[str, Tensor]
    query: str
    dc_share: Tensor | None


def take_examples(model: AnalyzedModel, pixel_values: Tensor, outputs: LayerOutputs) -> Examples:
    """Examples of a batch, all of it.

    Args:
        model: which gave the outputs.
        pixel_values: [B, C, height, width].
        outputs: of them.
    """
    low, high = (reduce(pixel_values, dim=(1, 2, 3), keepdim=True) for reduce in (torch.amin, torch.amax))
    images = ((pixel_values - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1)
    maps = {}
    if NEEDS["maps over patches"][0](outputs) and outputs.attentions:
        maps["A"] = _maps_of_query(outputs)
        if model.omegas:
            maps["A'"] = _maps_of_query(outputs.with_effective_attention(model.omegas))
    has_tokens = NEEDS["tokens"][0](outputs)
    shares = torch.stack([dc_share(states) for states in outputs.hidden_states], dim=1).cpu() if has_tokens else None
    query = "the class token" if outputs.num_prefix_tokens else "all patches, on average"
    return Examples(images.cpu(), maps, query, shares)


def _maps_of_query(outputs: LayerOutputs) -> Tensor:
    patches = outputs.patches
    queries = slice(0, 1) if outputs.num_prefix_tokens else patches
    maps = [a[..., queries, patches].mean(dim=(1, 2)).unflatten(-1, outputs.grid) for a in outputs.attentions]
    return torch.stack(maps).cpu()
