"""What holds for every test: offline, quiet, one thread."""

import os


# read by huggingface_hub at import
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest
import torch
from transformers.utils import logging

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
