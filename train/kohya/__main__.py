"""`python -m train.kohya config.toml [dataset_config.toml]`: prints the overrides, one per line.

It trains nothing. Each line can be pasted into a shell; notes go to the standard error. To train
with them all, or with these and others:

    python -m train.kohya config.toml | xargs python -m train
    python -m train kohya=config.toml training.epochs=5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from train.cli.arguments import allowed_class, allowed_path, unquoted
from train.config.schema import TrainConfig
from train.config_checks import check_file_name
from train.errors import UserError
from train.files import permissions
from train.kohya.command_line import DATASET, KOHYA, expand
from train.kohya.output_paths import check_replaced
from train.text.display import start_in_utf8
from train.text.shell import in_shell
from train.text.terminal import escape_in_streams, exit_with_error, print_lines

ESCAPED = "a value with control characters is written for bash and zsh ($'...'), not for xargs"


def main() -> None:
    """Prints the overrides; exits with 1 and one line if a file cannot be translated."""
    start_in_utf8()
    escape_in_streams()
    parser = argparse.ArgumentParser(
        prog="python -m train.kohya",
        description="prints the overrides that kohya's files amount to, one a line",
    )
    parser.add_argument("config", help="the TOML file that kohya takes as --config_file")
    parser.add_argument("dataset_config", nargs="?", help="... and as --dataset_config")
    for flag, what in (("path", "a folder that the files may name"),
                       ("class", "an optimizer class that they may name")):  # fmt: skip
        parser.add_argument(f"--allow-{flag}", action="append", default=[], help=what)
    files = parser.parse_args()
    arguments = [f"{KOHYA}={files.config}"]
    if files.dataset_config:
        arguments.append(f"{DATASET}={files.dataset_config}")
    try:
        permissions.allow(
            map(allowed_path, files.allow_path), map(allowed_class, files.allow_class)
        )
        overrides, notes = expand(arguments)
        _check_replaced(overrides)
    except UserError as error:
        exit_with_error(error)
    typed = [in_shell(override) for override in overrides]
    if any(word.startswith("$'") for word in typed):
        notes.append(ESCAPED)
    for note in notes:
        print_lines(note, error=True)
    for word in typed:
        print_lines(word)


def _check_replaced(overrides: list[str]) -> None:
    """Checks what the printed overrides would replace: users may pass them on without a look."""
    pairs = [override.partition("=") for override in overrides]
    given = {key: unquoted(value) for key, _, value in pairs}
    config = TrainConfig()
    name = given.get("name", config.name)
    check_file_name(name)
    check_replaced(Path(given.get("output", config.output)), name)


if __name__ == "__main__":
    main()
