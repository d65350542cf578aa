"""The default sweep, timed, and its pick held against each trial's last epoch by the judge.

`python -m bench.sweep [folder to keep the study in]` (4 minutes on 2 cores). Pictures are made by
diffusers' own pipeline and `load_lora_weights`, of prompts and seeds that the sweep has not seen.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from bench.judging import judged, wishes
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.config.schema import DataConfig
from train.data.dataset import load_dataset
from train.data.images.cropping import square
from train.puppets.networks.gates import generate, load_pipeline
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
PICTURES, SHOWN, SIDE = 64, 8, 160  # a checkpoint; of those in a row; pixels
Row = dict[str, Any]
Images = dict[tuple[int, str], Tensor]


class Seconds(NamedTuple):
    """How long a sweep took: starting up, with trials at work, and after the last of them."""

    start: float
    trials: float
    end: float


def sweep(root: Path) -> Seconds:
    """Runs the default sweep."""
    began, lines = time.monotonic(), []
    command = [sys.executable, "-u", "-m", "sweeper", "-m",
               f"study.root={root}", "study.keep_checkpoints=all"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            sys.stdout.write(line)
            if line.startswith("trial "):
                lines.append(time.monotonic())
    if process.returncode:
        sys.exit(f"error: the sweep ended with code {process.returncode}")
    return Seconds(lines[0] - began, lines[-1] - lines[0], time.monotonic() - lines[-1])


def orchestration(study: Path, took: Seconds) -> dict[str, float]:
    """What was neither training nor generating nor scoring, start-up apart.

    Returns:
        seconds beside trials and at the end; their share of the sweep, and that beside trials.
    """
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    beside = took.trials - sum(epoch.seconds for epoch in epochs)
    return {
        "beside trials, s": beside,
        "at the end, s": took.end,
        "share": (beside + took.end) / (took.trials + took.end),
        "share beside trials": beside / took.trials,
    }


def pictures(checkpoint: Path, count: int = PICTURES) -> Tensor:
    """(N, 3, 32, 32): new wishes for the character, by stock diffusers code."""
    pipeline = load_pipeline()
    pipeline.load_lora_weights(checkpoint.parent, weight_name=checkpoint.name)
    return generate(pipeline, [wish.prompt for wish in wishes(count, seed=77)], seed=77)


def judge_trials(study: Path) -> tuple[list[Row], Images]:
    """A row a trial: its settings, and what the judge sees at its pick and its last epoch.

    The pictures come with it, by trial and "kept" or "last".
    """
    judge, asked = Judge.from_folder(), [wish.asked for wish in wishes(PICTURES, seed=77)]
    rows: list[Row] = []
    images: Images = {}
    result = json.loads((study / "result.json").read_text())
    for record, told in zip(load_records(study), result["trials"], strict=True):
        cards = {card.epoch: card for card in record.scorecards}
        if told["best_epoch"] is None:
            continue
        kept, last = cards[told["best_epoch"]], cards[max(cards)]
        row: Row = {"trial": record.number, "picked": record.number == result["trial"],
                    "state": record.state, "params": record.params, "epochs": len(cards),
                    "kept": kept.epoch, "last": last.epoch}  # fmt: skip
        for name, card in (("kept", kept), ("last", last)):
            images[record.number, name] = pictures(card.checkpoint)
            row[f"{name} judged"] = judged(judge, images[record.number, name], asked)
        log.info("trial %d: quality %.2f at the kept epoch %d, %.2f at the last, %d",
                 record.number, row["kept judged"]["quality"], kept.epoch,
                 row["last judged"]["quality"], last.epoch)  # fmt: skip
        rows.append(row)
    return rows, images


def table(rows: list[Row], seconds: float, orchestrating: dict[str, float]) -> str:
    """The rows, kept and last epoch beside each other."""
    shown = ("quality", "identity", "obeyed", "arms obeyed", "training arms", "training background")
    lines = ["# The default sweep, read by the judge", "",
             f"{len(rows)} trials in {seconds / 60:.1f} minutes, of which, start-up apart,"
             f" {orchestrating['share']:.1%} went into neither training nor generating nor scoring:"
             f" {orchestrating['beside trials, s']:.1f} s while trials were at work"
             f" ({orchestrating['share beside trials']:.1%} of that time), and once, at the end,"
             f" {orchestrating['at the end, s']:.1f} s for the report and the like.", "",
             f"{PICTURES} pictures a checkpoint; each cell: at the epoch that was kept, and at the"
             " trial's last. Quality: geometric mean of the identity and the share that is right"
             " in every part.", "",
             f"| trial | kept / last epoch | {' | '.join(shown)} | how it ended |",
             "|" + "---|" * (len(shown) + 3)]  # fmt: skip
    for row in rows:
        cells = [f"{row['kept judged'][k]:.2f} / {row['last judged'][k]:.2f}" for k in shown]
        mark = "**" if row["picked"] else ""
        lines.append(f"| {mark}{row['trial']}{mark} | {row['kept']} / {row['last']} | "
                     f"{' | '.join(cells)} | {row['state']} |")  # fmt: skip
    return "\n".join([*lines, "", "Bold: the sweep's pick.", ""])


def sheet(rows: list[Row], images: Images) -> Figure:
    """The training pictures; then the same wishes at the pick, its last epoch, the worst end."""
    training = load_dataset(DataConfig(resolution=256)).training[:SHOWN]
    pick = next(row for row in rows if row["picked"])
    worst = min(rows, key=lambda row: row["last judged"]["quality"])
    strips = [
        ("the pictures that it was trained on", torch.stack([square(p, SIDE) for p in training]))
    ]
    for title, row, name in (
        ("the pick", pick, "kept"),
        ("the same trial's last epoch", pick, "last"),
        ("the most overfitted trial's last epoch", worst, "last"),
    ):
        label = f"{title}: trial {row['trial']}, epoch {row[name]}"
        small = images[row["trial"], name][:SHOWN]
        strips.append((label, interpolate(small, (SIDE, SIDE), mode="bicubic").clamp(0, 1)))
    figure = Figure(figsize=(SHOWN * 1.3, len(strips) * 1.62), dpi=100, layout="constrained")
    for number, (axes, (title, strip)) in enumerate(
        zip(figure.subplots(len(strips), 1), strips, strict=True)
    ):
        axes.imshow(make_grid(strip, SHOWN, 4, pad_value=1.0).permute(1, 2, 0).numpy())
        axes.set_title(title, loc="left", fontsize=10)
        axes.axis("off")
        if number == 1:
            asked = [f"{w.arms},\n{w.background}" for w in wishes(PICTURES, seed=77)[:SHOWN]]
            for i, text in enumerate(asked):
                axes.text(84 + i * (SIDE + 4), SIDE + 14, text, fontsize=7, ha="center", va="top")
    return figure


def main() -> None:
    """Runs it and writes results/sweep.json, .md and the pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("root", nargs="?")
    configure_logging()
    torch.set_num_threads(2)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(parser.parse_args().root or folder)
        took = sweep(root)
        study = root / "studies" / "puppets"
        orchestrating = orchestration(study, took)
        rows, images = judge_trials(study)
        shutil.copy(study / "overview.png", RESULTS / "sweep_overview.png")
    sheet(rows, images).savefig(RESULTS / "sweep_pick.png")
    report = {"seconds": sum(took), "orchestration": orchestrating, "trials": rows}
    (RESULTS / "sweep.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "sweep.md").write_text(table(rows, sum(took), orchestrating))


if __name__ == "__main__":
    main()
