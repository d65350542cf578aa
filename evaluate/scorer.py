"""Checkpoints -> scorecards: makes the probe images of K checkpoints at once and scores them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluate.config import LOSSES, ProbesConfig, ScoresConfig
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
from evaluate.metrics.collection import Baseline, Scores
from evaluate.metrics.losses import FixedLosses
from evaluate.prompts.attributes import class_words, load_attributes
from evaluate.prompts.probe_set import ProbeSet, load_probe_set, make_probe_set
from evaluate.scorecard import Estimate, Scorecard
from train.config.schema import DataConfig
from train.data.dataset import Dataset
from train.data.images.framing import square
from train.data.images.image import TrainingImage
from train.lora.adapter import Adapter
from train.lora.checkpoint import NotFiniteError, load_checkpoint
from train.models.base_model import BaseModel

log = logging.getLogger(__name__)
HALF = 0.5  # of the pictures at least must show a pose


class Scorer:
    """Scores LoRA files of one base and one set of training pictures.

    Args:
        base, pictures, data: as in training; probe pictures are squares of `data.resolution`.
        probes, scores: the settings.
        cache: folder where the bare base's pictures, and what was read off them and off the
            training pictures, are kept by content.

    Attributes:
        notes: what holds for every checkpoint, for example which scores cannot be told, and why.
        seconds: that drawing and reading all of these took.

    Raises:
        ConfigError: an encoder, a pose source or a file of probes that is not to be had.
        BaseError: a base whose own pictures are not finite numbers.
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: Dataset,
        data: DataConfig,
        probes: ProbesConfig,
        scores: ScoresConfig,
        cache: Path,
    ) -> None:
        began = time.monotonic()
        self.base, self.resolution, self.cache = base, data.resolution, cache
        self.settings, self.scores = probes, scores
        self.notes: list[str] = []
        self.bare = BaselineImages(base, data.resolution, probes, cache)
        self.training = torch.stack([square(p, data.resolution) for p in pictures.training])
        encoder = ClipEncoder(scores.clip_model, base.device)
        self.reader = FeatureExtractor(encoder, pose_source(scores, encoder))
        with self.reader.at_work():
            self.probe_set, training = self._prepare(pictures)
            self.fingerprint = self._fingerprint()
            baseline = Baseline(training, self._rounds(), self.probe_set, self.reader)
            options = {"resamples": scores.resamples, "confidence": scores.confidence}
            self.metrics = Scores(baseline, options)
        for doubt in dict.fromkeys(self.metrics.doubts.values()):
            names = [name for name, why in self.metrics.doubts.items() if why == doubt]
            self._note(f"no {', '.join(names)}: {doubt}")
        held_out = list(pictures.validation)
        seen = _spread(list(pictures.training), len(held_out))
        alone = len(held_out) == 1
        self.held_out, self.seen = (
            FixedLosses(base, some, data, scores.validation_timesteps, by_timestep=alone)
            for some in (held_out, seen)
        )
        if alone:
            self._note(
                "one picture is held out: the intervals of validation_loss and generalization_gap "
                "are over the timesteps, not over pictures"
            )
        self.seconds = time.monotonic() - began

    def __call__(self, checkpoints: dict[Path, int]) -> list[Scorecard]:
        """One scorecard for each LoRA file, in order; all their pictures are made in one go.

        Args:
            checkpoints: file -> the epoch after which it was saved.

        Raises:
            CheckpointError: a file that cannot be read or is for another base.
        """
        adapters: dict[Path, Adapter] = {}
        broken: dict[Path, Scorecard] = {}
        for path, epoch in checkpoints.items():
            try:
                adapters[path] = load_checkpoint(path, self.base.adapters)
            except NotFiniteError as error:  # it is this one's own fault, and not the others'
                broken[path] = self._broken(path, epoch, str(error))
        drawn = {path: epoch for path, epoch in checkpoints.items() if path in adapters}
        scored = self._scored(drawn, list(adapters.values())) if adapters else []
        cards = broken | dict(zip(drawn, scored, strict=True))
        return [cards[path] for path in checkpoints]

    def _scored(self, checkpoints: dict[Path, int], adapters: list[Adapter]) -> list[Scorecard]:
        """The scorecards of LoRAs whose weights are finite."""
        probes = self.probe_set.probes
        images = generate(
            self.base, adapters, [p.prompt for p in probes], [p.seed for p in probes],
            self.resolution, self.settings.steps, self.settings.guidance,
        )  # fmt: skip
        losses = zip(self.held_out(adapters), self.seen(adapters), strict=True)
        fine = images.isfinite().flatten(1).all(1)
        with self.reader.at_work():
            read = self.reader.read(images[fine].flatten(0, 1)) if fine.any() else None
            rows = iter(_slices(len(checkpoints), len(probes)))
            return [
                self.scorecard(path, epoch, made, read[next(rows)], pair)
                if read is not None and drawn
                else self.failed(path, epoch, made)
                for (path, epoch), made, drawn, pair in zip(
                    checkpoints.items(), images, fine.tolist(), losses, strict=True
                )
            ]

    def scorecard(
        self,
        path: Path,
        epoch: int,
        images: Tensor,
        made: ImageFeatures,
        losses: tuple[Tensor, Tensor],
    ) -> Scorecard:
        """The scorecard of a probe set's pictures, (N, 3, H, W) of 0 to 1, and what they show.

        Args:
            losses: of the held-out pictures and of training pictures; empty where there are none.
        """
        estimates, by_probe = self.metrics(made, losses)
        notes = list(self.notes)
        if "detection_rate" in estimates and (rate := float(estimates["detection_rate"][0])) < 1:
            notes.append(f"{self.reader.source.name} finds a pose in {rate:.0%} of the images")
        if "pose_diversity" not in estimates:
            notes.append("too few poses to score their memorisation and diversity")
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
            copies=self.metrics.copies(made, by_probe),
            images=_pixels(images),
        )

    def failed(self, path: Path, epoch: int, images: Tensor) -> Scorecard:
        """The scorecard of a checkpoint that draws pictures which are not finite numbers."""
        wrong = len(images) - int(images.isfinite().flatten(1).all(1).sum())
        failure = f"{wrong} of its {len(images)} pictures are not finite numbers"
        return self._unusable(path, epoch, failure, _pixels(images.nan_to_num(0, 0, 0)))

    def _broken(self, path: Path, epoch: int, failure: str) -> Scorecard:
        """The scorecard of a checkpoint that draws nothing, with black pictures."""
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
        """The scores that there can be for these pictures, this base and these probes."""
        told = [name for name in self.metrics.metrics if name not in self.metrics.doubts]
        return [*told, *(LOSSES if self.held_out.pictures else ())]

    def sheet(self, scorecard: Scorecard) -> Image.Image:
        """The probe images with what was asked, below a row of training pictures."""
        return contact_sheet.contact_sheet(scorecard, self.probe_set, self.training)

    def base_sheet(self) -> Image.Image:
        """The same of the bare base, which makes the probes without the trigger word."""
        images = _pixels(self.bare.draw(self.probe_set.probes, 0))
        return self.sheet(Scorecard(Path("-"), 0, {}, unit="bare base, epoch", images=images))

    def _prepare(self, pictures: Dataset) -> tuple[ProbeSet, ImageFeatures]:
        """The probe set, and what the training pictures show.

        Poses are read by the source of the settings, or compared by layout where it finds none in
        most of the training pictures or of the bare base's.
        """
        values = load_attributes(self.settings.attributes)
        references = reference_probes(values, class_words(pictures.trigger, values))
        drawn = self.bare.draw(references, 0, Countdown("the bare base draws", len(references)))
        training, poses = self._read([self.training, drawn])
        for name, read in {"training": training, "base's": poses}.items():
            share = float(read.found.float().mean())
            if share < HALF:
                self._note(
                    f"{self.reader.source.name} finds a pose in {share:.0%} of the {name} "
                    "pictures: poses are compared by layout instead"
                )
                self.reader = FeatureExtractor(
                    self.reader.encoder, LayoutPoses(self.reader.encoder)
                )
                training, poses = self._read([self.training, drawn])
                break
        if self.settings.file:
            return load_probe_set(self.settings.file), training
        alike = self.reader.source.similarity(training.shown, poses.poses)
        probe_set = make_probe_set(
            self.settings, values, pictures, self.reader.encoder, training.features,
            training_poses(values, references, alike),
        )  # fmt: skip
        return probe_set, training

    def _rounds(self) -> list[ImageFeatures]:
        """What the bare base makes of the probes, round by round."""
        probes, rounds = self.probe_set.probes, range(self.scores.baseline)
        countdown = Countdown("the bare base draws", len(probes) * len(rounds))
        return self._read([self.bare.draw(probes, number, countdown) for number in rounds])

    def _read(self, sets: list[Tensor]) -> list[ImageFeatures]:
        """What these sets of pictures show, which is known from an earlier start or read now."""
        known, countdown = (
            FeatureCache(self.reader, self.cache),
            Countdown("reads", sum(map(len, sets))),
        )
        return [known.read(images, countdown) for images in sets]

    def _note(self, note: str) -> None:
        log.warning(note)
        self.notes.append(note)

    def _fingerprint(self) -> str:
        about = {
            "base": self.base.drawing,
            "resolution": self.resolution,
            "probes": self.probe_set.to_yaml(),
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "scores": asdict(self.scores),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W), 0 to 1 -> (N, H, W, 3), 0 to 255."""
    pixels: NDArray[np.uint8] = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return pixels


def _slices(count: int, size: int) -> list[slice]:
    return [slice(k * size, (k + 1) * size) for k in range(count)]


def _spread(pictures: list[TrainingImage], count: int) -> list[TrainingImage]:
    """`count` of the pictures, evenly spread over them."""
    if not count:
        return []
    rows = torch.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().long().tolist()
    return [pictures[row] for row in rows]
