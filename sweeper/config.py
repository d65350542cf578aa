"""The settings of a sweep: how a trial is trained, scored and selected, and what is searched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from evaluate.config import (
    FinalConfig,
    PolicyConfig,
    ProbesConfig,
    ScoresConfig,
    check_final,
    check_policy,
    check_scoring,
)
from sweeper.search.sampler_arguments import check_pruner, check_sampler_arguments
from sweeper.study_folder import check_name
from train.config.class_arguments import whole
from train.config.parsing import parse_config
from train.config.ranges import format_value, ranged
from train.config.schema import EMBEDDED_IMAGES, MAX_EPOCHS, TrialConfig
from train.config.setting_kinds import (
    OF_CLASS,
    OF_NUMBERS,
    OF_SETTINGS,
    address_field,
    choice_field,
    path_field,
    text_field,
)
from train.config.trigger_check import check_trigger
from train.config_checks import check_choice, check_trial
from train.errors import ConfigError

AUTO = "auto"
KEEP = BEST, PARETO, ALL = "best", "pareto", "all"
ON_OUTAGE = STOP, WAIT = "stop", "wait"
MAX_TRIALS = 1_000_000
Directions = tuple[Literal["maximize", "minimize"], ...]
# direction of each objective; the first one is fidelity
OBJECTIVES: dict[str, Directions] = {
    "fidelity": ("maximize",),
    "pareto": ("maximize", "minimize"),  # the second one is memorization
}
# `_target_` of conf/hydra/sweeper/optuna.yaml
SWEEPER_TARGET = "hydra_plugins.lorasweep_optuna.OptunaSweeper"
PACK_RANGE = whole(1, 1024)


@dataclass
class BudgetConfig:
    """When a study starts no further trials."""

    hours: float | None = ranged(None, 0, 1_000_000)
    device_hours: float | None = ranged(None, 0, 1_000_000)
    patience: int | None = ranged(None, 0, MAX_TRIALS)
    max_failures: int | None = ranged(None, 0, MAX_TRIALS)


@dataclass
class StudyConfig:
    """A study's name and location, and when it ends."""

    name: str | None = text_field(None)
    root: str = path_field("mlruns")
    storage: str | None = address_field(None)
    trial: int | None = ranged(None, 0, MAX_TRIALS)
    retries: int = ranged(2, 0, 1000)
    on_outage: str = choice_field(STOP)
    keep_checkpoints: str = choice_field("best")
    enqueue: list[dict[str, Any]] = field(default_factory=list, metadata=OF_SETTINGS)
    warm_start: str | None = text_field(None)
    budget: BudgetConfig = field(default_factory=BudgetConfig)


@dataclass
class EarlyStopConfig:
    """When a trial is stopped before its last epoch. 0 turns a rule off."""

    memorization_patience: int = ranged(2, 0, MAX_EPOCHS)
    patience: int = ranged(3, 0, MAX_EPOCHS)
    min_progress_share: float = ranged(0.5, 0, 1)


@dataclass
class SweepConfig(TrialConfig):
    """conf/sweep.yaml: all settings of a trial of a study.

    Attributes:
        pack: number of trials that are trained at once, or "auto".
    """

    probes: ProbesConfig = field(default_factory=ProbesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    selection: PolicyConfig = field(default_factory=PolicyConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    search: dict[str, str] = field(default_factory=dict, metadata=OF_SETTINGS)
    pruner: dict[str, Any] = field(default_factory=dict, metadata=OF_CLASS)
    pack: Any = field(default=AUTO, metadata=OF_NUMBERS)


@dataclass
class SearchConfig:
    """conf/hydra/sweeper/optuna.yaml: how the search proposes trials."""

    n_trials: int | None = ranged(None, 1, MAX_TRIALS)
    workers: int = ranged(1, 1, 10_000)
    objective: str = choice_field("fidelity")
    seed: int = ranged(0, 0, 2**31)  # the trial number is added, and NumPy's seeds end at 2**32
    sampler: dict[str, Any] = field(default_factory=dict, metadata=OF_CLASS)


def check_search(hydra: DictConfig) -> None:
    """Checks the settings of the search, which are in Hydra's own part of the config.

    Raises:
        ConfigError: naming the first setting that cannot work.
    """
    sweeper = cast(dict[str, Any], OmegaConf.to_container(hydra.sweeper, resolve=True))
    if sweeper.pop("_target_", None) != SWEEPER_TARGET:
        return
    sweeper.pop("_recursive_", None)
    try:
        config = parse_config(SearchConfig, OmegaConf.create(sweeper))
    except ConfigError as error:
        raise ConfigError(f"hydra.sweeper.{error}") from None
    check_choice("hydra.sweeper.objective", config.objective, (*OBJECTIVES,))
    check_sampler_arguments(config.sampler)


def check_sweep(config: SweepConfig) -> None:
    """Checks all settings of a sweep.

    Raises:
        ConfigError: naming the first setting that cannot work.
    """
    check_trial(config)
    check_trigger(config.data)
    check_scoring(config.probes, config.scores, config.selection)
    check_final(config.final, config.scores, config.selection)
    if config.training.save_last is not None:
        raise ConfigError(
            "training.save_last: a sweep scores every checkpoint before it selects one, and "
            "study.keep_checkpoints decides which ones stay; leave it null"
        )
    for key, name in (("name", config.study.name), ("warm_start", config.study.warm_start)):
        if name is not None:
            check_name(name, f"study.{key}")
    check_choice("study.on_outage", config.study.on_outage, ON_OUTAGE)
    check_choice("study.keep_checkpoints", config.study.keep_checkpoints, KEEP)
    if config.pack != AUTO and not PACK_RANGE.accepts(config.pack):
        raise ConfigError(
            f"pack: {format_value(config.pack)} must be {PACK_RANGE} (trials at once), or auto"
        )
    check_pruner(config.pruner)


def default_study_name(config: SweepConfig) -> str:
    """The name of an unnamed study: that of the image folder or of the dataset TOML."""
    if config.data.dataset_config:
        source = Path(config.data.dataset_config).stem
    elif config.data.path in EMBEDDED_IMAGES:
        return config.data.path
    else:
        source = Path(config.data.path).resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-._")
    return name[:60] or "study"


@dataclass
class SelectConfig:
    """conf/select.yaml."""

    study: str = text_field("")
    storage: str | None = text_field(None)
    root: str = path_field("mlruns")
    apply: bool = False
    replay: bool = False
    selection: PolicyConfig = field(default_factory=PolicyConfig)


def check_select(config: SelectConfig) -> None:
    """Raises a ConfigError for an impossible policy or a missing study name."""
    _check_study(config.study)
    check_policy(config.selection)


@dataclass
class ReportConfig:
    """conf/report.yaml."""

    study: str = text_field("")
    storage: str | None = text_field(None)
    root: str = path_field("mlruns")


def check_report(config: ReportConfig) -> None:
    """Raises a ConfigError if the study name is missing or invalid."""
    _check_study(config.study)


def _check_study(name: str) -> None:
    if not name:
        raise ConfigError("study: name the study, for example study=puppets")
    check_name(name, "study")
