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
from torch import Tensor

from evaluate.config import FinalConfig, PolicyConfig
from evaluate.console.progress import Countdown
from evaluate.features.extractor import ImageFeatures
from evaluate.scorer import Scorer
from evaluate.selection.verdict import Finalist, Verdict, conclude, end_round
from evaluate.verdict_file import SavedFinal, load_final, replay, save_verdict
from train.files.untrusted import UntrustedFileError
from train.lora.checkpoint_file import weights_hash

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
        self.images: dict[int, list[Tensor]] = {}
        self.features: dict[int, list[ImageFeatures]] = {}

    def hold(self) -> Verdict | None:
        """Scores the finalists until it is settled; None if none of them could be scored.

        Raises:
            CheckpointError: a finalist's file cannot be read any more.
        """
        total = self.config.probes * len(self.finalists)
        countdown = Countdown("the final generates", total)
        start = 0
        for look in range(1, self.config.rounds + 1):
            end = look * self.config.probes // self.config.rounds
            seen = self.scorer.first(end)
            for number, finalist in enumerate(self.finalists):
                if not finalist.out:
                    self._score(number, finalist, seen, slice(start, end))
                    countdown.step(end - start)
            if end_round(self.finalists, look, self.config, self.policy):
                break
            start = end
        return conclude(self.finalists, self.config, self.policy)

    def _score(self, number: int, finalist: Finalist, seen: Scorer, part: slice) -> None:
        """Adds a finalist's scorecard after a further round."""
        checkpoint, first = finalist.first.checkpoint, finalist.first
        images = self.scorer.generate(checkpoint, part)
        if not images.isfinite().all():
            finalist.out = "some of its images are not finite"
            return
        all_images = self.images.setdefault(number, [])
        all_features = self.features.setdefault(number, [])
        with self.scorer.extractor.on_device():
            all_images.append(images)
            all_features.append(self.scorer.extractor.extract(images))
            card = seen.scorecard(
                checkpoint, first.epoch, torch.cat(all_images), ImageFeatures.joined(all_features),
                NO_LOSSES,
            )  # fmt: skip
        finalist.cards.append(replace(card, unit=first.unit))


def decide(
    finalists: list[Finalist],
    scorer: Scorer,
    config: FinalConfig,
    policy: PolicyConfig,
    file: Path,
) -> Verdict | None:
    """Holds a final and saves it; one that is saved already is decided again from its file.

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
    if saved is not None and saved.key == key:
        verdict = replay(saved.finalists, config, policy)
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
    weights = [weights_hash(finalist.first.checkpoint) for finalist in finalists]
    parts = (weights, scorer.fingerprint, asdict(config), asdict(policy))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
