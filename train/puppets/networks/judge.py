"""Stage 6: the judge, which classifies the attributes of an image for gates, tests and bench.

It is not used for scores, and shares no weights with the tiny CLIP or the keypoint network, so it
is an independent reference for the scores.
"""

import json
from functools import cache
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets.networks.targets import (
    COLORS,
    FILLS,
    colors_of,
    fill_of,
    labels_tensor,
    points_of,
)
from train.puppets.networks.training import (
    JUDGE,
    device,
    fit,
    log,
    seeded,
    to_unit,
    training_set,
    weathered,
)
from train.puppets.world.attributes import VALUES
from train.puppets.world.examples import (
    JOINTS,
    SIZE,
    Drawing,
    Looks,
    Style,
    ToyLooks,
    draw_many,
    images_of,
    sample_puppet,
    sample_toy,
)

CYCLES = ((1500, 4e-3), (1500, 2e-3))  # steps and peak learning rate, each decaying to zero
BATCH = 128
FEATURES, SUMMARY = 128, 256  # channels of a cell, and of the summary of an image
COLOR_TOLERANCE = 0.25  # error (RGB, 0 to 1) at which a color counts as another one
RENDERS = 48  # of a subject, whose mean is what the judge sees in a true picture of it
# what tells a subject of each kind from others: attributes and colors; clothes are not among them,
# since prompts may change them
IDENTITY: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Looks: (("head",), ("skin", "head_color")),
    ToyLooks: (("kind",), ("color", "second_color")),
    Style: (("fill",), ("paper", "ink")),
}


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Judge(nn.Module):
    """A convolutional network that looks where each attribute shows.

    Small things like a mouth may be anywhere, so every attribute and color has an attention map of
    its own, over 16x16 cells, beside one summary of the whole image.
    """

    def __init__(self, width: int = 24) -> None:
        """`width`: channels of the first layer."""
        super().__init__()
        self.width = w = width
        self.fine = nn.Sequential(
            _block(3, w), _block(w, 2 * w, 2), _block(2 * w, 4 * w, 2), _block(4 * w, 4 * w)
        )
        self.coarse = nn.Sequential(_block(4 * w, 6 * w, 2), _block(6 * w, 6 * w))
        self.lateral = nn.Conv2d(6 * w, 4 * w, 1)
        self.merged = _block(4 * w, FEATURES)
        self.summary = nn.Sequential(
            nn.Conv2d(6 * w, 32, 1), nn.Flatten(), nn.Linear(32 * (SIZE // 8) ** 2, SUMMARY),
            nn.ReLU(), nn.Dropout(0.1),
        )  # fmt: skip
        heads = {name: len(values) for name, values in {**VALUES, "fill": FILLS}.items()}
        heads |= {f"{color}_rgb": 3 for color in COLORS}
        self.attention = nn.Conv2d(FEATURES, len(heads), 1)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(FEATURES + SUMMARY, count) for name, count in heads.items()}
        )
        self.points = nn.Linear(SUMMARY, 2 * len(JOINTS))

    @classmethod
    def from_folder(cls, folder: Path = JUDGE) -> "Judge":
        """The committed judge."""
        judge = cls(**json.loads((Path(folder) / "config.json").read_text()))
        judge.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return judge.float().eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """What images (N, 3, H, W), 0 to 1, of any size show.

        Returns:
            logits for each attribute, "palette" (N, 6, 3), "points" (N, 13, 2).
        """
        if images.shape[-2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        fine = self.fine(images * 2 - 1)
        coarse = self.coarse(fine)
        features = self.merged(fine + F.interpolate(self.lateral(coarse), scale_factor=2.0))
        summary = self.summary(coarse)
        shares = self.attention(features).flatten(2).softmax(2)  # (N, heads, 256)
        seen = shares @ features.flatten(2).transpose(1, 2)
        answers = {
            name: head(torch.cat([seen[:, i], summary], dim=1))
            for i, (name, head) in enumerate(self.heads.items())
        }
        answers["palette"] = torch.stack([answers.pop(f"{c}_rgb") for c in COLORS], dim=1)
        answers["points"] = self.points(summary).unflatten(1, (len(JOINTS), 2))
        return answers

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, list[str]]:
        """The most probable value of each attribute, by the attribute's name."""
        answers = self(images)
        return {
            name: [values[i] for i in answers[name].argmax(1).tolist()]
            for name, values in VALUES.items()
        }

    @torch.no_grad()
    def identity(self, images: Tensor, subject: Looks | ToyLooks | Style) -> Tensor:
        """Confidence that each image shows a character, a toy, or a style: (N,), 0 to 1.

        The mean of the similarities of its colors and the probabilities of its attributes, see
        IDENTITY. Relative to the judge's values for true renders, so that its bias cancels.
        """
        renders = renders_of(subject).to(images.device).float() / 255
        answers = self(renders)
        names, colors = IDENTITY[type(subject)]
        columns = [COLORS.index(name) for name in colors if getattr(subject, name) is not None]
        palette = answers["palette"][:, columns].mean(0)
        values = {name: answers[name].softmax(1).mean(0).argmax() for name in names}

        def level(answers: dict[str, Tensor]) -> Tensor:
            off = (answers["palette"][:, columns] - palette).norm(dim=2)
            near = torch.exp(-((off / COLOR_TOLERANCE) ** 2))
            kinds = [answers[name].softmax(1)[:, value] for name, value in values.items()]
            return torch.cat([near, torch.stack(kinds, dim=1)], dim=1).mean(1)

        return (level(self(images)) / level(answers).mean()).clamp(max=1)


