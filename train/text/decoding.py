"""Text in whatever encoding editors and shells save it."""

from __future__ import annotations

import codecs
from contextlib import suppress

MARKS = (  # byte order marks; the one of UTF-32 begins with the one of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
FALLBACK, FALLBACK_NAME = "cp1252", "Windows-1252"
UTF16_NAME = "UTF-16"


def decoded(data: bytes) -> tuple[str, str]:
    """Bytes as text: by their byte order mark, else as UTF-8, else by a guess.

    More than half of every second byte of UTF-16 is 0 where the text is mostly ASCII. What is
    neither that nor UTF-8 is taken for Windows-1252.

    Returns:
        the text, and the name of the encoding where it was guessed, else an empty text.

    Raises:
        ValueError: text in none of these encodings.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding), ""
    for encoding, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if zeros.count(0) * 4 > len(data) and zeros.count(0) == data.count(0):
            with suppress(UnicodeDecodeError):
                return data.decode(encoding), UTF16_NAME
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return data.decode(FALLBACK), FALLBACK_NAME
