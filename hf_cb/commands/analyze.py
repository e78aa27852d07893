"""Measure vision transformers layer by layer: how dense their attention is, how much it smooths, how alike tokens grow.

    python scripts/analyze.py --model_name_or_path outputs/vit-cb-digits outputs/plain --output_dir outputs/analysis

writes `report.html` (one file to open in a browser, without network), a figure for each measure and `analysis.json`.
It takes any vision transformer of a folder or the Hub that returns attentions or hidden states (ViT, DeiT, BEiT,
DINOv2, ViT-CB, ...), each with its own image processor, and images as `scripts/train.py` does (the digits without a
flag). The 360 test digits take a few seconds a model. `--context_broadcast`, `--attn_scale` and the other fields of
`TechniqueConfig` add techniques to the models before they are measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..analysis.models import AnalyzedModel
from ..analysis.report import ANALYSIS_FILES, write_analysis
from ..analysis.running import ImageBatches, analyze
from ..cli.flags import HfArg, ThreadArguments
from ..cli.output_dir import check_output_dir, replacing
from ..cli.parser import ArgumentParser, TechniqueArguments, command_line, config_overrides
from ..cli.record import describe_run
from ..data.sources import DataArguments, ImageData, load_data
from ..errors import UsageError


@dataclass
class AnalysisArguments(ThreadArguments):
    """What is measured, and where the report goes."""

    OLD_SPELLINGS = {"max_samples": "max_eval_samples"}

    model_name_or_path: list[str] = HfArg(help="Folders or Hub names of the models, one or several.")
    output_dir: str = HfArg(default="outputs/analysis", help="Folder of the report.")
    num_examples: int = HfArg(default=3, help="Images whose attention maps are shown.")
    per_device_eval_batch_size: int = HfArg(
        default=16, help="Images in a batch; all attention maps of all its images are in memory at once."
    )
    dataloader_num_workers: int = HfArg(default=0, help="Processes that load images.")
    seed: int = HfArg(default=0, help="Seed of what is drawn at random.")
    overwrite_output_dir: bool = HfArg(default=False, help="Replace the report in that folder.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_all("per_device_eval_batch_size", lambda value: value >= 1, "at least 1")
        counts = "num_examples dataloader_num_workers seed"
        self.require_all(counts, lambda value: value >= 0, "at least 0")
        if not self.model_name_or_path:
            raise UsageError("`model_name_or_path` must name at least one model, got none.")
        twice = next((name for name in self.model_name_or_path if self.model_name_or_path.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"`model_name_or_path` must name each model once, got {twice!r} twice.")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(AnalysisArguments, DataArguments, TechniqueArguments, description=__doc__)
    analysis, data_arguments, technique_arguments = parser.parse(arguments)
    techniques = config_overrides(technique_arguments)
    output_dir = check_output_dir(analysis.output_dir, analysis.overwrite_output_dir, ANALYSIS_FILES)
    analysis.limit_threads()
    data = load_images(analysis, data_arguments)
    images = data.evaluation
    told = {"data": f"Measured on {len(images):,} images of {data.description.name}.", **data.to_results()}
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    results, examples = {}, {}
    models = {name: AnalyzedModel.from_pretrained(name, techniques) for name in analysis.model_name_or_path}
    for name, model in models.items():
        results[name], examples[name] = measure(model, images, analysis)

    description = describe_run(analysis, data_arguments, technique_arguments)
    results = {name: {**result, **told, **description} for name, result in results.items()}
    report = {**description, **told, "command": command_line("analyze.py", arguments)}
    with replacing(output_dir, ANALYSIS_FILES) as folder:
        write_analysis(folder, results, {name: e for name, e in examples.items() if e is not None}, report)
    for name, result in results.items():
        for left_out, reason in result["left_out"].items():
            print(f"{name}: without {left_out}: {reason}")
    print(f"{len(images)} images, {len(results)} models: {output_dir / 'report.html'}")


def load_images(analysis: AnalysisArguments, data_arguments: DataArguments) -> ImageData:
    """The images to evaluate on, which are told of."""
    data = load_data(data_arguments, analysis.seed)
    for line in data.lines:
        print(line)
    if isinstance(data.evaluation, IterableDataset):
        if data_arguments.max_eval_samples is None:
            raise UsageError("streamed images need an end: give --max_eval_samples.")
        data.evaluation = Dataset.from_list(list(data.evaluation))
    return data


def measure(model: AnalyzedModel, images: Dataset, analysis: AnalysisArguments) -> tuple[dict[str, Any], Any]:
    """One model's measures and examples."""
    batches = ImageBatches(images, model, analysis.per_device_eval_batch_size, analysis.dataloader_num_workers)
    progress = {"desc": model.name, "disable": analysis.disable_tqdm}
    result = analyze(model, batches, PartialState().device, analysis.num_examples, **progress)
    # one model at a time on the device
    model.model.to("cpu")
    return result
