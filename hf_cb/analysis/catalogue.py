"""The measures of `hf_cb.analysis` as they are taken of every layer of a model, with the words that explain them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..reports.papers import CB_PAPER, SCALE_PAPER, SPECTRUM_PAPER, VIT_PAPER
from .measures import (
    attention_density,
    attention_distance,
    attention_frequency_response,
    attention_similarity,
    feature_spectrum,
    high_frequency_ratio,
    radial_frequencies,
    softmax_jacobian_norm,
    token_frequencies,
    token_similarity,
)
from .models import LayerOutputs


# a batch's values: `layers` holds a [B] for each layer; beside it may stand `heads` ([B, H] each), `curves` over
# frequencies ([B, F]) and the rows of a `matrix` over layers ([B, L])
Values = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Measure:
    """A measure of every layer.

    Args:
        name: of the function in `hf_cb.analysis`.
        title: the name in words.
        axis: label of its values, with their unit; its first line is that of curves too.
        caption: what a figure of it shows, and where it comes from.
        compute: one batch's values.
        needs: what must be there, from `NEEDS`.
        first_layer: attention maps count from 1, tokens from 0, the embeddings.
        frequencies: of the curves.
        frequency_axis: their label, with the unit.
        takes_scaled: AttnScale's A' has this measure too, although it can have negative entries.
    """

    name: str
    title: str
    axis: str
    caption: str
    compute: Callable[[LayerOutputs], Values]
    needs: tuple[str, ...]
    first_layer: int
    frequencies: Callable[[LayerOutputs], Tensor] | None = None
    frequency_axis: str = ""
    takes_scaled: bool = False

    def why_left_out(self, outputs: LayerOutputs) -> str | None:
        """Why a model does not have this measure, as the end of a sentence; None where it has."""
        return next((NEEDS[need][1] for need in self.needs if not NEEDS[need][0](outputs)), None)


def _are_over_patches(outputs: LayerOutputs) -> bool:
    """Whether queries and keys of every map are the model's tokens, and these have a grid."""
    if outputs.grid is None:
        return False
    num_tokens = outputs.hidden_states[0].shape[1]
    return all(attention.shape[-2:] == (num_tokens, num_tokens) for attention in outputs.attentions)


NEEDS: dict[str, tuple[Callable[[LayerOutputs], Any], str]] = {
    "attentions": (
        lambda outputs: outputs.attentions,
        "the model returns no attentions, and cannot be switched to an attention that does",
    ),
    "tokens": (
        lambda outputs: outputs.hidden_states and all(states.dim() == 3 for states in outputs.hidden_states),
        "the model returns no hidden states that are tokens",
    ),
    "square maps": (
        lambda outputs: all(attention.shape[-1] == attention.shape[-2] for attention in outputs.attentions),
        "the queries of some layers are not the tokens that they look at",
    ),
    "equal maps": (
        lambda outputs: len({attention.shape for attention in outputs.attentions}) == 1,
        "the attention maps of its layers differ in size",
    ),
    "equal tokens": (
        lambda outputs: len({attention.shape[-1] for attention in outputs.attentions}) == 1,
        "the attention maps of its layers differ in size",
    ),
    "two layers": (lambda outputs: len(outputs.attentions) > 1, "it has a single layer"),
    "grid": (lambda outputs: outputs.grid, "its layers have no single grid of patch tokens"),
    "maps over patches": (_are_over_patches, "its attention maps are not over a single grid of patch tokens"),
}


def _of_each_head(function: Callable[[Tensor], Tensor], outputs: LayerOutputs) -> Values:
    heads = [function(attention) for attention in outputs.attentions]
    return {"layers": [values.mean(dim=1) for values in heads], "heads": heads}


def _distances(outputs: LayerOutputs) -> Values:
    patches = outputs.patches
    return _of_each_head(lambda maps: attention_distance(maps[..., patches, patches], outputs.grid), outputs)


def _of_tokens(function: Callable[[Tensor], Tensor], outputs: LayerOutputs) -> Values:
    return {"layers": [function(states) for states in outputs.hidden_states]}


def _with_mean_above_0(curves: list[Tensor]) -> Values:
    # where 0 is the only frequency the mean is NaN: not defined
    return {"layers": [curve[:, 1:].mean(dim=1) for curve in curves], "curves": curves}


def _responses(outputs: LayerOutputs) -> Values:
    return _with_mean_above_0([attention_frequency_response(a).mean(dim=1) for a in outputs.attentions])


def _spectra(outputs: LayerOutputs) -> Values:
    patches, grid = outputs.patches, outputs.grid
    return _with_mean_above_0([feature_spectrum(states[:, patches], grid) for states in outputs.hidden_states])


