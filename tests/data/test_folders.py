"""Which folders of images are splits, which are classes, and what is left out."""

from collections import Counter

import pytest

from hf_cb.data.layouts.folder_splits import FolderRequest
from hf_cb.data.layouts.folders import read_folders
from hf_cb.data.layouts.layout import split_kinds
from hf_cb.errors import UsageError
from image_trees import classes, image, tree


def read(root, train=".", evaluation=None, **wishes):
    folders = [None if folder is None else str(root / folder) for folder in (train, evaluation)]
    return read_folders(FolderRequest(*folders, **wishes))


def counts(images):
    """How many images of which class each split has."""
    return {
        purpose: dict(Counter(images.class_names[label] for label in split.labels))
        for purpose, split in images.splits.items()
    }


PLAIN, FEW = {"cat": 2, "dog": 2}, {"cat": 1, "dog": 1}
SPLIT = {"train": PLAIN, "evaluation": FEW}


def splits(train, evaluation):
    return f"{classes(train)} {classes(evaluation, n=1)}"


# words for `tree`, flags, and what is right
READ = {
    "classes": (classes("."), {}, {"train": PLAIN}),
    "Train and Val": (splits("Train", "Val"), {}, SPLIT),
    "TRAIN and VALIDATION": (splits("TRAIN", "VALIDATION"), {}, SPLIT),
    "train and eval": (splits("train", "eval"), {}, SPLIT),
    "training and valid": (splits("training", "valid"), {}, SPLIT),
    "trn and dev": (splits("trn", "dev"), {}, SPLIT),
    "train2017 and val2017": (splits("train2017", "val2017"), {}, SPLIT),
    "TrainSet and evaluation_images": (splits("TrainSet", "evaluation_images"), {}, SPLIT),
    "my_train and my_val": (splits("my_train", "my_val"), {}, SPLIT),
    "train and test": (splits("train", "test"), {}, {"train": PLAIN}),
    "train and tst, named": (splits("train", "tst"), {"split": "test"}, SPLIT),
    "train and Testing, named": (splits("train", "Testing"), {"split": "Testing"}, SPLIT),
    "trainval and test": (splits("trainval", "test"), {}, {"train": PLAIN}),
    "train alone": (classes("train"), {}, {"train": PLAIN}),
    "annotations and .git beside": (splits("train", "val") + " annotations/1.xml .git/logo.png", {}, SPLIT),
    "masks beside": (splits("train", "val") + " annotations/trimaps:3", {}, SPLIT),
    "a test split without classes": (splits("train", "val") + " test:4", {}, SPLIT),
    "extra classes beside": (splits("train", "val") + " extra/cat:3", {}, SPLIT),
    "a folder around": (splits("photos/train", "photos/val"), {}, SPLIT),
    "two folders around": (classes("download/photos"), {}, {"train": PLAIN}),
    "the split again around the classes": (splits("train/train", "val"), {}, SPLIT),
    "a folder around the classes of each split": (splits("train/images", "val/images"), {}, SPLIT),
    "splits in each class": ("cat/train:2 cat/val:1 dog/train:2 dog/val:1", {}, SPLIT),
    "folders within classes": ("cat:2 cat/night:1 dog:3", {}, {"train": {"cat": 3, "dog": 3}}),
    "vehicles": ("car:3 plane:2 train:2", {}, {"train": {"car": 3, "plane": 2, "train": 2}}),
    "stages": ("dev:3 prod:2", {}, {"train": {"dev": 3, "prod": 2}}),
    "splits of vehicles": (
        "train/car:3 train/train:2 val/car:2 val/train:1",
        {},
        {"train": {"car": 3, "train": 2}, "evaluation": {"car": 2, "train": 1}},
    ),
    "splits of stages": (
        "train/dev:2 train/prod:2 val/dev:1 val/prod:1",
        {},
        {"train": {"dev": 2, "prod": 2}, "evaluation": {"dev": 1, "prod": 1}},
    ),
    "one class to evaluate on": (f"{classes('train')} val/dog:1", {}, {"train": PLAIN, "evaluation": {"dog": 1}}),
    "both flags, one in the other": (splits("train", "val"), {"evaluation": "val"}, SPLIT),
    "both flags, the other way": (splits("train", "val"), {"train": "train", "evaluation": "."}, SPLIT),
    "a split within the classes' folder": (splits(".", "val"), {"evaluation": "val"}, SPLIT),
    "splits in both": (splits("a/train", "a/val") + f" {splits('b/train', 'b/val')}",
        {"train": "a", "evaluation": "b"}, SPLIT),
    "only to evaluate on": (classes("."), {"train": None, "evaluation": "."}, {"evaluation": PLAIN}),
    "splits, only to evaluate on": (splits("train", "val"), {"train": None, "evaluation": "."}, {"evaluation": FEW}),
    "train and test, only to evaluate on": (splits("train", "test"),
        {"train": None, "evaluation": "."}, {"evaluation": FEW}),
    "the training split to evaluate on": (splits("train", "val"), {"split": "train"}, {"evaluation": PLAIN}),
    "years, classes first": ("cat/2024:2 dog/2025:1", {"class_level": "first"}, {"train": {"cat": 2, "dog": 1}}),
    "years, classes last": ("a/cat:1 b/cat:1 b/dog:2", {"class_level": "last"}, {"train": PLAIN}),
    "years in splits": (
        "train/cat/2024:2 train/dog/2025:2 val/cat/2026:1 val/dog/2024:1", {"class_level": "first"}, SPLIT,
    ),
    "classes called like splits alone": ("dev:2 test:1", {"class_level": "first"}, {"train": {"dev": 2, "test": 1}}),
    "stages with folders": ("dev/a:2 test/a:1", {"class_level": "first"}, {"train": {"dev": 2, "test": 1}}),
    "a split within a class, as a part of it": ("cat:2 cat/val:1 dog:2", {"class_level": "first"},
        {"train": {"cat": 3, "dog": 2}}),
    "splits called like classes": ("train/train:2 train/val:2 val/train:1 val/val:1", {},
        {"train": {"train": 2, "val": 2}, "evaluation": {"train": 1, "val": 1}}),
    "validation and dev, one named": (f"{splits('train', 'dev')} {classes('val')}", {"split": "dev"}, SPLIT),
    "the system's files": (
        classes(".") + " __MACOSX/cat/._0.png cat/._0.png"
        " cat/Thumbs.db @eaDir/1.png .ipynb_checkpoints/0.png .DS_Store",
        {},
        {"train": PLAIN},
    ),
    "a background with underscores": (classes(".") + " __background__:3", {}, {"train": PLAIN}),
    "a background": (classes(".") + " BACKGROUND_Google:1", {}, {"train": {"BACKGROUND_Google": 1, **PLAIN}}),
    "images beside the classes": (classes(".") + " x.png y.png", {}, {"train": PLAIN}),
    "an archive": (classes(".") + " backup.zip cat/more.tar.gz", {}, {"train": PLAIN}),
    "photographs of another kind too": (classes(".") + " cat/7.HEIC", {}, {"train": PLAIN}),
    "a class without images": (classes(".") + " bird/notes.txt", {}, {"train": PLAIN}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "flags", "right"), READ.values(), ids=READ)
def test_every_image_is_in_its_class_and_split(words, flags, right, tmp_path):
    assert counts(read(tree(tmp_path, words), **flags)) == right


REFUSED = {
    "years": ("cat/2024:2 cat/2025:1 dog/2024:1", {},
        ["cat, dog", "2024, 2025", "--class_level first", "--class_level last"]),
    "sites": ("a/cat:1 a/dog:1 b/cat:1 b/dog:1", {}, ["a, b", "cat, dog", "--class_level"]),
    "most images deeper": ("cat:1 cat/night:4 dog:3", {}, ["cat, dog are classes", "cat, dog, night are classes"]),
    "years in splits": ("train/cat/2024:1 train/dog/2025:1 val/cat/2024:1 val/dog/2024:1", {},
        ["cat, dog", "2024, 2025"]),
    "a split beside classes": (splits(".", "val"), {},
        ["cat, dog, val are classes", "val is a split", "--validation_dir"]),
    "a split beside others": (classes("train") + " extra/cat:1", {},
        ["extra, train are classes", "--train_dir .../train"]),
    "vehicles with models": ("car/a:1 plane/b:1 train/c:1 train/d:1", {},
        ["car, plane, train are classes", "a split of c, d"]),
    "a split within a class": ("cat:2 cat/val:1 dog:2 dog/val:1", {},
        ["cat, dog are classes, with", "cat, dog, val are classes", "--class_level"]),
    "splits of stages, and another": ("dev/a:1 test/a:1 prod/a:1", {},
        ["dev, prod, test are classes", "dev is a split of a", "--class_level first"]),
    "splits without classes": ("train:3 test:2", {}, ["test, train are classes", "lack folders of classes"]),
    "a training split without classes": (f"train:3 {classes('test')}", {}, ["train' holds no folders", "3 images"]),
    "validation and dev": (f"{splits('train', 'dev')} {classes('val')}", {}, ["dev, val", "--validation_split_name"]),
    "two to train on": (f"{classes('train', 'training')}", {}, ["train, training", "--train_dir"]),
    "the same folder": (classes("."), {"evaluation": "."}, ["same folder", "no image may be in both"]),
    "no split to evaluate on": (classes("train"), {"train": None, "evaluation": "."},
        ["holds no split to evaluate on, but train"]),
    "trainval and val": (splits("trainval", "val"), {}, ["trainval holds the images of val too"]),
    "no such split": (splits("train", "val"), {"split": "test"}, ["must be one of train, val, got 'test'"]),
    "a split of a folder without": (classes("."), {"split": "test"}, ["'test' names a split", "has none"]),
    "a class to evaluate on alone": (f"{classes('train')} val/bird:1", {},
        ["'bird' is in the evaluation data, but not in"]),
    "the same of two folders": (f"{classes('a')} b/bird:1", {"train": "a", "evaluation": "b"},
        ["'bird' is in the evaluation"]),
    "case between splits": (f"train/Cat:1 train/dog:1 {classes('val')}", {}, ["'cat'", "'Cat'", "case alone"]),
    "photographs of another kind": ("cat/1.heic cat/2.HEIC dog:3", {}, ["'cat' has no image", "2 .heic", "convert"]),
    "those of a split's class": (f"{classes('val')} train/cat/1.nef train/dog:3", {}, ["'cat' has no image", "1 .nef"]),
    "photographs of another kind alone": ("cat/1.heic dog/2.heic", {}, ["no images that can be read here", ".heic"]),
    "drawings alone": ("cat/1.svg dog/2.pdf", {}, ["no images that can be read here", "no images"]),
    "images alone": ("1.png 2.png labels.csv", {}, ["holds no folders", "2 images", "labels.csv", "metadata.csv"]),
    "nothing": ("", {}, ["holds no folders"]),
    "a zip alone": ("photos.zip", {}, ["no images", "photos.zip (an archive"]),
    "tables in a folder": ("data/train.parquet", {}, ["no images", "data (tables", "--train_file"]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "flags", "told"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused_with_what_it_holds(words, flags, told, tmp_path):
    with pytest.raises(UsageError) as error:
        read(tree(tmp_path, words), **flags)
    assert [word for word in told if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


TOLD = {
    "splits": (splits("Train", "Val"),
        ["4 images to train on (Train) and 2 images to evaluate on (Val); 2 classes, cat, dog"]),
    "a test split": (splits("train", "test"), ["not used: test (2 images)"]),
    "beside": (splits("train", "val") + " annotations/1.xml .git/a.png extra/cat:3",
               ["annotations (no images)", ".git (hidden", "3 such as extra/cat (images outside"]),
    "around": (classes(".") + " x.png y.png", ["2 such as x.png (images outside"]),
    "other kinds": (classes(".") + " cat/1.heic cat/2.heic b.zip cat/notes.txt",
                    ["2 such as cat/1.heic (.heic cannot be read here", "b.zip (an archive", "notes.txt (no images)"]),
    "no ending": (classes(".") + " cat/0001", ["cat/0001 (a name without an ending"]),
    "an empty class": (classes(".") + " bird/notes.txt", ["bird (no images)"]),
    "a class that is not evaluated on": (f"{classes('train')} val/dog:1", ["none of cat to evaluate on"]),
    "below classes": ("cat:2 cat/night:1 dog:3", ["with 1 image in folders within classes, such as cat/night"]),
    "a class called like a split": ("car:1 train:1", ["train is a class here, no split"]),
    "underscores": (classes(".") + " __background__:3", ["__background__ (a name with __ in front is left out"]),
    "a background": (classes(".") + " BACKGROUND_Google:1", ["BACKGROUND_Google is a class as any other"]),
    "classes that differ in case": ("A:1 a:1", ["A and a are two classes, though they differ in case alone"]),
    "many classes": (" ".join(f"class{i}:1" for i in range(9)),
        ["9 classes, class0, class1, class2, class3 and 5 more"]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "told"), TOLD.values(), ids=TOLD)
def test_one_line_tells_what_is_read_and_what_is_not(words, told, tmp_path):
    images = read(tree(tmp_path / "photos", words))
    line = images.record.line()
    assert [word for word in told if word not in line] == []
    assert line.startswith("photos: ") and "\n" not in line
    assert images.record.to_dict()["line"] == line


def test_what_goes_to_the_results_counts_everything(tmp_path):
    images = read(tree(tmp_path, splits("train", "val"), "annotations/1.xml test:4"))
    record = images.record.to_dict()
    assert record["splits"]["train"] == {"kind": "train", "folder": "train", "images": 4}
    assert record["splits"]["evaluation"] == {"kind": "validation", "folder": "val", "images": 2}
    assert record["num_classes"] == 2 and record["notes"] == ["not used: test (4 images)"]
    assert record["left_out"] == [{"reason": "no images", "count": 1, "first": "annotations"}]


ODD_NAMES = [
    "std::vector",
    "a*b",
    "[old]",
    "#1",
    "100 %",
    "two words",
    "ends with space ",
    "line\nbreak",
    "a?b",
    "~x",
    "猫",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_may_hold_any_sign(name, tmp_path):
    for folder in (name, "dog"):
        image(tmp_path / folder / f"{name}.png")
    images = read(tmp_path)
    assert sorted(images.class_names) == sorted([name, "dog"])
    assert images.splits["train"].paths[0].startswith(str(tmp_path))
    assert "\n" not in images.record.line()


def test_a_name_that_is_no_utf_8_is_refused_or_left_out(tmp_path):
    tree(tmp_path, classes("."))
    (tmp_path / "cat" / "0.png").rename(str(tmp_path / "cat") + "/\udcff.png")
    images = read(tmp_path)
    assert counts(images) == {"train": {"cat": 1, "dog": 2}} and "not UTF-8" in images.record.line()
    (tmp_path / "cat").rename(str(tmp_path) + "/\udcff")
    image(tmp_path / "\udcff" / "2.png")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read(tmp_path)


def test_one_class_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"
    images = read(tree(tmp_path, f"train/{composed}:2 train/dog:2 val/{decomposed}:1 val/dog:1"))
    assert images.class_names == [composed, "dog"]
    assert counts(images)["evaluation"] == {composed: 1, "dog": 1}
    assert "in another Unicode form" in images.record.line()


def test_two_unicode_forms_in_one_split_are_refused(tmp_path):
    with pytest.raises(UsageError, match="differ in Unicode normal form alone"):
        read(tree(tmp_path, "Caf\u00e9:1 Cafe\u0301:1"))


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        ("train val test", "train validation test"),
        ("Training DEV tst", "train validation test"),
        ("train_images valset test-2", "train validation test"),
        ("seg_train seg_test seg_pred", "train test -"),
        ("imagenet_train steam_train", "- -"),
        ("trained validity testament contest", "- - - -"),
        ("train_val", "-"),
        ("developer evaluator pretrain", "- - -"),
    ],
)
def test_names_of_splits_are_told_from_others(names, kinds):
    names = names.split()
    found = split_kinds(names)
    assert [found.get(name, "-") for name in names] == kinds.split()
