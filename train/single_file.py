"""Single-file models without the hub: what diffusers needs and the file itself does not hold.

A single file has weights alone; diffusers fetches configs and tokenizer from the hub. For Stable
Diffusion 1.x they are made here: the settings of its architecture (Rombach et al. 2022, as in
diffusers), and CLIP's vocabulary, which comes with open_clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizer

# of the first cross-attention: its width is that of the text encoder, which tells the family
TELLTALE = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
WIDTH = 768  # of Stable Diffusion 1.x

CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "unet/config.json": {  # all else are UNet2DConditionModel's defaults
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "cross_attention_dim": WIDTH,
        "layers_per_block": 2,  # diffusers' conversion of keys looks for it here
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}


@contextmanager
def layout(file: Path) -> Iterator[dict[str, str]]:
    """What `from_single_file` has to be told for this file, while the context lasts.

    Yields:
        `config`: a folder of configs and tokenizer. Empty for other families than Stable
        Diffusion 1.x, for which diffusers then asks the hub.
    """
    if not is_stable_diffusion_1(file):
        yield {}
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        for place, config in CONFIGS.items():
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_text(json.dumps(config), encoding="utf-8")
        _save_tokenizer(folder)
        yield {"config": name}


def is_stable_diffusion_1(file: Path) -> bool:
    """Whether a safetensors file has the original keys and the text width of the 1.x family."""
    try:
        with safe_open(file, framework="pt") as weights:
            return (
                TELLTALE in weights.keys()  # noqa: SIM118
                and weights.get_slice(TELLTALE).get_shape()[1] == WIDTH
            )
    except (SafetensorError, OSError):
        return False  # whoever loads it will say what is wrong


def _save_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer, from the vocabulary that open_clip ships."""
    shipped = SimpleTokenizer()
    words = [*list(shipped.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    merges = [" ".join(pair) for pair, _ in sorted(shipped.bpe_ranks.items(), key=lambda x: x[1])]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    ).save_pretrained(folder / "tokenizer")
