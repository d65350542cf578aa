"""Checkpoints -> scorecards: makes the probe images of K checkpoints at once and scores them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evaluate import sheet
from evaluate.bare import BareBase
from evaluate.config import ProbesConfig, ScoresConfig
from evaluate.encoder import Encoder
from evaluate.generate import generate
from evaluate.pose import LayoutPoses, PoseSource, pose_source
from evaluate.probes import KINDS, class_words, load_values, make_probe_set, zero_shot
from evaluate.reference import reference_probes, shown_poses
from evaluate.scorecard import Estimate, Scorecard
from evaluate.scores import (
    AttributeLeak,
    PoseDiversity,
    PoseMemorization,
    PromptFidelity,
    Score,
    Share,
    SubjectFidelity,
    ValidationLoss,
)
from evaluate.subject import portraits
from evaluate.validation import ValidationSet
from train.base import Base
from train.checkpoint import epoch_of, load_checkpoint
from train.data import Pictures

log = logging.getLogger(__name__)
LEAKS = {"background_leak": "backgrounds", "outfit_leak": "outfits"}


class Scorer:
    """Scores LoRA files of one base and one set of training pictures.

    Args:
        base, pictures, resolution: as in training.
        probes, scores: the settings.
        cache: folder where the bare base's pictures are kept, by content.

    Raises:
        ConfigError: an encoder, a pose source or a file of probe values that is not to be had.
    """

    def __init__(
        self,
        base: Base,
        pictures: Pictures,
        resolution: int,
        probes: ProbesConfig,
        scores: ScoresConfig,
        cache: Path,
    ) -> None:
        self.base, self.pictures, self.resolution = base, pictures, resolution
        self.settings, self.scores = probes, scores
        self.options: dict[str, Any] = {
            "resamples": scores.resamples,
            "confidence": scores.confidence,
        }
        self.encoder = Encoder(scores.encoder, base.device)
        self.training = torch.stack([p.pixels(resolution) for p in pictures.training])
        self.training_features = self.encoder.image_features(self.training)
        self.notes: list[str] = []
        bare = BareBase(base, resolution, probes, cache)
        values = load_values(probes.file)
        references = reference_probes(values, class_words(pictures.trigger, values))
        drawn = bare.draw(references)
        self.source, poses, drawn_poses = self._read_poses(drawn)
        self.training_poses = self._detected(poses)
        self.training_subjects = self._subjects(self.training, self.training_features, poses)
        alike = self.source.similarity(self.training_poses, drawn_poses)
        self.probe_set = make_probe_set(
            probes, values, pictures, self.encoder, self.training_features,
            shown_poses(values, references, alike),
        )  # fmt: skip
        self.fingerprint = self._fingerprint()
        # (R, N, 3, H, W): R pictures of each probe by the bare base
        rounds = range(scores.baseline)
        self.baseline = torch.stack([bare.draw(self.probe_set.probes, r) for r in rounds])
        self.prompts = self.encoder.text_features([p.base_prompt for p in self.probe_set.probes])
        self.base_features = self.encoder.image_features(self.baseline.flatten(0, 1))
        by_probe = self.base_features.unflatten(0, self.baseline.shape[:2])
        self.base_similarity = (by_probe * self.prompts).sum(-1).mean(0)
        self.base_poses = self.source.read(self.baseline.flatten(0, 1))
        self.base_subjects = self._subjects(
            self.baseline.flatten(0, 1), self.base_features, self.base_poses
        )
        # heads show little of a pose and an outfit
        self.nuisance = self.nuisance_of(KINDS if self.source.head is None else ("backgrounds",))
        self.base_leaks = {name: float(self._leaks(kind, self.base_features).mean())
                           for name, kind in LEAKS.items()}  # fmt: skip
        self.validation = ValidationSet(base, pictures, resolution, scores.validation_timesteps)

    def __call__(self, checkpoints: list[Path]) -> list[Scorecard]:
        """One scorecard for each LoRA file, in order; all their pictures are made in one go.

        Raises:
            CheckpointError: a file that cannot be read or is for another base.
        """
        adapters = [load_checkpoint(path, self.base.adapters) for path in checkpoints]
        probes = self.probe_set.probes
        images = generate(
            self.base, adapters, [p.prompt for p in probes], [p.seed for p in probes],
            self.resolution, self.settings.steps, self.settings.guidance,
        )  # fmt: skip
        features = self.encoder.image_features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        poses = self.source.read(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        losses = self.validation.losses(adapters)
        return [
            self._scorecard(path, images[k], features[k], poses[k], losses[k])
            for k, path in enumerate(checkpoints)
        ]

    def sheet(self, scorecard: Scorecard) -> Image.Image:
        """The probe images with what was asked, below a row of training pictures."""
        return sheet.contact_sheet(scorecard, self.probe_set, self.training)

    def _scorecard(
        self, path: Path, images: Tensor, features: Tensor, poses: Tensor, losses: Tensor
    ) -> Scorecard:
        scores: dict[str, Score] = {}
        scores["prompt_fidelity"] = PromptFidelity(self.base_similarity, **self.options)
        scores["prompt_fidelity"].update(features, self.prompts)
        scores["subject_fidelity"] = SubjectFidelity(
            self.training_subjects, self.base_subjects, self.nuisance, **self.options
        )
        found = self.source.detected(poses)
        scores["subject_fidelity"].update(self._heads(images, features, poses), found)
        notes = self._score_poses(scores, poses)
        for name, kind in LEAKS.items():
            scores[name] = AttributeLeak(self.base_leaks[name], **self.options)
            scores[name].update(self._leaks(kind, features))
        if len(losses):
            scores["validation_loss"] = ValidationLoss(**self.options)
            scores["validation_loss"].update(losses)
        pixels = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        return Scorecard(
            checkpoint=path,
            epoch=epoch_of(path),
            scores={name: Estimate(*score.compute().tolist()) for name, score in scores.items()},
            notes=[*self.notes, *notes],
            confidence=self.scores.confidence,
            images=pixels,
        )

    def _score_poses(self, scores: dict[str, Score], poses: Tensor) -> list[str]:
        found = self.source.detected(poses)
        notes = [] if found.all() else [f"no pose in {int((~found).sum())} of {len(found)} images"]
        memorized = PoseMemorization(
            self.source, self.training_poses, self._detected(self.base_poses), **self.options
        )
        same_probes = self.base_poses[: len(poses)]
        both = found & self.source.detected(same_probes)
        if both.sum() < 2:  # nothing to compare, so nothing is known
            unknown = Share(base_rate=1.0, **self.options)  # 0, but perhaps 1
            unknown.update(torch.zeros(len(poses)))
            scores["pose_memorization"] = unknown
            return [*notes, "too few poses to score their memorisation and diversity"]
        memorized.update(poses[found])
        among_base = self.source.similarity(same_probes[both], same_probes[both])
        diversity = PoseDiversity(self.source, among_base, **self.options)
        diversity.update(poses[both])
        scores["pose_memorization"], scores["pose_diversity"] = memorized, diversity
        return notes

    def _detected(self, poses: Tensor) -> Tensor:
        return poses[self.source.detected(poses)]

    def _heads(self, images: Tensor, features: Tensor, poses: Tensor) -> Tensor:
        """Features of what a subject is known by: its head; without a body the whole picture."""
        if self.source.head is None:
            return features
        side = max(self.encoder.size)
        return self.encoder.image_features(portraits(images, poses, self.source.head, side))

    def _subjects(self, images: Tensor, features: Tensor, poses: Tensor) -> Tensor:
        """The same, of the pictures that show a subject."""
        return self._heads(images, features, poses)[self.source.detected(poses)]

    def _read_poses(self, drawn: Tensor) -> tuple[PoseSource, Tensor, Tensor]:
        """The source of the settings; layout where it finds no pose in most pictures.

        Args:
            drawn: the bare base's pictures of every pose.

        Returns:
            the source, the poses of the training pictures, and those of the drawn ones.
        """
        source = pose_source(self.scores.pose, self.encoder)
        poses = {"training": source.read(self.training), "base's": source.read(drawn)}
        for name, read in poses.items():
            share = float(source.detected(read).float().mean())
            if share < 0.5:
                self.notes.append(
                    f"{source.name} finds a pose in {share:.0%} of the {name} pictures: "
                    "poses are compared by layout instead"
                )
                log.warning(self.notes[-1])
                layout = LayoutPoses(self.encoder)
                return layout, layout.read(self.training), layout.read(drawn)
        return source, poses["training"], poses["base's"]

    def _leaks(self, kind: str, features: Tensor) -> Tensor:
        """(N,) for each image the share of the kind's parts that show a training value instead."""
        probes, values = self.probe_set.probes, self.probe_set.values
        parts = list(values.kinds[kind])
        leaks = torch.zeros(len(features))
        for part in parts:
            seen = zero_shot(values, part, self.probe_set.class_word, self.encoder, features)
            known = self.probe_set.training[part]
            for i, value in enumerate(seen):
                asked = probes[i % len(probes)].asked[part]
                leaks[i] += (value in known and value != asked) / len(parts)
        return leaks

    def nuisance_of(self, kinds: Sequence[str]) -> Tensor:
        """(k, d): orthonormal directions in CLIP's space that are no likeness.

        They are those along which the values of each part differ, of the given KINDS.
        """
        values, directions = self.probe_set.values, []
        for kind in kinds:
            for part, options in values.kinds[kind].items():
                phrases = [values.phrase(part, v, self.probe_set.class_word) for v in options]
                features = self.encoder.text_features(phrases)
                directions.append(features - features.mean(0))
        _, strength, basis = torch.linalg.svd(torch.cat(directions), full_matrices=False)
        return basis[strength > 0.1 * strength[0]]

    def _fingerprint(self) -> str:
        about = {
            "base": self.base.fingerprint,
            "dtype": str(self.base.dtype),
            "resolution": self.resolution,
            "probes": self.probe_set.to_yaml(),
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "scores": asdict(self.scores),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
