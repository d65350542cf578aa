"""What report and select read and write of an untrusted study."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evaluate.config import PolicyConfig
from evaluate.images.contact_sheet import CELLS, read_cells, read_sheet, save_sheet
from evaluate.tracking.store_address import RUN_FILE, Address, load_state, run_id_in
from sweeper.commands import report as rewrite
from sweeper.commands import select
from sweeper.config import ReportConfig, SelectConfig
from sweeper.results.checkpoint_files import RESULT_FILE
from sweeper.results.missing_trials import describe_missing, missing_trials
from sweeper.results.report.page import policy_of
from sweeper.tracking.trial_record import load_records
from tests.sweeper.conftest import Swept, copy_sweep, run_module
from tests.sweeper.conftest import swept as swept  # the sweep that other tests use too
from train.errors import ConfigError
from train.files.untrusted import UntrustedFileError

Saved = dict[str, Any]


@pytest.fixture
def received(swept: Swept, tmp_path: Path) -> Path:
    """A received study, in a root without an MLflow store."""
    root = tmp_path / "mlruns"
    shutil.copytree(swept.root / "studies", root / "studies")
    return root / "studies" / "small"


def write_report(study: Path, **settings: str) -> str:
    """Writes the report of a study, and returns its page."""
    rewrite.main(ReportConfig(study=study.name, root=str(study.parent.parent), **settings))
    return (study / "report.html").read_text()


def change_json(file: Path, change: Callable[[Saved], object]) -> None:
    saved = json.loads(file.read_bytes())
    change(saved)
    file.write_text(json.dumps(saved))


def all_files(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files in a folder, without the report."""
    files = {file for file in folder.rglob("*") if file.name != "report.html"}
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in files}


