"""The trigger, by which prompts ask for the subject: where it must be said."""

from __future__ import annotations

from train.config.schema import DataConfig
from train.errors import ConfigError

SAY = "a rare word and the class word, as in data.trigger='sks person'"


def check_trigger(data: DataConfig) -> None:
    """Refuses to score pictures of a subject without a name: no prompt could ask for it.

    On one's own base there is no trigger unless it is said (conf/data/default.yaml). To train, one
    is needed for pictures without a caption alone, which their reader sees.

    Raises:
        ConfigError: there is none.
    """
    if not data.trigger_words:
        raise ConfigError(f"data.trigger: must name the subject to ask for it: {SAY}")
