"""The strength of a LoRA file: as its trainer meant it, or rejected."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from train.errors import CheckpointError
from train.lora.checkpoint import load_checkpoint
from train.models.base_model import BaseModel

MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{MODULE.replace('.', '_')}"
OTHER = KOHYA.replace("to_q", "to_k")


def pair(rank: int = 4) -> dict[str, torch.Tensor]:
    return {"down": torch.randn(rank, 16), "up": torch.randn(16, rank)}


def kohya(file: Path, alphas: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """A kohya file with rank 4 and these alphas; None: the module has none."""
    tensors: dict[str, torch.Tensor] = {}
    for name, alpha in alphas.items():
        tensors |= {f"{name}.lora_{way}.weight": weight for way, weight in pair().items()}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.as_tensor(alpha)
    save_file(tensors, file, metadata)
    return file


def peft(file: Path, settings: Any, prefix: str = "unet.", where: str = "metadata") -> Path:
    """A file with PEFT's key names, and its settings in the metadata or next to it."""
    save_file(
        {f"{prefix}{MODULE}.lora_{'A' if way == 'down' else 'B'}.weight": weight
         for way, weight in pair().items()},
        file,
        {"lora_adapter_metadata": json.dumps(settings)} if where == "metadata" else None,
    )  # fmt: skip
    if where == "beside":
        file.with_name("adapter_config.json").write_text(json.dumps(settings))
    return file


PATTERNS: list[dict[str, float]] = [
    {"^down_blocks.0.*to_q": 100},
    {"to_q": 3, "attn1.to_q": 5},  # the first counts, and PEFT sorts them when it saves
    {r"down_blocks\.\d+\.attentions\.0.*attn[12]\.to_[qk]": 2.5},
    {".*attn1.*": 7, "to_out.0": 1},
    {"o_q": 100, "attn.to_q": 100, "to_": 100},  # none of them: not a whole last part
    {"conv1|to_q|fc1": 9},
    {"^mid_block.*": 11, "up_blocks": 12},
    {"transformer_blocks.0.attn2.to_v": 4, "down_blocks.0.attentions.0.proj_in": 8},
    {"(?i:TO_K)": 6},
    {"": 5},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=[next(iter(p)) for p in PATTERNS])
