"""Fixtures: trials of a tiny base that run in packs, with made-up scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from evaluate.config import PolicyConfig
from evaluate.scorecard import Estimate, Scorecard
from sweeper.config import SweepConfig
from sweeper.console.progress import Progress
from sweeper.execution.context import StudyContext
from sweeper.execution.pack_runner import run_trials
from sweeper.execution.trial import Trial
from sweeper.tracking.trial_record import TrialRecord
from train.config.schema import BaseConfig, DataConfig, NetworkConfig, TrainingConfig
from train.data.dataset import Dataset
from train.models.base_model import BaseModel

Scoring = Callable[[dict[Path, int]], None]
Worth = Callable[[int, int], float]  # of a trial's epoch


class Scorer:
    """Scores each checkpoint with `worth` of its trial and epoch, after calling `scoring`."""

    def __init__(self, scoring: Scoring, worth: Worth) -> None:
        self.scoring, self.worth = scoring, worth

    def __call__(self, checkpoints: dict[Path, int]) -> list[Scorecard]:
        self.scoring(checkpoints)
        cards = []
        for path, epoch in checkpoints.items():
            value = self.worth(int(path.parent.name), epoch)
            scores = {
                n: Estimate(value, value - 0.1, value + 0.1)
                for n in ("prompt_fidelity", "subject_fidelity")
            }
            by_probe = {name: [value, value] for name in scores}
            images = np.zeros((2, 8, 8, 3), np.uint8)
            cards.append(Scorecard(path, epoch, scores, by_probe=by_probe, images=images))
        return cards

    def sheet(self, scorecard: Scorecard) -> Image.Image:
        return Image.new("RGB", (8, 8))


class Tracker:
    """A mirror that logs nothing."""

    def mirror(self, record: TrialRecord, policy: PolicyConfig) -> None: ...


class Lease:
    """A lease that belongs to no study."""

    lost = False

    def __init__(self, released: Callable[[], None]) -> None:
        self.release = released

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def complete(self, values: object, violations: object) -> None: ...


Make = Callable[..., Trial]
Run = Callable[..., None]


@pytest.fixture
def make(base_folder: Path, image_folder: Path, tmp_path: Path) -> Make:
    """Builds a trial from its number and training settings."""

    def make_trial(number: int, **training: Any) -> Trial:
        config = SweepConfig(
            data=DataConfig(path=str(image_folder), resolution=32),
            base=BaseConfig(path=str(base_folder), device="cpu"),
            network=NetworkConfig(rank=2 + number),
            optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3},
            training=TrainingConfig(**{"epochs": 2, "batch_size": 3, **training}),
        )
        folder = tmp_path / "study" / "trials" / f"{number:04d}"
        folder.mkdir(parents=True)
        settings = {"training": {"epochs": config.training.epochs}}
        record = TrialRecord(folder, "study", number, settings, [], {}, {})
        progress = Progress(tmp_path / "study", 9, 2)
        context = cast(Any, None)  # `run` has it
        return Trial(config, context, record, cast(Any, Tracker()), progress)

    return make_trial


@pytest.fixture
def run(base: BaseModel, dataset: Dataset) -> Run:
    """Runs trials with a scorer."""

    def run_with_scorer(
        trials: Any,
        pack: int,
        scoring: Scoring = lambda checkpoints: None,
        worth: Worth = lambda trial, epoch: 0.8,
    ) -> None:
        scorer = cast(Any, Scorer(scoring, worth))
        context = StudyContext(base, dataset, scorer, DataConfig())
        run_trials((replace_context(trial, context) for trial in trials), pack)

    def replace_context(trial: Trial, context: StudyContext) -> Trial:
        trial.context = context
        return trial

    return run_with_scorer
