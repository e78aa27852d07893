"""Model cards of converted checkpoints."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..reports.card_blocks import TEMPLATES, portable_command, render_template
from ..reports.cards import architecture_of, card_text_of, tags_of, techniques_of
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Args:
        config: of the model.
        techniques: of the model.
        source: the file's name, or timm's model.
        sha256: of the file, if it is one.
        entry: which of the file's entries was taken, if it has any.
        left_out: the file's other entries.
        featscale_gain: what FeatScale's scales were multiplied with, None without FeatScale.
        preprocessing: in words.
    """

    config: PreTrainedConfig
    techniques: TechniqueConfig
    source: str
    sha256: str | None
    entry: str
    left_out: list[str]
    featscale_gain: int | None
    preprocessing: str

    def describe(self) -> str:
        """In a sentence, for the command line."""
        names = " and ".join(name for name, _ in techniques_of(self.techniques)) or "no technique"
        gain = f" (factor {self.featscale_gain})" if self.featscale_gain else ""
        left_out = f", leaving out its {', '.join(self.left_out)}" if self.left_out else ""
        classes = f"{self.config.num_labels} classes"
        return f"{self.source}: a {self.kind} of {self.layers}, {classes}, with {names}{gain}{left_out}"

    @property
    def kind(self) -> str:
        """What transformers calls the model that the techniques were added to."""
        return {"deit": "DeiT", "swin": "Swin"}.get(self.config.model_type, "ViT")

    @property
    def layers(self) -> str:
        """Number, width and heads, in words."""
        config = self.config
        if self.kind != "Swin":
            depth, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
            return f"{depth} layers, width {width}, {heads} heads"
        widths = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        parts = (" + ".join(map(str, numbers)) for numbers in (config.depths, widths, config.num_heads))
        return "{} layers, width {}, {} heads, windows of {}".format(*parts, config.window_size)

    @property
    def is_vit_cb(self) -> bool:
        """Whether the techniques are built into the model."""
        return self.config.model_type == ViTCBConfig.model_type


def render_conversion_card(conversion: Conversion, command: str | None, name: str) -> ModelCard:
    """The card of a converted checkpoint.

    Args:
        conversion: what was converted.
        command: the exact command line, if there is one.
        name: the folder's name.
    """
    config = conversion.config
    return ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="image-classification",
            # that of the original, which the file does not tell
            license="unknown",
            tags=tags_of(conversion.techniques, config.model_type),
        ),
        template_path=str(TEMPLATES / "conversion_card.md"),
        **_text_of(conversion, name),
        config=config,
        conversion=conversion,
        dtype=str(config.dtype).removeprefix("torch."),
        command=command and portable_command(command),
    )


def _text_of(conversion: Conversion, name: str) -> dict[str, Any]:
    text = card_text_of(conversion.techniques, name)
    if conversion.is_vit_cb:
        return {**text, "architecture": architecture_of(conversion.config)}
    loading = render_template("technique_loading.md", name=name, kind=conversion.kind)
    config = conversion.config
    architecture = f"{conversion.layers}, patches of {config.patch_size} pixels on images of {config.image_size}"
    return {**text, "loading": loading, "architecture": architecture}
