"""Stage 5: the keypoint network: heatmaps, for a meaningful confidence."""

import json
from random import Random

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from train.puppets.networks.keypoints import (
    KeypointNetwork,
    centers,
    negatives,
    peaks,
    weathered,
)
from train.puppets.networks.training import device, fit, log, seeded, to_unit
from train.puppets.next_networks.targets import points_of
from train.puppets.next_networks.training import POSE, training_set
from train.puppets.next_world.examples import (
    BACKGROUNDS,
    JOINTS,
    DrawnImages,
    draw_many,
    render_background,
)

SIDE = 32  # pixels at which images are read
STEPS, BATCH, LR = 1500, 96, 2e-3
NEGATIVE_SHARE = 0.25


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
