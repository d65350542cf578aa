"""The settings of a sweep: those of a trial, and how it is scored, selected and searched for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.config import (
    PolicyConfig,
    ProbesConfig,
    ScoresConfig,
    check_policy,
    check_scoring,
)
from sweeper.running.budget import BudgetConfig
from train.checks import check_trial
from train.config import EMBEDDED, ConfigError, TrialConfig, suggestion
from train.text_settings import path_field, text_field

AUTO = "auto"
KEEP = BEST, PARETO, ALL = "best", "pareto", "all"
COUNTS = ("memorised_epochs", "settled_epochs", "retries")


@dataclass
class StudyConfig:
    """A study's name and place, and when a trial is stopped."""

    name: str | None = text_field(None)
    root: str = path_field("mlruns")
    storage: str | None = text_field(None)
    trial: int | None = None
    memorised_epochs: int = 2
    settled_epochs: int = 3
    learning_share: float = 0.5
    retries: int = 2
    keep: str = "best"
    queue: list[dict[str, Any]] = field(default_factory=list)
    from_study: str | None = text_field(None)
    budget: BudgetConfig = field(default_factory=BudgetConfig)


@dataclass
class SweepConfig(TrialConfig):
    """conf/sweep.yaml: everything that a trial of a study is made with.

    Attributes:
        pack: "auto", or how many trials are trained at once.
    """

    probes: ProbesConfig = field(default_factory=ProbesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    search: dict[str, str] = field(default_factory=dict)
    pruner: dict[str, Any] = field(default_factory=dict)
    pack: Any = AUTO


def check_sweep(config: SweepConfig) -> None:
    """Refuses impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    check_trial(config)
    check_scoring(config.probes, config.scores, config.policy)
    if config.training.keep_last is not None:
        raise ConfigError(
            "training.keep_last: a sweep scores every checkpoint before it chooses, and "
            "study.keep says which stay; leave it null"
        )
    name = config.study.name
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        raise ConfigError(f"study.name: {name!r} may hold letters, digits, '.', '_' and '-' only")
    limits = {name: getattr(config.study, name) for name in COUNTS} | {
        f"budget.{name}": value for name, value in vars(config.study.budget).items()
    }
    for key, value in limits.items():
        if value is not None and value < 0:
            raise ConfigError(f"study.{key}: {value} must be 0 or more")
    if config.study.keep not in KEEP:
        near = suggestion(config.study.keep, [*KEEP])
        raise ConfigError(f"study.keep: {config.study.keep!r} is none of {', '.join(KEEP)}{near}")
    if not 0 <= config.study.learning_share <= 1:
        raise ConfigError("study.learning_share: is a share of the epochs, from 0 to 1")
    if config.pack != AUTO and not (isinstance(config.pack, int) and config.pack > 0):
        raise ConfigError(f"pack: {config.pack!r} must be auto, or 1 or more trials at once")
    if "_target_" not in config.pruner:
        raise ConfigError("pruner: needs a _target_, as the files of conf/pruner have")


def suggested_name(config: SweepConfig) -> str:
    """A name for a study that was given none: that of the pictures' folder, or of their list."""
    if config.data.dataset_config:
        named = Path(config.data.dataset_config).stem
    elif config.data.path == EMBEDDED:
        return EMBEDDED
    else:
        named = Path(config.data.path).resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", named).strip("-._")
    return name[:60] or "study"


@dataclass
class SelectConfig:
    """conf/select.yaml."""

    study: str = text_field("")
    root: str = path_field("mlruns")
    apply: bool = False
    policy: PolicyConfig = field(default_factory=PolicyConfig)


def check_select(config: SelectConfig) -> None:
    """Refuses an impossible policy, and no study, with a ConfigError."""
    _check_study(config.study)
    check_policy(config.policy)


@dataclass
class ReportConfig:
    """conf/report.yaml."""

    study: str = text_field("")
    root: str = path_field("mlruns")


def check_report(config: ReportConfig) -> None:
    """Refuses a report of nothing, with a ConfigError."""
    _check_study(config.study)


def _check_study(name: str) -> None:
    if not name:
        raise ConfigError("study: say which study, as in study=puppets")
