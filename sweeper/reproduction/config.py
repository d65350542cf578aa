"""The settings of a reproduction: which run, which tolerances, and where its files are now."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluate.config import SCORES
from sweeper.config import BEST, KEEP
from sweeper.study_folder import check_name
from train.config.parsing import suggestion
from train.config.ranges import RANGE, Range
from train.config.setting_kinds import choice_field, model_field, path_field, text_field
from train.config_checks import check_device_name
from train.errors import ConfigError

DEFAULT_TOLERANCE = "default"  # key of the tolerance for all scores without their own
TOLERANCE_RANGE = Range(0, 1000)


@dataclass
class DataLocations:
    """Where the images are now; None: where they were."""

    path: str | None = path_field(None)
    validation_path: str | None = path_field(None)
    regularization_path: str | None = path_field(None)
    dataset_config: str | None = path_field(None)


@dataclass
class BaseLocations:
    """Where the base is now, and what it runs on; None: unchanged."""

    path: str | None = model_field(None)
    device: str | None = text_field(None)
    compile: bool | None = None


@dataclass
class ProbesLocations:
    """Where custom probe files are now; None: where they were."""

    attributes: str | None = path_field(None)
    file: str | None = path_field(None)


@dataclass
class ScoresLocations:
    """Where custom scoring models are now; None: where they were."""

    clip_model: str | None = model_field(None)
    pose_model: str | None = model_field(None)


@dataclass
class ReproduceConfig:
    """conf/reproduce.yaml."""

    run_id: str | None = text_field(None)
    study: str | None = text_field(None)
    lora: str | None = path_field(None)
    tolerance: dict[str, float] = field(
        default_factory=lambda: {DEFAULT_TOLERANCE: 0.02}, metadata={RANGE: TOLERANCE_RANGE}
    )
    force: bool = False
    data: DataLocations = field(default_factory=DataLocations)
    base: BaseLocations = field(default_factory=BaseLocations)
    probes: ProbesLocations = field(default_factory=ProbesLocations)
    scores: ScoresLocations = field(default_factory=ScoresLocations)
    root: str = path_field("mlruns")
    keep_checkpoints: str = choice_field(BEST)

    @property
    def locations(self) -> dict[str, str]:
        """Dotted key -> location, for all locations that were given."""
        groups = {name: vars(getattr(self, name)) for name in ("data", "base", "probes", "scores")}
        return {
            f"{group}.{key}": value
            for group, keys in groups.items()
            for key, value in keys.items()
            if value is not None
        }


def check_reproduce(config: ReproduceConfig) -> None:
    """Raises a ConfigError for settings that cannot work."""
    given = [name for name in ("run_id", "study", "lora") if getattr(config, name)]
    if len(given) != 1:
        conflict = f" ({' and '.join(given)} are given)" if given else ""
        raise ConfigError(f"run_id: give one of run_id=, study= and lora={conflict}")
    if config.study:
        check_name(config.study, "study")
    for name in config.tolerance:
        if name not in (DEFAULT_TOLERANCE, *SCORES):
            near = suggestion(name, [DEFAULT_TOLERANCE, *SCORES])
            raise ConfigError(f"tolerance.{name}: there is no such score{near}")
    if DEFAULT_TOLERANCE not in config.tolerance:
        raise ConfigError("tolerance.default: is required for scores without their own tolerance")
    if config.base.device is not None:
        check_device_name(config.base.device)
    if config.keep_checkpoints not in KEEP:
        near = suggestion(config.keep_checkpoints, [*KEEP])
        raise ConfigError(
            f"keep_checkpoints: {config.keep_checkpoints!r} is none of {', '.join(KEEP)}{near}"
        )
