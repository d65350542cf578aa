"""Quality of the selected checkpoint by number of trials, for TPE, random search and a grid.

`python -m bench.search [repetitions] [folder]` (22 minutes on 2 cores). TPE begins with the preset.
The judge, which no score uses, reads images of every checkpoint that was ever the best so far.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from bench.pruning import judge_quality, parse_arguments, run_search
from bench.sweep import RESULTS
from evaluate.config import PolicyConfig
from sweeper.config import SweepConfig
from sweeper.results.ranking import rank_trials
from sweeper.tracking.trial_record import TrialRecord, load_records
from train.cli.compose import settings
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
REPETITIONS, FIRST_SEED, TRIALS = 2, 31, 12
# TPE and random search share a space, whose borders are the grid's.
SPACE = (
    "optimizer.lr=tag(log,interval(1e-3,1e-2))",
    "network.rank=4,8,16",
    "scheduler=constant,cosine",
)
# TPE begins with the preset. Random search does so too and gets one more trial for it, which is not
# counted.
ARMS: dict[str, tuple[str, ...]] = {
    "TPE, preset first": (f"hydra.sweeper.n_trials={TRIALS}", *SPACE),
    "random": (f"hydra.sweeper.n_trials={TRIALS + 1}", "hydra/sweeper/sampler=random", *SPACE),
    "grid": (
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra/sweeper/sampler=grid",
        "optimizer.lr=1e-3,3e-3,1e-2",
        "network.rank=4,16",
        "scheduler=constant,cosine",
    ),
}
Curve = list[float]


def quality_curve(records: list[TrialRecord], policy: PolicyConfig, judge: Judge) -> Curve:
    """Returns the judged quality of the selected checkpoint after 1, 2, ... trials."""
    qualities_by_file: dict[Path, float] = {}
    qualities = []
    for count in range(1, len(records) + 1):
        best = rank_trials(records[:count], policy, lambda record: "")[0].selection
        if best is None:
            qualities.append(0.0)
            continue
        file = best.scorecard.checkpoint
        if file not in qualities_by_file:
            qualities_by_file[file] = judge_quality(file, judge)
        qualities.append(qualities_by_file[file])
    return qualities


def plot(curves: dict[str, list[Curve]]) -> Figure:
    """Draws the mean of each search, and its repetitions as thin lines."""
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
    axes.set_ylabel("judged quality of the selected checkpoint")
    axes.legend()
    axes.grid(alpha=0.2)
    return figure


def table(curves: dict[str, list[Curve]]) -> str:
    """Formats the mean quality after several numbers of trials as Markdown."""
    trial_counts = (1, 2, 4, 8, TRIALS)
    repetitions = len(next(iter(curves.values())))
    headings = " | ".join("1 trial" if n == 1 else f"{n} trials" for n in trial_counts)
    lines = ["# Quality of the selected checkpoint by number of trials", "",
             f"Quality: read by the judge, mean of {repetitions} repetitions"
             " (`python -m bench.search`).", "",
             f"| search | {headings} |",
             "|" + "---|" * (len(trial_counts) + 1)]  # fmt: skip
    for name, repeated in curves.items():
        means = [statistics.mean(one[n - 1] for one in repeated) for n in trial_counts]
        lines.append(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the benchmark and writes results/search.json, .md and .png."""
    arguments = parse_arguments("search", __doc__, REPETITIONS)
    judge, policy = Judge.from_folder(), settings("sweep", SweepConfig).selection
    curves: dict[str, list[Curve]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(arguments.root or folder)
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.repetitions):
            for number, (name, overrides) in enumerate(ARMS.items()):
                study = run_search(root, f"search-{number}-{seed}", seed, *overrides)
                records = load_records(study)[-TRIALS:]
                curves[name].append(quality_curve(records, policy, judge))
                log.info("seed %d, %s: %s", seed, name, curves[name][-1])
    (RESULTS / "search.json").write_text(json.dumps(curves, indent=1) + "\n")
    (RESULTS / "search.md").write_text(table(curves))
    plot(curves).savefig(RESULTS / "search.png")


if __name__ == "__main__":
    main()
