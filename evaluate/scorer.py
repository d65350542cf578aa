"""Checkpoints -> scorecards: generates the probe images of K checkpoints and scores them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluate.config import LAYOUT, LOSSES, ProbesConfig, ScoresConfig
from evaluate.console.progress import Countdown
from evaluate.features.clip import ClipEncoder
from evaluate.features.extractor import FeatureExtractor, ImageFeatures
from evaluate.features.feature_cache import FeatureCache
from evaluate.features.pose import LayoutPoses
from evaluate.features.pose_detectors import pose_source
from evaluate.generation.baseline_images import BaselineImages
from evaluate.generation.generate import generate
from evaluate.generation.training_poses import reference_probes, training_poses
from evaluate.images import contact_sheet
from evaluate.metrics.collection import Baseline, ScoreCollection
from evaluate.metrics.losses import FixedLosses
from evaluate.prompts.attributes import class_words, load_attributes
from evaluate.prompts.probe_set import ProbeSet, load_probe_set, make_probe_set
from evaluate.prompts.roles import FRESH
from evaluate.scorecard import Estimate, Scorecard
from train.config.schema import DataConfig
from train.data.dataset import Dataset
from train.data.images.buckets import framing_of
from train.data.images.cropping import square
from train.data.images.image import TrainingImage
from train.lora.adapter import Adapter
from train.lora.checkpoint import NonFiniteError, load_checkpoint
from train.models.base_model import BaseModel

log = logging.getLogger(__name__)
GENERATING_STAGE = "the base model generates"  # the stage that a countdown names
FRESH_SEEDS = 300  # between the seeds of the probes and those of `Scorer.fresh`
MIN_DETECTED = 0.5  # share of the images in which the pose source must detect a pose


class Scorer:
    """Scores LoRA files of one base and one dataset.

    Args:
        base, dataset, data: as in training; probe images are squares of `data.resolution`.
        probes, scores: the settings.
        cache: folder of the cached images of the base, and of the features of these and of the
            training images.

    Attributes:
        notes: remarks on every checkpoint, for example which scores are undefined, and why.
        seconds: the time that preparing these images and features took.

    Raises:
        ConfigError: an encoder, a pose source or a file of probes is not available.
        BaseError: the base's own images are not finite.
    """

    def __init__(
        self,
        base: BaseModel,
        dataset: Dataset,
        data: DataConfig,
        probes: ProbesConfig,
        scores: ScoresConfig,
        cache: Path,
    ) -> None:
        start = time.monotonic()
        self.base, self.resolution, self.cache = base, data.resolution, cache
        self.dataset, self.framing = dataset, framing_of(data)
        self.settings, self.scores = probes, scores
        self.notes: list[str] = []
        self.baseline_images = BaselineImages(base, data.resolution, probes, cache)
        self.training_images = torch.stack([square(i, data.resolution) for i in dataset.training])
        encoder = ClipEncoder(scores.clip_model, base.device)
        self.extractor = FeatureExtractor(encoder, pose_source(scores, encoder))
        if scores.pose_detector == LAYOUT:
            self._note("poses are layouts here: whole images are compared (docs/scores.md)")
        with self.extractor.on_device():
            self.probe_set, training = self._prepare(dataset)
            self.fingerprint = self._fingerprint()
            baseline = Baseline(training, self._rounds(), self.probe_set, self.extractor)
            self.metrics = self._collection(baseline)
        for reason in dict.fromkeys(self.metrics.undefined.values()):
            names = [name for name, why in self.metrics.undefined.items() if why == reason]
            self._note(f"no {', '.join(names)}: {reason}")
        held_out = list(dataset.validation)
        compared = _spread(list(dataset.training), len(held_out))
        single = len(held_out) == 1
        self.held_out_losses, self.training_losses = (
            FixedLosses(base, images, data, scores.validation_timesteps, by_timestep=single)
            for images in (held_out, compared)
        )
        if single:
            self._note(
                "one image is held out: the intervals of validation_loss and generalization_gap "
                "are over the timesteps, not over images"
            )
        self.seconds = time.monotonic() - start

    def __call__(self, checkpoints: dict[Path, int]) -> list[Scorecard]:
        """One scorecard for each LoRA file, in order; their images are generated together.

        Args:
            checkpoints: file -> the epoch after which it was saved.

        Raises:
            CheckpointError: a file cannot be read or is for another base.
        """
        adapters: dict[Path, Adapter] = {}
        broken: dict[Path, Scorecard] = {}
        for path, epoch in checkpoints.items():
            try:
                adapters[path] = load_checkpoint(path, self.base.adapters)
            except NonFiniteError as error:  # the other checkpoints are scored nevertheless
                broken[path] = self._card_of_nan_weights(path, epoch, str(error))
        finite = {path: epoch for path, epoch in checkpoints.items() if path in adapters}
        scored = self._score(finite, list(adapters.values())) if adapters else []
        cards = broken | dict(zip(finite, scored, strict=True))
        return [cards[path] for path in checkpoints]

    def fresh(self, count: int, rounds: int, baseline: int = 1) -> Scorer:
        """The same scorer with other probes, which no checkpoint has seen so far.

        Args:
            count: number of probes.
            rounds: the probes come in an order in which each of as many parts has all roles.
            baseline: number of the base's images of each probe.
        """
        seed = self.settings.seed + FRESH_SEEDS
        other = copy(self)
        other.settings = replace(self.settings, count=count, seed=seed)
        other.scores = replace(self.scores, baseline=baseline)
        if self.settings.file:
            probe_set = self.probe_set.repeated(count, seed)
        else:
            probe_set = other._make_probe_set(self.metrics.baseline.training)
        other.probe_set = probe_set.dealt(rounds)
        with self.extractor.on_device():
            rows = other._rounds()
            known = self.metrics.baseline
            others = (*known.base(FRESH), *known.others)
        fresh = replace(known, rounds=rows, probe_set=other.probe_set, others=others)
        return other.with_baseline(fresh)

    def with_baseline(self, baseline: Baseline) -> Scorer:
        """The same scorer with another baseline, and the probes of it."""
        other = copy(self)
        other.probe_set = baseline.probe_set
        with self.extractor.on_device():
            other.metrics = other._collection(baseline)
        return other

    def generate(self, checkpoint: Path, part: slice) -> Tensor:
        """A checkpoint's images of some of the probes, (N, 3, H, W); perhaps not finite.

        Raises:
            CheckpointError: the file cannot be read or is for another base.
        """
        adapter = load_checkpoint(checkpoint, self.base.adapters)
        return self._generate([adapter], part)[0]

    def _generate(self, adapters: list[Adapter], part: slice) -> Tensor:
        probes = self.probe_set.probes[part]
        return generate(
            self.base, adapters, [p.prompt for p in probes], [p.seed for p in probes],
            self.resolution, self.settings.steps, self.settings.guidance,
        )  # fmt: skip

    def _score(self, checkpoints: dict[Path, int], adapters: list[Adapter]) -> list[Scorecard]:
        """The scorecards of LoRAs whose weights are finite."""
        images = self._generate(adapters, slice(None))
        losses = zip(self.held_out_losses(adapters), self.training_losses(adapters), strict=True)
        finite = images.isfinite().flatten(1).all(1)
        with self.extractor.on_device():
            features = None
            if finite.any():
                features = self.extractor.extract(images[finite].flatten(0, 1))
            rows = iter(_slices(len(checkpoints), len(self.probe_set.probes)))
            return [
                self.scorecard(path, epoch, each, features[next(rows)], pair)
                if features is not None and is_finite
                else self.card_of_nan_images(path, epoch, each)
                for (path, epoch), each, is_finite, pair in zip(
                    checkpoints.items(), images, finite.tolist(), losses, strict=True
                )
            ]

    def scorecard(
        self,
        path: Path,
        epoch: int,
        images: Tensor | None,
        features: ImageFeatures,
        losses: tuple[Tensor, Tensor],
    ) -> Scorecard:
        """The scorecard of a probe set's images, or of those of the first probes.

        Args:
            images: (N, 3, H, W), 0 to 1, if the scorecard is to keep them.
            features: of the images.
            losses: of the held-out images and of training images; empty if there are none.
        """
        estimates, by_probe = self.metrics(features, losses)
        notes = list(self.notes)
        if "detection_rate" in estimates and (rate := float(estimates["detection_rate"][0])) < 1:
            notes.append(f"{self.extractor.source.name} finds a pose in {rate:.0%} of the images")
        if "pose_diversity" not in estimates:
            notes.append("too few poses to score their memorization and diversity")
        missing = [n for n in self.names if n not in estimates and n != "pose_diversity"]
        if missing:
            notes.append(f"no {', '.join(missing)}: too few observations, or none that is finite")
        return Scorecard(
            checkpoint=path,
            epoch=epoch,
            scores={name: Estimate(*map(float, bounds)) for name, bounds in estimates.items()},
            by_probe=by_probe,
            notes=notes,
            confidence=self.scores.confidence,
            copies=self.metrics.copies(features, by_probe),
            images=None if images is None else _pixels(images),
        )

    def card_of_nan_images(self, path: Path, epoch: int, images: Tensor) -> Scorecard:
        """The scorecard of a checkpoint whose images are not finite."""
        count = len(images) - int(images.isfinite().flatten(1).all(1).sum())
        failure = f"{count} of its {len(images)} images are not finite numbers"
        return self._unusable(path, epoch, failure, _pixels(images.nan_to_num(0, 0, 0)))

    def _card_of_nan_weights(self, path: Path, epoch: int, failure: str) -> Scorecard:
        """The scorecard of a checkpoint whose weights are not finite, with black images."""
        size = self.resolution
        black = np.zeros((len(self.probe_set.probes), size, size, 3), np.uint8)
        return self._unusable(path, epoch, failure, black)

    def _unusable(
        self, path: Path, epoch: int, failure: str, images: NDArray[np.uint8]
    ) -> Scorecard:
        return Scorecard(
            checkpoint=path,
            epoch=epoch,
            scores={},
            confidence=self.scores.confidence,
            failure=failure,
            images=images,
        )

    @property
    def names(self) -> list[str]:
        """The scores that are defined for these images, this base and these probes."""
        defined = [name for name in self.metrics.metrics if name not in self.metrics.undefined]
        return [*defined, *(LOSSES if self.held_out_losses.images else ())]

    def sheet(self, scorecard: Scorecard) -> Image.Image:
        """The probe images with their attributes, below a row of training images."""
        return contact_sheet.contact_sheet(scorecard, self.probe_set, self.training_images)

    def base_sheet(self) -> Image.Image:
        """The contact sheet of the base alone, whose prompts have no trigger word."""
        images = _pixels(self.baseline_images.generate(self.probe_set.probes, 0))
        return self.sheet(Scorecard(Path("-"), 0, {}, unit="base model, epoch", images=images))

    def _prepare(self, dataset: Dataset) -> tuple[ProbeSet, ImageFeatures]:
        """The probe set, and the features of the training images.

        Poses come from the source of the settings; if it detects none in most of the training
        images or of the base's images, they are compared by layout.
        """
        values = load_attributes(self.settings.attributes)
        references = reference_probes(values, class_words(dataset.trigger, values))
        countdown = Countdown(GENERATING_STAGE, len(references))
        images = self.baseline_images.generate(references, 0, countdown)
        training, base = self._extract([self.training_images, images])
        for name, features in {"training": training, "base's": base}.items():
            share = float(features.found.float().mean())
            if share < MIN_DETECTED:
                self._note(
                    f"the pose detector {self.extractor.source.name} finds a pose in {share:.0%} "
                    f"of the {name} images: their layouts are compared instead (docs/scores.md)"
                )
                encoder = self.extractor.encoder
                self.extractor = FeatureExtractor(encoder, LayoutPoses(encoder))
                training, base = self._extract([self.training_images, images])
                break
        similarity = self.extractor.source.similarity(training.detected_poses, base.poses)
        self.poses = training_poses(values, references, similarity)
        if self.settings.file:
            return load_probe_set(self.settings.file), training
        return self._make_probe_set(training), training

    def _make_probe_set(self, training: ImageFeatures) -> ProbeSet:
        """The probes of the settings for these training images."""
        return make_probe_set(
            self.settings, load_attributes(self.settings.attributes), self.dataset,
            self.extractor.encoder, training.features, self.poses,
        )  # fmt: skip

    def _collection(self, baseline: Baseline) -> ScoreCollection:
        options = {"resamples": self.scores.resamples, "confidence": self.scores.confidence}
        return ScoreCollection(baseline, options)

    def _rounds(self) -> list[ImageFeatures]:
        """Features of the base's images of the probes, for each round."""
        probes, rounds = self.probe_set.probes, range(self.scores.baseline)
        countdown = Countdown(GENERATING_STAGE, len(probes) * len(rounds))
        images = [self.baseline_images.generate(probes, number, countdown) for number in rounds]
        return self._extract(images)

    def _extract(self, sets: list[Tensor]) -> list[ImageFeatures]:
        """The features of sets of images, cached from an earlier start or computed."""
        cache = FeatureCache(self.extractor, self.cache)
        countdown = Countdown("extracting features of", sum(map(len, sets)))
        return [cache.extract(images, countdown) for images in sets]

    def _note(self, note: str) -> None:
        log.warning(note)
        self.notes.append(note)

    def _fingerprint(self) -> str:
        parts = {
            "base": self.base.image_fingerprint,
            "resolution": self.resolution,
            "probes": self.probe_set.to_yaml(),
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "scores": asdict(self.scores),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W), 0 to 1 -> (N, H, W, 3), 0 to 255."""
    pixels: NDArray[np.uint8] = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return pixels


def _slices(count: int, size: int) -> list[slice]:
    return [slice(k * size, (k + 1) * size) for k in range(count)]


def _spread(images: list[TrainingImage], count: int) -> list[TrainingImage]:
    """`count` of the images, evenly spaced."""
    if not count:
        return []
    rows = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long().tolist()
    return [images[row] for row in rows]
