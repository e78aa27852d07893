"""Which columns of a table are its images and labels, and what the labels are."""

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_cb.data.columns import encoded_labels
from hf_cb.data.found_columns import image_column, label_column
from hf_cb.errors import UsageError


IMAGE, LABEL, TEXT, NUMBER = Image(), ClassLabel(names=["cat", "dog"]), Value("string"), Value("int64")
BYTES, FILE = Value("binary"), {"bytes": Value("binary"), "path": Value("string")}

# columns, and which of them is meant
IMAGES = {
    "of the usual name, in bytes, before a mask": ({"mask": IMAGE, "image": BYTES}, "image"),
    "of the usual name, as a file, before a mask": ({"mask": IMAGE, "img": FILE}, "img"),
    "in another case": ({"thumbnail": IMAGE, "Image": IMAGE}, "Image"),
    "a photo": ({"mask": IMAGE, "photo": IMAGE}, "photo"),
    "of the type alone": ({"scan": IMAGE, "image": NUMBER}, "scan"),
    "of a shard of files": ({"__key__": TEXT, "jpg": IMAGE, "cls": NUMBER}, "jpg"),
    "image before picture": ({"picture": IMAGE, "image": IMAGE}, "image"),
}
LABELS = {
    "strings of the usual name before another kind of index": ({"scanner": LABEL, "label": TEXT}, "label"),
    "integers of the usual name": ({"site": LABEL, "target": NUMBER}, "target"),
    "in another case": ({"site": LABEL, "Label": TEXT}, "Label"),
    "a category": ({"site": LABEL, "category": TEXT}, "category"),
    "fine before coarse": ({"coarse_label": LABEL, "fine_label": LABEL}, "fine_label"),
    "of the type alone": ({"breed": LABEL, "name": TEXT}, "breed"),
    "of a shard of files": ({"jpg": IMAGE, "cls": NUMBER}, "cls"),
}


@pytest.mark.parametrize(("columns", "right"), IMAGES.values(), ids=IMAGES)
def test_the_column_of_images_is_that_of_the_usual_name(columns, right):
    assert image_column(Features(columns), None, "train") == right


@pytest.mark.parametrize(("columns", "right"), LABELS.values(), ids=LABELS)
def test_the_column_of_labels_is_that_of_the_usual_name(columns, right):
    assert label_column(Features(columns), None, "train") == right


REFUSED_IMAGES = {
    "two of the type": ({"left": IMAGE, "right": IMAGE}, "may be each of left, right, none of which has a usual name"),
    "names of files beside images": ({"image": TEXT, "mask": IMAGE}, "may be each of image, mask: image holds texts"),
    "lists": ({"images": List(IMAGE)}, "'images' holds lists of images"),
    "numbers": ({"image": NUMBER}, "'image' holds no images"),
    "texts": ({"question": TEXT, "answer": TEXT}, "is none of the usual .* data for question answering"),
}
REFUSED_LABELS = {
    "two of the type": ({"site": LABEL, "scanner": LABEL}, "may be each of site, scanner, none of which"),
    "lists of indices": ({"labels": List(LABEL)}, "'labels' holds lists, several labels to an image"),
    "lists of names": ({"labels": List(TEXT), "site": LABEL}, "'labels' holds lists"),
    "boxes": ({"objects": List({"bbox": List(NUMBER), "category": LABEL})}, "data for detection"),
    "masks": ({"mask": IMAGE}, "data for segmentation"),
    "captions": ({"caption": TEXT}, "data for captioning"),
    "structures": ({"label": {"name": TEXT}}, "'label' holds no labels but"),
}


@pytest.mark.parametrize(("columns", "told"), REFUSED_IMAGES.values(), ids=REFUSED_IMAGES)
def test_images_that_may_be_several_columns_or_none_are_asked_for(columns, told):
    with pytest.raises(UsageError, match=f"`image_column_name` of the train data.*{told}"):
        image_column(Features(columns), None, "train")


@pytest.mark.parametrize(("columns", "told"), REFUSED_LABELS.values(), ids=REFUSED_LABELS)
def test_labels_that_may_be_several_columns_or_none_are_asked_for(columns, told):
    with pytest.raises(UsageError, match=f"`label_column_name` of the train data.*{told}"):
        label_column(Features(columns | {"image": IMAGE}), None, "train")


def test_a_column_that_is_named_is_taken_whatever_else_there_is():
    columns = Features({"image": IMAGE, "label": TEXT, "site": LABEL, "mask": IMAGE})
    assert label_column(columns, "site", "train") == "site" and image_column(columns, "mask", "train") == "mask"
    with pytest.raises(UsageError, match="must be one of image, label, site, mask, got 'breed'"):
        label_column(columns, "breed", "train")
    with pytest.raises(UsageError, match="'mask' holds no labels but images"):
        label_column(columns, "mask", "train")


def labels(values, feature=None):
    data = Dataset.from_dict({"row": list(range(len(values))), "label": values})
    return data if feature is None else data.cast_column("label", feature)


MISSING = {
    "-1 among integers": ([0, 1, -1, -1], None, "2 images of the train data have no label"),
    "-1 and 1": ([-1, 1, 1], None, "1 images .* -1, which stands for none"),
    "-1 among indices": ([0, 1, -1], LABEL, "1 images"),
    "none among names": (["cat", "dog", None], None, "1 images"),
    "none among integers": ([0, None, 1], None, "1 images"),
    "blank names": (["cat", "dog", " "], None, "1 images"),
    "fractions": ([0.5, 1.5], None, "all names or all integers, got float"),
    "not a number": ([0.0, float("nan")], None, "1 images"),
    "two Unicode forms": (["Caf\u00e9", "Cafe\u0301"], None, "differ in Unicode normal form alone"),
}


@pytest.mark.parametrize(("values", "feature", "told"), MISSING.values(), ids=MISSING)
def test_what_is_no_label_is_refused_and_counted(values, feature, told):
    with pytest.raises(UsageError, match=told):
        encoded_labels({"train": labels(values, feature)})


@pytest.mark.parametrize(
    ("train", "evaluation", "told"),
    [
        (["cat", "dog"], ["cow"], "'cow' is in the evaluation data, but not"),
        (["Cat", "dog"], ["cat"], "'cat' .* It is 'Cat' there: they differ in case alone"),
        (["Caf\u00e9", "dog"], ["Cafe\u0301"], "they differ in Unicode normal form alone"),
        ([1, 2], [3], "class 3 is in the evaluation data"),
    ],
)
def test_a_class_to_evaluate_on_alone_is_refused_with_the_name_that_may_be_meant(train, evaluation, told):
    with pytest.raises(UsageError, match=told):
        encoded_labels({"train": labels(train), "evaluation": labels(evaluation)})


def test_what_is_not_plain_of_labels_is_told():
    assert encoded_labels({"train": labels(["A", "a"])})[2] == [
        "A and a are two classes, though they differ in case alone"
    ]
    splits = {"train": labels([0, 0], LABEL), "evaluation": labels([0, 1], LABEL)}
    assert encoded_labels(splits)[2] == ["no image to train on is of dog, which images to evaluate on are of"]


def test_one_class_can_be_evaluated():
    data, names, _ = encoded_labels({"evaluation": labels(["cat", "cat"])})
    assert names == ["cat"] and data["evaluation"]["label"][:] == [0, 0]
