"""Trains a logged run again and compares, as `python -m sweeper.reproduce` does."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.config import StudyConfig, SweepConfig
from sweeper.execution.context import load_context, origin, origin_of_dataset
from sweeper.reproduction.compare import DIFFERENT, compare, judge, pairs, table
from sweeper.reproduction.config import ReproduceConfig
from sweeper.reproduction.environment_diff import differences, other_base, other_pictures
from sweeper.reproduction.migrate_config import MigratedConfig, migrate
from sweeper.reproduction.mlflow_lookup import client_of, find_best, find_run
from sweeper.reproduction.original_run import (
    STUDY_OF_FILES,
    Original,
    of_file,
    of_run,
    of_study,
    score_file,
)
from sweeper.reproduction.retrain import retrain
from sweeper.study_folder import study_folder
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import TrialRecord
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.errors import ConfigError
from train.files.atomic_write import write_text_atomically
from train.files.paths import expanded
from train.loop.construction_checks import check_construction
from train.models.base_model import BaseError
from train.text.display import shortened
from train.text.terminal import print_lines

log = logging.getLogger(__name__)


def main(config: ReproduceConfig) -> None:
    """Trains a run again; exits with 0 where it is identical or within tolerance, 1 otherwise."""
    root = Path(config.root)
    original = fetch(config, root)
    log.info(f"making again {original.description}")
    carried = settings_of(original, config)
    trial = carried.config
    check_construction(trial)
    check_pictures(original, trial, config)
    try:
        context = load_context(trial)
    except BaseError as error:
        hint = "" if config.base.path else "; base.path= says where the base is now"
        raise BaseError(f"{error}{hint}") from None
    now = origin(context)
    if (other := other_base(original.tags, now)) and not config.force:
        raise ConfigError(f"base.path: {trial.base.path} is {other}; {_way_out('base.path')}")
    _announce(original, carried, now)
    if original.file is not None:
        log.info(f"scoring {original.file}, which has no scores of then")
        scored = score_file(original.file, original.selected, context.scorer)
        original = replace(original, epochs=[scored])
    tracker = MlflowMirror(root, study_folder(root, original.study))
    again = retrain(original, trial, context, tracker)
    verdict = conclude(original, again, config.tolerance, tracker)
    if verdict == DIFFERENT:
        sys.exit(1)


def fetch(config: ReproduceConfig, root: Path) -> Original:
    """What is to be made again.

    Raises:
        ConfigError: no such run or study, or one that has nothing to compare with.
        CheckpointError: no LoRA file of ours.
    """
    if config.lora:
        return of_file(expanded(config.lora))
    tracker = MlflowMirror(root, study_folder(root, STUDY_OF_FILES))
    if config.run_id:
        client = client_of(tracker)
        return of_run(tracker, find_run(client, config.run_id), root)
    assert config.study
    try:
        client = client_of(tracker)
        return of_run(tracker, find_best(client, config.study), root)
    except ConfigError as error:
        found = of_study(study_folder(root, config.study))
        if found is None:
            raise
        log.info(f"{error}; the study's folder is used")
        return found


def settings_of(original: Original, config: ReproduceConfig) -> MigratedConfig:
    """The settings to train with, with the paths that the command line gives.

    Raises:
        ConfigError: settings of another version.
    """
    places: dict[str, Any] = config.places
    had_set = original.settings.text("probes", "file")
    if had_set and "probes.file" not in places and original.probes:
        file = Path(config.root) / "reproductions" / f"{original.file_name}-probes.yaml"
        write_text_atomically(file, original.probes)
        places["probes.file"] = str(file)
    commit = original.tags.get("git.commit")
    by = f" (commit {commit})" if commit else ""
    carried = migrate(original.settings, places, config.force, by)
    trial = carried.config
    trial.study = StudyConfig(
        name=original.study, root=config.root, keep_checkpoints=config.keep_checkpoints
    )
    trial.search, trial.pack = {}, 1
    if original.file is not None:  # the checkpoint to have in the end is the one that is there
        last = trial.training.max_steps or trial.training.epochs
        if not 1 <= original.selected <= last:
            raise ConfigError(
                f"lora: {shortened(original.file)} says that it is of epoch {original.selected}, "
                f"but its settings train from 1 to {last}"
            )
        trial.selection = replace(trial.selection, rule="epoch", epoch=original.selected)
    return carried


def check_pictures(original: Original, trial: SweepConfig, config: ReproduceConfig) -> None:
    """Before the base is loaded, which takes its time.

    Raises:
        ConfigError: they are not here, or are others; saying how.
    """
    try:
        pictures = load_dataset(trial.data)
    except DataError as error:
        if any(key.startswith("data.") for key in config.places):
            raise
        raise ConfigError(f"{error}; data.path= says where the pictures are now") from None
    other = other_pictures(original.tags, origin_of_dataset(pictures))
    if other and not config.force:
        raise ConfigError(f"data.path: {trial.data.path} has {other}; {_way_out('data.path')}")


def conclude(
    original: Original, again: TrialRecord, tolerance: dict[str, float], tracker: MlflowMirror
) -> str:
    """Prints and logs the comparison and the verdict, which it returns."""
    both = pairs(original.epochs, again.epochs)
    compared = [compare(then, now) if now else None for then, now in both]
    verdict = judge(compared, tolerance)
    there = [one for one in compared if one]
    same = sum(one.same_weights for one in there)
    missing = [then.scorecard.label for then, now in both if now is None]
    lines = [
        *(line for then, now in both if now and then.scorecard.epoch == original.selected
          for line in table(then, now, there, tolerance).split("\n")),
        *(f"{label} is missing" for label in missing),
        f"verdict: {verdict} (weights the same bytes in {same} of {len(both)} scored epochs)",
    ]  # fmt: skip
    print_lines(*lines)
    tracker.catch_up()
    with tracker.tolerate_outage():
        run = tracker.run_of(again)
        run.set_tags({"verdict": verdict})
        epochs = [f"epoch {one.epoch}: {one.words}" for one in there]
        run.log_text("\n".join([*epochs, *lines]), "reproduction.txt")
        print_lines(f"logged as run {run.id}; its files are in {again.folder}")
    return verdict


def _announce(original: Original, carried: MigratedConfig, now: dict[str, str]) -> None:
    """What differs from then, before anything is trained."""
    lines = differences(original.tags, now)
    for what, settings in (
        ("settings that did not exist then have today's values", carried.added),
        ("settings that do not exist any more are left out", carried.dropped),
    ):
        if settings:
            listed = ", ".join(shortened(f"{key}={value}") for key, value in settings.items())
            lines.append(f"{what}: {listed}")
    if (pack := original.tags.get("pack", "1")) != "1":
        lines.append(
            f"differs: it was trained in a pack of {pack}, now it is alone: the same sums in "
            "another order, which training widens; with pack=1 a run is reproduced to the byte"
        )
    for line in lines:
        log.info(line)


def _way_out(key: str) -> str:
    return f"{key}= says where the right one is; force=true trains with this one"
