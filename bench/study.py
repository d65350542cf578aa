"""How much of a study's best checkpoint each rule loses, over eight sweeps of different data.

`python -m bench.study [--rounds N]` (some 3 hours on 2 cores; if interrupted, it continues where it
stopped) runs the sweeps of `bench.study_data`, has the judge read N * 128 images of each
checkpoint, repeats the selection with other probes (see `bench.study_finals`), and writes
results/study.json and .md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from bench.parallel import work
from bench.study_data import (
    FOLDER,
    IMAGES,
    SWEEPS,
    Key,
    Sweep,
    do,
    make_variant,
    pending,
    pool_scorer,
    run_sweep,
    truth_file,
)
from bench.study_finals import Outcome, Pool, is_saved, make_pool
from evaluate.config import FinalConfig, PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.objective import LOSS, comparison_value, total_violation
from evaluate.selection.policy import select
from sweeper.config import SweepConfig
from train.cli.app import configure_logging
from train.cli.compose import settings
from train.files.atomic_write import write_atomically

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
ROUNDS = 4  # of the judge
STRENGTHS, AVERAGES = [1.0, 0.8], [1, 2]  # that are tried
MADE = 12  # checkpoints of each sweep of which variants are made
REPEATS = 25  # of the selection in each sweep, with other probes
SURE = 0.9  # probability from which on a pick counts as said to be the best
OURS, BEFORE = "ours", "ours_before"
BEFORE_PROBES = 32  # of each checkpoint, when the first look alone decided
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A finished sweep, with what the judge read.

    Attributes:
        rounds: of the judge.
    """

    sweep: Sweep
    rounds: int

    @cached_property
    def cards(self) -> dict[Key, Scorecard]:
        """The scorecards of all checkpoints that did not fail, as the sweep made them."""
        return self.sweep.cards()

    @cached_property
    def files(self) -> dict[Key, Path]:
        """All checkpoints, and the variants of some."""
        return self.sweep.files()

    def worth(self, key: Key, half: int) -> float:
        """sqrt(mean identity * share obeyed), by every other round of the judge."""
        read = [self._truth(key, number) for number in range(half, self.rounds, 2)]
        means = (mean(v for part in read for v in part[name]) for name in ("identity", "obeyed"))
        identity, obeyed = means
        return float((identity * obeyed) ** 0.5)

    def clip_image(self, key: Key) -> float:
        """The mean similarity of its images to the training images, by CLIP."""
        return float(self._truth(key, 0)["clip_image"])

    def _truth(self, key: Key, number: int) -> Row:
        return json.loads(truth_file(self.files[key], number).read_text())

    def regret(self, key: Key, among: Iterable[Key] | None = None) -> float:
        """Share of the best checkpoint's worth that a checkpoint lacks.

        The best is chosen on one half of the judge's images, and both are measured on the other, so
        the regret can be negative; it is averaged over both ways to do this.

        Args:
            among: the checkpoints to compare with; by default all.
        """
        keys = [*(self.cards if among is None else among)]
        parts = []
        for half in (0, 1):
            best = max(keys, key=lambda other: self.worth(other, half))
            highest = self.worth(best, 1 - half)
            parts.append((highest - self.worth(key, 1 - half)) / highest)
        return mean(parts)

    def trials(self) -> list[list[Key]]:
        """The checkpoints of each trial, in order."""
        return [list(keys) for _, keys in groupby(sorted(self.cards), key=lambda key: key[0])]

    def best(self) -> Key:
        """The best checkpoint by all of the judge's images."""
        return max(self.cards, key=lambda key: self.worth(key, 0) + self.worth(key, 1))


def keep(cards: dict[Key, Scorecard], policy: PolicyConfig) -> Key:
    """The checkpoint that the first look alone selects: the best of all trials' selections."""
    keys = {id(card): key for key, card in cards.items()}
    trials = groupby(sorted(cards), key=lambda key: key[0])
    selections = [select([cards[key] for key in part], policy) for _, part in trials]
    return keys[id(max(selections, key=lambda selection: selection.rank).scorecard)]


