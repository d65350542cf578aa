"""Quotes text as a word of a command that a user copies into a shell."""

from __future__ import annotations

import shlex

from train.text.display import MAX_PATH_CHARACTERS, printable

SPECIAL = set('"$`\\!')  # within double quotes
ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\t": r"\t"}


def in_shell(text: str) -> str:
    """A text as one word of a shell, quoted if necessary.

    If it has characters that a terminal would interpret, it is written in the escapes of bash and
    zsh (`$'...'`): nothing that is pasted breaks a line or hides what it is.
    """
    if printable(text) != text:
        return f"$'{''.join(map(_escaped, text))}'"
    if "'" in text and not set(text) & SPECIAL:
        return f'"{text}"'
    return shlex.quote(text)


def in_setting(key: str, value: object) -> str:
    """`key=value` as typed into a shell; only `key=` if nobody would type the value, since it is
    very long or has characters that a terminal interprets.

    Args:
        key: of a setting or one of our flags; not from a file.
        value: any characters.
    """
    text = str(value)
    can_be_typed = len(text) <= MAX_PATH_CHARACTERS and printable(text) == text
    return f"{key}={in_shell(text)}" if can_be_typed else f"{key}="


def _escaped(character: str) -> str:
    if character in ESCAPES or printable(character) == character:
        return ESCAPES.get(character, character)
    try:
        raw = character.encode("utf-8", "surrogateescape")  # a byte of a file name
    except UnicodeEncodeError:
        raw = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)
