"""Which folders of images are splits and which are classes, told from their names and places alone.

| places of the images | reading |
|---|---|
| `cat/1.jpg` | classes |
| `cat/night/1.jpg` beside `cat/2.jpg` | classes; what lies below one belongs to it |
| `train/cat/1.jpg`, `val/cat/2.jpg` | splits of classes |
| `cat/train/1.jpg`, `cat/val/2.jpg` | classes with splits in each |
| `photos/cat/1.jpg` with nothing beside `photos` | the same without `photos`, also within a split |
| `car/1.jpg`, `plane/2.jpg`, `train/3.jpg` | classes, whatever they are called, since none of them is divided |
| `train/car/1.jpg`, `train/train/2.jpg`, `val/train/3.jpg` | splits in the first level alone |
| `train/cat/1.jpg`, `val/cat/2.jpg` beside `extra/...` | the splits; what is beside them is left out and named |
| `cat/2024/1.jpg`, `dog/2025/2.jpg` | two readings, an error: `--class_level first` or `last` settles it |
| `train/1.jpg`, `test/2.jpg` | two readings, an error: splits without classes, or classes |
| `cat/1.jpg`, `val/cat/2.jpg` | two readings, an error: a class that is called `val`, or a split |
| `cat/1.jpg`, `cat/val/2.jpg` | two readings, an error: a part of the class, or a split |

A folder is a split where its name, in any case, is one of `SPLIT_WORDS`, alone or with numbers and words such as `set`,
`data` or `images` (`train2017`, `TestSet`, `images_val`), or where the folders beside it differ from it in that word
alone (`seg_train`, `seg_test`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from .tree import Place, shown


# how many images each folder holds itself, by the names that lead to it
Places = Mapping[Place, int]

SPLIT_WORDS = {
    "train": "train training trn trainval".split(),
    "validation": "validation validate valid val dev devel development eval evaluation".split(),
    "test": "test testing tst".split(),
}
KINDS = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}
# what people add to those words without another meaning
FILLERS = frozenset(
    "set sets data dataset datasets image images img imgs photo photos picture pictures pic pics split splits folder"
    " dir sample samples part files class classes".split()
)
COMPOUNDS = {word: word for word in KINDS} | {
    compound: word for word in KINDS for filler in FILLERS for compound in (word + filler, filler + word)
}
CLASS_LEVELS = ("first", "last")
# names that an error shows of many
MOST_SHOWN = 4


class AmbiguousLayoutError(UsageError):
    """A folder can be read in two ways."""

    def __init__(self, readings: Sequence[tuple[str, str]]):
        ways = "; or ".join(f"{reading}: {flag}" for reading, flag in readings)
        super().__init__(f"its folders can be read in two ways, of which one must be named: {ways}.")


@dataclass(frozen=True)
class Split:
    """Folders of images that are one split, or all.

    Args:
        kind: `train`, `validation` or `test`; None where a folder has no splits.
        name: of its folder.
        places: how many images each of its folders holds itself, by the names that lead to it from where classes begin.
        origins: the place from the root for each of them.
        prefix: the place of its folder; None where it has one in each class.
    """

    kind: str | None
    name: str
    places: Places
    origins: Mapping[Place, Place]
    prefix: Place | None = ()

    def is_flat(self) -> bool:
        """Whether it has no folders, and so no classes."""
        return not any(self.places)

    def num_images(self) -> int:
        return sum(self.places.values())


@dataclass(frozen=True)
class Layout:
    """The splits of a folder, or the whole as one, and the folders of images beside them."""

    splits: Sequence[Split]
    beside: Sequence[Place] = ()


def names_of(names: Iterable[str]) -> str:
    """Several names, the first few of many."""
    names = list(names)
    listed = ", ".join(map(shown, names[:MOST_SHOWN]))
    return listed + (f" and {len(names) - MOST_SHOWN:,} more" if len(names) > MOST_SHOWN else "")


def split_word(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The one word of `SPLIT_WORDS` in a name, and what else the name says; None where it has none or several."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    words = re.findall(r"[^\W\d_]+", parts)
    found = [(i, COMPOUNDS[word]) for i, word in enumerate(words) if word in COMPOUNDS]
    if len(found) != 1:
        return None
    position, word = found[0]
    return word, tuple(w for i, w in enumerate(words) if i != position and w not in FILLERS)


def split_kinds(names: Iterable[str]) -> dict[str, str]:
    """The kind of split of each name of folders beside each other that is one's."""
    found = {name: parts for name, parts in ((name, split_word(name)) for name in names) if parts is not None}
    kinds_of_rest: dict[tuple[str, ...], set[str]] = {}
    for word, rest in found.values():
        kinds_of_rest.setdefault(rest, set()).add(KINDS[word])
    return {name: KINDS[word] for name, (word, rest) in found.items() if not rest or len(kinds_of_rest[rest]) > 1}


