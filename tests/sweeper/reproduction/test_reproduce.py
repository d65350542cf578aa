"""Reproducing a run: on another machine, from a pack, from a file; and the errors if it is
impossible."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from mlflow import MlflowClient
from safetensors.torch import save_file

from evaluate.scorecard import Estimate, Scorecard
from evaluate.tracking.artifacts import artifact
from sweeper.config import SweepConfig
from sweeper.reproduction import migrate_config, original_run, reproduce
from sweeper.reproduction.compare import (
    CLOSE,
    DIFFERENT,
    IDENTICAL,
    compare,
    comparison_table,
    verdict_of,
)
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.reproduction.received_settings import ReceivedSettings
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import ScoredEpoch, TrialRecord, load_record
from tests.sweeper.conftest import SMALL, Swept, copy_sweep, finish
from train.cli.compose import settings
from train.config.parsing import parse_config
from train.config.schema import CONF
from train.data.reader import EMBEDDED_FOLDER
from train.errors import CheckpointError, ConfigError
from train.lora.checkpoint_file import weights_hash

PROBES = [word for word in SMALL if word.startswith(("probes", "scores"))]
Reproduce = Callable[..., None]


@dataclass(frozen=True)
class SingleTrial:
    """A trial that was trained alone, and whose study and images have been moved."""

    root: Path
    pictures: Path
    lora: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root}/mlflow.db")


@pytest.fixture(scope="module")
def one(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> SingleTrial:
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(swept.root / "cache", folder / "mlruns/cache")
    shutil.copytree(EMBEDDED_FOLDER, folder / "before")
    code, output = finish(folder / "mlruns", "sweeper", "network.rank=2", "study.name=one",
                          f"data.path={folder}/before", *SMALL)  # fmt: skip
    assert code == 0, output
    (folder / "before").rename(folder / "pictures")
    (folder / "mlruns/studies").rename(folder / "away")
    return SingleTrial(folder / "mlruns", folder / "pictures", folder / "away/one/best.safetensors")


@pytest.fixture
def reproduce_run(monkeypatch: pytest.MonkeyPatch) -> Reproduce:
    """Runs the command with its checks in this process."""

    def run(*overrides: str, store: str = "") -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # MLflow also sets it itself
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = parse_config(ReproduceConfig, hydra.compose("reproduce", list(overrides)))
            check_reproduce(config)
            reproduce.main(config)

    return run


def test_reproduction_from_mlflow_alone_is_identical(
    one: SingleTrial, reproduce_run: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    store = f"sqlite:///{one.root}/mlflow.db"
    study_and_root = ("study=one", f"root={tmp_path}")
    with pytest.raises(ConfigError, match=r"type data\.path=\S+/before, or its current location"):
        reproduce_run(*study_and_root, store=store)
    with pytest.raises(
        ConfigError, match="12 training, 4 held out originally, 24 training, 8 held out"
    ):
        reproduce_run(
            *study_and_root, f"data.path={EMBEDDED_FOLDER.parent / 'varied'}", store=store
        )
    with caplog.at_level("INFO"):
        reproduce_run(*study_and_root, f"data.path={one.pictures}", store=store)
    before_training = caplog.text.partition("epoch  1/2")[0]
    unchanged = r"unchanged: images, base, probes, commit, \d\d versions, hardware"
    assert re.search(unchanged, before_training)
    assert "verdict: identical (identical weights in 2 of 2" in capsys.readouterr().out
    experiment = one.client.get_experiment_by_name("one")
    assert experiment
    runs = one.client.search_runs([experiment.experiment_id])
    copies = [run for run in runs if "reproduction_of" in run.data.tags]
    (original,) = [run for run in runs if run.info.run_name == "trial 0"]
    assert [run.data.tags["reproduction_of"] for run in copies] == [original.info.run_id]
    assert copies[0].data.tags["verdict"] == "identical"
    parent = original.data.tags["mlflow.parentRunId"]
    assert copies[0].data.tags["mlflow.parentRunId"] == parent
    assert not (tmp_path / "studies").exists()  # a study folder without trials would be wrong

    # the same, with a different score
    record = load_record(next((tmp_path / "reproductions").iterdir()))
    for epoch in record.epochs:  # whichever was selected
        epoch.scorecard.scores["copying"] = Estimate(0.9, 0.8, 1.0)
    monkeypatch.setattr(reproduce, "retrain", lambda *about: record)
    with pytest.raises(SystemExit) as end:
        reproduce_run(*study_and_root, f"data.path={one.pictures}", store=store)
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert "verdict: different (identical weights in 2 of 2" in printed
    (row,) = [line for line in printed.splitlines() if "copying" in line]
    assert "0.9000" in row
    assert "no" in row.split()


def test_reproduction_of_a_packed_run_is_within_tolerance(
    swept: Swept,
    reproduce_run: Reproduce,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = json.loads((swept.study / "result.json").read_text())
    client = MlflowClient(f"sqlite:///{swept.root}/mlflow.db")
    parent = client.get_run(result["run_id"]).data.tags["mlflow.parentRunId"]
    with caplog.at_level("INFO"):
        reproduce_run(
            f"run_id={parent}", f"root={swept.root}"
        )  # the sweep's run stands for its best trial
    assert f"run {result['run_id']}" in caplog.text
    assert "differs: it was trained in a pack of" in caplog.text
    assert "verdict: within tolerance" in capsys.readouterr().out


def test_reproduction_from_a_file_alone(
    one: SingleTrial,
    reproduce_run: Reproduce,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        migrate_config, "compose", lambda name, options: hydra.compose(name, [*options, *PROBES])
    )
    reproduce_run(f"lora={one.lora}", f"data.path={one.pictures}", f"root={one.root}")
    assert "verdict: identical (identical weights in 1 of 1" in capsys.readouterr().out
    folder = one.root / "reproductions/best-0"
    record = load_record(folder)
    (file,) = [c.checkpoint for c in record.scorecards if c.epoch == record.selected]
    assert weights_hash(file) == weights_hash(one.lora)
    assert record.selected == load_record(one.lora.parent / "trials/0000").selected


def test_errors_for_runs_that_cannot_be_reproduced(
    one: SingleTrial, reproduce_run: Reproduce, tmp_path: Path
) -> None:
    root = f"root={one.root}"
    run_id = one.client.search_runs(["1"], "tags.trial = '0'")[0].info.run_id
    with pytest.raises(ConfigError, match=f"did you mean {run_id}"):
        reproduce_run(f"run_id={run_id[:-1]}x", root)
    with pytest.raises(ConfigError, match="MLflow has no study won; did you mean one"):
        reproduce_run("study=won", root)
    with pytest.raises(ConfigError, match="give one of"):
        reproduce_run(root)
    with pytest.raises(ConfigError, match="study: there is no study one"):
        reproduce_run("study=one", f"root={tmp_path}")
    with pytest.raises(ConfigError, match=r"there is no mlflow\.db"):
        reproduce_run(f"run_id={run_id}", f"root={tmp_path}")
    with pytest.raises(ConfigError, match="did you mean copying"):
        reproduce_run("study=one", "+tolerance.copyng=0.1", root)
    broken = one.client.create_run(
        one.client.create_experiment("broken", (one.root / "artifacts").as_uri())
    )
    for key, value in {"study": "broken", "trial": "0", "state": "running"}.items():
        one.client.set_tag(broken.info.run_id, key, value)
    with pytest.raises(ConfigError, match="has not ended"):
        reproduce_run(f"run_id={broken.info.run_id}", root)
    one.client.set_tag(broken.info.run_id, "state", "failed")
    one.client.set_tag(broken.info.run_id, "reason", "the disk is full")
    with pytest.raises(ConfigError) as missing:
        reproduce_run(f"run_id={broken.info.run_id}", root)
    place = one.client.get_run(broken.info.run_id).info.artifact_uri
    assert f"has no artifact scorecards.json at {place}/scorecards.json" in str(missing.value)
    assert "studies/broken/trials/0000/trial.json does not exist either" in str(missing.value)
    TrialRecord(tmp_path, "broken", 0, {}, [], {}, {}, "failed", "the disk is full").save()
    text = (tmp_path / "trial.json").read_text()
    one.client.log_text(broken.info.run_id, text, "scorecards.json")
    with pytest.raises(ConfigError, match=r"failed without a checkpoint \(the disk is full\)"):
        reproduce_run(f"run_id={broken.info.run_id}", root)
    other = tmp_path / "other.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, other)
    with pytest.raises(CheckpointError, match=r"python -m evaluate"):
        reproduce_run(f"lora={other}", root)


def test_settings_of_another_version_are_migrated() -> None:
    logged = asdict(settings("sweep", SweepConfig, ["network.rank=3", "optimizer=lion"]))
    logged["network"]["rnk"] = 4
    del logged["training"]["caption_dropout"], logged["study"], logged["base"]["compile"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with pytest.raises(ConfigError) as error:
            migrate_config.migrate(ReceivedSettings(logged), {}, version=" (commit abc)")
        migrated = migrate_config.migrate(
            ReceivedSettings(logged), {"data.path": "elsewhere"}, force=True
        )
        with pytest.raises(ConfigError, match=r"network\.rank"):
            migrate_config.migrate(ReceivedSettings({**logged, "network": {"rank": 0}}), {})
    assert "(commit abc)" in str(error.value)
    assert "network.rnk=4; did you mean network.rank?" in str(error.value)
    assert migrated.added == {"training.caption_dropout": 0.0}
    assert migrated.dropped == {"network.rnk": 4}
    assert (migrated.config.network.rank, migrated.config.data.path) == (3, "elsewhere")
    assert migrated.config.optimizer == logged["optimizer"]  # replaced as a whole
    with_paths = {"base": {"path": "/my/model.safetensors"}, "data": {"path": "pictures"}}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with pytest.raises(ConfigError, match=r"type base\.path=/my/model\.safetensors"):
            migrate_config.migrate(ReceivedSettings(with_paths), {})
        migrated = migrate_config.migrate(
            ReceivedSettings(with_paths), {"base.path": "/my/model.safetensors"}
        )
    assert migrated.config.data.resolution == 512  # today's default on such a base
    assert migrated.config.probes.attributes == "person"


def test_embedded_images_bring_their_own_defaults() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        logged = migrate_config.migrate(
            ReceivedSettings({"data": {"path": "puppets_object"}}), {}
        ).config
        typed = migrate_config.migrate(
            ReceivedSettings({"data": {"path": "pictures"}}), {"data.path": "puppets_style"}
        ).config
        own = migrate_config.migrate(ReceivedSettings({}), {"data.path": "pictures"}).config
    assert (logged.data.trigger, logged.probes.attributes) == ("sks lamp", "puppets_object")
    assert (typed.data.trigger, typed.probes.attributes) == ("sks drawing", "puppets_style")
    assert (own.data.trigger, own.probes.attributes) == ("sks puppet", "puppets")


def epoch(number: int, weights: str = "a", **scores: float) -> ScoredEpoch:
    card = Scorecard(Path("-"), number, {n: Estimate(v, v, v) for n, v in scores.items()})
    return ScoredEpoch(card, 0.1, 1e-3, 1.0, 1.0, 0, weights)


def test_verdicts() -> None:
    tolerance = {"default": 0.02, "color_shift": 0.4}
    original = epoch(1, copying=0.1, color_shift=5.0)
    same = compare(original, original)
    rounded = compare(original, epoch(1, "b", copying=0.11, color_shift=5.3))
    too_different = compare(original, epoch(1, "b", copying=0.13, color_shift=5.0))
    other_weights = compare(original, epoch(1, "b", copying=0.1, color_shift=5.0))
    incomplete = compare(original, epoch(1, copying=0.1))
    assert verdict_of([same, same], tolerance) == IDENTICAL
    assert verdict_of([same, rounded], tolerance) == CLOSE
    assert verdict_of([other_weights], tolerance) == CLOSE
    assert verdict_of([same, rounded, too_different], tolerance) == DIFFERENT
    assert verdict_of([same, None], tolerance) == DIFFERENT
    assert verdict_of([incomplete], tolerance) == DIFFERENT
    table = comparison_table(
        original, epoch(1, "b", copying=0.11, color_shift=5.3), [same, rounded], tolerance
    )
    (row,) = [line for line in table.splitlines() if "color_shift" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "color_shift", "5.0000", "5.3000", "+0.3", "0.3 (epoch 1)", "0.4", "yes",
    ]  # fmt: skip


def test_the_study_folder_replaces_missing_artifacts(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """First without artifacts, then without a store, then with a damaged result."""
    caplog.set_level("INFO")
    root = tmp_path / "mlruns"
    shutil.copytree(swept.root, root, ignore=shutil.ignore_patterns("cache", "artifacts"))
    best = json.loads((root / "studies/small/result.json").read_text())
    config = ReproduceConfig(study="small", root=str(root))
    best_record = load_record(root / f"studies/small/trials/{best['trial']:04d}")
    # no artifact exists
    monkeypatch.setattr(original_run, "artifact", lambda store, client, run, name: None)
    original = reproduce.find_original(config, root)
    assert (original.id, original.selected) == (best["run_id"], best["epoch"])
    assert [epoch.weights for epoch in original.epochs] == [
        epoch.weights for epoch in best_record.epochs
    ]
    assert original.settings.settings == best_record.settings
    assert original.probes
    assert f"the record in {best_record.folder} is used" in caplog.text
    (root / "mlflow.db").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it itself
    from_folder = reproduce.find_original(config, root)
    assert (from_folder.number, from_folder.selected) == (best["trial"], best["epoch"])
    assert "there is no mlflow.db" in caplog.text
    (root / "studies/small/result.json").write_text("{torn")
    with pytest.raises(ConfigError, match=r"there is no mlflow\.db"):
        reproduce.find_original(config, root)


def test_a_moved_store_finds_its_artifacts(swept: Swept, tmp_path: Path) -> None:
    """The study's runs and their artifacts are found, and new ones are written next to them."""
    before, root = tmp_path / "before", tmp_path / "after"
    copy_sweep(swept, before)
    before.rename(root)
    tracker = MlflowMirror(root, root / "studies" / "small")
    record = load_record(root / "studies/small/trials/0000")
    run = tracker.client.get_run(tracker.run_for(record).saved_id)
    assert run.info.artifact_uri.startswith((root / "artifacts").as_uri())
    assert artifact(tracker, tracker.client, run, "scorecards.json")
    versions = tracker.client.search_model_versions("name='small'")
    assert all(
        str(version.source).startswith((root / "artifacts").as_uri()) for version in versions
    )
    assert not before.exists(), "nothing is written to the old location"
