"""Dynamic int8 and torchao's weight-only int8 keep the accuracy of a model that was trained with every technique."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import AutoModelForImageClassification, TorchAoConfig

from hf_cb import ViTCBConfig, ViTCBForImageClassification, parameter_groups


# of the 797 images that are not trained on
ALLOWED_LOSS_OF_ACCURACY = 0.01
NUM_TRAIN = 1000


@pytest.fixture(scope="module")
def digits():
    """Images [1797, 3, 8, 8] from -1 to 1, and labels."""
    pixels, labels = load_digits(return_X_y=True)
    pixel_values = torch.from_numpy(pixels).float().view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
    return pixel_values, torch.from_numpy(labels)


@pytest.fixture(scope="module")
def model(digits):
    """A few seconds of training, enough for nine of ten digits."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    config = ViTCBConfig(
        **sizes, image_size=8, patch_size=2, num_labels=10, initializer_range=0.14, attn_scale=True, feat_scale=True
    )
    model = ViTCBForImageClassification(config).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), lr=3e-3)
    for _ in range(12):
        for batch in torch.randperm(NUM_TRAIN).split(50):
            model(digits[0][batch], labels=digits[1][batch]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits_of(model, digits):
    return model(digits[0][NUM_TRAIN:]).logits


def accuracy(model, digits):
    return (logits_of(model, digits).argmax(-1) == digits[1][NUM_TRAIN:]).float().mean().item()


def check_accuracy_is_kept(quantized, model, digits):
    assert not torch.equal(logits_of(quantized, digits), logits_of(model, digits))
    assert accuracy(quantized, digits) >= accuracy(model, digits) - ALLOWED_LOSS_OF_ACCURACY


def test_the_model_has_learnt_and_so_have_its_scales(model, digits):
    assert accuracy(model, digits) > 0.8
    for layer in model.vit.layers:
        assert all(scale.any() for scale in (layer.attention.attn_scale.omega, *layer.feat_scale.parameters()))


def test_accuracy_shows_what_is_broken(model, digits):
    broken = copy.deepcopy(model)
    nn.init.zeros_(broken.vit.layers[1].mlp.fc2.weight)
    nn.init.zeros_(broken.vit.layers[2].attention.o_proj.weight)
    assert accuracy(broken, digits) < accuracy(model, digits) - ALLOWED_LOSS_OF_ACCURACY


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_dynamic_int8_keeps_the_accuracy(model, digits):
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kinds = {type(module).__module__ for name, module in quantized.named_modules() if name.endswith("_proj")}
    assert kinds == {"torch.ao.nn.quantized.dynamic.modules.linear"}
    check_accuracy_is_kept(quantized, model, digits)


def test_torchao_weight_only_int8_keeps_the_accuracy(model, digits):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantized = copy.deepcopy(model)
    quantize_(quantized, Int8WeightOnlyConfig())
    assert type(quantized.vit.layers[0].mlp.fc1.weight).__module__.startswith("torchao")
    check_accuracy_is_kept(quantized, model, digits)


def test_a_model_loads_quantized_by_torchao_and_saved_so_loads_again(model, digits, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig

    model.save_pretrained(tmp_path / "float")
    quantized = AutoModelForImageClassification.from_pretrained(
        tmp_path / "float", quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), device_map="cpu"
    )
    check_accuracy_is_kept(quantized, model, digits)
    quantized.save_pretrained(tmp_path / "int8")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "int8")
    assert torch.equal(logits_of(again, digits), logits_of(quantized, digits))
