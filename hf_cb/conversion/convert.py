"""Published checkpoints become folders of models, and ViT-CB without techniques becomes a timm state dict."""

import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..cli.output_dir import check_output_dir, is_file_of_a_run, replacing
from ..errors import UsageError
from ..models.loaded import load_files, loading
from ..reports.cards import techniques_of
from ..vit_cb.configuration_vit_cb import ViTCBConfig
from ..vit_cb.loading_vit_cb import saved_config
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification
from .card import Conversion, render_conversion_card
from .checkpoint import Checkpoint, CheckpointError
from .files import read_checkpoint
from .plan import ConversionPlan, is_swin, plan_model
from .preprocessing import DEIT_PREPROCESSING, GOOGLE_PREPROCESSING, Preprocessing
from .timm_models import IMAGENET_CLASSES, imagenet_labels, load_timm_model, preprocessing_of
from .vit import LAYER_NORM_EPS, is_google, read_weights, timm_rows


GAINS = (1, 2)


def convert_checkpoint(
    checkpoint: str | Path | None,
    output_dir: str | Path,
    *,
    num_attention_heads: int | None = None,
    featscale_gain: int | None = None,
    use_ema: bool = False,
    context_broadcast: str | None = None,
    timm_model: str | None = None,
    overwrite_output_dir: bool = False,
    command: str | None = None,
) -> Conversion:
    """Write a published checkpoint as a folder that `hf_cb.from_pretrained` loads.

    A ViT becomes a ViT-CB, which `AutoModelForImageClassification.from_pretrained` loads too; a distilled DeiT and a
    Swin become transformers' own, with techniques applied. Weights keep their dtype. Where the file's tensors differ in
    it, all take the widest.

    Args:
        checkpoint: a `.pth`, `.pt`, `.safetensors` or `.npz` file in the layout of the published AttnScale and
            FeatScale code, of timm's VisionTransformer, DeiT, Swin or Google. None downloads timm's own weights.
        output_dir: the folder; written as a whole or not at all.
        num_attention_heads: needed where the tensors do not tell it and the width is no multiple of 64.
        featscale_gain: 2 (the default) for FeatScale checkpoints of the released DeiT code, 1 for those that were
            trained before its change of April 2022, and by default for Swin.
        use_ema: take `model_ema` from a training script's checkpoint.
        context_broadcast: None, "plain" or "scaled", in the blocks that have the checkpoint's technique if only some
            have it. "plain" changes what the model computes.
        timm_model: a model of timm's, which decides about preprocessing, heads and layer norm.
        overwrite_output_dir: replace what stands in the folder.
        command: the command line, for the card.

    Raises:
        UsageError: an argument is not allowed.
        CheckpointError: the checkpoint is bad or of a model that cannot be held; a `UsageError` too.
    """
    folder = check_output_dir(str(output_dir), overwrite_output_dir)
    if featscale_gain not in (None, *GAINS):
        raise UsageError(f"`featscale_gain` must be 1 or 2, got {featscale_gain}.")
    if checkpoint is not None and is_file_of_a_run(Path(checkpoint), folder):
        raise UsageError(f"`output_dir` {str(output_dir)!r} must be another folder: {checkpoint} would be replaced.")
    source, reference = _read_source(checkpoint, timm_model, use_ema)
    preprocessing = _preprocessing(source, reference)
    plan = _plan_conversion(source, reference, num_attention_heads, context_broadcast)
    if featscale_gain is not None and not plan.techniques.feat_scale:
        raise UsageError("`featscale_gain` is given, and the checkpoint has no FeatScale: leave it out.")
    gain = (featscale_gain or plan.default_gain) if plan.techniques.feat_scale else None
    model = plan.build(read_weights(source, plan.rows, gain or 1))
    conversion = Conversion(
        config=model.config,
        techniques=plan.techniques,
        source=source.source if checkpoint is None else Path(checkpoint).name,
        sha256=None if checkpoint is None else _sha256(checkpoint),
        entry=source.entry,
        left_out=source.left_out,
        featscale_gain=gain,
        preprocessing=preprocessing.describe(model.config.image_size),
    )
    _save(folder, model, preprocessing, conversion, command)
    return conversion


def _read_source(
    checkpoint: str | Path | None, timm_model: str | None, use_ema: bool
) -> tuple[Checkpoint, nn.Module | None]:
    """The tensors, and the model of timm's that goes with them if one is named."""
    if checkpoint is None and timm_model is None:
        raise UsageError("one of `checkpoint` and `timm_model` must be given.")
    if checkpoint is None and use_ema:
        raise UsageError("`use_ema` needs a `checkpoint`.")
    source = None if checkpoint is None else read_checkpoint(checkpoint, use_ema)
    reference = None if timm_model is None else load_timm_model(timm_model, pretrained=source is None)
    if source is None:
        source = Checkpoint(f"timm's {timm_model}", dict(reference.state_dict()))
    return source, reference


