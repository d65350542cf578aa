"""The journal of a study that somebody sent is data: what is wrong with it is said in one line."""

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
    """The journal of a small study: three trials have ended, one is at work, one waits."""
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
    found: list[Line] = [json.loads(line) for line in text.splitlines()]
    found[0]["study_name"] = "good"
    return found


def opened(folder: Path, lines: list[Line], more: bytes = b"") -> Study:
    """The study of a journal with these lines."""
    folder.mkdir(exist_ok=True)
    if lines[0].get("study_name") == "good":
        lines = [{**lines[0], "study_name": folder.name}, *lines[1:]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / JOURNAL_FILE).write_bytes(text.encode() + more)
    return study_of(folder)


def of_kind(lines: list[Line], code: int) -> int:
    """Where the last line of a kind is."""
    return max(number for number, line in enumerate(lines) if line["op_code"] == code)


def refused(folder: Path, lines: list[Line], more: bytes = b"") -> str:
    """What is said of a journal that is refused."""
    with pytest.raises(ConfigError) as caught:
        opened(folder, lines, more)
    said = str(caught.value)
    assert said.startswith(f"{folder / JOURNAL_FILE} is damaged (")
    assert said.endswith("; move it away to start the study over")
    assert said.isprintable()
    assert len(said) < 600
    return said


def test_a_good_one_is_read(tmp_path: Path, lines: list[Line]) -> None:
    study = opened(tmp_path / "s", lines)
    states = [trial.state.name for trial in study.optuna.trials]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING", "WAITING"]
    assert study.optuna.trials[2].constraints == {"copying": 0.5}
    assert study.optuna.trials[2].intermediate_values == {1: 0.2}
    assert study.optuna.user_attrs == {"about": {}, "trials": 9}
    assert study.optuna.trials[4].system_attrs == {"fixed_params": {"network.rank": 16}}


CATEGORICAL = '{"name": "CategoricalDistribution", "attributes": {"choices": [2, 4, 8, 16]}}'
CHOICES = "[2, 4, 8, 16]"
NAMELESS = '{"attributes": {"choices": [2, 4, 8, 16]}}'
# of a line of a kind: what is changed in it
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
def test_a_line_that_no_sweep_writes(
    tmp_path: Path, lines: list[Line], code: int, change: Line
) -> None:
    number = of_kind(lines, code)
    bad = [*lines[:number], {**lines[number], **change}, *lines[number + 1 :]]
    assert f"(line {number + 1}: " in refused(tmp_path, bad) or change == {"values": [0.5, 0.5]}


@pytest.mark.parametrize("code", [0, 2, 4, 5, 6, 7, 9])
def test_a_line_that_lacks_a_part(tmp_path: Path, lines: list[Line], code: int) -> None:
    number = of_kind(lines, code)
    for key in lines[number]:
        if key in ("datetime_complete", "state") and code == 4:
            continue
        bad = [dict(line) for line in lines]
        del bad[number][key]
        if code == 4 and key not in ("op_code", "worker_id", "study_id", "datetime_start"):
            opened(tmp_path, bad)
            continue
        assert f"(line {number + 1}: " in refused(tmp_path, bad)


@pytest.mark.parametrize(
    "text",
    [b"null", b"[]", b"1", b'"op_code"', b"{}", b"{", b"\xff\xfe", b"\x00" * 99, b"[" * 100_000,
     b'{"op_code": 0' + b" " * 500_000, b'{"op_code": 10}', b"\x80\x04\x95pickle"],
)  # fmt: skip
def test_a_line_that_is_none(tmp_path: Path, lines: list[Line], text: bytes) -> None:
    assert f"(line {len(lines) + 1}: " in refused(tmp_path, lines, text + b"\n{}\n")
    assert f"(line {len(lines) + 1}: " in refused(tmp_path, lines, text + b"\n")


@pytest.mark.parametrize("torn", [b"{", b'{"op_code": 8, "torn', b"\x00" * 99, b"null", b"\xff"])
def test_a_last_line_without_an_end_is_cut_off(
    tmp_path: Path, lines: list[Line], torn: bytes
) -> None:
    study = opened(tmp_path, lines, torn)
    study.optuna.set_user_attr("trials", 10)
    assert study_of(tmp_path).optuna.user_attrs["trials"] == 10
    for line in (tmp_path / JOURNAL_FILE).read_text().splitlines():
        assert isinstance(json.loads(line), dict)


