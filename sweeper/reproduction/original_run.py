"""What is to be made again, as far as it is known: a run in MLflow, or a LoRA file alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from evaluate.scorer import Scorer
from evaluate.tracking.artifacts import artifact
from evaluate.tracking.mlflow_store import MlflowStore
from sweeper.config import MAX_TRIALS
from sweeper.reproduction.environment_diff import BASE_FINGERPRINT
from sweeper.reproduction.received_settings import ReceivedSettings
from sweeper.results.checkpoint_files import PROBES_FILE, RESULT_FILE
from sweeper.study_folder import study_folder
from sweeper.tracking.run_tags import RunTags, parse_run_tags
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    RECORD_FILE,
    RUNNING,
    ScoredEpoch,
    TrialRecord,
    load_record,
    read_record,
    trial_folder,
)
from train.errors import CheckpointError, ConfigError
from train.files.untrusted import Tree, parse_json, read_json, read_text
from train.lora.checkpoint_file import epoch_of, read_metadata, weights_hash
from train.text.display import readable, shortened

log = logging.getLogger(__name__)
RECORD_ARTIFACT = "scorecards.json"  # the artifact that is a trial's record
FINGERPRINT = "fingerprint"  # in the names of the tags that say what a run was made from
STUDY_OF_FILES = "reproductions"  # the study of what comes from a LoRA file alone


class Result(msgspec.Struct):
    """Of a study's result.json, which trial was the best."""

    trial: Annotated[int, msgspec.Meta(ge=0, le=MAX_TRIALS)]


@dataclass(frozen=True)
class Original:
    """What is to be made again.

    Attributes:
        id: the run's; of a file, its name.
        description: in one line.
        settings: as they were logged.
        tags: where it comes from: fingerprints, versions, hardware, as far as known.
        epochs: the scored ones; those of a file are scored once a scorer is there.
        selected: the epoch that was kept.
        complete: it was not stopped early.
        parent: the sweep's run.
        probes: the sweep's probe set, in YAML.
    """

    id: str
    description: str
    study: str
    settings: ReceivedSettings
    tags: dict[str, str]
    selected: int
    epochs: list[ScoredEpoch] = field(default_factory=list)
    complete: bool = False
    number: int = 0
    parent: str = ""
    probes: str | None = None
    file: Path | None = None

    @property
    def file_name(self) -> str:
        """Its id as a part of a file's name, whatever the store says that it is."""
        return re.sub(r"[^\w.-]", "-", self.id[:20])


def original_from_run(store: MlflowStore, run: Run, root: Path) -> Original:
    """What MLflow knows of a trial; where its artifacts are gone, what the study's folder does.

    Args:
        root: where the studies' folders are.

    Raises:
        ConfigError: there is nothing to compare with: it failed, is not at its end, or its record
            is nowhere to be found.
    """
    run_id, run_tags = run.info.run_id, parse_run_tags(run)
    assert run_tags.trial is not None
    study = study_folder(root, run_tags.study, "run_id: its study")
    record = _logged_record(store, run, run_tags) or _record_in_folder(study, run, run_tags.trial)
    if record is None:
        raise ConfigError(_missing_record_message(run, trial_folder(study, run_tags.trial)))
    description = f"{shortened(run.info.run_name)} of study {study.name}, run {run_id}"
    probes = _logged_probes(store, run_tags.parent_run_id) if run_tags.parent_run_id else None
    return replace(_original_from_record(record, run_id, description, run.data.tags), parent=run_tags.parent_run_id,
                   probes=probes or _probes_of(study))  # fmt: skip


def original_from_study(study: Path) -> Original | None:
    """The best trial of a study, from its folder alone; None where that has no result.

    Raises:
        ConfigError: there is nothing to compare with.
    """
    try:
        number = read_json(study / RESULT_FILE, Result).trial
        record = _with_identity(load_record(trial_folder(study, number)), study.name, number)
    except (OSError, ValueError):
        return None
    name = f"{study.name}-{number}"
    description = f"trial {number} of study {study.name}, as {record.folder} has it"
    return replace(
        _original_from_record(record, name, description, record.tags), probes=_probes_of(study)
    )


