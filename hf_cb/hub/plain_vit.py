"""A model's results beside those of the plain ViT of the same size that was trained in the same way."""

import dataclasses
from pathlib import Path
from typing import Any

from transformers import ViTConfig

from ..cli.record import INCIDENTAL
from ..reports.card_blocks import replace_block, results_block
from ..reports.cards import techniques_of
from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from .folder import HubError, ModelFolder, read_json


SIZE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
)
# what two runs of one recipe may differ in, beside what changes no weight
TECHNIQUE_FIELDS = tuple(TechniqueConfig().to_dict())


def add_plain_vit(folder: ModelFolder, plain_dir: str | Path) -> ModelFolder:
    """The folder with the plain ViT's results in its card.

    Args:
        folder: with `all_results.json` and a card that shows them.
        plain_dir: folder of the plain ViT, with its `all_results.json`.

    Raises:
        HubError: the other model has techniques, another size or another recipe, or one has no results.
    """
    plain_dir = Path(plain_dir)
    plain_config = read_json(plain_dir / "config.json")
    if not _is_plain(plain_config):
        raise HubError(f"{plain_dir}: must hold a plain ViT to compare with, without techniques.")
    results, plain = (read_json(path / "all_results.json") for path in (folder.path, plain_dir))
    different = [name for name in SIZE_FIELDS if folder.config.get(name) != plain_config.get(name)]
    different += _different_arguments(results, plain)
    different += ["eval_samples"] if results.get("eval_samples") != plain.get("eval_samples") else []
    if different:
        raise HubError(f"{plain_dir}: is no comparison for {folder.path}, since these differ: {', '.join(different)}.")
    card = replace_block(folder.card, "results", results_block(results, plain))
    if card == folder.card:
        raise HubError(f"{folder.path}: the card has no table of results to put the plain ViT's into.")
    return dataclasses.replace(folder, card=card)


def _is_plain(config: dict[str, Any]) -> bool:
    if config.get("model_type") == ViTConfig.model_type:
        return True
    return config.get("model_type") == ViTCBConfig.model_type and not techniques_of(ViTCBConfig.from_dict(config))


def _different_arguments(results: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    mine, its = results.get("arguments", {}), plain.get("arguments", {})
    names = sorted({*mine, *its} - {*TECHNIQUE_FIELDS, *INCIDENTAL})
    return [name for name in names if mine.get(name) != its.get(name)]