def test_lines_that_mean_nothing_do_no_harm(tmp_path: Path, lines: list[Line]) -> None:
    """Of trials and studies that there are not; with what a later version writes beside."""
    worker = {"worker_id": "friend"}
    more = [
        {**worker, "op_code": 1, "study_id": 99},
        {**worker, "op_code": 3, "study_id": 99, "system_attr": {"a": 1}},
        {**worker, "op_code": 9, "trial_id": 99, "system_attr": {"a": [1, "b", None]}},
        {**worker, "op_code": 10, "trials": [1]},
        {**lines[0], "worker_id": "friend", "study_name": "ünï‮\x1b[31m"},
        {**lines[of_kind(lines, 7)], "step": 77, "of_tomorrow": {"a": [[1]]}},
    ]
    assert len(opened(tmp_path, [*lines, *more]).optuna.trials) == 5


def test_pickles_are_left_out(tmp_path: Path, lines: list[Line]) -> None:
    line = {"op_code": 9, "worker_id": "friend", "trial_id": 3}
    names = ("cma:optimizer:0", "cma:generation", "sepcma:optimizer:0", "cmawm:optimizer:10")
    attributes = dict.fromkeys(names, "80049553")
    more = [{**line, "system_attr": {name: "80049553"}} for name in names]
    new = {**lines[of_kind(lines, 4)], "system_attrs": attributes}
    trials = opened(tmp_path, [*lines, *more, new]).optuna.trials
    assert trials[3].system_attrs == trials[5].system_attrs == {"cma:generation": "80049553"}


def change_of(code: int, **change: Any) -> Callable[[list[Line]], None]:
    """Changes the lines of a kind: all of them, lest they contradict each other."""

    def apply(lines: list[Line]) -> None:
        for line in lines:
            if line["op_code"] == code:
                line |= change

    return apply


WIDER = CATEGORICAL.replace("16]", '"${oc.env:HOME}"]')
NUMBERS = '{"name": "IntDistribution", "attributes": {"low": 2, "high": 16, "log": false}}'
OUTSIDE: dict[str, Callable[[list[Line]], None]] = {
    "other choices": change_of(5, distribution=WIDER, param_value_internal=3),
    "another kind": change_of(5, distribution=NUMBERS, param_value_internal=3),
    "queued outside": change_of(4, system_attrs={"fixed_params": {"network.rank": 3}}),
    "queued true": change_of(4, system_attrs={"fixed_params": {"network.rank": True}}),
    "queued text": change_of(4, system_attrs={"fixed_params": {"network.rank": "2 +a=b"}}),
    "about a list": change_of(2, user_attr={"about": ["a"]}),
    "about numbers": change_of(2, user_attr={"about": {"training.seed": 0}}),
    "many trials": change_of(2, user_attr={"trials": 10**15}),
    "trials in words": change_of(2, user_attr={"trials": "all"}),
    "trials true": change_of(2, user_attr={"trials": True}),
    "endless draws": lambda lines: lines.append(
        {"op_code": 3, "worker_id": "w", "study_id": 0, "system_attr": {"qmc:a": 10**15}}
    ),
    "deaths in words": lambda lines: lines.append(
        {"op_code": 8, "worker_id": "w", "trial_id": 3, "user_attr": {"deaths": "many"}}
    ),
}


@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_study_that_no_such_search_has_left(
    tmp_path: Path, lines: list[Line], change: Callable[[list[Line]], None]
) -> None:
    bad = [dict(line) for line in lines]
    change(bad)
    refused(tmp_path, bad)


def test_a_journal_that_is_no_file(tmp_path: Path, lines: list[Line]) -> None:
    os.mkfifo(tmp_path / JOURNAL_FILE)
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        study_of(tmp_path)
    (tmp_path / JOURNAL_FILE).unlink()
    (tmp_path / JOURNAL_FILE).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        study_of(tmp_path)


