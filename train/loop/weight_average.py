"""The average of a trial's weights over its last steps, which its files then contain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from train.lora.adapter import Adapter


class WeightAverage:
    """An average whose length grows with the training, by a power function (Karras et al. 2024).

    Unlike that of an exponential average, its length needs no knowledge of the number of steps, and
    the weights of the beginning are forgotten. The two matrices of a module are averaged
    separately.

    Args:
        width: the standard deviation of the time that a step lies back, as a share of the time
            trained so far; above 0, at most 0.28, as in the mean of all steps.
    """

    def __init__(self, adapter: Adapter, width: float) -> None:
        self.flat = {name: flat.detach().clone() for name, flat in adapter.flat.items()}
        self.steps, self.exponent = 0, exponent(width)

    def update(self, adapter: Adapter) -> None:
        """Takes in the weights after a further step."""
        self.steps += 1
        new = 1 - (1 - 1 / self.steps) ** (self.exponent + 1)
        for name, flat in adapter.flat.items():
            self.flat[name].lerp_(flat.detach(), new)

    @contextmanager
    def swapped_into(self, adapter: Adapter) -> Iterator[None]:
        """Context manager: the adapter holds the average, afterwards the same bytes as before."""
        with restored(adapter):
            _copy(self.flat, adapter)
            yield

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to continue."""
        return {"steps": self.steps, "flat": self.flat}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state.

        Raises:
            KeyError, TypeError, ValueError: it is not that of such an adapter.
        """
        if any(state["flat"][name].shape != flat.shape for name, flat in self.flat.items()):
            raise ValueError("its average is of another network")
        if not isinstance(state["steps"], int) or state["steps"] < 0:
            raise ValueError("its average has an invalid number of steps")
        for name, flat in self.flat.items():
            flat.copy_(state["flat"][name])
        self.steps = state["steps"]


@contextmanager
def restored(adapter: Adapter) -> Iterator[None]:
    """Context manager: afterwards the adapter's weights are the same bytes as before."""
    before = {name: flat.detach().clone() for name, flat in adapter.flat.items()}
    try:
        yield
    finally:
        _copy(before, adapter)


def exponent(width: float) -> float:
    """The power of time by which steps are weighted in an average of this width.

    Args:
        width: above 0, at most 0.28.
    """
    low, high = 0.0, 2 / width**2  # the width falls with the exponent
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        # the standard deviation of a distribution with density t ** exponent, for t from 0 to 1
        if ((middle + 1) / (middle + 3)) ** 0.5 / (middle + 2) > width:
            low = middle
        else:
            high = middle
    return high


@torch.no_grad()
def _copy(flats: dict[str, torch.Tensor], adapter: Adapter) -> None:
    for name, flat in adapter.flat.items():
        flat.copy_(flats[name])
