"""A guide's config as users paste it: read, printed, and trained with."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import LIMIT, Command
from train.data.reader import EMBEDDED_FOLDER
from train.errors import ConfigError
from train.kohya.command_line import expand, quote_text
from train.kohya_toml.lenient_toml import read_toml
from train.lora.checkpoint_file import read_metadata
from train.text.shell import in_shell

# line breaks lost, quotes and dashes made typographic, names that kohya does not know
GUIDE = """[model_arguments] v2 = False pretrained_model_name_or_path = “puppets”
[dataset_arguments] train_data_dir = {pictures} resolution = “64,64” caption_extension = .txt
[training arguments] output_dir = ‘{out}’, output_name = “my puppet”; num_epochs = 4 # twenty there
save_every_n_epochs = 2  train_batch_size = 4 seed = 3 mixed_precision = no,
network_module = networks.lora network_dim = 2 network_alpha = 1 network_train_unet_only = True
[optimizer_arguments] optimizer_type = “AdamW” learning_rate = 1e–3 lr_warmup_epochs = 2
lr_scheduler = "cosine_with_restarting" lr_scheduler_num_cycles = 3
"""


def pasted(folder: Path, encoding: str = "utf-8", line_end: str = "\n") -> Path:
    text = GUIDE.format(pictures=EMBEDDED_FOLDER, out=folder / "out").replace("\n", line_end)
    (folder / "guide.toml").write_bytes(text.encode(encoding))
    return folder / "guide.toml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_config_from_a_guide_is_printed_and_trained(tmp_path: Path) -> None:
    file = pasted(tmp_path)
    output = run("train.kohya", str(file))
    assert output.returncode == 0, output.stderr
    overrides = [shlex.split(line) for line in output.stdout.splitlines()]
    assert all(len(words) == 1 for words in overrides), "each can be pasted into a shell"
    result = {word for words in overrides for word in words}
    assert {
        "training.epochs=4", "training.save_every=2", "scheduler=cosine_with_restarts",
        "scheduler.num_cycles=3", "scheduler.warmup_epochs=2", "optimizer.lr=0.001",
        "name=my puppet", f"data.path={EMBEDDED_FOLDER}", "network.text_encoder=false",
    } <= result  # fmt: skip
    for key in ("num_epochs", "lr_warmup_epochs"):
        assert f"{key}: kohya has no such key and silently ignores it" in output.stderr
    assert "left out, as it follows a #: twenty there" not in output.stderr
    for arguments in ([f"kohya={file}"], [*result, f"output={tmp_path / 'pasted'}"]):
        code, message = Command("train", *arguments).finish(LIMIT)
        assert code == 0, message
    files = [tmp_path / place / "my puppet.safetensors" for place in ("out", "pasted")]
    assert files[0].read_bytes() == files[1].read_bytes()
    metadata = read_metadata(files[0])
    assert metadata["ss_steps"] == "12"
    assert metadata["ss_lr_warmup_steps"] == "6", "12 images by 4 are 3 steps, for 2 epochs"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_line_ends_do_not_change_the_result(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    expected, _ = expand([f"kohya={pasted(tmp_path)}"])
    result, _ = expand([f"kohya={pasted(tmp_path, encoding, line_end)}"])
    assert result == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/home/me/my pictures", "/home/me/my pictures"),
        ("/home/me/a#b  # mine", "/home/me/a#b"),
        (r"C:\Users\new\train,", r"C:\Users\new\train"),
        (r'"C:\train\new"', r"C:\train\new"),  # \t and \n are escapes without an error
        (r'"C:\\train\\new" # “x”', r"C:\train\new"),
        (r'"\\nas\train"', r"\\nas\train"),
        ("„/home/Jürgen‟", "/home/Jürgen"),
        ("«/x»", "/x"),
        ("`/x y`", "/x y"),
        ("512,768", "512,768"),
        (".0001", ".0001"),
        ("bf16 ;", "bf16"),
        ("TRUE", True),
        ("1e—4\u00a0# 1", 1e-4),
        ("[conv_dim=4, betas=(0.9,0.99)]", ["conv_dim=4", "betas=(0.9,0.99)"]),
        ('[\n  "a=1", # one\n  "b=2",\n]', ["a=1", "b=2"]),
        ('"""x = y\nz = w"""', "x = y\nz = w"),
    ],
)
def test_unquoted_values_are_repaired(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "a.toml").write_text(f"[some section]\nkey = {text}\n\nlast = 1\n")
    assert read_toml(tmp_path / "a.toml")[0] == {"some section": {"key": value, "last": 1}}


def test_pairs_after_a_comment_sign_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("network_dim = 4 seed = 1 # the rank network_alpha = 2")
    content, repairs = read_toml(tmp_path / "a.toml")
    assert content == {"network_dim": 4, "seed": 1}
    assert "left out, as it follows a #: the rank network_alpha = 2" in repairs


def test_names_without_toml_and_json_files_work_as_in_kohya(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("seed = 1")
    (tmp_path / "b.json").write_text('{"general": {"resolution": 32}}')
    assert read_toml(tmp_path / "a")[0] == {"seed": 1}
    assert read_toml(tmp_path / "b.json")[0] == {"general": {"resolution": 32}}
    (tmp_path / "latin.toml").write_bytes("output_name = 'Jürgen'".encode("latin-1"))
    assert read_toml(tmp_path / "latin.toml") == (
        {"output_name": "Jürgen"},
        ["read as Windows-1252, as it is not UTF-8"],
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = " + b"{a=" * 3000, "nested too deeply"),
        (b"a." * 5000 + b"a = 1", "a key of more than 30 parts"),
        (bytes(range(256)) * 10, "is not text"),
        (b"seed = 1\nseed = 2", "is not TOML: cannot overwrite a value"),
        (b"x" * 2_000_000, "is larger than 1 MB"),
        (b"\x1b[31m = = ", "is not TOML"),
    ],
)
def test_invalid_config_ends_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=message) as error:
        expand([f"kohya={tmp_path / 'a.toml'}"])
    assert str(error.value).isprintable()
    for missing in ("gone.toml", "~nobody/x.toml", "a\0b", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"cannot be read|is a folder"):
            expand([f"kohya={missing}"])


@pytest.mark.parametrize("text", ["a b", "it's", 'a "b"', "$HOME `x` !y", "C:\\x\\", "~x", "null"])
def test_printed_overrides_survive_the_shell(text: str) -> None:
    line = f"echo {in_shell(f'name={quote_text(text)}')}"
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert shell.stdout == f"name={quote_text(text)}\n"
