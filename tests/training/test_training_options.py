"""Precision, moving average, compilation, trackers, and runs that cannot go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from packaging.version import Version
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_cb.training.accelerator
from hf_cb.data.images import read_image
from hf_cb.data.sources import DataArguments, load_data
from hf_cb.errors import UsageError
from hf_cb.training.checkpoints import complete_checkpoints
from hf_cb.training.learner import Learner
from runs import FEW_DIGITS, ONE_PROCESS, TINY_MODEL, names_in, train, weights_of


SHORT = f"{FEW_DIGITS} --num_train_epochs 2"


@pytest.fixture(scope="module")
def plain(train_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return folder, train(train_script, folder, SHORT)


needs_tracing = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="torch 2.6 cannot trace the decorator on the forward method of transformers' own ViTModel",
)


def differs(first, second):
    return any(not torch.equal(first[name], second[name]) for name in first)


# precision and memory


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_trains_and_saves_whole_weights(precision, plain, train_script, tmp_path):
    results = train(train_script, tmp_path / "run", SHORT, f"--mixed_precision {precision}")
    weights = weights_of(tmp_path / "run")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert results["arguments"]["mixed_precision"] == precision
    assert differs(weights, weights_of(plain[0]))
    assert results["eval_loss"] == pytest.approx(plain[1]["eval_loss"], rel=0.05)


def test_the_launchers_precision_holds_unless_another_is_named(plain, train_script, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train(train_script, tmp_path / "a", SHORT)["arguments"]["mixed_precision"] == "bf16"
    assert train(train_script, tmp_path / "b", SHORT, "--mixed_precision no")["arguments"]["mixed_precision"] == "no"
    assert differs(weights_of(tmp_path / "a"), weights_of(plain[0]))
    assert not differs(weights_of(tmp_path / "b"), weights_of(plain[0]))


def test_gradient_checkpointing_gives_the_same_weights(plain, train_script, tmp_path):
    train(train_script, tmp_path / "run", SHORT, "--gradient_checkpointing")
    assert not differs(weights_of(tmp_path / "run"), weights_of(plain[0]))


@needs_tracing
def test_a_model_that_the_launcher_compiles_is_saved_under_its_own_names(plain, train_script, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    train(train_script, tmp_path / "run", SHORT)
    assert weights_of(tmp_path / "run").keys() == weights_of(plain[0]).keys()


@needs_tracing
@pytest.mark.slow
def test_a_compiled_model_is_saved_under_its_own_names_and_continued(plain, train_script, tmp_path):
    flags = (SHORT, "--compile --ema_decay 0.5 --checkpointing_steps epoch")
    train(train_script, tmp_path / "run", *flags)
    weights = weights_of(tmp_path / "run")
    assert weights.keys() == weights_of(plain[0]).keys()
    expected = weights_of(plain[0])
    # no gradient reaches the keys' biases but rounding, which AdamW blows up
    for name in (name for name in expected if not name.endswith("key.bias")):
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-4)
    train(train_script, tmp_path / "again", *flags, f"--resume_from_checkpoint {tmp_path / 'run' / 'epoch_1'}")
    assert not differs(weights_of(tmp_path / "again"), weights)


# the moving average


def loss_of(folder):
    data = load_data(DataArguments(max_train_samples=100, max_eval_samples=30)).evaluation
    images = [read_image(row["image"]) for row in data]
    pixel_values = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
    labels = torch.tensor([row["label"] for row in data])
    with torch.no_grad():
        logits = AutoModelForImageClassification.from_pretrained(folder).eval()(pixel_values).logits
    return torch.nn.functional.cross_entropy(logits, labels).item()


def test_save_ema_evaluates_and_saves_the_average_and_not_otherwise(plain, train_script, tmp_path, monkeypatch):
    seen, step = [], Learner.step

    def recording(self, *arguments):
        loss = step(self, *arguments)
        seen.append({name: tensor.clone() for name, tensor in self.whole_model.state_dict().items()})
        return loss

    kept = train(train_script, tmp_path / "raw", SHORT, "--ema_decay 0.8")
    assert not differs(weights_of(tmp_path / "raw"), weights_of(plain[0]))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", recording)
        train(train_script, tmp_path / "again", SHORT)
    averaged = train(train_script, tmp_path / "ema", SHORT, "--ema_decay 0.8 --save_ema")
    assert averaged["eval_loss"] == pytest.approx(loss_of(tmp_path / "ema"), abs=1e-5)
    assert kept["eval_loss"] == pytest.approx(loss_of(tmp_path / "raw"), abs=1e-5) != averaged["eval_loss"]
    average = starting_weights(train_script, tmp_path / "start")
    for state in seen:
        average = {name: 0.8 * average[name] + 0.2 * state[name] for name in state}
    found = AutoModelForImageClassification.from_pretrained(tmp_path / "ema").state_dict()
    for name in found:
        torch.testing.assert_close(found[name], average[name], rtol=1e-5, atol=1e-6)


def starting_weights(train_script, folder):
    """Those that a run starts from."""
    train(train_script, folder, SHORT, "--learning_rate 1e-30 --num_train_epochs 1 --weight_decay 0")
    return AutoModelForImageClassification.from_pretrained(folder).state_dict()


# trackers


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(train_script, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_cb.training.accelerator, "get_available_trackers", lambda: [])
    for report_to, package in (("wandb", "wandb"), ("all", "tensorboard")):
        with pytest.raises(UsageError, match=f"`report_to` {report_to} .* pip install {package}"):
            train(train_script, tmp_path / "run", SHORT, f"--with_tracking --report_to {report_to}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    "tensorboard" not in [str(tracker.value) for tracker in get_available_trackers()],
    reason="tensorboard is not installed",
)
def test_loss_rate_and_metrics_are_reported(train_script, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = "--with_tracking --report_to tensorboard --logging_steps 3"
    results = train(train_script, tmp_path / "run", SHORT, flags)
    (file,) = (tmp_path / "run" / "hf_cb").glob("events*")
    events = EventAccumulator(str(file)).Reload()
    assert [event.step for event in events.Scalars("learning_rate")] == [3, 6, 9, 12]
    accuracies = [event.value for event in events.Scalars("eval_accuracy")]
    assert accuracies == pytest.approx([row["eval_accuracy"] for row in results["history"]])


def test_nothing_is_reported_unasked(plain):
    assert not any((plain[0]).rglob("events*"))


# runs that cannot go on


def test_a_loss_that_is_no_number_names_step_rate_and_last_good_checkpoint(train_script, tmp_path, monkeypatch):
    step, seen = Learner.step, []

    def breaking(self, *arguments):
        seen.append(None)
        return step(self, *arguments) * (float("nan") if len(seen) == 11 else 1)

    monkeypatch.setattr(Learner, "step", breaking)
    flags = (SHORT, "--checkpointing_steps 4 --learning_rate 1e-3 --warmup_ratio 0 --lr_step epoch")
    with pytest.raises(UsageError) as error:
        train(train_script, tmp_path / "run", *flags)
    text = str(error.value)
    # the second of two epochs: half of the cosine
    assert "the training loss became nan at step 11 in epoch 2, at a learning rate of 0.0005" in text
    assert f"the last good checkpoint is {tmp_path / 'run' / 'step_8'}" in text
    assert names_in(tmp_path / "run") == {"step_4", "step_8"}


def test_weights_that_are_no_numbers_are_not_saved_as_a_checkpoint(train_script, tmp_path, monkeypatch):
    step, seen = Learner.step, []

    def breaking(self, *arguments):
        loss = step(self, *arguments)
        seen.append(None)
        if len(seen) == 8:
            next(self.model.parameters()).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(Learner, "step", breaking)
    with pytest.raises(UsageError, match="weights .* at step 8 .*step_4"):
        train(train_script, tmp_path / "run", SHORT, "--checkpointing_steps 4")
    assert names_in(tmp_path / "run") == {"step_4"}


def test_a_full_disk_is_one_clear_sentence_and_leaves_the_last_checkpoint(train_script, tmp_path, monkeypatch):
    save, calls = Accelerator.save_state, []

    def full(self, folder, *arguments, **options):
        calls.append(None)
        if len(calls) < 2:
            return save(self, folder, *arguments, **options)
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Accelerator, "save_state", full)
    with pytest.raises(UsageError, match="step_8' cannot be written: .*No space left"):
        train(train_script, tmp_path / "run", SHORT, "--checkpointing_steps 4")
    assert names_in(tmp_path / "run") == {"step_4"} and complete_checkpoints(tmp_path / "run")


def test_a_full_disk_at_the_end_is_one_clear_sentence(train_script, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train_script, "describe", full)
    with pytest.raises(UsageError, match="run' cannot be written: .*No space left.* checkpoints"):
        train(train_script, tmp_path / "run", SHORT, "--checkpointing_steps epoch")
    assert names_in(tmp_path / "run") == {"epoch_1", "epoch_2"}
    monkeypatch.undo()
    train(train_script, tmp_path / "run", SHORT, "--checkpointing_steps epoch --resume_from_checkpoint latest")
    assert "model.safetensors" in names_in(tmp_path / "run")


def test_a_bug_while_loaders_run_ends_the_process_with_its_traceback(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from command_lines import load_script\n"
        "from hf_cb.training.learner import Learner\n"
        "step, seen = Learner.step, []\n"
        "def broken(self, *arguments):\n"
        "    seen.append(None)\n"
        "    if len(seen) == 3: raise ZeroDivisionError\n"
        "    return step(self, *arguments)\n"
        "Learner.step = broken\n"
        "from hf_cb.cli.parser import run\n"
        "run(load_script('train').main, sys.argv[2:])\n"
    )
    words = f"{TINY_MODEL} {ONE_PROCESS} {SHORT} --dataloader_num_workers 2 --output_dir {tmp_path / 'run'}".split()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1] / "support"), *words],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
