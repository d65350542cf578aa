"""Eight sweeps over different training images, and the true worth of each of their checkpoints.

`bench.study` uses them. Of each checkpoint there are also the images of a pool of fresh probes,
from which first looks and finals are drawn again and again. All is kept in outputs/bench/study, and
finished work isn't repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import median

import torch
from safetensors.torch import save
from torch import Tensor

from bench.loras import MOST_POSES
from bench.parallel import networks
from evaluate.generation.generate import generate
from evaluate.scorecard import Scorecard, usable
from evaluate.scorer import Scorer
from evaluate.variants.lora_file import write_variant
from sweeper.config import SweepConfig
from sweeper.tracking.trial_record import FAILED, TrialRecord, load_records
from train.cli.compose import settings
from train.config.schema import DataConfig
from train.data.dataset import load_dataset
from train.data.images.cropping import square
from train.files.atomic_write import write_atomically
from train.lora.checkpoint import load_checkpoint
from train.puppets.demo import (
    CHARACTERS,
    DATA_SETS,
    FEW_BACKGROUNDS,
    FEW_POSES,
    OBJECT,
    STYLE,
    VARIED_POSES,
    Shots,
    character,
    draw_dataset,
)
from train.puppets.networks.gates import weights_fingerprint
from train.puppets.world.captions import Parts, outfit_phrase
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    LEGS,
    OUTFITS,
    SIZE,
    Looks,
    Style,
    ToyLooks,
)
from train.puppets.world.toys import SIDES, TILTS

FOLDER_OF_VARIANTS = "variants"
IMAGES = 128  # in one round of the judge
POOL = 192  # fresh probes, from which first looks and finals are drawn
SEED = 80_000_000  # of the judged images' noise; no probe uses seeds near it
SAMPLING = (SIZE, 6, 3.0)  # resolution, steps, guidance scale, as in the default scoring
TRIALS = 6  # of each sweep
# from half of the embedded base's learning rates to twice as much
SPACE = (
    "optimizer.lr=tag(log,interval(2e-3,1e-2))",
    "network.rank=4,8,16",
    "scheduler=constant,cosine",
)
MADE_WITH = (weights_fingerprint(), IMAGES, POOL, SEED, SAMPLING, TRIALS, SPACE)
FOLDER = Path("outputs/bench/study") / sha256(json.dumps(MADE_WITH).encode()).hexdigest()[:12]
Subject = Looks | ToyLooks | Style
# of a file: trial, epoch, strength, and number of averaged epochs
Key = tuple[int, int, float, int]
# a sweep, one of its files, and a round of the judge, or None for its images of the pool
Job = tuple[int, Path, int | None]
# what prompts ask for, by the kind of the subject
ASKED: dict[type, dict[str, tuple[str, ...]]] = {
    Looks: {"arms": tuple(ARMS), "legs": tuple(LEGS), "background": BACKGROUNDS,
            "outfit": OUTFITS, "color": tuple(CLOTHES)},
    ToyLooks: {"tilt": tuple(TILTS), "side": tuple(SIDES), "background": BACKGROUNDS},
    Style: {"arms": tuple(ARMS), "legs": tuple(LEGS), "background": BACKGROUNDS,
            "outfit": OUTFITS},
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One sweep of the benchmark.

    Attributes:
        attributes: file of the attributes that probes ask for.
        subject: what its training images show.
        shots: its training images.
    """

    name: str
    attributes: str
    subject: Subject
    shots: Shots

    @property
    def root(self) -> Path:
        """The folder of its study, its training images and its truth."""
        return FOLDER / self.name.replace(",", "").replace(" ", "-")

    @property
    def pictures(self) -> Path:
        """The folder of its training images."""
        return self.root / "pictures"

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.root / "studies" / "sweep"

    def records(self) -> list[TrialRecord]:
        """Its trials that did not fail."""
        return [record for record in load_records(self.study) if record.state != FAILED]

    def cards(self) -> dict[Key, Scorecard]:
        """The scorecards of all checkpoints that did not fail, as the sweep made them."""
        return {
            (record.number, card.epoch, 1.0, 1): card
            for record in self.records()
            for card in usable(record.scorecards)
        }

    def files(self) -> dict[Key, Path]:
        """Its checkpoints, and the variants of them that were made."""
        variants = {}
        for file in (self.root / FOLDER_OF_VARIANTS).glob("*[0-9].safetensors"):
            trial, epoch, strength, averaged = file.stem.split("_")
            variants[int(trial), int(epoch), float(strength), int(averaged)] = file
        return {key: card.checkpoint for key, card in self.cards().items()} | variants

    def file_of(self, key: Key) -> Path:
        """The file of a variant."""
        return self.root / FOLDER_OF_VARIANTS / f"{'_'.join(map(str, key))}.safetensors"


