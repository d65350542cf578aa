"""Trains 20 varied LoRAs and measures the true quality of five checkpoints of each.

`python -m bench.loras [rounds]` trains them (45 minutes on 2 cores) and has the judge read `rounds`
times 64 images of each checkpoint. It can be interrupted: finished work is not repeated.
`bench.selection` and `bench.scores` use the results.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from bench.judging import Request, judge_each, means_of
from bench.parallel import networks, work
from evaluate.generation.generate import generate
from train.cli.app import configure_logging
from train.config.schema import (
    BaseConfig,
    DataConfig,
    NetworkConfig,
    SchedulerConfig,
    TrainingConfig,
    TrialConfig,
)
from train.data.dataset import load_dataset
from train.files.atomic_write import write_atomically
from train.loop.trainer import Trainer, TrialSpec
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import epoch_of
from train.models.base_model import BaseModel, load_base
from train.puppets.demo import (
    CHARACTERS,
    FEW_BACKGROUNDS,
    FEW_POSES,
    TRIGGER,
    VARIED_POSES,
    Pose,
    Shots,
    character,
    draw_dataset,
)
from train.puppets.networks.gates import weights_fingerprint
from train.puppets.world.examples import ARMS, BACKGROUNDS, CLOTHES, LEGS, OUTFITS, SIZE

log = logging.getLogger(__name__)
FOLDER = Path("outputs/bench/loras") / weights_fingerprint()[:12]  # LoRAs of these weights
COUNT, EPOCHS, SAVE_EVERY, STEPS_PER_EPOCH, BATCH_SIZE = 20, 20, 4, 30, 4
ROUNDS, IMAGES = 8, 64  # each checkpoint is judged by ROUNDS * IMAGES images
DIVERGED = "diverged.txt"  # in the folder of a LoRA whose weights became infinite; says why
SEED = 70_000_000  # of the judged images' noise; no probe uses seeds near it
# resolution, steps, guidance scale; with 15 steps the judge reads the same attributes
SAMPLING = (SIZE, 6, 3.0)
# optimizer -> range of the log-uniform random learning rate
OPTIMIZERS: dict[str, tuple[float, float]] = {
    "torch.optim.AdamW": (1e-3, 6e-3),
    "bitsandbytes.optim.AdamW8bit": (1e-3, 6e-3),
    "bitsandbytes.optim.Lion": (1.5e-4, 1e-3),
    "prodigyopt.Prodigy": (1.0, 1.0),
}
# index into OPTIMIZERS, one per cycle through the data sets
OPTIMIZER_ORDER = (0, 0, 1, 2, 3)


@dataclass(frozen=True)
class DataSet:
    """Specification of the training images of one character."""

    name: str
    character: int
    poses: tuple[Pose, ...]
    backgrounds: tuple[str, ...]
    count: int
    captions: str

    def shots(self, count: int | None = None) -> Shots:
        """Returns `count` images like the training images; by default as many."""
        looks = CHARACTERS[self.character]
        return character(looks, self.poses, self.backgrounds, count or self.count, self.captions)


# two thirds of all poses, with all arms and all legs
MOST_POSES: tuple[Pose, ...] = tuple(
    (arms, legs) for i, arms in enumerate(ARMS) for j, legs in enumerate(LEGS) if (i + j) % 3
)
SETS = (
    DataSet("3 poses", 0, FEW_POSES, FEW_BACKGROUNDS, 12, "trigger"),
    DataSet("6 poses", 1, VARIED_POSES[::3], BACKGROUNDS[:3], 20, "trigger"),
    DataSet("18 poses", 0, VARIED_POSES, BACKGROUNDS, 40, "trigger"),
    DataSet("24 poses", 1, MOST_POSES, BACKGROUNDS[2:], 24, "full"),
)


@dataclass(frozen=True)
class Lora:
    """One training run: its data set and settings, drawn at random with its number as seed."""

    number: int
    data_set: DataSet
    config: TrialConfig
    folder: Path

    @property
    def checkpoints(self) -> list[Path]:
        """Its checkpoint files, in order of epochs."""
        files = (self.folder / "lora").glob("*.safetensors")
        return sorted((f for f in files if epoch_of(f) % SAVE_EVERY == 0), key=epoch_of)

    def describe(self) -> str:
        """Returns a short description of its settings."""
        optimizer, network = self.config.optimizer, self.config.network
        kind = optimizer["_target_"].rsplit(".", 1)[-1]
        size = f"rank {network.rank}, alpha {network.alpha:g}"
        return f"{kind} {optimizer['lr']:.2g}, {size}, {self.config.scheduler.name}"


def make_lora(number: int, root: Path = FOLDER) -> Lora:
    """Returns the LoRA with this number; data sets and optimizers alternate."""
    rng = Random(number)
    data_set, folder = SETS[number % len(SETS)], root / f"{number:02d}"
    target = [*OPTIMIZERS][OPTIMIZER_ORDER[number // len(SETS) % len(OPTIMIZER_ORDER)]]
    low, high = OPTIMIZERS[target]
    rank, ratio = rng.choice((4, 8, 16, 32)), rng.choice((1.0, 0.5, 0.25))
    config = TrialConfig(
        data=DataConfig(path=str(folder / "pictures"), trigger=TRIGGER, resolution=SIZE,
                        repeats=STEPS_PER_EPOCH * BATCH_SIZE // data_set.count),
        network=NetworkConfig(rank, rank * ratio, conv_rank=rank, conv_alpha=rank * ratio),
        optimizer={"_target_": target, "lr": low * (high / low) ** rng.random(),
                   "weight_decay": 0.01},
        scheduler=SchedulerConfig(name=rng.choice(("constant", "cosine"))),
        training=TrainingConfig(epochs=EPOCHS, batch_size=BATCH_SIZE, save_every=SAVE_EVERY,
                                seed=number),
    )  # fmt: skip
    return Lora(number, data_set, config, folder)


def draw_images(data_set: DataSet, folder: Path) -> None:
    """Draws training images, and held-out images of the same kind in `validation`."""
    draw_dataset(folder, data_set.shots(), seed=0)
    draw_dataset(folder / "validation", data_set.shots(4), seed=1)


@cache
def training_base() -> BaseModel:
    """Returns the base that this process trains on."""
    return load_base(BaseConfig(device="cpu"))


def is_trained(lora: Lora) -> bool:
    """Returns whether all of its checkpoints exist, or it has diverged."""
    return len(lora.checkpoints) == EPOCHS // SAVE_EVERY or (lora.folder / DIVERGED).exists()


def train_lora(number: int) -> None:
    """Trains a LoRA, or what is left of it."""
    lora = make_lora(number)
    if not (lora.folder / "lora").exists():
        draw_images(lora.data_set, lora.folder / "pictures")
    settings = json.dumps(asdict(lora.config), indent=1)
    write_atomically(lora.folder / "settings.json", settings.encode())
    trial = TrialSpec(lora.config, lora.folder / "lora")
    for epoch in Trainer(training_base(), load_dataset(lora.config.data), [trial]):
        if epoch.failures:
            write_atomically(lora.folder / DIVERGED, str(epoch.failures[0]).encode())


def truth_file(lora: Lora, checkpoint: Path, round_index: int) -> Path:
    """Returns the path of the judge's metrics from one round of a checkpoint."""
    return lora.folder / "truth" / f"{epoch_of(checkpoint):02d}-{round_index}.json"


