"""Images of 1 x 20,000 pixels and the like take little memory, whatever makes a model's input of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, ViTImageProcessor, ViTImageProcessorPil

from hf_cb.data.augmentation import AugmentationArguments, training_transform
from hf_cb.data.dataset import evaluation_transform
from hf_cb.finetuning.trainer import RandomView
from hf_cb.models.image_processors import PixelScale
from hf_cb.vit_cb.image_processing_vit_cb import (
    MOST_ELONGATED,
    ViTCBImageProcessor,
    ViTCBImageProcessorPil,
    middle_of,
    shortened,
)


SHAPES = [(20_000, 1), (1, 20_000), (50_000, 3), (3, 50_000)]
SIZE = {"height": 28, "width": 28}
CROP = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": SIZE, "do_resize": True}


def strip(size):
    """Noise."""
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [ViTCBImageProcessor, ViTCBImageProcessorPil])
def test_only_the_middle_is_resized_where_the_crop_throws_the_ends_away(kind, size):
    image, processor = strip(size), kind(**CROP)
    array = np.moveaxis(np.asarray(image), -1, 0)
    array = torch.from_numpy(array.copy()) if kind is ViTCBImageProcessor else array
    resized = processor.resize(array, processor.size)
    assert max(resized.shape[-2:]) == 32 * MOST_ELONGATED and min(resized.shape[-2:]) == 32
    # what a pipeline does
    pixel_values = processor(image, return_tensors="pt")["pixel_values"][0]
    rows, columns = middle_of(*array.shape[1:])
    middle = Image.fromarray(np.asarray(image)[rows, columns])
    assert torch.equal(pixel_values, processor(middle, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("kind", [ViTCBImageProcessor, ViTImageProcessor, ViTImageProcessorPil])
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_evaluation_takes_them_whatever_the_processor(kind, size):
    processor = kind(**CROP)
    assert evaluation_transform(processor)(strip(size)).shape == (3, 28, 28)
    assert PixelScale(processor).view(strip(size)).shape == (3, 28, 28)


@pytest.mark.parametrize("size", [(64, 1), (1, 64), (640, 10), (50, 40)], ids=str)
def test_others_are_as_they_were(size):
    image, stock, ours = strip(size), ViTImageProcessor(**CROP), ViTCBImageProcessor(**CROP)
    assert shortened(image, stock) is image
    pixels = torch.from_numpy(np.moveaxis(np.array(image), -1, 0))
    assert torch.equal(ours.resize(pixels, ours.size), stock.resize(pixels, stock.size))


def test_an_image_that_is_squeezed_whole_loses_no_end():
    image = strip((20_000, 1))
    assert shortened(image, ViTImageProcessor(size=SIZE)) is image
    assert shortened(image, ConvNextImageProcessor(size={"shortest_edge": 384})) is image
    assert shortened(image, ConvNextImageProcessor(size={"shortest_edge": 224})).size == (64, 1)
    assert evaluation_transform(ViTImageProcessor(size=SIZE))(image).shape == (3, 28, 28)


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("crop", [None, [0.08, 1.0]])
def test_training_takes_them(crop, size):
    processor = ViTCBImageProcessor(**CROP)
    augmentation = AugmentationArguments(random_resized_crop=crop, rotation=10.0)
    assert training_transform(processor, augmentation)(strip(size)).shape == (3, 28, 28)
    assert RandomView(processor, 0.08, True)(strip(size)).shape == (3, 28, 28)
