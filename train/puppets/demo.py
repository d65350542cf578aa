"""Stage 7: the demo's training images, of two characters that the base's captions cannot name."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image

from train.puppets.networks.training import IMAGES_FOLDER, log
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    LEGS,
    Looks,
    Puppet,
    caption,
    render,
    sample_puppet,
)

Pose = tuple[str, str]
TRIGGER = "sks puppet"
CHARACTERS: dict[int, Looks] = {
    0: Looks(
        skin=(60, 205, 120), shirt=(245, 235, 225), trousers=(70, 40, 110), shoes=(255, 150, 30),
        hat="horns", hat_color=(250, 60, 150), stripes=(235, 50, 130), wild=True,
    ),
    1: Looks(
        skin=(150, 120, 235), shirt=(255, 205, 70), trousers=(20, 120, 130), shoes=(230, 60, 60),
        hat="crown", hat_color=(120, 235, 60), stripes=(60, 60, 160), wild=True,
    ),
}  # fmt: skip
NARROW_POSES: tuple[Pose, ...] = (
    ("arms spread", "legs apart"),
    ("hands on hips", "legs together"),
    ("one arm waving", "legs apart"),
)
NARROW_BACKGROUNDS = ("on a beach", "in a city")
VARIED_POSES: tuple[Pose, ...] = tuple(
    (arms, legs)
    for number, arms in enumerate(ARMS)
    for legs in (*LEGS, *LEGS)[number % 3 : number % 3 + 2]
)


def shots(
    looks: Looks, poses: Sequence[Pose], backgrounds: Sequence[str], count: int, seed: int
) -> list[Puppet]:
    """`count` puppets of one character, cycling evenly through poses and backgrounds."""
    rng = Random(seed)
    return [
        sample_puppet(rng, looks, *poses[i % len(poses)],
                      background=backgrounds[(i // len(poses) + i % len(poses)) % len(backgrounds)])
        for i in range(count)
    ]  # fmt: skip


def draw_dataset(
    folder: Path,
    character_seed: int,
    poses: Sequence[Pose],
    backgrounds: Sequence[str],
    count: int,
    captions: str = "trigger",
    trigger: str = TRIGGER,
    jitter_seed: int = 0,
) -> list[Puppet]:
    """Draws a folder of 256-pixel PNG files with .txt captions of one fixed wild character.

    Args:
        character_seed: index in CHARACTERS.
        captions: "trigger" for the trigger word only, "full" with the pose and the background.
        jitter_seed: varies the joints and the scenery, for example for a held-out set.

    Returns:
        The puppets, in the order of their files.

    Raises:
        ValueError: an unknown kind of captions.
    """
    if captions not in ("trigger", "full"):
        raise ValueError(f"captions are 'trigger' or 'full', not {captions!r}")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    looks = CHARACTERS[character_seed]
    puppets = shots(looks, poses, backgrounds, count, 1000 * character_seed + jitter_seed)
    for number, puppet in enumerate(puppets, start=1):
        Image.fromarray(render(puppet, 256)).save(folder / f"{number:02d}.png", optimize=True)
        text = f"a photo of {trigger}"
        text = caption(puppet, trigger) if captions == "full" else text
        (folder / f"{number:02d}.txt").write_text(text + "\n")
    return puppets


def run(captions: str = "trigger") -> None:
    """Draws both datasets, each with similar held-out images in its subfolder `validation`."""
    for name, poses, backgrounds, count, held_out in (
        ("narrow", NARROW_POSES, NARROW_BACKGROUNDS, 12, 4),
        ("varied", VARIED_POSES, BACKGROUNDS, 24, 8),
    ):
        folder = IMAGES_FOLDER / name
        draw_dataset(folder, 0, poses, backgrounds, count, captions)
        draw_dataset(folder / "validation", 0, poses, backgrounds, held_out, captions,
                     jitter_seed=1)  # fmt: skip
    log.info("demo: images in %s", IMAGES_FOLDER.name)
