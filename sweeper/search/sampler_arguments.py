"""The arguments of the pruners and samplers in conf/, checked without importing their classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from train.config.class_arguments import (
    FLAG,
    TARGET,
    Argument,
    ArgumentTable,
    check_arguments,
    choice,
    number,
    optional,
    whole,
)
from train.config.ranges import SEED
from train.config.schema import MAX_STEPS
from train.errors import ConfigError

COUNT = whole(0, MAX_STEPS)  # of trials or epochs
POSITIVE = whole(1, MAX_STEPS)
AUTO = "auto"
STARTUP_TRIALS = {"n_startup_trials": COUNT}
WARMUP = {
    **STARTUP_TRIALS,
    "n_warmup_steps": COUNT,
    "interval_steps": POSITIVE,
    "n_min_trials": POSITIVE,
}
HALVING = {"reduction_factor": whole(2, 1000), "bootstrap_count": COUNT}
PRUNERS: ArgumentTable = {
    "sweeper.search.pruners.ExtrapolationPruner": {
        "epochs": whole(1, MAX_STEPS, required=True),
        "min_epochs": whole(0, MAX_STEPS, required=True),
        "window": whole(1, MAX_STEPS, required=True),
        "slope_discount": number(0, 1, required=True),
    },
    "optuna.pruners.NopPruner": {},
    "optuna.pruners.MedianPruner": WARMUP,
    "optuna.pruners.PercentilePruner": {"percentile": number(0, 100, required=True), **WARMUP},
    "optuna.pruners.PatientPruner": {
        "wrapped_pruner": Argument(nested=True, other_values=(None,), required=True),
        "patience": whole(0, MAX_STEPS, required=True),
        "min_delta": number(0, 1000),
    },
    "optuna.pruners.WilcoxonPruner": {"p_threshold": number(0, 1), "n_startup_steps": COUNT},
    "optuna.pruners.HyperbandPruner": {
        **HALVING,
        "min_resource": POSITIVE,
        "max_resource": whole(1, MAX_STEPS, other_values=(AUTO,)),
    },
    "optuna.pruners.SuccessiveHalvingPruner": {
        **HALVING,
        "min_resource": whole(1, MAX_STEPS, other_values=(AUTO,)),
        "min_early_stopping_rate": whole(0, 100),
    },
}
CMA_ES = "sweeper.search.cma_es.CmaEsSampler"
# Optuna's classes that unpickle a study's attributes, which a stranger may have written
UNPICKLING_CLASSES = ("CmaEsSampler", "PyCmaSampler")
SEED_ARGUMENT = {"seed": optional(Argument(SEED, whole=True))}
SAMPLING_WARNING = {"warn_independent_sampling": optional(FLAG)}
GENETIC = {
    **SEED_ARGUMENT,
    "population_size": whole(2, 100_000),
    "mutation_prob": optional(number(0, 1)),
    "crossover_prob": number(0, 1),
    "swapping_prob": number(0, 1),
}
SAMPLERS: ArgumentTable = {
    "sweeper.search.samplers.GridSampler": SEED_ARGUMENT,
    "optuna.samplers.RandomSampler": SEED_ARGUMENT,
    "optuna.samplers.TPESampler": {
        **SEED_ARGUMENT,
        **STARTUP_TRIALS,
        **SAMPLING_WARNING,
        "consider_prior": optional(FLAG),
        "prior_weight": optional(number(0, 1000)),
        "consider_magic_clip": optional(FLAG),
        "consider_endpoints": optional(FLAG),
        "n_ei_candidates": whole(1, 100_000),
        "multivariate": optional(FLAG),
        "group": FLAG,
        "constant_liar": FLAG,
    },
    "optuna.samplers.GPSampler": {
        **SEED_ARGUMENT,
        **STARTUP_TRIALS,
        **SAMPLING_WARNING,
        "deterministic_objective": FLAG,
    },
    CMA_ES: {
        **SEED_ARGUMENT,
        **STARTUP_TRIALS,
        "popsize": optional(whole(2, 100_000)),
        "sigma0": optional(number(1e-6, 1e6)),
        "use_separable_cma": FLAG,
        "lr_adapt": FLAG,
    },
    "optuna.samplers.NSGAIISampler": GENETIC,
    "optuna.samplers.NSGAIIISampler": {**GENETIC, "dividing_parameter": whole(1, 1000)},
    "optuna.samplers.QMCSampler": {
        **SEED_ARGUMENT,
        **SAMPLING_WARNING,
        "qmc_type": choice("sobol", "halton"),
        "scramble": FLAG,
        "warn_asynchronous_seeding": FLAG,
    },
}


def check_pruner(pruner: Mapping[str, Any]) -> None:
    """Checks a pruner's settings without importing its class.

    Raises:
        ConfigError: naming the first impossible setting.
    """
    check_arguments("pruner", pruner, PRUNERS, "optuna.pruners.MedianPruner")
    low, high = pruner.get("min_resource"), pruner.get("max_resource")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        raise ConfigError(
            f"pruner.max_resource: {high} is less than pruner.min_resource, {low} "
            "(max_resource follows training.epochs)"
        )


def check_sampler_arguments(sampler: Mapping[str, Any]) -> None:
    """Checks a sampler's settings without importing its class.

    Raises:
        ConfigError: naming the first impossible setting.
    """
    for target in _nested_targets(sampler):
        package, _, name = target.partition(".")
        if package.startswith("optuna") and name.rpartition(".")[2] in UNPICKLING_CLASSES:
            raise ConfigError(unpickling_message(target))
    check_arguments("hydra.sweeper.sampler", sampler, SAMPLERS, "optuna.samplers.TPESampler")


def unpickling_message(target: str) -> str:
    """The error message for a sampler that unpickles a study's attributes."""
    return (
        f"hydra.sweeper.sampler.{TARGET}: {target} unpickles a study's attributes, which can run "
        f"code from its journal; use {CMA_ES} (hydra/sweeper/sampler=cmaes)"
    )


def _nested_targets(value: Any) -> Iterator[str]:
    """All classes that settings name, at any depth."""
    if isinstance(value, Mapping):
        if isinstance(target := value.get(TARGET), str):
            yield target
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _nested_targets(inner)
