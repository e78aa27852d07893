"""The measures of a model over a data set, of which only running sums are kept."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from ..cli.progress import progress_bar
from ..data.dataset import IGNORED_LABEL, ImageDataset, collate, evaluation_transform
from ..errors import UsageError
from .catalogue import MEASURES, Measure
from .examples import Examples, take_examples
from .models import AnalyzedModel, LayerOutputs


class RunningMoments:
    """Mean and standard deviation over images that come in batches, merged as by Chan, Golub and LeVeque (1983).

    Images with a value that is not finite are left out, and counted in `num_left_out`.
    """

    def __init__(self) -> None:
        self.count, self.num_left_out = 0, 0
        self.mean, self.squares = torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """One batch, [B, ...]."""
        values = values.detach().cpu().double()
        finite = values.isfinite().flatten(1).all(dim=1) if values.dim() > 1 else values.isfinite()
        self.num_left_out += len(values) - int(finite.sum())
        values = values[finite]
        if len(values) == 0:
            return
        mean, total = values.mean(dim=0), self.count + len(values)
        shift = mean - self.mean
        self.squares = self.squares + (values - mean).square().sum(dim=0) + shift**2 * self.count * len(values) / total
        self.mean, self.count = self.mean + shift * len(values) / total, total

    def result(self) -> tuple[Any, Any]:
        """Mean and standard deviation (with n - 1), as numbers or lists; None where there are too few images."""
        mean = self.mean.tolist() if self.count else None
        return mean, (self.squares / (self.count - 1)).sqrt().tolist() if self.count > 1 else None


class MeasureRecord:
    """One measure of one model over images.

    Args:
        measure: which.
        outputs: of any batch, which tell what the model has.
    """

    def __init__(self, measure: Measure, outputs: LayerOutputs):
        self.measure = measure
        self.why_left_out = measure.why_left_out(outputs)
        self.moments: dict[str, list[RunningMoments]] = {}
        self.frequencies = None
        if self.why_left_out is None and measure.frequencies is not None:
            self.frequencies = measure.frequencies(outputs).tolist()

    def add(self, outputs: LayerOutputs) -> None:
        """One batch."""
        if self.why_left_out is None:
            for kind, layers in self.measure.compute(outputs).items():
                moments = self.moments.setdefault(kind, [RunningMoments() for _ in layers])
                for running, values in zip(moments, layers, strict=True):
                    running.add(values)

    def result(self) -> dict[str, Any] | None:
        """For the results' file; None, and a reason in `why_left_out`, where some layer has no finite value."""
        if self.why_left_out is not None:
            return None
        counts = [running.count for running in self.moments["layers"]]
        if 0 in counts:
            self.why_left_out = "it is not defined for these tokens, or not finite on any image"
            return None
        first = self.measure.first_layer
        result = {
            "layers": list(range(first, first + len(counts))),
            **_results(self.moments["layers"]),
            "images": min(counts),
            "images_not_finite": max(running.num_left_out for running in self.moments["layers"]),
        }
        if self.frequencies is not None:
            result["frequencies"] = self.frequencies
        return {**result, **{kind: _results(layers) for kind, layers in self.moments.items() if kind != "layers"}}


def _results(layers: list[RunningMoments]) -> dict[str, list]:
    means, deviations = zip(*(running.result() for running in layers))
    return {"mean": list(means), "std": list(deviations)}


