"""Errors that a person can put right."""

from __future__ import annotations


class UserError(Exception):
    """What a person can put right: commands print its message as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type, or impossible beside another."""


class CheckpointError(UserError, ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


class TrainingError(UserError, RuntimeError):
    """Training cannot go on; what was saved stays."""
