"""Files that PEFT and diffusers write, for every network, load to the same change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from train.config.schema import BaseConfig
from train.errors import CheckpointError
from train.lora.adapter import Adapter
from train.lora.checkpoint import read_checkpoint
from train.models.base_model import BaseModel, load_base

pytestmark = pytest.mark.filterwarnings("ignore")
OUTSIDE = ["conv_in", "conv_out", "linear_1", "linear_2", "time_emb_proj"]


@pytest.fixture(scope="module")
def xl(xl_folder: Path) -> BaseModel:
    return load_base(BaseConfig(path=str(xl_folder), device="cpu"))


def trained(model: Any) -> Any:
    for key, weight in model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(weight, std=0.1)
    return model


def assert_same(model: Any, adapter: Adapter, base: BaseModel, own: nn.Module, name: str) -> None:
    """Every layer of PEFT changes its module as the adapter does."""
    keys = {id(module): key for key, module in base.adapters.modules.items()}
    layers = {p: m for p, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    assert layers
    for path, layer in layers.items():
        key = keys[id(own.get_submodule(path))]
        down, up = adapter.matrices[key]
        change = up.flatten(1) @ down.flatten(1) * (adapter.alpha[key] / len(down))
        torch.testing.assert_close(change, layer.get_delta_weight(name).flatten(1))


@pytest.mark.parametrize("network", ["text_encoder", "text_encoder_2"])
def test_text_encoder_not_named_by_peft(
    xl: BaseModel, xl_folder: Path, tmp_path: Path, network: str
) -> None:
    second = network.endswith("2")
    modules = ["q_proj", "fc1", *["text_projection"] * second]
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=modules)
    model = trained(get_peft_model(getattr(pipeline, network), config))
    model.save_pretrained(tmp_path)
    adapter, others = read_checkpoint(tmp_path / "adapter_model.safetensors", xl.adapters)
    assert not others
    assert_same(model.base_model.model, adapter, xl, xl.text_encoders[second], "default")


def test_all_networks_of_sdxl_as_diffusers_saves_them(
    xl: BaseModel, xl_folder: Path, tmp_path: Path
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    networks = {n: getattr(pipeline, n) for n in ("unet", "text_encoder", "text_encoder_2")}
    for name, network in networks.items():
        unet = name == "unet"
        network.add_adapter(LoraConfig(
            r=4, lora_alpha=2, use_rslora=unet, rank_pattern={"to_q": 3},
            target_modules=["to_q", "to_out.0", "proj_in", *OUTSIDE] if unet else ["q_proj", "fc2"],
            alpha_pattern={"conv_in": 9, "^down_blocks.*to_q": 5},
        ))  # fmt: skip
        trained(network)
    states = [convert_state_dict_to_diffusers(get_peft_model_state_dict(n)) for n in
              networks.values()]  # fmt: skip
    pipeline.save_lora_weights(tmp_path, *states, **_collate_lora_metadata(networks))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    adapter, others = read_checkpoint(file, xl.adapters)
    assert not others
    owns = (xl.unet, *xl.text_encoders)
    for network, own in zip(networks.values(), owns, strict=True):
        assert_same(network, adapter, xl, own, "default")


def unet_of(folder: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def test_single_network_saved_by_diffusers(
    base: BaseModel, base_folder: Path, tmp_path: Path
) -> None:
    unet = unet_of(base_folder)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "conv_in"]), "me")
    trained(unet).save_lora_adapter(tmp_path, adapter_name="me")
    adapter, others = read_checkpoint(next(tmp_path.glob("*.safetensors")), base.adapters)
    assert not others
    assert_same(unet, adapter, base, base.unet, "me")


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"modules_to_save": ["conv_out"]}, "conv_out.weight"),
        ({"bias": "all"}, "conv_in.bias"),
        ({"bias": "lora_only"}, ""),
        ({"fan_in_fan_out": True}, ""),
        ({"init_lora_weights": "gaussian", "use_rslora": True}, ""),
        ({"lora_dropout": 0.1}, ""),
    ],
)
def test_settings_that_do_not_change_the_strength(
    base: BaseModel, base_folder: Path, tmp_path: Path, options: dict[str, Any], left_out: str
) -> None:
    config = LoraConfig(r=4, lora_alpha=9, target_modules=["to_q", "to_v"], **options)
    model = trained(get_peft_model(unet_of(base_folder), config))
    model.save_pretrained(tmp_path)
    adapter, others = read_checkpoint(tmp_path / "adapter_model.safetensors", base.adapters)
    assert bool(others) == bool(left_out)
    assert not left_out or any(other.endswith(left_out) for other in others)
    assert_same(model.base_model.model, adapter, base, base.unet, "default")


@pytest.mark.parametrize(
    ("config", "options", "named", "message_without_settings"),
    [
        ("LoraConfig", {"init_lora_weights": "pissa"}, "a changed base", "not next to it"),
        ("LoraConfig", {"init_lora_weights": "olora"}, "a changed base", "not next to it"),
        ("LoraConfig", {"use_dora": True}, "has use_dora", "a DoRA"),
        ("LoHaConfig", {}, "PEFT's LOHA", "a LoHa"),
        ("LoKrConfig", {}, "PEFT's LOKR", "a LoKr"),
        ("OFTConfig", {"oft_block_size": 4}, "PEFT's OFT", "an OFT"),
        ("IA3Config", {"feedforward_modules": []}, "PEFT's IA3", r"an \(IA\)3"),
        ("VeraConfig", {}, "PEFT's VERA", "a VeRA"),
        ("AdaLoraConfig", {"total_step": 10}, "PEFT's ADALORA", "an AdaLoRA"),
    ],
)
def test_other_adapter_kind_is_named_with_and_without_settings(
    base: BaseModel, base_folder: Path, tmp_path: Path, config: str, options: dict[str, Any],
    named: str, message_without_settings: str,
) -> None:  # fmt: skip
    settings = getattr(peft, config)(target_modules=["to_q"], **options)
    get_peft_model(unet_of(base_folder), settings).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    with pytest.raises(CheckpointError, match=named):
        read_checkpoint(file, base.adapters)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=message_without_settings):
        read_checkpoint(file, base.adapters)
