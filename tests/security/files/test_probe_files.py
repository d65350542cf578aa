"""Untrusted attribute files and probe sets: templates have plain placeholders only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import load_probe_set
from evaluate.prompts.templates import TemplateError, fill
from train.config.schema import CONF
from train.errors import ConfigError

VALID: dict[str, Any] = {
    "template": "a {subject}, {pose}, {place}, {dress}",
    "class_word": "puppet",
    "poses": {"pose": ["sitting", "lying"]},
    "backgrounds": {"place": ["at home", "away"]},
    "outfits": {"dress": ["in red", "in blue"]},
    "phrases": {"pose": "a {class_word} that is {value}"},
}


def refuse(file: Path) -> str:
    """Checks that an attribute file is refused, and returns the error line."""
    with pytest.raises(ConfigError, match=r"^probes\.attributes: ") as raised:
        load_attributes(str(file))
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("template", "{subject:>99999999999}"),
        ("template", "{subject:.99999999999}"),
        ("template", "{subject!r:>99999999999}"),
        ("template", "{subject.__class__.__mro__}"),
        ("template", "{subject[0]}"),
        ("template", "{subject:{pose}}"),
        ("template", "{0}"),
        ("template", "{}"),
        ("template", "{"),
        ("template", "}"),
        ("template", "{nothing}"),
        ("template", "x" * 10_000),
        ("template", ""),
        ("template", 5),
        ("template", None),
        ("class_word", ["a"]),
        ("class_word", " "),
        ("phrases", {"pose": "{value:>99999999999}"}),
        ("phrases", {"pose": "{value.__class__}"}),
        ("phrases", {"other": "{value[0]}"}),
        ("phrases", ["{value}"]),
        ("poses", {"subject": ["sitting"]}),
        ("poses", {"place": ["sitting"]}),
        ("poses", {"pose": []}),
        ("poses", {"pose": [1, 2]}),
        ("poses", {"pose": ["x" * 1000]}),
        ("poses", {"pose": ["x"] * 100_000}),
        ("poses", {f"pose{n}": ["x", "y"] for n in range(16)}),
        ("poses", {1: ["sitting"]}),
        ("poses", {"": ["sitting"]}),
        ("poses", {"{pose}": ["sitting"]}),
        ("poses", None),
        ("poses", []),
    ],
)
def test_invalid_attributes_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({**VALID, key: value}))
    refuse(file)
    file.write_text(yaml.safe_dump(VALID))
    assert load_attributes(str(file)).prompt("x", {}.fromkeys(["pose", "place", "dress"], "y"))


@pytest.mark.parametrize(
    "text",
    [
        "5", "- 1", "", "[" * 100_000, "{a: " * 200, "a: &a [*a]", "template: &t {x: *t}",
        '!!python/object/apply:os.system ["touch PWNED"]', "!!python/name:os.system", "\x00", "%",
        "a: b: c", "? {a: b}", "<<: {a: 1}", "template: !!binary aGk=", "0x" + "f" * 100_000,
        "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]"
                  for n in range(30)),
    ],
)  # fmt: skip
def test_file_without_attributes_is_refused(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "values.yaml").write_text(text)
    refuse(tmp_path / "values.yaml")
    with pytest.raises(ConfigError, match=r"^probes\.file: "):
        load_probe_set(str(tmp_path / "values.yaml"))
    assert not (tmp_path / "PWNED").exists()


def test_pipes_devices_and_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_bytes(yaml.safe_dump(VALID).encode() + b"# J\xfcrgen")
    refuse(file)
    file.unlink()
    os.mkfifo(file)
    assert "pipe" in refuse(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    assert "device" in refuse(file)
    file.unlink()
    file.mkdir()
    assert "folder" in refuse(file)
    assert "no" in refuse(Path("../../../../any/secret"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("probes", [{"prompt": "p"}] * 3),
        ("probes", [{"prompt": "p", "base_prompt": "p", "seed": 10**400, "role": "fresh"}] * 3),
        ("probes", [{"prompt": "p", "base_prompt": "p", "seed": "1", "role": "fresh"}] * 3),
        ("probes", [{"prompt": "p" * 10**6, "base_prompt": "p", "seed": 1, "role": "fresh"}] * 3),
        ("probes", [{"prompt": "p", "base_prompt": "p", "seed": 1, "role": "f\x1b[2J"}] * 3),
        ("probes", [[]] * 3),
        ("probes", {}),
        ("probes", []),
        ("training", {}),
        ("training", {"pose": 1, "place": [], "dress": []}),
        ("values", {**VALID, "template": "{subject:>99999999999}"}),
        ("values", {"kinds": {}}),
        ("values", None),
        ("class_word", {}),
    ],
)
def test_invalid_probe_set_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    probe = {"prompt": "p", "base_prompt": "p", "seed": 1, "role": "fresh", "asked": {}}
    content = {"probes": [probe] * 3, "values": VALID, "class_word": "puppet",
               "training": {"pose": [], "place": [], "dress": []}}  # fmt: skip
    file = tmp_path / "probes.yaml"
    file.write_text(json.dumps(content))
    probe_set = load_probe_set(str(file))
    assert len(probe_set.probes) == 3
    file.write_text(probe_set.to_yaml())
    assert load_probe_set(str(file)) == probe_set
    file.write_text(json.dumps({**content, key: value}))
    with pytest.raises(ConfigError, match=r"^probes\.file: ") as raised:
        load_probe_set(str(file))
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (CONF / "probes/attributes").glob("*.yaml"))
)
def test_shipped_templates_are_filled_like_str_format(name: str) -> None:
    values = load_attributes(name)
    requested = {
        part: options[-1] for kind in values.kinds.values() for part, options in kind.items()
    }
    expected = values.template.format(subject="a sks x", **requested)
    assert values.prompt("a sks x", requested) == expected
    for part, phrase in values.phrases.items():
        assert values.phrase(part, "v", "w") == phrase.format(class_word="w", value="v")


def test_doubled_braces_are_literal() -> None:
    assert fill("{{a}} {a}", {"a": "{b}"}) == "{a} {b}"
    with pytest.raises(TemplateError, match="did you mean subject"):
        fill("{subjet}", {"subject": "x"})
