"""An optimizer that takes its whole process along, as a driver's crash does."""

from __future__ import annotations

import os
from typing import Any

import torch

TOO_MUCH = 0.5


class Deadly(torch.optim.SGD):
    """SGD, unless its learning rate is above TOO_MUCH."""

    def step(self, closure: Any = None) -> Any:
        if self.param_groups[0]["lr"] > TOO_MUCH:
            os._exit(1)
        return super().step(closure)
