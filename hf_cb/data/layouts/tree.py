"""What a folder holds on disk, before anyone says what it means: images, other files, links."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image as PILImage
from PIL import features
from PIL.EpsImagePlugin import has_ghostscript

from ...errors import UsageError


Place = tuple[str, ...]

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# these may hold images themselves, those that come beside images their labels
TABLES = frozenset({".parquet", ".arrow"})
TEXT_TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".txt", ".xlsx"})
ARCHIVES = frozenset(".zip .tar .tgz .gz .bz2 .xz .7z .rar .zst".split())
# photographs whose loss would be a class' loss
PHOTOGRAPHS = frozenset(
    ".heic .heif .avif .jxl .webp .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .raw .srw .pef .jpg .jpeg .png".split()
)
OTHER_PICTURES = frozenset(".svg .svgz .pdf .ai .psb .exr .hdr .dcm .nii .eps .ps .wmf .emf".split())
# Pillow knows these by their first bytes and cannot decode them, or only with a program beside it
NOT_DECODED = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
SYSTEM_NAMES = frozenset(
    "thumbs.db ehthumbs.db desktop.ini __macosx @eadir #recycle lost+found $recycle.bin __pycache__".split()
    + ["system volume information"]
)
# through so many linked folders a way may lead: links that lead to one another multiply
MOST_LINKS = 3

HIDDEN = "hidden or of the system"
UNDERSCORES = "a name with __ in front is left out, as `datasets` does: rename it to make it a class"
NO_IMAGES = "no images"
ONLY_TABLES = "tables and no image files: --train_file and --validation_file read those"
ARCHIVE = "an archive, which is not unpacked"
CONVERT = "cannot be read here: convert to JPEG or PNG"
NO_ENDING = "a name without an ending such as .jpg"
NOWHERE = "a link that leads nowhere"
LOOP = "a link back to a folder around it"
TOO_MANY_LINKS = f"a link behind {MOST_LINKS} others"
NOT_UTF_8 = "a name that is not UTF-8"


def counted(count: int, thing: str) -> str:
    """A number of things."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def shown(name: str) -> str:
    """A name as it can stand in a line."""
    return name if name.isprintable() and name.strip() == name else repr(name)


@cache
def image_endings() -> frozenset[str]:
    """Endings of the files that Pillow decodes here, plug-ins included, in lower case."""
    PILImage.init()
    undecoded = NOT_DECODED if has_ghostscript() else NOT_DECODED | {"EPS"}
    undecoded |= {kind for kind, part in (("AVIF", "avif"), ("WEBP", "webp")) if not features.check(part)}
    kinds = PILImage.registered_extensions()
    return frozenset(ending for ending, kind in kinds.items() if kind in PILImage.OPEN and kind not in undecoded)


class LeftOut:
    """What is not read, by the reason: how many, and the first of them."""

    def __init__(self) -> None:
        self.piles: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, first: str, count: int = 1) -> None:
        """Take note of some."""
        before, named = self.piles.get(reason, (0, first))
        self.piles[reason] = before + count, named

    def add_all(self, others: "LeftOut", among: Collection[str] | None = None) -> None:
        """Take over what others hold, or those for certain reasons."""
        for reason, (count, first) in others.piles.items():
            if among is None or reason in among:
                self.add(reason, first, count)

    def words(self) -> str:
        """All in one line."""
        piles = ((reason, count, shown(first)) for reason, (count, first) in self.piles.items())
        return ", ".join(
            f"{first} ({reason})" if count == 1 else f"{count:,} such as {first} ({reason})"
            for reason, count, first in piles
        )

    def to_list(self) -> list[dict[str, Any]]:
        """For a results' file."""
        return [
            {"reason": reason, "count": count, "first": shown(first)} for reason, (count, first) in self.piles.items()
        ]


