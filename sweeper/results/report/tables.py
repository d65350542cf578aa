"""The tables of a report: scores, settings, trials, time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evaluate.config import SHARE_SCORES, PolicyConfig
from evaluate.scorecard import Scorecard
from evaluate.selection.explain import format_percent
from evaluate.selection.objective import FIDELITIES, violations
from sweeper.console.progress import duration, format_value
from sweeper.results.ranking import RankedTrial, short_key
from sweeper.tracking.trial_record import FAILED, TrialRecord
from train.config.flattening import flatten

# score -> its title and its meaning
SCORE_TITLES = {
    "prompt_fidelity": ("follows prompts", "100%: as well as the base model"),
    "subject_fidelity": (
        "likeness",
        "0%: like the base model; 100%: like the training images to each other",
    ),
    "pose_memorization": (
        "comes close to a training pose",
        "share of the images that are nearer to one than 95% of the base model's are",
    ),
    "background_leak": ("shows a training background", "although the prompt names another one"),
    "outfit_leak": ("shows the training outfit", "although the prompt names another one"),
    "copying": ("copies a training image", "share of the images"),
    "class_bleed": ("likeness without the trigger word", "0%: the class is unchanged"),
    "detection_rate": ("a body is found", "share of the images"),
    "pose_diversity": ("variety of poses", "1: as varied as the base model's"),
    "color_shift": ("color shift", "mean difference from the base model, Delta E"),
    "validation_loss": ("loss on held-out images", "lower is better"),
    "generalization_gap": ("its gap to the loss on training images", "0: none"),
}
PERCENT = (*FIDELITIES, *SHARE_SCORES, "class_bleed", "detection_rate")
SECTIONS = ("data", "base", "network", "optimizer", "scheduler", "training")


@dataclass(frozen=True)
class ScoreRow:
    """A score of the selected checkpoint.

    Attributes:
        value, interval: formatted for display.
        bar: positions of the value and its bounds on a bar from 0 to 100; None: no bar.
        limit: position of the policy's upper or lower limit on the bar; None: no limit.
        bound: the limit in words.
        respected: whether the score is within the limit.
    """

    title: str
    meaning: str
    value: str
    interval: str
    bar: tuple[float, float, float] | None
    limit: float | None
    bound: str
    respected: bool


def score_rows(card: Scorecard, policy: PolicyConfig) -> list[ScoreRow]:
    """All scores of a checkpoint, in the order of SCORE_TITLES."""
    violated, rows = violations(card, policy), []
    for name, (title, meaning) in SCORE_TITLES.items():
        if name not in card.scores:
            continue
        value, low, high = card.scores[name]
        figure = format_percent if name in PERCENT else "{:.3g}".format
        limit = policy.max.get(name, policy.min.get(name))
        side = "at most" if name in policy.max else "at least"
        bar = (_bar_position(value), _bar_position(low), _bar_position(high))
        rows.append(ScoreRow(
            title, meaning, figure(value), f"{figure(low)} to {figure(high)}",
            bar if name in PERCENT else None, None if limit is None else _bar_position(limit),
            "" if limit is None else f"{side} {figure(limit)}", violated.get(name, 0.0) <= 0,
        ))  # fmt: skip
    return rows


def _bar_position(value: float) -> float:
    return round(100 * min(1.0, max(0.0, value)), 1)


def setting_groups(record: TrialRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """All settings that determine a LoRA's weights, by group."""
    groups = []
    for section in SECTIONS:
        values = flatten(record.settings.get(section) or {})
        if values:
            formatted = [
                (k if k != "_target_" else "class", _format_value(v)) for k, v in values.items()
            ]
            groups.append((section, formatted))
    return groups


def chips(record: TrialRecord) -> list[tuple[str, str]]:
    """The settings that were searched, or set on the command line."""
    return [(short_key(key), format_value(value)) for key, value in record.params.items()]


def _format_value(value: Any) -> str:
    return "-" if value is None else format_value(value)


@dataclass(frozen=True)
class TableCell:
    """A cell of the table of trials: its text, its sort key and a note."""

    text: str
    key: float | str | None = None
    note: str = ""


@dataclass(frozen=True)
class TrialRow:
    """A row of the table of trials."""

    number: int
    cells: list[TableCell]
    selected: bool


