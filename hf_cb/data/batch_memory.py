"""Memory of batches that is used again."""

import weakref

import numpy as np
import torch
from torch import Tensor


class BatchMemory:
    """Gives out memory on the CPU, and again once no tensor uses it any more.

    The system takes back a large tensor's memory when it is freed, and page by page handing out new one takes longer
    than normalising a batch. On a GPU torch's allocator keeps memory itself.
    """

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []

    def empty(self, shape: torch.Size) -> Tensor:
        """An uninitialised tensor in float32, aligned to 64 bytes as torch's are: MKL's results may depend on that."""
        size = shape.numel()
        self.free[:] = (memory for memory in self.free if memory.size == size + 16)
        memory = self.free.pop() if self.free else np.empty(size + 16, np.float32)
        start = -memory.ctypes.data % 64 // 4
        # tensors, their views and autograd keep this array alive, and nothing else does
        array = memory[start : start + size]
        weakref.finalize(array, self.free.append, memory)
        return torch.from_numpy(array).view(shape)
