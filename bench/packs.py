"""What packs save: training and pictures by the size of the pack, and the whole default sweep.

`python -m bench.packs` (35 minutes on 2 cores) writes results/packs.json, .md and .png. All is
measured in one run: K trials in a pack, one trial, the same LoRA by peft (diffusers' way) on the
same base; then the default sweep in packs, the same one by one in one process, and its trials one
after the other as separate processes, which is what people script.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from matplotlib.figure import Figure
from peft import LoraConfig

from evaluate.generation.generate import generate
from sweeper.config import SweepConfig
from sweeper.tracking.trial_record import load_records
from train.cli.app import configure_logging
from train.cli.compose import settings
from train.config.schema import EMBEDDED_BASE, BaseConfig, TrialConfig, trial_of
from train.data.dataset import Dataset, load_dataset
from train.files.atomic_write import write_atomically
from train.loop.run import AdapterRun
from train.loop.trainer import Trainer
from train.loop.trial_spec import TrialSpec
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel, load_base

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
SIZES = (1, 2, 4, 8, 16)
BATCHES = (1, 4)
RANKS = (8, 4, 16)  # the first is also that of the convolutions: peft has one for all
SECONDS = 4.0  # of each measurement, of which there are ROUNDS, the best counts
ROUNDS = 3
Step = Callable[[], None]
Row = dict[str, Any]


@contextmanager
def members(base: BaseModel, pictures: Dataset, trials: list[TrialConfig]) -> Iterator[Trainer]:
    """A pack in the middle of its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(len(trials))]
        pack = [TrialSpec(trial, place) for trial, place in zip(trials, places, strict=True)]
        trainer = Trainer(base, pictures, pack)
        for run in trainer.pending:
            run.start_epoch()
        yield trainer


def pack_step(trainer: Trainer) -> Step:
    """One optimizer step of each member."""
    running = trainer.pending

    def step() -> None:
        trainer.step(running, 0)

    return step


