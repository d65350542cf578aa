"""All scores together: the baseline that they compare with, and the features that each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
DIGITS = 5  # of the saved values of each probe
# share of the options above which showing the training images' ones is showing just anything
MAX_VARIETY = 2 / 3


@dataclass(frozen=True)
class Baseline:
    """What checkpoints are compared with; the same for a whole study.

    Attributes:
        training: features of the training images.
        rounds: features of the base's images of the probe set, one entry for each round.
        others: features of the base's images of other fresh probes. They make the scales more
            precise that do not depend on what the probes ask for.
    """

    training: ImageFeatures
    rounds: list[ImageFeatures]
    probe_set: ProbeSet
    extractor: FeatureExtractor
    others: tuple[ImageFeatures, ...] = ()

    def chosen(self, rows: Sequence[int]) -> Baseline:
        """The same for the probes with these indices, in this order."""
        rounds = [features[list(rows)] for features in self.rounds]
        return replace(self, rounds=rounds, probe_set=self.probe_set.chosen(rows))

    def base(self, *roles: str) -> list[ImageFeatures]:
        """The rounds, restricted to the probes of these roles."""
        rows = self.probe_set.rows(*roles)
        return [features[rows] for features in self.rounds]

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """part -> (V, d): text features of the sentences that describe its values."""
        values, word = self.probe_set.values, self.probe_set.class_word
        encoder = self.extractor.encoder
        return {
            part: encoder.text_features([values.phrase(part, v, word) for v in options])
            for kind in KINDS
            for part, options in values.kinds[kind].items()
        }

    def nuisance(self, kinds: Sequence[str]) -> Tensor:
        """(k, d): orthonormal directions in CLIP's space that carry no likeness.

        They are the directions along which the values of each part of the given KINDS differ.
        """
        texts = [self.texts[part] for kind in kinds for part in self.parts(kind)]
        if not texts:
            return self.training.features.new_zeros(0, self.training.features.shape[1])
        directions = [features - features.mean(0) for features in texts]
        _, strength, basis = torch.linalg.svd(torch.cat(directions), full_matrices=False)
        return basis[strength > 0.1 * strength[0]]

    def parts(self, kind: str) -> list[str]:
        """The parts of a kind; an outfit may have a garment and a color."""
        return [*self.probe_set.values.kinds[kind]]

    def probabilities(self, part: str, images: ImageFeatures) -> Tensor:
        """(N, V): CLIP's zero-shot probabilities of the values of a part."""
        logits = images.features @ self.texts[part].T * self.extractor.encoder.scale
        return logits.softmax(1).cpu()

    def classify(self, kind: str, images: ImageFeatures) -> Tensor:
        """(N, parts): index of the most probable value of each part."""
        parts = [self.probabilities(part, images).argmax(1) for part in self.parts(kind)]
        if not parts:
            return torch.zeros(len(images), 0, dtype=torch.long)
        return torch.stack(parts, dim=1)

    def requested(self, kind: str) -> Tensor:
        """(N, parts): index of the value that each fresh probe asks for.

        -1 if it asks for none, or for one that the training images show.
        """
        rows = []
        for row in self.probe_set.rows(FRESH):
            values = self.probe_set.probes[row].asked
            rows.append([
                self.probe_set.values.options(part).index(values[part])
                if part in values and values[part] not in self.probe_set.training[part] else -1
                for part in self.parts(kind)
            ])  # fmt: skip
        return torch.tensor(rows)

    def leak_metric(self, kind: str, options: dict[str, Any]) -> AttributeLeak:
        """The metric of a kind, with the classifier's error rates on training and base images."""
        requested = self.requested(kind).repeat(len(self.rounds), 1)
        classified = torch.cat([self.classify(kind, images) for images in self.base(FRESH)])
        correct = (classified == requested).sum(0)  # -1 is never right
        # plus one on either side: no classifier is free of errors
        accuracy = (correct + 1) / ((requested >= 0).sum(0) + 2)
        shares = [self.probabilities(part, self.training).mean(0) for part in self.parts(kind)]
        metric = AttributeLeak(shares, accuracy.tolist(), **options)
        if not self.parts(kind):
            metric.undefined_reason = f"the probes ask for no {kind}"
        elif not (requested >= 0).any():
            metric.undefined_reason = "the training images show all that can be asked for"
        elif all(perplexity(share) > MAX_VARIETY * len(share) for share in shares):
            metric.undefined_reason = f"the training images show no {kind} in particular"
        return metric


