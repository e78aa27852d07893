"""Reading each kind of source: folders of images, tables, saved data sets, the Hub."""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..errors import UsageError
from .arguments import DataArguments
from .columns import AnyDataset
from .digits import load_digits
from .layouts.folder_splits import FolderRequest
from .layouts.folders import FolderImages, SplitImages, read_folders
from .layouts.layout import SPLIT_WORDS, names_of, split_kinds
from .layouts.tree import METADATA_FILES, read_tree


FILE_KINDS = {".parquet": "parquet", ".arrow": "arrow"}
# what `load_dataset` and `load_from_disk` raise for a wrong name, a wrong file or a Hub out of reach
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, DatasetsError, HfHubHTTPError, HFValidationError)


@dataclass(frozen=True)
class Source:
    """Data as they were found.

    Args:
        splits: by name.
        train: name of the split to train on, if any.
        evaluated: name of the split to evaluate on; None where one is to be cut off.
        folders: where the data are folders of images; their splits have the columns `image` and `label` alone.
    """

    splits: Mapping[str, AnyDataset]
    train: str | None
    evaluated: str | None
    folders: FolderImages | None = None


def read_source(arguments: DataArguments) -> Source:
    """The data that a user named.

    Raises:
        UsageError: they cannot be read, or have no split for the purpose.
    """
    if arguments.is_digits():
        # its test split is other people's writing, which no part of the training split is
        return _source(load_digits(), arguments.validation_split_name or "test")
    try:
        source = _read(arguments)
    except UsageError:
        raise
    except LOADING_ERRORS as error:
        message = f"the data {arguments.place()!r} cannot be read: {type(error).__name__}: {error}"
        raise UsageError(message) from error
    for name, data in source.splits.items():
        if isinstance(data, Dataset) and len(data) == 0:
            raise UsageError(f"the {name} split of the data is empty: it must hold images.")
    return source


def _read(arguments: DataArguments) -> Source:
    if arguments.dataset_name:
        return _read_dataset(arguments)
    wanted, streaming = arguments.validation_split_name, arguments.streaming
    if arguments.train_file or arguments.validation_file:
        return _source(_read_files(arguments.train_file, arguments.validation_file, streaming), wanted)
    folders = {"train": arguments.train_dir, "validation": arguments.validation_dir}
    tables = {split: _tables_in(folder) for split, folder in folders.items() if folder}
    if not any(tables.values()):
        return _read_images(arguments.train_dir, arguments.validation_dir, arguments)
    for split in tables:
        _require_tables_alone(folders[split], tables[split])
    if arguments.validation_dir is None:
        return _source(load_dataset(arguments.train_dir, streaming=streaming), wanted)
    return _source(_read_files(tables.get("train"), tables["validation"], streaming), wanted)


def _tables_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise UsageError(f"{folder!r} is no folder: name one with a folder of images for each class.")
    files = sorted(Path(folder).iterdir())
    return [str(file) for file in files if file.suffix in FILE_KINDS and file.name not in METADATA_FILES]


def _require_tables_alone(folder: str, tables: Sequence[str]) -> None:
    if not tables:
        raise UsageError(f"{folder!r} holds no tables, which the other folder does: name two folders of one kind.")
    if read_tree(folder).has_images():
        names = names_of(Path(table).name for table in tables)
        raise UsageError(
            f"{folder!r} can be read in two ways, of which one must be named: {names} are the data: --train_file or"
            " --validation_file; or its image files are: move the tables elsewhere."
        )


def _read_dataset(arguments: DataArguments) -> Source:
    name, folder = arguments.dataset_name, Path(arguments.dataset_name)
    wanted = arguments.validation_split_name
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _source(_read_saved(folder, arguments.streaming), wanted)
    if arguments.dataset_config_name is None and _is_folder_of_images(folder):
        return _read_images(name, None, arguments)
    return _source(load_dataset(name, arguments.dataset_config_name, streaming=arguments.streaming), wanted)


def _is_folder_of_images(folder: Path) -> bool:
    """Whether a folder holds image files, and no tables or a card that may say otherwise of them."""
    if not folder.is_dir() or (folder / "README.md").is_file():
        return False
    root = read_tree(str(folder))
    return root.has_images() and not any(part.tables for part in root.walk())


