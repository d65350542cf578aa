"""docs/kohya-phrase-book.md: every row of its tables is what the translation does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from train.cli.hydra_errors import KOHYA_NAMES
from train.kohya.command_line import expand
from train.kohya_toml.key_tables import REFUSED, UNSUPPORTED
from train.kohya_toml.parsed_config import KohyaConfig

TEXT = (Path(__file__).parents[1] / "docs" / "kohya-phrase-book.md").read_text(encoding="utf-8")
SPANS = re.compile(r"`([^`]+)`")
ROWS = [
    (SPANS.findall(theirs), SPANS.findall(ours))
    for theirs, ours in re.findall(r"^\| (`.*`) \| (`.*`) \|$", TEXT, re.MULTILINE)
]
DATASET = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\n'


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The places that the rows name, in the current folder."""
    for name in ("pictures", "reg"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.toml").write_text(DATASET)
    monkeypatch.chdir(tmp_path)


def translated(*lines: str) -> list[str]:
    """The overrides of a config of these lines."""
    Path("config.toml").write_text("\n".join(lines))
    return expand(["kohya=config.toml"])[0]


@pytest.mark.parametrize(("theirs", "ours"), ROWS, ids=[" ".join(row) for row, _ in ROWS])
def test_a_row_is_what_the_translation_does(theirs: list[str], ours: list[str]) -> None:
    found = {*translated(*theirs)}
    assert {*ours} <= found
    assert {*ours} - {*translated()}, "the row says more than kohya's defaults"


def test_every_key_that_is_translated_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    def get(config: KohyaConfig, key: str, default: Any = None) -> Any:
        read.add(key)
        return plain(config, key, default)

    plain = KohyaConfig.get
    monkeypatch.setattr(KohyaConfig, "get", get)
    translated()
    assert read
    assert not [key for key in sorted(read) if not re.search(rf"\b{key}\b", TEXT)]


@pytest.mark.parametrize(
    ("heading", "keys"), [("Refused keys", REFUSED), ("Unsupported keys", UNSUPPORTED)]
)
def test_the_lists_of_keys_are_complete(heading: str, keys: Any) -> None:
    block = re.search(rf"^## {heading}$.*?```text\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    assert block
    assert sorted(re.findall(r"\w+", block[1])) == sorted(keys)


def test_suggestions_for_mistyped_keys_agree_with_the_tables() -> None:
    meant = {
        theirs[0].split(" = ")[0]: {setting.partition("=")[0] for setting in ours}
        for theirs, ours in ROWS
        if len(theirs) == 1
    }
    for key, setting in KOHYA_NAMES.items():
        if key in meant:
            assert setting in meant[key]
    assert len(KOHYA_NAMES.keys() & meant) > 15