def _character(number: int, *arguments: object) -> tuple[str, Subject, Shots]:
    looks = CHARACTERS[number]
    return "puppets", looks, character(looks, *arguments)  # type: ignore[arg-type]


SWEEPS = tuple(
    Sweep(name, *parts)
    for name, parts in {
        "3 poses": _character(0, FEW_POSES, FEW_BACKGROUNDS, 12),
        "3 poses, full captions": _character(0, FEW_POSES, FEW_BACKGROUNDS, 12, "full"),
        "6 poses": _character(1, VARIED_POSES[::3], BACKGROUNDS[:3], 18),
        "12 poses": _character(0, VARIED_POSES[:12], BACKGROUNDS[2:6], 24),
        "24 poses": _character(1, MOST_POSES, BACKGROUNDS, 24),
        "24 poses, full captions": _character(1, MOST_POSES, BACKGROUNDS[2:], 24, "full"),
        "object": ("puppets_object", OBJECT, DATA_SETS["object"][0]),
        "style": ("puppets_style", STYLE, DATA_SETS["style"][0]),
    }.items()
)


def sweep_arguments(number: int) -> list[str]:
    """A sweep's settings, as typed."""
    sweep = SWEEPS[number]
    detector = "puppets" if isinstance(sweep.subject, Looks) else "layout"
    return [
        f"data.path={sweep.pictures}", f"data.trigger={sweep.shots.trigger}",
        f"probes.attributes={sweep.attributes}", f"scores.pose_detector={detector}",
        f"study.root={sweep.root}", "study.name=sweep", "study.keep_checkpoints=all",
        "final.contenders=0", f"hydra.sweeper.seed={number}", f"hydra.sweeper.n_trials={TRIALS}",
        *SPACE,
    ]  # fmt: skip


def run_sweep(number: int) -> None:
    """Runs a sweep whose checkpoints are all kept, unless it has a result; writes its seconds."""
    sweep = SWEEPS[number]
    if (sweep.root / "seconds.json").is_file():
        return
    if not sweep.study.exists():
        draw_dataset(sweep.pictures, sweep.shots, seed=0)
        draw_dataset(sweep.pictures / "validation", replace(sweep.shots, count=4), seed=1)
    began = time.monotonic()
    command = [sys.executable, "-m", "sweeper", "-m", *sweep_arguments(number)]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began
    write_atomically(sweep.root / "seconds.json", json.dumps(seconds).encode())


def requests(sweep: Sweep, number: int) -> list[dict[str, str]]:
    """The attributes that the prompts of one round ask for, drawn at random."""
    rng = Random(SEED + number)
    asked = ASKED[type(sweep.subject)]
    return [{name: rng.choice(values) for name, values in asked.items()} for _ in range(IMAGES)]


def prompt_for(sweep: Sweep, request: dict[str, str]) -> str:
    """The prompt that asks for these attributes, with the trigger word."""
    trigger, place = f"a {sweep.shots.trigger}", request["background"]
    match sweep.subject:
        case Looks():
            outfit = outfit_phrase(request["outfit"], request["color"])
            parts = Parts(trigger, outfit=outfit, arms=request["arms"], legs=request["legs"],
                          background=place)  # fmt: skip
        case ToyLooks():
            parts = Parts(trigger, arms=request["tilt"], legs=request["side"], background=place)
        case Style():
            outfit = f"wearing a {request['outfit']}"
            parts = Parts("a puppet", outfit=outfit, arms=request["arms"], legs=request["legs"],
                          background=place, medium=trigger)  # fmt: skip
    return parts.text()


def truth_file(checkpoint: Path, number: int) -> Path:
    """The file of what the judge read in one round of a checkpoint's images."""
    return checkpoint.with_name(f"{checkpoint.stem}-truth-{number}.json")


def pool_file(checkpoint: Path) -> Path:
    """The file of a checkpoint's images of the pool of fresh probes."""
    return checkpoint.with_name(f"{checkpoint.stem}-pool.safetensors")


