"""All the scores together: what each is compared with, and what of a checkpoint each looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evaluate.features.extractor import FeatureExtractor, ImageFeatures
from evaluate.metrics.base import DetectionRate, Score
from evaluate.metrics.fidelity import ClassBleed, ColorShift, PromptFidelity, SubjectFidelity
from evaluate.metrics.leak import AttributeLeak
from evaluate.metrics.losses import GeneralizationGap, ValidationLoss
from evaluate.metrics.memorization import Copying, PoseDiversity, PoseMemorization
from evaluate.prompts.attributes import KINDS
from evaluate.prompts.probe_set import ProbeSet
from evaluate.prompts.roles import CAPTION, CLASS, FRESH

LEAKS = {"background_leak": "backgrounds", "outfit_leak": "outfits"}
DIGITS = 5  # of what is kept of each probe


@dataclass(frozen=True)
class Baseline:
    """What a checkpoint is compared with, the same for a whole study.

    Attributes:
        training: the training pictures, read.
        rounds: the bare base's pictures of the probe set, read, one entry a round.
    """

    training: ImageFeatures
    rounds: list[ImageFeatures]
    probe_set: ProbeSet
    reader: FeatureExtractor

    def base(self, *roles: str) -> list[ImageFeatures]:
        """The rounds, for the probes of these roles."""
        rows = self.probe_set.rows(*roles)
        return [read[rows] for read in self.rounds]

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """part -> (V, d): the features of the sentences that describe its values."""
        values, word = self.probe_set.values, self.probe_set.class_word
        return {
            part: self.reader.encoder.text_features([values.phrase(part, v, word) for v in options])
            for kind in KINDS
            for part, options in values.kinds[kind].items()
        }

    def nuisance(self, kinds: Sequence[str]) -> Tensor:
        """(k, d): orthonormal directions in CLIP's space that are no likeness.

        They are those along which the values of each part differ, of the given KINDS.
        """
        texts = [self.texts[part] for kind in kinds for part in self.parts(kind)]
        directions = [features - features.mean(0) for features in texts]
        _, strength, basis = torch.linalg.svd(torch.cat(directions), full_matrices=False)
        return basis[strength > 0.1 * strength[0]]

    def parts(self, kind: str) -> list[str]:
        """Of a kind: an outfit has shirt and trousers."""
        return [*self.probe_set.values.kinds[kind]]

    def chances(self, part: str, read: ImageFeatures) -> Tensor:
        """(N, V): CLIP's zero-shot probabilities of the values of a part."""
        logits = read.features @ self.texts[part].T * self.reader.encoder.scale
        return logits.softmax(1).cpu()

    def shown(self, kind: str, read: ImageFeatures) -> Tensor:
        """(N, parts): the number of the value that each picture shows."""
        return torch.stack([self.chances(p, read).argmax(1) for p in self.parts(kind)], dim=1)

    def asked(self, kind: str) -> Tensor:
        """(N, parts): the number of the value that each fresh probe asks for.

        -1 where it asks for none, or for one that the training pictures show.
        """
        rows = []
        for row in self.probe_set.rows(FRESH):
            wish = self.probe_set.probes[row].asked
            rows.append([
                self.probe_set.values.options(part).index(wish[part])
                if part in wish and wish[part] not in self.probe_set.training[part] else -1
                for part in self.parts(kind)
            ])  # fmt: skip
        return torch.tensor(rows)

    def leak_metric(self, kind: str, options: dict[str, Any]) -> AttributeLeak:
        """The metric of a kind, as training pictures and the base's are read."""
        asked = self.asked(kind).repeat(len(self.rounds), 1)
        shown = torch.cat([self.shown(kind, read) for read in self.base(FRESH)])
        right = (shown == asked).sum(0)  # never where nothing is asked: -1 is no value
        # one more on either side: nothing is read without any error
        accuracy = (right + 1) / ((asked >= 0).sum(0) + 2)
        shares = [self.chances(part, self.training).mean(0) for part in self.parts(kind)]
        metric = AttributeLeak(shares, accuracy.tolist(), **options)
        if not (asked >= 0).any():
            metric.doubt = "the training pictures show all that can be asked for"
        return metric


