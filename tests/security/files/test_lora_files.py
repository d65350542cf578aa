"""Untrusted LoRA files: each is read, or refused in tensor_entry line, without side effects."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluate.checkpoints.checkpoint_checks import loadable_files, mismatch_warnings, readable_files
from evaluate.checkpoints.find import find
from evaluate.generation.baseline_images import _read
from train.cache.tensor_cache import TensorCache
from train.config.schema import DataConfig
from train.lora import checkpoint_file
from train.lora.checkpoint import CheckpointError, read_checkpoint
from train.lora.checkpoint_file import epoch_of, read_metadata, weights_hash
from train.lora.peft_patterns import matches
from train.models.base_model import BaseModel
from train.resume.run_identity import identity_of

MODULE = "lora_unet_down_blocks_0_resnets_0_conv1"
Header = dict[str, Any]


@pytest.fixture
def lora(base: BaseModel, tmp_path: Path) -> Path:
    """A valid LoRA file with tensor_entry module."""
    key = next(iter(base.adapters.modules))
    weight = base.adapters.modules[key].weight
    assert isinstance(weight, torch.Tensor)
    outputs, *inputs = weight.shape
    ends = [1] * (weight.ndim - 2)
    tensors = {
        f"{key}.lora_down.weight": torch.randn(2, *inputs),
        f"{key}.lora_up.weight": torch.randn(outputs, 2, *ends),
        f"{key}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "me-000001.safetensors", {"ss_epoch": "1"})
    return tmp_path / "me-000001.safetensors"


def write(file: Path, header: Header | bytes, body: bytes = b"", length: int | None = None) -> Path:
    """Writes a safetensors file with this header."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(head) if length is None else length
    file.write_bytes(size.to_bytes(8, "little") + head + body)
    return file


