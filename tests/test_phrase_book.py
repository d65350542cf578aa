"""Every row in docs/kohya-phrase-book.md agrees with the translation."""

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
    (SPANS.findall(kohya), SPANS.findall(overrides))
    for kohya, overrides in re.findall(r"^\| (`.*`) \| (`.*`) \|$", TEXT, re.MULTILINE)
]
DATASET = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\n'


@pytest.fixture(autouse=True)
def dataset_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creates the folders and files that the rows name, in the working folder."""
    for name in ("pictures", "reg"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.toml").write_text(DATASET)
    monkeypatch.chdir(tmp_path)


def translate(*lines: str) -> list[str]:
    """Translates a config with these lines into overrides."""
    Path("config.toml").write_text("\n".join(lines))
    return expand(["kohya=config.toml"])[0]


@pytest.mark.parametrize(("kohya", "overrides"), ROWS, ids=[" ".join(row) for row, _ in ROWS])
def test_row_agrees_with_the_translation(kohya: list[str], overrides: list[str]) -> None:
    assert {*overrides} <= {*translate(*kohya)}
    assert {*overrides} - {*translate()}, "the row has only kohya's defaults"


def test_every_translated_key_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    read_keys: set[str] = set()

    def get(config: KohyaConfig, key: str, default: Any = None) -> Any:
        read_keys.add(key)
        return original(config, key, default)

    original = KohyaConfig.get
    monkeypatch.setattr(KohyaConfig, "get", get)
    translate()
    assert read_keys
    assert not [key for key in sorted(read_keys) if not re.search(rf"\b{key}\b", TEXT)]


@pytest.mark.parametrize(
    ("heading", "keys"), [("Refused keys", REFUSED), ("Unsupported keys", UNSUPPORTED)]
)
def test_the_lists_of_keys_are_complete(heading: str, keys: Any) -> None:
    block = re.search(rf"^## {heading}$.*?```text\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    assert block
    assert sorted(re.findall(r"\w+", block[1])) == sorted(keys)


def test_suggestions_for_mistyped_keys_agree_with_the_tables() -> None:
    translations = {
        kohya[0].split(" = ")[0]: {setting.partition("=")[0] for setting in overrides}
        for kohya, overrides in ROWS
        if len(kohya) == 1
    }
    for key, setting in KOHYA_NAMES.items():
        if key in translations:
            assert setting in translations[key]
    assert len(KOHYA_NAMES.keys() & translations) > 15
