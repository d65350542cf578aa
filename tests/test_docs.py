"""What docs/ says in tables is what the code and conf/ have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from evaluate.config import RULES, SCORES, PolicyConfig
from evaluate.selection import diagnosis
from sweeper.config import SelectConfig
from train.cli.compose import settings
from train.config.schema import CONF, TrainConfig

DOCS = Path(__file__).parents[1] / "docs"
BASE = "base.path=/my/model.safetensors"


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def row(document: str, first: str) -> list[str]:
    """The cells after the first one of a table's row."""
    (line,) = re.findall(rf"^\| ?{re.escape(first)} \|(.*)\|$", document, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_every_score_and_every_rule_is_explained() -> None:
    said = text("scores")
    missing = [name for name in (*SCORES, *RULES) if f"`{name}`" not in said]
    assert missing == ["overfit_aware"], "which is the default policy, in three steps"


def test_the_limits_are_those_of_the_default_policy() -> None:
    policy: PolicyConfig = settings("select", SelectConfig, ["study=x"]).selection
    said = " ".join(text("scores").split())
    (most,) = {*policy.max.values()}
    assert f"and `copying` must stay at or below {most:g}" in said
    assert f"`prompt_fidelity` at or above {policy.min['prompt_fidelity']:g}" in said
    assert all(f"`{name}`" in said for name in policy.max)


@pytest.mark.parametrize("group", ["search", "pruner", "hydra/sweeper/sampler"])
def test_every_choice_of_a_search_is_named(group: str) -> None:
    said = text("searching")
    for file in (CONF / group).glob("*.yaml"):
        assert f"`{file.stem}`" in said or f"{Path(group).name}={file.stem}" in said


def test_every_finding_of_the_diagnosis_is_explained() -> None:
    findings = {*re.findall(r'Finding\(\s*"([a-z ]+)"', inspect.getsource(diagnosis))}
    assert len(findings) > 6
    for name in findings:
        assert row(text("troubleshooting"), name)


@pytest.mark.parametrize(("place", "preset"), enumerate(["character", "style", "concept"]))
def test_the_table_of_presets(place: int, preset: str) -> None:
    said = text("own-pictures")
    config = settings("train", TrainConfig, [BASE, f"preset={preset}"])
    assert row(said, "")[place] == f"`{preset}`"
    assert row(said, "resolution on SD 1.x")[place] == f"{config.data.resolution}"
    pairs = {
        "repeats, epochs": (config.data.repeats, config.training.epochs),
        "rank, alpha": (config.network.rank, config.network.alpha),
    }
    for name, (first, second) in pairs.items():
        assert row(said, name)[place] == f"{first:g}, {second:g}"
    assert float(row(said, "learning rate of AdamW")[place]) == config.optimizer["lr"]
    assert row(said, "scheduler, with 10 % warm-up")[place] == config.scheduler.name
    assert config.scheduler.warmup_ratio == 0.1
