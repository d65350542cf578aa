"""Untrusted encoders: settings are typed, weights are tensors, and no code runs."""

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
from tests.security.corruption import CORRUPTIONS, set_json_value
from train.errors import ConfigError

CPU = torch.device("cpu")
EVIL = "open({!r}, 'w').write('x')\nfrom transformers import CLIPTokenizerFast as Evil\n"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A valid encoder with a module that creates a file when imported."""
    folder = tmp_path / "encoder"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    (folder / "tok.py").write_text(EVIL.format(str(tmp_path / "PWNED")))
    return folder


def refuse(name: str | Path) -> str:
    """Checks that an encoder is refused, and returns the error line."""
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
def test_invalid_setting_of_an_encoder_is_refused(
    encoder: Path, path: tuple[str, ...], value: Any
) -> None:
    set_json_value(encoder / "open_clip_config.json", *path, value=value)
    set_json_value(encoder / "tokenizer_config.json", "auto_map", value=AUTO)
    refuse(encoder)
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
        ("vocab", "/etc/passwd"),
        ("merges", "/etc/passwd"),
        ("gguf_file", "/etc/passwd"),
        ("tokenizer_object", {"a": 1}),
        ("init_inputs", ["/etc/passwd"]),
        ("sp_model_kwargs", {"model_file": "/etc/passwd"}),
        ("not_invented_yet", "/etc/passwd"),
    ],
)
def test_tokenizer_with_custom_code_is_refused(encoder: Path, key: str, value: Any) -> None:
    set_json_value(encoder / "tokenizer_config.json", key, value=value)
    assert "tokenizer_config.json" in refuse(encoder)
    assert not (encoder.parent / "PWNED").exists()


def test_tokenizer_settings_cannot_name_other_files(encoder: Path, tmp_path: Path) -> None:
    expected = ClipEncoder(str(encoder), CPU).tokenizer(["a puppet"])
    set_json_value(encoder / "tokenizer_config.json", "vocab_file", value=str(tmp_path / "secret"))
    set_json_value(encoder / "config.json", "auto_map", value={"AutoConfig": "tok.Evil"})
    assert torch.equal(ClipEncoder(str(encoder), CPU).tokenizer(["a puppet"]), expected)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("key", ["vocab_file", "merges_file", "tokenizer_file"])
def test_without_a_tokenizer_file_no_setting_names_another_one(encoder: Path, key: str) -> None:
    (encoder / "tokenizer.json").unlink()
    set_json_value(encoder / "tokenizer_config.json", key, value="/etc/passwd")
    assert f"tokenizer_config.json: has {key}" in refuse(encoder)


def test_settings_of_real_tokenizers_are_accepted(encoder: Path) -> None:
    """The keys that the tokenizers of released models have."""
    for key, value in {
        "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>", "special": True},
        "add_prefix_space": False,
        "additional_special_tokens": [], "clean_up_tokenization_spaces": True, "errors": "replace",
        "name_or_path": "/home/maker/clip", "special_tokens_map_file": "/home/maker/map.json",
        "tokenizer_file": "/home/maker/tokenizer.json", "processor_class": "CLIPProcessor",
        "sp_model_kwargs": {}, "do_lower_case": True, "extra_ids": 0, "use_fast": True,
        "padding_side": "right",
    }.items():  # fmt: skip
        set_json_value(encoder / "tokenizer_config.json", key, value=value)
    assert ClipEncoder(str(encoder), CPU).tokenizer(["a puppet"]).shape == (1, 60)


def test_tokenizer_that_cannot_pad_is_refused(encoder: Path) -> None:
    set_json_value(encoder / "tokenizer_config.json", "pad_token", value=None)
    assert "pad" in refuse(encoder)


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
@pytest.mark.parametrize(
    "name",
    ["open_clip_config.json", "tokenizer_config.json", "tokenizer.json",
     "open_clip_model.safetensors"],
)  # fmt: skip
def test_corrupt_file_of_an_encoder_is_refused(
    encoder: Path, name: str, corrupt: Callable[[Path], None]
) -> None:
    corrupt(encoder / name)
    refuse(encoder)


def test_token_beyond_the_vocabulary_is_refused(encoder: Path) -> None:
    file = encoder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["puppet</w>"] = 10_000
    file.write_text(json.dumps(content))
    assert "its tokenizer has 10001 tokens, its model 991" in refuse(encoder)


@pytest.mark.parametrize("name", [None, ""])
def test_default_tokenizer_beyond_the_vocabulary_is_refused(
    encoder: Path, name: str | None
) -> None:
    set_json_value(encoder / "open_clip_config.json", *TEXT, "hf_tokenizer_name", value=name)
    assert "open_clip's tokenizer has 49408 tokens, its model 991" in refuse(encoder)


def test_pickled_weights_are_never_read(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", read)
    (encoder / "open_clip_model.safetensors").rename(encoder / "model.safetensors")
    for name in ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.pt"):
        (encoder / name).write_bytes(b"\x80\x04")
    ClipEncoder(str(encoder), CPU)  # open_clip would load the .bin
    (encoder / "model.safetensors").unlink()
    assert "pickle" in refuse(encoder)


@pytest.mark.parametrize(
    "name",
    ["ViT-B-32", "ViT-B-32/nothing", "ViT-B-32//tmp/evil.pt", "ViT-B-32/../../evil.pt", "/", "@",
     "", "x@y.safetensors", "ViT-B-32@/dev/zero", "ViT-B-32@evil.pt", "local-dir:/any/encoder",
     "hf-hub:", "hf-hub:../..", "hf-hub:a/b/c", "coca/../x", "\x1b[2Jx/y", "a" * 100_000],
)  # fmt: skip
def test_invalid_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "\x1b" not in refuse(name)


def test_tag_with_pickled_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configs = {"x": {"url": "https://nowhere/x.pt"}, "y": {"hf_hub": "nobody/y/weights.bin"}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: configs.get(tag, {}))
    downloads = []

    def download(repository: str, name: str) -> str:
        downloads.append((repository, name))
        raise FileNotFoundError(f"{name} is not there")

    monkeypatch.setattr(clip_source, "hf_hub_download", download)
    assert "pickle" in refuse("ViT-B-32/x")
    refuse("ViT-B-32/y")
    assert downloads == [("nobody/y", "weights.safetensors")]


def test_only_text_and_safetensors_are_downloaded(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = []

    def download(_: str, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        return str(encoder)

    monkeypatch.setattr(clip_source, "snapshot_download", download)
    ClipEncoder("hf-hub:friend/model", CPU)
    assert all(name.endswith((".json", ".txt", ".model", ".safetensors")) for name in patterns)
    set_json_value(encoder / "open_clip_config.json", *TEXT, "tokenizer_kwargs",
           value={"trust_remote_code": True})  # fmt: skip
    refuse("hf-hub:evil/model")
    assert not (encoder.parent / "PWNED").exists()


def test_timm_model_is_built_without_its_weights(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_json_value(encoder / "open_clip_config.json", *VISION, "timm_model_name", value="resnet18")
    set_json_value(encoder / "open_clip_config.json", *VISION, "timm_model_pretrained", value=True)
    assert "numbers" in refuse(encoder)
