"""The processes that train one LoRA together, as `accelerate launch` or `torchrun` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; a single one by default.

    Each samples the same batches of `count` times `batch_size` images, trains on its slice, and
    gets the sum of all gradients: weights, optimizers and random streams stay equal.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def slice(self, rows: int) -> slice:
        """This process's part of `rows` rows; the first processes get the remainder."""
        size = -(-rows // self.count)
        return slice(min(rows, self.rank * size), min(rows, (self.rank + 1) * size))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bytes in each."""
        return tensor if self.count == 1 else reduce(tensor, "sum")

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=PartialState().device)
        return bool(reduce(value, "sum") > 0)

    def wait(self) -> None:
        """Waits until all processes have reached this point."""
        if self.count > 1:
            PartialState().wait_for_everyone()


SINGLE_PROCESS = ProcessGroup()


def connect_processes(device: str) -> ProcessGroup:
    """The processes that a launcher started, including this one, after connecting to them.

    Args:
        device: base.device; "cpu" avoids the GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    state = PartialState(cpu=device == "cpu")
    return ProcessGroup(state.process_index, state.num_processes)
