"""Model cards, rendered from a run's own configuration and results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_vit_cb import ViTCBConfig


TEMPLATES = Path(__file__).parent / "templates"

CB_PAPER = "[arXiv 2210.08457](https://arxiv.org/abs/2210.08457)"
SCALE_PAPER = "[arXiv 2203.05962](https://arxiv.org/abs/2203.05962)"

POSITIONS = {
    "mlp_end": "at the end of every MLP",
    "mlp_mid": "before the second linear layer of every MLP",
    "mlp_front": "before the first linear layer of every MLP",
    "attn_end": "at the end of every attention branch",
}


@dataclass
class DataDescription:
    """What a card says of the data.

    Args:
        name: short name, for the results' metadata.
        dataset_type: identifier of the data set.
        description: one or two sentences: what, how many, which split is the test.
        limits: what a model trained on it cannot do.
    """

    name: str
    dataset_type: str
    description: str
    limits: str


DIGITS = DataDescription(
    name="handwritten digits (scikit-learn)",
    dataset_type="sklearn-digits",
    description=(
        "scikit-learn's handwritten digits (UCI 1998, CC BY 4.0), 8x8 grey values as RGB images; the first 1,437 for"
        " training, the last 360, which other people wrote, for the test."
    ),
    limits=(
        "It has seen only scanned digits of 8x8 pixels, bright on black, upright and centred, and answers with a digit"
        " to any other image too. It shows how the library works; it is no digit reader for practice."
    ),
)


def techniques_of(config: ViTCBConfig) -> list[tuple[str, str]]:
    """Name and description of each technique that a configuration turns on."""
    found = []
    place = POSITIONS[config.context_broadcast_position]
    if config.context_broadcast == "plain":
        found.append(("Context Broadcasting", f"`y_i = (x_i + mean_j x_j) / 2` {place}, {CB_PAPER}"))
    if config.context_broadcast == "scaled":
        found.append(("dimension-scaled Context Broadcasting", f"`y_i = x_i + scale * mean_j x_j` {place}, {CB_PAPER}"))
    if config.attn_scale:
        found.append(("AttnScale", f"`A' = 1/N + (1 + omega)(A - 1/N)` for each head's attention A, {SCALE_PAPER}"))
    if config.feat_scale:
        found.append(("FeatScale", f"`y = x + s * DC(x) + t * HC(x)` on the attention's output, {SCALE_PAPER}"))
    return [] if config.apply_layers == [] else found


def card_text_of(config: ViTCBConfig, name: str) -> dict[str, Any]:
    """What every card says of a model: template variables for name, techniques, differences from ViT, references."""
    techniques = techniques_of(config)
    layers = "" if config.apply_layers is None else f" In layers {', '.join(map(str, config.apply_layers))} alone."
    return {
        "model_name": name,
        "techniques": " and ".join(technique for technique, _ in techniques) or "no added technique",
        "differences": [f"**{technique}**: {text}.{layers}" for technique, text in techniques] or ["Nothing."],
        "references": (TEMPLATES / "references.bib").read_text().rstrip(),
    }


def render_card(
    config: ViTCBConfig, results: dict[str, Any], data: DataDescription, command: str, name: str
) -> ModelCard:
    """The card of a trained classifier.

    Args:
        config: of the model.
        results: of the run, as in `all_results.json`.
        data: what it was trained and tested on.
        command: the exact command line.
        name: the folder's name.
    """
    return ModelCard.from_template(
        _metadata(results, data, name),
        template_path=str(TEMPLATES / "model_card.md"),
        **card_text_of(config, name),
        architecture=_architecture(config),
        data_description=data.description,
        command=command,
        training_description=_training(results),
        results=results,
        seed=results["arguments"]["seed"],
        limits=data.limits,
    )


def _metadata(results: dict[str, Any], data: DataDescription, name: str) -> ModelCardData:
    values = {"accuracy": results["eval_accuracy"], "top_5_accuracy": results["eval_top_5_accuracy"]}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license="apache-2.0",
        tags=["vision", "vit_cb", "context-broadcasting", "hf_cb"],
        metrics=["accuracy"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=data.dataset_type,
                dataset_name=data.name,
                dataset_split="test",
                metric_type="accuracy",
                metric_name=metric.replace("_", " "),
                metric_value=round(value, 4),
            )
            for metric, value in values.items()
        ],
    )


def _architecture(config: ViTCBConfig) -> str:
    return (
        f"{config.num_hidden_layers} layers of width {config.hidden_size} with {config.num_attention_heads} heads,"
        f" patches of {config.patch_size} pixels on images of {config.image_size}"
    )


def _training(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"{results['epoch']} epochs in {results['train_runtime']:.0f} s on {results['hardware']}"
        f" ({results['num_processes']} process{'es' if results['num_processes'] > 1 else ''}), seed"
        f" {results['arguments']['seed']}, with {versions}. `all_results.json` holds every argument and every epoch."
    )
