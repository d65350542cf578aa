"""The tables and figures in docs/ agree with the code and conf/."""

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
BASE_OVERRIDE = "base.path=/my/model.safetensors"


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def row(document: str, first_cell: str) -> list[str]:
    """Returns the cells of a table row, after its first cell."""
    (line,) = re.findall(rf"^\| ?{re.escape(first_cell)} \|(.*)\|$", document, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_every_score_and_selection_rule_is_documented() -> None:
    document = text("scores")
    missing = [name for name in (*SCORES, *RULES) if f"`{name}`" not in document]
    # the default rule is documented in three steps, without its name
    assert missing == ["overfit_aware"]


def test_documented_limits_are_those_of_the_default_policy() -> None:
    policy: PolicyConfig = settings("select", SelectConfig, ["study=x"]).selection
    document = " ".join(text("scores").split())
    (limit,) = {*policy.max.values()}
    assert f"and `copying` must stay at or below {limit:g}" in document
    assert f"`prompt_fidelity` at or above {policy.min['prompt_fidelity']:g}" in document
    assert all(f"`{name}`" in document for name in policy.max)


@pytest.mark.parametrize("group", ["search", "pruner", "hydra/sweeper/sampler"])
def test_every_search_option_is_documented(group: str) -> None:
    document = text("searching")
    for file in (CONF / group).glob("*.yaml"):
        assert f"`{file.stem}`" in document or f"{Path(group).name}={file.stem}" in document


def test_every_diagnosis_is_documented() -> None:
    findings = {*re.findall(r'Finding\(\s*"([a-z ]+)"', inspect.getsource(diagnosis))}
    assert len(findings) > 6
    for name in findings:
        assert row(text("troubleshooting"), name)


@pytest.mark.parametrize(("column", "preset"), enumerate(["character", "style", "concept"]))
def test_the_table_of_presets(column: int, preset: str) -> None:
    document = text("own-pictures")
    config = settings("train", TrainConfig, [BASE_OVERRIDE, f"preset={preset}"])
    assert row(document, "")[column] == f"`{preset}`"
    assert row(document, "resolution on SD 1.x")[column] == f"{config.data.resolution}"
    pairs = {
        "repeats, epochs": (config.data.repeats, config.training.epochs),
        "rank, alpha": (config.network.rank, config.network.alpha),
    }
    for name, (first, second) in pairs.items():
        assert row(document, name)[column] == f"{first:g}, {second:g}"
    assert float(row(document, "learning rate of AdamW")[column]) == config.optimizer["lr"]
    assert row(document, "scheduler, with 10% warm-up")[column] == config.scheduler.name
    assert config.scheduler.warmup_ratio == 0.1
