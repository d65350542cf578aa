"""The live table of a running study, if the output is a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from evaluate.config import PolicyConfig
from evaluate.console.tables import PlainConsole, PlainTable, literal_text
from evaluate.scorecard import usable
from evaluate.selection.explain import format_comparison_value
from evaluate.selection.policy import Selection, select
from sweeper.console.progress import LINES_LOG, duration, remaining_seconds, varied_settings
from sweeper.tracking.trial_record import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    TrialRecord,
    load_records,
)
from train.data.folders.wording import count_noun

COLORS = {
    RUNNING: "cyan",
    COMPLETE: "green",
    STOPPED: "yellow",
    FAILED: "red",
    INTERRUPTED: "magenta",
}
SCORE_COLUMNS = {  # the columns in order, with their short names
    "prompt_fidelity": "prompt",
    "subject_fidelity": "subject",
    "pose_memorization": "memorized",
    "background_leak": "background",
    "outfit_leak": "outfit",
    "copying": "copying",
}
MIN_WIDE_COLUMNS = 110  # a narrower terminal has no room for progress bars and all scores
NARROW_SCORES = 3  # number of scores on a narrow terminal
RESERVED_LINES = 8  # lines that do not show trials
FOOTER = "!: over a limit.  Ctrl-C stops after this epoch; press it twice to stop at once"


@contextmanager
def live_table(study: Path, trials: int, epochs: int, policy: PolicyConfig) -> Iterator[None]:
    """Context manager: shows the study in a live table instead of progress lines.

    Other output is printed above the table. If the output is not a terminal, or one that cannot
    move its cursor, there is no table.

    Args:
        trials, epochs: see `Progress`.
    """
    console = PlainConsole(sys.stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    table = StudyTable(study, trials, epochs, policy)
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    handlers = [handler for handler in handlers if handler.stream is sys.stderr]
    level = LINES_LOG.level
    with Live(
        get_renderable=lambda: table,
        console=console,
        refresh_per_second=1,
        transient=True,  # the final table replaces it
        redirect_stdout=sys.stdout.isatty(),  # output to a file is not redirected
    ):
        for handler in handlers:
            handler.setStream(sys.stderr)
        LINES_LOG.setLevel(logging.WARNING)
        try:
            yield
        finally:
            LINES_LOG.setLevel(level)
            stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
            for handler in handlers:
                handler.setStream(stream)


class Row(NamedTuple):
    """A trial, and the checkpoint selected from it so far."""

    record: TrialRecord
    selection: Selection | None

    @property
    def rank(self) -> tuple[bool, float]:
        """The sort key; greater is better."""
        return self.selection.rank if self.selection else (False, float("-inf"))


@dataclass
class StudyTable:
    """Renders a study from its records on disk, including those of other workers."""

    study: Path
    trials: int
    epochs: int
    policy: PolicyConfig
    _rows: dict[Path, tuple[tuple[str, int], Row]] = field(default_factory=dict)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        rows = [self._row(record) for record in load_records(self.study)]
        scored = [row for row in rows if row.selection and row.record.state != FAILED]
        best = max(scored, key=lambda row: row.rank, default=None)
        room = max(3, (options.height or console.height) - RESERVED_LINES)
        table = self._table(
            _visible_rows(rows, best, room), best, options.max_width >= MIN_WIDE_COLUMNS
        )
        yield Group(self._head(rows, best), table, self._foot(rows, room))

    def _row(self, record: TrialRecord) -> Row:
        """The row of a trial, cached until its next epoch because selection takes time."""
        version, cached = (record.state, len(record.epochs)), self._rows.get(record.folder)
        if cached is None or cached[0] != version:
            cards = record.scorecards
            cached = version, Row(record, select(cards, self.policy) if usable(cards) else None)
            self._rows[record.folder] = cached
        return cached[1]

    def _head(self, rows: list[Row], best: Row | None) -> Text:
        ended = sum(row.record.finished for row in rows)
        trials = count_noun(self.trials, "trial")
        head = literal_text(self.study.name, "bold")
        head = Text.assemble(head, f"  {ended} of {trials} ended")
        head.append(f"  {self._remaining([row.record for row in rows])}")
        if best and best.selection:
            selection = best.selection
            suffix = "" if selection.feasible else ", over a limit"
            label = literal_text(selection.scorecard.label)
            head.append(f"\nbest so far: trial {best.record.number}, ").append(label).append(", ")
            fidelity = f"{format_comparison_value(selection.scorecard)} format_comparison_value"
            if selection.fidelity is not None:
                fidelity = f"fidelity {selection.fidelity:.2f}"
            head.append(f"{fidelity}{suffix}", "bold")
        return head

    def _remaining(self, records: list[TrialRecord]) -> str:
        seconds = remaining_seconds(records, self.trials, self.epochs)
        if seconds is None:
            return "the first epoch is running"
        last = max(epoch.time for record in records for epoch in record.epochs) / 1000
        return f"about {duration(max(0.0, seconds - (time.time() - last)))} left"

    def _table(self, rows: list[Row], best: Row | None, wide: bool) -> PlainTable:
        table = PlainTable(box=None, padding=(0, 1, 0, 0), header_style="dim")
        for heading in ("", "trial", "settings", "state", *[""] * wide, "epoch"):
            table.heading(heading, unbroken=heading != "settings")
        names = {
            name: word
            for name, word in list(SCORE_COLUMNS.items())[: None if wide else NARROW_SCORES]
            if any(row.selection and name in row.selection.scorecard.scores for row in rows)
        }
        for heading in (*names.values(), "keep"):
            table.heading(heading, right=True, unbroken=True)
        settings = varied_settings([row.record for row in rows])
        for row, text in zip(rows, settings, strict=True):
            record, card = row.record, row.record.scorecards[-1] if row.record.epochs else None
            epochs_done = card.epoch if card else 0
            scores = card.scores if card else {}
            selected = str(row.selection.scorecard.epoch) if row.selection else ""
            table.row(
                "*" if row is best else "",
                str(record.number),
                text,
                literal_text(record.state, COLORS[record.state]),
                *[ProgressBar(max(1, record.total_epochs), epochs_done, width=8)] * wide,
                f"{epochs_done}/{record.total_epochs}",
                *(
                    self._format_score(name, scores[name].value) if name in scores else ""
                    for name in names
                ),
                f"{selected}{'' if row.selection is None or row.selection.feasible else '!'}",
            )
        return table

    def _format_score(self, name: str, value: float) -> Text:
        """A score, red if it violates its upper or lower limit."""
        violated = value > self.policy.max.get(name, float("inf"))
        violated |= value < self.policy.min.get(name, float("-inf"))
        return Text(f"{value:.2f}", "red" if violated else "")

    def _foot(self, rows: list[Row], room: int) -> Text:
        hidden = len(rows) - room
        verb = "is" if hidden == 1 else "are"
        foot = f"{count_noun(hidden, 'more trial')} {verb} not shown\n" if hidden > 0 else ""
        return Text(f"{foot}{FOOTER}", "dim")


def _visible_rows(rows: list[Row], best: Row | None, room: int) -> list[Row]:
    """The rows that fit: first running trials, then the best and the latest; sorted by number."""
    by_priority = sorted(
        rows, key=lambda row: (row.record.finished, row is not best, -row.record.number)
    )
    return sorted(by_priority[:room], key=lambda row: row.record.number)
