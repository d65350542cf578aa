"""The settings of scoring and selecting."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluate.intervals import wilson
from train.config.parsing import suggestion
from train.config.ranges import NAMES, RANGE, SEED, Range, limited, ranged
from train.config.schema import MAX_STEPS, BaseConfig, DataConfig
from train.config.setting_kinds import OF_NUMBERS, choice_field, model_field, path_field
from train.config.trigger_check import check_trigger
from train.config_checks import check_base, check_data
from train.errors import ConfigError

# the scores that a policy can limit and that its rules can use
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
SHARE_SCORES = ("pose_memorization", "background_leak", "outfit_leak", "copying")  # of the probes
LOSSES = ("validation_loss", "generalization_gap")  # need held-out images
FINITE = Range(-1e6, 1e6)  # a limit or a weight
SCORE_METADATA = {RANGE: FINITE, NAMES: SCORES}
# one probe in eight is a training caption, and one in eight is the class alone
PROBES_PER_OTHER_ROLE = 8
MIN_PER_ROUND = 8  # probes of a round of the final
MAX_STRENGTH, MAX_AVERAGED = 10.0, 100  # of the variants of a checkpoint
LAYOUT = "layout"
POSE_DETECTORS = ("puppets", "keypointrcnn", "mediapipe", LAYOUT)
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
    """Which probe images are generated for every checkpoint."""

    attributes: str = path_field("puppets")
    file: str | None = path_field(None)
    count: int = ranged(32, 2, 4096)
    seed: int = limited(1, SEED)
    steps: int = ranged(20, 1, 1000)
    guidance: float = ranged(6.0, 0, 100)


@dataclass
class ScoresConfig:
    """How the probe images are scored."""

    clip_model: str = model_field("puppets")
    pose_detector: str = choice_field("puppets")
    pose_model: str | None = model_field(None)
    baseline: int = ranged(4, 1, 100)
    resamples: int = ranged(500, 2, 10_000)
    confidence: float = ranged(0.9, 0.01, 0.9999)
    validation_timesteps: int = ranged(8, 1, 1000)


@dataclass
class PolicyConfig:
    """How one checkpoint is selected from many."""

    rule: str = choice_field("overfit_aware")
    max: dict[str, float] = field(default_factory=dict, metadata=SCORE_METADATA)
    min: dict[str, float] = field(default_factory=dict, metadata=SCORE_METADATA)
    standard_errors: float = ranged(1.0, 0, 100)
    epoch: int = ranged(0, 0, MAX_STEPS)
    strengths: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={**OF_NUMBERS, RANGE: Range(0, MAX_STRENGTH, open_low=True)},
    )
    averages: list[int] = field(
        default_factory=lambda: [1], metadata={**OF_NUMBERS, RANGE: Range(1, MAX_AVERAGED)}
    )
    weights: dict[str, float] = field(default_factory=dict, metadata=SCORE_METADATA)


@dataclass
class FinalConfig:
    """How the best checkpoints are compared at the end, on fresh probes."""

    contenders: int = ranged(0, 0, 24)
    probes: int = ranged(96, 8, 1024)
    rounds: int = ranged(4, 1, 12)
    tolerance: float = ranged(0.01, 0, 1)
    error_rate: float = ranged(0.1, 0.001, 0.5)
    confidence: float = ranged(0.95, 0.5, 0.9999)


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml: what is scored, and how."""

    checkpoints: str | None = path_field(None)
    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    selection: PolicyConfig = field(default_factory=PolicyConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    output: str = path_field("outputs/scores")
    root: str = path_field("mlruns")


def check_evaluate(config: EvaluateConfig) -> None:
    """Rejects impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    check_trigger(config.data)
    check_data(config.data)
    check_base(config.base)
    check_scoring(config.probes, config.scores, config.selection)
    check_final(config.final, config.scores, config.selection)


def check_scoring(probes: ProbesConfig, scores: ScoresConfig, policy: PolicyConfig) -> None:
    """Rejects impossible settings, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    _check_one_of("scores.pose_detector", scores.pose_detector, POSE_DETECTORS)
    check_policy(policy)
    _check_limits("probes.count", probes.count, scores, policy)


def _check_limits(key: str, count: int, scores: ScoresConfig, policy: PolicyConfig) -> None:
    """Rejects limits that no checkpoint can be within for certain with so few probes."""
    fresh = count - 2 * (count // PROBES_PER_OTHER_ROLE)
    for name, limit in policy.max.items():
        if name in SHARE_SCORES and wilson(0.0, fresh, scores.confidence)[1] > limit:
            raise ConfigError(
                f"{key}: with {fresh} fresh ones of {count} probes no checkpoint can "
                f"be within selection.max.{name}={limit:g}; take more probes or a higher limit"
            )


def check_final(final: FinalConfig, scores: ScoresConfig, policy: PolicyConfig) -> None:
    """Rejects an impossible final, naming the key.

    Raises:
        ConfigError: a round would have no fresh probe, or too few probes for a limit.
    """
    if not final.contenders:
        if 1.0 not in policy.strengths or 1 not in policy.averages:
            raise ConfigError(
                "final.contenders: without a final (final=fresh) only saved checkpoints are kept, "
                "but selection.strengths or selection.averages lacks 1"
            )
        return
    if final.probes < MIN_PER_ROUND * final.rounds:
        raise ConfigError(
            f"final.rounds: {final.probes} probes are too few for {final.rounds} rounds of "
            f"{MIN_PER_ROUND} or more; take fewer rounds or more of final.probes"
        )
    _check_limits("final.probes", final.probes, scores, policy)


def check_policy(policy: PolicyConfig) -> None:
    """Rejects an impossible policy, naming the key.

    Raises:
        ConfigError: with the first setting that cannot work.
    """
    _check_one_of("selection.rule", policy.rule, RULES)
    for name in ("max", "min", "weights"):
        for score in getattr(policy, name):
            _check_one_of(f"selection.{name}", score, SCORES)
    for name in ("strengths", "averages"):
        if not getattr(policy, name):
            raise ConfigError(f"selection.{name}: at least one number is needed, as [1]")
    if policy.rule == "epoch" and policy.epoch < 1:
        raise ConfigError("selection.epoch: the rule epoch needs the epoch to keep, 1 or more")
    if policy.rule == "weighted" and not policy.weights:
        raise ConfigError(
            "selection.weights: the rule weighted needs a weight for one score or more"
        )


def _check_one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        hint = suggestion(value, list(valid)) or f"; known: {', '.join(valid)}"
        wrong = f"there is no {value}" if value else "is empty"
        raise ConfigError(f"{key}: {wrong}{hint}")
