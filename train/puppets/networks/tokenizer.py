"""A CLIPTokenizer that keeps the world's words whole and spells everything else letter by letter.

Byte-level BPE like every CLIP's, so any text can be tokenized; its merges are constructed so that
each word of the vocabulary, in order, becomes one token.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from train.puppets.world.captions import vocabulary

WORDS = tuple(vocabulary())
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """GPT-2's printable substitutes for the 256 bytes, in the order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Splits a word by the merges so far."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        pieces[at : at + 2] = ["".join(best)]
    return pieces


def merges_for(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that make every word one token; later ones never affect an earlier word."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = split(word, ranks)
        while len(pieces) > 1:
            ranks.setdefault((pieces[0], pieces[1]), len(ranks))
            pieces[:2] = ["".join(pieces[:2])]
        if len(split(word, ranks)) > 1:
            raise ValueError(f"no single token for {word!r}")
    return list(ranks)


def build(length: int) -> CLIPTokenizer:
    """The tokenizer; the end-of-text id is the highest, as CLIP's pooling requires.

    Args:
        length: of a prompt in tokens.
    """
    merges = merges_for(WORDS)
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    tokens += [START, END]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=length
    )


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the tokenizer, plus the two plain files that older readers need."""
    tokenizer.save_pretrained(folder)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.json").write_text(json.dumps(dict(vocab), ensure_ascii=False))
    lines = [" ".join(pair) for pair in merges_for(WORDS)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
