"""How deep the folders of classes lie within the splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .layout import AmbiguousLayoutError, Places, Split, grouped, names_of, split_kinds
from .tree import Place


@dataclass(frozen=True)
class ClassFolders:
    """The folders of one split's classes.

    Args:
        names: the class of each folder of images, by its place from the root; none of those around them.
        prefix: the place of the folder that classes begin in; None where each class has the split in it.
        is_last: each folder of images is a class; otherwise the first ones are.
    """

    names: Mapping[Place, str]
    prefix: Place | None
    is_last: bool

    def class_of(self, place: Place) -> str | None:
        """The class that a folder without images would be or be in."""
        if self.prefix is None or len(place) <= len(self.prefix) or place[: len(self.prefix)] != self.prefix:
            return None
        return place[-1] if self.is_last else place[len(self.prefix)]

    def is_below_a_class(self, place: Place) -> bool:
        """Whether a folder of images lies in that of its class."""
        return self.prefix is not None and not self.is_last and len(place) > len(self.prefix) + 1


def class_folders(splits: Sequence[Split], class_level: str | None = None) -> list[ClassFolders]:
    """The folders of classes of each split.

    Args:
        splits: those in use, whose classes are at one level.
        class_level: of `CLASS_LEVELS`; None where the places tell.

    Raises:
        AmbiguousLayoutError: there are two readings.
    """
    splits = _unwrapped_splits(splits)
    if class_level is None and not all(_are_classes(split.places) for split in splits):
        first, last = (sorted({place[i] for split in splits for place in split.places if place}) for i in (0, -1))
        raise AmbiguousLayoutError(
            [
                (f"{names_of(first)} are classes, with what lies below each", "--class_level first"),
                (f"{names_of(last)} are classes", "--class_level last"),
            ]
        )
    is_last = class_level == "last"
    return [
        ClassFolders(
            {split.origins[place]: place[-1 if is_last else 0] for place in split.places if place},
            split.prefix,
            is_last,
        )
        for split in splits
    ]


def _unwrapped_splits(splits: Sequence[Split]) -> list[Split]:
    """Without a folder that is around all others of its split, and no class of another."""
    splits = list(splits)
    while True:
        inner = [_only_folder(split) for split in splits]
        for i, name in enumerate(inner):
            others = [(grouped(split.places), inner[j]) for j, split in enumerate(splits) if j != i]
            if name is not None and all(only is not None or name not in names for names, only in others):
                break
        else:
            return splits
        splits[i] = _without(splits[i], name)


def _only_folder(split: Split) -> str | None:
    names = list(grouped(split.places))
    return names[0] if len(names) == 1 and (names[0],) not in split.places else None


def _without(split: Split, name: str) -> Split:
    kept = [place for place in split.places if place and place[0] == name]
    return replace(
        split,
        places={place[1:]: split.places[place] for place in kept},
        origins={place[1:]: split.origins[place] for place in kept},
        prefix=None if split.prefix is None else (*split.prefix, name),
    )


def _are_classes(places: Places) -> bool:
    """Whether the first folders are classes: each holds at least as many images as lie deeper in it, in no split."""
    deeper = {name for place in places for name in place[1:]}
    if split_kinds(deeper):
        return False
    return all(inner.get((), 0) * 2 >= sum(inner.values()) for inner in grouped(places).values())
