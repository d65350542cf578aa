"""What packs save: training and image throughput by pack size, and the whole default sweep.

`python -m bench.packs` (20 minutes on 2 cores) writes results/packs.json, .md and .png. It measures
in one run: a pack of K trials, a single trial, and the same LoRA trained with peft, as diffusers
does it; then the default sweep in packs, the same sweep one trial at a time, and its trials as
separate processes one after the other, as a shell script would run them.
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
from train.loop.adapter_run import AdapterRun
from train.loop.trainer import Trainer
from train.loop.trial_spec import TrialSpec
from train.lora.adapter import Adapter
from train.models.base_model import BaseModel, load_base

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
PACK_SIZES = (1, 2, 4, 8, 16)
BATCH_SIZES = (1, 4)
RANKS = (8, 4, 16)  # the first equals conv_rank, because peft has one rank for all modules
SECONDS = 4.0  # per measurement; of ROUNDS measurements the best one counts
ROUNDS = 3
Step = Callable[[], None]
Row = dict[str, Any]


@contextmanager
def start_pack(base: BaseModel, dataset: Dataset, configs: list[TrialConfig]) -> Iterator[Trainer]:
    """Yields the trainer of a pack that has begun its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        pack = [TrialSpec(config, Path(folder) / str(i)) for i, config in enumerate(configs)]
        trainer = Trainer(base, dataset, pack)
        for run in trainer.pending:
            run.start_epoch()
        yield trainer


def pack_step(trainer: Trainer) -> Step:
    """Returns a function that makes one optimizer step of each trial."""
    runs = trainer.pending

    def step() -> None:
        trainer.step(runs, 0)

    return step


