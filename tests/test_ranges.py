"""Numbers have declared ranges, and classes are constructed before a model is loaded."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from optuna.pruners import BasePruner

from evaluate.config import EvaluateConfig, check_evaluate
from sweeper.config import SearchConfig, SelectConfig, SweepConfig, check_search, check_sweep
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.search.sampler_arguments import PRUNERS, SAMPLERS, check_pruner
from sweeper.search.samplers import instantiate_checked
from train.cli.compose import composed, settings
from train.cli.preflight import preflight
from train.config.class_arguments import TARGET
from train.config.optimizer_arguments import OPTIMIZERS
from train.config.parsing import parse_config
from train.config.ranges import RANGE, Range
from train.config.schema import CONF, TrainConfig
from train.config_checks import check_train
from train.errors import ConfigError
from train.loop.construction_checks import check_construction

COMMANDS: dict[str, tuple[type, Any]] = {
    "train": (TrainConfig, check_train),
    "sweep": (SweepConfig, check_sweep),
    "evaluate": (EvaluateConfig, check_evaluate),
    "select": (SelectConfig, lambda config: None),
    "reproduce": (ReproduceConfig, check_reproduce),
}
TABLES = {"optimizer": OPTIMIZERS, "pruner": PRUNERS, "hydra/sweeper/sampler": SAMPLERS}
SHIPPED_CLASSES = [(group, target) for group, table in TABLES.items() for target in table]
# arguments that no command line can express (objects, functions), or that the program passes
NOT_CONFIGURABLE = {
    "params", "args", "gamma", "weights", "constraints_func", "independent_sampler", "x0",
    "source_trials", "mutation", "crossover", "reference_points", "child_generation_strategy",
    "elite_population_selection_strategy", "after_trial_strategy",
}  # fmt: skip


def numeric_fields(schema: Any, prefix: str = "") -> Iterator[tuple[str, Range | None]]:
    """Yields the keys of all numeric fields of a nested dataclass, and their ranges."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from numeric_fields(kind, f"{prefix}{field.name}.")
        elif {int, float} & {kind, *get_args(kind)}:
            yield f"{prefix}{field.name}", field.metadata.get(RANGE)


@cache
def defaults(name: str) -> DictConfig:
    return composed(name)


@pytest.mark.parametrize("schema", [schema for schema, _ in COMMANDS.values()] + [SearchConfig])
def test_every_number_declares_its_range(schema: type) -> None:
    ranges = dict(numeric_fields(schema))
    assert ranges
    assert not [key for key, limits in ranges.items() if limits is None]
    assert all(math.isfinite(limits.high) for limits in ranges.values() if limits)


@pytest.mark.parametrize("name", COMMANDS)
def test_invalid_numbers_are_refused(name: str) -> None:
    schema, _ = COMMANDS[name]
    for key, _ in numeric_fields(schema):
        for wrong in (math.nan, math.inf, -math.inf, 1e26, -1e26, 10**400, True, "fast", [1]):
            config = copy.deepcopy(defaults(name))
            is_group = isinstance(OmegaConf.select(config, key), DictConfig)
            is_list = isinstance(OmegaConf.select(config, key), ListConfig)
            value = {"copying": wrong} if is_group else [wrong] if is_list else wrong
            OmegaConf.update(config, key, value, merge=False)
            with pytest.raises(ConfigError, match=key):
                parse_config(schema, config)


