"""A single file in the original layout loads without a hub, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig

from train.config.schema import BaseConfig
from train.lora.adapter import UNET
from train.lora.injection import LoRAInjector
from train.models.base_model import BaseError, load_base
from train.models.families import FAMILIES, SD1, SD2, SDXL, Family
from train.models.model_files import fingerprint
from train.models.single_file import FIRST_WEIGHT, family_of_file, scheduler_settings

SMALL: dict[str, dict[str, Any]] = {
    "vae": {"block_out_channels": [32, 32, 64, 64]},
    "text_encoder": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                     "num_attention_heads": 2},
    "text_encoder_2": {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "projection_dim": 32},
}  # fmt: skip
SMALL_UNETS: dict[Family, dict[str, Any]] = {
    SD1: {"block_out_channels": [32, 32, 64, 64]},
    SD2: {"block_out_channels": [32, 32, 64, 64], "attention_head_dim": [2, 2, 4, 4]},
    SDXL: {"block_out_channels": [32, 32, 64], "attention_head_dim": [2, 2, 4],
           "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8,
           "projection_class_embeddings_input_dim": 6 * 8 + 32},
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm",
}  # fmt: skip
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
}  # fmt: skip


def original_unet_key(key: str, unet: nn.Module) -> str:
    """A key of diffusers' UNet in Stable Diffusion's original code (two layers per block)."""
    places = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    for i, block in enumerate(cast(Any, unet).up_blocks):
        for j in range(3):
            down, up = f"input_blocks.{3 * i + j + 1}", f"output_blocks.{3 * i + j}"
            places[f"down_blocks.{i}.resnets.{j}"] = f"{down}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"{down}.1"
            places[f"up_blocks.{i}.resnets.{j}"] = f"{up}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"{up}.1"
        after = 2 if hasattr(block, "attentions") else 1
        places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
        places[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{3 * i + 2}.{after}"
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
    for ours, reference in VAE_PARTS.items():
        key = key.replace(f".{ours}.", f".{reference}.")
    return f"first_stage_model.{key}"


def original_text(encoder: nn.Module, family: Family, number: int) -> dict[str, Tensor]:
    """A text encoder's weights: CLIP's under transformers' names, OpenCLIP's under its own."""
    weights = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    if family is SD1 or (family is SDXL and number == 0):
        prefix = "conditioner.embedders.0" if family is SDXL else "cond_stage_model"
        return {f"{prefix}.transformer.text_model.{key}": v for key, v in weights.items()}
    prefix = "conditioner.embedders.1" if family is SDXL else "cond_stage_model"
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key == "text_projection.weight":
            result[f"{prefix}.model.text_projection"] = value.T
            continue
        for ours, reference in OPEN_CLIP.items():
            key = key.replace(ours, reference)
        if "q_proj" in key:  # the three are one matrix there
            rows = [weights[k] for k in (joint(key, w) for w in "qkv")]
            result[f"{prefix}.model.{key.replace('q_proj.', 'in_proj_')}"] = torch.cat(rows)
        elif not any(f"{w}_proj" in key for w in "kv"):
            result[f"{prefix}.model.{key}"] = value
    return result


def joint(key: str, which: str) -> str:
    return (
        key.replace("transformer.resblocks", "encoder.layers")
        .replace("attn.q_proj", f"self_attn.{which}_proj")
    )  # fmt: skip


def build(family: Family) -> dict[str, nn.Module]:
    """The models of a family, by the configs that single files are loaded with."""
    created: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(family.configs["unet"]),
        "vae": AutoencoderKL.from_config(family.configs["vae"]),
    }
    for part, config in family.configs.items():
        if part.startswith("text_encoder"):
            cls = getattr(transformers, config["architectures"][0])
            created[part] = cls(CLIPTextConfig(**config))
    return created


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Family:
    """A family with small models."""
    result: Family = request.param
    configs = cast(dict[str, Any], result.configs)
    smaller = SMALL | {"unet": SMALL_UNETS[result]}
    for part, small in smaller.items():
        if part in configs:
            monkeypatch.setitem(configs, part, {**configs[part], **small})
    return result


@pytest.fixture
def models(family: Family) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return build(family)


@pytest.fixture
def file(family: Family, models: dict[str, nn.Module], tmp_path: Path) -> Path:
    """Random weights in the original layout."""
    unet, vae = models["unet"], models["vae"]
    weights = {original_unet_key(key, unet): value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        name = original_vae_key(key)
        square = "attn_1" in name and name.endswith("weight") and value.ndim == 2
        weights[name] = value[:, :, None, None] if square else value  # 1x1 convolutions there
    encoders = [model for part, model in models.items() if part.startswith("text")]
    for number, encoder in enumerate(encoders):
        weights |= original_text(encoder, family, number)
    path = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def test_guessed_prediction_type_is_logged(
    file: Path, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        load_base(BaseConfig(path=str(file), device="cpu"))
    message = "model.safetensors does not state its prediction type; v_prediction is assumed"
    assert (message in caplog.text) == (family is SD2)
    caplog.clear()
    base = load_base(BaseConfig(path=str(file), device="cpu", prediction_type="epsilon"))
    assert base.prediction_type == "epsilon"
    assert "does not say" not in caplog.text


def test_single_file_loads_offline_to_the_same_weights(
    file: Path, family: Family, models: dict[str, nn.Module]
) -> None:
    base = load_base(BaseConfig(path=str(file), device="cpu"))
    assert base.family is family
    loaded = {"unet": base.unet, "vae": base.vae, "text_encoder": base.text_encoder}
    if family is SDXL:
        loaded["text_encoder_2"] = base.text_encoders[1]
    for part, created in models.items():
        expected, result = created.state_dict(), loaded[part].state_dict()
        assert set(result) == set(expected)
        assert all(torch.equal(result[key], expected[key]) for key in expected), part
    assert base.noise_scheduler.config.prediction_type == family.prediction
    assert base.noise_scheduler.config.beta_schedule == "scaled_linear"
    text = base.encode_text(["a cat"])
    assert text["encoder_hidden_states"].shape == (1, 77, 192 if family is SDXL else 64)
    assert ("text_embeds" in text) == (family is SDXL)
    assert base.fingerprint == fingerprint([file], file)
    clip = SimpleTokenizer()
    padded = base.tokenizer("a cat", padding="max_length").input_ids[-1]
    assert padded == (0 if family is SD2 else 49407)
    for requested in ("a photo of sks person, wearing a red hat", "Ünïcødé 猫 :-) it's 1234", ""):
        assert base.tokenizer(requested).input_ids == [49406, *clip.encode(requested), 49407]
    assert base.tokenizer.model_max_length == 77


def test_full_configs_match_the_real_models_and_kohyas_modules() -> None:
    """By the numbers of parameters and of modules, which are known; on the meta device.

    SDXL: 70 transformer blocks of 10 layers and 11 pairs of projections; 72 and 192 in the text
    encoders of 12 and 32 layers of 6; 66 in the blocks of convolutions.
    """
    known = {
        SD1: ([859_520_964, 83_653_863, 123_060_480], [192, 72], 278),
        SD2: ([865_910_724, 83_653_863, 340_387_840], [192, 138], 278),
        SDXL: ([2_567_463_684, 83_653_863, 123_060_480, 694_659_840], [722, 72, 192], 788),
    }
    for family, (sizes, counts, with_convolutions) in known.items():
        with torch.device("meta"):
            created = build(family)
        assert [sum(p.numel() for p in model.parameters()) for model in created.values()] == sizes
        encoders = [model for part, model in created.items() if part.startswith("text")]
        prefixes = (UNET, *family.text_encoders)
        adapters = LoRAInjector(dict(zip(prefixes, [created["unet"], *encoders], strict=True)))
        linear = [key for key in adapters.targets if key not in adapters.conv_only]
        assert [sum(k.startswith(f"{p}_") for k in linear) for p in prefixes] == counts
        assert sum(key.startswith(UNET) for key in adapters.targets) == with_convolutions


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({SDXL.marker_key: (4, 1280)}, "match none of Stable Diffusion 1.x, "),  # SDXL's refiner
        ({SD1.marker_key: (4, 768), FIRST_WEIGHT: (4, 9, 3, 3)}, "inpainting"),
        ({"double_blocks.0.weight": (4, 4)}, "match none of"),
    ],
)
def test_files_of_other_models_are_rejected(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    with pytest.raises(BaseError, match=f"other.safetensors is not a .* model: .*{message}"):
        load_base(BaseConfig(path=str(path), device="cpu"))


def test_single_file_may_state_its_prediction_type(tmp_path: Path) -> None:
    plain, path = {SDXL.marker_key: torch.zeros(4, 2048)}, tmp_path / "x.safetensors"
    save_file(plain, path)
    assert family_of_file(path) is SDXL
    assert scheduler_settings(path, SDXL)["prediction_type"] == "epsilon"
    save_file({**plain, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    assert scheduler_settings(path, SDXL) == {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    }
    save_file(plain, path, {"modelspec.prediction_type": "epsilon"})
    assert scheduler_settings(path, SD2)["prediction_type"] == "epsilon"
    assert load_file(path).keys() == plain.keys()
