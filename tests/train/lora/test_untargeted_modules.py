"""LoRAs of modules outside of our training targets, under every trainer's names; unknown keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from train.config.schema import BaseConfig
from train.errors import CheckpointError
from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2, UNET
from train.lora.checkpoint import read_checkpoint
from train.lora.key_names import kohya_name, original_path
from train.models.base_model import BaseModel, load_base

ATTENTION = "down_blocks.{}.attentions.0.transformer_blocks.0.attn1.to_q"
Spell = Callable[[str, str], str]


@pytest.fixture(scope="module", params=["base_folder", "xl_folder"])
def model(request: pytest.FixtureRequest) -> BaseModel:
    return load_base(BaseConfig(path=str(request.getfixturevalue(request.param)), device="cpu"))


def networks(base: BaseModel) -> dict[str, nn.Module]:
    """By diffusers' names."""
    names = ("unet", "text_encoder", "text_encoder_2")
    return dict(zip(names, [base.unet, *base.text_encoders], strict=False))


def prefix(base: BaseModel, network: str) -> str:
    first = TEXT_ENCODER_1 if base.family.is_xl else TEXT_ENCODER
    return {"unet": UNET, "text_encoder": first, "text_encoder_2": TEXT_ENCODER_2}[network]


def spellings(base: BaseModel) -> dict[str, Spell]:
    """The ways in which trainers name the down and up matrix of a module."""
    layers = base.unet.config.layers_per_block

    def original(network: str, path: str) -> str:
        return original_path(path, layers) if network == "unet" else path

    comfy = {"unet": "diffusion_model", "text_encoder": "text_encoders.clip_l.transformer",
             "text_encoder_2": "text_encoders.clip_g.transformer"}  # fmt: skip
    omi = {"unet": "unet", "text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    return {
        "kohya": lambda n, p: kohya_name(prefix(base, n), original(n, p)) + ".lora_{}.weight",
        "onetrainer": lambda n, p: kohya_name(prefix(base, n), p) + ".lora_{}.weight",
        "dots": lambda n, p: f"{prefix(base, n)}.{p}.lora_{{}}.weight",
        "diffusers": lambda n, p: f"{n}.{p}.lora_{{AB}}.weight",
        "diffusers of old": lambda n, p: f"{n}.{p}.lora.{{}}.weight",
        "adapter's name": lambda n, p: f"{n}.{p}.lora_{{AB}}.default_0.weight",
        "comfy": lambda n, p: f"{comfy[n]}.{original(n, p)}.lora_{{AB}}.weight",
        "comfy's extraction": lambda n, p: f"{comfy[n]}.{original(n, p)}.lora_{{}}.weight",
        "omi": lambda n, p: f"{omi[n]}.{original(n, p)}.lora_{{}}.weight",
        "compiled": lambda n, p: f"_orig_mod.{n}.{p}.lora_{{AB}}.weight",
    }


def write(file: Path, base: BaseModel, spell: Spell) -> dict[str, Tensor]:
    """A LoRA on every linear layer and convolution of the base; returns the change by path."""
    random = torch.Generator().manual_seed(0)
    tensors, changes = {}, {}
    for network, full in networks(base).items():
        for path, module in full.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            outputs, *inputs = module.weight.shape
            down = torch.randn(2, *inputs, generator=random) / 50
            up = torch.randn(outputs, 2, *[1] * (len(inputs) - 1), generator=random) / 50
            name = spell(network, path)
            for way, letter, weight in (("down", "A", down), ("up", "B", up)):
                tensors[name.replace("{AB}", letter).replace("{}", way)] = weight
            changes[f"{network}.{path}"] = (up.flatten(1) @ down.flatten(1)).view(
                module.weight.shape
            )
    save_file(tensors, file)
    return changes


