"""Which options of the groups `base` and `data` suit the model and the pictures that are given.

`base.path=/my/model.safetensors` alone also selects the settings for such a model (base=sd15 or
base=sdxl), and `data.path=/my/pictures` alone those for one's own pictures (data=default).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from train.cli.arguments import unquoted
from train.config.ranges import shown
from train.config.schema import EMBEDDED
from train.errors import ConfigError
from train.files.paths import expanded, is_remote
from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError

GROUPS = ("base", "data")
SD15, SDXL, OWN_PICTURES = "sd15", "sdxl", "default"
SECOND_ENCODER = "text_encoder_2"  # a folder that diffusers' SDXL models have
# with which the second text encoder's tensors begin in a single file
SECOND_ENCODERS_KEYS = ("conditioner.embedders.1.", f"{SECOND_ENCODER}.")
NULL = "null"


def with_group_choices(overrides: Sequence[str]) -> list[str]:
    """Hydra overrides, with the options of `base` and `data` that their paths ask for in front.

    An option that the overrides name themselves stays; the embedded one then brings its path, which
    conf/local.yaml may set to something else.

    Raises:
        ConfigError: an option with the path of something else.
    """
    given = {key.lstrip("+"): unquoted(value) for key, _, value in
             (override.partition("=") for override in overrides)}  # fmt: skip
    chosen = [f"{group}={option}" for group, option in choices(given).items()]
    for group in GROUPS:
        option, path = given.get(group), given.get(f"{group}.path")
        if option == EMBEDDED and path is None:
            chosen.append(f"{group}.path={EMBEDDED}")
        elif option and path and (option == EMBEDDED) != (path == EMBEDDED):
            raise ConfigError(
                f"{group}: {option} does not go with {group}.path={shown(path)}; leave {group} out"
            )
    return [*chosen, *overrides]


def choices(given: Mapping[str, str]) -> dict[str, str]:
    """The options that suit settings by their dotted keys; none for a group that is given."""
    chosen = {}
    if "base" not in given and (base := given.get("base.path")):
        chosen["base"] = base_option(base)
    pictures, listed = given.get("data.path"), given.get("data.dataset_config", NULL)
    if "data" not in given and (pictures or listed != NULL):
        embedded = pictures == EMBEDDED and listed == NULL
        chosen["data"] = EMBEDDED if embedded else OWN_PICTURES
    return chosen


def base_option(path: str) -> str:
    """The option of the group `base` for a model: by its files, or by its name where it is none."""
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
    except (UntrustedFileError, OSError, ValueError):  # loading it says what is wrong with it
        return False
    return "xl" in source.name.lower()


def _has_second_encoder(names: Iterable[str]) -> bool:
    return any(name.startswith(SECOND_ENCODERS_KEYS) for name in names)
