"""Where images and labels come from: a data set of the Hub, image folders, parquet and arrow files, or the digits."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers.hf_argparser import HfArg

from ..errors import UsageError
from ..reports.cards import DataDescription
from .columns import encoded_labels, random_part, stratified_split, with_image_and_label
from .digits import DIGITS, load_digits


AnyDataset = Dataset | IterableDataset

VALIDATION_SPLITS = ("validation", "valid", "val", "dev")
FILE_KINDS = {".parquet": "parquet", ".arrow": "arrow"}
# what `load_dataset` and `load_from_disk` raise for a wrong name, a wrong file or a Hub out of reach
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, DatasetsError, HfHubHTTPError, HFValidationError)


@dataclass
class DataArguments:
    """Where images come from; without any, scikit-learn's handwritten digits."""

    dataset_name: str | None = HfArg(default=None, help="Data set of the Hub, or a local folder that `datasets` reads.")
    dataset_config_name: str | None = HfArg(default=None, help="Configuration of that data set.")
    train_dir: str | None = HfArg(
        default=None, help="Folder of training images, a folder for each class; or of parquet files."
    )
    validation_dir: str | None = HfArg(default=None, help="The same of the images to evaluate on.")
    train_file: list[str] | None = HfArg(default=None, help="Parquet or arrow files to train on.")
    validation_file: list[str] | None = HfArg(default=None, help="The same to evaluate on.")
    image_column_name: str | None = HfArg(default=None, help="Column of the images; found by default.")
    label_column_name: str | None = HfArg(default=None, help="Column of the labels; found by default.")
    validation_split_name: str | None = HfArg(
        default=None, help="Split to evaluate on, such as test; by default the validation split."
    )
    train_val_split: float = HfArg(
        default=0.15, help="Share of each class of the training images to evaluate on, where no split is there for it."
    )
    streaming: bool = HfArg(default=False, help="Read the data as it comes, without copying it to disk.")
    max_train_samples: int | None = HfArg(default=None, help="Train on so many, drawn at random.")
    max_eval_samples: int | None = HfArg(default=None, help="Evaluate on so many, drawn at random.")

    def __post_init__(self) -> None:
        if not 0 < self.train_val_split < 1:
            raise UsageError(f"`train_val_split` must be a number between 0 and 1, got {self.train_val_split}.")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, got {value}.")
        given = [f"--{kind}" for kind, sources in self.sources().items() if any(sources)]
        if len(given) > 1:
            raise UsageError(f"the images come from one place: give one of {' and '.join(given)}.")
        if self.streaming and not given:
            raise UsageError("`streaming` needs data to stream: give --dataset_name, --train_dir or --train_file.")

    def sources(self) -> dict[str, tuple[Any, Any]]:
        """The places that data can come from: what was given for training and for evaluation."""
        return {
            "dataset_name": (self.dataset_name, None),
            "train_dir": (self.train_dir, self.validation_dir),
            "train_file": (self.train_file, self.validation_file),
        }

    def is_digits(self) -> bool:
        """Whether no source is given."""
        return not any(value for source in self.sources().values() for value in source)


@dataclass
class ImageData:
    """Images to train and to evaluate on.

    Args:
        train: columns `image` (undecoded: `{"bytes": ..., "path": ...}`) and `label` (an index into `label_names`), or
            None where only images to evaluate on were given.
        evaluation: the same.
        label_names: the classes.
        description: for a model card.
    """

    train: AnyDataset | None
    evaluation: AnyDataset
    label_names: list[str]
    description: DataDescription


def load_data(arguments: DataArguments, seed: int = 0) -> ImageData:
    """The images that a user named.

    Args:
        arguments: the user's flags.
        seed: of the split that is cut off where none is there, and of `max_train_samples` and `max_eval_samples`.

    Raises:
        UsageError: the data cannot be read, or have no column of images, no labels, or no split for the purpose.
    """
    splits = _read(arguments)
    evaluated = _split_to_evaluate(arguments, splits)
    train = splits.get("train")
    wanted = {"train": train, "evaluation": splits[evaluated] if evaluated else None}
    columns = arguments.image_column_name, arguments.label_column_name
    wanted = {name: with_image_and_label(data, name, *columns) for name, data in wanted.items() if data is not None}
    wanted, label_names = encoded_labels(wanted)
    if "evaluation" not in wanted:
        wanted["train"], wanted["evaluation"] = _cut_off(wanted["train"], arguments, seed)
        evaluated = f"{arguments.train_val_split:g} of the training images"
    limits = {"train": arguments.max_train_samples, "evaluation": arguments.max_eval_samples}
    wanted = {name: random_part(data, limits[name], seed) for name, data in wanted.items()}
    description = DIGITS if arguments.is_digits() else _describe(arguments, wanted, evaluated, len(label_names))
    return ImageData(wanted.get("train"), wanted["evaluation"], label_names, description)


def _read(arguments: DataArguments) -> Mapping[str, AnyDataset]:
    """The splits by name; those of folders and files are `train` and `validation`."""
    if arguments.is_digits():
        return load_digits()
    try:
        if arguments.dataset_name:
            splits = _read_dataset(arguments)
        elif arguments.train_file or arguments.validation_file:
            splits = _read_files(arguments.train_file, arguments.validation_file, arguments.streaming)
        else:
            splits = _read_folders(arguments)
    except LOADING_ERRORS as error:
        name = next(value for source in arguments.sources().values() for value in source if value)
        raise UsageError(f"the data {name!r} cannot be read: {type(error).__name__}: {error}") from error
    for name, data in splits.items():
        if not arguments.streaming and len(data) == 0:
            raise UsageError(f"the {name} split of the data is empty: it must hold images.")
    return splits