class ModelRecord:
    """All measures of one model over images, those of AttnScale's A' among them.

    Args:
        model: whose.
        outputs: of any batch.
    """

    def __init__(self, model: AnalyzedModel, outputs: LayerOutputs):
        self.why_no_omegas = model.why_omegas_are_left_out(outputs)
        self.omegas = model.omegas if outputs.attentions and not self.why_no_omegas else {}
        self.records = [MeasureRecord(measure, outputs) for measure in MEASURES]
        if all(record.why_left_out for record in self.records):
            raise UsageError(f"the model {model.name!r} has nothing to measure: {self.records[0].why_left_out}.")
        scaled = [measure for measure in MEASURES if measure.takes_scaled and self.omegas]
        self.scaled_records = [MeasureRecord(measure, outputs) for measure in scaled]

    def add(self, outputs: LayerOutputs) -> None:
        """One batch."""
        for record in self.records:
            record.add(outputs)
        if self.scaled_records:
            scaled = outputs.with_effective_attention(self.omegas)
            for record in self.scaled_records:
                record.add(scaled)

    def result(self) -> dict[str, Any]:
        """By measure; `left_out` holds the reasons for those that are not there, `effective_attention` those of A'."""
        results = {record.measure.name: record.result() for record in self.records}
        left_out = {record.measure.name: record.why_left_out for record in self.records if record.why_left_out}
        if self.why_no_omegas:
            left_out["effective_attention"] = self.why_no_omegas
        results = {name: result for name, result in results.items() if result is not None}
        if self.scaled_records:
            scaled = {record.measure.name: record.result() for record in self.scaled_records}
            omegas = {str(layer + 1): omega.tolist() for layer, omega in sorted(self.omegas.items())}
            results["effective_attention"] = {"omega": omegas, **{name: r for name, r in scaled.items() if r}}
        return {**results, "left_out": left_out}


def analyze(
    model: AnalyzedModel,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    num_examples: int = 0,
    **progress: Any,
) -> tuple[dict[str, Any], Examples | None]:
    """The measures of a model over images.

    Args:
        model: is moved to `device`.
        batches: such as `ImageBatches`; images that could not be read take no part.
        device: to compute on.
        num_examples: at most so many images of the first batch become examples.
        progress: arguments of its progress bar.

    Returns:
        What the model is under `model`, an entry for each measure, `left_out` and, with AttnScale,
        `effective_attention`; layers of attention count from 1, those of tokens from 0, the embeddings. And examples.

    Raises:
        ValueError: the model cannot take the images, has nothing to measure, or no image could be read.
    """
    model.model.to(device)
    record, examples, unreadable, num_images = None, None, [], 0
    for batch in progress_bar(batches, unit="batch", **progress):
        unreadable += batch["skipped"]
        pixel_values = batch["pixel_values"][batch["labels"] != IGNORED_LABEL]
        if len(pixel_values) == 0:
            continue
        outputs = model.run(pixel_values.to(device))
        if record is None:
            record = ModelRecord(model, outputs)
            examples = take_examples(model, pixel_values[:num_examples], outputs.first(num_examples))
        record.add(outputs)
        num_images += len(pixel_values)
    if record is None:
        raise UsageError(
            f"none of the images could be read{f'; the first is {unreadable[0][1]}' if unreadable else ''}."
        )
    description = {**model.describe(), **_shapes(outputs), "images": num_images, "images_unreadable": len(unreadable)}
    return {"model": description, **record.result()}, examples if num_examples else None


class ImageBatches:
    """Images as batches for `analyze`, each made by the model's own image processor.

    Args:
        images: rows with `image` and `label`.
        model: whose image processor makes them.
        batch_size: images in a batch.
        num_workers: processes that load them.
    """

    def __init__(self, images: Dataset, model: AnalyzedModel, batch_size: int, num_workers: int = 0):
        self.name = model.name
        data = ImageDataset(images, evaluation_transform(model.image_processor))
        # rows are collated here: an error within a loader's process would lose its one line
        self.loader = DataLoader(data, batch_size=batch_size, num_workers=num_workers, collate_fn=list)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in self.loader:
            sizes = {tuple(row["pixel_values"].shape) for row in rows}
            if len(sizes) > 1:
                found = " and ".join(map(str, sorted(sizes)[:2]))
                raise UsageError(
                    f"the image processor of {self.name!r} makes images of different sizes, such as {found}: give it a"
                    " fixed size or a crop."
                )
            yield collate(rows)


def _shapes(outputs: LayerOutputs) -> dict[str, Any]:
    tokens = [states.shape[1] for states in outputs.hidden_states if states.dim() == 3]
    return {
        "num_layers": len(outputs.attentions) or len(outputs.hidden_states) - 1,
        "num_tokens": tokens[-1] if tokens else None,
        "num_prefix_tokens": outputs.num_prefix_tokens if outputs.grid else None,
        "grid": list(outputs.grid) if outputs.grid else None,
    }
