"""The trigger in captions: found as whole words, and left out of prompts for the class alone."""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import normalize

# scripts that write words without spaces (Thai to Burmese, Khmer, Chinese, Japanese); Korean, which
# puts particles right behind a word; marks that go with the letter before them
UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
KOREAN = "\uac00-\ud7a3"
MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
LETTER = rf"(?:[^\W_{UNSPACED}{KOREAN}]|[{MARKS}])"  # or digit, of a script with spaces
EMPTY_PART = re.compile(r"^\s*,|(?<=,)\s*,|,\s*$")


def says(caption: str, words: str) -> bool:
    """Whether a caption has the words, whole and one after the other, in upper or lower case."""
    return bool(_whole(words).search(normalize("NFC", caption)))


def word_of(trigger: str) -> str:
    """The rare word of a trigger, which is its first."""
    first = trigger.split()[0]
    return first.rstrip(",;") or first


def without_trigger(caption: str, trigger: str, class_words: str) -> str:
    """A caption as a prompt for the class alone.

    The whole trigger becomes the class words. So does its rare word where it stands alone, unless
    the caption has the class words anyway: then it is left out.
    """
    caption = normalize("NFC", caption)
    text = _whole(trigger).sub(lambda _: class_words, caption)
    instead = "" if says(text, class_words) else class_words
    text = _whole(word_of(trigger), "" if instead else "(?:['’]s)?").sub(lambda _: instead, text)
    if text != caption:
        text = re.sub(r"\s+(?=[,.])", "", EMPTY_PART.sub("", text))
    return " ".join(text.split())


@lru_cache(maxsize=256)
def _whole(words: str, more: str = "") -> re.Pattern[str]:
    """A pattern of the words between boundaries, as far as the script has any."""
    parts = [re.escape(part) for part in normalize("NFC", words).split()]
    first, last = words.split()[0][0], words.split()[-1][-1]
    before = after = ""
    if re.match(LETTER, first):
        before = rf"(?<!{LETTER})"
    elif re.match(f"[{KOREAN}]", first):
        before = f"(?<![{KOREAN}])"
    if re.match(LETTER, last):
        after = rf"(?!{LETTER})"
    return re.compile(before + r"[\s_]+".join(parts) + more + after, re.IGNORECASE)
