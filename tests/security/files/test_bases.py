"""Untrusted base models: settings are typed, weights are tensors, and no code runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from evaluate.features import pose_detectors
from tests.security.corruption import (
    CORRUPTIONS,
    link_to_device,
    make_pipe,
    set_json_value,
    write_other_json,
)
from train.config.schema import EMBEDDED_BASE, BaseConfig
from train.errors import ConfigError, UserError
from train.models import model_files
from train.models.base_model import BaseError, load_base
from train.models.model_files import locate

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid base with modules that create a file when imported."""
    base = tmp_path / "base"
    shutil.copytree(EMBEDDED_BASE, base)
    code = f"open({str(tmp_path / 'PWNED')!r}, 'w').write('x')\n"
    code += "from diffusers import UNet2DConditionModel as Evil, StableDiffusionPipeline as EvilP\n"
    code += "from transformers import CLIPTokenizer as EvilT\n"
    for place in (base, *(part for part in base.iterdir() if part.is_dir())):
        (place / "evil_unet.py").write_text(code)
    return base


def refuse_base(source: Path) -> str:
    """Checks that a base is refused without running code, and returns the error line."""
    with pytest.raises(BaseError, match=r"^base\.path: ") as raised:
        load_base(BaseConfig(path=str(source), device="cpu"))
    assert not (source.parent / "PWNED").exists()
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("unet", ["evil_unet", "Evil"]),
        ("vae", ["evil_unet", "Evil"]),
        ("tokenizer", ["evil_unet", "EvilT"]),
        ("scheduler", ["os", "system"]),
        ("text_encoder", ["transformers", "AutoModel"]),
        ("text_encoder", [["evil_unet"], "Evil"]),
        ("unet", ["diffusers", "DiffusionPipeline"]),
        ("evil_unet", ["evil_unet", "Evil"]),
        ("image_encoder", ["evil_unet", "Evil"]),
        ("feature_extractor", ["evil_unet", "Evil"]),
        ("safety_checker", ["evil_unet", "Evil"]),
        ("_class_name", ["evil_unet", "EvilP"]),
        ("_class_name", "KandinskyCombinedPipeline"),
        ("_class_name", None),
        ("unet", {"a": 1}),
    ],
)
def test_component_of_unknown_class_is_refused(folder: Path, part: str, kind: Any) -> None:
    set_json_value(folder / "model_index.json", part, value=kind)
    refuse_base(folder)


