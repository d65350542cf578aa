"""The base model: loaded once a process, frozen, shared by every trial."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

from train.adapter import TEXT_ENCODER, UNET
from train.checks import check_base_path
from train.config import EMBEDDED, BaseConfig
from train.lora import Adapters
from train.single_file import layout

EMBEDDED_FOLDER = Path(__file__).parent / "puppets" / "weights" / "base"
DECODED = 64 * 64  # positions of latents that are decoded at once: it takes the most memory of all
ENCODED = 16  # lists of prompts whose embeddings are kept
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BaseError(ValueError):
    """The base model cannot be loaded; the message says why and what to do."""


class Base:
    """A Stable Diffusion model, frozen, with places for adapters.

    Attributes:
        vae, unet, text_encoder, tokenizer: the diffusers and transformers parts.
        noise: the scheduler of training; its config makes samplers.
        adapters: where LoRAs join.
        fingerprint: sha256 of the weight files.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        path: str,
        fingerprint: str,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.path = path
        self.embedded = path == EMBEDDED
        self.fingerprint = fingerprint
        self.device = device
        self.vae = pipeline.vae.to(device).requires_grad_(False).eval()
        # convolutions are faster so, on the CPU too
        self.unet = pipeline.unet.to(device, memory_format=torch.channels_last)
        self.text_encoder = pipeline.text_encoder.to(device)
        self.tokenizer = pipeline.tokenizer
        self.dtype: torch.dtype = self.unet.dtype
        self._encoded: dict[tuple[str, ...], dict[str, Tensor]] = {}
        self.noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.adapters = Adapters({UNET: self.unet, TEXT_ENCODER: self.text_encoder})
        if compiled:
            self.unet.compile(dynamic=False)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        """The conditioning that the UNet takes for these prompts, with the adapters in use.

        Returns:
            keyword arguments of `unet(...)`, one row a prompt.
        """
        if self.adapters.speaks:
            return self._encode(prompts)
        known = tuple(prompts)
        if known not in self._encoded:
            if len(self._encoded) == ENCODED:
                self._encoded.pop(next(iter(self._encoded)))
            # ordinary tensors, whoever asks first: training cannot use those of inference mode
            with torch.inference_mode(False), torch.no_grad():
                self._encoded[known] = self._encode(prompts)
        return self._encoded[known]

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        hidden = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return {"encoder_hidden_states": hidden}

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> images (N, 3, H, W), float, 0 to 1."""
        scaled = latents.to(self.dtype) / self.vae.config.scaling_factor
        size = max(1, DECODED // (latents.shape[2] * latents.shape[3]))
        images = torch.cat([self.vae.decode(part).sample.float() for part in scaled.split(size)])
        return (images / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, width: int, height: int | None = None) -> tuple[int, int, int]:
        """Shape (c, h, w) of the latents of a picture; of a square one where no height is given."""
        high = (height or width) // self.factor
        return (self.unet.config.in_channels, high, width // self.factor)

    @property
    def factor(self) -> int:
        """Pixels to one latent position, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_base(config: BaseConfig) -> Base:
    """The base named by the config; a second call with the same config returns the same object.

    Raises:
        ConfigError: a pickle.
        BaseError: no such model, or files that are not a Stable Diffusion model.
    """
    check_base_path(config.path)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    compiled = config.speed == "compile"
    return _load(config.path, torch.device(device), DTYPES[config.precision], compiled)


@lru_cache(maxsize=1)
def _load(path: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> Base:
    files = weight_files(path)
    source = _folder(path)
    try:
        pipeline = _load_file(source, dtype) if source.is_file() else _load_folder(source, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BaseError(
            f"base.path: {path} is no Stable Diffusion model: {_line(error)}"
        ) from error
    return Base(pipeline, path, fingerprint(files, source), device, compiled)


def _load_file(file: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    with layout(file) as options:
        return StableDiffusionPipeline.from_single_file(
            str(file), dtype=dtype, safety_checker=None, **options
        )


def _load_folder(folder: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        str(folder), dtype=dtype, safety_checker=None, feature_extractor=None, use_safetensors=True
    )


def weight_files(path: str) -> list[Path]:
    """The .safetensors files of a base, in a fixed order.

    Raises:
        BaseError: none there.
    """
    source = _folder(path)
    if source.is_file():
        return [source]
    found = sorted(source.rglob("*.safetensors"))
    if not found:
        raise BaseError(f"base.path: no .safetensors file in {path}")
    return found


def _folder(path: str) -> Path:
    """Where the base lies on disk; a hub id is downloaded (once) by diffusers."""
    source = EMBEDDED_FOLDER if path == EMBEDDED else Path(path).expanduser()
    if source.exists():
        return source
    if path.count("/") != 1 or path.startswith((".", "~", "/")) or source.suffix:
        raise BaseError(f"base.path: there is no file or folder {path}")
    try:
        return Path(DiffusionPipeline.download(path, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise BaseError(
            f"base.path: {path} is neither on disk nor to be had from the hub: {_line(error)}"
        ) from error


def fingerprint(files: list[Path], root: Path) -> str:
    """sha256 over the names (below `root`) and the bytes of the weight files."""
    digest = hashlib.sha256()
    for file in files:
        if file != root:
            digest.update(str(file.relative_to(root)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
