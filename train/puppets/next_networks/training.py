"""What the stages of the 64-pixel world share: where the weights lie, and the training set."""

from functools import cache

from train.puppets.networks.training import FOLDER, TRAINING_SEED
from train.puppets.next_world.examples import DrawnImages, draw_many

WEIGHTS = FOLDER / "next_weights"
IMAGES_FOLDER = FOLDER / "next_pictures"
BASE, CLIP, POSE, JUDGE = (WEIGHTS / name for name in ("base", "clip", "pose", "judge"))


@cache
def training_set(count: int = 40_000) -> DrawnImages:
    """The pretraining images, drawn once per process (some 100 s)."""
    return draw_many(count, TRAINING_SEED)
