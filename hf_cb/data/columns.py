"""The columns and rows of a data set that a classifier needs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image, IterableDataset
from datasets.table import InMemoryTable

from ..errors import UsageError
from .found_columns import alike, class_values, image_column, is_missing, label_column, require_labels
from .layouts.layout import names_of


AnyDataset = Dataset | IterableDataset

# rows of a stream that wait to be drawn from: enough to mix classes that stand side by side in files of usual size
SHUFFLE_BUFFER = 2048
# of a stream in memory, which loader processes share
MOST_PARTS = 64


def features_of(data: AnyDataset) -> Features:
    """The columns of a data set with their types, for which a stream may have to be begun."""
    return data.features or data._resolve_features().features


def found_columns(data: AnyDataset, split: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The names of a data set's columns of images and of labels.

    Args:
        data: any data set of images with labels.
        split: what it is for, for error messages.
        image: name of its column of images; None for the one of a usual name, or else of that type.
        label: likewise of its labels.

    Raises:
        UsageError: there is no such column, or several that may be meant.
    """
    features = features_of(data)
    return image_column(features, image, split), label_column(features, label, split)


def with_image_and_label(data: AnyDataset, split: str, image: str, label: str) -> AnyDataset:
    """The data set with the columns `image`, not decoded, and `label` alone.

    Args:
        data: any data set of images with labels.
        split: what it is for, for error messages.
        image: name of its column of images.
        label: name of its labels.

    Raises:
        UsageError: the column holds no images.
    """
    data = data.select_columns([image, label])
    names = {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    data = data.rename_columns(names) if names else data
    try:
        return data.cast_column("image", Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"the column {image!r} of the {split} data holds no images: name another one.") from error


def encoded_labels(splits: dict[str, AnyDataset]) -> tuple[dict[str, AnyDataset], list[str], list[str]]:
    """The splits with indices for labels, the sorted names that these point to, and what is to be said of them.

    Args:
        splits: with a column `label` of indices with names, of strings or of integers.

    Raises:
        UsageError: two splits name their classes differently, or a label is missing.
    """
    features = {name: data.features["label"] for name, data in splits.items()}
    lines = []
    if all(isinstance(feature, ClassLabel) for feature in features.values()):
        names = next(iter(features.values())).names
        for split, feature in features.items():
            _require_same_names(names, feature.names, split)
    else:
        values = _values(splits)
        lines = alike(values)
        splits = {name: _encoded(data, values) for name, data in splits.items()}
        names = [str(value) for value in values]
    labels = {split: _labels(data) for split, data in splits.items() if isinstance(data, Dataset)}
    for split, indices in labels.items():
        require_labels(np.count_nonzero((indices < 0) | (indices >= len(names))), split)
    return splits, names, [*lines, *_untrained(labels, names)]


def _untrained(labels: dict[str, np.ndarray], names: list[str]) -> list[str]:
    """A line for classes that are evaluated on and, though the data name them, not trained on."""
    if len(labels) < 2:
        return []
    alone = np.setdiff1d(labels["evaluation"], labels["train"])
    if len(alone) == 0:
        return []
    return [f"no image to train on is of {names_of(names[i] for i in alone)}, which images to evaluate on are of"]


def _require_same_names(names: list[str], others: list[str], split: str) -> None:
    if names == others:
        return
    different = next((pair for pair in zip(names, others) if pair[0] != pair[1]), (len(names), len(others)))
    raise UsageError(
        f"training and {split} data must have the same classes in the same order: {different[0]!r} in one is"
        f" {different[1]!r} in the other."
    )


def _labels(data: Dataset) -> np.ndarray:
    """The labels as indices, missing ones as -1."""
    return data.select_columns("label").with_format("arrow")[:]["label"].fill_null(-1).to_numpy()


def _values(splits: dict[str, AnyDataset]) -> list[Any]:
    """The sorted values of labels without names."""
    if any(isinstance(data, IterableDataset) for data in splits.values()):
        raise UsageError("streamed data need labels of the type ClassLabel, since their names are not known otherwise.")
    found = {name: set(data.unique("label")) for name, data in splits.items()}
    for name, data in splits.items():
        if any(map(is_missing, found[name])):
            require_labels(sum(map(is_missing, data["label"])), name)
    return class_values(found)


def _encoded(data: Dataset, values: list[Any]) -> Dataset:
    index = {value: i for i, value in enumerate(values)}
    labels = [index[value] for value in data["label"]]
    column = ClassLabel(names=[str(value) for value in values])
    return data.remove_columns("label").add_column("label", labels, feature=column)


def stratified_split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Two parts of a data set, the second with the given share of each class.

    Args:
        data: with a column `label` of indices.
        share: of the second part; a class keeps a row in the first, and gives one to the second where it has two.
        seed: which rows go.

    Raises:
        UsageError: no class has two rows.
    """
    labels, generator = _labels(data), np.random.default_rng(seed)
    second = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        second.extend(rows[:count])
    if not second:
        raise UsageError("no class has two images, so that none can be cut off to evaluate on: give --validation_dir.")
    first = np.setdiff1d(np.arange(len(data)), second)
    return data.select(first), data.select(np.sort(second))


def random_part(data: AnyDataset, size: int | None, seed: int) -> AnyDataset:
    """At most `size` rows, drawn at random; all where it is None.

    They stay in their order. Those of a stream are drawn from a buffer of `SHUFFLE_BUFFER` rows, which moves on as they
    leave it, and are the same in each epoch: as many as the buffer holds are kept in memory, and more are drawn again,
    by one loader process.
    """
    if size is None:
        return data
    if isinstance(data, IterableDataset):
        drawn = data.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(size)
        if size <= SHUFFLE_BUFFER:
            return as_stream(Dataset.from_list(list(drawn), features=data.features), seed)
        # shuffled again, as in each epoch, it would draw others
        return IterableDataset.from_generator(_rows_of, features=data.features, gen_kwargs={"stream": drawn})
    rows = np.random.default_rng(seed).permutation(len(data))[:size]
    return data.select(np.sort(rows))


def as_stream(data: Dataset, seed: int) -> IterableDataset:
    """A data set in memory as a stream, in an order of its own, so that neighbours are of different classes."""
    table = data.with_format("arrow")[:]
    mixed = table.take(np.random.default_rng(seed).permutation(len(table)))
    data = Dataset(InMemoryTable(mixed), DatasetInfo(features=data.features))
    return data.to_iterable_dataset(num_shards=min(MOST_PARTS, len(data)))


def _rows_of(stream: IterableDataset) -> Iterator[dict[str, Any]]:
    """All rows, also where a loader process would take its share alone."""
    for batch in stream.iter(batch_size=1):
        yield {name: values[0] for name, values in batch.items()}
