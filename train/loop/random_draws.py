"""The random choices for a batch, made on the CPU so that they are the same on every device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from train.lora.batched import Dropout
from train.system.distributed import ProcessGroup


@dataclass(frozen=True)
class MicroBatch:
    """The random choices for one trial's part of a batch, on the CPU.

    Attributes:
        sizes: (n, 6) of the images, see `BaseModel.size_conditioning`.
        weights: of the rows in the loss.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    sizes: Tensor
    weights: Tensor
    captions: list[str]
    dropout: Dropout

    def shard(self, processes: ProcessGroup) -> MicroBatch:
        """The rows of this process."""
        if processes.count == 1:
            return self
        count = len(self.latents)
        rows = processes.slice(count)
        parts: dict[str, Any] = {
            k: v[rows] for k, v in vars(self).items() if isinstance(v, Tensor | list)
        }
        return replace(self, **parts, dropout=replace(self.dropout, shard=(rows, count)))
