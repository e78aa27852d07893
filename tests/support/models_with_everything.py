"""Models with every technique on and scales that are not 0, for the tests of what any transformers model can do."""

import torch
from torch.testing import assert_close

from helpers import randomise_, tiny_config
from hf_cb import ViTCBBackbone, ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel


EVERYTHING = {"context_broadcast": "scaled", "attn_scale": True, "feat_scale": True}

# every technique, with CB in both its forms and in each of its places
CASES = {
    "cb_s-mlp_end": EVERYTHING,
    "cb_s-mlp_mid": {**EVERYTHING, "context_broadcast_position": "mlp_mid"},
    "cb_s-mlp_front": {**EVERYTHING, "context_broadcast_position": "mlp_front"},
    "cb_s-attn_end": {**EVERYTHING, "context_broadcast_position": "attn_end"},
    "cb-mlp_end": {**EVERYTHING, "context_broadcast": "plain"},
    "cb_s-mlp_end-layers-0-2": {**EVERYTHING, "apply_layers": [0, 2]},
}

CLASSES = {
    "base": ViTCBModel,
    "classifier": ViTCBForImageClassification,
    "mim": ViTCBForMaskedImageModeling,
    "backbone": ViTCBBackbone,
}

# float32 is at most 3.5e-6 away from float64 in these cases, with values up to 3.8 (3 seeds, masked or not; torch 2.15,
# CPU), and two ways of computing in float32 may err in opposite directions
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def build(model_class=ViTCBForImageClassification, seed=0, **fields):
    """A model in evaluation mode with every technique on, unless `fields` say otherwise, and random weights."""
    return randomise_(model_class(tiny_config(**{**EVERYTHING, **fields})), seed)


def run(model, images, **arguments):
    """What the model is there for, without gradients: logits, tokens, reconstruction or its last feature map."""
    with torch.no_grad():
        first = model(images, **arguments)[0]
    return first[-1] if isinstance(first, tuple) else first


def differ(first, second, **tolerance):
    """Whether two tensors of one shape are further apart than rounding."""
    assert first.shape == second.shape
    return not torch.allclose(first, second, **(tolerance or ROUNDING))


def check_same(first, second, images):
    """The same weights to the bit and the same output.

    Not to the bit: how a convolution rounds depends on where its weights lie in memory, and loaded ones lie unaligned.
    """
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert_close(run(first, images), run(second, images), **ROUNDING)
