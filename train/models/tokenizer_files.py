"""The files of a tokenizer of transformers, checked before it sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from train.files.untrusted import UntrustedFileError, check_regular, read_json
from train.text.display import shortened

CONFIG = "tokenizer_config.json"
LARGEST = 64_000_000  # bytes of a vocabulary
CLIP = ("CLIPTokenizer",)
# those of open_clip's models, each of which is built by transformers' own code from a vocabulary
KNOWN = (*CLIP, "BertTokenizer", "GPT2Tokenizer", "GemmaTokenizer", "NllbTokenizer",
         "RobertaTokenizer", "T5Tokenizer", "XLMRobertaTokenizer")  # fmt: skip
FAST = "Fast"  # the same tokenizer may be named with this ending
FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
         "sentencepiece.bpe.model")  # fmt: skip


class TokenizerSettings(msgspec.Struct):
    """What decides what a tokenizer_config.json makes run; all else in it are words.

    Attributes:
        tokenizer_class: of transformers; after a check without the ending of the fast ones.
        model_max_length: tokens; where nothing is said transformers has a number without end.
        auto_map: names Python code in the folder, and must not be there.
        fast_tokenizer_files: names other files, and must not be there.
    """

    tokenizer_class: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    model_max_length: float | None = None
    auto_map: msgspec.Raw | None = None
    fast_tokenizer_files: msgspec.Raw | None = None


def check_tokenizer(folder: Path, classes: tuple[str, ...] = KNOWN) -> TokenizerSettings:
    """Refuses a tokenizer that is not built by transformers' own code, or whose files are none.

    Args:
        classes: that are known, without the ending of the fast ones.

    Returns:
        its settings.

    Raises:
        UntrustedFileError: the line says which file and what is wrong.
        OSError: there is none, or it may not be read.
    """
    file = folder / CONFIG
    settings = read_json(file, TokenizerSettings)
    alone = classes[0] if len(classes) == 1 else ""  # old ones do not say what they are
    name = (settings.tokenizer_class or alone).removesuffix(FAST)
    for key in ("auto_map", "fast_tokenizer_files"):
        if getattr(settings, key) is not None:
            raise UntrustedFileError(
                f"{shortened(file)}: has {key}, which could run code of the folder"
            )
    if name not in classes:
        raise UntrustedFileError(
            f"{shortened(file)}: tokenizer_class is {shortened(settings.tokenizer_class)}, and "
            f"known are {', '.join(classes)}"
        )
    for other in FILES:
        if (place := folder / other).exists():
            check_regular(place)
            if place.stat().st_size > LARGEST:
                raise UntrustedFileError(f"{shortened(place)}: is larger than {LARGEST / 1e6:g} MB")
    settings.tokenizer_class = name
    return settings
