"""Checks the configs in a base's folder before diffusers and transformers see them.

The components must have classes of our families, their settings must be numbers and words, and
their sizes must match their weights.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from msgspec import Meta

from train.files.safetensors_header import read_header
from train.files.untrusted import Tree, UntrustedFileError, convert, read_json
from train.models.tokenizer_files import CLIP, check_tokenizer
from train.text.display import shortened

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ".safetensors"
SCHEDULERS = (*(kind.name for kind in KarrasDiffusionSchedulers), "LCMScheduler", "TCDScheduler",
              "EDMDPMSolverMultistepScheduler")  # fmt: skip
TOKENIZERS = [["transformers", name] for name in ("CLIPTokenizer", "CLIPTokenizerFast")]
# the classes that a component may have, including components that are never loaded
CLASSES = {
    "unet": [["diffusers", "UNet2DConditionModel"]],
    "vae": [["diffusers", "AutoencoderKL"]],
    "text_encoder": [["transformers", "CLIPTextModel"]],
    "text_encoder_2": [["transformers", "CLIPTextModelWithProjection"]],
    "tokenizer": TOKENIZERS,
    "tokenizer_2": TOKENIZERS,
    "scheduler": [["diffusers", name] for name in SCHEDULERS],
    "safety_checker": [["stable_diffusion", "StableDiffusionSafetyChecker"]],
    "feature_extractor": [["transformers", "CLIPImageProcessor"],
                          ["transformers", "CLIPFeatureExtractor"]],
}  # fmt: skip
PIPELINES = ("StableDiffusion", "LatentConsistencyModel")  # prefixes of the pipelines' names
DIFFUSERS_CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
# keys and files that make a library load something other than the component itself
FORBIDDEN = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation",
             "adapter_config.json")  # fmt: skip
ORIGIN_KEY = "_name_or_path"  # the origin of a component; nothing reads it
MAX_SIZE, MAX_LIST_LENGTH = 10_240, 16  # of a network's sizes, and of a list of them
MAX_NUMBER = 10_000_000  # of any other number
SIZE_TOLERANCE = 1.05  # a text encoder may have this many times the numbers of its file

Size = Annotated[int, Meta(ge=1, le=3_000_000)]


class TextEncoder(msgspec.Struct):
    """The sizes of a CLIP text encoder; the defaults are those of transformers' CLIPTextConfig."""

    vocab_size: Size = 49408
    hidden_size: Size = 512
    intermediate_size: Size = 2048
    projection_dim: Size = 512
    num_hidden_layers: Annotated[int, Meta(ge=1, le=200)] = 12
    num_attention_heads: Size = 8
    max_position_embeddings: Size = 77
    architectures: list[str] | None = None

    @property
    def numbers(self) -> int:
        """Number of values in its matrices, without biases."""
        width = self.hidden_size
        layer = 4 * width**2 + 2 * width * self.intermediate_size
        projected = any("WithProjection" in name for name in self.architectures or [])
        return (
            self.num_hidden_layers * layer
            + (self.vocab_size + self.max_position_embeddings) * width
            + projected * width * self.projection_dim
        )


class Scheduler(msgspec.Struct):
    """The sizes of a scheduler, and the keys that determine the prediction."""

    num_train_timesteps: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    trained_betas: Annotated[list[float], Meta(max_length=10_000)] | None = None
    beta_start: Annotated[float, Meta(ge=0, le=1)] = 0.0001
    beta_end: Annotated[float, Meta(ge=0, le=1)] = 0.02
    beta_schedule: Annotated[str, Meta(max_length=60)] = "linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    steps_offset: Annotated[int, Meta(ge=0, le=1000)] = 0


def check_index(file: Path) -> Tree:
    """The content of a model_index.json, after a check that its components have known classes.

    Raises:
        UntrustedFileError: a component of another class, which the message names.
        OSError: the file is missing or cannot be read.
    """
    index = _content(file)
    name = index.get("_class_name")
    if not (isinstance(name, str) and name.startswith(PIPELINES) and name.isidentifier()):
        raise UntrustedFileError(
            f"{shortened(file)}: _class_name is not a Stable Diffusion pipeline"
        )
    for part, kind in index.items():
        if not isinstance(kind, list) or kind == [None, None] or part.startswith("_"):
            continue
        if kind not in CLASSES.get(part, []):
            raise UntrustedFileError(
                f"{shortened(file)}: {shortened(part)} is of {shortened(kind)}, which is not one "
                "of the classes that bases are loaded with; no code of a model is run"
            )
    return index


