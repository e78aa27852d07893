"""Runs that are killed and continued end as if nothing had happened, to the bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import hf_cb.training.checkpoints
from hf_cb.errors import Terminated, UsageError
from hf_cb.training.checkpoints import RunCheckpoints, complete_checkpoints
from hf_cb.training.learner import Learner
from runs import FEW_DIGITS, ONE_PROCESS, TINY_MODEL, Killed, names_in, train, weights_of


REPOSITORY = Path(__file__).parents[2]
UPDATES_PER_EPOCH = 7

PLAIN = f"{FEW_DIGITS} --num_train_epochs 3 --checkpointing_steps 4"
# every part that makes random choices or keeps a state; the crop's two numbers and the policy are DeiT's
EVERYTHING = (
    f"{FEW_DIGITS} --num_train_epochs 3 --checkpointing_steps 2 --per_device_train_batch_size 8"
    " --gradient_accumulation_steps 2 --dataloader_num_workers 2 --repeated_augmentation 3 --ema_decay 0.9 --save_ema"
    " --random_resized_crop 0.5 1 --auto_augment rand-m9-mstd0.5-inc1 --random_erasing 0.25 --mixup 0.8 --cutmix 1"
    " --label_smoothing_factor 0.1 --drop_path_rate 0.2 --hidden_dropout_prob 0.1"
)
RUNS = {"plain": (PLAIN, 1), "everything": (EVERYTHING, 2)}
LATEST = "--resume_from_checkpoint latest"


@pytest.fixture(scope="module")
def uninterrupted(train_script, tmp_path_factory):
    """Folder and results of each run, made when first asked for."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("uninterrupted") / name
            made[name] = folder, train(train_script, folder, RUNS[name][0])
        return made[name]

    return run


def killed_at(batch, monkeypatch):
    """Let the training die before its n-th batch from now, counted from 0."""
    step, seen = Learner.step, []

    def dying(self, *arguments):
        if len(seen) == batch:
            raise Killed
        seen.append(None)
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", dying)


def assert_same_end(folder, results, expected):
    expected_folder, expected_results = expected
    weights, expected_weights = weights_of(folder), weights_of(expected_folder)
    assert weights.keys() == expected_weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected_weights[name])] == []
    assert results["history"] == expected_results["history"]


@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again_it_ends_in_the_same_weights(name, uninterrupted, train_script, tmp_path, monkeypatch):
    flags, batches_per_update = RUNS[name]
    every, moments = int(flags.split("--checkpointing_steps ")[1].split()[0]), random.Random(name)
    total, done, starts = 3 * UPDATES_PER_EPOCH, 0, 0
    # the first time before there is a checkpoint, then within epochs
    moment = moments.randrange(every)
    while moment < total:
        with monkeypatch.context() as patch:
            killed_at((moment - done) * batches_per_update + moments.randrange(batches_per_update), patch)
            with pytest.raises(Killed):
                train(train_script, tmp_path / "run", flags, LATEST)
        starts, done = starts + 1, moment // every * every
        moment = done + moments.randrange(every, 3 * every)
    assert starts >= 4
    results = train(train_script, tmp_path / "run", flags, LATEST)
    assert_same_end(tmp_path / "run", results, uninterrupted(name))


def test_another_seed_ends_in_other_weights(uninterrupted, train_script, tmp_path):
    train(train_script, tmp_path / "run", PLAIN, "--seed 1")
    assert not torch.equal(
        weights_of(tmp_path / "run")["classifier.weight"], weights_of(uninterrupted("plain")[0])["classifier.weight"]
    )


def half_written(self, folder, *_, **__):
    (Path(folder) / "model.safetensors").write_bytes(b"half")
    raise Killed


def die(*_):
    raise Killed


def half_removed(path, **_):
    if Path(path).exists():
        next(Path(path).iterdir()).unlink()
        raise Killed


