"""conf/: every key says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from train.config.schema import CONF

TEXTS = CONF / "hydra" / "help"  # not settings: what --help says
FILES = sorted(
    file for file in CONF.rglob("*.yaml") if file.name != "local.yaml" and file.parent != TEXTS
)
COLUMNS = 110  # of a line of YAML
# Hydra's own: which groups a config is made of, which class, and its settings of the terminal
HYDRA = {"defaults", "hydra", "_target_", "_recursive_"}
# groups whose keys are names (of scores, of what is asked for) and not settings: one comment does
OF_NAMES = {"max", "min", "weights", "poses", "backgrounds", "outfits", "phrases"}


def unexplained(text: str) -> list[str]:
    """The keys of a YAML text that have no comment beside them or right above them.

    A comment at the head of a file speaks of its first key too.
    """
    lines = text.splitlines()
    found = list(keys(yaml.compose(text)))
    return [
        key
        for key, line in (found[1:] if text.startswith("#") else found)
        if " # " not in lines[line] and not (line and lines[line - 1].lstrip().startswith("#"))
    ]


def keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted keys with a value of their own, or of names, and their lines, counted from 0."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = str(key.value)
        if name in HYDRA:
            continue
        if isinstance(value, yaml.MappingNode) and name not in OF_NAMES:
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", key.start_mark.line


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_is_explained(file: Path) -> None:
    lacking = unexplained(file.read_text(encoding="utf-8"))
    assert not lacking, f"{file}: say what {', '.join(lacking)} is, its unit and range"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_lines_fit_a_screen(file: Path) -> None:
    long = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line) > COLUMNS]
    assert not long, f"{file}: break the line {long[0]}"


def test_missing_comments_are_noticed() -> None:
    text = "# head\na: 1\nb: 2   # two\nc:   # three\n  d: 4\nmax:   # all\n  x: 1\n_target_: y\n"
    assert unexplained(text) == ["c.d"]
    assert unexplained("a: 1\n# two\nb: 2\n\nc: 3\nmax:\n  x: 1\n") == ["a", "c", "max"]
