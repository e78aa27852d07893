"""The images that a user named, ready to train and to evaluate on, with a line that says what they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..errors import UsageError
from ..reports.cards import DataDescription
from .arguments import DataArguments
from .columns import (
    SHUFFLE_BUFFER,
    AnyDataset,
    as_stream,
    encoded_labels,
    features_of,
    found_columns,
    random_part,
    stratified_split,
    with_image_and_label,
)
from .data_record import PURPOSES, DataRecord, SplitRecord
from .digits import DIGITS
from .image_kinds import ImageKinds, kinds_of
from .layouts.tree import LeftOut, counted
from .readers import Source, read_source


Splits = dict[str, AnyDataset]


@dataclass
class ImageData:
    """Images to train and to evaluate on.

    Args:
        train: columns `image` (undecoded: `{"bytes": ..., "path": ...}`) and `label` (an index into `label_names`), or
            None where only images to evaluate on were given.
        evaluation: the same.
        label_names: the classes.
        description: for a model card.
        lines: what a run says of them before it uses them.
        layout: the same for its results; empty for the digits.
    """

    train: AnyDataset | None
    evaluation: AnyDataset
    label_names: list[str]
    description: DataDescription
    lines: list[str] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def to_results(self) -> dict[str, Any]:
        """What a run's results say of the data."""
        return {"data_layout": self.layout} if self.layout else {}


def load_data(arguments: DataArguments, seed: int = 0) -> ImageData:
    """The images that a user named.

    Args:
        arguments: the user's flags.
        seed: of the split that is cut off where none is there, and of `max_train_samples` and `max_eval_samples`.

    Raises:
        UsageError: the data cannot be read, or have no column of images, no labels, or no split for the purpose.
    """
    source = read_source(arguments)
    wanted, record = _labelled(source, arguments)
    if "train" in wanted and len(record.class_names) < 2:
        name = record.class_names[0]
        raise UsageError(f"the data hold one class, {name!r}: a classifier needs at least two ({record.line()}).")
    if "evaluation" not in wanted:
        wanted["train"], wanted["evaluation"] = _cut_off(wanted["train"], arguments, seed)
        record.notes.append(f"{counted(len(wanted['evaluation']), 'image')} of them held back to evaluate on")
    wanted = _limited(wanted, source, record, arguments, seed)
    if arguments.is_digits():
        return ImageData(wanted.get("train"), wanted["evaluation"], list(record.class_names), DIGITS)
    kinds = kinds_of(wanted.values())
    description = _describe(arguments, wanted, record, kinds)
    lines = [record.line(), *kinds.lines()]
    return ImageData(
        wanted.get("train"), wanted["evaluation"], list(record.class_names), description, lines, record.to_dict()
    )


def _labelled(source: Source, arguments: DataArguments) -> tuple[Splits, DataRecord]:
    """The splits to use with the columns `image` and `label`, an index, and what is to be said of them."""
    names = {"train": source.train, "evaluation": source.evaluated}
    wanted = {purpose: source.splits[name] for purpose, name in names.items() if name is not None}
    if source.folders is not None:
        return wanted, source.folders.record
    left_out = LeftOut()
    for purpose, data in wanted.items():
        columns = found_columns(data, purpose, arguments.image_column_name, arguments.label_column_name)
        for name in sorted(set(features_of(data)) - set(columns)):
            left_out.add("another column", name)
        wanted[purpose] = with_image_and_label(data, purpose, *columns)
    wanted, label_names, notes = encoded_labels(wanted)
    records = {purpose: SplitRecord(names[purpose], "", _length(data)) for purpose, data in wanted.items()}
    return wanted, DataRecord(_short_name(arguments), records, label_names, notes, left_out)


def _length(data: AnyDataset) -> int | None:
    return len(data) if isinstance(data, Dataset) else None


def _cut_off(train: AnyDataset, arguments: DataArguments, seed: int) -> tuple[Dataset, Dataset]:
    if arguments.streaming:
        raise UsageError(
            "streamed data need a split to evaluate on, since none can be cut off: give --validation_dir,"
            " --validation_file or --validation_split_name, or leave out --streaming."
        )
    return stratified_split(train, arguments.train_val_split, seed)


def _limited(wanted: Splits, source: Source, record: DataRecord, arguments: DataArguments, seed: int) -> Splits:
    """As many images of each split as are asked for; folders become a stream where one is."""
    limits = {"train": arguments.max_train_samples, "evaluation": arguments.max_eval_samples}
    for purpose, data in wanted.items():
        if limits[purpose] is None:
            continue
        wanted[purpose] = random_part(data, limits[purpose], seed)
        place = "" if isinstance(data, Dataset) else f" from a buffer of {SHUFFLE_BUFFER:,} at the stream's beginning"
        record.notes.append(f"at most {limits[purpose]:,} {PURPOSES[purpose]}, drawn at random{place}")
    if source.folders is not None and arguments.streaming:
        return {purpose: as_stream(data, seed) for purpose, data in wanted.items()}
    return wanted


def _short_name(arguments: DataArguments) -> str:
    # a folder's own name, since the way to it is of one machine alone
    name = arguments.place()
    return Path(name).resolve().name if _is_local(arguments) else name


def _is_local(arguments: DataArguments) -> bool:
    return not arguments.dataset_name or Path(arguments.dataset_name).exists()


def _describe(arguments: DataArguments, data: Splits, record: DataRecord, kinds: ImageKinds) -> DataDescription:
    counts = {
        purpose: "a stream of images" if _length(part) is None else counted(_length(part), "image")
        for purpose, part in data.items()
    }
    split = record.splits.get("evaluation")
    evaluated = split.kind if split else f"{arguments.train_val_split:g} of the training images"
    parts = [counted(len(record.class_names), "class")]
    parts += [f"trained on {counts['train']}"] if "train" in counts else []
    parts += [f"tested on {counts['evaluation']} ({evaluated})"]
    name = _short_name(arguments)
    return DataDescription(
        name=name,
        dataset_type="imagefolder" if _is_local(arguments) else name,
        description=f"`{name}`: {', '.join(parts)}.",
        limits=(
            "It answers with one of its classes to any image, also to those of other kinds than it was trained on. It"
            f" was tested on the images named above alone.{kinds.for_card()}"
        ),
    )
