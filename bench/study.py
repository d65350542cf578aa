"""How much of a study's best checkpoint each rule loses, over eight sweeps of different data.

`python -m bench.study [--rounds N]` (some 3 hours on 2 cores; if interrupted, it continues where it
stopped) runs the sweeps of `bench.study_data`, has the judge read N * 128 images of each
checkpoint, and writes results/study.json and .md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench.study_data import FOLDER, IMAGES, SWEEPS, Reader, Sweep, run_sweep, truth_file
from evaluate.scorecard import Scorecard, usable
from evaluate.selection.objective import LOSS, fidelity
from sweeper.config import SweepConfig
from sweeper.results.ranking import rank_trials
from sweeper.tracking.trial_record import TrialRecord
from train.cli.app import configure_logging
from train.cli.compose import settings
from train.files.atomic_write import write_atomically

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
ROUNDS = 4  # of the judge
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
    def records(self) -> list[TrialRecord]:
        """Its trials, in order."""
        return self.sweep.records()

    @cached_property
    def cards(self) -> list[Scorecard]:
        """The scorecards of all checkpoints that did not fail."""
        return [card for record in self.records for card in usable(record.scorecards)]

    def worth(self, card: Scorecard, half: int) -> float:
        """sqrt(mean identity * share obeyed), by every other round of the judge."""
        read = [self._truth(card, number) for number in range(half, self.rounds, 2)]
        means = (mean(v for part in read for v in part[name]) for name in ("identity", "obeyed"))
        identity, obeyed = means
        return float((identity * obeyed) ** 0.5)

    def clip_image(self, card: Scorecard) -> float:
        """The mean similarity of its images to the training images, by CLIP."""
        return float(self._truth(card, 0)["clip_image"])

    def _truth(self, card: Scorecard, number: int) -> Row:
        return json.loads(truth_file(card.checkpoint, number).read_text())

    @cached_property
    def best(self) -> Scorecard:
        """The best checkpoint by one half of the judge's images."""
        return max(self.cards, key=lambda card: self.worth(card, 0))

    def regret(self, card: Scorecard) -> float:
        """Share of the best checkpoint's worth that a checkpoint lacks.

        Both are measured on the half of the judge's images that did not choose the best, so it can
        be negative.
        """
        best = self.worth(self.best, 1)
        return (best - self.worth(card, 1)) / best

    def trial_of(self, card: Scorecard) -> TrialRecord:
        """The trial of a checkpoint."""
        return next(r for r in self.records if any(c is card for c in usable(r.scorecards)))

    def last(self, record: TrialRecord) -> Scorecard:
        """The last usable checkpoint of a trial."""
        return max(usable(record.scorecards), key=lambda card: card.epoch)

    @cached_property
    def pictures(self) -> int:
        """Probe images that were generated for the scores, without the base's."""
        return sum(epoch.probes for record in self.records for epoch in record.epochs)


def select_ours(study: Study) -> Scorecard:
    """The checkpoint that a sweep keeps by default."""
    policy = settings("sweep", SweepConfig).selection
    selection = rank_trials(study.records, policy, lambda record: "")[0].selection
    assert selection
    return selection.scorecard


def _highest(value: Callable[[Scorecard], float]) -> Callable[[Study], Scorecard]:
    return lambda study: max(study.cards, key=value)


RULES: dict[str, Callable[[Study], Scorecard]] = {
    "ours": select_ours,
    "last_epoch_of_best": lambda study: study.last(study.trial_of(select_ours(study))),
    "validation_loss": _highest(lambda card: -card.scores[LOSS].value),
    "highest_fidelity": _highest(lambda card: fidelity(card) or 0.0),
    "clip_image": lambda study: max(study.cards, key=study.clip_image),
    "oracle_trial_last_epoch": lambda study: study.last(study.trial_of(study.best)),
}


def measure(study: Study) -> Row:
    """The picks of all rules in one sweep, with their regrets."""
    best = study.best
    row: Row = {
        "sweep": study.sweep.name,
        "checkpoints": len(study.cards),
        "best": [*_key(study, best), study.worth(best, 1)],
        "pictures": study.pictures,
        "seconds": json.loads((study.sweep.root / "seconds.json").read_text()),
        "picks": {},
    }
    for name, rule in RULES.items():
        card = rule(study)
        row["picks"][name] = [*_key(study, card), study.worth(card, 1), study.regret(card)]
    return row


def _key(study: Study, card: Scorecard) -> tuple[int, int]:
    return study.trial_of(card).number, card.epoch


def summarize(rows: list[Row]) -> dict[str, Row]:
    """The mean and the worst regret of each rule; of the product's also images and seconds."""
    totals: dict[str, Row] = {}
    for name in RULES:
        regrets = [row["picks"][name][-1] for row in rows]
        totals[name] = {"mean_regret": mean(regrets), "worst_regret": max(regrets)}
    totals["ours"] |= {key: sum(row[key] for row in rows) for key in ("pictures", "seconds")}
    return totals


def table(rows: list[Row], totals: dict[str, Row], images: int) -> str:
    """Formats the results as Markdown."""
    lines = ["# How much of a study's best checkpoint each rule loses", "",
             f"{len(rows)} sweeps. Worth: geometric mean of the identity and the share of images"
             f" with all attributes correct, read by the judge from {images} images per checkpoint."
             " One half of them decides which checkpoint is the best; the regret, the share of its"
             " worth that a pick lacks, is measured on the other half. *ours* is what a sweep keeps"
             " by default.", "",
             "| rule | mean regret | worst regret |", "|---|---|---|"]  # fmt: skip
    for name, total in sorted(totals.items(), key=lambda item: item[1]["mean_regret"]):
        lines.append(
            f"| {name.replace('_', ' ')} | {total['mean_regret']:.3f} |"
            f" {total['worst_regret']:.3f} |"
        )
    lines += ["", f"{totals['ours']['pictures']} probe images and"
              f" {totals['ours']['seconds'] / 60:.0f} minutes for all sweeps.", "",
              f"| sweep | checkpoints | best | {' | '.join(RULES).replace('_', ' ')} |",
              "|" + "---|" * (len(RULES) + 3)]  # fmt: skip
    for row in rows:
        trial, epoch, worth = row["best"]
        cells = [f"{t}, {e}: {w:.2f}" for t, e, w, _ in row["picks"].values()]
        lines.append(f"| {row['sweep']} | {row['checkpoints']} | {trial}, {epoch}: {worth:.2f} | "
                     f"{' | '.join(cells)} |")  # fmt: skip
    return "\n".join([*lines, "", "Each cell: trial, epoch: worth.", ""])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument(
        "--rounds", default=ROUNDS, type=int, help=f"rounds of {IMAGES} images, an even number"
    )
    configure_logging()
    torch.set_num_threads(2)
    rounds = parser.parse_args().rounds
    for number, sweep in enumerate(SWEEPS):
        run_sweep(sweep, number)
    reader = Reader.load()
    for number in range(rounds):
        for sweep in SWEEPS:
            reader.read(sweep, number)
    rows = [measure(Study(sweep, rounds)) for sweep in SWEEPS]
    totals = summarize(rows)
    report = {**totals, "sweeps": rows}
    write_atomically(RESULTS / "study.json", (json.dumps(report, indent=1) + "\n").encode())
    (RESULTS / "study.md").write_text(text := table(rows, totals, IMAGES * rounds))
    log.info("in %s\n%s", FOLDER, text)


if __name__ == "__main__":
    main()
