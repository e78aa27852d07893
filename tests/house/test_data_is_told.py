"""Every command says what its data are, once, before it uses them, and keeps it with its results."""

import json

import pytest

from hf_cb.commands import analyze, evaluate_model, finetune, train
from runs import TINY_MODEL, photo_folder


FAST = "--disable_tqdm true"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("told") / "photos"
    photo_folder(root / "Train", 6)
    photo_folder(root / "valid", 3, seed=1)
    (root / "annotations").mkdir()
    (root / "annotations" / "notes.txt").write_text("no image")
    (root / "backup.zip").write_bytes(b"PK")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(train, folder, f"--train_dir {photos} {TINY_MODEL} --image_size 16 --patch_size 8 --recipe digits"
        " --num_train_epochs 1 --dataloader_num_workers 0")  # fmt: skip
    return folder


def run(command, folder, flags):
    command.main([*flags.split(), *FAST.split(), "--output_dir", str(folder)])


COMMANDS = {
    "train": (train, f"{TINY_MODEL} --image_size 16 --patch_size 8 --recipe digits --num_train_epochs 1"
              " --dataloader_num_workers 0", "all_results.json"),
    "finetune": (finetune, "--model_name_or_path MODEL --num_train_epochs 1", "all_results.json"),
    "evaluate": (evaluate_model, "--model_name_or_path MODEL", "eval_results.json"),
    "analyze": (analyze, "--model_name_or_path MODEL --num_examples 0", "analysis.json"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "flags", "file"), COMMANDS.values(), ids=COMMANDS)
def test_the_line_is_printed_once_and_kept(command, flags, file, photos, trained, tmp_path, capsys):
    capsys.readouterr()
    run(command, tmp_path / "out", f"--train_dir {photos} {flags.replace('MODEL', str(trained))}")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("photos: ")]
    assert printed == [
        "photos: 12 images to train on (Train) and 6 images to evaluate on (valid); 2 classes, china, flower;"
        " left out: annotations (no images), backup.zip (an archive, which is not unpacked)"
    ]
    results = json.loads((tmp_path / "out" / file).read_text())
    # the analysis has an entry for each model
    results = results if "data_layout" in results else next(iter(results.values()))
    assert results["data_layout"]["line"] == printed[0]
    assert results["data_layout"]["splits"]["evaluation"] == {"kind": "validation", "folder": "valid", "images": 6}
