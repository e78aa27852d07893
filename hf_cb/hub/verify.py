"""Proof that a saved model works where this package is not installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor

from ..vit_cb.configuration_vit_cb import as_pair
from ..vit_cb.modeling_vit_cb import ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel
from .folder import HubError, ModelFolder, read_model_folder


CLASSES = {cls.__name__: cls for cls in (ViTCBForImageClassification, ViTCBForMaskedImageModeling, ViTCBModel)}

# argv: the folder, the Auto class, threads, a file with the inputs and one for the outputs
ELSEWHERE = """
import sys

sys.modules["hf_cb"] = None
sys.excepthook = lambda kind, error, trace: print(kind.__name__, *str(error).split(), file=sys.stderr)
import torch, transformers
from PIL import Image
from safetensors.torch import load_file, save_file

folder, auto_class, threads, inputs, outputs = sys.argv[1:]
torch.set_num_threads(int(threads))
transformers.utils.logging.set_verbosity_error()
given, seen = load_file(inputs), {}
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True, use_safetensors=True).eval()
with torch.no_grad():
    seen["output"] = model(given["pixel_values"].to(model.dtype))[0]
if "image" in given:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    image = Image.fromarray(given["image"].numpy())
    seen["pixel_values"] = processor(image, return_tensors="pt")["pixel_values"]
save_file({name: tensor.contiguous() for name, tensor in seen.items()}, outputs)
"""

# of the machine and the user; everything else that tells Hugging Face's libraries or a launcher what to do stays here
LEFT_BEHIND = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "ACCELERATE_",
    "FSDP_",
    "RANK",
    "LOCAL_",
    "WORLD_SIZE",
    "MASTER_",
    "PYTHON",
)
TIMEOUT_S = 600


def check_loads_elsewhere(model_dir: str | Path) -> None:
    """Load a saved model in a process that cannot import this package, and compare what it computes with here.

    That process has another working directory, empty caches, no network and no token. Both take the same random pixels
    on the CPU; their outputs, and what their image processors make of a random image, must be equal to the bit.

    Args:
        model_dir: the folder.

    Raises:
        HubError: the folder does not load, here or there, its weights are not whole, or the outputs differ or are not
            finite.
    """
    folder = read_model_folder(model_dir)
    with tempfile.TemporaryDirectory() as place:
        inputs, expected = _run_here(folder)
        seen = _run_elsewhere(folder, inputs, Path(place))
    for name, tensor in expected.items():
        if not torch.equal(seen[name], tensor):
            raise HubError(
                f"{folder.path}: without hf_cb the {name.replace('_', ' ')} differs from the package's here: the"
                " folder's code is not the package's. Save the model anew."
            )


def _run_here(folder: ModelFolder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs for both sides, and what comes out here."""
    generator = torch.Generator().manual_seed(0)
    try:
        model, info = CLASSES[folder.architecture].from_pretrained(
            folder.path, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
        _check_whole(folder, info)
        size = (2, model.config.num_channels, *as_pair(model.config.image_size))
        inputs = {"pixel_values": torch.randn(size, generator=generator)}
        with torch.no_grad():
            expected = {"output": model.eval()(inputs["pixel_values"].to(model.dtype))[0]}
        if not torch.isfinite(expected["output"]).all():
            raise HubError(f"{folder.path}: the model's output on random images is not finite: its weights are spoilt.")
        if "preprocessor_config.json" in folder.files:
            # neither square nor as large as the model's images
            inputs["image"] = torch.randint(256, (37, 53, 3), generator=generator, dtype=torch.uint8)
            processor = AutoImageProcessor.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
            expected["pixel_values"] = _pixel_values(processor, inputs["image"].numpy())
    except HubError:
        raise
    except Exception as error:
        # a damaged folder can fail anywhere in transformers, safetensors or the configuration
        raise HubError(f"{folder.path}: cannot be loaded: {error}") from error
    return inputs, expected


def _pixel_values(processor: Any, image: np.ndarray) -> Tensor:
    return processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]


def _check_whole(folder: ModelFolder, info: dict[str, Any]) -> None:
    strays = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if strays:
        name, keys = next(iter(strays.items()))
        raise HubError(
            f"{folder.path}: its weights do not fit its configuration: {name.replace('_', ' ')}, {keys[0]!r}."
        )


def _run_elsewhere(folder: ModelFolder, inputs: dict[str, Tensor], place: Path) -> dict[str, Tensor]:
    save_file(inputs, place / "inputs.safetensors")
    arguments = [
        folder.path.resolve(),
        folder.auto_class,
        torch.get_num_threads(),
        "inputs.safetensors",
        "outputs.safetensors",
    ]
    try:
        ran = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, *map(str, arguments)],
            cwd=place,
            env=_environment(place),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise HubError(f"{folder.path}: did not load within {TIMEOUT_S} s in a process without hf_cb.") from error
    if ran.returncode:
        reason = ran.stderr.strip().splitlines()[-1:] or [f"exit code {ran.returncode}"]
        raise HubError(f"{folder.path}: its code does not travel: it fails without hf_cb: {reason[0]}")
    return load_file(place / "outputs.safetensors")


def _environment(place: Path) -> dict[str, str]:
    """This process' environment without its tokens, caches and launcher, offline and on the CPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_BEHIND)}
    # the same libraries, from anywhere
    libraries = [str(Path(entry).resolve()) for entry in sys.path if entry]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(libraries),
        "HF_HOME": str(place),
        "HF_MODULES_CACHE": str(place / "modules"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
