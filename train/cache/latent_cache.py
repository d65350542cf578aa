"""The dataset as the UNet sees it: latents and text embeddings, shared by all trials."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from train.cache.tensor_cache import CachedTensor, TensorCache, key_of
from train.config.schema import BASE_LOCATION_KEYS, TrialConfig
from train.config_checks import DISK, OFF
from train.data.batching import crops_of
from train.data.captions.sampling import sample_captions
from train.data.dataset import Dataset
from train.data.images.buckets import Crop
from train.data.images.color_jitter import ColorJitter, sample_color_jitter
from train.data.images.cropping import cropped
from train.data.images.image import DataError, TrainingImage
from train.models.base_model import HIDDEN_STATES, BaseModel
from train.models.latents import encode_latents

log = logging.getLogger(__name__)
MAX_SHUFFLED_CAPTIONS = 256  # shuffled captions whose embeddings are cached


class EncodedDataset:
    """Latents and text embeddings of the images of an epoch.

    Attributes:
        images: the subject's, then the regularization images.
        crops: scale and crop of each image.
        sizes: (n, 6), see `BaseModel.size_conditioning`.
        prior: (n,) bool, which of them are regularization images.
    """

    def __init__(self, base: BaseModel, dataset: Dataset, config: TrialConfig) -> None:
        self.base, self.images = base, dataset.trained
        self.crops = crops_of(self.images, config.data)
        _check_crops(self.images, self.crops, base.vae_scale_factor)
        pairs = zip(self.images, self.crops, strict=True)
        self.sizes = torch.tensor([image.sizes(crop) for image, crop in pairs])
        self.prior = torch.tensor([image.subset.regularization for image in self.images])
        self.fixed_latents = not config.data.resample_latents
        self.flips = any(image.subset.flip for image in self.images)
        self.jitters = any(image.subset.color_augmentation for image in self.images)
        self.drops = any(image.subset.caption_dropout for image in self.images)
        settings = [
            item for item in asdict(config.base).items() if item[0] not in BASE_LOCATION_KEYS
        ]
        # in memory the object's identity is enough, which saves hashing some GB
        base_key = base.fingerprint if config.cache == DISK else id(base)
        self.key_parts = [base_key, base.device.type, sorted(settings)]
        folder = Path(config.cache_path) if config.cache == DISK else None
        self.cache = None if config.cache == OFF else TensorCache(folder)
        if self.jitters and self.cache:
            raise DataError("color_aug of the dataset_config: needs cache=off")
        self.latents: dict[tuple[int, bool], CachedTensor] = {}
        self.texts: OrderedDict[str, dict[str, Tensor]] = OrderedDict()  # on the device
        self.text_entries: list[CachedTensor] = []  # keeps them in the cache for the next trial
        self.captions = {*(image.caption for image in self.images), ""}
        if self.cache:
            self._fill(self.cache)

    def latents_of(self, rows: list[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of a batch, (n, c, h, w) each, on the CPU.

        Args:
            random: the trial's generator, from which flips and color jitters are sampled.
        """
        flips = torch.rand(len(rows), generator=random) < 0.5 if self.flips else repeat(False)
        jitters = sample_color_jitter(len(rows), random) if self.jitters else repeat(None)
        pairs = []
        for row, flip, jitter in zip(rows, flips, jitters, strict=False):
            subset = self.images[row].subset
            flipped = subset.flip and bool(flip)
            pairs.append(self._latents(row, flipped, jitter if subset.color_augmentation else None))
        return torch.stack([mean for mean, _ in pairs]), torch.stack([std for _, std in pairs])

    def sample_captions(
        self, rows: list[int], dropout: float, random: torch.Generator
    ) -> list[str]:
        """The captions of a batch.

        Args:
            dropout: probability that a caption is dropped, if the image's subset has none.
        """
        drops = dropout > 0 or self.drops
        return sample_captions([self.images[row] for row in rows], dropout, drops, random)

    def conditioning(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The frozen text encoder's embeddings of these captions, one row each, on the device."""
        rows = [self._text_embeddings(caption) for caption in captions]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _fill(self, cache: TensorCache) -> None:
        """Encodes everything known beforehand, one by one, so that no result depends on others."""
        with cache.exclusive():
            for row, image in enumerate(self.images):
                for flipped in (False, True)[: 1 + image.subset.flip]:
                    key_parts = self._latents_key(row, flipped)
                    make = partial(self._encode, row, flipped)
                    fits = partial(self._fits_latents, row)
                    self.latents[row, flipped] = cache.fetch(key_of(*key_parts), make, fits)
            latents = f"latents: {cache.hits} from the cache, {cache.misses} encoded"
            cache.hits = cache.misses = 0
            for caption in sorted(self.captions):
                self._text_embeddings(caption)
            log.info(f"{latents}; captions: {cache.hits} from the cache, {cache.misses} encoded")

    def _latents_key(self, row: int, flipped: bool) -> list[object]:
        crop = self.crops[row]
        return ["latents", self.images[row].content, crop.size, crop.box, flipped, *self.key_parts,
                str(self.base.vae.dtype)]  # fmt: skip

    def _encode(
        self, row: int, flipped: bool, jitter: ColorJitter | None = None
    ) -> dict[str, Tensor]:
        pixels = cropped(self.images[row], self.crops[row], flipped, jitter)
        mean, std = encode_latents(self.base, pixels.unsqueeze(0))
        return {"mean": mean[0].cpu(), "std": std[0].cpu()}

    def _latents(
        self, row: int, flipped: bool, jitter: ColorJitter | None
    ) -> tuple[Tensor, Tensor]:
        entry = self.latents.get((row, flipped))
        tensors = entry.tensors if entry else self._encode(row, flipped, jitter)
        mean, std = tensors["mean"], tensors["std"]
        if not self.fixed_latents:
            return mean, std
        seed = int(key_of(self.images[row].content, self.crops[row].size, flipped)[:15], 16)
        spread = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        return mean + std * spread, torch.zeros_like(std)

    def _text_embeddings(self, caption: str) -> dict[str, Tensor]:
        if caption in self.texts:
            self.texts.move_to_end(caption)
            return self.texts[caption]
        if self.cache and caption in self.captions:
            key_parts = ["text", caption, *self.key_parts, str(self.base.dtype)]
            make = partial(self._encode_prompt, caption)
            entry = self.cache.fetch(key_of(*key_parts), make, self._fits_text)
            self.text_entries.append(entry)
            text = {name: tensor.to(self.base.device) for name, tensor in entry.tensors.items()}
        else:
            text = self._encode_prompt(caption)
        if self.cache:
            self.texts[caption] = text
            if len(self.texts) > len(self.captions) + MAX_SHUFFLED_CAPTIONS:
                self.texts.popitem(last=False)
        return text

    def _fits_latents(self, row: int, tensors: dict[str, Tensor]) -> bool:
        """Whether these have the shape of the image's latents."""
        shape = self.base.latent_shape(*self.crops[row].size)
        return {*tensors} == {"mean", "std"} and all(
            tensor.shape == shape and tensor.is_floating_point() for tensor in tensors.values()
        )

    def _fits_text(self, tensors: dict[str, Tensor]) -> bool:
        """Whether these have the shape of a caption's embeddings."""
        names = {HIDDEN_STATES, "text_embeds"} if self.base.family.is_xl else {HIDDEN_STATES}
        width = self.base.unet.config.cross_attention_dim
        return {*tensors} == names and all(
            tensor.is_floating_point() and len(tensor) == 1
            and tensor.ndim == 2 + (name == HIDDEN_STATES)
            and (name != HIDDEN_STATES or tensor.shape[-1] == width)
            for name, tensor in tensors.items()
        )  # fmt: skip

    def _encode_prompt(self, caption: str) -> dict[str, Tensor]:
        with torch.no_grad(), self.base.adapters.activated([]):
            return self.base.encode_text([caption])


_recent_datasets: deque[EncodedDataset] = deque(
    maxlen=2
)  # keeps their tensors in memory for the next one


def encode_dataset(base: BaseModel, dataset: Dataset, config: TrialConfig) -> EncodedDataset:
    """The encoded images of a trial, from the cache as far as possible.

    Raises:
        DataError: a size that the base cannot take, or color jitter together with cached latents.
    """
    encoded = EncodedDataset(base, dataset, config)
    _recent_datasets.append(encoded)
    return encoded


def _check_crops(images: Sequence[TrainingImage], crops: Sequence[Crop], factor: int) -> None:
    for image, crop in zip(images, crops, strict=True):
        width, height = crop.size
        if width % factor or height % factor:
            raise DataError(
                f"data.resolution, data.bucket_step: {image.path.name} would be {width}x{height} "
                f"pixels; this base takes multiples of {factor}"
            )
