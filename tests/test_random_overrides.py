"""Random overrides are accepted or refused in one line; none ends in a traceback."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from evaluate.config import EvaluateConfig, check_evaluate
from sweeper.config import (
    ReportConfig,
    SelectConfig,
    SweepConfig,
    check_report,
    check_search,
    check_select,
    check_sweep,
)
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.search.conditional_params import is_active
from train.cli import hydra_errors
from train.cli.compose import composed
from train.cli.preflight import preflight
from train.config.parsing import dotted_keys
from train.config.schema import TrainConfig
from train.config_checks import check_train

COMMANDS: dict[str, tuple[type, Callable[[Any], None], list[str]]] = {
    "train": (TrainConfig, check_train, []),
    "sweep": (SweepConfig, check_sweep, []),
    "evaluate": (EvaluateConfig, check_evaluate, []),
    "select": (SelectConfig, check_select, ["study=x"]),
    "report": (ReportConfig, check_report, ["study=x"]),
    "reproduce": (ReproduceConfig, check_reproduce, ["study=x"]),
}
WEIGHTS = {"train": 4, "sweep": 4, "evaluate": 4, "select": 4, "report": 1, "reproduce": 5}
GROUPS = ("preset", "hydra/sweeper/sampler", "hydra/sweeper", "hydra/launcher", "nowhere")
WORDS = r"""
nan .nan inf .inf -inf -1 0 1 -0.0 0.5 1.5 2.0 1e3 1e26 -1e26 1e-26 1e400 0x10 1_0 1:2 100000000
1000000000 true false yes null '' "" '1' 'nan' 'true' [] {} [0.9] [1,2,3] [nan,0.5] {a:1}
{a:{b:[1]}} text cuda adamw Jürgen 人物 ??? ' " [ { ( ! @ * - + = a=b a:b a,b 1,2 ~/x ~nobody/x \ $x
${ ${} ${x} ${${x}} ${base.path} ${data.repeats} ${times:x,2} ${by_base:1} ${oc.env:NOPE}
choice(1,2) interval(0,1) range(1,3) glob(*) int(3) str(3) sort(3,1) shuffle(1,2) json_str([1])
tag(log,interval(1,2))
"""
VALUES = [*WORDS.split(), "", " ", "\n", "\0", "\udce4", "1" + "0" * 400, "9" * 5000, "x" * 5000]
FORMS = (
    *("{key}={value}",) * 14, "~{key}", "~{key}={value}", "+{key}.x={value}", "+{key}.1={value}",
    "++{key}={value}", "+{key}={value}", "{key}x={value}", "{key}@x={value}",
)  # fmt: skip
SEEDS, LINES_PER_SEED = range(20), 100
MAX_MESSAGE_LENGTH = 1000
UNBOUNDED_KEYS = {"growth_rate"}  # infinity is its default
NUMBER_KEYS = {
    "lr",
    "weight_decay",
    "d0",
    "pack",
    "slope_discount",
    "window",
    "epochs",
    "max",
    "min",
}


@pytest.fixture(autouse=True, scope="module")
def cached_composition() -> Iterator[None]:
    """Caches the files of conf/, resolved defaults lists and their merged configs.

    Without an override of a group, the defaults list of a command is always the same. Also caches
    the config from which suggestions are taken. Hydra still does everything that an override can
    change, for each of them.
    """
    read, merge = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    resolve = defaults_list._create_defaults_list
    files: dict[str, ConfigResult | None] = {}
    merged: dict[str, DictConfig] = {}
    lists: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}

    def read_once(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        if config_path not in files:
            files[config_path] = read(self, config_path)
        return files[config_path]

    def merge_once(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
        key = repr(defaults)
        if key not in merged:  # a merge reuses nodes of the files
            merged[key] = copy.deepcopy(merge(self, defaults, repo))
        return copy.deepcopy(merged[key])

    def resolve_once(
        repo: Any, config_name: str, overrides: Any, prepend_hydra: bool, skip_missing: bool
    ) -> Any:
        key = config_name, prepend_hydra, skip_missing
        group_overrides = (
            overrides.override_choices,
            overrides.append_group_defaults,
            overrides.deletions,
        )
        if any(group_overrides):
            return resolve(repo, config_name, overrides, prepend_hydra, skip_missing)
        if key not in lists:
            result = resolve(repo, config_name, overrides, prepend_hydra, skip_missing)
            state = {k: v for k, v in vars(overrides).items() if k != "config_overrides"}
            lists[key] = result, copy.deepcopy(state)
        result, state = lists[key]
        vars(overrides).update(copy.copy(state))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", read_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        patch.setattr(defaults_list, "_create_defaults_list", resolve_once)
        patch.setattr(hydra_errors, "composed", cache(composed))
        yield


@cache
def keys_of(name: str) -> list[str]:
    config = composed(name, COMMANDS[name][2])
    names = [*dotted_keys(config), *GROUPS]
    if name == "sweep":
        hydra = composed(name, with_hydra=True).hydra
        names += [f"hydra.sweeper.{key}" for key in dotted_keys(hydra.sweeper)]
    return names


def random_lines(seed: int) -> Iterator[tuple[str, list[str]]]:
    """Yields commands and their arguments, which contain a random override."""
    choose = random.Random(seed)
    for _ in range(LINES_PER_SEED):
        name = choose.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        key, value = choose.choice(keys_of(name)), choose.choice(VALUES)
        override = choose.choice(FORMS).format(key=key, value=value)
        required = [] if "study" in override.split("=")[0] else COMMANDS[name][2]
        multirun = ["-m"] if name == "sweep" and choose.random() < 0.3 else []
        yield name, [*multirun, override, *required]


def invalid_numbers(value: Any, key: str = "") -> Iterator[str]:
    """Yields booleans in place of numbers, and numbers that are NaN or unbounded."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from invalid_numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from invalid_numbers(inner, key)
    elif isinstance(value, bool):
        yield from [f"{key}={value}"] if key in NUMBER_KEYS else []
    elif isinstance(value, int | float) and key not in UNBOUNDED_KEYS and not abs(value) < 1e12:
        yield f"{key}={value}"


@pytest.mark.parametrize("seed", SEEDS)
def test_random_override_is_accepted_or_refused_in_one_line(seed: int) -> None:
    accepted = 0
    for name, line in random_lines(seed):
        schema, check, _ = COMMANDS[name]
        hydra = check_search if name == "sweep" else lambda config: None
        checked: list[Any] = []

        def check_and_record(config: Any, check: Any = check, checked: list[Any] = checked) -> None:
            check(config)
            checked.append(asdict(config))

        try:
            preflight(name, line, schema, check_and_record, is_active, hydra)
        except SystemExit as end:
            message = str(end.code)
            assert message.startswith("error: "), line
            assert len(message.splitlines()) == 1, line
            assert len(message) <= MAX_MESSAGE_LENGTH, line
            continue
        except Exception as error:
            raise AssertionError(f"{name} {line}: {error!r}") from error
        accepted += 1
        assert not list(invalid_numbers(checked)), line
    assert 0 < accepted < LINES_PER_SEED