@pytest.mark.parametrize(
    "spelling",
    ["kohya", "onetrainer", "dots", "diffusers", "diffusers of old", "adapter's name", "comfy",
     "comfy's extraction", "omi", "compiled"],
)  # fmt: skip
def test_every_module_is_found_under_every_trainers_name(
    model: BaseModel, tmp_path: Path, spelling: str
) -> None:
    """Including conv_in, time_embedding, add_embedding, conv_out and text_projection."""
    changes = write(tmp_path / "x.safetensors", model, spellings(model)[spelling])
    adapter, others = read_checkpoint(tmp_path / "x.safetensors", model.adapters)
    assert not others
    keys = {id(module): key for key, module in model.adapters.modules.items()}
    for name, change in changes.items():
        network, _, path = name.partition(".")
        key = keys[id(networks(model)[network].get_submodule(path))]
        down, up = adapter.matrices[key]
        assert adapter.alpha[key] == len(down)
        torch.testing.assert_close((up.flatten(1) @ down.flatten(1)).view(change.shape), change)
    assert len(adapter.matrices) == len(changes) > len(model.adapters.targets)
    paths = {name.rpartition(".")[0] or name for name in changes}
    assert {"unet.time_embedding", "unet"} <= paths


def test_modules_outside_of_the_targets_change_the_prediction(
    model: BaseModel, tmp_path: Path
) -> None:
    """With hooks as when fused into the weights, also for a pack of two."""
    write(tmp_path / "x.safetensors", model, spellings(model)["diffusers"])
    adapter, _ = read_checkpoint(tmp_path / "x.safetensors", model.adapters)
    latents, time = torch.randn(2, *model.latent_shape(64)), torch.tensor([500])

    def predicted() -> Tensor:
        return model.predict(latents, time, model.encode_text(["sks puppet", "a puppet"]))

    with torch.no_grad():
        without_lora = predicted()
        with model.adapters.fused(adapter):
            merged = predicted()
        with model.adapters.activated([adapter, adapter]):
            hooked = predicted()
        for key in (k for k in model.adapters.modules if k not in model.adapters.targets):
            one = {k: (v if k == key else v * 0) for k, v in adapter.up.items()}
            remaining = {k: v.clone() for k, v in adapter.up.items()}
            for k, up in adapter.up.items():
                up.copy_(one[k])
            with model.adapters.activated([adapter, adapter]):
                assert not torch.equal(predicted(), without_lora), key
            for k, up in adapter.up.items():
                up.copy_(remaining[k])
    torch.testing.assert_close(hooked, merged, atol=1e-4, rtol=1e-3)
    assert (hooked - without_lora).abs().max() > 1e-3


LEFT_OUT = {
    "bundle_emb.sks girl.clip_l": (2, 32),
    "bundle_emb.soft_alpha.string_to_param": (1, 32),
    "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": (16,),
    "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": (16,),
    "diffusion_model.input_blocks.1.0.in_layers.0.diff": (16,),
    "unet.conv_in.lora_B.bias": (16,),
    "base_model.model.conv_out.bias": (4,),
    "unet.conv_norm_out.weight": (16,),
    "lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight": (2, 16),
    "text_encoder.text_model.embeddings.token_embedding.lora_embedding_A": (2, 54),
}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_keys_without_a_module_are_returned(base: BaseModel, tmp_path: Path, key: str) -> None:
    tensors = {key: torch.ones(LEFT_OUT[key])}
    if key.endswith("lora_down.weight"):
        tensors[key.replace("down.w", "up.w")] = torch.ones(16, 2)
    for path in ("attn1_to_q", "attn1_to_k"):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{path}"
        tensors |= {f"{name}.lora_down.weight": torch.ones(2, 16),
                    f"{name}.lora_up.weight": torch.ones(16, 2)}  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    adapter, others = read_checkpoint(tmp_path / "x.safetensors", base.adapters)
    assert len(adapter.matrices) == 2
    assert [other.partition(".lora_down")[0] for other in others] == [
        key.partition(".lora_down")[0]
    ]


