"""Checks the trigger, by which prompts ask for the subject."""

from __future__ import annotations

from train.config.schema import DataConfig
from train.errors import ConfigError

TRIGGER_EXAMPLE = "a rare word and the class word, as in data.trigger='sks person'"


def check_trigger(data: DataConfig) -> None:
    """Refuses to score images of a subject without a name: no prompt could ask for it.

    With one's own base there is no default trigger (conf/data/default.yaml). Training needs one
    only for images without a caption, which the dataset reader checks.

    Raises:
        ConfigError: there is none.
    """
    if not data.trigger_words:
        raise ConfigError(f"data.trigger: must name the subject to ask for it: {TRIGGER_EXAMPLE}")
