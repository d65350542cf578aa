"""A LoRA learns, then overfits, on the embedded base: curves and contact sheets by the judge.

`python -m bench.overfit` (8 minutes on 2 cores) trains three LoRAs alike and reads with the judge
what each epoch draws: few poses and places with the trigger word alone as caption, the same with
captions that name pose and place, and many poses and places.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from bench.judging import Wish, judged, wishes
from evaluate.generation.generate import generate
from train.cli.app import configure_logging
from train.config.schema import BaseConfig, DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from train.data.dataset import load_dataset
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.models.base_model import BaseModel, load_base
from train.puppets.demo import (
    NARROW_BACKGROUNDS,
    NARROW_POSES,
    TRIGGER,
    VARIED_POSES,
    Pose,
    draw_dataset,
)
from train.puppets.networks.judge import Judge
from train.puppets.world.examples import BACKGROUNDS

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
LR, BATCH, EPOCHS, STEPS_AN_EPOCH = 3e-3, 4, 24, 30
EVERY, PROBES = 2, 24
SETS: dict[str, tuple[tuple[Pose, ...], tuple[str, ...], int, str]] = {
    "few poses, trigger alone": (NARROW_POSES, NARROW_BACKGROUNDS, 12, "trigger"),
    "few poses, full captions": (NARROW_POSES, NARROW_BACKGROUNDS, 12, "full"),
    "many poses, trigger alone": (VARIED_POSES, BACKGROUNDS, 24, "trigger"),
}
Curve = list[dict[str, float]]


def curve(base: BaseModel, judge: Judge, name: str, folder: Path) -> tuple[Curve, Tensor]:
    """What the judge sees epoch by epoch, and a row of pictures for each epoch."""
    poses, places, count, captions = SETS[name]
    draw_dataset(folder / "pictures", 0, poses, places, count, captions)
    data = DataConfig(path=str(folder / "pictures"), trigger=TRIGGER, resolution=32,
                      repeats=STEPS_AN_EPOCH * BATCH // count, validation_fraction=0.0)  # fmt: skip
    optimizer = {"_target_": "torch.optim.AdamW", "lr": LR, "weight_decay": 0.01}
    training = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, save_every=EVERY)
    config = TrialConfig(data, network=NetworkConfig(rank=8, conv_rank=8), optimizer=optimizer,
                         training=training)  # fmt: skip
    wanted = wishes(PROBES, seed=5)
    asked = [wish.asked for wish in wanted]
    images = drawn(base, None, wanted)
    points, rows = [{"epoch": 0.0, **judged(judge, images, asked)}], [images[:8]]
    trainer = Trainer(base, load_dataset(data), [TrialSpec(config, folder / "lora")])
    for epoch in trainer:
        saved = epoch.checkpoints[0]
        images = drawn(base, saved.path, wanted)
        figures = judged(judge, images, asked)
        points.append({"epoch": float(saved.epoch), "loss": saved.train_loss, **figures})
        rows.append(images[:8])
        log.info("%s  %s", name, "  ".join(f"{k} {v:.2f}" for k, v in points[-1].items()))
    return points, torch.cat(rows)


def drawn(base: BaseModel, checkpoint: Path | None, wanted: list[Wish]) -> Tensor:
    """The wishes' pictures, (N, 3, 32, 32), by a LoRA or by the bare base."""
    adapters = [load_checkpoint(checkpoint, base.adapters)] if checkpoint else []
    seeds = [9_000 + i for i in range(len(wanted))]
    return generate(base, adapters, [wish.prompt for wish in wanted], seeds, 32, 15, 3.0)[0]


def main() -> None:
    """Runs the three and writes results/overfit.json, .md and the pictures."""
    configure_logging()
    torch.manual_seed(0)
    base, judge = load_base(BaseConfig(device="cpu")), Judge.from_folder()
    curves: dict[str, Curve] = {}
    RESULTS.mkdir(exist_ok=True)
    for number, name in enumerate(SETS):
        with tempfile.TemporaryDirectory() as folder:
            curves[name], rows = curve(base, judge, name, Path(folder))
        sheet(rows).save(RESULTS / f"overfit_{number + 1}.png", optimize=True)
    (RESULTS / "overfit.json").write_text(json.dumps(curves, indent=1) + "\n")
    (RESULTS / "overfit.md").write_text(table(curves))
    plot(curves).savefig(RESULTS / "overfit.png")


def sheet(rows: Tensor) -> Image.Image:
    """A row an epoch (the first: the bare base), the same eight wishes in every row."""
    large = rows.repeat_interleave(3, 2).repeat_interleave(3, 3)
    grid = make_grid(large, 8, 2)
    return Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy())


def table(curves: dict[str, Curve]) -> str:
    """The figures that tell the story."""
    shown = ("identity", "obeyed", "arms obeyed", "training arms", "training background", "quality")
    lines = ["# How a LoRA overfits on the embedded base", "",
             f"AdamW {LR:g}, rank 8, {STEPS_AN_EPOCH} steps an epoch; {PROBES} probes that ask for"
             " arms and places which the few-pose sets lack; read by the judge. (Training arms and"
             " background: those of the few-pose sets.)", ""]  # fmt: skip
    for name, points in curves.items():
        lines += [f"## {name}", "", f"| epoch | {' | '.join(shown)} | loss |",
                  "|" + "---|" * (len(shown) + 2)]  # fmt: skip
        for point in points:
            cells = [f"{point[key]:.2f}" for key in shown]
            loss = f"{point['loss']:.3f}" if "loss" in point else ""
            lines.append(f"| {point['epoch']:.0f} | {' | '.join(cells)} | {loss} |")
        lines.append("")
    return "\n".join(lines)


def plot(curves: dict[str, Curve]) -> Figure:
    """A panel a set: identity and obedience against copies of the training set."""
    figure = Figure(figsize=(14, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True)
    styles = {"identity": ("#2b8a3e", "-"), "arms obeyed": ("#1864ab", "-"),
              "background obeyed": ("#4dabf7", "-"), "training arms": ("#c92a2a", "--"),
              "training background": ("#e67700", "--")}  # fmt: skip
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        epochs = [point["epoch"] for point in points]
        for key, (color, style) in styles.items():
            axes.plot(epochs, [p[key] for p in points], style, color=color, label=key)
        axes.set_title(name, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.2)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


if __name__ == "__main__":
    main()
