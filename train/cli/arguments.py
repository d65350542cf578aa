"""Turns the command line as typed into the overrides that Hydra parses.

For a text setting, the argument from the shell is the text itself, whatever its characters; every
other value keeps Hydra's grammar, including sweeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from hydra._internal.utils import get_args_parser

from train.config.ranges import format_value
from train.config.setting_kinds import PATH_KINDS, TEXT_KINDS, Kind, Kinds, escape_interpolations
from train.errors import ConfigError
from train.files.paths import expanded
from train.text.display import shortened
from train.text.shell import SPECIAL, in_shell

MULTIRUN_FLAGS = {"-m", "--multirun"}
RERUN_FLAG = "--experimental-rerun"
KEY = re.compile(r"(~|\+{0,2})[A-Za-z_][A-Za-z0-9_./@:-]*")
CHOICE_SWEEP = re.compile(r"\s*choice\(.*\)\s*", re.DOTALL)
INTERPOLATION = re.compile(r"\$\{([A-Za-z0-9_.]+)\}")
QUOTES = "'\""
ALLOW_PATH, ALLOW_CLASS = "--allow-path", "--allow-class"  # ours; Hydra never sees them
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
DASHES = ("-", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")  # the last three from web pages


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
        flags: Hydra's flags with their values (`--cfg job`), in order.
        overrides: `key=value`, `+key=value`, `~key`.
        allowed_paths, allowed_classes: what files may name, see `train.files.permissions`.
    """

    flags: list[str]
    overrides: list[str]
    allowed_paths: list[str] = field(default_factory=list)
    allowed_classes: list[str] = field(default_factory=list)

    @property
    def multirun(self) -> bool:
        return bool(MULTIRUN_FLAGS & {*self.flags})


def split_arguments(arguments: Sequence[str]) -> Arguments:
    """Separates flags from overrides, and our flags from Hydra's.

    Raises:
        ConfigError: an argument that is neither; says what to type instead.
    """
    flags: list[str] = []
    overrides: list[str] = []
    parts = Arguments(flags, overrides)
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument.partition("=")[0] in (ALLOW_PATH, ALLOW_CLASS):
            _allow(parts, argument, remaining)
            continue
        if not argument.startswith(DASHES):
            _check_override(argument, overrides, remaining)
            overrides.append(argument)
            continue
        values = _flag_values(argument, remaining)
        if values is None:
            raise ConfigError(_unknown_flag_message(argument, remaining))
        flags += [argument, *remaining[:values]]
        del remaining[:values]
    return parts


def _allow(parts: Arguments, argument: str, remaining: list[str]) -> None:
    """Records what one of our flags allows; its value may be the next argument."""
    name, separator, value = argument.partition("=")
    if not separator and remaining and remaining[0][:1] != "-":
        value = remaining.pop(0)
    if name == ALLOW_PATH:
        parts.allowed_paths.append(allowed_path(value))
    else:
        parts.allowed_classes.append(allowed_class(value))


def allowed_path(value: str) -> str:
    """A folder (or a file, for its folder) below which files may name others.

    Raises:
        ConfigError: it does not exist.
    """
    if not value:
        raise ConfigError(f"{ALLOW_PATH}: needs a folder, as in {ALLOW_PATH}=/photos")
    try:
        if expanded(value).exists():
            return value
    except (OSError, ValueError):  # too long, a NUL character
        pass
    raise ConfigError(f"{ALLOW_PATH}: there is no folder {shortened(value)}")


def allowed_class(value: str) -> str:
    """The dotted path of a class that a file may name.

    Raises:
        ConfigError: it is not a dotted path.
    """
    if not CLASS_PATH.fullmatch(value):
        given = f"{format_value(value)} is no" if value else "needs the"
        raise ConfigError(
            f"{ALLOW_CLASS}: {given} dotted path of a class, as in {ALLOW_CLASS}=my.module.Class"
        )
    return value


def _flag_values(argument: str, following: Sequence[str]) -> int | None:
    """The number of following arguments that belong to a flag; None: Hydra has no such flag."""
    name, separator, _ = argument.partition("=")
    if name == RERUN_FLAG:
        raise ConfigError(f"{RERUN_FLAG}: reads a pickle, which can run code; it is not supported")
    for action in get_args_parser()._actions:
        if name not in action.option_strings:
            continue
        if separator and action.nargs == 0:
            raise ConfigError(f"{name}: takes no value")
        if separator or action.nargs == 0:
            return 0
        if action.nargs == "?":  # --info: the value is optional
            return int(bool(following) and following[0] in (action.choices or ()))
        if not following:
            raise ConfigError(f"{name}: needs a value after it")
        if action.choices and following[0] not in action.choices:
            options = ", ".join(map(str, action.choices))
            raise ConfigError(f"{name}: {following[0]!r} is not one of {options}")
        return 1
    return None


def _unknown_flag_message(argument: str, following: Sequence[str]) -> str:
    key, separator, value = argument.lstrip("".join(DASHES)).partition("=")
    options = [name for action in get_args_parser()._actions for name in action.option_strings]
    options += [ALLOW_PATH, ALLOW_CLASS]
    if f"--{key}" in options:
        return f"{argument}: there is no such option; did you mean --{key}?"
    if key.startswith("allow"):
        return f"{argument}: there is no such option; there are {ALLOW_PATH} and {ALLOW_CLASS}"
    if not separator and following and "=" not in following[0] and following[0][:1] != "-":
        separator, value = "=", following[0]
    if separator and KEY.fullmatch(key):
        return (
            f"{argument}: settings are typed without dashes, as in {_format_argument(key, value)}"
        )
    return f"{argument}: there is no such option; settings are typed as key=value (see --help)"