MOMENTS = {
    "while its files are written": (Accelerator, "save_state", half_written),
    "before it gets its name": (hf_cb.training.checkpoints.os, "replace", die),
    "before old ones go": (RunCheckpoints, "_remove_old", die),
    "while an old one goes": (hf_cb.training.checkpoints.shutil, "rmtree", half_removed),
}


@pytest.mark.parametrize(("owner", "name", "death"), MOMENTS.values(), ids=MOMENTS)
def test_a_kill_while_a_checkpoint_is_written_leaves_one_to_continue_from(
    owner, name, death, uninterrupted, train_script, tmp_path, monkeypatch
):
    folder, flags = tmp_path / "run", (PLAIN, "--save_total_limit 1")
    killed_at(9, monkeypatch)
    with pytest.raises(Killed):
        train(train_script, folder, *flags)
    assert [path.name for path in complete_checkpoints(folder)] == ["step_8"]
    monkeypatch.undo()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, death)
        train(train_script, folder, *flags, LATEST)
    assert complete_checkpoints(folder)[-1].name in ("step_8", "step_12")
    results = train(train_script, folder, *flags, LATEST)
    assert_same_end(folder, results, uninterrupted("plain"))
    # nothing that is half a checkpoint stays
    assert [name for name in names_in(folder) if name.startswith(".") or "step" in name] == ["step_20"]


def test_it_names_the_checkpoint_that_it_continues_from(uninterrupted, train_script, tmp_path, capsys):
    shutil.copytree(uninterrupted("plain")[0], tmp_path / "run")
    capsys.readouterr()
    train(train_script, tmp_path / "run", PLAIN, LATEST)
    assert f"continuing from {tmp_path / 'run' / 'step_20'}, after step 20" in capsys.readouterr().out


def test_a_checkpoint_named_by_its_path_goes_into_another_folder(uninterrupted, train_script, tmp_path, capsys):
    folder, _ = uninterrupted("plain")
    results = train(train_script, tmp_path / "other", PLAIN, f"--resume_from_checkpoint {folder / 'step_8'}")
    assert f"continuing from {folder / 'step_8'}, after step 8" in capsys.readouterr().out
    assert_same_end(tmp_path / "other", results, uninterrupted("plain"))


def test_latest_without_a_complete_checkpoint_starts_from_the_beginning(uninterrupted, train_script, tmp_path, capsys):
    # what a killed process may leave: a hidden folder, and one without its last file
    for name in (".step_4", "step_4"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "model.safetensors").write_bytes(b"half")
    results = train(train_script, tmp_path / "run", PLAIN, LATEST)
    assert "there is no complete checkpoint to continue from: starting from the beginning" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", results, uninterrupted("plain"))


def test_checkpoints_are_kept_unless_a_limit_is_given(uninterrupted, train_script, tmp_path):
    assert {"step_4", "step_8", "step_12", "step_16", "step_20"} <= names_in(uninterrupted("plain")[0])
    train(train_script, tmp_path / "run", FEW_DIGITS, "--num_train_epochs 3 --checkpointing_steps epoch",
          "--save_total_limit 2")  # fmt: skip
    assert {name for name in names_in(tmp_path / "run") if "_" in name and "." not in name} == {"epoch_2", "epoch_3"}


CHANGES = {
    "batch size": ("--per_device_train_batch_size 8", "`effective_batch_size` was 16 and is 8"),
    "model": ("--num_hidden_layers 3", "`num_hidden_layers` was 2 and is 3"),
    "technique": ("--attn_scale", "`attn_scale` was None and is True"),
    "data": ("--max_train_samples 99", "`max_train_samples` was 100 and is 99; `num_train_images` was 100 and is 99"),
    "augmentation": ("--mixup 0.5", "`mixup` was 0.0 and is 0.5"),
    "length": ("--num_train_epochs 4", "`num_train_epochs` was 3 and is 4"),
    "seed": ("--seed 3", "`seed` was 0 and is 3"),
}


