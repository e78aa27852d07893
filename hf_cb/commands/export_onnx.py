"""Export an image classifier to ONNX.

    python scripts/export_onnx.py --model_name_or_path outputs/vit-cb-digits --output_dir outputs/vit-cb-digits-onnx

writes `model.onnx` from a ViT-CB's or a plain ViT's folder, whatever techniques it has, with configuration and image
processor beside it. The file takes `pixel_values`, [batch, channels, height, width] in float32 with any batch size, and
gives `logits`. In onnxruntime these are compared with torch's before the file takes its place (`--check false` leaves
that out); the largest difference is printed and in `all_results.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoImageProcessor
from transformers.utils import logging

from ..cli.flags import HfArg, ThreadArguments
from ..cli.output_dir import check_output_dir, replacing, write_json
from ..cli.parser import ArgumentParser
from ..cli.record import describe_run
from ..errors import UsageError
from ..models.loading import load
from ..models.onnx_export import ONNX_FILE, check_exportable, export_onnx, onnx_difference, require


@dataclass
class ExportArguments(ThreadArguments):
    """What is exported, and where to."""

    model_name_or_path: str = HfArg(help="Folder, or name on the Hub, of a ViT-CB or ViT classifier.")
    output_dir: str = HfArg(default="outputs/onnx", help="Folder to write.")
    check: bool | None = HfArg(
        default=True, help="Compare onnxruntime's logits with torch's; --check false leaves that out."
    )
    overwrite_output_dir: bool = HfArg(default=False, help="Replace what stands in the folder.")


def main(arguments: Sequence[str] | None = None) -> None:
    (parsed,) = ArgumentParser(ExportArguments, description=__doc__).parse(arguments)
    output_dir = check_output_dir(parsed.output_dir, parsed.overwrite_output_dir)
    if output_dir.resolve() == Path(parsed.model_name_or_path).resolve():
        raise UsageError(f"`output_dir` {parsed.output_dir!r} is the model's own folder: name another.")
    require("onnx", "onnxscript", *(["onnxruntime"] if parsed.check else []))
    logging.disable_progress_bar()
    parsed.limit_threads()
    loaded = load(parsed.model_name_or_path, dtype=torch.float32)
    check_exportable(parsed.model_name_or_path, loaded)
    model = loaded.model.eval()
    runtime = ["onnxruntime"] if parsed.check else []
    results = describe_run(parsed, libraries=("torch", "transformers", "onnx", *runtime))
    with replacing(output_dir) as folder:
        export_onnx(model, folder / ONNX_FILE)
        if parsed.check:
            results["max_logit_difference"] = onnx_difference(model, folder / ONNX_FILE)
        model.config.save_pretrained(folder)
        _save_image_processor(parsed.model_name_or_path, folder)
        write_json(folder / "all_results.json", results)
    difference = f"onnxruntime within {results['max_logit_difference']:.1e} of torch: " if parsed.check else ""
    print(f"{difference}{output_dir / ONNX_FILE}")


def _save_image_processor(name_or_path: str, folder: Path) -> None:
    try:
        AutoImageProcessor.from_pretrained(name_or_path).save_pretrained(folder)
    except (OSError, ValueError):
        # weights and configuration alone make a model too
        return
