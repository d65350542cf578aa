"""`python -m evaluate checkpoints='out/*.safetensors'`: scores LoRA files, says which to keep."""

from __future__ import annotations

import glob
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluate.config import PolicyConfig, ProbesConfig, ScoresConfig, check_scoring
from evaluate.merit import fidelity
from evaluate.policy import select
from evaluate.scorecard import Estimate, Scorecard
from evaluate.scorer import Scorer
from train.base import load_base
from train.checkpoint import CheckpointError, epoch_of, write_atomically
from train.command import run
from train.config import BaseConfig, DataConfig
from train.data import load_pictures

log = logging.getLogger(__name__)
WIDE = 200  # columns of a table with intervals


@dataclass
class EvaluateConfig:
    """What is scored, and how."""

    checkpoints: str
    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    output: str = "outputs/scores"


def check(config: EvaluateConfig) -> None:
    """Refuses impossible settings with a ConfigError."""
    check_scoring(config.probes, config.scores, config.policy)


def main(config: EvaluateConfig) -> None:
    """Scores the files by epoch; writes scorecards.json and a contact sheet for each."""
    files = [Path(file) for file in sorted(glob.glob(str(Path(config.checkpoints).expanduser())))]
    if not files:
        raise CheckpointError(f"checkpoints: no file {config.checkpoints}")
    files.sort(key=epoch_of)
    pictures = load_pictures(config.data)
    log.info(pictures.report())
    output = Path(config.output)
    scorer = Scorer(
        load_base(config.base), pictures, config.data.resolution, config.probes, config.scores,
        output / "cache",
    )  # fmt: skip
    cards = []
    for number, file in enumerate(files, start=1):
        card = scorer([file])[0]
        cards.append(card)
        log.info(f"{number}/{len(files)} {file.name}")
        scorer.sheet(card).save(output / f"{file.stem}.png")
    write_atomically(
        output / "scorecards.json", json.dumps([c.to_dict() for c in cards], indent=2).encode()
    )
    selection = select(cards, config.policy)
    console = Console(width=None if Console().is_terminal else WIDE)
    console.print(table(cards, selection.scorecard, intervals=console.width >= WIDE))
    for note in selection.scorecard.notes:
        console.print(f"note: {note}")
    console.print(f"keep {selection.scorecard.checkpoint}")
    console.print(" ".join(selection.reasons))


def table(cards: list[Scorecard], kept: Scorecard, intervals: bool) -> Table:
    """The scorecards by epoch, the kept one marked; intervals where there is room for them."""
    names = list(dict.fromkeys(name for card in cards for name in card.scores))
    shown = Table("", "epoch", "fidelity", *(name.replace("_", " ") for name in names))
    for card in cards:
        cells = [_cell(card.scores.get(name), intervals) for name in names]
        mark = "keep" if card is kept else ""
        shown.add_row(mark, str(card.epoch), f"{fidelity(card):.2f}", *cells)
    return shown


def _cell(estimate: Estimate | None, interval: bool) -> str:
    if estimate is None:
        return "-"
    bounds = f" ({estimate.low:.2f} to {estimate.high:.2f})" if interval else ""
    return f"{estimate.value:.2f}{bounds}"


if __name__ == "__main__":
    run("evaluate", EvaluateConfig, check, main)
