"""Training on folders and files of real photographs, the broken ones among them; streams; pretrained weights."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

from helpers import tiny_config, tiny_vit_config
from hf_cb import ViTCBForImageClassification
from hf_cb.errors import UsageError
from hf_cb.training.learner import Learner
from runs import TINY_IMAGES, Killed, names_in, photo_folder, train, weights_of


DATA = Path(__file__).parents[3] / "shared" / "data" / "openclipart64"
BATCHES = "--per_device_train_batch_size 4 --num_train_epochs 2"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


@pytest.fixture
def mixed_folder(tmp_path):
    """JPEGs of two classes, with two files that are no images and images of every mode."""
    folder = photo_folder(tmp_path / "photos", 8)
    china, flower = folder / "china", folder / "flower"
    whole = (china / "00.jpg").read_bytes()
    (china / "00.jpg").write_bytes(whole[: len(whole) // 2])
    (flower / "text.jpg").write_text("no picture")
    (china / "notes.txt").write_text("of the photographer")
    photo = Image.open(flower / "01.jpg")
    photo.convert("L").save(china / "grey.jpg")
    photo.convert("CMYK").save(china / "cmyk.jpg")
    photo.convert("RGBA").save(flower / "clear.png")
    photo.convert("P").save(flower / "palette.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(flower / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(china / "turned.jpg", exif=exif)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_every_mode_are_trained_on_and_unreadable_ones_counted(
    workers, mixed_folder, train_script, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING, "hf_cb"):
        results = train(
            train_script, tmp_path / "run", f"--train_dir {mixed_folder} --train_val_split 0.3 --recipe digits",
            f"{TINY_IMAGES} {BATCHES} --dataloader_num_workers {workers}",
        )  # fmt: skip
    # 8 photographs and 3 others in each class, and the text; what cannot be read is left out of the evaluation
    named = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert results["skipped_images"] == 2
    assert sum("00.jpg" in line for line in named) == sum("text.jpg" in line for line in named) == 1 == len(named) / 2
    assert results["train_samples"] + results["eval_samples"] in (21, 22, 23) and results["eval_samples"] >= 5
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run").config.id2label == {
        0: "china",
        1: "flower",
    }


def test_deits_recipe_trains_on_photographs(mixed_folder, train_script, tmp_path):
    folder = tmp_path / "run"
    results = train(
        train_script, folder, f"--train_dir {mixed_folder} --recipe deit --image_size 32 --patch_size 16 {BATCHES}",
        "--num_train_epochs 1 --num_attention_heads 4",
    )  # fmt: skip
    assert results["plan"]["recipe"] == "deit" and results["plan"]["learning_rate"] == pytest.approx(5e-4 * 4 / 512)
    assert "epoch_1" in names_in(folder) and "image_processing_vit_cb.py" in names_in(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    pixel_values = processor(Image.open(mixed_folder / "flower" / "01.jpg"), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 32, 32)


def test_a_folder_without_a_readable_image_is_one_clear_sentence(train_script, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / name / f"{number}.jpg").write_text(f"no picture {number}")
    for workers in (0, 2):
        with pytest.raises(UsageError, match="none of the 4 images can be read; the last is .*jpg"):
            train(
                train_script, tmp_path / "run",
                f"--train_dir {tmp_path / 'photos'} {TINY_IMAGES} --recipe digits {BATCHES}",
                f"--dataloader_num_workers {workers}",
            )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not DATA.is_dir(), reason="the drawings of ../shared/data are not here")
@pytest.mark.parametrize("flags", [f"--train_dir {DATA}", f"--dataset_name {DATA} --validation_split_name test"])
def test_an_epoch_on_drawings_from_parquet(flags, train_script, tmp_path):
    results = train(
        train_script, tmp_path / "run", flags, f"--recipe digits {TINY_IMAGES} --num_train_epochs 1",
        "--max_train_samples 200 --max_eval_samples 100",
    )  # fmt: skip
    assert (results["train_samples"], results["eval_samples"], results["skipped_images"]) == (200, 100, 0)
    assert len(AutoModelForImageClassification.from_pretrained(tmp_path / "run").config.id2label) == 14


# streams


@pytest.fixture
def streamed(tmp_path):
    train_dir, validation_dir = photo_folder(tmp_path / "train", 10), photo_folder(tmp_path / "validation", 4, seed=1)
    (train_dir / "china" / "00.jpg").write_text("no picture")
    (validation_dir / "flower" / "00.jpg").write_text("no picture")
    return (
        f"--train_dir {train_dir} --validation_dir {validation_dir} --streaming --recipe digits {TINY_IMAGES} {BATCHES}"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_trained_on_and_each_image_evaluated_once(workers, streamed, train_script, tmp_path):
    results = train(train_script, tmp_path / "run", streamed, f"--dataloader_num_workers {workers}")
    assert (results["eval_samples"], results["skipped_images"], results["train_steps"]) == (7, 2, 10)


def test_a_killed_run_on_a_stream_is_continued(streamed, train_script, tmp_path, monkeypatch):
    step, seen = Learner.step, []

    def dying(self, *arguments):
        seen.append(None)
        if len(seen) == 8:
            raise Killed
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Learner, "step", dying)
        train(train_script, tmp_path / "run", streamed, "--checkpointing_steps 3")
    results = train(train_script, tmp_path / "run", streamed, "--checkpointing_steps 3 --resume_from_checkpoint latest")
    assert results["train_steps"] == 10 and len(results["history"]) == 2 and results["eval_samples"] == 7


def test_some_images_of_a_stream_are_an_epoch_of_that_length(streamed, train_script, tmp_path):
    results = train(train_script, tmp_path / "run", streamed, "--max_train_samples 6 --max_eval_samples 3")
    assert (results["train_samples"], results["train_steps"]) == (6, 4) and results["eval_samples"] <= 3


# pretrained weights


def save_pretrained(model, folder):
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


STARTS = {
    "plain ViT": lambda: ViTForImageClassification(tiny_vit_config()),
    "ViT-CB": lambda: ViTCBForImageClassification(tiny_config(context_broadcast="scaled")),
}


@pytest.mark.parametrize("make", STARTS.values(), ids=STARTS)
def test_pretrained_weights_get_a_new_head_and_keep_the_rest(make, train_script, tmp_path):
    source = save_pretrained(make(), tmp_path / "source")
    # a step so small that nothing moves
    train(
        train_script, tmp_path / "run",
        f"--model_name_or_path {source} --train_dir {photo_folder(tmp_path / 'photos', 6)} {BATCHES} --attn_scale",
        "--learning_rate 1e-30 --min_learning_rate 0 --weight_decay 0",
        model="",
    )  # fmt: skip
    before, after = weights_of(source), weights_of(tmp_path / "run")
    assert after["classifier.weight"].shape == (2, 24) and before["classifier.weight"].shape == (5, 24)
    assert any("omega" in name for name in after)
    kept = [name for name in before if "classifier" not in name]
    assert len(kept) > 40
    for name in kept:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-20)


def test_pretrained_weights_at_another_image_size_bring_the_processor_along(train_script, tmp_path):
    source = save_pretrained(STARTS["plain ViT"](), tmp_path / "source")
    train(
        train_script, tmp_path / "run",
        f"--model_name_or_path {source} --train_dir {photo_folder(tmp_path / 'photos', 6)} {BATCHES} --image_size 24",
        model="",
    )  # fmt: skip
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    assert dict(processor.size) == {"height": 24, "width": 24}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert model.vit.embeddings.position_embeddings.shape == (1, 37, 24)
