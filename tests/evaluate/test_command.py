"""`python -m evaluate` on a folder of LoRA files, as a new user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from evaluate.files import find
from evaluate.probing.probes import FRESH, load_probe_set
from tests.sweeper.conftest import run_module
from train.base import load_base
from train.checkpoint import CheckpointError, save_checkpoint
from train.config import BaseConfig, ConfigError, NetworkConfig

QUICK = ("probes.count=8", "probes.steps=2", "scores.baseline=1", "scores.resamples=20")


def write(folder: Path, names: list[str], metadata: dict[str, str] | None = None) -> None:
    """Small LoRAs, each stronger than the one before."""
    base, random = load_base(BaseConfig(device="cpu")), torch.Generator().manual_seed(0)
    adapter = base.adapters.create(NetworkConfig(rank=2), random)
    for number, name in enumerate(names):
        for up in adapter.up.values():
            torch.nn.init.normal_(up, std=0.02 * number, generator=random)
        save_checkpoint(folder / f"{name}.safetensors", adapter, metadata or {}, torch.float32)


def test_a_folder_is_scored_logged_and_not_scored_twice(tmp_path: Path) -> None:
    write(tmp_path / "out", ["me-000002", "me-000010", "me"])
    output = tmp_path / "scores"
    command = (f"checkpoints={tmp_path}/out/me*.safetensors", f"output={output}",
               f"root={tmp_path}/mlruns", *QUICK)  # fmt: skip
    code, said = run_module("evaluate", *command)
    assert code == 0, said
    assert "Traceback" not in said
    assert "me.safetensors has no number: it is taken for the last, 11" in said
    assert f"keep {tmp_path}/out/me" in said
    saved = json.loads((output / "scorecards.json").read_text())["cards"].values()
    assert [card["epoch"] for card in saved] == [2, 10, 11]
    assert (output / "curves.png").is_file()
    assert len(list(output.glob("epoch-*.png"))) == 3

    write(tmp_path / "out", ["me-000002", "me-000010", "me", "me-000012"])
    code, said = run_module("evaluate", *command, "policy=last")
    assert code == 0, said
    assert "4/4" in said or "3/4" in said
    assert "1/4" not in said, "what was scored is not scored again"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("evaluations")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, "scores/copying")
    assert {metric.step for metric in history} >= {2, 10, 12, 13}
    assert runs[0].data.tags["kept"].endswith(".safetensors")
    assert runs[0].data.params["policy.rule"] == "overfit_aware"


def test_without_checkpoints_only_the_probes_are_written_and_can_be_edited(tmp_path: Path) -> None:
    code, said = run_module("evaluate", f"output={tmp_path}", f"root={tmp_path}/mlruns", *QUICK)
    assert code == 0, said
    file = tmp_path / "probes.yaml"
    content = yaml.safe_load(file.read_text())
    content["probes"][0] |= {
        "prompt": "sks puppet in the snow",
        "asked": {"background": "in the snow"},
    }
    file.write_text(yaml.safe_dump(content))
    edited = load_probe_set(str(file))
    assert edited.probes[0].prompt == "sks puppet in the snow"
    write(tmp_path / "out", ["me-000001"])
    code, said = run_module("evaluate", f"checkpoints={tmp_path}/out/me-000001.safetensors",
                            f"output={tmp_path}/scores", f"root={tmp_path}/mlruns",
                            f"probes.set={file}", *QUICK)  # fmt: skip
    assert code == 0, said
    assert (tmp_path / "scores" / "probes.yaml").read_text().count("sks puppet in the snow") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "fesh"}, "probe 0 has the role 'fesh'; there are fresh"),
        ({"asked": {"background": "in the sno"}}, "probe 0 asks for an unknown background"),
        ({"promt": "x"}, "probe 0 of the file"),
    ],
)
def test_a_wrong_probe_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    probe = {"prompt": "p", "base_prompt": "p", "seed": 1, "role": FRESH, "asked": {}}
    values = yaml.safe_load(Path("conf/probes/values/puppets.yaml").read_text())
    parts = [part for kind in ("poses", "backgrounds", "outfits") for part in values[kind]]
    content = {"probes": [{**probe, **change}, probe, probe], "values": values,
               "class_word": "puppet", "training": {part: [] for part in parts}}  # fmt: skip
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=words):
        load_probe_set(str(tmp_path / "set.yaml"))


def test_files_that_count_in_steps_are_ordered_by_steps(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    for step in (500, 1500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        shutil.copy(tmp_path / "a.safetensors",
                    tmp_path / f"checkpoint-{step}/pytorch_lora_weights.safetensors")  # fmt: skip
    unit, files = find(f"{tmp_path}/checkpoint-*/*.safetensors")
    assert (unit, list(files.values())) == ("step", [500, 1000, 1500])
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="neither the names nor the metadata"):
        find(f"{tmp_path}/*.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        find(f"{tmp_path}/*.ckpt")
