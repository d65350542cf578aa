"""conf/: every key says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from train.config import CONF

FILES = sorted(file for file in CONF.rglob("*.yaml") if file.name != "local.yaml")
# Hydra's own: which groups a config is made of, which class, and its settings of the terminal
HYDRA = {"defaults", "hydra", "_target_", "_recursive_"}
# groups whose keys are names (of scores, of what is asked for) and not settings: one comment does
OF_NAMES = {"limits", "floors", "weights", "poses", "backgrounds", "outfits", "phrases"}


def unexplained(text: str) -> list[str]:
    """The keys of a YAML text that have no comment beside them or right above them."""
    lines = text.splitlines()
    return [
        key
        for key, line in keys(yaml.compose(text))
        if " # " not in lines[line] and not (line and lines[line - 1].lstrip().startswith("#"))
    ]


def keys(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted keys and their lines, counted from 0."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = str(key.value)
        if name in HYDRA:
            continue
        yield f"{prefix}{name}", key.start_mark.line
        if name not in OF_NAMES:
            yield from keys(value, f"{prefix}{name}.")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_is_explained(file: Path) -> None:
    lacking = unexplained(file.read_text(encoding="utf-8"))
    assert not lacking, f"{file}: say what {', '.join(lacking)} is, its unit and range"


def test_missing_comments_are_noticed() -> None:
    text = "# head\na: 1\nb: 2   # two\nc:   # three\n  d: 4\nlimits:   # all\n  x: 1\n_target_: y\n"
    assert unexplained(text) == ["c.d"]