def find_splits(places: Places, class_level: str | None = None, has_labels: bool = False) -> Layout:
    """The splits of a folder.

    Args:
        places: how many images each folder holds itself, by the names that lead to it.
        class_level: of `CLASS_LEVELS`; it settles what the names leave open.
        has_labels: splits need no folders of classes.

    Raises:
        AmbiguousLayoutError: there are two readings.
    """
    prefix, inner = _unwrapped(places)
    below = grouped(inner)
    kinds = split_kinds(below)
    divided = {name for name in kinds if has_labels or any(below[name])}
    others = [name for name in below if name not in kinds]
    has_train = "train" in kinds.values()
    are_splits = not others or (has_train and _belong_together(below, kinds, divided, has_labels))
    # without one to train on, names such as dev and test may be those of classes
    if divided and are_splits and (has_train or class_level is None):
        splits = [_split(kinds[name], name, below[name], (*prefix, name)) for name in kinds]
        return Layout(splits, [place for place in places if not _leads_to(place, prefix, kinds)])
    if class_level is None:
        _refuse_two_readings(below, kinds, divided, others, has_labels)
    splits = _splits_in_classes(below, prefix, class_level) or [_split(None, "", inner, prefix)]
    return Layout(splits, [place for place in places if place[: len(prefix)] != prefix])


def grouped(places: Places) -> dict[str, dict[Place, int]]:
    """What lies in each of the first folders, from there; sorted by their names."""
    found: dict[str, dict[Place, int]] = {place[0]: {} for place in sorted(places) if place}
    for place, count in places.items():
        if place:
            found[place[0]][place[1:]] = count
    return found


def _unwrapped(places: Places) -> tuple[Place, Places]:
    """Without the folders that are around all others."""
    prefix: Place = ()
    while len(below := grouped(places)) == 1 and not split_kinds(below):
        ((name, inner),) = below.items()
        if () in inner:
            break
        prefix, places = (*prefix, name), inner
    return prefix, places


def _split(kind: str | None, name: str, places: Places, prefix: Place) -> Split:
    return Split(kind, name, places, {place: (*prefix, *place) for place in places}, prefix)


def _leads_to(place: Place, prefix: Place, names: Iterable[str]) -> bool:
    return place[: len(prefix)] == prefix and place[len(prefix) :][:1] in [(name,) for name in names]


def _belong_together(
    below: Mapping[str, Places], kinds: Mapping[str, str], divided: Iterable[str], has_labels: bool
) -> bool:
    """Whether folders are splits in spite of others beside them: two kinds of splits with folders of the same names."""
    found = {name: {part for place in below[name] for part in place} for name in divided}
    return any(kinds[a] != kinds[b] and (has_labels or found[a] & found[b]) for a in found for b in found)


def _refuse_two_readings(
    below: Mapping[str, Places],
    kinds: Mapping[str, str],
    divided: Iterable[str],
    others: Sequence[str],
    has_labels: bool,
) -> None:
    whole = f"none of {names_of(below)} is a split" if has_labels else f"{names_of(below)} are classes"
    as_classes = (whole, "--class_level first")
    if divided:
        one = sorted(divided)[0]
        inner = names_of(grouped(below[one])) or "images"
        flag = "--train_dir" if kinds[one] == "train" else "--validation_dir"
        told = f"{shown(one)} is a split of {inner}, and {names_of(others)} beside it"
        raise AmbiguousLayoutError([as_classes, (told, f"name each split's folder apart, {flag} .../{shown(one)}")])
    if kinds and not others and len(kinds) > 1:
        told = f"{names_of(kinds)} are splits, which lack folders of classes"
        raise AmbiguousLayoutError([as_classes, (told, "put the images of each class in a folder of its own")])


def _splits_in_classes(below: Mapping[str, Places], prefix: Place, class_level: str | None) -> list[Split]:
    """Splits within each class; none where some class holds anything else."""
    parts = {name: split_kinds(grouped(places)) for name, places in below.items()}
    whole = below and all(
        places and all(place and place[0] in parts[name] for place in places) for name, places in below.items()
    )
    if not whole or class_level == "last":
        return []
    splits = []
    for part in dict.fromkeys(part for kinds in parts.values() for part in kinds):
        origins = {
            (name, *place[1:]): (*prefix, name, *place)
            for name, places in below.items()
            for place in places
            if place[0] == part
        }
        kind = next(kinds[part] for kinds in parts.values() if part in kinds)
        counts = {place: below[origin[len(prefix)]][origin[len(prefix) + 1 :]] for place, origin in origins.items()}
        splits.append(Split(kind, part, counts, origins, prefix=None))
    return splits
