"""LoRA files that are made of saved ones without training: weaker ones, and averages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from train.errors import CheckpointError
from train.lora.adapter import Adapter
from train.lora.checkpoint import load_checkpoint, save_checkpoint
from train.lora.checkpoint_file import VARIANT_KEY, is_intact, read_metadata
from train.lora.injection import LoRAInjector

ORIGIN_KEY = "lorasweep_origin"  # in the metadata
# metadata that stays true of a variant; the settings of other trainers' networks do not
KEPT_PREFIXES, DROPPED = ("ss_", "modelspec.", "lorasweep_"), ("ss_network_args",)


def has_variant(path: Path, origin: str) -> bool:
    """Whether a file is an intact variant of this origin (see `write_variant`)."""
    try:
        return read_metadata(path).get(ORIGIN_KEY) == origin and is_intact(path)
    except CheckpointError:
        return False


def write_variant(
    path: Path, sources: Sequence[Path], strength: float, origin: str, adapters: LoRAInjector
) -> None:
    """Writes a LoRA file that at strength 1 does what the average of others does at `strength`.

    Args:
        sources: one or more LoRA files of one training, of any trainer, in order; the metadata is
            that of the last one.
        strength: above 0.
        origin: identifies the weights of the sources, whatever their names.

    Raises:
        CheckpointError: a file cannot be read or written, or the files have different modules.
    """
    loaded = [load_checkpoint(source, adapters).to("cpu") for source in sources]
    adapter = averaged(loaded, strength)
    metadata = {
        key: value
        for key, value in read_metadata(sources[-1]).items()
        if key.startswith(KEPT_PREFIXES) and key not in DROPPED
    }
    alphas = {*adapter.alpha.values()}
    if len(alphas) == 1:
        metadata["ss_network_alpha"] = str(alphas.pop())
    metadata |= {
        "ss_network_module": "networks.lora",
        VARIANT_KEY: path.stem,
        ORIGIN_KEY: origin,
        "lorasweep_made_of": ", ".join(source.name for source in sources),
        "lorasweep_strength": f"{strength:g}",
    }
    save_checkpoint(path, adapter, metadata, torch.float16)


def averaged(adapters: Sequence[Adapter], strength: float = 1.0) -> Adapter:
    """The LoRA whose change of every weight is the mean of the others' changes, times `strength`.

    All of them are on the CPU.

    The ranks of the others add up; the result has the first one's rank, and is the best
    approximation of that rank, by a singular value decomposition (Eckart and Young 1936).

    Raises:
        CheckpointError: they have different modules.
    """
    first = adapters[0]
    if any(other.alpha.keys() != first.alpha.keys() for other in adapters):
        raise CheckpointError("LoRAs with different modules cannot be averaged")
    matrices = {}
    for key, (down, up) in first.matrices.items():
        alpha = first.alpha[key]
        if len(adapters) > 1:
            down, up = _mean_product([(*a.matrices[key], a.alpha[key]) for a in adapters])
            alpha = float(len(down))
        matrices[key] = (down, up, alpha * strength)
    return Adapter(matrices).requires_grad_(False)


def _mean_product(parts: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """Down and up of the first one's shapes, whose product is nearest to the mean of the products.

    Args:
        parts: down, up and alpha of each.
    """
    down, up, _ = parts[0]
    scales = [alpha / len(part_down) / len(parts) for part_down, _, alpha in parts]
    ups = torch.cat([u.flatten(1) * s for (_, u, _), s in zip(parts, scales, strict=True)], dim=1)
    downs = torch.cat([d.flatten(1) for d, _, _ in parts])
    # the product has a low rank, so only its two small triangles are decomposed
    left, left_triangle = torch.linalg.qr(ups.double())
    right, right_triangle = torch.linalg.qr(downs.double().T)
    u, values, v = torch.linalg.svd(left_triangle @ right_triangle.T)
    rank = min(len(down), len(values))
    root = values[:rank].sqrt()
    new_up, new_down = torch.zeros_like(up.flatten(1)), torch.zeros_like(down.flatten(1))
    new_up[:, :rank] = (left @ u[:, :rank] * root).to(up.dtype)
    new_down[:rank] = (root[:, None] * (v[:rank] @ right.T)).to(down.dtype)
    return new_down.reshape(down.shape), new_up.reshape(up.shape)