def test_report_and_select_write_only_the_page(
    received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("study.lock", "mlflow.lock", "optuna.journal.lock"):
        (received / file).unlink(missing_ok=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = all_files(tmp_path)
    write_report(received)
    select.main(SelectConfig(study="small", root=str(tmp_path / "mlruns")))
    assert all_files(tmp_path) == before
    with pytest.raises(ConfigError, match="there is no study smal; did you mean small"):
        select.main(SelectConfig(study="smal", root=str(tmp_path / "mlruns")))
    with pytest.raises(ConfigError, match="there is no study small"):
        select.main(SelectConfig(study="small", root=str(tmp_path / "nowhere")))
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("place", ["made.db", "mlflow.db"])
def test_database_named_by_a_record_is_not_opened(
    received: Path, place: str, swept: Swept, tmp_path: Path
) -> None:
    database = tmp_path / place
    if place == "mlflow.db":
        shutil.copy(swept.root / place, database)
    before = database.read_bytes() if database.exists() else None
    for file in received.glob("trials/*/trial.json"):
        change_json(file, lambda s: s["settings"]["study"].update(storage=f"sqlite:///{database}"))
    write_report(received)
    assert (database.read_bytes() if database.exists() else None) == before
    # a typed path is not created either
    assert "name it with storage=" in write_report(received, storage=f"sqlite:///{database}")
    assert (database.read_bytes() if database.exists() else None) == before


def test_database_that_the_user_names_is_read(received: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="small", storage=url, direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    (received / "optuna.journal").unlink()
    assert "These are single trials" in write_report(received, storage=url)
    assert "name it with storage=" in write_report(received)


def test_training_images_come_from_the_data_sheet(received: Path, tmp_path: Path) -> None:
    strip = re.compile(r"What it was trained on</h3>.*?</div>", re.DOTALL)
    strips = strip.findall(write_report(received))
    assert strips[0].count("<img") == 12
    assert "sks puppet" in strips[0]
    private = tmp_path / "private"
    private.mkdir()
    Image.new("RGB", (64, 64), "red").save(private / "0.png")
    (private / "0.txt").write_text("my secret caption")
    for file in received.glob("trials/*/trial.json"):
        change_json(file, lambda s: s["settings"]["data"].update(path=str(private)))
    page = write_report(received)
    assert strip.findall(page) == strips
    assert "my secret caption" not in page
    with Image.open(received / "data.png") as sheet:
        sheet.convert("RGB").save(received / "data.png")  # as earlier versions did
    assert "not in this study&#39;s data sheet" in write_report(received)


def sheet_of(cells: str, size: tuple[int, int] = (200, 200)) -> bytes:
    info, content = PngInfo(), BytesIO()
    info.add_text(CELLS, cells)
    Image.new("RGB", size).save(content, "PNG", pnginfo=info)
    return content.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Returns a small PNG with many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))  # fmt: skip


INVALID_SHEETS = {
    "no picture": b"nothing",
    "no JSON": sheet_of("[["),
    "a mapping": sheet_of("{}"),
    "deep": sheet_of("[" * 50_000),
    "outside": sheet_of('[["fresh 0", "", false, 100, 0]]'),
    "negative": sheet_of('[["fresh 0", "", false, -10, 0]]'),
    "huge": sheet_of('[["fresh 0", "", false, 1e300, 0]]'),
    "name a number": sheet_of('[[7, "", false, 0, 0]]'),
    "too many": sheet_of(json.dumps([[f"fresh {i}", "", False, 0, 0] for i in range(10_000)])),
    "too few in a cell": sheet_of('[["fresh 0"]]'),
    "bomb": bomb(100_000, 100_000),
    "torn bomb": bomb(13_000, 13_000),
    "a GIF": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{} loop\n",
    "torn": sheet_of("[]")[:80],
}


@pytest.mark.parametrize("content", INVALID_SHEETS.values(), ids=INVALID_SHEETS.keys())
def test_invalid_sheet_is_ignored(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "000001.png").write_bytes(content)
    assert read_cells(tmp_path / "000001.png") == {}
    with pytest.raises(UntrustedFileError, match=r"000001\.png: ") as caught:
        read_sheet(tmp_path / "000001.png")
    assert "\n" not in str(caught.value)


def test_sheet_of_this_program_is_read(tmp_path: Path) -> None:
    sheet = Image.new("RGB", (400, 400), "white")
    sheet.info[CELLS] = json.dumps([["fresh 3", "a red hat", True, 8, 28]])
    save_sheet(sheet, tmp_path / "s.png")
    cell = read_sheet(tmp_path / "s.png")["fresh 3"]
    assert (cell.label, cell.flagged, cell.image.size) == ("a red hat", True, (160, 160))


def test_report_with_invalid_sheets_is_written(received: Path) -> None:
    for file in [*received.glob("trials/*/sheets/*.png"), received / "data.png"]:
        file.write_bytes(INVALID_SHEETS["bomb"])
    assert "no longer next to this page" in write_report(received)


RUN = "0123456789abcdef0123456789abcdef"
INVALID_RUNS: dict[str, Any] = {
    "a command": {"uri": "mlflow.db", "run_id": "x; touch PWNED #", "done": []},
    "a line more": {"uri": "mlflow.db", "run_id": f"{RUN}\n", "done": []},
    "a path": {"uri": "mlflow.db", "run_id": f"../{RUN}", "done": []},
    "a number": {"uri": "mlflow.db", "run_id": 7, "done": []},
    "nothing": {"uri": "mlflow.db", "run_id": None, "done": []},
    "done a text": {"uri": "mlflow.db", "run_id": RUN, "done": "everything"},
    "done of lists": {"uri": "mlflow.db", "run_id": RUN, "done": [[]]},
    "uri a list": {"uri": ["mlflow.db"], "run_id": RUN, "done": []},
    "uri endless": {"uri": f"{'x/' * 9000}mlflow.db\0", "run_id": "", "done": []},
    "tags of lists": {"uri": "mlflow.db", "run_id": RUN, "done": [], "tags": {"a": []}},
    "epochs of texts": {"uri": "mlflow.db", "run_id": RUN, "done": [], "epochs": {"1": "x"}},
    "a list": [],
    "deep": None,
}


@pytest.mark.parametrize("name", INVALID_RUNS)
def test_invalid_run_file_is_ignored(name: str, tmp_path: Path) -> None:
    content = "[" * 100_000 if name == "deep" else json.dumps(INVALID_RUNS[name])
    (tmp_path / RUN_FILE).write_text(content)
    state = load_state(Address(tmp_path), tmp_path / RUN_FILE)
    assert (state.run_id, state.done, state.tags) == ("", [], {})
    assert run_id_in(Address(tmp_path), tmp_path) == ""


def test_store_that_is_a_pipe_has_no_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mlflow.db")
    (tmp_path / RUN_FILE).write_text(json.dumps({"uri": "mlflow.db", "run_id": RUN, "done": []}))
    assert run_id_in(Address(tmp_path), tmp_path) == ""


def test_command_in_a_run_id_is_not_in_the_page(received: Path) -> None:
    for file in received.rglob(RUN_FILE):
        file.write_text(json.dumps(INVALID_RUNS["a command"]))
    assert "PWNED" not in write_report(received)


def test_report_is_not_logged_to_other_runs(
    swept: Swept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_sweep(swept, tmp_path / "mlruns")
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.create_experiment("private", (root / "artifacts").as_uri())
    private_run = client.create_run(experiment, tags={"study": "private"}).info.run_id
    study = root / "studies" / "small"
    parent = json.loads((study / RUN_FILE).read_text())["run_id"]

    change_json(study / RUN_FILE, lambda saved: saved.update(run_id=private_run))
    write_report(study)
    assert client.list_artifacts(private_run) == []
    assert "to another study" in caplog.text

    change_json(study / RUN_FILE, lambda saved: saved.update(run_id=parent))
    before = (study / "report.html").stat().st_mtime_ns
    write_report(study)
    logged = root / "artifacts" / parent / "artifacts" / "report.html"
    assert logged.read_bytes() == (study / "report.html").read_bytes()
    assert before

    with closing(sqlite3.connect(root / "mlflow.db")) as store, store:
        elsewhere = (tmp_path / "elsewhere").as_uri()
        store.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (elsewhere, parent))
    write_report(study)
    assert not (tmp_path / "elsewhere").exists()


INVALID_RESULTS: dict[str, Any] = {
    "no policy": {},
    "a list": {"policy_settings": []},
    "another rule": {"policy_settings": {"rule": "pickle"}},
    "a limit on nothing": {"policy_settings": {"max": {"x": 1}}},
    "a limit of text": {"policy_settings": {"max": {"copying": "1"}}},
    "a limit of NaN": {"policy_settings": {"max": {"copying": float("nan")}}},
    "a limit too far": {"policy_settings": {"max": {"copying": 1e300}}},
    "an epoch of 10^30": {"policy_settings": {"epoch": 10**30}},
    "errors of infinity": {"policy_settings": {"standard_errors": float("inf")}},
    "a list of it all": [],
}


@pytest.mark.parametrize("name", INVALID_RESULTS)
def test_invalid_policy_in_a_result_is_ignored(
    name: str, received: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial_policy = policy_of(received, [])
    (received / RESULT_FILE).write_text(json.dumps(INVALID_RESULTS[name]))
    records = load_records(received)
    assert policy_of(received, records) == trial_policy
    assert "result.json" in caplog.text
    assert "the policy of its trials is used" in caplog.text
    for record in records:
        record.settings["selection"] = INVALID_RESULTS[name] or {"rule": ["x"]}
    assert policy_of(received, records) == PolicyConfig() or name == "no policy"


def test_missing_trials_are_bounded(received: Path) -> None:
    for name in ("9999999", "9" * 200, "٣", "x", "0002.copy"):
        (received / "trials" / name).mkdir()
        (received / "trials" / name / "trial.json").write_text("{}")
    assert len(missing_trials(received)) == 1000
    words = describe_missing(received)
    assert len(words) < 600
    assert "and 980 more" in words
    change_json(received / RESULT_FILE, lambda saved: saved.update(missing=[10**18], trials=[]))
    assert len(missing_trials(received)) == 1000
    write_report(received)


@pytest.mark.parametrize("what", ["a file", "folders", "records that are folders", "thousands"])
def test_unusual_trial_folders(what: str, received: Path) -> None:
    trials = received / "trials"
    if what == "a file":
        shutil.rmtree(trials)
        trials.write_text("no folder")
        with pytest.raises(ConfigError, match="no trial yet"):
            write_report(received)
        return
    for number in range(2, 3000 if what == "thousands" else 5):
        folder = trials / f"{number:04d}" / ("trial.json" if what.startswith("records") else "x")
        folder.mkdir(parents=True)
    write_report(received)


@pytest.mark.parametrize("command", ["report", "select"])
@pytest.mark.parametrize("name", ["../small", "/etc", "a\x1b[31mb", "small/../small"])
def test_invalid_study_name_is_refused(command: str, name: str, received: Path) -> None:
    code, output = run_module(f"sweeper.{command}", f"study={name}",
                              f"root={received.parent.parent}")  # fmt: skip
    assert (code, output.count("\n")) == (1, 1), output
    assert "letters, digits" in output
    assert "\x1b" not in output
