"""The default sweep, timed, and its pick held against each trial's last epoch by the judge.

`python -m bench.sweep` (12 minutes on 2 cores). Pictures are made by diffusers' own pipeline and
`load_lora_weights`, of prompts and seeds that the sweep has not seen.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from bench.judging import judged, wishes
from sweeper.record import load_records
from train.puppets.gates import generate, load_pipeline
from train.puppets.judge import Judge

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
PICTURES = 64
Row = dict[str, Any]


def sweep(root: Path) -> float:
    """Runs the default sweep; seconds that it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "sweeper", "-m", f"study.root={root}"]
    subprocess.run(command, check=True)
    return time.monotonic() - began


def pictures(checkpoint: Path, count: int = PICTURES) -> Tensor:
    """(N, 3, 32, 32): new wishes for the character, by stock diffusers code."""
    pipeline = load_pipeline()
    pipeline.load_lora_weights(checkpoint.parent, weight_name=checkpoint.name)
    return generate(pipeline, [wish.prompt for wish in wishes(count, seed=77)], seed=77)


def judge_trials(study: Path) -> list[Row]:
    """A row a trial: its settings, and what the judge sees at its pick and its last epoch."""
    judge, wanted, rows = Judge.from_folder(), wishes(PICTURES, seed=77), []
    result = json.loads((study / "result.json").read_text())
    for record, told in zip(load_records(study), result["trials"], strict=True):
        cards = {card.epoch: card for card in record.scorecards}
        if told["best_epoch"] is None:
            continue
        kept, last = cards[told["best_epoch"]], cards[max(cards)]
        row: Row = {"trial": record.number, "picked": record.number == result["trial"],
                    "state": record.state, "params": record.params, "epochs": len(cards),
                    "kept": kept.epoch, "last": last.epoch}  # fmt: skip
        row["kept judged"] = judged(judge, pictures(kept.checkpoint), wanted)
        row["last judged"] = judged(judge, pictures(last.checkpoint), wanted)
        log.info("trial %d: quality %.2f at the kept epoch %d, %.2f at the last, %d",
                 record.number, row["kept judged"]["quality"], kept.epoch,
                 row["last judged"]["quality"], last.epoch)  # fmt: skip
        rows.append(row)
    return rows


def table(rows: list[Row], seconds: float) -> str:
    """The rows, kept and last epoch beside each other."""
    shown = ("quality", "identity", "arms obeyed", "training arms", "training background")
    lines = ["# The default sweep, read by the judge", "",
             f"{len(rows)} trials in {seconds / 60:.1f} minutes; {PICTURES} pictures a checkpoint;"
             " each cell: at the epoch that was kept, and at the trial's last.", "",
             f"| trial | kept / last epoch | {' | '.join(shown)} | how it ended |",
             "|" + "---|" * (len(shown) + 3)]  # fmt: skip
    for row in rows:
        cells = [f"{row['kept judged'][k]:.2f} / {row['last judged'][k]:.2f}" for k in shown]
        mark = "**" if row["picked"] else ""
        lines.append(f"| {mark}{row['trial']}{mark} | {row['kept']} / {row['last']} | "
                     f"{' | '.join(cells)} | {row['state']} |")  # fmt: skip
    return "\n".join([*lines, "", "Bold: the sweep's pick.", ""])


def main() -> None:
    """Runs it and writes results/sweep.json, .md and the pictures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(2)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        seconds = sweep(Path(folder))
        study = Path(folder) / "studies" / "puppets"
        rows = judge_trials(study)
        shutil.copy(study / "overview.png", RESULTS / "sweep_overview.png")
        best = study / "best.safetensors"
        large = pictures(best, 24).repeat_interleave(3, 2).repeat_interleave(3, 3)
        grid = (make_grid(large, 8, 2) * 255).round().byte().permute(1, 2, 0)
        Image.fromarray(grid.numpy()).save(RESULTS / "sweep_pick.png", optimize=True)
    report = {"seconds": seconds, "trials": rows}
    (RESULTS / "sweep.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "sweep.md").write_text(table(rows, seconds))


if __name__ == "__main__":
    main()
