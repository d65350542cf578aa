"""The frame of every command: settings are checked before imports, errors take one line."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import hydra
from omegaconf import DictConfig

from train.cli import completion
from train.cli.compose import HYDRA_VERSION, load_local_settings
from train.cli.preflight import Applies, CheckHydra, Translate, preflight
from train.config.parsing import parse_config
from train.config.schema import CONF
from train.errors import UserError
from train.system.outage import outage
from train.text.display import start_in_utf8
from train.text.terminal import LineFormatter, escape_in_streams, exit_with_error, print_lines

Schema = TypeVar("Schema")
HELP, INFO, COMPLETION = {"-h", "--help"}, {"-i", "--info"}, {"-sc", "--shell-completion"}
BROKEN_PIPE = 141  # a shell's exit code for a program that was ended by a closed pipe
QUIET_LOGGERS = (
    "hydra",
    "hydra_plugins",
    "bitsandbytes",
    "urllib3",
    "httpx",
    "alembic",
    "mlflow",
    "filelock",
    "matplotlib",
)


def run(
    name: str,
    schema: type[Schema],
    check: Callable[[Schema], None],
    main: str,
    applies: Applies = lambda key, others: True,
    check_hydra: CheckHydra = lambda hydra: None,
    translate: Translate = list,
) -> None:
    """Runs a command with the settings of conf/`name`.yaml and of the command line.

    Args:
        name: of the config in conf/.
        schema: the dataclass that the config must fit.
        check: rejects impossible combinations with a ConfigError.
        main: the command, as `package.module:function`; imported after the settings were checked,
            since torch and the like take seconds.
        applies: whether a swept setting has an effect with the values of the other swept ones.
        check_hydra: rejects impossible settings of Hydra itself with a ConfigError.
        translate: replaces overrides that stand for the content of files by that content.
    """
    start_in_utf8()
    configure_logging()
    arguments = sys.argv[1:]
    if COMPLETION & {*arguments} and "install=bash" in arguments:
        print_lines(*completion.BASH.split("\n"))
        return

    def check_line() -> None:
        sys.argv[1:] = preflight(name, arguments, schema, check, applies, check_hydra, translate)

    with_one_line_errors(check_line)
    load_local_settings(name)
    if HELP & {*arguments} or "job" in arguments:
        sys.argv.append("--resolve")  # shows values instead of ${...}
    if INFO & {*arguments}:
        logging.getLogger().handlers.clear()  # Hydra brings its own
        logging.getLogger("hydra").setLevel(logging.DEBUG)

    def task(config: DictConfig) -> None:
        with_one_line_errors(lambda: entry_point(main)(parse_config(schema, config)))

    try:
        hydra.main(version_base=HYDRA_VERSION, config_path=str(CONF), config_name=name)(task)()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `... --help | head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)


def entry_point(name: str) -> Callable[[Any], None]:
    """Imports the function that `package.module:function` names."""
    module, _, function = name.partition(":")
    entry: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    configure_logging()
    return entry


def with_one_line_errors(action: Callable[[], None]) -> None:
    """Runs `action`; an expected error, or one of the machine, ends the process with its message
    and code 1."""
    try:
        action()
    except UserError as error:
        exit_with_error(error)
    except KeyboardInterrupt:
        print_lines("interrupted; run the same command again to continue", error=True)
        sys.exit(130)
    except Exception as error:
        if message := outage(error):
            exit_with_error(message)
        raise


def configure_logging() -> None:
    """Logs our own lines to the terminal, and of the libraries only errors."""
    escape_in_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in QUIET_LOGGERS:
        logging.getLogger(library).setLevel(logging.ERROR)
    for name in ("diffusers", "transformers"):  # if the command has imported them
        if package := sys.modules.get(name):
            package.utils.logging.set_verbosity_error()
            package.utils.logging.disable_progress_bar()
