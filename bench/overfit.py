"""How a LoRA on the embedded base learns and then overfits: judged curves and contact sheets.

`python -m bench.overfit` (8 minutes on 2 cores) trains three LoRAs with the same settings and
judges the images of each epoch: few poses and backgrounds with only the trigger word as caption,
the same images with captions that name pose and background, and many poses and backgrounds.
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

from bench.judging import HEADINGS, Request, judge_each, means_of, unseen_requests
from evaluate.generation.generate import generate
from train.cli.app import configure_logging
from train.config.schema import BaseConfig, DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from train.data.dataset import load_dataset
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.models.base_model import BaseModel, load_base
from train.puppets.demo import (
    CHARACTERS,
    FEW_BACKGROUNDS,
    FEW_POSES,
    TRIGGER,
    VARIED_POSES,
    Shots,
    character,
    draw_dataset,
)
from train.puppets.networks.judge import Judge
from train.puppets.world.examples import BACKGROUNDS, SIZE

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results"
LR, BATCH_SIZE, EPOCHS, STEPS_PER_EPOCH = 3e-3, 4, 24, 30
SAVE_EVERY, PROBES, SHEET_COLUMNS = 2, 24, 8
LOOKS = CHARACTERS[0]
SETS: dict[str, Shots] = {
    "few poses, trigger word only": character(LOOKS, FEW_POSES, FEW_BACKGROUNDS, 12),
    "few poses, full captions": character(LOOKS, FEW_POSES, FEW_BACKGROUNDS, 12, "full"),
    "many poses, trigger word only": character(LOOKS, VARIED_POSES, BACKGROUNDS, 40),
}
Curve = list[dict[str, float]]


def train_and_judge(base: BaseModel, judge: Judge, name: str, folder: Path) -> tuple[Curve, Tensor]:
    """Returns the judge's metrics of each epoch, and SHEET_COLUMNS images per epoch."""
    draw_dataset(folder / "pictures", SETS[name], seed=0)
    data = DataConfig(path=str(folder / "pictures"), trigger=TRIGGER, resolution=SIZE,
                      repeats=STEPS_PER_EPOCH * BATCH_SIZE // SETS[name].count,
                      validation_fraction=0.0)  # fmt: skip
    optimizer = {"_target_": "torch.optim.AdamW", "lr": LR, "weight_decay": 0.01}
    training = TrainingConfig(epochs=EPOCHS, batch_size=BATCH_SIZE, save_every=SAVE_EVERY)
    config = TrialConfig(data, network=NetworkConfig(rank=8, conv_rank=8), optimizer=optimizer,
                         training=training)  # fmt: skip
    requests = unseen_requests(PROBES, seed=5)
    attributes = [request.attributes for request in requests]
    images = generate_images(base, None, requests)
    metrics = judge_each(judge, images, attributes, LOOKS, SETS[name])
    points = [{"epoch": 0.0, **means_of(metrics)}]
    rows = [images[:SHEET_COLUMNS]]
    trainer = Trainer(base, load_dataset(data), [TrialSpec(config, folder / "lora")])
    for epoch in trainer:
        saved = epoch.checkpoints[0]
        images = generate_images(base, saved.path, requests)
        metrics = judge_each(judge, images, attributes, LOOKS, SETS[name])
        point = {"epoch": float(saved.epoch), "loss": saved.train_loss, **means_of(metrics)}
        points.append(point)
        rows.append(images[:SHEET_COLUMNS])
        log.info("%s  %s", name, "  ".join(f"{k} {v:.2f}" for k, v in points[-1].items()))
    return points, torch.cat(rows)


def generate_images(base: BaseModel, checkpoint: Path | None, requests: list[Request]) -> Tensor:
    """Generates an image for each request, (N, 3, 64, 64), with a LoRA or with the base model."""
    adapters = [load_checkpoint(checkpoint, base.adapters)] if checkpoint else []
    seeds = [9_000 + i for i in range(len(requests))]
    prompts = [request.prompt for request in requests]
    return generate(base, adapters, prompts, seeds, SIZE, 15, 3.0)[0]


def main() -> None:
    """Trains the three LoRAs and writes results/overfit.json, .md and the .png files."""
    configure_logging()
    torch.manual_seed(0)
    base, judge = load_base(BaseConfig(device="cpu")), Judge.from_folder()
    curves: dict[str, Curve] = {}
    RESULTS.mkdir(exist_ok=True)
    for number, name in enumerate(SETS):
        with tempfile.TemporaryDirectory() as folder:
            curves[name], rows = train_and_judge(base, judge, name, Path(folder))
        contact_sheet(rows).save(RESULTS / f"overfit_{number + 1}.png", optimize=True)
    (RESULTS / "overfit.json").write_text(json.dumps(curves, indent=1) + "\n")
    (RESULTS / "overfit.md").write_text(table(curves))
    plot(curves).savefig(RESULTS / "overfit.png")


def contact_sheet(rows: Tensor) -> Image.Image:
    """Draws one row per epoch, with the same prompts in each; the first is the base model's."""
    grid = make_grid(rows, SHEET_COLUMNS, 2)
    return Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy())


def table(curves: dict[str, Curve]) -> str:
    """Formats the main metrics as Markdown."""
    metrics = (
        "identity",
        "obeyed",
        "arms obeyed",
        "training pose",
        "training background",
        "quality",
    )
    lines = ["# How a LoRA overfits on the embedded base", "",
             f"AdamW with learning rate {LR:g}, rank 8, {STEPS_PER_EPOCH} steps per epoch. The"
             f" judge reads {PROBES} images per epoch, whose prompts ask for arms and backgrounds"
             " that the few-pose sets lack. Of the training images: share of images that show"
             " arms or legs, or a background, that the training images have and the prompt did not"
             " ask for. Epoch 0: base model without a LoRA.",
             ""]  # fmt: skip
    headings = " | ".join(HEADINGS.get(name, name) for name in metrics)
    for name, points in curves.items():
        lines += [f"## {name}", "", f"| epoch | {headings} | loss |",
                  "|" + "---|" * (len(metrics) + 2)]  # fmt: skip
        for point in points:
            cells = [f"{point[key]:.2f}" for key in metrics]
            loss = f"{point['loss']:.3f}" if "loss" in point else ""
            lines.append(f"| {point['epoch']:.0f} | {' | '.join(cells)} | {loss} |")
        lines.append("")
    return "\n".join(lines)


def plot(curves: dict[str, Curve]) -> Figure:
    """Draws one panel per data set: identity and prompt adherence against copying."""
    figure = Figure(figsize=(14, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True)
    styles = {"identity": ("#2b8a3e", "-"), "arms obeyed": ("#1864ab", "-"),
              "background obeyed": ("#4dabf7", "-"), "training pose": ("#c92a2a", "--"),
              "training background": ("#e67700", "--")}  # fmt: skip
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        epochs = [point["epoch"] for point in points]
        for key, (color, style) in styles.items():
            axes.plot(epochs, [p[key] for p in points], style, color=color,
                      label=HEADINGS.get(key, key))  # fmt: skip
        axes.set_title(name, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.2)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


if __name__ == "__main__":
    main()
