"""Checks the files of a transformers tokenizer before transformers sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from train.files.untrusted import UntrustedFileError, check_regular, read_json
from train.text.display import shortened

CONFIG = "tokenizer_config.json"
MAX_BYTES = 64_000_000  # bytes of a vocabulary
CLIP = ("CLIPTokenizer",)
# those of open_clip's models, each built by transformers' own code from a vocabulary
KNOWN = (*CLIP, "BertTokenizer", "GPT2Tokenizer", "GemmaTokenizer", "NllbTokenizer",
         "RobertaTokenizer", "T5Tokenizer", "XLMRobertaTokenizer")  # fmt: skip
FAST = "Fast"  # optional suffix of the same tokenizers
FILES = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
         "sentencepiece.bpe.model")  # fmt: skip


class TokenizerSettings(msgspec.Struct):
    """The keys of a tokenizer_config.json that decide what code runs.

    Attributes:
        tokenizer_class: of transformers; after a check without the suffix of the fast ones.
        model_max_length: in tokens; by default transformers has no limit.
        auto_map: names Python code in the folder, and must be absent.
        fast_tokenizer_files: names other files, and must be absent.
    """

    tokenizer_class: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    model_max_length: float | None = None
    auto_map: msgspec.Raw | None = None
    fast_tokenizer_files: msgspec.Raw | None = None


def check_tokenizer(folder: Path, classes: tuple[str, ...] = KNOWN) -> TokenizerSettings:
    """Rejects a tokenizer that transformers' own code does not build, or with irregular files.

    Args:
        classes: the accepted classes, without the suffix of the fast ones.

    Returns:
        its settings.

    Raises:
        UntrustedFileError: the message says which file and what is wrong.
        OSError: it is missing or cannot be read.
    """
    file = folder / CONFIG
    settings = read_json(file, TokenizerSettings)
    default = classes[0] if len(classes) == 1 else ""  # old ones do not name their class
    name = (settings.tokenizer_class or default).removesuffix(FAST)
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
        if (path := folder / other).exists():
            check_regular(path)
            if path.stat().st_size > MAX_BYTES:
                raise UntrustedFileError(
                    f"{shortened(path)}: is larger than {MAX_BYTES / 1e6:g} MB"
                )
    settings.tokenizer_class = name
    return settings
