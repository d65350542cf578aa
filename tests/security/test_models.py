"""Encoders and bases of strangers: their settings are numbers and words, their weights tensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from diffusers import DiffusionPipeline

from evaluate.reading import encoder_source, pose_sources
from evaluate.reading.encoder import EMBEDDED_FOLDER, Encoder
from train import base_files
from train.base import BaseError, load_base
from train.base_files import locate
from train.config import EMBEDDED_BASE, BaseConfig, ConfigError, UserError

CPU = torch.device("cpu")
EVIL = "open({!r}, 'w').write('x')\nfrom transformers import CLIPTokenizerFast as Evil\n"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A good encoder, with a module beside it that leaves a trace when it is imported."""
    folder = tmp_path / "encoder"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    (folder / "tok.py").write_text(EVIL.format(str(tmp_path / "PWNED")))
    return folder


def change(file: Path, *path: str, value: Any) -> None:
    """Sets a value in a JSON file."""
    content = json.loads(file.read_text()) if file.exists() else {}
    inner = content
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    file.write_text(json.dumps(content))


def refused(name: str | Path) -> str:
    """The one line that an encoder of this name ends in."""
    with pytest.raises(ConfigError, match=r"^scores\.encoder: ") as raised:
        Encoder(str(name), CPU)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line


TEXT, VISION = ("model_cfg", "text_cfg"), ("model_cfg", "vision_cfg")
AUTO = {"AutoTokenizer": ["tok.Evil", "tok.Evil"]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*TEXT, "tokenizer_kwargs"), {"trust_remote_code": True}),
        ((*TEXT, "tokenizer_kwargs"), {"bpe_path": "/dev/zero"}),
        ((*TEXT, "tokenizer_kwargs"), {"cache_dir": "/tmp/elsewhere"}),
        ((*TEXT, "hf_model_name"), "evil/model"),
        ((*TEXT, "hf_model_config"), {"x": 1}),
        ((*TEXT, "act_kwargs"), {"approximate": "evil"}),
        ((*TEXT, "norm_kwargs"), {"device": "cuda"}),
        ((*TEXT, "layers"), 10**9),
        ((*TEXT, "layers"), 200),
        ((*TEXT, "vocab_size"), 1_999_999),
        ((*TEXT, "context_length"), 10**12),
        ((*TEXT, "width"), "wide"),
        ((*TEXT, "heads"), 0),
        ((*VISION, "timm_model_name"), "hf-hub:evil/model"),
        ((*VISION, "timm_model_name"), "local-dir:/any/evil"),
        ((*VISION, "timm_model_name"), "no_such_model"),
        ((*VISION, "width"), 65_536),
        ((*VISION, "image_size"), 4096),
        ((*VISION, "patch_size"), float("nan")),
        ((*VISION, "head_width"), 7),
        (("model_cfg", "custom_text"), {"a": 1}),
        (("model_cfg", "multimodal_cfg"), {"layers": 1}),
        (("model_cfg", "output_dict"), True),
        (("preprocess_cfg", "mean"), [0.5]),
        (("preprocess_cfg", "std"), [0, 0, 0]),
        (("model_cfg",), []),
    ],
)  # fmt: skip
def test_an_encoders_settings_are_numbers_and_words(
    encoder: Path, path: tuple[str, ...], value: Any
) -> None:
    change(encoder / "open_clip_config.json", *path, value=value)
    change(encoder / "tokenizer_config.json", "auto_map", value=AUTO)
    refused(encoder)
    assert not (encoder.parent / "PWNED").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", AUTO),
        ("auto_map", ["tok.Evil", None]),
        ("tokenizer_class", "Evil"),
        ("tokenizer_class", "PreTrainedTokenizerFast"),
        ("tokenizer_class", "AutoTokenizer"),
        ("tokenizer_class", "os.system"),
        ("tokenizer_class", None),
        ("fast_tokenizer_files", ["../../elsewhere.json"]),
    ],
)
def test_an_encoders_tokenizer_is_one_of_transformers_own(
    encoder: Path, key: str, value: Any
) -> None:
    change(encoder / "tokenizer_config.json", key, value=value)
    assert "tokenizer_config.json" in refused(encoder)
    assert not (encoder.parent / "PWNED").exists()


def test_a_tokenizers_settings_do_not_name_files_elsewhere(encoder: Path, tmp_path: Path) -> None:
    expected = Encoder(str(encoder), CPU).tokenizer(["a puppet"])
    change(encoder / "tokenizer_config.json", "vocab_file", value=str(tmp_path / "secret"))
    change(encoder / "config.json", "auto_map", value={"AutoConfig": "tok.Evil"})
    assert torch.equal(Encoder(str(encoder), CPU).tokenizer(["a puppet"]), expected)
    assert not (tmp_path / "PWNED").exists()