def test_patterns_match_as_in_peft(
    base: BaseModel, base_folder: Path, tmp_path: Path, pattern: dict[str, float], root: bool
) -> None:
    """Every module's change equals that of PEFT's own layer, for alphas and ranks by pattern."""
    first, second = (UNet2DConditionModel.from_pretrained(base_folder / "unet") for _ in "12")
    ranks = {"^up_blocks.*to_q": 2, "proj_in": 3}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1"],
        alpha_pattern=pattern, rank_pattern=ranks, use_rslora=root,
    )  # fmt: skip
    model: Any = get_peft_model(first, config)
    for key, weight in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(second, str(tmp_path))
    adapter = load_checkpoint(tmp_path / "adapter_model.safetensors", base.adapters)
    paths = {id(module): path for path, module in base.unet.named_modules()}
    for key, (down, up) in adapter.matrices.items():
        layer = model.base_model.model.get_submodule(paths[id(base.adapters.modules[key])])
        change = up.flatten(1) @ down.flatten(1) * (adapter.alpha[key] / len(down))
        torch.testing.assert_close(change, layer.get_delta_weight("default").flatten(1))
    scaled = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
    assert len(adapter.matrices) == len(scaled) > 0


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({"unet.lora_alpha": 8}, 8),
        ({"unet.lora_alpha": 8, "unet.r": 4}, 8),
        ({"unet.lora_alpha": "16"}, 16),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 16),
        ({"lora_alpha": 2}, 2),  # diffusers' save_lora_adapter of one network
        ({"unet.lora_alpha": 8, "unet.rank_pattern": {"to_q": 4}, "unet.r": 64}, 8),
        ({"unet.lora_alpha": 8, "unet.init_lora_weights": "gaussian"}, 8),
    ],
)
@pytest.mark.parametrize("prefix", ["unet.", "", "unet.unet."])
def test_peft_settings_in_the_metadata_are_applied(
    base: BaseModel, tmp_path: Path, settings: dict[str, Any], alpha: float, prefix: str
) -> None:
    file = peft(tmp_path / "x.safetensors", settings, prefix)
    assert load_checkpoint(file, base.adapters).alpha == {KOHYA: pytest.approx(alpha)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unet.lora_alpha": "eight"}, "lora_alpha is eight"),
        ({"unet.lora_alpha": None}, "no lora_alpha for"),
        ({"unet.lora_alpha": 0}, "lora_alpha is 0"),
        ({"unet.lora_alpha": -1}, "lora_alpha is -1"),
        ({"unet.lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"unet.lora_alpha": True}, "lora_alpha is True"),
        ({"unet.lora_alpha": [8]}, "lora_alpha is "),
        ({"unet.r": 4}, "no lora_alpha for"),
        ({"unet.lora_alpha": 8, "unet.r": 32}, "give .* rank 32, the file 4"),
        ({"unet.lora_alpha": 8, "unet.r": 4, "unet.rank_pattern": {".*to_q": 8}}, "rank 8"),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": "x"}}, "lora_alpha is x"),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_(q": 1}}, "not a regular expression"),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": ["to_q"]}, "alpha_pattern is not a mapping"),
        ({"text_encoder.lora_alpha": 8}, "say nothing of"),
        ([1, 2], "is not JSON with settings"),
        ({"unet.lora_alpha": 8, "unet.peft_type": "LOHA"}, "it is PEFT's LOHA"),
        ({"unet.lora_alpha": 8, "unet.use_dora": True}, "has use_dora"),
        ({"unet.lora_alpha": 8, "unet.init_lora_weights": "pissa"}, "trained on a changed base"),
    ],
)
def test_ambiguous_strength_in_peft_settings_is_rejected(
    base: BaseModel, tmp_path: Path, settings: Any, words: str
) -> None:
    for where, prefix in (("metadata", "unet."), ("beside", "base_model.model.")):
        own = settings
        if where == "beside" and isinstance(settings, dict):
            own = {key.removeprefix("unet."): value for key, value in settings.items()}
        if "text_encoder.lora_alpha" in own and where == "beside":
            continue  # the file beside it is of one network
        folder = tmp_path / where
        folder.mkdir()
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(peft(folder / "x.safetensors", own, prefix, where), base.adapters)


def test_peft_file_without_settings_is_rejected(base: BaseModel, tmp_path: Path) -> None:
    file = peft(tmp_path / "adapter_model.safetensors", {}, "base_model.model.", "nowhere")
    with pytest.raises(CheckpointError, match=r"adapter_config.json is not next to it"):
        load_checkpoint(file, base.adapters)
    file.with_name("adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_checkpoint(file, base.adapters)
    diffusers = peft(tmp_path / "b.safetensors", {}, "unet.", "nowhere")
    diffusers.with_name("adapter_config.json").unlink()
    assert load_checkpoint(diffusers, base.adapters).alpha == {KOHYA: 4}  # as diffusers reads it


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [
        ({KOHYA: None}, 4),  # kohya's first files had none
        ({KOHYA: 1.0}, 1),
        ({KOHYA: 16}, 16),  # whole
        ({KOHYA: [2.0]}, 2),
        ({KOHYA: torch.tensor(0.5, dtype=torch.bfloat16)}, 0.5),
        ({KOHYA: 4.0, OTHER: None}, 4),  # the rank, said or not
    ],
)
def test_alphas_of_kohya_files(
    base: BaseModel, tmp_path: Path, alphas: dict[str, Any], expected: float
) -> None:
    result = load_checkpoint(kohya(tmp_path / "x.safetensors", alphas), base.adapters)
    assert result.alpha == dict.fromkeys(alphas, expected)


