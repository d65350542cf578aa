"""The settings of scoring and selecting."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluate.intervals import wilson
from train.config import BaseConfig, ConfigError, DataConfig, suggestion
from train.text_settings import path_field

# what a limit of the policy can be set on, and what its rules can look at
SCORES = (
    "prompt_fidelity",
    "subject_fidelity",
    "pose_memorization",
    "pose_diversity",
    "background_leak",
    "outfit_leak",
    "copying",
    "class_bleed",
    "color_shift",
    "detection_rate",
    "validation_loss",
    "generalization_gap",
)
SHARES = ("pose_memorization", "background_leak", "outfit_leak", "copying")  # of the probes
LOSSES = ("validation_loss", "generalization_gap")  # need held-out pictures
OTHERS = 8  # one probe in so many is a training caption, and one is of the class alone
POSES = ("puppets", "keypointrcnn", "mediapipe", "layout")
RULES = (
    "overfit_aware",
    "pareto",
    "last",
    "epoch",
    "min_validation_loss",
    "max_subject_fidelity",
    "weighted",
)


@dataclass
class ProbesConfig:
    """Which pictures are made with every checkpoint."""

    values: str = path_field("puppets")
    set: str | None = path_field(None)
    count: int = 32
    seed: int = 1
    steps: int = 20
    guidance: float = 6.0


@dataclass
class ScoresConfig:
    """How they are scored."""

    encoder: str = path_field("puppets")
    pose: str = "puppets"
    pose_model: str | None = path_field(None)
    baseline: int = 4
    resamples: int = 500
    confidence: float = 0.9
    validation_timesteps: int = 8


@dataclass
class PolicyConfig:
    """How one checkpoint is selected from many."""

    rule: str = "overfit_aware"
    limits: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    standard_errors: float = 1.0
    epoch: int = 0
    weights: dict[str, float] = field(default_factory=dict)


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
    _one_of("scores.pose", scores.pose, POSES)
    check_policy(policy)
    fresh = probes.count - 2 * (probes.count // OTHERS)
    for name, limit in policy.limits.items():
        if name in SHARES and wilson(0.0, fresh, scores.confidence)[1] > limit:
            raise ConfigError(
                f"probes.count: with {fresh} fresh ones of {probes.count} probes no checkpoint can "
                f"be surely below policy.limits.{name}={limit:g}; take more or a higher limit"
            )


def check_policy(policy: PolicyConfig) -> None:
    """Refuses an impossible policy, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    _one_of("policy.rule", policy.rule, RULES)
    for name in ("limits", "floors", "weights"):
        for score in getattr(policy, name):
            _one_of(f"policy.{name}", score, SCORES)
    if policy.rule == "epoch" and policy.epoch < 1:
        raise ConfigError("policy.epoch: the rule epoch needs the epoch to keep, 1 or more")
    if policy.rule == "weighted" and not policy.weights:
        raise ConfigError("policy.weights: the rule weighted needs a weight for one score or more")
    if policy.standard_errors < 0:
        raise ConfigError(f"policy.standard_errors: {policy.standard_errors} must be 0 or more")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = suggestion(value, list(known)) or f"; there are {', '.join(known)}"
        raise ConfigError(f"{key}: there is no {value}{near}")


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml: what is scored, and how."""

    checkpoints: str | None = path_field(None)
    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    output: str = path_field("outputs/scores")
    root: str = path_field("mlruns")


def check_evaluate(config: EvaluateConfig) -> None:
    """Refuses impossible settings with a ConfigError."""
    check_scoring(config.probes, config.scores, config.policy)
