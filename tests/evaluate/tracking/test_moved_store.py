"""MLflow's embedded store after its folder was moved, and runs that are about something else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts

from evaluate.tracking.mlflow_store import MlflowStore, TrackedRun


def embedded(root: Path, name: str = "evaluations") -> MlflowStore:
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it where a store was opened before
    return MlflowStore(root, name)


@pytest.fixture
def tracked_run(tmp_path: Path) -> TrackedRun:
    """A run with an artifact, in a store that the tests move and open again."""
    run = TrackedRun(embedded(tmp_path / "a" / "mlruns"), tmp_path / "a" / "mlflow.json", "x")
    run.start_new_if_changed({"probes": "1", "epoch 1": "w"})
    run.begin({"data": "d"})
    run.log_text("kept", "notes.txt")
    return run


def test_moved_store_keeps_runs_and_artifacts(tracked_run: TrackedRun, tmp_path: Path) -> None:
    before, moved = tracked_run.id, tmp_path / "elsewhere" / "b c"
    moved.parent.mkdir()
    shutil.move(tmp_path / "a", moved)
    store = embedded(moved / "mlruns")
    run = TrackedRun(store, moved / "mlflow.json", "x")
    run.start_new_if_changed({"probes": "1"})
    run.begin({"data": "d"})
    assert run.id == before
    result = download_artifacts(
        run_id=run.id, artifact_path="notes.txt", tracking_uri=store.uri,
        dst_path=str(tmp_path / "got"),
    )  # fmt: skip
    assert Path(result).read_text() == "kept"
    assert len(store.client.search_runs([store.experiment])) == 1
    other = embedded(moved / "mlruns", "other")
    place = other.client.get_experiment(other.experiment).artifact_location
    assert place.endswith("b%20c/mlruns/artifacts")


def test_another_store_gets_its_own_run(tracked_run: TrackedRun, tmp_path: Path) -> None:
    run = TrackedRun(embedded(tmp_path / "other"), tracked_run.file, "x")
    before = tracked_run.id
    run.start_new_if_changed({"probes": "1"})
    run.begin({"data": "d"})
    assert run.id != before
    assert len(run.store.client.search_runs([run.store.experiment])) == 1


@pytest.mark.parametrize(
    ("metadata", "new"),
    [
        ({"probes": "1", "epoch 1": "w"}, False),
        ({"probes": "1", "epoch 2": "v"}, False),  # one more file
        ({"probes": "2"}, True),
        ({"probes": "1", "epoch 1": "v"}, True),  # another file after the same epoch
    ],
)
def test_run_about_something_else_is_a_new_run(
    tracked_run: TrackedRun, metadata: dict[str, str], new: bool
) -> None:
    before = tracked_run.id
    tracked_run.start_new_if_changed(metadata)
    tracked_run.begin({"data": "d"})
    assert (tracked_run.id != before) == new
    assert tracked_run.saved_field("about")["probes"] == metadata["probes"]
