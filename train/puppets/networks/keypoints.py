"""Stage 5: the keypoint network: heatmaps, for a meaningful confidence."""

import json
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets.networks.targets import points_of
from train.puppets.networks.training import (
    POSE,
    device,
    fit,
    log,
    seeded,
    to_unit,
    training_set,
    weathered,
)
from train.puppets.world.examples import (
    BACKGROUNDS,
    JOINTS,
    DrawnImages,
    draw_many,
    render_background,
)

SIDE = 32  # pixels at which images are read
STEPS, BATCH, LR = 1500, 96, 3e-3
CELLS, SPREAD = 16, 0.9  # side of the heatmap and width of its peaks, in cells
NEGATIVE_SHARE = 0.25


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()
    )


class KeypointNetwork(nn.Module):
    """A small hourglass: 32x32 pixels to one 16x16 heatmap for each joint."""

    def __init__(self, width: int = 24) -> None:
        """`width`: channels of the first layer."""
        super().__init__()
        self.width = w = width
        self.fine = nn.Sequential(_block(3, w), _block(w, 2 * w, 2), _block(2 * w, 2 * w))
        self.middle = nn.Sequential(_block(2 * w, 4 * w, 2), _block(4 * w, 4 * w))
        self.coarse = nn.Sequential(_block(4 * w, 4 * w, 2), _block(4 * w, 4 * w))
        self.to_middle = _block(4 * w, 4 * w)
        self.to_fine = _block(4 * w, 2 * w)
        self.heat = nn.Conv2d(2 * w, len(JOINTS), 1)
        self.heat.bias = nn.Parameter(torch.full((len(JOINTS),), -3.0))

    @classmethod
    def from_folder(cls, folder: Path = POSE) -> "KeypointNetwork":
        """The committed network."""
        config = json.loads((Path(folder) / "config.json").read_text())
        network = cls(config["width"])
        network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return network.float().eval()

    def heatmaps(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W), 0 to 1, of any size -> logits (N, 13, 16, 16)."""
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        fine = self.fine(images * 2 - 1)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.to_middle(middle + F.interpolate(coarse, scale_factor=2.0))
        fine = fine + self.to_fine(F.interpolate(middle, scale_factor=2.0))
        logits: Tensor = self.heat(fine)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """(N, 13, 3): x and y as fractions of the side, and a confidence, 0 to 1."""
        logits = self.heatmaps(images)
        confidence = logits.flatten(2).amax(2).sigmoid()
        return torch.cat([centers(logits), confidence.unsqueeze(2)], dim=2)


def centers(logits: Tensor) -> Tensor:
    """Soft-argmax: the mean position under the heatmap's softmax, (N, 13, 2) as fractions."""
    share = logits.flatten(2).softmax(2).unflatten(2, (CELLS, CELLS))
    middles = (torch.arange(CELLS, device=logits.device) + 0.5) / CELLS
    return torch.stack([(share.sum(2) * middles).sum(2), (share.sum(3) * middles).sum(2)], dim=2)


def peaks(points: Tensor) -> Tensor:
    """The target heatmaps of joints at these fractions: Gaussian peaks of height one."""
    middles = (torch.arange(CELLS, device=points.device) + 0.5) / CELLS
    away = (points.unsqueeze(3) - middles) * CELLS  # (N, 13, 2, 16)
    bumps = torch.exp(-(away**2) / (2 * SPREAD**2))
    heat = bumps[:, :, 1, :, None] * bumps[:, :, 0, None, :]
    return heat / heat.amax((2, 3), keepdim=True).clamp_min(1e-6)


def negatives(images: Tensor, places: Tensor) -> Tensor:
    """Images without a puppet: backgrounds, noise, plain colors, smears and shuffled pieces."""
    n = len(images)
    kinds = torch.randint(0, 6, (n,), device=images.device).view(n, 1, 1, 1)
    noise = torch.rand(n, 1, 1, 1, device=images.device) * torch.randn_like(images) * 0.5 + 0.5
    plain = images.mean((2, 3), keepdim=True).expand_as(images)
    coarse = torch.rand(n, 3, 5, 5, device=images.device)
    cloud = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    smear = sum((images.roll(shift, 0) for shift in range(1, 7)), images) / 7
    order = torch.randperm(16, device=images.device)
    tiles = F.unfold(images, 8, stride=8)[:, :, order]
    pieces = F.fold(tiles, (SIDE, SIDE), 8, stride=8)
    result = places[torch.randint(0, len(places), (n,), device=images.device)]
    for kind, other in enumerate((noise, plain, cloud, smear, pieces), start=1):
        result = torch.where(kinds == kind, other, result)
    return result


def puppets_and_others(data: DrawnImages) -> tuple[Tensor, Tensor, Tensor]:
    """Small images of the puppets, their joints, and small images of the toys."""
    points = points_of(data.drawings)
    small = [
        F.interpolate(to_unit(part), (SIDE, SIDE), mode="bilinear", antialias=True)
        for part in data.images.split(500)
    ]
    images = torch.cat(small)
    body = points.isfinite().all(2).all(1)
    return images[body], points[body], images[~body]


def run(steps: int = STEPS) -> None:
    """Trains the network on images with and without a puppet, and writes pose/."""
    seeded(15)
    puppets, points, toys = puppets_and_others(training_set())
    rng = Random(15)
    scenes = [
        render_background(rng.choice(BACKGROUNDS), rng.getrandbits(31), SIDE) for _ in range(3000)
    ]
    places = to_unit(torch.stack([torch.tensor(scene) for scene in scenes]).permute(0, 3, 1, 2))
    others = torch.cat([places, toys])
    network = KeypointNetwork().to(device())
    log.info("keypoints: %.2f M parameters", sum(p.numel() for p in network.parameters()) / 1e6)

    def loss_of(index: Tensor) -> Tensor:
        images, true = puppets[index.to(device())], points[index.to(device())]
        without = int(len(index) * NEGATIVE_SHARE)
        target = peaks(true)
        images = torch.cat([negatives(images[:without], others), images[without:]])
        target = torch.cat([torch.zeros_like(target[:without]), target[without:]])
        logits = network.heatmaps(weathered(images))
        heat = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        off = (centers(logits[without:]) - true[without:]).abs().mean()
        return (heat * (1 + 4 * target)).mean() * 10 + 20 * off

    fit("keypoints", network, loss_of, count=len(puppets), batch=BATCH, steps=steps, lr=LR)
    network.eval()
    fresh, true, fresh_toys = puppets_and_others(draw_many(600, seed=25))
    with torch.no_grad():
        detected, nothing = network(fresh), network(fresh_toys)
        smears = network(negatives(fresh, places))
    error = (detected[..., :2] - true).norm(dim=2).mean()
    log.info("  keypoints: off by %.2f %% of the side, confidence %.2f, of toys %.2f, without"
             " either %.2f", 100 * error, detected[..., 2].mean(), nothing[..., 2].mean(),
             smears[..., 2].mean())  # fmt: skip
    POSE.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() for k, v in network.state_dict().items()}, POSE / "model.safetensors")
    config = {"width": network.width, "joints": JOINTS}
    (POSE / "config.json").write_text(json.dumps(config, indent=2) + "\n")
