"""What a run says of its data before it uses them, in one line and in its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .layouts.layout import names_of
from .layouts.tree import LeftOut, counted, shown


PURPOSES = {"train": "to train on", "evaluation": "to evaluate on"}


@dataclass(frozen=True)
class SplitRecord:
    """One split.

    Args:
        kind: `train`, `validation` or `test`, or what the data call it.
        folder: where it lies, from the folder that the user named; empty for that itself and for tables.
        num_images: None for a stream, which does not say.
    """

    kind: str
    folder: str
    num_images: int | None

    def words(self, purpose: str) -> str:
        """As a part of a line."""
        count = "a stream of images" if self.num_images is None else counted(self.num_images, "image")
        return f"{count} {PURPOSES[purpose]}" + (f" ({shown(self.folder)})" if self.folder else "")


@dataclass(frozen=True)
class DataRecord:
    """The data of a run.

    Args:
        name: of the folder, file or data set.
        splits: by what they are for, `train` and `evaluation`.
        class_names: in the order of their indices.
        notes: what is not plain from the names, which later steps add to.
        left_out: what is not read.
    """

    name: str
    splits: Mapping[str, SplitRecord]
    class_names: Sequence[str]
    notes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def line(self) -> str:
        """Everything in one line."""
        counts = " and ".join(split.words(purpose) for purpose, split in self.splits.items())
        classes = f"{counted(len(self.class_names), 'class')}, {names_of(self.class_names)}"
        left_out = [f"left out: {self.left_out.words()}"] if self.left_out.piles else []
        return f"{shown(self.name)}: " + "; ".join([counts, classes, *self.notes, *left_out])

    def to_dict(self) -> dict[str, Any]:
        """For a results' file."""
        return {
            "line": self.line(),
            "splits": {
                purpose: {"kind": split.kind, "folder": split.folder, "images": split.num_images}
                for purpose, split in self.splits.items()
            },
            "num_classes": len(self.class_names),
            "notes": list(self.notes),
            "left_out": self.left_out.to_list(),
        }
