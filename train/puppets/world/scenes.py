"""The places of the drawn world. Lengths are in units of 1/32 of the image side."""

from collections.abc import Callable
from random import Random

from train.puppets.world.colors import RGB, near
from train.puppets.world.pen import Pen, arc

WINDOW: RGB = (246, 224, 150)


def _beach(pen: Pen, rng: Random) -> None:
    sea, sand = rng.uniform(12, 15), rng.uniform(20, 22.5)
    pen.box(0, 0, 32, sea, near(rng, (158, 220, 250)))
    pen.box(0, sea, 32, sand, near(rng, (36, 150, 204)))
    for y in (sea + 1.6, sea + 4.2):
        left = rng.uniform(0, 18)
        pen.path([(left, y), (left + rng.uniform(5, 9), y)], 0.5, (140, 206, 236))
    pen.box(0, sand, 32, 32, near(rng, (242, 218, 154)))
    x = rng.choice((4.5, 27.5))
    pen.disc((x, rng.uniform(3.6, 5)), 2.6, 2.6, (255, 236, 110))
    x = 32 - x + rng.uniform(-1, 1)
    pen.path([(x, sand + 0.5), (x, sea - 2.5)], 0.5, (250, 250, 250))
    pen.shape([*arc((x, sea - 2), 3.4, 3, 180, 360)], near(rng, (228, 84, 70)))


