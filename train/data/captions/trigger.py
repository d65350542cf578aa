"""The trigger in captions: found as whole words, and removed from prompts for the class alone."""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import normalize

# scripts without spaces between words (Thai to Burmese, Khmer, Chinese, Japanese); Korean, which
# attaches particles to words; combining marks
UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
KOREAN = "\uac00-\ud7a3"
MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
LETTER = rf"(?:[^\W_{UNSPACED}{KOREAN}]|[{MARKS}])"  # letters and digits of scripts with spaces
EMPTY_PART = re.compile(r"^\s*,|(?<=,)\s*,|,\s*$")


def mentions(caption: str, words: str) -> bool:
    """Whether a caption contains these whole words in sequence, ignoring case."""
    return bool(_words_pattern(words).search(normalize("NFC", caption)))


def trigger_word(trigger: str) -> str:
    """The rare word of a trigger, which comes first."""
    first = trigger.split()[0]
    return first.rstrip(",;") or first


def without_trigger(caption: str, trigger: str, class_words: str) -> str:
    """A caption as a prompt for the class alone.

    The whole trigger is replaced by the class words. Its rare word alone is too, unless the caption
    already has the class words: then it is removed.
    """
    caption = normalize("NFC", caption)
    text = _words_pattern(trigger).sub(lambda _: class_words, caption)
    replacement = "" if mentions(text, class_words) else class_words
    text = _words_pattern(trigger_word(trigger), "" if replacement else "(?:['’]s)?").sub(
        lambda _: replacement, text
    )
    if text != caption:
        text = re.sub(r"\s+(?=[,.])", "", EMPTY_PART.sub("", text))
    return " ".join(text.split())


@lru_cache(maxsize=256)
def _words_pattern(words: str, suffix: str = "") -> re.Pattern[str]:
    """A pattern of the words between word boundaries, if the script has any."""
    parts = [re.escape(part) for part in normalize("NFC", words).split()]
    first, last = words.split()[0][0], words.split()[-1][-1]
    before = after = ""
    if re.match(LETTER, first):
        before = rf"(?<!{LETTER})"
    elif re.match(f"[{KOREAN}]", first):
        before = f"(?<![{KOREAN}])"
    if re.match(LETTER, last):
        after = rf"(?!{LETTER})"
    return re.compile(before + r"[\s_]+".join(parts) + suffix + after, re.IGNORECASE)
