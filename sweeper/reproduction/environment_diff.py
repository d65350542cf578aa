"""What is not as it was: pictures, base, probes, versions, hardware."""

from __future__ import annotations

from collections.abc import Mapping

PICTURES, COUNTS, BASE = "data.fingerprint", "data.pictures", "base.fingerprint"
SHORT = 12  # hexadecimal digits of a fingerprint that are shown
WORDS = {"data": "pictures", "base": "base", "probes": "probes", "git": "commit",
         "version": "versions", "hardware": "hardware"}  # fmt: skip


def other_pictures(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How the pictures differ from those of then, in words; empty where they do not."""
    if then.get(PICTURES, now[PICTURES]) == now[PICTURES]:
        return ""
    counted = f"{now[COUNTS]} now"
    if then.get(COUNTS) == now[COUNTS]:
        counted = f"as many ({now[COUNTS]}), but with other contents or captions"
    elif COUNTS in then:
        counted = f"{then[COUNTS]} then, {counted}"
    return f"other pictures than then: {counted}; {_fingerprints(PICTURES, then, now)}"


def other_base(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How the base differs, in words; empty where it does not."""
    if then.get(BASE, now[BASE]) == now[BASE]:
        return ""
    return f"another base than then; {_fingerprints(BASE, then, now)}"


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for everything that is not as it was; then one of what is, and of what is not known.

    Args:
        then, now: tags of a run, as `sweeper.execution.context.origin` makes them.
    """
    lines, same, unknown = [], [], []
    for key in now:
        if key not in then:
            unknown.append(key)
        elif then[key] == now[key]:
            same.append(key)
        elif key.endswith("fingerprint"):
            lines.append(f"differs: {_fingerprints(key, then, now)}")
        else:
            lines.append(f"differs: {key} was {then[key]}, is {now[key]}")
    if same:
        lines.append(f"as it was: {_counted(same)}")
    if unknown:
        lines.append(f"not known of then: {_counted(unknown)}")
    return lines


def _fingerprints(key: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    return f"{key} was {then[key][:SHORT]}, is {now[key][:SHORT]}"


def _counted(keys: list[str]) -> str:
    """`pictures, base, 11 versions`."""
    groups = [key.split(".")[0] for key in keys]
    counts = {group: groups.count(group) for group in dict.fromkeys(groups)}
    return ", ".join(
        f"{count} {WORDS[group]}" if group == "version" else WORDS.get(group, group)
        for group, count in counts.items()
    )
