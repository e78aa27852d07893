"""A mistake that a loader process meets is the same one sentence as in the main process."""

import io

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from hf_cb.cli.parser import run
from runs import ONE_PROCESS, TINY_IMAGES, TINY_MODEL, crops


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def unreadable(folder):
    """An image folder of texts."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.jpg").write_text(f"no image {number}")
    return ["--train_dir", str(folder)]


def without_a_label(folder):
    """A stream whose labels are missing; those to evaluate on are there."""
    folder.mkdir()
    images = [png(image) for of_class in crops(4).values() for image in of_class]
    features = Features({"image": Image(), "label": ClassLabel(names=["china", "flower"])})
    for split, labels in (("train", [-1] * 8), ("validation", [0, 1] * 4)):
        rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(str(folder / f"{split}.parquet"))
    return ["--train_dir", str(folder), "--streaming"]


MISTAKES = {
    "no image": (unreadable, "none of the 4 images can be read; the last is "),
    "no label": (without_a_label, "an image of the stream has the label -1, which is no class to train on."),
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("make", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_that_a_loader_process_meets_is_one_line(make, told, workers, train_script, tmp_path, capsys):
    words = f"{TINY_MODEL} {ONE_PROCESS} {TINY_IMAGES} --recipe digits --per_device_train_batch_size 4".split()
    words += ["--num_train_epochs", "1", "--dataloader_num_workers", workers, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as exit_:
        run(train_script.main, [*words, *make(tmp_path / "data")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert exit_.value.code == 2
    assert line.partition("error: ")[2].startswith(told), line
    assert "UsageError" not in line and "Traceback" not in line
    assert not (tmp_path / "run").exists()
