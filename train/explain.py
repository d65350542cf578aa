"""What Hydra says of a wrong setting, in one line that names what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra

from train.compose import composed
from train.config import keys, suggestion

INTERNAL = ("hydra", "pruner", "search")  # of two settings of the same name, people mean the other
MOST_NAMED = 3  # settings of one suggestion
PUNCTUATION = " .'"  # what is left of a sentence that lost its beginning


def explain(name: str, error: Exception) -> str:
    """Hydra's message in one line, with the nearest valid key or choice."""
    message = " ".join(f"{error} {error.__cause__ or ''}".split())
    unknown = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'",
                        message)  # fmt: skip
    if unknown:
        key = unknown.group(1).lstrip("+~")
        GlobalHydra.instance().clear()
        known = keys(composed(name, with_hydra=True))
        if key not in known:
            return f"{key}: there is no such setting{suggested(key, known)}"
        rest = message.split(str(key), 1)[-1]
        return f"{key}: {rest.strip(PUNCTUATION)}"
    missing = re.search(
        r"Could not find '([^']+)' Available options in '[^']+': (.*?)(?: Config search|$)", message
    )
    if missing:
        group, _, choice = missing.group(1).rpartition("/")
        choices = missing.group(2).split()
        near = suggestion(choice, choices)
        return f"{group}: {choice!r} is none of {', '.join(choices)}{near}"
    return message


def suggested(key: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the settings that a person may have meant, or nothing.

    Those that have the same last part come first, then those whose last part is near; Hydra's own
    and those of a search only where nothing else is.
    """
    last = key.rpartition(".")[2]
    parts = {name: name.rpartition(".")[2] for name in known}
    near = difflib.get_close_matches(last, [*dict.fromkeys(parts.values())], n=1, cutoff=0.75)
    for wanted in ([last], near):
        found = [name for name, part in parts.items() if part in wanted]
        found = [name for name in found if not name.startswith(INTERNAL)] or found
        if found:
            return f"; did you mean {' or '.join(found[:MOST_NAMED])}?"
    return suggestion(key, list(known))
