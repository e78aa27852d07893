"""The columns and rows of a data set that a classifier needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset

from ..errors import UsageError


AnyDataset = Dataset | IterableDataset

IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


def with_image_and_label(data: AnyDataset, split: str, image: str | None, label: str | None) -> AnyDataset:
    """The data set with the columns `image`, not decoded, and `label` alone.

    Args:
        data: any data set of images with labels.
        split: what it is for, for error messages.
        image: name of its column of images; None for the one of that type, or of a usual name.
        label: likewise of its labels.

    Raises:
        UsageError: there is no such column.
    """
    features = data.features or data._resolve_features().features
    image = _column(features, image, Image, IMAGE_COLUMNS, f"`image_column_name` of the {split} data")
    label = _column(features, label, ClassLabel, LABEL_COLUMNS, f"`label_column_name` of the {split} data")
    data = data.select_columns([image, label])
    names = {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    data = data.rename_columns(names) if names else data
    try:
        return data.cast_column("image", Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"the column {image!r} of the {split} data holds no images: name another one.") from error


def _column(features: Features, name: str | None, kind: type, usual: Sequence[str], field: str) -> str:
    if name is not None and name not in features:
        raise UsageError(f"{field} must be one of {', '.join(features)}, got {name!r}.")
    of_kind = [column for column, feature in features.items() if isinstance(feature, kind)]
    found = name or next((column for column in (*usual, *of_kind) if column in (of_kind or features)), None)
    if found is None:
        raise UsageError(f"{field} is none of the usual {', '.join(usual)}: name one of {', '.join(features)}.")
    return found


def encoded_labels(splits: dict[str, AnyDataset]) -> tuple[dict[str, AnyDataset], list[str]]:
    """The splits with indices for labels, and the sorted names that these point to.

    Args:
        splits: with a column `label` of indices with names, of strings or of integers.

    Raises:
        UsageError: two splits name their classes differently, a label is missing, or there is only one class.
    """
    features = {name: data.features["label"] for name, data in splits.items()}
    if all(isinstance(feature, ClassLabel) for feature in features.values()):
        names = next(iter(features.values())).names
        for split, feature in features.items():
            _require_same_names(names, feature.names, split)
    else:
        names = _values(splits)
        splits = {name: _encoded(data, names) for name, data in splits.items()}
        names = [str(value) for value in names]
    if len(names) < 2:
        raise UsageError(f"the data hold one class, {names[0]!r}: a classifier needs at least two.")
    for split, data in splits.items():
        if isinstance(data, Dataset):
            _require_labels(_labels(data), len(names), split)
    return splits, names


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
    every = set().union(*found.values())
    if not all(isinstance(value, str) for value in every) and not all(isinstance(value, int) for value in every):
        kinds = ", ".join(sorted({type(value).__name__ for value in every}))
        raise UsageError(f"labels must be all names or all integers, got {kinds}.")
    unknown = sorted(every - found.get("train", every))
    if unknown:
        raise UsageError(f"the class {unknown[0]!r} is in the evaluation data, but not in the training data.")
    return sorted(every)


def _encoded(data: Dataset, values: list[Any]) -> Dataset:
    index = {value: i for i, value in enumerate(values)}
    labels = [index[value] for value in data["label"]]
    column = ClassLabel(names=[str(value) for value in values])
    return data.remove_columns("label").add_column("label", labels, feature=column)


def _require_labels(labels: np.ndarray, num_labels: int, split: str) -> None:
    without = np.count_nonzero((labels < 0) | (labels >= num_labels))
    if without:
        raise UsageError(
            f"{without} images of the {split} data have no label: choose a split that has labels, for example with"
            " --validation_split_name."
        )


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
    """At most `size` rows, drawn at random but in their order; of a stream, the first; all where it is None."""
    if size is None:
        return data
    if isinstance(data, IterableDataset):
        part = data.take(size)
        # the record of its source is of all rows
        part.info.splits = None
        return part
    rows = np.random.default_rng(seed).permutation(len(data))[:size]
    return data.select(np.sort(rows))
