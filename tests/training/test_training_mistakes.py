"""Mistakes on the command line of scripts/train.py: one line on stderr, exit code 2, and nothing is written."""

import os

import pytest

from hf_cb.cli.parser import run
from runs import photo_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


# flags, and what the line must name; PHOTOS is a folder of images, FILE a text
MISTAKES = {
    "unknown recipe": ("--recipe dite", "deit, digits, finetune"),
    "a recipe that is no TOML": ("--recipe FILE", "is no TOML"),
    "no such folder": ("--train_dir /no/such/folder", "/no/such/folder"),
    "a folder without classes": ("--train_dir PHOTOS/china", "holds no folders"),
    "a file in place of a folder": ("--train_dir FILE", "is no folder"),
    "no such file": ("--train_file /no/such.parquet", "/no/such.parquet"),
    "a table of another kind": ("--train_file rows.csv", ".parquet"),
    "the same folder twice": ("--train_dir PHOTOS --validation_dir PHOTOS", "no image may be in both"),
    "two sources": ("--train_dir PHOTOS --train_file a.parquet", "one place"),
    "a Hub that is out of reach": ("--dataset_name somebody/something", "somebody/something"),
    "no images to train on": ("--validation_dir PHOTOS", "--train_dir"),
    "no such column": ("--train_dir PHOTOS --label_column_name colour", "`label_column_name`"),
    "no such split": ("--train_dir PHOTOS --validation_split_name val", "`validation_split_name`"),
    "everything for evaluation": ("--train_dir PHOTOS --train_val_split 1", "`train_val_split`"),
    "a share that is none": ("--train_val_split half", "train_val_split"),
    "no samples": ("--max_train_samples 0", "`max_train_samples`"),
    "streamed digits": ("--streaming", "`streaming`"),
    "a stream without a split": ("--train_dir PHOTOS --streaming", "--validation_dir"),
    "a stream repeated": (
        "--train_dir PHOTOS --validation_dir OTHERS --streaming --repeated_augmentation 3",
        "`repeated_augmentation`",
    ),
    "an odd batch mixed": ("--mixup 0.8 --per_device_train_batch_size 5", "must be even, got 5"),
    "negative mixup": ("--mixup -1", "`mixup`"),
    "a probability above 1": ("--mixup_prob 1.5", "`mixup_prob`"),
    "an unknown policy": ("--auto_augment rainbow", "`auto_augment` 'rainbow'"),
    "one bound of a crop": ("--random_resized_crop 0.5", "`random_resized_crop`"),
    "a crop upside down": ("--random_resized_crop 1 0.5", "`random_resized_crop`"),
    "an unknown filter": ("--train_interpolation cubic", "cubic"),
    "a random filter without a crop": ("--train_interpolation random", "--random_resized_crop"),
    "no repeats": ("--repeated_augmentation 0", "`repeated_augmentation`"),
    "two means": ("--image_mean 0.5 0.5", "`image_mean`"),
    "a deviation of 0": ("--image_std 0 1 1", "`image_std`"),
    "a crop of nothing": ("--eval_crop_ratio 0", "`eval_crop_ratio`"),
    "an average of nothing": ("--save_ema", "--ema_decay"),
    "an average that never moves": ("--ema_decay 1", "`ema_decay`"),
    "two warm-ups": ("--warmup_epochs 1 --warmup_ratio 0.1", "one length"),
    "a warm-up longer than all": ("--warmup_ratio 2", "`warmup_ratio`"),
    "no accumulation": ("--gradient_accumulation_steps 0", "`gradient_accumulation_steps`"),
    "a fraction of an epoch": ("--num_train_epochs 0.5", "num_train_epochs"),
    "an infinite rate": ("--learning_rate inf", "`learning_rate`"),
    "an unknown precision": ("--mixed_precision fp8", "fp8"),
    "negative loaders": ("--dataloader_num_workers -1", "`dataloader_num_workers`"),
    "checkpoints every never": ("--checkpointing_steps 0", "`checkpointing_steps`"),
    "checkpoints every so often": ("--checkpointing_steps often", "`checkpointing_steps`"),
    "no checkpoint kept": ("--save_total_limit 0", "`save_total_limit`"),
    "no such checkpoint": ("--resume_from_checkpoint /no/such/step_3", "/no/such/step_3"),
    "a folder that is no checkpoint": ("--resume_from_checkpoint PHOTOS", "is no checkpoint"),
    "replaced and continued": ("--overwrite_output_dir --resume_from_checkpoint latest", "--overwrite_output_dir"),
    "an unknown tracker": ("--with_tracking --report_to paper", "paper"),
    "reports every never": ("--logging_steps 0", "`logging_steps`"),
    "an unknown preset": ("--preset huge", "huge"),
    "two models": ("--preset tiny --model_name_or_path a", "`preset`"),
    "no such model": ("--model_name_or_path /no/such/model", "/no/such/model"),
    "a model that is none": ("--model_name_or_path PHOTOS", "cannot be loaded"),
}


@pytest.mark.parametrize(("flags", "named"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_is_written(
    flags, named, train_script, tmp_path_factory, tmp_path, monkeypatch, capsys
):
    inputs = tmp_path_factory.mktemp("inputs")
    if "PHOTOS" in flags:
        photo_folder(inputs / "photos", 4)
        photo_folder(inputs / "others", 2, seed=1)
    (inputs / "text").write_text("no TOML, no image")
    words = (
        flags.replace("OTHERS", str(inputs / "others"))
        .replace("PHOTOS", str(inputs / "photos"))
        .replace("FILE", str(inputs / "text"))
        .split()
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run(train_script.main, ["--disable_tqdm", "--num_train_epochs", "1", *words])
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert exit_.value.code == 2 and out == ""
    assert "error: " in line and named in line and "Traceback" not in err
    # `datasets` says what it prepares, in lines of its own
    assert err.count("error") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(train_script, tmp_path, capsys):
    tmp_path.chmod(0o555)
    with pytest.raises(SystemExit):
        run(train_script.main, ["--output_dir", str(tmp_path / "run")])
    assert "cannot be written" in capsys.readouterr().err