def tensor_entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> Header:
    """Returns the entry of a tensor in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
INVALID: list[tuple[Header | bytes, bytes, int | None]] = [
    (b"", b"", 2**60),
    (b"", b"", 2**64 - 1),
    (b"{}", b"", 3),
    (b" " * 10, b"", None),
    (b"[]", b"", None),
    (b"null", b"", None),
    (DEEP, b"", None),
    (b'{"a": NaN}', b"", None),
    (b"\xff\xfe{}", b"", None),
    (b'{"a":1,"a":2}', b"", None),
    (b'{"a":' + json.dumps(tensor_entry()).encode() + b',"a":'
     + json.dumps(tensor_entry((2,), (0, 8))).encode()
     + b"}", b"xxxx", None),
    ({"a": tensor_entry(), "b": tensor_entry((1,), (2, 6))}, b"x" * 6, None),
    ({"a": tensor_entry((1,), (4, 8))}, b"x" * 8, None),
    ({"a": tensor_entry((1,), (4, 0))}, b"xxxx", None),
    ({"a": tensor_entry((1,), (0, 2**63))}, b"xxxx", None),
    ({"a": tensor_entry((2**40, 2**40))}, b"xxxx", None),
    ({"a": tensor_entry((2**64, 0), (0, 0))}, b"", None),
    ({"a": tensor_entry((-1,))}, b"xxxx", None),
    ({"a": tensor_entry((1.5,))}, b"xxxx", None),
    ({"a": tensor_entry((True,))}, b"xxxx", None),
    ({"a": tensor_entry([1] * 100)}, b"xxxx", None),
    ({"a": tensor_entry(dtype="I128")}, b"xxxx", None),
    ({"a": tensor_entry(dtype="\x1b[2J")}, b"xxxx", None),
    ({"a": tensor_entry(dtype=5)}, b"xxxx", None),
    ({"a": {**tensor_entry(), "more": 1}}, b"xxxx", None),
    ({"a": {"dtype": "F32"}}, b"xxxx", None),
    ({"a": None}, b"", None),
    ({"a\x00b": tensor_entry()}, b"xxxx", None),
    ({"\x1b[2J": tensor_entry()}, b"xxxx", None),
    ({"a\nb": tensor_entry()}, b"xxxx", None),
    ({"a" * 5000: tensor_entry()}, b"xxxx", None),
    ({"__metadata__": {"a": {"b": 1}}}, b"", None),
    ({"__metadata__": {"a": 1}}, b"", None),
    ({"__metadata__": ["a"]}, b"", None),
    ({"__metadata__": "a"}, b"", None),
    ({"a": tensor_entry()}, b"xxx", None),
    ({"a": tensor_entry()}, b"xxxxx", None),
    (b"\x80\x04cos\nsystem\n(S'touch PWNED'\ntR.", b"", None),
    (b'{"a":' + b" " * 33_000_000 + b"1}", b"", None),
]  # fmt: skip


@pytest.mark.parametrize(("header", "body", "length"), INVALID, ids=map(str, range(len(INVALID))))
def test_invalid_header_is_refused(
    base: BaseModel, tmp_path: Path, header: Header | bytes, body: bytes, length: int | None
) -> None:
    file = write(tmp_path / "me.safetensors", header, body, length)
    for read in (
        read_metadata,
        weights_hash,
        epoch_of,
        lambda f: read_checkpoint(f, base.adapters),
    ):
        with pytest.raises(CheckpointError, match=r"me\.safetensors: not a readable") as raised:
            read(file)
        line = str(raised.value)
        assert "\n" not in line
        assert "\x1b" not in line
        assert len(line) < 1000


def test_many_tiny_tensors_are_refused_quickly(base: BaseModel, tmp_path: Path) -> None:
    for count, message in ((100_000, "more than 50000 tensors"), (40_000, "not a LoRA")):
        header = {f"t{n}": tensor_entry((1,), (4 * n, 4 * n + 4)) for n in range(count)}
        file = write(tmp_path / "me.safetensors", header, bytes(4 * count))
        start = time.monotonic()
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(file, base.adapters)
        assert time.monotonic() - start < 15


def sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Writes a sparse file, which takes no disk space whatever its size."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        header[name], end = tensor_entry(shape, (end, end + size), "F16"), end + size
    write(file, header)
    os.truncate(file, file.stat().st_size + end)
    return file


def test_large_file_takes_no_memory(base: BaseModel, lora: Path) -> None:
    stem = next(iter(load_file(lora))).partition(".")[0]
    down, up = (load_file(lora)[f"{stem}.lora_{way}.weight"].shape for way in ("down", "up"))
    valid = {f"{stem}.lora_down.weight": tuple(down), f"{stem}.lora_up.weight": tuple(up)}
    high_rank = {f"{stem}.lora_down.weight": (10**6, *down[1:]),
            f"{stem}.lora_up.weight": (up[0], 10**6, *up[2:])}  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"rank 1000000, and at most"):
        read_checkpoint(sparse(lora, high_rank), base.adapters)
    ignored = read_checkpoint(sparse(lora, {**valid, "emb.x": (3 * 10**9,)}), base.adapters)[1]
    assert ignored == ["emb.x"]
    with pytest.raises(CheckpointError, match="no LoRA"):
        weights_hash(sparse(lora, {**valid, "emb.x": (10**12,)}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_hash_covers_all_tensors(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_file, "BLOCK", 7)
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(lora).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    assert weights_hash(lora) == digest.hexdigest()


def _fifo(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _loop(file: Path) -> None:
    file.symlink_to(file)


@pytest.mark.parametrize("corrupt", [_fifo, _device, _loop, Path.mkdir])
def test_special_file_is_refused(
    base: BaseModel, tmp_path: Path, corrupt: Callable[[Path], None]
) -> None:
    file = tmp_path / "me.safetensors"
    corrupt(file)
    for read in (read_metadata, weights_hash, lambda f: read_checkpoint(f, base.adapters),
                 lambda f: readable_files(find(str(f)))):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"me\.safetensors"):
            read(file)


def test_glob_patterns_do_not_follow_link_cycles(lora: Path) -> None:
    below = lora.parent / "below"
    below.mkdir()
    for name in ("one", "other", "third"):
        (below / name).symlink_to(lora.parent)
    lora.rename(below / lora.name)
    for pattern in ("**/*.safetensors", "**", "**/me*"):
        assert find(str(lora.parent / pattern)) == [below / lora.name]


INVALID_PEFT: list[object] = [
    "x", "[1]", "{", "[" * 100_000, "null", {"r": "x"}, {"r": [1]}, {"lora_alpha": {"a": 1}},
    {"lora_alpha": 1e400}, {"lora_alpha": 10**400}, {"peft_type": ["LORA"]},
    {"peft_type": "\x1b[2J" * 100}, {"lora_alpha": "\x1b[2J"}, {"init_lora_weights": {"a": "b"}},
    {"alpha_pattern": {"(a|a)*" * 20 + "b": 1}}, {"alpha_pattern": {"(a+)+$": 1}},
    {"alpha_pattern": {"(?=a)": 1}}, {"alpha_pattern": {"\\1": 1}}, {"alpha_pattern": {"(": 1}},
    {"alpha_pattern": {"a{1,9999}": 1}}, {"alpha_pattern": {"(" * 500 + ")" * 500: 1}},
    {"alpha_pattern": {"a" * 10**6: 1}}, {"alpha_pattern": [1]}, {"rank_pattern": "x"},
    {"alpha_pattern": {f"a{n}": 1 for n in range(100_000)}},
]  # fmt: skip


@pytest.mark.parametrize("config", INVALID_PEFT, ids=map(str, range(len(INVALID_PEFT))))
def test_invalid_peft_config_is_refused(base: BaseModel, lora: Path, config: object) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    tensors = {
        name.replace("lora_unet_", "unet.").replace(".lora_down", ".lora_A")
        .replace(".lora_up", ".lora_B"): tensor
        for name, tensor in load_file(lora).items() if "alpha" not in name
    }  # fmt: skip
    names = [name.partition(".lora_")[0] for name in tensors]
    paths_by_key = {key: path for path, key in base.adapters.aliases.items()}
    assert paths_by_key
    path = next(
        name for name, module in base.unet.named_modules()
        if f"unet.{name.replace('.', '_')}" == names[0] or name.replace(".", "_") == names[0][5:]
    )  # fmt: skip
    tensors = {name.replace(names[0], f"unet.{path}"): tensor for name, tensor in tensors.items()}
    save_file(tensors, lora, {"lora_adapter_metadata": text})
    start = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(lora, base.adapters)
    save_file(tensors, lora)
    (lora.parent / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_checkpoint(lora, base.adapters)
    assert time.monotonic() - start < 5
    line = str(raised.value)
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 1000


def test_peft_config_that_is_a_pipe_is_refused(base: BaseModel, lora: Path) -> None:
    os.mkfifo(lora.parent / "adapter_config.json")
    with pytest.raises(CheckpointError, match="pipe"):
        read_checkpoint(lora, base.adapters)


def test_patterns_match_like_regular_expressions() -> None:
    random = Random(0)
    symbols = ["a", "b", "B", ".", "\\.", "to_q", "\\d", "[0-9]", "[a-c]", "[^a]", "|", "(", ")",
             "(?:", "(?i:", "*", "+", "?", "^", "$", ".*", "1", "\\w", "*?", "[b-]"]  # fmt: skip
    names = ["down.1.attn.0.to_q", "a", "aa", "aab.a", "ab.aB.b", "", "a.b", "..", "a-b_C"]
    compared = 0
    for _ in range(20_000):
        pattern = "".join(random.choices(symbols, k=random.randint(0, 7)))
        name = random.choice(names)
        try:
            matched = matches(pattern, name)
        except ValueError:
            continue
        assert matched == bool(re.match(rf"(.*\.)?({pattern})$", name)), (pattern, name)
        compared += 1
    assert compared > 5000
    for pattern in ("(a|a)" * 150 + "b", ".*a" * 300 + "b", "a?" * 450, "(a?|b?)?" * 100):
        start = time.monotonic()
        matches(pattern, "a" * 900)
        assert time.monotonic() - start < 2


INVALID_METADATA = [
    {"training_info": "["}, {"training_info": "[" * 100_000}, {"training_info": '{"step": [1]}'},
    {"training_info": '{"step": 1e999}'}, {"ss_epoch": "²"}, {"ss_epoch": "9" * 5000},
    {"ss_steps": "-1"}, {"ss_network_dim": "nan", "ss_network_alpha": "inf"},
    {"ss_resolution": "(9" * 10_000}, {"ss_resolution": "0x0"}, {"ss_clip_skip": "\x1b[2J"},
    {"modelspec.trigger_phrase": "\x1b]0;x\x07'; touch PWNED; '"}, {"ss_sd_model_name": "\n[/x]"},
    {"lorasweep_config": "[]", "lorasweep_base": "", "lorasweep_data": ""},
    {"lorasweep_config": "[" * 100_000, "lorasweep_base": "", "lorasweep_data": ""},
    {"lorasweep_config": '{"base": 1, "data": 2}', "lorasweep_base": "", "lorasweep_data": ""},
]  # fmt: skip


@pytest.mark.parametrize("metadata", INVALID_METADATA, ids=map(str, range(len(INVALID_METADATA))))
def test_invalid_metadata_is_ignored(base: BaseModel, lora: Path, metadata: dict[str, str]) -> None:
    save_file(load_file(lora), lora, metadata)
    assert epoch_of(lora) == 1  # from its name
    assert identity_of(lora, "x", 1) == ""
    assert loadable_files([lora], base) == {lora}
    for line in mismatch_warnings(readable_files([lora]).values(), base, DataConfig()):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
        assert "touch" not in line or "data.trigger=" not in line
    assert read_checkpoint(lora, base.adapters)[1] == []


def test_invalid_cache_entries_are_replaced(tmp_path: Path) -> None:
    cache, tensors = TensorCache(tmp_path), {"a": torch.ones(2)}
    file = tmp_path / "aa" / "aab.safetensors"
    file.parent.mkdir()
    for corrupt in (_fifo, _device, lambda f: f.write_bytes(b"x"),
                    lambda f: write(f, {"a": tensor_entry()}),
                    lambda f: save_file({"a": torch.ones(3)}, f)):  # fmt: skip
        file.unlink(missing_ok=True)
        corrupt(file)
        entry = cache.fetch("aab", lambda: tensors, lambda entry: entry["a"].shape == (2,))
        assert torch.equal(entry.tensors["a"], tensors["a"])
        assert torch.equal(load_file(file)["a"], tensors["a"])
        del entry
    other = tmp_path / "base.safetensors"
    for images in (torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)):
        save_file({"images": images}, other)
        assert _read(other, (1, 3, 4, 4)) is None
