"""What the benchmarks compute from the judge's metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.judging import judge_each, means_of, quality_difference, unseen_requests
from bench.sweep import compare_checkpoints
from bench.sweep_pictures import Row
from train.puppets.demo import CHARACTERS, DATA_SETS, FEW_BACKGROUNDS, FEW_POSES, Shots, character
from train.puppets.networks.judge import Judge
from train.puppets.world.attributes import values_of
from train.puppets.world.examples import images_of

NUMBER = 64
OBEYED = torch.arange(NUMBER).remainder(4).ne(0).float()  # three quarters


def metrics(obeyed: torch.Tensor, identity: float = 0.81) -> dict[str, torch.Tensor]:
    return {"identity": torch.full((NUMBER,), identity), "obeyed": obeyed}


def test_quality_is_the_geometric_mean_and_differences_are_paired() -> None:
    good, bad = metrics(OBEYED), metrics(OBEYED, identity=0.36)
    assert means_of(good)["quality"] == pytest.approx((0.81 * 0.75) ** 0.5)
    same = quality_difference(good, metrics(OBEYED.clone()))
    assert (same.value, same.error) == (0, 0)
    lead = quality_difference(good, bad)
    assert lead.value == pytest.approx((0.9 - 0.6) * 0.75**0.5)
    unpaired = quality_difference(good, metrics(1 - OBEYED))
    assert 0 < lead.error < unpaired.error


def test_checkpoints_are_compared_with_the_selected_one_of_their_trial_and_of_the_study() -> None:
    judged = {
        (0, 1): metrics(OBEYED, 0.5), (0, 2): metrics(OBEYED, 0.4),
        (1, 1): metrics(OBEYED, 0.6), (1, 2): metrics(OBEYED, 0.9), (1, 3): metrics(OBEYED, 0.2),
    }  # fmt: skip
    rows: list[Row] = [
        {"trial": 0, "picked": False, "selected": 1, "last": 2},
        {"trial": 1, "picked": True, "selected": 1, "last": 3},
    ]
    compare_checkpoints(rows, judged)
    assert all(row["lead over last"].value > 0 for row in rows)
    assert "best" not in rows[0]
    assert rows[1]["best"] == (1, 2)
    assert rows[1]["lead of best"].value == pytest.approx((0.9**0.5 - 0.6**0.5) * 0.75**0.5)


def test_unseen_requests_ask_for_nothing_that_the_training_images_show() -> None:
    requests = unseen_requests(200, seed=1)
    assert not {r.arms for r in requests} & {arms for arms, _ in FEW_POSES}
    assert not {r.background for r in requests} & {*FEW_BACKGROUNDS}
    assert all(value in r.prompt for r in requests for value in r.attributes.values())


def test_images_repeat_what_their_training_images_show_and_nobody_asked_for() -> None:
    shots, judge = DATA_SETS["character"][0], Judge.from_folder()
    drawings = shots.drawings(seed=3)
    images = images_of(drawings).float() / 255
    shown = [values_of(drawing) for drawing in drawings]
    others = [{**row, "arms": "arms crossed", "background": "in the snow"} for row in shown]

    def means(requests: list[dict[str, Any]], shots: Shots = shots) -> dict[str, float]:
        metrics = judge_each(judge, images, requests, CHARACTERS[0], shots)
        return {name: float(values.mean()) for name, values in metrics.items()}

    asked = means(shown)
    assert asked["arms obeyed"] == asked["background obeyed"] == 1
    assert asked["training pose"] == asked["training background"] == 0
    repeated = means(others)
    assert repeated["training pose"] == repeated["training background"] == 1
    assert repeated["training legs"] == 0
    elsewhere = character(CHARACTERS[0], [("arms crossed", "squatting")], ["in the snow"], 4)
    assert means(others, elsewhere)["training pose"] == 0
