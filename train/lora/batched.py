"""K adapters in one batch, at the cost of a few operations instead of K forward passes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModuleShapes:
    """One module's matrices: down (r, in[, k, k]) and up (out, r[, 1, 1])."""

    key: str
    down: Shape
    up: Shape

    @property
    def rank(self) -> int:
        return self.down[0]

    def widened(self, rank: int) -> ModuleShapes:
        """The shapes of the same module with another rank."""
        return ModuleShapes(self.key, (rank, *self.down[1:]), (self.up[0], rank, *self.up[2:]))


@dataclass(frozen=True, eq=False)
class FlatLayout:
    """Positions of the matrices of one network's LoRA in a flat tensor.

    Attributes:
        scales: alpha / rank of each part.
    """

    parts: tuple[ModuleShapes, ...]
    scales: tuple[float, ...]

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for part in self.parts for shape in (part.down, part.up)]

    def split(self, flat: Tensor) -> Iterator[tuple[ModuleShapes, Tensor, Tensor]]:
        """(..., n) -> each part with its matrices (..., *down) and (..., *up), as views."""
        pieces = iter(flat.split(self.sizes, dim=-1))
        for part, down, up in zip(self.parts, pieces, pieces, strict=False):
            yield part, down.unflatten(-1, part.down), up.unflatten(-1, part.up)


class PaddingPlan:
    """How the layouts of K adapters, with different ranks and modules, are padded to a common one.

    Attributes:
        padded: the common layout, which has room for each adapter.
        indices: for each adapter the positions of its weights in the padded layout; None if it
            needs no padding.
        ranks: key -> rank of each adapter.
        scales: (parts, K, 1, 1).
    """

    def __init__(self, layouts: tuple[FlatLayout, ...], device: torch.device) -> None:
        widest: dict[str, ModuleShapes] = {}
        for layout in layouts:
            for part in layout.parts:
                largest = widest.setdefault(part.key, part)
                widest[part.key] = largest.widened(max(largest.rank, part.rank))
        self.padded = FlatLayout(tuple(widest.values()), ())
        self.indices = [self._indices(layout, device) for layout in layouts]
        parts = [{p.key: (p.rank, s) for p, s in zip(a.parts, a.scales, strict=True)}
                 for a in layouts]  # fmt: skip
        self.ranks = {key: [each.get(key, (0, 0.0))[0] for each in parts] for key in widest}
        rows = [[each.get(key, (0, 0.0))[1] for each in parts] for key in widest]
        self.scales = torch.tensor(rows, device=device).view(len(rows), len(layouts), 1, 1)

    def _indices(self, layout: FlatLayout, device: torch.device) -> Tensor | None:
        if layout.parts == self.padded.parts:
            return None
        positions = torch.arange(sum(self.padded.sizes))
        padded = {part.key: matrices for part, *matrices in self.padded.split(positions)}
        chosen = [torch.empty(0, dtype=torch.long)]
        for part in layout.parts:
            down, up = padded[part.key]
            chosen += [down[: part.rank].flatten(), up[:, : part.rank].flatten()]
        return torch.cat(chosen).to(device)

    def stack(self, flats: list[Tensor], dtype: torch.dtype) -> Tensor:
        """The flat tensors of the adapters as rows, (K, n), padded with zeros."""
        total = sum(self.padded.sizes)
        rows = []
        for flat, indices in zip(flats, self.indices, strict=True):
            row = flat.to(dtype)
            if indices is not None:
                row = row.new_zeros(total).index_copy(0, indices, row)
            rows.append(row)
        return torch.stack(rows)


make_padding_plan = lru_cache(maxsize=8)(PaddingPlan)


