"""The command line as users type it: one argument from the shell stays one text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from evaluate.config import EvaluateConfig, check_evaluate
from sweeper.config import SweepConfig, check_sweep
from sweeper.reproduction.migrate_config import migrate
from sweeper.reproduction.received_settings import ReceivedSettings
from sweeper.search.search_space import parse_space
from train.cli.arguments import as_typed, normalized, quoted, split_arguments, unquoted
from train.cli.compose import HYDRA_VERSION, settings
from train.cli.hydra_errors import suggest_setting
from train.cli.preflight import preflight
from train.config.schema import CONF
from train.config.setting_kinds import kinds
from train.errors import ConfigError

PATHS = (
    "/home/Jürgen/Bilder", "/data/人物", "/pics (1)", "a=b", "/O'Brien", "C:\\Users\\Jörg\\my dog",
    "/a,b", "/[x]/{y}", "/100%/#1", "/x;y|z&", "$HOME", "${oc.env:HOME}", "\\\\server\\share\\",
    '/say "hi"', " /blank ", "/x:y@z", "(1)", "null/x", "true", "1e5", "/tab\tx", "/line\nx", "-x",
    "/trailing\\", "!x", "~", "glob(*)", "interval(0,1)",
)  # fmt: skip
ALPHABET = ["\\", "$", "{", "}", "a", ".", " ", "'", '"', "${a}", "${", "é", "\n", ",", "(", "人"]


@pytest.mark.parametrize("typed", PATHS)
def test_text_setting_is_taken_literally(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    meant = "/home/me" if typed == "~" else typed
    line = [f"data.path={typed}", f"data.trigger={typed}"]
    scored = settings("evaluate", EvaluateConfig, normalized(line, kinds(EvaluateConfig))).data
    searched = settings("sweep", SweepConfig, normalized(line, kinds(SweepConfig))).data
    assert (scored.path, scored.trigger) == (meant, typed)
    assert (searched.path, searched.trigger) == (meant, typed)


def test_any_text_round_trips_through_quoting() -> None:
    selection, parser = random.Random(0), OverridesParser.create()
    for _ in range(1500):
        text = "".join(selection.choices(ALPHABET, k=selection.randint(0, 9)))
        assert unquoted(quoted(text)) == text
        assert as_typed(f"data.trigger={quoted(text)}") == f"data.trigger={text}"
        value = str(parser.parse_override(f"x={quoted(text)}").value())
        assert value.replace("\\", "").replace("$", "") == text.replace("\\", "").replace("$", "")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.class_words=null", None),
        ("data.class_words='sks, a'", "sks, a"),  # quotes that Hydra would have needed
        ("data.class_words='a' and 'b'", "'a' and 'b'"),
        ("data.class_words=~/x", "~/x"),  # no path
        ("+data.class_words=x, y", "x, y"),  # Hydra adds to what is null
        ("++data.class_words=a, b", "a, b"),
    ],
)
def test_null_and_quotes(typed: str, meant: str | None) -> None:
    line = normalized([typed], kinds(EvaluateConfig))
    assert settings("evaluate", EvaluateConfig, line).data.class_words == meant


def test_interpolation_and_choice_sweeps_are_kept() -> None:
    known = kinds(SweepConfig)
    named = normalized(["study.root=runs/r${network.rank}"], known)
    assert settings("sweep", SweepConfig, [*named, "network.rank=4"]).study.root == "runs/r4"
    assert normalized(["data.trigger=choice(a,b)"], known, multirun=True) == [
        "data.trigger=choice(a,b)"
    ]
    assert normalized(["data.trigger=a,b"], known, multirun=True) == ["data.trigger='a,b'"]


def test_logged_text_is_not_interpolated() -> None:
    odd = "${oc.env:HOME} \\${x} 人"
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        carried = migrate(ReceivedSettings({"data": {"trigger": odd}}), {"base.path": odd})
    assert (carried.config.data.trigger, carried.config.base.path) == (odd, odd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.trigger=sks", "dog"], 'needs quotes: "data.trigger=sks dog"'),
        (["data.trigger=sks", "old", "dog", "-m"], '"data.trigger=sks old dog"'),
        (["probes.count", "=", "4"], "type probes.count=4"),
        (["probes.count=", "4"], "type probes.count=4"),
        (["probes.count", "=4"], "type probes.count=4"),
        (["--data.path=/x"], "without dashes, as in data.path=/x"),
        (["--data.path", "/x y"], 'without dashes, as in "data.path=/x y"'),
        (["-data.path=/x"], "without dashes, as in data.path=/x"),
        (["dog"], "dog: is not key=value"),
        (["--nothing"], "--nothing: there is no such option"),
        (["--cfg"], "--cfg: needs a value"),
        (["--cfg", "jobs"], "'jobs' is not one of job, hydra, all"),
        (["--experimental-rerun", "x.pickle"], "reads a pickle"),
        (["--config-dir=/nowhere"], "there is no folder /nowhere"),
        (["--config-name=train"], "a command has one config"),
        (["=3"], "'' is not a name of a setting"),
        (["count=3"], "did you mean probes.count?"),
        (["probes.cuont=3"], "did you mean probes.count?"),
        (["probes.count=4;"], "probes.count: '4;' cannot be read"),
        (["probes.count=4,8"], "several values need -m"),
        (["~probes.count"], "cannot be removed"),
        (["probes=0.5"], "probes: 0.5 is not one of default, large, small"),
        (
            ["optimizer=lion"],
            "optimizer: this command has no such group; it has base, data, probes",
        ),
        (["base/optimizer=puppets_lion"], "this command has no such group; it has base, data,"),
        (["data.path=a\0b"], "NUL"),
    ],
)
def test_invalid_arguments_end_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        preflight("evaluate", arguments, EvaluateConfig, check_evaluate)
    assert message in str(exit_info.value.code)
    assert str(exit_info.value.code).startswith("error: ")
    assert "\n" not in str(exit_info.value.code)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("epochs", "training.epochs"),
        ("lr", "optimizer.lr"),
        ("rank", "network.rank"),
        ("trigger", "data.trigger"),
        ("n_trials", "hydra.sweeper.n_trials"),
        ("trainng.epochs", "training.epochs"),
    ],
)
def test_suggestions_for_wrong_settings(typed: str, message: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        preflight("sweep", [f"{typed}=3"], SweepConfig, check_sweep)
    assert f"did you mean {message}" in str(exit_info.value.code)
    assert suggest_setting("zzzzzz", ["a.b"]) == ""


def test_flags_come_first_and_keep_their_values() -> None:
    parts = split_arguments(["a=1", "-m", "--cfg", "job", "~b", "--info", "c=2"])
    assert parts.flags == ["-m", "--cfg", "job", "--info"]
    assert parts.overrides == ["a=1", "~b", "c=2"]
    assert parts.multirun


def test_command_line_with_config_dir(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "mine.yaml").write_text("count: 24\n")
    line = [f"--config-dir={tmp_path}", "probes=mine"]
    assert preflight("evaluate", line, EvaluateConfig, check_evaluate) == line
    with pytest.raises(SystemExit, match=r"probes\.count"):
        preflight("evaluate", [*line, "probes.count=x"], EvaluateConfig, check_evaluate)


@pytest.mark.parametrize(
    ("swept", "values"),
    [
        ("network.alpha=1,1.0,null", [1, None]),
        ("network.alpha=choice(2,2.0,4)", [2, 4]),
        ("network.dropout=range(0.1,0.8,0.1)", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("network.dropout=range(0.5,0.1,-0.2)", [0.3, 0.5]),
        ("network.rank=range(4,33,4)", [4, 8, 12, 16, 20, 24, 28, 32]),
        ("network.text_encoder=true,false", [True, False]),
    ],
)
def test_sweep_values_are_unique_and_ranges_exclude_the_stop(
    swept: str, values: list[object]
) -> None:
    space, _ = parse_space([swept], {}, OverridesParser.create())
    (dimension,) = space.dimensions
    assert dimension.values() == values


def test_hydras_own_sweeper_gets_the_same_values() -> None:
    line = ["-m", "probes.guidance=range(0.1,0.8,0.1)", "probes.seed=1,1.0,2"]
    written = preflight("evaluate", line, EvaluateConfig, lambda config: None)
    guidance = "probes.guidance=0.1,0.2,0.3,0.4,0.5,0.6,0.7"
    assert written == ["-m", guidance, "probes.seed=1,2"]


@pytest.mark.parametrize(
    "swept", ["network.rank=range(1,2,0)", "network.rank=range(5,1)", "network.rank=range(1,nan)"]
)
def test_ranges_without_values_are_rejected(swept: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.rank"):
        parse_space([swept], {}, OverridesParser.create())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["\N{EM DASH}data.path=/x"], "typed without dashes, as in data.path=/x"),
        (["\N{EN DASH}\N{EN DASH}data.path", "/x"], "typed without dashes, as in data.path=/x"),
        (["network.rank =4"], "no space next to the equals sign; type network.rank=4"),
        (["network.rank:4"], "typed with =, as in network.rank=4"),
        (["-multirun"], "did you mean --multirun?"),
        (["--multirun=1"], "--multirun: takes no value"),
        ([""], "'': is not key=value"),
        (["-m", "hydra.sweeper.n_trials=1,2"], "n_trials: is the same for all trials"),
    ],
)
def test_typing_errors_get_a_suggestion(line: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        preflight("sweep", line, SweepConfig, check_sweep)
    assert message in str(exit_info.value.code)
