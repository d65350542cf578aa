"""The final: the checkpoints that may be the best are compared on fresh probes.

The scores by which a checkpoint gets here are noisy, and the highest of many noisy scores is too
high and often not that of the best. So the contenders are scored again on probes that no decision
has seen, round by round, until one is the best or the probes are used up.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.console.progress import Countdown
from evaluate.features.extractor import ImageFeatures
from evaluate.score_cache import key_of
from evaluate.scorer import Scorer
from evaluate.selection.final_rounds import play, rows_of
from evaluate.selection.objective import deciding_scores
from evaluate.selection.verdict import Finalist, Verdict
from evaluate.verdict_file import SavedFinal, load_final, replay, save_verdict
from train.files.untrusted import UntrustedFileError

log = logging.getLogger(__name__)
NO_LOSSES = (torch.zeros(0), torch.zeros(0))


class Final:
    """Holds one final.

    Args:
        scorer: of the first look.
        finalists: at least one, without scorecards on fresh probes.
    """

    def __init__(
        self,
        scorer: Scorer,
        finalists: Sequence[Finalist],
        config: FinalConfig,
        policy: PolicyConfig,
    ) -> None:
        self.finalists, self.config, self.policy = list(finalists), config, policy
        self.scorer = scorer.fresh(config.probes, config.rounds)
        self.features: dict[int, list[ImageFeatures]] = {}

    def hold(self) -> Verdict | None:
        """Scores the finalists until it is settled; None if none of them could be scored.

        Raises:
            CheckpointError: a finalist's file cannot be read any more.
        """
        for name in deciding_scores(self.finalists[0].first):
            if reason := self.scorer.metrics.undefined.get(name):
                log.warning(f"there is no final: no {name} on its fresh probes: {reason}")
                return None
        self.countdown = Countdown("the final generates", self._most_images())
        return play(self.finalists, self._score, self.config, self.policy)

    def _most_images(self) -> int:
        """Number of images if no finalist of the first group is dropped early."""
        return self.config.probes * sum(finalist.group == 0 for finalist in self.finalists)

    def _score(self, look: int, finalist: Finalist) -> None:
        """Adds a finalist's scorecard after a further round."""
        first = finalist.first
        images = self.scorer.generate(first.checkpoint, rows_of(look, self.config))
        self.countdown.step(len(images))
        if not images.isfinite().all():
            finalist.failure = finalist.out = "some of its images are not finite"
            return
        features = self.features.setdefault(id(finalist), [])
        with self.scorer.extractor.on_device():
            features.append(self.scorer.extractor.extract(images))
            joined = ImageFeatures.joined(features)
            card = self.scorer.scorecard(first.checkpoint, first.epoch, None, joined, NO_LOSSES)
        finalist.cards.append(
            replace(card, unit=first.unit, strength=first.strength, averaged=first.averaged)
        )


def decide(
    finalists: list[Finalist],
    scorer: Scorer,
    config: FinalConfig,
    policy: PolicyConfig,
    file: Path,
) -> Verdict | None:
    """Holds a final and saves it; one that is saved already is decided again from its scorecards.

    Args:
        finalists: without scorecards on fresh probes; may be empty.
        file: verdict.json, which is deleted if there is no final.

    Raises:
        CheckpointError: a finalist's file cannot be read.
    """
    if not finalists:
        file.unlink(missing_ok=True)
        return None
    key = _key(finalists, scorer, config, policy)
    saved = _saved(file)
    if saved is not None and saved.key == key and len(saved.finalists) == len(finalists):
        scored = zip(finalists, saved.finalists, strict=True)
        verdict = replay([old.of(new.first) for new, old in scored], config, policy)
    else:
        verdict = Final(scorer, finalists, config, policy).hold()
    if verdict is not None:
        save_verdict(file, key, verdict, config, policy)
    return verdict


def _saved(file: Path) -> SavedFinal | None:
    try:
        return load_final(file)
    except UntrustedFileError as error:
        log.warning(f"{error}; the final is held again")
        return None


def _key(
    finalists: list[Finalist], scorer: Scorer, config: FinalConfig, policy: PolicyConfig
) -> str:
    """Says of which weights, probes and settings a final is."""
    weights = [key_of(finalist.first.checkpoint) for finalist in finalists]
    images = (scorer.dataset.fingerprint, str(scorer.framing), scorer.base.fingerprint)
    parts = (weights, images, scorer.fingerprint, asdict(config), asdict(policy))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