@dataclass(frozen=True)
class Dropout:
    """Dropout of the intermediate activations of a LoRA in one step (kohya's network_dropout).

    Attributes:
        rate: 0 to below 1.
        seed: of this step; a module's mask depends only on it and on the module's key.
        shard: which rows of the batch these are, and how many the batch has; None: all of them.
    """

    rate: float
    seed: int
    shard: tuple[slice, int] | None = None

    def mask(self, key: str, like: Tensor) -> Tensor:
        """Zeros, and 1 / (1 - rate) for values that are kept; in the shape of `like`."""
        random = torch.Generator(like.device).manual_seed(self.seed ^ zlib.crc32(key.encode()))
        if self.shard is None:
            uniform = torch.rand(like.shape, generator=random, device=like.device)
        else:  # as for the whole batch
            rows, count = self.shard
            positions = len(like) // (rows.stop - rows.start)
            shape = (count, positions, *like.shape[1:])
            uniform = torch.rand(shape, generator=random, device=like.device)[rows].flatten(0, 1)
        return (uniform >= self.rate).to(like.dtype) / (1 - self.rate)


class BatchedLoRA:
    """The matrices of K adapters, for a batch whose rows belong to them in equal parts.

    Smaller ranks are padded with zeros, which changes nothing. Gradients flow back to the flat
    tensors.

    Args:
        networks: for each network the layouts and the flat tensors of the K adapters.
        dropouts: one for each adapter, or none.
    """

    def __init__(
        self,
        networks: list[tuple[tuple[FlatLayout, ...], list[Tensor]]],
        dtype: torch.dtype,
        dropouts: Sequence[Dropout] = (),
    ) -> None:
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        self.ranks: dict[str, list[int]] = {}  # key -> rank of each adapter
        self.dropouts = dropouts if any(dropout.rate for dropout in dropouts) else ()
        for layouts, flats in networks:
            plan = make_padding_plan(layouts, flats[0].device)
            scales = plan.scales.to(dtype).unbind()
            parts = plan.padded.split(plan.stack(flats, dtype))
            self.ranks |= plan.ranks
            for (part, down, up), scale in zip(parts, scales, strict=True):
                self.down[part.key] = down
                self.up[part.key] = up.flatten(2) * scale

    def add(self, key: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """The output of `module` for input `x`, plus the contribution of each row's LoRA."""
        if key not in self.down:
            return output
        down, up = self.down[key], self.up[key]
        if isinstance(module, nn.Conv2d):
            middle = self._dropped(key, _conv(x, down, module))
            return _up(output.permute(0, 2, 3, 1), middle, up).permute(0, 3, 1, 2)
        middle = self._dropped(key, torch.bmm(_rows(x, len(down)), down.mT))
        return _up(output, middle, up)

    def _dropped(self, key: str, middle: Tensor) -> Tensor:
        """The intermediate activations (K, M, r), after each adapter's dropout."""
        if not self.dropouts:
            return middle
        masks = torch.ones_like(middle)
        for k, (dropout, rank) in enumerate(zip(self.dropouts, self.ranks[key], strict=True)):
            if dropout.rate:
                masks[k, :, :rank] = dropout.mask(key, middle[k, :, :rank])
        return middle * masks


def _rows(x: Tensor, count: int) -> Tensor:
    """(N, ..., c) -> (K, N / K * ..., c)."""
    return x.reshape(count, -1, x.shape[-1])


def _up(output: Tensor, middle: Tensor, up: Tensor) -> Tensor:
    """Adds middle (K, M, r) times up (K, out, r) to the output (N, ..., out)."""
    return torch.baddbmm(_rows(output, len(up)), middle, up.mT).view(output.shape)


def _conv(x: Tensor, down: Tensor, module: nn.Conv2d) -> Tensor:
    """(N, c, h, w) and (K, r, c, k, k) -> (K, N / K * h * w, r)."""
    count, rank = down.shape[:2]
    if module.kernel_size == (1, 1) and module.stride == (1, 1):
        return torch.bmm(_rows(x.permute(0, 2, 3, 1), count), down.flatten(2).mT)
    # one grouped convolution: the rows of the K adapters become channels of the same image
    grouped = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
    middle = functional.conv2d(
        grouped, down.flatten(0, 1), None, module.stride, module.padding, groups=count
    )
    return middle.unflatten(1, (count, rank)).permute(1, 0, 3, 4, 2).reshape(count, -1, rank)