def _read_saved(folder: Path, streaming: bool) -> Mapping[str, AnyDataset]:
    """What `save_to_disk` wrote."""
    if streaming:
        raise UsageError(f"{str(folder)!r} is a saved data set, which is read as it is: leave out --streaming.")
    data = load_from_disk(str(folder))
    return data if isinstance(data, DatasetDict) else DatasetDict(train=data)


def _read_files(
    train: Sequence[str] | None, validation: Sequence[str] | None, streaming: bool
) -> Mapping[str, AnyDataset]:
    files = {"train": train, "validation": validation}
    files = {split: names for split, names in files.items() if names}
    endings = {Path(name).suffix for names in files.values() for name in names}
    if len(endings) != 1 or endings.isdisjoint(FILE_KINDS):
        raise UsageError(f"data files must all end in .parquet or all in .arrow, got {', '.join(sorted(endings))}.")
    twice = set.intersection(*({os.path.realpath(name) for name in names} for names in files.values()))
    if len(files) == 2 and twice:
        raise UsageError(f"{min(twice)!r} is to be trained on and evaluated on: no image may be in both.")
    # `datasets` reads brackets in a name as a pattern
    files = {split: [glob.escape(n) if os.path.exists(n) else n for n in names] for split, names in files.items()}
    return load_dataset(FILE_KINDS[endings.pop()], data_files=files, streaming=streaming)


def _source(splits: Mapping[str, AnyDataset], wanted: str | None) -> Source:
    """With the splits that are used for training and evaluation."""
    if wanted is not None and wanted not in splits:
        raise UsageError(f"`validation_split_name` must be one of {', '.join(splits)}, got {wanted!r}.")
    train, evaluated = _of_kind(splits, "train"), wanted or _of_kind(splits, "validation")
    if evaluated is None and train is None:
        raise UsageError(
            f"the data hold no training and no validation split, but {', '.join(splits)}: name the split to evaluate on"
            " with --validation_split_name."
        )
    # images that are evaluated on are not trained on
    return Source(splits, None if train == evaluated else train, evaluated)


def _of_kind(splits: Mapping[str, AnyDataset], kind: str) -> str | None:
    usual = [name for name in (kind, *SPLIT_WORDS[kind]) if name in splits]
    others = [name for name, its_kind in split_kinds(splits).items() if its_kind == kind]
    return next(iter(usual), None) or (others[0] if len(others) == 1 else None)


def _read_images(train: str | None, evaluation: str | None, arguments: DataArguments) -> Source:
    """Folders of images; undecoded, since their files are read again and again."""
    if arguments.image_column_name not in (None, "image"):
        raise UsageError(
            f"`image_column_name` is a column of tables, and a folder of images has none: leave out"
            f" {arguments.image_column_name!r}."
        )
    images = read_folders(
        FolderRequest(
            train,
            evaluation,
            arguments.class_level,
            arguments.validation_split_name,
            arguments.label_column_name,
        )
    )
    if arguments.train_dir is not None and "train" not in images.splits and arguments.validation_split_name is None:
        raise UsageError(
            f"{train!r} holds splits, and none of them to train on ({images.record.line()}): give --validation_dir in"
            " place of --train_dir to evaluate on them; or, if they are classes, --class_level first."
        )
    splits = {purpose: dataset_of(split, images.class_names) for purpose, split in images.splits.items()}
    return Source(
        splits, "train" if "train" in splits else None, "evaluation" if "evaluation" in splits else None, images
    )


def dataset_of(images: SplitImages, class_names: Sequence[str]) -> Dataset:
    """Image files as a data set of their paths, with the columns `image`, undecoded, and `label`."""
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(class_names))})
    paths = pa.array(images.paths, pa.string())
    # a list of the paths, where `datasets` would take each for a pattern
    files = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], ["bytes", "path"])
    table = pa.table({"image": files, "label": pa.array(images.labels, pa.int64())})
    return Dataset(InMemoryTable(table.cast(features.arrow_schema)), DatasetInfo(features=features))
