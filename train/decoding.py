"""Text in whatever encoding editors and shells save it."""

from __future__ import annotations

import codecs

MARKS = (  # byte order marks; the one of UTF-32 begins with the one of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
FALLBACK, FALLBACK_NAME = "cp1252", "Windows-1252"


def decoded(data: bytes) -> tuple[str, str]:
    """Bytes as text: by their byte order mark, else as UTF-8, else by a guess.

    Every second byte of UTF-16 is 0 where the text is mostly ASCII, as settings are. What is
    neither that nor UTF-8 is taken for Windows-1252.

    Returns:
        the text, and the name of the encoding where it was guessed, else an empty text.

    Raises:
        ValueError: text in none of these encodings.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding), ""
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros, others = data[first::2], data[1 - first :: 2]
        if zeros and zeros.count(0) > len(zeros) / 2 and not others.count(0):
            return data.decode(encoding), "UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return data.decode(FALLBACK), FALLBACK_NAME
