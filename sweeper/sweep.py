"""A study from its command line to its end: the loop over trials, and the job of each."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from evaluate.policy import fidelity, violations
from sweeper.config import SweepConfig, check_sweep, trial_of
from sweeper.parts import Parts, load_parts, origin, shared_settings
from sweeper.progress import Progress
from sweeper.record import FAILED, FILE, Record, load_record, load_records
from sweeper.result import conclude
from sweeper.rules import memorised, pruned
from sweeper.sampling import identity
from sweeper.search import OptunaSweeper
from sweeper.space import Params, Space, parse_space
from sweeper.study import Study, StudyTrial, claim, open_study, study_folder
from sweeper.tracker import Tracker
from sweeper.trial import Trial, cause, keep_traceback, run_pack
from train.command import with_one_line_errors
from train.config import EMBEDDED, ConfigError, keys, suggestion, typed

log = logging.getLogger(__name__)
INTERRUPTED = 130  # exit code after Ctrl-C
TOTAL = "trials"  # user attribute of a study: how many trials it will have


def sweep(sweeper: OptunaSweeper, arguments: list[str]) -> None:
    """Runs the trials that the study lacks; the same again continues it."""
    with_one_line_errors(lambda: _sweep(sweeper, arguments))


def _sweep(sweeper: OptunaSweeper, arguments: list[str]) -> None:
    loader = sweeper.hydra_context.config_loader
    master = sweeper.config
    search = {str(k): str(v) for k, v in master.search.items()}  # each resolved as it is read
    space, fixed = parse_space(arguments, search, OverridesParser.create(loader))
    if not isinstance(sweeper.n_trials, int) or sweeper.n_trials < 1:
        raise ConfigError(f"hydra.sweeper.n_trials: {sweeper.n_trials!r} must be 1 or more")
    config = _job_config(sweeper, fixed)
    _check_space(sweeper, space, fixed)
    log.info("searching " + "; ".join(f"{k}: {words}" for k, words in space.describe().items()))
    parts = load_parts(config)
    about = shared_settings(config, parts, space)
    study = Study(
        folder=study_folder(Path(config.study.root), config.study.name, _suggested(config), about),
        about=about,
        space=space,
        sampler=sweeper.sampler,
        pruner=config.pruner,
        seed=sweeper.seed,
        defaults=_defaults(master, space),
    )
    total = study.total(sweeper.n_trials)
    study.optuna.set_user_attr(TOTAL, total)
    tracker = Tracker(Path(config.study.root), study.folder)
    with ending_cleanly(tracker):
        _announce(study, total, sweeper.n_trials)
        budget = {"n_trials": str(total), "seed": str(sweeper.seed), **study.about}
        tracker.begin(budget, origin(parts), yaml.safe_dump(asdict(config), sort_keys=False))
        while trial := study.next_trial(sweeper.n_trials):
            with trial:
                _launch(sweeper, study, trial, fixed)
        conclude(study.folder, config.policy, tracker, parts)


def _launch(sweeper: OptunaSweeper, study: Study, trial: StudyTrial, fixed: list[str]) -> None:
    """Has Hydra run one trial, unless its settings cannot go together."""
    overrides = [*fixed, f"study.name={study.folder.name}", *study.space.overrides(trial.params)]
    try:
        _job_config(sweeper, overrides)
    except ConfigError as error:
        trial.fail()
        Record(
            folder=trial.folder,
            study=study.folder.name,
            number=trial.number,
            settings={},
            overrides=overrides,
            params=trial.params,
            tags={},
        ).end(FAILED, str(error))
        log.info(f"trial {trial.number + 1}  failed: {error}")
        return
    sweeper.launcher.launch([overrides], initial_job_idx=trial.number)
    if not trial.finished:  # the job itself broke, outside of the trial
        trial.fail()


def run(config: SweepConfig) -> None:
    """One job of a sweep, or one trial by itself."""
    job = HydraConfig.get().job
    overrides = list(HydraConfig.get().overrides.task)
    if OmegaConf.is_missing(job, "num"):
        _run_single(config, overrides)
        return
    folder = Path(config.study.root) / "studies" / str(config.study.name)
    optuna = open_study(folder, config.pruner)
    trial = claim(optuna, folder, int(job.num), again=True)
    if trial is None:
        raise ConfigError(f"trial {job.num} of {folder.name} is run by another process")
    with trial:
        try:
            run_trial(config, trial, trial.params, overrides, optuna.user_attrs[TOTAL])
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)  # the sweeper has the last word


def _run_single(config: SweepConfig, overrides: list[str]) -> None:
    """The configured settings as one trial, in a study of single trials."""
    parts = load_parts(config)
    about = shared_settings(config, parts, None)
    suggested = f"{_suggested(config)}-single"
    study = Study(
        folder=study_folder(Path(config.study.root), config.study.name, suggested, about),
        about=about,
        space=Space(()),
        sampler={},
        pruner=config.pruner,
        seed=0,
    )
    tracker = Tracker(Path(config.study.root), study.folder)
    with ending_cleanly(tracker):
        trial = study.trial_of(identity(asdict(trial_of(config))))
        if trial is None:
            raise ConfigError("these settings are being trained by another process")
        with trial:
            tracker.begin(study.about, origin(parts), yaml.safe_dump(asdict(config)))
            if trial.finished:
                log.info(f"trial {trial.number} of {study.folder} had these settings already")
            else:
                params = dict(o.split("=", 1) for o in overrides if not o.startswith("study."))
                run_trial(config, trial, params, overrides, trial.number + 1)
        conclude(study.folder, config.policy, tracker, parts)


def run_trial(
    config: SweepConfig, trial: StudyTrial, params: Params, overrides: list[str], total: int
) -> None:
    """Runs a trial and tells the study; what goes wrong in it stays its own."""
    root = Path(config.study.root)
    parts = load_parts(config)
    study = trial.folder.parent.parent
    record = _record(config, trial, params, overrides, parts)
    scored = -(-config.training.epochs // config.training.save_every)
    work = Trial(
        config=config,
        record=record,
        tracker=Tracker(root, study),
        progress=Progress(study, total, scored),
        rules=[
            memorised(config.policy, config.study.memorised_epochs, config.study.min_epochs),
            pruned(trial, config.policy, config.study.min_epochs),
        ],
    )
    try:
        run_pack([work], parts)
    except KeyboardInterrupt:
        work.interrupt()
        raise
    except Exception as error:  # whatever it is, the other trials go on
        log.debug("trial %d", trial.number, exc_info=True)
        keep_traceback(record, error)
        work.fail(cause(error))
    tell(trial, record, config)


def tell(trial: StudyTrial, record: Record, config: SweepConfig) -> None:
    """The objective and the constraints of a trial: those of its selected checkpoint."""
    if record.state == FAILED:
        trial.fail()
        return
    card = next(card for card in record.scorecards if card.epoch == record.selected)
    trial.complete(fidelity(card).value, violations(card, config.policy))


def _record(
    config: SweepConfig, trial: StudyTrial, params: Params, overrides: list[str], parts: Parts
) -> Record:
    """The record of a trial, from its folder where it was begun before."""
    if (trial.folder / FILE).is_file():
        return load_record(trial.folder)
    return Record(
        folder=trial.folder,
        study=trial.folder.parent.parent.name,
        number=trial.number,
        settings=asdict(config),
        overrides=overrides,
        params=params,
        tags=origin(parts),
    )


@contextmanager
def ending_cleanly(tracker: Tracker) -> Iterator[None]:
    """Ctrl-C ends with a word and code 130, and nothing that was finished is lost."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        tracker.interrupt()
        print("interrupted; the same command continues the study", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _announce(study: Study, total: int, wanted: int) -> None:
    records = load_records(study.folder)
    finished = sum(record.finished for record in records)
    begun = f"{total} trials"
    if records:
        begun = f"continues: {finished} of {total} trials are finished"
    few = "" if total == wanted else f" (all combinations; {wanted} were asked for)"
    log.info(f"study {study.folder}  {begun}{few}")


def _suggested(config: SweepConfig) -> str:
    """A name for a study that was given none: that of the pictures' folder."""
    if config.data.path == EMBEDDED:
        return EMBEDDED
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.data.path).resolve().name).strip("-._")
    return name[:60] or "study"


