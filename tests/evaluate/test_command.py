"""`python -m evaluate` on a folder of LoRA files, as a new user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from evaluate.prompts.probe_set import load_probe_set
from evaluate.prompts.roles import FRESH
from tests.sweeper.conftest import run_module
from train.config.schema import BaseConfig, NetworkConfig
from train.errors import ConfigError
from train.lora.checkpoint import load_checkpoint, save_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models.base_model import load_base

QUICK = ("probes.count=8", "probes.steps=2", "scores.baseline=1", "scores.resamples=20")


def write(folder: Path, names: list[str], metadata: dict[str, str] | None = None) -> None:
    """Small LoRAs, each stronger than the previous one."""
    base, random = load_base(BaseConfig(device="cpu")), torch.Generator().manual_seed(0)
    adapter = base.adapters.create(NetworkConfig(rank=2), random)
    for number, name in enumerate(names):
        for up in adapter.up.values():
            torch.nn.init.normal_(up, std=0.02 * number, generator=random)
        save_checkpoint(folder / f"{name}.safetensors", adapter, metadata or {}, torch.float32)


def test_folder_is_scored_once_and_logged(tmp_path: Path) -> None:
    write(tmp_path / "out", ["me-000002", "me-000010", "me"])
    output = tmp_path / "scores"
    command = (f"checkpoints={tmp_path}/out/me*.safetensors", f"output={output}",
               f"root={tmp_path}/mlruns", *QUICK)  # fmt: skip
    code, message = run_module("evaluate", *command)
    assert code == 0, message
    assert "Traceback" not in message
    assert "me.safetensors has no number: it is assumed to be the last, 11" in message
    assert f"keep {tmp_path}/out/me" in message
    saved = json.loads((output / "scorecards.json").read_text())["cards"].values()
    assert [card["epoch"] for card in saved] == [2, 10, 11]
    assert (output / "curves.png").is_file()
    assert len(list(output.glob("epoch-*.png"))) == 3

    write(tmp_path / "out", ["me-000002", "me-000010", "me", "me-000012"])
    code, message = run_module("evaluate", *command, "selection=last")
    assert code == 0, message
    assert "4/4" in message or "3/4" in message
    assert "1/4" not in message, "what was scored is not scored again"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("evaluations")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, "scores/copying")
    assert {metric.step for metric in history} >= {2, 10, 12, 13}
    assert runs[0].data.tags["kept"].endswith(".safetensors")
    assert runs[0].data.params["selection.rule"] == "overfit_aware"
    assert json.loads(runs[0].data.tags["policy"])["rule"] == "last"

    code, message = run_module("evaluate", *command, "probes.steps=3")
    assert code == 0, message
    assert "a new MLflow run, as probes changed since the previous one" in message
    second, first = client.search_runs([experiment.experiment_id])
    assert first.info.run_id == runs[0].info.run_id
    assert (first.data.params["probes.steps"], second.data.params["probes.steps"]) == ("2", "3")
    assert first.data.tags == runs[0].data.tags
    assert first.data.metrics == runs[0].data.metrics


def test_final_compares_strengths_and_leaves_other_files_alone(tmp_path: Path) -> None:
    write(tmp_path / "out", ["me-000001", "me-000002", "me-000003"])
    output = tmp_path / "scores"
    (output / "variants").mkdir(parents=True)
    own = output / "variants" / "own.safetensors"
    own.write_bytes(b"somebody's")
    command = (
        f"checkpoints={tmp_path}/out", f"output={output}", f"root={tmp_path}/mlruns", *QUICK,
        "final=fresh", "final.probes=16", "final.rounds=2", "selection.strengths=[0.5]",
        "selection.max={}", "selection.min={}",
    )  # fmt: skip
    code, message = run_module("evaluate", *command)
    assert code == 0, message
    kept = next(line for line in message.splitlines() if line.startswith("keep "))
    assert "--strength-0.5.safetensors" in kept, message
    rows = [line for line in message.splitlines() if "keep" in line and "│" in line]
    assert len(rows) == 1
    assert "at strength 0.5" in rows[0]
    assert own.read_bytes() == b"somebody's"
    made = sorted((output / "variants").glob("*-0.5.safetensors"))
    assert made
    assert f"keep {output}" in kept
    verdict = (output / "verdict.json").read_bytes()
    code, again = run_module("evaluate", *command)
    assert code == 0, again
    assert "the final generates" not in again
    assert kept in again.splitlines()
    assert (output / "verdict.json").read_bytes() == verdict
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    code, again = run_module("evaluate", *command, f"checkpoints={moved}")
    assert code == 0, again
    assert str(tmp_path / "out") not in again
    write(moved, ["me-000003", "me-000002", "me-000001"])
    code, again = run_module("evaluate", *command, f"checkpoints={moved}")
    assert code == 0, again
    kept = next(line for line in again.splitlines() if line.startswith("keep "))
    variant = Path(kept.removeprefix("keep "))
    source = moved / read_metadata(variant)["lorasweep_made_of"]
    adapters = load_base(BaseConfig(device="cpu")).adapters
    new, half = load_checkpoint(source, adapters), load_checkpoint(variant, adapters)
    for key, up in new.up.items():
        torch.testing.assert_close(half.up[key], up, atol=1e-3, rtol=1e-3)
        assert half.alpha[key] == new.alpha[key] / 2
    code, again = run_module("evaluate", *command, f"checkpoints={moved}", "final.contenders=0")
    assert code == 1
    assert "selection.strengths or selection.averages lacks 1" in again


@pytest.mark.parametrize(
    ("typed", "strengths", "contenders"),
    [
        (["strengths=0.6,0.8,1.0"], [0.6, 0.8, 1.0], 8),
        (["strengths=[1,0.7]", "final.contenders=3"], [1.0, 0.7], 3),
        (["strengths=1", "final=default"], [1.0], 0),
        ([], [1.0], 0),
    ],
)
def test_strengths_are_short_for_a_final(
    typed: list[str], strengths: list[float], contenders: int
) -> None:
    code, shown = run_module("evaluate", "--cfg", "job", *typed)
    assert code == 0, shown
    config = yaml.safe_load(shown)
    assert (config["selection"]["strengths"], config["final"]["contenders"]) == (
        strengths,
        contenders,
    )
    code, message = run_module("evaluate", "strengths=much")
    assert code == 1
    assert "selection.strengths: ['much'] must be a list of numbers" in message


def test_mismatches_are_reported_before_any_image_is_generated(tmp_path: Path) -> None:
    """Once for all files; useless files are skipped, and the others are scored."""
    metadata = {
        "ss_clip_skip": "2",
        "ss_resolution": "(768, 768)",
        "ss_base_model_version": "sd_v1",
    }
    write(tmp_path, ["me-000001", "me-000002", "me-000003"], metadata)
    for name, change in (("me-000001", {"bundle_emb.sks.clip_l": torch.ones(1)}),
                         ("me-000002", {"bundle_emb.sks.clip_l": torch.ones(1)}),
                         ("me-000003", {})):  # fmt: skip
        file = tmp_path / f"{name}.safetensors"
        tensors = load_file(file) | change
        if name == "me-000003":
            next(t for key, t in tensors.items() if "lora_up" in key).fill_(torch.nan)
        save_file(tensors, file, metadata)
    code, message = run_module(
        "evaluate", f"checkpoints={tmp_path}/me*", f"output={tmp_path}/scores",
        f"root={tmp_path}/mlruns", *QUICK,
    )  # fmt: skip
    assert code == 0, message
    skipped = r"me-000003.safetensors: its weights are not finite in 1 of .*; the file is skipped"
    assert re.search(skipped, message)
    (places,) = re.findall(r"the base has no module for 1 of its keys.*", message)
    assert "bundle_emb.sks.clip_l" in places
    assert re.search(
        r"2 of 2 files .* clip_skip 2; they are scored with 1 \(base.clip_skip=2", message
    )
    assert re.search(r"2 of 2 files .* resolution 768; they are scored with 64", message)
    assert message.index("base.clip_skip=2") < message.index("1/2")
    assert "1/2" in message
    assert "2/2" in message
    code, message = run_module("evaluate", f"checkpoints={tmp_path}/me-000003.safetensors",
                            f"output={tmp_path}/2", f"root={tmp_path}/mlruns", *QUICK)  # fmt: skip
    assert code == 1
    assert "error: " in message
    assert "its weights are not finite" in message


def test_without_checkpoints_only_editable_probes_are_written(tmp_path: Path) -> None:
    code, message = run_module("evaluate", f"output={tmp_path}", f"root={tmp_path}/mlruns", *QUICK)
    assert code == 0, message
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
    code, message = run_module("evaluate", f"checkpoints={tmp_path}/out/me-000001.safetensors",
                            f"output={tmp_path}/scores", f"root={tmp_path}/mlruns",
                            f"probes.file={file}", *QUICK)  # fmt: skip
    assert code == 0, message
    assert (tmp_path / "scores" / "probes.yaml").read_text().count("sks puppet in the snow") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "fesh"}, "probe 0 has the role 'fesh'; there are fresh"),
        ({"asked": {"background": "in the sno"}}, "probe 0 asks for an unknown background"),
        ({"promt": "x"}, "probe 0 of the file"),
    ],
)
def test_invalid_probe_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    probe = {"prompt": "p", "base_prompt": "p", "seed": 1, "role": FRESH, "asked": {}}
    values = yaml.safe_load(Path("conf/probes/attributes/puppets.yaml").read_text())
    parts = [part for kind in ("poses", "backgrounds", "outfits") for part in values[kind]]
    content = {"probes": [{**probe, **change}, probe, probe], "values": values,
               "class_word": "puppet", "training": {part: [] for part in parts}}  # fmt: skip
    (tmp_path / "set.yaml").write_text(json.dumps(content))  # safe_dump would write aliases
    with pytest.raises(ConfigError, match=words):
        load_probe_set(str(tmp_path / "set.yaml"))
