"""Which LoRA files an argument selects, and the order in which they were saved."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evaluate.checkpoints.checkpoint_checks import readable_files
from evaluate.checkpoints.find import find
from evaluate.checkpoints.save_order import order_files
from train.errors import CheckpointError
from train.lora.checkpoint_names import epoch_and_step

Names = list[str]


def make(folder: Path, names: Names, metadata: dict[str, dict[str, str]] | None = None) -> None:
    for name in names:
        file = folder / (
            name if Path(name).suffix.lower() == ".safetensors" else f"{name}.safetensors"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"a": torch.zeros(1)}, file, (metadata or {}).get(name))


def ordered(folder: Path, pattern: str = "") -> tuple[str, dict[str, int]]:
    unit, numbers = order_files(readable_files(find(f"{folder}/{pattern}")))
    return unit, {
        str(file.relative_to(folder)).removesuffix(".safetensors"): number
        for file, number in numbers.items()
    }


@pytest.mark.parametrize(
    ("names", "unit", "expected"),
    [
        (["me_v1.1-000002", "me_v1.1-000004", "me_v1.1-000006", "me_v1.1"], "epoch", [2, 4, 6, 7]),
        (["lora_v2-000001", "lora_v2-000002", "lora_v2"], "epoch", [1, 2, 3]),
        (["me-v2-step00000500", "me-v2-step00001000", "me-v2"], "step", [500, 1000, 1001]),
        (["me-000010", "me"], "epoch", [10, 11]),
        (["me2024-01-01_12-00-00-save-100-10-0", "me2024-01-01_12-00-00-save-200-20-0",
          "me2024-01-01_12-00-00-save-1000-100-0"], "epoch", [10, 20, 100]),
        (["a-2024-01-01_12-00-00-save-50-1-50", "a-2024-01-01_12-00-00-save-90-1-90"],
         "step", [50, 90]),
        (["me_000000250", "me_000000500", "me"], "step", [250, 500, 501]),
        (["checkpoint-500/pytorch_lora_weights", "checkpoint-1000/pytorch_lora_weights",
          "pytorch_lora_weights"], "step", [500, 1000, 1001]),
        (["checkpoint-5/unet/adapter_model", "checkpoint-40/unet/adapter_model"], "step", [5, 40]),
        (["me9", "me10", "me11"], "epoch", [9, 10, 11]),
        (["sd15_me_1", "sd15_me_2", "sd15_me_10"], "epoch", [1, 2, 10]),
        (["me_20240101_3", "me_20240101_12"], "epoch", [3, 12]),
        (["me-2024-01-02-000001", "me-2024-01-02-000002", "me-2024-01-02"], "epoch", [1, 2, 3]),
        (["me-epoch3", "me-epoch12", "me-final"], "epoch", [3, 12, 13]),
        (["me-e005-s000500", "me-e010-s001000"], "epoch", [5, 10]),
        (["me_epoch_1_step_40", "me_epoch_1_step_80"], "step", [40, 80]),
        (["me 500 steps", "me 1500 steps"], "step", [500, 1500]),
        (["e621-000001", "e621-000002", "e621"], "epoch", [1, 2, 3]),
        (["me e621 1", "me e621 2"], "epoch", [1, 2]),
        (["me (1)", "me (2)", "me"], "epoch", [1, 2, 3]),
        (["me_20240103", "me_20240101", "me_20231231"], "epoch", [1, 2, 3]),
        (["lora_v2"], "epoch", [1]),
        (["x512-1.5-a-000003"], "epoch", [3]),
    ],
)  # fmt: skip
def test_files_are_ordered_as_trainers_saved_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: Names, unit: str, expected: list[int]
) -> None:
    make(tmp_path, names)
    result, numbers = ordered(tmp_path, "**/*.safetensors")
    assert (result, list(numbers.values())) == (unit, expected)
    assert not [line for line in caplog.messages if "metadata" in line or "runs" in line]
    if "me_20240103" not in names:
        assert list(numbers) == names
    else:
        assert list(numbers) == names[::-1]


def test_last_file_is_logged_as_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(tmp_path, ["me_v1.1-000002", "me_v1.1"])
    ordered(tmp_path)
    assert caplog.messages == ["me_v1.1.safetensors has no number: it is assumed to be the last, 3"]


def test_metadata_take_precedence_and_contradictions_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["me-000001", "me-000002", "me"]
    make(tmp_path, names, {"me-000001": {"ss_epoch": "5"}, "me-000002": {"ss_epoch": "2"},
                           "me": {"ss_epoch": "10", "ss_steps": "100"}})  # fmt: skip
    assert ordered(tmp_path) == ("epoch", {"me-000002": 2, "me-000001": 5, "me": 10})
    (line,) = caplog.messages
    assert "1 file has a number in the name that contradicts the metadata" in line
    assert "me-000001.safetensors has 5, not 1" in line


def test_identical_metadata_fall_back_to_the_names(tmp_path: Path) -> None:
    names = ["me-000001", "me-000002", "me-000003"]
    for reported in ({"ss_epoch": "10"}, {"ss_epoch": "10", "ss_steps": "700"}, {"ss_epoch": "²"},
                 {"ss_epoch": "9" * 5000}, {"training_info": '{"step": Infinity}'},
                 {"training_info": "[" * 9000}, {"training_info": "[1]"}):  # fmt: skip
        make(tmp_path, names, dict.fromkeys(names, reported))
        assert ordered(tmp_path) == ("epoch", dict(zip(names, (1, 2, 3), strict=True)))


@pytest.mark.parametrize(
    ("names", "sessions", "runs"),
    [
        (["me-000001", "you-000002"], {}, 2),
        (["a/checkpoint-1/pytorch_lora_weights", "b/checkpoint-2/pytorch_lora_weights"], {}, 2),
        (["me-000001", "me-000002"], {"me-000001": "11", "me-000002": "12"}, 2),
        (["me-000001", "you-000002"], {"me-000001": "11", "you-000002": "11"}, 1),
        (["me1", "me2"], {}, 1),
        (["me_v2-000001", "me_v2"], {}, 1),
        (["x/checkpoint-1/pytorch_lora_weights", "x/checkpoint-2/pytorch_lora_weights"], {}, 1),
    ],
)
def test_files_of_several_runs_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: Names, sessions: dict[str, str],
    runs: int,
) -> None:  # fmt: skip
    make(tmp_path, names, {name: {"ss_session_id": number} for name, number in sessions.items()})
    ordered(tmp_path, "**/*.safetensors")
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert [f"belong to {runs} runs" in line for line in warned] == [True] * (runs > 1)
    assert all(len({*line.rpartition(": ")[2].split(", ")}) == runs for line in warned), warned


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["me-000001", "you-000001"], "are both of epoch 1; take the files of one run alone"),
        (["a/checkpoint-5/model", "b/checkpoint-5/model"], "are both of step 5"),
        (["me", "you"], "neither the names nor the metadata"),
        (["a_1_2", "a_2_1", "a_3_3"], "neither the names nor the metadata"),
        (["me-000001", "me", "you"], "neither the names nor the metadata"),
    ],
)
def test_unknown_order_is_not_guessed(tmp_path: Path, names: Names, words: str) -> None:
    make(tmp_path, names)
    with pytest.raises(CheckpointError, match=words):
        ordered(tmp_path, "**/*.safetensors")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("[Illustrious] me.safetensors", ["[Illustrious] me"]),
        ("[Illustrious] *.safetensors", ["[Illustrious] me"]),
        ("me_[0-9]*.safetensors", ["me_1", "me_2"]),
        ("me_?.safetensors", ["me_1", "me_2", "me_x"]),
        ("sub", ["sub/a", "sub/b.SafeTensors"]),
        ("sub/", ["sub/a", "sub/b.SafeTensors"]),
        ("sub/*", ["sub/a", "sub/b.SafeTensors"]),
        ("sub/b.SafeTensors", ["sub/b.SafeTensors"]),
        ("sub/*.safetensors", ["sub/a", "sub/b.SafeTensors"]),
        ("sub/?.SAFETENSORS", ["sub/a", "sub/b.SafeTensors"]),
        ("peft", ["peft/adapter_model"]),
        ("run", ["run/checkpoint-10/pytorch_lora_weights", "run/checkpoint-5/pytorch_lora_weights",
                 "run/pytorch_lora_weights"]),
        ("run/checkpoint-*", ["run/checkpoint-10/pytorch_lora_weights",
                              "run/checkpoint-5/pytorch_lora_weights"]),
        ("run/*", ["run/checkpoint-10/pytorch_lora_weights",
                   "run/checkpoint-5/pytorch_lora_weights", "run/pytorch_lora_weights"]),
        ("kohya/*", ["kohya/me-000005", "kohya/me"]),
        ("kohya", ["kohya/me-000005", "kohya/me"]),
        ("runs", ["runs/1/x", "runs/2/x"]),
        ("**/x.safetensors", ["runs/1/x", "runs/2/x"]),
        ("{a,b} *?.safetensors", ["{a,b} *?"]),
    ],
)  # fmt: skip
def test_checkpoints_may_be_a_file_a_folder_or_a_pattern(
    tmp_path: Path, typed: str, expected: Names
) -> None:
    make(tmp_path, ["[Illustrious] me", "me_1", "me_2", "me_x", "sub/a",
                    "sub/b.SafeTensors", "sub/._a", "peft/adapter_model",
                    "run/checkpoint-5/pytorch_lora_weights", "runs/1/x", "runs/2/x",
                    "run/checkpoint-10/pytorch_lora_weights", "run/pytorch_lora_weights",
                    "run/checkpoint-5/model", "kohya/me", "kohya/me-000005",
                    "kohya/me-000005-state/model", "{a,b} *?"])  # fmt: skip
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    (tmp_path / "sub" / "sample.png").touch()
    result = [str(file.relative_to(tmp_path)).removesuffix(".safetensors")
             for file in find(f"{tmp_path}/{typed}")]  # fmt: skip
    assert result == expected


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, ["me"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/me.safetensors") == [tmp_path / "me.safetensors"]
    assert find("~") == [tmp_path / "me.safetensors"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("my_lora.safetensors", "no file .*; similar names: .*my_lora_v2.safetensors"),
        ("my_lora_v2.safetensor", "similar names: .*my_lora_v2.safetensors"),
        ("MY_LORA*.safetensors", "similar names: .*my_lora_v2.safetensors"),
        ("ouput/me.safetensors", "similar names: .*output"),
        ("zzz", "no file .*zzz$"),
        ("empty", "no .safetensors file in .*empty"),
        ("me.ckpt", "only .safetensors is read; a pickle can run code"),
        ("*.ckpt", "only .safetensors is read; a pickle can run code"),
        ("*.png", "no .safetensors file in"),
        ("~nobody-at-all/x", "checkpoints: .*nobody-at-all"),
        ("a\0b", "checkpoints: "),
        ("x" * 5000, "checkpoints: "),
    ],
)
def test_nothing_found_ends_in_one_line(tmp_path: Path, typed: str, words: str) -> None:
    make(tmp_path, ["my_lora_v2", "output/me"])
    (tmp_path / "empty").mkdir()
    for name in ("me.ckpt", "a.png"):
        (tmp_path / name).touch()
    pattern = typed if typed.startswith("~") else f"{tmp_path}/{typed}"
    with pytest.raises(CheckpointError, match=words) as raised:
        find(pattern)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_broken_files_are_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, ["me-000001", "me-000003"])
    (tmp_path / "me-000002.safetensors").write_bytes(b"half")
    assert ordered(tmp_path) == ("epoch", {"me-000001": 1, "me-000003": 3})
    (line,) = caplog.messages
    assert re.search(r"me-000002.safetensors: not a readable .*; the file is skipped", line)
    for name in ("me-000001", "me-000003"):
        (tmp_path / f"{name}.safetensors").write_bytes(os.urandom(7))
    with pytest.raises(CheckpointError, match=r"me-000001.safetensors: not a readable"):
        ordered(tmp_path)


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("me-000005", {}, (5, None)),
        ("me", {"ss_epoch": "10", "ss_steps": "1200"}, (10, 1200)),
        ("me-step00000500", {}, (None, 500)),
        ("me2026-11-24_10-00-00-save-1000-10-0", {}, (10, 1000)),
        ("me_000000250", {}, (None, 250)),
        ("me", {"training_info": '{"step": 250, "epoch": 3}'}, (None, 250)),
        ("checkpoint-500/pytorch_lora_weights", {}, (None, 500)),
        ("me", {}, (None, None)),
        ("me_v1.1", {}, (None, None)),
        ("me-000005", {"ss_epoch": "None"}, (5, None)),
    ],
)
def test_epoch_or_step_by_each_trainers_naming(
    name: str, metadata: dict[str, str], expected: tuple[int | None, int | None]
) -> None:
    assert epoch_and_step(Path(f"{name}.safetensors"), metadata) == expected
