"""LoRA files of other trainers: their names for things, turned into kohya's.

OneTrainer and ai-toolkit write kohya's layout, for SDXL with the UNet's names of diffusers
(`Adapters.aliases` knows both). The diffusers scripts and SimpleTuner write
`unet.<path>.lora_A.weight` (older ones `.lora.down.weight` and `processor.to_q_lora.down.weight`),
with alpha, if at all, in the metadata. PEFT itself writes `base_model.model.<path>.lora_A.weight`,
a network a file, and adapter_config.json beside it.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.adapter import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from train.names import kohya_name

DOWN, UP = "lora_down.weight", "lora_up.weight"
PREFIXES = {"unet": UNET, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
PEFT, PEFT_CONFIG = "base_model.model.", "adapter_config.json"
# the network that PEFT does not name, by how the paths in it begin
INSIDE = {
    "unet": ("down_blocks.", "mid_block.", "up_blocks."),
    "text_encoder": ("text_model.", "encoder."),
}
# other ways to say down and up
ENDINGS = (
    r"\.lora_linear_layer\.(down|up)\.weight$",
    r"\.lora\.(down|up)\.weight$",
    r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$",
    r"\.lora_(A|B)(?:\.default)?\.weight$",
    r"\.lora_(down|up)\.weight$",
)
# what is no LoRA of two matrices, by a word in its keys
OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_mid": "a LoCon with a Tucker core",
    "oft_": "an OFT",
}


def to_kohya(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The same tensors under kohya's names; what is named so already stays as it is.

    The names are those of Stable Diffusion 1.x; `Adapters.aliases` has SDXL's for them.

    Args:
        config: see `adapter_config`.

    Raises:
        ValueError: another kind of adapter, with its name.
    """
    for word, kind in OTHER_KINDS.items():
        if any(word in key for key in tensors):
            raise ValueError(f"it is {kind}, and only plain LoRA and LoCon can be loaded")
    if any(key.startswith("lora_") for key in tensors):
        return tensors
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        path, part = _split(key.removeprefix(PEFT))
        network, inside = _place(path)
        if network not in PREFIXES:
            raise ValueError(f"it has {key}, which is none of a Stable Diffusion LoRA's")
        name = kohya_name(PREFIXES[network], inside)
        renamed[f"{name}.{part}"] = tensor
        if part == DOWN and (alpha := _alpha(network, inside, config)) is not None:
            if config.get(f"{network}.use_rslora"):  # the scale is alpha / sqrt(rank)
                alpha *= math.sqrt(len(tensor))
            renamed[f"{name}.alpha"] = torch.tensor(alpha)
    return renamed


def _place(path: str) -> tuple[str, str]:
    """The network of a module, and its path in there."""
    for network, beginnings in INSIDE.items():
        if path.startswith(beginnings):
            return network, path
    network, _, inside = path.partition(".")
    return network, inside


def _split(key: str) -> tuple[str, str]:
    """The path of the module, and kohya's word for the matrix (or alpha)."""
    if key.endswith(".alpha"):
        return key.removesuffix(".alpha"), "alpha"
    for pattern in ENDINGS:
        match = re.search(pattern, key)
        if match:
            path = key[: match.start()]
            if len(match.groups()) == 2:  # to_out is a list of layers, of which the first is meant
                path += f".{match[1]}" + (".0" if match[1] == "to_out" else "")
            return path, DOWN if match[match.lastindex or 1] in ("down", "A") else UP
    raise ValueError(f"it has {key}, which is no part of a LoRA")


def adapter_config(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """PEFT's settings of a file, as `unet.lora_alpha`; empty where there are none.

    diffusers writes them into the metadata, PEFT itself into a file beside it.

    Raises:
        ValueError: the file beside it is no JSON.
    """
    if told := metadata.get("lora_adapter_metadata"):
        try:
            return dict(json.loads(told))
        except (TypeError, ValueError):
            return {}
    beside = path.with_name(PEFT_CONFIG)
    settings = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return {f"{network}.{key}": value for network in INSIDE for key, value in settings.items()}


def _alpha(network: str, path: str, config: dict[str, Any]) -> float | None:
    """PEFT's lora_alpha of a module."""
    pattern = config.get(f"{network}.alpha_pattern") or {}
    for ending, alpha in pattern.items():
        if path == ending or path.endswith(f".{ending}"):
            return float(alpha)
    alpha = config.get(f"{network}.lora_alpha")
    return None if alpha is None else float(alpha)


def epoch_and_step(path: Path, metadata: dict[str, str]) -> tuple[int | None, int | None]:
    """The epoch and the step after which a file was saved, as far as it tells.

    From the metadata (kohya, ai-toolkit), else from the names that the trainers give: kohya's
    `x-000005` and `x-step00000500`, OneTrainer's `x-save-500-5-0`, ai-toolkit's `x_000000500`,
    and the folder `checkpoint-500` of the diffusers scripts and SimpleTuner.
    """
    epoch, step = metadata.get("ss_epoch", ""), metadata.get("ss_steps", "")
    if epoch.isdigit():
        return int(epoch), int(step) if step.isdigit() else None
    try:
        about = json.loads(metadata.get("training_info", "{}"))
        if "step" in about:
            return None, int(about["step"])
    except (json.JSONDecodeError, TypeError, ValueError):
        pass
    if saved := re.search(r"-save-(\d+)-(\d+)-\d+$", path.stem):
        return int(saved[2]), int(saved[1])
    for pattern in (r"-step(\d+)$", r"_(\d{9})$"):
        if steps := re.search(pattern, path.stem):
            return None, int(steps[1])
    if folder := re.fullmatch(r"checkpoint-(\d+)", path.parent.name):
        return None, int(folder[1])
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]), None) if numbers else (None, None)