def test_a_journal_without_end(
    tmp_path: Path, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_LINES", len(lines))
    assert f"more than {len(lines)} lines" in refused(tmp_path, [*lines, lines[0]])
    opened(tmp_path, lines[:-2])  # a line is added: that it goes on
    monkeypatch.setattr(journals, "MAX_BYTES", 1000)
    assert "larger than 0.001 MB" in refused(tmp_path, lines)


@pytest.mark.parametrize("kind", ["reports", "attributes", "parameters", "studies"])
def test_a_journal_that_keeps_optuna_busy(tmp_path: Path, lines: list[Line], kind: str) -> None:
    """Replayed as they are, these take minutes: each line is dearer than the one before."""
    begun = lines[of_kind(lines, 4) - 1]
    report, param = lines[of_kind(lines, 7)], lines[of_kind(lines, 5)]
    attribute = {"op_code": 9, "worker_id": "w", "trial_id": 3}
    more: list[Line]
    if kind == "reports":
        more = [{**report, "trial_id": 3, "step": step} for step in range(40_000)]
    elif kind == "attributes":
        more = [{**attribute, "system_attr": {str(n): 0}} for n in range(40_000)]
    elif kind == "studies":
        more = [{**lines[0], "study_name": str(n)} for n in range(40_000)]
    else:
        more = [begun] * 20_000
        more += [{**param, "trial_id": 20_000 - n, "param_name": "late"} for n in range(20_000)]
    start = time.monotonic()
    refused(tmp_path, [*lines, *more])
    assert time.monotonic() - start < 20


def test_what_optuna_cannot_tell_of_does_not_end_a_report(
    tmp_path: Path, lines: list[Line]
) -> None:
    study = tmp_path / "studies" / "bad"
    study.parent.mkdir()
    bad = [*lines, {**lines[of_kind(lines, 6)], "values": ["good"]}]
    refused(study, bad)
    assert find_study(study, None) is None
    assert "left out" in analyze_search(study, None).sentence


def test_the_best_of_a_damaged_study_are_not_asked_for(tmp_path: Path, lines: list[Line]) -> None:
    number = of_kind(lines, 6)
    refused(tmp_path / "b", [*lines[:number], {**lines[number], "values": [[1]]}])
    with pytest.raises(ConfigError, match=f"line {number + 1}: "):
        best_settings(tmp_path / "b", None, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("about", ["a"]), ("about", {"a": 1}), ("trials", "all"), ("trials", -1), ("trials", 1e300)],
)
def test_a_database_is_checked_as_well(tmp_path: Path, name: str, value: Any) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    open_study(tmp_path / "s", NO_PRUNER, url).set_user_attr(name, value)
    with pytest.raises(ConfigError, match=r"study\.storage: the study in it is damaged \(study s"):
        open_study(tmp_path / "s", NO_PRUNER, url)
    assert find_study(tmp_path / "s", url) is None


def test_so_are_the_trials_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = open_study(tmp_path / "s", NO_PRUNER, url)
    study.enqueue_trial({"network.rank": [1]})
    with pytest.raises(ConfigError, match=r"trial 0: its 'fixed_params' is"):
        open_study(tmp_path / "s", NO_PRUNER, url)


class Stumbling(optuna.samplers.RandomSampler):
    """Finds something in the study that it cannot make sense of."""

    def infer_relative_search_space(self, *_: Any) -> Any:
        raise AssertionError


def test_what_a_sampler_stumbles_over_is_one_line(tmp_path: Path) -> None:
    study = study_of(tmp_path, search=SEARCH)
    study.sampler = {"_target_": f"{__name__}.Stumbling"}
    with pytest.raises(ConfigError, match=r"is damaged .AssertionError.; move it away"):
        study.next_trial(3)


VALUES = [True, 2.5, float("nan"), float("inf"), 10**400, -1, 3, "2", "2 +a=b", "${oc.env:HOME}",
          None, [2], {"a": 2}]  # fmt: skip


def master(rank: int) -> DictConfig:
    return OmegaConf.create({"network": {"rank": rank}, "hydra": {"runtime": {"choices": {}}}})


@pytest.mark.parametrize("search", ["network.rank=2,4,8", "network.rank=interval(2,8)"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_what_is_queued_lies_in_the_search(search: str, value: Any) -> None:
    space, _ = parse_space([search], {}, OverridesParser.create())
    config = SweepConfig()
    config.study.enqueue = [{"network.rank": 2}, {"network.rank": value}]
    if value in (3, 2.5) and "interval" in search:
        assert len(initial_settings(master(4), config, space)) == 3
        return
    with pytest.raises(ConfigError, match="is outside the search space") as caught:
        initial_settings(master(4), config, space)
    assert len(str(caught.value).splitlines()) == 1


def test_of_another_study_comes_what_lies_in_the_search(tmp_path: Path) -> None:
    """Whatever it has searched, and whatever it calls a rank."""
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
    first = initial_settings(master(8), config, space)
    assert [{**params} for params in first] == [{"network.rank": 8}]