KINDS = {
    "lora_unet_x.hada_w1_a": "a LoHa",
    "lora_unet_x.lokr_w1": "a LoKr",
    "lora_unet_x.dora_scale": "a DoRA",
    "lycoris_x.dora_scale": "a DoRA",
    "base_model.model.mid_block.x.lora_magnitude_vector": "a DoRA",
    "base_model.model.mid_block.x.lora_magnitude_vector.default.weight": "a DoRA",
    "lora_unet_x.oft_blocks": "an OFT",
    "base_model.model.mid_block.x.oft_R.default.weight": "an OFT",
    "base_model.model.mid_block.x.boft_R": "a BOFT",
    "lora_unet_x.a1.weight": "a GLoRA",
    "lora_unet_x.lora_mid.weight": "a LoCon with a Tucker core",
    "base_model.model.mid_block.x.ia3_l": r"an \(IA\)3",
    "lora_unet_x.diff": "full differences of weights",
    "lora_unet_x.w_norm": "full differences of weights",
    "emb_params": "an embedding",
    "clip_g": "an embedding",
    "<sks>": "an embedding",
    "bundle_emb.sks.clip_l": "an embedding",
    "model.diffusion_model.input_blocks.0.0.weight": "a whole model",
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": "a whole model",
    "conditioner.embedders.0.transformer.x.weight": "a whole model",
    "down_blocks.0.resnets.0.conv1.weight": "a whole model",
    "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": "FLUX",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "FLUX",
    "lora_unet_joint_blocks_0_x_block_attn_proj.lora_down.weight": "Stable Diffusion 3",
    "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": "a diffusion transformer",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "a diffusion transformer",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "fc.weight": r"not a LoRA \(fc.weight\)",
    "": "a tensor without a name",
}


@pytest.mark.parametrize("key", KINDS)
def test_unsupported_adapter_kind_is_named(base: BaseModel, tmp_path: Path, key: str) -> None:
    tensors = {key: torch.ones(2, 2)}
    if ".lora_" in key and "magnitude" not in key and "mid" not in key.rpartition(".lora_")[2]:
        tensors[key.replace("lora_down", "lora_up").replace("lora_A", "lora_B")] = torch.ones(2, 2)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=KINDS[key]):
        read_checkpoint(tmp_path / "x.safetensors", base.adapters)


def test_lora_of_another_base_is_rejected(base: BaseModel, xl_folder: Path, tmp_path: Path) -> None:
    """Although some of its modules have the same names and shapes."""
    xl = load_base(BaseConfig(path=str(xl_folder), device="cpu"))
    for spelling, spell in spellings(xl).items():
        write(tmp_path / f"{spelling}.safetensors", xl, spell)
        with pytest.raises(CheckpointError, match="another base's LoRA"):
            read_checkpoint(tmp_path / f"{spelling}.safetensors", base.adapters)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_not_finite_are_named(
    base: BaseModel, tmp_path: Path, value: float
) -> None:
    name = f"unet.{ATTENTION.format(0)}"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(2, 16),
        f"{name}.lora_B.weight": torch.ones(16, 2),
    }
    tensors[f"{name}.lora_B.weight"][3, 1] = value
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"its weights are not finite in 1 of 1 modules"):
        read_checkpoint(tmp_path / "x.safetensors", base.adapters)


def test_linear_layer_equals_1x1_convolution(base: BaseModel, tmp_path: Path) -> None:
    """SD 1.x projects by 1x1 convolutions, and trainers save either shape."""
    name = "unet.down_blocks.0.attentions.0"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    tensors = {f"{name}.proj_in.lora_A.weight": down, f"{name}.proj_in.lora_B.weight": up}
    name += ".transformer_blocks.0.attn1.to_q"
    tensors |= {f"{name}.lora_A.weight": down[..., None, None].clone(),
                f"{name}.lora_B.weight": up[..., None, None].clone()}  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    adapter, _ = read_checkpoint(tmp_path / "x.safetensors", base.adapters)
    (wide, _), (flat, _) = adapter.matrices.values()
    assert (wide.shape, flat.shape) == ((2, 16, 1, 1), (2, 16))
    assert torch.equal(wide.flatten(1), flat)
