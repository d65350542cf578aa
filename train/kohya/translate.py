"""A kohya config in our settings: what kohya would do with it, its defaults included."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config.parsing import suggestion
from train.config.schema import EMBEDDED
from train.errors import ConfigError
from train.kohya.dataset_args import pictures
from train.kohya.dataset_overrides import overriding_values, subsets
from train.kohya.named_paths import DATASET, PLACES, check_places, take_typed
from train.kohya.optimizer_args import length, optimizer, rates, scheduler
from train.kohya_toml.lenient_toml import read_toml
from train.kohya_toml.parsed_config import KohyaConfig, number, shown, whole

PRECISIONS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
# those that need no more than another name, where the config has them
NUMBERS = {
    "max_grad_norm": "training.max_grad_norm",
    "noise_offset": "training.noise_offset",
    "prior_loss_weight": "training.prior_loss_weight",
    "caption_dropout_rate": "training.caption_dropout",
}
FLAGS = {
    "gradient_checkpointing": ("training.gradient_checkpointing", True),
    "torch_compile": ("base.compile", True),
    "mem_eff_attn": ("base.attention", "sdpa"),
    "sdpa": ("base.attention", "sdpa"),
}
CHANGE_CAPTIONS = (
    "shuffle_caption",
    "caption_dropout_rate",
    "caption_tag_dropout_rate",
    "token_warmup_step",
)


@dataclass(frozen=True)
class Translation:
    """What a kohya config comes to.

    Attributes:
        settings: our setting -> its value; one whose key begins with ~ is taken away, one with
            ++ may be new.
        notes: what a person should know, each one line.
    """

    settings: dict[str, Any]
    notes: list[str]


def translate(
    path: Path | None, dataset_config: str | None = None, typed: Mapping[str, str] | None = None
) -> Translation:
    """The settings that a kohya config and its dataset config amount to.

    Args:
        dataset_config: as a person named it beside the config.
        typed: settings of the command line, setting -> text; what they name counts, and not what
            the config names in their place.

    Raises:
        ConfigError: not TOML, keys that kohya has not, values that cannot be, what is refused, or
            a place that the person has not named.
    """
    if path is None:
        return Translation({"data.dataset_config": dataset_config}, [])
    content, repairs = read_toml(path)
    said = KohyaConfig(content)
    places = {**(typed or {}), **({PLACES[DATASET]: dataset_config} if dataset_config else {})}
    take_typed(said, places)
    check_places(said, places)
    if chosen := said.text(DATASET):
        said.values |= overriding_values(Path(chosen))
    settings = {
        **_model(said),
        **pictures(said, chosen),
        **_network(said),
        **optimizer(said),
        **scheduler(said),
        **length(said),
        **_training(said),
    }
    settings |= rates(said, settings["network.text_encoder"])
    _check_cached_texts(said, chosen, settings["network.text_encoder"])
    ignored, unsupported = said.rest()
    notes = [f"{path.name}: repaired: {', '.join(repairs)}"] if repairs else []
    notes += said.notes
    if silent := ", ".join(f"{key} {value}" for key, value in said.silent.items()):
        notes.append(f"not in {path.name}, so as kohya without them: {silent}")
    if ignored:
        notes.append(f"without effect here: {', '.join(ignored)}")
    if unsupported:
        keys = ", ".join(unsupported)
        notes.append(f"warning: not supported, so that kohya's LoRA would be another: {keys}")
    return Translation({k: v for k, v in settings.items() if v is not None}, notes)


def _model(said: KohyaConfig) -> dict[str, Any]:
    return {
        "base.path": said.text("pretrained_model_name_or_path"),
        "base.precision": _precision(said, "mixed_precision", "no"),
        "base.clip_skip": said.whole("clip_skip"),
        "base.prediction_type": _prediction(said),
        **{name: value for key, (name, value) in FLAGS.items() if said.flag(key)},
        **_xformers(said),
    }


def _prediction(said: KohyaConfig) -> str | None:
    """What the base predicts, where kohya's config says it; else as its own files say."""
    velocity, second = said.flag("v_parameterization"), said.flag("v2")
    if velocity:
        return "v_prediction"
    if said.text("pretrained_model_name_or_path") == EMBEDDED:
        return None
    if second:
        said.notes.append(
            "v2 without v_parameterization: the base predicts the noise (epsilon), as kohya "
            "reads it; bases for 768 pixels need v_parameterization = true"
        )
    return "epsilon" if second or "v_parameterization" in said.values else None


