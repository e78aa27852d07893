"""timm's models by name: their weights, and what their weights do not tell. Needs timm."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn

from ..errors import UsageError, one_line
from .checkpoint import CheckpointError, quoted
from .preprocessing import Preprocessing


IMAGENET_CLASSES = 1000

POOLINGS = {"avg": "average pooling", "avgmax": "average and maximum pooling", "map": "attention pooling"}


def imagenet_labels() -> dict[int, str]:
    """The names of ImageNet's 1,000 classes, as timm ships them; with the WordNet id where two classes share one."""
    _require_timm("the names of ImageNet's 1,000 classes")
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(index) for index in range(IMAGENET_CLASSES)]
    return {
        index: name if names.count(name) == 1 else f"{name} ({info.index_to_label_name(index)})"
        for index, name in enumerate(names)
    }


def load_timm_model(name: str, pretrained: bool) -> nn.Module:
    """A VisionTransformer of timm's that ViT-CB can hold, as far as its weights do not tell.

    Args:
        name: as in `timm.list_models()`.
        pretrained: download its weights; otherwise it has none.

    Raises:
        UsageError: timm is not installed, or does not know the name.
        CheckpointError: the download failed, or the model is none that ViT-CB can hold.
    """
    _require_timm("`timm_model`")
    import timm

    if not timm.is_model(name):
        raise UsageError(f"`timm_model` must be a name that timm.list_models() gives, got {quoted(name)}.")
    with torch.device("cpu" if pretrained else "meta"), _without_hub_warnings():
        try:
            model = timm.create_model(name, pretrained=pretrained)
        except Exception as error:
            # whatever the network, the Hub's client or timm has to say
            raise CheckpointError(f"timm's {name}: cannot be loaded: {one_line(error)}") from error
    _check_architecture(name, model)
    return model


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """What timm does to images for one of its models."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    return Preprocessing(
        config["mean"], config["std"], config["crop_pct"], config["interpolation"], config["crop_mode"] == "squash"
    )


def _require_timm(purpose: str) -> None:
    if importlib.util.find_spec("timm") is None:
        raise UsageError(f"{purpose} needs timm, which is not installed: pip install 'hf_cb[train]'.")


@contextmanager
def _without_hub_warnings() -> Iterator[None]:
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)


def _check_architecture(name: str, model: nn.Module) -> None:
    from timm.data import resolve_model_data_config
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise CheckpointError(f"timm's {name}: is a {type(model).__name__}; ViT-CB can hold a VisionTransformer.")
    block, crop_mode = model.blocks[0], resolve_model_data_config(model)["crop_mode"]
    pooling = POOLINGS.get(model.global_pool, repr(model.global_pool))
    complaints = {
        f"classifies by {pooling}, not by the class token": model.global_pool != "token",
        f"has blocks of another kind, {type(block).__name__}": type(block) is not Block,
        "has a norm before the blocks (CLIP)": not isinstance(model.norm_pre, nn.Identity),
        f"is evaluated with crop mode {crop_mode!r}": crop_mode not in ("center", "squash"),
    }
    if type(block) is Block:
        activation = block.mlp.act
        exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
        complaints[f"has another activation than exact GELU, {activation}"] = not exact
    complaint = next((text for text, holds in complaints.items() if holds), None)
    if complaint is not None:
        raise CheckpointError(f"timm's {name}: {complaint}, which ViT-CB cannot hold.")
