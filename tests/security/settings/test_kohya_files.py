"""Untrusted kohya configs: no code, no paths that were not allowed, bounded time, one line."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from train.cli.arguments import normalized
from train.cli.compose import settings
from train.config.schema import DataConfig, TrainConfig
from train.config.setting_kinds import kinds
from train.config_checks import check_train
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.data.reader import EMBEDDED_FOLDER
from train.errors import ConfigError, UserError
from train.files import permissions
from train.kohya.__main__ import main
from train.kohya.command_line import expand

MEGABYTE = 1_000_000
SUBSET = "[[datasets]]\nresolution = 32\n[[datasets.subsets]]\n"


@pytest.fixture(autouse=True)
def empty_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs tests in an empty working folder, without allowed paths."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def write(folder: Path, text: str, name: str = "config.toml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def train_settings(folder: Path, text: str, *typed: str) -> TrainConfig:
    """Returns the settings of `python -m train kohya=FILE` for a config with this text."""
    lines, _ = expand([f"kohya={write(folder, text)}", *typed])
    config = settings("train", TrainConfig, normalized(lines, kinds(TrainConfig)))
    check_train(config)
    return config


HOSTILE = {
    "lists": "a = " + "[" * MEGABYTE,
    "tables": "a = " + "{a=" * (MEGABYTE // 3),
    "dotted key": "a." * (MEGABYTE // 2) + "a = 1",
    "quoted dotted key": '"a".' * (MEGABYTE // 4) + "a = 1",
    "dotted key in a table": "x = {" + "a . " * (MEGABYTE // 4) + "a = 1}",
    "dotted key behind escaped quotes": 'x = ["""\\"""", {' + "a." * (MEGABYTE // 2) + 'a = "1"}]',
    "dotted headers": "".join(f"[{'a.' * 490}b{i}]\n" for i in range(1000)),
    "headers": "".join(f"[a{i}]\n" for i in range(90_000)) + "unknown = 1",
    "unknown keys": "".join(f"network_dimm{i} = 1\n" for i in range(50_000)),
    "lines to repair": "".join(f"a{i} = b\n" for i in range(90_000)),
    "pairs in one line": "a = 1 " * (MEGABYTE // 6),
    "escaped quotes": '"' + '\\"' * (MEGABYTE // 2),
    "escaped quotes in lines": ('"' + '\\"' * 2_400 + "\n") * 20,
    "open quotes": "'\n" * (MEGABYTE // 2),
    "backslashes": 'a = "' + "\\" * MEGABYTE,
    "paths of Windows": '"\\\\a\\' * (MEGABYTE // 5),
    "unclosed lists": "a = [\n" * (MEGABYTE // 6),
    "spaces": "a =" + " " * (MEGABYTE - 10),
    "digits": "network_dim = " + "9" * (MEGABYTE - 20),
    "hexadecimal digits": "output_name = 0x" + "f" * (MEGABYTE - 20),
    "an argument": f'optimizer_args = ["eps={"(" * (MEGABYTE - 30)}"]',
    "a number": f'optimizer_args = ["eps={"9" * 100_000}"]',
    "an exponent": 'optimizer_args = ["eps=1e999999"]',
    "signs": f'optimizer_args = ["eps={"-" * 150}1j"]',
    "many arguments": f"optimizer_args = {[f'a{i}=1' for i in range(50_000)]}",
    "numbers": f"resolution = {[1] * 300_000}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_config_is_refused_quickly_and_in_one_line(tmp_path: Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        train_settings(tmp_path / "theirs", HOSTILE[name][:MEGABYTE])
    assert time.monotonic() - start < 20
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


def test_only_listed_and_allowed_classes_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = 'from pathlib import Path\nPath(__file__).with_suffix(".ran").touch()\n'
    evil = write(tmp_path / "here", canary + "from torch.optim import SGD as Adam\n", "evil.py")
    monkeypatch.syspath_prepend(str(evil.parent))
    for name in ("evil.Adam", "os.system", "venv.__main__.X", "torch.optim.adamw.AdamW", "a..b",
                 ".evil", "evil.", "torch.hub.load", "torch.optim.AdamW.step"):  # fmt: skip
        with pytest.raises(ConfigError, match="--allow-class=") as error:
            train_settings(tmp_path / "theirs", f'optimizer_type = "{name}"')
        assert name in str(error.value)
    assert "evil" not in sys.modules
    assert not evil.with_suffix(".ran").exists()
    for known in ("torch.optim.NAdam", "bitsandbytes.optim.PagedAdamW", "AdamW"):
        train_settings(tmp_path / "theirs", f'optimizer_type = "{known}"')
    permissions.allow(classes=["evil.Adam"])
    file = write(tmp_path / "theirs", 'optimizer_type = "evil.Adam"')
    assert "optimizer._target_=evil.Adam" in expand([f"kohya={file}"])[0]


@pytest.mark.parametrize("argument", ["_target_=a.b", "_partial_=true", "_x=1", "a b=1", "a.b=1",
                                      "${oc.env:HOME}=1", "x}y=2", "=3", "lr=1"])  # fmt: skip
def test_invalid_optimizer_argument_is_refused(tmp_path: Path, argument: str) -> None:
    with pytest.raises(ConfigError, match="optimizer_args"):
        train_settings(tmp_path / "theirs", f'optimizer_args = ["{argument}"]')


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "${training.seed}",
        "a\\${name}",
        "choice(a,b)",
        "${output",
        "it's ${name}",
    ],
)
def test_interpolation_in_a_config_stays_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SECRET", "leaked")
    value = f"'''{text}'''"
    file = write(
        tmp_path / "theirs",
        f"output_name = {value}\noutput_dir = {value}\n"
        f"train_data_dir = {value}\noptimizer_args = [{value.replace(text, 'a=' + text)}]",
    )
    lines, notes = expand([f"kohya={file}"])
    assert "leaked" not in "\n".join([*lines, *notes])
    config = settings("train", TrainConfig, normalized(lines, kinds(TrainConfig), multirun=True))
    assert (config.name, config.output, config.data.path) == (text, text, text)
    assert config.optimizer["a"] == text


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("train_data_dir", "data.path"),
        ("reg_data_dir", "data.regularization_path"),
        ("dataset_config", "data.dataset_config"),
        ("pretrained_model_name_or_path", "base.path"),
        ("output_dir", "output"),
        ("output-dir", "output"),
    ],
)
def test_only_allowed_paths_are_used(tmp_path: Path, key: str, setting: str) -> None:
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write(elsewhere, "resolution = 32") if key == "dataset_config" else elsewhere
    paths = [path, "../elsewhere", f"{theirs}/../elsewhere", "/etc", "~root", "~"]
    theirs.mkdir()
    (theirs / "link").symlink_to(elsewhere)
    for forbidden in (*paths, theirs / "link", f"{theirs}/a/../../elsewhere"):
        file = write(theirs, f'{key} = "{forbidden}"')
        with pytest.raises(ConfigError, match=f"type {setting}=") as error:
            expand([f"kohya={file}"])
        assert f"kohya: {key.replace('-', '_')}: " in str(error.value)
    permissions.allow([elsewhere])
    file = write(theirs, f'{key} = "{path}"\nresolution = 32')
    assert any(line.startswith(f"{setting}={path}") for line in expand([f"kohya={file}"])[0])


@pytest.mark.parametrize("name", ["stabilityai/stable-diffusion-xl-base-1.0", "evil/model", "sdxl"])
def test_model_on_the_hub_must_be_typed(tmp_path: Path, name: str) -> None:
    text = f'pretrained_model_name_or_path = "{name}"'
    with pytest.raises(ConfigError, match=f"type base.path={name}"):
        train_settings(tmp_path / "theirs", text)
    assert train_settings(tmp_path / "theirs", text, f"base.path={name}").base.path == name


def test_typed_settings_replace_paths_of_the_config(tmp_path: Path) -> None:
    """The paths in the config are not even read."""
    dataset = tmp_path / "mine" / "3_sks dog"
    dataset.mkdir(parents=True)
    file = write(tmp_path / "theirs", 'train_data_dir = "/etc"\ndataset_config = "/dev/zero"\n'
                 'output_dir = "/"\npretrained_model_name_or_path = "a/b"')  # fmt: skip
    typed = [f"data.path={dataset.parent}", "output=out", "base.path=puppets"]
    lines, _ = expand([f"kohya={file}", *typed])
    assert "data.trigger=sks dog" in lines
    assert lines[-3:] == typed


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
def test_special_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "here" / "a.toml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero" if kind == "device" else "a.toml")
    for name in ("kohya", "dataset_config"):
        other = [] if name == "kohya" else [f"kohya={write(tmp_path / 'theirs', '')}"]
        with pytest.raises(ConfigError) as error:
            expand([f"{name}={file}", *other])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "image_dir", ["/etc", "../../../../../../etc", "~root", "..", "link", "a/../../..", "/"]
)
def test_dataset_config_cannot_name_folders_outside_its_own(tmp_path: Path, image_dir: str) -> None:
    file = write(tmp_path / "theirs", f'{SUBSET}image_dir = "{image_dir}"')
    (tmp_path / "theirs" / "link").symlink_to("/etc")
    with pytest.raises(DataError, match="--allow-path=") as error:
        load_dataset(DataConfig(dataset_config=str(file)))
    assert "datasets[0].subsets[0].image_dir" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'image_dir = "a\u0000b"', "is not a folder name"),
        (r'image_dir = "a\u202eb"', "is not a folder name"),
        ('image_dir = "~nobodyhere/x"', "there is no folder ~nobodyhere/x"),
        ('image_dir = "p"\ncaption_extension = "/../../../etc/passwd"', "is not an extension"),
        (r'image_dir = "p"' "\n" r'caption_extension = "\u0000"', "is not an extension"),
        ('image_dir = "p"\nkeep_tokens = 99999999999999', "must be from 0"),
        ('image_dir = "p"\nnum_repeats = 1000000000', "must be from 1"),
    ],
)
def test_invalid_value_in_a_dataset_config_is_refused(
    tmp_path: Path, line: str, message: str
) -> None:
    file = write(tmp_path / "theirs", SUBSET + line)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(DataConfig(dataset_config=str(file)))
    assert str(error.value).isprintable()


def test_too_many_subsets_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "theirs", "")
    permissions.allow([EMBEDDED_FOLDER])
    subset = f'[[datasets.subsets]]\nimage_dir = "{EMBEDDED_FOLDER}"\n'
    file.write_text("[[datasets]]\nresolution = 32\n" + subset * 1001)
    with pytest.raises(DataError, match="more than 1000 subsets"):
        load_dataset(DataConfig(dataset_config=str(file)))


def test_translation_is_refused_for_paths_that_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "theirs", 'train_data_dir = "/etc"\noptimizer_type = "a.B"')
    monkeypatch.setattr(sys, "argv", ["kohya", str(file)])
    with pytest.raises(SystemExit, match="--allow-path=/etc"):
        main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--allow-path=/etc", "--allow-class=a.B"])
    main()
    assert "data.path=/etc" in capsys.readouterr().out
