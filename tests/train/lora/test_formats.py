"""LoRA files of other trainers load to the same change of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.config.schema import NetworkConfig
from train.errors import CheckpointError
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import epoch_of
from train.models.base_model import BaseModel

LATENTS, TIME, PROMPT = torch.randn(1, 4, 16, 16), torch.tensor([500]), ["a photo of sks puppet"]


@pytest.fixture(scope="module")
def theirs(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A LoRA as the diffusers training scripts save it, and what diffusers predicts with it."""
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder)
    unet = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    text = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"])
    for network, config in ((pipeline.unet, unet), (pipeline.text_encoder, text)):
        network.add_adapter(config)
        for name, weight in network.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        hidden, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False)
        predicted = pipeline.unet(LATENTS, TIME, hidden).sample
    folder = tmp_path_factory.mktemp("diffusers") / "checkpoint-500"
    StableDiffusionPipeline.save_lora_weights(
        folder,
        convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet)),
        convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.text_encoder)),
        **_collate_lora_metadata({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}),
    )
    return folder / "pytorch_lora_weights.safetensors", predicted


def predict(base: BaseModel, file: Path) -> Tensor:
    adapter = load_checkpoint(file, base.adapters)
    with torch.no_grad(), base.adapters.activated([adapter]):
        return base.unet(LATENTS, TIME, **base.encode_text(PROMPT)).sample


def test_diffusers_script_file_predicts_as_in_diffusers(
    base: BaseModel, theirs: tuple[Path, Tensor]
) -> None:
    file, predicted = theirs
    torch.testing.assert_close(predict(base, file), predicted, atol=1e-5, rtol=1e-4)
    assert epoch_of(file) == 500


def test_alternative_key_names_load_the_same(
    base: BaseModel, theirs: tuple[Path, Tensor], tmp_path: Path
) -> None:
    file, predicted = theirs
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8,
                                                     "text_encoder.lora_alpha": 3})}  # fmt: skip
    spellings = {
        "peft": lambda k: "base_model.model." + k.replace("lora_linear_layer.", "lora.")
        .replace("lora.down", "lora_A").replace("lora.up", "lora_B"),
        "processors": lambda k: k.replace(".to_out.0.lora.", ".processor.to_out_lora.")
        .replace(".to_q.lora.", ".processor.to_q_lora."),
    }  # fmt: skip
    for name, spell in spellings.items():
        tensors = {spell(key): tensor for key, tensor in load_file(file).items()}
        path = tmp_path / f"{name}-1.safetensors"
        save_file(tensors, path, metadata)
        torch.testing.assert_close(predict(base, path), predicted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("root", [False, True])  # whether the scale is alpha / sqrt(rank)
def test_peft_folder_changes_the_base_as_peft_does(
    base: BaseModel, base_folder: Path, tmp_path: Path, root: bool
) -> None:
    """One folder for each network, with alpha in the file next to the weights."""
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder)
    chosen = {"unet": ["to_q", "to_out.0", "conv1"], "text_encoder": ["q_proj", "fc1"]}
    for name, modules in chosen.items():
        config = LoraConfig(r=4, lora_alpha=6, target_modules=modules, use_rslora=root,
                            alpha_pattern={"to_q": 3})  # fmt: skip
        model: Any = get_peft_model(getattr(pipeline, name), config)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(tmp_path / name)
        adapter = load_checkpoint(tmp_path / name / "adapter_model.safetensors", base.adapters)
        network = getattr(base, name)
        paths = {id(module): path for path, module in network.named_modules()}
        for key, (down, up) in adapter.matrices.items():
            layer = model.base_model.model.get_submodule(paths[id(base.adapters.targets[key])])
            change = up.flatten(1) @ down.flatten(1) * (adapter.alpha[key] / len(down))
            torch.testing.assert_close(change, layer.get_delta_weight("default").flatten(1))
        layers = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
        assert len(layers) == len(adapter.matrices) > 0


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "a DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "a LoKr"),
        ("base_model.model.mid_block.attentions.0.proj_in.lora_magnitude_vector", "a DoRA"),
        ("transformer.single_blocks.0.lora_A.weight", "it is for FLUX or the like"),
        ("unet.conv_in.bias", "a whole model .*, not a LoRA"),
    ],
)
def test_other_adapter_kinds_are_rejected_by_name(
    base: BaseModel, tmp_path: Path, key: str, message: str
) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / "x-1.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "x-1.safetensors", base.adapters)


def test_fused_adapter_predicts_the_same_and_restores_the_base(
    base: BaseModel, theirs: tuple[Path, Tensor]
) -> None:
    file, _ = theirs
    expected, adapter = predict(base, file), load_checkpoint(file, base.adapters)
    before = {key: module.weight.clone() for key, module in base.adapters.targets.items()}  # type: ignore[operator]
    with torch.no_grad(), base.adapters.fused(adapter):
        merged = base.unet(LATENTS, TIME, **base.encode_text(PROMPT)).sample
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)
    for key, module in base.adapters.targets.items():
        assert torch.equal(module.weight, before[key])  # type: ignore[arg-type]


def test_text_is_encoded_again_if_an_adapter_changes_it(base: BaseModel) -> None:
    adapter = base.adapters.create(NetworkConfig(rank=2, text_encoder=True), torch.Generator())
    for up in adapter.up.values():
        up.fill_(0.1)
    (without_lora,) = base.encode_text(PROMPT).values()
    for use in (base.adapters.activated([adapter]), base.adapters.fused(adapter)):
        with torch.no_grad(), use:
            (changed,) = base.encode_text(PROMPT).values()
        assert (changed - without_lora).abs().max() > 1e-3
        assert torch.equal(base.encode_text(PROMPT)["encoder_hidden_states"], without_lora)