class ScoreCollection:
    """The metrics of a study, built once and applied to one checkpoint after another.

    Attributes:
        undefined: name -> reason, for the scores that these images and this base do not define.
    """

    def __init__(self, baseline: Baseline, options: dict[str, Any]) -> None:
        self.baseline = baseline
        training, source = baseline.training, baseline.extractor.source
        fresh, prompted = baseline.base(FRESH), baseline.base(FRESH, CAPTION)
        texts = [baseline.probe_set.probes[row].base_prompt for row in self._rows(FRESH)]
        # a head shows little of a pose and an outfit
        nuisance = baseline.nuisance(KINDS if source.head is None else ("backgrounds",))
        subjects = training.subjects[training.found]
        reference = [*fresh, *baseline.others]
        without_trigger = torch.cat([images.subjects[images.found] for images in reference])
        self.metrics: dict[str, Score] = {
            "prompt_fidelity": PromptFidelity(
                baseline.extractor.encoder.text_features(texts),
                torch.stack([images.features for images in fresh]),
                **options,
            ),
            "subject_fidelity": SubjectFidelity(subjects, without_trigger, nuisance, **options),
            "pose_memorization": PoseMemorization(
                source,
                training.detected_poses,
                torch.cat([images.detected_poses for images in reference]),
                **options,
            ),
            "pose_diversity": PoseDiversity(source, fresh[0].poses, **options),
            **{name: baseline.leak_metric(kind, options) for name, kind in LEAKS.items()},
            "copying": Copying(
                training.patches,
                torch.cat([images.patches for images in (*prompted, *baseline.others)]),
                **options,
            ),
            "color_shift": ColorShift(torch.stack([r.colors for r in fresh]).mean(0), **options),
        }
        if source.head is not None:  # the layout source detects no bodies
            self.metrics["detection_rate"] = DetectionRate(**options)
        if self._rows(CLASS):
            self.metrics["class_bleed"] = ClassBleed(subjects, without_trigger, nuisance, **options)
        self.undefined = {
            name: metric.undefined_reason
            for name, metric in self.metrics.items()
            if metric.undefined_reason
        }
        self.losses: dict[str, Score] = {
            "validation_loss": ValidationLoss(**options),
            "generalization_gap": GeneralizationGap(**options),
        }

    def _rows(self, *roles: str, count: int | None = None) -> list[int]:
        """Indices of the probes with these roles, of the first `count` probes."""
        rows = self.baseline.probe_set.rows(*roles)
        return rows if count is None else [row for row in rows if row < count]

    def __call__(
        self, images: ImageFeatures, losses: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
        """Scores a checkpoint's images of the probe set, or of the first probes in it.

        The scales are those of all the base's images, however many probes the checkpoint has had.

        Args:
            losses: see `Scorer.scorecard`.

        Returns:
            name -> (estimate, low, high), without the undefined scores; and name -> each probe's
            contribution, for the scores that are means over probes.
        """
        count = len(images)
        fresh = images[self._rows(FRESH, count=count)]
        prompted = images[self._rows(FRESH, CAPTION, count=count)]
        metrics = dict(self.metrics)
        held_out, _ = losses
        if len(held_out):
            metrics |= self.losses
        for metric in metrics.values():
            metric.reset()
        metrics["prompt_fidelity"].update(fresh.features)
        metrics["subject_fidelity"].update(fresh.subjects, fresh.found)
        metrics["pose_memorization"].update(fresh.detected_poses)
        metrics["pose_diversity"].update(fresh.poses)
        for name, kind in LEAKS.items():
            requested = self.baseline.requested(kind)[: len(fresh)]
            metrics[name].update(self.baseline.classify(kind, fresh), requested)
        metrics["copying"].update(prompted.patches)
        metrics["color_shift"].update(fresh.colors)
        if "detection_rate" in metrics:
            metrics["detection_rate"].update(fresh.found)
        if "class_bleed" in metrics:
            without_trigger = images[self._rows(CLASS, count=count)]
            metrics["class_bleed"].update(without_trigger.subjects, without_trigger.found)
        if len(held_out):
            metrics["validation_loss"].update(held_out)
            metrics["generalization_gap"].update(*losses)
        computed = {name: metric.compute() for name, metric in metrics.items()}
        by_probe = {name: [round(v, DIGITS) for v in metric.by_probe().tolist()]
                    for name, metric in metrics.items()}  # fmt: skip
        scores = {
            name: bounds
            for name, bounds in computed.items()
            if name not in self.undefined and bounds.isfinite().all()
        }
        by_probe = {name: values for name, values in by_probe.items() if values and name in scores}
        return scores, by_probe

    def copies(self, images: ImageFeatures, by_probe: dict[str, list[float]]) -> dict[int, int]:
        """Index of each probe whose image counts as a copy -> index of the training image.

        Args:
            by_probe: what `__call__` returned for the same images.
        """
        rows = self._rows(FRESH, CAPTION, count=len(images))
        copied = by_probe.get("copying", [False] * len(rows))
        suspects = [row for row, is_copy in zip(rows, copied, strict=True) if is_copy]
        if not suspects:
            return {}
        copying = self.metrics["copying"]
        assert isinstance(copying, Copying)
        nearest = copying.nearest(images[suspects].patches).tolist()
        return dict(zip(suspects, nearest, strict=True))


def perplexity(shares: Tensor) -> float:
    """How many equally frequent values have the entropy of these shares (V,): 1 to V."""
    return float(torch.special.entr(shares).sum().exp())
