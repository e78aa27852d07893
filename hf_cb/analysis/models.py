"""Any vision transformer, ready to be measured: loading it, and what a pass through it returns."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, BaseImageProcessor, PreTrainedModel

from ..errors import UsageError, one_line
from ..models.image_processors import own_image_processor
from ..models.loading import load
from ..techniques.apply import applied_techniques
from .measures import effective_attention


# what models raise for images that they cannot take
RUNNING_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError)
# parts that neither attention maps nor hidden states pass through
UNMEASURED_PARTS = ("pooler.", "mask_token")


@dataclass(frozen=True)
class LayerOutputs:
    """What a pass returns for a batch of B images.

    Args:
        attentions: for each layer [B, H, Q, N], softmax attention; empty where the model returns none. The windows of
            a model with windowed attention count as heads.
        hidden_states: the embeddings and each layer's output, [B, N, D], before any norm at the end; empty likewise.
        grid: rows and columns of the patch tokens, where all layers have the same tokens; else None.
        num_prefix_tokens: class and register tokens before the patch tokens.
    """

    attentions: list[Tensor]
    hidden_states: list[Tensor]
    grid: tuple[int, int] | None
    num_prefix_tokens: int

    @property
    def patches(self) -> slice:
        """Where the patch tokens are."""
        rows, columns = self.grid
        return slice(self.num_prefix_tokens, self.num_prefix_tokens + rows * columns)

    def first(self, count: int) -> "LayerOutputs":
        """Those of the first images."""
        attentions, hidden_states = (
            [part[:count] for part in parts] for parts in (self.attentions, self.hidden_states)
        )
        return replace(self, attentions=attentions, hidden_states=hidden_states)

    def with_effective_attention(self, omegas: dict[int, Tensor]) -> "LayerOutputs":
        """The same with AttnScale's A' in the layers that have an omega; each window has the same."""
        scaled = [
            effective_attention(attention, omegas[layer].repeat(attention.shape[1] // len(omegas[layer])))
            if layer in omegas
            else attention
            for layer, attention in enumerate(self.attentions)
        ]
        return replace(self, attentions=scaled)


class AnalyzedModel:
    """A vision transformer and its image processor.

    Args:
        model: takes `pixel_values` and returns `attentions`, `hidden_states` or both on request.
        image_processor: makes its input.
        name: in messages.
    """

    def __init__(self, model: PreTrainedModel, image_processor: BaseImageProcessor, name: str):
        self.model, self.image_processor, self.name = model.eval(), image_processor, name

    @classmethod
    def from_pretrained(cls, name: str, techniques: Mapping[str, Any] | None = None) -> "AnalyzedModel":
        """A model of a folder or the Hub, in float32; of one for images and texts, the part for images.

        Args:
            name: folder, or name on the Hub.
            techniques: what is added to it, see `hf_cb.from_pretrained`.

        Raises:
            UsageError: there is no such model, its weights are not complete, or it has no image processor.
        """
        # any dtype on disk: measures are to differ by the weights alone
        loaded = load(name, AutoModel, techniques, dtype=torch.float32)
        if anew := loaded.anew(but=UNMEASURED_PARTS):
            raise UsageError(
                f"the model {name!r} lacks {len(anew)} tensors of {type(loaded.model).__name__}, {anew[0]} among them:"
                " they would be random."
            )
        return cls(_vision_part(loaded.model, name), own_image_processor(name), name)

    @property
    def omegas(self) -> dict[int, Tensor]:
        """AttnScale's omega, [H], by layer; layers without it are left out."""
        applied = applied_techniques(self.model)
        if applied is not None:
            scaled = {index: module for index, module, name in applied.places if name == "attn_scale"}
            return {index: module.attn_scale.omega.detach() for index, module in scaled.items()}
        found = {name: value for name, value in self.model.named_parameters() if name.endswith("attn_scale.omega")}
        return {int(re.search(r"\.(\d+)\.", name)[1]): value.detach() for name, value in found.items()}

    def why_omegas_are_left_out(self, outputs: LayerOutputs) -> str | None:
        """The reason why it cannot be told which map an omega belongs to, if there is one."""
        applied, count = applied_techniques(self.model), len(outputs.attentions)
        if not self.omegas or applied is None or count in (0, applied.num_layers):
            return None
        # Swin's stages return the maps of one of their layers alone
        return f"the model returns attention maps of {count} of its {applied.num_layers} layers"

    def describe(self) -> dict[str, Any]:
        """What it is, for the results."""
        config = self.model.config
        return {
            "class": type(self.model).__name__,
            "model_type": config.model_type,
            "num_parameters": self.model.num_parameters(),
            "attn_implementation": config._attn_implementation,
        }

    @torch.no_grad()
    def run(self, pixel_values: Tensor) -> LayerOutputs:
        """One pass. A model that returns no attentions is switched to eager attention for good, where it can be.

        Args:
            pixel_values: [B, C, height, width].

        Raises:
            UsageError: the model cannot take such images, or returns neither attentions nor hidden states.
        """
        try:
            outputs, grid = self._forward(pixel_values)
            if not outputs.get("attentions") and self.model.config._attn_implementation != "eager":
                # says so in a log line, and changes nothing, where the model cannot
                self.model.set_attn_implementation("eager")
                outputs, grid = self._forward(pixel_values)
        except RUNNING_ERRORS as error:
            raise UsageError(
                f"the model {self.name!r} cannot be run on images as its image processor makes them,"
                f" {tuple(pixel_values.shape[1:])}: {type(error).__name__}: {one_line(error)}"
            ) from error
        attentions, hidden_states = (list(outputs.get(key) or ()) for key in ("attentions", "hidden_states"))
        if not attentions and not hidden_states:
            raise UsageError(f"the model {self.name!r} returns neither attentions nor hidden states.")
        attentions = [attention.reshape(len(pixel_values), -1, *attention.shape[-2:]) for attention in attentions]
        return self._layer_outputs(attentions, hidden_states, grid)

    def _forward(self, pixel_values: Tensor) -> tuple[Any, tuple[int, int] | None]:
        with _recorded_maps(self.model) as maps:
            outputs = self.model(
                pixel_values=pixel_values, output_attentions=True, output_hidden_states=True, return_dict=True
            )
        return outputs, maps[0] if maps else None

    def _layer_outputs(
        self, attentions: list[Tensor], hidden_states: list[Tensor], grid: tuple[int, int] | None
    ) -> LayerOutputs:
        counts = {states.shape[1] if states.dim() == 3 else None for states in hidden_states}
        if grid is None or len(counts) != 1 or None in counts:
            return LayerOutputs(attentions, hidden_states, None, 0)
        # YOLOS' detection tokens come last, all others that are no patches come first
        others = counts.pop() - grid[0] * grid[1] - getattr(self.model.config, "num_detection_tokens", 0)
        return LayerOutputs(attentions, hidden_states, grid if others >= 0 else None, max(others, 0))


def _vision_part(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The model itself, or the part for images of one for images and texts."""
    if model.main_input_name != "pixel_values":
        model = getattr(model, "vision_model", model)
    if model.main_input_name != "pixel_values":
        raise UsageError(f"the model {name!r} takes `{model.main_input_name}`: name one that takes images.")
    if model.config.model_type == "vit_mae":
        raise UsageError(
            f"the model {name!r} is a ViTMAEModel, which leaves out patches and shuffles the rest: load its weights"
            " with `ViTModel.from_pretrained`, save that, and name its folder."
        )
    return model


@contextmanager
def _recorded_maps(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Heights and widths of what convolutions return in the context: the first is the grid of patches."""
    maps = []

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        maps.append(tuple(output.shape[-2:]))

    hooks = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, nn.Conv2d)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
