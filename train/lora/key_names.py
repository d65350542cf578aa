"""kohya's names of a base's modules: the keys of its LoRA files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODERS, UNET

# the layers of a residual block, in diffusers and in the original code
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# modules outside of the blocks
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
# the only module of a text encoder outside of its `text_model`
PROJECTION = "text_projection"
BLOCK_PATH = re.compile(
    r"(down|mid|up)_blocks?(?:\.(\d+))?"
    r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def kohya_name(prefix: str, path: str) -> str:
    """The key of a module: the network's prefix, and the path with underscores for dots.

    Args:
        path: of the module in its network; in SDXL's UNet the original one.
    """
    name = path.replace(".", "_")
    # transformers 5 dropped the `text_model` level from CLIPTextModel; the files keep it
    if prefix in TEXT_ENCODERS and not name.startswith(("text_model_", PROJECTION)):
        name = f"text_model_{name}"
    return f"{prefix}_{name}"


def names_of(prefix: str, path: str, layers: int) -> Iterator[str]:
    """All keys under which files of the trainers have a module of a base.

    A UNet's modules are named as in diffusers or as in the original code, whatever the family; the
    number of the first text encoder and the level `text_model` are optional.

    Args:
        path: of the module in its network, as in diffusers.
        layers: see `original_path`.
    """
    if prefix == UNET:
        yield kohya_name(prefix, original_path(path, layers))
        yield kohya_name(prefix, path)
        return
    first = (TEXT_ENCODER, TEXT_ENCODER_1)
    for alias in first if prefix in first else (prefix,):
        name = kohya_name(alias, path)
        yield name
        yield name.replace("_text_model_", "_", 1)


def original_path(path: str, layers: int) -> str:
    """A module's path in diffusers' UNet -> its path in SDXL's original one, which kohya uses.

    The original numbers the blocks of all levels consecutively: on the way down, a level consists
    of `layers` residual blocks (each with or without an attention) and a downsampling block; on the
    way up it has one more residual block, and the upsampling belongs to the last one.

    Args:
        layers: residual blocks in a level, diffusers' `layers_per_block`.
    """
    match = BLOCK_PATH.fullmatch(path)
    if match is None:
        return OUTSIDE.get(path, path)
    way, level, kind, number, rest = match.groups()
    part, rest = int(kind == "attentions"), RESNET.get(rest, rest)
    if way == "mid":
        return f"middle_block.{2 * int(number) + part}.{rest}"
    first = int(level) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + 1 + layers}.0.op"
    if kind == "upsamplers":  # after the residual block and the attention
        return f"output_blocks.{first + layers}.2.conv"
    if way == "down":  # block 0 is the first convolution
        return f"input_blocks.{first + 1 + int(number)}.{part}.{rest}"
    return f"output_blocks.{first + int(number)}.{part}.{rest}"
