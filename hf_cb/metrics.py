"""Top-1 and top-5 accuracy, and both as an `evaluate` metric that needs no download.

`TopKAccuracy()` makes the metric; `evaluate.load` of this file's path does too.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from torch import Tensor


TOP_K = 5

DESCRIPTION = "Shares of images whose label is the first guess, and among the first five, from 0 to 1."


def first_guesses(logits: Tensor) -> Tensor:
    """The likeliest classes: [B, classes] to [B, 5], or to all where there are fewer, from the most to the least."""
    # of equal ones the first, as argmax has it, on every device
    return logits.argsort(dim=-1, descending=True, stable=True)[:, :TOP_K]


def top_k_accuracy(guesses: Any, labels: Any) -> dict[str, float]:
    """`accuracy` and `top_5_accuracy`, as exact as 64 bits hold them.

    Args:
        guesses: [images, at least 5 or all classes], from the most to the least probable.
        labels: [images].
    """
    hits = np.asarray(guesses)[:, :TOP_K] == np.asarray(labels)[:, None]
    return {"accuracy": float(hits[:, 0].mean()), "top_5_accuracy": float(hits.any(axis=1).mean())}


class TopKAccuracy(evaluate.Metric):
    """Accuracy and top-5 accuracy of ranked guesses.

    `predictions` holds, for each image, class indices from the most to the least probable (at least five, or all
    where there are fewer classes), `references` the labels. `compute()` returns `accuracy` and `top_5_accuracy`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        return top_k_accuracy(predictions, references)