def _read_dataset(arguments: DataArguments) -> Mapping[str, AnyDataset]:
    name, folder = arguments.dataset_name, Path(arguments.dataset_name)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _read_saved(folder, arguments.streaming)
    return load_dataset(name, arguments.dataset_config_name, streaming=arguments.streaming)


def _read_saved(folder: Path, streaming: bool) -> Mapping[str, AnyDataset]:
    """What `save_to_disk` wrote."""
    if streaming:
        raise UsageError(f"{str(folder)!r} is a saved data set, which is read as it is: leave out --streaming.")
    data = load_from_disk(str(folder))
    return data if isinstance(data, DatasetDict) else DatasetDict(train=data)


def _read_files(train: list[str] | None, validation: list[str] | None, streaming: bool) -> Mapping[str, AnyDataset]:
    files = {"train": train, "validation": validation}
    files = {split: names for split, names in files.items() if names}
    endings = {Path(name).suffix for names in files.values() for name in names}
    if len(endings) != 1 or endings.isdisjoint(FILE_KINDS):
        raise UsageError(f"data files must all end in .parquet or all in .arrow, got {', '.join(sorted(endings))}.")
    return load_dataset(FILE_KINDS[endings.pop()], data_files=files, streaming=streaming)


def _read_folders(arguments: DataArguments) -> Mapping[str, AnyDataset]:
    folders = {"train": arguments.train_dir, "validation": arguments.validation_dir}
    folders = {split: Path(folder) for split, folder in folders.items() if folder}
    for folder in folders.values():
        if not folder.is_dir():
            raise UsageError(f"{str(folder)!r} is no folder: name one with a folder of images for each class.")
    if arguments.train_dir and not arguments.validation_dir and _has_splits(folders["train"]):
        return load_dataset(str(folders["train"]), streaming=arguments.streaming)
    files = {split: _data_files(folder) for split, folder in folders.items()}
    if all(files.values()):
        return _read_files(files.get("train"), files.get("validation"), arguments.streaming)
    # `datasets` reads brackets in a name as a pattern
    patterns = {split: f"{glob.escape(str(folder))}/**" for split, folder in folders.items()}
    for folder in folders.values():
        if not any(path.is_dir() for path in folder.iterdir()):
            raise UsageError(f"{str(folder)!r} holds no folders: it must hold a folder of images for each class.")
    splits = load_dataset("imagefolder", data_files=patterns, drop_labels=False, streaming=arguments.streaming)
    if len(splits) == 2 and not arguments.streaming:
        _require_known_classes(splits["train"], splits["validation"])
    return splits


def _require_known_classes(train: Dataset, validation: Dataset) -> None:
    unknown = sorted(set(validation.unique("label")) - set(train.unique("label")))
    if unknown:
        name = validation.features["label"].int2str(unknown[0])
        raise UsageError(f"the class {name!r} is in the evaluation data, but not in the training data.")


def _data_files(folder: Path) -> list[str]:
    return [str(file) for file in sorted(folder.iterdir()) if file.suffix in FILE_KINDS]


def _has_splits(folder: Path) -> bool:
    """Whether a folder holds data files, or folders named like splits, rather than a folder for each class."""
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    return bool(_data_files(folder)) or ("train" in names and names <= {"train", "test", *VALIDATION_SPLITS})


def _split_to_evaluate(arguments: DataArguments, splits: Mapping[str, AnyDataset]) -> str | None:
    """The name of the split to evaluate on; None where one is to be cut off."""
    name = arguments.validation_split_name
    if name is not None and name not in splits:
        raise UsageError(f"`validation_split_name` must be one of {', '.join(splits)}, got {name!r}.")
    if name is None:
        # the digits' test split is other people's writing, which no part of the training split is
        name = "test" if arguments.is_digits() else next((name for name in VALIDATION_SPLITS if name in splits), None)
    if name is None and "train" not in splits:
        raise UsageError(
            f"the data hold no training and no validation split, but {', '.join(splits)}: name the split to evaluate on"
            " with --validation_split_name."
        )
    return name


def _cut_off(train: AnyDataset, arguments: DataArguments, seed: int) -> tuple[Dataset, Dataset]:
    if isinstance(train, IterableDataset):
        raise UsageError(
            "streamed data need a split to evaluate on, since none can be cut off: give --validation_dir,"
            " --validation_file or --validation_split_name, or leave out --streaming."
        )
    return stratified_split(train, arguments.train_val_split, seed)


def _describe(
    arguments: DataArguments, data: dict[str, AnyDataset], evaluated: str, num_labels: int
) -> DataDescription:
    source = next(value for values in arguments.sources().values() for value in values if value)
    is_local = not arguments.dataset_name or Path(source).exists()
    # a folder's own name, since the way to it is of one machine alone
    name = Path(source[0] if isinstance(source, list) else source).resolve().name if is_local else source
    counts = {split: f"{len(part):,} images" for split, part in data.items() if isinstance(part, Dataset)}
    parts = [
        f"{num_labels} classes",
        f"trained on {counts.get('train', 'a stream of images')}" if "train" in data else "",
    ]
    parts.append(f"tested on {counts.get('evaluation', 'a stream of images')} ({evaluated})")
    return DataDescription(
        name=name,
        dataset_type="imagefolder" if is_local else source,
        description=f"`{name}`: {', '.join(part for part in parts if part)}.",
        limits=(
            "It answers with one of its classes to any image, also to those of other kinds than it was trained on. It"
            " was tested on the images named above alone."
        ),
    )
