"""Image classifiers as ONNX files. Needs the packages of `hf_cb[export]`."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig

from ..errors import UsageError
from ..vit_cb.configuration_vit_cb import ViTCBConfig, as_pair
from .classifier import Logits
from .loaded import Loaded


ONNX_FILE = "model.onnx"
INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
# largest difference allowed between the logits of onnxruntime and torch, absolute or relative to the largest logit
TOLERANCE = 1e-4
# weights are loaded in float32, which onnxruntime computes everywhere
EXPORTED_TYPES = (ViTCBConfig.model_type, ViTConfig.model_type)


def require(*packages: str) -> None:
    """Say what to install.

    Raises:
        UsageError: one of the packages is missing.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(f"this needs {', '.join(missing)}, which is not installed: pip install 'hf_cb[export]'.")


def check_exportable(name_or_path: str, loaded: Loaded) -> None:
    """Whether a model is a ViT-CB or plain ViT image classifier, and whole.

    Args:
        name_or_path: how the user calls it.
        loaded: the model.

    Raises:
        UsageError: it is another kind of model, or its weights do not fit its configuration.
    """
    kind, model_type = type(loaded.model).__name__, loaded.model.config.model_type
    if model_type not in EXPORTED_TYPES:
        raise UsageError(f"{name_or_path!r} must be a ViT-CB or a ViT, and is of model type {model_type!r}.")
    if not kind.endswith("ForImageClassification"):
        raise UsageError(f"{name_or_path!r} must be an image classifier, and is a {kind}.")
    loaded.check_whole(name_or_path)


def example_images(config: Any, batch_size: int) -> Tensor:
    """[B, C, height, width], normally distributed, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, config.num_channels, *as_pair(config.image_size), generator=generator)


def export_onnx(model: PreTrainedModel, file: Path) -> None:
    """Write an image classifier as an ONNX file, with torch's exporter of `torch.export` graphs.

    Its input is `pixel_values`, [batch, C, height, width] in float32, with any batch size, its output `logits`,
    [batch, classes].

    Args:
        model: in evaluation mode.
        file: to write; weights of more than 1.5 GB go to a second file beside it.

    Raises:
        UsageError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript")
    with _quiet():
        program = torch.onnx.export(
            Logits(model).eval(),
            (example_images(model.config, batch_size=2),),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph:
        # where in whose source code it came from
        node.metadata_props.clear()
    program.save(str(file))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's advice to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def on_one_thread(file: Path) -> Any:
    """An onnxruntime session on the CPU, without the threads that would spin beside torch's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def onnx_difference(model: PreTrainedModel, file: Path) -> float:
    """The largest difference of logits between onnxruntime and torch, for batches of 1 and 3.

    Args:
        model: in evaluation mode.
        file: what `export_onnx` wrote of it.

    Raises:
        UsageError: onnxruntime is not installed, or the difference is above 1e-4, absolutely and relative to the
            largest logit.
    """
    require("onnxruntime")
    session, differences = on_one_thread(file), []
    for batch_size in (1, 3):
        images = example_images(model.config, batch_size)
        expected = model(images).logits
        logits = torch.from_numpy(session.run([OUTPUT_NAME], {INPUT_NAME: images.numpy()})[0])
        differences.append((logits - expected).abs().max().item())
        if not differences[-1] <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise UsageError(
                f"onnxruntime's logits differ from torch's by {differences[-1]:.1e}, allowed is {TOLERANCE:.0e}:"
                " nothing was written; --check false writes the file all the same."
            )
    return max(differences)
