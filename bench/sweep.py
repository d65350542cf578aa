"""The default sweep: its time, and its selected checkpoints against each trial's last epoch.

`python -m bench.sweep [folder to keep the study in]` (4 minutes on 2 cores). The judge, which no
score uses, reads images that diffusers' own pipeline generates with `load_lora_weights`, from
prompts and seeds that the sweep has not used.
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

from bench.judging import HEADINGS, judge_images, unseen_requests
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.config.schema import DataConfig
from train.data.dataset import load_dataset
from train.data.images.cropping import square
from train.puppets.networks.gates import generate, load_pipeline
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
IMAGES, SHEET_COLUMNS, SIDE = 64, 8, 160  # per checkpoint; of these in the sheet; pixels
Row = dict[str, Any]
Images = dict[tuple[int, str], Tensor]


class Seconds(NamedTuple):
    """Duration of a sweep: startup, all trials, and the rest after the last trial."""

    start: float
    trials: float
    end: float


def sweep(root: Path) -> Seconds:
    """Runs the default sweep, and returns its duration."""
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


def measure_overhead(study: Path, durations: Seconds) -> dict[str, float]:
    """Measures the time that is not training, generating or scoring, startup excluded.

    Returns:
        Overhead in seconds during the trials and after them; its share of the sweep, and the share
        of the first in the time of all trials.
    """
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    during_trials = durations.trials - sum(epoch.seconds for epoch in epochs)
    return {
        "beside trials, s": during_trials,
        "at the end, s": durations.end,
        "share": (during_trials + durations.end) / (durations.trials + durations.end),
        "share beside trials": during_trials / durations.trials,
    }


def generate_images(checkpoint: Path, count: int = IMAGES) -> Tensor:
    """Generates images of unseen requests, (N, 3, 32, 32), with diffusers' own LoRA loading."""
    pipeline = load_pipeline()
    pipeline.load_lora_weights(checkpoint.parent, weight_name=checkpoint.name)
    return generate(pipeline, [r.prompt for r in unseen_requests(count, seed=77)], seed=77)


def judge_trials(study: Path) -> tuple[list[Row], Images]:
    """Judges the selected checkpoint and the last epoch of each trial.

    Returns:
        A row per trial, and the images by trial number and "kept" (selected) or "last".
    """
    judge = Judge.from_folder()
    attributes = [request.attributes for request in unseen_requests(IMAGES, seed=77)]
    rows: list[Row] = []
    images: Images = {}
    result = json.loads((study / "result.json").read_text())
    for record, outcome in zip(load_records(study), result["trials"], strict=True):
        cards = {card.epoch: card for card in record.scorecards}
        if outcome["best_epoch"] is None:
            continue
        selected, last = cards[outcome["best_epoch"]], cards[max(cards)]
        row: Row = {"trial": record.number, "picked": record.number == result["trial"],
                    "state": record.state, "params": record.params, "epochs": len(cards),
                    "kept": selected.epoch, "last": last.epoch}  # fmt: skip
        for name, card in (("kept", selected), ("last", last)):
            images[record.number, name] = generate_images(card.checkpoint)
            row[f"{name} judged"] = judge_images(judge, images[record.number, name], attributes)
        log.info("trial %d: quality %.2f at the selected epoch %d, %.2f at the last epoch %d",
                 record.number, row["kept judged"]["quality"], selected.epoch,
                 row["last judged"]["quality"], last.epoch)  # fmt: skip
        rows.append(row)
    return rows, images


def table(rows: list[Row], seconds: float, overhead: dict[str, float]) -> str:
    """Formats the rows as Markdown, with the selected and the last epoch in each cell."""
    metrics = (
        "quality",
        "identity",
        "obeyed",
        "arms obeyed",
        "training arms",
        "training background",
    )
    headings = " | ".join(HEADINGS.get(name, name) for name in metrics)
    lines = ["# The default sweep, read by the judge", "",
             f"{len(rows)} trials in {seconds / 60:.1f} minutes. Startup excluded,"
             f" {overhead['share']:.1%} of the time was neither training, generating nor scoring:"
             f" {overhead['beside trials, s']:.1f} s during the trials"
             f" ({overhead['share beside trials']:.1%} of their time), and once, at the end,"
             f" {overhead['at the end, s']:.1f} s for the report and other final steps.", "",
             f"{IMAGES} images per checkpoint. Each cell: selected epoch / last epoch of the trial."
             " Quality: geometric mean of the identity and the share of images with all attributes"
             " correct.", "",
             f"| trial | selected / last epoch | {headings} | state |",
             "|" + "---|" * (len(metrics) + 3)]  # fmt: skip
    for row in rows:
        cells = [f"{row['kept judged'][k]:.2f} / {row['last judged'][k]:.2f}" for k in metrics]
        mark = "**" if row["picked"] else ""
        lines.append(f"| {mark}{row['trial']}{mark} | {row['kept']} / {row['last']} | "
                     f"{' | '.join(cells)} | {row['state']} |")  # fmt: skip
    return "\n".join([*lines, "", "Bold: the selected trial.", ""])


def contact_sheet(rows: list[Row], images: Images) -> Figure:
    """Draws training images, then images of the same prompts by three checkpoints.

    These are the selected one, its trial's last epoch, and the last epoch with the worst quality.
    """
    training = load_dataset(DataConfig(resolution=256)).training[:SHEET_COLUMNS]
    selected = next(row for row in rows if row["picked"])
    worst = min(rows, key=lambda row: row["last judged"]["quality"])
    strips = [("training images", torch.stack([square(image, SIDE) for image in training]))]
    for title, row, name in (
        ("selected checkpoint", selected, "kept"),
        ("last epoch of the same trial", selected, "last"),
        ("last epoch of the most overfitted trial", worst, "last"),
    ):
        label = f"{title}: trial {row['trial']}, epoch {row[name]}"
        small = images[row["trial"], name][:SHEET_COLUMNS]
        strips.append((label, interpolate(small, (SIDE, SIDE), mode="bicubic").clamp(0, 1)))
    figure = Figure(
        figsize=(SHEET_COLUMNS * 1.3, len(strips) * 1.62), dpi=100, layout="constrained"
    )
    for number, (axes, (title, strip)) in enumerate(
        zip(figure.subplots(len(strips), 1), strips, strict=True)
    ):
        axes.imshow(make_grid(strip, SHEET_COLUMNS, 4, pad_value=1.0).permute(1, 2, 0).numpy())
        axes.set_title(title, loc="left", fontsize=10)
        axes.axis("off")
        if number == 1:
            requests = unseen_requests(IMAGES, seed=77)[:SHEET_COLUMNS]
            for i, request in enumerate(requests):
                text = f"{request.arms},\n{request.background}"
                axes.text(84 + i * (SIDE + 4), SIDE + 14, text, fontsize=7, ha="center", va="top")
    return figure


def main() -> None:
    """Runs the benchmark and writes results/sweep.json, .md and the .png files."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("root", nargs="?", help="folder to keep the study in")
    configure_logging()
    torch.set_num_threads(2)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(parser.parse_args().root or folder)
        durations = sweep(root)
        study = root / "studies" / "puppets"
        overhead = measure_overhead(study, durations)
        rows, images = judge_trials(study)
        shutil.copy(study / "overview.png", RESULTS / "sweep_overview.png")
    contact_sheet(rows, images).savefig(RESULTS / "sweep_pick.png")
    report = {"seconds": sum(durations), "orchestration": overhead, "trials": rows}
    (RESULTS / "sweep.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "sweep.md").write_text(table(rows, sum(durations), overhead))


if __name__ == "__main__":
    main()
