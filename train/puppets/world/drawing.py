"""Draws pictures: vectors at several times the resolution, box-filtered to the requested size."""

from random import Random

import numpy as np
from numpy.typing import NDArray

from train.puppets.world.head import draw_back_hair, draw_head
from train.puppets.world.outfits import draw_arms, draw_legs, draw_torso
from train.puppets.world.pen import Pen
from train.puppets.world.puppet import Puppet
from train.puppets.world.scenes import SCENES
from train.puppets.world.styles import PHOTO, STYLES, Style, fill_surfaces
from train.puppets.world.toys import Toy, draw_toy

SIZE = 64  # pixels of the base's images
OVERSAMPLING = 4


def render_background(background: str, scene_seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """The background alone, (size, size, 3)."""
    pen = Pen(OVERSAMPLING * size, STYLES[PHOTO].edge)
    SCENES[background](pen, Random(scene_seed))
    return np.asarray(pen.image.reduce(OVERSAMPLING))


def render(
    subject: Puppet | Toy, size: int = SIZE, style: Style = STYLES[PHOTO]
) -> NDArray[np.uint8]:
    """The image of a puppet or a toy, (size, size, 3); the same one at any size."""
    pen = Pen(OVERSAMPLING * size, style.edge)
    SCENES[subject.background](pen, Random(subject.scene_seed))
    if isinstance(subject, Toy):
        draw_toy(pen, subject)
    else:
        for part in (draw_back_hair, draw_legs, draw_torso, draw_head, draw_arms):
            part(pen, subject)
    if style.fill == "plain":
        return np.asarray(pen.image.reduce(OVERSAMPLING))
    filled = fill_surfaces(style, np.asarray(pen.image, np.float32) / np.float32(255))
    small = filled.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    return (small * 255).round().astype(np.uint8)
