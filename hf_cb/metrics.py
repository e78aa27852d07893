"""Top-1 and top-5 accuracy as an `evaluate` metric that needs no download.

`TopKAccuracy()` makes it; `evaluate.load` of this file's path does too.
"""

import datasets
import evaluate
import numpy as np


TOP_K = 5

DESCRIPTION = "Shares of images whose label is the first guess, and among the first five, from 0 to 1."


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
        hits = np.asarray(predictions)[:, :TOP_K] == np.asarray(references)[:, None]
        return {"accuracy": float(hits[:, 0].mean()), "top_5_accuracy": float(hits.any(axis=1).mean())}
