"""Loads an encoder from a folder, a repository of the hub, or open_clip's own list.

Nothing that is loaded runs code: weights are .safetensors files, settings are validated, and
transformers loads its own tokenizer classes only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import torch
import transformers
from huggingface_hub import hf_hub_download, snapshot_download
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from evaluate.features.clip_config import CONFIG, Model, Text, read_settings
from train.config.schema import EMBEDDED
from train.files.paths import expanded
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError
from train.models.model_files import TEST_SENTENCE
from train.models.tokenizer_files import CONFIG as TOKENIZER_CONFIG
from train.models.tokenizer_files import FILES as TOKENIZER_FILES
from train.models.tokenizer_files import check_tokenizer
from train.puppets.networks.training import CLIP
from train.text.display import shortened

HUB = "hf-hub:"
WEIGHTS = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", "model.safetensors")
PICKLE_NOTE = "(a pickle can run code)"
# a model may have this many times its file's numbers: position embeddings are resized
SIZE_TOLERANCE = 1.1


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder on the CPU.

    Attributes:
        tokenizer: maps N sentences to (N, tokens).
        mean, std: normalization of the pixels.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_encoder(name: str) -> LoadedEncoder:
    """Loads an encoder, see `ClipEncoder`.

    Raises:
        UntrustedFileError: the files are invalid.
        OSError, RuntimeError, and others of the libraries: the encoder is not available.
    """
    folder = CLIP if name == EMBEDDED else expanded(name)
    if folder.is_dir():
        return _load_folder(folder)
    if name.startswith(HUB):
        return _load_folder(_download(name.removeprefix(HUB)))
    if "@" in name:
        model, _, file = name.partition("@")
        weights = expanded(file)
        if weights.suffix != ".safetensors" or not weights.exists():
            raise UntrustedFileError(
                f"there is no .safetensors file {shortened(file)} {PICKLE_NOTE}"
            )
        return _load_listed(model, weights, {})
    model, _, tag = name.rpartition("/")
    entry = open_clip.get_pretrained_cfg(model.replace("/", "-"), tag)
    if not entry:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model.replace("/", "-")))
        raise UntrustedFileError(
            f"{shortened(name)}: is not a folder, and open_clip has no such model and tag"
            f"{'; its tags: ' * bool(tags)}{tags}"
        )
    return _load_listed(model, _weights_of_tag(entry), entry)


def _load_folder(folder: Path) -> LoadedEncoder:
    settings = read_settings(folder)
    model_config, weights = settings.model_cfg, _weights_in(folder)
    stored = _parameter_count(weights)
    with torch.device("meta"):  # takes no memory
        expected = sum(parameter.numel() for parameter in _build_model(model_config).parameters())
    if expected > SIZE_TOLERANCE * stored:
        raise UntrustedFileError(
            f"{shortened(weights)}: has {stored} numbers, its model {expected}"
        )
    model = _build_model(model_config)
    open_clip.load_checkpoint(model, str(weights))
    tokenizer = _tokenizer(folder, model_config.text_cfg, model.vocab_size)
    tokenizer(["", TEST_SENTENCE])  # a tokenizer without a padding token fails only here
    return LoadedEncoder(
        model,
        tokenizer,
        tuple(settings.preprocess_cfg.mean or OPENAI_DATASET_MEAN),
        tuple(settings.preprocess_cfg.std or OPENAI_DATASET_STD),
    )


def _build_model(model_config: Model) -> Any:
    settings: dict[str, Any] = msgspec.to_builtins(model_config)
    custom = settings.pop("custom_text", False)
    if settings["vision_cfg"].get("timm_model_name"):
        settings["vision_cfg"]["timm_model_pretrained"] = False
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)


def _tokenizer(folder: Path, text_config: Text, vocab_size: int) -> Callable[[list[str]], Tensor]:
    """The folder's tokenizer if the settings name one, else open_clip's.

    Args:
        vocab_size: number of the model's token embeddings.

    Raises:
        UntrustedFileError: the tokenizer has more tokens than the model.
    """
    length = text_config.context_length or open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
    options = text_config.tokenizer_kwargs
    clean = (options.clean if options else None) or None
    if not text_config.hf_tokenizer_name:
        simple = open_clip.SimpleTokenizer(context_length=length, clean=clean or "lower")
        _check_vocabulary(folder, "open_clip's tokenizer", simple.vocab_size, vocab_size)
        return simple
    kind = getattr(transformers, check_tokenizer(folder).tokenizer_class or "")
    tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    needed = max(tokenizer.get_vocab().values(), default=0) + 1
    _check_vocabulary(folder, "its tokenizer", needed, vocab_size)
    cleaned = get_clean_fn(clean or "whitespace")
    separator = tokenizer.sep_token_id if options and options.strip_sep_token else None

    def tokens(texts: list[str]) -> Tensor:
        ids: Tensor = tokenizer(
            [cleaned(text) for text in texts],
            return_tensors="pt",
            max_length=length,
            padding="max_length",
            truncation=True,
        ).input_ids
        return ids if separator is None else ids.masked_fill(ids == separator, 0)

    return tokens


def _check_vocabulary(folder: Path, tokenizer: str, needed: int, vocab_size: int) -> None:
    if needed > vocab_size:
        raise UntrustedFileError(
            f"{shortened(folder)}: {tokenizer} has {needed} tokens, its model {vocab_size}"
        )


def _load_listed(name: str, weights: Path, entry: dict[str, Any]) -> LoadedEncoder:
    """A model of open_clip's own list, with weights from a file.

    Args:
        entry: open_clip's entry for these weights.
    """
    _parameter_count(weights)
    model = open_clip.create_model(name, pretrained=str(weights), require_pretrained=True)
    model_config = open_clip.get_model_config(name.replace("/", "-")) or {}
    remote = (
        {"trust_remote_code": False} if model_config["text_cfg"].get("hf_tokenizer_name") else {}
    )
    return LoadedEncoder(
        model,
        open_clip.get_tokenizer(name.replace("/", "-"), **remote),
        tuple(entry.get("mean") or OPENAI_DATASET_MEAN),
        tuple(entry.get("std") or OPENAI_DATASET_STD),
    )


def _weights_of_tag(entry: dict[str, Any]) -> Path:
    """The .safetensors file of one of open_clip's tags, downloaded once."""
    repository, name = os.path.split(entry.get("hf_hub", ""))
    safe = f"{os.path.splitext(name)[0]}.safetensors" if name else HF_SAFE_WEIGHTS_NAME
    if not repository:
        raise UntrustedFileError(
            f"this tag has no .safetensors file {PICKLE_NOTE}; take another one"
        )
    return Path(hf_hub_download(repository, safe))


def _download(repository: str) -> Path:
    """Downloads only a repository's settings, vocabularies and weights, once."""
    texts = [CONFIG, TOKENIZER_CONFIG, *TOKENIZER_FILES]
    for name in WEIGHTS:
        folder = Path(snapshot_download(repository, allow_patterns=[*texts, name]))
        if (folder / name).exists():
            return folder
    raise UntrustedFileError(
        f"{shortened(repository)}: has none of {', '.join(WEIGHTS)} {PICKLE_NOTE}"
    )


def _weights_in(folder: Path) -> Path:
    """The weights of a folder: a file with a usual name, else the only one."""
    files = sorted(folder.glob("*.safetensors"))
    preferred = [file for name in WEIGHTS for file in files if file.name == name]
    if not preferred and len(files) != 1:
        count = "several" if files else "no"
        raise UntrustedFileError(
            f"{shortened(folder)}: has {count} .safetensors files {PICKLE_NOTE}"
        )
    return [*preferred, *files][0]


def _parameter_count(weights: Path) -> int:
    """Number of values in a file of weights."""
    try:
        return read_header(weights).numbers
    except UntrustedFileError as error:
        raise UntrustedFileError(f"{shortened(weights)}: {error}") from None
