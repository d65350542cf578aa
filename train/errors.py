"""Errors that the user can fix."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix: commands print it as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type, or impossible with another."""


class CheckpointError(UserError, ValueError):
    """A LoRA file cannot be read or does not fit the base; the message says which and why."""


class TrainingError(UserError, RuntimeError):
    """Training cannot continue; saved files stay."""