@pytest.mark.parametrize(("flags", "named"), CHANGES.values(), ids=CHANGES)
def test_arguments_that_change_the_run_are_refused_by_name(flags, named, uninterrupted, train_script, tmp_path):
    folder = uninterrupted("plain")[0]
    before = names_in(folder)
    with pytest.raises(UsageError) as error:
        train(train_script, folder, PLAIN, LATEST, flags)
    assert named in str(error.value) and str(folder / "step_20") in str(error.value)
    assert names_in(folder) == before


def test_arguments_that_do_not_change_the_run_may_differ(uninterrupted, train_script, tmp_path):
    folder, _ = uninterrupted("plain")
    results = train(
        train_script,
        tmp_path / "run",
        PLAIN,
        f"--resume_from_checkpoint {folder / 'step_16'}",
        "--dataloader_num_workers 1 --per_device_eval_batch_size 7 --checkpointing_steps 100 --save_total_limit 1",
    )
    weights, expected = weights_of(tmp_path / "run"), weights_of(folder)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert results["eval_accuracy"] == uninterrupted("plain")[1]["eval_accuracy"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "progress.json"])
@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_damaged_checkpoint_is_one_clear_sentence(damage, file, uninterrupted, train_script, tmp_path):
    shutil.copytree(uninterrupted("plain")[0] / "step_8", tmp_path / "step_8")
    content = (tmp_path / "step_8" / file).read_bytes()
    (tmp_path / "step_8" / file).unlink()
    if damage == "cut off":
        (tmp_path / "step_8" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="step_8.* (cannot be read|is no checkpoint)"):
        train(train_script, tmp_path / "run", PLAIN, f"--resume_from_checkpoint {tmp_path / 'step_8'}")
    assert not (tmp_path / "run").exists()


def request_end_at(batch, monkeypatch):
    """Let the machine ask for the end (SIGTERM) at the n-th batch from now."""
    step, seen = Learner.step, []

    def asked(self, *arguments):
        if len(seen) == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(None)
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", asked)


@pytest.mark.parametrize("name", RUNS)
def test_asked_to_end_it_writes_a_checkpoint_and_continues_to_the_same_weights(
    name, uninterrupted, train_script, tmp_path, monkeypatch
):
    flags, folder = RUNS[name][0].replace("--checkpointing_steps", "--logging_steps"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Terminated) as ending:
        request_end_at(11, patch)
        train(train_script, folder, flags)
    (checkpoint,) = complete_checkpoints(folder)
    assert names_in(folder) == {checkpoint.name}
    assert str(checkpoint) in str(ending.value) and "--resume_from_checkpoint latest" in str(ending.value)
    results = train(train_script, folder, flags, LATEST)
    assert_same_end(folder, results, uninterrupted(name))


def start_training(folder, *flags):
    """`scripts/train.py` as a process group of its own, as a scheduler has it."""
    words = [word for part in (TINY_MODEL, ONE_PROCESS, *flags) for word in part.split(" ")]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *words, "--output_dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_real_signals_to_a_run_with_loader_processes(train_script, tmp_path):
    folder, longer = tmp_path / "run", EVERYTHING.replace("--num_train_epochs 3", "--num_train_epochs 12")
    process = start_training(folder, longer)
    wait_for(lambda: len(complete_checkpoints(folder)) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed_after = json.loads((complete_checkpoints(folder)[-1] / "progress.json").read_text())["progress"]["step"]

    process = start_training(folder, longer, LATEST)
    wait_for(lambda: (folder / f"step_{killed_after + 4}").is_dir(), process)
    # to all processes at once, the loaders too
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143
    last = complete_checkpoints(folder)[-1]
    assert f"continuing from {folder / f'step_{killed_after}'}" in out
    assert str(last) in err.splitlines()[-1] and "--resume_from_checkpoint latest" in err.splitlines()[-1]
    assert "Traceback" not in err

    results = train(train_script, folder, longer, LATEST)
    assert_same_end(folder, results, (tmp_path / "whole", train(train_script, tmp_path / "whole", longer)))
