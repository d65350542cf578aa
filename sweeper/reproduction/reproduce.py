"""Retrains a logged run and compares the results: the command `python -m sweeper.reproduce`."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.config import StudyConfig, SweepConfig
from sweeper.execution.context import dataset_tags, load_context, origin_tags
from sweeper.reproduction.compare import (
    DIFFERENT,
    compare,
    comparison_table,
    pair_epochs,
    verdict_of,
)
from sweeper.reproduction.config import ReproduceConfig
from sweeper.reproduction.environment_diff import (
    base_difference,
    dataset_difference,
    environment_differences,
)
from sweeper.reproduction.migrate_config import MigratedConfig, migrate
from sweeper.reproduction.mlflow_lookup import client_of, find_best, find_run
from sweeper.reproduction.original_run import (
    STUDY_OF_FILES,
    Original,
    original_from_file,
    original_from_run,
    original_from_study,
    score_file,
)
from sweeper.reproduction.retrain import retrain
from sweeper.study_folder import study_folder
from sweeper.tracking.mlflow_mirror import MlflowMirror
from sweeper.tracking.trial_record import TrialRecord, study_not_found
from train.data.dataset import load_dataset
from train.data.images.image import DataError
from train.errors import CheckpointError, ConfigError
from train.files.atomic_write import write_text_atomically
from train.files.paths import expanded
from train.loop.construction_checks import check_construction
from train.models.base_model import BaseError
from train.text.display import shortened
from train.text.terminal import print_lines

log = logging.getLogger(__name__)


def main(config: ReproduceConfig) -> None:
    """Reproduces a run; exits with 0 if it is identical or within tolerance, with 1 otherwise."""
    root = Path(config.root)
    original = find_original(config, root)
    log.info(f"reproducing {original.description}")
    migrated = reproduction_settings(original, config)
    trial = migrated.config
    check_construction(trial)
    check_dataset(original, trial, config)
    try:
        context = load_context(trial)
    except BaseError as error:
        hint = "" if config.base.path else "; set base.path= to the base's current location"
        raise BaseError(f"{error}{hint}") from None
    current = origin_tags(context)
    if (difference := base_difference(original.tags, current)) and not config.force:
        raise ConfigError(
            f"base.path: {trial.base.path} is {difference}; {_mismatch_hint('base.path')}"
        )
    _log_differences(original, migrated, current)
    if original.file is not None:
        log.info(f"scoring {original.file}, because it contains no original scores")
        scored = score_file(original.file, original.selected, context.scorer)
        original = replace(original, epochs=[scored])
    mirror = MlflowMirror(root, study_folder(root, original.study))
    reproduced = retrain(original, trial, context, mirror)
    verdict = report_verdict(original, reproduced, config.tolerance, mirror)
    if verdict == DIFFERENT:
        sys.exit(1)


def find_original(config: ReproduceConfig, root: Path) -> Original:
    """Finds the run, study or file to reproduce.

    Raises:
        ConfigError: it does not exist, or there is nothing to compare with.
        CheckpointError: it is not a LoRA file of this program.
    """
    if config.lora:
        try:
            return original_from_file(expanded(config.lora))
        except CheckpointError as error:
            raise CheckpointError(f"lora: {error}") from None
    mirror = MlflowMirror(root, study_folder(root, STUDY_OF_FILES))
    if config.run_id:
        client = client_of(mirror)
        return original_from_run(mirror, find_run(client, config.run_id), root)
    assert config.study
    try:
        client = client_of(mirror)
        return original_from_run(mirror, find_best(client, config.study), root)
    except ConfigError as error:
        folder = study_folder(root, config.study)
        original = original_from_study(folder)
        if original is None and not mirror.exists and not folder.is_dir():
            raise study_not_found(folder) from None
        if original is None:
            raise
        log.info(f"{error}; the study's folder is used")
        return original


def reproduction_settings(original: Original, config: ReproduceConfig) -> MigratedConfig:
    """The settings to train with, including the locations on the command line.

    Raises:
        ConfigError: this version does not accept the original settings.
    """
    locations: dict[str, Any] = config.locations
    logged_file = original.settings.text("probes", "file")
    if logged_file and "probes.file" not in locations and original.probes:
        file = Path(config.root) / "reproductions" / f"{original.file_name}-probes.yaml"
        write_text_atomically(file, original.probes)
        locations["probes.file"] = str(file)
    commit = original.tags.get("git.commit")
    version = f" (commit {commit})" if commit else ""
    migrated = migrate(original.settings, locations, config.force, version)
    trial = migrated.config
    trial.study = StudyConfig(
        name=original.study, root=config.root, keep_checkpoints=config.keep_checkpoints
    )
    trial.search, trial.pack = {}, 1
    if original.file is not None:  # reproduces the epoch of the file
        last = trial.training.max_steps or trial.training.epochs
        if not 1 <= original.selected <= last:
            raise ConfigError(
                f"lora: {shortened(original.file)} claims to be epoch {original.selected}, "
                f"but its settings train epochs 1 to {last}"
            )
        trial.selection = replace(trial.selection, rule="epoch", epoch=original.selected)
    return migrated


def check_dataset(original: Original, trial: SweepConfig, config: ReproduceConfig) -> None:
    """Checks that the images are the original ones, before the base is loaded, which takes time.

    Raises:
        ConfigError: the images are missing or different.
    """
    try:
        dataset = load_dataset(trial.data)
    except DataError as error:
        if any(key.startswith("data.") for key in config.locations):
            raise
        raise ConfigError(f"{error}; set data.path= to the images' current location") from None
    difference = dataset_difference(original.tags, dataset_tags(dataset))
    if difference and not config.force:
        raise ConfigError(
            f"data.path: {trial.data.path} has {difference}; {_mismatch_hint('data.path')}"
        )


def report_verdict(
    original: Original, reproduced: TrialRecord, tolerance: dict[str, float], mirror: MlflowMirror
) -> str:
    """Prints and logs the comparison, and returns the verdict."""
    epoch_pairs = pair_epochs(original.epochs, reproduced.epochs)
    comparisons = [compare(before, after) if after else None for before, after in epoch_pairs]
    verdict = verdict_of(comparisons, tolerance)
    present = [comparison for comparison in comparisons if comparison]
    identical = sum(comparison.same_weights for comparison in present)
    missing = [before.scorecard.label for before, after in epoch_pairs if after is None]
    lines = [
        line
        for before, after in epoch_pairs
        if after and before.scorecard.epoch == original.selected
        for line in comparison_table(before, after, present, tolerance).split("\n")
    ]
    lines += [f"{label} is missing" for label in missing]
    counts = f"{identical} of {len(epoch_pairs)}"
    lines.append(f"verdict: {verdict} (identical weights in {counts} scored epochs)")
    print_lines(*lines)
    mirror.flush()
    with mirror.tolerate_outage():
        run = mirror.run_for(reproduced)
        run.set_tags({"verdict": verdict})
        epochs = [f"epoch {comparison.epoch}: {comparison.summary}" for comparison in present]
        run.log_text("\n".join([*epochs, *lines]), "reproduction.txt")
        print_lines(f"logged as run {run.id}; its files are in {reproduced.folder}")
    return verdict


def _log_differences(original: Original, migrated: MigratedConfig, current: dict[str, str]) -> None:
    """Logs what differs from the original, before anything is trained."""
    lines = environment_differences(original.tags, current)
    for description, settings in (
        ("settings that are new since the original run have their defaults", migrated.added),
        ("settings that no longer exist are dropped", migrated.dropped),
    ):
        if settings:
            listed = ", ".join(shortened(f"{key}={value}") for key, value in settings.items())
            lines.append(f"{description}: {listed}")
    if (pack := original.tags.get("pack", "1")) != "1":
        lines.append(
            f"differs: it was trained in a pack of {pack}, and now alone; this changes the order "
            "of additions, and training amplifies the difference; a run with pack=1 can be "
            "reproduced byte for byte"
        )
    for line in lines:
        log.info(line)


def _mismatch_hint(key: str) -> str:
    return f"set {key}= to the location of the right one, or force=true to use this one"
