"""LoRA files: safetensors with kohya's keys and metadata, written atomically, read strictly."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from train.adapter import Adapter
from train.base import Base
from train.config import TrialConfig
from train.data import Pictures
from train.formats import epoch_and_step, to_kohya
from train.lora import Adapters, shape

NAME = "lora"


class CheckpointError(ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


def save_checkpoint(
    path: Path, adapter: Adapter, metadata: dict[str, str], dtype: torch.dtype
) -> None:
    """Writes a LoRA file in one piece: a reader sees the whole file or none.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for key, (down, up) in adapter.matrices.items():
        tensors[f"{key}.lora_down.weight"] = down.to("cpu", dtype)
        tensors[f"{key}.lora_up.weight"] = up.to("cpu", dtype)
        tensors[f"{key}.alpha"] = torch.tensor(adapter.alpha[key], dtype=dtype)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    write_atomically(path, _ordered(save(tensors, metadata={**metadata, "format": "pt"})))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its header in a fixed order, which the library leaves open."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[end:]


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash it is there whole, as it was before, or not at all.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def load_checkpoint(path: Path | str, adapters: Adapters) -> Adapter:
    """Reads a LoRA file, whoever wrote it, into an adapter in float32, on the base's device.

    A missing alpha means alpha = rank, as kohya and diffusers read it.

    Raises:
        CheckpointError: no file, a pickle, another format, or modules that the base has not.
    """
    try:
        tensors = to_kohya(_read(Path(path)), read_metadata(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    matrices: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in [name for name in tensors if name.endswith(".lora_down.weight")]:
        key = name.removesuffix(".lora_down.weight")
        down, up = tensors.pop(name), tensors.pop(f"{key}.lora_up.weight", None)
        alpha = tensors.pop(f"{key}.alpha", torch.tensor(float(down.shape[0])))
        if up is None:
            raise CheckpointError(f"{path}: {key} has no lora_up.weight")
        _check_fit(path, key, down, up, adapters)
        matrices[key] = down.float(), up.float(), float(alpha)
    if not matrices or tensors:
        stray = next(iter(tensors), "no lora_down.weight in it")
        raise CheckpointError(f"{path}: not a LoRA ({stray})")
    return Adapter(matrices).requires_grad_(False).to(adapters.device)


def _read(path: Path) -> dict[str, Tensor]:
    _check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _check_safetensors(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: only .safetensors is read; a pickle can run code")


def _check_fit(path: Path | str, key: str, down: Tensor, up: Tensor, adapters: Adapters) -> None:
    module = adapters.targets.get(key)
    if module is None:
        raise CheckpointError(f"{path}: the base has no module for {key}; another base's LoRA?")
    weight = shape(module)
    if down.shape[1:] != weight[1:] or up.shape[0] != weight[0] or up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{path}: {key} has shapes {tuple(down.shape)}, {tuple(up.shape)}, "
            f"the base's module is {tuple(weight)}; another base's LoRA?"
        )


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none.

    Raises:
        CheckpointError: no file, a pickle, or another format.
    """
    _check_safetensors(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def epoch_of(path: Path | str) -> int:
    """The epoch of a LoRA file: from its metadata, else from its name; the step where it has none.

    Raises:
        CheckpointError: neither says.
    """
    epoch, step = epoch_and_step(Path(path), read_metadata(path))
    number = step if epoch is None else epoch
    if number is None:
        raise CheckpointError(f"{path}: neither its metadata nor its name tells the epoch")
    return number


def metadata(
    config: TrialConfig, base: Base, pictures: Pictures, epoch: int, steps: int
) -> dict[str, str]:
    """kohya's `ss_*` keys and our config, all strings; nothing in it depends on the time."""
    network, training = config.network, config.training
    conv = {"conv_dim": str(network.conv_rank)} if network.conv_rank else {}
    if conv and network.conv_alpha is not None:
        conv["conv_alpha"] = str(network.conv_alpha)
    captions: dict[str, int] = {}
    for picture in pictures.training:
        captions[picture.caption] = captions.get(picture.caption, 0) + 1
    resolution = config.data.resolution
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(network.rank),
        "ss_network_alpha": str(float(network.rank) if network.alpha is None else network.alpha),
        "ss_network_args": json.dumps(conv),
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_output_name": NAME,
        "ss_sd_model_name": Path(config.base.path).name,
        "ss_new_sd_model_hash": base.fingerprint,
        "ss_epoch": str(epoch),
        "ss_num_epochs": str(training.epochs),
        "ss_steps": str(steps),
        "ss_num_train_images": str(len(pictures.training) * pictures.repeats),
        "ss_num_reg_images": "0",
        "ss_batch_size_per_device": str(training.batch_size),
        "ss_gradient_accumulation_steps": str(training.gradient_accumulation),
        "ss_learning_rate": str(config.optimizer["lr"]),
        "ss_optimizer": str(config.optimizer["_target_"]),
        "ss_lr_scheduler": config.scheduler.name,
        "ss_seed": str(training.seed),
        "ss_resolution": str((resolution, resolution)),
        "ss_tag_frequency": json.dumps({"data": captions}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": NAME,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": (
            "v" if base.noise.config.prediction_type == "v_prediction" else "epsilon"
        ),
        "lorasweep_config": json.dumps(asdict(config), sort_keys=True),
        "lorasweep_data": pictures.fingerprint,
        "lorasweep_pictures": counts(pictures),
        "lorasweep_base": base.fingerprint,
    }


def counts(pictures: Pictures) -> str:
    """How many pictures of which part, in words."""
    return f"{len(pictures.training)} training, {len(pictures.validation)} held out"


def weights_hash(path: Path | str) -> str:
    """sha256 over the names, shapes and bytes of a LoRA file's tensors, metadata left out."""
    digest = hashlib.sha256()
    for key, value in sorted(_read(Path(path)).items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