@cache
def renders_of(subject: Looks | ToyLooks | Style) -> Tensor:
    """True pictures of a subject in random poses and places, uint8 (48, 3, 64, 64)."""
    rng = Random(0)
    match subject:
        case Looks():
            drawings = [Drawing(sample_puppet(rng, subject)) for _ in range(RENDERS)]
        case ToyLooks():
            drawings = [Drawing(sample_toy(rng, subject)) for _ in range(RENDERS)]
        case Style():
            drawings = [Drawing(sample_puppet(rng), subject) for _ in range(RENDERS)]
    return images_of(drawings)


def run(first: int = 0) -> None:
    """Trains the judge on slightly noisy and blurred renders, and writes judge/.

    Args:
        first: the cycle to begin with; a later one continues from the weights in judge/.
    """
    seeded(16 + first)
    data = training_set()
    labels, fills = labels_tensor(data.drawings), fill_of(data.drawings)
    palette, points = colors_of(data.drawings), points_of(data.drawings)
    judge = Judge() if first == 0 else Judge.from_folder().train()
    judge = judge.to(device()).to(memory_format=torch.channels_last)
    log.info("judge: %.2f M parameters", sum(p.numel() for p in judge.parameters()) / 1e6)

    def loss_of(index: Tensor) -> Tensor:
        answers, at = judge(weathered(to_unit(data.images[index]))), index.to(device())
        loss = F.cross_entropy(answers["fill"], fills[at])
        for column, name in enumerate(VALUES):
            loss = loss + F.cross_entropy(answers[name], labels[at, column])
        for name, true in (("palette", palette[at]), ("points", points[at])):
            known = true.isfinite()
            loss = loss + 10 * F.l1_loss(answers[name][known], true[known])
        return loss

    for number, (steps, lr) in enumerate(CYCLES[first:], start=first):
        fit(f"judge cycle {number}", judge, loss_of, count=len(data), batch=BATCH, steps=steps,
            lr=lr, seed=number)  # fmt: skip
    judge.eval()
    report(judge)
    JUDGE.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, JUDGE / "model.safetensors")
    (JUDGE / "config.json").write_text(json.dumps({"width": judge.width}) + "\n")


@torch.no_grad()
def report(judge: Judge) -> None:
    """Logs how well the judge reads fresh renders."""
    fresh = draw_many(1000, seed=26)
    answers, labels = judge(to_unit(fresh.images)), labels_tensor(fresh.drawings)
    for column, name in enumerate(VALUES):
        known = labels[:, column] >= 0
        right = (answers[name].argmax(1) == labels[:, column])[known].float().mean()
        log.info("  judge on fresh renders: %s %.1f %%", name, 100 * right)
    truths = {"palette": colors_of(fresh.drawings), "points": points_of(fresh.drawings)}
    for name, true in truths.items():
        known = true.isfinite()
        log.info("  judge: %s off by %.4f", name, (answers[name] - true)[known].abs().mean())
