"""The tables that `datasets` knows beside images: labels are theirs where they have some."""

import pandas as pd
import pytest

from hf_cb.data.layouts.folder_splits import FolderRequest
from hf_cb.data.layouts.folders import read_folders
from hf_cb.errors import UsageError
from image_trees import classes, tree


def read(root, words, tables, **wishes):
    tree(root, words)
    for name, content in tables.items():
        (root / name).write_text(content)
    return read_folders(FolderRequest(str(root), **wishes))


def counts(images):
    return {
        purpose: [split.labels.count(i) for i in range(len(images.class_names))]
        for purpose, split in images.splits.items()
    }


CSV = "file_name,label\n"
READ = {
    "beside the images": ("a.png b.png c.png", {"metadata.csv": f"{CSV}a.png,u\nb.png,v\nc.png,u\n"}, {}, "uv", [2, 1]),
    "above the images": ("x/a.png y/b.png", {"metadata.csv": f"{CSV}x/a.png,u\ny/b.png,v\n"}, {}, "uv", [1, 1]),
    "integers in their order": (
        "a.png b.png", {"metadata.jsonl": '{"file_name": "a.png", "label": 10}\n{"file_name": "b.png", "label": 3}\n'},
        {}, ["3", "10"], [1, 1],
    ),
    "a named column": ("a.png b.png", {"metadata.csv": "file_name,label,breed\na.png,1,pug\nb.png,1,tabby\n"},
                       {"label_column": "breed"}, ["pug", "tabby"], [1, 1]),
    "of the same classes as the folders": (classes(".", n=1), {"metadata.csv": f"{CSV}cat/0.png,cat\ndog/0.png,dog\n"},
                                           {}, ["cat", "dog"], [1, 1]),
    "without labels": (classes("."), {"metadata.csv": "file_name,site\ncat/0.png,x\n"}, {}, ["cat", "dog"], [2, 2]),
    "not of images": (classes("."), {"metadata.csv": "site,label\nx,y\n"}, {}, ["cat", "dog"], [2, 2]),
    "another table": (classes("."), {"labels.csv": f"{CSV}cat/0.png,x\n"}, {}, ["cat", "dog"], [2, 2]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "tables", "wishes", "names", "right"), READ.values(), ids=READ)
def test_labels_are_those_of_the_table_where_it_has_some(words, tables, wishes, names, right, tmp_path):
    images = read(tmp_path, words, tables, **wishes)
    assert images.class_names == list(names) and counts(images) == {"train": right}
    # either read or left out, the table is named
    assert next(iter(tables)) in images.record.line()


def test_splits_with_tables_need_no_folders_of_classes(tmp_path):
    tables = {
        "train/metadata.csv": f"{CSV}a.png,u\nb.png,v\n",
        "val/metadata.csv": f"{CSV}c.png,u\n",
        "test/metadata.csv": f"{CSV}d.png,-1\n",
    }
    images = read(tmp_path, "train/a.png train/b.png val/c.png test/d.png", tables)
    assert counts(images) == {"train": [1, 1], "evaluation": [1, 0]}
    assert "not used: test (1 image)" in images.record.line()


def test_a_parquet_table_is_read_as_well(tmp_path):
    tree(tmp_path, "a.png b.png")
    pd.DataFrame({"image_file_name": ["a.png", "b.png"], "Label": ["u", "v"]}).to_parquet(tmp_path / "metadata.parquet")
    assert counts(read_folders(FolderRequest(str(tmp_path)))) == {"train": [1, 1]}


REFUSED = {
    "an image without a label": (f"{CSV}a.png,1\nb.png,\n", "1 images of the train data have no label"),
    "-1": (f"{CSV}a.png,1\nb.png,-1\n", "1 images of the train data have no label"),
    "a way out of the folder": (f"{CSV}../a.png,1\n", "names '../a.png', which is no image in"),
    "an image that is not there": (f"{CSV}c.png,1\n", "names 'c.png', which is no image in"),
    "two labels": (f"{CSV}a.png,1\na.png,2\n", "'a.png' two labels, 1 and 2"),
    "fractions": (f"{CSV}a.png,0.5\nb.png,0.25\n", "all names or all integers, got float"),
    "no table": (f'{CSV}"a.png,1', "metadata.csv.* cannot be read"),
    "no columns of those names": ("name,kind\na.png,1\n", "2 images, and metadata.csv; labels are read"),
}


@pytest.mark.parametrize(("content", "told"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_learned_from_is_one_clear_sentence(content, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        read(tmp_path, "a.png b.png", {"metadata.csv": content})


def test_a_list_of_labels_is_refused(tmp_path):
    with pytest.raises(UsageError, match="one label to an image"):
        read(tmp_path, "a.png", {"metadata.jsonl": '{"file_name": "a.png", "label": [1, 2]}\n'})


def test_a_table_that_disagrees_with_the_folders_is_refused(tmp_path):
    with pytest.raises(UsageError, match="lies in a folder of the class 'cat', and is 'dog' in metadata.csv"):
        read(tmp_path, classes(".", n=1), {"metadata.csv": f"{CSV}cat/0.png,dog\ndog/0.png,cat\n"})


def test_images_that_the_table_does_not_name_are_left_out_and_named(tmp_path):
    images = read(tmp_path, "a.png b.png c.png", {"metadata.csv": f"{CSV}a.png,u\nb.png,v\n"})
    assert (
        counts(images) == {"train": [1, 1]} and "c.png (images that the metadata do not name)" in images.record.line()
    )
