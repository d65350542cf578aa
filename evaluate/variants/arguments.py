"""`strengths=1,0.8` on the command line of `python -m evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

SHORT = "strengths="
FINAL = ("final=", "final.contenders=")


def expand_strengths(overrides: Sequence[str]) -> list[str]:
    """Replaces `strengths=1,0.8` by the settings of a final that tries these strengths.

    A final that the command line describes itself stays as it is.
    """
    if not any(override.startswith(SHORT) for override in overrides):
        return [*overrides]
    expanded = [
        f"selection.strengths=[{override.removeprefix(SHORT).strip('[]')}]"
        if override.startswith(SHORT)
        else override
        for override in overrides
    ]
    described = any(override.startswith(FINAL) for override in overrides)
    return expanded if described else ["final=fresh", *expanded]
