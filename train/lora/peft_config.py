"""The strength of a LoRA by PEFT's settings, which are next to the file or in its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.files.untrusted import Tree, UntrustedFileError, parse_json, read_json
from train.lora.peft_patterns import matches
from train.text.display import readable

CONFIG, IN_METADATA = "adapter_config.json", "lora_adapter_metadata"
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
LORA = "LORA"  # PEFT's name of the kind
MAX_BYTES = 4_000_000  # bytes of a settings file
MAX_PATTERN_CHARACTERS = 100_000  # characters of all patterns together: SDXL has some 800 modules
AMBIGUOUS = "its strength is ambiguous: "
# variants of LoRA that compute something else, by the setting that enables each
VARIANTS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
)
# initializations that keep the base; the others (PiSSA, OLoRA ...) train on a changed one
BASE_PRESERVING_INITS = (True, False, None, "gaussian", "eva", "orthogonal")

Settings = Mapping[str, Any]


def read_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Settings]:
    """PEFT's settings for each network of a LoRA file; empty if there are none.

    diffusers writes them into the metadata, with the network as a prefix of each name; PEFT writes
    a file next to the weights, for one network.

    Raises:
        ValueError: they cannot be read, or do not describe a plain LoRA.
    """
    file = path.with_name(CONFIG)
    try:
        if IN_METADATA in metadata:
            where = IN_METADATA
            content = parse_json(metadata[IN_METADATA], Tree, IN_METADATA)
        elif file.exists():
            where, content = CONFIG, read_json(file, Tree, MAX_BYTES)
        else:
            return {}
    except UntrustedFileError as error:
        raise ValueError(f"{AMBIGUOUS}it is not JSON with settings: {error}") from error
    settings = _by_network(content)
    for each in settings.values():
        _check_plain(where, each)
    return settings


def _by_network(content: dict[str, Any]) -> dict[str, Settings]:
    """The settings for each network; settings without a network's name apply to all."""
    named: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        network, dot, name = key.partition(".")
        if dot:
            named.setdefault(network, {})[name] = value
    return dict(named) or dict.fromkeys(NETWORKS, content)


def _check_plain(where: str, settings: Settings) -> None:
    kind = settings.get("peft_type") or LORA
    if kind != LORA:
        raise ValueError(
            f"it is PEFT's {readable(str(kind)[:40])}, and only plain LoRA and LoCon can be loaded"
        )
    for name in VARIANTS:
        enabled = _flag(settings, name) if name.startswith("use_") else settings.get(name)
        if enabled:
            raise ValueError(f"{where} has {name}: only plain LoRA and LoCon can be loaded")
    start = settings.get("init_lora_weights")
    if start not in BASE_PRESERVING_INITS:
        init = readable(str(start)[:40])
        raise ValueError(
            f"{where} has init_lora_weights={init}: it was trained on a changed base; "
            "PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) makes it a "
            "plain LoRA"
        )


def alpha_of(settings: Settings, path: str, rank: int) -> float:
    """The alpha with which kohya's scale, alpha / rank, equals PEFT's.

    Args:
        path: of the module in its network.
        rank: of the matrices in the file.

    Raises:
        ValueError: the settings lack it, or belong to another file.
    """
    r = _setting(settings, "rank_pattern", path, settings.get("r"))
    if r is not None and number("r", r) != rank:
        raise ValueError(f"{AMBIGUOUS}PEFT's settings give {path} rank {r}, the file {rank}")
    alpha = _setting(settings, "alpha_pattern", path, settings.get("lora_alpha"))
    if alpha is None:
        raise ValueError(f"{AMBIGUOUS}PEFT's settings have no lora_alpha for {path}")
    root = _flag(settings, "use_rslora")  # the scale is alpha / sqrt(rank)
    return number("lora_alpha", alpha) * (math.sqrt(rank) if root else 1)


def _flag(settings: Settings, name: str) -> bool:
    """A switch, off by default; a text such as "false" is rejected."""
    value = settings.get(name)
    if not isinstance(value, bool | None):
        raise ValueError(
            f"{AMBIGUOUS}{name} must be true or false in PEFT's settings, not {str(value)[:40]!r}"
        )
    return bool(value)


def _setting(settings: Settings, name: str, path: str, default: Any) -> Any:
    """The value of the first pattern that matches, see `matches`."""
    patterns = settings.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{AMBIGUOUS}{name} is not a mapping")
    if sum(map(len, patterns)) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"{AMBIGUOUS}{name} has more than {MAX_PATTERN_CHARACTERS} characters")
    for pattern, value in patterns.items():
        try:
            if matches(pattern, path):
                return value
        except ValueError as error:
            raise ValueError(
                f"{AMBIGUOUS}{name} has {pattern[:80]!r}, which is not a regular expression of "
                f"module names: it {error}; names, dots, alternatives and .* are read"
            ) from None
    return default


def number(name: str, value: Any) -> float:
    """A strength: finite and above 0.

    Raises:
        ValueError: it is not.
    """
    try:
        strength = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        strength = math.nan
    if not (math.isfinite(strength) and strength > 0):
        raise ValueError(f"{AMBIGUOUS}{name} is {readable(str(value)[:40])}")
    return strength
