"""Every score held against what the judge sees, over all the checkpoints of a finished study.

`python -m bench.truth [mlruns/studies/puppets]` (5 minutes on 2 cores, after `make sweep`): how
well each score follows the truth that it stands for, and what the selection loses to an oracle.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from bench.judging import judged
from evaluate.policy import fidelity, select
from evaluate.probes import KINDS
from evaluate.scorecard import Scorecard
from evaluate.scorer import Scorer
from evaluate.scores import SubjectFidelity
from sweeper.config import SweepConfig
from sweeper.parts import load_parts
from sweeper.record import load_records
from train.command import quiet
from train.config import typed
from train.puppets.judge import Judge

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
# a score, and what the judge sees in the same pictures
PAIRS = {
    "subject_fidelity": "identity",
    "whole pictures": "identity",
    "prompt_fidelity": "obeyed",
    "pose_memorization": "training pose",
    "background_leak": "training background",
    "fidelity": "quality",
}
Point = dict[str, Any]


def plain(asked: dict[str, str]) -> dict[str, str]:
    """A probe's values as the judge names them: `red`, not `red shirt`."""
    return {part: value.removesuffix(f" {part}") for part, value in asked.items()}


def whole_pictures(scorer: Scorer, images: Tensor) -> float:
    """subject_fidelity as it would be without looking at the heads."""
    score = SubjectFidelity(
        scorer.training_features, scorer.base_features, scorer.nuisance_of(KINDS), resamples=2
    )
    score.update(scorer.encoder.image_features(images), torch.ones(len(images), dtype=torch.bool))
    return float(score.compute()[0])


def measure(study: Path) -> tuple[list[Point], list[Point]]:
    """A point a checkpoint; and for each trial the quality of the kept, the best, the last one."""
    judge, points, trials = Judge.from_folder(), [], []
    for record in load_records(study):
        config = typed(SweepConfig, OmegaConf.create(record.settings))
        scorer = load_parts(config).scorer
        asked = [plain(probe.asked) for probe in scorer.probe_set.probes]
        seen: dict[int, dict[str, float]] = {}
        cards: list[Scorecard] = []
        for old in record.scorecards:
            card = scorer([old.checkpoint])[0]
            cards.append(card)
            images = torch.from_numpy(card.images).permute(0, 3, 1, 2).float() / 255
            seen[card.epoch] = judged(judge, images, asked)
            scores = {name: estimate.value for name, estimate in card.scores.items()}
            scores |= {"whole pictures": whole_pictures(scorer, images)}
            scores["fidelity"] = fidelity(card).value
            point = {"trial": record.number, "epoch": card.epoch}
            points.append({**point, "scores": scores, "truth": seen[card.epoch]})
        kept = select(cards, config.policy)
        quality = {epoch: figures["quality"] for epoch, figures in seen.items()}
        trials.append({"trial": record.number, "kept": kept.scorecard.epoch,
                       "feasible": kept.feasible, "last": max(quality),
                       "best": max(quality, key=lambda epoch: quality[epoch]),
                       "quality": quality})  # fmt: skip
        log.info("trial %d: %s", record.number, trials[-1])
    return points, trials


def correlations(points: list[Point]) -> dict[str, dict[str, float]]:
    """Pearson's and Spearman's, for each score with its truth."""
    table = {}
    for score, seen in PAIRS.items():
        a = torch.tensor([point["scores"][score] for point in points])
        b = torch.tensor([point["truth"][seen] for point in points])
        table[score] = {"pearson": float(pearson_corrcoef(a, b)),
                        "spearman": float(spearman_corrcoef(a, b))}  # fmt: skip
    return table


def table(found: dict[str, dict[str, float]], trials: list[Point], count: int) -> str:
    """Both tables, for people."""
    lines = ["# The scores, held against the judge", "",
             f"{count} checkpoints of the default sweep, on the probe images themselves.", "",
             "| score | what the judge sees | Pearson | Spearman |",
             "|---|---|---|---|"]  # fmt: skip
    for score, row in found.items():
        lines.append(f"| {score} | {PAIRS[score]} | {row['pearson']:.2f} | {row['spearman']:.2f} |")
    lines += ["", "`whole pictures` is subject_fidelity without looking at the heads.", "",
              "| trial | kept epoch: quality | best epoch: quality | last epoch: quality |",
              "|---|---|---|---|"]  # fmt: skip
    for trial in trials:
        cells = [f"{trial[k]}: {trial['quality'][trial[k]]:.2f}" for k in ("kept", "best", "last")]
        cells[0] += "" if trial["feasible"] else " (over a limit)"
        lines.append(f"| {trial['trial']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def plot(points: list[Point], found: dict[str, dict[str, float]]) -> Figure:
    """A panel a score: each checkpoint's score over its truth."""
    figure = Figure(figsize=(12, 7), dpi=90, layout="constrained")
    for axes, (score, seen) in zip(figure.subplots(2, 3).flat, PAIRS.items(), strict=True):
        axes.scatter([p["truth"][seen] for p in points], [p["scores"][score] for p in points],
                     c=[p["epoch"] for p in points], cmap="viridis", s=30)  # fmt: skip
        axes.set_xlabel(f"the judge: {seen}")
        axes.set_ylabel(score)
        axes.set_title(f"Pearson {found[score]['pearson']:.2f}", loc="left", fontsize=10)
        axes.grid(alpha=0.2)
    return figure


def main() -> None:
    """Writes results/truth.json, .md and the picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description=__doc__)
    parser.add_argument("study", nargs="?", default="mlruns/studies/puppets", type=Path)
    quiet()
    torch.set_num_threads(2)
    points, trials = measure(parser.parse_args().study)
    found = correlations(points)
    RESULTS.mkdir(exist_ok=True)
    content = {"correlations": found, "trials": trials, "checkpoints": points}
    (RESULTS / "truth.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "truth.md").write_text(table(found, trials, len(points)))
    plot(points, found).savefig(RESULTS / "truth.png")
    print(table(found, trials, len(points)))


if __name__ == "__main__":
    main()