def test_ranges_include_their_ends_unless_open() -> None:
    assert [n in Range(0, 1) for n in (-1e-9, 0, 1, 1.1)] == [False, True, True, False]
    assert [n in Range(0, 1, open_low=True, open_high=True) for n in (0, 0.5, 1)] == [0, 1, 0]
    assert str(Range(0, 1, open_high=True)) == "from 0 to below 1"
    assert str(Range(0, 10_000_000, open_low=True)) == "above 0 and at most 10000000"
    assert str(Range(1e-12, 1e6)) == "from 1e-12 to 1000000"
    assert "1" not in Range(0, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data.repeats=1000000000", "data.repeats: 1000000000 must be from 1 to 10000"),
        ("data.resolution=1000000", "data.resolution: 1000000 must be from 8 to 4096"),
        ("data.flip=2", "data.flip: 2 must be true or false"),
        ("data.keep_tokens=1.5", "data.keep_tokens: 1.5 must be a whole number from 0 to"),
        (f"network.alpha=1{'0' * 400}", "network.alpha: 1000"),
        ("optimizer.betas=[0.9]", "optimizer.betas: [0.9] must be 2 numbers from 0 to below 1"),
        ("optimizer.betas=0.5", "optimizer.betas: 0.5 must be 2 numbers"),
        ("optimizer.betas=[0.9,1]", "optimizer.betas: [0.9, 1] must be 2 numbers"),
        ("optimizer.betas=[0.9,nan]", "optimizer.betas: nan is not a number"),
        ("optimizer.lr=fast", "optimizer.lr: 'fast' must be a number from 1e-12 to 1000000"),
        ("optimizer.lr=true", "optimizer.lr: true must be a number"),
        ("optimizer.lr=inf", "optimizer.lr: inf must be a number"),
        ("optimizer.lr=null", "optimizer.lr: null must be a number"),
        ("~optimizer.lr", "optimizer.lr: there is no such setting; it was removed"),
        ("data.repeats=${nope}", "nope: there is no such setting"),
        (
            "study.budget=5",
            "study.budget: 5 is not allowed; it is a group of settings",
        ),
        ("selection.max=0.3", "selection.max: 0.3 is not allowed"),
        ("search.network.rank=5", "typed without search., as in -m network.rank=1,2"),
        ("+data.path=x", "+data.path: is already a setting; type it without +"),
        ("+x=1", "x: there is no such setting"),
        ("+selection.max.copying=1", "+selection.max.copying: is already a setting"),
        ("~selection.max.copying=7", "~selection.max.copying: has another value"),
        ("optimizer=lion optimizer.betas=[0.9,0.99] network.rnk=4", "network.rnk: there is no"),
        ("hydra.job.chdir=maybe", "hydra.job.chdir: Value 'maybe' is not a valid bool"),
        ("network.rank=interval(1)", "cannot be read as a value (missing a required argument"),
        ("network.rank=interval(1", "network.rank: 'interval(1' cannot be read as a value"),
        ("learning_rate=1", "did you mean optimizer.lr?"),
        ("network_dim=4", "did you mean network.rank?"),
        ("network.rank=4,", "network.rank: '4,' cannot be read as a value"),
        ("base.path=", "base.path: names no file or folder"),
        ("data.caption_extension=*", "data.caption_extension: '*' must be the last part"),
        ("+optimizer.amsgrad=1", "optimizer.amsgrad: 1 must be true or false"),
        ("+optimizer.epps=1e-8", "optimizer.epps: AdamW has no such argument; did you mean eps?"),
        ("optimizer._target_=3", "optimizer._target_: 3 must name a class, such as torch.optim."),
        ("optimizer._target_=AdamW", "optimizer._target_: 'AdamW' must name a class"),
        ("~optimizer._target_", "optimizer._target_: must name a class"),
        ("selection.strengths=0.8", "selection.strengths: 0.8 must be a list of numbers"),
        ("selection.strengths=[]", "selection.strengths: at least one number is needed"),
        ("selection.strengths=[1,-1]", "selection.strengths: -1.0 must be above 0"),
        ("selection.strengths=[1,nan]", "selection.strengths: nan must be above 0"),
        ("selection.strengths=[a]", "selection.strengths: ['a'] must be a list of numbers"),
        ("selection.averages=[1.5]", "selection.averages: [1.5] must be a list of whole numbers"),
        ("selection.averages=[0]", "selection.averages: 0 must be from 1 to 100"),
        ("base.device=foo", "base.device: 'foo' is not one of auto, cpu, cuda, cuda:1"),
        ("base.device=CUDA", "base.device: 'CUDA' is not one of auto, cpu, cuda"),
        ("base.device=cuda:x", "base.device: 'cuda:x' is not one of"),
        (f"base.path={'x' * 5000}", "base.path: 'xxx"),
        (
            "training.max_steps=1e6",
            "training.max_steps: 1000000.0 must be a whole number from",
        ),
        (
            "study.enqueue=[1]",
            "study.enqueue: [1] must be a list of settings, as [{network.rank: 4}]",
        ),
        ("pruner=patient pruner.wrapped_pruner=3", "3 must be the settings of a class or null"),
        ("pack=true", "pack: true must be a whole number from 1 to 1024 (trials at once), or auto"),
        ("selection.max.copying=nan", "selection.max.copying: nan must be from -1000000"),
        (
            "early_stop.min_progress_share=nan",
            "early_stop.min_progress_share: nan must be from 0 to 1",
        ),
        ("pruner.slope_discount=nan", "pruner.slope_discount: nan is not a number"),
        ("pruner.window=2.5", "pruner.window: 2.5 must be a whole number from 1"),
        ("pruner.windw=2", "pruner.windw"),
        ("~pruner.window", "pruner.window: ExtrapolationPruner needs it"),
        ("pruner=median pruner.n_startup_trials=-1", "pruner.n_startup_trials: -1 must be"),
        ("pruner=patient pruner.wrapped_pruner.n_warmup_steps=x", "wrapped_pruner.n_warmup_steps"),
        (
            "pruner=hyperband pruner.min_resource=11",
            "pruner.max_resource: 10 is less than pruner.min",
        ),
        ("hydra.sweeper.seed=-1", "hydra.sweeper.seed: -1 must be from 0"),
        ("hydra.sweeper.workers=0", "hydra.sweeper.workers: 0 must be from 1"),
        ("hydra.sweeper.objective=best", "hydra.sweeper.objective: 'best' is not one of fidelity"),
        ("hydra.sweeper.sampler.n_startup_trials=nan", "hydra.sweeper.sampler.n_startup_trials"),
        ("+hydra.sweeper.sampler.gama=1", "sampler.gama: TPESampler has no such argument"),
        ("scheduler.warmup_steps=9 training.max_steps=8", "scheduler.warmup_steps: 9 is more than"),
        ("scheduler.warmup_epochs=11 training.epochs=10", "scheduler.warmup_epochs: 11 is more"),
    ],
)
def test_wrong_value_is_refused_in_one_line(line: str, words: str) -> None:
    with pytest.raises(SystemExit) as end:
        preflight("sweep", line.split(), SweepConfig, check_sweep, check_hydra=check_search)
    message = str(end.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert words in message


@pytest.mark.parametrize(
    "line",
    [
        ["data.validation_fraction=2"],
        ["data.trigger="],
        ["base.clip_skip=0"],
        ["base.device=gpu"],
        ["data.resolution=0"],
        ["probes.guidance=inf"],
        ["scores.resamples=1000000000"],
        ["scores.confidence=nan"],
        ["base.path=model.ckpt"],
    ],
)
def test_evaluate_checks_data_and_base_settings(line: list[str]) -> None:
    with pytest.raises(SystemExit, match=f"error: {line[0].split('=')[0]}"):
        preflight("evaluate", line, EvaluateConfig, check_evaluate)


@pytest.mark.parametrize(
    "line",
    [
        "data.resolution=4096 data.repeats=10000 training.epochs=100000",
        "training.max_steps=10000000 probes.count=4096 network.rank=320 network.alpha=10000",
        "optimizer=dadaptation optimizer.growth_rate=inf",
        "optimizer.lr=1e6 training.max_steps=1 pack=1",  # unreasonable but allowed
        "optimizer=prodigy +optimizer.d_coef=2 +optimizer.beta3=null",
        "optimizer._target_=my.own.Optimizer +optimizer.whatever=[1,2]",
        "data.flip=yes data.validation_fraction=0 scheduler.warmup_steps=0",
        "base.device=cuda:1 training.resume_save_minutes=0",
        "hydra/sweeper=basic",
    ],
)
def test_unusual_but_valid_values_are_accepted(line: str) -> None:
    preflight("sweep", line.split(), SweepConfig, check_sweep, check_hydra=check_search)


@pytest.mark.parametrize(("group", "target"), SHIPPED_CLASSES)
def test_declared_arguments_match_the_class(group: str, target: str) -> None:
    declared = TABLES[group][target]
    module, _, name = target.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    parameters = {k: p for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    assert set(declared) <= set(parameters)
    assert set(parameters) - set(declared) <= NOT_CONFIGURABLE
    required = {k for k, p in parameters.items() if p.default is p.empty} - NOT_CONFIGURABLE
    assert required <= {key for key, argument in declared.items() if argument.required}
    defaults = {k: p.default for k, p in parameters.items() if k in declared and k not in required}
    if group != "optimizer":
        defaults.pop("lr", None)
        wrong = {key: value for key, value in defaults.items() if not declared[key].accepts(value)}
        assert not wrong, "the defaults of the class must be accepted"


@pytest.mark.parametrize("group", TABLES)
def test_every_shipped_class_is_declared(group: str) -> None:
    shipped = {yaml.safe_load(file.read_text())[TARGET] for file in (CONF / group).glob("*.yaml")}
    assert shipped == set(TABLES[group])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("optimizer._target_=torch.optim.AdamV", "there is no class 'torch.optim.AdamV'"),
        ("optimizer._target_=nowhere.AdamW", "there is no class 'nowhere.AdamW'"),
        (
            "optimizer._target_=os.path.join",
            "optimizer._target_: os.path.join is not a subcl",
        ),
        ("optimizer._target_=torch.optim.SGD", "optimizer.betas: SGD has no such argument"),
        ("+optimizer.fused=true +optimizer.foreach=true", "optimizer: AdamW refuses its settings"),
        ("base.device=cuda:99", "base.device: cuda:99 is not available on this machine"),
        ("base.device=hpu", "base.device: hpu is not available on this machine"),
    ],
)
def test_construction_errors_name_the_setting(line: str, words: str) -> None:
    config = settings("train", TrainConfig, line.split())
    check_train(config)
    with pytest.raises(ConfigError, match=words):
        check_construction(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({TARGET: "os.system"}, "pruner._target_: os.system is not a subclass"),
        ({TARGET: "nowhere.Pruner"}, "pruner._target_: there is no class 'nowhere.Pruner'"),
        ({TARGET: "pathlib.Path"}, "pruner._target_: pathlib.Path is not a subclass of BasePruner"),
        (
            {TARGET: "optuna.pruners.ThresholdPruner"},
            "pruner: ThresholdPruner refuses",
        ),
    ],
)
def test_custom_pruner_is_constructed_before_a_model_is_loaded(
    settings: dict[str, Any], words: str
) -> None:
    check_pruner(settings)
    with pytest.raises(ConfigError, match=words):
        instantiate_checked("pruner", settings, BasePruner)


@pytest.mark.parametrize(
    "optimizer", sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml"))
)
def test_every_optimizer_can_be_constructed(optimizer: str) -> None:
    check_construction(settings("train", TrainConfig, [f"optimizer={optimizer}"]))