def _fifo(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def _zero(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def _garbage(file: Path) -> None:
    file.write_bytes(b"\x80\x04garbage")


def _deep(file: Path) -> None:
    file.write_text("[" * 100_000)


def _other(file: Path) -> None:
    file.write_text('{"a": {"b": [1, 2, {"c": null}]}}')


@pytest.mark.parametrize("spoil", [_fifo, _zero, _garbage, _deep, _other])
@pytest.mark.parametrize(
    "name",
    ["open_clip_config.json", "tokenizer_config.json", "tokenizer.json",
     "open_clip_model.safetensors"],
)  # fmt: skip
def test_an_encoders_files_are_files_of_their_kind(
    encoder: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(encoder / name)
    refused(encoder)


def test_words_that_the_model_has_not(encoder: Path) -> None:
    file = encoder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["puppet</w>"] = 10_000
    file.write_text(json.dumps(content))
    assert "words" in refused(encoder)


def test_an_encoders_pickle_is_never_read(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", read)
    (encoder / "open_clip_model.safetensors").rename(encoder / "model.safetensors")
    for name in ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.pt"):
        (encoder / name).write_bytes(b"\x80\x04")
    Encoder(str(encoder), CPU)  # open_clip itself would take the .bin
    (encoder / "model.safetensors").unlink()
    assert "pickle" in refused(encoder)


@pytest.mark.parametrize(
    "name",
    ["ViT-B-32", "ViT-B-32/nothing", "ViT-B-32//tmp/evil.pt", "ViT-B-32/../../evil.pt", "/", "@",
     "", "x@y.safetensors", "ViT-B-32@/dev/zero", "ViT-B-32@evil.pt", "local-dir:/any/encoder",
     "hf-hub:", "hf-hub:../..", "hf-hub:a/b/c", "coca/../x", "\x1b[2Jx/y", "a" * 100_000],
)  # fmt: skip
def test_names_of_encoders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "\x1b" not in refused(name)


def test_a_tag_whose_weights_are_a_pickle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {"x": {"url": "https://nowhere/x.pt"}, "y": {"hf_hub": "nobody/y/weights.bin"}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: known.get(tag, {}))
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        raise FileNotFoundError(f"{name} is not there")

    monkeypatch.setattr(encoder_source, "hf_hub_download", download)
    assert "pickle" in refused("ViT-B-32/x")
    refused("ViT-B-32/y")
    assert asked == [("nobody/y", "weights.safetensors")]


def test_of_a_repository_only_words_and_tensors_are_taken(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = []

    def download(_: str, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        return str(encoder)

    monkeypatch.setattr(encoder_source, "snapshot_download", download)
    Encoder("hf-hub:friend/model", CPU)
    assert all(name.endswith((".json", ".txt", ".model", ".safetensors")) for name in patterns)
    change(encoder / "open_clip_config.json", *TEXT, "tokenizer_kwargs",
           value={"trust_remote_code": True})  # fmt: skip
    refused("hf-hub:evil/model")
    assert not (encoder.parent / "PWNED").exists()


def test_a_model_of_timm_comes_without_its_weights(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(encoder / "open_clip_config.json", *VISION, "timm_model_name", value="resnet18")
    change(encoder / "open_clip_config.json", *VISION, "timm_model_pretrained", value=True)
    assert "numbers" in refused(encoder)


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


@pytest.mark.parametrize("spoil", [_fifo, _zero, _garbage, _deep, _other])
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
    unread = name in ("spare.safetensors", "tokenizer/vocab.json") and spoil not in (_fifo, _zero)
    if unread or (name == SCHEDULER and spoil is _other):  # what it does not say has a default
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
    monkeypatch.setattr(base_files, "hf_hub_download", lambda *_: index)
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(BaseError, match=r"unet is of .*evil_unet"):
        locate("evil/model")


@pytest.mark.parametrize("spoil", [_fifo, _zero, _garbage, _deep, _other])
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

    monkeypatch.setattr(pose_sources, "keypointrcnn_resnet50_fpn", load)
    with pytest.raises(ConfigError, match=r"scores\.pose: keypointrcnn's weights"):
        pose_sources.PersonPoses(CPU)
    assert not (tmp_path / "PWNED").exists()
    assert pose_sources.TENSORS_ALONE not in os.environ
