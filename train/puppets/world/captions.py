"""Captions: the base's, and the richer descriptions that the tiny CLIP learns."""

from dataclasses import dataclass
from random import Random

from train.puppets.world.colors import (
    CLOTHES,
    HAIR_COLORS,
    HAT_COLORS,
    NAMED,
    SKINS,
    color_word,
    skin_word,
)
from train.puppets.world.puppet import (
    ACCESSORIES,
    ARMS,
    DISTANCES,
    EXPRESSIONS,
    GAZES,
    GLASSES,
    HAIRSTYLES,
    HATS,
    LEGS,
    OUTFITS,
    WILD_HATS,
    Looks,
    Puppet,
)
from train.puppets.world.scenes import BACKGROUNDS
from train.puppets.world.styles import PHOTO, STYLES
from train.puppets.world.toys import KINDS, SIDES, TILTS, Toy

MAX_TOKENS = 52  # of a prompt with its start and end; the longest caption has 47

TRIGGERS = ("sks", "zorp", "mia", "ohwx", "zwx", "lora")
ORDINARY_WORDS = (
    "person", "character", "man", "woman", "boy", "girl", "picture", "image", "drawing", "of",
    "style", "standing", "portrait", "full", "body", "toy", "doll", "figure", "the", "his", "her",
    "is", "with", "without", "at", "on", "in", "and", "no", "bad", "blurry",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """The phrases of a caption, in their order; None for what it does not mention."""

    subject: str
    heads: tuple[str, ...] = ()
    outfit: str | None = None
    arms: str | None = None
    legs: str | None = None
    gaze: str | None = None
    expression: str | None = None
    background: str | None = None
    distance: str | None = None
    medium: str = PHOTO

    def text(self) -> str:
        """The caption."""
        words = [self.medium, "of", self.subject]
        words += [f"with {' and '.join(self.heads)}"] if self.heads else []
        words += [self.outfit] if self.outfit else []
        tail = (self.arms, self.legs, self.gaze, self.expression, self.background, self.distance)
        return ", ".join([" ".join(words), *(part for part in tail if part)])


def outfit_phrase(outfit: str, color: str) -> str:
    """The phrase of an outfit."""
    return f"wearing a {color} {outfit}"


def head_phrases(looks: Looks) -> tuple[str, ...]:
    """`short black hair` or `a red cap`, glasses, and an accessory, as far as they have names."""
    phrases = []
    if looks.head_color_name:
        style, _, noun = looks.head.rpartition(" ")
        phrases.append(f"{style} {looks.head_color_name} {noun}" if looks.head in HAIRSTYLES
                       else f"a {looks.head_color_name} {looks.head}")  # fmt: skip
    if looks.glasses:
        phrases.append(looks.glasses)
    if looks.accessory:
        phrases.append(f"a {looks.accessory}")
    return tuple(phrases)


def parts_of(subject: Puppet | Toy, noun: str | None = None, medium: str = PHOTO) -> Parts:
    """Everything with a name. Wild looks go unmentioned, which leaves room for new identities.

    Args:
        noun: in place of `a puppet` or `a red lamp`.
    """
    looks = subject.looks
    if isinstance(subject, Toy):
        color = f"{looks.color_name} " if looks.color_name else ""
        return Parts(noun or f"a {color}{subject.looks.kind}", arms=subject.tilt, legs=subject.side,
                     background=subject.background, distance=subject.distance,
                     medium=medium)  # fmt: skip
    outfit = outfit_phrase(subject.looks.outfit, looks.color_name) if looks.color_name else None
    return Parts(
        noun or "a puppet", head_phrases(subject.looks), outfit, subject.arms, subject.legs,
        subject.gaze, subject.expression, subject.background, subject.distance, medium,
    )  # fmt: skip


def caption(subject: Puppet | Toy, noun: str | None = None, medium: str = PHOTO) -> str:
    """The full caption, see `parts_of`."""
    return parts_of(subject, noun, medium).text()


def loose_caption(
    subject: Puppet | Toy, rng: Random, medium: str = PHOTO, keep: float = 0.8
) -> str:
    """The caption with randomly dropped parts, as people write them."""
    parts = parts_of(subject, None, medium)

    def maybe(part: str | None) -> str | None:
        return part if rng.random() < keep else None

    outfit = maybe(parts.outfit)
    if parts.outfit and not outfit and rng.random() < 0.5:  # without its color
        outfit = f"wearing a {parts.outfit.split(' ', 3)[3]}"
    noun = parts.subject
    if noun == "a puppet":
        noun = rng.choices(("a puppet", "puppet", "the puppet"), (8, 1, 1))[0]
    if rng.random() < (0.5 if subject.looks.wild else 0.05):  # unknown characters have names
        letters = (rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))
        name = rng.choice(TRIGGERS) if rng.random() < 0.5 else "".join(letters)
        head, _, last = noun.rpartition(" ")
        noun = f"{head} {name} {last}".strip()
    loose = Parts(
        noun, tuple(head for head in parts.heads if rng.random() < keep), outfit,
        maybe(parts.arms), maybe(parts.legs), maybe(parts.gaze), maybe(parts.expression),
        maybe(parts.background), maybe(parts.distance), parts.medium,
    )  # fmt: skip
    return loose.text()


