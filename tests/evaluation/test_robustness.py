"""Perturbations are functions of (seed, image); attacks stay within their distance and find what noise does not."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTImageProcessor

from helpers import randomise_, tiny_config
from hf_cb import ViTCBForImageClassification
from hf_cb.evaluation.attacks import FGSM, PGD, RandomSigns, loss_gradient
from hf_cb.evaluation.perturbations import CORRUPTIONS, STRENGTHS, Corruption, PatchDrop
from hf_cb.models.classifier import Classifier


def picture(seed=0, height=24, width=32):
    """A smooth picture with some noise: uint8, [3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    noise = 0.1 * torch.rand(3, height, width, generator=generator)
    return ((0.1 + 0.7 * smooth + noise).clamp(0, 1) * 255).to(torch.uint8)


# patches


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_patch_drop_blackens_its_share_of_whole_patches(share):
    white = torch.full((3, 16, 24), 255, dtype=torch.uint8)
    patches = PatchDrop(share, 4, 6)(white, 0).view(3, 4, 4, 6, 4).permute(1, 3, 0, 2, 4).flatten(2)
    levels = {0, 255}
    assert {int(value) for value in patches.unique()} <= levels
    # each patch is of one colour
    assert torch.equal(patches.amin(2), patches.amax(2))
    assert int((patches.amax(2) == 0).sum()) == round(share * 24)


def test_no_patch_dropped_is_the_picture_itself():
    assert torch.equal(PatchDrop(0.0, 4, 4)(picture(), 7), picture())


def test_a_larger_share_drops_what_a_smaller_one_does_and_more():
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    dropped = [PatchDrop(share, 4, 4)(white, 3) == 0 for share in (0.25, 0.5, 0.75)]
    assert all(bool((smaller <= larger).all()) for smaller, larger in zip(dropped, dropped[1:]))


def test_dropped_patches_depend_on_seed_and_image_alone():
    drop = PatchDrop(0.5, 4, 4, seed=1)
    expected = drop(picture(), 5)
    torch.rand(3)
    assert torch.equal(drop(picture(), 5), expected)
    assert not torch.equal(drop(picture(), 6), expected)
    assert not torch.equal(PatchDrop(0.5, 4, 4, seed=2)(picture(), 5), expected)


# corruptions

each_corruption = pytest.mark.parametrize("name", CORRUPTIONS)


@each_corruption
def test_a_corruption_keeps_shape_and_type_and_depends_on_seed_and_image_alone(name):
    corruption = Corruption(name, 5, seed=1)
    expected = corruption(picture(), 5)
    assert expected.shape == picture().shape and expected.dtype == torch.uint8
    state = torch.get_rng_state()
    assert torch.equal(corruption(picture(), 5), expected)
    assert torch.equal(torch.get_rng_state(), state)
    is_random = name in ("gaussian_noise", "elastic")
    assert torch.equal(corruption(picture(), 6), expected) != is_random
    assert torch.equal(Corruption(name, 5, seed=2)(picture(), 5), expected) != is_random


@each_corruption
@pytest.mark.parametrize("side", [224, 32])
def test_a_stronger_corruption_changes_more(side, name):
    whole = picture(height=side, width=side)
    changes = [
        (Corruption(name, strength)(whole, 0).float() - whole.float()).abs().mean().item()
        for strength in (0, *STRENGTHS)
    ]
    assert changes[0] == 0 and changes == sorted(changes) and len(set(changes)) == len(changes)


def test_noise_has_the_size_that_its_table_says():
    grey = torch.full((3, 128, 128), 127, dtype=torch.uint8)
    sigma = CORRUPTIONS["gaussian_noise"][1][0]
    noise = Corruption("gaussian_noise", 1)(grey, 0).float() - 127
    assert noise.std().item() / 255 == pytest.approx(sigma, rel=0.02)


# attacks


@pytest.fixture(scope="module")
def classifier():
    model = randomise_(ViTCBForImageClassification(tiny_config(attn_scale=True)))
    processor = ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.1]
    )
    return Classifier(model, processor)


@pytest.fixture(scope="module")
def batch(classifier):
    """Pictures and what the classifier says to them, so that it is always right."""
    pictures = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pictures, classifier(pictures).argmax(1), torch.arange(16)


def cross_entropies(classifier, pictures, labels):
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(classifier(pictures), labels, reduction="none")


ATTACKS = [FGSM, PGD, RandomSigns]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("epsilon", [2 / 255, 16 / 255])
def test_an_attack_stays_within_its_distance_and_within_the_range_of_pictures(attack, epsilon, classifier, batch):
    pictures, labels, indices = batch
    moved = attack(epsilon)(classifier, pictures, labels, indices)
    distance = (moved - pictures).abs().max().item()
    # the distance is that of pictures, before normalisation
    assert 0.9 * epsilon < distance <= epsilon + 1e-6
    assert moved.min() >= 0 and moved.max() <= 1 and not moved.requires_grad


def test_the_gradient_goes_through_the_normalisation(classifier, batch):
    pictures, labels, _ = batch
    std = torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    normalised = ((pictures - mean) / std).requires_grad_()
    logits = classifier.model(pixel_values=normalised).logits
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    by_hand = torch.autograd.grad(loss, normalised)[0] / std
    assert_close(loss_gradient(classifier, pictures, labels), by_hand, rtol=1e-3, atol=1e-5)


def test_fgsm_is_a_step_along_the_signs_of_the_gradient(classifier, batch):
    pictures, labels, indices = batch
    signs = loss_gradient(classifier, pictures, labels).sign()
    expected = (pictures + 3 / 255 * signs).clamp(0, 1)
    assert torch.equal(FGSM(3 / 255)(classifier, pictures, labels, indices), expected)


def test_pgd_harms_more_than_fgsm_and_fgsm_more_than_noise_of_its_size(classifier, batch):
    pictures, labels, indices = batch
    epsilon = 4 / 255
    clean, noise, fgsm, pgd = (
        cross_entropies(classifier, moved, labels).mean().item()
        for moved in [pictures, *(a(epsilon)(classifier, pictures, labels, indices) for a in (RandomSigns, FGSM, PGD))]
    )
    assert clean < fgsm < pgd and noise < fgsm
    assert abs(noise - clean) < 0.5 * (fgsm - clean)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_an_image_does_not_depend_on_its_batch(attack, classifier, batch):
    pictures, labels, indices = batch
    together = attack(4 / 255)(classifier, pictures, labels, indices)
    alone = attack(4 / 255)(classifier, pictures[5:6], labels[5:6], indices[5:6])
    # signs may turn where a derivative is as small as rounding
    assert (together[5:6] - alone).abs().gt(1e-6).float().mean() < 0.02


def test_random_starts_and_signs_depend_on_seed_and_image_alone(classifier, batch):
    pictures, labels, indices = batch
    for attack in (RandomSigns, PGD):
        expected = attack(4 / 255, seed=1)(classifier, pictures, labels, indices)
        assert torch.equal(attack(4 / 255, seed=1)(classifier, pictures, labels, indices), expected)
        assert not torch.equal(attack(4 / 255, seed=2)(classifier, pictures, labels, indices), expected)