def _attention_similarities(outputs: LayerOutputs) -> Values:
    # image by image, since their spread is wanted
    matrices = [
        attention_similarity([attention[image : image + 1] for attention in outputs.attentions])
        for image in range(len(outputs.attentions[0]))
    ]
    rows = list(torch.stack(matrices, dim=1))  # for each layer [B, L]
    return {"layers": [row[:, layer] for layer, row in enumerate(rows[1:])], "matrix": rows}


MEASURES = (
    Measure(
        name="attention_density",
        title="Attention density",
        axis="attention density (entropy / ln N)",
        caption=(
            "The entropy of what each query looks at, as a share of the largest possible: 1 is uniform attention, 0"
            f" attention to a single token. That attention is dense is where Context Broadcasting begins ({CB_PAPER})."
        ),
        compute=partial(_of_each_head, attention_density),
        needs=("attentions",),
        first_layer=1,
    ),
    Measure(
        name="softmax_jacobian_norm",
        title="Steepness of softmax",
        axis="norm of softmax's Jacobian",
        caption=(
            "How much attention changes with its scores, the Frobenius norm of softmax's derivative for each query: 0"
            " for attention to a single token, at most 1/2, and (N - 1)^(1/2) / N for uniform attention over N. That"
            f" dense attention sits where softmax is steep is an argument for Context Broadcasting ({CB_PAPER})."
        ),
        compute=partial(_of_each_head, softmax_jacobian_norm),
        needs=("attentions",),
        first_layer=1,
    ),
    Measure(
        name="attention_distance",
        title="Attention distance",
        axis="mean attention distance (patches)",
        caption=(
            "How far apart on the image queries and what they look at are, among patches alone: small is local, large"
            f" is global (after section 4.5 of {VIT_PAPER})."
        ),
        compute=_distances,
        needs=("attentions", "maps over patches"),
        first_layer=1,
    ),
    Measure(
        name="attention_frequency_response",
        title="Frequency response of attention",
        axis="gain,\nmean over frequencies above 0",
        caption=(
            "How much of a wave over the tokens is left after an attention map, 1 being all of it. Attention keeps"
            " frequency 0, the mean (DC), and weakens the rest: it is a low-pass filter"
            f" ({SCALE_PAPER}). Frequencies run over the tokens in their order, class token included."
        ),
        compute=_responses,
        needs=("attentions", "square maps", "equal tokens"),
        first_layer=1,
        frequencies=lambda outputs: token_frequencies(outputs.attentions[0].shape[-1]),
        frequency_axis="frequency (1 is half a period a token)",
        takes_scaled=True,
    ),
    Measure(
        name="attention_similarity",
        title="Similarity of attention maps",
        axis="cosine with the layer before",
        caption=(
            "The cosine of what the same query looks at in two layers, from 0 (other tokens) to 1 (the same). Maps that"
            f" grow alike with depth are called attention collapse (discussed in {SCALE_PAPER})."
        ),
        compute=_attention_similarities,
        needs=("attentions", "square maps", "equal maps", "two layers"),
        first_layer=2,
        takes_scaled=True,
    ),
    Measure(
        name="high_frequency_ratio",
        title="High-frequency ratio of tokens",
        axis="HC / DC of the tokens\n(ratio of Frobenius norms)",
        caption=(
            "How large the tokens' differences (HC) are beside their mean (DC), in the embeddings (layer 0) and after"
            " each layer: 0 is all tokens alike. Attention alone drives it to 0 with depth; residual branches and MLPs"
            f" work against that ({SCALE_PAPER})."
        ),
        compute=partial(_of_tokens, high_frequency_ratio),
        needs=("tokens",),
        first_layer=0,
    ),
    Measure(
        name="token_similarity",
        title="Similarity of tokens",
        axis="mean cosine of distinct tokens",
        caption=(
            "How alike the tokens of an image point, class token included: 1 is one direction for all, 0 orthogonal"
            f" tokens. Tokens of deep Vision Transformers grow alike, which is called over-smoothing ({SCALE_PAPER})."
        ),
        compute=partial(_of_tokens, token_similarity),
        needs=("tokens",),
        first_layer=0,
    ),
    Measure(
        name="feature_spectrum",
        title="Spectrum of features",
        axis="relative log amplitude,\nmean over frequencies above 0",
        caption=(
            "The amplitude of the patch tokens' spatial frequencies as a natural logarithm relative to frequency 0: -1"
            f" is 1/e of the mean's. Lower curves are smoother maps of features (after {SPECTRUM_PAPER}, with rings in"
            " the place of the diagonal)."
        ),
        compute=_spectra,
        needs=("tokens", "grid"),
        first_layer=0,
        frequencies=lambda outputs: radial_frequencies(outputs.grid),
        frequency_axis="spatial frequency (1 is half a period a patch)",
    ),
)
