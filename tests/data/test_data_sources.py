"""Where images come from: folders, files, saved data sets; their columns, labels and splits."""

import io
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_cb.data.columns import stratified_split
from hf_cb.data.images import read_image
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.errors import UsageError
from runs import crops, photo_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What `datasets` prepares goes into the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


def load(seed=0, **flags):
    return load_data(DataArguments(**flags), seed)


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def table(count=6, label=None, **extra):
    """Rows of photographs with labels, by default indices with names."""
    rows = [(png(image), name) for name, images in crops(count).items() for image in images]
    names = ["china", "flower"]
    labels = [label(name) if label else names.index(name) for _, name in rows]
    feature = ClassLabel(names=names) if label is None else Value("string" if isinstance(labels[0], str) else "int64")
    columns = {"image": [image for image, _ in rows], "label": labels, **extra}
    features = Features({"image": Image(), "label": feature, **{name: Value("string") for name in extra}})
    return Dataset.from_dict(columns, features=features)


def labels(data):
    return [row["label"] for row in data]


# folders


def test_a_folder_of_photographs_is_split_by_class(tmp_path):
    data = load(train_dir=str(photo_folder(tmp_path / "photos", 10)), train_val_split=0.3)
    assert data.label_names == ["china", "flower"]
    assert Counter(labels(data.train)) == {0: 7, 1: 7} and Counter(labels(data.evaluation)) == {0: 3, 1: 3}
    assert {row["image"]["path"] for row in data.train}.isdisjoint(row["image"]["path"] for row in data.evaluation)
    assert set(data.train.column_names) == {"image", "label"}
    assert read_image(data.train[0]["image"]).size == (48, 48)


def test_two_folders_are_training_and_evaluation(tmp_path):
    train, validation = photo_folder(tmp_path / "a", 5), photo_folder(tmp_path / "b", 3, seed=1)
    data = load(train_dir=str(train), validation_dir=str(validation))
    assert (len(data.train), len(data.evaluation)) == (10, 6)


def test_a_folder_laid_out_as_imagenet_has_its_own_splits(tmp_path):
    photo_folder(tmp_path / "imagenet" / "train", 5)
    photo_folder(tmp_path / "imagenet" / "val", 3, seed=1)
    data = load(train_dir=str(tmp_path / "imagenet"))
    assert (len(data.train), len(data.evaluation)) == (10, 6) and data.label_names == ["china", "flower"]


def test_only_images_to_evaluate_on_are_enough_for_evaluation(tmp_path):
    data = load(validation_dir=str(photo_folder(tmp_path / "photos", 3)))
    assert data.train is None and len(data.evaluation) == 6


def test_files_that_are_no_images_by_their_names_are_left_out_and_names_may_hold_anything(tmp_path):
    folder = photo_folder(tmp_path / "my [photos] & more*", 3)
    (folder / "notes.txt").write_text("of the photographer")
    (folder / "china" / "notes.txt").write_text("of the photographer")
    data = load(train_dir=str(folder))
    assert len(data.train) + len(data.evaluation) == 6 and data.label_names == ["china", "flower"]


def test_a_local_folder_named_as_a_data_set_is_read_alike(tmp_path):
    photo_folder(tmp_path / "photos" / "Training", 5)
    photo_folder(tmp_path / "photos" / "Eval", 3, seed=1)
    for streaming in (False, True):
        data = load(dataset_name=str(tmp_path / "photos"), streaming=streaming)
        assert (len(list(data.train)), len(list(data.evaluation))) == (10, 6) and data.label_names == [
            "china",
            "flower",
        ]


def test_class_level_settles_what_names_leave_open(tmp_path):
    photo_folder(tmp_path / "2024", 2)
    photo_folder(tmp_path / "2025", 2, seed=1)
    with pytest.raises(UsageError, match="--class_level first.*--class_level last"):
        load(train_dir=str(tmp_path))
    assert load(train_dir=str(tmp_path), class_level="first").label_names == ["2024", "2025"]
    data = load(train_dir=str(tmp_path), class_level="last", train_val_split=0.25)
    assert data.label_names == ["china", "flower"] and len(data.train) == 6


def test_splits_of_which_none_is_to_train_on_are_not_taken_for_anything_else(tmp_path):
    for name in ("dev", "test"):
        photo_folder(tmp_path / name, 2, seed=len(name))
    with pytest.raises(UsageError, match="none of them to train on.*--validation_dir.*--class_level first"):
        load(train_dir=str(tmp_path))
    data = load(validation_dir=str(tmp_path))
    assert data.train is None and len(data.evaluation) == 4 and data.label_names == ["china", "flower"]
    assert load(dataset_name=str(tmp_path)).train is None


