"""`python -m sweeper.reproduce run_id=...`: a run again, from its logged settings, compared."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf

from sweeper.config import BEST, SweepConfig, check_sweep
from sweeper.recording.progress import Progress
from sweeper.recording.record import Record, ScoredEpoch, read_epochs
from sweeper.recording.tracker import Tracker
from sweeper.running.pack import run_trials
from sweeper.running.parts import load_parts, origin
from sweeper.running.rules import until
from sweeper.running.trial import ADAPTED, Trial
from train.command import run
from train.config import ConfigError, typed
from train.course import Course, course_of

log = logging.getLogger(__name__)
IDENTICAL, CLOSE, DIFFERENT = "identical", "within tolerance", "different"


@dataclass
class PlaceConfig:
    """Where something lies now; None: where it was."""

    path: str | None = None


@dataclass
class PlacesConfig:
    """Where the embedded store is, and which checkpoints stay."""

    root: str = "mlruns"
    keep: str = BEST


@dataclass
class ReproduceConfig:
    """conf/reproduce.yaml."""

    run_id: str = ""
    tolerance: float = 0.02
    data: PlaceConfig = field(default_factory=PlaceConfig)
    base: PlaceConfig = field(default_factory=PlaceConfig)
    study: PlacesConfig = field(default_factory=PlacesConfig)


@dataclass(frozen=True)
class Original:
    """What MLflow knows of the run to reproduce."""

    run: MlflowRun
    study: str
    config: SweepConfig
    epochs: list[ScoredEpoch]

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.run.data.tags)


def check_reproduce(config: ReproduceConfig) -> None:
    """Refuses a tolerance below 0."""
    if config.tolerance < 0:
        raise ConfigError("tolerance: must be 0 or more")


def reproduce(config: ReproduceConfig) -> None:
    """Trains the run again and exits with 0 where weights or scores are the same, 2 otherwise."""
    original = fetch(config)
    parts = load_parts(original.config)
    now = origin(parts)
    warned = [key for key in now if original.tags.get(key) != now[key]]
    for key in warned:
        log.info(f"differs: {key} was {original.tags.get(key, 'unknown')}, is {now[key]}")
    if (pack := original.tags.get("pack", "1")) != "1":
        log.info(
            f"differs: it was trained in a pack of {pack}, now it is alone: the same sums in "
            "another order, which training widens; with pack=1 a run is reproduced to the byte"
        )
    elif not warned:
        log.info("pictures, base, probes, versions and hardware are the same as then")
    study = Path(config.study.root) / "studies" / original.study
    tracker = Tracker(Path(config.study.root), study)
    again = _train_again(config, original, now, tracker, course_of(original.config, parts.pictures))
    lines, verdict = compare(original.epochs, again.epochs, config.tolerance)
    print("\n".join(lines))
    tracker.catch_up()
    with tracker.forgiving():
        tracker.run_of(again).set_tags({"verdict": verdict})
    print(f"verdict: {verdict}")
    if verdict == DIFFERENT:
        sys.exit(2)


def fetch(config: ReproduceConfig) -> Original:
    """The run's settings and scores, from MLflow alone.

    Raises:
        ConfigError: there is no such run, or not one of a trial.
    """
    root = Path(config.study.root)
    client = Tracker(root, root / "studies" / "-").client
    try:
        found = client.get_run(config.run_id)
    except MlflowException as error:
        raise ConfigError(f"run_id: there is no run {config.run_id} in MLflow ({error})") from None
    study = found.data.tags.get("study", "")
    if "trial" not in found.data.tags:
        raise ConfigError(f"run_id: {config.run_id} is not the run of a trial, but of a sweep")
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings = client.download_artifacts(config.run_id, "config.yaml", folder)
            scored = client.download_artifacts(config.run_id, "scorecards.json", folder)
        except (MlflowException, OSError) as error:
            raise ConfigError(
                f"run_id: {config.run_id} has not come to its end, so there is nothing to compare "
                f"with ({error})"
            ) from None
        loaded = OmegaConf.load(settings)
        record: dict[str, Any] = json.loads(Path(scored).read_text(encoding="utf-8"))
    for part in ("data", "base"):
        place = getattr(config, part).path
        if place is not None:
            OmegaConf.update(loaded, f"{part}.path", place)
    loaded.study = {"name": study, **vars(config.study)}
    settings_then = typed(SweepConfig, loaded)  # type: ignore[arg-type]
    check_sweep(settings_then)
    return Original(found, study, settings_then, read_epochs(record, Path("-")))


def _train_again(
    config: ReproduceConfig,
    original: Original,
    now: dict[str, str],
    tracker: Tracker,
    course: Course,
) -> Record:
    study = tracker.study
    made = study / "reproductions"
    number = len(list(made.glob("*"))) if made.is_dir() else 0
    adapted = {key: value for key, value in original.tags.items() if key == ADAPTED}
    record = Record(
        folder=made / f"{config.run_id[:8]}-{number}",
        study=original.study,
        number=int(original.tags["trial"]),
        settings=asdict(original.config),
        overrides=[],
        params={"again": config.run_id},
        tags={**now, "reproduction_of": config.run_id, **adapted},
    )
    last = original.epochs[-1].scorecard.epoch
    trial = Trial(
        config=original.config,
        record=record,
        tracker=tracker,
        progress=Progress(study, record.number + 1, len(original.epochs)),
        rules=[until(last)] if last < course.epochs else [],
    )
    run_trials([trial], 1)
    return record


def compare(
    then: list[ScoredEpoch], now: list[ScoredEpoch], tolerance: float
) -> tuple[list[str], str]:
    """Epoch by epoch the weights' bytes and the scores: lines to print, and the verdict."""
    lines, verdicts = [], []
    again = {epoch.scorecard.epoch: epoch for epoch in now}
    for old in then:
        number = old.scorecard.epoch
        new = again.get(number)
        if new is None:
            lines.append(f"epoch {number}: missing")
            verdicts.append(DIFFERENT)
            continue
        gaps = {
            name: abs(estimate.value - new.scorecard.scores[name].value)
            for name, estimate in old.scorecard.scores.items()
            if name in new.scorecard.scores
        }
        worst = max(gaps, key=lambda name: gaps[name])
        same = old.weights == new.weights and old.scorecard.scores == new.scorecard.scores
        close = len(gaps) == len(old.scorecard.scores) and gaps[worst] <= tolerance
        verdicts.append(IDENTICAL if same else CLOSE if close else DIFFERENT)
        weights = "the same bytes" if old.weights == new.weights else "other bytes"
        scores = "the same" if not gaps[worst] else f"{worst} differs by {gaps[worst]:.4f}"
        lines.append(f"epoch {number}: weights {weights}, scores {scores}")
    for verdict in (DIFFERENT, CLOSE):
        if verdict in verdicts:
            return lines, verdict
    return lines, IDENTICAL


if __name__ == "__main__":
    run("reproduce", ReproduceConfig, check_reproduce, reproduce)
