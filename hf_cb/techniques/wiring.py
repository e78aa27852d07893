"""How the techniques get between the parts of models that know nothing of them: hooks, and an attention function.

A hook finds its technique as a child of the module that it is on, so that whatever copies, pickles, moves or wraps
modules takes the techniques along. Token masks come as a keyword argument down to the attention and wait there, in one
`TokenMask` a layer, for what follows: all within a layer's forward, which is what gradient checkpointing repeats.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


# under which transformers' attention interface knows `attn_scale_attention`
ATTN_SCALE = "hf_cb_attn_scale"
# these do not look at the configuration of the module that calls them
INDEPENDENT_OF_CONFIG = ("eager", "sdpa", "flex_attention")


class TokenMask:
    """Which tokens attend in the forward pass of one layer, [B, N]; None when all do."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a copy of the model is not in the middle of a forward pass
        return {"value": None}


class AttentionConfig:
    """The configuration as an attention with AttnScale sees it: only the name of the attention function is another.

    The model's own configuration keeps the name of the stock function: what masks it needs, what is saved, and what
    `set_attn_implementation` does all stay as they were.

    Args:
        stock: the model's configuration.
        eager: the eager attention of the model's file, which transformers' interface does not know.
        owner: what has `attn_scale` and `token_mask`; None for the attention itself.
    """

    _attn_implementation = ATTN_SCALE

    def __init__(self, stock: PreTrainedConfig, eager: Any, owner: nn.Module | None):
        self.__dict__.update(stock=stock, eager=eager, owner=owner)

    def __getattr__(self, name: str) -> Any:
        # before unpickling has filled it, and for what decides how objects are copied
        if name == "stock" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.stock, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.stock, name, value)


class StockModule:
    """An attention as the stock function is to see it, with the model's configuration.

    Flash attention reads the name of the kernel off `module.config`.
    """

    def __init__(self, module: nn.Module):
        self.module, self.config = module, module.config.stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def attn_scale_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Any attention function of transformers, then AttnScale.

    Args:
        module: the attention, with an `AttentionConfig`.
        query, key, value: [B, H, N, d].
        args, kwargs: of the stock function.

    Returns:
        The output, [B, N, H, d], and what else the stock function returns: the softmax attention A, or None.
    """
    config = module.config
    implementation = config.stock._attn_implementation
    stock_attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, config.eager)
    caller = module if implementation in INDEPENDENT_OF_CONFIG else StockModule(module)
    output, attention = stock_attention(caller, query, key, value, *args, **kwargs)
    owner = module if config.owner is None else config.owner
    return owner.attn_scale(output, value.transpose(1, 2), owner.token_mask.value), attention


AttentionInterface.register(ATTN_SCALE, attn_scale_attention)


def scale_output(module: nn.Module, args: tuple, output: Any) -> Any:
    """Forward hook: FeatScale on what the module returns, or on the first of several."""
    return _on_first(module.feat_scale, module, output)


def scale_input(module: nn.Module, args: tuple) -> Any:
    """Forward pre-hook: FeatScale on what the module gets."""
    return _on_first(module.feat_scale, module, args)


def broadcast_output(module: nn.Module, args: tuple, output: Any) -> Any:
    """Forward hook: CB on what the module returns, or on the first of several."""
    return _on_first(module.cb, module, output)


def broadcast_input(module: nn.Module, args: tuple) -> Any:
    """Forward pre-hook: CB on what the module gets."""
    return _on_first(module.cb, module, args)


def _on_first(technique: nn.Module, module: nn.Module, values: Any) -> Any:
    if isinstance(values, tuple):
        return (technique(values[0], module.token_mask.value), *values[1:])
    return technique(values, module.token_mask.value)


def send_token_mask(vision_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a vision model: its `attention_mask` goes to the layers as it is, besides what becomes of it.

    Raises:
        ValueError: the model takes no mask, or the mask is not of shape [B, N].
    """
    position = vision_model.techniques.mask_position
    mask = kwargs.get("attention_mask")
    if position is not None and len(args) > position:
        mask = args[position]
    if mask is None:
        return None
    name = type(vision_model).__name__
    if position is None:
        raise ValueError(f"{name} takes no `attention_mask`: all its tokens attend.")
    if mask.dim() != 2:
        raise ValueError(
            f"`attention_mask` must be of shape (batch, tokens) where {name} has techniques, got {tuple(mask.shape)}."
        )
    return args, {**kwargs, "token_mask": mask}


def take_token_mask(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    """Forward pre-hook of what computes an attention branch: keep the mask for the layer, away from the attention.

    Raises:
        ValueError: the mask is of another number of tokens.
    """
    mask, holder = kwargs.get("token_mask"), module.token_mask
    if mask is None:
        # written only where it changes: compiled code may not write everywhere
        if holder.value is not None:
            holder.value = None
        return None
    tokens = args[0]
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"`attention_mask` must be of shape {tuple(tokens.shape[:2])}, (batch, tokens), got {tuple(mask.shape)}."
        )
    holder.value = mask.to(device=tokens.device, dtype=torch.bool)
    return args, {name: value for name, value in kwargs.items() if name != "token_mask"}
