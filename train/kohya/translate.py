"""Translates a kohya config into our settings, including kohya's defaults."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config.parsing import suggestion
from train.config.schema import EMBEDDED
from train.errors import ConfigError
from train.kohya.dataset_args import dataset_settings
from train.kohya.dataset_overrides import overriding_values, subsets
from train.kohya.named_paths import DATASET, LOCATION_KEYS, check_locations, override_locations
from train.kohya.optimizer_args import (
    learning_rate_settings,
    length_settings,
    optimizer_settings,
    scheduler_settings,
)
from train.kohya_toml.lenient_toml import read_toml
from train.kohya_toml.parsed_config import KohyaConfig, format_value, number, whole

PRECISIONS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
# keys that only have another name here
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
    """The translation of a kohya config.

    Attributes:
        settings: our setting -> its value; a key that begins with ~ is removed, one with ++ may be
            new.
        notes: remarks, one line each.
    """

    settings: dict[str, Any]
    notes: list[str]


def translate(
    path: Path | None, dataset_config: str | None = None, typed: Mapping[str, str] | None = None
) -> Translation:
    """The settings that a kohya config and its dataset config translate to.

    Args:
        dataset_config: given by the user in addition to the config.
        typed: settings of the command line, setting -> text; their locations replace the config's.

    Raises:
        ConfigError: invalid TOML, unknown keys, impossible values, unsupported features, or a
            location that the user has not named.
    """
    if path is None:
        return Translation({"data.dataset_config": dataset_config}, [])
    content, repairs = read_toml(path)
    config = KohyaConfig(content)
    locations = dict(typed or {})
    if dataset_config:
        locations[LOCATION_KEYS[DATASET]] = dataset_config
    override_locations(config, locations)
    check_locations(config, locations)
    if dataset_file := config.text(DATASET):
        config.values |= overriding_values(Path(dataset_file))
    settings = {
        **_model(config),
        **dataset_settings(config, dataset_file),
        **_network(config),
        **optimizer_settings(config),
        **scheduler_settings(config),
        **length_settings(config),
        **_training(config),
    }
    settings |= learning_rate_settings(config, settings["network.text_encoder"])
    _check_cached_texts(config, dataset_file, settings["network.text_encoder"])
    ignored, unsupported = config.unused_keys()
    notes = [f"{path.name}: repaired: {', '.join(repairs)}"] if repairs else []
    notes += config.notes
    if defaults := ", ".join(f"{key} {value}" for key, value in config.defaults.items()):
        notes.append(f"not in {path.name}, so kohya's defaults are used: {defaults}")
    if ignored:
        notes.append(f"without effect here: {', '.join(ignored)}")
    if unsupported:
        keys = ", ".join(unsupported)
        notes.append(f"warning: not supported, so kohya's LoRA would differ: {keys}")
    return Translation({k: v for k, v in settings.items() if v is not None}, notes)


def _model(config: KohyaConfig) -> dict[str, Any]:
    return {
        "base.path": config.text("pretrained_model_name_or_path"),
        "base.precision": _precision(config, "mixed_precision", "no"),
        "base.clip_skip": config.whole("clip_skip"),
        "base.prediction_type": _prediction(config),
        **{name: value for key, (name, value) in FLAGS.items() if config.flag(key)},
        **_xformers(config),
    }


def _prediction(config: KohyaConfig) -> str | None:
    """The prediction type, if kohya's config gives it; else that of the base's files."""
    velocity, second = config.flag("v_parameterization"), config.flag("v2")
    if velocity:
        return "v_prediction"
    if config.text("pretrained_model_name_or_path") == EMBEDDED:
        return None
    if second:
        config.notes.append(
            "v2 without v_parameterization: the base predicts the noise (epsilon), as kohya "
            "reads it; bases for 768 pixels need v_parameterization = true"
        )
    return "epsilon" if second or "v_parameterization" in config.values else None


def _xformers(config: KohyaConfig) -> dict[str, Any]:
    if not config.flag("xformers"):
        return {}
    if importlib.util.find_spec("xformers"):
        return {"base.attention": "xformers"}
    config.notes.append("xformers is not installed; sdpa, which comes with torch, does the same")
    return {"base.attention": "sdpa"}


def _network(config: KohyaConfig) -> dict[str, Any]:
    """Rank, alpha and dropout, and the networks to train."""
    module = config.text("network_module") or "networks.lora"
    if module != "networks.lora":
        raise ConfigError(
            f"kohya: network_module: {format_value(module)[1:-1]} is not supported, networks.lora "
            "is"
        )
    for key in ("network_weights", "dim_from_weights"):
        if config.get(key):
            raise ConfigError(f"kohya: {key}: continuing from another LoRA is not supported")
    if config.flag("network_train_text_encoder_only") or config.number("unet_lr") == 0:
        raise ConfigError("kohya: training only the text encoder is not supported")
    rank, alpha = config.whole("network_dim", 4), config.number("network_alpha", 1)
    dropout, arguments = config.number("network_dropout"), config.arguments("network_args")
    conv = whole("conv_dim", arguments.pop("conv_dim", 0))
    conv_alpha = number("conv_alpha", arguments.pop("conv_alpha", 1))
    if "dropout" in arguments:
        dropout = number("dropout", arguments.pop("dropout"))
        config.notes.append("network_args: kohya ignores dropout; read as network_dropout")
    if arguments:
        named = ", ".join(arguments)
        config.notes.append(f"warning: network_args that are not supported, and ignored: {named}")
    text_rates = config.numbers("text_encoder_lr")
    unet_only = config.flag("network_train_unet_only") or (bool(text_rates) and not any(text_rates))
    return {
        "network.rank": rank,
        "network.alpha": alpha or rank,  # in kohya 0 means the rank
        "network.conv_rank": conv,
        "network.conv_alpha": (conv_alpha or conv) if conv else None,
        "network.dropout": dropout,
        "network.text_encoder": not unet_only,
    }


def _check_cached_texts(config: KohyaConfig, dataset_config: str | None, trained: bool) -> None:
    """Rejects a cache of encoded captions together with settings that change them, as kohya does.

    Raises:
        ConfigError: naming that setting.
    """
    disk = config.flag("cache_text_encoder_outputs_to_disk")
    if not (config.flag("cache_text_encoder_outputs") or disk):
        return
    for each in [config.values, *(subsets(Path(dataset_config)) if dataset_config else ())]:
        for key in CHANGE_CAPTIONS:
            if each.get(key) not in (None, False, 0):
                raise ConfigError(f"kohya: cache_text_encoder_outputs: does not go with {key}")
    if trained:
        raise ConfigError(
            "kohya: cache_text_encoder_outputs: the text encoder is trained, so its output "
            "changes; add network_train_unet_only = true, or leave the cache out (kohya stops here)"
        )


def _training(config: KohyaConfig) -> dict[str, Any]:
    """Batches, loss, and files."""
    seed = config.whole("seed")
    if seed is None:
        config.notes.append("seed: kohya picks one at random; ours is kept, to reproduce the run")
    return {
        "training.batch_size": config.whole("train_batch_size", 1),
        "training.gradient_accumulation": config.whole("gradient_accumulation_steps", 1),
        "training.seed": seed,
        **{name: config.number(key) for key, name in NUMBERS.items()},
        "training.min_snr_gamma": config.number("min_snr_gamma") or None,  # 0 disables it in kohya
        "training.save_precision": _precision(config, "save_precision", "float"),
        "output": config.text("output_dir"),
        "name": config.text("output_name", "last"),
    }


def _precision(config: KohyaConfig, key: str, default: str) -> str:
    value = config.text(key, default)
    if value not in PRECISIONS:
        hint = suggestion(value, [*PRECISIONS])
        raise ConfigError(
            f"kohya: {key}: {format_value(value)} is not one of {', '.join(PRECISIONS)}{hint}"
        )
    return PRECISIONS[value]
