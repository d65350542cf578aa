"""The live table of a running study on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from evaluate.config import PolicyConfig
from evaluate.scorecard import Estimate, Scorecard
from sweeper.console.live_table import StudyTable
from sweeper.console.progress import remaining_seconds
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    RUNNING,
    ScoredEpoch,
    TrialRecord,
    load_records,
    trial_folder,
)

POLICY = PolicyConfig(max={"copying": 0.35})
WIDTH, HEIGHT = 120, 40


def save(study: Path, number: int, state: str, fidelities: list[float], copying: float) -> None:
    """Saves a trial's record, like a worker."""
    folder = trial_folder(study, number)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"training": {"epochs": 10}}
    record = TrialRecord(folder, study.name, number, settings, [], {"network.rank": 2**number}, {})
    for epoch, value in enumerate(fidelities, start=1):
        names = ("prompt_fidelity", "subject_fidelity")
        scores = {name: Estimate(value, value - 0.01, value + 0.01) for name in names}
        scores["copying"] = Estimate(copying, copying, copying)
        by_probe = {name: [value, value + 0.01] for name in names}
        card = Scorecard(Path(f"{epoch}.safetensors"), epoch, scores, by_probe)
        record.epochs.append(ScoredEpoch(card, 0.1, 1e-3, 30.0, 30.0, 0, ""))
    record.end(state)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    save(folder, 0, COMPLETE, [0.5, 0.6], 0.1)
    save(folder, 1, RUNNING, [0.7, 0.8, 0.9], 0.1)
    save(folder, 2, RUNNING, [0.95], 0.8)
    save(folder, 3, FAILED, [], 0.0)
    return folder


def test_remaining_time_is_estimated_from_finished_epochs(study: Path) -> None:
    """Epochs take a minute; trials have up to three; one ended after two, another after none."""
    records = load_records(study)
    running, to_come = (3 - 3) + (3 - 1), (8 - 4) * (2 + 0) / 2
    assert remaining_seconds(records, 8, 3) == pytest.approx((running + to_come) * 60)
    records[1].tags["worker"], records[2].tags["worker"] = "one:1", "other:2"
    assert remaining_seconds(records, 8, 3) == pytest.approx((running + to_come) * 60 / 2), (
        "two workers run in parallel"
    )
    assert remaining_seconds([], 8, 3) is None


def render_lines(study: Path, width: int, height: int = HEIGHT) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(StudyTable(study, 8, 3, POLICY))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_live_table_lists_all_trials(study: Path) -> None:
    lines = render_lines(study, WIDTH)
    assert lines[0].startswith("mine  2 of 8 trials ended  about ")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("best so far: trial 1, epoch 3, fidelity 0.9")
    first, best, over, failed = (line.split() for line in lines[3:7])
    assert [first[0], *first[1:4]] == ["0", "rank", "1", "complete"]
    assert best[:5] == ["*", "1", "rank", "2", "running"]
    assert "3/10" in best
    assert best[-4:] == ["0.90", "0.90", "0.10", "3"]
    assert over[-2:] == ["0.80", "1!"], "over the limit, and marked as such"
    assert failed[3:] == ["failed", *failed[4:]]
    save(study, 2, RUNNING, [0.95, 0.97], 0.1)
    assert render_lines(study, WIDTH)[1].startswith("best so far: trial 2, epoch 2")


def test_small_terminals_show_running_and_best_trials(study: Path) -> None:
    for number in range(4, 20):
        save(study, number, COMPLETE, [0.2], 0.1)
    save(study, 20, RUNNING, [0.1], 0.1)
    lines = render_lines(study, 80, 14)
    assert all(len(line) <= 80 for line in lines)
    numbers = [line.split()[line.startswith("*")] for line in lines[3:-2]]
    assert numbers == ["1", "2", "17", "18", "19", "20"]
    assert lines[-2].startswith("15 more trials are not shown")


SCRIPT = """
import logging, signal, sys, time
from pathlib import Path
from sweeper.stop_request import graceful_stop
from sweeper.console.live_table import live_table
from sweeper.console.progress import LINES_LOG
from tests.sweeper.console.test_display import POLICY
from train.cli.app import configure_logging

configure_logging()
study = Path(sys.argv[1])
logging.info("before")
with graceful_stop(study), live_table(study, 8, 3, POLICY):
    time.sleep(1.2)
    logging.info("a line of the log")
    LINES_LOG.info("trial 0  epoch  1/10")
    print("a line that is printed")
    signal.raise_signal(signal.SIGINT)
    while not (study / "go").exists():
        time.sleep(0.1)
logging.info("after")
LINES_LOG.info("a line of progress")
"""


def test_live_table_keeps_other_output_intact_and_disappears(study: Path) -> None:
    """Runs in a pseudo-terminal and inspects the screen of a terminal emulator."""
    parent, child = pty.openpty()
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT),
                   "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(study)], stdin=child,
                               stdout=child, stderr=child, env=environment)  # fmt: skip
    os.close(child)

    def read_until(words: str) -> list[str]:
        while not any(words in line for line in screen.display):
            stream.feed(os.read(parent, 65536))
        return [line.rstrip() for line in screen.display if line.strip()]

    read_until("finishing this epoch")
    lines = read_until("Ctrl-C stops")
    printed = ["before", "a line of the log", "a line that is printed"]
    assert lines[:3] == printed
    assert lines[3].startswith("finishing this epoch; press Ctrl-C again to stop at once")
    assert lines[4].startswith("mine  2 of 8 trials ended")
    assert lines[-1].endswith("press it twice to stop at once")
    assert len(lines) == 4 + 2 + 5 + 1, "each line of the table appears once"
    (study / "go").touch()
    lines = read_until("a line of progress")
    assert lines[:3] == printed
    assert lines[-2:] == ["after", "a line of progress"]
    assert not any("trials ended" in line for line in lines), "the final table replaces it"
    assert process.wait(timeout=60) == 0
    os.close(parent)
