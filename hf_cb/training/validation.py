"""The evaluation that goes with training."""

from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..data.dataset import IGNORED_LABEL
from ..errors import UsageError
from ..metrics import TopKAccuracy, first_guesses


class EndedEarlyError(Exception):
    """The evaluation was asked to stop."""


@torch.no_grad()
def evaluate_model(
    accelerator: Accelerator,
    model: nn.Module,
    loader: Iterable[dict[str, Tensor]],
    should_end: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Accuracy, top-5 accuracy and mean cross-entropy, each image counted once whatever the number of processes.

    Args:
        accelerator: of the run.
        model: a classifier, prepared or not.
        loader: of this process' batches with `pixel_values` and `labels`; images with the label -100 are left out.
        should_end: asked between batches.

    Returns:
        `eval_accuracy` and `eval_top_5_accuracy` as fractions, `eval_loss`, `eval_samples`.

    Raises:
        EndedEarlyError: `should_end` said so.
        UsageError: no image can be read.
    """
    model.eval()
    guesses, references, losses = [], [], []
    for batch in loader:
        if should_end is not None and should_end():
            raise EndedEarlyError
        # a model that Accelerate has not prepared knows nothing of its precision
        with accelerator.autocast():
            logits = model(pixel_values=batch["pixel_values"]).logits.float()
        known = batch["labels"] != IGNORED_LABEL
        logits, labels = logits[known], batch["labels"][known]
        losses += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        guesses += first_guesses(logits).tolist()
        references += labels.tolist()
    rows = zip(guesses, references, losses)
    return _metrics(gather_object(list(rows)) if accelerator.num_processes > 1 else list(rows))


def _metrics(rows: list[tuple[list[int], int, float]]) -> dict[str, float]:
    if not rows:
        raise UsageError("none of the images to evaluate on can be read.")
    guesses, references, losses = zip(*rows)
    metric = TopKAccuracy(keep_in_memory=True)
    values = metric.compute(predictions=list(guesses), references=list(references))
    metrics = {f"eval_{name}": value for name, value in values.items()}
    return {**metrics, "eval_loss": sum(losses) / len(rows), "eval_samples": len(rows)}
