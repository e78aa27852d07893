"""Gradients and losses, with every technique on: every parameter learns, checkpointing changes nothing."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from helpers import random_mask, tiny_images
from hf_cb import ViTCBBackbone, ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel
from models_with_everything import CASES, ROUNDING, build, differ


LABELS = torch.tensor([1, 4])
PATCHES = torch.arange(32).view(2, 16) % 3 == 0

each_case = pytest.mark.parametrize("fields", CASES.values(), ids=CASES)


def mean_square(tensor):
    """A loss that depends on every number of a tensor."""
    return (tensor - torch.linspace(-1, 1, tensor.numel()).view_as(tensor)).square().mean()


# a loss for each class; its model's parameters all take part in it
LOSSES = {
    "classifier": (ViTCBForImageClassification, lambda model, images: model(images, labels=LABELS).loss),
    "mim": (ViTCBForMaskedImageModeling, lambda model, images: model(images, bool_masked_pos=PATCHES).loss),
    "backbone": (ViTCBBackbone, lambda model, images: mean_square(model(images).feature_maps[-1])),
    "base": (ViTCBModel, lambda model, images: mean_square(model(images).pooler_output)),
}
each_loss = pytest.mark.parametrize(("model_class", "loss_of"), LOSSES.values(), ids=LOSSES)


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@each_case
@each_loss
def test_every_parameter_gets_a_gradient(model_class, loss_of, fields, images):
    model = build(model_class, **fields)
    gradients = gradients_of(model, loss_of(model, images))
    # softmax does not see what a bias of the keys adds to every score of a row
    without = [name for name, grad in gradients.items() if grad is None or not grad.any()]
    assert [name for name in without if not name.endswith("k_proj.bias")] == []
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())


@each_loss
def test_every_parameter_gets_a_gradient_from_the_zero_start(model_class, loss_of, images):
    model = model_class(build(model_class).config)
    gradients = gradients_of(model, loss_of(model, images))
    without = [name for name, grad in gradients.items() if grad is None]
    assert without == []


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return calls


@each_loss
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_gives_the_same_gradients(use_reentrant, model_class, loss_of, images):
    # random branches too: recomputing has to draw them again as they were
    model = build(model_class, drop_path_rate=0.5, hidden_dropout_prob=0.1).train()
    calls = count_calls(model.base_model.layers[1].mlp)

    def gradients(seed):
        torch.manual_seed(seed)
        # reentrant checkpointing needs an input with a gradient
        return gradients_of(model, loss_of(model, images.clone().requires_grad_()))

    expected, other = gradients(0), gradients(1)
    assert len(calls) == 2
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_close(gradients(0), expected, rtol=0, atol=0)
    assert len(calls) == 4
    assert any(differ(other[name], expected[name]) for name in expected)
    model.gradient_checkpointing_disable()
    gradients(0)
    assert len(calls) == 5


@each_case
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_gives_the_same_gradients_under_a_mask(use_reentrant, fields, images):
    model, images, mask = build(**fields).train(), images.requires_grad_(), random_mask()
    loss = partial(model, images, labels=LABELS, attention_mask=mask)
    expected = gradients_of(model, loss().loss)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_close(gradients_of(model, loss().loss), expected, rtol=0, atol=0)


@each_case
def test_a_few_steps_lower_the_loss(fields, images):
    model = ViTCBForImageClassification(build(**fields).config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = model(images, labels=LABELS).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# losses


def test_one_label_for_each_image_gives_cross_entropy(images):
    output = build()(images, labels=LABELS)
    assert_close(output.loss, F.cross_entropy(output.logits, LABELS))


def test_several_labels_for_each_image_give_binary_cross_entropy(images):
    model = build(problem_type="multi_label_classification")
    labels = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1.0, 0, 0, 0]])
    output = model(images, labels=labels)
    assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels))


@pytest.mark.parametrize("num_labels", [1, 5])
def test_numbers_give_the_mean_square_error(num_labels, images):
    model = build(num_labels=num_labels, problem_type="regression")
    labels = torch.randn(2, num_labels)
    output = model(images, labels=labels)
    assert_close(output.loss, F.mse_loss(output.logits, labels))
    assert differ(output.loss, model(images, labels=labels + 1).loss)


def test_the_kind_of_problem_follows_from_the_labels(images):
    model = build()
    model(images, labels=LABELS)
    assert model.config.problem_type == "single_label_classification"


def test_without_labels_there_is_no_classifier(images):
    model = build(num_labels=0)
    assert isinstance(model.classifier, nn.Identity)
    assert model(images).logits.shape == (2, 24)


def test_reconstruction_is_judged_on_the_masked_patches_alone(images):
    model = build(ViTCBForMaskedImageModeling)
    output = model(images, bool_masked_pos=PATCHES)
    pixels = PATCHES.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    error = (output.reconstruction - images).abs() * pixels
    assert output.reconstruction.shape == images.shape
    # the library divides by 3 channels times masked pixels, plus 1e-5
    assert_close(output.loss, error.sum() / (3 * pixels.sum()))
    assert differ(output.loss, model(images, bool_masked_pos=~PATCHES).loss)


def test_pixels_of_a_masked_patch_are_hidden_from_the_model(images):
    model, changed = build(ViTCBForMaskedImageModeling), images.clone()
    changed[:, :, :4, :4] += 1
    first_patch = torch.zeros(2, 16, dtype=torch.bool)
    first_patch[:, 0] = True
    same = [model(pixels, bool_masked_pos=first_patch).reconstruction for pixels in (images, changed)]
    assert torch.equal(*same)
    assert differ(*(model(pixels, bool_masked_pos=~first_patch).reconstruction for pixels in (images, changed)))


def test_gradients_of_a_batch_are_the_mean_of_its_images():
    model, images, labels = build(), tiny_images(4), torch.tensor([0, 1, 2, 3])
    together = gradients_of(model, model(images, labels=labels).loss)
    alone = [gradients_of(model, model(images[i : i + 1], labels=labels[i : i + 1]).loss) for i in range(4)]
    for name, gradient in together.items():
        assert_close(gradient, sum(one[name] for one in alone) / 4, **ROUNDING)
