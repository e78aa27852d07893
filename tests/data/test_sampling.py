"""Which images a process sees: every one, whatever the number of processes, and the same ones after a resumption."""

import itertools
from collections import Counter

import pytest
import torch

from helpers import tiny_config
from hf_cb.data.augmentation import AugmentationArguments, training_transform
from hf_cb.data.dataset import PADDING, ImageDataset, collate
from hf_cb.data.digits import load_digits
from hf_cb.data.sampling import EvaluationBatches, TrainingBatches
from hf_cb.training.arguments import ModelArguments, PreprocessingArguments
from hf_cb.training.start import make_image_processor


def order_of_all(num_images, size, world_size, epoch=0, **options):
    """The keys of an epoch in the order in which all processes together see them, step by step."""
    batches = []
    for rank in range(world_size):
        sampler = TrainingBatches(num_images, size, rank=rank, world_size=world_size, **options)
        sampler.start_at(epoch)
        batches.append(list(sampler))
    assert len({len(of_one) for of_one in batches}) == 1
    # within a step, the processes take turns
    return [key for step in zip(*batches) for turn in zip(*step) for key in turn]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_images", [48, 50, 5])
def test_every_image_comes_up_in_an_epoch(num_images, world_size):
    keys = order_of_all(num_images, 4, world_size)
    counts = Counter(index for index, _, _ in keys)
    assert counts.keys() == set(range(num_images))
    # the last step is filled up
    assert len(keys) == -(-num_images // (4 * world_size)) * 4 * world_size
    assert {epoch for _, epoch, _ in keys} == {0}


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_the_order_does_not_depend_on_the_number_of_processes(num_repeats):
    alone = order_of_all(512, 16, 1, num_repeats=num_repeats)
    assert order_of_all(512, 8, 2, num_repeats=num_repeats) == alone
    assert order_of_all(512, 8, 1, num_repeats=num_repeats, batches_per_update=2) == alone
    assert order_of_all(512, 4, 4, num_repeats=num_repeats) == alone


def test_seed_and_epoch_give_other_orders():
    orders = [order_of_all(50, 4, 1, epoch, seed=seed) for seed, epoch in itertools.product((0, 1), (0, 1))]
    indices = [tuple(index for index, _, _ in order) for order in orders]
    assert len(set(indices)) == 4


@pytest.mark.parametrize("num_repeats", [1, 3])
def test_an_epoch_from_the_middle_is_the_tail_of_the_whole_one(num_repeats):
    sampler = TrainingBatches(50, 8, batches_per_update=2, seed=3, num_repeats=num_repeats, rank=1, world_size=2)
    sampler.start_at(4)
    whole = list(sampler)
    sampler.start_at(4, 2)
    assert list(sampler) == whole[2:] and len(sampler) == len(whole) - 2 > 0


def test_batches_are_a_multiple_of_those_in_an_update():
    assert len(TrainingBatches(50, 8, batches_per_update=4)) == 8


def test_repeated_images_stand_together_with_repeats_of_their_own():
    keys = order_of_all(300, 6, 2, num_repeats=3)
    for index, copies in itertools.groupby(keys[:252], key=lambda key: key[0]):
        assert [repeat for _, _, repeat in copies] == [0, 1, 2], index
    # as many images as without repeats, so a third of the different ones; timm rounds down to 256
    assert len({index for index, _, _ in keys}) == 86


def test_no_image_has_the_same_variant_twice_in_an_epoch():
    for num_images, num_repeats in ((5, 1), (5, 3), (50, 3)):
        keys = order_of_all(num_images, 16, 1, num_repeats=num_repeats)
        assert len(set(keys)) == len(keys)


def test_repeats_are_augmented_apart_and_each_the_same_again():
    processor = make_image_processor(ModelArguments(), tiny_config(), PreprocessingArguments())
    transform = training_transform(processor, AugmentationArguments(random_resized_crop=[0.2, 1.0]))
    data = ImageDataset(load_digits()["train"], transform, seed=1)
    first, second, again = collate(data.__getitems__([(7, 0, 0), (7, 0, 1), (7, 0, 0)]))["pixel_values"]
    assert not torch.equal(first, second) and torch.equal(first, again)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_images", [1, 7, 12])
def test_every_image_is_evaluated_once_by_equally_many_batches(num_images, world_size):
    batches = [list(EvaluationBatches(num_images, 4, rank, world_size)) for rank in range(world_size)]
    assert len({tuple(map(len, of_one)) for of_one in batches}) == 1
    indices = [index for of_one in batches for batch in of_one for index in batch]
    assert sorted(index for index in indices if index != PADDING) == list(range(num_images))