def _check_override(argument: str, before: Sequence[str], following: Sequence[str]) -> None:
    """Raises a ConfigError for anything but an override, such as a part of a value with spaces."""
    key, separator, value = argument.partition("=")
    is_key = KEY.fullmatch(key)
    if is_key and not separator and key.startswith("~"):
        return
    if is_key and separator:
        if not value and _bare_words(following):  # network.rank= 4
            raise ConfigError(_space_message(argument, key, following[0]))
        return
    if separator and KEY.fullmatch(key.strip()):  # 'network.rank =4'
        raise ConfigError(_space_message(repr(argument), key.strip(), value.strip()))
    if is_key and following and following[0].startswith("="):  # network.rank = 4
        value = following[0][1:] or next(iter(following[1:]), "")
        raise ConfigError(_space_message(f"{argument} {following[0]}", key, value))
    if separator:
        raise ConfigError(f"{key!r} is not a name of a setting (letters, digits, '_' and dots)")
    if before:
        last, _, beginning = before[-1].partition("=")
        line = _format_argument(last, " ".join([beginning, argument, *_bare_words(following)]))
        raise ConfigError(f"{argument}: is not key=value; a value with spaces needs quotes: {line}")
    key, colon, value = argument.partition(":")
    if colon and value and "." in key and KEY.fullmatch(key):  # as in YAML
        raise ConfigError(
            f"{argument}: settings are typed with =, as in {_format_argument(key, value)}"
        )
    raise ConfigError(f"{argument.strip() or repr(argument)}: is not key=value (see --help)")


def _space_message(argument: str, key: str, value: str) -> str:
    return (
        f"{argument}: there must be no space next to the equals sign; type "
        f"{_format_argument(key, value)}"
    )


def _bare_words(following: Sequence[str]) -> list[str]:
    """The next arguments that are neither overrides nor flags: the rest of a value with spaces."""
    return list(takewhile(lambda word: "=" not in word and word[:1] not in "-~", following))


def _format_argument(key: str, value: str) -> str:
    """What to type, with the quotes that a shell needs."""
    line = f"{key}={value}"
    if re.fullmatch(r"[\w./:=,+~@%-]+", line, re.ASCII):
        return line
    # double quotes if possible: Windows has no others
    return in_shell(line) if set(line) & SPECIAL or not line.isprintable() else f'"{line}"'


def normalized(overrides: Iterable[str], settings: Kinds, multirun: bool = False) -> list[str]:
    """The overrides with the values of text settings quoted for Hydra's grammar.

    A leading `~` of a path becomes the home folder, `null` is null if the setting may be null, and
    one pair of quotes around the whole value is removed. Two things keep Hydra's meaning:
    `choice(...)` in a sweep, and a value in which each `${...}` names a setting of the command.

    Args:
        settings: of the command; see `train.config.setting_kinds.kinds`.
        multirun: whether the command line is a sweep.

    Raises:
        ConfigError: a text with a NUL character, or an empty path.
    """
    return [_normalized(override, settings, multirun) for override in overrides]


def _normalized(override: str, settings: Kinds, multirun: bool) -> str:
    key, separator, value = override.partition("=")
    kind, optional = settings.get(key.lstrip("+"), (Kind.NUMBER, False))
    if kind not in TEXT_KINDS or not separator or (multirun and CHOICE_SWEEP.fullmatch(value)):
        return override
    interpolations = INTERPOLATION.findall(value)
    if (
        interpolations
        and len(interpolations) == value.count("${")
        and all(_is_setting(n, settings) for n in interpolations)
    ):
        return override
    if "\0" in value:
        raise ConfigError(f"{key}: holds a NUL character")
    if optional and value == "null":
        return override
    value = unquoted(value)
    if kind in PATH_KINDS and not value.strip():
        raise ConfigError(f"{key}: names no file or folder" + "; null is none" * optional)
    if kind in PATH_KINDS:
        value = str(expanded(value)) if value[:1] == "~" else value
    return f"{key}={quoted(value)}"


def _is_setting(name: str, settings: Kinds) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in settings)


def quoted(text: str) -> str:
    """A text in Hydra's grammar, with any characters."""
    # a backslash counts as itself, except before a quote
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", escape_interpolations(text))
    return "'" + re.sub(r"(\\+)\Z", lambda match: match[1] * 2, escaped) + "'"


def unquoted(value: str) -> str:
    """The text of a value in one pair of quotes; any other value as it is."""
    mark = value[:1]
    if len(value) < 2 or mark not in QUOTES or value[-1] != mark:
        return value
    inner = re.fullmatch(rf"((?:\\.|[^\\{mark}])*)", value[1:-1], re.DOTALL)
    if inner is None:
        return value
    text = re.sub(rf"(\\+)({mark}|\Z)", lambda f: "\\" * (len(f[1]) // 2) + f[2], inner[1])
    return re.sub(r"(\\+)\$\{", lambda match: "\\" * (len(match[1]) // 2) + "${", text)


def as_typed(override: str) -> str:
    """An override as typed: without the quotes of Hydra's grammar."""
    key, separator, value = override.partition("=")
    return f"{key}{separator}{unquoted(value)}"
