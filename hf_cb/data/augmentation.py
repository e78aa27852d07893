"""Training images: what happens to each in a loader process, and to a batch on the device. timm supplies the parts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image as PILImage
from timm.data import Mixup, create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2
from transformers import BaseImageProcessor

from ..cli.flags import Checked, HfArg
from ..errors import UsageError
from .dataset import Transform
from .randomness import seed_device_generator, seed_random_generators


@dataclass
class AugmentationArguments(Checked):
    """What happens to training images before the model sees them."""

    _argument_group_name = "augmentation"

    random_resized_crop: list[float] | None = HfArg(
        default=None,
        help="Least and greatest share of the image's area in a random crop; without values, the whole image is"
        " resized.",
    )
    train_interpolation: str = HfArg(
        default="bilinear",
        help="Filter of that resizing.",
        metadata={"choices": ["bilinear", "bicubic", "lanczos", "random"]},
    )
    rotation: float = HfArg(default=0.0, help="Largest random rotation, in degrees.")
    translation: float = HfArg(default=0.0, help="Largest random shift, as a share of the side.")
    scaling: float = HfArg(default=0.0, help="Largest random change of size, as a share.")
    shear: float = HfArg(default=0.0, help="Largest random shear, in degrees.")
    horizontal_flip: float = HfArg(default=0.0, help="Probability of a horizontal flip.")
    color_jitter: float = HfArg(
        default=0.0, help="Strength of random brightness, contrast and saturation; off with --auto_augment."
    )
    auto_augment: str | None = HfArg(
        default=None, help="timm's name of an augmentation policy, such as rand-m9-mstd0.5-inc1."
    )
    random_erasing: float = HfArg(default=0.0, help="Probability that a rectangle is replaced by noise.")
    mixup: float = HfArg(default=0.0, help="Alpha of mixup; 0 is off.")
    cutmix: float = HfArg(default=0.0, help="Alpha of CutMix; 0 is off.")
    mixup_prob: float = HfArg(default=1.0, help="Probability that a batch is mixed.")
    mixup_switch_prob: float = HfArg(default=0.5, help="Probability of CutMix where mixup is on too.")
    repeated_augmentation: int = HfArg(default=1, help="Copies of an image in an epoch, each augmented anew; 1 is off.")

    def __post_init__(self) -> None:
        # the flag without values turns a recipe's crop off
        self.random_resized_crop = self.random_resized_crop or None
        if self.auto_augment == "none":
            self.auto_augment = None
        crop = self.random_resized_crop
        allowed = "two shares of the area in (0, 1], the least first, or no value at all"
        self.require("random_resized_crop", crop is None or (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1), allowed)
        self.require_all(
            "horizontal_flip random_erasing mixup_prob mixup_switch_prob",
            lambda value: 0 <= value <= 1,
            "a probability from 0 to 1",
        )
        self.require_all("translation scaling", lambda value: 0 <= value < 1, "a share in [0, 1)")
        self.require_all("rotation shear", lambda value: 0 <= value <= 180, "degrees from 0 to 180")
        self.require_all("color_jitter mixup cutmix", lambda v: 0 <= v < math.inf, "a number of at least 0")
        self.require_all("repeated_augmentation", lambda value: value >= 1, "at least 1")

    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0


def image_size_of(image_processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width of what an image processor gives.

    Raises:
        UsageError: it gives images of different sizes.
    """
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    if size.get("height") is None or size.get("width") is None:
        raise UsageError(f"the image processor gives images of no fixed size ({size}), which a batch needs.")
    return size["height"], size["width"]


def training_transform(image_processor: BaseImageProcessor, augmentation: AugmentationArguments) -> Transform:
    """An RGB image to a random variant of it, [3, height, width] in uint8.

    In order: random crop (or the resizing of the whole image), rotation with shift, change of size and shear, flip,
    colour jitter or the policy. All but the second is timm's `create_transform`, which DeiT was trained with.

    Args:
        image_processor: gives the size, so that training and use agree.
        augmentation: the strength of each part.

    Raises:
        UsageError: timm does not know the policy.
    """
    size = image_size_of(image_processor)
    try:
        steps = create_transform(
            size,
            is_training=True,
            # the batch is normalised, and rectangles erased, on the device
            use_prefetcher=True,
            scale=augmentation.random_resized_crop,
            hflip=augmentation.horizontal_flip,
            color_jitter=augmentation.color_jitter or None,
            auto_augment=augmentation.auto_augment,
            interpolation=augmentation.train_interpolation,
            mean=image_processor.image_mean,
            std=image_processor.image_std,
        ).transforms
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(f"`auto_augment` {augmentation.auto_augment!r} is no policy of timm's: {error!r}.") from error
    keep_a_bit(steps)
    if augmentation.random_resized_crop is None:
        steps[0] = _whole_image(size, augmentation.train_interpolation)
    steps[1:1] = _affine(augmentation)
    steps[-1] = to_tensor
    return v2.Compose(steps)


