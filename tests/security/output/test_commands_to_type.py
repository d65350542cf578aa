"""Every value in a command that a message suggests is quoted as one shell word."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from sweeper.reproduction.received_optimizer import check_received_optimizer
from train.config.schema import CONF, DataConfig
from train.data.dataset import load_dataset
from train.errors import UserError
from train.kohya.command_line import expand
from train.text.shell import in_setting

ROOT = CONF.parent
FILES = [f for part in ("train", "evaluate", "sweeper") for f in (ROOT / part).rglob("*.py")]
# in a message: a setting, flag or variable directly before its value
KEY_BEFORE_VALUE = re.compile(
    r"(--[a-z-]+|\b[a-z_]+(\.[a-z_]+)+|\b[A-Z_]{4,}|\b(root|study))=[\"']?\Z"
)
ADVICE = re.compile(r"\b(type|add|set|or|write) \Z")  # before a key that is a variable
QUOTING_FUNCTIONS = {"in_shell", "in_setting"}
# not suggestions, or their values are numbers or validated names
SAFE_KEYS = {
    "study.name",
    "study.trial",
    "study.keep_checkpoints",
    "training.gradient_accumulation",
}
VALUES = ["x; touch pwn $(id)", "a`id`", "it's $HOME", "a b", "$(id)", "x\\ny", "&& id", "#x"]


def unquoted_values(file: Path) -> list[str]:
    """Returns the places of a file with values in commands not quoted by `train.text.shell`."""
    places = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        parts = node.values
        texts = [str(part.value) if isinstance(part, ast.Constant) else "" for part in parts]
        for index, part in enumerate(parts[1:], start=1):
            call = part.value if isinstance(part, ast.FormattedValue) else None
            name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
            if call is None or name in QUOTING_FUNCTIONS:
                continue
            key_match = KEY_BEFORE_VALUE.search(texts[index - 1])
            key = texts[index - 1] == "=" and index > 2 and ADVICE.search(texts[index - 3])
            if key or (key_match and key_match[1] not in SAFE_KEYS):
                places.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    return places


def test_every_suggested_value_is_quoted(tmp_path: Path) -> None:
    assert [
        line for file in FILES if file.name != "shell.py" for line in unquoted_values(file)
    ] == []
    for message in ("type {setting}={shown}", "add --allow-path={shortened(x)} to it", "root={r}",
                    "read by data.regularization_path={x}", "to or {a}={b}"):  # fmt: skip
        (tmp_path / "a.py").write_text(f"f'{message}'")
        assert unquoted_values(tmp_path / "a.py"), message


def is_one_word(message: str, key: str, value: str) -> bool:
    """Whether a shell reads this value after the key as one word."""
    words = shlex.split(message[message.index(f"{key}=") :].replace("$'", "'"))
    return words[0].rstrip(",;") == f"{key}={value}"


@pytest.mark.parametrize("value", VALUES)
def test_value_is_quoted_as_one_word(value: str) -> None:
    assert shlex.split(in_setting("data.path", value)) == [f"data.path={value}"]
    assert in_setting("a", "x" * 1000) == in_setting("a", "\x1b[2J") == "a="


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("key", "place", "setting"),
    [
        ("pretrained_model_name_or_path", "{}", "base.path"),
        ("train_data_dir", "/{}", "data.path"),
        ("train_data_dir", "/{}", "--allow-path"),
        ("reg_data_dir", "/{}", "data.regularization_path"),
        ("output_dir", "/{}", "output"),
        ("optimizer_type", "a.{}", "--allow-class"),
    ],
)
def test_messages_about_kohya_configs(
    tmp_path: Path, key: str, place: str, setting: str, value: str
) -> None:
    file, text = tmp_path / "a.toml", place.format(value)
    file.write_text(f'{key} = "{text}"'.replace("\\", "\\\\"))
    with pytest.raises(UserError) as error:
        expand([f"kohya={file}"])
    assert is_one_word(str(error.value), setting, text)


@pytest.mark.parametrize("value", VALUES)
def test_messages_about_datasets_and_classes(tmp_path: Path, value: str) -> None:
    file = tmp_path / "a.toml"
    text = f'image_dir = "/{value}"'.replace("\\", "\\\\")
    file.write_text(f"[[datasets]]\nresolution = 32\n[[datasets.subsets]]\n{text}")
    with pytest.raises(UserError) as error:
        load_dataset(DataConfig(dataset_config=str(file)))
    assert is_one_word(str(error.value), "--allow-path", f"/{value}")
    with pytest.raises(UserError) as error:
        check_received_optimizer({"_target_": f"torch.optim.{value}", "lr": 1e-3})
    if "--allow-class" in str(error.value):
        assert is_one_word(str(error.value), "--allow-class", f"torch.optim.{value}")