def peft_step(base: BaseModel, trainer: Trainer) -> Step:
    """Returns the same step with diffusers and peft, on a copy of the base model.

    Target modules and rank are the same.
    """
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
        batch = run.sample(0, trainer.data)
        text = trainer.data.conditioning(batch.captions)
        noisy = base.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        target = base.noise_scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
        (unet(noisy, batch.timesteps, **text).sample - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, run.config.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_rates(steps: dict[str, tuple[Step, int]]) -> dict[str, float]:
    """Returns items per second of each step, whose number of items is given.

    The steps are measured in alternation, so that other load affects them equally.
    """
    best = dict.fromkeys(steps, 0.0)
    for step, _ in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, (step, items) in steps.items():
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS:
                step()
                count += 1
            best[name] = max(best[name], count * items / (time.perf_counter() - began))
    return best


def measure_training(base: BaseModel, dataset: Dataset, default: TrialConfig) -> list[Row]:
    """Returns samples per second by batch size and pack size, and those of peft."""
    rows: list[Row] = []
    for batch in BATCH_SIZES:
        trial = replace(default, training=replace(default.training, batch_size=batch))
        for size in PACK_SIZES:
            configs = [
                replace(trial, network=replace(trial.network, rank=RANKS[k % 3]),
                        training=replace(trial.training, seed=k)) for k in range(size)
            ]  # fmt: skip
            with start_pack(base, dataset, configs) as trainer:
                steps = {"pack": (pack_step(trainer), size * batch)}
                if size == 1:
                    steps["peft"] = peft_step(base, trainer), batch
                rates = measure_rates(steps)
            alone = rates["pack"] if size == 1 else rows[-1]["alone"]
            peft = rates.get("peft") or rows[-1]["peft"]
            rows.append({"batch": batch, "pack": size, "samples_per_second": rates["pack"],
                         "alone": alone, "peft": peft})  # fmt: skip
            log.info("batch %d, pack of %d: %s", batch, size, rates)
    return rows


def measure_generation(base: BaseModel, default: SweepConfig) -> list[Row]:
    """Returns probe images per second by number of checkpoints (0: base model without a LoRA)."""
    random = torch.Generator().manual_seed(0)
    count, probes = default.probes.count, default.probes
    arguments = (["a photo of sks puppet"] * count, list(range(count)), default.data.resolution,
             probes.steps, probes.guidance)  # fmt: skip
    rows = []
    for size in (0, *PACK_SIZES):
        adapters = [base.adapters.create(default.network, random) for _ in range(size)]

        def step(adapters: list[Adapter] = adapters) -> None:
            generate(base, adapters, *arguments)

        rates = measure_rates({"images": (step, max(1, size) * count)})
        rows.append({"checkpoints": size, "pictures_per_second": rates["images"]})
        log.info("%s", rows[-1])
    return rows


def time_sweeper(*arguments: str) -> float:
    """Returns the seconds that `python -m sweeper` takes with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweeper", *arguments], check=True)
    return time.perf_counter() - began


def measure_makespans(folder: Path) -> dict[str, Row]:
    """Runs the default sweep in packs, without packs, and as a separate process for each trial."""
    makespans = {}
    for name, options in (("packed", []), ("unpacked", ["pack=1"])):
        root = folder / name
        seconds = time_sweeper("-m", f"study.root={root}", *options)
        makespans[name] = summarize_study(root / "studies" / "puppets", seconds)
    root, seconds = folder / "separate", 0.0
    for record in load_records(folder / "packed" / "studies" / "puppets"):
        overrides = [f"{key}={value}" for key, value in record.params.items()]
        seconds += time_sweeper(f"study.root={root}", *overrides)
    makespans["separate processes"] = summarize_study(root / "studies" / "puppets-single", seconds)
    return makespans


def summarize_study(study: Path, seconds: float) -> Row:
    """Returns the trials and epochs of a study, and its seconds: total, training, scoring."""
    epochs = [epoch for record in load_records(study) for epoch in record.epochs]
    return {
        "seconds": seconds,
        "trials": len(load_records(study)),
        "epochs": len(epochs),
        "training": sum(epoch.seconds_training for epoch in epochs),
        "scoring": sum(epoch.seconds_scoring for epoch in epochs),
    }


def measure_differences(folder: Path) -> Row:
    """Compares each trial of the packed sweep with the same trial alone, in float32.

    Both are correct: they add the same numbers in different orders, and training amplifies the
    rounding differences.
    """
    packed = load_records(folder / "packed" / "studies" / "puppets")
    alone = load_records(folder / "separate" / "studies" / "puppets-single")
    differences: dict[str, list[float]] = {}
    for one, other in zip(packed, alone, strict=True):
        for a, b in zip(one.epochs, other.epochs, strict=False):
            differences.setdefault("train loss", []).append(abs(a.train_loss - b.train_loss))
            for name, score in a.scorecard.scores.items():
                difference = abs(score.value - b.scorecard.scores[name].value)
                differences.setdefault(name, []).append(difference)
    same = sum(a.selected == b.selected for a, b in zip(packed, alone, strict=True))
    return {
        "same epoch selected": f"{same} of {len(packed)}",
        "gaps": {n: {"mean": sum(v) / len(v), "largest": max(v)} for n, v in differences.items()},
    }


def table(report: Row) -> str:
    """Formats the results as Markdown."""
    threads = torch.get_num_threads()
    lines = ["# What packs save", "", f"On {threads} CPU threads, in one run.", "",
             "| batch size | trials in the pack | samples/s | of one trial alone | of peft |",
             "|---|---|---|---|---|"]  # fmt: skip
    for row in report["training"]:
        rate = row["samples_per_second"]
        cells = [f"{rate:.1f}", f"{rate / row['alone']:.2f} x", f"{rate / row['peft']:.2f} x"]
        lines.append(f"| {row['batch']} | {row['pack']} | {' | '.join(cells)} |")
    lines += ["", "| checkpoints scored together | probe images/s |", "|---|---|"]
    for row in report["pictures"]:
        name = row["checkpoints"] or "base model without a LoRA"
        lines.append(f"| {name} | {row['pictures_per_second']:.1f} |")
    headings = "default sweep | seconds | trials | scored epochs | training | scoring | rest"
    lines += ["", f"| {headings} | speedup |", "|---|---|---|---|---|---|---|---|"]
    slowest = report["makespan"]["separate processes"]["seconds"]
    for name, row in report["makespan"].items():
        rest = row["seconds"] - row["training"] - row["scoring"]
        lines.append(f"| {name} | {row['seconds']:.0f} | {row['trials']} | {row['epochs']} | "
                     f"{row['training']:.0f} | {row['scoring']:.0f} | {rest:.0f} | "
                     f"{slowest / row['seconds']:.2f} x |")  # fmt: skip
    lines += ["", "Absolute difference between a packed trial and the same trial alone (float32, "
              f"all epochs). In {report['rounding']['same epoch selected']} trials the same epoch "
              "is selected.", "", "| | mean | largest |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {row['mean']:.4f} | {row['largest']:.4f} |"
              for name, row in report["rounding"]["gaps"].items()]  # fmt: skip
    return "\n".join([*lines, ""])


def plot(report: Row) -> Figure:
    """Draws the throughput by pack size, and how the sweeps spend their time."""
    figure = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for batch in BATCH_SIZES:
        rows = [row for row in report["training"] if row["batch"] == batch]
        left.plot([row["pack"] for row in rows], [row["samples_per_second"] for row in rows],
                  marker="o", label=f"pack, batch {batch}")  # fmt: skip
        left.axhline(rows[0]["peft"], linestyle=":", color=left.lines[-1].get_color(),
                     label=f"peft, batch {batch}")  # fmt: skip
    left.set_xscale("log", base=2)
    left.set_xticks(PACK_SIZES, [str(size) for size in PACK_SIZES])
    left.set_xlabel("trials in the pack")
    left.set_title("training, samples per second", loc="left")
    left.legend()
    left.grid(alpha=0.2)
    names = [*report["makespan"]][::-1]
    start = [0.0] * len(names)
    colors = {"training": "#1864ab", "scoring": "#d9480f", "rest": "#adb5bd"}
    for part, color in colors.items():
        rows = [report["makespan"][name] for name in names]
        values = [row.get(part, row["seconds"] - row["training"] - row["scoring"]) for row in rows]
        right.barh(names, values, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, values, strict=True)]
    right.set_title("default sweep, seconds", loc="left")
    right.legend()
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.packs", description=__doc__)
    parser.add_argument(
        "--no-sweeps", action="store_true", help="keep the sweeps of the last results"
    )
    configure_logging()
    no_sweeps = parser.parse_args().no_sweeps
    default = settings("sweep", SweepConfig)
    base, file = load_base(BaseConfig(device="cpu")), RESULTS / "packs.json"
    rows = measure_training(base, load_dataset(default.data), trial_of(default))
    report: Row = {"training": rows, "pictures": measure_generation(base, default)}
    report["single_vs_peft"] = min(r["alone"] / r["peft"] for r in rows)
    if no_sweeps:
        previous = json.loads(file.read_text())
        report |= {name: previous[name] for name in ("makespan", "rounding")}
    else:
        with tempfile.TemporaryDirectory() as folder:
            report["makespan"] = measure_makespans(Path(folder))
            report["rounding"] = measure_differences(Path(folder))
    spans = report["makespan"]
    report["makespan_speedup"] = spans["separate processes"]["seconds"] / spans["packed"]["seconds"]
    write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
    file.with_suffix(".md").write_text(table(report))
    plot(report).savefig(file.with_suffix(".png"))
    print(table(report))


if __name__ == "__main__":
    main()
