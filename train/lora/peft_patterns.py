"""Matches the patterns of module names in PEFT's rank_pattern and alpha_pattern.

They are regular expressions from a file, and Python's own matching can take exponential time on a
hostile one. So the patterns that people write (names, `.*`, alternatives, digits, anchors) are
matched here by following all positions of the name at once: each element of a pattern takes one
step. The positions are the bits of an integer.
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
    starts = 1 | sum(
        1 << position + 1 for position, character in enumerate(name) if character == "."
    )
    return bool(_end_positions(_parsed(pattern), name, starts) >> len(name))


def _end_positions(choice: Choice, name: str, starts: int) -> int:
    """The positions at which a choice can end that starts at one of these."""
    ends = starts if choice.optional else 0
    for sequence in choice.sequences:
        positions = starts
        for part in sequence:
            if not positions:
                break
            if isinstance(part, Choice):
                positions = _end_positions(part, name, positions)
            else:
                positions = _step(part, name, positions)
        ends |= positions
    return ends


def _step(atom: Atom, name: str, positions: int) -> int:
    if atom.anchor:
        return positions & (1 if atom.anchor == "^" else 1 << len(name))
    matching = _matching_positions(atom.characters, atom.negated, name)
    if atom.repeated == "*":
        return _repeat(positions, matching)
    stepped = (positions & matching) << 1
    if atom.repeated == "+":
        return _repeat(stepped, matching)
    return positions | stepped if atom.repeated == "?" else stepped


def _repeat(positions: int, matching: int) -> int:
    """All positions reached by steps at set positions: the sum carries through runs of them."""
    return positions | (((positions & matching) + matching) ^ matching)


@lru_cache(maxsize=100_000)
def _matching_positions(characters: str | None, negated: bool, name: str) -> int:
    """The positions of a name that have one of these characters."""
    if characters is None:
        return (1 << len(name)) - 1
    return sum(
        1 << position
        for position, character in enumerate(name)
        if (character in characters) != negated
    )


@lru_cache(maxsize=10_000)
def _parsed(pattern: str) -> Choice:
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    choice, end = _choice(pattern, 0, 0)
    if end != len(pattern):
        raise ValueError("closes a bracket that is not open")
    return choice


def _choice(pattern: str, position: int, depth: int, fold: bool = False) -> tuple[Choice, int]:
    """Parses up to a closing bracket or the end; returns the choice and the position after it.

    Args:
        fold: ignore case.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"has more than {MAX_DEPTH} brackets within brackets")
    sequences: list[list[Atom | Choice]] = [[]]
    while position < len(pattern) and pattern[position] != ")":
        character = pattern[position]
        if character == "|":
            sequences.append([])
            position += 1
            continue
        part: Atom | Choice
        if character == "(":
            part, position = _group(pattern, position + 1, depth, fold)
        else:
            part, position = _atom(pattern, position, fold)
        sequences[-1].append(part)
    return Choice(tuple(map(tuple, sequences))), position


def _group(pattern: str, position: int, depth: int, fold: bool) -> tuple[Choice, int]:
    for flag in ("?:", "?i:"):
        if pattern.startswith(flag, position):
            fold, position = fold or flag == "?i:", position + len(flag)
            break
    inner, position = _choice(pattern, position, depth + 1, fold)
    if not pattern.startswith(")", position):
        raise ValueError("does not close a bracket")
    repeated, position = _repetition(pattern, position + 1)
    if repeated not in ("", "?"):
        raise ValueError("repeats what is in brackets")
    return Choice(inner.sequences, bool(repeated)), position


def _atom(pattern: str, position: int, fold: bool) -> tuple[Atom, int]:
    character, position = pattern[position], position + 1
    if character in "^$":
        return Atom(anchor=character), position
    characters: str | None = character
    negated = False
    if character == ".":
        characters = None
    elif character == "\\":
        characters, position = _escaped(pattern, position)
    elif character == "[":
        characters, negated, position = _class(pattern, position)
    elif character in SPECIAL:
        raise ValueError(f"has {character} where a name should be")
    if fold and characters is not None:
        characters += characters.swapcase()
    repeated, position = _repetition(pattern, position)
    return Atom(characters, negated, repeated), position


def _repetition(pattern: str, position: int) -> tuple[str, int]:
    if position == len(pattern) or pattern[position] not in QUANTIFIERS:
        return "", position
    repeated, position = pattern[position], position + 1
    return repeated, position + pattern.startswith("?", position)  # lazy: equivalent here


def _escaped(pattern: str, position: int) -> tuple[str, int]:
    character = pattern[position : position + 1]
    if not character or (character.isalnum() and character not in CLASSES):
        raise ValueError(f"has \\{character}")
    return CLASSES.get(character, character), position + 1


def _class(pattern: str, position: int) -> tuple[str, bool, int]:
    """The characters of a class such as [a-z_], whether it is negated, and where it ends."""
    negated = pattern.startswith("^", position)
    position += negated
    characters = ""
    while not pattern.startswith("]", position):
        character = pattern[position : position + 1]
        if character in ("", "["):
            raise ValueError("has a class that does not end")
        if character == "\\":
            more, position = _escaped(pattern, position + 1)
        elif (
            pattern[position + 1 : position + 2] == "-"
            and pattern[position + 2 : position + 3] not in "]"
        ):
            first, last = ord(character), ord(pattern[position + 2])
            if not first <= last < 128 or pattern[position + 2] == "\\":
                raise ValueError("has a range that is none")
            more, position = "".join(map(chr, range(first, last + 1))), position + 3
        else:
            more, position = character, position + 1
        characters += more
    if not characters:
        raise ValueError("has an empty class")
    return characters, negated, position + 1
