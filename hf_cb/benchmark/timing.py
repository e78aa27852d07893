"""What a step costs: time, memory, what it keeps for the backward pass, and floating-point operations."""

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm


Step = Callable[[], Any]

# the first calls allocate, choose kernels and compile
WARMUP_ROUNDS = 2


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def interleaved_seconds(
    steps: dict[str, Step], num_rounds: int, device: torch.device, progress: tqdm
) -> dict[str, list[float]]:
    """Time steps in turn, each once a round and in a new order every round, so that none has the quiet minutes alone.

    Args:
        steps: by name.
        num_rounds: how often each is timed, after two rounds of warming up.
        device: that they run on.
        progress: gets one update a step.

    Returns:
        `num_rounds` wall-clock times in seconds for each name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffler = list(steps), random.Random(0)
    for round_index in range(WARMUP_ROUNDS + num_rounds):
        shuffler.shuffle(order)
        for name in order:
            synchronize(device)
            start = time.perf_counter()
            steps[name]()
            synchronize(device)
            if round_index >= WARMUP_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
            progress.update()
    return seconds


def summarize(seconds: dict[str, list[float]], baseline: str) -> dict[str, dict[str, Any]]:
    """Median, range and best of each, and the same as ratios to the baseline.

    Args:
        seconds: as `interleaved_seconds` returns them.
        baseline: the name that the others are compared with.

    Returns:
        For each name `seconds` (all of them), `median`, `min`, `max`; `ratio`, the median of the ratios within a round,
        with `ratio_min` and `ratio_max`; and `ratio_of_best`, of the shortest times.
    """
    result = {}
    for name, times in seconds.items():
        ratios = [time / base for time, base in zip(times, seconds[baseline], strict=True)]
        result[name] = {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ratio_of_best": min(times) / min(seconds[baseline]),
            "seconds": times,
        }
    return result


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most memory that a step holds at once, beyond what is held before it.

    On an accelerator what torch's allocator says; on a CPU torch's profiler, which knows of every tensor, not of the
    scratch space that matrix libraries take for themselves.
    """
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # the profiler's own messages, of devices that are not there; read when the first profile starts
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for change in _memory_changes(profile):
        held += change
        peak = max(peak, held)
    return peak


def _memory_changes(profile: torch.profiler.profile) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    yield from (event["args"]["Bytes"] for event in sorted(changes, key=lambda event: event["ts"]))


def kept_bytes(step: Step, parameters: Iterable[Tensor]) -> int:
    """What a step keeps for its backward pass, beside the parameters: a count, the same in every run.

    Args:
        step: a forward pass, with or without what follows.
        parameters: of the model, which are held anyway.
    """
    held = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    # by address, which is one storage's until the backward pass lets go of it; by then all has been seen
    kept: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        step()
    return sum(kept.values())


def count_flops(step: Step) -> int:
    """Floating-point operations of a step's matrix products and convolutions, attention's two products included.

    Element-wise operations and reductions, and so all that the techniques add, are not counted by torch's counter. Its
    hooks see every module, so that none is computed inside another: there AttnScale and FeatScale multiply one to three
    vectors an image with the projection's weights, beside the image's tokens.
    """
    # the counter does not know every fused attention kernel; as matrix products all are known
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops()


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Threads that torch computes with on a CPU; 0 leaves it to torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
