"""Two dozen LoRAs of many kinds, and what each of their checkpoints is truly worth.

`python -m bench.loras [rounds]` trains them (20 minutes on 2 cores) and lets the judge look at
`rounds` times 128 pictures of each checkpoint; what is there already is not made again, so that it
can be interrupted. `bench.selection` and `bench.scores` use them.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from bench.judging import Wish, judged
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
    NARROW_BACKGROUNDS,
    NARROW_POSES,
    TRIGGER,
    VARIED_POSES,
    Pose,
    draw_dataset,
)
from train.puppets.networks.judge import Judge
from train.puppets.world.examples import ARMS, BACKGROUNDS, LEGS, SHIRTS, TROUSERS

log = logging.getLogger(__name__)
FOLDER = Path("outputs/bench/loras")
COUNT, EPOCHS, EVERY, STEPS_AN_EPOCH, BATCH = 25, 20, 2, 30, 4
ROUNDS, PICTURES = 4, 128  # the truth of a checkpoint is read off ROUNDS x PICTURES pictures
SEED = 70_000_000  # of the truth's noise: far from those of any probe
SAMPLING = (32, 6, 3.0)  # resolution, steps, guidance; the judge reads the same after 15 steps
# lowest and highest learning rate by lot
OPTIMIZERS: dict[str, tuple[float, float]] = {
    "torch.optim.AdamW": (1e-3, 6e-3),
    "bitsandbytes.optim.AdamW8bit": (1e-3, 6e-3),
    "bitsandbytes.optim.Lion": (1.5e-4, 1e-3),
    "prodigyopt.Prodigy": (1.0, 1.0),
}
ORDER = (0, 0, 1, 2, 3, 0)  # of OPTIMIZERS, from one round of the data sets to the next


@dataclass(frozen=True)
class DataSet:
    """Training pictures of one character."""

    name: str
    character: int
    poses: tuple[Pose, ...]
    backgrounds: tuple[str, ...]
    count: int
    captions: str


EVERY_POSE: tuple[Pose, ...] = tuple((arms, legs) for arms in ARMS for legs in LEGS)
SETS = (
    DataSet("3 poses", 0, NARROW_POSES, NARROW_BACKGROUNDS, 12, "trigger"),
    DataSet("6 poses", 1, VARIED_POSES[::2], BACKGROUNDS[:3], 18, "trigger"),
    DataSet("12 poses", 0, VARIED_POSES, BACKGROUNDS, 24, "trigger"),
    DataSet("24 poses", 1, EVERY_POSE, BACKGROUNDS[2:], 24, "full"),
)


@dataclass(frozen=True)
class Lora:
    """One training run: its pictures and settings, by lot from its number."""

    number: int
    data_set: DataSet
    config: TrialConfig
    folder: Path

    @property
    def checkpoints(self) -> list[Path]:
        """Its files, by epoch."""
        return sorted((self.folder / "lora").glob("*.safetensors"), key=epoch_of)

    def describe(self) -> str:
        """Its settings in a few words."""
        optimizer, network = self.config.optimizer, self.config.network
        kind = optimizer["_target_"].rsplit(".", 1)[-1]
        size = f"rank {network.rank}, alpha {network.alpha:g}"
        return f"{kind} {optimizer['lr']:.2g}, {size}, {self.config.scheduler.name}"


def lora(number: int, root: Path = FOLDER) -> Lora:
    """The LoRA of a number; data sets and optimizers take turns."""
    rng = Random(number)
    chosen, folder = SETS[number % len(SETS)], root / f"{number:02d}"
    target = [*OPTIMIZERS][ORDER[number // len(SETS) % len(ORDER)]]
    low, high = OPTIMIZERS[target]
    rank, ratio = rng.choice((4, 8, 16, 32)), rng.choice((1.0, 0.5, 0.25))
    config = TrialConfig(
        data=DataConfig(path=str(folder / "pictures"), trigger=TRIGGER, resolution=32,
                        repeats=STEPS_AN_EPOCH * BATCH // chosen.count),
        network=NetworkConfig(rank, rank * ratio, conv_rank=rank, conv_alpha=rank * ratio),
        optimizer={"_target_": target, "lr": low * (high / low) ** rng.random(),
                   "weight_decay": 0.01},
        scheduler=SchedulerConfig(name=rng.choice(("constant", "cosine"))),
        training=TrainingConfig(epochs=EPOCHS, batch_size=BATCH, save_every=EVERY, seed=number),
    )  # fmt: skip
    return Lora(number, chosen, config, folder)


def draw_pictures(chosen: DataSet, folder: Path) -> None:
    """Training pictures, and held-out ones of the same kind in `validation`."""
    for place, count, jitter in ((folder, chosen.count, 0), (folder / "validation", 4, 1)):
        draw_dataset(place, chosen.character, chosen.poses, chosen.backgrounds, count,
                     chosen.captions, jitter_seed=jitter)  # fmt: skip


def train(made: Lora, base: BaseModel) -> None:
    """Trains it, unless all of its checkpoints are there."""
    if len(made.checkpoints) == EPOCHS // EVERY:
        return
    if not (made.folder / "lora").exists():
        draw_pictures(made.data_set, made.folder / "pictures")
    member = TrialSpec(made.config, made.folder / "lora")
    for epoch in Trainer(base, load_dataset(made.config.data), [member]):
        saved = epoch.checkpoints[0]
        log.info("LoRA %d (%s): epoch %d, loss %.3f", made.number, made.describe(), saved.epoch,
                 saved.train_loss)  # fmt: skip


def truth_file(made: Lora, checkpoint: Path, number: int) -> Path:
    """Where a round of a checkpoint's truth is kept."""
    return made.folder / "truth" / f"{epoch_of(checkpoint):02d}-{number}.json"


