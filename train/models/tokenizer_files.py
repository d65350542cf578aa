"""Checks the files of a transformers tokenizer before transformers sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from train.files.untrusted import (
    Tree,
    UntrustedFileError,
    check_regular,
    convert,
    read_json,
    too_large,
)
from train.text.display import shortened

CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"  # the whole tokenizer in one file
MAX_BYTES = 64_000_000  # bytes of a vocabulary
CLIP = ("CLIPTokenizer",)
# those of open_clip's models, each built by transformers' own code from a vocabulary
KNOWN = (*CLIP, "BertTokenizer", "GPT2Tokenizer", "GemmaTokenizer", "NllbTokenizer",
         "RobertaTokenizer", "T5Tokenizer", "XLMRobertaTokenizer")  # fmt: skip
FAST = "Fast"  # optional suffix of the same tokenizers
FILES = (TOKENIZER, "special_tokens_map.json", "added_tokens.json", "vocab.json",
         "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
         "sentencepiece.bpe.model")  # fmt: skip


# the keys whose texts, lists and mappings are no files and no code; transformers passes any key on
# to its tokenizer, which knows some that are not documented, as `vocab` and `gguf_file`
TEXTS = {
    "added_tokens_decoder", "additional_special_tokens", "backend", "chat_template", "errors",
    "extra_special_tokens", "language_codes", "model_input_names", "name_or_path", "never_split",
    "padding", "padding_side", "processor_class", "special_tokens_map_file", "src_lang",
    "tgt_lang", "tokenizer_class", "truncation", "truncation_side", "truncation_strategy",
}  # fmt: skip
TOKEN = "_token"  # the end of a key
PATHS = {"added_tokens_file", "merges_file", "tokenizer_file", "vocab_file"}


class TokenizerSettings(msgspec.Struct):
    """The keys of a tokenizer_config.json that this program reads.

    Attributes:
        tokenizer_class: of transformers; after a check without the suffix of the fast ones.
        model_max_length: in tokens; by default transformers has no limit.
    """

    tokenizer_class: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    model_max_length: float | None = None


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
    content = read_json(file, Tree)
    settings = convert(content, TokenizerSettings, shortened(file))
    default = classes[0] if len(classes) == 1 else ""  # old ones do not name their class
    name = (settings.tokenizer_class or default).removesuffix(FAST)
    has_tokenizer = (folder / TOKENIZER).exists()
    for key, value in content.items():
        if value and isinstance(value, str | list | dict) and not _is_text(key, has_tokenizer):
            raise UntrustedFileError(
                f"{shortened(file)}: has {shortened(key)}, which could name code or another file"
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
                raise too_large(path, MAX_BYTES)
    settings.tokenizer_class = name
    return settings


def _is_text(key: str, has_tokenizer: bool) -> bool:
    """Whether the text of a key is only a text.

    Files whose names the maker's own computer left here are not read if the folder has a
    tokenizer.json.
    """
    return key in TEXTS or key.endswith(TOKEN) or (has_tokenizer and key in PATHS)
