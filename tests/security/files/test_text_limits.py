"""Untrusted texts: parsing takes linear time, and numbers have a limited size."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from train.data.captions.caption_files import CONTROLS_NOTE, read_caption
from train.errors import ConfigError, UserError
from train.files import untrusted
from train.files.toml_limits import toml_excess
from train.files.untrusted import (
    Tree,
    UntrustedFileError,
    convert,
    parse_json,
    parse_toml,
    parse_yaml,
)
from train.kohya.command_line import expand
from train.kohya_toml.parsed_config import KohyaConfig
from train.kohya_toml.repairs import repair

MAX_SECONDS = 4.0  # quadratic algorithms would take minutes
LONG_TEXTS = {
    "a backslash at the end": '"""\n' + '\\"""\n' * 12_000 + "\\",
    "backslashes": '"""' + "\\" * 99_999,
    "opened": '"""a' * 25_000,
    "opened once": '"""' + '\\"""' * 20_000 + "\\",
    "opened plainly": "'''" + "''a" * 30_000,
    "one quote a line": '"a\n' * 30_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS.keys())
def test_nesting_of_toml_is_measured_quickly(text: str) -> None:
    start = time.monotonic()
    toml_excess(text)
    assert time.monotonic() - start < MAX_SECONDS


def test_brackets_in_toml_strings_do_not_count() -> None:
    assert toml_excess('a = """' + "[" * 100 + "\\") == ""
    assert toml_excess('a = """x\\""" ' + "[" * 100 + '"""') == ""
    assert toml_excess('a = """x"""\nb = ' + "[" * 100) == "is nested too deeply"


@pytest.mark.parametrize("line", ["", "#", "k = 1", "[a]", "k = x y", "k = 1,"])
def test_many_lines_are_repaired_quickly(line: str) -> None:
    start = time.monotonic()
    repair(f"{line}\n" * 5000)
    assert time.monotonic() - start < MAX_SECONDS


def test_caption_with_control_characters_is_read_quickly(tmp_path: Path) -> None:
    start = time.monotonic()
    (tmp_path / "a.txt").write_text("a hat " * 14_000 + "\x01\x02" * 3000)
    assert CONTROLS_NOTE in read_caption(tmp_path / "a.txt").notes
    assert time.monotonic() - start < MAX_SECONDS


NINES = "9" * 400
READERS: dict[str, Callable[[str], Tree]] = {
    "json": lambda number: parse_json(f'{{"a": [1, {number}]}}', Tree, "f"),
    "json bytes": lambda number: parse_json(f'{{"a": [1, -{number}]}}'.encode(), Tree, "f"),
    "json with a nan": lambda number: parse_json(f'{{"a": [NaN, {number}]}}', Tree, "f"),
    "yaml": lambda number: parse_yaml(f"a: [1, {number}]", Tree, "f"),
    "yaml of sixties": lambda number: parse_yaml(f"a: 1{':1' * len(number)}", Tree, "f"),
    "yaml hexadecimal": lambda number: parse_yaml(f"a: 0x{number}", Tree, "f"),
    "toml": lambda number: parse_toml(f"a = [1, {number}]", Tree, "f"),
    "toml hexadecimal": lambda number: parse_toml(f"a = 0x{number}", Tree, "f"),
    "toml octal": lambda number: parse_toml(f"a = 0o{'7' * len(number)}", Tree, "f"),
    "toml binary": lambda number: parse_toml(f"a = {{b = 0b{'1' * 3 * len(number)}}}", Tree, "f"),
    "loaded": lambda number: convert({"a": {"b": [int(number)]}}, Tree, "f"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_huge_number_is_refused(read: Callable[[str], Tree]) -> None:
    read("9" * 15)
    for digits in (NINES, NINES * 10):
        with pytest.raises(UntrustedFileError, match=r"^f: .*number|^f: .*range") as error:
            read(digits)
        assert "\n" not in str(error.value)


def test_digits_in_a_string_are_accepted() -> None:
    assert parse_json(f'{{"a": ": {NINES}, "}}', Tree, "f") == {"a": f": {NINES}, "}
    assert parse_yaml(f"a: '{NINES}'", Tree, "f") == {"a": NINES}
    assert parse_toml(f"a = '{NINES}'", Tree, "f") == {"a": NINES}


def test_error_names_the_path_of_the_value() -> None:
    class Schema(msgspec.Struct):
        number: int

    with pytest.raises(
        UntrustedFileError, match=r"^f: expected `int`, got `str` - at `\$.number`$"
    ):
        convert({"number": "1"}, Schema, "f")
    with pytest.raises(UntrustedFileError, match=r"^f: expected `object`, got `array`$"):
        convert([], Schema, "f")


HUGE = f"0x{'F' * 5000}"


@pytest.mark.parametrize(
    "line",
    [
        f"text_encoder_lr = {HUGE}",
        f"output_name = [{HUGE}]",
        f"output_name = {{a = {HUGE}}}",
        f"unet_lr = [{HUGE}]",
        f"seed = {HUGE}",
        f"network_args = [{HUGE}]",
        f"[section]\nx = {HUGE}",
    ],
)
def test_huge_number_in_a_kohya_config_is_refused_in_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.toml").write_text(f'network_module = "networks.lora"\n{line}\n')
    with pytest.raises(UserError) as error:
        expand([f"kohya={tmp_path / 'a.toml'}"])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [["a"], [{"a": 1}], [[1]]])
def test_list_in_place_of_text_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="output_name must be text, not"):
        KohyaConfig({"output_name": value}).text("output_name")


def test_json_with_too_many_values_is_refused_before_parsing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(untrusted, "MAX_PARTS", 1000)
    monkeypatch.setattr(untrusted, "_decoder", None)
    for text in ("[" + "{}," * 600 + "{}]", "[" * 1001, '{"a":' * 1001, "[" + "0," * 1001 + "0]"):
        for content in (text, text.encode()):
            with pytest.raises(UntrustedFileError, match="at most 1000 are read"):
                parse_json(content, Tree, "f")
