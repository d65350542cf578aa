"""Reads files that a person or another program may have written; the only way to do so.

A file from a stranger is data: it is read completely or not at all, within limits, and the result
has the type that the caller names. Nothing here runs code, follows an alias, or waits for a device
that never ends.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NewType, TypeVar, cast, get_args

import msgspec
import yaml

from train.config.parsing import MAX_INT_BITS
from train.errors import UserError
from train.files.toml_limits import toml_excess
from train.text.display import shortened

MAX_BYTES = 32_000_000  # bytes of a text
MAX_DEPTH = 12  # levels of lists and mappings
TREE = 8  # the same for a `Tree`: each level doubles the time to create its type
MAX_NODES = 500_000  # values, keys and containers of a YAML text
MAX_PARTS = 2_000_000  # commas and brackets of a JSON text: each may take 300 bytes of memory
MAX_DIGITS = 301  # of an integer: as many as MAX_INT_BITS has
LONG_NUMBER = re.compile(r"(?<![0-9])[0-9]{302}")
LONG_NUMBER_BYTES = re.compile(LONG_NUMBER.pattern.encode())
NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-FxXoO_:.]*")  # what YAML may parse as a number
MAX_MESSAGE_CHARACTERS = 200  # characters of a message
# YAML's tags of plain values; ! alone is a quoted text
NUMBER_TAGS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
TAGS = {
    "!",
    *NUMBER_TAGS,
    *(f"tag:yaml.org,2002:{name}" for name in ("str", "bool", "null", "seq", "map")),
}
# non-blocking: opening a pipe without a writer would wait forever
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

VALUE_FIELD = "held"  # the only field of the structs in which values are converted

Kind = TypeVar("Kind")
Scalar = None | bool | int | float | str


def _nested(levels: int) -> Any:
    """The type of plain values with at most `levels` nested containers."""
    kind: Any = Scalar
    for _ in range(levels):
        kind = Scalar | list[kind] | dict[str, kind]
    return kind


if TYPE_CHECKING:
    Tree = dict[str, Any]
else:  # free-form content, such as logged settings: only plain values, of a bounded depth
    # a NewType, since typing expands a mere alias at each use, which takes time
    Tree = NewType("Tree", dict[str, _nested(TREE - 1)])
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UntrustedFileError(UserError, ValueError):
    """A file is not what it should be; the message names it, the position, and the fault."""


def check_regular(file: Path) -> None:
    """Rejects anything but a regular file: a folder, a pipe, a device, or a link to one of them.

    Raises:
        UntrustedFileError: it is not a regular file.
        OSError: it is missing or not accessible.
    """
    _check_mode(file, os.stat(file).st_mode)


def check_own_file(file: Path) -> None:
    """Rejects a link: where this program writes a file itself, a link is somebody else's.

    Raises:
        UntrustedFileError: it is a link.
    """
    if file.is_symlink():
        raise UntrustedFileError("a link, and not a file of this program")


@contextmanager
def opened(file: Path, max_bytes: int = MAX_BYTES) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Args:
        max_bytes: maximum size in bytes.

    Raises:
        UntrustedFileError: it is not a regular file, or too large.
        OSError: it is missing or cannot be read.
    """
    descriptor = os.open(file, READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        _check_mode(file, status.st_mode)  # before Python's open, which rejects a folder itself
        if status.st_size > max_bytes:
            raise too_large(file, max_bytes)
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def read_bytes(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        max_bytes: maximum size in bytes, also for files that grow or misstate their size.

    Raises:
        UntrustedFileError: it is not a regular file, or too large.
        OSError: it is missing or cannot be read.
    """
    with opened(file, max_bytes) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise too_large(file, max_bytes)
    return content


def read_text(file: Path, max_bytes: int = MAX_BYTES) -> str:
    """The content of a text in UTF-8.

    Raises:
        UntrustedFileError, OSError: see `read_bytes`; also if it is not UTF-8.
    """
    return _text(read_bytes(file, max_bytes), shortened(file))


def read_json(file: Path, kind: type[Kind], max_bytes: int = MAX_BYTES) -> Kind:
    """The content of a JSON file, see `parse_json`.

    Raises:
        UntrustedFileError, OSError: see `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(file, max_bytes), kind, shortened(file), max_bytes)


def parse_json(
    content: bytes | str, kind: type[Kind], name: str, max_bytes: int = MAX_BYTES
) -> Kind:
    """A JSON text as a value of a type; NaN and infinity are numbers, as Python writes them.

    Args:
        kind: any type that msgspec supports. Free-form parts are `Tree`; never Any, which has no
            limits. Unknown fields are ignored.
        name: of the source, for messages.
        max_bytes: maximum length in characters or bytes.

    Raises:
        UntrustedFileError: not JSON, too long, or of another type; the message says where.
    """
    if len(content) > max_bytes:
        raise UntrustedFileError(f"{name}: is longer than {max_bytes} characters")
    if (count := count_parts(content)) > MAX_PARTS:
        raise UntrustedFileError(f"{name}: has {count} values, and at most {MAX_PARTS} are read")
    try:
        # raw parts are checked when they are decoded
        if msgspec.Raw in get_args(kind) or not _has_long_number(content):
            target: Any = kind
            decoded: Kind = _decoder(target).decode(content)
            return decoded
    except msgspec.ValidationError as error:
        raise UntrustedFileError(f"{name}: {_one_line(error)}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # a NaN, or not JSON: Python's parser finds out, and where
    try:
        loaded = json.loads(content)
    except RecursionError:
        raise UntrustedFileError(f"{name}: is nested too deeply") from None
    except ValueError as error:
        raise UntrustedFileError(f"{name}: is not JSON: {_one_line(error)}") from None
    return convert(loaded, kind, name)


def count_parts(content: bytes | str) -> int:
    """An upper bound of the number of values in a JSON text, by its commas and brackets.

    Those in strings count too, although a string takes no more memory than its length.
    """
    if isinstance(content, str):
        return content.count(",") + content.count("[") + content.count("{")
    return content.count(b",") + content.count(b"[") + content.count(b"{")


def _has_long_number(content: bytes | str) -> bool:
    """Whether a JSON text has a run of digits that may be too large a number."""
    if isinstance(content, str):
        return LONG_NUMBER.search(content) is not None
    return LONG_NUMBER_BYTES.search(content) is not None


@lru_cache(maxsize=200)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Cached: a journal has thousands of lines of one type, and inspecting the type is slow."""
    return msgspec.json.Decoder(kind)


def read_yaml(file: Path, kind: type[Kind], max_bytes: int = MAX_BYTES) -> Kind:
    """The content of a YAML file, see `parse_yaml`.

    Raises:
        UntrustedFileError, OSError: see `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(file, max_bytes), kind, shortened(file))


def parse_yaml(text: str, kind: type[Kind], name: str) -> Kind:
    """A YAML text as a value of a type.

    Aliases (`*a`) are rejected, since a short text could stand for a huge value; so are tags,
    except YAML's own for plain values.

    Args:
        kind, name: see `parse_json`.

    Raises:
        UntrustedFileError: not such YAML, or of another type; the message says where.
    """
    try:
        _check_events(text, name)
        loaded = yaml.load(text, Loader=_Loader)
    except UntrustedFileError:
        raise
    except RecursionError:
        raise UntrustedFileError(f"{name}: is nested too deeply") from None
    except (KeyError, IndexError):  # PyYAML's, for a text such as `!!bool x` or `!!int ""`
        raise UntrustedFileError(f"{name}: is not YAML: a tag does not suit its value") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise UntrustedFileError(f"{name}: is not YAML: {_one_line(error)}") from None
    return convert(loaded, kind, name)


def parse_toml(text: str, kind: type[Kind], name: str) -> Kind:
    """A TOML text as a value of a type.

    Args:
        kind, name: see `parse_json`.

    Raises:
        UntrustedFileError: not TOML, of another type, or too deep; the message says where.
    """
    if reason := toml_excess(text):
        raise UntrustedFileError(f"{name}: {reason}")
    try:
        loaded = tomllib.loads(text)
    except ValueError as error:
        raise UntrustedFileError(f"{name}: is not TOML: {_one_line(error)}") from None
    return convert(loaded, kind, name)


def convert(loaded: object, kind: type[Kind], name: str) -> Kind:
    """Converts a loaded value to a type.

    Raises:
        UntrustedFileError: it does not fit, or has too large a number; the message says where.
    """
    if _has_large_number(loaded):
        raise UntrustedFileError(f"{name}: has a whole number of more than {MAX_DIGITS} digits")
    try:
        target: Any = kind
        wrapped: Any = msgspec.convert({VALUE_FIELD: loaded}, type=_wrapper_type(target))
        return cast(Kind, getattr(wrapped, VALUE_FIELD))
    except RecursionError:
        raise UntrustedFileError(f"{name}: is nested too deeply") from None
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        message = (
            _one_line(error)
            .replace(f" - at `$.{VALUE_FIELD}`", "")
            .replace(f"`$.{VALUE_FIELD}", "`$")
        )
        raise UntrustedFileError(f"{name}: {message}") from None


@lru_cache(maxsize=200)
def _wrapper_type(kind: Any) -> type[msgspec.Struct]:
    """A struct with one field: msgspec caches the inspection of a type for structs only, and
    inspecting a `Tree` takes milliseconds."""
    return msgspec.defstruct("Holder", [(VALUE_FIELD, kind)])


def _has_large_number(loaded: object) -> bool:
    """Whether it contains an integer that is too large to be used or printed."""
    remaining = [loaded]
    while remaining:
        one = remaining.pop()
        if isinstance(one, int):
            if one.bit_length() > MAX_INT_BITS:
                return True
        elif isinstance(one, dict):
            remaining += one.values()
        elif isinstance(one, list | tuple):
            remaining += one
    return False


def to_plain_values(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of plain values as after a JSON round trip: msgspec's structs become mappings."""
    return dict(msgspec.to_builtins(mapping))


def _check_events(text: str, name: str) -> None:
    """Checks the events of a YAML text before anything is constructed."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        location = f"{name}: line {event.start_mark.line + 1 if event.start_mark else 0}"
        if isinstance(event, yaml.AliasEvent):
            raise UntrustedFileError(
                f"{location}: has an alias (*{event.anchor}); write its value out"
            )
        if (tag := getattr(event, "tag", None)) and tag not in TAGS:
            raise UntrustedFileError(f"{location}: has the tag {tag}; only plain values are read")
        if isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
            raise UntrustedFileError(
                f"{location}: has a whole number of more than {MAX_DIGITS} digits"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UntrustedFileError(f"{location}: is nested more than {MAX_DEPTH} levels deep")
        if count > MAX_NODES:
            raise UntrustedFileError(f"{name}: has more than {MAX_NODES} values")


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    """Whether YAML would construct a number from a text that is too long for one.

    A text such as 1:1:1 is a number to the base 60, and the time that it takes is quadratic.
    """
    if len(event.value) <= MAX_DIGITS:
        return False
    is_plain = event.implicit[0] and NUMBER.fullmatch(event.value) is not None
    return is_plain or event.tag in NUMBER_TAGS


def too_large(file: Path, max_bytes: int) -> UntrustedFileError:
    """The error for a file of more bytes than allowed."""
    size = f"{max_bytes / 1e6:g} MB" if max_bytes >= 1e6 else f"{max_bytes / 1e3:g} KB"
    return UntrustedFileError(f"{shortened(file)}: is larger than {size}")


def _check_mode(file: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UntrustedFileError(f"{shortened(file)}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise UntrustedFileError(f"{shortened(file)}: is a pipe or a device, not a file")


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UntrustedFileError(f"{name}: is not text in UTF-8 (byte {error.start})") from None


def _one_line(error: Exception) -> str:
    """A message in one line, including the position if it has one."""
    message = " ".join(str(error).split()) or type(error).__name__
    message = message[:1].lower() + message[1:]
    return (
        message
        if len(message) <= MAX_MESSAGE_CHARACTERS
        else f"{message[:MAX_MESSAGE_CHARACTERS]}..."
    )
