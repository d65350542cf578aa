"""Every reader of files that others wrote, by the same way as the commands go, without training."""

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

from bench.fuzzing import good
from evaluate.checkpoints.checks import loadable_files, mismatch_warnings, readable_files
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
from train.cli import local_overrides
from train.cli.compose import settings
from train.cli.preflight import preflight
from train.config.parsing import parse_config
from train.config.schema import CONF, BaseConfig, DataConfig, TrainConfig, TrialConfig, trial_of
from train.data.dataset import Dataset, load_dataset
from train.files import permissions
from train.kohya.command_line import expand
from train.loop.run import AdapterRun
from train.loop.trial_spec import TrialSpec
from train.lora.checkpoint_file import weights_hash
from train.models.base_model import BaseModel, _load, load_base
from train.models.model_files import find_family, locate
from train.validation import check_train


class Reached(BaseException):
    """Reading is over: from here on the command would load models and train."""


@dataclass(frozen=True)
class World:
    """What all cases share: loaded once a process."""

    base: BaseModel
    config: TrialConfig
    pictures: Dataset


@dataclass(frozen=True)
class Target:
    """A file that is changed.

    Attributes:
        file: below the case's folder.
        kind: how it is changed, see `cases`.
        aims: keys (`a/b/c`) that are worth more tries than others.
    """

    file: str
    kind: str
    aims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes:
        good: the folder of good files that a case begins with.
        read: takes the case's folder; what it returns is searched for the secret.
        weight: its share of the cases.
        writes: patterns of files that it may write, below the case's folder.
        follows: endings of files in a named folder that may be links to anywhere.
        typed: the files are named on the command line, so that they may be links to anywhere.
    """

    good: str
    targets: tuple[Target, ...]
    read: Callable[[Path, World], object]
    weight: int
    writes: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    typed: bool = True


def make_world() -> World:
    """The embedded base and the settings of the good files."""
    base = load_base(BaseConfig(device="cpu"))
    config = trial_of(settings("sweep", SweepConfig, good.TUNED))
    return World(base, config, load_dataset(config.data))


def read_loras(folder: Path, world: World) -> object:
    """As `python -m evaluate checkpoints=` does, up to the first picture."""
    metadata = readable_files(find(str(folder)))
    unit, files = order_files(metadata)
    kept = loadable_files(files, world.base)
    said = mismatch_warnings(
        [metadata[file] for file in files if file in kept], world.base, world.config.data
    )
    return unit, said, [(key_of(file), weights_hash(file)) for file in kept]


def read_settings(folder: Path, world: World) -> object:
    """As `python -m sweeper.reproduce lora=` does, up to the loading of models."""
    return _reproduced(
        ReproduceConfig(lora=str(folder / "theirs.safetensors"), root=str(folder / "mlruns"))
    )


def read_study_again(folder: Path, world: World) -> object:
    """As `python -m sweeper.reproduce study=` does where MLflow has nothing."""
    return _reproduced(ReproduceConfig(study=good.NAME, root=str(folder)))


def _reproduced(config: ReproduceConfig) -> object:
    found: list[SweepConfig] = []

    def reached(settings: SweepConfig) -> None:
        found.append(settings)
        raise Reached

    check_reproduce(config)
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        mock.patch.object(reproduce, "load_context", reached),
        suppress(Reached),
    ):
        reproduce.main(config)
    return {"received": flat(dataclasses.asdict(found[0]))} if found else None


def read_report(folder: Path, world: World) -> object:
    """`python -m sweeper.report` of a study that was received."""
    rewrite.main(ReportConfig(study=good.NAME, root=str(folder)))
    return None


def read_selection(folder: Path, world: World) -> object:
    """`python -m sweeper.select` of the same."""
    select.main(SelectConfig(study=good.NAME, root=str(folder)))
    return None


def read_records(folder: Path, world: World) -> object:
    """What all that looks at a study begins with."""
    study, address = study_folder(folder, good.NAME), Address(folder)
    records = load_records(study)
    runs = [run_id_in(address, record.folder) for record in records]
    policy = policy_of(study, records) if records else None
    return records, runs, policy, describe_missing(study), original_from_study(study)


def read_journal(folder: Path, world: World) -> object:
    """A search that goes on, by CMA-ES, and one that is only looked at."""
    study = study_folder(folder, good.NAME)
    if (found := find_study(study, None)) is not None:
        _ = [trial.params for trial in found.trials]
    trial = good.asked_again(study).next_trial(100)
    if trial:
        trial.lock.release()
    return trial and trial.frozen.params


def read_run(folder: Path, world: World) -> object:
    """A run that goes on from its state, or from its last checkpoint."""
    run = AdapterRun(0, TrialSpec(world.config, folder), world.base, world.pictures)
    return run.epoch, run.fallbacks, run.last


def read_probes(folder: Path, world: World) -> object:
    """probes.file=FILE, and all that is asked for."""
    found = load_probe_set(str(folder / "probes.yaml"))
    return found.to_yaml(), _said(found.values)


def read_values(folder: Path, world: World) -> object:
    """probes.attributes=FILE, and every sentence that it can make."""
    return _said(load_attributes(str(folder / "values.yaml")))


def _said(values: AttributeBank) -> list[str]:
    parts = {part: options for kind in values.kinds.values() for part, options in kind.items()}
    said = [
        values.phrase(part, str(option), values.class_word)
        for part in parts
        for option in parts[part]
    ]
    return [*said, values.prompt("a sks", {part: options[-1] for part, options in parts.items()})]


def read_kohya(folder: Path, world: World) -> object:
    """`python -m train kohya=FILE`, up to the pictures."""
    file = next((str(f) for f in folder.glob("kohya.*")), str(folder / "kohya.toml"))
    line, notes = expand([f"kohya={file}"])
    plain = preflight("train", line, TrainConfig, check_train)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse_config(
            TrainConfig, compose("train", [word for word in plain if not word.startswith("-")])
        )
    load_dataset(config.data)
    return notes, {"received": flat(dataclasses.asdict(config))}


def read_dataset(folder: Path, world: World) -> object:
    """data.dataset_config=FILE."""
    return load_dataset(
        DataConfig(dataset_config=str(folder / "dataset.toml"), resolution=32)
    ).report()


def read_pictures(folder: Path, world: World) -> object:
    """data.path=FOLDER."""
    return load_dataset(DataConfig(path=str(folder), resolution=32)).report()


def read_contact_sheet(folder: Path, world: World) -> object:
    """The probe images of a checkpoint, from their own file or cut out of its sheet."""
    record = TrialRecord(folder, good.NAME, 0, {}, [], {}, {})
    card = Scorecard(folder / "lora.safetensors", 1, {})
    return [
        (strip.title, [tile.caption for tile in strip.tiles]) for strip in all_strips(record, card)
    ]


def read_base(folder: Path, world: World) -> object:
    """base.path=FOLDER: the family by its files, then the whole model."""
    source = locate(str(folder))
    with suppress(ValueError):  # load_base says it in a line
        find_family(source)
    _load.cache_clear()
    return load_base(BaseConfig(path=str(folder), device="cpu")).family.name


def read_encoder(folder: Path, world: World) -> object:
    """scores.clip_model=FOLDER."""
    encoder = ClipEncoder(str(folder), torch.device("cpu"))
    return encoder.size, encoder.text_features(["a puppet"]).shape


def read_caches(folder: Path, world: World) -> object:
    """What was computed once and is found again: latents, readings."""
    made = TensorCache(folder).fetch(good.KEY, lambda: {"mean": torch.zeros(1)})
    return [*made.tensors], len(good.readings(folder))


def read_ledger(folder: Path, world: World) -> object:
    """The scorecards of files that were scored before."""
    return ScoreCache(folder, {"data": "0", "base": "1"}).find(folder / "a.safetensors")


def read_local(folder: Path, world: World) -> object:
    """A person's own defaults, in conf/local.yaml."""
    try:
        with mock.patch.object(
            composing,
            "load_local_defaults",
            lambda name: local_overrides.load_local_overrides(name, folder),
        ):
            return preflight("train", [], TrainConfig, check_train)
    finally:
        local_overrides.load_local_overrides("train", CONF)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


@contextmanager
def as_a_command(places: list[Path]) -> Iterator[None]:
    """What a command line does first: it knows what was typed, and nothing of the last command."""
    GlobalHydra.instance().clear()
    with mock.patch.dict("os.environ"):
        os.environ.pop(permissions.ENV_VARIABLE, None)
        permissions.allow(places)
        yield
