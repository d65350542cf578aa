"""Stage 6: the judge, which classifies the attributes of an image for gates, tests and bench.

It is not used for scores. Trained on renders only, with nothing in common with the tiny CLIP or
the keypoint network, it is an independent reference for the scores.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets.networks.training import JUDGE, device, fit, log, seeded, to_unit, training_set
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    HATS,
    JOINTS,
    LEGS,
    SHIRTS,
    TROUSERS,
    Looks,
    Puppet,
    draw_many,
    images_of,
    keypoints,
    sample_puppet,
)

STEPS, BATCH, LR = 1300, 128, 2e-3
VALUES: dict[str, tuple[str, ...]] = {
    "arms": tuple(ARMS),
    "legs": tuple(LEGS),
    "background": BACKGROUNDS,
    "shirt": tuple(SHIRTS),
    "trousers": tuple(TROUSERS),
    "hat": HATS,
}
PALETTE = ("skin", "hat_color", "shirt", "trousers")
COLOR_TOLERANCE = 0.25  # error (RGB, 0 to 1) at which a color counts as another one


class Judge(nn.Module):
    """Five convolutions and a head for each attribute."""

    def __init__(self, width: int = 32) -> None:
        """`width`: channels of the first layer."""
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        sizes = [(3, width, 1), (width, 2 * width, 2), (2 * width, 3 * width, 2),
                 (3 * width, 4 * width, 2), (4 * width, 4 * width, 1)]  # fmt: skip
        for inputs, outputs, stride in sizes:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(16 * 4 * width, 256), nn.ReLU(), nn.Dropout(0.1)
        )
        self.names = nn.ModuleDict({k: nn.Linear(256, len(v)) for k, v in VALUES.items()})
        self.palette = nn.Linear(256, 3 * len(PALETTE))
        self.stripes = nn.Linear(256, 1)
        self.points = nn.Linear(256, 2 * len(JOINTS))

    @classmethod
    def from_folder(cls, folder: Path = JUDGE) -> "Judge":
        """The committed judge."""
        judge = cls(**json.loads((Path(folder) / "config.json").read_text()))
        judge.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return judge.float().eval()

    def features(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), 0 to 1, of any size -> (N, 256)."""
        if images.shape[-2:] != (32, 32):
            images = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        features: Tensor = self.trunk(images * 2 - 1)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits for each name, "palette" (N, 4, 3), "stripes" logits (N,), "points" (N, 13, 2)."""
        features = self.features(images)
        answers = {name: head(features) for name, head in self.names.items()}
        answers["palette"] = self.palette(features).unflatten(1, (len(PALETTE), 3))
        answers["stripes"] = self.stripes(features).squeeze(1)
        answers["points"] = self.points(features).unflatten(1, (len(JOINTS), 2))
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
    def accuracy(self, images: Tensor, name: str, wanted: Sequence[str]) -> float:
        """Share of the images that show the wanted value of an attribute."""
        values = self.read(images)[name]
        return sum(a == b for a, b in zip(values, wanted, strict=True)) / len(values)

    @torch.no_grad()
    def identity(self, images: Tensor, character: Looks) -> Tensor:
        """Confidence that each image shows the character, (N,), 0 to 1; true renders are near 1.

        The mean of the similarities of skin and hat colors and the probability of the kind of hat;
        the outfit does not count, since prompts may change it. Relative to the judge's values for
        true renders of the character, so that its bias cancels.
        """
        rng = Random(0)
        renders = images_of([sample_puppet(rng, character) for _ in range(48)])
        renders = renders.to(images.device).float() / 255
        palette = self(renders)["palette"][:, :2].mean(0)

        def level(some: Tensor) -> Tensor:
            answers = self(some)
            off = (answers["palette"][:, :2] - palette).norm(dim=2)
            near = torch.exp(-((off / COLOR_TOLERANCE) ** 2))
            kind = answers["hat"].softmax(1)[:, HATS.index(character.hat)]
            return (near.sum(1) + kind) / 3

        return (level(images) / level(renders).mean()).clamp(max=1)


def truth(puppets: Sequence[Puppet]) -> dict[str, Tensor]:
    """The judge's targets; -100 if an attribute has no name."""

    def number(name: str, value: str | None) -> int:
        return -100 if value is None else VALUES[name].index(value)

    rows = [
        [number("arms", p.arms), number("legs", p.legs), number("background", p.background),
         number("shirt", p.looks.shirt_name), number("trousers", p.looks.trousers_name),
         number("hat", p.looks.hat)]
        for p in puppets
    ]  # fmt: skip
    answers = dict(zip(VALUES, torch.tensor(rows).T, strict=True))
    colors = [[getattr(p.looks, name) for name in PALETTE] for p in puppets]
    answers["palette"] = torch.tensor(colors).float() / 255
    answers["stripes"] = torch.tensor([float(p.looks.stripes is not None) for p in puppets])
    answers["points"] = torch.stack([torch.from_numpy(keypoints(p)) for p in puppets])
    return {name: value.to(device()) for name, value in answers.items()}


def run(steps: int = STEPS) -> None:
    """Trains the judge on slightly noisy renders and writes judge/."""
    seeded(16)
    data = training_set()
    true = truth(data.puppets)
    judge = Judge().to(device())
    log.info("judge: %.2f M parameters", sum(p.numel() for p in judge.parameters()) / 1e6)

    def loss_of(index: Tensor) -> Tensor:
        images = to_unit(data.images[index])
        images = images + torch.rand(len(index), 1, 1, 1, device=device()) * 0.06 * (
            torch.randn_like(images)
        )
        answers, at = judge(images), index.to(device())
        loss = sum(F.cross_entropy(answers[name], true[name][at]) for name in VALUES)
        loss = loss + F.binary_cross_entropy_with_logits(answers["stripes"], true["stripes"][at])
        for name in ("palette", "points"):
            loss = loss + 10 * F.l1_loss(answers[name], true[name][at])
        return loss

    fit("judge", judge, loss_of, count=len(data), batch=BATCH, steps=steps, lr=LR)
    judge.eval()
    fresh = draw_many(1000, seed=26)
    images, wanted = to_unit(fresh.images), truth(fresh.puppets)
    with torch.no_grad():
        answers = judge(images)
    for name in VALUES:
        known = wanted[name] >= 0
        right = (answers[name].argmax(1) == wanted[name])[known].float().mean()
        log.info("  judge on fresh renders: %s %.1f %%", name, 100 * right)
    for name in ("palette", "points"):
        log.info("  judge: %s off by %.4f", name, (answers[name] - wanted[name]).abs().mean())
    JUDGE.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(state, JUDGE / "model.safetensors")
    (JUDGE / "config.json").write_text(json.dumps({"width": judge.width}) + "\n")
