"""Context Broadcasting, AttnScale and FeatScale on any vision transformer of transformers, in one line.

    model = apply_techniques(model, TechniqueConfig(attn_scale=True, feat_scale=True))

The model keeps its class, its configuration's type and the names of its weights; the techniques' modules and
parameters, which start at 0, stand among them. `remove_techniques` takes them away again.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import UsageError
from ..vit_cb.configuration_vit_cb import InvalidConfigError
from ..vit_cb.layers_vit_cb import AttnScale, ContextBroadcast, FeatScale, ZeroStart
from .architectures import LayerParts, VisionModel, find_vision_model
from .config import TechniqueConfig
from .wiring import (
    AttentionConfig,
    TokenMask,
    broadcast_input,
    broadcast_output,
    scale_input,
    scale_output,
    send_token_mask,
    take_token_mask,
)


logger = logging.get_logger(__name__)


@dataclass
class AppliedTechniques:
    """What was done to a vision model; it stands in its attribute `techniques`.

    Args:
        config: the techniques.
        model_type: the vision model's.
        num_layers: the vision model's.
        mask_position: which argument of its forward is `attention_mask`; None where it takes none.
        places: where a technique was added: layer index, module, name of the child.
        attentions: the modules that see an `AttentionConfig`.
        masked: the modules that hold a `TokenMask`.
        handles: of the hooks.
    """

    config: TechniqueConfig
    model_type: str
    num_layers: int
    mask_position: int | None
    places: list[tuple[int, nn.Module, str]] = field(default_factory=list)
    attentions: list[nn.Module] = field(default_factory=list)
    masked: list[nn.Module] = field(default_factory=list)
    handles: list[RemovableHandle] = field(default_factory=list)


def apply_techniques(model: nn.Module, config: TechniqueConfig) -> nn.Module:
    """Add the techniques to the vision transformer that `model` is or holds, in place.

    The learned techniques change nothing before they are trained; fixed CB does. AttnScale goes with every attention
    implementation, and `set_attn_implementation` works as before. `save_pretrained` saves the techniques too, and
    `hf_cb.from_pretrained` brings such a model back.

    Args:
        model: a model of transformers of one of the architectures in `techniques/architectures.py`, or one that holds
            it.
        config: which techniques, and where.

    Returns:
        The same model.

    Raises:
        ValueError: the model is of no such architecture, has techniques already, or cannot have these; it is then as
            it was.
    """
    if not isinstance(config, TechniqueConfig):
        raise ValueError(f"`config` must be a `TechniqueConfig`, got {type(config).__name__}.")
    vision_model = find_vision_model(model)
    if applied_techniques(model) is not None:
        raise ValueError(
            f"{type(model).__name__} has techniques already: take them away with `remove_techniques` first."
        )
    _check_layers(vision_model, config)
    layers = vision_model.parts()
    selected = {index: parts for index, parts in enumerate(layers) if config.applies_to(index)}
    for parts in selected.values():
        _check_position(parts, config)
    applied = AppliedTechniques(
        config=TechniqueConfig.from_fields(config.to_dict()),
        model_type=vision_model.model_type,
        num_layers=len(layers),
        mask_position=_mask_position(vision_model.module),
    )
    for index, parts in selected.items():
        _add_to_layer(index, parts, applied)
    if applied.places:
        _pass_masks(vision_model.module, layers, applied)
    vision_model.module.techniques = applied
    for stock_config in _configs_around(model, vision_model.module):
        stock_config.technique_config = config.to_dict()
    _forget_compiled_code()
    logger.info(f"{type(model).__name__}: techniques with {num_technique_parameters(model)} parameters added.")
    return model


def remove_techniques(model: nn.Module) -> nn.Module:
    """Take the techniques away, in place: the model is as it was before `apply_techniques`, to the bit.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no techniques that `apply_techniques` added.
    """
    applied = need_techniques(model)
    for handle in applied.handles:
        handle.remove()
    for _, module, name in applied.places:
        delattr(module, name)
    for attention in applied.attentions:
        attention.config = attention.config.stock
    for module in applied.masked:
        del module.token_mask
    vision_model = find_vision_model(model).module
    del vision_model.techniques
    for stock_config in _configs_around(model, vision_model):
        vars(stock_config).pop("technique_config", None)
    _forget_compiled_code()
    return model


def technique_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of the techniques, those of a ViT-CB too; none where only fixed CB is on.

    To train them alone: `model.requires_grad_(False)`, then `requires_grad_(True)` on each of these.
    """
    for module in model.modules():
        if isinstance(module, ZeroStart):
            yield from module.parameters(recurse=False)


def num_technique_parameters(model: nn.Module) -> int:
    """How many numbers the techniques learn."""
    return sum(parameter.numel() for parameter in technique_parameters(model))


def applied_techniques(model: nn.Module) -> AppliedTechniques | None:
    """What `apply_techniques` did to the model or to what it holds; None where it did nothing."""
    found = (vars(module).get("techniques") for module in model.modules())
    return next((applied for applied in found if isinstance(applied, AppliedTechniques)), None)


