"""What the benchmarks compute from the judge's metrics."""

from __future__ import annotations

import pytest
import torch

from bench.judging import means_of, quality_difference, unseen_requests
from bench.sweep import compare_checkpoints
from bench.sweep_pictures import Row
from train.puppets.demo import FEW_BACKGROUNDS, FEW_POSES

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
