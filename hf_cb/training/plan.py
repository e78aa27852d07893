"""What a run is going to be, said before it starts."""

from dataclasses import asdict, dataclass


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
            f"{self.num_train_epochs} epochs of {self.updates_per_epoch:,} steps, {self.num_updates:,} steps in all"
        )
