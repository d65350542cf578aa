"""The public functions of the three packages, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import evaluate
import sweeper
import train
from evaluate import evaluate_settings, load_scorer, select
from sweeper import load_records, load_result, run_study
from train import load_base, load_dataset, train_lora, train_settings
from train.errors import ConfigError

PACKAGES = (train, evaluate, sweeper)
MODULES = ("train.library", "evaluate.library", "sweeper.library")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_exists_with_a_docstring(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name).__doc__.strip(), name
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # type: ignore[attr-defined]  # noqa: B018


class LastLines(doctest.OutputChecker):
    """Compares the end of the output only, because training prints its progress."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return got.endswith(want)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder().find(importlib.import_module(module))
    results = [doctest.DocTestRunner(LastLines()).run(test) for test in tests]
    assert sum(result.attempted for result in results) >= 2
    assert not any(result.failed for result in results)


def test_from_settings_to_a_selected_checkpoint(tmp_path: Path) -> None:
    config = train_settings("training.epochs=2", "data.repeats=1", f"output={tmp_path}/lora")
    base, dataset = load_base(config.base), load_dataset(config.data)
    files = train_lora(config, base, dataset)
    assert files == train_lora(config, base, dataset), "training again finds the run complete"
    scoring = evaluate_settings("probes.count=8", "probes.steps=2", f"root={tmp_path}")
    scorer = load_scorer(scoring, base, dataset)
    cards = scorer({file: epoch for epoch, file in enumerate(files, start=1)})
    assert select(cards, scoring.selection).scorecard.epoch in (1, 2)


def test_a_study_and_its_result(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean network\.rank"):
        run_study("a", "network.rnk=2", root=tmp_path)
    with pytest.raises(ConfigError, match="no result yet"):
        load_result("a", tmp_path)
    (tmp_path / "studies" / "a").mkdir(parents=True)
    assert load_records(tmp_path / "studies" / "a") == []
