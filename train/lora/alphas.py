"""How strong each module's LoRA is: alpha, wherever a trainer has put it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from train.lora.conversion import ALPHA, Module
from train.lora.peft_config import NOT_SURE, Settings, alpha_of, number

NEAR = 0.01  # alpha may have been rounded to bf16


def alphas(
    modules: Mapping[str, Module], settings: Mapping[str, Settings], metadata: Mapping[str, str]
) -> dict[str, float]:
    """Alpha of each module, so that alpha / rank is what the up and down matrices are scaled by.

    Where a file says nothing of it, alpha is the rank, as kohya and diffusers read it.

    Args:
        settings: see `peft_config.read_settings`.
        metadata: of the file.

    Raises:
        ValueError: alpha is not sure.
    """
    said = {name: _said(name, module, settings) for name, module in modules.items()}
    ranks = {name: module.rank for name, module in modules.items()}
    silent = {ranks[name] for name, alpha in said.items() if alpha is None}
    for name, alpha in said.items():
        if silent and alpha is not None and not math.isclose(alpha, ranks[name], rel_tol=NEAR):
            raise ValueError(f"{NOT_SURE}{name} has an alpha, and other modules have none")
    _check_metadata(silent, metadata)
    return {name: float(ranks[name] if alpha is None else alpha) for name, alpha in said.items()}


def _said(name: str, module: Module, settings: Mapping[str, Settings]) -> float | None:
    """What the file, or PEFT's settings, say of a module; None: nothing."""
    in_file = _number_of(f"{name}.{ALPHA}", module.parts.get(ALPHA))
    if not settings or (in_file is not None and not module.path):
        if in_file is None and module.peft:
            raise ValueError(f"{NOT_SURE}PEFT's adapter_config.json is not beside it")
        return in_file
    if module.network not in settings:
        if in_file is None:
            raise ValueError(f"{NOT_SURE}PEFT's settings say nothing of {name}")
        return in_file
    alpha = alpha_of(settings[module.network], module.path, module.rank)
    if in_file is not None and not math.isclose(alpha, in_file, rel_tol=NEAR):
        raise ValueError(f"{NOT_SURE}alpha of {name} is {in_file:g}, in PEFT's settings {alpha:g}")
    return alpha


def _number_of(name: str, tensor: Tensor | None) -> float | None:
    if tensor is None:
        return None
    if tensor.numel() != 1 or tensor.is_complex():
        raise ValueError(f"{NOT_SURE}{name} is not one number but {tuple(tensor.shape)}")
    return number(name, tensor.item())


def _check_metadata(silent: set[int], metadata: Mapping[str, str]) -> None:
    """A file without alphas whose metadata have one has lost them on its way."""
    try:
        rank, alpha = (float(metadata[f"ss_network_{key}"]) for key in ("dim", "alpha"))
    except (KeyError, ValueError):
        return
    if rank in silent and not math.isclose(alpha, rank):
        raise ValueError(f"{NOT_SURE}its metadata give alpha {alpha:g}, the weights have none")
