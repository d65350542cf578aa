"""Every key in conf/ has a comment that explains it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from train.config.schema import CONF

HELP = CONF / "hydra" / "help"  # texts of --help, not settings
FILES = sorted(
    file for file in CONF.rglob("*.yaml") if file.name != "local.yaml" and file.parent != HELP
)
MAX_COLUMNS = 110  # of a line of YAML
# keys of Hydra: defaults lists, classes, and its own settings
HYDRA_KEYS = {"defaults", "hydra", "_target_", "_recursive_"}
# groups whose keys are names, such as those of scores: one comment for the group is enough
NAME_GROUPS = {"max", "min", "weights", "poses", "backgrounds", "outfits", "phrases"}


def keys_without_comment(text: str) -> list[str]:
    """Returns the keys of a YAML text without a comment in their line or the line above.

    A comment at the top of the file also explains the first key.
    """
    lines = text.splitlines()
    key_lines = list(keys(yaml.compose(text)))
    return [
        key
        for key, line in (key_lines[1:] if text.startswith("#") else key_lines)
        if " # " not in lines[line] and not (line and lines[line - 1].lstrip().startswith("#"))
    ]


def keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yields dotted keys of values and of NAME_GROUPS, and their 0-based lines."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = str(key.value)
        if name in HYDRA_KEYS:
            continue
        if isinstance(value, yaml.MappingNode) and name not in NAME_GROUPS:
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", key.start_mark.line


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_has_a_comment(file: Path) -> None:
    missing = keys_without_comment(file.read_text(encoding="utf-8"))
    assert not missing, f"{file}: explain {', '.join(missing)} with unit and range"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_lines_are_short(file: Path) -> None:
    long = [
        line for line in file.read_text(encoding="utf-8").splitlines() if len(line) > MAX_COLUMNS
    ]
    assert not long, f"{file}: break the line {long[0]}"


def test_missing_comments_are_found() -> None:
    text = "# head\na: 1\nb: 2   # two\nc:   # three\n  d: 4\nmax:   # all\n  x: 1\n_target_: y\n"
    assert keys_without_comment(text) == ["c.d"]
    assert keys_without_comment("a: 1\n# two\nb: 2\n\nc: 3\nmax:\n  x: 1\n") == ["a", "c", "max"]
