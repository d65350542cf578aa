"""How every command starts: settings checked before anything is loaded, errors in one line."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import diffusers
import hydra
import transformers
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from train import completion, local
from train.base import BaseError
from train.checkpoint import CheckpointError
from train.config import CONF, ConfigError, keys, suggestion, typed
from train.data import DataError
from train.member import TrainingError
from train.outage import Outage, outage

Schema = TypeVar("Schema")
Applies = Callable[[str, Mapping[str, Any]], bool]
EXPECTED = (ConfigError, DataError, BaseError, CheckpointError, TrainingError, Outage)
MULTIRUN = {"-m", "--multirun"}
HELP, INFO, COMPLETION = {"-h", "--help"}, {"-i", "--info"}, {"-sc", "--shell-completion"}
HYDRA_VERSION = "1.3"


def run(
    name: str,
    schema: type[Schema],
    check: Callable[[Schema], None],
    main: Callable[[Schema], None],
    applies: Applies = lambda key, others: True,
) -> None:
    """Runs a command with the settings of conf/`name`.yaml and of the command line.

    Args:
        name: of the config in conf/.
        schema: the dataclass that the config must fit.
        check: refuses impossible combinations with a ConfigError.
        main: the command.
        applies: whether a swept setting means something beside the values of the other swept ones.
    """
    quiet()
    arguments = sys.argv[1:]
    if COMPLETION & {*arguments} and "install=bash" in arguments:
        print(completion.BASH)
        return
    preflight(name, arguments, schema, check, applies)
    _own_defaults(name)
    if HELP & {*arguments} or "job" in arguments:
        sys.argv.append("--resolve")  # who asks for the settings wants values, not ${...}
    if INFO & {*arguments}:
        logging.getLogger().handlers.clear()  # Hydra brings its own
        logging.getLogger("hydra").setLevel(logging.DEBUG)

    def task(config: DictConfig) -> None:
        with_one_line_errors(lambda: main(typed(schema, config)))

    hydra.main(version_base=HYDRA_VERSION, config_path=str(CONF), config_name=name)(task)()


def with_one_line_errors(action: Callable[[], None]) -> None:
    """Runs `action`; an expected error, or one of the machine, ends the process with its message
    and code 1."""
    try:
        action()
    except EXPECTED as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if words := outage(error):
            sys.exit(f"error: {words}")
        raise


def preflight(
    name: str,
    arguments: list[str],
    schema: type[Schema],
    check: Callable[[Schema], None],
    applies: Applies = lambda key, others: True,
) -> None:
    """Ends the process with one line where the command line is wrong.

    Every value that a sweep names is tried, the ends of its intervals included. Calls with flags
    other than --multirun (--help, --cfg, --info) are left to Hydra.
    """
    if any(a.startswith("-") and a not in MULTIRUN for a in arguments):
        return
    wanted = [a for a in arguments if a not in MULTIRUN]
    multirun = len(wanted) < len(arguments)
    try:
        for overrides in _variants(wanted, multirun, applies):
            check(settings(name, schema, overrides))
    except ConfigError as error:
        key = str(error).split(":", 1)[0]
        sys.exit(f"error: {f'conf/{local.FILE}: ' if _is_own(name, key, wanted) else ''}{error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {_explain(name, error)}")


def _is_own(name: str, key: str, overrides: list[str]) -> bool:
    """Whether a setting comes from conf/local.yaml, and not from the command line."""
    told = any(word.lstrip("+").split("=", 1)[0] == key for word in overrides)
    if told or key.startswith("conf/") or name not in local.COMMANDS:  # it says so already
        return False
    return local.has(key, CONF)


def settings(name: str, schema: type[Schema], overrides: Sequence[str] = ()) -> Schema:
    """The settings of conf/`name`.yaml with Hydra overrides, as a command gets them.

    Raises:
        ConfigError, HydraException: settings that do not exist or have the wrong type.
    """
    _own_defaults(name)
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        return typed(schema, compose(name, list(overrides)))


def _own_defaults(name: str) -> None:
    """Those of conf/local.yaml, in what is composed from now on."""
    if name in local.COMMANDS:
        local.take_in(name, CONF)


def _parser() -> OverridesParser:
    """One that knows conf/, which `glob()` looks at."""
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        return OverridesParser.create(GlobalHydra.instance().config_loader())


def _variants(arguments: list[str], multirun: bool, applies: Applies) -> Iterator[list[str]]:
    """The command line with each sweep at its first value; then each other value in its turn."""
    parser = _parser()
    parsed = parser.parse_overrides(arguments)
    values = [_values(override, multirun) for override in parsed]
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
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
        others = {key: override.value() for key, override in keyed if key in swept}
        yield [line for line, (key, _) in zip(variant, keyed, strict=True)
               if key not in swept or applies(key, others)]  # fmt: skip


def _values(override: Override, multirun: bool) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = override.get_key_element()
    if not multirun:
        raise ConfigError(f"{key}: several values need -m (python -m ... -m {override.input_line})")
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        ends = (sweep.start, sweep.end)
        whole = isinstance(sweep.start, int)  # of int(interval(...)) alone
        return [f"{key}={int(end or 0) if whole else end}" for end in ends]
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except ValueError as error:  # of Python's range
        raise ConfigError(f"{key}: {override.input_line} cannot be: {error}") from None


def _explain(name: str, error: Exception) -> str:
    """Hydra's message in one line, with the nearest valid key or choice."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
            known = keys(compose(name, return_hydra_config=True))
        if key not in known:
            return f"{key}: there is no such setting{suggestion(key, known)}"
        return f"{key}: {text.split(str(key), 1)[-1].strip(' .')}"
    missing = re.search(
        r"Could not find '([^']+)' Available options in '[^']+': (.*?)(?: Config search|$)", text
    )
    if missing:
        group, _, choice = missing.group(1).rpartition("/")
        choices = missing.group(2).split()
        near = suggestion(choice, choices)
        return f"{group}: {choice!r} is none of {', '.join(choices)}{near}"
    return text


def quiet() -> None:
    """Our own lines on the terminal; of the libraries only what went wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for library in (
        "hydra",
        "hydra_plugins",
        "bitsandbytes",
        "urllib3",
        "httpx",
        "alembic",
        "mlflow",
        "filelock",
        "matplotlib",
    ):
        logging.getLogger(library).setLevel(logging.ERROR)
    for package in (diffusers, transformers):
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()
