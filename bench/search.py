"""What a study's pick is worth after so many trials: TPE with the preset first, random, grid.

`python -m bench.search [repetitions] [folder]` (22 minutes on 2 cores). The judge, which no score
uses, reads pictures of every checkpoint that was ever the best so far.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from bench.pruning import begin, quality, search
from bench.sweep import RESULTS
from evaluate.config import PolicyConfig
from sweeper.config import SweepConfig
from sweeper.results.ranking import rank_trials
from sweeper.tracking.trial_record import TrialRecord, load_records
from train.cli.compose import settings
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
REPETITIONS, FIRST_SEED, TRIALS = 2, 31, 12
# every search begins with the preset, where that is in its space: the random one is given a trial
# more, and that one is not counted; the grid goes round it
ARMS: dict[str, tuple[str, ...]] = {
    "TPE, preset first": (f"hydra.sweeper.n_trials={TRIALS}",),
    "random": (f"hydra.sweeper.n_trials={TRIALS + 1}", "hydra/sweeper/sampler=random"),
    "grid": (
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra/sweeper/sampler=grid",
        "optimizer.lr=1e-3,3e-3,1e-2",
        "network.rank=4,16",
        "scheduler=constant,cosine",
    ),
}
Curve = list[float]


def curve(records: list[TrialRecord], policy: PolicyConfig, judge: Judge) -> Curve:
    """The judged quality of the pick after one trial, after two, ..."""
    known: dict[Path, float] = {}
    qualities = []
    for count in range(1, len(records) + 1):
        best = rank_trials(records[:count], policy, lambda record: "")[0].selection
        if best is None:
            qualities.append(0.0)
            continue
        file = best.scorecard.checkpoint
        if file not in known:
            known[file] = quality(file, judge)
        qualities.append(known[file])
    return qualities


def draw(curves: dict[str, list[Curve]], file: Path) -> None:
    """Each arm's mean, and its repetitions as thin lines."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (name, repeated), color in zip(
        curves.items(), ("#d9480f", "#1864ab", "#868e96"), strict=True
    ):
        trials = range(1, TRIALS + 1)
        axes.plot(trials, [statistics.mean(at) for at in zip(*repeated, strict=True)],
                  color=color, linewidth=2.2, label=name)  # fmt: skip
        for one in repeated:
            axes.plot(trials, one, color=color, linewidth=0.7, alpha=0.6)
    axes.set_xlabel("trials")
    axes.set_ylabel("quality of the pick, as the judge sees it")
    axes.legend()
    axes.grid(alpha=0.2)
    figure.savefig(file)


def table(curves: dict[str, list[Curve]]) -> str:
    """The means after some numbers of trials, as markdown."""
    shown = (1, 2, 4, 8, TRIALS)
    count = len(next(iter(curves.values())))
    lines = ["# What the pick is worth after so many trials", "",
             f"Quality as read by the judge, mean of {count} repetitions"
             " (`python -m bench.search`).", "",
             f"| search | {' | '.join(f'{n} trials' for n in shown)} |",
             "|" + "---|" * (len(shown) + 1)]  # fmt: skip
    for name, repeated in curves.items():
        means = [statistics.mean(one[n - 1] for one in repeated) for n in shown]
        lines.append(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs it and writes results/search.json, .md and .png."""
    given = begin("search", __doc__, REPETITIONS)
    judge, policy = Judge.from_folder(), settings("sweep", SweepConfig).selection
    curves: dict[str, list[Curve]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(given.root or folder)
        for seed in range(FIRST_SEED, FIRST_SEED + given.repetitions):
            for number, (name, overrides) in enumerate(ARMS.items()):
                study = search(root, f"search-{number}-{seed}", seed, *overrides)
                records = load_records(study)[-TRIALS:]
                curves[name].append(curve(records, policy, judge))
                log.info("seed %d, %s: %s", seed, name, curves[name][-1])
    (RESULTS / "search.json").write_text(json.dumps(curves, indent=1) + "\n")
    (RESULTS / "search.md").write_text(table(curves))
    draw(curves, RESULTS / "search.png")


if __name__ == "__main__":
    main()
