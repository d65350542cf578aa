"""What is to be made again, as far as it is known: a run in MLflow, or a LoRA file alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from evaluate.scorer import Scorer
from sweeper.recording.record import FAILED, ScoredEpoch, read_epochs
from sweeper.reproducing.runs import artifact
from train.checkpoint import CheckpointError, epoch_of, read_metadata, weights_hash
from train.config import ConfigError

STUDY_OF_FILES = "reproductions"  # the study of what comes from a LoRA file alone


@dataclass(frozen=True)
class Original:
    """What is to be made again.

    Attributes:
        id: the run's; of a file, its name.
        said: in a line.
        settings: nested, as they were logged.
        tags: where it comes from: fingerprints, versions, hardware, as far as known.
        epochs: the scored ones; those of a file are scored once a scorer is there.
        selected: the epoch that was kept.
        complete: it was not stopped early.
        parent: the sweep's run.
        probes: the sweep's probe set, in YAML.
    """

    id: str
    said: str
    study: str
    settings: Mapping[str, Any]
    tags: dict[str, str]
    selected: int
    epochs: list[ScoredEpoch] = field(default_factory=list)
    complete: bool = False
    number: int = 0
    parent: str = ""
    probes: str | None = None
    file: Path | None = None


def of_run(client: MlflowClient, run: Run) -> Original:
    """What MLflow knows of a trial.

    Raises:
        ConfigError: there is nothing to compare with: it failed, or is not at its end.
    """
    run_id, tags = run.info.run_id, dict(run.data.tags)
    settings, scored = (artifact(client, run, n) for n in ("config.yaml", "scorecards.json"))
    state, reason = tags.get("state", run.info.status.lower()), tags.get("reason", "")
    if settings is None or scored is None:
        raise ConfigError(
            f"run_id: {run_id} has not come to its end (it is {state}), so there is nothing to "
            "compare with"
        )
    record = json.loads(scored)
    epochs = read_epochs(record, Path("-"))
    if not epochs:
        why = f" ({reason})" if reason else ""
        ended = "failed" if state == FAILED else f"ended {state}"
        raise ConfigError(
            f"run_id: {run_id} {ended} without a checkpoint{why}, so there is nothing to compare "
            "with"
        )
    last = epochs[-1].scorecard.epoch
    parent = tags.get(MLFLOW_PARENT_RUN_ID, "")
    ended = f"{state} after epoch {last}{f': {reason}' if reason else ''}"
    return Original(
        id=run_id,
        said=f"{run.info.run_name} of study {tags['study']}, run {run_id} ({ended})",
        study=tags["study"],
        settings=yaml.safe_load(settings),
        tags=tags,
        selected=record.get("selected") or last,
        epochs=epochs,
        complete=state == "complete",
        number=int(tags["trial"]),
        parent=parent,
        probes=artifact(client, client.get_run(parent), "probes.yaml") if parent else None,
    )


def of_file(path: Path) -> Original:
    """What a LoRA file of ours says of itself.

    Raises:
        CheckpointError: not a LoRA file, or one of another program.
    """
    about = read_metadata(path)
    try:
        settings = dict(json.loads(about["lorasweep_config"]))
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(
            f"{path}: its metadata has no lorasweep_config, as this program writes it; another "
            "program's LoRA can be scored (python -m evaluate) but not made again"
        ) from None
    epoch = epoch_of(path)
    tags = {
        "data.fingerprint": about.get("lorasweep_data", ""),
        "data.pictures": about.get("lorasweep_pictures", ""),
        "base.fingerprint": about.get("lorasweep_base") or about.get("ss_new_sd_model_hash", ""),
    }
    return Original(
        id=path.stem,
        said=f"{path} (epoch {epoch})",
        study=STUDY_OF_FILES,
        settings=settings,
        tags={key: value for key, value in tags.items() if value},
        selected=epoch,
        file=path,
    )


def score_file(path: Path, epoch: int, scorer: Scorer) -> ScoredEpoch:
    """A LoRA file that no run has scored, scored now."""
    card = scorer({path: epoch})[0]
    card.images = None
    nothing = float("nan")
    return ScoredEpoch(card, nothing, nothing, 0.0, 0.0, 0, weights_hash(path))