def _job_config(sweeper: OptunaSweeper, overrides: list[str]) -> SweepConfig:
    """The config of a job, checked.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        composed = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, overrides)
    except HydraException as error:
        raise ConfigError(" ".join(f"{error} {error.__cause__ or ''}".split())) from None
    with open_dict(composed):
        del composed["hydra"]
    config = typed(SweepConfig, composed)
    check_sweep(config)
    return config


def _check_space(sweeper: OptunaSweeper, space: Space, fixed: list[str]) -> None:
    """Tries each dimension's values, ends of ranges, one at a time."""
    groups = set(sweeper.config.hydra.runtime.choices)
    known = [*keys(sweeper.config), *groups]
    for dimension in space.dimensions:
        if dimension.key.lstrip("+") not in known:
            near = suggestion(dimension.key, known)
            raise ConfigError(f"{dimension.key}: there is no such setting{near}")
        for value in dimension.ends():
            _job_config(sweeper, [*fixed, dimension.override(value)])


def _defaults(master: DictConfig, space: Space) -> Params:
    """The configured settings as far as they lie in the space."""
    defaults = {}
    for dimension in space.dimensions:
        if dimension.key in master.hydra.runtime.choices:
            value = master.hydra.runtime.choices[dimension.key]
        else:
            value = OmegaConf.select(master, dimension.key)
        if dimension.contains(value):
            defaults[dimension.key] = value
    return defaults
