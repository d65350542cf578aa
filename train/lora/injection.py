"""Injects LoRA adapters into a frozen base: K in one forward pass, each with its rows of a batch.

The layers of Hu et al. 2021 (arXiv 2106.09685), on the target modules of kohya's `networks.lora`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from train.config.schema import NetworkConfig
from train.lora.adapter import NETWORKS, TEXT_ENCODER_1, TEXT_ENCODERS, UNET, Adapter
from train.lora.batched import BatchedLoRA, Dropout
from train.lora.key_names import kohya_name, names_of, original_path

UNET_BLOCKS = ("Transformer2DModel",)
UNET_CONV_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT_ENCODER_BLOCKS = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")


class LoRAInjector:
    """The modules of a base that adapters can change, and the active adapters.

    Args:
        networks: prefix of the keys -> network. The networks are frozen and not modified: adapters
            are added by forward hooks.

    Attributes:
        targets: kohya's key -> module, of the modules that are trained.
        modules: the same for all linear layers and convolutions, which files of other trainers may
            change too.
        aliases: key of any trainer -> kohya's, for all modules; see `key_names.names_of`.
    """

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.targets: dict[str, nn.Module] = {}
        self.modules: dict[str, nn.Module] = {}
        self.aliases: dict[str, str] = {}
        self.conv_only: set[str] = set()  # keys that are targets only if conv_rank > 0
        self.active: BatchedLoRA | None = None
        self.trains_text_encoder = False  # whether an active adapter changes the text encoder
        unet: Any = networks[UNET]
        layers: int = unet.config.layers_per_block
        # kohya names SDXL's modules as in its original UNet
        original = TEXT_ENCODER_1 in networks
        for prefix, network in networks.items():
            network.requires_grad_(False).eval()
            self._find_modules(prefix, network, layers, original)
            self._find_targets(network)
        for key, module in self.modules.items():
            module.register_forward_hook(self._hook(key))

    @property
    def device(self) -> torch.device:
        """The device of the base's networks."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the base's networks."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        return cast(Tensor, next(iter(self.targets.values())).weight)

    def _find_modules(self, prefix: str, network: nn.Module, layers: int, original: bool) -> None:
        for path, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                key = kohya_name(prefix, original_path(path, layers) if original else path)
                self.modules[key] = module
                self.aliases |= dict.fromkeys(names_of(prefix, path, layers), key)

    def _find_targets(self, network: nn.Module) -> None:
        keys = {id(module): key for key, module in self.modules.items()}
        for block in network.modules():
            kind = type(block).__name__
            if kind not in (*UNET_BLOCKS, *UNET_CONV_BLOCKS, *TEXT_ENCODER_BLOCKS):
                continue
            for module in block.modules():
                if key := keys.get(id(module)):
                    self.targets[key] = module
                    if kind in UNET_CONV_BLOCKS:
                        self.conv_only.add(key)

    def _hook(self, key: str):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            active = self.active
            return output if active is None else active.add(key, module, inputs[0], output)

        return add

    def create(self, network: NetworkConfig, generator: torch.Generator) -> Adapter:
        """A new adapter without effect: down is Kaiming-uniform, up is zero (as in kohya)."""
        matrices = {}
        for key, module in self._trained_modules(network):
            rank, alpha = rank_and_alpha(network, module)
            outputs, *inputs = weight_shape(module)
            down = torch.empty(rank, *inputs)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            up = torch.zeros(outputs, rank, *([1, 1] if down.ndim == 4 else []))
            matrices[key] = (down, up, alpha)
        return Adapter(matrices)

    def parameter_count(self, network: NetworkConfig) -> int:
        """The number of parameters of an adapter with these settings."""
        return sum(
            rank_and_alpha(network, module)[0] * (outputs + math.prod(inputs))
            for _, module in self._trained_modules(network)
            for outputs, *inputs in [weight_shape(module)]
        )

    def _trained_modules(self, network: NetworkConfig) -> Iterator[tuple[str, nn.Module]]:
        for key, module in self.targets.items():
            excluded = key.startswith(TEXT_ENCODERS) and not network.text_encoder
            if not excluded and (network.conv_rank or key not in self.conv_only):
                yield key, module

    @contextmanager
    def activated(
        self, adapters: Sequence[Adapter], dropouts: Sequence[Dropout] = ()
    ) -> Iterator[None]:
        """Context manager: the rows of a batch are split evenly, in order, over `adapters`.

        Args:
            adapters: none for the base alone.
            dropouts: in training, one for each adapter.
        """
        before = self.active, self.trains_text_encoder
        self.active = self._batched(adapters, dropouts) if adapters else None
        self.trains_text_encoder = any(adapter.trains_text_encoder for adapter in adapters)
        try:
            yield
        finally:
            self.active, self.trains_text_encoder = before

    def _batched(self, adapters: Sequence[Adapter], dropouts: Sequence[Dropout]) -> BatchedLoRA:
        networks = [
            (tuple(a.layouts[name] for a in adapters), [a.flat[name] for a in adapters])
            for name in NETWORKS
        ]
        return BatchedLoRA(networks, self.dtype, dropouts)

    @contextmanager
    def frozen(self, adapter: Adapter | None) -> Iterator[None]:
        """Context manager: applies one fixed adapter (or none) to the whole batch.

        If the precision allows it, the adapter is fused into the weights and costs no time.
        """
        single = [adapter] if adapter else []
        exact = self.dtype in (torch.float32, torch.float64) and self.device.type == "cpu"
        with self.fused(adapter) if adapter and exact else self.activated(single):
            yield

    @contextmanager
    def fused(self, adapter: Adapter) -> Iterator[None]:
        """Context manager: the adapter is added to the base's weights."""
        matrices = adapter.matrices
        weights = {key: cast(Tensor, self.modules[key].weight).detach() for key in matrices}
        before = {key: weight.clone() for key, weight in weights.items()}
        trains_text_encoder, self.trains_text_encoder = (
            self.trains_text_encoder,
            adapter.trains_text_encoder,
        )
        for key, weight in weights.items():
            down, up = (matrix.flatten(1) for matrix in matrices[key])
            change = (up @ down).view(weight.shape) * (adapter.alpha[key] / len(down))
            weight.copy_(weight + change)
        try:
            yield
        finally:
            self.trains_text_encoder = trains_text_encoder
            for key, weight in weights.items():
                weight.copy_(before[key])


def weight_shape(module: nn.Module) -> torch.Size:
    """Shape of the module's weight: (out, in) or (out, in, k, k)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape


def rank_and_alpha(network: NetworkConfig, module: nn.Module) -> tuple[int, float]:
    """Rank and alpha for one module: 3x3 convolutions have conv_rank, all others rank."""
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        return network.conv_rank, network.convolution_alpha
    return network.rank, network.linear_alpha
