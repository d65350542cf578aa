"""What the judge says of the checkpoints of one sweep of `bench.study`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from bench.judging import regret
from bench.study_data import Key, Sweep, truth_file
from evaluate.scorecard import Scorecard


@dataclass(frozen=True)
class Study:
    """A finished sweep, with what the judge read.

    Attributes:
        rounds: of the judge.
    """

    sweep: Sweep
    rounds: int

    @cached_property
    def cards(self) -> dict[Key, Scorecard]:
        """The scorecards of all checkpoints that did not fail, as the sweep made them."""
        return self.sweep.cards()

    @cached_property
    def files(self) -> dict[Key, Path]:
        """All checkpoints, and the variants of some."""
        return self.sweep.files()

    def worth(self, key: Key, half: int) -> float:
        """sqrt(mean identity * share obeyed), by every other round of the judge."""
        read = [self._truth(key, number) for number in range(half, self.rounds, 2)]
        means = (mean(v for part in read for v in part[name]) for name in ("identity", "obeyed"))
        identity, obeyed = means
        return float((identity * obeyed) ** 0.5)

    def average(self, key: Key, name: str) -> float:
        """The mean of something that the judge read, over all rounds; see `study_data`."""
        return mean(mean(self._truth(key, number)[name]) for number in range(self.rounds))

    def clip_image(self, key: Key) -> float:
        """The mean similarity of its images to the training images, by CLIP."""
        return float(self._truth(key, 0)["clip_image"])

    def _truth(self, key: Key, number: int) -> dict[str, Any]:
        return _load(truth_file(self.files[key], number))

    def highest(self, keys: Iterable[Key]) -> tuple[float, float]:
        """The highest worth by each half of the judge's images."""
        first, second = (max(self.worth(key, half) for key in keys) for half in (0, 1))
        return first, second

    def regret(self, key: Key, among: Iterable[Key] | None = None) -> float:
        """Share of the best checkpoint's worth that a checkpoint lacks.

        See `bench.judging.regret`.

        Args:
            among: the checkpoints to compare with; by default all that were saved.
        """
        rivals = [*(self.cards if among is None else among)]
        halves = [{k: self.worth(k, half) for k in (*rivals, key)} for half in (0, 1)]
        return regret(halves, [key], rivals)

    def trials(self) -> list[list[Key]]:
        """The checkpoints of each trial, in order."""
        return [list(keys) for _, keys in groupby(sorted(self.cards), key=lambda key: key[0])]

    def best(self) -> Key:
        """The best checkpoint by all of the judge's images."""
        return max(self.cards, key=lambda key: self.worth(key, 0) + self.worth(key, 1))


@cache
def _load(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content
