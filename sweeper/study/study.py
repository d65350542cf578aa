"""A study in Optuna's storage: begins or continues it, and hands out its trials."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from optuna.trial import TrialState

from sweeper.config import OBJECTIVES, Directions, StudyConfig
from sweeper.search.samplers import make_sampler, tried_identities
from sweeper.search.search_space import Params, Space
from sweeper.stop_request import stop_reason
from sweeper.study.storage import NO_PRUNER, damage_as_config_error, open_study, study_names
from sweeper.study.study_attributes import (
    CRASHES_ATTRIBUTE,
    SHARED_ATTRIBUTE,
    check_within,
    shared_settings_of,
)
from sweeper.study.trial_lease import (
    LEASE_SECONDS,
    LeasedTrial,
    acquire,
    lease_lock,
    live_trial,
    suggest_all,
)
from sweeper.study_folder import study_folder
from sweeper.tracking.trial_record import IN_PROGRESS_FILE, RECORD_FILE, load_records
from train.config.parsing import suggestion
from train.errors import ConfigError

log = logging.getLogger(__name__)


class StudyMismatchError(ConfigError):
    """A study of this name was begun with other settings; the message names the first one."""


@dataclass
class Study:
    """A study and its folder.

    Attributes:
        shared_settings: settings that all trials share, with flat keys; a study can be continued
            only with the same ones.
        url: URL of its storage, see `open_study`; None: the journal in its folder.
        initial_params: params that are tried before any are proposed.
    """

    folder: Path
    shared_settings: dict[str, str]
    space: Space
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    seed: int
    url: str | None = None
    directions: Directions = OBJECTIVES["fidelity"]
    initial_params: list[Params] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begins or continues the study.

        Raises:
            StudyMismatchError: it was begun with other settings, perhaps just now.
            ConfigError: it has trials that this search could not have proposed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock, self.damage_as_config_error:
            self.optuna = open_study(self.folder, self.pruner, self.url, self.directions)
            existing = shared_settings_of(self.optuna)
            if existing is None:
                self.optuna.set_user_attr(SHARED_ATTRIBUTE, self.shared_settings)
            elif mismatch := first_difference(existing, self.shared_settings):
                raise StudyMismatchError(mismatch)
            check_within(self.optuna, self.space)
            for params in self.initial_params:
                self.optuna.enqueue_trial(params, skip_if_exists=True)

    @property
    def lock(self) -> FileLock:
        return FileLock(self.folder / "study.lock", is_singleton=True)

    @property
    def damage_as_config_error(self) -> AbstractContextManager[None]:
        return damage_as_config_error(self.folder, self.url)

    def total_trials(self, n_trials: int) -> int:
        """`n_trials`, or fewer if the space has fewer combinations."""
        size = self.space.size()
        return n_trials if size is None else min(n_trials, size)

    def next_trial(self, n_trials: int) -> LeasedTrial | None:
        """Leases the next trial: one whose process crashed or whose result is lost, or a new one.

        Returns:
            None if there are `n_trials` trials already.

        Raises:
            ConfigError: the study is damaged, so that Optuna cannot propose a trial.
        """
        with self.lock, self.damage_as_config_error:
            for number in self._unfinished():
                stale = self._stale_trial(number)
                if stale and stale.finished:
                    file = stale.folder / RECORD_FILE
                    log.warning(
                        f"trial {number} had ended, but {file} is gone or damaged: it is "
                        "retrained, unless you stop it (Ctrl-C) and restore the file from a copy"
                    )
                    return stale
                if stale:
                    self._suggest_all(number)
                    self._count_crash(stale)
                    return stale
            waiting = (TrialState.WAITING,)
            started = len(self.optuna.trials) - len(self.optuna.get_trials(states=waiting))
            size = self.space.size()
            if started >= n_trials or size == len(tried_identities(self.optuna)):
                return None
            self._seed(started)
            trial = acquire(self.optuna, self.folder, self.optuna.ask().number)
            assert trial, "no other process can hold a new trial"
            self._suggest_all(trial.number)
            return trial

    def held_by_others(self) -> list[int]:
        """The numbers of the trials that other workers hold."""
        with self.lock:
            return [number for number in self._unfinished() if self._is_held(number)]

    def has_orphans(self) -> bool:
        """Whether a trial must be resumed because its worker crashed.

        A crash on this host is detected immediately; on another host it is inferred from a missed
        heartbeat, which this method waits for.
        """
        # opened once, because each one monitors the heartbeats of its holder
        leases = [lease_lock(self.folder, number) for number in self._unfinished()]
        deadline = time.monotonic() + LEASE_SECONDS * 1.5
        while (held := self.held_by_others()) and time.monotonic() < deadline and not stop_reason():
            owners = [lease.owner for lease in leases]
            if all(owner is None or owner.hostname == socket.gethostname() for owner in owners):
                break
            time.sleep(1)
        return len(held) < len(self._unfinished())

    def has_result(self, number: int) -> bool:
        """Whether a trial's folder contains a finished record."""
        return number in self._with_result()

    def _with_result(self) -> set[int]:
        records = load_records(self.folder)
        return {int(record.folder.name) for record in records if record.finished}

    def _unfinished(self) -> list[int]:
        """The numbers of started trials without a result, or whose result is lost."""
        started = [
            t for t in self.optuna.get_trials(deepcopy=False) if t.state != TrialState.WAITING
        ]
        ended = self._with_result()
        return [
            trial.number
            for trial in started
            if trial.state == TrialState.RUNNING or trial.number not in ended
        ]

    def _stale_trial(self, number: int) -> LeasedTrial | None:
        """A trial without a result, if no process holds it."""
        trial = acquire(self.optuna, self.folder, number)
        # its worker has just reported the result and released the lease
        if trial and trial.finished and self.has_result(number):
            trial.release()
            return None
        return trial

    def _is_held(self, number: int) -> bool:
        trial = acquire(self.optuna, self.folder, number)
        if trial:
            trial.release()
        return trial is None

    def trial_for_settings(self, settings: str) -> LeasedTrial | None:
        """Leases the trial with these settings, or a new one; None if another process holds it."""
        with self.lock:
            for frozen in self.optuna.get_trials(deepcopy=False):
                if frozen.user_attrs.get("settings") == settings:
                    break
            else:
                trial = self.optuna.ask()
                trial.set_user_attr("settings", settings)
                frozen = self.optuna.trials[trial.number]
            return acquire(self.optuna, self.folder, frozen.number)

    def _count_crash(self, stale: LeasedTrial) -> None:
        """Counts a crash once, and only if the trial was running when its process crashed."""
        at_work = stale.folder / IN_PROGRESS_FILE
        if at_work.is_file():
            live_trial(self.optuna, stale.number).set_user_attr(
                CRASHES_ATTRIBUTE, stale.crash_count + 1
            )
            at_work.unlink()

    def _suggest_all(self, number: int) -> None:
        """Suggests all values that the trial does not have yet."""
        self._seed(number)
        suggest_all(live_trial(self.optuna, number), self.space)

    def _seed(self, number: int) -> None:
        # hashed, so that a study with the next seed does not repeat this study's proposals
        mixed = np.random.SeedSequence((self.seed, number)).generate_state(1)
        self.optuna.sampler = make_sampler(self.sampler, int(mixed[0]), self.space, self.optuna)


