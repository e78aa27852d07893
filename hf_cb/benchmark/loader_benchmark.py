"""The benchmark of the training loader: reading and augmenting JPEGs with DeiT's recipe, beside timm's own loader."""

import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PILImage
from sklearn.datasets import load_sample_images
from timm.data import create_dataset, create_loader
from torch import Tensor
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg

from ..cli.record import describe_run
from ..data.augmentation import AugmentationArguments, BatchAugmentation, Normalization, keep_a_bit, training_transform
from ..errors import UsageError
from ..reports.tables import markdown_table
from ..training.arguments import LoopArguments
from ..training.loaders import SkippedImages, TrainingLoader
from ..training.recipes import read_recipe
from ..vit_cb.image_processing_vit_cb import ViTCBImageProcessor
from .timing import WARMUP_ROUNDS, interleaved_seconds, num_threads, summarize


BASELINE = "timm"
LABELS = {"hf_cb": "hf_cb", "timm": "timm's create_loader"}
STAGES = {"images": "read and augmented, uint8", "pixel_values": "normalised and erased too, float32"}
COLUMNS = ("stage", "loader", "images/s", "time over timm's", "CPU time an image, ms", "over timm's")
# the system counts a process' time in hundredths of a second
CPU_CLOCK = 0.01
# width and height of the two in scikit-learn
PHOTOGRAPH = (640, 427)
# as photographs of a camera or a web site have it
JPEG_QUALITY = 90

Epoch = Callable[[int], Iterable[Tensor]]


