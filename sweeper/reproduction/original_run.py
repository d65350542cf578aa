"""The original of a reproduction: a run in MLflow, a trial in a folder, or a LoRA file."""

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
from train.lora.checkpoint_file import VARIANT_KEY, epoch_of, read_metadata, weights_hash
from train.text.display import readable, shortened

log = logging.getLogger(__name__)
RECORD_ARTIFACT = "scorecards.json"  # the artifact with a trial's record
FINGERPRINT = "fingerprint"  # in the names of the tags that identify the inputs of a run
STUDY_OF_FILES = "reproductions"  # the study of reproductions from a LoRA file alone


class Result(msgspec.Struct):
    """The best trial in a study's result.json."""

    trial: Annotated[int, msgspec.Meta(ge=0, le=MAX_TRIALS)]


@dataclass(frozen=True)
class Original:
    """The original of a reproduction.

    Attributes:
        id: the run ID, or the name of the file.
        description: a description in one line.
        settings: the logged settings.
        tags: fingerprints, versions and hardware, as far as known.
        selected: the selected epoch.
        epochs: the scored epochs; a file is scored later, when a scorer is available.
        complete: whether it was not stopped early.
        number: trial number.
        parent: the sweep's run; empty if unknown.
        probes: the sweep's probe set in YAML; None if unknown.
        file: the LoRA file, if it is the only source.
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
        """The ID as a safe part of a file name."""
        return re.sub(r"[^\w.-]", "-", self.id[:20])


def original_from_run(store: MlflowStore, run: Run, root: Path) -> Original:
    """The original from a trial's run in MLflow, or from its folder if the artifacts are missing.

    Args:
        root: the folder of all studies.

    Raises:
        ConfigError: there is nothing to compare with: the trial failed or has not ended, or its
            record cannot be found.
    """
    run_id, run_tags = run.info.run_id, parse_run_tags(run)
    assert run_tags.trial is not None
    study = study_folder(root, run_tags.study, "run_id: its study")
    record = _logged_record(store, run, run_tags) or _record_in_folder(study, run, run_tags.trial)
    if record is None:
        raise ConfigError(_missing_record_message(run, trial_folder(study, run_tags.trial)))
    description = f"{shortened(run.info.run_name)} of study {study.name}, run {run_id}"
    probes = _logged_probes(store, run_tags.parent_run_id) if run_tags.parent_run_id else None
    original = _original_from_record(record, run_id, description, run.data.tags)
    return replace(original, parent=run_tags.parent_run_id, probes=probes or _probes_of(study))


def original_from_study(study: Path) -> Original | None:
    """The original from the best trial in a study's folder; None if it has no result.

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
            f"run_id: {name} {ended} without a checkpoint{cause}, so there is nothing to compare "
            "with"
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
    """Tags as printable one-line texts."""
    return {key: readable(str(value)) for key, value in tags.items()}


def _with_identity(record: TrialRecord, study: str, number: int) -> TrialRecord:
    """A record with the study and trial number that it was looked up by, not those it claims."""
    record.study, record.number = study, number
    return record


def _logged_record(store: MlflowStore, run: Run, tags: RunTags) -> TrialRecord | None:
    """A trial's record from the artifacts of its run; None if it is missing or damaged."""
    text = artifact(store, store.client, run, RECORD_ARTIFACT)
    try:
        record = read_record(text, Path("-")) if text else None
    except ValueError:
        return None
    return record and _with_identity(record, tags.study, tags.trial or 0)


def _record_in_folder(study: Path, run: Run, number: int) -> TrialRecord | None:
    """A trial's record from its folder, if its images, base and probes are those of the run."""
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
    """The error message if a run has not ended or its record is missing."""
    state = run.data.tags.get("state", run.info.status.lower())
    if state in (RUNNING, INTERRUPTED):
        return (
            f"run_id: {run.info.run_id} has not ended (it is {state}), so there is nothing to "
            "compare with"
        )
    return f"run_id: {_missing_artifact(run)}, and {folder / RECORD_FILE} does not exist either"


def _missing_artifact(run: Run) -> str:
    uri = shortened(f"{run.info.artifact_uri}/{RECORD_ARTIFACT}")
    return f"{run.info.run_id} has no artifact {RECORD_ARTIFACT} at {uri}"


def _logged_probes(store: MlflowStore, parent: str) -> str | None:
    """The probe set in the artifacts of a sweep's run; None if there is none."""
    try:
        return artifact(store, store.client, store.client.get_run(parent), PROBES_FILE)
    except MlflowException:  # the sweep's run was deleted
        return None


def _probes_of(study: Path) -> str | None:
    file = study / PROBES_FILE
    return read_text(file) if file.is_file() else None


def original_from_file(path: Path) -> Original:
    """The original from the metadata of a LoRA file.

    Raises:
        CheckpointError: it is not a LoRA file, or another program has written it.
    """
    metadata = read_metadata(path)
    if "lorasweep_config" not in metadata:
        raise CheckpointError(
            f"{path}: its metadata has no lorasweep_config, which this program writes; LoRAs from "
            "other programs can be scored (python -m evaluate) but not reproduced"
        )
    if VARIANT_KEY in metadata:
        sources, strength = (metadata.get(f"lorasweep_{k}", "?") for k in ("made_of", "strength"))
        raise CheckpointError(
            f"{path}: it was not trained but made of {shortened(sources)} at strength "
            f"{shortened(strength)}; reproduce the run of its trial (run_id=)"
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
    """Scores a LoRA file; everything else about its epoch is unknown."""
    card = scorer({path: epoch})[0]
    card.images = None
    unknown = float("nan")
    return ScoredEpoch(card, unknown, unknown, 0.0, 0.0, 0, weights_hash(path))
