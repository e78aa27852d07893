"""Which of a folder's splits are used for what."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import UsageError
from .layout import Split, find_splits, names_of, split_kinds, split_word
from .tree import Folder, LeftOut, counted, read_tree, shown


# what is evaluated on in a folder that was given to train on, and in one that was given to evaluate on
EVALUATED = {"train": ("validation",), "evaluation": ("validation", "test")}
OUTSIDE = "images outside the folders of classes and splits"


@dataclass(frozen=True)
class FolderRequest:
    """What a user said of folders.

    Args:
        train: folder to train on.
        evaluation: folder to evaluate on.
        class_level: `first` or `last`, where names and places do not tell.
        split: name of the split to evaluate on.
        label_column: of metadata.
    """

    train: str | None
    evaluation: str | None = None
    class_level: str | None = None
    split: str | None = None
    label_column: str | None = None

    def folders(self) -> dict[str, str]:
        """Those that were given, by purpose."""
        return {name: path for name, path in (("train", self.train), ("evaluation", self.evaluation)) if path}


@dataclass
class Told:
    """What is said of a reading: what is not plain from the names, and what is left out."""

    notes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class Part:
    """A split in use.

    Args:
        purpose: `train` or `evaluation`.
        split: which.
        root: the folder that it is of.
    """

    purpose: str
    split: Split
    root: Folder

    def folder(self) -> str:
        """Where it lies, from the user's folder."""
        if self.split.prefix is None:
            return f"*/{self.split.name}"
        return "/".join(self.split.prefix)

    def folders(self) -> Iterator[Folder]:
        """Those of its images."""
        places = set(self.split.origins.values())
        return (folder for folder in self.root.walk() if folder.place in places)


def read_trees(request: FolderRequest) -> dict[str, Folder]:
    """What the user's folders hold; one within the other is taken out of it.

    Raises:
        UsageError: one is no folder, or both are the same.
    """
    folders = request.folders()
    for path in folders.values():
        if not os.path.isdir(path):
            raise UsageError(f"{path!r} is no folder: name one with a folder of images for each class.")
    reals = {name: os.path.realpath(path) for name, path in folders.items()}
    if len(reals) == 2 and reals["train"] == reals["evaluation"]:
        raise UsageError(
            f"--train_dir and --validation_dir are the same folder, {folders['train']!r}: no image may be in both."
            " Leave out --validation_dir: its own split, or a part that is held back, is evaluated on."
        )
    return {
        name: read_tree(path, without=next((real for other, real in reals.items() if other != name), None))
        for name, path in folders.items()
    }


def parts_of(purpose: str, root: Folder, request: FolderRequest, has_labels: bool, told: Told) -> Iterator[Part]:
    """The splits in use of one of the user's folders.

    Args:
        purpose: what the folder was given for.
        root: the folder.
        request: of the user.
        has_labels: there are metadata, so that no folders of classes are needed.
        told: takes note of the splits that are not in use.

    Raises:
        UsageError: it holds no image or no classes, can be read in two ways, or has no such split.
    """
    places = {folder.place: len(folder.images) for folder in root.walk() if folder.images}
    if not places:
        _refuse_empty(root)
    try:
        layout = find_splits(places, request.class_level, has_labels)
    except UsageError as error:
        raise UsageError(f"{root.path!r}: {error}") from error
    for place in layout.beside:
        told.left_out.add(OUTSIDE, "/".join(place) or os.path.basename(root.real), places[place])
    used = _used(purpose, root, layout.splits, request, has_labels)
    for name, split in used.items():
        if split.is_flat() and not has_labels:
            where = os.path.join(root.path, *(split.prefix or ()))
            raise UsageError(
                f"{where!r} holds no folders: it must hold a folder of images for each class. It holds"
                f" {counted(split.num_images(), 'image')}{_tables(root)}."
            )
        yield Part(name, split, root)
    unused = [split for split in layout.splits if split not in used.values()]
    if unused:
        words = (f"{shown(split.name)} ({counted(split.num_images(), 'image')})" for split in unused)
        told.notes.append(f"not used: {', '.join(words)}")