def judge_round(job: tuple[int, Path, int]) -> None:
    """Judges one round of a checkpoint's images, with random prompts, and saves the metrics.

    Args:
        job: number of the LoRA, checkpoint, and number of the round.
    """
    number, checkpoint, round_index = job
    lora, base, judge = make_lora(number), networks().base, networks().judge
    requests = random_requests(IMAGES, seed=round_index)
    seeds = [SEED + round_index * IMAGES + i for i in range(IMAGES)]
    adapter = load_checkpoint(checkpoint, base.adapters)
    prompts = [request.prompt for request in requests]
    images = generate(base, [adapter], prompts, seeds, *SAMPLING)[0]
    attributes = [request.attributes for request in requests]
    shots, looks = lora.data_set.shots(), CHARACTERS[lora.data_set.character]
    metrics = judge_each(judge, images, attributes, looks, shots)
    file = truth_file(lora, checkpoint, round_index)
    write_atomically(file, json.dumps(means_of(metrics)).encode())


def random_requests(count: int, seed: int) -> list[Request]:
    """Returns requests with every attribute drawn at random."""
    rng = Random(SEED + seed)
    parts = (ARMS, LEGS, BACKGROUNDS, OUTFITS, CLOTHES)
    return [Request(*(rng.choice([*part]) for part in parts)) for _ in range(count)]


@cache
def load_truth(number: int, rounds: range = range(ROUNDS)) -> dict[int, dict[str, float]]:
    """Returns the judge's metrics by epoch, averaged over the rounds that have been judged.

    `quality` is computed from the means, sqrt(identity * obeyed); `pictures` is the number of
    images.

    Args:
        number: of the LoRA.
        rounds: the rounds that count; by default all.
    """
    truth: dict[int, dict[str, float]] = {}
    lora = make_lora(number)
    for checkpoint in lora.checkpoints:
        files = [truth_file(lora, checkpoint, index) for index in rounds]
        read: list[dict[str, Any]] = [json.loads(f.read_text()) for f in files if f.is_file()]
        means = {name: sum(row[name] for row in read) / len(read) for name in read[0]}
        means["quality"] = (means["identity"] * means["obeyed"]) ** 0.5
        truth[epoch_of(checkpoint)] = {**means, "pictures": IMAGES * len(read)}
    return truth


def make_loras(rounds: int) -> None:
    """Trains all LoRAs, then judges all their checkpoints round by round."""
    loras = [make_lora(number) for number in range(COUNT)]
    work("LoRAs", train_lora, [lora.number for lora in loras if not is_trained(lora)])
    jobs = [
        (lora.number, checkpoint, index)
        for index in range(rounds)
        for lora in loras
        for checkpoint in lora.checkpoints
        if not truth_file(lora, checkpoint, index).is_file()
    ]
    work("judged rounds", judge_round, jobs)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.loras", description=__doc__)
    parser.add_argument("rounds", nargs="?", default=ROUNDS, type=int)
    configure_logging()
    make_loras(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
