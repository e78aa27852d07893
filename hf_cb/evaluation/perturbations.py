"""Perturbations of images: patches left out, and torchvision's corruptions at five strengths.

Each is a function of an image, uint8 [3, height, width], and its index: the same pixels in every run, for
every model, in whatever order images are read.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..data.randomness import mixed, preserved_random_state, seed_random_generators


STRENGTHS = (1, 2, 3, 4, 5)
# lengths in pixels are given for images of this side and scale with it
REFERENCE_SIDE = 224


@dataclass(frozen=True)
class PatchDrop:
    """Blacken a share of an image's patches, chosen at random: occlusion, as in https://arxiv.org/abs/2105.10497.

    A larger share takes the patches of a smaller one and more.

    Args:
        share: of the patches, from 0 to 1, rounded to a whole number of them.
        rows: of the grid of patches.
        columns: likewise.
        seed: of the choice.
    """

    share: float
    rows: int
    columns: int
    seed: int = 0

    def __call__(self, image: Tensor, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(mixed(self.seed, index))
        order = torch.randperm(self.rows * self.columns, generator=generator)
        kept = torch.ones(self.rows * self.columns, dtype=torch.bool)
        kept[order[: round(self.share * len(order))]] = False
        height, width = image.shape[-2:]
        row = torch.arange(height) * self.rows // height
        column = torch.arange(width) * self.columns // width
        return image * kept.view(self.rows, self.columns)[row][:, column]


@dataclass(frozen=True)
class Corruption:
    """One of `CORRUPTIONS`.

    Args:
        name: of the corruption.
        strength: from 1 to 5; 0 leaves the image as it is.
        seed: of its random choices, which are the same at each strength.
    """

    name: str
    strength: int
    seed: int = 0

    def __call__(self, image: Tensor, index: int) -> Tensor:
        if self.strength == 0:
            return image
        function, values = CORRUPTIONS[self.name]
        with preserved_random_state():
            seed_random_generators(self.seed, index, zlib.crc32(self.name.encode()))
            return function(image, values[self.strength - 1])


def _gaussian_noise(image: Tensor, sigma: float) -> Tensor:
    noisy = F.gaussian_noise(F.to_dtype(image, torch.float32, scale=True), sigma=sigma)
    return F.to_dtype(noisy, torch.uint8, scale=True)


def _gaussian_blur(image: Tensor, sigmas: tuple[float, float]) -> Tensor:
    # the second in pixels: on small images less would change nothing
    sigma = max(sigmas[0] * _scale(image), sigmas[1])
    # three standard deviations to each side
    return F.gaussian_blur(image, kernel_size=2 * max(1, round(3 * sigma)) + 1, sigma=sigma)


def _elastic(image: Tensor, alpha: float) -> Tensor:
    scale = _scale(image)
    return v2.ElasticTransform(alpha=alpha * scale, sigma=max(5.0 * scale, 0.5))(image)


def _pixelate(image: Tensor, share: float) -> Tensor:
    height, width = image.shape[-2:]
    small = F.resize(image, [max(1, round(height * share)), max(1, round(width * share))], antialias=True)
    return F.resize(small, [height, width], v2.InterpolationMode.NEAREST)


def _scale(image: Tensor) -> float:
    return min(image.shape[-2:]) / REFERENCE_SIDE


# name: function of torchvision.transforms.v2 and its argument at strengths 1 to 5. Noise, blur, contrast and JPEG have
# the values of ImageNet-C (https://arxiv.org/abs/1903.12261); the others, which it defines otherwise, have our own.
# Factors are floating-point numbers: with an integer, torchvision multiplies in 8 bits and overflows
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, Any], Tensor], tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": (_gaussian_blur, ((1, 0.4), (2, 0.6), (3, 0.7), (4, 0.8), (6, 1.0))),
    "elastic": (_elastic, (50, 100, 150, 200, 250)),
    "brightness": (F.adjust_brightness, (1.25, 1.5, 2.0, 2.5, 3.0)),
    "darkness": (F.adjust_brightness, (0.8, 0.6, 0.4, 0.25, 0.15)),
    "contrast": (F.adjust_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturation": (F.adjust_saturation, (0.8, 0.6, 0.4, 0.2, 0.0)),
    "jpeg": (F.jpeg, (25, 18, 15, 10, 7)),
    "pixelate": (_pixelate, (1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8)),
    "posterize": (F.posterize, (5, 4, 3, 2, 1)),
}