def peft_step(base: BaseModel, trainer: Trainer) -> Step:
    """The same step by diffusers and peft: another copy of the base, the same modules and rank."""
    run: AdapterRun = trainer.pending[0]
    names = {id(module): name for name, module in base.unet.named_modules()}
    modules = [names[id(base.adapters.targets[key])] for key in run.adapter.down]
    unet = UNet2DConditionModel.from_pretrained(EMBEDDED_BASE, subfolder="unet")
    unet = unet.to(memory_format=torch.channels_last).requires_grad_(False)
    rank = run.config.network.rank
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    assert sum(map(torch.Tensor.numel, parameters)) == sum(
        map(torch.Tensor.numel, run.adapter.parameters())
    )
    arguments = {k: v for k, v in run.config.optimizer.items() if k != "_target_"}
    optimizer = torch.optim.AdamW(parameters, **arguments)

    def step() -> None:
        drawn = run.sample(0, trainer.data)
        text = trainer.data.conditioning(drawn.captions)
        noisy = base.noise_scheduler.add_noise(drawn.latents, drawn.noise, drawn.timesteps)
        target = base.noise_scheduler.get_velocity(drawn.latents, drawn.noise, drawn.timesteps)
        (unet(noisy, drawn.timesteps, **text).sample - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, run.config.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rates(steps: dict[str, tuple[Step, int]]) -> dict[str, float]:
    """Things a second of each step, which makes so many; in turns, so that all have the same."""
    best = dict.fromkeys(steps, 0.0)
    for step, _ in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, (step, made) in steps.items():
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS:
                step()
                count += 1
            best[name] = max(best[name], count * made / (time.perf_counter() - began))
    return best


def training(base: BaseModel, pictures: Dataset, default: TrialConfig) -> list[Row]:
    """Samples a second by batch size and size of the pack; peft's beside."""
    rows: list[Row] = []
    for batch in BATCHES:
        trial = replace(default, training=replace(default.training, batch_size=batch))
        for size in SIZES:
            trials = [
                replace(trial, network=replace(trial.network, rank=RANKS[k % 3]),
                        training=replace(trial.training, seed=k)) for k in range(size)
            ]  # fmt: skip
            with members(base, pictures, trials) as trainer:
                steps = {"pack": (pack_step(trainer), size * batch)}
                if size == 1:
                    steps["peft"] = peft_step(base, trainer), batch
                found = rates(steps)
            alone = found["pack"] if size == 1 else rows[-1]["alone"]
            peft = found.get("peft") or rows[-1]["peft"]
            rows.append({"batch": batch, "pack": size, "samples_per_second": found["pack"],
                         "alone": alone, "peft": peft})  # fmt: skip
            log.info("batch %d, pack of %d: %s", batch, size, found)
    return rows


def pictures_per_second(base: BaseModel, default: SweepConfig) -> list[Row]:
    """Probe pictures a second by the number of checkpoints; and of the bare base."""
    random = torch.Generator().manual_seed(0)
    count, probes = default.probes.count, default.probes
    asked = (["a photo of a sks puppet"] * count, list(range(count)), default.data.resolution,
             probes.steps, probes.guidance)  # fmt: skip
    rows = []
    for size in (0, *SIZES):
        adapters = [base.adapters.create(default.network, random) for _ in range(size)]

        def step(adapters: list[Adapter] = adapters) -> None:
            generate(base, adapters, *asked)

        found = rates({"pictures": (step, max(1, size) * count)})
        rows.append({"checkpoints": size, "pictures_per_second": found["pictures"]})
        log.info("%s", rows[-1])
    return rows


def timed(*arguments: str) -> float:
    """Seconds that a command of ours takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweeper", *arguments], check=True)
    return time.perf_counter() - began


def makespans(folder: Path) -> dict[str, Row]:
    """The default sweep in packs; unpacked; and its trials one by one as separate processes."""
    found = {}
    for name, more in (("packed", []), ("unpacked", ["pack=1"])):
        root = folder / name
        seconds = timed("-m", f"study.root={root}", *more)
        found[name] = makespan(root / "studies" / "puppets", seconds)
    root, seconds = folder / "separate", 0.0
    for record in load_records(folder / "packed" / "studies" / "puppets"):
        wanted = [f"{key}={value}" for key, value in record.params.items()]
        seconds += timed(f"study.root={root}", *wanted)
    found["separate processes"] = makespan(root / "studies" / "puppets-single", seconds)
    return found


def makespan(study: Path, seconds: float) -> Row:
    """What was done in how long."""
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    return {
        "seconds": seconds,
        "trials": len(load_records(study)),
        "epochs": len(epochs),
        "training": sum(epoch.seconds_training for epoch in epochs),
        "scoring": sum(epoch.seconds_scoring for epoch in epochs),
    }


def rounding(folder: Path) -> Row:
    """How far a trial of the packed sweep is from the same trial alone, in float32.

    Both are right: they add the same numbers in another order, and training widens the gap.
    """
    packed = load_records(folder / "packed" / "studies" / "puppets")
    alone = load_records(folder / "separate" / "studies" / "puppets-single")
    gaps: dict[str, list[float]] = {}
    for one, other in zip(packed, alone, strict=True):
        for a, b in zip(one.epochs, other.epochs, strict=False):
            gaps.setdefault("train loss", []).append(abs(a.train_loss - b.train_loss))
            for name, score in a.scorecard.scores.items():
                gap = abs(score.value - b.scorecard.scores[name].value)
                gaps.setdefault(name, []).append(gap)
    same = sum(a.selected == b.selected for a, b in zip(packed, alone, strict=True))
    return {
        "same epoch selected": f"{same} of {len(packed)}",
        "gaps": {n: {"mean": sum(v) / len(v), "largest": max(v)} for n, v in gaps.items()},
    }


def table(found: Row) -> str:
    """The result, for people."""
    threads = torch.get_num_threads()
    lines = ["# What packs save", "", f"On {threads} threads of a CPU, in one run.", "",
             "| batch | trials in a pack | samples/s | of one trial alone | of peft |",
             "|---|---|---|---|---|"]  # fmt: skip
    for row in found["training"]:
        rate = row["samples_per_second"]
        cells = [f"{rate:.1f}", f"{rate / row['alone']:.2f} x", f"{rate / row['peft']:.2f} x"]
        lines.append(f"| {row['batch']} | {row['pack']} | {' | '.join(cells)} |")
    lines += ["", "| checkpoints scored together | probe pictures/s |", "|---|---|"]
    for row in found["pictures"]:
        name = row["checkpoints"] or "the bare base"
        lines.append(f"| {name} | {row['pictures_per_second']:.1f} |")
    headings = "the default sweep | seconds | trials | scored epochs | training | scoring | rest"
    lines += ["", f"| {headings} | of separate processes |", "|---|---|---|---|---|---|---|---|"]
    slowest = found["makespan"]["separate processes"]["seconds"]
    for name, row in found["makespan"].items():
        rest = row["seconds"] - row["training"] - row["scoring"]
        lines.append(f"| {name} | {row['seconds']:.0f} | {row['trials']} | {row['epochs']} | "
                     f"{row['training']:.0f} | {row['scoring']:.0f} | {rest:.0f} | "
                     f"{slowest / row['seconds']:.2f} x |")  # fmt: skip
    lines += ["", "How far a packed trial is from the same one alone (float32, all epochs). The "
              f"same epoch is selected in {found['rounding']['same epoch selected']}:", "",
              "| | mean | largest |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {gap['mean']:.4f} | {gap['largest']:.4f} |"
              for name, gap in found["rounding"]["gaps"].items()]  # fmt: skip
    return "\n".join([*lines, ""])


def plot(found: Row) -> Figure:
    """Throughput by the size of the pack, and where the time of the sweeps goes."""
    figure = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for batch in BATCHES:
        rows = [row for row in found["training"] if row["batch"] == batch]
        left.plot([row["pack"] for row in rows], [row["samples_per_second"] for row in rows],
                  marker="o", label=f"pack, batch {batch}")  # fmt: skip
        left.axhline(rows[0]["peft"], linestyle=":", color=left.lines[-1].get_color(),
                     label=f"peft, batch {batch}")  # fmt: skip
    left.set_xscale("log", base=2)
    left.set_xticks(SIZES, [str(size) for size in SIZES])
    left.set_xlabel("trials in a pack")
    left.set_title("training, samples a second", loc="left")
    left.legend()
    left.grid(alpha=0.2)
    names = [*found["makespan"]][::-1]
    start = [0.0] * len(names)
    colors = {"training": "#1864ab", "scoring": "#d9480f", "the rest": "#adb5bd"}
    for part, color in colors.items():
        rows = [found["makespan"][name] for name in names]
        values = [row.get(part, row["seconds"] - row["training"] - row["scoring"]) for row in rows]
        right.barh(names, values, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, values, strict=True)]
    right.set_title("the default sweep, seconds", loc="left")
    right.legend()
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.packs", description=__doc__)
    parser.add_argument("--no-sweeps", action="store_true", help="keep those of the last results")
    configure_logging()
    only_rates = parser.parse_args().no_sweeps
    default = settings("sweep", SweepConfig)
    base, file = load_base(BaseConfig(device="cpu")), RESULTS / "packs.json"
    rows = training(base, load_dataset(default.data), trial_of(default))
    found: Row = {"training": rows, "pictures": pictures_per_second(base, default)}
    found["single_vs_peft"] = min(r["alone"] / r["peft"] for r in rows)
    if only_rates:
        known = json.loads(file.read_text())
        found |= {name: known[name] for name in ("makespan", "rounding")}
    else:
        with tempfile.TemporaryDirectory() as folder:
            found["makespan"] = makespans(Path(folder))
            found["rounding"] = rounding(Path(folder))
    spans = found["makespan"]
    found["makespan_speedup"] = spans["separate processes"]["seconds"] / spans["packed"]["seconds"]
    write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
    file.with_suffix(".md").write_text(table(found))
    plot(found).savefig(file.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
