"""Bases of strangers: their settings are numbers and words, their weights tensors."""

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
from tests.security.corruption import SPOILED, change, device, other, pipe
from train.config.schema import EMBEDDED_BASE, BaseConfig
from train.errors import ConfigError, UserError
from train.models import model_files
from train.models.base_model import BaseError, load_base
from train.models.model_files import locate

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good base, with modules in it that leave a trace when they are imported."""
    found = tmp_path / "base"
    shutil.copytree(EMBEDDED_BASE, found)
    code = f"open({str(tmp_path / 'PWNED')!r}, 'w').write('x')\n"
    code += "from diffusers import UNet2DConditionModel as Evil, StableDiffusionPipeline as EvilP\n"
    code += "from transformers import CLIPTokenizer as EvilT\n"
    for place in (found, *(part for part in found.iterdir() if part.is_dir())):
        (place / "evil_unet.py").write_text(code)
    return found


def refused_base(source: Path) -> str:
    """The one line that a base ends in; nothing of it was run."""
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
def test_the_parts_of_a_base_are_of_known_classes(folder: Path, part: str, kind: Any) -> None:
    change(folder / "model_index.json", part, value=kind)
    refused_base(folder)


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
    ],
)  # fmt: skip
def test_the_settings_of_a_base_are_numbers_and_words(
    folder: Path, file: str, key: str, value: Any
) -> None:
    change(folder / file, key, value=value)
    refused_base(folder)


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", TEXTS, SCHEDULER, TOKENIZER, "tokenizer/vocab.json",
     "tokenizer/tokenizer.json", "vae/diffusion_pytorch_model.safetensors",
     "text_encoder/model.safetensors", "spare.safetensors"],
)  # fmt: skip
def test_the_files_of_a_base_are_files_of_their_kind(
    folder: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(folder / name)
    unread = name in ("spare.safetensors", "tokenizer/vocab.json") and spoil not in (pipe, device)
    if unread or (name == SCHEDULER and spoil is other):  # what it does not say has a default
        return
    refused_base(folder)


def test_an_adapter_in_a_base_is_not_loaded(folder: Path) -> None:
    change(folder / "text_encoder/adapter_config.json", "base_model_name_or_path", value="evil/x")
    assert "adapter_config.json" in refused_base(folder)


def test_weights_in_pieces_lie_beside_their_list(folder: Path) -> None:
    listed = {"metadata": {}, "weight_map": {"a": "../../elsewhere.safetensors"}}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / name).write_text(json.dumps(listed))
    assert "elsewhere" in refused_base(folder)


def test_a_base_of_links_as_the_hubs_cache_has_them(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for file in folder.rglob("*"):
        if file.is_file():
            (linked / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (linked / file.relative_to(folder)).symlink_to(file)
    (linked / "loop").symlink_to(linked)
    assert load_base(BaseConfig(path=str(linked), device="cpu")).family.name


def test_of_the_hub_nothing_is_downloaded_that_runs_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "model_index.json", "unet", value=["evil_unet", "Evil"])
    index = str(folder / "model_index.json")
    monkeypatch.setattr(model_files, "hf_hub_download", lambda *_: index)
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(BaseError, match=r"unet is of .*evil_unet"):
        locate("evil/model")


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_base_in_one_file_is_a_file_of_its_kind(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    file = tmp_path / "base.safetensors"
    spoil(file)
    with pytest.raises(UserError, match=r"^base\.path: "):
        load_base(BaseConfig(path=str(file), device="cpu"))


def test_weights_of_torchvision_are_tensors_alone(
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
    assert pose_detectors.TENSORS_ALONE not in os.environ
