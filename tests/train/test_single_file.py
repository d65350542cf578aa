"""A single file in the original layout is loaded without a hub, to the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from train import single_file
from train.base import load_base
from train.config import BaseConfig

UNET = {"cross_attention_dim": 768, "block_out_channels": [32, 32, 64, 64]}
VAE = {
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
}

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
}  # fmt: skip


def original_unet_key(key: str) -> str:
    """A UNet's key of diffusers as Stable Diffusion's own code has it (two layers a block)."""
    places = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    for i in range(4):
        for j in range(3):
            down, up = f"input_blocks.{3 * i + j + 1}", f"output_blocks.{3 * i + j}"
            places[f"down_blocks.{i}.resnets.{j}"] = f"{down}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"{down}.1"
            places[f"up_blocks.{i}.resnets.{j}"] = f"{up}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"{up}.1"
        places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
        places[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}"
    place = max((p for p in places if key.startswith(f"{p}.")), key=len)
    rest = key.removeprefix(f"{place}.")
    if "resnets" in place:
        part, _, kind = rest.partition(".")
        rest = f"{RESNET[part]}.{kind}"
    return f"model.diffusion_model.{places[place]}.{rest}"


def original_vae_key(key: str) -> str:
    """The same for the autoencoder."""
    for i in range(4):
        key = key.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
        key = key.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
        key = key.replace(f"up_blocks.{i}.resnets", f"up.{3 - i}.block")
        key = key.replace(f"up_blocks.{i}.upsamplers.0", f"up.{3 - i}.upsample")
    key = key.replace("mid_block.resnets.0", "mid.block_1")
    key = key.replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("mid_block.attentions.0", "mid.attn_1")
    for ours, theirs in VAE_PARTS.items():
        key = key.replace(f".{ours}.", f".{theirs}.")
    return f"first_stage_model.{key}"


@pytest.fixture(scope="module")
def models() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, **TEXT))
    return UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), text


@pytest.fixture
def file(
    models: tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A small model with random weights in the original layout, as if it were version 1.x."""
    unet, vae, text = models
    weights: dict[str, Tensor] = {}
    for key, value in unet.state_dict().items():
        weights[original_unet_key(key)] = value
    for key, value in vae.state_dict().items():
        name = original_vae_key(key)
        square = "attn_1" in name and name.endswith("weight") and value.ndim == 2
        weights[name] = value[:, :, None, None] if square else value  # 1x1 convolutions there
    for key, value in text.state_dict().items():
        name = key if key.startswith("text_model.") else f"text_model.{key}"
        weights[f"cond_stage_model.transformer.{name}"] = value
    for name, small in (("unet", UNET), ("vae", VAE), ("text_encoder", TEXT)):
        config = single_file.CONFIGS[f"{name}/config.json"]
        monkeypatch.setitem(single_file.CONFIGS, f"{name}/config.json", {**config, **small})
    path = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def test_single_file_loads_offline_to_the_same_weights(
    file: Path, models: tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]
) -> None:
    base = load_base(BaseConfig(path=str(file), device="cpu"))
    for loaded, made in zip((base.unet, base.vae, base.text_encoder), models, strict=True):
        assert made is not loaded
        wanted = made.state_dict()
        found = loaded.state_dict()
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert base.noise.config.prediction_type == "epsilon"
    assert base.noise.config.beta_schedule == "scaled_linear"
    assert base.encode_text(["a cat"])["encoder_hidden_states"].shape == (1, 77, 768)


def test_tokenizer_is_clips(file: Path) -> None:
    tokenizer = load_base(BaseConfig(path=str(file), device="cpu")).tokenizer
    clip = SimpleTokenizer()
    for text in ("a photo of sks person, wearing a red hat!", "Ünïcødé 猫 :-) it's 1234", ""):
        wanted = [49406, *clip.encode(text), 49407]
        assert tokenizer(text).input_ids == wanted
    assert tokenizer.model_max_length == 77


def test_full_configs_are_those_of_stable_diffusion_1() -> None:
    """By the number of parameters, which is known, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(single_file.CONFIGS["unet/config.json"])
        vae = AutoencoderKL.from_config(single_file.CONFIGS["vae/config.json"])
        config = dict(single_file.CONFIGS["text_encoder/config.json"])
        text = CLIPTextModel(CLIPTextConfig(**config))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (unet, vae, text)]
    assert sizes == [859_520_964, 83_653_863, 123_060_480]


def test_other_families_are_left_to_the_hub(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "xl.safetensors"
    save_file({single_file.TELLTALE: torch.zeros(4, 2048)}, other)
    with single_file.layout(other) as options:
        assert options == {}
    with single_file.layout(file) as options:
        index = json.loads((Path(options["config"]) / "model_index.json").read_text())
        assert index["_class_name"] == "StableDiffusionPipeline"
