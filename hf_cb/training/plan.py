"""What a run is going to be, said before it starts."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


# after one that warms up; few, since a step of a large model on a CPU takes a while
TIMED_STEPS = 2


@dataclass
class Plan:
    """The size of a run.

    Args:
        recipe: name of its recipe.
        num_parameters: of the model, and how many of them are trained.
        num_train_images: in an epoch.
        per_device_train_batch_size: images in a step of one process.
        num_processes: that train together.
        gradient_accumulation_steps: steps in an update.
        learning_rate: the highest.
        warmup_epochs: with a rising learning rate.
        num_train_epochs: passes over the images.
        updates_per_epoch: changes of the weights in one of them.
        seconds_per_epoch: estimate from a few steps and a few images, without evaluation.
    """

    recipe: str
    num_parameters: int
    num_train_images: int
    per_device_train_batch_size: int
    num_processes: int
    gradient_accumulation_steps: int
    learning_rate: float
    warmup_epochs: float
    num_train_epochs: int
    updates_per_epoch: int
    seconds_per_epoch: float

    @property
    def effective_batch_size(self) -> int:
        """Images in an update."""
        return self.per_device_train_batch_size * self.num_processes * self.gradient_accumulation_steps

    @property
    def num_updates(self) -> int:
        """Of the whole run."""
        return self.num_train_epochs * self.updates_per_epoch

    def to_dict(self) -> dict[str, float]:
        """For `all_results.json`."""
        return {**asdict(self), "effective_batch_size": self.effective_batch_size, "num_updates": self.num_updates}

    def __str__(self) -> str:
        parts = f"{self.per_device_train_batch_size} images x {self.num_processes} process"
        parts += "es" if self.num_processes > 1 else ""
        if self.gradient_accumulation_steps > 1:
            parts += f" x {self.gradient_accumulation_steps} batches an update"
        # the recipes' warm-up may be longer than a short trial
        never = ", which this run does not reach" if self.warmup_epochs >= self.num_train_epochs else ""
        return (
            f"recipe {self.recipe}, {self.num_parameters / 1e6:.2f} M parameters, {self.num_train_images:,} training"
            " images\n"
            f"effective batch {self.effective_batch_size:,} ({parts}), learning rate {self.learning_rate:.3g}"
            f" after a warm-up of {self.warmup_epochs:.3g} epochs{never}\n"
            f"{self.num_train_epochs} epochs of {self.updates_per_epoch:,} steps, {self.num_updates:,} steps in all;"
            f" about {duration(self.seconds_per_epoch)} an epoch without evaluation,"
            f" {duration(self.seconds_per_epoch * self.num_train_epochs)} in all"
        )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{math.ceil(seconds)} s"


def seconds_of(
    action: Callable[[], object], times: int = TIMED_STEPS, wait: Callable[[], None] = lambda: None
) -> float:
    """Mean time of an action, after one that is not counted.

    Args:
        action: what to time.
        times: how often.
        wait: returns when the device has done what it was given.
    """
    action()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        action()
    wait()
    return (time.perf_counter() - start) / times