def _refuse_empty(root: Folder) -> None:
    left_out = LeftOut()
    for folder in root.walk():
        left_out.add_all(folder.left_out)
    if not left_out.piles:
        raise UsageError(f"{root.path!r} holds no folders: it must hold a folder of images for each class.")
    raise UsageError(f"{root.path!r} holds no images that can be read here, but {left_out.words()}.")


def _tables(root: Folder) -> str:
    """What may hold the labels of images without folders."""
    tables = root.metadata + root.text_tables
    if not tables:
        return ""
    return f", and {names_of(tables)}; labels are read from a metadata.csv with the columns file_name and label"


def _used(
    purpose: str, root: Folder, splits: Sequence[Split], request: FolderRequest, has_labels: bool
) -> Mapping[str, Split]:
    if splits[0].kind is None:
        return {_purpose_of_whole(purpose, request): splits[0]}
    used = {}
    if purpose == "train":
        used["train"] = _only([split for split in splits if split.kind == "train"], "--train_dir")
    if purpose == "evaluation" or request.evaluation is None:
        used["evaluation"] = _evaluated(purpose, root, splits, request, has_labels)
    _require_apart(root, used)
    # images that are evaluated on are not trained on
    if used.get("evaluation") is used.get("train"):
        used.pop("train", None)
    return {name: split for name, split in used.items() if split is not None}


def _require_apart(root: Folder, used: Mapping[str, Split | None]) -> None:
    """Refuse a training split that holds the validation split's images too, as its name says."""
    train, evaluated = used.get("train"), used.get("evaluation")
    if train is None or evaluated is None or evaluated.kind != "validation":
        return
    word = split_word(train.name)
    if word is not None and word[0] == "trainval":
        raise UsageError(
            f"{root.path!r}: by its name {shown(train.name)} holds the images of {shown(evaluated.name)} too: name"
            " another split with --validation_split_name, or other folders with --train_dir and --validation_dir."
        )


def _purpose_of_whole(purpose: str, request: FolderRequest) -> str:
    """What a folder without splits is for: that which it was given for, unless its only split is named."""
    if request.split is None or (purpose == "train" and request.evaluation is not None):
        return purpose
    kind = split_kinds([request.split]).get(request.split)
    if kind != {"train": "train", "evaluation": "validation"}[purpose]:
        raise UsageError(
            f"`validation_split_name` {request.split!r} names a split, and {request.folders()[purpose]!r} has none:"
            " leave it out, or give the folder to evaluate on with --validation_dir."
        )
    return "evaluation"


def _evaluated(
    purpose: str, root: Folder, splits: Sequence[Split], request: FolderRequest, has_labels: bool
) -> Split | None:
    if request.split is not None:
        kind = split_kinds([request.split]).get(request.split)
        named = [split for split in splits if split.name == request.split]
        named = named or [split for split in splits if split.kind == kind]
        if not named:
            raise _unknown_split(request.split, splits)
        return _only(named, "--validation_split_name")
    for kind in EVALUATED[purpose]:
        found = [split for split in splits if split.kind == kind and (has_labels or not split.is_flat())]
        if found:
            return _only(found, "--validation_split_name")
    if purpose == "evaluation":
        raise UsageError(
            f"{root.path!r} holds no split to evaluate on, but {names_of(split.name for split in splits)}: name one"
            " with --validation_split_name."
        )
    return None


def _only(splits: Sequence[Split], flag: str) -> Split | None:
    if len(splits) > 1:
        names = names_of(split.name for split in splits)
        raise UsageError(f"{names} are all folders of the {splits[0].kind} split: name one with {flag}.")
    return splits[0] if splits else None


def _unknown_split(name: str, splits: Sequence[Split]) -> UsageError:
    return UsageError(f"`validation_split_name` must be one of {names_of(s.name for s in splits)}, got {name!r}.")
