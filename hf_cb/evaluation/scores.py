"""What a classifier's answers are worth: accuracy, loss, calibration, and where it errs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from ..metrics import first_guesses, top_k_accuracy


NUM_BINS = 15


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, top-5 accuracy, mean cross-entropy and calibration error, as `eval_*`.

    Args:
        logits: [images, outputs].
        labels: [images], indices of outputs.
    """
    accuracies = top_k_accuracy(first_guesses(logits), labels)
    return {
        **{f"eval_{name}": value for name, value in accuracies.items()},
        "eval_loss": nn.functional.cross_entropy(logits.double(), labels).item(),
        "eval_calibration_error": calibration_error(logits.double().softmax(1), labels),
        "eval_samples": len(labels),
    }


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error, https://arxiv.org/abs/1706.04599: |accuracy - confidence|, averaged over images.

    Args:
        probabilities: [images, outputs].
        labels: [images], indices of outputs.
        num_bins: of confidence, of equal width; accuracy and confidence are means of a bin.
    """
    num_classes = max(probabilities.shape[1], 2)
    # torchmetrics wants two classes at least; a lone output has a confidence of 1
    padded = nn.functional.pad(probabilities, (0, num_classes - probabilities.shape[1]))
    return multiclass_calibration_error(padded, labels, num_classes, n_bins=num_bins, norm="l1").item()


def reliability(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> list[dict[str, float]]:
    """For each bin of confidence that holds images: their mean `confidence`, their `accuracy`, and `samples`.

    Args:
        probabilities: [images, outputs].
        labels: [images], indices of outputs.
        num_bins: of equal width.
    """
    confidence, guesses = probabilities.max(1)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    correct = (guesses == labels).double()
    return [
        {
            "confidence": confidence[members].double().mean().item(),
            "accuracy": correct[members].mean().item(),
            "samples": int(members.sum()),
        }
        for members in (bins == index for index in range(num_bins))
        if members.any()
    ]


def confusion_matrix(logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
    """How often each class is taken for each.

    Args:
        logits: [images, outputs].
        labels: [images], indices of outputs.
        indices: [classes], the output of each class of the data.

    Returns:
        [classes, classes], the right class' row and the guess' column; with one more column, for guesses that are no
        class of the data, where the model has such outputs.
    """
    num_outputs, num_classes = logits.shape[1], len(indices)
    # outputs that are no class of the data share the last column
    class_of = torch.full((num_outputs,), num_classes).scatter(0, indices, torch.arange(num_classes))
    num_columns = num_classes + (num_outputs > num_classes)
    cells = class_of[labels] * num_columns + class_of[logits.argmax(1)]
    return torch.bincount(cells, minlength=num_classes * num_columns).view(num_classes, num_columns)


def per_class_accuracy(matrix: Tensor, label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy and number of images of each class; the accuracy is None where there are none.

    Args:
        matrix: of `confusion_matrix`.
        label_names: of its rows.
    """
    totals, hits = matrix.sum(1).tolist(), matrix.diagonal().tolist()
    return {
        name: {"accuracy": hit / total if total else None, "samples": total}
        for name, hit, total in zip(label_names, hits, totals, strict=True)
    }


def paired_difference(
    correct: Tensor, reference: Tensor, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """The difference of two models' accuracies on the same images, with a 95 % bootstrap interval.

    Images are drawn with replacement and both models' answers to an image stay together (percentile bootstrap, Efron
    and Tibshirani 1993, chapter 13). An image counts -1, 0 or 1, so that how often each is drawn is multinomial: that
    is drawn, which is the same and takes no time.

    Args:
        correct: [images], True where the model is right.
        reference: [images], where the one it is compared with is.
        num_resamples: draws of as many images as there are.
        seed: of the draws.

    Returns:
        `difference`, `difference_low` and `difference_high`, accuracy less reference's.
    """
    differences = correct.long() - reference.long()
    shares = np.array([(differences == value).double().mean().item() for value in (-1, 0, 1)])
    counts = np.random.default_rng(seed).multinomial(len(differences), shares / shares.sum(), size=num_resamples)
    low, high = np.percentile((counts[:, 2] - counts[:, 0]) / len(differences), [2.5, 97.5])
    return {
        "difference": differences.double().mean().item(),
        "difference_low": float(low),
        "difference_high": float(high),
    }
