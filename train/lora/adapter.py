"""One LoRA: its matrices, which are views of a flat parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from train.lora.batched import FlatLayout, ModuleShapes

# prefixes of kohya's keys: SDXL has two text encoders, numbered; all others have one
UNET, TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2 = "lora_unet", "lora_te", "lora_te1", "lora_te2"
TEXT_ENCODERS = (TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2)
NETWORKS = (UNET, *TEXT_ENCODERS)


class Adapter(nn.Module):
    """One LoRA: for each target module a `down` and an `up` matrix and the scale alpha / rank.

    The keys are kohya's, as `lora_unet_down_blocks_0_attentions_0_proj_in`. All numbers of one
    network are one flat parameter, so adapters are stacked, clipped and optimized in a few
    operations instead of hundreds; the matrices are views of it.

    Args:
        matrices: key -> down (r, in[, k, k]), up (out, r[, 1, 1]), alpha.
    """

    def __init__(self, matrices: dict[str, tuple[Tensor, Tensor, float]]) -> None:
        super().__init__()
        self.alpha = {key: alpha for key, (_, _, alpha) in matrices.items()}
        self.layouts: dict[str, FlatLayout] = {}
        self.flat = nn.ParameterDict()
        self._shaped: dict[str, tuple[nn.Parameter, ...]] = {}
        for network in NETWORKS:
            part = {key: value for key, value in matrices.items() if key.startswith(f"{network}_")}
            self.layouts[network] = FlatLayout(
                tuple(
                    ModuleShapes(key, tuple(d.shape), tuple(u.shape))
                    for key, (d, u, _) in part.items()
                ),
                tuple(alpha / len(down) for down, _, alpha in part.values()),
            )
            pieces = [matrix.flatten() for down, up, _ in part.values() for matrix in (down, up)]
            self.flat[network] = nn.Parameter(torch.cat([torch.empty(0), *pieces]))

    @property
    def trains_text_encoder(self) -> bool:
        """Whether it changes a text encoder."""
        return any(self.layouts[name].parts for name in TEXT_ENCODERS)

    def views(self, flats: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Key -> down and up, as views of flat tensors such as parameters or their gradients."""
        return {
            part.key: (down, up)
            for network, layout in self.layouts.items()
            if layout.parts
            for part, down, up in layout.split(flats[network])
        }

    def shaped(self, network: str) -> list[nn.Parameter]:
        """The matrices as separate parameters, for optimizers that depend on shapes."""
        keys = [part.key for part in self.layouts[network].parts]
        matrices = self.matrices
        self._shaped |= {key: tuple(map(nn.Parameter, matrices[key])) for key in keys}
        return [parameter for key in keys for parameter in self._shaped[key]]

    def assign_gradients(self) -> None:
        """Assigns the parameters of `shaped` their parts of the flat gradient."""
        if not self._shaped:
            return
        gradients = self.views({n: cast(Tensor, flat.grad) for n, flat in self.flat.items()})
        for key, parameters in self._shaped.items():
            for parameter, gradient in zip(parameters, gradients[key], strict=True):
                parameter.grad = gradient

    @property
    def down(self) -> dict[str, Tensor]:
        """Key -> down matrix, as a writable view."""
        return {k: down for k, (down, _) in self.matrices.items()}

    @property
    def up(self) -> dict[str, Tensor]:
        """Key -> up matrix, as a writable view."""
        return {k: up for k, (_, up) in self.matrices.items()}

    @property
    def matrices(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Key -> down and up matrices, as writable views."""
        return self.views({network: flat.data for network, flat in self.flat.items()})
