"""The pictures as the UNet sees them: latents and text embeddings, shared by all trials."""

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
from train.config.schema import BASE_PLACES, TrialConfig
from train.data.batching import frames_of
from train.data.captions.sampling import sample_captions
from train.data.dataset import Dataset
from train.data.images.buckets import Frame
from train.data.images.color_jitter import ColorJitter, sample_color_jitter
from train.data.images.framing import framed
from train.data.images.image import DataError, TrainingImage
from train.models.base_model import TEXT, BaseModel
from train.models.latents import encode_latents
from train.validation import DISK, OFF

log = logging.getLogger(__name__)
SHUFFLED = 256  # captions in an order of their own whose embeddings are kept


class EncodedDataset:
    """Latents and text embeddings of the pictures that are trained on.

    Attributes:
        pictures: the subject's, then those of regularisation.
        frames: how each is brought to its size.
        sizes: (n, 6), see `BaseModel.size_conditioning`.
        prior: (n,) bool, which of them are of regularisation.
    """

    def __init__(self, base: BaseModel, pictures: Dataset, config: TrialConfig) -> None:
        self.base, self.pictures = base, pictures.trained
        self.frames = frames_of(self.pictures, config.data)
        _check_frames(self.pictures, self.frames, base.factor)
        framed = zip(self.pictures, self.frames, strict=True)
        self.sizes = torch.tensor([picture.sizes(frame) for picture, frame in framed])
        self.prior = torch.tensor([picture.subset.regularization for picture in self.pictures])
        self.fixed = not config.data.resample_latents
        self.flips = any(picture.subset.flip for picture in self.pictures)
        self.tints = any(picture.subset.color_augmentation for picture in self.pictures)
        self.drops = any(picture.subset.caption_dropout for picture in self.pictures)
        settings = [item for item in asdict(config.base).items() if item[0] not in BASE_PLACES]
        # in memory the base itself will do: nobody waits until some GB are hashed
        named = base.fingerprint if config.cache == DISK else id(base)
        self.about = [named, base.device.type, sorted(settings)]
        folder = Path(config.cache_path) if config.cache == DISK else None
        self.store = None if config.cache == OFF else TensorCache(folder)
        if self.tints and self.store:
            raise DataError("color_aug of the dataset_config: goes with cache=off alone")
        self.latents: dict[tuple[int, bool], CachedTensor] = {}
        self.texts: OrderedDict[str, dict[str, Tensor]] = OrderedDict()  # on the device
        self.spoken: list[CachedTensor] = []  # what the store has of them, for the next trial
        self.captions = {*(picture.caption for picture in self.pictures), ""}
        if self.store:
            self._fill(self.store)

    def latents_of(self, rows: list[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of a batch, (n, c, h, w) each, on the CPU.

        Args:
            random: a member's stream, of which flips and colours are drawn.
        """
        flips = torch.rand(len(rows), generator=random) < 0.5 if self.flips else repeat(False)
        tints = sample_color_jitter(len(rows), random) if self.tints else repeat(None)
        found = []
        for row, flip, tint in zip(rows, flips, tints, strict=False):
            subset = self.pictures[row].subset
            flipped = subset.flip and bool(flip)
            found.append(self._latents(row, flipped, tint if subset.color_augmentation else None))
        return torch.stack([mean for mean, _ in found]), torch.stack([std for _, std in found])

    def sample_captions(
        self, rows: list[int], dropout: float, random: torch.Generator
    ) -> list[str]:
        """What is said of the pictures of a batch.

        Args:
            dropout: how often a caption is dropped where the picture's subset does not say.
        """
        drops = dropout > 0 or self.drops
        return sample_captions([self.pictures[row] for row in rows], dropout, drops, random)

    def conditioning(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The bare text encoder's embeddings of these captions, a row each, on the device."""
        rows = [self._text(caption) for caption in captions]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _fill(self, store: TensorCache) -> None:
        """Encodes all that is known beforehand, one by one, so that no result hangs on others."""
        with store.alone():
            for row, picture in enumerate(self.pictures):
                for flipped in (False, True)[: 1 + picture.subset.flip]:
                    about = self._latents_about(row, flipped)
                    make = partial(self._encode, row, flipped)
                    fits = partial(self._are_latents, row)
                    self.latents[row, flipped] = store.fetch(key_of(*about), make, fits)
            said = f"latents: {store.found} from the cache, {store.made} encoded"
            store.found = store.made = 0
            for caption in sorted(self.captions):
                self._text(caption)
            log.info(f"{said}; captions: {store.found} from the cache, {store.made} encoded")

    def _latents_about(self, row: int, flipped: bool) -> list[object]:
        frame = self.frames[row]
        return ["latents", self.pictures[row].content, frame.size, frame.box, flipped, *self.about,
                str(self.base.vae.dtype)]  # fmt: skip

    def _encode(
        self, row: int, flipped: bool, tint: ColorJitter | None = None
    ) -> dict[str, Tensor]:
        pixels = framed(self.pictures[row], self.frames[row], flipped, tint)
        mean, std = encode_latents(self.base, pixels.unsqueeze(0))
        return {"mean": mean[0].cpu(), "std": std[0].cpu()}

    def _latents(self, row: int, flipped: bool, tint: ColorJitter | None) -> tuple[Tensor, Tensor]:
        known = self.latents.get((row, flipped))
        found = known.tensors if known else self._encode(row, flipped, tint)
        mean, std = found["mean"], found["std"]
        if not self.fixed:
            return mean, std
        seed = int(key_of(self.pictures[row].content, self.frames[row].size, flipped)[:15], 16)
        spread = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        return mean + std * spread, torch.zeros_like(std)

    def _text(self, caption: str) -> dict[str, Tensor]:
        if caption in self.texts:
            self.texts.move_to_end(caption)
            return self.texts[caption]
        if self.store and caption in self.captions:
            about = ["text", caption, *self.about, str(self.base.dtype)]
            entry = self.store.fetch(key_of(*about), partial(self._speak, caption), self._is_text)
            self.spoken.append(entry)
            made = {name: tensor.to(self.base.device) for name, tensor in entry.tensors.items()}
        else:
            made = self._speak(caption)
        if self.store:
            self.texts[caption] = made
            if len(self.texts) > len(self.captions) + SHUFFLED:
                self.texts.popitem(last=False)
        return made

    def _are_latents(self, row: int, tensors: dict[str, Tensor]) -> bool:
        """Whether these have the shape of a picture's latents."""
        shape = self.base.latent_shape(*self.frames[row].size)
        return {*tensors} == {"mean", "std"} and all(
            tensor.shape == shape and tensor.is_floating_point() for tensor in tensors.values()
        )

    def _is_text(self, tensors: dict[str, Tensor]) -> bool:
        """Whether these have the shape of a caption's embeddings."""
        names = {TEXT, "text_embeds"} if self.base.family.is_xl else {TEXT}
        width = self.base.unet.config.cross_attention_dim
        return {*tensors} == names and all(
            tensor.is_floating_point() and len(tensor) == 1 and tensor.ndim == 2 + (name == TEXT)
            and (name != TEXT or tensor.shape[-1] == width)
            for name, tensor in tensors.items()
        )  # fmt: skip

    def _speak(self, caption: str) -> dict[str, Tensor]:
        with torch.no_grad(), self.base.adapters.activated([]):
            return self.base.encode_text([caption])


_last: deque[EncodedDataset] = deque(maxlen=2)  # keeps what they hold in memory for the next one


def encode_dataset(base: BaseModel, pictures: Dataset, config: TrialConfig) -> EncodedDataset:
    """The pictures of a trial, what was encoded before taken from there.

    Raises:
        DataError: a size that the base cannot take, or colours that change beside kept latents.
    """
    encoded = EncodedDataset(base, pictures, config)
    _last.append(encoded)
    return encoded


def _check_frames(pictures: Sequence[TrainingImage], frames: Sequence[Frame], factor: int) -> None:
    for picture, frame in zip(pictures, frames, strict=True):
        width, height = frame.size
        if width % factor or height % factor:
            raise DataError(
                f"data.resolution, data.bucket_step: {picture.path.name} would be {width}x{height} "
                f"pixels; this base takes multiples of {factor}"
            )
