"""White-box attacks within a distance of epsilon in every value of an image from 0 to 1, and noise of that size."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.randomness import mixed
from ..models.classifier import Classifier


@dataclass(frozen=True)
class RandomSigns:
    """Noise as large as FGSM's step but blind to the model: plus or minus epsilon, for comparison.

    Args:
        epsilon: distance on the scale from 0 to 1.
        seed: of the signs.
    """

    epsilon: float
    seed: int = 0

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        signs = _uniform_like(images, indices, self.seed).sub(0.5).sign()
        return (images + self.epsilon * signs).clamp(0, 1)


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method, https://arxiv.org/abs/1412.6572: `x + epsilon sign(dL/dx)`, kept in [0, 1].

    Args:
        epsilon: distance on the scale from 0 to 1, that of images before normalisation.
    """

    epsilon: float

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        return (images + self.epsilon * loss_gradient(classifier, images, labels).sign()).clamp(0, 1)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent, https://arxiv.org/abs/1706.06083, from a random start.

        x <- clip(x + a sign(dL/dx), x_0 - epsilon, x_0 + epsilon), kept in [0, 1]

    Args:
        epsilon: distance on the scale from 0 to 1, that of images before normalisation.
        steps: their number; each is a = 2.5 epsilon / steps long, as in the paper, so that every point can be reached.
        seed: of the start, which is uniform in the box.
    """

    epsilon: float
    steps: int = 10
    seed: int = 0

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        low, high = (images - self.epsilon).clamp(min=0), (images + self.epsilon).clamp(max=1)
        moved = low + (high - low) * _uniform_like(images, indices, self.seed)
        for _ in range(self.steps):
            step = 2.5 * self.epsilon / self.steps * loss_gradient(classifier, moved, labels).sign()
            moved = torch.minimum(torch.maximum(moved + step, low), high)
        return moved


def loss_gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the cross-entropy, through the normalisation, by the values of the images.

    Args:
        classifier: what is attacked.
        images: [B, 3, height, width] with values from 0 to 1.
        labels: [B], the classifier's indices of the right classes.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        # summed: what an image's gradient is does not depend on its batch
        loss = nn.functional.cross_entropy(classifier(images), labels, reduction="sum")
        return torch.autograd.grad(loss, images)[0]


def _uniform_like(images: Tensor, indices: Tensor, seed: int) -> Tensor:
    noise = [
        torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(mixed(seed, index)))
        for index in indices.tolist()
    ]
    return torch.stack(noise).to(images)
