"""The default search with and without early stopping: compute, and quality of the selection.

`python -m bench.pruning [repetitions] [folder]` (45 minutes on 2 cores). Both arms use the same
seeds. The judge, which no score uses, reads images that diffusers' own pipeline generates from the
two selected checkpoints.
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

from bench.judging import judge_each, quality_of, unseen_requests
from bench.sweep import RESULTS, generate_images
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
# not the seeds on which the thresholds of early stopping were chosen
REPETITIONS, FIRST_SEED, IMAGES = 4, 31, 256
NO_EARLY_STOPPING = (
    "pruner=none",
    "early_stop.memorization_patience=0",
    "early_stop.patience=0",
    "early_stop.min_progress_share=0",
)
ARMS: dict[str, tuple[str, ...]] = {"with": (), "without": NO_EARLY_STOPPING}
Row = dict[str, Any]


def run_search(root: Path, name: str, seed: int, *overrides: str) -> Path:
    """Runs or continues the default search, and returns the study's folder."""
    line = [f"study.root={root}", f"study.name={name}", f"hydra.sweeper.seed={seed}", *overrides]
    subprocess.run([sys.executable, "-m", "sweeper", "-m", *line], check=True)
    return root / "studies" / name


def judge_quality(checkpoint: Path, judge: Judge) -> float:
    """Returns the judged quality of a LoRA, 0 to 1; see bench/judging.py."""
    attributes = [request.attributes for request in unseen_requests(IMAGES, seed=77)]
    return quality_of(judge_each(judge, generate_images(checkpoint, IMAGES), attributes))


def measure(study: Path, judge: Judge) -> Row:
    """Returns the scored epochs of a finished study, and its selected checkpoint with quality."""
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    result = json.loads((study / "result.json").read_text())
    return {
        "epochs": len(epochs),
        "trial": result["trial"],
        "epoch": result["epoch"],
        "quality": judge_quality(study / "best.safetensors", judge),
    }


def summarize(rows: list[dict[str, Row]]) -> Row:
    """Summarizes all repetitions; the standard error is that of the mean quality difference."""
    differences = [row["with"]["quality"] - row["without"]["quality"] for row in rows]
    # compute in scored epochs: each costs the same, while seconds depend on what else runs
    ratio = sum(row["with"]["epochs"] for row in rows) / sum(
        row["without"]["epochs"] for row in rows
    )
    return {
        "compute_ratio": ratio,
        "quality_difference": statistics.mean(differences),
        "standard_error": statistics.stdev(differences) / len(differences) ** 0.5
        if len(differences) > 1
        else math.nan,
    }


def table(rows: list[dict[str, Row]], totals: Row) -> str:
    """Formats the results as Markdown."""
    lines = ["# The default search with and without early stopping", "",
             f"{len(rows)} repetitions. Quality: read by the judge from {IMAGES} images of each"
             " selected checkpoint. Each cell: with / without early stopping.", "",
             "| seed | scored epochs | selected (trial, epoch) | quality |",
             "|---|---|---|---|"]  # fmt: skip
    for number, row in enumerate(rows):
        a, b = row["with"], row["without"]
        lines.append(
            f"| {FIRST_SEED + number} | {a['epochs']} / {b['epochs']} | "
            f"({a['trial']}, {a['epoch']}) / ({b['trial']}, {b['epoch']}) | "
            f"{a['quality']:.3f} / {b['quality']:.3f} |"
        )
    lines += ["", f"With early stopping, the search takes {totals['compute_ratio']:.2f} of the"
              f" compute. The quality changes by {totals['quality_difference']:+.3f} (standard"
              f" error {totals['standard_error']:.3f}).",
              ""]  # fmt: skip
    return "\n".join(lines)


def parse_arguments(name: str, description: str | None, repetitions: int) -> argparse.Namespace:
    """Parses the command line of a search benchmark: `repetitions`, and `root` or None."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    parser.add_argument("repetitions", nargs="?", default=repetitions, type=int)
    parser.add_argument("root", nargs="?", help="folder to keep the studies in")
    arguments = parser.parse_args()
    configure_logging()
    torch.set_num_threads(2)
    return arguments


def main() -> None:
    """Runs the benchmark and writes results/pruning.json and .md."""
    arguments = parse_arguments("pruning", __doc__, REPETITIONS)
    judge, rows = Judge.from_folder(), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(arguments.root or folder)
        for number in range(arguments.repetitions):
            seed = FIRST_SEED + number
            rows.append({arm: measure(run_search(root, f"{arm}-{seed}", seed, *overrides), judge)
                         for arm, overrides in ARMS.items()})  # fmt: skip
            log.info("seed %d: %s", seed, rows[-1])
    totals = summarize(rows)
    (RESULTS / "pruning.json").write_text(
        json.dumps({**totals, "repetitions": rows}, indent=1) + "\n"
    )
    (RESULTS / "pruning.md").write_text(table(rows, totals))


if __name__ == "__main__":
    main()
