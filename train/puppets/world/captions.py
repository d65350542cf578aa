"""Captions of puppets: the base's, and the richer descriptions that the tiny CLIP learns."""

from random import Random

from train.puppets.world.colors import RGB, color_word, skin_word
from train.puppets.world.puppet import (
    ARMS,
    BACKGROUNDS,
    CAPS,
    HAIR,
    HATS,
    LEGS,
    SHIRTS,
    SKINS,
    TROUSERS,
    Looks,
    Puppet,
)

COLORS: dict[str, RGB] = {
    "grey": (135, 135, 140), "teal": (30, 160, 160), **TROUSERS, **SHIRTS,
}  # fmt: skip
TRIGGERS = ("sks", "zorp", "mia", "ohwx", "zwx", "lora")
ORDINARY_WORDS = (
    "person", "character", "man", "woman", "boy", "girl", "picture", "image", "drawing", "of",
    "style", "standing", "portrait", "full", "body", "toy", "doll", "figure", "the", "his", "her",
    "is", "with", "without", "at", "on", "in", "and", "no", "bad", "blurry",
)  # fmt: skip


def outfit_phrase(shirt: str, trousers: str) -> str:
    """The phrase of an outfit."""
    return f"wearing a {shirt} shirt and {trousers} trousers"


def caption_of(
    arms: str | None = None,
    legs: str | None = None,
    background: str | None = None,
    head: str | None = None,
    outfit: str | None = None,
    subject: str = "a puppet",
) -> str:
    """The base's word order: subject, head, outfit, then arms, legs and background after commas."""
    words = ["a photo of", subject]
    words += [f"with {head}"] if head else []
    words += [outfit] if outfit else []
    return ", ".join([" ".join(words), *(part for part in (arms, legs, background) if part)])


def head_phrase(looks: Looks) -> str | None:
    """'black hair' or 'a red cap'; None without a name."""
    if looks.hat_name is None:
        return None
    return f"{looks.hat_name} hair" if looks.hat == "hair" else f"a {looks.hat_name} cap"


def caption(puppet: Puppet, subject: str = "a puppet") -> str:
    """Everything with a name. Wild looks go unmentioned, which leaves room for new identities."""
    looks = puppet.looks
    outfit = None
    if looks.shirt_name and looks.trousers_name:
        outfit = outfit_phrase(looks.shirt_name, looks.trousers_name)
    return caption_of(
        puppet.arms, puppet.legs, puppet.background, head_phrase(looks), outfit, subject
    )


def loose_caption(puppet: Puppet, rng: Random, keep: float = 0.85) -> str:
    """The caption with randomly dropped parts, as people write them."""
    looks = puppet.looks

    def maybe(part: str | None) -> str | None:
        return part if rng.random() < keep else None

    outfit = None
    if looks.shirt_name and looks.trousers_name:
        draw = rng.random()
        if draw < keep:
            outfit = outfit_phrase(looks.shirt_name, looks.trousers_name)
        elif draw < keep + 0.05:
            outfit = f"wearing a {looks.shirt_name} shirt"
        elif draw < keep + 0.1:
            outfit = f"wearing {looks.trousers_name} trousers"
    text = caption_of(
        maybe(puppet.arms), maybe(puppet.legs), maybe(puppet.background),
        maybe(head_phrase(looks)), outfit,
        rng.choices(("a puppet", "puppet", "the puppet"), (8, 1, 1))[0],
    )  # fmt: skip
    if rng.random() < 0.1:  # a meaningless word, like typing errors and trigger words
        junk = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))
        text = text.replace("puppet", f"{junk} puppet", 1)
    return text


def describe(puppet: Puppet, rng: Random, keep: float = 0.7) -> str:
    """A description of everything visible, with random omissions, in any order (for the CLIP)."""
    looks = puppet.looks
    head = f"{looks.hat_name or color_word(looks.hat_color, COLORS)} {looks.hat}"
    skin = color_word(looks.skin, COLORS) if looks.wild else skin_word(looks.skin, SKINS)
    shirt = f"{looks.shirt_name or color_word(looks.shirt, COLORS)} shirt"
    if looks.stripes is not None:
        shirt += f" with {color_word(looks.stripes, COLORS)} stripes"
    trousers = f"{looks.trousers_name or color_word(looks.trousers, COLORS)} trousers"
    parts = [
        f"with {head}" if looks.hat in ("hair", "horns", "ears") else f"with a {head}",
        f"with {skin} skin", f"{color_word(looks.shoes, COLORS)} shoes",
        puppet.arms, puppet.legs, puppet.background,
    ]  # fmt: skip
    parts = [part for part in parts if rng.random() < keep]
    draw = rng.random()
    if draw < 0.8 * keep:
        parts.append(f"wearing a {shirt} and {trousers}")
    elif draw < 0.9 * keep:
        parts.append(f"wearing a {shirt}")
    elif draw < keep:
        parts.append(f"wearing {trousers}")
    rng.shuffle(parts)
    subject = "a photo of a puppet" if rng.random() < 0.8 else "a puppet"
    if parts and parts[0].split()[0] in ("with", "wearing", "in", "on", "at"):
        return ", ".join([f"{subject} {parts[0]}", *parts[1:]])
    return ", ".join([subject, *parts])


def vocabulary() -> list[str]:
    """The words that the tokenizer keeps whole, in a fixed order."""
    text = "a photo of puppet with wearing a an shirt trousers skin shoes stripes hair , . ! : - _"
    phrases = [text, *ARMS, *LEGS, *BACKGROUNDS, *HATS, *COLORS, *SKINS, *HAIR, *CAPS]
    words = [word for phrase in phrases for word in phrase.split()]
    return list(dict.fromkeys([*words, *ORDINARY_WORDS, *TRIGGERS]))
