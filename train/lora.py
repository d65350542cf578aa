"""LoRA adapters on a frozen base: K of them in one forward pass, each row of a batch owned by one.

The layers of Hu et al. 2021 (arXiv 2106.09685), on the modules that kohya's `networks.lora` takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.config import NetworkConfig

UNET_BLOCKS = ("Transformer2DModel",)
UNET_CONV_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT_ENCODER_BLOCKS = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")


class Adapter(nn.Module):
    """One LoRA: for each target module a `down` and an `up` matrix and the scale alpha / rank.

    The keys are kohya's names, as `lora_unet_down_blocks_0_attentions_0_proj_in`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self.alpha: dict[str, float] = {}

    def put(self, key: str, down: Tensor, up: Tensor, alpha: float) -> None:
        """Adds the matrices for one module: down (r, in[, k, k]), up (out, r[, 1, 1])."""
        self.down[key] = nn.Parameter(down)
        self.up[key] = nn.Parameter(up)
        self.alpha[key] = alpha

    def delta(self, key: str, module: nn.Module, x: Tensor) -> Tensor | None:
        """What the LoRA adds to the output of `module` for input `x`; None where it has no part."""
        if key not in self.down:
            return None
        down, up = self.down[key].to(x.dtype), self.up[key].to(x.dtype)
        scale = self.alpha[key] / down.shape[0]
        if isinstance(module, nn.Conv2d):
            middle = functional.conv2d(x, down, None, module.stride, module.padding)
            return functional.conv2d(middle * scale, up)
        return functional.linear(functional.linear(x, down) * scale, up)

    def parts(self, prefix: str) -> list[nn.Parameter]:
        """The parameters of the modules whose key begins with `prefix`, in a fixed order."""
        chosen = [key for key in self.down if key.startswith(prefix)]
        return [matrix[key] for key in chosen for matrix in (self.down, self.up)]


class Adapters:
    """The places on a base's networks where adapters go, and the adapters now in use.

    Args:
        networks: prefix of the keys (`lora_unet`, `lora_te`) -> network. The networks are frozen
            here, and stay as they are: the adapters join by forward hooks.
    """

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.targets: dict[str, nn.Module] = {}
        self.conv_only: set[str] = set()  # keys that are targets only where conv_rank > 0
        self.active: list[Adapter] = []
        for prefix, network in networks.items():
            network.requires_grad_(False).eval()
            self._find_targets(prefix, network)
        for key, module in self.targets.items():
            module.register_forward_hook(self._hook(key))

    @property
    def device(self) -> torch.device:
        """Where the base's networks are."""
        return next(iter(self.targets.values())).weight.device  # type: ignore[return-value]

    def _find_targets(self, prefix: str, network: nn.Module) -> None:
        for block_name, block in network.named_modules():
            kind = type(block).__name__
            if kind not in (*UNET_BLOCKS, *UNET_CONV_BLOCKS, *TEXT_ENCODER_BLOCKS):
                continue
            for name, module in block.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    key = f"{prefix}_{kohya_name(prefix, f'{block_name}.{name}')}"
                    self.targets[key] = module
                    if kind in UNET_CONV_BLOCKS:
                        self.conv_only.add(key)

    def _hook(self, key: str):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self._add(key, module, inputs[0], output)

        return add

    def _add(self, key: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        if len(self.active) == 1:
            delta = self.active[0].delta(key, module, x)
            return output if delta is None else output + delta
        if not self.active:
            return output
        rows = x.chunk(len(self.active))
        deltas = [a.delta(key, module, row) for a, row in zip(self.active, rows, strict=True)]
        outputs = output.chunk(len(self.active))
        return torch.cat([o if d is None else o + d for o, d in zip(outputs, deltas, strict=True)])

    def create(self, network: NetworkConfig, generator: torch.Generator) -> Adapter:
        """A new adapter that changes nothing yet: down kaiming-uniform, up zero (as kohya's)."""
        adapter = Adapter()
        for key, module in self.targets.items():
            if key.startswith("lora_te") and not network.text_encoder:
                continue
            if key in self.conv_only and not network.conv_rank:
                continue
            rank, alpha = sizes(network, module)
            outputs, *inputs = shape(module)
            down = torch.empty(rank, *inputs)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            up = torch.zeros(outputs, rank, *([1, 1] if down.ndim == 4 else []))
            adapter.put(key, down, up, alpha)
        return adapter

    @contextmanager
    def using(self, adapters: list[Adapter]) -> Iterator[None]:
        """Within this context the rows of a batch are split evenly, in order, over `adapters`.

        An empty list is the bare base.
        """
        before, self.active = self.active, adapters
        try:
            yield
        finally:
            self.active = before

    @contextmanager
    def merged(self, adapter: Adapter) -> Iterator[None]:
        """Within this context the adapter is part of the base's weights, and costs no time."""
        weights = {key: cast(Tensor, self.targets[key].weight).detach() for key in adapter.down}
        before = {key: weight.clone() for key, weight in weights.items()}
        for key, weight in weights.items():
            down, up = (m[key].detach().flatten(1) for m in (adapter.down, adapter.up))
            change = (up @ down).view(weight.shape) * (adapter.alpha[key] / len(down))
            weight.copy_(weight.float() + change)
        try:
            yield
        finally:
            for key, weight in weights.items():
                weight.copy_(before[key])


def shape(module: nn.Module) -> torch.Size:
    """Of the module's weight: (out, in) or (out, in, k, k)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape


def sizes(network: NetworkConfig, module: nn.Module) -> tuple[int, float]:
    """Rank and alpha for one module: 3x3 convolutions take conv_rank, all others rank."""
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        rank, alpha = network.conv_rank, network.conv_alpha
    else:
        rank, alpha = network.rank, network.alpha
    return rank, float(rank) if alpha is None else alpha


def kohya_name(prefix: str, path: str) -> str:
    """A module's path as kohya writes it: dots become underscores."""
    name = path.replace(".", "_")
    # transformers 5 dropped the `text_model` level from CLIPTextModel; the files keep it
    if prefix.startswith("lora_te") and not name.startswith("text_model_"):
        name = f"text_model_{name}"
    return name