def to_timm_state_dict(model: ViTCBForImageClassification) -> dict[str, Tensor]:
    """The weights of a ViT-CB without techniques under the names of timm's `VisionTransformer`.

    Raises:
        UsageError: the model has a technique, or another activation or layer norm than timm's default.
    """
    config = model.config
    techniques = [name for name, _ in techniques_of(config)]
    if techniques:
        raise UsageError(f"timm's ViT has no {' and no '.join(techniques)}: only a ViT-CB without techniques converts.")
    for name, expected in {"hidden_act": "gelu", "layer_norm_eps": LAYER_NORM_EPS}.items():
        if getattr(config, name) != expected:
            raise UsageError(f"timm's ViT has `{name}` {expected!r}, and this ViT-CB {getattr(config, name)!r}.")
    weights, state_dict = model.state_dict(), {}
    for row in timm_rows(config):
        parts = [weights[name] for name in row.targets]
        state_dict[row.source] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state_dict


def convert_to_timm(model_dir: str | Path, output_dir: str | Path, *, overwrite_output_dir: bool = False) -> str:
    """Write a ViT-CB folder's weights as a timm state dict, `OUTPUT_DIR/model.safetensors`.

    Args:
        model_dir: the ViT-CB's folder; one without techniques.
        output_dir: the folder to write.
        overwrite_output_dir: replace what stands there.

    Returns:
        The constructor call of timm's model for it.

    Raises:
        UsageError: the folder holds no ViT-CB, or one with techniques.
    """
    folder = check_output_dir(str(output_dir), overwrite_output_dir)
    if folder.resolve() == Path(model_dir).resolve():
        raise UsageError(f"`output_dir` must be another folder than that of the ViT-CB, got {str(output_dir)!r}.")
    model = _load_vit_cb(Path(model_dir))
    state_dict = to_timm_state_dict(model)
    with replacing(folder) as staging:
        save_file(state_dict, staging / "model.safetensors", metadata={"format": "pt"})
    return _timm_expression(model.config)


def _timm_expression(config: ViTCBConfig) -> str:
    mlp_ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * mlp_ratio) < config.intermediate_size:
        # timm rounds down
        mlp_ratio = math.nextafter(mlp_ratio, math.inf)
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.num_channels,
        "num_classes": config.num_labels,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio,
        "qkv_bias": config.qkv_bias,
    }
    return f"VisionTransformer({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def _preprocessing(source: Checkpoint, reference: nn.Module | None) -> Preprocessing:
    if reference is not None:
        return preprocessing_of(reference)
    return GOOGLE_PREPROCESSING if is_google(source) else DEIT_PREPROCESSING


def _plan_conversion(
    source: Checkpoint, reference: nn.Module | None, num_attention_heads: int | None, context_broadcast: str | None
) -> ConversionPlan:
    if is_swin(source) and (num_attention_heads is not None or reference is not None):
        name = "num_attention_heads" if reference is None else "timm_model"
        raise UsageError(f"`{name}` does not go with a Swin, whose tensors tell everything: leave it out.")
    heads, eps = num_attention_heads, LAYER_NORM_EPS
    if reference is not None:
        _check_like(source, reference)
        heads, eps = reference.blocks[0].attn.num_heads, reference.norm.eps
        if num_attention_heads not in (None, heads):
            raise source.error(
                f"`num_attention_heads` {num_attention_heads} contradicts timm's model, which has {heads}."
            )
    plan = plan_model(source, heads, context_broadcast, eps)
    config = plan.config
    if reference is not None and config.num_hidden_layers != len(reference.blocks):
        raise source.error(f"has {config.num_hidden_layers} blocks, and timm's model {len(reference.blocks)}.")
    if config.num_labels == IMAGENET_CLASSES:
        labels = imagenet_labels()
        config.id2label, config.label2id = labels, {name: index for index, name in labels.items()}
    return plan


def _check_like(source: Checkpoint, reference: nn.Module) -> None:
    """Tensors have the shapes of timm's model, but for those that fine-tuning changes."""
    for name, expected in reference.state_dict().items():
        tensor = source.tensors.get(name, expected)
        if tensor.shape != expected.shape and not name.startswith(("head.", "pos_embed")):
            shape, expected_shape = list(tensor.shape), list(expected.shape)
            raise source.error(
                f"{source.named(name)} has the shape {shape}, and that of timm's model {expected_shape}."
            )


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(
    folder: Path,
    model: PreTrainedModel,
    preprocessing: Preprocessing,
    conversion: Conversion,
    command: str | None,
) -> None:
    with replacing(folder) as staging:
        model.save_pretrained(staging)
        preprocessing.image_processor(model.config.image_size).save_pretrained(staging)
        render_conversion_card(conversion, command, folder.absolute().name).save(staging / "README.md")


def _load_vit_cb(folder: Path) -> PreTrainedModel:
    saved = saved_config(folder, {}) if folder.is_dir() else {}
    if saved.get("model_type") != ViTCBConfig.model_type:
        what = f"of model type {saved['model_type']!r}" if "model_type" in saved else "no folder with a config.json"
        raise CheckpointError(f"{folder}: must be a ViT-CB's folder, and is {what}.")
    with loading(folder):
        source = {"use_safetensors": True, "local_files_only": True}
        loaded = load_files(folder, saved, ViTCBForImageClassification, **source)
    loaded.check_whole(folder)
    return loaded.model
