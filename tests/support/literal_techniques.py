"""The techniques on models of transformers, literally: attention matrices exist, and means are matrix products.

Nothing of the package takes part: the layers' parts get other forward methods, and the eager attention of the model's
file is exchanged for one that scales A. Scales come from a model with techniques, by what their names end in.
"""

import sys
from collections import defaultdict

from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_cb import TechniqueConfig
from reference import attn_scale, context_broadcast, feat_scale, scaled_context_broadcast
from technique_models import CASES, layers_of


SCALES = ("omega", "dc_scale", "hc_scale", "context_scale")


def scales_of(name: str, model: nn.Module) -> list[dict[str, Tensor]]:
    """Of each layer, the techniques' parameters by the last part of their names."""
    return [
        {key.rpartition(".")[2]: tensor.detach() for key, tensor in layer.named_parameters() if key.endswith(SCALES)}
        for layer in layers_of(name, model)
    ]


def make_literal(
    name: str, model: nn.Module, config: TechniqueConfig, scales: list[dict[str, Tensor]], monkeypatch, mask=None
) -> nn.Module:
    """Give a model without techniques the techniques' definitions; `mask` is [B, N]."""
    model.set_attn_implementation("eager")
    omegas = {}
    for index, (layer, own) in enumerate(zip(layers_of(name, model), scales)):
        attention, mlp = layer.get_submodule(CASES[name].attention), layer.get_submodule(CASES[name].mlp)
        if "omega" in own:
            omegas[_caller_of_the_interface(attention)] = own["omega"]
        branch, at_input = (layer.drop_path, True) if "swin" in name else (attention, False)
        if "dc_scale" in own:
            _then(branch, at_input, lambda x, own=own: feat_scale(x, own["dc_scale"], own["hc_scale"], mask))
        if config.context_broadcast and (config.apply_layers is None or index in config.apply_layers):
            _broadcast(config, own, branch, at_input, mlp, mask)
    _exchange_eager_attention(omegas, monkeypatch, mask)
    return model


def _broadcast(config, own, branch, at_input, mlp, mask) -> None:
    def broadcast(tokens: Tensor) -> Tensor:
        if config.context_broadcast == "plain":
            return context_broadcast(tokens, mask)
        return scaled_context_broadcast(tokens, own["context_scale"], mask)

    position = config.context_broadcast_position
    if position == "attn_end":
        _then(branch, at_input, broadcast)
    elif position == "mlp_mid":
        linear = [part for part in mlp.children() if isinstance(part, nn.Linear)]
        (activation,) = (part for part in mlp.children() if not isinstance(part, nn.Linear))
        mlp.forward = lambda tokens: linear[1](broadcast(activation(linear[0](tokens))))
    else:
        _then(mlp, position == "mlp_front", broadcast)


def _then(module: nn.Module, at_input: bool, technique) -> None:
    """The module with a technique on its input, or on its output or the first of several."""
    forward = module.forward

    def changed(*args, **kwargs):
        if at_input:
            return forward(technique(args[0]))
        output = forward(*args, **kwargs)
        return (technique(output[0]), *output[1:]) if isinstance(output, tuple) else technique(output)

    module.forward = changed


def _caller_of_the_interface(attention: nn.Module) -> nn.Module:
    return next(part for part in attention.modules() if isinstance(vars(part).get("config"), PreTrainedConfig))


def _exchange_eager_attention(omegas: dict[nn.Module, Tensor], monkeypatch, mask) -> None:
    by_file = defaultdict(dict)
    for module, omega in omegas.items():
        by_file[type(module).__module__][module] = omega
    for file, own in by_file.items():
        stock = sys.modules[file].eager_attention_forward

        def eager(module, query, key, value, *args, own=own, stock=stock, **kwargs):
            output, attention = stock(module, query, key, value, *args, **kwargs)
            if module not in own:
                return output, attention
            scaled = attn_scale(attention, own[module], mask)
            return (scaled @ value).transpose(1, 2), attention

        monkeypatch.setattr(sys.modules[file], "eager_attention_forward", eager)
