"""A study's selection, repeated with other probes: a first look at all checkpoints, then a final.

Its images are those of the pool (see `bench.study_data`), so a repetition takes seconds. Its probes
are either different ones, as those of a real study are, or drawn with replacement (the bootstrap of
Efron 1979): then the pool stands for all probes that there may be, and the scores on the whole pool
are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

from safetensors.torch import load_file

from bench.study_data import POOL, Key, Sweep, pool_file
from evaluate.config import PROBES_PER_OTHER_ROLE, FinalConfig, PolicyConfig
from evaluate.features.extractor import ImageFeatures
from evaluate.final import NO_LOSSES
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Scorecard
from evaluate.scorer import Scorer
from evaluate.selection.contenders import variant_sources
from evaluate.selection.final_rounds import line_up, play, rows_of
from evaluate.selection.objective import deciding_scores
from evaluate.selection.verdict import Finalist, Verdict, order_of
from evaluate.variants.scoring import variants_of


@dataclass(frozen=True)
class Outcome:
    """One repetition.

    Attributes:
        cards: of the first look.
        verdict: of the final; None without one.
        images: that were generated for it, those of the base included.
    """

    cards: dict[Key, Scorecard]
    verdict: Verdict | None
    images: int


@dataclass(frozen=True)
class Pool:
    """The features of all checkpoints' images of the pool.

    Attributes:
        scorer: of the pool.
        files: of the checkpoints, and of the variants of some.
        ranks: of the trials.
    """

    scorer: Scorer
    files: dict[Key, Path]
    ranks: dict[int, int]

    @cached_property
    def features(self) -> dict[Key, ImageFeatures]:
        """Of each checkpoint, in the order of the pool."""
        return {
            key: self.scorer.extractor.extract(load_file(pool_file(file))["images"].float() / 255)
            for key, file in self.files.items()
        }

    @cached_property
    def all(self) -> dict[Key, Scorecard]:
        """The scorecards of all checkpoints on the whole pool."""
        rows = range(len(self.scorer.probe_set.probes))
        return {key: self.card(key, self.scorer, rows) for key in self.files}

    def card(self, key: Key, scorer: Scorer, rows: Sequence[int]) -> Scorecard:
        """A checkpoint's scorecard on some probes of the pool.

        Args:
            scorer: of these probes.
        """
        features = self.features[key][list(rows)]
        card = scorer.scorecard(self.files[key], key[1], None, features, NO_LOSSES)
        return replace(card, strength=key[2], averaged=key[3])

    def repeat(
        self,
        look: int,
        baseline: int,
        config: FinalConfig,
        policy: PolicyConfig,
        seed: int,
        bootstrap: bool = False,
    ) -> Outcome:
        """Selects a checkpoint with probes that the seed draws from the pool.

        Args:
            look: probes of the first look.
            baseline: the base's images of each of them, at most as many as the pool has.
            bootstrap: draw probes with replacement.
        """
        first, final = self._draw(Random(seed), look, config, bootstrap)
        known = self.scorer.metrics.baseline
        fewer = replace(known, rounds=known.rounds[:baseline], others=())
        scorer = self.scorer.with_baseline(fewer.chosen(first))
        cards = {key: self.card(key, scorer, first) for key in self.files if is_saved(key)}
        images = look * (len(cards) + baseline)
        if not config.contenders:
            return Outcome(cards, None, images)
        made = {
            key: self.card(key, scorer, first)
            for key in self.variants(cards, config.contenders, policy)
            if key in self.files
        }
        images += look * len(made)
        cards_of_all = cards | made
        keys = {id(card): key for key, card in cards_of_all.items()}
        finalists = line_up(
            [*cards_of_all.values()],
            policy,
            config.contenders,
            lambda card: self._finalist(keys[id(card)], card),
        )
        others = tuple(scorer.metrics.baseline.base(FRESH))
        once = replace(known, rounds=known.rounds[:1], others=others)
        fresh = self.scorer.with_baseline(once.chosen(final))
        undefined = fresh.metrics.undefined
        if finalists and any(name in undefined for name in deciding_scores(finalists[0].first)):
            return Outcome(cards, None, images + config.probes)
        scored = 0

        def score(number: int, finalist: Finalist) -> None:
            nonlocal scored
            rows = rows_of(number, config)
            key = keys[id(finalist.first)]
            finalist.cards.append(self.card(key, fresh, final[: rows.stop]))
            scored += rows.stop - rows.start

        verdict = play(finalists, score, config, policy)
        base = config.probes if finalists else 0
        return Outcome(cards, verdict, images + scored + base)

    def variants(self, cards: dict[Key, Scorecard], count: int, policy: PolicyConfig) -> list[Key]:
        """The variants of the `count` best checkpoints that a policy allows."""
        keys = {id(card): key for key, card in cards.items()}
        found = []
        for source in variant_sources([*cards.values()], count):
            trial, epoch, *_ = keys[id(source)]
            siblings = [card for key, card in cards.items() if key[0] == trial]
            for variant in variants_of(siblings, source, policy):
                found.append((trial, epoch, variant.strength, len(variant.sources)))
        return found

    def _draw(
        self, rng: Random, look: int, config: FinalConfig, bootstrap: bool
    ) -> tuple[list[int], list[int]]:
        """The rows of a first look, and those of a final: each of its rounds has all roles."""
        first: list[int] = []
        final: list[int] = []
        for role in (FRESH, CLASS, CAPTION):
            rows = self.scorer.probe_set.rows(role)
            early, late = (_number(role, count) for count in (look, config.probes))
            draw = rng.choices if bootstrap else rng.sample
            drawn = draw(rows, k=early + late)
            first += drawn[:early]
            final += drawn[early:]
        return first, [row for part in range(config.rounds) for row in final[part :: config.rounds]]

    def _finalist(self, key: Key, card: Scorecard) -> Finalist:
        order = order_of(card, self.ranks[key[0]], key[0])
        return Finalist(card, order, trial=key[0])


def make_pool(sweep: Sweep, scorer: Scorer) -> Pool:
    """The pool of a sweep."""
    assert len(scorer.probe_set.probes) == POOL
    ranks = {r.number: int(str(r.setting("network", "rank"))) for r in sweep.records()}
    files = {key: file for key, file in sweep.files().items() if pool_file(file).is_file()}
    return Pool(scorer, files, ranks)


def _number(role: str, count: int) -> int:
    """The number of probes of a role among `count`."""
    other = count // PROBES_PER_OTHER_ROLE
    return count - 2 * other if role == FRESH else other


def is_saved(key: Key) -> bool:
    """Whether it is a checkpoint as it was saved."""
    return key[2:] == (1.0, 1)