class Scores:
    """The metrics of a study, made once, and applied to one checkpoint after another.

    Attributes:
        doubts: the scores that cannot be told with these pictures and this base, and why.
    """

    def __init__(self, baseline: Baseline, options: dict[str, Any]) -> None:
        self.baseline = baseline
        training, source = baseline.training, baseline.reader.source
        fresh, shown = baseline.base(FRESH), baseline.base(FRESH, CAPTION)
        texts = [baseline.probe_set.probes[row].base_prompt for row in self._rows(FRESH)]
        # heads show little of a pose and an outfit
        nuisance = baseline.nuisance(KINDS if source.head is None else ("backgrounds",))
        own = training.subjects[training.found]
        plain = torch.cat([read.subjects[read.found] for read in fresh])
        self.metrics: dict[str, Score] = {
            "prompt_fidelity": PromptFidelity(
                baseline.reader.encoder.text_features(texts),
                torch.stack([read.features for read in fresh]),
                **options,
            ),
            "subject_fidelity": SubjectFidelity(own, plain, nuisance, **options),
            "pose_memorization": PoseMemorization(
                source, training.shown, torch.cat([read.shown for read in fresh]), **options
            ),
            "pose_diversity": PoseDiversity(source, fresh[0].poses, **options),
            **{name: baseline.leak_metric(kind, options) for name, kind in LEAKS.items()},
            "copying": Copying(
                training.patches, torch.cat([read.patches for read in shown]), **options
            ),
            "color_shift": ColorShift(torch.stack([r.colors for r in fresh]).mean(0), **options),
        }
        if source.head is not None:  # else nobody looks for a body
            self.metrics["detection_rate"] = DetectionRate(**options)
        if self._rows(CLASS):
            self.metrics["class_bleed"] = ClassBleed(own, plain, nuisance, **options)
        self.doubts = {name: metric.doubt for name, metric in self.metrics.items() if metric.doubt}
        self.losses: dict[str, Score] = {
            "validation_loss": ValidationLoss(**options),
            "generalization_gap": GeneralizationGap(**options),
        }

    def _rows(self, *roles: str) -> list[int]:
        return self.baseline.probe_set.rows(*roles)

    def __call__(
        self, made: ImageFeatures, losses: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
        """Scores a checkpoint's pictures of the probe set.

        Args:
            losses: see `Scorer.scorecard`.

        Returns:
            name -> (estimate, low, high), without those that cannot be told; and for each score
            that is a mean over probes, what each probe adds.
        """
        fresh, shown = made[self._rows(FRESH)], made[self._rows(FRESH, CAPTION)]
        metrics = dict(self.metrics)
        held_out, _ = losses
        if len(held_out):
            metrics |= self.losses
        for metric in metrics.values():
            metric.reset()
        metrics["prompt_fidelity"].update(fresh.features)
        metrics["subject_fidelity"].update(fresh.subjects, fresh.found)
        metrics["pose_memorization"].update(fresh.shown)
        metrics["pose_diversity"].update(fresh.poses)
        for name, kind in LEAKS.items():
            metrics[name].update(self.baseline.shown(kind, fresh), self.baseline.asked(kind))
        metrics["copying"].update(shown.patches)
        metrics["color_shift"].update(fresh.colors)
        if "detection_rate" in metrics:
            metrics["detection_rate"].update(fresh.found)
        if "class_bleed" in metrics:
            plain = made[self._rows(CLASS)]
            metrics["class_bleed"].update(plain.subjects, plain.found)
        if len(held_out):
            metrics["validation_loss"].update(held_out)
            metrics["generalization_gap"].update(*losses)
        found = {name: metric.compute() for name, metric in metrics.items()}
        by_probe = {name: [round(v, DIGITS) for v in metric.by_probe().tolist()]
                    for name, metric in metrics.items()}  # fmt: skip
        told = {name: bounds for name, bounds in found.items() if bounds.isfinite().all()}
        return told, {name: values for name, values in by_probe.items() if values and name in told}

    def copies(self, made: ImageFeatures, by_probe: dict[str, list[float]]) -> dict[int, int]:
        """The number of each probe whose picture counts as a copy -> that of the training picture.

        Args:
            by_probe: what `__call__` found of the same pictures.
        """
        rows = self._rows(FRESH, CAPTION)
        copied = by_probe.get("copying", [False] * len(rows))
        suspects = [row for row, found in zip(rows, copied, strict=True) if found]
        if not suspects:
            return {}
        copying = self.metrics["copying"]
        assert isinstance(copying, Copying)
        nearest = copying.nearest(made[suspects].patches).tolist()
        return dict(zip(suspects, nearest, strict=True))
