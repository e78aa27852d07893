"""Parts of streams: drawn at random, and the same in every epoch and process."""

import io

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from hf_cb.data.dataset import collate
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.data.streaming import StreamedTrainingImages, count_images
from image_trees import classes, tree


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (level, 0, 0)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def level_of(row):
    return Image.open(io.BytesIO(row["image"]["bytes"])).getpixel((0, 0))[0]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """120 images in two files, a class after the other, and 20 to evaluate on."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b", "c"])})
    paths = []
    for start, stop in ((0, 60), (60, 120), (120, 140)):
        rows = {"image": [png(i) for i in range(start, stop)], "label": [i // 40 % 3 for i in range(start, stop)]}
        paths.append(str(tmp_path / f"{start}.parquet"))
        Dataset.from_dict(rows, features=features).to_parquet(paths[-1])
    return {"train_file": paths[:2], "validation_file": paths[2:], "streaming": True}


@pytest.mark.parametrize("buffer", [2048, 64], ids=["kept in memory", "drawn again"])
def test_a_part_of_a_stream_is_drawn_at_random(buffer, files, monkeypatch):
    monkeypatch.setattr("hf_cb.data.columns.SHUFFLE_BUFFER", buffer)
    size = 30 if buffer > 64 else 90
    first, again, other = (load_data(DataArguments(**files, max_train_samples=size), seed) for seed in (0, 0, 1))
    levels = [[level_of(row) for row in data.train] for data in (first, again, other)]
    assert levels[0] == levels[1] and set(levels[0]) != set(levels[2])
    assert len(set(levels[0])) == size == count_images(first.train)
    assert {row["label"] for row in first.train} == {0, 1, 2}
    assert f"at most {size} to train on, drawn at random from a buffer of" in first.lines[0]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("buffer", [2048, 8], ids=["kept in memory", "drawn again"])
def test_it_is_the_same_in_every_epoch(buffer, num_workers, files, monkeypatch):
    monkeypatch.setattr("hf_cb.data.columns.SHUFFLE_BUFFER", buffer)
    data = load_data(DataArguments(**files, max_train_samples=12))
    drawn = sorted(level_of(row) for row in data.train)
    stream = StreamedTrainingImages(data.train, _level, 3, seed=0, rank=0, world_size=1)
    for epoch in (0, 1):
        stream.start_at(epoch)
        loader = iter(DataLoader(stream, batch_size=1, num_workers=num_workers, collate_fn=collate))
        assert sorted({int(next(loader)["pixel_values"]) for _ in range(60)}) == drawn, epoch


def _level(image):
    return torch.tensor(image.getpixel((0, 0))[0])


def test_images_to_evaluate_on_are_drawn_likewise(files):
    data = load_data(DataArguments(**files, max_eval_samples=5))
    assert len(list(data.evaluation)) == 5 and "at most 5 to evaluate on, drawn at random" in data.lines[0]


def test_a_streamed_folder_is_drawn_from_as_a_whole_and_mixed(tmp_path):
    root = tree(tmp_path, classes("train", n=50), classes("val", n=5))
    still, stream = (
        load_data(DataArguments(train_dir=str(root), max_train_samples=40, streaming=streaming))
        for streaming in (False, True)
    )
    assert sorted(row["image"]["path"] for row in stream.train) == [row["image"]["path"] for row in still.train]
    labels = [row["label"] for row in stream.train]
    assert labels != sorted(labels) and set(labels[:15]) == {0, 1}
    assert len(list(stream.evaluation)) == 10