@dataclass
class Folder:
    """A folder and those in it, links followed.

    Args:
        path: absolute, as it is reached.
        real: the same without links.
        place: the names that lead to it from where the reading began.
        images: names of its own images, sorted.
        links: those of them that are links.
        folders: the folders in it that hold images, metadata or photographs of other kinds, by name, sorted.
        metadata: names of its own files of that kind.
        tables: names of its parquet and arrow files.
        text_tables: names of other files that may be tables.
        unreadable: how many photographs of other kinds it holds itself, by ending.
        left_out: everything else.
    """

    path: str
    real: str
    place: Place = ()
    images: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    folders: dict[str, "Folder"] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    text_tables: list[str] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)

    def walk(self) -> Iterator["Folder"]:
        """The folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def files(self) -> Iterator[tuple[str, str]]:
        """Its own images: the path, and the same without links."""
        for name in self.images:
            path = os.path.join(self.path, name)
            yield path, os.path.realpath(path) if name in self.links else os.path.join(self.real, name)

    def has_images(self) -> bool:
        """Whether it or any folder below it holds an image."""
        return any(folder.images for folder in self.walk())


def read_tree(path: str, without: str | None = None) -> Folder:
    """A folder and all below it.

    Args:
        path: of the folder.
        without: a folder that is passed over; no link.

    Raises:
        UsageError: a folder of images has a name that no table can hold.
        OSError: a folder cannot be listed.
    """
    root = Folder(os.path.abspath(path), os.path.realpath(path))
    _fill(root, {root.real}, 0, without)
    return root


def _fill(folder: Folder, around: set[str], num_links: int, without: str | None) -> None:
    with os.scandir(folder.path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            why = _why_passed_over(entry)
            if why is not None:
                folder.left_out.add(why, _relative(folder, entry.name))
            elif entry.is_dir():
                _enter(folder, entry, around, num_links, without)
            else:
                _take_file(folder, entry)


def _why_passed_over(entry: os.DirEntry) -> str | None:
    name = entry.name
    if name.startswith(".") or name.casefold() in SYSTEM_NAMES:
        return HIDDEN
    try:
        exists = entry.is_dir() or entry.is_file()
    # links in a circle
    except OSError:
        exists = False
    if not exists:
        return NOWHERE if entry.is_symlink() else NO_IMAGES
    return UNDERSCORES if name.startswith("__") else None


def _relative(folder: Folder, name: str) -> str:
    return "/".join((*folder.place, name))


def _enter(folder: Folder, entry: os.DirEntry, around: set[str], num_links: int, without: str | None) -> None:
    is_link = entry.is_symlink()
    real = os.path.realpath(entry.path) if is_link else os.path.join(folder.real, entry.name)
    if real == without:
        return
    if real in around or (is_link and num_links == MOST_LINKS):
        folder.left_out.add(LOOP if real in around else TOO_MANY_LINKS, _relative(folder, entry.name))
        return
    inner = Folder(entry.path, real, (*folder.place, entry.name))
    _fill(inner, around | {real}, num_links + is_link, without)
    if any(part.images or part.metadata or part.unreadable for part in inner.walk()):
        _require_utf_8(entry.name)
        folder.folders[entry.name] = inner
    else:
        folder.left_out.add(ONLY_TABLES if inner.tables else NO_IMAGES, _relative(folder, entry.name))
        told = (ARCHIVE, UNDERSCORES, NOWHERE, LOOP, TOO_MANY_LINKS, ONLY_TABLES)
        folder.left_out.add_all(inner.left_out, among=told)


def _require_utf_8(name: str) -> None:
    if not _is_utf_8(name):
        raise UsageError(f"the name of the folder {name!r} is not UTF-8, and no table can hold it: rename it.")


def _is_utf_8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _take_file(folder: Folder, entry: os.DirEntry) -> None:
    name = entry.name
    ending = os.path.splitext(name)[1].lower()
    if not _is_utf_8(name):
        folder.left_out.add(NOT_UTF_8, _relative(folder, name))
    elif ending in image_endings():
        folder.images.append(name)
        if entry.is_symlink():
            folder.links.add(name)
    elif ending in PHOTOGRAPHS:
        folder.unreadable[ending] = folder.unreadable.get(ending, 0) + 1
        folder.left_out.add(f"{ending} {CONVERT}", _relative(folder, name))
    elif name in METADATA_FILES:
        folder.metadata.append(name)
    else:
        if ending in TABLES:
            folder.tables.append(name)
        if ending in TEXT_TABLES:
            folder.text_tables.append(name)
        folder.left_out.add(_why_no_image(ending), _relative(folder, name))


def _why_no_image(ending: str) -> str:
    if ending in TABLES:
        return ONLY_TABLES
    if ending in ARCHIVES:
        return ARCHIVE
    if ending in OTHER_PICTURES:
        return f"{ending} {CONVERT}"
    return NO_IMAGES if ending else NO_ENDING
