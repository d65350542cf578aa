"""Reading of untrusted files: size limits, regular files only, and typed values."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from train.files.untrusted import (
    MAX_DEPTH,
    Tree,
    UntrustedFileError,
    parse_json,
    parse_toml,
    parse_yaml,
    read_bytes,
)

TIMEOUT_SECONDS = 20


class Schema(msgspec.Struct):
    """Declared type of the test files."""

    number: int
    settings: Tree


@pytest.fixture(autouse=True)
def timeout() -> Iterator[None]:
    """Fails a test that hangs."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise AssertionError("the test hangs")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_SECONDS)
    yield
    signal.alarm(0)


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_link_to_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def make_link_to_folder(file: Path) -> None:
    file.symlink_to(file.parent)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and devices")
@pytest.mark.parametrize("make", [make_pipe, make_link_to_device, make_link_to_folder, Path.mkdir])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    file = tmp_path / "strange"
    make(file)
    with pytest.raises(
        UntrustedFileError, match=r"strange: is a (pipe or a device|folder), not a file"
    ):
        read_bytes(file)


def test_large_file_is_refused_and_link_is_followed(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert read_bytes(link, max_bytes=5) == b"12345"
    with pytest.raises(UntrustedFileError, match="larger than"):
        read_bytes(link, max_bytes=4)


def test_sparse_file_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UntrustedFileError, match="larger than 32 MB"):
        read_bytes(tmp_path / "sparse")


def test_json_of_python_is_read() -> None:
    value = parse_json(
        '{"number": 1, "settings": {"a": NaN, "b": "\\udcff"}, "new": 2}', Schema, "x"
    )
    assert value.number == 1
    assert str(value.settings["a"]) == "nan"
    assert value.settings["b"] == "\udcff"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"number": "1", "settings": {}}', r"expected `int`, got `str` - at `\$.number`"),
        ('{"number": true, "settings": {}}', "expected `int`, got `bool`"),
        ('{"number": 1.5, "settings": {}}', "expected `int`, got `float`"),
        ('{"settings": {}}', "missing required field `number`"),
        ('{"number": 1, "settings": []}', "expected `object`, got `array`"),
        ('{"number": 1, "settings": {"a": %s}}' % ("[" * 20 + "]" * 20), r"settings\[\.\.\.\]"),
        ("[" * 200_000, "expected `object`"),
        ('{"settings":' * 100_000, "expected|is not JSON|deeply"),
        ('{"number": 1, "settings": {}', "is not JSON.*line 1"),
        ('{"number": 1, "settings": {"a": %s}}' % ("9" * 5000), "out of range|is not JSON"),
        ("", "is not JSON"),
        ("\x00\xff", "is not JSON"),
        ("null", "expected `object`, got `null`"),
    ],
)
def test_invalid_json_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UntrustedFileError, match=words) as caught:
        parse_json(text, Schema, "file.json")
    assert str(caught.value).startswith("file.json: ")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, r"line 2: has an alias \(\*a\)"),
        ("a: &t {x: *t}", "has an alias"),
        ("[" * 100_000, f"nested more than {MAX_DEPTH} levels"),
        ("".join("  " * i + "a:\n" for i in range(300)), f"nested more than {MAX_DEPTH} levels"),
        ("- x\n" * 300_000 + "- y\n" * 300_000, "more than 500000 values"),
        ("!!python/object/apply:os.system ['true']", "line 1: has the tag .*os.system"),
        ("a: 2020-01-01", "expected"),
        ("a: !!binary aGk=", "has the tag"),
        ("a: !!bool x", "a tag does not suit its value"),
        ('a: !!int ""', "a tag does not suit its value"),
        ("!!float _: b", "is not YAML"),
        ("%TAG ! tag:yaml.org,2002:\n---\na: !bool x", "a tag does not suit its value"),
        ('a: !!int "' + "1:" * 200_000 + '1"', "more than 301 digits"),
        ('a: !!float "' + "1:" * 200_000 + '1"', "more than 301 digits"),
        ("a: " + "1:" * 200_000 + "1.5", "more than 301 digits"),
        ("a: !!set {b, c}", "has the tag"),
        ("{a: b", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("? [a, b]\n: c", "is not YAML"),
        ("1: x", "expected `str`, got `int`"),
        ("- 1", "expected `object`, got `array`"),
        ("\x00", "is not YAML"),
    ],
)
def test_invalid_yaml_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UntrustedFileError, match=words) as caught:
        parse_yaml(text, Tree, "file.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_plain_yaml_is_read() -> None:
    assert parse_yaml("a: [1, x, null, 1.5, true]\nb: {c: d}", Tree, "x") == {
        "a": [1, "x", None, 1.5, True],
        "b": {"c": "d"},
    }


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = {" * 5000, "a = 1\na = 2", "a =", "a = 1d"]
)
def test_invalid_toml_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UntrustedFileError, match=r"nested too deeply|is not TOML") as caught:
        parse_toml(text, Tree, "file.toml")
    assert len(str(caught.value).splitlines()) == 1
