"""A checkpoint of Trainer's that a full disk damaged is named before the training, with the one before it."""

import shutil

import pytest

from command_lines import load_script
from helpers import randomise_, tiny_config
from hf_cb import ViTCBForImageClassification
from hf_cb.cli.parser import run
from hf_cb.errors import UsageError
from hf_cb.finetuning.checkpoints import check_readable, whole_checkpoints
from photos import write_photos


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    randomise_(ViTCBForImageClassification(tiny_config(image_size=32, patch_size=8))).save_pretrained(folder / "model")
    photos = write_photos(folder / "photos")
    return ["--model_name_or_path", str(folder / "model"), "--train_dir", str(photos), "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def trained(flags, tmp_path_factory):
    """A run with checkpoints of two epochs."""
    output_dir = tmp_path_factory.mktemp("run") / "run"
    load_script("finetune").main([*flags, "--num_train_epochs", "2", "--output_dir", str(output_dir)])
    return output_dir


@pytest.fixture
def checkpoints(trained, tmp_path):
    """Copies of the two, the latest last."""
    shutil.copytree(trained, tmp_path / "run")
    return whole_checkpoints(tmp_path / "run")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def flip(file):
    content = bytearray(file.read_bytes())
    # much of a small file of torch's is padding, which has no checksum
    content[content.index(b"exp_avg")] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "weights cut": ("model.safetensors", cut),
    "weights emptied": ("model.safetensors", lambda file: file.write_bytes(b"")),
    "optimizer cut": ("optimizer.pt", cut),
    "optimizer flipped": ("optimizer.pt", flip),
    "generator emptied": ("rng_state.pth", lambda file: file.write_bytes(b"")),
    "configuration cut": ("config.json", cut),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_named_with_the_checkpoint_before(case, checkpoints):
    name, damage = DAMAGES[case]
    before, latest = checkpoints
    damage(latest / name)
    with pytest.raises(UsageError) as error:
        check_readable(latest)
    assert str(error.value) == (
        f"the checkpoint {str(latest)!r} is damaged: {name} cannot be read to its end; go on from the one before it,"
        f" {str(before)!r}."
    )
    check_readable(before)


def test_weights_that_are_missing_and_no_other_checkpoint_are_told(checkpoints):
    for checkpoint in checkpoints:
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="its weights are missing; no earlier one can be used"):
        check_readable(checkpoints[-1])


def test_the_command_line_refuses_it_in_one_line_and_goes_on_from_the_one_before(flags, checkpoints, capsys):
    before, latest = checkpoints
    cut(latest / "model.safetensors")
    main = load_script("finetune").main
    again = [*flags, "--num_train_epochs", "3", "--output_dir", str(latest.parent), "--resume_from_checkpoint"]
    for named in ([], [str(latest)]):
        with pytest.raises(SystemExit) as exit_:
            run(main, [*again, *named])
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and error.count("\n") == 1
        assert "model.safetensors cannot be read" in error and str(before) in error
    main([*again, str(before)])
    assert f"continuing from {before}" in capsys.readouterr().out


def test_a_folder_of_another_name_is_no_checkpoint(checkpoints):
    shutil.copytree(checkpoints[0], checkpoints[0].with_name("checkpoint-best"))
    assert whole_checkpoints(checkpoints[0].parent) == checkpoints
