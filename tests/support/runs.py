"""Small training runs within the process, and the pictures that they train on."""

import json
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images
from torch import Tensor


TINY_MODEL = "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 16"
# 7 updates an epoch: the last one is filled up
FEW_DIGITS = "--max_train_samples 100 --max_eval_samples 30 --per_device_train_batch_size 16"
ONE_PROCESS = "--dataloader_num_workers 0 --num_cpu_threads 1 --disable_tqdm"
# two classes of photographs, for the flags that data of one's own need
TINY_IMAGES = "--image_size 16 --patch_size 8 --learning_rate 1e-3"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package handles it."""


def start(script, folder: Path, *flags: str, model: str = TINY_MODEL) -> None:
    """Run `scripts/train.py` in this process; flags are strings that may hold several words."""
    words = [word for part in (model, ONE_PROCESS, *flags) for word in part.split()]
    # the precision of an earlier run in this process would stay
    AcceleratorState._reset_state()
    GradientState._reset_state()
    script.main([*words, "--output_dir", str(folder)])


def train(script, folder: Path, *flags: str, model: str = TINY_MODEL) -> dict:
    """The same, and its results."""
    start(script, folder, *flags, model=model)
    return json.loads((folder / "all_results.json").read_text())


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The saved tensors."""
    return load_file(folder / "model.safetensors")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def crops(count: int, size: int = 48, seed: int = 0) -> dict[str, list[Image.Image]]:
    """Random squares of scikit-learn's two photographs, by the name of the photograph."""
    generator, found = np.random.default_rng(seed), {}
    for name, photograph in zip(("china", "flower"), load_sample_images().images):
        corners = generator.integers(0, np.array(photograph.shape[:2]) - size, size=(count, 2))
        found[name] = [Image.fromarray(photograph[y : y + size, x : x + size]) for y, x in corners]
    return found


def photo_folder(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """An image folder of JPEGs, two classes of `count` images each."""
    for name, images in crops(count, seed=seed).items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / name / f"{number:02d}.jpg", quality=90)
    return folder
