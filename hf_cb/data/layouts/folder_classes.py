"""Which classes folders of images have: one order for all splits, and names that no two may share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ..found_columns import alike, class_values, composed, is_missing, require_labels
from .class_level import ClassFolders
from .folder_splits import Part, Told
from .layout import KINDS, names_of
from .tree import CONVERT, shown


@dataclass(frozen=True)
class Classes:
    """Classes in the order of their indices.

    Args:
        names: as texts.
        indices: by what folders or metadata call a class.
    """

    names: Sequence[str]
    indices: Mapping[Any, int]


def classes_of(images: Mapping[str, Sequence[tuple[str, Any]]], told: Told) -> Classes:
    """The classes of images.

    Args:
        images: of the splits in use, path and class, by purpose.
        told: takes note of what is not plain.

    Raises:
        UsageError: an image has no class, two classes are called alike, or one is in the evaluation data alone.
    """
    labels = {purpose: [label for _, label in rows] for purpose, rows in images.items()}
    for purpose, values in labels.items():
        require_labels(sum(map(is_missing, values)), purpose)
    found = {purpose: set(values) for purpose, values in labels.items()}
    same = {}
    # those to evaluate on must be among them
    told.notes += alike(next(iter(found.values())))
    if len(found) == 2:
        same = _other_spellings(found["train"], found["evaluation"], told)
        found["evaluation"] = {same.get(value, value) for value in found["evaluation"]}
    values = class_values(found)
    indices = {value: i for i, value in enumerate(values)}
    _tell(values, found, told)
    return Classes([str(value) for value in values], {**indices, **{name: indices[same[name]] for name in same}})


def _other_spellings(train: Iterable[Any], evaluation: Iterable[Any], told: Told) -> dict[Any, Any]:
    """Classes of the evaluation data in another Unicode form than in the training data, with the name there."""
    names = {composed(value): value for value in train}
    others = sorted(set(evaluation) - set(train), key=str)
    same = {value: names[composed(value)] for value in others if composed(value) in names}
    for name in map(str, same.values()):
        told.notes.append(f"{shown(name)} is written in another Unicode form in the evaluation data")
    return same


def _tell(values: Sequence[Any], found: Mapping[str, set[Any]], told: Told) -> None:
    if len(found) == 2 and found["train"] - found["evaluation"]:
        lacking = sorted(found["train"] - found["evaluation"], key=str)
        told.notes.append(f"none of {names_of(map(str, lacking))} to evaluate on")
    for value in map(str, values):
        if value.casefold() in KINDS:
            told.notes.append(f"{value} is a class here, no split")
        if value.casefold().strip("_").startswith("background"):
            told.notes.append(f"{shown(value)} is a class as any other")


def require_readable_classes(part: Part, classes: ClassFolders) -> None:
    """Refuse a class whose photographs are all of other kinds, which would be missing without a word.

    Raises:
        UsageError: a folder of a class holds photographs of kinds that cannot be read, and no others.
    """
    names = set(classes.names.values())
    for folder in part.root.walk():
        name = classes.class_of(folder.place)
        if folder.unreadable and name is not None and name not in names:
            kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(folder.unreadable.items()))
            where = "/".join(folder.place)
            raise UsageError(
                f"the class {name!r} has no image that can be read: {where} holds {kinds}, which {CONVERT}."
            )
