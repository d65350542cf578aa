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
    """This process among those that train together; by default it is alone.

    Each draws the same batches of `count` times `batch_size` pictures, trains on its slice, and
    has the sum of all gradients: weights, optimizers and random streams stay the same in all.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this one writes the files and the log."""
        return self.rank == 0

    def slice(self, rows: int) -> slice:
        """This process's part of so many rows; the first ones get those that are over."""
        size = -(-rows // self.count)
        return slice(min(rows, self.rank * size), min(rows, (self.rank + 1) * size))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bytes in each."""
        return tensor if self.count == 1 else reduce(tensor, "sum")

    def any(self, asked: bool) -> bool:
        """Whether it is so in one of them."""
        if self.count == 1:
            return asked
        flag = torch.tensor(float(asked), device=PartialState().device)
        return bool(reduce(flag, "sum") > 0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


ALONE = ProcessGroup()


def started_processes(device: str) -> ProcessGroup:
    """Those that a launcher started, of which this is one; they find each other here.

    Args:
        device: base.device; "cpu" keeps off the GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    state = PartialState(cpu=device == "cpu")
    return ProcessGroup(state.process_index, state.num_processes)
