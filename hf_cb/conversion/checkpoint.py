"""The tensors of a checkpoint by name, what was around them in the file, and the errors that name both."""

import re
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import UsageError


# what torch.compile, FSDP and activation checkpointing put before the names inside a module that they wrap, and
# DistributedDataParallel together with them; alone, "module" may be a part of the model
WRAPPERS = re.compile(
    r"(?<![^.])(?:module\.)*(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(?:module\.)*)+"
)
OF_DATA_PARALLEL = "module."


class CheckpointError(UsageError):
    """A checkpoint that cannot be converted: one sentence that names the file and the first culprit."""


@dataclass
class Checkpoint:
    """The tensors of a checkpoint.

    Args:
        source: the file, or what stands for it in messages.
        tensors: by name.
        prefix: what all names in the file begin with beyond those of `tensors`, such as "module.".
        entry: which entry of a training script's checkpoint this is, or nothing.
        left_out: the file's other entries.
        names_in_file: by the names of `tensors`, where they differ.
    """

    source: str
    tensors: dict[str, Tensor]
    prefix: str = ""
    entry: str = ""
    left_out: list[str] = field(default_factory=list)
    names_in_file: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> str:
        """A tensor's name as it stands in the file, in quotes."""
        return quoted(self.names_in_file.get(name, self.prefix + name))

    def error(self, sentence: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.source}: {sentence}")

    def unwrap(self) -> None:
        """Take off the names what DistributedDataParallel, torch.compile and their like put there.

        Raises:
            CheckpointError: two tensors are left with one name.
        """
        names = _unwrapped(list(self.tensors))
        self.names_in_file = {}
        for stored, name in names.items():
            if name in self.names_in_file:
                both = f"{quoted(self.names_in_file[name])} and {quoted(stored)}"
                raise self.error(f"holds {both}, which are one tensor under the names of two wrappers.")
            self.names_in_file[name] = stored
        self.tensors = {name: self.tensors[stored] for name, stored in self.names_in_file.items()}
        # where wrappers are around the whole model alone
        prefixes = {stored.removesuffix(name) for stored, name in names.items()}
        self.prefix = prefixes.pop() if len(prefixes) == 1 else ""


def _unwrapped(names: list[str]) -> dict[str, str]:
    """By the names in a file, the model's own."""
    inner = [WRAPPERS.sub("", name) for name in names]
    while all(name.startswith(OF_DATA_PARALLEL) for name in inner):
        inner = [name.removeprefix(OF_DATA_PARALLEL) for name in inner]
    return dict(zip(names, inner))


def quoted(name: object) -> str:
    """Somebody's text in quotes, on one line and not too long for it."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:100]}...{text[-10:]}"
