"""Checks a command line as a whole, before anything slow is imported or loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from train.cli import local_settings
from train.cli.arguments import Arguments, normalized, quoted, split_arguments, unquoted
from train.cli.compose import composed, overrides_parser, with_groups, without_hydra
from train.cli.hydra_errors import explain
from train.cli.sweep_ranges import range_values, sweep_words
from train.config.parsing import cause, parse_config
from train.config.ranges import format_value, shortened
from train.config.renamed_keys import check_renamed
from train.config.schema import CONF
from train.config.setting_kinds import FREE_KINDS, PATH_KINDS, Kind, Kinds, kinds
from train.errors import ConfigError
from train.files.permissions import allow
from train.text.shell import in_shell
from train.text.terminal import exit_with_error

Schema = TypeVar("Schema")
Applies = Callable[[str, Mapping[str, Any]], bool]
CheckHydra = Callable[[DictConfig], None]
Translate = Callable[[list[str]], list[str]]
# flags that print something and exit: nothing is composed, or Hydra composes and shows it
PRINTING_FLAGS = {
    "-h",
    "--help",
    "--hydra-help",
    "-i",
    "--info",
    "--version",
    "-sc",
    "--shell-completion",
}
COMPLETION_FLAGS = {"-sc", "--shell-completion"}
FILE_OVERRIDES = ("kohya", "dataset_config")  # overrides that are not settings: see train/kohya
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn")
MAX_CHARACTERS = 900  # characters of a message
SWEEP_COMMAND = "sweep"  # the command whose -m runs our own sweeper; the others' is Hydra's


def preflight(
    name: str,
    arguments: Sequence[str],
    schema: type[Schema],
    check: Callable[[Schema], None],
    applies: Applies = lambda key, others: True,
    check_hydra: CheckHydra = lambda hydra: None,
    translate: Translate = list,
) -> list[str]:
    """Ends the process with one line if the command line is wrong.

    Every value of a sweep is tried, including the ends of its intervals. What is typed here, and
    only that, counts as named by the user (train/files/permissions.py).

    Args:
        check_hydra: rejects impossible settings of Hydra itself with a ConfigError.
        translate: replaces overrides that stand for the content of files by that content.

    Returns:
        the command line for Hydra: its flags first, text settings quoted.
    """
    line: list[str] = []
    composed_overrides: list[str] = []
    try:
        parts = split_arguments(arguments)
        shows = PRINTING_FLAGS & {flag.split("=")[0] for flag in parts.flags}
        if shows & COMPLETION_FLAGS:
            return [*parts.flags, *parts.overrides]
        given = [override.lstrip("+~").partition("=") for override in parts.overrides]
        check_renamed([(key, value) for key, _, value in given], kinds(schema))
        named = _named_paths(parts, kinds(schema))
        allow([*parts.allowed_paths, *named.values()], parts.allowed_classes)
        translated = with_groups(name, translate(parts.overrides))
        line = normalized(translated, kinds(schema), parts.multirun)
        overrides = _parsed(line, kinds(schema))
        if not shows:
            for variant in _variants(overrides, parts.multirun, applies):
                composed_overrides = [*variant, *_search_path(parts)]
                config = composed(name, composed_overrides, with_hydra=True)
                check_hydra(config.hydra)
                settings = parse_config(schema, without_hydra(config))
                values = (attrgetter(key)(settings) for key in named.keys() & kinds(schema))
                allow(value for value in values if value)
                check(settings)
        if parts.multirun and name != SWEEP_COMMAND:
            line = [_expand_sweep(override) for override in overrides]
    except ConfigError as error:
        key = str(error).split(":", 1)[0]
        source = f"conf/{local_settings.FILE}: " if _is_local_setting(name, key, line) else ""
        exit_with_error(f"{source}{shortened(str(error), MAX_CHARACTERS)}")
    except (HydraException, OmegaConfBaseException) as error:
        exit_with_error(explain(name, error, composed_overrides, schema))
    return [*parts.flags, *line]


def _named_paths(parts: Arguments, known: Kinds) -> dict[str, str]:
    """The typed overrides that name files, key -> value."""
    path_keys = {key for key, (kind, _) in known.items() if kind in PATH_KINDS}
    pairs = [override.partition("=") for override in parts.overrides]
    return {key: unquoted(value) for word, _, value in pairs
            if (key := word.lstrip("+")) in {*path_keys, *FILE_OVERRIDES}}  # fmt: skip


def _search_path(parts: Arguments) -> list[str]:
    """The override that is equivalent to --config-dir.

    Raises:
        ConfigError: a flag that would replace the command's own config.
    """
    words = [word for flag in parts.flags for word in flag.split("=", 1)]
    for flag in CONFIG_FLAGS:
        if flag in words:
            raise ConfigError(
                f"{flag}: a command has one config; --config-dir adds a folder of groups to it"
            )
    folders = [words[i + 1] for i, word in enumerate(words) if word in CONFIG_DIR_FLAGS]
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir: there is no folder {folder}")
    paths = [quoted(f"file://{Path(folder).resolve()}") for folder in folders]
    return [f"hydra.searchpath=[{','.join(paths)}]"] if paths else []


def _parsed(line: Sequence[str], known: Kinds) -> list[Override]:
    """Parses the overrides one by one, so that the message names a wrong one.

    Args:
        known: the settings of the command.

    Raises:
        ConfigError: an override is not in Hydra's grammar, or not allowed for its setting.
    """
    parser = overrides_parser()
    overrides = []
    for argument in line:
        try:
            overrides += parser.parse_overrides([argument])
        except (HydraException, ValueError) as error:  # ValueError: a number of 5,000 digits
            key, _, value = argument.partition("=")
            # of a violation of the grammar Hydra has no cause, and the parser's jargon
            reason = error.__cause__ if isinstance(error, HydraException) else error
            explanation = f" ({cause(reason)})" if reason else ""
            kind, _ = known.get(key.lstrip("+"), (Kind.MAPPING, False))
            hint = "; text with such characters needs quotes within the shell's own"
            raise ConfigError(
                f"{key}: {format_value(value)} cannot be read as a value{explanation}"
                f"{hint if kind in FREE_KINDS else ''}"
            ) from None
    for override in overrides:
        _check_override(override, known)
    return overrides


def _check_override(override: Override, known: Kinds) -> None:
    """Raises a ConfigError for overrides that Hydra would fail on, or silently ignore."""
    key = override.key_or_group
    if override.is_delete():
        fixed = [name for name, (kind, _) in known.items() if kind not in FREE_KINDS]
        if any(name == key or name.startswith(f"{key}.") for name in fixed):
            raise ConfigError(f"~{key}: this setting cannot be removed; give it a value instead")
        return
    if override.is_sweep_override() or not (CONF / key).is_dir():
        return
    if not isinstance(override.value(), str):
        choices = sorted(file.stem for file in (CONF / key).glob("*.yaml"))
        raise ConfigError(
            f"{key}: {override.get_value_string()} is not one of {', '.join(choices)}"
        )


def _variants(
    overrides: Sequence[Override], multirun: bool, applies: Applies
) -> Iterator[list[str]]:
    """The command line with each sweep at its first value; then with each other value in turn."""
    parser = overrides_parser()
    values = [_values(override, multirun, parser) for override in overrides]
    swept = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    first = [options[0] for options in values]
    variants = [first] + [
        [*first[:i], option, *first[i + 1 :]]
        for i, options in enumerate(values)
        for option in options[1:]
    ]
    for variant in variants:
        keyed = [
            (override.get_key_element(), override) for override in parser.parse_overrides(variant)
        ]
        swept_values = {key: override.value() for key, override in keyed if key in swept}
        yield [line for line, (key, _) in zip(variant, keyed, strict=True)
               if key not in swept or applies(key, swept_values)]  # fmt: skip


def _values(override: Override, multirun: bool, parser: OverridesParser) -> list[str]:
    """The values of an override to check: each of its choices, or the ends of its range."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.get_key_element()
    if not multirun:
        line = in_shell(override.input_line or "")
        raise ConfigError(f"{key}: several values need -m (python -m ... -m {line})")
    if key.startswith("hydra"):
        raise ConfigError(f"{key}: is the same for all trials, so it takes one value")
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        ends = (sweep.start, sweep.end)
        whole = isinstance(sweep.start, int)  # only for int(interval(...))
        return [f"{key}={int(end or 0) if whole else end}" for end in ends]
    if isinstance(sweep, RangeSweep):
        first, last, *_ = range_values(key, sweep)
        return [f"{key}={end}" for end in (first, last)]
    return [f"{key}={word}" for word in sweep_words(override, parser)]


def _expand_sweep(override: Override) -> str:
    """A sweep for Hydra's own sweeper, value by value."""
    line = override.input_line or ""
    if not override.is_discrete_sweep():
        return line
    words = sweep_words(override, overrides_parser())
    return f"{override.get_key_element()}={','.join(words)}"


def _is_local_setting(name: str, key: str, line: Sequence[str]) -> bool:
    """Whether a setting comes from conf/local.yaml, and not from the command line."""
    given = any(word.lstrip("+").split("=", 1)[0] == key for word in line)
    if (
        given or key.startswith("conf/") or name not in local_settings.COMMANDS
    ):  # it says so already
        return False
    return local_settings.has_setting(key, CONF)
