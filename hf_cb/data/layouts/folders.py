"""Folders of images: what is read, as which class and split, and what is left out, told before it is used."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ..data_record import PURPOSES, DataRecord, SplitRecord
from .class_level import ClassFolders, class_folders
from .folder_classes import Classes, classes_of, require_readable_classes
from .folder_splits import OUTSIDE, FolderRequest, Part, Told, parts_of, read_trees
from .layout import names_of
from .metadata import Metadata, read_metadata
from .tree import Folder, Place, counted, shown


TWICE = "the same image again, by a link"
UNNAMED = "images that the metadata do not name"
UNREAD = "lacks a column of file names, or one of labels"
# paths of images, and what their folders or metadata say they are
Labelled = list[tuple[str, Any]]


@dataclass(frozen=True)
class SplitImages:
    """The images of one split.

    Args:
        paths: of the images, sorted.
        labels: indices of classes.
    """

    paths: Sequence[str]
    labels: Sequence[int]


@dataclass(frozen=True)
class FolderImages:
    """Folders, read.

    Args:
        splits: by what they are for, `train` and `evaluation`.
        class_names: in the order of their indices.
        record: says what was read and what was not.
    """

    splits: Mapping[str, SplitImages]
    class_names: Sequence[str]
    record: DataRecord


def read_folders(request: FolderRequest) -> FolderImages:
    """The images of folders, each in one split and one class.

    Raises:
        UsageError: folders can be read in two ways, hold nothing to read, or disagree with one another.
    """
    told, trees = Told(), read_trees(request)
    metadata = {purpose: read_metadata(root, request.label_column) for purpose, root in trees.items()}
    if request.label_column not in (None, "label") and not any(found.labels for found in metadata.values()):
        raise UsageError(
            f"`label_column_name` {request.label_column!r} is a column of a table, and no table beside the images has"
            " it: leave it out, and the folders' names are the labels."
        )
    parts = [
        part
        for purpose, root in trees.items()
        for part in parts_of(purpose, root, request, bool(metadata[purpose].labels), told)
    ]
    sources = {part.purpose: metadata["train" if part.root is trees.get("train") else "evaluation"] for part in parts}
    images = _images_of(parts, sources, request, told)
    classes = classes_of(images, told)
    for source, root in zip(metadata.values(), trees.values()):
        _tell_of_metadata(source, told)
        for folder in root.walk():
            told.left_out.add_all(folder.left_out)
    splits = {purpose: _split_images(rows, classes) for purpose, rows in images.items()}
    first = next(iter(trees.values()))
    records = {part.purpose: _split_record(part, len(images[part.purpose]), first) for part in parts}
    record = DataRecord(_name_of(first), records, classes.names, told.notes, told.left_out)
    return FolderImages(splits, classes.names, record)


def _name_of(root: Folder) -> str:
    # its own name, since the way to it is of one machine alone
    return os.path.basename(root.path) or root.path


def _split_images(rows: Labelled, classes: Classes) -> SplitImages:
    paths, labels = zip(*rows)
    return SplitImages(paths, [classes.indices[label] for label in labels])


def _split_record(part: Part, num_images: int, first: Folder) -> SplitRecord:
    kind = part.split.kind or {"train": "train", "evaluation": "validation"}[part.purpose]
    folder = part.folder() if part.root is first else "/".join(filter(None, (_name_of(part.root), part.folder())))
    return SplitRecord(kind, folder, num_images)


def _images_of(
    parts: Sequence[Part], sources: Mapping[str, Metadata], request: FolderRequest, told: Told
) -> dict[str, Labelled]:
    """The images of each split in use, each once, with what says their class."""
    by_folders = [part for part in parts if not sources[part.purpose].labels]
    try:
        classes = class_folders([part.split for part in by_folders], request.class_level)
    except UsageError as error:
        raise UsageError(f"{by_folders[0].root.path!r}: {error}") from error
    folders = {part.purpose: found for part, found in zip(by_folders, classes)}
    seen: dict[str, tuple[str, str, Any]] = {}
    images = {}
    for part in parts:
        source = sources[part.purpose]
        if source.labels:
            found = _labelled_by_metadata(part, source, told)
        else:
            found = _labelled_by_folders(part, folders[part.purpose].names, told)
            require_readable_classes(part, folders[part.purpose])
            _tell_of_subfolders(part, folders[part.purpose], told)
        images[part.purpose] = sorted(_once(part, found, seen, told))
        if not images[part.purpose]:
            raise UsageError(f"{part.root.path!r}: no image {PURPOSES[part.purpose]} has a class.")
    return images


def _labelled_by_folders(part: Part, classes: Mapping[Place, str], told: Told) -> Iterator[tuple[str, str, Any]]:
    """Path, path without links and class of each image."""
    for folder in part.folders():
        label = classes.get(folder.place)
        if label is None:
            told.left_out.add(OUTSIDE, "/".join((*folder.place, folder.images[0])), len(folder.images))
        else:
            yield from ((path, real, label) for path, real in folder.files())


def _tell_of_subfolders(part: Part, classes: ClassFolders, told: Told) -> None:
    places = part.split.places
    below = {at: places[place] for place, at in part.split.origins.items() if classes.is_below_a_class(at)}
    if below:
        one = shown("/".join(min(below)))
        told.notes.append(f"with {counted(sum(below.values()), 'image')} in folders within classes, such as {one}")


def _labelled_by_metadata(part: Part, source: Metadata, told: Told) -> Iterator[tuple[str, str, Any]]:
    """The same; a folder's name must not say otherwise where the names of folders are those of the classes."""
    values = {str(value) for value in source.labels.values()}
    named_like_classes = all(folder.place and folder.place[-1] in values for folder in part.folders())
    for folder in part.folders():
        for path, real in folder.files():
            if path not in source.labels:
                told.left_out.add(UNNAMED, "/".join((*folder.place, os.path.basename(path))))
                continue
            label = source.labels[path]
            if named_like_classes and str(label) != folder.place[-1]:
                raise UsageError(
                    f"{path!r} lies in a folder of the class {folder.place[-1]!r}, and is {str(label)!r} in"
                    f" {names_of(source.read)}: correct one of them."
                )
            yield path, real, label


def _once(
    part: Part, found: Iterator[tuple[str, str, Any]], seen: dict[str, tuple[str, str, Any]], told: Told
) -> Labelled:
    """Each image once, however many links lead to it."""
    images = []
    for path, real, label in found:
        purpose, other, its_label = seen.setdefault(real, (part.purpose, path, label))
        if purpose != part.purpose:
            raise UsageError(f"{path!r} and {other!r} are the same image, once to train on and once to evaluate on.")
        if its_label != label:
            raise UsageError(
                f"{path!r} and {other!r} are the same image, in the classes {str(label)!r} and {str(its_label)!r}."
            )
        if other == path:
            images.append((path, label))
        else:
            told.left_out.add(TWICE, path.removeprefix(part.root.path).lstrip(os.sep))
    return images


def _tell_of_metadata(source: Metadata, told: Told) -> None:
    if source.read:
        told.notes.append(f"the labels are those of {names_of(source.read)}, column {shown(source.column)}")
    for table in source.unread:
        told.left_out.add(UNREAD, table)