TEXTS, SCHEDULER = "text_encoder/config.json", "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (TEXTS, "auto_map", {"AutoModel": "evil_unet.Evil"}),
        (TEXTS, "quantization_config", {"quant_method": "bitsandbytes"}),
        (TEXTS, "attn_implementation", "evil/kernel"),
        (TEXTS, "anything", "evil/kernel"),
        (TEXTS, "num_hidden_layers", 200),
        (TEXTS, "intermediate_size", 2_000_000),
        (TEXTS, "vocab_size", 10**9),
        (TEXTS, "hidden_size", -1),
        (TEXTS, "hidden_act", "evil"),
        ("unet/config.json", "quantization_config", {"quant_method": "torchao"}),
        ("unet/config.json", "layers_per_block", 10**6),
        ("unet/config.json", "block_out_channels", [64] * 1000),
        ("unet/config.json", "num_class_embeds", 100_000_000),
        ("unet/config.json", "cross_attention_dim", [[[10**9]]]),
        ("unet/config.json", "down_block_types", ["Evil"]),
        ("vae/config.json", "latent_channels", 10**6),
        ("vae/config.json", "scaling_factor", float("nan")),
        (SCHEDULER, "num_train_timesteps", 300_000_000),
        (SCHEDULER, "trained_betas", [0.1, 0.2]),
        (SCHEDULER, "beta_schedule", "evil"),
        (SCHEDULER, "prediction_type", "evil"),
        (TOKENIZER, "auto_map", {"AutoTokenizer": ["evil_unet.EvilT", None]}),
        (TOKENIZER, "tokenizer_class", "EvilT"),
        (TOKENIZER, "model_max_length", 10**30),
        (TOKENIZER, "model_max_length", 0),
        (TOKENIZER, "model_max_length", 7.5),
        (TOKENIZER, "pad_token", None),
        (TOKENIZER, "vocab", "/etc/passwd"),
        (TOKENIZER, "merges", ["a b"]),
        (TOKENIZER, "gguf_file", "/etc/passwd"),
        (TOKENIZER, "init_inputs", ["/etc/passwd"]),
        (TOKENIZER, "not_invented_yet", {"file": "/etc/passwd"}),
        ("tokenizer/special_tokens_map.json", "pad_token", None),
    ],
)  # fmt: skip
def test_invalid_setting_of_a_component_is_refused(
    folder: Path, file: str, key: str, value: Any
) -> None:
    set_json_value(folder / file, key, value=value)
    refuse_base(folder)


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", TEXTS, SCHEDULER, TOKENIZER, "tokenizer/vocab.json",
     "tokenizer/tokenizer.json", "vae/diffusion_pytorch_model.safetensors",
     "text_encoder/model.safetensors", "spare.safetensors"],
)  # fmt: skip
def test_corrupt_file_of_a_base_is_refused(
    folder: Path, name: str, corrupt: Callable[[Path], None]
) -> None:
    corrupt(folder / name)
    is_unused = name in ("spare.safetensors", "tokenizer/vocab.json") and corrupt not in (
        make_pipe,
        link_to_device,
    )
    if is_unused or (name == SCHEDULER and corrupt is write_other_json):  # its keys have defaults
        return
    refuse_base(folder)


def test_an_adapter_in_a_base_is_not_loaded(folder: Path) -> None:
    set_json_value(
        folder / "text_encoder/adapter_config.json", "base_model_name_or_path", value="evil/x"
    )
    assert "adapter_config.json" in refuse_base(folder)


def test_sharded_weights_must_be_next_to_their_index(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "../../elsewhere.safetensors"}}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / name).write_text(json.dumps(index))
    assert "elsewhere" in refuse_base(folder)


def test_base_of_links_as_in_the_hub_cache_is_loaded(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for file in folder.rglob("*"):
        if file.is_file():
            (linked / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (linked / file.relative_to(folder)).symlink_to(file)
    (linked / "loop").symlink_to(linked)
    assert load_base(BaseConfig(path=str(linked), device="cpu")).family.name


def test_no_code_is_downloaded_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_json_value(folder / "model_index.json", "unet", value=["evil_unet", "Evil"])
    index = str(folder / "model_index.json")
    monkeypatch.setattr(model_files, "hf_hub_download", lambda *_: index)
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(BaseError, match=r"unet is of .*evil_unet"):
        locate("evil/model")


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_corrupt_single_file_base_is_refused(
    tmp_path: Path, corrupt: Callable[[Path], None]
) -> None:
    file = tmp_path / "base.safetensors"
    corrupt(file)
    with pytest.raises(UserError, match=r"^base\.path: "):
        load_base(BaseConfig(path=str(file), device="cpu"))


def test_torchvision_weights_are_loaded_as_tensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Called:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "PWNED"),)

    torch.save({"x": Called()}, tmp_path / "weights.pth")

    def load(**_: Any) -> None:  # as torch.hub does
        torch.load(tmp_path / "weights.pth", weights_only=False)

    monkeypatch.setattr(pose_detectors, "keypointrcnn_resnet50_fpn", load)
    with pytest.raises(ConfigError, match=r"scores\.pose_detector: keypointrcnn's weights"):
        pose_detectors.PersonPoses(CPU)
    assert not (tmp_path / "PWNED").exists()
    assert pose_detectors.WEIGHTS_ONLY_VARIABLE not in os.environ
