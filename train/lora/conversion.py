"""Converts the keys of other trainers' LoRA files to kohya's.

OneTrainer and ai-toolkit write kohya's layout, for SDXL with diffusers' names of the UNet's modules
(`LoRAInjector.aliases` has both). The diffusers scripts and SimpleTuner write
`unet.<path>.lora_A.weight` (older ones `.lora.down.weight` and `processor.to_q_lora.down.weight`),
with alpha, if at all, in the metadata. PEFT itself writes `base_model.model.<path>.lora_A.weight`,
one file for each network, with adapter_config.json next to it. ComfyUI writes
`diffusion_model.<path>` with the paths of the original code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from train.lora.key_names import kohya_name
from train.lora.peft_config import Settings
from train.lora.unsupported_kinds import check_kind, kind_of

DOWN, UP, ALPHA = "lora_down", "lora_up", "alpha"
PEFT = "base_model.model."
WRAPPERS = (PEFT, "module.", "_orig_mod.")  # of PEFT, of DistributedDataParallel, of torch.compile
PREFIXES = {"unet": UNET, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
# prefixes of paths, and the network of each
PATH_PREFIXES = (
    (r"((model\.)?diffusion_model|(unet\.)+|lycoris(?=_))[._]?", "unet"),
    (r"(text_encoders\.)?clip_l\.(transformer\.)?|text_encoder\.", "text_encoder"),
    (r"(text_encoders\.)?clip_g\.(transformer\.)?|text_encoder_2\.", "text_encoder_2"),
)
# prefixes of paths in files of PEFT, which do not name the network
UNET_PATH = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks|conv_in|conv_out"
    r"|time_embedding|add_embedding)\."
)
TEXT_ENCODER_PATH = re.compile(r"(text_model|encoder|text_projection)\.")
# suffixes of the down and up matrices
SUFFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:\.processor)?\.to_(?P<layer>q|k|v|out)_lora\.(?:(?P<way>down|up)\.weight|alpha)$",
        r"\.(?:lora_linear_layer|lora)\.(?P<way>down|up)\.weight$",
        r"\.lora_(?P<way>A|B|down|up)(?:\.(?!bias)[^.]+)?(?:\.weight)?$",
        r"\.alpha$",
    )
)
MATRIX_NAMES = {"down": DOWN, "A": DOWN, "up": UP, "B": UP, None: ALPHA}
# a part that changes the strength in ways that loaders do not agree on
STRENGTH = re.compile(r"(?!bundle_emb\.).*(alpha|scal)[^.]*")


@dataclass
class Module:
    """The LoRA of one module in a file.

    Attributes:
        network, path: in PEFT's terms; empty if the file has kohya's names.
        peft: whether PEFT itself wrote the file.
        parts: DOWN, UP and ALPHA, as far as present.
    """

    network: str
    path: str
    peft: bool
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Rank of the matrices; 0 if they are not matrices."""
        down = self.parts[DOWN]
        return len(down) if down.ndim else 0


def read_modules(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Settings]
) -> tuple[dict[str, Module], list[str]]:
    """The LoRAs in a file by kohya's names of their modules, and the keys of everything else.

    The names are those of Stable Diffusion 1.x, or of the original code; `LoRAInjector.aliases`
    maps them to the base's.

    Args:
        settings: see `peft_config.read_settings`.

    Raises:
        ValueError: another kind of file, which the message names; a broken file; or an ambiguous
            strength.
    """
    check_kind(tensors)
    modules: dict[str, Module] = {}
    other_keys = []
    for key, tensor in tensors.items():
        name, part, module = _parsed(key, settings)
        if module is None:
            other_keys.append(key)
        elif part in modules.setdefault(name, module).parts:
            raise ValueError(f"it has two LoRAs for {name}")
        else:
            modules[name].parts[part] = tensor
    alpha_only = [name for name, module in modules.items() if {*module.parts} == {ALPHA}]
    other_keys += [f"{name}.{ALPHA}" for name in alpha_only if modules.pop(name)]
    if not modules:
        raise ValueError(kind_of(list(tensors)))
    for name, module in modules.items():
        for part in {DOWN, UP} - {*module.parts}:
            raise ValueError(f"{name} has no {part}.weight")
    if ambiguous := next((key for key in other_keys if STRENGTH.fullmatch(key)), None):
        raise ValueError(f"its strength is ambiguous: it has {ambiguous}, on which trainers differ")
    return modules, other_keys


def _parsed(key: str, settings: Mapping[str, Settings]) -> tuple[str, str, Module | None]:
    """The name of the module, the part, and an empty module; None: the key is not a LoRA's."""
    stripped = key
    while wrapper := next((w for w in WRAPPERS if stripped.startswith(w)), ""):
        stripped = stripped.removeprefix(wrapper)
    match = next((match for ending in SUFFIXES if (match := ending.search(stripped))), None)
    if match is None:
        return "", "", None
    path, groups = stripped[: match.start()], match.groupdict()
    part = MATRIX_NAMES[groups.get("way")]
    if path.startswith("lora_"):
        return path.replace(".", "_"), part, Module("", "", False)
    network, path = _network_and_path(path, settings)
    if not network:
        return "", "", None
    if layer := groups.get("layer"):
        if network == "unet":  # to_out is a list whose first layer is meant
            path += f".to_{layer}" + (".0" if layer == "out" else "")
        else:
            path += f".{layer}_proj"
    name = kohya_name(PREFIXES[network], path)
    return name, part, Module(network, path, key.startswith(PEFT))


def _network_and_path(path: str, settings: Mapping[str, Settings]) -> tuple[str, str]:
    """The network of a module, and its path in it; no network: it is not one of ours."""
    for pattern, network in PATH_PREFIXES:
        if match := re.match(pattern, path):
            return network, path[match.end() :]
    if UNET_PATH.match(f"{path}."):
        return "unet", path
    if TEXT_ENCODER_PATH.match(f"{path}."):
        # SDXL's second encoder has transformers' class with a projection
        second = any(
            "WithProjection" in str(each.get("auto_mapping")) for each in settings.values()
        )
        return "text_encoder_2" if second else "text_encoder", path
    return "", path
