"""What all stages share: paths, device, images, log, and the training loop."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets.networks.muon import Muon
from train.puppets.world.examples import DrawnImages, draw_many

FOLDER = Path(__file__).parents[1]
WEIGHTS = FOLDER / "weights"
LOGS = WEIGHTS / "logs"
IMAGES_FOLDER = FOLDER / "pictures"
BASE, CLIP, POSE, JUDGE = (WEIGHTS / name for name in ("base", "clip", "pose", "judge"))
TRAINING_SEED = 1
log = logging.getLogger("puppets")
log.propagate = False  # imported libraries add handlers to the root logger


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_unit(images: Tensor) -> Tensor:
    """Bytes -> floats, 0 to 1, on the training device."""
    return images.to(device()).float() / 255


def weathered(images: Tensor) -> Tensor:
    """Adds a little noise to all images and a little blur to some, as in generated images."""
    n = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(n, 1, 1, 1, device=images.device) ** 2
    images = images + amount * (blurred - images)
    noise = torch.rand(n, 1, 1, 1, device=images.device) * 0.08
    return (images + noise * torch.randn_like(images)).clamp(0, 1)


@cache
def training_set(count: int = 40_000) -> DrawnImages:
    """The pretraining images, drawn once per process (some 100 s)."""
    return draw_many(count, TRAINING_SEED)


def random_batches(count: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Random batches of indices, without replacement within an epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    start = 0
    for _ in range(steps):
        if start + batch > count:
            order, start = torch.randperm(count, generator=generator), 0
        yield order[start : start + batch]
        start += batch


def fit(
    name: str,
    module: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    *,
    count: int,
    batch: int,
    steps: int,
    lr: float,
    seed: int = 0,
    warmup: int = 100,
    after_step: Callable[[int], None] | None = None,
    weight_decay: float = 1e-4,
    optimizer_class: Callable[..., torch.optim.Optimizer] = Muon,
) -> None:
    """Trains with warm-up and cosine decay to zero; logs progress every 10 s.

    Args:
        name: in the progress lines.
        module: its parameters that require gradients are trained.
        loss_of: maps a batch of indices below `count` to a loss.
        after_step: called with the number of completed steps, for example to average weights.
        optimizer_class: called with the parameters, the learning rate and the weight decay.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = optimizer_class(parameters, lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * cosine(step / steps)
    )
    start = logged_at = time.monotonic()
    mean = float("nan")
    for step, index in enumerate(random_batches(count, batch, steps, seed), start=1):
        loss = loss_of(index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if after_step is not None:
            after_step(step)
        if time.monotonic() - logged_at > 10 or step == steps:
            logged_at = time.monotonic()
            left = (logged_at - start) / step * (steps - step)
            log.info("%s %d/%d  loss %.4f  %.0f s left", name, step, steps, mean, left)


def cosine(done: float) -> float:
    """Cosine decay from 1 to 0 over the run."""
    return float(0.5 * (1 + torch.cos(torch.tensor(done * torch.pi))))


def seeded(seed: int) -> None:
    """Seeds torch, and uses two cores on any machine, for the same bytes."""
    torch.manual_seed(seed)
    if device().type == "cpu":
        torch.set_num_threads(2)


@contextmanager
def logged(stage: str) -> Iterator[None]:
    """Context manager: logs to the terminal and to the stage's own file, including the duration."""
    LOGS.mkdir(parents=True, exist_ok=True)
    form = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
    handlers = (logging.StreamHandler(), logging.FileHandler(LOGS / f"{stage}.log", mode="w"))
    log.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(form)
        log.addHandler(handler)
    start = time.monotonic()
    try:
        yield
        log.info("%s took %.0f s on %s", stage, time.monotonic() - start, device())
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
