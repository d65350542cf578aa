"""Images of the base without an adapter, for comparison, cached by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from evaluate.config import ProbesConfig
from evaluate.console.progress import Countdown
from evaluate.generation.generate import generate
from evaluate.prompts.probe_set import Probe
from train.files.atomic_write import write_atomically
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError, check_own_file
from train.models.base_model import BaseModel
from train.models.model_files import BaseError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaselineImages:
    """Images of the base without any LoRA, and the sampling settings.

    Attributes:
        cache: folder of the cached images.
    """

    base: BaseModel
    resolution: int
    settings: ProbesConfig
    cache: Path

    def generate(
        self, probes: Sequence[Probe], number: int = 0, countdown: Countdown | None = None
    ) -> Tensor:
        """(N, 3, H, W), 0 to 1: one image for each probe, without the trigger word.

        Args:
            number: of the round; each round has its own noise.
            countdown: is updated after each forward pass.

        Raises:
            BaseError: the images are not finite.
        """
        prompts = [probe.base_prompt for probe in probes]
        seeds = [probe.seed + 10_000 * number for probe in probes]
        sampling = self.resolution, self.settings.steps, self.settings.guidance
        key_parts = [self.base.image_fingerprint, *sampling, prompts, seeds]
        digest = hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()
        file = self.cache / f"base-{digest[:16]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # of workers that start together, one generates for all
            side = self.resolution // self.base.vae_scale_factor * self.base.vae_scale_factor
            saved = _read(file, (len(probes), 3, side, side))
            if saved is None:
                images = generate(self.base, [], prompts, seeds, *sampling, countdown)[0]
                if not images.isfinite().all():
                    raise BaseError(
                        f"base.precision: the base's own images are not finite numbers in "
                        f"{self.base.dtype}; take bf16 or fp32"
                    )
                saved = (images * 255).round().byte()
                write_atomically(file, save({"images": saved}))
            elif countdown is not None:
                countdown.skip(len(probes))
        return saved.float() / 255


def _read(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The images of a file; None if it is absent, damaged, or of another shape."""
    if not file.exists():
        return None
    try:
        check_own_file(file)
        read_header(file)
        images = load_file(file)["images"]
    except (SafetensorError, UntrustedFileError, OSError, KeyError):
        images = torch.empty(0)
    if images.shape == shape and images.dtype == torch.uint8:
        return images
    log.warning(f"{file} is damaged and is recreated")
    return None
