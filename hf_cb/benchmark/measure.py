"""The benchmark of models: what the techniques cost over transformers' models, in time, memory and operations."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..cli.flags import HfArg, ThreadArguments
from ..cli.progress import progress_bar
from ..cli.record import available_cores, describe_run
from ..errors import UsageError
from ..vit_cb.configuration_vit_cb import PRESETS, ViTCBConfig
from .contenders import MODEL_TYPES, SWEPT, build, contenders_of, num_tokens, sizes_of
from .timing import (
    WARMUP_ROUNDS,
    Step,
    count_flops,
    interleaved_seconds,
    kept_bytes,
    num_threads,
    peak_bytes,
    summarize,
)


PHASES = ("forward", "training")


@dataclass
class ModelBenchmarkArguments(ThreadArguments):
    """What is measured."""

    model_type: str = HfArg(
        default=ViTCBConfig.model_type, help="Architecture of the models.", metadata={"choices": list(MODEL_TYPES)}
    )
    preset: str = HfArg(default="small", help="Width of the models.", metadata={"choices": list(PRESETS)})
    num_hidden_layers: int = HfArg(default=12, help="Depth of the models.")
    image_size: int = HfArg(default=224, help="Side of the images in pixels; patches have 16.")
    batch_size: int = HfArg(default=4, help="Images in a step.")
    models: list[str] | None = HfArg(
        default=None,
        help=f"Which models take part, by default all, of {', '.join(contenders_of('vit_cb'))}; of other"
        " architectures than ViT-CB plain, cb, cb_s, attn_scale, feat_scale, all. The first always does.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = HfArg(
        default="float32",
        help="Of weights and images in the forward pass; in training of autocast, over float32 weights.",
    )
    compile: bool = HfArg(default=False, help="Measure what torch.compile makes of the models.")
    device: str = HfArg(default="cpu", help="Where to measure, such as cpu, cuda or cuda:1.")
    num_rounds: int = HfArg(default=10, help="How often every step is timed.")
    sweep_image_sizes: list[int] = HfArg(
        default_factory=lambda: [128, 224, 384, 512, 1024],
        help="Image sizes for the growth of cost with the tokens, 65 to 4,097; none for no sweep.",
    )
    sweep_batch_size: int = HfArg(default=1, help="Images in a step of the sweep.")
    sweep_num_rounds: int = HfArg(default=3, help="How often every step of the sweep is timed.")

    def __post_init__(self) -> None:
        counts = "num_hidden_layers batch_size num_rounds sweep_batch_size sweep_num_rounds"
        self.require_all(counts, lambda value: value >= 1, "at least 1")
        super().__post_init__()
        known = list(contenders_of(self.model_type))
        unknown = [name for name in self.models or [] if name not in known]
        if unknown:
            raise UsageError(f"`models` must be of {', '.join(known)}, got {unknown[0]!r}.")
        self.models = [name for name in known if self.models is None or name == known[0] or name in self.models]
        for size in (self.image_size, *self.sweep_image_sizes):
            self.sizes(size)
        self.torch_device()

    def sizes(self, image_size: int) -> dict[str, Any]:
        """Sizes of the models for images of `image_size` pixels.

        Raises:
            ValueError: there is no such model.
        """
        return sizes_of(ViTCBConfig.from_preset(self.preset, self.num_hidden_layers, image_size=image_size))

    def torch_device(self) -> torch.device:
        """The device, tried out.

        Raises:
            UsageError: torch cannot use it here.
        """
        try:
            device = torch.device(self.device)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(f"`device` {self.device!r} cannot be used here: {error}") from error
        return device


def benchmark_models(arguments: ModelBenchmarkArguments, disable_tqdm: bool = False) -> dict[str, Any]:
    """Measure every model, then the growth of cost with the number of tokens.

    Returns:
        What `describe` tells; `baseline`, the name of the model that all are measured against; `models`: for each name
        its label, `forward` and `training` as `summarize` gives them, each with `peak_bytes` and its ratio
        `peak_ratio`, training with `kept_bytes` for the backward pass and `kept_ratio` too, and `gflops` of a forward
        pass of one image; `sweep`: for each number of tokens the same of the forward pass of some of the models.
        Memory is weights, optimizer state and the step's peak; what is kept is counted without weights.

    Raises:
        UsageError: the memory does not suffice.
    """
    measured = (WARMUP_ROUNDS + arguments.num_rounds) * len(PHASES) * len(arguments.models)
    swept = [name for name in arguments.models if name in SWEPT]
    measured += (WARMUP_ROUNDS + arguments.sweep_num_rounds) * len(arguments.sweep_image_sizes) * len(swept)
    sizes = {size: arguments.sizes(size) for size in sorted(arguments.sweep_image_sizes)}
    with (
        num_threads(arguments.num_cpu_threads),
        progress_bar(total=measured, unit="step", disable=disable_tqdm) as progress,
    ):
        return {
            **describe(arguments),
            "baseline": arguments.models[0],
            "models": _measure_models(arguments, progress),
            "sweep": {
                num_tokens(sizes[size], arguments.model_type): _measure_tokens(arguments, swept, size, progress)
                for size in sizes
            },
        }


def describe(arguments: ModelBenchmarkArguments) -> dict[str, Any]:
    """Arguments, versions, hardware and number of threads, and the gist of it in one line, `setting`."""
    run, device = describe_run(arguments), arguments.torch_device()
    if device.type == "cpu":
        cores = available_cores()
        run["hardware"] = f"{platform.machine()} CPU, {cores} cores, {torch.get_num_threads()} of them used"
    versions = ", ".join(f"{name} {run['versions'][name]}" for name in ("torch", "transformers", "timm"))
    compiled = ", compiled" if arguments.compile else ""
    kind = "ViT" if arguments.model_type == ViTCBConfig.model_type else arguments.model_type
    model = f"{kind}-{arguments.preset}/16, {arguments.num_hidden_layers} layers, {arguments.image_size} pixels"
    step = f"batch of {arguments.batch_size}, {arguments.dtype}{compiled}, n = {arguments.num_rounds}"
    return {**run, "setting": f"{model}, {step}; {run['hardware']}; {versions}"}


def _measure_models(arguments: ModelBenchmarkArguments, progress: tqdm) -> dict[str, Any]:
    sizes, names = arguments.sizes(arguments.image_size), arguments.models
    phases = {
        phase: _measure(arguments, names, phase, sizes, arguments.batch_size, arguments.num_rounds, progress)
        for phase in PHASES
    }
    return {
        name: {
            "label": contenders_of(arguments.model_type)[name][0],
            "gflops": _gflops(arguments, name, sizes),
            **{phase: measured[name] for phase, measured in phases.items()},
        }
        for name in names
    }


def _measure_tokens(
    arguments: ModelBenchmarkArguments, names: list[str], image_size: int, progress: tqdm
) -> dict[str, Any]:
    rounds = arguments.sweep_num_rounds
    sizes, batch_size = arguments.sizes(image_size), arguments.sweep_batch_size
    measured = _measure(arguments, names, "forward", sizes, batch_size, rounds, progress)
    return {name: {"gflops": _gflops(arguments, name, sizes), "forward": measured[name]} for name in names}


def _measure(
    arguments: ModelBenchmarkArguments,
    names: list[str],
    phase: str,
    sizes: dict[str, Any],
    batch_size: int,
    num_rounds: int,
    progress: tqdm,
) -> dict[str, Any]:
    device, make_step = arguments.torch_device(), STEPS[phase]
    progress.set_description(f"{phase}, {sizes['image_size']} pixels")
    images = torch.randn(batch_size, 3, sizes["image_size"], sizes["image_size"], device=device)
    try:
        subjects = {name: make_step(arguments, name, sizes, images) for name in names}
        steps = {name: subject.step for name, subject in subjects.items()}
        measured = summarize(interleaved_seconds(steps, num_rounds, device, progress), names[0])
        for name, subject in subjects.items():
            measured[name]["peak_bytes"] = subject.held() + peak_bytes(subject.step, device)
            if phase == "training":
                measured[name]["kept_bytes"] = kept_bytes(subject.step, subject.parameters)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UsageError(
            f"{batch_size} images of {sizes['image_size']} pixels do not fit into memory ({phase}): give a smaller"
            " batch, smaller images, or fewer --models."
        ) from error
    baseline = measured[names[0]]
    for model in measured.values():
        kinds = [kind for kind in ("peak", "kept") if f"{kind}_bytes" in model]
        model |= {f"{kind}_ratio": model[f"{kind}_bytes"] / baseline[f"{kind}_bytes"] for kind in kinds}
    return measured


@dataclass(frozen=True)
class Subject:
    """What is measured: a step, the bytes that are held before it, and the parameters among them."""

    step: Step
    held: Callable[[], int]
    parameters: list[nn.Parameter]


def _forward_step(arguments: ModelBenchmarkArguments, name: str, sizes: dict[str, Any], images: Tensor) -> Subject:
    dtype = getattr(torch, arguments.dtype)
    model = build(name, sizes, images.device, dtype, arguments.model_type).eval()
    run, images = _maybe_compiled(model, arguments), images.to(dtype)

    @torch.inference_mode()
    def step() -> None:
        run(images)

    parameters = list(model.parameters())
    return Subject(step, lambda: _bytes_of(parameters), parameters)


def _training_step(arguments: ModelBenchmarkArguments, name: str, sizes: dict[str, Any], images: Tensor) -> Subject:
    model = build(name, sizes, images.device, torch.float32, arguments.model_type).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run, dtype = _maybe_compiled(model, arguments), getattr(torch, arguments.dtype)
    labels = torch.arange(len(images), device=images.device) % sizes["num_labels"]

    def step() -> None:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(run(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def held() -> int:
        state = [value for values in optimizer.state.values() for value in values.values()]
        return _bytes_of([*model.parameters(), *state])

    return Subject(step, held, list(model.parameters()))


STEPS = {"forward": _forward_step, "training": _training_step}


def _maybe_compiled(model: nn.Module, arguments: ModelBenchmarkArguments) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, dynamic=False) if arguments.compile else model


def _bytes_of(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _gflops(arguments: ModelBenchmarkArguments, name: str, sizes: dict[str, Any]) -> float:
    # no number is computed on the meta device
    model = build(name, sizes, torch.device("meta"), torch.float32, arguments.model_type).eval()
    images = torch.empty(1, 3, sizes["image_size"], sizes["image_size"], device="meta")
    with torch.no_grad():
        return count_flops(lambda: model(images)) / 1e9