def winner(outcome: Outcome, policy: PolicyConfig) -> Key:
    """The checkpoint that a repetition selects."""
    if outcome.verdict is None:
        return keep(outcome.cards, policy)
    finalist = outcome.verdict.winner
    assert finalist.trial is not None
    card = finalist.first
    return finalist.trial, card.epoch, card.strength, card.averaged


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


def measure(study: Study, pool: Pool, config: SweepConfig) -> Row:
    """The picks of all rules in one sweep, with their regrets."""
    policy = config.selection
    picked = keep(study.cards, policy)
    best = study.best()
    row: Row = {
        "sweep": study.sweep.name,
        "checkpoints": len(study.cards),
        "best": [*best[:2], (study.worth(best, 0) + study.worth(best, 1)) / 2],
        "rules": {name: study.regret(rule(study, picked)) for name, rule in RULES.items()},
        "within_trials": within_trials(study, policy),
    }
    for name, arm in arms(config).items():
        outcomes = [
            pool.repeat(arm.look, config.scores.baseline, arm.final, arm.policy, seed)
            for seed in range(REPEATS)
        ]
        picks = [winner(outcome, arm.policy) for outcome in outcomes]
        row[name] = {
            "regrets": [study.regret(pick) for pick in picks],
            "images": mean(outcome.images for outcome in outcomes),
            "variants": mean(not is_saved(pick) for pick in picks),
            "sureness": [
                sureness(pool, outcome, arm.policy, arm.final.tolerance)
                for outcome in outcomes
                if outcome.verdict
            ],
        }
    return row


@dataclass(frozen=True)
class Arm:
    """A way to select a checkpoint of a whole study.

    Attributes:
        look: probes of each checkpoint in the first look.
    """

    look: int
    final: FinalConfig
    policy: PolicyConfig


def arms(config: SweepConfig) -> dict[str, Arm]:
    """What is repeated with other probes, by name."""
    look, final, policy = config.probes.count, config.final, config.selection
    saved = replace(policy, strengths=[1.0], averages=[1])
    return {
        OURS: Arm(look, final, policy),
        BEFORE: Arm(BEFORE_PROBES, FinalConfig(contenders=0), saved),
        "saved_checkpoints": Arm(look, final, saved),
        "strengths": Arm(look, final, replace(saved, strengths=STRENGTHS)),
        "averages": Arm(look, final, replace(saved, averages=AVERAGES)),
    }


def within_trials(study: Study, policy: PolicyConfig) -> dict[str, list[float]]:
    """The regrets within each trial of several checkpoints, by rule."""
    regrets: dict[str, list[float]] = {"default": [], "last epoch": [], "validation loss": []}
    for keys in study.trials():
        if len(keys) < 3:
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


def sureness(
    pool: Pool, outcome: Outcome, policy: PolicyConfig, tolerance: float
) -> tuple[float, bool]:
    """The probability with which a pick was said to be the best, and whether it is.

    It is if on the whole pool no checkpoint within the limits has more fidelity by more than the
    tolerance.
    """
    assert outcome.verdict
    rivals = [card for card in pool.all.values() if total_violation(card, policy) <= 0]
    value = comparison_value(pool.all[winner(outcome, policy)])
    highest = max(map(comparison_value, rivals), default=value)
    return outcome.verdict.winner.probability, value >= highest - tolerance


def summarize(rows: list[Row]) -> dict[str, Row]:
    """The mean and the worst regret of each rule over the sweeps."""
    totals: dict[str, Row] = {}
    for name in (name for name in rows[0] if "regrets" in rows[0][name]):
        by_sweep = [mean(row[name]["regrets"]) for row in rows]
        totals[name] = {
            "mean_regret": mean(by_sweep),
            "worst_regret": max(by_sweep),
            "pictures": sum(row[name]["images"] for row in rows),
            "variants": mean(row[name]["variants"] for row in rows),
        }
    for name in RULES:
        regrets = [row["rules"][name] for row in rows]
        totals[name] = {"mean_regret": mean(regrets), "worst_regret": max(regrets)}
    said = [right for row in rows for p, right in row[OURS]["sureness"] if p >= SURE]
    totals[OURS] |= {"finals": sum(len(row[OURS]["sureness"]) for row in rows),
                     "said_to_be_best": len(said),
                     "is_best": mean(said) if said else None}  # fmt: skip
    return totals


