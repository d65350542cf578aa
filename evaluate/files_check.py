"""The files that scoring needs are checked before any network is loaded."""

from __future__ import annotations

from evaluate.config import ProbesConfig, ScoresConfig
from evaluate.features.pose_detectors import pose_model
from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import load_probe_set


def check_files(probes: ProbesConfig, scores: ScoresConfig) -> None:
    """Rejects files that are missing, invalid or not used.

    Raises:
        ConfigError: naming the key.
    """
    load_attributes(probes.attributes)
    if probes.file:
        load_probe_set(probes.file)
    pose_model(scores)
