"""`python -m bench.arms.model FOLDER`: Stable Diffusion 1.5's architecture with random weights.

Writes 4.3 GB in the diffusers layout, and one image with a caption in FOLDER/pictures.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CAPTION, SIDE = "a photo of sks puppet", 256
VOCABULARY = 49408  # size of CLIP's; the tokenizer here has single letters only


def write_model(folder: Path) -> None:
    """Writes the model and the image."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [f"{letter}{end}" for letter in string.ascii_lowercase for end in ("", "</w>")]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = (str(folder / name) for name in ("vocab.json", "merges.txt"))
    text = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(*files, model_max_length=77),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(pictures / "1.png")
    (pictures / "1.txt").write_text(CAPTION)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
