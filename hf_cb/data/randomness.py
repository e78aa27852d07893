"""Random choices that are a function of some integers alone, whatever was drawn before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_random_generators(*key: int) -> None:
    """Make the states of Python's, numpy's and torch's generators on the CPU a function of some integers alone."""
    # numpy's seed sequence mixes the integers well; three words, one for each generator
    words = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    # not torch.manual_seed, which seeds every device too and takes a millisecond
    torch.default_generator.manual_seed(words[2])


def seed_device_generator(device: torch.device, *key: int) -> None:
    """The same for the generator of a GPU; nothing on a CPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(mixed(*key))


def mixed(*key: int) -> int:
    """One integer of 32 bits from several, such that neighbouring keys give unrelated ones."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """After the context, the random generators on the CPU are where they were before it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
