"""Encoders of strangers: their settings are numbers and words, their weights tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from evaluate.features import clip_source
from evaluate.features.clip import EMBEDDED_FOLDER, ClipEncoder
from tests.security.corruption import SPOILED, change
from train.errors import ConfigError

CPU = torch.device("cpu")
EVIL = "open({!r}, 'w').write('x')\nfrom transformers import CLIPTokenizerFast as Evil\n"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A good encoder, with a module beside it that leaves a trace when it is imported."""
    folder = tmp_path / "encoder"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    (folder / "tok.py").write_text(EVIL.format(str(tmp_path / "PWNED")))
    return folder


def refused(name: str | Path) -> str:
    """The one line that an encoder of this name ends in."""
    with pytest.raises(ConfigError, match=r"^scores\.clip_model: ") as raised:
        ClipEncoder(str(name), CPU)
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
    expected = ClipEncoder(str(encoder), CPU).tokenizer(["a puppet"])
    change(encoder / "tokenizer_config.json", "vocab_file", value=str(tmp_path / "secret"))
    change(encoder / "config.json", "auto_map", value={"AutoConfig": "tok.Evil"})
    assert torch.equal(ClipEncoder(str(encoder), CPU).tokenizer(["a puppet"]), expected)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("spoil", SPOILED)
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
    ClipEncoder(str(encoder), CPU)  # open_clip itself would take the .bin
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

    monkeypatch.setattr(clip_source, "hf_hub_download", download)
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

    monkeypatch.setattr(clip_source, "snapshot_download", download)
    ClipEncoder("hf-hub:friend/model", CPU)
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