def best_settings(folder: Path, url: str | None, count: int) -> list[Params]:
    """The params of a study's best feasible trials, best first.

    Raises:
        ConfigError: the study does not exist.
    """
    names = study_names(folder, url)
    if folder.name not in names:
        hint = suggestion(folder.name, names)
        raise ConfigError(f"study.warm_start: there is no study {folder.name}{hint}")
    study = open_study(folder, NO_PRUNER, url)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in trials if all(over <= 0 for over in trial.constraints.values())]
    return [t.params for t in sorted(feasible, key=lambda t: t.values[0], reverse=True)[:count]]


def first_difference(before: dict[str, str], now: dict[str, str]) -> str:
    """Describes the first setting that differs; empty if none does."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            if key.endswith("fingerprint"):
                return f"the {key.split('.')[0]} changed since it began"
            return f"it began with {key}={before.get(key, '-')}, now it is {now.get(key, '-')}"
    return ""


def begin_study(config: StudyConfig, suggested: str, **parts: Any) -> Study:
    """Begins or continues a study, and stores its name in `config`.

    With the name, the study's stop file is found, and a retry continues the same study. A named
    study that was begun with other settings is refused. Without a name, the study is the first of
    `suggested`, `suggested-2`, ... that does not exist or was begun with the same settings.

    Args:
        parts: further arguments of `Study`.

    Raises:
        ConfigError: naming the difference.
    """
    name = config.name
    for candidate in [name] if name else [suggested, *(f"{suggested}-{i}" for i in range(2, 1000))]:
        try:
            folder = study_folder(Path(config.root), candidate, "study.name")
            study = Study(folder=folder, url=config.storage, **parts)
        except StudyMismatchError as error:
            mismatch = str(error)
        else:
            config.name = candidate
            return study
    raise ConfigError(
        f"study.name: {name or suggested} is another study: {mismatch}; choose another name, "
        f"such as study.name={name or suggested}-2"
    )
