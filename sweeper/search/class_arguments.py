"""The pruners and samplers of conf/ and what each takes: checked without importing them."""

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

COUNT = whole(0, MAX_STEPS)  # of trials, or of epochs
FROM_ONE = whole(1, MAX_STEPS)
AUTO = "auto"
STARTED = {"n_startup_trials": COUNT}
WARMED = {**STARTED, "n_warmup_steps": COUNT, "interval_steps": FROM_ONE, "n_min_trials": FROM_ONE}
HALVING = {"reduction_factor": whole(2, 1000), "bootstrap_count": COUNT}
PRUNERS: ArgumentTable = {
    "sweeper.search.pruners.ExtrapolationPruner": {
        "epochs": whole(1, MAX_STEPS, required=True),
        "min_epochs": whole(0, MAX_STEPS, required=True),
        "window": whole(1, MAX_STEPS, required=True),
        "slope_discount": number(0, 1, required=True),
    },
    "optuna.pruners.NopPruner": {},
    "optuna.pruners.MedianPruner": WARMED,
    "optuna.pruners.PercentilePruner": {"percentile": number(0, 100, required=True), **WARMED},
    "optuna.pruners.PatientPruner": {
        "wrapped_pruner": Argument(nested=True, other_values=(None,), required=True),
        "patience": whole(0, MAX_STEPS, required=True),
        "min_delta": number(0, 1000),
    },
    "optuna.pruners.WilcoxonPruner": {"p_threshold": number(0, 1), "n_startup_steps": COUNT},
    "optuna.pruners.HyperbandPruner": {
        **HALVING,
        "min_resource": FROM_ONE,
        "max_resource": whole(1, MAX_STEPS, other_values=(AUTO,)),
    },
    "optuna.pruners.SuccessiveHalvingPruner": {
        **HALVING,
        "min_resource": whole(1, MAX_STEPS, other_values=(AUTO,)),
        "min_early_stopping_rate": whole(0, 100),
    },
}
CMA = "sweeper.search.cma_es.CmaEsSampler"
# Optuna's classes that unpickle attributes of a study, which a stranger may have written
UNPICKLING = ("CmaEsSampler", "PyCmaSampler")
SEEDED = {"seed": optional(Argument(SEED, whole=True))}
WARNED = {"warn_independent_sampling": optional(FLAG)}
GENETIC = {
    **SEEDED,
    "population_size": whole(2, 100_000),
    "mutation_prob": optional(number(0, 1)),
    "crossover_prob": number(0, 1),
    "swapping_prob": number(0, 1),
}
SAMPLERS: ArgumentTable = {
    "sweeper.search.samplers.GridSampler": SEEDED,
    "optuna.samplers.RandomSampler": SEEDED,
    "optuna.samplers.TPESampler": {
        **SEEDED,
        **STARTED,
        **WARNED,
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
        **SEEDED,
        **STARTED,
        **WARNED,
        "deterministic_objective": FLAG,
    },
    CMA: {
        **SEEDED,
        **STARTED,
        "popsize": optional(whole(2, 100_000)),
        "sigma0": optional(number(1e-6, 1e6)),
        "use_separable_cma": FLAG,
        "lr_adapt": FLAG,
    },
    "optuna.samplers.NSGAIISampler": GENETIC,
    "optuna.samplers.NSGAIIISampler": {**GENETIC, "dividing_parameter": whole(1, 1000)},
    "optuna.samplers.QMCSampler": {
        **SEEDED,
        **WARNED,
        "qmc_type": choice("sobol", "halton"),
        "scramble": FLAG,
        "warn_asynchronous_seeding": FLAG,
    },
}


def check_pruner(pruner: Mapping[str, Any]) -> None:
    """Refuses a pruner's settings that cannot be, without importing its class.

    Raises:
        ConfigError: naming the first setting that cannot be.
    """
    check_arguments("pruner", pruner, PRUNERS, "optuna.pruners.MedianPruner")
    least, most = pruner.get("min_resource"), pruner.get("max_resource")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        raise ConfigError(
            f"pruner.max_resource: {most} is less than pruner.min_resource, {least} "
            "(max_resource follows training.epochs)"
        )


def check_sampler_arguments(sampler: Mapping[str, Any]) -> None:
    """Refuses a sampler's settings that cannot be, without importing its class.

    Raises:
        ConfigError: naming the first setting that cannot be.
    """
    for target in _targets(sampler):
        package, _, name = target.partition(".")
        if package.startswith("optuna") and name.rpartition(".")[2] in UNPICKLING:
            raise ConfigError(unpickling(target))
    check_arguments("hydra.sweeper.sampler", sampler, SAMPLERS, "optuna.samplers.TPESampler")


def unpickling(target: str) -> str:
    """Why a sampler is refused that would unpickle what it finds in a study."""
    return (
        f"hydra.sweeper.sampler.{TARGET}: {target} runs code that a study's journal may bring "
        f"(it unpickles its attributes); use {CMA} (hydra/sweeper/sampler=cmaes)"
    )


def _targets(value: Any) -> Iterator[str]:
    """All classes that settings name, however deep."""
    if isinstance(value, Mapping):
        if isinstance(target := value.get(TARGET), str):
            yield target
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _targets(inner)
