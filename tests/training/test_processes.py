"""Two processes learn what one learns, count every image once, and continue to the same weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gradients import first_gradients
from hf_cb.data.images import read_image
from hf_cb.data.sources import DataArguments, load_data
from runs import TINY_IMAGES, TINY_MODEL, photo_folder, weights_of


REPOSITORY = Path(__file__).parents[2]

# the images themselves are augmented, the batch is not mixed: that depends on the process
GRADIENTS = f"{TINY_MODEL} --dataloader_num_workers 0 --max_train_samples 64 --random_resized_crop 0.5 1"
# 101 images for training and 31 for evaluation, which no number of processes divides
WHOLE = (
    "--max_train_samples 101 --max_eval_samples 31 --per_device_train_batch_size 4 --per_device_eval_batch_size 3"
    " --num_train_epochs 2 --gradient_accumulation_steps 2 --mixup 0.8 --ema_decay 0.9 --save_ema"
    " --drop_path_rate 0.2 --repeated_augmentation 3 --dataloader_num_workers 1 --checkpointing_steps 5"
)


def launch(script, *arguments, timeout=300):
    """`accelerate launch` of two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), str(script), *map(str, arguments)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder in which two processes have done what tests/in_two_processes.py says, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    train, validation = photo_folder(folder / "train", 9), photo_folder(folder / "validation", 8, seed=1)
    (validation / "china" / "00.jpg").write_text("no picture")
    streamed = (
        f"--train_dir {train} --validation_dir {validation} --streaming --recipe digits {TINY_IMAGES}"
        " --num_train_epochs 1 --per_device_train_batch_size 4 --per_device_eval_batch_size 3"
    )
    flags = {"gradients": f"{GRADIENTS} --per_device_train_batch_size 8", "whole": WHOLE, "streamed": streamed}
    (folder / "flags.json").write_text(json.dumps(flags))
    done = launch(REPOSITORY / "tests" / "support" / "in_two_processes.py", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done


def results_of(folder):
    return json.loads((folder / "all_results.json").read_text())


@pytest.mark.parametrize(
    "batches", ["--per_device_train_batch_size 16", "--per_device_train_batch_size 8 --gradient_accumulation_steps 2"]
)
def test_gradients_of_two_times_eight_equal_those_of_sixteen(batches, two_processes, train_script, tmp_path):
    expected = first_gradients(train_script, f"{GRADIENTS} {batches}".split(" "), tmp_path)
    found = load_file(two_processes[0] / "gradients.safetensors")
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-2


def test_gradients_of_other_images_differ(two_processes, train_script, tmp_path):
    words = f"{GRADIENTS} --per_device_train_batch_size 16 --seed 1".split(" ")
    other, found = (
        first_gradients(train_script, words, tmp_path),
        load_file(two_processes[0] / "gradients.safetensors"),
    )
    assert (other["classifier.weight"] - found["classifier.weight"]).abs().max() > 1e-3


def test_metrics_of_two_processes_are_those_of_the_saved_model_alone(two_processes):
    folder = two_processes[0] / "whole"
    results, data = results_of(folder), load_data(DataArguments(max_train_samples=101, max_eval_samples=31)).evaluation
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = [read_image(row["image"]) for row in data]
    pixel_values = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
    labels = torch.tensor([row["label"] for row in data])
    with torch.no_grad():
        logits = model(pixel_values).logits
    assert results["num_processes"] == 2 and results["eval_samples"] == 31
    assert results["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item(), abs=1e-7)
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    assert results["eval_top_5_accuracy"] == pytest.approx(top5, abs=1e-7)
    assert results["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)


def test_two_killed_processes_continue_to_the_same_weights(two_processes):
    folder, done = two_processes
    assert f"continuing from {folder / 'resumed' / 'step_5'}, after step 5" in done.stdout
    expected, found = weights_of(folder / "whole"), weights_of(folder / "resumed")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert results_of(folder / "whole")["history"] == results_of(folder / "resumed")["history"]


def test_the_plan_counts_processes_and_batches(two_processes):
    folder, done = two_processes
    assert "effective batch 16 (4 images x 2 processes x 2 batches an update), learning rate 0.003" in done.stdout
    assert results_of(folder / "whole")["plan"]["effective_batch_size"] == 16
    # once, by the main process
    assert done.stdout.count("effective batch 16 (4 images") == 3


def test_a_stream_evaluated_by_two_processes_counts_every_image_once(two_processes):
    folder, done = two_processes
    results = results_of(folder / "streamed")
    assert results["eval_samples"] == 15 and results["skipped_images"] == 1
    assert done.stderr.count("skipped, cannot be read") == 1 and "00.jpg" in done.stderr


def test_this_process_is_alone():
    assert PartialState().num_processes == 1
