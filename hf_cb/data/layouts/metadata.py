"""Labels in the `metadata.csv`, `.jsonl` or `.parquet` that `datasets` knows beside images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...errors import UsageError
from ..found_columns import usual_label
from .tree import Folder, shown


FILE_NAME = "file_name"
READERS = {
    ".csv": pd.read_csv,
    ".jsonl": lambda file: pd.read_json(file, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}


@dataclass(frozen=True)
class Metadata:
    """What the tables beside images say.

    Args:
        labels: by the path of an image, None where it has none; empty where no table has labels.
        read: names of the tables that labels are from.
        unread: of the others.
        column: of the labels.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    read: Sequence[str] = ()
    unread: Sequence[str] = ()
    column: str | None = None


def read_metadata(root: Folder, label_column: str | None = None) -> Metadata:
    """The labels of a folder's images.

    Args:
        root: of all images.
        label_column: by default the one of a usual name.

    Raises:
        UsageError: a table cannot be read, or names what is no image of the folder.
    """
    labels, read, unread, columns = {}, [], [], set()
    for folder in root.walk():
        for name in folder.metadata:
            relative = "/".join((*folder.place, name))
            table = _table(os.path.join(folder.path, name))
            file, label = _file_column(table), label_column if label_column in table else usual_label(table)
            if file is None or label is None:
                unread.append(relative)
                continue
            labels |= _labels(table, folder, relative, file, label)
            read.append(relative)
            columns.add(label)
    if len(columns) > 1:
        raise UsageError(
            f"the tables {', '.join(map(shown, read))} have their labels in different columns,"
            f" {', '.join(sorted(columns))}: give --label_column_name."
        )
    return Metadata(labels, read, unread, *columns)


def _table(path: str) -> pd.DataFrame:
    try:
        # so that a missing value does not make numbers of integers
        return READERS[os.path.splitext(path)[1]](path).convert_dtypes()
    # the readers' errors are of many kinds
    except Exception as error:
        raise UsageError(f"{path!r} cannot be read: {type(error).__name__}: {error}") from error


def _file_column(table: pd.DataFrame) -> str | None:
    # `datasets` makes a column `image` of `image_file_name`
    named = [column for column in map(str, table.columns) if column.endswith(f"_{FILE_NAME}")]
    usual = [column for column in (FILE_NAME, f"image_{FILE_NAME}") if column in table]
    return next(iter((*usual, *named)), None)


def _labels(table: pd.DataFrame, folder: Folder, relative: str, file: str, label: str) -> dict[str, Any]:
    images = {path for part in folder.walk() for path, _ in part.files()}
    found = {}
    for name, value in zip(table[file], table[label]):
        path = os.path.normpath(os.path.join(folder.path, str(name)))
        if path not in images:
            raise UsageError(f"{relative} names {str(name)!r}, which is no image in {folder.path!r} that can be read.")
        value = _plain(value, relative)
        if path in found and found[path] != value:
            raise UsageError(f"{relative} gives {str(name)!r} two labels, {found[path]!r} and {value!r}.")
        found[path] = value
    return found


def _plain(value: Any, relative: str) -> str | int | float | None:
    """A label as a text or a number of Python."""
    if not pd.api.types.is_scalar(value):
        raise UsageError(
            f"{relative} gives an image {value!r} as its label: a classifier needs one label to an image; name another"
            " column with --label_column_name."
        )
    if pd.isna(value):
        return None
    # of numpy
    return value.item() if hasattr(value, "item") else value
