"""What happens to training images and to batches: as in timm, on which DeiT's code stands."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from torchvision.transforms.functional import pil_to_tensor
from transformers import ViTImageProcessor

from hf_cb.cli.parser import ArgumentParser
from hf_cb.data.augmentation import (
    AugmentationArguments,
    BatchAugmentation,
    Normalization,
    to_tensor,
    training_transform,
)
from hf_cb.data.dataset import collate
from hf_cb.data.randomness import preserved_random_state, seed_random_generators
from hf_cb.training.learner import smoothed_cross_entropy
from hf_cb.training.recipes import parse_with_recipe
from runs import crops


@pytest.fixture(scope="module")
def deits(train_script):
    """The augmentation of DeiT's recipe, with the user's changes."""

    def deits(*words):
        parser = ArgumentParser(*train_script.ARGUMENTS)
        parts = parse_with_recipe(parser, ["--recipe", "deit", *words], train_script.default_recipe)
        return next(part for part in parts if isinstance(part, AugmentationArguments))

    return deits


def test_deits_images_are_transformed_as_by_timm(deits):
    arguments = deits()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = training_transform(ViTImageProcessor(size=32, image_mean=mean, image_std=std), arguments)
    # the call of DeiT's datasets.py; the batch is normalised and erased afterwards
    timms = create_transform(
        input_size=32,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.0,
        mean=mean,
        std=std,
    )
    normalization, differ = Normalization(mean, std), 0
    for number, image in enumerate(crops(20)["flower"]):
        seed_random_generators(0, number)
        found = normalization.apply(ours(image))
        seed_random_generators(0, number)
        torch.testing.assert_close(found, timms(image), rtol=0, atol=1e-6)
        seed_random_generators(1, number)
        differ += not torch.allclose(normalization.apply(ours(image)), found)
    assert differ == 20


def test_randaugment_leaves_colour_jitter_out_and_without_it_jitter_is_there(deits):
    processor = ViTImageProcessor(size=32)

    def steps(*words):
        transform = training_transform(processor, deits(*words))
        return {type(step).__name__ for step in transform.transforms}

    assert "RandAugment" in steps() and "ColorJitter" not in steps()
    assert "ColorJitter" in steps("--auto_augment", "none") and "RandAugment" not in steps("--auto_augment", "none")


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (96, 64)])
def test_an_image_as_a_tensor_is_contiguous_and_has_its_pixels(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    tensor = to_tensor(image)
    assert torch.equal(tensor, pil_to_tensor(image)) and tensor.is_contiguous()
    tensor.zero_()
    assert np.array_equal(np.asarray(image), pixels)


def test_images_are_collated_in_order():
    images = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (3, 1)]
    batch = collate([{"pixel_values": image, "labels": int(image[0, 0, 0]), "skipped": []} for image in images])
    assert batch["pixel_values"].dtype == torch.uint8 and batch["labels"].tolist() == [3, 1]
    assert torch.equal(batch["pixel_values"], torch.stack(images))


def batch(count=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 5


def batch_augmentation(arguments, smoothing=0.1):
    return BatchAugmentation(Normalization((0.5,) * 3, (0.5,) * 3), arguments, smoothing, 5, torch.device("cpu"))


def test_deit_mixes_images_and_their_smoothed_labels(deits):
    augment = batch_augmentation(deits("--random_erasing", "0"))
    images, labels = batch()
    plain = augment.normalization.apply(images)
    mixups = cutmixes = 0
    for key in range(40):
        mixed, targets = augment(images, labels, key)
        assert torch.allclose(targets.sum(1), torch.ones(8)) and targets.min() >= 0.1 / 5 - 1e-6
        # CutMix leaves pixels as they are, mixup none
        untouched = (mixed == plain).all(1).float().mean()
        cutmixes, mixups = cutmixes + bool(untouched > 0.01), mixups + bool(untouched < 0.01)
    assert 10 < cutmixes < 30 and 10 < mixups < 30
    assert augment.mix.mixup_alpha == 0.8 and augment.mix.cutmix_alpha == 1.0 and augment.mix.switch_prob == 0.5


def test_mixed_labels_are_in_proportion_to_the_mixed_pixels():
    augment = batch_augmentation(AugmentationArguments(mixup=0.8), smoothing=0.0)
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[1] = 255
    mixed, targets = augment(images, torch.tensor([0, 1]), 3)
    share = (mixed[0, 0, 0, 0] + 1) / 2
    assert 0 < share < 1
    torch.testing.assert_close(targets[0, :2], torch.stack([1 - share, share]))


def test_deits_erasing_is_timms_with_noise(deits):
    augment = batch_augmentation(deits("--mixup", "0", "--cutmix", "0"))
    images, labels = batch(64)
    plain, (erased, same_labels) = augment.normalization.apply(images), augment(images, labels, 5)
    assert torch.equal(same_labels, labels)
    changed = [i for i in range(64) if not torch.equal(erased[i], plain[i])]
    assert 8 < len(changed) < 26
    timms = RandomErasing(0.25, mode="pixel", device="cpu")
    seed_random_generators(5)
    assert torch.equal(erased, timms(plain.clone()))


def test_smoothing_without_mixing_is_the_loss_of_smoothed_labels():
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 0])
    smooth = torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.1 / 5
    expected = SoftTargetCrossEntropy()(logits, smooth)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 0.1), expected)
    torch.testing.assert_close(smoothed_cross_entropy(logits, smooth, 0.1), expected)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m15-n4", "augmix-m5-w4-d2", "original", "v0", "3a"])
def test_timms_policies_work_on_every_kind_of_photograph(policy):
    transform = training_transform(ViTImageProcessor(size=16), AugmentationArguments(auto_augment=policy))
    for number, image in enumerate([*crops(12)["china"], Image.new("RGB", (1, 40)), Image.new("RGB", (40, 1))]):
        seed_random_generators(number)
        pixels = transform(image)
        assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8


def test_augmentation_does_not_touch_the_state_of_the_generators_that_others_use():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with preserved_random_state():
        seed_random_generators(5)
        random.random(), np.random.rand(), torch.rand(1)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
