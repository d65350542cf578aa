"""Recognizes files that are not plain LoRAs and cannot be read, by their kind."""

from __future__ import annotations

import re
from collections.abc import Iterable

# kinds of adapters, by the name of a module's part
ADAPTERS = (
    (r"dora_scale|lora_magnitude_vector|magnitude", "a DoRA"),
    (r"hada_.*", "a LoHa"),
    (r"lokr_.*", "a LoKr"),
    (r"lora_mid", "a LoCon with a Tucker core"),
    (r"boft_.*", "a BOFT"),
    (r"oft_.*", "an OFT"),
    (r"a[12]|b[12]|bm[12]", "a GLoRA"),
    (r"ia3_.*|on_input", "an (IA)3"),
    (r"lora_E|ranknum", "an AdaLoRA"),
    (r"vera_.*", "a VeRA"),
    (r"vblora_.*", "a VB-LoRA"),
    (r"hra_.*", "an HRA"),
)
# what is trained along with LoRAs, and a kind of its own if nothing else is in the file
EMBEDDING = "an embedding (textual inversion)"
COMPANIONS = (
    (r".*\.(w|b)_norm$|.*\.(diff|diff_b)$", "full differences of weights"),
    (r"(emb_params|clip_[lg]|\*|<.*>)$|.*string_to_param.*|bundle_emb\..*", EMBEDDING),
)
MODEL = re.compile(
    r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\."
    r"|(unet\.)?(down_blocks|up_blocks|mid_block|conv_in|encoder|decoder)\..*(weight|bias)$"
)
CONTROL = re.compile(r"lora_controlnet|control_model\.|controlnet_|input_hint_block")
# other families of models, by the names of their modules
FAMILIES = (
    (r"(double|single)(_transformer)?_blocks", "FLUX or the like"),
    (r"joint_blocks|lora_te3|text_encoder_3|add_q_proj", "Stable Diffusion 3"),
    (r"lora_prior_|prior_unet", "Stable Cascade"),
    (
        r"^(transformer|diffusion_model\.(blocks|layers)|lora_unet_(blocks|layers))[._]",
        "a diffusion transformer",
    ),
)


def check_kind(keys: Iterable[str]) -> None:
    """Rejects a kind of adapter that cannot be read, even if the file has LoRAs too.

    Raises:
        ValueError: naming the kind.
    """
    for key in keys:
        if key.startswith("bundle_emb."):
            continue  # followed by names that a person chose
        parts = set(key.split(".")[1:])
        for pattern, kind in ADAPTERS:
            if any(re.fullmatch(pattern, part) for part in parts):
                raise ValueError(f"it is {kind}, and only plain LoRA and LoCon can be loaded")


def other_family(names: list[str]) -> str:
    """The model family that has modules of these names; empty if it is one of ours or unknown."""
    for pattern, family in FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return family
    return ""


def kind_of(keys: list[str]) -> str:
    """The kind of a file without a LoRA of Stable Diffusion, as far as its keys tell."""
    if family := other_family(keys):
        return f"it is for {family}, and only LoRAs of Stable Diffusion 1.x, 2.x and SDXL are read"
    if any(CONTROL.search(key) for key in keys):
        return "it is a ControlNet, not a LoRA"
    if any(MODEL.match(key) for key in keys):
        return "it is a whole model (base.path takes those), not a LoRA"
    for pattern, kind in COMPANIONS:
        if keys and all(re.match(pattern, key) for key in keys):
            return f"it is {kind}, and only LoRA and LoCon can be loaded"
    return f"not a LoRA ({keys[0] or 'a tensor without a name'})" if keys else "it is empty"
