"""Checkpoints -> scorecards: makes the probe images of K checkpoints at once and scores them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from evaluate import sheet
from evaluate.config import LOSSES, ProbesConfig, ScoresConfig
from evaluate.metrics.losses import FixedLosses
from evaluate.metrics.scores import LEAKS, Baseline, Scores
from evaluate.probing.bare import BareBase
from evaluate.probing.generate import generate
from evaluate.probing.probes import ProbeSet, load_probe_set, make_probe_set
from evaluate.probing.shown import reference_probes, shown_poses
from evaluate.probing.values import class_words, load_values
from evaluate.reading.encoder import Encoder
from evaluate.reading.pose import LayoutPoses
from evaluate.reading.pose_sources import pose_source
from evaluate.reading.readings import Reader, Readings
from evaluate.scorecard import Estimate, Scorecard
from train.base import Base
from train.checkpoint import load_checkpoint
from train.config import DataConfig
from train.data.loading import Pictures
from train.data.picture import Picture

log = logging.getLogger(__name__)
HALF = 0.5  # of the pictures at least must show a pose


class Scorer:
    """Scores LoRA files of one base and one set of training pictures.

    Args:
        base, pictures, data: as in training; probe pictures are squares of `data.resolution`.
        probes, scores: the settings.
        cache: folder where the bare base's pictures are kept, by content.

    Raises:
        ConfigError: an encoder, a pose source or a file of probes that is not to be had.
    """

    def __init__(
        self,
        base: Base,
        pictures: Pictures,
        data: DataConfig,
        probes: ProbesConfig,
        scores: ScoresConfig,
        cache: Path,
    ) -> None:
        self.base, self.resolution = base, data.resolution
        self.settings, self.scores = probes, scores
        self.notes: list[str] = []
        self.bare = BareBase(base, data.resolution, probes, cache)
        self.training = torch.stack([p.pixels(data.resolution) for p in pictures.training])
        encoder = Encoder(scores.encoder, base.device)
        self.reader = Reader(encoder, pose_source(scores, encoder))
        with self.reader.at_work():
            self.probe_set, training = self._prepare(pictures)
            self.fingerprint = self._fingerprint()
            rounds = [self.bare.draw(self.probe_set.probes, r) for r in range(scores.baseline)]
            baseline = Baseline(
                training, [self.reader.read(r) for r in rounds], self.probe_set, self.reader
            )
            options = {"resamples": scores.resamples, "confidence": scores.confidence}
            self.metrics = Scores(baseline, options)
        held_out = list(pictures.validation)
        seen = _spread(list(pictures.training), len(held_out))
        self.held_out, self.seen = (
            FixedLosses(base, some, data, scores.validation_timesteps) for some in (held_out, seen)
        )

    def __call__(self, checkpoints: dict[Path, int]) -> list[Scorecard]:
        """One scorecard for each LoRA file, in order; all their pictures are made in one go.

        Args:
            checkpoints: file -> the epoch after which it was saved.

        Raises:
            CheckpointError: a file that cannot be read or is for another base.
        """
        adapters = [load_checkpoint(path, self.base.adapters) for path in checkpoints]
        probes = self.probe_set.probes
        images = generate(
            self.base, adapters, [p.prompt for p in probes], [p.seed for p in probes],
            self.resolution, self.settings.steps, self.settings.guidance,
        )  # fmt: skip
        losses = zip(self.held_out(adapters), self.seen(adapters), strict=True)
        with self.reader.at_work():
            read = self.reader.read(images.flatten(0, 1))
            made = [read[rows] for rows in _slices(len(checkpoints), len(probes))]
            return [
                self.scorecard(path, epoch, images[k], made[k], pair)
                for k, ((path, epoch), pair) in enumerate(
                    zip(checkpoints.items(), losses, strict=True)
                )
            ]

    def scorecard(
        self, path: Path, epoch: int, images: Tensor, made: Readings, losses: tuple[Tensor, Tensor]
    ) -> Scorecard:
        """The scorecard of a probe set's pictures, (N, 3, H, W) of 0 to 1, and what they show.

        Args:
            losses: of the held-out pictures and of training pictures; empty where there are none.
        """
        estimates, by_probe = self.metrics(made, losses)
        notes = list(self.notes)
        rate = float(estimates["detection_rate"][0])
        if rate < 1:
            notes.append(f"{self.reader.source.name} finds a pose in {rate:.0%} of the images")
        if "pose_diversity" not in estimates:
            notes.append("too few poses to score their memorisation and diversity")
        for name in [name for name in LEAKS if name not in estimates]:
            notes.append(f"no {name}: the training pictures show all that can be asked for")
        return Scorecard(
            checkpoint=path,
            epoch=epoch,
            scores={name: Estimate(*map(float, bounds)) for name, bounds in estimates.items()},
            by_probe=by_probe,
            notes=notes,
            confidence=self.scores.confidence,
            copies=self.metrics.copies(made, by_probe),
            images=(images.permute(0, 2, 3, 1) * 255).round().byte().numpy(),
        )

    @property
    def names(self) -> list[str]:
        """The scores that there can be for these pictures and probes."""
        return [*self.metrics.metrics, *(LOSSES if self.held_out.pictures else ())]

    def sheet(self, scorecard: Scorecard) -> Image.Image:
        """The probe images with what was asked, below a row of training pictures."""
        return sheet.contact_sheet(scorecard, self.probe_set, self.training)

    def base_sheet(self) -> Image.Image:
        """The same of the bare base, which makes the probes without the trigger word."""
        images = self.bare.draw(self.probe_set.probes, 0).permute(0, 2, 3, 1)
        made = (images * 255).round().byte().numpy()
        return self.sheet(Scorecard(Path("-"), 0, {}, unit="bare base, epoch", images=made))

    def _prepare(self, pictures: Pictures) -> tuple[ProbeSet, Readings]:
        """The probe set, and what the training pictures show.

        Poses are read by the source of the settings, or compared by layout where it finds none in
        most of the training pictures or of the bare base's.
        """
        values = load_values(self.settings.values)
        references = reference_probes(values, class_words(pictures.trigger, values))
        drawn = self.bare.draw(references)
        training, poses = self.reader.read(self.training), self.reader.read(drawn)
        for name, read in {"training": training, "base's": poses}.items():
            share = float(read.found.float().mean())
            if share < HALF:
                self.notes.append(
                    f"{self.reader.source.name} finds a pose in {share:.0%} of the {name} "
                    "pictures: poses are compared by layout instead"
                )
                log.warning(self.notes[-1])
                self.reader = Reader(self.reader.encoder, LayoutPoses(self.reader.encoder))
                training, poses = self.reader.read(self.training), self.reader.read(drawn)
                break
        if self.settings.set:
            return load_probe_set(self.settings.set), training
        alike = self.reader.source.similarity(training.shown, poses.poses)
        probe_set = make_probe_set(
            self.settings, values, pictures, self.reader.encoder, training.features,
            shown_poses(values, references, alike),
        )  # fmt: skip
        return probe_set, training

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


def _slices(count: int, size: int) -> list[slice]:
    return [slice(k * size, (k + 1) * size) for k in range(count)]


def _spread(pictures: list[Picture], count: int) -> list[Picture]:
    """`count` of the pictures, evenly spread over them."""
    if not count:
        return []
    rows = torch.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().long().tolist()
    return [pictures[row] for row in rows]
