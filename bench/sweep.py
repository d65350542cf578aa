"""The default sweep: its time, and its selected checkpoint against all others.

`python -m bench.sweep [folder to keep the study in]` (some 10 minutes on 2 cores). The judge, which
no score uses, reads images that diffusers' own pipeline generates with `load_lora_weights`, from
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
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import set_verbosity_error
from torch import Tensor

from bench.judging import (
    HEADINGS,
    judge_each,
    means_of,
    quality_difference,
    quality_of,
    unseen_requests,
)
from bench.sweep_pictures import Images, Row, contact_sheet, curves
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.puppets.networks.gates import generate, load_pipeline
from train.puppets.networks.judge import Judge

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
IMAGES = 64  # per checkpoint
Judged = dict[str, Tensor]


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


@cache
def loaded_pipeline() -> StableDiffusionPipeline:
    """Returns the embedded base in diffusers' pipeline."""
    set_verbosity_error()  # diffusers warns of each LoRA that leaves the text encoder as it is
    return load_pipeline()


def generate_images(checkpoint: Path | None, count: int = IMAGES) -> Tensor:
    """Generates images of unseen requests, (N, 3, 64, 64), with diffusers' own LoRA loading.

    Without a checkpoint they are the base's."""
    pipeline = loaded_pipeline()
    prompts = [request.prompt for request in unseen_requests(count, seed=77)]
    if checkpoint is None:
        return generate(pipeline, prompts, seed=77).cpu()
    pipeline.load_lora_weights(checkpoint.parent, weight_name=checkpoint.name)
    images = generate(pipeline, prompts, seed=77).cpu()
    pipeline.unload_lora_weights()
    return images


def judge_trials(study: Path) -> tuple[list[Row], Images]:
    """Judges every checkpoint of the study, and the base without a LoRA.

    Returns:
        A row per trial with a list of its checkpoints, and images by their name: "selected", its
        trial's "last" epoch, and "base".
    """
    judge, requests = Judge.from_folder(), unseen_requests(IMAGES, seed=77)
    attributes = [request.attributes for request in requests]
    result = json.loads((study / "result.json").read_text())
    rows: list[Row] = []
    images: Images = {"base": generate_images(None)}
    judged: dict[tuple[int, int], Judged] = {}
    for record, outcome in zip(load_records(study), result["trials"], strict=True):
        cards = {card.epoch: card for card in record.scorecards if not card.failure}
        if outcome["best_epoch"] is None:
            continue
        picked = record.number == result["trial"]
        row: Row = {"trial": record.number, "picked": picked, "state": record.state,
                    "params": record.params, "selected": outcome["best_epoch"],
                    "last": max(cards), "epochs": []}  # fmt: skip
        for epoch, card in cards.items():
            generated = generate_images(card.checkpoint)
            metrics = judge_each(judge, generated, attributes)
            judged[record.number, epoch] = metrics
            row["epochs"].append({"epoch": epoch, **means_of(metrics)})
            if picked and epoch == row["selected"]:
                images["selected"] = generated
            if picked and epoch == row["last"]:
                images["last"] = generated
        for row_epoch in row["epochs"]:
            log.info("trial %d, epoch %d: quality %.2f", record.number, row_epoch["epoch"],
                     row_epoch["quality"])  # fmt: skip
        rows.append(row)
    compare_checkpoints(rows, judged)
    return rows, images


def compare_checkpoints(rows: list[Row], judged: Mapping[tuple[int, int], Judged]) -> None:
    """Adds to each row its selected epoch's lead over its last, and the best checkpoint's lead.

    The best checkpoint of the study is compared to the study's selected one.
    """
    selected = next((row["trial"], row["selected"]) for row in rows if row["picked"])
    best = max(judged, key=lambda key: quality_of(judged[key]))
    for row in rows:
        chosen, last = (judged[row["trial"], row[name]] for name in ("selected", "last"))
        row["lead over last"] = quality_difference(chosen, last)
        if row["picked"]:
            row["best"] = best
            row["lead of best"] = quality_difference(judged[best], judged[selected])


def epoch_of_row(row: Row, name: str) -> dict[str, float]:
    """Returns the judged metrics of a trial's "selected" or "last" epoch."""
    return next(epoch for epoch in row["epochs"] if epoch["epoch"] == row[name])


def table(rows: list[Row], seconds: float, overhead: dict[str, float]) -> str:
    """Formats the rows as Markdown, with the selected and the last epoch in each cell."""
    metrics = (
        "quality",
        "identity",
        "obeyed",
        "arms obeyed",
        "training pose",
        "training background",
    )
    headings = " | ".join(HEADINGS.get(name, name) for name in metrics)
    picked = next(row for row in rows if row["picked"])
    (trial, epoch), lead = picked["best"], picked["lead of best"]
    worse = sum(row["lead over last"].value > row["lead over last"].error for row in rows)
    count = sum(len(row["epochs"]) for row in rows)
    lines = ["# The default sweep, read by the judge", "",
             f"{len(rows)} trials in {seconds / 60:.1f} minutes. Startup excluded,"
             f" {overhead['share']:.1%} of the time was neither training, generating nor scoring:"
             f" {overhead['beside trials, s']:.1f} s during the trials"
             f" ({overhead['share beside trials']:.1%} of their time), and once, at the end,"
             f" {overhead['at the end, s']:.1f} s for the report and other final steps.", "",
             f"{IMAGES} images per checkpoint. Each cell: selected epoch / last epoch of the trial."
             " Quality: geometric mean of the identity and the share of images with all attributes"
             " correct.", "",
             f"Of {count} checkpoints, the best by the judge is epoch {epoch} of trial {trial}; it"
             f" is {lead.value:.3f} better than the selected one (standard error"
             f" {lead.error:.3f}; as the largest of {count}, the difference is biased upward). In"
             f" {worse} of {len(rows)} trials the last epoch is worse than the selected one by more"
             " than one standard error.", "",
             f"| trial | selected / last epoch | {headings} | state |",
             "|" + "---|" * (len(metrics) + 3)]  # fmt: skip
    for row in rows:
        selected, last = epoch_of_row(row, "selected"), epoch_of_row(row, "last")
        cells = [f"{selected[k]:.2f} / {last[k]:.2f}" for k in metrics]
        mark = "**" if row["picked"] else ""
        lines.append(f"| {mark}{row['trial']}{mark} | {row['selected']} / {row['last']} | "
                     f"{' | '.join(cells)} | {row['state']} |")  # fmt: skip
    return "\n".join([*lines, "", "Bold: the selected trial.", ""])


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
    requests = unseen_requests(IMAGES, seed=77)
    contact_sheet(rows, images, requests).savefig(RESULTS / "sweep_pick.png")
    curves(rows).savefig(RESULTS / "sweep_curves.png")
    report = {"seconds": sum(durations), "orchestration": overhead, "trials": rows}
    (RESULTS / "sweep.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "sweep.md").write_text(table(rows, sum(durations), overhead))


if __name__ == "__main__":
    main()
