"""`python -m train.kohya config.toml [dataset_config.toml]`: the Hydra overrides, one a line.

It trains nothing. What a person should know goes to the standard error. To train with them:

    mapfile -t overrides < <(python -m train.kohya config.toml)
    python -m train "${overrides[@]}" training.epochs=5
"""

from __future__ import annotations

import argparse
import sys

from train.config import ConfigError
from train.encoding import escape_in_streams, start_in_utf8
from train.kohya.command_line import DATASET, KOHYA, expand


def main() -> None:
    """Prints the overrides; ends with 1 and a line where a file cannot be translated."""
    start_in_utf8()
    escape_in_streams()
    parser = argparse.ArgumentParser(
        prog="python -m train.kohya", description="prints the Hydra overrides, one a line"
    )
    parser.add_argument("config", help="the TOML file that kohya takes as --config_file")
    parser.add_argument("dataset_config", nargs="?", help="... and as --dataset_config")
    files = parser.parse_args()
    arguments = [f"{KOHYA}={files.config}"]
    if files.dataset_config:
        arguments.append(f"{DATASET}={files.dataset_config}")
    try:
        overrides, notes = expand(arguments)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print("\n".join(notes), file=sys.stderr)
    print("\n".join(overrides))


if __name__ == "__main__":
    main()
