"""The trigger in captions is whole words, in any script; prompts for the class omit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.data.test_layouts import load, write_images
from train.data.captions.trigger import mentions, without_trigger


@pytest.mark.parametrize(
    ("caption", "trigger", "class_words", "remaining"),
    [
        ("ana woman eating a banana", "ana woman", "woman", "woman eating a banana"),
        ("Ana Woman eating a banana", "ana woman", "woman", "woman eating a banana"),
        ("bananas, savanna, ana_woman", "ana woman", "woman", "bananas, savanna, woman"),
        ("ana's hat", "ana woman", "woman", "woman's hat"),
        ("a woman with ana's hat", "ana woman", "woman", "a woman with hat"),
        ("ana, woman, red dress", "ana woman", "woman", "woman, red dress"),
        ("red dress, woman, ana", "ana woman", "woman", "red dress, woman"),
        ("a photo of ana.", "ana woman", "woman", "a photo of woman."),
        ("a womanly figure, ana", "ana woman", "woman", "a womanly figure, woman"),
        ("a photo of <sks> person.", "<sks> person", "person", "a photo of person."),
        ("(sks:1.2) person", "sks person", "person", "(:1.2) person"),
        ("sks.* and [x]", "[x] cat", "cat", "sks.* and cat"),
        ("a c++ cat", "c++ cat", "cat", "a cat"),
        ("sks person, red hair, smiling", "sks person, red hair", "person, red hair",
         "person, red hair, smiling"),
        ("a photo of sks", "sks", "puppet", "a photo of puppet"),
        ("asks, sksing, sks2", "sks dog", "dog", "asks, sksing, sks2"),
        ("小明在公园里", "小明 男孩", "男孩", "男孩在公园里"),
        ("sks人物の写真", "sks 人物", "人物", "人物の写真"),
        ("민수가 웃는다", "민수 남자", "남자", "남자가 웃는다"),
        ("राम खड़ा, रामायण", "राम आदमी", "आदमी", "आदमी खड़ा, रामायण"),
        ("жена и женщина", "жена дама", "дама", "дама и женщина"),
        ("Jose\u0301 man, Joses", "josé man", "man", "man, Joses"),
        (r"\1 dog \g<0>", "sks dog", r"\1 dog", r"\1 dog \g<0>"),
    ],
)  # fmt: skip
def test_trigger_is_removed_as_whole_words(
    caption: str, trigger: str, class_words: str, remaining: str
) -> None:
    assert without_trigger(caption, trigger, class_words) == remaining


@pytest.mark.parametrize(
    ("caption", "word", "has"),
    [
        ("a photo of SKS dog", "sks", True), ("sks.", "sks", True), ("(sks)", "sks", True),
        ("asks", "sks", False), ("banana", "ana", False), ("<sks>", "<sks>", True),
        ("arms raised, legs apart", "arms raised", True), ("farms raised", "arms raised", False),
        ("landscape", "cap", False), ("", "sks", False),
    ],
)  # fmt: skip
def test_mentions_matches_whole_words(caption: str, word: str, has: bool) -> None:
    assert mentions(caption, word) is has


def test_report_matches_whole_words(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "a.txt").write_text("a photo of <ana>.")
    (tmp_path / "b.txt").write_text("a banana")
    message = load(tmp_path, trigger="<ana> woman").report()
    assert "1 of 2 captions" in message
    assert "lacks the trigger word '<ana>' (such as b.png)" in message