def _forest(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(22.5, 25)
    pen.box(0, 0, 32, ground, near(rng, (178, 216, 176)))
    pen.box(0, ground, 32, 32, near(rng, (112, 150, 78)))
    for x in (rng.uniform(1, 5), rng.uniform(9, 13), rng.uniform(19, 23), rng.uniform(27, 31)):
        top, color = rng.uniform(1, 6), near(rng, (38, 108, 62))
        pen.box(x - 0.8, 16, x + 0.8, ground + 0.6, (104, 70, 42))
        for lift, width in ((0.0, 2.6), (4.2, 3.5), (8.4, 4.3)):
            y = top + lift
            pen.shape([(x, y), (x - width, y + 6.2), (x + width, y + 6.2)], color)


def _city(pen: Pen, rng: Random) -> None:
    street = rng.uniform(24.5, 26.5)
    pen.box(0, 0, 32, street, near(rng, (206, 212, 230)))
    for left, right in ((0, 7.5), (8.5, 15.5), (16.5, 23), (24, 32)):
        top, wall = rng.uniform(2, 11), near(rng, (126, 130, 152), 14)
        pen.box(left, top, right, street, wall)
        y = top + 1.6
        while y < street - 3:
            for x in (left + 1.3, (left + right) / 2 + 0.5):
                pen.box(x, y, x + (right - left) / 2 - 1.8, y + 2.2, WINDOW)
            y += 4.4
    pen.box(0, street, 32, 32, near(rng, (84, 84, 96)))
    for x in (2, 12, 22):
        pen.box(x, 29, x + 5, 29.7, (226, 226, 220))


def _snow(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(19.5, 22)
    pen.box(0, 0, 32, ground, near(rng, (186, 210, 234)))
    for x in (rng.uniform(3, 10), rng.uniform(21, 29)):
        top = rng.uniform(4, 8)
        pen.shape([(x, top), (x - 10, ground), (x + 10, ground)], near(rng, (134, 158, 194)))
        pen.shape([(x, top), (x - 3.4, top + 4.8), (x - 1, top + 3.6), (x + 1, top + 5),
                   (x + 3.4, top + 4.8)], (250, 252, 255))  # fmt: skip
    pen.box(0, ground, 32, 32, near(rng, (240, 245, 250), 5))
    for _ in range(12):
        pen.disc((rng.uniform(1, 31), rng.uniform(1, 30)), 0.5, 0.5, (255, 255, 255))


def _room(pen: Pen, rng: Random) -> None:
    floor, x = rng.uniform(22.5, 25), rng.choice((2.0, 21.5)) + rng.uniform(-1, 1)
    pen.box(0, 0, 32, floor, near(rng, (240, 208, 186)))
    pen.box(0, floor - 1, 32, floor, (250, 244, 234))
    pen.box(0, floor, 32, 32, near(rng, (164, 108, 66)))
    pen.box(x - 0.8, 2.8, x + 9.3, 13.2, (252, 248, 240))
    pen.box(x, 3.6, x + 8.5, 12.4, (146, 206, 244))
    pen.box(x + 3.9, 3.6, x + 4.6, 12.4, (252, 248, 240))
    pen.box(x, 7.6, x + 8.5, 8.3, (252, 248, 240))
    x = 32 - x - rng.uniform(5, 8)
    pen.box(x, 4.5, x + 6, 11, (150, 96, 58))
    pen.box(x + 0.8, 5.3, x + 5.2, 10.2, near(rng, (96, 164, 140), 20))
    pen.disc((x + 3, 8), 1.4, 1.4, (250, 214, 90))


def _night(pen: Pen, rng: Random) -> None:
    ground, sky = rng.uniform(23, 26), near(rng, (30, 34, 84))
    pen.box(0, 0, 32, ground, sky)
    for _ in range(9):
        pen.disc((rng.uniform(1, 31), rng.uniform(1, 18)), 0.5, 0.5, (252, 250, 220))
    moon = rng.choice((5, 27)), rng.uniform(4.5, 6)
    pen.disc(moon, 2.8, 2.8, (250, 242, 190))
    pen.disc((moon[0] + 1.4, moon[1] - 0.7), 2.3, 2.3, sky)
    hill = near(rng, (40, 56, 78))
    pen.disc((rng.uniform(2, 12), ground + 5), 13, 9, hill)
    pen.disc((rng.uniform(20, 30), ground + 5), 13, 8, hill)
    pen.box(0, ground, 32, 32, near(rng, (46, 70, 66)))


def _desert(pen: Pen, rng: Random) -> None:
    ground = rng.uniform(20, 23)
    pen.box(0, 0, 32, ground + 2, near(rng, (252, 206, 140)))
    pen.disc((rng.uniform(8, 24), ground - 1), 3.6, 3.6, (250, 130, 80))
    pen.disc((rng.uniform(0, 12), ground + 4), 14, 6.5, near(rng, (226, 148, 82)))
    pen.disc((rng.uniform(20, 32), ground + 4), 14, 5.5, near(rng, (214, 134, 74)))
    pen.box(0, ground + 2, 32, 32, near(rng, (232, 166, 98)))
    green = near(rng, (60, 136, 84))
    for x in (rng.uniform(2.5, 5), rng.uniform(26.5, 29.5)):
        base = ground + rng.uniform(2, 4)
        pen.path([(x, base), (x, base - 10)], 1.7, green)
        side = rng.choice((-1, 1))
        pen.path(
            [(x, base - 4), (x + side * 2.4, base - 4), (x + side * 2.4, base - 7)], 1.2, green
        )


def _library(pen: Pen, rng: Random) -> None:
    floor = rng.uniform(24, 26)
    pen.box(0, 0, 32, floor, near(rng, (150, 104, 70)))
    books = ((176, 80, 70), (82, 116, 146), (206, 170, 100), (104, 136, 100))
    for y in (1.2, 9.2, 17.2):
        pen.box(0, y, 32, y + 6.4, (92, 62, 46))
        x = rng.uniform(-2, 0)
        while x < 32:
            width, height = rng.uniform(2.2, 3.4), rng.uniform(4.6, 5.8)
            if rng.random() < 0.85:
                pen.box(x, y + 6.4 - height, x + width, y + 6.4, rng.choice(books))
            x += width
    pen.box(0, floor, 32, 32, near(rng, (138, 66, 70)))
    pen.box(0, floor + 1, 32, floor + 1.9, (206, 158, 96))


SCENES: dict[str, Callable[[Pen, Random], None]] = {
    "on a beach": _beach, "in a forest": _forest, "in a city": _city, "in the snow": _snow,
    "in a room": _room, "at night": _night, "in a desert": _desert, "in a library": _library,
}  # fmt: skip
BACKGROUNDS = tuple(SCENES)
