"""A study at a glance while it runs, where the output is a terminal."""

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
from sweeper.console.progress import LINES, duration, settings_of, time_left
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
SCORES = {  # in their order, and what they are called where there is little room
    "prompt_fidelity": "prompt",
    "subject_fidelity": "subject",
    "pose_memorization": "memorized",
    "background_leak": "background",
    "outfit_leak": "outfit",
    "copying": "copying",
}
FEW = 3  # of them on a terminal of fewer columns than WIDE, which has no room for the bars either
WIDE = 110
BESIDE = 8  # lines of the display that are no trials
LEAVING = "!: over a limit.  Ctrl-C leaves after this epoch; twice, at once"


@contextmanager
def display(study: Path, trials: int, epochs: int, policy: PolicyConfig) -> Iterator[None]:
    """Shows the study within this context, in place of lines; whatever is printed goes above it.

    Where the output is no terminal, or one that cannot move its cursor, nothing is done.

    Args:
        trials, epochs: see `Progress`.
    """
    console = PlainConsole(sys.stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    shown = Display(study, trials, epochs, policy)
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    handlers = [handler for handler in handlers if handler.stream is sys.stderr]
    level = LINES.level
    with Live(
        get_renderable=lambda: shown,
        console=console,
        refresh_per_second=1,
        transient=True,  # the table of the end takes its place
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays there
    ):
        for handler in handlers:
            handler.setStream(sys.stderr)
        LINES.setLevel(logging.WARNING)
        try:
            yield
        finally:
            LINES.setLevel(level)
            before = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
            for handler in handlers:
                handler.setStream(before)


class Row(NamedTuple):
    """A trial, and what is selected from it so far."""

    record: TrialRecord
    selection: Selection | None

    @property
    def rank(self) -> tuple[bool, float]:
        """Greater is better."""
        return self.selection.rank if self.selection else (False, float("-inf"))


@dataclass
class Display:
    """The study as its records on disk have it, those of other workers included."""

    study: Path
    trials: int
    epochs: int
    policy: PolicyConfig
    _seen: dict[Path, tuple[tuple[str, int], Row]] = field(default_factory=dict)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        rows = [self._row(record) for record in load_records(self.study)]
        scored = [row for row in rows if row.selection and row.record.state != FAILED]
        best = max(scored, key=lambda row: row.rank, default=None)
        room = max(3, (options.height or console.height) - BESIDE)
        table = self._table(_most_telling(rows, best, room), best, options.max_width >= WIDE)
        yield Group(self._head(rows, best), table, self._foot(rows, room))

    def _row(self, record: TrialRecord) -> Row:
        """Selecting takes its time, so it is done once an epoch."""
        version, known = (record.state, len(record.epochs)), self._seen.get(record.folder)
        if known is None or known[0] != version:
            cards = record.scorecards
            known = version, Row(record, select(cards, self.policy) if usable(cards) else None)
            self._seen[record.folder] = known
        return known[1]

    def _head(self, rows: list[Row], best: Row | None) -> Text:
        ended = sum(row.record.finished for row in rows)
        trials = count_noun(self.trials, "trial")
        head = literal_text(self.study.name, "bold")
        head = Text.assemble(head, f"  {ended} of {trials} ended")
        head.append(f"  {self._left([row.record for row in rows])}")
        if best and best.selection:
            pick = best.selection
            within = "" if pick.feasible else ", over a limit"
            label = literal_text(pick.scorecard.label)
            head.append(f"\nbest so far: trial {best.record.number}, ").append(label).append(", ")
            told = f"{format_comparison_value(pick.scorecard)} overall"
            if pick.fidelity is not None:
                told = f"fidelity {pick.fidelity:.2f}"
            head.append(f"{told}{within}", "bold")
        return head

    def _left(self, records: list[TrialRecord]) -> str:
        seconds = time_left(records, self.trials, self.epochs)
        if seconds is None:
            return "the first epoch is under way"
        last = max(epoch.time for record in records for epoch in record.epochs) / 1000
        return f"about {duration(max(0.0, seconds - (time.time() - last)))} left"

    def _table(self, rows: list[Row], best: Row | None, wide: bool) -> PlainTable:
        table = PlainTable(box=None, padding=(0, 1, 0, 0), header_style="dim")
        for heading in ("", "trial", "settings", "state", *[""] * wide, "epoch"):
            table.heading(heading, unbroken=heading != "settings")
        names = {
            name: word
            for name, word in list(SCORES.items())[: None if wide else FEW]
            if any(row.selection and name in row.selection.scorecard.scores for row in rows)
        }
        for heading in (*names.values(), "keep"):
            table.heading(heading, right=True, unbroken=True)
        settings = settings_of([row.record for row in rows])
        for row, words in zip(rows, settings, strict=True):
            record, card = row.record, row.record.scorecards[-1] if row.record.epochs else None
            done = card.epoch if card else 0
            scores = card.scores if card else {}
            kept = str(row.selection.scorecard.epoch) if row.selection else ""
            table.row(
                "*" if row is best else "",
                str(record.number),
                words,
                literal_text(record.state, COLORS[record.state]),
                *[ProgressBar(max(1, record.length), done, width=8)] * wide,
                f"{done}/{record.length}",
                *(
                    self._figure(name, scores[name].value) if name in scores else ""
                    for name in names
                ),
                f"{kept}{'' if row.selection is None or row.selection.feasible else '!'}",
            )
        return table

    def _figure(self, name: str, value: float) -> Text:
        """A score; red where it is over its limit, or below its floor."""
        over = value > self.policy.max.get(name, float("inf"))
        over |= value < self.policy.min.get(name, float("-inf"))
        return Text(f"{value:.2f}", "red" if over else "")

    def _foot(self, rows: list[Row], room: int) -> Text:
        hidden = len(rows) - room
        verb = "is" if hidden == 1 else "are"
        foot = f"{count_noun(hidden, 'more trial')} {verb} not shown\n" if hidden > 0 else ""
        return Text(f"{foot}{LEAVING}", "dim")


def _most_telling(rows: list[Row], best: Row | None, room: int) -> list[Row]:
    """As many as there is room for: those at work, the best, and the last; in their order."""
    by_weight = sorted(
        rows, key=lambda row: (row.record.finished, row is not best, -row.record.number)
    )
    return sorted(by_weight[:room], key=lambda row: row.record.number)
