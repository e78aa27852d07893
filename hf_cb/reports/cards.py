"""Model cards, rendered from a run's own configuration and results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from ..techniques.config import TechniqueConfig
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from .card_blocks import (
    ADDRESS,
    BLOCK,
    REVISION,
    TEMPLATES,
    loading_block,
    portable_command,
    render_template,
    results_block,
)
from .papers import CB_PAPER, SCALE_PAPER


POSITIONS = {
    "mlp_end": "at the end of every MLP",
    "mlp_mid": "before the second linear layer of every MLP",
    "mlp_front": "before the first linear layer of every MLP",
    "attn_end": "at the end of every attention branch",
}
WHY_BROADCAST = (
    "Learned attention maps are dense, although softmax makes dense maps hard to learn; CB supplies the densest"
    " interaction there is, the tokens' mean, to every token, so that attention need not be dense"
)
WHY_SCALE = (
    "It acts against over-smoothing: self-attention is a low-pass filter, which leaves deep models with little but the"
    " tokens' mean; learned scales weigh the mean (DC) and what differs between tokens (HC) apart"
)
# with fewer, nearly any answer is among the first five
FEWEST_CLASSES_FOR_TOP_5 = 6
TECHNIQUE_TAGS = {
    "Context Broadcasting": "context-broadcasting",
    "dimension-scaled Context Broadcasting": "context-broadcasting",
    "AttnScale": "attnscale",
    "FeatScale": "featscale",
}

# the task that a page of the Hub offers, by the class of the saved model
PIPELINE_TAGS = {
    "ViTCBForImageClassification": "image-classification",
    "ViTCBModel": "image-feature-extraction",
    "ViTCBForMaskedImageModeling": "image-feature-extraction",
}


@dataclass
class DataDescription:
    """What a card says of the data.

    Args:
        name: short name, for the results' metadata.
        dataset_type: identifier of the data set.
        description: one or two sentences: what, how many, which split is the test.
        limits: what a model trained on it cannot do.
        split: which split was evaluated on, None where it has no name.
    """

    name: str
    dataset_type: str
    description: str
    limits: str
    split: str | None = None


def techniques_of(config: ViTCBConfig | TechniqueConfig) -> list[tuple[str, str]]:
    """Name and description of each technique that a configuration turns on."""
    broadcast = f"{POSITIONS[config.context_broadcast_position]}, {CB_PAPER.link}. {WHY_BROADCAST}."
    scale = f"{SCALE_PAPER.link}. {WHY_SCALE}."
    kind = config.context_broadcast
    rows = (
        (kind == "plain", "Context Broadcasting", f"`y_i = (x_i + mean_j x_j) / 2` {broadcast}"),
        (kind == "scaled", "dimension-scaled Context Broadcasting", f"`y_i = x_i + scale * mean_j x_j` {broadcast}"),
        (config.attn_scale, "AttnScale", f"`A' = 1/N + (1 + omega)(A - 1/N)` for each head's attention A, {scale}"),
        (config.feat_scale, "FeatScale", f"`y = x + s * DC(x) + t * HC(x)` on the attention's output, {scale}"),
    )
    return [(name, text) for is_on, name, text in rows if is_on and config.apply_layers != []]


def tags_of(config: ViTCBConfig | TechniqueConfig, model_type: str = ViTCBConfig.model_type) -> list[str]:
    """The Hub's tags for a model."""
    techniques = [TECHNIQUE_TAGS[name] for name, _ in techniques_of(config)]
    return ["vision", model_type, *techniques, "hf_cb"]


def card_text_of(
    config: ViTCBConfig | TechniqueConfig, name: str, task: str = "image-classification"
) -> dict[str, Any]:
    """What every card says of a model: template variables for name, techniques, loading, differences, references."""
    techniques = techniques_of(config)
    layers = "" if config.apply_layers is None else f" In layers {', '.join(map(str, config.apply_layers))} alone."
    return {
        "model_name": name,
        "techniques": " and ".join(technique for technique, _ in techniques) or "no added technique",
        "loading": loading_block(task, ADDRESS.format(name=name), REVISION, is_pushed=False),
        "differences": [f"**{technique}**: {text}{layers}" for technique, text in techniques] or ["Nothing."],
        "papers": render_template("papers.md"),
        "references": render_template("references.bib"),
    }


