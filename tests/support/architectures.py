"""Folders of small classifiers of many architectures, and the commands on them."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hf_cb
from command_lines import load_script
from helpers import randomise_, tiny_config, tiny_vit_config
from hf_cb import TechniqueConfig, ViTCBForImageClassification, apply_techniques
from technique_models import BEIT, MLP, SWIN, TINY, randomise_scales_


DIGITS = [str(i) for i in range(10)]
LABELS = {"id2label": dict(enumerate(DIGITS)), "label2id": {name: i for i, name in enumerate(DIGITS)}}
SIGLIP = {"vision_config": SiglipVisionConfig(**TINY, **MLP).to_dict(), **LABELS}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
MODELS = {
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**TINY, **LABELS, mlp_ratio=2)),
    "siglip": lambda: SiglipForImageClassification(SiglipConfig(**SIGLIP)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**{**BEIT, **LABELS, "num_labels": 10})),
    "swin": lambda: SwinForImageClassification(SwinConfig(**SWIN, **LABELS)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**TINY, **MLP, **LABELS)),
    "deit-distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY, **MLP, **LABELS)),
    "resnet": lambda: ResNetForImageClassification(ResNetConfig(**RESNET, **LABELS)),
    "siglip-vision": lambda: SiglipVisionModel(SiglipVisionConfig(**TINY, **MLP)),
    "vit": lambda: ViTForImageClassification(tiny_vit_config(**{**LABELS, "num_labels": 10})),
    "vit-cb": lambda: ViTCBForImageClassification(
        tiny_config(**{**LABELS, "num_labels": 10}, context_broadcast=None, attn_scale=True)
    ),
}

TECHNIQUES = ["--attn_scale", "--feat_scale", "--context_broadcast", "scaled"]
ALONE = [*TECHNIQUES, "--train_only_techniques"]
FEW = ["--max_eval_samples", "40"]
# nothing at random but the order
TRAINING = "--random_resized_crop --horizontal_flip 0 --color_jitter 0 --label_smoothing_factor 0 --num_train_epochs 2"
TRAINING += " --learning_rate 0.05 --learning_rate_batch_size 32 --per_device_train_batch_size 32 --disable_tqdm"
TRAINING += " --dataloader_num_workers 0 --num_cpu_threads 1 --max_train_samples 160"
FINE_TUNING = "--num_train_epochs 2 --learning_rate 1e-3 --per_device_train_batch_size 16 --disable_tqdm true"
FINE_TUNING += " --max_train_samples 48 --max_eval_samples 20"
USUAL = {"train": [*TRAINING.split(), *FEW], "finetune": FINE_TUNING.split()}
RESULTS = {"evaluate_model": "eval_results.json", "analyze": "analysis.json"}


def save_architectures(place: Path) -> Path:
    """The random models of `MODELS`, and a DINOv2 with techniques, each with an image processor."""
    for name, make in MODELS.items():
        randomise_(make()).save_pretrained(place / name)
    model = Dinov2ForImageClassification.from_pretrained(place / "dinov2")
    config = TechniqueConfig(context_broadcast="scaled", attn_scale=True)
    randomise_scales_(apply_techniques(model, config)).save_pretrained(place / "dinov2-with")
    for folder in place.iterdir():
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return place


def call(script: str, model: Path, output_dir: Path, *arguments: Any) -> dict[str, Any]:
    """Run a command on a model and a few of the digits, and return its results."""
    usual = USUAL.get(script, [*FEW, "--disable_tqdm"])
    given = ["--model_name_or_path", model, "--output_dir", output_dir, *usual, *arguments]
    load_script(script).main([str(argument) for argument in given])
    return json.loads((output_dir / RESULTS.get(script, "all_results.json")).read_text())


def call_analysis(model: Path, output_dir: Path, *arguments: Any) -> dict[str, Any]:
    """What `analyze` finds in one model."""
    (results,) = call("analyze", model, output_dir, "--num_examples", "0", *arguments).values()
    return results


def state(folder: Path) -> dict[str, torch.Tensor]:
    """A saved model's weights, those of its techniques too."""
    return hf_cb.from_pretrained(folder).state_dict()


def pictures(batch_size: int = 2) -> torch.Tensor:
    """[batch_size, 3, 16, 16] with values from 0 to 1, always the same."""
    return torch.rand(batch_size, 3, 16, 16, generator=torch.Generator().manual_seed(0))
