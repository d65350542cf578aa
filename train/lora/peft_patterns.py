"""Matches the patterns of module names in PEFT's rank_pattern and alpha_pattern.

They are regular expressions from a file, and Python's own matching can take exponential time on a
hostile one. So the patterns that people write (names, `.*`, alternatives, digits, anchors) are
matched here by following all positions of the name at once: each sign of a pattern takes one step.
The positions are the bits of an integer.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import lru_cache

MAX_CHARACTERS = 1000  # characters of a pattern, and of a name
MAX_DEPTH = 10  # levels of nested brackets
QUANTIFIERS = "*+?"
DIGITS, WORDS = string.digits, f"{string.ascii_letters}{string.digits}_"
CLASSES = {"d": DIGITS, "w": WORDS}
SPECIAL = set("\\^$.|?*+()[]{}")


@dataclass(frozen=True)
class Atom:
    """One character of a name, or its beginning or end, possibly repeated.

    Attributes:
        characters: the characters that match; None: any.
        negated: match all but these.
        repeated: one of `*`, `+`, `?`, or empty.
        anchor: `^` or `$`, if it is not a character.
    """

    characters: str | None = None
    negated: bool = False
    repeated: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Choice:
    """Alternative sequences; optional: or none of them."""

    sequences: tuple[tuple[Atom | Choice, ...], ...]
    optional: bool = False


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches a name, or its end after a dot, as PEFT's `get_pattern_key` does.

    Raises:
        ValueError: the pattern has unsupported syntax.
    """
    if len(name) > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    starts = 1 | sum(1 << place + 1 for place, sign in enumerate(name) if sign == ".")
    return bool(_end_positions(_parsed(pattern), name, starts) >> len(name))


def _end_positions(choice: Choice, name: str, starts: int) -> int:
    """The positions at which a choice can end that starts at one of these."""
    ends = starts if choice.optional else 0
    for sequence in choice.sequences:
        places = starts
        for part in sequence:
            if not places:
                break
            if isinstance(part, Choice):
                places = _end_positions(part, name, places)
            else:
                places = _step(part, name, places)
        ends |= places
    return ends


def _step(sign: Atom, name: str, places: int) -> int:
    if sign.anchor:
        return places & (1 if sign.anchor == "^" else 1 << len(name))
    where = _matching_positions(sign.characters, sign.negated, name)
    if sign.repeated == "*":
        return _repeat(places, where)
    once = (places & where) << 1
    if sign.repeated == "+":
        return _repeat(once, where)
    return places | once if sign.repeated == "?" else once


def _repeat(places: int, where: int) -> int:
    """All positions reached by steps at set positions: the sum carries through runs of them."""
    return places | (((places & where) + where) ^ where)


@lru_cache(maxsize=100_000)
def _matching_positions(characters: str | None, negated: bool, name: str) -> int:
    """The positions of a name that have one of these characters."""
    if characters is None:
        return (1 << len(name)) - 1
    return sum(1 << place for place, sign in enumerate(name) if (sign in characters) != negated)


@lru_cache(maxsize=10_000)
def _parsed(pattern: str) -> Choice:
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    choice, end = _choice(pattern, 0, 0)
    if end != len(pattern):
        raise ValueError("closes a bracket that is not open")
    return choice


def _choice(pattern: str, place: int, depth: int, fold: bool = False) -> tuple[Choice, int]:
    """Parses up to a closing bracket or the end; returns the choice and the position after it.

    Args:
        fold: ignore case.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"has more than {MAX_DEPTH} brackets within brackets")
    sequences: list[list[Atom | Choice]] = [[]]
    while place < len(pattern) and pattern[place] != ")":
        sign = pattern[place]
        if sign == "|":
            sequences.append([])
            place += 1
            continue
        part: Atom | Choice
        if sign == "(":
            part, place = _group(pattern, place + 1, depth, fold)
        else:
            part, place = _atom(pattern, place, fold)
        sequences[-1].append(part)
    return Choice(tuple(map(tuple, sequences))), place


def _group(pattern: str, place: int, depth: int, fold: bool) -> tuple[Choice, int]:
    for sign in ("?:", "?i:"):
        if pattern.startswith(sign, place):
            fold, place = fold or sign == "?i:", place + len(sign)
            break
    inner, place = _choice(pattern, place, depth + 1, fold)
    if not pattern.startswith(")", place):
        raise ValueError("does not close a bracket")
    repeated, place = _repetition(pattern, place + 1)
    if repeated not in ("", "?"):
        raise ValueError("repeats what is in brackets")
    return Choice(inner.sequences, bool(repeated)), place


def _atom(pattern: str, place: int, fold: bool) -> tuple[Atom, int]:
    sign, place = pattern[place], place + 1
    if sign in "^$":
        return Atom(anchor=sign), place
    characters: str | None = sign
    negated = False
    if sign == ".":
        characters = None
    elif sign == "\\":
        characters, place = _escaped(pattern, place)
    elif sign == "[":
        characters, negated, place = _class(pattern, place)
    elif sign in SPECIAL:
        raise ValueError(f"has {sign} where a name should be")
    if fold and characters is not None:
        characters += characters.swapcase()
    repeated, place = _repetition(pattern, place)
    return Atom(characters, negated, repeated), place


def _repetition(pattern: str, place: int) -> tuple[str, int]:
    if place == len(pattern) or pattern[place] not in QUANTIFIERS:
        return "", place
    repeated, place = pattern[place], place + 1
    return repeated, place + pattern.startswith("?", place)  # lazy: equivalent here


def _escaped(pattern: str, place: int) -> tuple[str, int]:
    sign = pattern[place : place + 1]
    if not sign or (sign.isalnum() and sign not in CLASSES):
        raise ValueError(f"has \\{sign}")
    return CLASSES.get(sign, sign), place + 1


def _class(pattern: str, place: int) -> tuple[str, bool, int]:
    """The characters of a class such as [a-z_], whether it is negated, and where it ends."""
    negated = pattern.startswith("^", place)
    place += negated
    characters = ""
    while not pattern.startswith("]", place):
        sign = pattern[place : place + 1]
        if sign in ("", "["):
            raise ValueError("has a class that does not end")
        if sign == "\\":
            more, place = _escaped(pattern, place + 1)
        elif pattern[place + 1 : place + 2] == "-" and pattern[place + 2 : place + 3] not in "]":
            first, last = ord(sign), ord(pattern[place + 2])
            if not first <= last < 128 or pattern[place + 2] == "\\":
                raise ValueError("has a range that is none")
            more, place = "".join(map(chr, range(first, last + 1))), place + 3
        else:
            more, place = sign, place + 1
        characters += more
    if not characters:
        raise ValueError("has an empty class")
    return characters, negated, place + 1