@dataclass
class LoaderBenchmarkArguments:
    """What `--what loader` measures."""

    train_dir: str | None = HfArg(
        default=None, help="Folder of images, a folder for each class; by default crops of photographs."
    )
    num_images: int = HfArg(default=2048, help="How many crops are made.")
    crop_size: list[int] = HfArg(default_factory=lambda: [224, 224], help="Their width and height.")
    image_size: int = HfArg(default=224, help="Side of the images that a model gets.")
    batch_size: int = HfArg(default=128, help="Images in a batch.")
    dataloader_num_workers: int = HfArg(default=2, help="Processes that load images.")
    num_rounds: int = HfArg(default=5, help="How often an epoch of each loader is timed.")

    def __post_init__(self) -> None:
        for name in ("num_images", "image_size", "batch_size", "dataloader_num_workers", "num_rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if len(self.crop_size) != 2 or not all(1 <= side <= most for side, most in zip(self.crop_size, PHOTOGRAPH)):
            raise UsageError(
                f"`crop_size` must be a width of at most 640 and a height of at most 427, got {self.crop_size}."
            )


def benchmark_loaders(arguments: LoaderBenchmarkArguments, disable_tqdm: bool = False) -> dict[str, Any]:
    """Measure epochs of this package's loader and of timm's, on the same files, in turn.

    Mixup and CutMix, which take a batch as it is, are left out on both sides.

    Returns:
        What `describe_run` tells, the gist of it in one line, `setting`, and `stages`: for each of `STAGES` and each
        loader `wall` and `cpu`, as `summarize` gives them, in seconds an image. `cpu` is the time that the cores worked
        for it, in this process and in its loader processes, which other programs on the machine disturb least.

    Raises:
        UsageError: there are too few images.
    """
    num_steps = (WARMUP_ROUNDS + arguments.num_rounds) * len(STAGES) * len(LABELS)
    with (
        tempfile.TemporaryDirectory() as temporary,
        num_threads(1),
        tqdm(total=num_steps, unit="epoch", disable=disable_tqdm) as progress,
    ):
        folder = arguments.train_dir or save_crops(Path(temporary), arguments.num_images, arguments.crop_size)
        epochs = _make_epochs(str(folder), arguments)
        seconds = interleaved_seconds(epochs, arguments.num_rounds, torch.device("cpu"), progress)
    return {**_describe(arguments, epochs), "stages": {stage: _summary(stage, epochs, seconds) for stage in STAGES}}


def save_crops(folder: Path, number: int, size: list[int]) -> Path:
    """Save random crops of scikit-learn's two photographs as JPEGs, in a folder for each photograph.

    Args:
        folder: to save them in.
        number: of the crops.
        size: width and height of each in pixels.
    """
    generator = np.random.default_rng(0)
    photographs = [PILImage.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(number):
        kind = index % len(photographs)
        left, top = (int(generator.integers(0, space + 1)) for space in np.subtract(photographs[kind].size, size))
        file = folder / f"photograph_{kind}" / f"{index:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        crop = photographs[kind].crop((left, top, left + size[0], top + size[1]))
        crop.save(file, quality=JPEG_QUALITY)
    return folder


class TimedEpochs:
    """A loader's epochs, one a call; keeps the number of their images and the time that the cores worked for them.

    Args:
        batches: the number of an epoch to its batches.
    """

    def __init__(self, batches: Callable[[int], Iterable[Tensor]]):
        self.batches, self.num_images = batches, 0
        self.cpu_seconds: list[float] = []

    def __call__(self) -> None:
        before = _cpu_seconds()
        self.num_images = sum(len(batch) for batch in self.batches(len(self.cpu_seconds)))
        self.cpu_seconds.append(max(CPU_CLOCK, _cpu_seconds() - before))


def _cpu_seconds() -> float:
    """Time that the cores worked for this process and those that it started and that still live."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def _make_epochs(folder: str, arguments: LoaderBenchmarkArguments) -> dict[tuple[str, str], TimedEpochs]:
    try:
        files = create_dataset("", root=folder)
    # timm asserts that the folder is there
    except (AssertionError, RuntimeError) as error:
        raise UsageError(f"`train_dir` {folder!r} holds no images: {error}") from error
    if len(files) < arguments.batch_size:
        raise UsageError(f"a batch of {arguments.batch_size} needs as many images, {folder!r} holds {len(files)}.")
    loaders = {"hf_cb": _ours(files.reader.samples, arguments), "timm": _theirs(files, arguments)}
    return {(stage, name): TimedEpochs(loaders[name][stage]) for stage in STAGES for name in loaders}


def _ours(samples: list[tuple[str, int]], arguments: LoaderBenchmarkArguments) -> dict[str, Epoch]:
    """This package's loader, as `scripts/train.py` makes it."""
    recipe = read_recipe("deit")[0] | {"mixup": 0.0, "cutmix": 0.0, "repeated_augmentation": 1}
    names = {f.name for f in fields(AugmentationArguments)} & set(recipe)
    augmentation = AugmentationArguments(**{name: recipe[name] for name in names})
    loop = LoopArguments(
        per_device_train_batch_size=arguments.batch_size, dataloader_num_workers=arguments.dataloader_num_workers
    )
    size = {"height": arguments.image_size, "width": arguments.image_size}
    processor = ViTCBImageProcessor(size=size, image_mean=recipe["image_mean"], image_std=recipe["image_std"])
    num_labels = 1 + max(label for _, label in samples)
    columns = {"image": [file for file, _ in samples], "label": [label for _, label in samples]}
    features = Features(image=Image(decode=False), label=ClassLabel(num_classes=num_labels))
    data, transform = Dataset.from_dict(columns, features), training_transform(processor, augmentation)
    loader = TrainingLoader(data, transform, num_labels, loop, 1, Accelerator(cpu=True), SkippedImages())
    augment = BatchAugmentation(Normalization.of(processor), augmentation, 0.0, num_labels, torch.device("cpu"))

    def pixel_values(epoch: int) -> Iterator[Tensor]:
        for number, batch in enumerate(loader.epoch(epoch)):
            yield augment(batch["pixel_values"], batch["labels"], loop.seed, epoch, number)[0]

    return {
        "images": lambda epoch: (batch["pixel_values"] for batch in loader.epoch(epoch)),
        "pixel_values": pixel_values,
    }


def _theirs(files: Any, arguments: LoaderBenchmarkArguments) -> dict[str, Epoch]:
    """timm's loader with the flags of DeiT's training, https://github.com/facebookresearch/deit."""
    loader = create_loader(
        files,
        input_size=(3, arguments.image_size, arguments.image_size),
        batch_size=arguments.batch_size,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        num_workers=arguments.dataloader_num_workers,
        device=torch.device("cpu"),
    )
    # it would stop at the first image that is posterized to no bit
    keep_a_bit(files.transform.transforms)
    return {
        "images": lambda _: (images for images, _ in loader.loader),
        "pixel_values": lambda _: (images for images, _ in loader),
    }


def _summary(
    stage: str, epochs: dict[tuple[str, str], TimedEpochs], seconds: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    wall, cpu = {}, {}
    for name in LABELS:
        timed = epochs[stage, name]
        wall[name] = [time / timed.num_images for time in seconds[stage, name]]
        cpu[name] = [time / timed.num_images for time in timed.cpu_seconds[WARMUP_ROUNDS:]]
    wall, cpu = summarize(wall, BASELINE), summarize(cpu, BASELINE)
    return {name: {"wall": wall[name], "cpu": cpu[name]} for name in LABELS}


def _describe(arguments: LoaderBenchmarkArguments, epochs: dict[tuple[str, str], TimedEpochs]) -> dict[str, Any]:
    described = describe_run(arguments)
    described["versions"] |= {name: version(name) for name in ("pillow", "torchvision")}
    width, height = arguments.crop_size
    files = "images of --train_dir" if arguments.train_dir else f"JPEGs of {width}x{height}"
    number = max(timed.num_images for timed in epochs.values())
    setting = (
        f"{number:,} {files} to {arguments.image_size} pixels, batch of {arguments.batch_size}, n ="
        f" {arguments.num_rounds}, {arguments.dataloader_num_workers} loader processes; {described['hardware']}"
    )
    versions = ", ".join(f"{name} {described['versions'][name]}" for name in ("pillow", "torch", "timm", "datasets"))
    return {**described, "setting": f"{setting}; {versions}"}


def format_loader_tables(results: dict[str, Any]) -> str:
    """What `benchmark_loaders` returned, as a table in Markdown."""
    rows = []
    for stage, loaders in results["stages"].items():
        for name, measured in loaders.items():
            wall, cpu = measured["wall"], measured["cpu"]
            rate, least, most = (f"{1 / wall[key]:,.0f}" for key in ("median", "max", "min"))
            rates = f"{rate} ({least} to {most})"
            rows.append((STAGES[stage], LABELS[name], rates, _ratio(wall), f"{1e3 * cpu['median']:.3f}", _ratio(cpu)))
    return markdown_table(COLUMNS, rows)


def _ratio(measured: dict[str, Any]) -> str:
    return f"{measured['ratio']:.3f} ({measured['ratio_min']:.3f} to {measured['ratio_max']:.3f})"


def save_loader_picture(results: dict[str, Any], file: Path) -> None:
    """Images a second of both loaders: median and range.

    Args:
        results: as `benchmark_loaders` returns them.
        file: the PNG to write.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, name in enumerate(LABELS):
        measured = [loaders[name]["wall"] for loaders in results["stages"].values()]
        rates = [1 / entry["median"] for entry in measured]
        below = [rate - 1 / entry["max"] for rate, entry in zip(rates, measured)]
        above = [1 / entry["min"] - rate for rate, entry in zip(rates, measured)]
        places = [index + 0.36 * (place - 0.5) for index in range(len(measured))]
        axes.bar(places, rates, width=0.34, yerr=(below, above), capsize=4, label=LABELS[name])
    axes.set_xticks(range(len(results["stages"])), [STAGES[stage] for stage in results["stages"]])
    axes.set(ylabel="images a second: median and range")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(LABELS))
    figure.suptitle(textwrap.fill(results["setting"], 90), fontsize="small")
    figure.savefig(file, dpi=150)