def pending(number: int, rounds: int) -> list[Job]:
    """What is not done yet of a sweep: the pool, and `rounds` rounds of the judge."""
    return [
        (number, checkpoint, part)
        for part in (None, *range(rounds))
        for checkpoint in SWEEPS[number].files().values()
        if not (pool_file(checkpoint) if part is None else truth_file(checkpoint, part)).is_file()
    ]


def seconds_per_image(sweep: Sweep) -> float:
    """How long an image of the pool took in one process: the median over the checkpoints."""
    files = [pool_file(checkpoint).with_suffix(".json") for checkpoint in sweep.files().values()]
    return median(float(json.loads(file.read_text())) for file in files) / POOL


def make_variant(number: int, key: Key) -> None:
    """Makes the file of a variant of a sweep's checkpoint, unless there is one."""
    trial, epoch, strength, averaged = key
    sweep = SWEEPS[number]
    if sweep.file_of(key).is_file():
        return
    until = [
        card.checkpoint for (t, e, *_), card in sweep.cards().items() if t == trial and e <= epoch
    ]
    write_variant(sweep.file_of(key), until[-averaged:], strength, "", networks().base.adapters)


def do(job: Job) -> None:
    """Does a job."""
    number, file, part = job
    if part is None:
        _draw_pool(number, file)
    else:
        _read(number, file, part)


@cache
def _training_features(number: int) -> Tensor:
    """The features by CLIP of a sweep's training images, (N, D)."""
    pictures = DataConfig(path=str(SWEEPS[number].pictures), resolution=SIZE)
    images = [square(image, SIZE) for image in load_dataset(pictures).training]
    return networks().encoder.image_features(torch.stack(images))


@cache
def pool_scorer(number: int) -> Scorer:
    """A sweep's scorer, with the pool of fresh probes."""
    arguments = [
        a for a in sweep_arguments(number) if not a.startswith("hydra.") and a not in SPACE
    ]
    config = settings("sweep", SweepConfig, arguments)
    scorer = Scorer(
        networks().base, load_dataset(config.data), config.data, config.probes, config.scores,
        FOLDER / "cache",
    )  # fmt: skip
    return scorer.fresh(POOL, rounds=1, baseline=config.scores.baseline)


def _read(number: int, checkpoint: Path, part: int) -> None:
    """Reads one round of a checkpoint's images.

    Saves of each image the identity, whether all attributes are as asked, and whether it shows a
    pose or place of the training images instead of the one that was asked for; also the mean
    similarity of the images to the training images by CLIP.
    """
    sweep = SWEEPS[number]
    asked = requests(sweep, part)
    prompts = [prompt_for(sweep, request) for request in asked]
    seeds = [SEED + part * IMAGES + i for i in range(IMAGES)]
    adapter = load_checkpoint(checkpoint, networks().base.adapters)
    images = generate(networks().base, [adapter], prompts, seeds, *SAMPLING)[0].float()
    seen = networks().judge.read(images)
    obeyed = [
        all(seen[name][i] == value for name, value in request.items())
        for i, request in enumerate(asked)
    ]
    joints = ("tilt", "side") if isinstance(sweep.subject, ToyLooks) else ("arms", "legs")
    poses = [tuple(seen[name][i] for name in joints) for i in range(IMAGES)]
    wanted = [tuple(request[name] for name in joints) for request in asked]
    places = [(seen["background"][i], request["background"]) for i, request in enumerate(asked)]
    trained = {*sweep.shots.poses}
    similarity = networks().encoder.image_features(images) @ _training_features(number).T
    content = {
        "identity": networks().judge.identity(images, sweep.subject).tolist(),
        "obeyed": [float(value) for value in obeyed],
        "training pose": [
            float(a in trained and a != b) for a, b in zip(poses, wanted, strict=True)
        ],
        "training place": [float(a in sweep.shots.backgrounds and a != b) for a, b in places],
        "clip_image": float(similarity.mean()),
    }
    write_atomically(truth_file(checkpoint, part), json.dumps(content).encode())


def _draw_pool(number: int, checkpoint: Path) -> None:
    """Generates a checkpoint's images of the pool."""
    scorer, began = pool_scorer(number), time.monotonic()
    images = scorer.generate(checkpoint, slice(None)).float()
    scorer.extractor.extract(images)
    seconds = json.dumps(time.monotonic() - began)
    write_atomically(pool_file(checkpoint).with_suffix(".json"), seconds.encode())
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    write_atomically(pool_file(checkpoint), save({"images": pixels}))
