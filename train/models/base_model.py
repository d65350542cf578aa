"""The base model: loaded once per process, frozen, shared by all trials."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from train.config.parsing import cause
from train.config.schema import EMBEDDED, BaseConfig
from train.config_checks import check_base
from train.lora.adapter import UNET
from train.lora.injection import LoRAInjector
from train.models.families import Family, family_of
from train.models.memory_format import channels_last
from train.models.model_files import (
    BaseError,
    fingerprint,
    locate,
    open_pipeline,
    short_hash,
    weight_files,
)
from train.models.single_file import prediction_of
from train.models.text_encoding import TextEncoding
from train.system.oom import is_oom

__all__ = ["DTYPES", "BaseError", "BaseModel", "load_base"]

log = logging.getLogger(__name__)
DECODE_POSITIONS = (
    64 * 64
)  # latent positions that are decoded at once: decoding needs the most memory
MAX_CACHED_PROMPTS = 16  # lists of prompts whose embeddings are cached
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HIDDEN_STATES = "encoder_hidden_states"
TIME_IDS = "time_ids"  # SDXL's conditioning on the image size


class BaseModel:
    """A frozen Stable Diffusion model into which adapters are injected.

    Attributes:
        family: 1.x, 2.x or SDXL.
        vae, unet, text_encoder, tokenizer: the diffusers and transformers components.
        text_encoders: one, or SDXL's two.
        noise_scheduler: the training scheduler; samplers are made from its config.
        adapters: the injector of LoRAs.
        clip_skip: layer of the text encoder whose output is used, from the end; see `TextEncoding`.
        short_hash: the old short hash of web UIs, for single files.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        path: str,
        fingerprint: Callable[[], str],
        device: torch.device,
        compiled: bool = False,
        clip_skip: int = 1,
        prediction_type: str = "auto",
    ) -> None:
        self.path = path
        self.embedded = path == EMBEDDED
        self.short_hash: str | None = None
        self.device = device
        encoders, tokenizers = [pipeline.text_encoder], [pipeline.tokenizer]
        if hasattr(pipeline, "text_encoder_2"):
            encoders.append(pipeline.text_encoder_2)
            tokenizers.append(pipeline.tokenizer_2)
        self.family: Family = family_of(pipeline.unet.config, len(encoders))
        # convolutions are faster with it, on the CPU too
        self.unet = channels_last(pipeline.unet.to(device))
        self.dtype: torch.dtype = self.unet.dtype
        self.vae = pipeline.vae.to(device).requires_grad_(False).eval()
        if self.family.vae_overflows and self.dtype == torch.float16:
            self._widen_vae()
        self.text_encoders = encoders = [encoder.to(device) for encoder in encoders]
        self.text_encoder, self.tokenizer = encoders[0], tokenizers[0]
        self.clip_skip = self._checked_clip_skip(clip_skip)
        self._text = TextEncoding(tokenizers, encoders, self.clip_skip)
        self._encoded: dict[tuple[str, ...], dict[str, Tensor]] = {}
        self.noise_scheduler = DDPMScheduler.from_config(
            pipeline.scheduler.config,
            **({} if prediction_type == "auto" else {"prediction_type": prediction_type}),
        )
        networks = {UNET: self.unet, **dict(zip(self.family.text_encoders, encoders, strict=True))}
        self.adapters = LoRAInjector(networks)
        if compiled:
            self.unet.compile(dynamic=False)
        # on another core, and only now: while the weights are rearranged it would slow both
        self._fingerprint = ThreadPoolExecutor(1).submit(fingerprint)

    def _widen_vae(self) -> None:
        """SDXL's autoencoder overflows float16, unless it was fixed for it."""
        if self.vae.config.force_upcast:
            self.vae.float()
            log.info("the autoencoder is kept in fp32: SDXL's gives NaN in fp16")

    def _checked_clip_skip(self, clip_skip: int) -> int:
        layers = self.text_encoder.config.num_hidden_layers
        if self.family.is_xl and clip_skip != 1:
            log.warning("base.clip_skip: SDXL always uses the layer before the last; ignored")
            return 1
        if clip_skip > layers:
            raise BaseError(
                f"base.clip_skip: {clip_skip}, but the text encoder has {layers} layers"
            )
        return clip_skip

    @property
    def fingerprint(self) -> str:
        """sha256 of the weight files."""
        return self._fingerprint.result()

    @property
    def image_fingerprint(self) -> str:
        """sha256 of everything in the base that determines the image of a prompt and noise.

        That is the weights, their precision, the layer of the text encoder, the prediction type
        and the scheduler's other settings. Device and attention are excluded: they change an image
        by rounding only.
        """
        noise = {k: v for k, v in self.noise_scheduler.config.items() if not k.startswith("_")}
        parts = {
            "weights": self.fingerprint,
            "dtypes": [str(self.dtype), str(self.vae.dtype)],
            "latent_scale": self.vae.config.scaling_factor,
            "clip_skip": self.clip_skip,
            "noise": noise,
        }
        content = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def prediction_type(self) -> str:
        """The UNet's prediction: epsilon (the noise), v_prediction or sample."""
        return str(self.noise_scheduler.config.prediction_type)

    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        """The text conditioning of `predict` for these prompts, with the active adapters.

        Returns:
            tensors with one row for each prompt; SDXL's sizes come from `size_conditioning`.
        """
        if self.adapters.trains_text_encoder:
            return self._text(prompts, self.device)
        key = tuple(prompts)
        if key not in self._encoded:
            if len(self._encoded) == MAX_CACHED_PROMPTS:
                self._encoded.pop(next(iter(self._encoded)))
            # ordinary tensors, whoever calls first: training cannot use those of inference mode
            with torch.inference_mode(False), torch.no_grad():
                self._encoded[key] = self._text(prompts, self.device)
        return self._encoded[key]

    def size_conditioning(self, sizes: Tensor) -> dict[str, Tensor]:
        """SDXL's conditioning on the image sizes (Podell et al. 2023).

        Args:
            sizes: (n, 6): height and width of the original image, in pixels; top and left of the
                crop, after scaling; height and width of the crop.

        Returns:
            `time_ids`, n rows; empty for other families.
        """
        return {TIME_IDS: sizes.to(self.device, torch.float32)} if self.family.is_xl else {}

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """The UNet's prediction for noisy latents, with the active adapters.

        Args:
            noisy: (N, c, h, w).
            timesteps: (N,), or one for all.
            conditioning: of `encode_text` and `size_conditioning`, N rows each. Without sizes,
                SDXL assumes uncropped images of the latents' size.

        Returns:
            (N, c, h, w), float32: noise, velocity or image, by the prediction type.
        """
        added = {name: rows for name, rows in conditioning.items() if name != HIDDEN_STATES}
        if self.family.is_xl and TIME_IDS not in added:
            height, width = (side * self.vae_scale_factor for side in noisy.shape[2:])
            full_size = torch.tensor([[height, width, 0, 0, height, width]])
            added |= self.size_conditioning(full_size.expand(len(noisy), -1))
        output = self.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning[HIDDEN_STATES],
            added_cond_kwargs=added or None,
        )
        prediction: Tensor = output.sample.float()
        return prediction

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> images (N, 3, H, W), float, 0 to 1."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        size = max(1, DECODE_POSITIONS // (latents.shape[2] * latents.shape[3]))
        images = torch.cat([self.vae.decode(part).sample.float() for part in scaled.split(size)])
        return (images / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, width: int, height: int | None = None) -> tuple[int, int, int]:
        """Shape (c, h, w) of the latents of an image; square if no height is given."""
        high = (height or width) // self.vae_scale_factor
        return (self.unet.config.in_channels, high, width // self.vae_scale_factor)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent position, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_base(config: BaseConfig) -> BaseModel:
    """The base of the config; a second call with an equal config returns the same object.

    Raises:
        ConfigError: a pickle, or impossible settings.
        BaseError: no such model, not a Stable Diffusion model, or too little memory.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = replace(config, device=device)
    check_base(config)
    return _load(astuple(config))


@lru_cache(maxsize=1)
def _load(settings: tuple[Any, ...]) -> BaseModel:
    config = BaseConfig(*settings)
    source = locate(config.path)
    try:
        return _opened(config, source)
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
        raise BaseError(
            f"base.path: out of memory while {config.path} is loaded; what helps: base.precision="
            f"bf16 or fp16, which take half as much as fp32 (now {config.precision}), and ending "
            f"other programs that use the memory of {config.device}"
        ) from error


def _opened(config: BaseConfig, source: Path) -> BaseModel:
    hashed = partial(fingerprint, weight_files(source), source)
    try:
        pipeline = open_pipeline(source, DTYPES[config.precision])
        base = BaseModel(
            pipeline, config.path, hashed, torch.device(config.device),
            config.compile, config.clip_skip, config.prediction_type,
        )  # fmt: skip
    except BaseError:
        raise
    except Exception as error:  # several libraries, without an exception of their own
        if is_oom(error):
            raise
        raise BaseError(
            f"base.path: {config.path} is not a Stable Diffusion model: {cause(error)}"
        ) from error
    base.short_hash = short_hash(source)
    if config.prediction_type == "auto" and source.is_file() and base.family.is_v2:
        _report_guess(source, base.prediction_type)
    if config.attention == "xformers":
        base.unet.enable_xformers_memory_efficient_attention()
    return base


def _report_guess(source: Path, prediction: str) -> None:
    """Logs which of the two kinds of Stable Diffusion 2.x is assumed: weights do not tell."""
    if prediction_of(source) is None:
        log.info(
            f"base.path: {source.name} does not state its prediction type; {prediction} is "
            "assumed, as for all bases of Stable Diffusion 2.x but those for 512 pixels: for these "
            "give base.prediction_type=epsilon"
        )
