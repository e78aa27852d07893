"""What the optimiser decays."""

import re
from typing import Any

from torch import nn


# parameters of more than one dimension that DeiT's recipe does not decay, as transformers' vision models name them
UNDECAYED = re.compile(
    r"(^|\.)(position_embeddings?|pos_embed|absolute_position_embeddings|relative_position_bias_table"
    r"|cls_token|class_embedding|distillation_token|register_tokens|mask_token)(\.|$)"
)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, with decay on the weight matrices alone.

    Biases, norms, position embeddings, class and other extra tokens and every scale of the techniques (omega,
    dc_scale, hc_scale, context_scale) are not decayed, as in DeiT's recipe, https://arxiv.org/abs/2012.12877, and
    in the published code of AttnScale and FeatScale. HF Trainer by itself decays most of them.

    Args:
        model: any transformers vision model; parameters that need no gradient are left out.
        weight_decay: the decay of the rest.

    Returns:
        At most two groups, those with decay first; groups without parameters are left out.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.dim() > 1 and UNDECAYED.search(name) is None].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        for decays, parameters in groups.items()
        if parameters
    ]
