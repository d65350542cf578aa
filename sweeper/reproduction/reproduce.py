"""Trains a logged run again and compares, as `python -m sweeper.reproduce` does."""

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
    original = find_original(config, root)
    log.info(f"making again {original.description}")
    migrated = reproduction_settings(original, config)
    trial = migrated.config
    check_construction(trial)
    check_dataset(original, trial, config)
    try:
        context = load_context(trial)
    except BaseError as error:
        hint = "" if config.base.path else "; base.path= says where the base is now"
        raise BaseError(f"{error}{hint}") from None
    current = origin_tags(context)
    if (difference := base_difference(original.tags, current)) and not config.force:
        raise ConfigError(
            f"base.path: {trial.base.path} is {difference}; {_mismatch_hint('base.path')}"
        )
    _log_differences(original, migrated, current)
    if original.file is not None:
        log.info(f"scoring {original.file}, which has no scores of then")
        scored = score_file(original.file, original.selected, context.scorer)
        original = replace(original, epochs=[scored])
    mirror = MlflowMirror(root, study_folder(root, original.study))
    reproduced = retrain(original, trial, context, mirror)
    verdict = report_verdict(original, reproduced, config.tolerance, mirror)
    if verdict == DIFFERENT:
        sys.exit(1)


def find_original(config: ReproduceConfig, root: Path) -> Original:
    """What is to be made again.

    Raises:
        ConfigError: no such run or study, or one that has nothing to compare with.
        CheckpointError: no LoRA file of ours.
    """
    if config.lora:
        return original_from_file(expanded(config.lora))
    mirror = MlflowMirror(root, study_folder(root, STUDY_OF_FILES))
    if config.run_id:
        client = client_of(mirror)
        return original_from_run(mirror, find_run(client, config.run_id), root)
    assert config.study
    try:
        client = client_of(mirror)
        return original_from_run(mirror, find_best(client, config.study), root)
    except ConfigError as error:
        original = original_from_study(study_folder(root, config.study))
        if original is None:
            raise
        log.info(f"{error}; the study's folder is used")
        return original


def reproduction_settings(original: Original, config: ReproduceConfig) -> MigratedConfig:
    """The settings to train with, with the paths that the command line gives.

    Raises:
        ConfigError: settings of another version.
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
    if original.file is not None:  # the checkpoint to have in the end is the one that is there
        last = trial.training.max_steps or trial.training.epochs
        if not 1 <= original.selected <= last:
            raise ConfigError(
                f"lora: {shortened(original.file)} says that it is of epoch {original.selected}, "
                f"but its settings train from 1 to {last}"
            )
        trial.selection = replace(trial.selection, rule="epoch", epoch=original.selected)
    return migrated


def check_dataset(original: Original, trial: SweepConfig, config: ReproduceConfig) -> None:
    """Before the base is loaded, which takes its time.

    Raises:
        ConfigError: they are not here, or are others; saying how.
    """
    try:
        dataset = load_dataset(trial.data)
    except DataError as error:
        if any(key.startswith("data.") for key in config.locations):
            raise
        raise ConfigError(f"{error}; data.path= says where the pictures are now") from None
    difference = dataset_difference(original.tags, dataset_tags(dataset))
    if difference and not config.force:
        raise ConfigError(
            f"data.path: {trial.data.path} has {difference}; {_mismatch_hint('data.path')}"
        )


def report_verdict(
    original: Original, reproduced: TrialRecord, tolerance: dict[str, float], mirror: MlflowMirror
) -> str:
    """Prints and logs the comparison and the verdict, which it returns."""
    epoch_pairs = pair_epochs(original.epochs, reproduced.epochs)
    comparisons = [compare(before, after) if after else None for before, after in epoch_pairs]
    verdict = verdict_of(comparisons, tolerance)
    present = [comparison for comparison in comparisons if comparison]
    identical = sum(comparison.same_weights for comparison in present)
    missing = [before.scorecard.label for before, after in epoch_pairs if after is None]
    lines = [
        *(line for before, after in epoch_pairs if after and before.scorecard.epoch == original.selected
          for line in comparison_table(before, after, present, tolerance).split("\n")),
        *(f"{label} is missing" for label in missing),
        f"verdict: {verdict} (weights the same bytes in {identical} of {len(epoch_pairs)} scored epochs)",
    ]  # fmt: skip
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
    """What differs from then, before anything is trained."""
    lines = environment_differences(original.tags, current)
    for description, settings in (
        ("settings that did not exist then have today's values", migrated.added),
        ("settings that do not exist any more are left out", migrated.dropped),
    ):
        if settings:
            listed = ", ".join(shortened(f"{key}={value}") for key, value in settings.items())
            lines.append(f"{description}: {listed}")
    if (pack := original.tags.get("pack", "1")) != "1":
        lines.append(
            f"differs: it was trained in a pack of {pack}, now it is alone: the same sums in "
            "another order, which training widens; with pack=1 a run is reproduced to the byte"
        )
    for line in lines:
        log.info(line)


def _mismatch_hint(key: str) -> str:
    return f"{key}= says where the right one is; force=true trains with this one"
