"""This trainer beside plain training loops, on the architecture of Stable Diffusion 1.5.

`python -m bench.trainer` (8 minutes on 2 cores, 5 GB of memory and of disk for the time) writes
results/trainer.json and .md. Random weights, UNet only, rank 8, batch 1, fp32, one thread; each
row is a process of its own, measured from its start, all in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STEPS = {64: 12, 256: 5}
Row = dict[str, Any]
# name -> module of bench.arms and its last arguments, and the sides in pixels
ARMS: dict[str, tuple[list[str], tuple[int, ...]]] = {
    "this trainer": (["ours"], (64, 256)),
    "a plain loop, the same modules, latents cached": (["plain", "modules"], (64, 256)),
    "diffusers' example script": (["plain", "script"], (64, 256)),
    "this trainer, cache=off": (["ours", "cache=off"], (256,)),
    "this trainer, gradient checkpointing": (
        ["ours", "training.gradient_checkpointing=true"],
        (256,),
    ),
}
ELSEWHERE = """
Measured elsewhere, on one thread of a like machine: kohya 1.69 s a step at 64 px, its first step
after 20 s, 7.4 GiB; diffusers' script 1.86 s, 10 s, 4.7 GiB; at 256 px 6.6 s (with the text
encoder) and 8.9 s. Wanted: no slower than kohya's modules, the first step within 10 s, 5 GiB;
gradient checkpointing saves 30 % of the activations' memory.
"""


def measure(arguments: list[str], folder: Path, side: int) -> Row:
    """One arm in a process of its own.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    module, *more = arguments
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"bench.arms.{module}", str(folder), str(side),
               str(STEPS[side]), str(time.time()), *more]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def savings(rows: list[Row]) -> Row:
    """What the caches and gradient checkpointing save at the larger size."""
    large = {row["arm"]: row for row in rows if row["side"] == max(STEPS)}
    ours = large["this trainer"]
    encoding = large["this trainer, cache=off"]
    checkpointing = large["this trainer, gradient checkpointing"]
    step = "seconds_a_step"
    return {
        "cache_share_of_a_step": 1 - ours[step] / encoding[step],
        "encoding_seconds": encoding[step] - ours[step],
        "checkpointing_share_of_activations": (
            1 - checkpointing["activations_gib"] / ours["activations_gib"]
        ),
        "checkpointing_time": checkpointing[step] / ours[step],
    }


def table(found: Row) -> str:
    """The result, for people."""
    lines = ["# The trainer on the architecture of Stable Diffusion 1.5", "",
             (__doc__ or "").split("\n\n")[1].replace("\n", " "), "",
             "| | side, px | s/step | s to the first step | peak, GiB | activations, GiB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['arm']} | {row['side']} | {row['seconds_a_step']:.2f} | "
        f"{row['seconds_to_first_step']:.1f} | {row['peak_gib']:.2f} | "
        f"{row['activations_gib']:.2f} |"
        for row in found["rows"]
    ]
    saved = found["savings"]
    lines += [
        "",
        f"At {max(STEPS)} px the cached latents save {saved['cache_share_of_a_step']:.0%} of a "
        "step that encodes its picture: all of the autoencoder's "
        f"{saved['encoding_seconds']:.1f} s. Gradient checkpointing saves "
        f"{saved['checkpointing_share_of_activations']:.0%} of the activations' memory for "
        f"{saved['checkpointing_time'] - 1:.0%} more time.",
        ELSEWHERE,
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.trainer", description=__doc__)
    parser.add_argument("--model", type=Path, help="keep the model in this folder for other runs")
    kept = parser.parse_args().model
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary) / "model"
        if not (folder / "model_index.json").is_file():
            making = [sys.executable, "-m", "bench.arms.model", str(folder)]
            subprocess.run(making, check=True, capture_output=True)
        for arm, (arguments, sides) in ARMS.items():
            for side in sides:
                rows.append({"arm": arm, "side": side, **measure(arguments, folder, side)})
                print(json.dumps(rows[-1]), flush=True)
    found: Row = {"rows": rows, "savings": savings(rows)}
    (RESULTS / "trainer.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "trainer.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
