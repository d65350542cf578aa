"""Selects the options of the groups `base` and `data` by the given model and dataset.

`base.path=/my/model.safetensors` alone also selects the settings for such a model (base=sd15 or
base=sdxl), and `data.path=/my/pictures` alone those for one's own images (data=default).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from train.cli.arguments import unquoted
from train.config.ranges import format_value
from train.config.schema import EMBEDDED, EMBEDDED_IMAGES
from train.errors import ConfigError
from train.files.paths import expanded, is_remote
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError

EMBEDDED_OPTIONS = {"base": (EMBEDDED,), "data": EMBEDDED_IMAGES}
SD15, SDXL, OWN_IMAGES = "sd15", "sdxl", "default"
SECOND_ENCODER = "text_encoder_2"  # a folder of diffusers' SDXL models
# prefixes of the second text encoder's tensors in a single file
SECOND_ENCODERS_KEYS = ("conditioner.embedders.1.", f"{SECOND_ENCODER}.")
NULL = "null"


def with_group_choices(overrides: Sequence[str]) -> list[str]:
    """Hydra overrides, preceded by the options of `base` and `data` that suit their paths.

    Explicit options are kept; an embedded one then sets its path, since conf/local.yaml may set
    another.

    Raises:
        ConfigError: an option together with a path that does not suit it.
    """
    given = {key.lstrip("+"): unquoted(value) for key, _, value in
             (override.partition("=") for override in overrides)}  # fmt: skip
    options = [f"{group}={option}" for group, option in choices(given).items()]
    for group, embedded in EMBEDDED_OPTIONS.items():
        option, path = given.get(group), given.get(f"{group}.path")
        if option in embedded and path is None:
            options.append(f"{group}.path={option}")
        elif option and path and option != path and {option, path} & {*embedded}:
            raise _conflict(group, option, f"{group}.path", path)
    listed = given.get("data.dataset_config", NULL)
    if listed != NULL and (option := given.get("data")) in EMBEDDED_IMAGES:
        raise _conflict("data", option, "data.dataset_config", listed)
    return [*options, *overrides]


def _conflict(group: str, option: str, key: str, value: str) -> ConfigError:
    return ConfigError(
        f"{group}: {option} does not go with {key}={format_value(value)}; leave {group} out"
    )


def choices(given: Mapping[str, str]) -> dict[str, str]:
    """The options that suit settings by their dotted keys; none for a group that is given."""
    options = {}
    if "base" not in given and (base := given.get("base.path")):
        options["base"] = base_option(base)
    folder, listed = given.get("data.path"), given.get("data.dataset_config", NULL)
    if "data" not in given and (folder or listed != NULL):
        options["data"] = OWN_IMAGES
        if folder in EMBEDDED_IMAGES and listed == NULL:
            options["data"] = folder
    return options


def base_option(path: str) -> str:
    """The option of the group `base` for a model: by its files, or by its name on a hub."""
    if path == EMBEDDED:
        return EMBEDDED
    return SDXL if _is_xl(path) else SD15


def _is_xl(path: str) -> bool:
    if is_remote(path):
        return False
    source = expanded(path)
    try:
        if source.is_dir():
            return (source / SECOND_ENCODER).is_dir()
        if source.exists():
            return _has_second_encoder(read_header(source).tensors)
    except (UntrustedFileError, OSError, ValueError):  # reported when it is loaded
        return False
    return "xl" in source.name.lower()


def _has_second_encoder(names: Iterable[str]) -> bool:
    return any(name.startswith(SECOND_ENCODERS_KEYS) for name in names)