def to_tensor(image: PILImage.Image) -> Tensor:
    """An RGB image as [3, height, width] in uint8, as torchvision's `pil_to_tensor` has it, but contiguous.

    One colour after the other, Pillow writes it faster than pixel by pixel, and batches are copied together faster.
    """
    colours = bytearray().join(image.tobytes("raw", colour) for colour in "RGB")
    return torch.frombuffer(colours, dtype=torch.uint8).view(3, image.height, image.width)


def keep_a_bit(steps: Iterable[Any]) -> None:
    """Let the policies among timm's transforms posterize to one bit at least.

    At its greatest strength timm keeps none, which newer versions of Pillow refuse.
    """
    for operation in _operations(steps):
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterize


def _operations(steps: Iterable[Any]) -> list[AugmentOp]:
    """The operations of timm's policies."""
    found = []
    for step in steps:
        if isinstance(step, RandAugment | AugMixAugment):
            found += step.ops
        if isinstance(step, AutoAugment):
            found += [operation for operations in step.policy for operation in operations]
    return found


def _posterize(image: PILImage.Image, bits: int, **_: Any) -> PILImage.Image:
    return posterize(image, max(1, bits))


def _whole_image(size: tuple[int, int], interpolation: str) -> v2.Transform:
    if interpolation == "random":
        raise UsageError("`train_interpolation` random goes with --random_resized_crop alone: name a filter.")
    return v2.Resize(size, interpolation=v2.InterpolationMode[interpolation.upper()])


def _affine(augmentation: AugmentationArguments) -> list[v2.Transform]:
    a = augmentation
    if not (a.rotation or a.translation or a.scaling or a.shear):
        return []
    return [
        v2.RandomAffine(
            degrees=a.rotation,
            translate=(a.translation, a.translation),
            scale=(1 - a.scaling, 1 + a.scaling),
            shear=(-a.shear, a.shear),
            interpolation=v2.InterpolationMode.BILINEAR,
        )
    ]


@dataclass(frozen=True)
class Normalization:
    """From bytes to what a model takes, and back.

    Args:
        mean: of the channels, from 0 to 1.
        std: standard deviation of the channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, image_processor: BaseImageProcessor) -> "Normalization":
        """What an image processor does."""
        return cls(tuple(image_processor.image_mean), tuple(image_processor.image_std))

    def apply(self, images: Tensor) -> Tensor:
        """[B, C, height, width] in uint8 to the same in float32."""
        mean, std = (255 * torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        return images.float().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


class BatchAugmentation:
    """Normalises a batch, erases rectangles, mixes images and their labels.

    Its random choices, and those that the model makes afterwards (dropped branches), are a function of a key alone.

    Args:
        normalization: of the model's image processor.
        augmentation: probabilities and alphas.
        label_smoothing: of the targets.
        num_labels: number of classes.
        device: of the batches.
    """

    def __init__(
        self,
        normalization: Normalization,
        augmentation: AugmentationArguments,
        label_smoothing: float,
        num_labels: int,
        device: torch.device,
    ):
        self.normalization, self.device = normalization, device
        self.erase = self.mix = None
        if augmentation.random_erasing:
            self.erase = RandomErasing(augmentation.random_erasing, mode="pixel", device=device)
        if augmentation.mixes():
            self.mix = Mixup(
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                prob=augmentation.mixup_prob,
                switch_prob=augmentation.mixup_switch_prob,
                label_smoothing=label_smoothing,
                num_classes=num_labels,
            )

    def __call__(self, images: Tensor, labels: Tensor, *key: int) -> tuple[Tensor, Tensor]:
        """
        Args:
            images: [B, C, height, width] in uint8.
            labels: [B].
            key: integers that the random choices follow from.

        Returns:
            Pixel values [B, C, height, width], and targets: the labels, or [B, num_labels] where images are mixed.
        """
        seed_random_generators(*key)
        seed_device_generator(self.device, *key)
        pixel_values = self.normalization.apply(images)
        if self.erase is not None:
            pixel_values = self.erase(pixel_values)
        return (pixel_values, labels) if self.mix is None else self.mix(pixel_values, labels)
