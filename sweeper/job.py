"""One job: a trial of a sweep, or a trial by itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from evaluate.choice.merit import fidelity, violations
from sweeper.config import SweepConfig, suggested_name, trial_of
from sweeper.parts import Parts, load_parts, origin, shared_settings
from sweeper.progress import Progress
from sweeper.record import FAILED, FILE, Record, load_record
from sweeper.result import conclude
from sweeper.rules import memorised, pruned
from sweeper.sampling import identity
from sweeper.space import Params, Space
from sweeper.study import TOTAL, Study, StudyTrial, claim, open_study, study_folder
from sweeper.tracker import Tracker
from sweeper.trial import Trial, cause, keep_traceback, run_pack
from train.config import ConfigError

log = logging.getLogger(__name__)
INTERRUPTED = 130  # exit code after Ctrl-C


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
    suggested = f"{suggested_name(config)}-single"
    study = Study(
        folder=study_folder(Path(config.study.root), config.study.name, suggested, about),
        about=about,
        space=Space(()),
        sampler={},
        pruner={"_target_": "optuna.pruners.NopPruner"},  # single trials do not compete
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
    trial.complete(fidelity(card), violations(card, config.policy))


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
