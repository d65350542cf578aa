"""K adapters side by side, so that a pack costs a network a few operations more and not K times."""

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
        """The same module's matrices at another rank."""
        return ModuleShapes(self.key, (rank, *self.down[1:]), (self.up[0], rank, *self.up[2:]))


@dataclass(frozen=True, eq=False)
class FlatLayout:
    """Where the matrices of one network's LoRA lie in a flat tensor.

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
    """How the layouts of K adapters, of different ranks and modules, are laid over each other.

    Attributes:
        widest: the layout that has room for each of them.
        places: for each adapter the indices of its numbers in it; None: it has all of them.
        ranks: key -> each adapter's own.
        scales: (parts, K, 1, 1).
    """

    def __init__(self, layouts: tuple[FlatLayout, ...], device: torch.device) -> None:
        widest: dict[str, ModuleShapes] = {}
        for layout in layouts:
            for part in layout.parts:
                known = widest.setdefault(part.key, part)
                widest[part.key] = known.widened(max(known.rank, part.rank))
        self.widest = FlatLayout(tuple(widest.values()), ())
        self.places = [self._places(layout, device) for layout in layouts]
        own = [{p.key: (p.rank, s) for p, s in zip(a.parts, a.scales, strict=True)}
               for a in layouts]  # fmt: skip
        self.ranks = {key: [known.get(key, (0, 0.0))[0] for known in own] for key in widest}
        rows = [[known.get(key, (0, 0.0))[1] for known in own] for key in widest]
        self.scales = torch.tensor(rows, device=device).view(len(rows), len(layouts), 1, 1)

    def _places(self, layout: FlatLayout, device: torch.device) -> Tensor | None:
        if layout.parts == self.widest.parts:
            return None
        rooms = {part.key: room for part, *room in self.widest.split(self._numbers())}
        chosen = [torch.empty(0, dtype=torch.long)]
        for part in layout.parts:
            down, up = rooms[part.key]
            chosen += [down[: part.rank].flatten(), up[:, : part.rank].flatten()]
        return torch.cat(chosen).to(device)

    def _numbers(self) -> Tensor:
        return torch.arange(sum(self.widest.sizes))

    def lay(self, flats: list[Tensor], dtype: torch.dtype) -> Tensor:
        """The adapters' numbers one below the other, (K, n), with zeros where one has none."""
        total = sum(self.widest.sizes)
        rows = []
        for flat, places in zip(flats, self.places, strict=True):
            row = flat.to(dtype)
            if places is not None:
                row = row.new_zeros(total).index_copy(0, places, row)
            rows.append(row)
        return torch.stack(rows)


make_padding_plan = lru_cache(maxsize=8)(PaddingPlan)


@dataclass(frozen=True)
class Dropout:
    """How much of a LoRA's middle is left out in one step (kohya's network_dropout).

    Attributes:
        rate: 0 to below 1.
        seed: of this step; a module's mask hangs on it and on the module's key alone.
        part: which rows of the batch these are, and how many it has; None: all of them.
    """

    rate: float
    seed: int
    part: tuple[slice, int] | None = None

    def mask(self, key: str, like: Tensor) -> Tensor:
        """Zeros, and 1 / (1 - rate) where a value is kept; in the shape of `like`."""
        random = torch.Generator(like.device).manual_seed(self.seed ^ zlib.crc32(key.encode()))
        if self.part is None:
            drawn = torch.rand(like.shape, generator=random, device=like.device)
        else:  # drawn as for the whole batch
            rows, count = self.part
            positions = len(like) // (rows.stop - rows.start)
            shape = (count, positions, *like.shape[1:])
            drawn = torch.rand(shape, generator=random, device=like.device)[rows].flatten(0, 1)
        return (drawn >= self.rate).to(like.dtype) / (1 - self.rate)


class BatchedLoRA:
    """The matrices of K adapters, ready for a batch whose rows belong to them in equal parts.

    Ranks that are smaller than the largest are filled up with zeros, which changes nothing.
    Gradients flow back to the flat tensors.

    Args:
        networks: for each network the layouts and the flat tensors of the K adapters.
        dropouts: one for each adapter, or none at all.
    """

    def __init__(
        self,
        networks: list[tuple[tuple[FlatLayout, ...], list[Tensor]]],
        dtype: torch.dtype,
        dropouts: Sequence[Dropout] = (),
    ) -> None:
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        self.ranks: dict[str, list[int]] = {}  # each adapter's own
        self.dropouts = dropouts if any(dropout.rate for dropout in dropouts) else ()
        for layouts, flats in networks:
            plan = make_padding_plan(layouts, flats[0].device)
            scales = plan.scales.to(dtype).unbind()
            laid = plan.widest.split(plan.lay(flats, dtype))
            self.ranks |= plan.ranks
            for (part, down, up), scale in zip(laid, scales, strict=True):
                self.down[part.key] = down
                self.up[part.key] = up.flatten(2) * scale

    def add(self, key: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """The output of `module` for input `x`, with what each row's LoRA adds to it."""
        if key not in self.down:
            return output
        down, up = self.down[key], self.up[key]
        if isinstance(module, nn.Conv2d):
            middle = self._dropped(key, _conv(x, down, module))
            return _up(output.permute(0, 2, 3, 1), middle, up).permute(0, 3, 1, 2)
        middle = self._dropped(key, torch.bmm(_rows(x, len(down)), down.mT))
        return _up(output, middle, up)

    def _dropped(self, key: str, middle: Tensor) -> Tensor:
        """The middle (K, M, r), less what each adapter's dropout takes."""
        if not self.dropouts:
            return middle
        kept = torch.ones_like(middle)
        for k, (dropout, rank) in enumerate(zip(self.dropouts, self.ranks[key], strict=True)):
            if dropout.rate:
                kept[k, :, :rank] = dropout.mask(key, middle[k, :, :rank])
        return middle * kept


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
    # one convolution in K groups: the rows of the adapters become channels of the same picture
    grouped = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
    middle = functional.conv2d(
        grouped, down.flatten(0, 1), None, module.stride, module.padding, groups=count
    )
    return middle.unflatten(1, (count, rank)).permute(1, 0, 3, 4, 2).reshape(count, -1, rank)
