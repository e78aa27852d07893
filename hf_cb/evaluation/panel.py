"""Images as several classifiers see them, perturbed reproducibly, and what the classifiers make of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..cli.flags import HfArg, ThreadArguments
from ..cli.progress import progress_bar
from ..data.images import UnreadableImageError, read_image
from ..errors import UsageError
from ..models.classifier import Classifier, PixelScale


# the usual share of a model's input size in its resizing, 224 of 256
CROP_SHARE = 0.875

# uint8 [3, height, width] and the image's index, to the like
Perturbation = Callable[[Tensor, int], Tensor]
# classifier, images [B, 3, height, width] from 0 to 1, the classifier's labels [B], indices [B], to images
Attack = Callable[[Classifier, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Treatment:
    """What happens to images before they are classified; by default nothing.

    Args:
        perturbation: of what the classifiers share, see `Views`.
        of_views: of each classifier's view, after `perturbation`.
        attack: of each classifier's view, with the classifier at hand.
        at_shared_size: resize images as for a perturbation, even without one.
    """

    perturbation: Perturbation | None = None
    of_views: Perturbation | None = None
    attack: Attack | None = None
    at_shared_size: bool = False


UNTREATED = Treatment()


class Views(TorchDataset):
    """Rows of a data set as the classifiers see them: `views`, one for each way of preprocessing, and `index`.

    A perturbation acts on what all classifiers share. Where they all take the same pixels of an image, as one alone
    does, that is this view, and otherwise the image itself, with a shorter edge of no more than the largest model is
    made for, which then goes through each model's own preprocessing.

    Args:
        data: with the column `image`; a row whose image cannot be read gives black ones, and names it in `skipped`.
        scales: the classifiers' ways of preprocessing, no two alike.
        treatment: what happens to them, an attack apart.
    """

    def __init__(self, data: Dataset, scales: Sequence[PixelScale], treatment: Treatment):
        self.data, self.scales, self.treatment = data, scales, treatment

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            image, skipped = read_image(self.data[index]["image"]), ""
        except UnreadableImageError as error:
            image, skipped = PILImage.new("RGB", (64, 64)), str(error)
        views = self._views(image, index)
        if self.treatment.of_views is not None:
            views = [self.treatment.of_views(view, index) for view in views]
        return {"views": views, "index": index, "skipped": skipped}

    def _views(self, image: PILImage.Image, index: int) -> list[Tensor]:
        if len(self.scales) == 1:
            return [self._perturbed(self.scales[0].view(image), index)]
        if self.treatment.at_shared_size or self.treatment.perturbation is not None:
            edge = round(max(max(scale.size) for scale in self.scales) / CROP_SHARE)
            image = F.resize(image, edge, v2.InterpolationMode.BICUBIC) if min(image.size) > edge else image
            image = F.to_pil_image(self._perturbed(F.pil_to_tensor(image), index))
        return [scale.view(image) for scale in self.scales]

    def _perturbed(self, image: Tensor, index: int) -> Tensor:
        perturbation = self.treatment.perturbation
        return image if perturbation is None else perturbation(image, index)


def label_indices(data_labels: Sequence[str], model_labels: Sequence[str], name: str) -> Tensor:
    """Which of a model's outputs stands for each label of the data, by name.

    Args:
        data_labels: names in the data's order.
        model_labels: names in the order of the model's outputs; there may be more of them.
        name: the model's, for the message.

    Returns:
        [data labels], indices of the model's outputs.

    Raises:
        UsageError: a label of the data is none of the model's, or is several of them.
    """
    data_labels, model_labels = [str(label) for label in data_labels], [str(label) for label in model_labels]
    if data_labels == model_labels[: len(data_labels)]:
        return torch.arange(len(data_labels))
    for label in data_labels:
        if model_labels.count(label) != 1:
            found = "has no label" if label not in model_labels else "has several labels"
            raise UsageError(
                f"{name} {found} {label!r}, which the data have; its labels are {_shortened(model_labels)}: give a"
                " model of these classes, or data whose labels bear the model's names."
            )
    return torch.tensor([model_labels.index(label) for label in data_labels])


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass
class LoadingArguments(ThreadArguments):
    """How images are read and sent through the models."""

    _argument_group_name = "loop"

    per_device_eval_batch_size: int = HfArg(default=64, help="Images in a batch.")
    dataloader_num_workers: int = HfArg(default=0, help="Processes that read and perturb images.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_all("per_device_eval_batch_size", lambda value: value >= 1, "at least 1")
        self.require_all("dataloader_num_workers", lambda value: value >= 0, "at least 0")


class Panel:
    """Classifiers and the images that they are all shown. Images that cannot be read are left out, and named.

    Args:
        classifiers: the first is what the others are compared with.
        data: with the columns `image` and `label`, the latter an index into `label_names`.
        label_names: of the data.
        loading: how images are read.

    Raises:
        UsageError: a classifier does not know a label of the data.
    """

    def __init__(
        self, classifiers: Sequence[Classifier], data: Dataset, label_names: Sequence[str], loading: LoadingArguments
    ):
        self.classifiers, self.data, self.loading = list(classifiers), data, loading
        self.label_names = list(label_names)
        self.indices = [label_indices(label_names, c.label_names, c.name) for c in classifiers]
        labels = torch.tensor(data["label"])
        self.scales, self.scale_of = _distinct([c.scale for c in classifiers])
        self.skipped: dict[int, str] = {}
        # [images] for each classifier: the output that would be right
        self._labels = [indices[labels] for indices in self.indices]

    def labels(self, k: int) -> Tensor:
        """[readable images], the right outputs of classifier k; known after the first call of `logits`."""
        return self._labels[k][self._is_readable()]

    def _is_readable(self) -> Tensor:
        readable = torch.ones(len(self.data), dtype=torch.bool)
        readable[list(self.skipped)] = False
        return readable

    def logits(self, title: str, treatment: Treatment = UNTREATED) -> list[Tensor]:
        """What the classifiers answer to the images.

        Args:
            title: for the progress bar.
            treatment: what happens to the images before.

        Returns:
            [readable images, outputs] in float32 for each classifier.

        Raises:
            UsageError: no image can be read.
        """
        views = Views(self.data, self.scales, treatment)
        answers: list[list[Tensor]] = [[] for _ in self.classifiers]
        for batch in self._batches(views, title):
            self.skipped |= {i: why for i, why in zip(batch["index"].tolist(), batch["skipped"], strict=True) if why}
            for k, classifier in enumerate(self.classifiers):
                images = batch["views"][self.scale_of[k]].to(classifier.device).float() / 255
                if treatment.attack is not None:
                    labels = self._labels[k][batch["index"]].to(classifier.device)
                    images = treatment.attack(classifier, images, labels, batch["index"])
                with torch.inference_mode():
                    answers[k].append(classifier(images).cpu())
        if len(self.skipped) == len(self.data):
            raise UsageError(f"none of the {len(self.data)} images can be read; the first is {self.skipped[0]}.")
        return [torch.cat(parts)[self._is_readable()] for parts in answers]

    def correct(self, title: str, treatment: Treatment = UNTREATED) -> list[Tensor]:
        """Whether each image is classified rightly: [readable images] for each classifier. Arguments as `logits`."""
        return [logits.argmax(1) == self.labels(k) for k, logits in enumerate(self.logits(title, treatment))]

    def _batches(self, views: Views, title: str) -> Iterator[dict[str, Any]]:
        loader = DataLoader(
            views,
            batch_size=self.loading.per_device_eval_batch_size,
            num_workers=self.loading.dataloader_num_workers,
        )
        return iter(progress_bar(loader, desc=title, unit="batch", leave=False, disable=self.loading.disable_tqdm))


def _distinct(scales: Sequence[PixelScale]) -> tuple[list[PixelScale], list[int]]:
    """The ways of preprocessing that give different pixels, and which of them each classifier has."""
    noise = np.random.default_rng(0).integers(256, size=(61, 97, 3), dtype=np.uint8)
    distinct: list[PixelScale] = []
    which, views = [], []
    for view, scale in ((scale.view(PILImage.fromarray(noise)), scale) for scale in scales):
        found = next((i for i, other in enumerate(views) if torch.equal(other, view)), len(views))
        if found == len(views):
            distinct.append(scale)
            views.append(view)
        which.append(found)
    return distinct, which
