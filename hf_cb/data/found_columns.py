"""Which columns of a table hold images and labels, and what the labels say."""

import math
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from datasets import Array2D, Array3D, ClassLabel, Features, Image, LargeList, List, Value

from ..errors import UsageError
from .layouts.tree import shown


# in the order in which they are preferred, whatever their case
IMAGE_COLUMNS = (
    "image img pixel_values picture photo photograph images imgs pictures photos jpg jpeg png webp tif tiff"
    " image_bytes".split()
)
LABEL_COLUMNS = (
    "label labels fine_label class target category cls classes targets categories label_name class_name label_id"
    " class_id species".split()
)
# columns of other tasks, by what their data are for
OTHER_TASKS = {
    "detection": "objects bbox bboxes boxes annotations".split(),
    "segmentation": "mask masks segmentation semantic_segmentation label_map panoptic segmentation_mask".split(),
    "captioning": "caption captions prompt description text alt_text sentences".split(),
    "question answering": "question questions answer answers conversations messages".split(),
}
# the label of what has none: of `datasets` and in sets whose labels are kept back
NO_LABEL = -1


def image_column(features: Features, name: str | None, split: str) -> str:
    """The column of images.

    Args:
        features: of the data.
        name: what the user named.
        split: what the data are for, for messages.

    Raises:
        UsageError: there is none, or several that may be meant.
    """
    field = f"`image_column_name` of the {split} data"
    usual = _usual(features, IMAGE_COLUMNS, _may_hold_images)
    of_kind = [column for column, feature in features.items() if isinstance(feature, Image)]
    usual.sort(key=lambda column: _is_text(features[column]))
    if name is None and usual and of_kind and _is_text(features[usual[0]]):
        both = ", ".join([usual[0], *of_kind])
        raise UsageError(f"{field} may be each of {both}: {usual[0]} holds texts, the others images; name one.")
    unfit = _usual(features, IMAGE_COLUMNS, lambda feature: not _may_hold_images(feature))
    if name is None and unfit and not usual and not of_kind:
        raise UsageError(f"{field} {unfit[0]!r} holds no images but {features[unfit[0]]}: name another one.")
    found = _chosen(features, name, usual, of_kind, field, IMAGE_COLUMNS)
    if _is_list(features[found]) and isinstance(_item(features[found]), Image | Mapping):
        raise UsageError(f"{field} {found!r} holds lists of images: a row must have one image and one label.")
    return found


def label_column(features: Features, name: str | None, split: str) -> str:
    """The column of labels; arguments and errors as of `image_column`."""
    field = f"`label_column_name` of the {split} data"
    usual = _usual(features, LABEL_COLUMNS, lambda feature: not isinstance(feature, Image))
    of_kind = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    found = _chosen(features, name, usual, of_kind, field, LABEL_COLUMNS)
    feature = features[found]
    if _is_list(feature):
        raise UsageError(
            f"{field} {found!r} holds lists, several labels to an image: a classifier needs one label to an image;"
            " name another column with --label_column_name."
        )
    if not isinstance(feature, ClassLabel | Value) or "binary" in feature.dtype:
        kind = "images" if isinstance(feature, Image) else type(feature).__name__
        raise UsageError(f"{field} {found!r} holds no labels but {kind}: name another column.")
    return found


def usual_label(columns: Iterable[str]) -> str | None:
    """The one of several columns that is called as labels usually are."""
    return next(iter(_usual({name: None for name in columns}, LABEL_COLUMNS, lambda _: True)), None)


def _usual(features: Mapping[str, Any], usual: Sequence[str], fits: Any) -> list[str]:
    folded = {column: column.casefold() for column in map(str, features)}
    return [column for name in usual for column in folded if folded[column] == name and fits(features[column])]


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


def _may_hold_images(feature: Any) -> bool:
    if isinstance(feature, Value):
        return _is_text(feature) or "binary" in feature.dtype
    is_file = isinstance(feature, Mapping) and {"bytes", "path"} & set(feature)
    return isinstance(feature, Image | Array2D | Array3D) or bool(is_file) or _is_list(feature)


