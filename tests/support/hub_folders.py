"""Folders to push: as the scripts write them, with what must stay at home beside it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessor

from helpers import randomise_, tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification
from hf_cb.conversion.convert import convert_checkpoint
from hf_cb.data.digits import DIGITS
from hf_cb.reports.cards import render_card


GOLDENS = Path(__file__).parents[1] / "goldens"

RESULTS = {
    "eval_accuracy": 0.9,
    "eval_top_5_accuracy": 0.99,
    "eval_loss": 0.3,
    "eval_samples": 360,
    "epoch": 2,
    "train_runtime": 12.3,
    "num_processes": 1,
    "arguments": {"output_dir": "run", "seed": 0, "learning_rate": 1e-3},
    "versions": {"torch": "2.15.0", "transformers": "5.23.0"},
    "hardware": "x86_64 CPU, 2 cores",
}
EVERYTHING = {"context_broadcast": "scaled", "attn_scale": True, "feat_scale": True, "apply_layers": [0, 2]}

# what a folder may hold that is not for the Hub
STAYS_AT_HOME = (
    "step_10/model.safetensors",
    "step_10/optimizer.bin",
    "epoch_1/model.safetensors",
    "ema.safetensors",
    "model_ema.safetensors",
    "optimizer.pt",
    "pytorch_model.bin",
    "model-00001-of-00002.safetensors",
    ".writing-a/config.json",
    ".secret",
    ".half.png",
    "notes.txt",
)


def classifier_folder(folder: Path, results: dict = RESULTS, **overrides) -> Path:
    """As `scripts/train.py` leaves it, with checkpoints and more beside the model."""
    model = randomise_(ViTCBForImageClassification(tiny_config(**{**EVERYTHING, **overrides})))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    render_card(model.config, results, DIGITS, "python scripts/train.py --seed 0", folder.name).save(
        folder / "README.md"
    )
    (folder / "all_results.json").write_text(json.dumps(results))
    Image.new("RGB", (4, 4)).save(folder / "training_curves.png")
    for name in STAYS_AT_HOME:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not for the Hub")
    return folder


def plain_vit_folder(folder: Path) -> Path:
    """A ViT-CB that began as a plain ViT, saved without processor or card."""
    randomise_(ViTForImageClassification(tiny_vit_config())).save_pretrained(folder / "vit")
    model = ViTCBForImageClassification.from_pretrained(folder / "vit", attn_scale=True)
    randomise_(model, seed=1).save_pretrained(folder / "vit-cb")
    return folder / "vit-cb"


def converted_folder(folder: Path) -> Path:
    """As `scripts/convert_checkpoint.py` leaves it."""
    convert_checkpoint(GOLDENS / "deit_featscale.pth", folder, num_attention_heads=4, command="python scripts/x.py")
    return folder


def picture(file: Path) -> Path:
    pixels = np.random.default_rng(0).integers(256, size=(40, 51, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def set_config(folder: Path, **fields) -> Path:
    """Change fields of a saved configuration; None takes one out."""
    config = {**json.loads((folder / "config.json").read_text()), **fields}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder
