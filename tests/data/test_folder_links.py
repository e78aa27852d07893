"""Links among folders of images: each is followed once, and no image counts twice."""

import os

import pytest

from hf_cb.data.layouts.folder_splits import FolderRequest
from hf_cb.data.layouts.folders import read_folders
from hf_cb.errors import UsageError
from image_trees import classes, tree


def read(root, words, links, train="photos"):
    """`links`: from where to where, from the same root."""
    tree(root, words)
    for link, target in links.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(root / target, root / link)
    return read_folders(FolderRequest(str(root / train)))


def counts(images):
    return {
        purpose: [split.labels.count(i) for i in range(len(images.class_names))]
        for purpose, split in images.splits.items()
    }


PLACES = ("train/cat", "train/dog", "val/cat", "val/dog")
FOLLOWED = {
    "a class": (f"{classes('photos')} pool/bird:1", {"photos/bird": "pool/bird"}, {"train": [1, 2, 2]}),
    "every class": (classes("pool"), {"photos/cat": "pool/cat", "photos/dog": "pool/dog"}, {"train": [2, 2]}),
    "the folder itself": (classes("pool"), {"photos": "pool"}, {"train": [2, 2]}),
    "a split": (
        f"{classes('photos/train')} {classes('pool', n=1)}", {"photos/val": "pool"},
        {"train": [2, 2], "evaluation": [1, 1]},
    ),
    "every file": (
        "pool:4",
        {f"photos/{name}/a.png": f"pool/{i}.png" for i, name in enumerate(PLACES)},
        {"train": [1, 1], "evaluation": [1, 1]},
    ),
    "files of a pool beside": (
        "photos/pool:4",
        {f"photos/{name}/a.png": f"photos/pool/{i}.png" for i, name in enumerate(PLACES)},
        {"train": [1, 1], "evaluation": [1, 1]},
    ),
    "a link to a link": (classes("pool"), {"way": "pool", "photos": "way"}, {"train": [2, 2]}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "links", "right"), FOLLOWED.values(), ids=FOLLOWED)
def test_links_are_followed(words, links, right, tmp_path):
    assert counts(read(tmp_path, words, links)) == right


@pytest.mark.parametrize(
    ("links", "told"),
    [
        pytest.param({"photos/cat/loop": "photos"}, "cat/loop (a link back", id="to the folder around"),
        pytest.param({"photos/cat/loop": "photos/cat"}, "cat/loop (a link back", id="to itself"),
        pytest.param(
            {"photos/a": "photos/b", "photos/b": "photos/a"}, "2 such as a (a link that leads", id="in a circle"
        ),
        pytest.param({"photos/cat/x.png": "gone.png"}, "cat/x.png (a link that leads nowhere", id="nowhere"),
        pytest.param({"photos/cat/x.png": "photos/cat/0.png"}, "cat/x.png (the same image again", id="a file, twice"),
        pytest.param(
            {"photos/cat/x": "photos/cat2"}, "with 1 image in folders within classes", id="a folder in a class"
        ),
    ],
)
def test_what_links_add_nothing_to_is_left_out_and_named(links, told, tmp_path):
    pool = {link: "pool" if target == "photos/cat2" else target for link, target in links.items()}
    images = read(tmp_path, f"{classes('photos')} pool:1", pool)
    assert told in images.record.line()
    assert counts(images) == {"train": [3 if "within" in told else 2, 2]}


def test_folders_that_link_to_one_another_are_read_in_time(tmp_path):
    names = [f"class{i}" for i in range(12)]
    tree(tmp_path / "photos", classes(".", names=tuple(names), n=1))
    for name in names:
        for other in names:
            if other != name:
                os.symlink(tmp_path / "photos" / other, tmp_path / "photos" / name / f"like_{other}")
    with pytest.raises(UsageError, match="two ways|the same image"):
        read_folders(FolderRequest(str(tmp_path / "photos")))


@pytest.mark.parametrize(
    ("words", "links", "told"),
    [
        pytest.param(classes("photos"), {"photos/kitty": "photos/cat"}, "classes 'kitty' and 'cat'", id="two classes"),
        pytest.param(classes("photos"), {"photos/dog/x.png": "photos/cat/0.png"}, "'dog' and 'cat'", id="a file"),
        pytest.param(
            classes("photos/train"), {"photos/val": "photos/train"}, "once to train on and once", id="two splits"
        ),
        pytest.param(
            classes("photos/train", "photos/val"),
            {"photos/val/cat/x.png": "photos/train/cat/0.png"},
            "once to train on and once to evaluate on",
            id="a file in two splits",
        ),
    ],
)
def test_an_image_is_never_in_two_classes_or_splits(words, links, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        read(tmp_path, words, links)


def test_a_validation_folder_that_is_a_link_into_the_training_folder_is_taken_out_of_it(tmp_path):
    tree(tmp_path, f"{classes('photos')} {classes('photos/val', n=1)}")
    os.symlink(tmp_path / "photos" / "val", tmp_path / "elsewhere")
    images = read_folders(FolderRequest(str(tmp_path / "photos"), str(tmp_path / "elsewhere")))
    assert counts(images) == {"train": [2, 2], "evaluation": [1, 1]}
