"""The attributes of a drawing: their values, and the phrases that ask for them."""

from train.puppets.world.captions import Parts, outfit_phrase
from train.puppets.world.colors import CLOTHES
from train.puppets.world.examples import Drawing
from train.puppets.world.puppet import (
    ARMS,
    DISTANCES,
    EXPRESSIONS,
    GAZES,
    HEADS,
    LEGS,
    OUTFITS,
    Puppet,
)
from train.puppets.world.scenes import BACKGROUNDS
from train.puppets.world.styles import PHOTO, STYLES
from train.puppets.world.toys import KINDS, SIDES, TILTS

PUPPET = "puppet"  # the kind of a subject that is no toy
VALUES: dict[str, tuple[str, ...]] = {
    "arms": tuple(ARMS),
    "legs": tuple(LEGS),
    "gaze": GAZES,
    "expression": EXPRESSIONS,
    "outfit": OUTFITS,
    "color": tuple(CLOTHES),
    "head": HEADS,
    "background": BACKGROUNDS,
    "distance": tuple(DISTANCES),
    "kind": (PUPPET, *KINDS),
    "tilt": tuple(TILTS),
    "side": tuple(SIDES),
    "medium": tuple(STYLES),
}


def values_of(drawing: Drawing) -> dict[str, str | None]:
    """The value of each attribute; None if the drawing has none, or none with a name."""
    subject = drawing.subject
    values: dict[str, str | None] = dict.fromkeys(VALUES)
    values |= {
        "color": subject.looks.color_name,
        "background": subject.background,
        "distance": subject.distance,
        "medium": drawing.medium if drawing.medium in STYLES else None,
    }
    if isinstance(subject, Puppet):
        names = ("arms", "legs", "gaze", "expression")
        values |= {name: getattr(subject, name) for name in names}
        values |= {"outfit": subject.looks.outfit, "head": subject.looks.head, "kind": PUPPET}
    else:
        values |= {"kind": subject.looks.kind, "tilt": subject.tilt, "side": subject.side}
    return values


def labels_of(drawing: Drawing) -> list[int]:
    """The index of each attribute's value; -100, as PyTorch's losses ignore, for None."""
    return [
        -100 if value is None else VALUES[name].index(value)
        for name, value in values_of(drawing).items()
    ]


def phrase(name: str, value: str) -> str:
    """The shortest caption that asks for one value."""
    subject = "a puppet"
    match name:
        case "outfit":
            return Parts(subject, outfit=f"wearing a {value}").text()
        case "color":
            return Parts(subject, outfit=outfit_phrase("shirt", value)).text()
        case "head":
            return Parts(
                subject, heads=(value if value.endswith(("hair", "s")) else f"a {value}",)
            ).text()
        case "kind":
            return Parts(f"a {value}").text()
        case "tilt" | "side":
            return Parts("a toy", arms=value).text()
        case "medium":
            return f"{value} of a puppet"
        case _:
            return f"{PHOTO} of {subject}, {value}"