@pytest.mark.parametrize(
    ("alphas", "metadata", "words"),
    [
        ({KOHYA: 0.0}, {}, "alpha is 0.0"),  # kohya reads it as the rank, others as nothing
        ({KOHYA: -8.0}, {}, "alpha is -8.0"),
        ({KOHYA: math.nan}, {}, "alpha is nan"),
        ({KOHYA: math.inf}, {}, "alpha is inf"),
        ({KOHYA: [1.0, 2.0]}, {}, r"is not one number but \(2,\)"),
        ({KOHYA: []}, {}, r"is not one number but \(0,\)"),
        ({KOHYA: 1.0, OTHER: None}, {}, "other modules have none"),
        ({KOHYA: None}, {"ss_network_dim": "4", "ss_network_alpha": "1.0"}, "metadata give alpha"),
    ],
)
def test_ambiguous_alpha_in_a_kohya_file_is_rejected(
    base: BaseModel, tmp_path: Path, alphas: dict[str, Any], metadata: dict[str, str], words: str
) -> None:
    file = kohya(tmp_path / "x.safetensors", alphas, metadata)
    with pytest.raises(CheckpointError, match=f"strength is ambiguous.*{words}"):
        load_checkpoint(file, base.adapters)


@pytest.mark.parametrize("part", ["scale", "scalar", "lora_scale", "network_alpha"])
def test_unknown_scaling_factors_are_rejected(base: BaseModel, tmp_path: Path, part: str) -> None:
    file = kohya(tmp_path / "x.safetensors", {KOHYA: 1.0})
    save_file({**load_file(file), f"{KOHYA}.{part}": torch.tensor(0.5)}, file)
    with pytest.raises(CheckpointError, match=f"strength is ambiguous: it has {KOHYA}.{part}"):
        load_checkpoint(file, base.adapters)


def test_conflicting_alphas_are_rejected(base: BaseModel, tmp_path: Path) -> None:
    file = peft(tmp_path / "x.safetensors", {"unet.lora_alpha": 8})
    for alpha, fits in ((8.0, True), (2.0, False)):
        tensors = {**load_file(file), f"unet.{MODULE}.alpha": torch.tensor(alpha)}
        save_file(tensors, tmp_path / "y.safetensors",
                  {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})})  # fmt: skip
        if fits:
            load_checkpoint(tmp_path / "y.safetensors", base.adapters)
        else:
            with pytest.raises(CheckpointError, match=r"alpha of .* is 2, in PEFT's settings 8"):
                load_checkpoint(tmp_path / "y.safetensors", base.adapters)


@pytest.mark.parametrize("name", ["use_rslora", "use_dora", "use_qalora"])
@pytest.mark.parametrize("value", ["false", "true", "", 1, 0, [], {}])
def test_switch_that_is_not_boolean_is_rejected(
    base: BaseModel, tmp_path: Path, name: str, value: Any
) -> None:
    """Python considers the text "false" true, which would double the strength."""
    settings = {"r": 4, "lora_alpha": 8, name: value}
    file = peft(tmp_path / "adapter_model.safetensors", settings, "base_model.model.", "beside")
    with pytest.raises(CheckpointError, match=f"{name} must be true or false"):
        load_checkpoint(file, base.adapters)


@pytest.mark.parametrize(("value", "alpha"), [(None, 8), (False, 8), (True, 16)])
def test_rslora_changes_the_strength_as_peft_does(
    base: BaseModel, tmp_path: Path, value: bool | None, alpha: float
) -> None:
    settings = {"r": 4, "lora_alpha": 8, "use_rslora": value}
    file = peft(tmp_path / "adapter_model.safetensors", settings, "base_model.model.", "beside")
    assert {*load_checkpoint(file, base.adapters).alpha.values()} == {alpha}


def test_other_model_family_is_named_before_the_strength_is_checked(
    base: BaseModel, tmp_path: Path
) -> None:
    names = [f"lora_unet_double_blocks_{n}_img_attn_proj" for n in range(2)]
    file = kohya(tmp_path / "x.safetensors", {names[0]: 2.0, names[1]: None})
    with pytest.raises(CheckpointError, match="it is for FLUX"):
        load_checkpoint(file, base.adapters)


@pytest.mark.parametrize("down", [torch.zeros(0, 16), torch.tensor(1.0)])
def test_module_without_a_rank_is_named(
    base: BaseModel, tmp_path: Path, down: torch.Tensor
) -> None:
    file = kohya(tmp_path / "x.safetensors", {KOHYA: 2.0})
    save_file({**load_file(file), f"{KOHYA}.lora_down.weight": down}, file)
    with pytest.raises(CheckpointError, match=f"{KOHYA} has no rank"):
        load_checkpoint(file, base.adapters)
