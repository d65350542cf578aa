"""The settings of scoring and selecting."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluate.intervals import wilson
from train.config import ConfigError, suggestion

SCORES = (
    "prompt_fidelity",
    "subject_fidelity",
    "pose_memorization",
    "pose_diversity",
    "background_leak",
    "outfit_leak",
    "validation_loss",
)
SHARES = ("pose_memorization", "background_leak", "outfit_leak")  # of the probes


@dataclass
class ProbesConfig:
    """Which pictures are made with every checkpoint."""

    file: str = "puppets"
    count: int = 24
    seed: int = 1
    steps: int = 20
    guidance: float = 6.0


@dataclass
class ScoresConfig:
    """How they are scored."""

    encoder: str = "puppets"
    pose: str = "puppets"
    baseline: int = 4
    resamples: int = 500
    confidence: float = 0.9
    validation_timesteps: int = 8


@dataclass
class PolicyConfig:
    """How one checkpoint is selected from many."""

    limits: dict[str, float] = field(default_factory=dict)
    standard_errors: float = 1.0


def check_scoring(probes: ProbesConfig, scores: ScoresConfig, policy: PolicyConfig) -> None:
    """Refuses impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    least = (("probes.count", probes.count, 2), ("probes.steps", probes.steps, 1),
             ("scores.baseline", scores.baseline, 1), ("scores.resamples", scores.resamples, 2),
             ("scores.validation_timesteps", scores.validation_timesteps, 1))  # fmt: skip
    for key, value, lowest in least:
        if value < lowest:
            raise ConfigError(f"{key}: {value} must be {lowest} or more")
    if not 0 < scores.confidence < 1:
        raise ConfigError("scores.confidence: must lie between 0 and 1")
    for name, limit in policy.limits.items():
        if name not in SCORES:
            raise ConfigError(
                f"policy.limits.{name}: there is no such score{suggestion(name, list(SCORES))}"
            )
        if name in SHARES and wilson(0.0, probes.count, scores.confidence)[1] > limit:
            raise ConfigError(
                f"probes.count: with {probes.count} probes no checkpoint can be surely below "
                f"policy.limits.{name}={limit:g}; take more probes or a higher limit"
            )