def test_all_images_of_a_folder_can_be_evaluated_on_and_then_none_is_trained_on(tmp_path):
    data = load(train_dir=str(photo_folder(tmp_path / "photos", 3)), validation_split_name="train")
    assert data.train is None and len(data.evaluation) == 6
    DatasetDict(train=table()).save_to_disk(str(tmp_path / "saved"))
    data = load(dataset_name=str(tmp_path / "saved"), validation_split_name="train")
    assert data.train is None and len(data.evaluation) == 12


def test_one_class_can_be_evaluated_but_not_trained(tmp_path):
    folder = photo_folder(tmp_path / "photos", 2)
    (folder / "china").rename(tmp_path / "china")
    assert load(validation_dir=str(folder)).label_names == ["flower"]
    with pytest.raises(UsageError, match="one class, 'flower'.*photos: 2 images to train on"):
        load(train_dir=str(folder))


def test_the_record_of_a_folder_says_what_is_held_back_and_what_limits_leave(tmp_path):
    folder = photo_folder(tmp_path / "photos", 10)
    data = load(train_dir=str(folder), train_val_split=0.3, max_train_samples=4)
    assert data.lines == [
        "photos: 20 images to train on; 2 classes, china, flower; 6 images of them held back to evaluate on;"
        " at most 4 to train on, drawn at random"
    ]
    assert data.to_results()["data_layout"]["splits"]["train"]["images"] == 20
    assert load().to_results() == {}


# files and saved data sets


def test_parquet_files_are_read_by_name_and_by_folder(tmp_path):
    table().to_parquet(str(tmp_path / "train.parquet"))
    table(2).to_parquet(str(tmp_path / "validation.parquet"))
    files = {"train_file": [str(tmp_path / "train.parquet")], "validation_file": [str(tmp_path / "validation.parquet")]}
    for flags in (files, {"train_dir": str(tmp_path)}, {"dataset_name": str(tmp_path)}):
        data = load(**flags)
        assert (len(data.train), len(data.evaluation)) == (12, 4), flags
        assert data.label_names == ["china", "flower"]
        assert set(data.train[0]["image"]) == {"bytes", "path"}


def test_a_file_may_be_called_like_a_pattern(tmp_path):
    table().to_parquet(str(tmp_path / "train[1]*.parquet"))
    assert len(load(train_file=[str(tmp_path / "train[1]*.parquet")], train_val_split=0.5).train) == 6


def test_what_is_not_used_of_a_table_is_told(tmp_path):
    table(source=["x"] * 12, site=["y"] * 12).to_parquet(str(tmp_path / "train.parquet"))
    (line,) = load(train_dir=str(tmp_path)).lines
    assert "12 images to train on" in line and "left out: 2 such as site (another column)" in line


def a_table_and_images(folder):
    table().to_parquet(str(photo_folder(folder, 2) / "train.parquet"))
    return {"train_dir": str(folder)}


def the_same_table_twice(folder):
    folder.mkdir()
    table().to_parquet(str(folder / "a.parquet"))
    return {"train_file": [str(folder / "a.parquet")], "validation_file": [str(folder / ".." / "data" / "a.parquet")]}


def a_table_here_and_images_there(folder):
    table().to_parquet(str(photo_folder(folder, 2).parent / "train.parquet"))
    return {"train_dir": str(folder), "validation_dir": str(folder.parent)}


def a_column_of_images(folder):
    return {"train_dir": str(photo_folder(folder, 2)), "image_column_name": "photo"}


TABLES = {
    "a table and images": (a_table_and_images, "two ways.*train.parquet are the data.*--train_file"),
    "the same table twice": (the_same_table_twice, "a.parquet' is to be trained on and evaluated on"),
    "a table here, images there": (a_table_here_and_images_there, "holds no tables, which the other folder does"),
    "a column of images": (a_column_of_images, "`image_column_name` is a column of tables"),
}


