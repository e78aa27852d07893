"""What loading weights into ViT-CB needs beyond transformers: names, image sizes, and a warning where CB is new."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, ViTConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import logging

from .configuration_vit_cb import Size, ViTCBConfig, as_pair


logger = logging.get_logger(__name__)

# what decides which file on a Hub is read
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def rename_saved_layers(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Give the weights of a ViT's layers the names of its modules, in place, where they have those of saved files.

    transformers saves a ViT's layers under the names that they had before transformers 5, such as
    `encoder.layer.0.attention.attention.query.weight` for `layers.0.attention.q_proj.weight`.

    Args:
        state_dict: weights by name.
        prefix: what the names of the ViT's weights begin with, such as `"vit."`; other names stay.
    """
    saved_names = [name for name in state_dict if name.startswith(f"{prefix}encoder.layer.")]
    renamings = get_checkpoint_conversion_mapping("ViTModel") if saved_names else []
    for saved_name in saved_names:
        name = saved_name.removeprefix(prefix)
        for renaming in renamings:
            name, _ = renaming.rename_source_key(name)
        # where both names are there, the other weight is the model's own: `{**model.state_dict(), **load_file(path)}`,
        # which is also what Accelerate and torch.distributed's `set_model_state_dict` make of a file
        state_dict[prefix + name] = state_dict.pop(saved_name)


def resample_position_embeddings(embeddings: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings for another number of patches: bicubic, as ViT's `interpolate_pos_encoding` does.

    Args:
        embeddings: [1, 1 + rows * columns, D], the class token's first.
        grid: rows and columns of patches that they stand for.
        new_grid: rows and columns wanted.

    Returns:
        [1, 1 + new rows * new columns, D], the class token's unchanged.
    """
    class_embedding, patches = embeddings[:, :1], embeddings[:, 1:]
    patches = patches.reshape(1, *grid, -1).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    patches = nn.functional.interpolate(patches.float(), size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([class_embedding, patches.flatten(2).transpose(1, 2).to(embeddings.dtype)], dim=1)


def saved_config(pretrained_model_name_or_path: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own configuration file; empty where it has none.

    Args:
        pretrained_model_name_or_path: as `from_pretrained` takes it.
        arguments: those of `from_pretrained`; the ones that choose a file on a Hub are used.
    """
    if pretrained_model_name_or_path is None:
        return {}
    source = {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}
    try:
        return PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **source)[0]
    except OSError:
        # weights alone, loaded with `config=`: nothing says what they are
        return {}


def split_off_image_size(saved: dict[str, Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], Size | None]:
    """Arguments to load the checkpoint at its own image size, and the size asked for where it is another.

    Args:
        saved: the checkpoint's configuration file.
        arguments: those of `from_pretrained`, with `image_size=` or a `config=` that holds it.
    """
    config = arguments.get("config")
    is_object = isinstance(config, PreTrainedConfig)
    wanted = getattr(config, "image_size", None) if is_object else arguments.get("image_size")
    own = saved.get("image_size", ViTCBConfig.image_size) if saved else None
    # what is no size at all, the configuration refuses
    if own is None or not isinstance(wanted, (int, list, tuple)) or as_pair(wanted) == as_pair(own):
        return arguments, None
    if is_object:
        at_own_size = type(config).from_dict({**config.to_dict(), "image_size": own})
        return {**arguments, "config": at_own_size}, wanted
    return {name: value for name, value in arguments.items() if name != "image_size"}, wanted


def warn_if_broadcasting_is_new(name: Any, saved: dict[str, Any], config: ViTCBConfig) -> None:
    """Say that fixed CB changes what a plain ViT checkpoint computes."""
    is_plain_vit = saved.get("model_type") == ViTConfig.model_type
    if not is_plain_vit or config.context_broadcast != "plain" or config.apply_layers == []:
        return
    logger.warning(
        f"{name} is a plain ViT checkpoint, and `context_broadcast='plain'` (CB) changes what it computes:"
        " fine-tune it before use, or load it with `context_broadcast=None` to keep its outputs."
    )
