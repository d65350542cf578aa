"""The files of a base: their location, family, loading, and fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download

from train.config.parsing import cause
from train.config.schema import EMBEDDED, EMBEDDED_BASE
from train.errors import UserError
from train.files.paths import expanded
from train.files.untrusted import UntrustedFileError, check_regular
from train.models.component_configs import INDEX, WEIGHTS, check_folder, check_index
from train.models.families import Family, family_of
from train.models.single_file import LATENT_CHANNELS, config_folder, family_of_file
from train.models.text_encoding import tokenize

TEST_SENTENCE = "a photo of sks person, smiling"
PICKLE_HINT = (
    "; its weights are pickles, which can run code when loaded: convert them with diffusers "
    "(save_pretrained writes .safetensors)"
)


class BaseError(UserError, ValueError):
    """The base model cannot be loaded; the message says why and what to do."""


def check_location(path: str) -> None:
    """Rejects at once, without asking the hub, a path that does not exist and is no hub id.

    Raises:
        BaseError: there is no such file or folder.
    """
    is_local = path.count("/") != 1 or path.startswith((".", "~", "/")) or path.endswith(WEIGHTS)
    if path != EMBEDDED and is_local and not expanded(path).exists():
        raise BaseError(f"base.path: there is no file or folder {path}")


def locate(path: str) -> Path:
    """The path of the base; a hub id is downloaded (once) by diffusers, without code.

    Raises:
        BaseError: there is no such model.
    """
    check_location(path)
    source = EMBEDDED_BASE if path == EMBEDDED else expanded(path)
    if source.exists():
        return source
    try:
        check_index(Path(hf_hub_download(path, INDEX)))
        return Path(DiffusionPipeline.download(path, use_safetensors=True))
    except (OSError, ValueError) as error:
        if "`safetensors`" in str(error):  # diffusers' message for a component without one
            raise BaseError(f"base.path: {path} has no .safetensors file{PICKLE_HINT}") from error
        raise BaseError(
            f"base.path: {path} is neither on disk nor available from the hub: "
            f"{cause(error.__cause__ or error)}"
        ) from error


def open_pipeline(source: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The components of a base, as diffusers loads them from a folder or a single file.

    Raises:
        ValueError: the model is in none of our families; diffusers raises others for broken files.
    """
    family = find_family(source)
    options = {} if family.is_xl else {"safety_checker": None}
    if source.is_file():
        with config_folder(source, family) as folder:
            return family.pipeline.from_single_file(
                str(source), config=str(folder), dtype=dtype, **options
            )
    pipeline = family.pipeline.from_pretrained(
        str(source), dtype=dtype, feature_extractor=None, use_safetensors=True, **options
    )
    for number in ("", "_2")[: 1 + family.is_xl]:
        vocab_size = getattr(pipeline, f"text_encoder{number}").config.vocab_size
        tokenizer = getattr(pipeline, f"tokenizer{number}")
        if not all(0 <= token < vocab_size for token in tokenizer.get_vocab().values()):
            raise ValueError(
                f"its tokenizer{number} does not match the vocabulary of the text encoder"
            )
        try:
            tokenize(tokenizer, ["", TEST_SENTENCE])
        except Exception as error:  # the Rust library has no exception of its own
            raise ValueError(f"its tokenizer{number} does not work: {cause(error)}") from error
    return pipeline


def find_family(source: Path) -> Family:
    """The family of a single file or of a diffusers folder.

    Raises:
        ValueError: none of ours.
    """
    if source.is_file():
        return family_of_file(source)
    index, unet, vae = check_folder(source)
    channels = vae.get("latent_channels", LATENT_CHANNELS)
    if unet.get("in_channels", LATENT_CHANNELS) != channels:
        raise ValueError("made for inpainting or the like; LoRAs are trained on the plain model")
    encoders = sorted(
        part for part, kind in index.items() if part.startswith("text_encoder") and any(kind or [])
    )
    if encoders not in (["text_encoder"], ["text_encoder", "text_encoder_2"]):
        raise ValueError(f"its text encoders are {', '.join(encoders) or 'none'}")
    return family_of(unet, len(encoders))


def weight_files(source: Path) -> list[Path]:
    """The .safetensors files of a base, in a fixed order.

    Raises:
        BaseError: there are none.
    """
    if source.is_file():
        return [source]
    files = sorted(source.rglob(f"*{WEIGHTS}"))
    if not files:
        pickles = [*source.rglob("*.bin"), *source.rglob("*.ckpt")]
        raise BaseError(
            f"base.path: no .safetensors file in {source}{PICKLE_HINT if pickles else ''}"
        )
    try:
        for file in files:
            check_regular(file)
    except UntrustedFileError as error:
        raise BaseError(f"base.path: {error}") from error
    return files


def fingerprint(files: list[Path], root: Path) -> str:
    """sha256 over the names (below `root`) and the bytes of the weight files."""
    digest = hashlib.sha256()
    for file in files:
        if file != root:
            digest.update(str(file.relative_to(root)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def short_hash(source: Path) -> str | None:
    """The old short hash of web UIs and kohya (`ss_sd_model_hash`), for single files.

    It is the first 8 digits of the sha256 of the 64 KiB at offset 1 MiB.
    """
    if not source.is_file():
        return None
    with source.open("rb") as stream:
        stream.seek(0x100000)
        return hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]
