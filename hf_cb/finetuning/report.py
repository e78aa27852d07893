"""What fine-tuning leaves: model or adapter, image processor, card, results, training curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import BaseImageProcessor, PreTrainedModel

from ..cli.output_dir import replacing, write_json
from ..reports.card_blocks import BLOCK, render_template, replace_block
from ..reports.cards import DataDescription, render_card
from ..reports.figures import save_training_curves
from ..vit_cb.configuration_vit_cb import ViTCBConfig


@dataclass(frozen=True)
class FineTuned:
    """The outcome of a run.

    Args:
        model: a classifier, or PEFT's model around one.
        image_processor: of the model.
        results: for `all_results.json`.
        data: what it was trained and tested on.
        command: the exact command line.
        is_adapter: the model is PEFT's.
    """

    model: PreTrainedModel
    image_processor: BaseImageProcessor
    results: dict[str, Any]
    data: DataDescription
    command: str
    is_adapter: bool

    def save(self, output_dir: Path) -> None:
        """Write everything at once."""
        with replacing(output_dir) as folder:
            self.model.save_pretrained(folder)
            # an adapter's folder has the configuration of the whole model beside it, with techniques and labels
            self.model.config.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)
            name = output_dir.absolute().name
            self._card(name).save(folder / "README.md")
            if self.results["history"]:
                save_training_curves(self.results["history"], folder / "training_curves.png", name)
            write_results(self.results, folder)

    def _card(self, name: str) -> ModelCard:
        card = render_card(self.model.config, self.results, self.data, self.command, name)
        if not self.is_adapter:
            return card
        base = self.results["arguments"]["model_name_or_path"]
        is_vit_cb = self.model.config.model_type == ViTCBConfig.model_type
        kind = "ViT-CB" if is_vit_cb else self.model.config.architectures[0]
        # the way to a folder is of one machine alone
        base = Path(base).name if Path(base).exists() else base
        text = render_template("adapter_loading.md", name=name, base=base, kind=kind)
        card = ModelCard(replace_block(str(card), "loading", BLOCK.format(name="loading", text=text)))
        card.data.library_name, card.data.base_model_relation = "peft", "adapter"
        return card


def write_results(results: dict[str, Any], folder: Path) -> None:
    """`all_results.json`."""
    write_json(folder / "all_results.json", results, default=str)
