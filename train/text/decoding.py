"""Decodes text in the encodings that editors and shells use."""

from __future__ import annotations

import codecs
from contextlib import suppress

BYTE_ORDER_MARKS = (  # byte order marks; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
FALLBACK, FALLBACK_NAME = "cp1252", "Windows-1252"
UTF16_NAME = "UTF-16"


def decode_text(data: bytes) -> tuple[str, str]:
    """Decodes bytes: by their byte order mark, else as UTF-8, else by a guess.

    In UTF-16, more than half of every second byte is 0 if the text is mostly ASCII. Anything else
    that is not UTF-8 is decoded as Windows-1252.

    Returns:
        the text, and the name of the encoding if it was guessed, else an empty text.

    Raises:
        ValueError: none of these encodings fits.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
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
