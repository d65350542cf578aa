"""kohya's own config files on the command line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from train.data.reader import EMBEDDED_FOLDER
from train.kohya.command_line import expand, quote_value
from train.lora.checkpoint_file import read_metadata


def write(folder: Path, text: str) -> Path:
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return folder / "config.toml"


def test_command_line_overrides_the_files(tmp_path: Path) -> None:
    text = "max_train_epochs = 3\nnetwork_dim = 8\nlearning_rate = 1e-4\nlr_warmup_steps = 0.2\n"
    file = write(tmp_path, text + 'optimizer_args = ["weight_decay=0.3"]\n')
    given = ["network.rank=2", "optimizer=lion", "training.max_steps=9", "scheduler.warmup_steps=1"]
    lines, _ = expand([f"kohya={file}", *given])
    assert lines[-len(given) :] == given
    custom = {line.split("=")[0].lstrip("+~") for line in lines[: -len(given)]}
    assert "optimizer.lr" in custom
    lost = {"network.rank", "optimizer", "optimizer.weight_decay", "training.epochs"}
    assert not custom & (lost | {"scheduler.warmup_ratio"})
    assert expand(["a=1"]) == (["a=1"], [])
    assert expand(["dataset_config=d.toml", "a=1"])[0] == ["data.dataset_config=d.toml", "a=1"]


@pytest.mark.parametrize(
    "value",
    ["/a b/c'd", "true", "1e5", "007", ".5", ".txt", "C:\\x\\", "it's \\'", "a,b=[c]", "#x", "é",
     "", 1, 2e-6, True, None, [0.9, "a b"], float("inf")],
)  # fmt: skip
def test_quoted_value_keeps_its_type_in_hydra(value: Any) -> None:
    read = OverridesParser.create().parse_override(f"key={quote_value(value)}").value()
    plain = [getattr(each, "text", each) for each in (read if isinstance(read, list) else [read])]
    assert (plain if isinstance(value, list) else plain[0]) == value


def test_kohya_config_trains_end_to_end(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""[all] train_data_dir = “{EMBEDDED_FOLDER}” pretrained_model_name_or_path = "puppets"
        output_dir = "{tmp_path / "out"}" output_name = "my puppet" resolution = "64"
        caption_extension = ".txt" network_dim = 2 network_args = ["conv_dim=1"]
        network_train_unet_only = true learning_rate = 1e-3 num_epochs = 2
        save_every_n_epochs = 1 train_batch_size = 4 seed = 3 lr_scheduler = "cosine" """,
    )
    show = [sys.executable, "-m", "train.kohya", str(file)]
    output = subprocess.run(show, capture_output=True, text=True, check=True)
    lines = [word for line in output.stdout.splitlines() for word in shlex.split(line)]
    assert "name=my puppet" in lines
    assert "repaired: typographic quotes, several pairs on one line" in output.stderr
    command = shlex.join([sys.executable, "-m", "train", f"kohya={file}", "network.rank=3"])
    process = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "num_epochs: kohya has no such key" in process.stderr
    metadata = read_metadata(tmp_path / "out" / "my puppet.safetensors")
    assert (tmp_path / "out" / "my puppet-000001.safetensors").is_file()
    assert metadata["ss_output_name"] == "my puppet"
    assert metadata["ss_steps"] == "6", "12 images, none held out, in batches of 4, twice"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("3", "1.0")
    assert (metadata["ss_learning_rate"], metadata["ss_seed"]) == ("0.001", "3")