@pytest.mark.parametrize(("make", "told"), TABLES.values(), ids=TABLES)
def test_tables_and_folders_that_do_not_go_together_are_one_clear_sentence(make, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        load(**make(tmp_path / "data"))


@pytest.mark.parametrize("name", ["eval", "Validation", "dev_set"])
def test_splits_of_saved_data_sets_may_have_any_usual_name(name, tmp_path):
    DatasetDict({"Training": table(), name: table(1)}).save_to_disk(str(tmp_path / "saved"))
    data = load(dataset_name=str(tmp_path / "saved"))
    assert (len(data.train), len(data.evaluation)) == (12, 2)


def test_arrow_files_are_read(tmp_path):
    DatasetDict(train=table(), validation=table(2)).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved" / "train").glob("*.arrow")
    assert len(load(train_file=[str(file)], train_val_split=0.5).evaluation) == 6


def test_a_saved_data_set_is_read_with_its_splits(tmp_path):
    DatasetDict(train=table(), validation=table(2), test=table(1)).save_to_disk(str(tmp_path / "saved"))
    assert len(load(dataset_name=str(tmp_path / "saved")).evaluation) == 4
    assert len(load(dataset_name=str(tmp_path / "saved"), validation_split_name="test").evaluation) == 2
    table().save_to_disk(str(tmp_path / "one"))
    assert len(load(dataset_name=str(tmp_path / "one"), train_val_split=0.5).evaluation) == 6


def test_the_digits_come_without_any_flag():
    data = load()
    assert (len(data.train), len(data.evaluation)) == (1437, 360) and data.label_names == [str(i) for i in range(10)]


# columns and labels


@pytest.mark.parametrize(
    ("label", "names"),
    [
        pytest.param(lambda name: f"a {name}", ["a china", "a flower"], id="strings"),
        pytest.param(lambda name: {"china": 7, "flower": 3}[name], ["3", "7"], id="integers with gaps"),
    ],
)
def test_labels_without_names_become_sorted_classes(label, names, tmp_path):
    table(label=label).to_parquet(str(tmp_path / "train.parquet"))
    table(2, label=label).to_parquet(str(tmp_path / "validation.parquet"))
    data = load(train_dir=str(tmp_path))
    assert data.label_names == names
    is_china = names.index(str(label("china")))
    assert labels(data.evaluation) == [is_china, is_china, 1 - is_china, 1 - is_china]


def test_columns_of_other_names_are_found_or_named(tmp_path):
    renamed = table(source=["x"] * 12).rename_columns({"image": "photograph", "label": "subject"})
    renamed.to_parquet(str(tmp_path / "train.parquet"))
    assert len(load(train_dir=str(tmp_path), train_val_split=0.5).train) == 6
    with pytest.raises(UsageError, match="one class, 'x'"):
        load(train_dir=str(tmp_path), image_column_name="photograph", label_column_name="source")


BAD_TABLES = {
    "labels that are -1": (lambda t: _with_labels(t, [-1] * 12), "12 images of the train data have no label"),
    "one missing label": (lambda t: _with_labels(t, [None] + [0] * 11), "1 images of the train data have no label"),
    "one class": (lambda t: _with_strings(t, ["cat"] * 12), "one class, 'cat'"),
    "no labels": (lambda t: t.remove_columns("label"), "`label_column_name` of the train data"),
    "no images": (lambda t: t.remove_columns("image"), "`image_column_name` of the train data"),
    "numbers for images": (lambda t: t.remove_columns("image").add_column("image", [1.5] * 12), "holds no images"),
}


def _with_labels(data, values):
    return data.remove_columns("label").add_column("label", values, feature=data.features["label"])


def _with_strings(data, values):
    return data.remove_columns("label").add_column("label", values)


@pytest.mark.parametrize(("change", "named"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_learned_from_is_one_clear_sentence(change, named, tmp_path):
    change(table()).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UsageError, match=named):
        load(train_dir=str(tmp_path))


def test_a_class_that_is_in_the_evaluation_data_alone_is_refused(tmp_path):
    table(label=str).to_parquet(str(tmp_path / "train.parquet"))
    table(2, label=lambda name: name.replace("flower", "tree")).to_parquet(str(tmp_path / "validation.parquet"))
    with pytest.raises(UsageError, match="'tree' is in the evaluation data, but not in the training data"):
        load(train_dir=str(tmp_path))


def test_a_folder_of_a_class_in_the_evaluation_data_alone_is_refused(tmp_path):
    train, validation = photo_folder(tmp_path / "a", 3), photo_folder(tmp_path / "b", 3)
    (validation / "china").rename(validation / "village")
    with pytest.raises(UsageError, match="village"):
        load(train_dir=str(train), validation_dir=str(validation))


# splits


def test_a_split_that_is_cut_off_is_seeded_and_stratified():
    values = [0] * 60 + [1] * 20 + [2] * 3 + [3]
    features = Features({"label": ClassLabel(num_classes=4), "row": Value("int64")})
    data = Dataset.from_dict({"label": values, "row": list(range(84))}, features=features)
    first, second = stratified_split(data, 0.15, seed=0)
    # a class of one stays, one of three gives one
    assert Counter(second["label"]) == {0: 9, 1: 3, 2: 1}
    assert sorted([*first["row"], *second["row"]]) == list(range(84))
    assert stratified_split(data, 0.15, seed=0)[1]["row"] == second["row"]
    assert stratified_split(data, 0.15, seed=1)[1]["row"] != second["row"]


def test_samples_are_limited_at_random_and_seeded():
    first, again, other = (load(seed=seed, max_train_samples=50, max_eval_samples=5) for seed in (0, 0, 1))
    assert (len(first.train), len(first.evaluation)) == (50, 5)
    assert labels(first.train) == labels(again.train) != labels(other.train)
    assert len(set(labels(first.train))) > 5


def test_a_test_split_is_not_evaluated_on_unless_named(tmp_path):
    DatasetDict(train=table(), test=table(1)).save_to_disk(str(tmp_path / "saved"))
    data = load(dataset_name=str(tmp_path / "saved"), train_val_split=0.5)
    assert len(data.train) == len(data.evaluation) == 6


# streams


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streams_hold_the_same_rows(kind, tmp_path):
    if kind == "folder":
        flags = {
            "train_dir": str(photo_folder(tmp_path / "a", 4)),
            "validation_dir": str(photo_folder(tmp_path / "b", 3)),
        }
    else:
        table(4).to_parquet(str(tmp_path / "train.parquet"))
        table(3).to_parquet(str(tmp_path / "validation.parquet"))
        flags = {"train_dir": str(tmp_path)}
    still, stream = load(**flags), load(**flags, streaming=True)
    assert stream.label_names == still.label_names
    for name in ("train", "evaluation"):
        found, expected = (
            [(np.asarray(read_image(row["image"])).sum(), row["label"]) for row in getattr(data, name)]
            for data in (stream, still)
        )
        assert sorted(found) == sorted(expected)


MISTAKES = {
    "no such folder": ({"train_dir": "/no/such"}, "'/no/such' is no folder"),
    "a file for a folder": ({"train_dir": __file__}, "is no folder"),
    "no such file": ({"train_file": ["/no/such.parquet"]}, "cannot be read"),
    "a file of another kind": ({"train_file": ["train.csv"]}, "end in .parquet or all in .arrow, got .csv"),
    "two sources": ({"train_dir": "a", "train_file": ["b.parquet"]}, "give one of --train_dir and --train_file"),
    "nothing to stream": ({"streaming": True}, "`streaming` needs data"),
    "a share of 1": ({"train_val_split": 1.0}, "`train_val_split`"),
    "no samples": ({"max_train_samples": 0}, "`max_train_samples` must be at least 1"),
    "no such data set": ({"dataset_name": "no/such-data"}, "'no/such-data' cannot be read"),
    "no name at all": ({"dataset_name": "not a name!"}, "cannot be read"),
}


@pytest.mark.parametrize(("flags", "named"), MISTAKES.values(), ids=MISTAKES)
def test_a_source_that_cannot_be_read_is_one_clear_sentence(flags, named):
    with pytest.raises(UsageError, match=named):
        load(**flags)


def broken_parquet(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 and no more")


def folder_of_files(folder):
    PILImage.new("RGB", (8, 8)).save(folder / "a.jpg")


def folder_of_texts(folder):
    (folder / "cats").mkdir()
    (folder / "cats" / "notes.txt").write_text("none")


FOLDERS = {
    "empty": (lambda folder: None, "holds no folders"),
    "images without classes": (folder_of_files, "holds no folders"),
    "no images": (folder_of_texts, "cannot be read|no images"),
    "broken parquet": (broken_parquet, "cannot be read"),
    "one class": (lambda folder: (photo_folder(folder, 2) / "china").rename(folder.parent / "c"), "one class"),
}


@pytest.mark.parametrize(("fill", "named"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_cannot_be_learned_from_is_one_clear_sentence(fill, named, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    fill(folder)
    with pytest.raises(UsageError, match=named):
        load(train_dir=str(folder))


def test_a_stream_without_a_split_to_evaluate_on_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--validation_dir"):
        load(train_dir=str(photo_folder(tmp_path / "photos", 2)), streaming=True)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    DatasetDict(train=table(1), test=table(1)).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UsageError, match="`validation_split_name` must be one of train, test, got 'val'"):
        load(dataset_name=str(tmp_path / "saved"), validation_split_name="val")