def render_card(
    config: PreTrainedConfig, results: dict[str, Any], data: DataDescription, command: str, name: str
) -> ModelCard:
    """The card of a trained classifier. What the results do not hold, the card does not mention.

    Args:
        config: of the model.
        results: of the run, as in `all_results.json`; a base model is its `arguments["model_name_or_path"]`. With a
            `history`, `training_curves.png` lies beside the card.
        data: what it was trained and tested on.
        command: the exact command line.
        name: the folder's name.
    """
    base = results["arguments"].get("model_name_or_path")
    if (config.num_labels or 0) < FEWEST_CLASSES_FOR_TOP_5:
        results = {key: value for key, value in results.items() if key != "eval_top_5_accuracy"}
    return ModelCard.from_template(
        _metadata(config, results, data, name),
        template_path=str(TEMPLATES / "model_card.md"),
        **_text_of(config, name),
        origin="fine-tuned" if base else "trained",
        base_model=base and _describe_base(base),
        data_description=data.description,
        command=portable_command(command),
        training_description=_training(results),
        has_curves=bool(results.get("history")),
        results_block=results_block(results),
        limits=data.limits,
    )


def _text_of(config: PreTrainedConfig, name: str) -> dict[str, Any]:
    """What a card says of a ViT-CB, or of another model with techniques."""
    if config.model_type == ViTCBConfig.model_type:
        return {**card_text_of(config, name), "kind": "ViT", "architecture": architecture_of(config)}
    kind = config.architectures[0]
    loading = BLOCK.format(name="loading", text=render_template("technique_loading.md", name=name, kind=kind))
    text = card_text_of(_techniques_in(config), name)
    return {**text, "kind": kind, "loading": loading, "architecture": f"model type `{config.model_type}`"}


def _techniques_in(config: PreTrainedConfig) -> ViTCBConfig | TechniqueConfig:
    if config.model_type == ViTCBConfig.model_type:
        return config
    return TechniqueConfig.from_fields(config.to_dict().get("technique_config") or {})


def render_untold_card(config: ViTCBConfig, name: str, architecture: str) -> ModelCard:
    """The card of a model that came without one: what its configuration tells, and that nothing else is known.

    Args:
        config: of the model.
        name: the model's.
        architecture: name of the model's class.
    """
    task = PIPELINE_TAGS[architecture]
    return ModelCard.from_template(
        ModelCardData(library_name="transformers", pipeline_tag=task, license="unknown", tags=tags_of(config)),
        template_path=str(TEMPLATES / "untold_card.md"),
        **card_text_of(config, name, task),
        architecture=architecture_of(config),
    )


def _metadata(config: PreTrainedConfig, results: dict[str, Any], data: DataDescription, name: str) -> ModelCardData:
    base = results["arguments"].get("model_name_or_path")
    base_fields = {"base_model": base, "base_model_relation": "finetune"} if base and is_on_hub(base) else {}
    metrics = {"accuracy": "eval_accuracy", "top 5 accuracy": "eval_top_5_accuracy"}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        # weights that began as another model's stay under its licence
        license="unknown" if base else "apache-2.0",
        tags=tags_of(_techniques_in(config), config.model_type),
        datasets=[data.dataset_type] if _is_repo_id(data.dataset_type) else None,
        metrics=["accuracy"],
        # the Hub wants it beside results
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=data.dataset_type,
                dataset_name=data.name,
                dataset_split=data.split,
                metric_type="accuracy",
                metric_name=metric,
                metric_value=round(results[key], 4),
            )
            for metric, key in metrics.items()
            if results.get(key) is not None
        ],
        **base_fields,
    )


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_on_hub(model: str) -> bool:
    """Whether a model's name can be that of a repository, and is no folder here."""
    return _is_repo_id(model) and not Path(model).exists()


def _describe_base(model: str) -> str:
    # a path would tell a reader nothing
    return f"[{model}](https://huggingface.co/{model})" if is_on_hub(model) else f"a local model, `{Path(model).name}`"


def architecture_of(config: ViTCBConfig) -> str:
    """Size of a model, in words."""
    return (
        f"{config.num_hidden_layers} layers of width {config.hidden_size} with {config.num_attention_heads} heads,"
        f" patches of {config.patch_size} pixels on images of {config.image_size}"
    )


def _training(results: dict[str, Any]) -> str:
    arguments, processes = results["arguments"], results.get("num_processes")
    versions = ", ".join(f"{name} {number}" for name, number in results.get("versions", {}).items())
    parts = {
        "{:g} epochs": results.get("epoch"),
        " in {:.0f} s": results.get("train_runtime"),
        " on {}": results.get("hardware"),
        " (1 process)" if processes == 1 else " ({} processes)": processes,
        ", seed {}": arguments.get("seed"),
        ", with {}": versions or None,
    }
    text = "".join(form.format(value) for form, value in parts.items() if value is not None).lstrip(", ") + "."
    if arguments.get("save_ema"):
        text += f" The saved weights are a moving average of the trained ones, of decay {arguments.get('ema_decay')}."
    return f"{text} `all_results.json` holds every argument and every epoch."
