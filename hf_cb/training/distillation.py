"""Distillation from a teacher, as DeiT does it, https://arxiv.org/abs/2012.12877, section 4."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..cli.flags import Checked
from ..data.augmentation import Normalization
from ..errors import UsageError
from ..models.classifier import Classifier, load_classifier
from .arguments import DistillationArguments
from .learner import smoothed_cross_entropy


Teacher = Callable[[Tensor], Tensor]
KINDS = ("soft", "hard")


def soft_distillation(outputs: Tensor, teacher_outputs: Tensor, tau: float) -> Tensor:
    """What a student lacks of its teacher's softened probabilities.

        tau^2 / (B C) sum_{b,c} p_bc (log p_bc - log q_bc)     p = softmax(teacher / tau), q = softmax(student / tau)

    Kullback-Leibler's divergence from q to p, divided by the number of elements B C as in DeiT's released code
    (`losses.py`: `reduction="sum"`, then `/ outputs.numel()`). Equation 2 of the paper has the divergence of an image,
    C times as much. The code is followed, since DeiT's alpha and tau were used with it.

    Args:
        outputs: [B, C], the student's logits.
        teacher_outputs: [B, C], the teacher's.
        tau: temperature.
    """
    student, teacher = (logits.div(tau).log_softmax(dim=1) for logits in (outputs, teacher_outputs))
    divergence = nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * tau**2 / outputs.numel()


def hard_distillation(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Cross-entropy with the teacher's first guess as the label: equation 3 of DeiT.

    Args:
        outputs: [B, C], the student's logits.
        teacher_outputs: [B, C], the teacher's.
    """
    return nn.functional.cross_entropy(outputs, teacher_outputs.argmax(dim=1))


@dataclass
class DistillationLoss(Checked):
    """`(1 - alpha) base_loss + alpha distillation`, the latter soft or hard as above.

    DeiT's student has a second head on a distillation token; here the one head learns from both.

    Args:
        base_loss: of the student's logits [B, C] and the targets.
        teacher: pictures [B, 3, height, width] with values from 0 to 1 to logits [B, C], from `load_teacher`.
        kind: `"soft"` or `"hard"`.
        alpha: weight of the teacher, from 0 to 1; DeiT's default is 0.5.
        tau: temperature of soft distillation, above 0; DeiT's default is 1.
        image_mean: of the normalisation that the student's images have undergone, which is undone for the teacher.
        image_std: likewise.

    Raises:
        UsageError: a value is not allowed.
    """

    base_loss: Callable[[Tensor, Tensor], Tensor]
    teacher: Teacher
    kind: Literal["soft", "hard"] = "hard"
    alpha: float = 0.5
    tau: float = 1.0
    image_mean: Sequence[float] = (0.0, 0.0, 0.0)
    image_std: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        self.require_all("kind", lambda kind: kind in KINDS, "'soft' or 'hard'")
        self.require_all("alpha", lambda alpha: 0 <= alpha <= 1, "a number from 0 to 1")
        self.require_all("tau", lambda tau: 0 < tau < float("inf"), "a number above 0")

    def __call__(self, outputs: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: [B, C], the student's logits.
            images: [B, 3, height, width] that gave them, mixed and augmented as the student saw them.
            targets: whatever `base_loss` takes, class indices [B] or probabilities [B, C].
        """
        base = self.base_loss(outputs, targets)
        with torch.no_grad():
            teacher_outputs = self.teacher(self._to_pictures(images))
        if self.kind == "soft":
            distillation = soft_distillation(outputs, teacher_outputs, self.tau)
        else:
            distillation = hard_distillation(outputs, teacher_outputs)
        return (1 - self.alpha) * base + self.alpha * distillation

    def _to_pictures(self, images: Tensor) -> Tensor:
        mean, std = (torch.as_tensor(values).to(images).view(-1, 1, 1) for values in (self.image_mean, self.image_std))
        return images * std + mean


def distillation_criterion(
    arguments: DistillationArguments,
    label_names: Sequence[str],
    normalization: Normalization,
    label_smoothing: float,
    device: torch.device,
) -> Callable[[Any, Tensor, Tensor], Tensor] | None:
    """The loss of a training run with a teacher; None where there is no teacher.

    Args:
        arguments: the teacher, and how much it counts.
        label_names: of the data.
        normalization: that the student's images undergo.
        label_smoothing: of the base loss, where the targets are labels.
        device: of the run.

    Returns:
        A function of the student's outputs (with logits [B, K]), its pixel values and the targets.

    Raises:
        UsageError: the teacher cannot be loaded, or has other labels.
    """
    if arguments.teacher_model_name_or_path is None:
        return None
    teacher = load_teacher(arguments.teacher_model_name_or_path, label_names, device)
    loss = DistillationLoss(
        base_loss=partial(smoothed_cross_entropy, label_smoothing=label_smoothing),
        teacher=teacher,
        kind=arguments.distillation_type,
        alpha=arguments.distillation_alpha,
        tau=arguments.distillation_tau,
        image_mean=normalization.mean,
        image_std=normalization.std,
    )
    return lambda outputs, pixel_values, targets: loss(outputs.logits.float(), pixel_values, targets)


@dataclass
class ResizingTeacher:
    """A classifier that takes pictures of any size: it gets them in its own size and normalisation.

    Args:
        classifier: the teacher.
    """

    classifier: Classifier

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, height, width] with values from 0 to 1 to logits [B, C]."""
        size = self.classifier.scale.size
        if tuple(pictures.shape[-2:]) != size:
            # bicubic resampling overshoots at edges
            pictures = nn.functional.interpolate(pictures, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.classifier(pictures)


def load_teacher(name_or_path: str, label_names: Sequence[str], device: torch.device | str = "cpu") -> ResizingTeacher:
    """Any image classifier as a teacher: in evaluation mode, without gradients, with its own size and normalisation.

    The teacher sees the student's augmented view, resized whole: its processor's crop is for whole photographs.

    Args:
        name_or_path: a folder or a name on the Hub.
        label_names: of the data, in the order of the student's outputs.
        device: where it is to run.

    Raises:
        UsageError: it cannot be loaded, or its labels differ; the message names the first that does.
    """
    classifier = load_classifier(name_or_path, device)
    check_labels(label_names, classifier.label_names, name_or_path)
    return ResizingTeacher(classifier)


def check_labels(label_names: Sequence[str], teacher_labels: Sequence[str], name: str) -> None:
    """Refuse a teacher whose labels are not the data's, in the same order.

    Raises:
        UsageError: naming the first label that differs.
    """
    ours, theirs = list(label_names), list(teacher_labels)
    for index in range(max(len(ours), len(theirs))):
        mine, other = (names[index] if index < len(names) else None for names in (ours, theirs))
        if mine != other:
            raise UsageError(
                f"teacher {name!r} has other labels than the data: label {index} is {_or_nothing(mine)} in the data"
                f" and {_or_nothing(other)} in the teacher ({len(ours)} and {len(theirs)} labels); give a teacher"
                " trained on the same classes in the same order."
            )


def _or_nothing(label: str | None) -> str:
    return "missing" if label is None else repr(label)
