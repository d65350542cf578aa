"""The alpha of each module's LoRA, wherever the trainer has stored it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from train.lora.conversion import ALPHA, Module
from train.lora.peft_config import AMBIGUOUS, Settings, alpha_of, number

TOLERANCE = 0.01  # alpha may have been rounded to bf16


def alphas(
    modules: Mapping[str, Module], settings: Mapping[str, Settings], metadata: Mapping[str, str]
) -> dict[str, float]:
    """Alpha of each module, so that the product of the matrices is scaled by alpha / rank.

    If a file has no alphas, alpha is the rank, as in kohya and diffusers.

    Args:
        settings: see `peft_config.read_settings`.
        metadata: of the file.

    Raises:
        ValueError: alpha is ambiguous.
    """
    given = {name: _alpha(name, module, settings) for name, module in modules.items()}
    ranks = {name: module.rank for name, module in modules.items()}
    ranks_without_alpha = {ranks[name] for name, alpha in given.items() if alpha is None}
    for name, alpha in given.items():
        if (
            ranks_without_alpha
            and alpha is not None
            and not math.isclose(alpha, ranks[name], rel_tol=TOLERANCE)
        ):
            raise ValueError(f"{AMBIGUOUS}{name} has an alpha, and other modules have none")
    _check_metadata(ranks_without_alpha, metadata)
    return {name: float(ranks[name] if alpha is None else alpha) for name, alpha in given.items()}


def _alpha(name: str, module: Module, settings: Mapping[str, Settings]) -> float | None:
    """A module's alpha in the file or in PEFT's settings; None if neither has one."""
    in_file = _number_of(f"{name}.{ALPHA}", module.parts.get(ALPHA))
    if not settings or (in_file is not None and not module.path):
        if in_file is None and module.peft:
            raise ValueError(f"{AMBIGUOUS}PEFT's adapter_config.json is not next to it")
        return in_file
    if module.network not in settings:
        if in_file is None:
            raise ValueError(f"{AMBIGUOUS}PEFT's settings say nothing of {name}")
        return in_file
    alpha = alpha_of(settings[module.network], module.path, module.rank)
    if in_file is not None and not math.isclose(alpha, in_file, rel_tol=TOLERANCE):
        raise ValueError(f"{AMBIGUOUS}alpha of {name} is {in_file:g}, in PEFT's settings {alpha:g}")
    return alpha


def _number_of(name: str, tensor: Tensor | None) -> float | None:
    if tensor is None:
        return None
    if tensor.numel() != 1 or tensor.is_complex():
        raise ValueError(f"{AMBIGUOUS}{name} is not one number but {tuple(tensor.shape)}")
    return number(name, tensor.item())


def _check_metadata(ranks: set[int], metadata: Mapping[str, str]) -> None:
    """Rejects a file that has lost its alphas: its metadata state one.

    Args:
        ranks: of the modules without an alpha.
    """
    try:
        rank, alpha = (float(metadata[f"ss_network_{key}"]) for key in ("dim", "alpha"))
    except (KeyError, ValueError):
        return
    if rank in ranks and not math.isclose(alpha, rank):
        raise ValueError(f"{AMBIGUOUS}its metadata give alpha {alpha:g}, the weights have none")
