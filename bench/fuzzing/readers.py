"""Every reader of untrusted files, called as the commands call it, but without training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from bench.fuzzing import corpus
from evaluate.checkpoints.checkpoint_checks import loadable_files, mismatch_warnings, readable_files
from evaluate.checkpoints.find import find
from evaluate.checkpoints.save_order import order_files
from evaluate.features.clip import ClipEncoder
from evaluate.prompts.attributes import AttributeBank, load_attributes
from evaluate.prompts.probe_set import load_probe_set
from evaluate.score_cache import ScoreCache, key_of
from evaluate.scorecard import Scorecard
from evaluate.tracking.store_address import Address, run_id_in
from sweeper.commands import report as rewrite
from sweeper.commands import select
from sweeper.config import ReportConfig, SelectConfig, SweepConfig
from sweeper.reproduction import reproduce
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.reproduction.original_run import original_from_study
from sweeper.results.missing_trials import describe_missing
from sweeper.results.report.images import all_strips
from sweeper.results.report.page import policy_of
from sweeper.study.storage import find_study
from sweeper.study_folder import study_folder
from sweeper.tracking.trial_record import TrialRecord, load_records
from train.cache.tensor_cache import TensorCache
from train.cli import compose as composing
from train.cli import local_settings
from train.cli.compose import settings
from train.cli.preflight import preflight
from train.config.parsing import parse_config
from train.config.schema import CONF, BaseConfig, DataConfig, TrainConfig, TrialConfig, trial_of
from train.config_checks import check_train
from train.data.dataset import Dataset, load_dataset
from train.files import permissions
from train.kohya.command_line import expand
from train.loop.adapter_run import AdapterRun
from train.loop.trial_spec import TrialSpec
from train.lora.checkpoint_file import weights_hash
from train.models.base_model import BaseModel, _load, load_base
from train.models.model_files import find_family, locate


class ReadingFinished(BaseException):
    """Raised when reading is complete, where the command would load models and train."""


@dataclass(frozen=True)
class SharedContext:
    """What all cases of a process share; loaded once."""

    base: BaseModel
    config: TrialConfig
    dataset: Dataset


@dataclass(frozen=True)
class Target:
    """A file that is mutated.

    Attributes:
        file: path in the case's folder, may be a pattern.
        kind: how it is mutated, a key of `cases.MUTATIONS`.
        priority_keys: keys (`a/b/c`) that are mutated more often than others.
    """

    file: str
    kind: str
    priority_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A reader of untrusted files.

    Attributes:
        corpus: the folder of the corpus that its cases mutate.
        read: takes the case's folder; its result is searched for the secret.
        weight: its share of the cases.
        writes: patterns of files that it may write, relative to the case's folder.
        follows: suffixes of files in a folder from the command line that may be links to anywhere.
        typed: its files are named on the command line, so that they may be links to anywhere.
    """

    corpus: str
    targets: tuple[Target, ...]
    read: Callable[[Path, SharedContext], object]
    weight: int
    writes: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    typed: bool = True


def load_shared_context() -> SharedContext:
    """Loads the embedded base, and the settings and data set of the corpus."""
    base = load_base(BaseConfig(device="cpu"))
    config = trial_of(settings("sweep", SweepConfig, corpus.OVERRIDES))
    return SharedContext(base, config, load_dataset(config.data))


def read_lora_files(folder: Path, shared: SharedContext) -> object:
    """`python -m evaluate checkpoints=FOLDER`, up to the first image."""
    metadata = readable_files(find(str(folder)))
    unit, files = order_files(metadata)
    usable = loadable_files(files, shared.base)
    notes = mismatch_warnings(
        [metadata[file] for file in files if file in usable], shared.base, shared.config.data
    )
    return unit, notes, [(key_of(file), weights_hash(file)) for file in usable]


def read_lora_settings(folder: Path, shared: SharedContext) -> object:
    """`python -m sweeper.reproduce lora=FILE`, up to the loading of models."""
    return _reproduce(
        ReproduceConfig(lora=str(folder / "theirs.safetensors"), root=str(folder / "mlruns"))
    )


def read_original_study(folder: Path, shared: SharedContext) -> object:
    """`python -m sweeper.reproduce study=NAME` of a study that is not in MLflow."""
    return _reproduce(ReproduceConfig(study=corpus.NAME, root=str(folder)))


def _reproduce(config: ReproduceConfig) -> object:
    received: list[SweepConfig] = []

    def stop(settings: SweepConfig) -> None:
        received.append(settings)
        raise ReadingFinished

    check_reproduce(config)
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        mock.patch.object(reproduce, "load_context", stop),
        suppress(ReadingFinished),
    ):
        reproduce.main(config)
    return {"received": flatten(dataclasses.asdict(received[0]))} if received else None


def read_report(folder: Path, shared: SharedContext) -> object:
    """`python -m sweeper.report` of a study from someone else."""
    rewrite.main(ReportConfig(study=corpus.NAME, root=str(folder)))
    return None


def read_selection(folder: Path, shared: SharedContext) -> object:
    """`python -m sweeper.select` of a study from someone else."""
    select.main(SelectConfig(study=corpus.NAME, root=str(folder)))
    return None


