"""Fits the LoRA of a file to a base: which of its modules the base has, and in which shape."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from train.lora.conversion import DOWN, UP, Module
from train.lora.injection import LoRAInjector, weight_shape
from train.lora.unsupported_kinds import other_family


class NonFiniteTensorError(ValueError):
    """Weights are not finite, or make the base's weights so."""


Matrices = dict[str, tuple[Tensor, Tensor, float]]
MAX_FILE_RANK = 4096  # of a file, so that its matrices fit into memory
LINEAR_DIMS, CONV_DIMS = 2, 4  # dimensions of the matrices of a linear layer and of a convolution
# metadata keys that identify the base
BASE_KEYS = ("ss_base_model_version", "modelspec.architecture")


def fit(
    modules: Mapping[str, Module],
    alphas: Mapping[str, float],
    adapters: LoRAInjector,
    metadata: Mapping[str, str],
) -> Matrices:
    """The matrices of an `Adapter`, in float32 and by the base's keys.

    Raises:
        NotFinite: the weights are not finite.
        ValueError: another base's LoRA, or invalid weights.
    """
    matrices: Matrices = {}
    for name, module in modules.items():
        if (key := adapters.aliases.get(name)) is None:
            continue
        if key in matrices:
            raise ValueError(f"it has two LoRAs for {key}")
        weight = weight_shape(adapters.modules[key])
        pair = _fit_shapes(name, module.parts[DOWN], module.parts[UP], weight)
        if pair is None:
            down, up = (tuple(module.parts[part].shape) for part in (DOWN, UP))
            raise ValueError(
                f"{name} has shapes {down}, {up}, the base's module is {tuple(weight)}; "
                f"{_base_hint(list(modules), metadata)}"
            )
        matrices[key] = (*pair, alphas[name])
    _check_finite(matrices)
    return matrices


def check_lora_base(
    modules: Mapping[str, Module], adapters: LoRAInjector, metadata: Mapping[str, str]
) -> list[str]:
    """The modules that the base lacks, which are less than half of the file's.

    Raises:
        ValueError: another base's LoRA, or a module with an invalid rank.
    """
    missing = [name for name in modules if name not in adapters.aliases]
    if 2 * len(missing) >= len(modules):
        raise ValueError(
            f"the base has no module for {missing[0]}; {_base_hint(list(modules), metadata)}"
        )
    for name, module in modules.items():
        if not module.rank:
            down = tuple(module.parts[DOWN].shape)
            raise ValueError(f"{name} has no rank: its {DOWN}.weight has the shape {down}")
        if module.rank > MAX_FILE_RANK:
            raise ValueError(
                f"{name} has rank {module.rank}, and at most {MAX_FILE_RANK} is loaded"
            )
    return missing


def _fit_shapes(
    name: str, down: Tensor, up: Tensor, weight: torch.Size
) -> tuple[Tensor, Tensor] | None:
    """The matrices in the shape of the base's module; None if they belong to another module.

    A 1x1 convolution equals a linear layer, and trainers do not agree which of them it is.
    """
    outputs, *inputs = weight
    if not {down.ndim, up.ndim} <= {LINEAR_DIMS, CONV_DIMS} or not len(down):
        return None
    if not (down.is_floating_point() and up.is_floating_point()):
        raise ValueError(f"{name} has weights of {down.dtype}, which are not a LoRA's")
    matches = [size for size in inputs if size != 1] == [
        size for size in down.shape[1:] if size != 1
    ]
    if not matches or up.shape[:2] != (outputs, len(down)) or up[0, 0].numel() != 1:
        return None
    ends = [1] * (len(weight) - LINEAR_DIMS)
    return down.float().reshape(len(down), *inputs), up.float().reshape(outputs, len(down), *ends)


def _base_hint(names: list[str], metadata: Mapping[str, str]) -> str:
    """A hint for which base the file may be."""
    version = next((metadata[key] for key in BASE_KEYS if metadata.get(key)), "")
    if family := other_family(names):
        return f"it is for {family}"
    return "another base's LoRA?" + (f" It says that it is for {version}" if version else "")


def _check_finite(matrices: Matrices) -> None:
    """Rejects weights that are not finite, or so large that their effect on the base is not."""
    bad = [
        key
        for key, (down, up, alpha) in matrices.items()
        if not math.isfinite(float(down.norm() * up.norm() * alpha))
    ]
    if bad:
        raise NonFiniteTensorError(
            f"its weights are not finite in {len(bad)} of {len(matrices)} modules (such as "
            f"{bad[0]}): the training broke down before it was saved"
        )
