"""The colors of the drawn world, with and without names."""

from train.puppets.world.colors import RGB

INK: RGB = (24, 20, 30)
WHITE: RGB = (250, 248, 244)
CLOTHES: dict[str, RGB] = {
    "red": (214, 40, 40), "yellow": (250, 214, 50), "green": (52, 148, 60),
    "turquoise": (44, 196, 190), "blue": (44, 90, 214), "purple": (136, 60, 172),
    "pink": (246, 140, 186), "black": (44, 42, 50),
}  # fmt: skip
SKINS: dict[str, RGB] = {
    "light": (248, 212, 180), "tan": (222, 168, 120), "brown": (160, 104, 66),
    "dark": (104, 70, 50),
}  # fmt: skip
HAIR_COLORS: dict[str, RGB] = {
    "black": (38, 34, 40), "brown": (112, 68, 36), "blond": (238, 206, 104),
    "ginger": (206, 96, 36),
}  # fmt: skip
HAT_COLORS: dict[str, RGB] = {
    name: CLOTHES[name] for name in ("red", "yellow", "green", "blue")
}  # fmt: skip
# all names that a description may use for a color
NAMED: dict[str, RGB] = {
    **CLOTHES, "white": WHITE, "gray": (136, 136, 142), "brown": (118, 72, 38),
    "orange": (246, 132, 28),
}  # fmt: skip


def shaded(color: RGB, factor: float) -> RGB:
    """A darker (factor below 1) or lighter (above 1, toward white) color."""
    r, g, b = (c * factor if factor <= 1 else 255 - (255 - c) * (2 - factor) for c in color)
    return round(r), round(g), round(b)
