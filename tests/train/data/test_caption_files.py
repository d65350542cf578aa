"""Caption files of users: names, encodings, unusual content."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tests.train.data.test_layouts import captions_and_repeats, load, write_images
from train.data.captions.caption_files import read_caption
from train.data.images.image import DataError

JOERG = "sks dog und Jörg"


@pytest.mark.parametrize(
    ("data", "text", "guess"),
    [
        (JOERG.encode(), JOERG, ""),
        (JOERG.encode("utf-8-sig"), JOERG, ""),
        (b"\xef\xbb\xbf" + JOERG.encode("utf-8-sig"), JOERG, ""),
        (JOERG.encode("utf-16"), JOERG, ""),  # as PowerShell 5 writes
        (b"\xfe\xff" + JOERG.encode("utf-16-be"), JOERG, ""),
        (JOERG.encode("utf-32"), JOERG, ""),
        (JOERG.encode("utf-16-le"), JOERG, "read as UTF-16"),
        (JOERG.encode("utf-16-be"), JOERG, "read as UTF-16"),
        (JOERG.encode("cp1252"), JOERG, "read as Windows-1252"),
        ("“sks dog” – 5 €".encode("cp1252"), "“sks dog” – 5 €", "read as Windows-1252"),
        ("小狗 sks dog".encode(), "小狗 sks dog", ""),
        (b"sks dog\r\n\r\n", "sks dog", ""),
        (b"sks dog,\r\nrunning\n", "sks dog, running", "of several lines"),
        (b"sks\tdog\x0b \xc2\xa0 runs", "sks dog runs", ""),
        (b"sks dog\0\0\0\0", "sks dog", "control characters"),
        (b"sks dog \x1b[31mred", "sks dog [31mred", "control characters"),
        (b"", "", ""),
        (b"\xff\xfe", "", ""),
        (b" \r\n\t", "", ""),
        (b"\0" * 40, "", "control characters"),
    ],
)
def test_captions_in_any_encoding(tmp_path: Path, data: bytes, text: str, guess: str) -> None:
    write_images(tmp_path, "a")
    (tmp_path / "a.txt").write_bytes(data)
    dataset = load(tmp_path)
    assert captions_and_repeats(dataset)["a"][0] == (text or "sks dog")
    message = dataset.report()
    assert ("has no caption" in message) == (not text)
    guesses = ("UTF-16", "Windows-1252", "several lines", "control characters")
    assert any(word in message for word in guesses) == bool(guess)
    assert guess in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "\u3042 sks".encode("shift_jis") + b"\x81\x8d",
            "not text in UTF-8, UTF-16 or Windows-1252",
        ),
        (b"\xff\xfes\0k\0s", "not text in UTF-8"),
        (b"\xff\xfe\x00\xd8", "not text in UTF-8"),  # half of a pair: a surrogate
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\2\3\4\5\6", "not text but binary data"),
        (b"x" * 100_001, "is larger than 100 KB; it is not a caption"),
    ],
)
def test_invalid_caption_is_named_or_skipped(tmp_path: Path, data: bytes, message: str) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path)
    assert "data.on_error=skip" in str(error.value)
    dataset = load(tmp_path, on_error="skip")
    assert [p.path.stem for p in dataset.training] == ["b"]
    assert f"skipped: {tmp_path / 'a.txt'}: " in dataset.report()


def test_long_captions_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("sks dog, " * 10_000)
    assert len(read_caption(tmp_path / "a.txt").text) == 9 * 10_000 - 1


def test_caption_files_are_found_by_common_names(tmp_path: Path) -> None:
    accent = "ä"
    write_images(tmp_path, "a", "b", "C", "d ", unicodedata.normalize("NFD", accent), "e", "both")
    for name in ("a.png.txt", "b.TXT", "c.txt", "d.txt", f"{accent}.txt", "E.Txt", "both.txt",
                 "both.png.txt"):  # fmt: skip
        (tmp_path / name).write_text(f"sks dog {name}")
    captions = {
        unicodedata.normalize("NFC", stem): caption
        for stem, (caption, _) in captions_and_repeats(load(tmp_path)).items()
    }
    assert captions == {
        "a": "sks dog a.png.txt", "b": "sks dog b.TXT", "C": "sks dog c.txt",
        "d ": "sks dog d.txt", accent: f"sks dog {accent}.txt", "e": "sks dog E.Txt",
        "both": "sks dog both.txt",
    }  # fmt: skip


@pytest.mark.parametrize("extension", [".caption", "caption", ".Caption"])
def test_captions_with_another_extension_are_suggested(tmp_path: Path, extension: str) -> None:
    write_images(tmp_path, "a", "b", "c")
    for name in "ab":
        (tmp_path / f"{name}.caption").write_text("sks dog, found")
    (tmp_path / "c.txt").write_text("sks dog")
    (tmp_path / "lonely.txt").write_text("sks dog")
    message = load(tmp_path).report()
    assert "2 of 3 images" in message
    assert "data.caption_extension=.caption reads it" in message
    assert "without an image of the same name: lonely.txt" in message
    result = load(tmp_path, caption_extension=extension)
    assert [caption for caption, _ in captions_and_repeats(result).values()] == [
        "sks dog, found"
    ] * 2 + ["sks dog"]


def test_caption_file_shared_by_two_images_is_reported(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "a.png").rename(tmp_path / "b.jpg")
    (tmp_path / "b.txt").write_text("sks dog")
    message = load(tmp_path).report()
    assert "one caption file, b.txt, is that of 2 images: b.jpg, b.png" in message


def test_captions_in_a_separate_folder_or_next_to_the_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a", "b", "c")
    (tmp_path / "captions").mkdir()
    for place, name in (("captions", "a"), ("images", "a"), ("images", "b")):
        (tmp_path / place / f"{name}.txt").write_text(f"sks dog in {place}")
    assert [caption for caption, _ in captions_and_repeats(load(tmp_path)).values()] == [
        "sks dog in captions", "sks dog in images", "sks dog",
    ]  # fmt: skip


def test_broken_caption_link_is_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "a.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read"):
        load(tmp_path)
    assert [*captions_and_repeats(load(tmp_path, on_error="skip"))] == ["b"]
