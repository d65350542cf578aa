"""The default search with its stopping rules, and without any: compute used, quality of the pick.

`python -m bench.pruning [repetitions] [folder]` (25 minutes on 2 cores). The same seeds both ways;
the judge, which no score uses, reads pictures that diffusers' own pipeline made of the two picks.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.judging import judged, wishes
from bench.sweep import RESULTS, pictures
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
# other seeds than those that the rules' thresholds were chosen on
REPETITIONS, FIRST_SEED, PICTURES = 4, 31, 256
WITHOUT = (
    "pruner=none",
    "early_stop.memorization_patience=0",
    "early_stop.patience=0",
    "early_stop.min_progress_share=0",
)
ARMS: dict[str, tuple[str, ...]] = {"with": (), "without": WITHOUT}
Row = dict[str, Any]


def search(root: Path, name: str, seed: int, *overrides: str) -> Path:
    """Runs (or continues) the default search; the study's folder."""
    line = [f"study.root={root}", f"study.name={name}", f"hydra.sweeper.seed={seed}", *overrides]
    subprocess.run([sys.executable, "-m", "sweeper", "-m", *line], check=True)
    return root / "studies" / name


def quality(checkpoint: Path, judge: Judge) -> float:
    """What a LoRA is truly worth, 0 to 1; see bench/judging.py."""
    asked = [wish.asked for wish in wishes(PICTURES, seed=77)]
    return judged(judge, pictures(checkpoint, PICTURES), asked)["quality"]


def measure(study: Path, judge: Judge) -> Row:
    """What a finished study has cost, and what its pick is worth."""
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    result = json.loads((study / "result.json").read_text())
    return {
        "epochs": len(epochs),
        "trial": result["trial"],
        "epoch": result["epoch"],
        "quality": quality(study / "best.safetensors", judge),
    }


def summary(rows: list[dict[str, Row]]) -> Row:
    """The figures over all repetitions; the standard error is that of the mean difference."""
    gaps = [row["with"]["quality"] - row["without"]["quality"] for row in rows]
    # in epochs trained and scored: each costs the same, while seconds hang on what else runs
    ratio = sum(row["with"]["epochs"] for row in rows) / sum(
        row["without"]["epochs"] for row in rows
    )
    return {
        "compute_ratio": ratio,
        "quality_difference": statistics.mean(gaps),
        "standard_error": statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else math.nan,
    }


def table(rows: list[dict[str, Row]], found: Row) -> str:
    """The figures as markdown."""
    lines = ["# The default search with its stopping rules, and without", "",
             f"{len(rows)} repetitions; quality as read by the judge from {PICTURES} pictures of"
             " each pick. Each cell: with / without the rules.", "",
             "| seed | scored epochs | pick (trial, epoch) | its quality |",
             "|---|---|---|---|"]  # fmt: skip
    for number, row in enumerate(rows):
        a, b = row["with"], row["without"]
        lines.append(
            f"| {FIRST_SEED + number} | {a['epochs']} / {b['epochs']} | "
            f"({a['trial']}, {a['epoch']}) / ({b['trial']}, {b['epoch']}) | "
            f"{a['quality']:.3f} / {b['quality']:.3f} |"
        )
    lines += ["", f"Compute: {found['compute_ratio']:.2f} of what it takes without. Quality: "
              f"{found['quality_difference']:+.3f}, standard error {found['standard_error']:.3f}.",
              ""]  # fmt: skip
    return "\n".join(lines)


def begin(name: str, about: str | None, repetitions: int) -> argparse.Namespace:
    """Reads the command line of a bench of searches: `repetitions`, and `root` or None."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    parser.add_argument("repetitions", nargs="?", default=repetitions, type=int)
    parser.add_argument("root", nargs="?", help="where the studies are kept")
    given = parser.parse_args()
    configure_logging()
    torch.set_num_threads(2)
    return given


def main() -> None:
    """Runs it and writes results/pruning.json and .md."""
    given = begin("pruning", __doc__, REPETITIONS)
    judge, rows = Judge.from_folder(), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(given.root or folder)
        for number in range(given.repetitions):
            seed = FIRST_SEED + number
            rows.append({arm: measure(search(root, f"{arm}-{seed}", seed, *overrides), judge)
                         for arm, overrides in ARMS.items()})  # fmt: skip
            log.info("seed %d: %s", seed, rows[-1])
    found = summary(rows)
    (RESULTS / "pruning.json").write_text(
        json.dumps({**found, "repetitions": rows}, indent=1) + "\n"
    )
    (RESULTS / "pruning.md").write_text(table(rows, found))


if __name__ == "__main__":
    main()