def _is_list(feature: Any) -> bool:
    return isinstance(feature, List | LargeList | list)


def _item(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else feature.feature


def _chosen(
    features: Features,
    name: str | None,
    usual: Sequence[str],
    of_kind: Sequence[str],
    field: str,
    names: Sequence[str],
) -> str:
    if name is not None:
        if name not in features:
            raise UsageError(f"{field} must be one of {', '.join(features)}, got {name!r}.")
        return name
    if usual:
        return usual[0]
    if len(of_kind) > 1:
        raise UsageError(f"{field} may be each of {', '.join(of_kind)}, none of which has a usual name: name one.")
    if of_kind:
        return of_kind[0]
    usual_names = ", ".join(names[:5])
    raise UsageError(
        f"{field} is none of the usual {usual_names}: name one of {', '.join(features)}{_other_task(features)}."
    )


def _other_task(columns: Collection[str]) -> str:
    """What other task the columns are usual for, as a part of a message."""
    for task, names in OTHER_TASKS.items():
        found = [column for column in columns if column.casefold() in names]
        if found:
            return f"; with {found[0]!r} these may be data for {task}, which hf_cb does not train"
    return ""


def class_values(values: Mapping[str, Collection[Any]]) -> list[Any]:
    """The sorted classes of labels that have no names but themselves.

    Args:
        values: the labels that occur in each split.

    Raises:
        UsageError: they are of several kinds, some class is in the evaluation data alone, or two are called alike.
    """
    found = {split: {value for value in labels if not is_missing(value)} for split, labels in values.items()}
    every = set().union(*found.values())
    if not all(isinstance(value, str) for value in every) and not all(isinstance(value, int) for value in every):
        kinds = ", ".join(sorted({type(value).__name__ for value in every}))
        raise UsageError(f"labels must be all names or all integers, got {kinds}.")
    known = found.get("train", every)
    for value in sorted(every - known):
        like = next((other for other in sorted(known) if folded(other) == folded(value)), None)
        hint = (
            ""
            if like is None
            else f" It is {like!r} there: they differ in {difference(like, value)} alone; rename one."
        )
        raise UsageError(f"the class {value!r} is in the evaluation data, but not in the training data.{hint}")
    return sorted(every)


def composed(name: Any) -> str:
    """A name in Unicode's composed form."""
    return unicodedata.normalize("NFC", str(name))


def folded(name: Any) -> str:
    """What two names share that look alike but for their case."""
    return composed(name).casefold()


def difference(one: Any, other: Any) -> str:
    """In what two names differ that are folded alike."""
    return "Unicode normal form" if composed(one) == composed(other) else "case"


def alike(values: Iterable[Any]) -> list[str]:
    """A line for each two classes that differ in case alone.

    Raises:
        UsageError: two differ in Unicode normal form alone.
    """
    seen: dict[str, Any] = {}
    lines = []
    for value in sorted(values, key=str):
        other = seen.setdefault(folded(value), value)
        if other == value:
            continue
        if difference(other, value) != "case":
            raise UsageError(
                f"the classes {str(other)!r} and {str(value)!r} differ in Unicode normal form alone: put them together."
            )
        lines.append(f"{shown(str(other))} and {shown(str(value))} are two classes, though they differ in case alone")
    return lines


def is_missing(label: Any) -> bool:
    """Whether a label says that there is none."""
    if isinstance(label, str):
        return not label.strip()
    return label is None or label == NO_LABEL or (isinstance(label, float) and math.isnan(label))


def require_labels(num_missing: int, split: str) -> None:
    """Refuse images without labels.

    Raises:
        UsageError: images have no label.
    """
    if num_missing:
        raise UsageError(
            f"{num_missing} images of the {split} data have no label (none, or -1, which stands for none): choose a"
            " split that has labels, for example with --validation_split_name, or leave these rows out."
        )