def table(rows: list[Row], totals: dict[str, Row], images: int) -> str:
    """Formats the results as Markdown."""
    ours = totals[OURS]
    lines = ["# How much of a study's best checkpoint each rule loses", "",
             f"{len(rows)} sweeps. Worth: geometric mean of the identity and the share of images"
             f" with all attributes correct, read by the judge from {images} images per checkpoint."
             " One half of them decides which checkpoint is the best; the regret, the share of its"
             " worth that a pick lacks, is measured on the other half, and the other way round."
             " *ours* is what a sweep keeps with `final=fresh`, and *ours before* what the first"
             f" look ({BEFORE_PROBES} probes) alone would keep. *Saved checkpoints* is a final"
             " without other strengths and averages, *strengths* one that tries 0.8 as well, and"
             " *averages* one that tries the average of each two successive checkpoints. All these"
             f" are means over {REPEATS} repetitions with other probes.", "",
             "| rule | mean regret | worst regret | probe images | keeps a variant |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, total in sorted(totals.items(), key=lambda item: item[1]["mean_regret"]):
        drawn = f"{total['pictures']:.0f}" if "pictures" in total else ""
        kept = f"{total['variants']:.0%}" if "variants" in total else ""
        lines.append(f"| {name.replace('_', ' ')} | {total['mean_regret']:.3f} |"
                     f" {total['worst_regret']:.3f} | {drawn} | {kept} |")  # fmt: skip
    right = "" if ours["is_best"] is None else f"; {ours['is_best']:.0%} of these are"
    lines += ["", f"Of {ours['finals']} finals, {ours['said_to_be_best']} said with a probability"
              f" of {SURE:.0%} or more that their pick is the best or equal to it{right}.", "",
              "| sweep | checkpoints | best: trial, epoch, worth | ours | ours before | "
              f"{' | '.join(RULES).replace('_', ' ')} |",
              "|" + "---|" * (len(RULES) + 5)]  # fmt: skip
    for row in rows:
        trial, epoch, worth = row["best"]
        cells = [mean(row[OURS]["regrets"]), mean(row[BEFORE]["regrets"]), *row["rules"].values()]
        lines.append(f"| {row['sweep']} | {row['checkpoints']} | {trial}, {epoch}, {worth:.2f} | "
                     f"{' | '.join(f'{cell:.3f}' for cell in cells)} |")  # fmt: skip
    within = {
        name: [r for row in rows for r in row["within_trials"][name]]
        for name in rows[0]["within_trials"]
    }
    count = len(next(iter(within.values())))
    lines += ["", f"Regret within single trials ({count} with three checkpoints or more):", "",
              "| rule | mean regret | worst regret |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {mean(r):.3f} | {max(r):.3f} |" for name, r in within.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument(
        "--rounds", default=ROUNDS, type=int, help=f"rounds of {IMAGES} images, an even number"
    )
    configure_logging()
    rounds = parser.parse_args().rounds
    for number in range(len(SWEEPS)):
        run_sweep(number)
    work(do, pending(rounds))
    config = settings("sweep", SweepConfig, ["final=fresh"])
    tried = replace(config.selection, strengths=STRENGTHS, averages=AVERAGES)
    for number, sweep in enumerate(SWEEPS):
        pool = make_pool(sweep, pool_scorer(number))
        saved = {key: card for key, card in pool.all.items() if is_saved(key)}
        for key in pool.variants(saved, MADE, tried):
            make_variant(number, key)
    work(do, pending(rounds))
    rows = []
    for number, sweep in enumerate(SWEEPS):
        pool = make_pool(sweep, pool_scorer(number))
        rows.append(measure(Study(sweep, rounds), pool, config))
        log.info("%s: measured", sweep.name)
    totals = summarize(rows)
    report = {**totals, "sweeps": rows}
    write_atomically(RESULTS / "study.json", (json.dumps(report, indent=1) + "\n").encode())
    (RESULTS / "study.md").write_text(text := table(rows, totals, IMAGES * rounds))
    log.info("in %s\n%s", FOLDER, text)


if __name__ == "__main__":
    main()