def need_techniques(model: nn.Module) -> AppliedTechniques:
    """`applied_techniques`, or an error where there are none."""
    applied = applied_techniques(model)
    if applied is None:
        raise ValueError(f"{type(model).__name__} has no techniques: `apply_techniques` adds them.")
    return applied


def _check_layers(vision_model: VisionModel, config: TechniqueConfig) -> None:
    depth, name = len(vision_model.layers), type(vision_model.module).__name__
    for index in config.apply_layers or []:
        if index >= depth:
            raise InvalidConfigError(
                f"`apply_layers` must hold layer indices from 0 to {depth - 1} ({name} has {depth}"
                f" layers), got {index} in {config.apply_layers}."
            )


def _check_position(parts: LayerParts, config: TechniqueConfig) -> None:
    if config.context_broadcast is not None and config.context_broadcast_position == "mlp_mid" and parts.is_gated:
        raise UsageError(
            f"`context_broadcast_position` must be 'mlp_end', 'mlp_front' or 'attn_end' for {type(parts.mlp).__name__},"
            " an MLP with a gate, got 'mlp_mid'."
        )


def _mask_position(vision_model: nn.Module) -> int | None:
    names = list(inspect.signature(vision_model.forward).parameters)
    return names.index("attention_mask") if "attention_mask" in names else None


def _add_to_layer(index: int, parts: LayerParts, applied: AppliedTechniques) -> None:
    config = applied.config
    mask = TokenMask()

    def add(module: nn.Module, name: str, technique: nn.Module) -> None:
        weight = next(parts.branch_start.parameters())
        technique.to(device=weight.device, dtype=weight.dtype).train(module.training)
        module.add_module(name, technique)
        _share(mask, module, applied)
        applied.places.append((index, module, name))

    if config.attn_scale:
        attention, branch_start = parts.attention, parts.branch_start
        # where every version of transformers has a module of the same name; Dinov2's attention was once inside another
        add(branch_start, "attn_scale", AttnScale(parts.num_heads))
        owner = None if attention is branch_start else branch_start
        attention.config = AttentionConfig(attention.config, _eager_attention_of(attention), owner)
        applied.attentions.append(attention)
    if config.feat_scale:
        add(parts.branch, "feat_scale", FeatScale(parts.width))
        applied.handles.append(_hook(parts.branch, parts.branch_is_input, scale_input, scale_output))
    if config.context_broadcast is not None:
        module, at_input, width = _place_of_cb(parts, config.context_broadcast_position)
        add(module, "cb", ContextBroadcast(width, scaled=config.context_broadcast == "scaled"))
        applied.handles.append(_hook(module, at_input, broadcast_input, broadcast_output))
    _share(mask, parts.branch_start, applied)


def _share(mask: TokenMask, module: nn.Module, applied: AppliedTechniques) -> None:
    if "token_mask" not in vars(module):
        module.token_mask = mask
        applied.masked.append(module)


def _place_of_cb(parts: LayerParts, position: str) -> tuple[nn.Module, bool, int]:
    """Module, whether CB is at its input and not its output, and the width there."""
    return {
        "attn_end": lambda: (parts.branch, parts.branch_is_input, parts.width),
        "mlp_front": lambda: (parts.mlp, True, parts.width),
        "mlp_mid": lambda: (parts.activation, False, parts.mlp_width),
        "mlp_end": lambda: (parts.mlp, False, parts.width),
    }[position]()


def _hook(module: nn.Module, at_input: bool, before: Callable, after: Callable) -> RemovableHandle:
    return module.register_forward_pre_hook(before) if at_input else module.register_forward_hook(after)


def _pass_masks(vision_model: nn.Module, layers: list[LayerParts], applied: AppliedTechniques) -> None:
    """Have a mask go from the model to each layer, those without techniques too: their attention knows none of it."""
    applied.handles.append(vision_model.register_forward_pre_hook(send_token_mask, with_kwargs=True))
    if applied.mask_position is None:
        return
    for parts in layers:
        _share(TokenMask(), parts.branch_start, applied)
        applied.handles.append(parts.branch_start.register_forward_pre_hook(take_token_mask, with_kwargs=True))


def _eager_attention_of(attention: nn.Module) -> Callable:
    """The eager attention of the file that defines the attention's class, or a class that it derives from."""
    files = (vars(sys.modules[parent.__module__]) for parent in type(attention).__mro__)
    return next(names["eager_attention_forward"] for names in files if "eager_attention_forward" in names)


def _configs_around(model: nn.Module, vision_model: nn.Module) -> list[Any]:
    """The configurations of the vision model and of all models around it, each once."""
    holders = (
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and any(part is vision_model for part in module.modules())
    )
    return list({id(holder.config): holder.config for holder in holders}.values())


def _forget_compiled_code() -> None:
    # compiled code does not look whether a module has got hooks since
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
