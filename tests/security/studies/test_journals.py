"""Untrusted journals are data; an invalid one is refused in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution

from sweeper.config import SweepConfig
from sweeper.execution.search_setup import initial_settings
from sweeper.results.report.search_insights import analyze_search
from sweeper.search.search_space import parse_space
from sweeper.study import journal as journals
from sweeper.study.storage import JOURNAL_FILE, NO_PRUNER, find_study, open_study
from sweeper.study.study import Study, best_settings
from tests.sweeper.study.test_budget import save_ended_record, study_of
from train.errors import ConfigError

Line = dict[str, Any]
SEARCH = "optimizer.lr=interval(0.0,1.0)"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """The journal of a small study: three trials are complete, one is running, one is waiting."""
    study = study_of(tmp_path_factory.mktemp("study"), {"network.rank": 2}, {"network.rank": 8})
    for rank in range(3):
        trial = study.next_trial(9)
        assert trial
        trial.report(1, rank / 10)
        save_ended_record(trial.folder)
        trial.complete([rank / 4], {"copying": rank - 1.5})
    study.optuna.set_user_attr("trials", 9)
    study.optuna.ask()
    study.optuna.enqueue_trial({"network.rank": 16})
    text = (study.folder / JOURNAL_FILE).read_text()
    entries: list[Line] = [json.loads(line) for line in text.splitlines()]
    entries[0]["study_name"] = "good"
    return entries


def open_journal(folder: Path, lines: list[Line], suffix: bytes = b"") -> Study:
    """Opens a study whose journal has these lines, and then these bytes."""
    folder.mkdir(exist_ok=True)
    if lines[0].get("study_name") == "good":
        lines = [{**lines[0], "study_name": folder.name}, *lines[1:]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / JOURNAL_FILE).write_bytes(text.encode() + suffix)
    return study_of(folder)


def last_index(lines: list[Line], code: int) -> int:
    """Returns the index of the last line with this op_code."""
    return max(number for number, line in enumerate(lines) if line["op_code"] == code)


def refuse(folder: Path, lines: list[Line], suffix: bytes = b"") -> str:
    """Checks that a journal is refused, and returns the error line."""
    with pytest.raises(ConfigError) as caught:
        open_journal(folder, lines, suffix)
    message = str(caught.value)
    assert message.startswith(f"{folder / JOURNAL_FILE} is damaged (")
    assert message.endswith("; move it away to start the study over")
    assert message.isprintable()
    assert len(message) < 600
    return message


def test_valid_journal_is_read(tmp_path: Path, lines: list[Line]) -> None:
    study = open_journal(tmp_path / "s", lines)
    states = [trial.state.name for trial in study.optuna.trials]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING", "WAITING"]
    assert study.optuna.trials[2].constraints == {"copying": 0.5}
    assert study.optuna.trials[2].intermediate_values == {1: 0.2}
    assert study.optuna.user_attrs == {"about": {}, "trials": 9}
    assert study.optuna.trials[4].system_attrs == {"fixed_params": {"network.rank": 16}}


CATEGORICAL = '{"name": "CategoricalDistribution", "attributes": {"choices": [2, 4, 8, 16]}}'
CHOICES = "[2, 4, 8, 16]"
NAMELESS = '{"attributes": {"choices": [2, 4, 8, 16]}}'
# op_code of the changed line, and its changes
CHANGES: dict[str, tuple[int, Line]] = {
    "a kind that is none": (0, {"op_code": 11}),
    "a kind that is a text": (0, {"op_code": "0"}),
    "a kind that is true": (0, {"op_code": True}),
    "a kind below none": (0, {"op_code": -1}),
    "a huge kind": (0, {"op_code": 10**400}),
    "no worker": (0, {"worker_id": None}),
    "a long name": (0, {"study_name": "s" * 10_000}),
    "a name that is a list": (0, {"study_name": ["s"]}),
    "directions that are none": (0, {"directions": [0]}),
    "directions without end": (0, {"directions": [1] * 100}),
    "directions that are a number": (0, {"directions": 1}),
    "no directions": (0, {"directions": []}),
    "two user attributes": (2, {"user_attr": {"a": 1, "b": 2}}),
    "no user attribute": (2, {"user_attr": {}}),
    "a user attribute that is a list": (2, {"user_attr": ["about"]}),
    "an attribute that is too deep": (2, {"user_attr": {"about": {"a": {"b": {"c": 1}}}}}),
    "a study that is a float": (2, {"study_id": 0.5}),
    "a study below none": (2, {"study_id": -1}),
    "a trial without a beginning": (4, {"datetime_start": 5}),
    "a moment that is none": (4, {"datetime_start": "2026-13-26T01:14:47.093929+00:00"}),
    "a moment before clocks": (4, {"datetime_start": "0001-01-01T00:00:00.000000+00:00"}),
    "a moment without a zone": (4, {"datetime_start": "2026-11-26T01:14:47"}),
    "a state that is none": (4, {"state": 7}),
    "a state that is true": (4, {"state": True}),
    "params without distributions": (4, {"params": {"network.rank": 1}}),
    "both a value and values": (4, {"value": 1.0, "values": [1.0]}),
    "complete without a value": (4, {"state": 1}),
    "steps that are words": (4, {"intermediate_values": {"one": 1.0}}),
    "steps in other digits": (4, {"intermediate_values": {"²": 1.0}}),
    "queued settings that are a list": (4, {"system_attrs": {"fixed_params": [1]}}),
    "queued settings that are nested": (4, {"system_attrs": {"fixed_params": {"a": [1]}}}),
    "a value outside of its choices": (5, {"param_value_internal": 4}),
    "a value below its choices": (5, {"param_value_internal": -1}),
    "a value that is a text": (5, {"param_value_internal": "1"}),
    "a value that is NaN": (5, {"param_value_internal": float("nan")}),
    "a value that is infinite": (5, {"param_value_internal": float("inf")}),
    "a value that is huge": (5, {"param_value_internal": 10**400}),
    "a distribution that is no JSON": (5, {"distribution": "choice(1, 2)"}),
    "a distribution that is a mapping": (5, {"distribution": json.loads(CATEGORICAL)}),
    "a distribution without a name": (5, {"distribution": NAMELESS}),
    "an unknown distribution": (5, {"distribution": CATEGORICAL.replace("Categ", "Metaph")}),
    "choices that are lists": (5, {"distribution": CATEGORICAL.replace("4", "[4]")}),
    "choices that are one text": (5, {"distribution": CATEGORICAL.replace(CHOICES, '"ab"')}),
    "no choices": (5, {"distribution": CATEGORICAL.replace("2, 4, 8, 16", "")}),
    "another kind of distribution": (5, {"distribution": "[" * 100_000}),
    "an end that is none": (6, {"state": 9}),
    "an end without values": (6, {"values": None}),
    "an end with a text": (6, {"values": ["good"]}),
    "an end with NaN": (6, {"values": [float("nan")]}),
    "an end with infinity": (6, {"values": [float("inf")]}),
    "an end beyond all floats": (6, {"values": [10**400]}),
    "an end with two values": (6, {"values": [0.5, 0.5]}),
    "an end without a time": (6, {"datetime_complete": None}),
    "a step that is huge": (7, {"step": 10**12}),
    "a step that is a text": (7, {"step": "1"}),
    "a step that is true": (7, {"step": True}),
    "a report that is a list": (7, {"intermediate_value": [1.0]}),
    "a constraint that is a text": (9, {"system_attr": {"constraints:copying": "0"}}),
    "a constraint that is NaN": (9, {"system_attr": {"constraints:copying": float("nan")}}),
    "constraints that are a number": (9, {"system_attr": {"constraints": 1}}),
    "a trial that is a text": (9, {"trial_id": "0"}),
    "a trial that is huge": (9, {"trial_id": 10**30}),
}  # fmt: skip


@pytest.mark.parametrize(("code", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_invalid_line_is_refused(
    tmp_path: Path, lines: list[Line], code: int, change: Line
) -> None:
    number = last_index(lines, code)
    bad = [*lines[:number], {**lines[number], **change}, *lines[number + 1 :]]
    assert f"(line {number + 1}: " in refuse(tmp_path, bad) or change == {"values": [0.5, 0.5]}


@pytest.mark.parametrize("code", [0, 2, 4, 5, 6, 7, 9])
def test_line_without_a_required_key_is_refused(
    tmp_path: Path, lines: list[Line], code: int
) -> None:
    number = last_index(lines, code)
    for key in lines[number]:
        if key in ("datetime_complete", "state") and code == 4:
            continue
        bad = [dict(line) for line in lines]
        del bad[number][key]
        if code == 4 and key not in ("op_code", "worker_id", "study_id", "datetime_start"):
            open_journal(tmp_path, bad)
            continue
        assert f"(line {number + 1}: " in refuse(tmp_path, bad)


@pytest.mark.parametrize(
    "text",
    [b"null", b"[]", b"1", b'"op_code"', b"{}", b"{", b"\xff\xfe", b"\x00" * 99, b"[" * 100_000,
     b'{"op_code": 0' + b" " * 500_000, b'{"op_code": 10}', b"\x80\x04\x95pickle"],
)  # fmt: skip
def test_line_that_is_no_entry_is_refused(tmp_path: Path, lines: list[Line], text: bytes) -> None:
    assert f"(line {len(lines) + 1}: " in refuse(tmp_path, lines, text + b"\n{}\n")
    assert f"(line {len(lines) + 1}: " in refuse(tmp_path, lines, text + b"\n")


@pytest.mark.parametrize("torn", [b"{", b'{"op_code": 8, "torn', b"\x00" * 99, b"null", b"\xff"])
def test_incomplete_last_line_is_removed(tmp_path: Path, lines: list[Line], torn: bytes) -> None:
    study = open_journal(tmp_path, lines, torn)
    study.optuna.set_user_attr("trials", 10)
    assert study_of(tmp_path).optuna.user_attrs["trials"] == 10
    for line in (tmp_path / JOURNAL_FILE).read_text().splitlines():
        assert isinstance(json.loads(line), dict)


def test_meaningless_lines_are_ignored(tmp_path: Path, lines: list[Line]) -> None:
    """Lines of unknown trials and studies, and keys of a later version."""
    worker = {"worker_id": "friend"}
    extra = [
        {**worker, "op_code": 1, "study_id": 99},
        {**worker, "op_code": 3, "study_id": 99, "system_attr": {"a": 1}},
        {**worker, "op_code": 9, "trial_id": 99, "system_attr": {"a": [1, "b", None]}},
        {**worker, "op_code": 10, "trials": [1]},
        {**lines[0], "worker_id": "friend", "study_name": "ünï‮\x1b[31m"},
        {**lines[last_index(lines, 7)], "step": 77, "of_tomorrow": {"a": [[1]]}},
    ]
    assert len(open_journal(tmp_path, [*lines, *extra]).optuna.trials) == 5


def test_pickled_attributes_are_ignored(tmp_path: Path, lines: list[Line]) -> None:
    line = {"op_code": 9, "worker_id": "friend", "trial_id": 3}
    names = ("cma:optimizer:0", "cma:generation", "sepcma:optimizer:0", "cmawm:optimizer:10")
    attributes = dict.fromkeys(names, "80049553")
    extra = [{**line, "system_attr": {name: "80049553"}} for name in names]
    new = {**lines[last_index(lines, 4)], "system_attrs": attributes}
    trials = open_journal(tmp_path, [*lines, *extra, new]).optuna.trials
    assert trials[3].system_attrs == trials[5].system_attrs == {"cma:generation": "80049553"}


def change_all(code: int, **change: Any) -> Callable[[list[Line]], None]:
    """Returns a function that changes all lines with this op_code, so that they stay consistent."""

    def apply(lines: list[Line]) -> None:
        for line in lines:
            if line["op_code"] == code:
                line |= change

    return apply


WIDER = CATEGORICAL.replace("16]", '"${oc.env:HOME}"]')
NUMBERS = '{"name": "IntDistribution", "attributes": {"low": 2, "high": 16, "log": false}}'
OUTSIDE: dict[str, Callable[[list[Line]], None]] = {
    "other choices": change_all(5, distribution=WIDER, param_value_internal=3),
    "another kind": change_all(5, distribution=NUMBERS, param_value_internal=3),
    "queued outside": change_all(4, system_attrs={"fixed_params": {"network.rank": 3}}),
    "queued true": change_all(4, system_attrs={"fixed_params": {"network.rank": True}}),
    "queued text": change_all(4, system_attrs={"fixed_params": {"network.rank": "2 +a=b"}}),
    "about a list": change_all(2, user_attr={"about": ["a"]}),
    "about numbers": change_all(2, user_attr={"about": {"training.seed": 0}}),
    "many trials": change_all(2, user_attr={"trials": 10**15}),
    "trials in words": change_all(2, user_attr={"trials": "all"}),
    "trials true": change_all(2, user_attr={"trials": True}),
    "endless draws": lambda lines: lines.append(
        {"op_code": 3, "worker_id": "w", "study_id": 0, "system_attr": {"qmc:a": 10**15}}
    ),
    "deaths in words": lambda lines: lines.append(
        {"op_code": 8, "worker_id": "w", "trial_id": 3, "user_attr": {"deaths": "many"}}
    ),
}


@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_study_that_contradicts_its_search_is_refused(
    tmp_path: Path, lines: list[Line], change: Callable[[list[Line]], None]
) -> None:
    bad = [dict(line) for line in lines]
    change(bad)
    refuse(tmp_path, bad)


def test_special_file_is_refused(tmp_path: Path, lines: list[Line]) -> None:
    os.mkfifo(tmp_path / JOURNAL_FILE)
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        study_of(tmp_path)
    (tmp_path / JOURNAL_FILE).unlink()
    (tmp_path / JOURNAL_FILE).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        study_of(tmp_path)


def test_too_large_journal_is_refused(
    tmp_path: Path, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_LINES", len(lines))
    assert f"more than {len(lines)} lines" in refuse(tmp_path, [*lines, lines[0]])
    open_journal(tmp_path, lines[:-2])  # opening adds a line
    monkeypatch.setattr(journals, "MAX_BYTES", 1000)
    assert "larger than 0.001 MB" in refuse(tmp_path, lines)


@pytest.mark.parametrize("kind", ["reports", "attributes", "parameters", "studies"])
def test_journal_with_quadratic_replay_is_refused(
    tmp_path: Path, lines: list[Line], kind: str
) -> None:
    """Optuna would replay these for minutes, as each line takes longer than the last."""
    new_trial = lines[last_index(lines, 4) - 1]
    report, param = lines[last_index(lines, 7)], lines[last_index(lines, 5)]
    attribute = {"op_code": 9, "worker_id": "w", "trial_id": 3}
    extra: list[Line]
    if kind == "reports":
        extra = [{**report, "trial_id": 3, "step": step} for step in range(40_000)]
    elif kind == "attributes":
        extra = [{**attribute, "system_attr": {str(n): 0}} for n in range(40_000)]
    elif kind == "studies":
        extra = [{**lines[0], "study_name": str(n)} for n in range(40_000)]
    else:
        extra = [new_trial] * 20_000
        extra += [{**param, "trial_id": 20_000 - n, "param_name": "late"} for n in range(20_000)]
    start = time.monotonic()
    refuse(tmp_path, [*lines, *extra])
    assert time.monotonic() - start < 20


def test_damaged_study_does_not_stop_a_report(tmp_path: Path, lines: list[Line]) -> None:
    study = tmp_path / "studies" / "bad"
    study.parent.mkdir()
    bad = [*lines, {**lines[last_index(lines, 6)], "values": ["good"]}]
    refuse(study, bad)
    assert find_study(study, None) is None
    assert "this section is missing" in analyze_search(study, None).sentence


def test_warm_start_from_a_damaged_study_is_refused(tmp_path: Path, lines: list[Line]) -> None:
    number = last_index(lines, 6)
    refuse(tmp_path / "b", [*lines[:number], {**lines[number], "values": [[1]]}])
    with pytest.raises(ConfigError, match=f"line {number + 1}: "):
        best_settings(tmp_path / "b", None, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("about", ["a"]), ("about", {"a": 1}), ("trials", "all"), ("trials", -1), ("trials", 1e300)],
)
def test_study_in_a_database_is_checked(tmp_path: Path, name: str, value: Any) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    open_study(tmp_path / "s", NO_PRUNER, url).set_user_attr(name, value)
    with pytest.raises(ConfigError, match=r"study\.storage: the study in it is damaged \(study s"):
        open_study(tmp_path / "s", NO_PRUNER, url)
    assert find_study(tmp_path / "s", url) is None


def test_trials_in_a_database_are_checked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = open_study(tmp_path / "s", NO_PRUNER, url)
    study.enqueue_trial({"network.rank": [1]})
    with pytest.raises(ConfigError, match=r"trial 0: its 'fixed_params' is"):
        open_study(tmp_path / "s", NO_PRUNER, url)


class FailingSampler(optuna.samplers.RandomSampler):
    """Fails on something in the study."""

    def infer_relative_search_space(self, *_: Any) -> Any:
        raise AssertionError


def test_error_of_a_sampler_is_one_line(tmp_path: Path) -> None:
    study = study_of(tmp_path, search=SEARCH)
    study.sampler = {"_target_": f"{__name__}.FailingSampler"}
    with pytest.raises(ConfigError, match=r"is damaged .AssertionError.; move it away"):
        study.next_trial(3)


VALUES = [True, 2.5, float("nan"), float("inf"), 10**400, -1, 3, "2", "2 +a=b", "${oc.env:HOME}",
          None, [2], {"a": 2}]  # fmt: skip


def master_config(rank: int) -> DictConfig:
    return OmegaConf.create({"network": {"rank": rank}, "hydra": {"runtime": {"choices": {}}}})


@pytest.mark.parametrize("search", ["network.rank=2,4,8", "network.rank=interval(2,8)"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_enqueued_settings_must_be_in_the_search(search: str, value: Any) -> None:
    space, _ = parse_space([search], {}, OverridesParser.create())
    config = SweepConfig()
    config.study.enqueue = [{"network.rank": 2}, {"network.rank": value}]
    if value in (3, 2.5) and "interval" in search:
        assert len(initial_settings(master_config(4), config, space)) == 3
        return
    with pytest.raises(ConfigError, match="is outside the search") as caught:
        initial_settings(master_config(4), config, space)
    assert len(str(caught.value).splitlines()) == 1


def test_warm_start_uses_only_values_in_the_search(tmp_path: Path) -> None:
    """The other study has other parameters and other types of values."""
    other = open_study(tmp_path / "studies" / "other", NO_PRUNER)
    wide = CategoricalDistribution([True, 3, "8", "2 +a=b", None])
    for value in (True, "8", "2 +a=b", None, 3):
        other.add_trial(
            optuna.trial.create_trial(
                params={"network.rank": value, "a.b": value},
                distributions={"network.rank": wide, "a.b": wide},
                value=1.0,
            )
        )
    config = SweepConfig()
    config.study.root, config.study.warm_start = str(tmp_path), "other"
    space, _ = parse_space(["network.rank=choice(2,4,8)"], {}, OverridesParser.create())
    assert best_settings(tmp_path / "studies" / "other", None, 99)[0]["a.b"] is True
    settings = initial_settings(master_config(8), config, space)
    assert [{**params} for params in settings] == [{"network.rank": 8}]
