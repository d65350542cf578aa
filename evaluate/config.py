"""The settings of scoring and selecting."""

from __future__ import annotations

from dataclasses import dataclass, field

SCORES = (
    "prompt_fidelity",
    "subject_fidelity",
    "pose_memorization",
    "pose_diversity",
    "background_leak",
    "outfit_leak",
    "validation_loss",
)


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
