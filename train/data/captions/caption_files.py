"""Finds the caption files of images, and reads them in whatever encoding they have."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from train.cli.arguments import ALLOW_PATH
from train.data.images.file_kinds import CAPTION_EXTENSIONS, extension_of
from train.data.images.image import DataError
from train.files.paths import is_below
from train.files.permissions import may_read
from train.files.untrusted import UntrustedFileError, read_bytes
from train.text.decoding import FALLBACK_NAME, UTF16_NAME, decode_text
from train.text.display import shortened
from train.text.shell import in_setting

MAX_BYTES = 100_000  # bytes; text encoders read some 300 of them
MAX_CONTROL_SHARE = 0.1  # a larger share of control characters is not text; 0 bytes may be padding

# the notes on captions that are not plain UTF-8 in one line
WINDOWS_NOTE = "not in UTF-8 and read as Windows-1252; if that is wrong, save them as UTF-8"
UTF16_NOTE = "read as UTF-16, which nothing in them says; if that is wrong, save them as UTF-8"
GUESSED = {UTF16_NAME: UTF16_NOTE, FALLBACK_NAME: WINDOWS_NOTE}
CONTROLS_NOTE = "read without their control characters"
LINES_NOTE = "of several lines and read as one; kohya reads only the first line"


@dataclass(frozen=True)
class Caption:
    """A caption in one line.

    Attributes:
        notes: what was guessed or removed: WINDOWS, UTF16, CONTROLS, LINES.
    """

    text: str
    notes: tuple[str, ...] = ()


class CaptionFiles:
    """The caption files for the images of a folder.

    `a.txt` belongs to `a.jpg`, and so does `a.jpg.txt`; case and the encoding of accents make no
    difference, unless a file has exactly the name.

    Args:
        files: those next to the images; files of a separate captions folder come first.
        extension: of the caption files, with or without its dot.
    """

    def __init__(self, files: Iterable[Path], extension: str) -> None:
        self.extension = f".{extension.strip().lstrip('.')}".lower()
        self.files: dict[tuple[str, str], Path] = {}
        keyed = [
            (_composed(file.stem), extension_of(file), file)
            for file in files
            if file.is_file() or not file.exists()
        ]
        for stem, suffix, file in keyed:
            self.files.setdefault((stem, suffix), file)
        for stem, suffix, file in keyed:
            self.files.setdefault((stem.casefold(), suffix), file)

    def file_of(self, image: Path) -> Path | None:
        """The caption file of an image."""
        return self._find(image, self.extension)

    def other_extension(self, image: Path) -> str | None:
        """The extension of another file that may be a caption of the image."""
        others = (extension for extension in CAPTION_EXTENSIONS if extension != self.extension)
        return next((extension for extension in others if self._find(image, extension)), None)

    def without_image(self, images: Iterable[Path]) -> list[Path]:
        """Caption files that belong to none of the images."""
        used = {self.file_of(image) for image in images}
        captions = {file for (_, suffix), file in self.files.items() if suffix == self.extension}
        return sorted(captions - used)

    def _find(self, image: Path, extension: str) -> Path | None:
        for name in map(_composed, (image.stem, image.name)):
            for key in (name, name.casefold()):
                if file := self.files.get((key, extension)):
                    return file
        return None


def check_caption_link(file: Path, root: Path) -> None:
    """Rejects a caption file that lies, after following links, outside of the user's folder.

    It is also rejected if a folder on its path is such a link, although images are then read.

    Images come from strangers together with their captions, and such a link would put any text of
    the machine into what is trained and reported.

    Args:
        root: the folder that the user named; it may be a link itself.

    Raises:
        DataError: it leads to a place that no `--allow-path=` allows.
    """
    if is_below(file, root) or may_read(file, include_cwd=False):
        return
    allow = in_setting(ALLOW_PATH, Path(os.path.realpath(file)).parent)
    raise DataError(
        f"{shortened(file)}: is behind a link that leads out of the folder {shortened(root)}; put "
        f"a copy of the file there, or allow the folder that it is in with {allow}"
    )


def read_caption(file: Path) -> Caption:
    """The caption in a file, in one line, with single spaces.

    The encoding is that of the byte order mark; else UTF-8; else UTF-16 if every second byte is 0,
    or Windows-1252, with a note.

    Raises:
        DataError: it cannot be read, is too large for a caption, or is not text.
    """
    try:
        data = read_bytes(file, MAX_BYTES)
    except UntrustedFileError as error:
        raise DataError(f"{error}; it is not a caption") from None
    except OSError as error:
        raise DataError(f"{shortened(file)}: cannot be read ({error.strerror})") from None
    try:
        text, guessed = decode_text(data)
    except ValueError:
        raise DataError(
            f"{shortened(file)}: caption is not text in UTF-8, UTF-16 or Windows-1252; save it as "
            "UTF-8"
        ) from None
    text, notes = text.replace("\ufeff", ""), [GUESSED[guessed]] if guessed else []
    controls = [c for c in text if unicodedata.category(c) == "Cc" and not c.isspace()]
    removed = set(controls)
    cleaned = "".join(c for c in text if c not in removed) if controls else text
    if cleaned.strip() and sum(c != "\0" for c in controls) > MAX_CONTROL_SHARE * len(text):
        raise DataError(f"{shortened(file)}: caption is not text but binary data")
    notes += [CONTROLS_NOTE] * bool(controls)
    notes += [LINES_NOTE] * (len(re.findall(r"[^\s]+[^\r\n]*", cleaned)) > 1)
    return Caption(" ".join(cleaned.split()), tuple(notes))


def _composed(name: str) -> str:
    """The name without surrounding spaces, with accents composed (macOS decomposes them)."""
    return unicodedata.normalize("NFC", name).strip()