COLUMNS = {
    "fidelity": "fidelity",
    "prompt_fidelity": "follows prompts",
    "subject_fidelity": "likeness",
    "pose_memorization": "near training poses",
    "background_leak": "shows places",
    "outfit_leak": "shows outfits",
    "copying": "copies",
}


def trial_table(ranked: list[RankedTrial], searched: list[str]) -> tuple[list[str], list[TrialRow]]:
    """The headings and a row for each trial, best first.

    Args:
        searched: the settings in which the trials differ.
    """
    columns = [name for name in COLUMNS if name == "fidelity" or any(
        e.selection and name in e.selection.reported.scores for e in ranked)]  # fmt: skip
    headings = ["trial", *map(short_key, searched), "selected epoch",
                *(COLUMNS[n] for n in columns), "checkpoints", "device time",
                "how it ended"]  # fmt: skip
    rows = []
    for rank, entry in enumerate(ranked):
        record, selection = entry.record, entry.selection
        cells = [TableCell(str(record.number), record.number)]
        cells += [_cell(record.params.get(key)) for key in searched]
        if selection:
            over = "" if selection.feasible else "over a limit"
            values = {n: e.value for n, e in selection.reported.scores.items()}
            if selection.fidelity is not None:
                values["fidelity"] = selection.fidelity
            epoch = selection.scorecard.epoch
            cells.append(TableCell(str(epoch), epoch, over))
            cells += [_score(values.get(name)) for name in columns]
        else:
            cells += [TableCell("")] * (1 + len(columns))
        seconds = sum(epoch.seconds for epoch in record.epochs)
        cells += [TableCell(str(len(record.epochs)), len(record.epochs)),
                  TableCell(duration(seconds), round(seconds, 1)),
                  TableCell(record.state, record.state, record.reason)]  # fmt: skip
        rows.append(TrialRow(record.number, cells, rank == 0 and selection is not None))
    return headings, rows


def _score(value: float | None) -> TableCell:
    return TableCell("") if value is None else TableCell(f"{value:.2f}", value)


def _cell(value: Any) -> TableCell:
    if value is None:
        return TableCell("")
    if isinstance(value, float):
        return TableCell(format_value(value), value)
    return TableCell(str(value), value if isinstance(value, int) else str(value))


def failures(ranked: list[RankedTrial]) -> list[tuple[str, list[int]]]:
    """Each cause of failure with the numbers of its trials, the most frequent cause first."""
    failed = sorted((e.record for e in ranked if e.record.state == FAILED), key=lambda r: r.number)
    causes = Counter(record.reason for record in failed)
    return [(c, [r.number for r in failed if r.reason == c]) for c, _ in causes.most_common()]


@dataclass(frozen=True)
class Timing:
    """How long a study took, formatted for display."""

    started: str
    ended: str
    elapsed: str
    device: str
    training: str
    scoring: str
    checkpoints: int
    hardware: str
    preparing: str


def timing(records: list[TrialRecord]) -> Timing | None:
    """The timing of a study; None if no epoch was scored."""
    epochs = [epoch for record in records for epoch in record.epochs]
    if not epochs:
        return None
    first = min(epochs, key=lambda epoch: epoch.time)
    pack = min(len(records), max(record.pack for record in records))
    # the trials of one process share this value
    preparing = sum({record.preparing for record in records})
    preparing_before = min(records, key=_first_time).preparing
    # an epoch's seconds are its share of the pack's time
    started = max(0.0, first.time / 1000 - first.seconds * pack - preparing_before)
    ended = max(epoch.time for epoch in epochs) / 1000
    training, scoring = (sum(getattr(e, f"seconds_{n}") for e in epochs)
                         for n in ("training", "scoring"))  # fmt: skip
    devices = dict.fromkeys(r.tags.get("hardware.device", "") for r in records)
    return Timing(
        started=_format_time(started),
        ended=_format_time(ended),
        elapsed=duration(ended - started),
        device=duration(training + scoring + preparing),
        training=duration(training),
        scoring=duration(scoring),
        checkpoints=len(epochs),
        hardware=", ".join(filter(None, devices)),
        preparing=duration(preparing) if preparing else "",
    )


def _first_time(record: TrialRecord) -> float:
    return min((epoch.time for epoch in record.epochs), default=float("inf"))


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC.utc):%d %B %Y, %H:%M} UTC"
