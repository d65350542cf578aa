"""The rules that `bench.study` compares: ways to select a checkpoint of a whole study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import groupby

from bench.study_data import SWEEPS, Key, pool_scorer
from bench.study_finals import Outcome, Pool, make_pool
from bench.study_truth import Study
from evaluate.config import FinalConfig, PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.contenders import is_allowed
from evaluate.selection.objective import LOSS, comparison_value, total_violation
from evaluate.selection.policy import select
from sweeper.config import SweepConfig
from train.cli.compose import settings

OURS, BEFORE, CALIBRATION = "ours", "ours_before", "calibration"
BEFORE_PROBES = 32  # of each checkpoint, when the first look alone decided
STRENGTHS, AVERAGES = [1.0, 0.8], [1, 2]  # that are tried
MIN_WORTH = 0.05  # of a trial's best checkpoint; a trial below it has diverged
Job = tuple[int, str, int]  # a sweep, one of `arms`, and the seed of its probes


@dataclass(frozen=True)
class Arm:
    """A way to select a checkpoint that is repeated with other probes.

    Attributes:
        look: probes of each checkpoint in the first look.
        repeats: how often.
        bootstrap: draw probes with replacement.
    """

    look: int
    final: FinalConfig
    policy: PolicyConfig
    repeats: int
    bootstrap: bool = False


@dataclass(frozen=True)
class Repetition:
    """What came of one repetition.

    Attributes:
        pick: the checkpoint or variant.
        images: that were generated, those of the base included.
        probability: that it said of its pick to be the best; None without a final, or if no
            finalist proved to be within the limits.
        right: nothing that the policy allows, within the limits, has more fidelity on the whole
            pool by more than the tolerance.
    """

    pick: Key
    images: int
    probability: float | None
    right: bool


@cache
def config_with_final() -> SweepConfig:
    """The default settings, with a final."""
    return settings("sweep", SweepConfig, ["final=fresh"])


@cache
def arms() -> dict[str, Arm]:
    """What is repeated with other probes, by name."""
    config = config_with_final()
    look, final, policy = config.probes.count, config.final, config.selection
    return {
        OURS: Arm(look, final, policy, 25),
        BEFORE: Arm(BEFORE_PROBES, FinalConfig(contenders=0), policy, 25),
        "strengths": Arm(look, final, replace(policy, strengths=STRENGTHS), 10),
        "averages": Arm(look, final, replace(policy, averages=AVERAGES), 10),
        CALIBRATION: Arm(look, final, policy, 25, bootstrap=True),
    }


def repeat(job: Job) -> Repetition:
    """Does one repetition."""
    number, name, seed = job
    arm, pool = arms()[name], _pool(number)
    baseline = config_with_final().scores.baseline
    outcome = pool.repeat(arm.look, baseline, arm.final, arm.policy, seed, arm.bootstrap)
    pick, verdict = _winner(outcome, arm.policy), outcome.verdict
    probability = verdict.winner.probability if verdict and verdict.eligible else None
    right = _is_best(pool, pick, arm)
    return Repetition(pick, outcome.images, probability, right)


@lru_cache(maxsize=1)
def _pool(number: int) -> Pool:
    return make_pool(SWEEPS[number], pool_scorer(number))


def keep(cards: dict[Key, Scorecard], policy: PolicyConfig) -> Key:
    """The checkpoint that the first look alone selects: the best of all trials' selections."""
    keys = {id(card): key for key, card in cards.items()}
    trials = groupby(sorted(cards), key=lambda key: key[0])
    selections = [select([cards[key] for key in part], policy) for _, part in trials]
    return keys[id(max(selections, key=lambda selection: selection.rank).scorecard)]


def _winner(outcome: Outcome, policy: PolicyConfig) -> Key:
    if outcome.verdict is None:
        return keep(outcome.cards, policy)
    finalist = outcome.verdict.winner
    assert finalist.trial is not None
    card = finalist.first
    return finalist.trial, card.epoch, card.strength, card.averaged


def _is_best(pool: Pool, pick: Key, arm: Arm) -> bool:
    rivals = [
        card
        for card in pool.all.values()
        if is_allowed(card, arm.policy) and total_violation(card, arm.policy) <= 0
    ]
    value = comparison_value(pool.all[pick])
    return value >= max(map(comparison_value, rivals), default=value) - arm.final.tolerance


def _highest(value: Callable[[Study, Key], float]) -> Callable[[Study, Key], Key]:
    return lambda study, picked: max(study.cards, key=lambda key: value(study, key))


def _last_of(study: Study, key: Key) -> Key:
    return max(other for other in study.cards if other[0] == key[0])


# rules of a whole study, given the checkpoint that a sweep keeps without a final
RULES: dict[str, Callable[[Study, Key], Key]] = {
    "last_epoch_of_best": _last_of,
    "validation_loss": _highest(lambda study, key: -study.cards[key].scores[LOSS].value),
    "clip_image": _highest(Study.clip_image),
    "oracle_trial_last_epoch": lambda study, picked: _last_of(study, study.best()),
}


def regrets_within_trials(study: Study, policy: PolicyConfig) -> dict[str, list[float]]:
    """The regrets by rule within each trial that has several checkpoints and a usable one."""
    regrets: dict[str, list[float]] = {"default": [], "last epoch": [], "validation loss": []}
    for keys in study.trials():
        if len(keys) < 3 or min(study.highest(keys)) < MIN_WORTH:
            continue
        cards = [study.cards[key] for key in keys]
        picks = {
            "default": select(cards, policy).scorecard,
            "last epoch": cards[-1],
            "validation loss": min(cards, key=lambda card: card.scores[LOSS].value),
        }
        for name, card in picks.items():
            regrets[name].append(study.regret((keys[0][0], card.epoch, 1.0, 1), keys))
    return regrets