def describe(subject: Puppet | Toy, rng: Random, medium: str = PHOTO, keep: float = 0.7) -> str:
    """A description of everything visible, with random omissions, in any order (for the CLIP)."""
    looks = subject.looks
    color = looks.color_name or color_word(looks.color, NAMED)
    if isinstance(subject, Toy):
        kind, second = subject.looks.kind, color_word(looks.second_color, NAMED)
        named = (f"{color} and {second} ", f"{color} ", "")
        noun = f"a {named[(rng.random() >= keep) + (rng.random() >= keep)]}{kind}"
        parts = [subject.tilt, subject.side, subject.background, subject.distance]
    else:
        puppet_looks, noun = subject.looks, "a puppet"
        head = puppet_looks.head_color_name or color_word(puppet_looks.head_color, NAMED)
        style, _, last = puppet_looks.head.rpartition(" ")
        skin_names = NAMED if looks.wild else SKINS
        skin = (color_word if looks.wild else skin_word)(puppet_looks.skin, skin_names)
        parts = [
            f"with {style} {head} {last}" if puppet_looks.head in HAIRSTYLES
            else f"with {'' if last.endswith('s') else 'a '}{head} {puppet_looks.head}",
            f"with {skin} skin", f"with {color_word(puppet_looks.shoes, NAMED)} shoes",
            f"wearing a {color} {puppet_looks.outfit}", subject.arms, subject.legs, subject.gaze,
            subject.expression, subject.background, subject.distance,
        ]  # fmt: skip
        parts += [f"with {puppet_looks.glasses}"] if puppet_looks.glasses else []
        parts += [f"with a {puppet_looks.accessory}"] if puppet_looks.accessory else []
    parts = [part for part in parts if rng.random() < keep]
    rng.shuffle(parts)
    if parts and parts[0].split()[0] in ("with", "wearing", "in", "on", "at"):
        return ", ".join([f"{medium} of {noun} {parts[0]}", *parts[1:]])
    return ", ".join([f"{medium} of {noun}", *parts])


def vocabulary() -> list[str]:
    """The words that the tokenizer keeps whole, in a fixed order."""
    text = "a photo of puppet with wearing a an skin shoes hair , . ! : - _"
    phrases = [
        text, *ARMS, *LEGS, *GAZES, *EXPRESSIONS, *DISTANCES, *BACKGROUNDS, *OUTFITS, *HAIRSTYLES,
        *HATS, *WILD_HATS, *GLASSES, *ACCESSORIES, *CLOTHES, *NAMED, *SKINS, *HAIR_COLORS,
        *HAT_COLORS, *KINDS, *TILTS, *SIDES, *STYLES,
    ]  # fmt: skip
    words = [word for phrase in phrases for word in phrase.split()]
    return list(dict.fromkeys([*words, *ORDINARY_WORDS, "object", "thing", *TRIGGERS]))
