"""What holds for every test: offline, quiet, one thread."""

import os


# read by huggingface_hub at import
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest
import torch
from transformers.utils import logging

from command_lines import load_script
from helpers import tiny_images


# tiny tensors gain nothing from a second thread, and on a busy machine two that wait for each other lose much
torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()


@pytest.fixture
def images():
    return tiny_images()


@pytest.fixture
def images64():
    return tiny_images(dtype=torch.float64)


@pytest.fixture(scope="session")
def train_script():
    return load_script("train")


@pytest.fixture(scope="session")
def convert_script():
    return load_script("convert_checkpoint")


@pytest.fixture(scope="session")
def analyze_script():
    return load_script("analyze")


@pytest.fixture(scope="session")
def study_script():
    return load_script("study")


@pytest.fixture(scope="session")
def architectures(tmp_path_factory):
    """Folders of small classifiers, by the names of `MODELS`."""
    # few tests need them, and transformers takes a while to import as many
    from architectures import save_architectures

    return save_architectures(tmp_path_factory.mktemp("architectures"))