def _original_from_record(
    record: TrialRecord, name: str, description: str, tags: Mapping[str, str]
) -> Original:
    if not record.epochs:
        cause = f" ({shortened(record.reason)})" if record.reason else ""
        ended = "failed" if record.state == FAILED else f"ended {record.state}"
        raise ConfigError(
            f"run_id: {name} {ended} without a checkpoint{cause}, so there is nothing to compare with"
        )
    last = record.scorecards[-1].epoch
    reason = f": {shortened(record.reason)}" if record.reason else ""
    return Original(
        id=name,
        description=f"{description} ({record.state} after epoch {last}{reason})",
        study=record.study,
        settings=ReceivedSettings.of(
            record.settings, f"run_id: {name}", str(tags.get(BASE_FINGERPRINT, ""))
        ),
        tags=_readable_tags(tags),
        selected=record.selected or last,
        epochs=record.epochs,
        complete=record.state == COMPLETE,
        number=record.number,
    )


def _readable_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags, each a line of text that can be shown."""
    return {key: readable(str(value)) for key, value in tags.items()}


def _with_identity(record: TrialRecord, study: str, number: int) -> TrialRecord:
    """A record of the trial that it is to be, whatever it says itself."""
    record.study, record.number = study, number
    return record


def _logged_record(store: MlflowStore, run: Run, tags: RunTags) -> TrialRecord | None:
    """A trial's record among the artifacts of its run; None where it is not, or not whole."""
    text = artifact(store, store.client, run, RECORD_ARTIFACT)
    try:
        record = read_record(text, Path("-")) if text else None
    except ValueError:
        return None
    return record and _with_identity(record, tags.study, tags.trial or 0)


def _record_in_folder(study: Path, run: Run, number: int) -> TrialRecord | None:
    """A trial's record in its folder, if it is of the run: of the same pictures, base, probes."""
    tags = run.data.tags
    try:
        record = _with_identity(load_record(trial_folder(study, number)), study.name, number)
    except (OSError, ValueError):
        return None
    same = all(value == tags.get(key) for key, value in record.tags.items() if FINGERPRINT in key)
    if not same or not record.finished or "reproduction_of" in tags:
        return None
    log.info(f"{_missing_artifact(run)}; the record in {record.folder} is used")
    return record


def _missing_record_message(run: Run, folder: Path) -> str:
    """That there is nothing to compare a run with: it is under way, or its record is gone."""
    state = run.data.tags.get("state", run.info.status.lower())
    if state in (RUNNING, INTERRUPTED):
        return (
            f"run_id: {run.info.run_id} has not come to its end (it is {state}), so there is "
            "nothing to compare with"
        )
    return f"run_id: {_missing_artifact(run)}, and {folder / RECORD_FILE} is not there either"


def _missing_artifact(run: Run) -> str:
    place = shortened(f"{run.info.artifact_uri}/{RECORD_ARTIFACT}")
    return f"{run.info.run_id} has no artifact {RECORD_ARTIFACT}: it was looked for at {place}"


def _logged_probes(store: MlflowStore, parent: str) -> str | None:
    """The probe set among the artifacts of a sweep's run."""
    try:
        return artifact(store, store.client, store.client.get_run(parent), PROBES_FILE)
    except MlflowException:  # the sweep's run was deleted
        return None


def _probes_of(study: Path) -> str | None:
    file = study / PROBES_FILE
    return read_text(file) if file.is_file() else None


def original_from_file(path: Path) -> Original:
    """What a LoRA file of ours says of itself.

    Raises:
        CheckpointError: not a LoRA file, or one of another program.
    """
    metadata = read_metadata(path)
    if "lorasweep_config" not in metadata:
        raise CheckpointError(
            f"{path}: its metadata has no lorasweep_config, as this program writes it; another "
            "program's LoRA can be scored (python -m evaluate) but not made again"
        )
    name = f"{shortened(path)}: lorasweep_config"
    settings = parse_json(metadata["lorasweep_config"], Tree, name)
    epoch = epoch_of(path)
    tags = {
        "data.fingerprint": metadata.get("lorasweep_data", ""),
        "data.pictures": metadata.get("lorasweep_pictures", ""),
        BASE_FINGERPRINT: metadata.get("lorasweep_base")
        or metadata.get("ss_new_sd_model_hash", ""),
    }
    return Original(
        id=path.stem,
        description=f"{path} (epoch {epoch})",
        study=STUDY_OF_FILES,
        settings=ReceivedSettings.of(settings, name, tags[BASE_FINGERPRINT]),
        tags=_readable_tags({key: value for key, value in tags.items() if value}),
        selected=epoch,
        file=path,
    )


def score_file(path: Path, epoch: int, scorer: Scorer) -> ScoredEpoch:
    """A LoRA file that no run has scored, scored now."""
    card = scorer({path: epoch})[0]
    card.images = None
    unknown = float("nan")
    return ScoredEpoch(card, unknown, unknown, 0.0, 0.0, 0, weights_hash(path))