def check_folder(source: Path) -> tuple[Tree, Tree, Tree]:
    """Rejects a folder that would make diffusers or transformers load anything but a base.

    Returns:
        the contents of model_index.json and of the UNet's and the autoencoder's config.json.

    Raises:
        UntrustedFileError: naming the file and what is wrong.
        OSError: a file is missing or cannot be read.
    """
    index = check_index(source / INDEX)
    parts = {part for part, kind in index.items() if part in CLASSES and isinstance(kind, list)
             and kind[0] and part not in ("safety_checker", "feature_extractor")}  # fmt: skip
    unet, vae = (_checked(source / part / CONFIG) for part in ("unet", "vae"))
    for part in sorted(parts):
        folder = source / part
        for name in FORBIDDEN:
            if (folder / name).exists():
                raise UntrustedFileError(
                    f"{shortened(folder / name)}: would load another model; remove it"
                )
        if part in DIFFUSERS_CLASSES:
            _check_sizes(folder / CONFIG, DIFFUSERS_CLASSES[part])
        elif part == "scheduler":
            _check_scheduler(folder / SCHEDULER)
        elif part.startswith("text_encoder"):
            tokenizer = source / part.replace("text_encoder", "tokenizer")
            _check_text(folder, tokenizer)
        for file in folder.glob(f"*{WEIGHTS}.index.json"):
            _check_shards(file)
    return index, unet, vae


def check_weights(file: Path) -> int:
    """Rejects a file that is not a safetensors file by its content.

    Returns:
        the number of its values.

    Raises:
        UntrustedFileError, OSError: see `read_header`.
    """
    try:
        return read_header(file).numbers
    except UntrustedFileError as error:
        raise UntrustedFileError(f"{shortened(file)}: {error}") from None


def _check_text(folder: Path, tokenizer: Path) -> None:
    file = folder / CONFIG
    config = convert(_checked(file), TextEncoder, shortened(file))
    stored = sum(check_weights(weights) for weights in folder.glob(f"*{WEIGHTS}"))
    if stored and config.numbers > SIZE_TOLERANCE * stored:
        raise UntrustedFileError(
            f"{shortened(file)}: its sizes make {config.numbers} numbers, its weights have {stored}"
        )
    length = check_tokenizer(tokenizer, CLIP).model_max_length
    if length is None or not 1 <= length <= config.max_position_embeddings:
        raise UntrustedFileError(
            f"{shortened(tokenizer)}: model_max_length is {length}, and the text encoder takes "
            f"{config.max_position_embeddings} tokens"
        )


def _check_scheduler(file: Path) -> None:
    config = convert(_checked(file), Scheduler, shortened(file))
    if config.trained_betas and len(config.trained_betas) != config.num_train_timesteps:
        raise UntrustedFileError(
            f"{shortened(file)}: has {len(config.trained_betas)} trained_betas for "
            f"{config.num_train_timesteps} timesteps"
        )


def _check_sizes(file: Path, kind: type[Any]) -> None:
    """Checks the settings that determine the size of a diffusers network."""
    names = inspect.signature(kind).parameters
    for key, value in _checked(file).items():
        if key in names:
            _check_size(f"{shortened(file)}: {shortened(key)}", value, "layers" in key)


def _check_size(location: str, value: object, counts_layers: bool) -> None:
    if isinstance(value, list):
        if len(value) > MAX_LIST_LENGTH:
            raise UntrustedFileError(f"{location}: has more than {MAX_LIST_LENGTH} values")
        for one in value:
            _check_size(location, one, counts_layers)
    elif isinstance(value, int) and abs(value) > (
        2 * MAX_LIST_LENGTH if counts_layers else MAX_SIZE
    ):
        raise UntrustedFileError(f"{location}: {value} is more than a base has")


def _checked(file: Path) -> Tree:
    """The content of a component's config, after a check that it has only numbers and words."""
    content = _content(file)
    _check_values(shortened(file), content)
    return content


def _content(file: Path) -> Tree:
    try:
        return read_json(file, Tree)
    except FileNotFoundError:
        raise UntrustedFileError(f"it has no {file.parent.name}/{file.name}") from None


def _check_values(location: str, value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{location}: {shortened(key)}"
            if key in FORBIDDEN and inner is not None:
                raise UntrustedFileError(f"{where}: could load code or another model; remove it")
            if key != ORIGIN_KEY:
                _check_values(where, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(location, inner)
    elif isinstance(value, str):
        if "/" in value or len(value) > 1000:
            raise UntrustedFileError(f"{location}: {shortened(value)} is not a valid word")
    elif isinstance(value, int | float) and not (math.isinf(value) or abs(value) <= MAX_NUMBER):
        raise UntrustedFileError(f"{location}: {value} is not a valid number")


def _check_shards(file: Path) -> None:
    """Checks an index of sharded weights: the files must be in the same folder."""
    content = read_json(file, _Shards)
    for name in set(content.weight_map.values()):
        if Path(name).name != name or not name.endswith(WEIGHTS):
            raise UntrustedFileError(
                f"{shortened(file)}: {shortened(name)} is not a file in the same folder"
            )


class _Shards(msgspec.Struct):
    weight_map: dict[str, Annotated[str, Meta(max_length=200)]]
