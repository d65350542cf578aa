"""A checkpoint whose images are not finite: its study goes on, and can be looked at again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sweeper.conftest import SMALL, finish, run_module

LOUD = "optimizer.lr=3e-3,1e6"


def test_a_study_goes_on_after_a_checkpoint_that_cannot_be_used(fresh: Path) -> None:
    command = ("-m", LOUD, "training.max_steps=1", "training.save_precision=fp32", "pack=1",
               "hydra.sweeper.n_trials=2", "study.name=loud", *SMALL)  # fmt: skip
    for _ in range(2):  # the same again finds the record on disk
        code, said = finish(fresh, "sweeper", *command)
        assert code == 0, said
        assert "Traceback" not in said
        assert "no checkpoint can be used: 8 of its 8 images are not finite numbers" in said
    study = fresh / "studies" / "loud"
    result = json.loads((study / "result.json").read_text())
    bad, good = sorted(result["trials"], key=lambda trial: trial["feasible"])
    assert (good["params"]["optimizer.lr"], bad["params"]["optimizer.lr"]) == (3e-3, 1e6)
    assert (result["trial"], bad["best_epoch"]) == (good["number"], None)
    assert bad["diagnosis"][0].startswith("diverged")
    assert "not finite numbers" in (study / "report.html").read_text()
    for module in ("sweeper.report", "sweeper.select"):
        code, said = run_module(module, "study=loud", f"root={fresh}")
        assert (code, "Traceback" in said) == (0, False), said
