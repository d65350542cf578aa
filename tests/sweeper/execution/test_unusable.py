"""A checkpoint whose images are not finite: its study continues, and select and report work."""

from __future__ import annotations

import json
from pathlib import Path

from sweeper.tracking.trial_record import load_records
from tests.sweeper.conftest import SMALL, finish, run_module

TOO_LARGE_LR = "optimizer.lr=3e-3,1e6"


def test_a_study_continues_after_an_unusable_checkpoint(fresh: Path) -> None:
    command = ("-m", TOO_LARGE_LR, "training.max_steps=1", "training.save_precision=fp32", "pack=1",
               "hydra.sweeper.n_trials=2", "study.name=loud", *SMALL)  # fmt: skip
    for _ in range(2):  # the second time, the record is on disk
        code, output = finish(fresh, "sweeper", *command)
        assert code == 0, output
        assert "Traceback" not in output
        words = " ".join(output.replace("│", " ").split())  # the table wraps its lines
        assert "no checkpoint can be used: 8 of its 8 images are not finite numbers" in words
    study = fresh / "studies" / "loud"
    result = json.loads((study / "result.json").read_text())
    bad, good = sorted(result["trials"], key=lambda trial: trial["feasible"])
    assert (good["params"]["optimizer.lr"], bad["params"]["optimizer.lr"]) == (3e-3, 1e6)
    assert (result["trial"], bad["best_epoch"]) == (good["number"], None)
    assert bad["diagnosis"][0].startswith("diverged")
    spaces = {record.settings["search"]["optimizer.lr"] for record in load_records(study)}
    assert len(spaces) == 1, "a trial's own learning rate does not move the recorded space"
    assert "not finite numbers" in (study / "report.html").read_text()
    for module in ("sweeper.report", "sweeper.select"):
        code, output = run_module(module, "study=loud", f"root={fresh}")
        assert (code, "Traceback" in output) == (0, False), output