def judge_round(made: Lora, checkpoint: Path, number: int, base: BaseModel, judge: Judge) -> None:
    """What the judge sees in one round of a checkpoint's pictures: any wish, by lot."""
    file = truth_file(made, checkpoint, number)
    if file.is_file():
        return
    wanted = any_wishes(PICTURES, seed=number)
    seeds = [SEED + number * PICTURES + i for i in range(PICTURES)]
    adapter = load_checkpoint(checkpoint, base.adapters)
    images = generate(base, [adapter], [wish.prompt for wish in wanted], seeds, *SAMPLING)[0]
    figures = judged(judge, images, [w.asked for w in wanted], CHARACTERS[made.data_set.character])
    write_atomically(file, json.dumps(figures).encode())


def any_wishes(count: int, seed: int) -> list[Wish]:
    """What people may ask for: every part by lot."""
    rng = Random(SEED + seed)
    parts = (ARMS, LEGS, BACKGROUNDS, SHIRTS, TROUSERS)
    return [Wish(*(rng.choice([*part]) for part in parts)) for _ in range(count)]


def load_truth(made: Lora) -> dict[int, dict[str, float]]:
    """epoch -> what the judge saw, over all the rounds that are there for every checkpoint.

    `quality` is that of the means: sqrt(identity * obeyed). `pictures`: how many were read.
    """
    found: dict[int, dict[str, float]] = {}
    for checkpoint in made.checkpoints:
        rounds = [truth_file(made, checkpoint, number) for number in range(ROUNDS)]
        read: list[dict[str, Any]] = [json.loads(f.read_text()) for f in rounds if f.is_file()]
        means = {name: sum(r[name] for r in read) / len(read) for name in read[0]}
        means["quality"] = (means["identity"] * means["obeyed"]) ** 0.5
        found[epoch_of(checkpoint)] = {**means, "pictures": PICTURES * len(read)}
    return found


def make_loras(rounds: int) -> None:
    """Trains them all, then judges all their checkpoints round by round."""
    base = load_base(BaseConfig(device="cpu"))
    made = [lora(number) for number in range(COUNT)]
    for one in made:
        train(one, base)
        write_atomically(
            one.folder / "settings.json", json.dumps(asdict(one.config), indent=1).encode()
        )
    base, judge = load_base(BaseConfig(device="cpu", precision="bf16")), Judge.from_folder()
    base.unet = torch.compile(base.unet)
    for number in range(rounds):
        for one in made:
            for checkpoint in one.checkpoints:
                judge_round(one, checkpoint, number, base, judge)
            log.info("truth: round %d of LoRA %d", number + 1, one.number)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.loras", description=__doc__)
    parser.add_argument("rounds", nargs="?", default=ROUNDS, type=int)
    configure_logging()
    make_loras(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
