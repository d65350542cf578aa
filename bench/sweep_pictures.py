"""Pictures of a sweep: the selected checkpoint's images, and curves of what the judge reads."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from bench.judging import Request
from train.config.schema import DataConfig
from train.data.dataset import load_dataset
from train.data.images.cropping import square

SHEET_COLUMNS, SIDE = 8, 192  # images in a row; pixels
LINES = {  # metric of the judge -> label and color of its curve
    "quality": ("quality", "tab:blue"),
    "training pose": ("arms or legs of the training images", "tab:red"),
    "training background": ("background of the training images", "tab:orange"),
}
Row = dict[str, Any]
Images = dict[str, Tensor]


def contact_sheet(rows: list[Row], images: Images, requests: list[Request]) -> Figure:
    """Draws training images, then the same prompts by the selected checkpoint, by the last epoch
    of its trial, and by the base without a LoRA."""
    training = load_dataset(DataConfig(resolution=256)).training[:SHEET_COLUMNS]
    selected = next(row for row in rows if row["picked"])
    strips = [("Training images", torch.stack([square(image, SIDE) for image in training]))]
    for title, name in (
        (f"Selected checkpoint: epoch {selected['selected']}", "selected"),
        (f"The same training, later: epoch {selected['last']}", "last"),
        ("Base model without a LoRA", "base"),
    ):
        small = images[name][:SHEET_COLUMNS]
        large = interpolate(small, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        strips.append((title, large))
    figure = Figure(
        figsize=(SHEET_COLUMNS * 1.5, len(strips) * 1.78), dpi=120, layout="constrained"
    )
    for number, (axes, (title, strip)) in enumerate(
        zip(figure.subplots(len(strips), 1), strips, strict=True)
    ):
        axes.imshow(make_grid(strip, SHEET_COLUMNS, 4, pad_value=1.0).permute(1, 2, 0).numpy())
        axes.set_title(title, loc="left", fontsize=11)
        axes.axis("off")
        if number == 1:
            for i, request in enumerate(requests[:SHEET_COLUMNS]):
                text = f"{request.arms},\n{request.background}"
                axes.text(SIDE / 2 + 4 + i * (SIDE + 4), SIDE + 14, text, fontsize=8, ha="center",
                          va="top")  # fmt: skip
    return figure


def curves(rows: list[Row]) -> Figure:
    """Draws what the judge reads from each epoch of each trial; a line marks the selected epoch."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(columns * 3, lines * 2.2 + 0.6), dpi=100, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(rows) :]:
        axes.axis("off")
    for axes, row in zip(panels, rows, strict=False):
        epochs = [epoch["epoch"] for epoch in row["epochs"]]
        for name, (label, color) in LINES.items():
            values = [epoch[name] for epoch in row["epochs"]]
            axes.plot(epochs, values, "o-", markersize=3, color=color, label=label)
        axes.axvline(row["selected"], color="black", linestyle=":", label="selected epoch")
        mark = " (selected)" if row["picked"] else ""
        axes.set_title(f"Trial {row['trial']}{mark}", fontsize=10, loc="left")
        axes.set_ylim(-0.03, 1.03)
    for axes in panels[-columns:]:
        axes.set_xlabel("epoch")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure
