"""The study in Optuna's storage: begun, continued, asked for trials, told of results."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from hydra.utils import instantiate
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from sweeper.conditions import applies
from sweeper.record import FILE, INTERRUPTED, load_record, trial_folder
from sweeper.sampling import known_settings, make_sampler
from sweeper.space import Params, Space
from train.config import ConfigError, suggestion

JOURNAL = "optuna.journal"
ABOUT = "about"  # user attribute of a study: what all its trials share
# what a search looks for, first of all the fidelity
Directions = tuple[Literal["maximize", "minimize"], ...]
OBJECTIVES: dict[str, Directions] = {
    "fidelity": ("maximize",),
    "pareto": ("maximize", "minimize"),  # and the memorisation
}
DEATHS = "deaths"  # user attribute of a trial: how often its process died
TOTAL = "trials"  # user attribute of a study: how many trials it will have
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


@dataclass
class StudyTrial:
    """A trial as the storage knows it, held by this process until the end of its `with`."""

    study: optuna.Study
    number: int
    folder: Path
    lock: FileLock

    def __enter__(self) -> StudyTrial:
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    @property
    def params(self) -> Params:
        return self.frozen.params

    @property
    def frozen(self) -> FrozenTrial:
        return self.study.trials[self.number]

    @property
    def finished(self) -> bool:
        return self.frozen.state.is_finished()

    @property
    def deaths(self) -> int:
        """How often a process died with it."""
        return int(self.frozen.user_attrs.get(DEATHS, 0))

    def report(self, epoch: int, value: float) -> None:
        """Tells the pruner; a second report of an epoch is left out."""
        if self.compared and epoch not in self.frozen.intermediate_values:
            self._trial.report(value, epoch)

    def should_prune(self) -> bool:
        return self.compared and self._trial.should_prune()

    @property
    def compared(self) -> bool:
        """Whether its epochs can be compared with other trials': where there is one objective."""
        return len(self.study.directions) == 1

    def complete(self, values: Sequence[float], violations: dict[str, float]) -> None:
        """The objectives, and how far the constraints are exceeded (0 and below: kept).

        Args:
            values: fidelity and memorisation; the study takes as many as it has directions.
        """
        trial = self._trial
        for name, over in violations.items():
            if name not in trial.constraints:  # set already by a process that then died
                trial.set_constraint(name, over)
        objectives = list(values[: len(self.study.directions)])
        self.study.tell(self.number, objectives, skip_if_finished=True)

    def fail(self) -> None:
        self.study.tell(self.number, state=TrialState.FAIL, skip_if_finished=True)

    @property
    def _trial(self) -> optuna.Trial:
        return live_trial(self.study, self.number)


@dataclass
class Study:
    """A study and its folder.

    Attributes:
        about: what all trials share, flat; a study is continued only with the same.
        first: settings that are tried before any are proposed.
    """

    folder: Path
    about: dict[str, str]
    space: Space
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    seed: int
    directions: Directions = OBJECTIVES["fidelity"]
    first: list[Params] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock:
            self.optuna = open_study(self.folder, self.pruner, self.directions)
            began = self.optuna.user_attrs.get(ABOUT)
            if began is None:
                self.optuna.set_user_attr(ABOUT, self.about)
            for params in self.first:
                self.optuna.enqueue_trial(params, skip_if_exists=True)

    @property
    def lock(self) -> FileLock:
        return FileLock(self.folder / "study.lock")

    def total(self, wanted: int) -> int:
        """`wanted`, or fewer where the space has no more combinations."""
        size = self.space.size()
        return wanted if size is None else min(wanted, size)

    def next_trial(self, wanted: int) -> StudyTrial | None:
        """A trial whose process died, else a new one; None: there are `wanted` trials."""
        with self.lock:
            for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                orphan = claim(self.optuna, self.folder, frozen.number)
                if orphan:
                    self._settle(frozen.number)
                    self._count_death(orphan)
                    return orphan
            waiting = (TrialState.WAITING,)
            begun = len(self.optuna.trials) - len(self.optuna.get_trials(states=waiting))
            size = self.space.size()
            if begun >= wanted or size == len(known_settings(self.optuna)):
                return None
            self._seed(begun)
            trial = claim(self.optuna, self.folder, self.optuna.ask().number)
            assert trial, "a new trial is nobody else's"
            self._settle(trial.number)
            return trial

    def trial_of(self, settings: str) -> StudyTrial | None:
        """The trial with these settings, begun if there is none; None: another process has it."""
        with self.lock:
            for frozen in self.optuna.get_trials(deepcopy=False):
                if frozen.user_attrs.get("settings") == settings:
                    break
            else:
                trial = self.optuna.ask()
                trial.set_user_attr("settings", settings)
                frozen = self.optuna.trials[trial.number]
            return claim(self.optuna, self.folder, frozen.number)

    def _count_death(self, orphan: StudyTrial) -> None:
        file = orphan.folder / FILE
        if not file.is_file() or load_record(orphan.folder).state != INTERRUPTED:
            trial = live_trial(self.optuna, orphan.number)
            trial.set_user_attr(DEATHS, orphan.deaths + 1)

    def _settle(self, number: int) -> None:
        """Proposes what the trial has not got yet."""
        self._seed(number)
        settle(live_trial(self.optuna, number), self.space)

    def _seed(self, number: int) -> None:
        self.optuna.sampler = make_sampler(
            self.sampler, self.seed + number, self.space, self.optuna
        )


def open_study(
    folder: Path, pruner: dict[str, Any], directions: Directions = OBJECTIVES["fidelity"]
) -> optuna.Study:
    """The study of a folder, created where there is none. The pruner is not stored: it is given.

    Args:
        directions: of a study that is created.
    """
    file = folder / JOURNAL
    # the system frees this lock with its process, so that a killed one blocks nobody
    lock: Any = FileLock(f"{file}.lock")
    with lock:
        if file.exists():
            mend(file)
    storage = JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
    return optuna.create_study(
        study_name=folder.name,
        storage=storage,
        directions=directions,
        pruner=instantiate(pruner),
        load_if_exists=True,
    )


def mend(journal: Path) -> None:
    """Cuts off a last line that a dying process left half written.

    Optuna reads on until the next append, which would then corrupt the journal for good.
    """
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as stream:
            stream.truncate(whole)


def claim(study: optuna.Study, folder: Path, number: int, again: bool = False) -> StudyTrial | None:
    """A trial of a study, held by this process; None where a living process has it.

    Args:
        folder: of the study.
        again: this process may have it already (the sweeper claims it before it starts the job).
    """
    place = trial_folder(folder, number)
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock", is_singleton=True)
    if lock.is_locked and not again:
        return None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return StudyTrial(study, number, place, lock)


def live_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Optuna's handle to a running trial, from its number."""
    storage = study._storage
    trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return optuna.Trial(study, trial)


def settle(trial: optuna.Trial, space: Space) -> None:
    """Gives a trial a value for each dimension that means something beside those before it."""
    for name, distribution in space.distributions.items():
        if applies(name, trial.params):
            suggest(trial, name, distribution)


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """A value for one dimension; the one from before, where the trial has it already."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def best_settings(folder: Path, count: int) -> list[Params]:
    """Those of a study's best trials that keep the limits, best first.

    Raises:
        ConfigError: there is no such study.
    """
    if not (folder / JOURNAL).is_file():
        others = [file.parent.name for file in folder.parent.glob(f"*/{JOURNAL}")]
        near = suggestion(folder.name, others)
        raise ConfigError(f"study.from_study: there is no study {folder.name}{near}")
    study = open_study(folder, {"_target_": "optuna.pruners.NopPruner"})
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    kept = [trial for trial in trials if all(over <= 0 for over in trial.constraints.values())]
    return [t.params for t in sorted(kept, key=lambda t: t.values[0], reverse=True)[:count]]


def begun_with(folder: Path) -> dict[str, str] | None:
    """What the study of a folder was begun with; None where none was begun."""
    if not (folder / JOURNAL).is_file():
        return None
    with FileLock(folder / "study.lock"):
        return open_study(folder, {"_target_": "optuna.pruners.NopPruner"}).user_attrs.get(ABOUT)


def difference(began: dict[str, str], now: dict[str, str]) -> str:
    """The first thing that is not as it was, in words; empty where all is."""
    for key in sorted({*began, *now}):
        if began.get(key) != now.get(key):
            if key.endswith("fingerprint"):
                return f"the {key.split('.')[0]} changed since it began"
            return f"it began with {key}={began.get(key, '-')}, now it is {now.get(key, '-')}"
    return ""


def study_folder(root: Path, name: str | None, suggested: str, about: dict[str, str]) -> Path:
    """The folder of the study to begin or to continue.

    A study that has a name is refused where it was begun with something else. One without is the
    first of `suggested`, `suggested-2`, ... that was begun with the same, or not begun yet.

    Raises:
        ConfigError: naming the difference.
    """
    for candidate in [name] if name else [suggested, *(f"{suggested}-{i}" for i in range(2, 1000))]:
        folder = root / "studies" / candidate
        began = begun_with(folder)
        other = difference(began, about) if began is not None else ""
        if not other:
            return folder
    raise ConfigError(
        f"study.name: {name} is another study: {other}; choose another name, such as "
        f"study.name={name}-2"
    )