def _xformers(said: KohyaConfig) -> dict[str, Any]:
    if not said.flag("xformers"):
        return {}
    if importlib.util.find_spec("xformers"):
        return {"base.attention": "xformers"}
    said.notes.append("xformers is not installed; sdpa, which comes with torch, does the same")
    return {"base.attention": "sdpa"}


def _network(said: KohyaConfig) -> dict[str, Any]:
    """Rank, alpha and dropout, and which networks learn."""
    module = said.text("network_module") or "networks.lora"
    if module != "networks.lora":
        raise ConfigError(
            f"kohya: network_module: {shown(module)[1:-1]} is not supported, networks.lora is"
        )
    for key in ("network_weights", "dim_from_weights"):
        if said.get(key):
            raise ConfigError(f"kohya: {key}: to train on from another LoRA is not supported")
    if said.flag("network_train_text_encoder_only") or said.number("unet_lr") == 0:
        raise ConfigError("kohya: to train the text encoder alone is not supported")
    rank, alpha = said.whole("network_dim", 4), said.number("network_alpha", 1)
    dropout, arguments = said.number("network_dropout"), said.arguments("network_args")
    conv = whole("conv_dim", arguments.pop("conv_dim", 0))
    conv_alpha = number("conv_alpha", arguments.pop("conv_alpha", 1))
    if "dropout" in arguments:
        dropout = number("dropout", arguments.pop("dropout"))
        said.notes.append("network_args: kohya passes over dropout; read as network_dropout")
    if arguments:
        named = ", ".join(arguments)
        said.notes.append(f"warning: network_args that are not supported, passed over: {named}")
    rates = said.numbers("text_encoder_lr")
    unet_only = said.flag("network_train_unet_only") or (bool(rates) and not any(rates))
    return {
        "network.rank": rank,
        "network.alpha": alpha or rank,  # 0 means the rank there
        "network.conv_rank": conv,
        "network.conv_alpha": (conv_alpha or conv) if conv else None,
        "network.dropout": dropout,
        "network.text_encoder": not unet_only,
    }


def _check_cached_texts(said: KohyaConfig, dataset_config: str | None, trained: bool) -> None:
    """Refuses a cache of the encoded captions beside what changes them, where kohya stops.

    Raises:
        ConfigError: naming what changes them.
    """
    disk = said.flag("cache_text_encoder_outputs_to_disk")
    if not (said.flag("cache_text_encoder_outputs") or disk):
        return
    for each in [said.values, *(subsets(Path(dataset_config)) if dataset_config else ())]:
        for key in CHANGE_CAPTIONS:
            if each.get(key) not in (None, False, 0):
                raise ConfigError(f"kohya: cache_text_encoder_outputs: does not go with {key}")
    if trained:
        raise ConfigError(
            "kohya: cache_text_encoder_outputs: the text encoder is trained, so what it says "
            "changes; add network_train_unet_only = true, or leave the cache out (kohya stops here)"
        )


def _training(said: KohyaConfig) -> dict[str, Any]:
    """Batches, the loss, and the files."""
    seed = said.whole("seed")
    if seed is None:
        said.notes.append("seed: kohya draws one; ours stays, so that it can be done again")
    return {
        "training.batch_size": said.whole("train_batch_size", 1),
        "training.gradient_accumulation": said.whole("gradient_accumulation_steps", 1),
        "training.seed": seed,
        **{name: said.number(key) for key, name in NUMBERS.items()},
        "training.min_snr_gamma": said.number("min_snr_gamma") or None,  # 0 is off there
        "training.save_precision": _precision(said, "save_precision", "float"),
        "output": said.text("output_dir"),
        "name": said.text("output_name", "last"),
    }


def _precision(said: KohyaConfig, key: str, default: str) -> str:
    value = said.text(key, default)
    if value not in PRECISIONS:
        near = suggestion(value, [*PRECISIONS])
        raise ConfigError(f"kohya: {key}: {shown(value)} is none of {', '.join(PRECISIONS)}{near}")
    return PRECISIONS[value]
