"""File names, captions and arguments in any locale, on any console."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.data.test_layouts import write_images
from train.lora.checkpoint_file import read_metadata
from train.text.display import name_as_words, readable, storable

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOT_UTF8 = os.fsdecode(b"J\xfcrgen")


def train(environment: dict[str, str], output: Path, *arguments: str) -> str:
    """Trains one step; returns the output."""
    process = subprocess.run(
        [sys.executable, "-m", "train", "training.max_steps=1", "base.device=cpu",
         f"output={output}", *arguments],
        capture_output=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    message = process.stderr.decode("latin-1" if "cp1252" in environment.values() else "utf-8")
    assert process.returncode == 0, message
    assert "Traceback" not in message
    return message


def tags(output: Path) -> dict[str, dict[str, int]]:
    result: dict[str, dict[str, int]] = json.loads(
        read_metadata(output / "lora.safetensors")["ss_tag_frequency"]
    )
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Umlauts in the folder, the file and its caption; another image without a caption."""
    folder = write_images(tmp_path / "10_Jürgen dog", "ü", "a")
    (folder / "ü.txt").write_text("sks Köter", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(ASCII, id="C"),
        pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii console"),
        pytest.param({"PYTHONIOENCODING": "cp1252"}, id="cp1252 console"),
    ],
)
def test_umlauts_in_any_locale(
    environment: dict[str, str], folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    settings = [f"base.path={base_folder}", "data.resolution=32", "data.trigger='sks Köter'"]
    message = train(environment, tmp_path / "Ausgänge", f"data.path='{folder}'", *settings)
    name = r"10_J\xfcrgen dog" if "ascii" in environment.values() else "10_Jürgen dog"
    assert f"1 of 2 images in {name} has no caption" in message
    assert tags(tmp_path / "Ausgänge") == {"10_Jürgen dog": {"sks köter": 1, "jürgen dog": 1}}


def test_names_that_are_not_utf8_are_escaped_and_decoded_as_words(
    base_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / f"10_{NOT_UTF8} dog"
    try:
        write_images(tmp_path / "plain", "a", "b").rename(folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (folder / "b.png").rename(folder / os.fsdecode(b"\xfc.png"))
    for environment in ({"LC_ALL": "C.UTF-8"}, ASCII):
        output = tmp_path / "out" / environment["LC_ALL"]
        message = train(
            environment, output, f"base.path={base_folder}", "data.resolution=32",
            f"data.path='{folder}'",
        )  # fmt: skip
        assert (
            r"images in 10_J\xfcrgen dog have no caption and get the words 'Jürgen dog'" in message
        )
        assert r"\xfc.png" in message
        assert tags(output) == {r"10_J\xfcrgen dog": {"jürgen dog": 2}}


def test_readable_names() -> None:
    assert readable("Jürgen 人物") == name_as_words("Jürgen 人物") == "Jürgen 人物"
    assert readable(NOT_UTF8) == r"J\xfcrgen"
    assert name_as_words(NOT_UTF8) == "Jürgen"
    assert name_as_words(os.fsdecode(b"\x81")) == r"\x81"
    assert readable("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert storable(f"{NOT_UTF8} ü") == r"J\udcfcrgen ü"