def read_records(folder: Path, shared: SharedContext) -> object:
    """Reads the records of a study, as every command that reads a study does first."""
    study, address = study_folder(folder, corpus.NAME), Address(folder)
    records = load_records(study)
    runs = [run_id_in(address, record.folder) for record in records]
    policy = policy_of(study, records) if records else None
    return records, runs, policy, describe_missing(study), original_from_study(study)


def read_journal(folder: Path, shared: SharedContext) -> object:
    """Lists the trials of a journal, then continues its search with CMA-ES."""
    study = study_folder(folder, corpus.NAME)
    if (optuna_study := find_study(study, None)) is not None:
        _ = [trial.params for trial in optuna_study.trials]
    trial = corpus.resume_study(study).next_trial(100)
    if trial:
        trial.lock.release()
    return trial and trial.frozen.params


def read_run(folder: Path, shared: SharedContext) -> object:
    """Continues a run from its resume state or its last checkpoint."""
    run = AdapterRun(0, TrialSpec(shared.config, folder), shared.base, shared.dataset)
    return run.epoch, run.fallbacks, run.last


def read_probes(folder: Path, shared: SharedContext) -> object:
    """probes.file=FILE, and every phrase of its attributes."""
    probe_set = load_probe_set(str(folder / "probes.yaml"))
    return probe_set.to_yaml(), _all_phrases(probe_set.values)


def read_attributes(folder: Path, shared: SharedContext) -> object:
    """probes.attributes=FILE, and every phrase of these attributes."""
    return _all_phrases(load_attributes(str(folder / "values.yaml")))


def _all_phrases(values: AttributeBank) -> list[str]:
    parts = {part: options for kind in values.kinds.values() for part, options in kind.items()}
    phrases = [
        values.phrase(part, str(option), values.class_word)
        for part in parts
        for option in parts[part]
    ]
    return [
        *phrases,
        values.prompt("a sks", {part: options[-1] for part, options in parts.items()}),
    ]


def read_kohya(folder: Path, shared: SharedContext) -> object:
    """`python -m train kohya=FILE`, up to the data set."""
    file = next((str(f) for f in folder.glob("kohya.*")), str(folder / "kohya.toml"))
    overrides, notes = expand([f"kohya={file}"])
    words = preflight("train", overrides, TrainConfig, check_train)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse_config(
            TrainConfig, compose("train", [word for word in words if not word.startswith("-")])
        )
    load_dataset(config.data)
    return notes, {"received": flatten(dataclasses.asdict(config))}


def read_dataset(folder: Path, shared: SharedContext) -> object:
    """data.dataset_config=FILE."""
    return load_dataset(
        DataConfig(dataset_config=str(folder / "dataset.toml"), resolution=32)
    ).report()


def read_images(folder: Path, shared: SharedContext) -> object:
    """data.path=FOLDER."""
    return load_dataset(DataConfig(path=str(folder), resolution=32)).report()


def read_contact_sheet(folder: Path, shared: SharedContext) -> object:
    """Reads the probe images of a checkpoint from their file or from its contact sheet."""
    record = TrialRecord(folder, corpus.NAME, 0, {}, [], {}, {})
    card = Scorecard(folder / "lora.safetensors", 1, {})
    return [
        (strip.title, [tile.caption for tile in strip.tiles]) for strip in all_strips(record, card)
    ]


def read_base(folder: Path, shared: SharedContext) -> object:
    """base.path=FOLDER: detects the model family, then loads the model."""
    source = locate(str(folder))
    with suppress(ValueError):  # load_base reports it
        find_family(source)
    _load.cache_clear()
    return load_base(BaseConfig(path=str(folder), device="cpu")).family.name


def read_encoder(folder: Path, shared: SharedContext) -> object:
    """scores.clip_model=FOLDER."""
    encoder = ClipEncoder(str(folder), torch.device("cpu"))
    return encoder.size, encoder.text_features(["a puppet"]).shape


def read_caches(folder: Path, shared: SharedContext) -> object:
    """Reads entries of the caches of latents and features."""
    entry = TensorCache(folder).fetch(corpus.KEY, lambda: {"mean": torch.zeros(1)})
    return [*entry.tensors], len(corpus.cached_features(folder))


def read_score_cache(folder: Path, shared: SharedContext) -> object:
    """Reads the cache of scorecards."""
    return ScoreCache(folder, {"data": "0", "base": "1"}).find(folder / "a.safetensors")


def read_local_overrides(folder: Path, shared: SharedContext) -> object:
    """conf/local.yaml, the user's defaults."""
    try:
        with mock.patch.object(
            composing,
            "load_local_settings",
            lambda name: local_settings.register_local_settings(name, folder),
        ):
            return preflight("train", [], TrainConfig, check_train)
    finally:
        local_settings.register_local_settings("train", CONF)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dictionaries by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextmanager
def command_environment(typed_paths: list[Path]) -> Iterator[None]:
    """Allows the typed paths, and resets global state of the last command."""
    GlobalHydra.instance().clear()
    with mock.patch.dict("os.environ"):
        os.environ.pop(permissions.ENV_VARIABLE, None)
        permissions.allow(typed_paths)
        yield
