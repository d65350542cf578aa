"""How much longer training takes beside another training, by how OpenMP's threads wait.

`python -m bench.busy_machine` (8 minutes on 2 cores) writes results/busy_machine.json and .md. A
LoRA is trained for one epoch on the embedded base, alone and beside an endless training of the same
kind, with the spin count that the program sets (train/__init__.py), with OpenMP's default, and with
threads that sleep at once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
COUNTS = {"ours": "1000", "OpenMP's default": "300000", "no spinning": "0"}
STEPS, REPETITIONS, LIMIT = 60, 3, 120.0  # the limit in seconds
WARM_UP = 12.0  # seconds until the other training is in its steps
# prints the seconds of its steps, without imports and loading
CODE = """
import sys, tempfile, time
from train import load_base, load_dataset, train_lora, train_settings
settings = train_settings("training.max_steps=STEPS", "training.save_every=1000")
base, dataset = load_base(settings.base), load_dataset(settings.data)
while True:
    with tempfile.TemporaryDirectory() as settings.output:
        start = time.monotonic()
        train_lora(settings, base, dataset)
        print(time.monotonic() - start, flush=True)
    if "endless" not in sys.argv:
        break
""".replace("STEPS", str(STEPS))


def start(count: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a training with a spin count."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env={**os.environ, "GOMP_SPINCOUNT": count},
    )  # fmt: skip


def seconds(count: str, beside: bool) -> float:
    """Returns the seconds of a training; LIMIT if it takes longer."""
    other = start(count, "endless") if beside else None
    try:
        if other:
            time.sleep(WARM_UP)
        training = start(count)
        try:
            return float(training.communicate(timeout=LIMIT)[0])
        except subprocess.TimeoutExpired:
            training.kill()
            return LIMIT
    finally:
        if other:
            other.kill()


def table(rows: dict[str, dict[str, float]]) -> str:
    """Formats the rows as Markdown."""
    lines = [
        "# Training beside another training", "",
        f"Seconds of {STEPS} steps on {os.cpu_count()} cores, medians of {REPETITIONS}; "
        f"{LIMIT:.0f} means that it was stopped after as long.", "",
        "| OpenMP's threads spin | alone | beside another | times as long |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, row in rows.items():
        alone, beside = row["alone"], row["beside"]
        lines.append(f"| {name} ({COUNTS[name]}) | {alone:.1f} | {beside:.1f} "
                     f"| {beside / alone:.1f} |")  # fmt: skip
    return "\n".join([*lines, "", "Written by `python -m bench.busy_machine`.", ""])


def main() -> None:
    """Measures all spin counts, in turns, and writes the results."""
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in COUNTS}
    for _ in range(REPETITIONS):
        for name, count in COUNTS.items():
            for kind in ("alone", "beside"):
                taken = seconds(count, kind == "beside")
                measured[name].setdefault(kind, []).append(taken)
    rows = {
        name: {kind: round(statistics.median(values), 2) for kind, values in kinds.items()}
        for name, kinds in measured.items()
    }
    (RESULTS / "busy_machine.json").write_text(json.dumps(rows, indent=2) + "\n")
    (RESULTS / "busy_machine.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
