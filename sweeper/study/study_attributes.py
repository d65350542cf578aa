"""The attributes of an Optuna study in any storage, checked and read as typed values."""

from __future__ import annotations

from typing import Annotated

import optuna
from msgspec import Meta
from optuna.distributions import check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.search_space import Params, Space
from sweeper.study.journal_entries import check_system_attributes, check_values
from train.config.ranges import format_value
from train.config.renamed_keys import migrate_flat_keys
from train.files.untrusted import convert

SHARED_ATTRIBUTE = "about"  # user attribute of a study: settings that all its trials share
TOTAL_ATTRIBUTE = "trials"  # user attribute of a study: number of trials it will have
CRASHES_ATTRIBUTE = "deaths"  # user attribute of a trial: number of times its process crashed
SCALARS = (bool, int, float, str, type(None))

SharedSettings = dict[str, Annotated[str, Meta(max_length=10_000)]]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]


def shared_settings_of(study: optuna.Study) -> dict[str, str] | None:
    """The settings that all trials of a study share; None if the study has not begun.

    Raises:
        UntrustedFileError: the attribute was not written by a sweep.
    """
    value = study.user_attrs.get(SHARED_ATTRIBUTE)
    if value is None:
        return None
    return migrate_flat_keys(
        convert(value, SharedSettings, f"study {study.study_name}: {SHARED_ATTRIBUTE}")
    )


def total_trials_of(study: optuna.Study) -> int:
    """Number of trials that a study will have; 0 if unknown.

    Raises:
        UntrustedFileError: the attribute is not a valid number.
    """
    name = f"study {study.study_name}: {TOTAL_ATTRIBUTE}"
    return convert(study.user_attrs.get(TOTAL_ATTRIBUTE, 0), Count, name)


def crash_count_of(trial: FrozenTrial) -> int:
    """Number of times that the process of a trial crashed.

    Raises:
        UntrustedFileError: the attribute is not a valid number.
    """
    return convert(
        trial.user_attrs.get(CRASHES_ATTRIBUTE, 0),
        Count,
        f"trial {trial.number}: {CRASHES_ATTRIBUTE}",
    )


def check_study(study: optuna.Study) -> None:
    """Checks the attributes and trials of a study.

    Raises:
        UntrustedFileError, ValueError: naming the first invalid one.
    """
    shared_settings_of(study)
    total_trials_of(study)
    check_system_attributes(study._storage.get_study_system_attrs(study._study_id))
    for trial in study.get_trials(deepcopy=False):
        crash_count_of(trial)
        try:
            _check_trial(trial, len(study.directions))
        except ValueError as error:
            raise ValueError(f"trial {trial.number}: {error}") from None


def _check_trial(trial: FrozenTrial, objectives: int) -> None:
    check_system_attributes(trial.system_attrs)
    check_values(trial.state.value, trial.values)
    if trial.values is not None and len(trial.values) != objectives:
        raise ValueError(f"it has {len(trial.values)} values, not {objectives}")
    for name, value in trial.params.items():
        if not isinstance(value, SCALARS):
            raise ValueError(f"its {format_value(name)} is {format_value(value)}")


def check_within(study: optuna.Study, space: Space) -> None:
    """Checks that all trials of a study are within the search space.

    Raises:
        ValueError: naming the first trial and setting that are not.
    """
    dimensions = {dimension.key: dimension for dimension in space.dimensions}
    for trial in study.get_trials(deepcopy=False):
        params: Params = trial.params
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            params = {**trial.system_attrs.get("fixed_params", {}), **params}
        for key in params.keys() & dimensions.keys():
            if key in trial.distributions:
                check_distribution_compatibility(
                    trial.distributions[key], dimensions[key].distribution
                )
            if not dimensions[key].admits(params[key]):
                raise ValueError(
                    f"trial {trial.number}: {key}={format_value(params[key])} is outside the "
                    "search space"
                )
