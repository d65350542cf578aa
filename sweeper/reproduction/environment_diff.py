"""What is not as it was: pictures, base, probes, versions, hardware."""

from __future__ import annotations

from collections.abc import Mapping

DATA_FINGERPRINT, IMAGE_COUNTS, BASE_FINGERPRINT = (
    "data.fingerprint",
    "data.pictures",
    "base.fingerprint",
)
SHOWN_DIGITS = 12  # hexadecimal digits of a fingerprint that are shown
GROUP_NAMES = {"data": "pictures", "base": "base", "probes": "probes", "git": "commit",
         "version": "versions", "hardware": "hardware"}  # fmt: skip


def dataset_difference(original: Mapping[str, str], current: Mapping[str, str]) -> str:
    """How the pictures differ from those of then, in words; empty where they do not."""
    if original.get(DATA_FINGERPRINT, current[DATA_FINGERPRINT]) == current[DATA_FINGERPRINT]:
        return ""
    counts = f"{current[IMAGE_COUNTS]} now"
    if original.get(IMAGE_COUNTS) == current[IMAGE_COUNTS]:
        counts = f"as many ({current[IMAGE_COUNTS]}), but with other contents or captions"
    elif IMAGE_COUNTS in original:
        counts = f"{original[IMAGE_COUNTS]} then, {counts}"
    return f"other pictures than then: {counts}; {_fingerprint_change(DATA_FINGERPRINT, original, current)}"


def base_difference(original: Mapping[str, str], current: Mapping[str, str]) -> str:
    """How the base differs, in words; empty where it does not."""
    if original.get(BASE_FINGERPRINT, current[BASE_FINGERPRINT]) == current[BASE_FINGERPRINT]:
        return ""
    return f"another base than then; {_fingerprint_change(BASE_FINGERPRINT, original, current)}"


def environment_differences(original: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """A line for everything that is not as it was; then one of what is, and of what is not known.

    Args:
        then, now: tags of a run, as `sweeper.execution.context.origin` makes them.
    """
    lines, same, unknown = [], [], []
    for key in current:
        if key not in original:
            unknown.append(key)
        elif original[key] == current[key]:
            same.append(key)
        elif key.endswith("fingerprint"):
            lines.append(f"differs: {_fingerprint_change(key, original, current)}")
        else:
            lines.append(f"differs: {key} was {original[key]}, is {current[key]}")
    if same:
        lines.append(f"as it was: {_count_by_group(same)}")
    if unknown:
        lines.append(f"not known of then: {_count_by_group(unknown)}")
    return lines


def _fingerprint_change(key: str, original: Mapping[str, str], current: Mapping[str, str]) -> str:
    return f"{key} was {original[key][:SHOWN_DIGITS]}, is {current[key][:SHOWN_DIGITS]}"


def _count_by_group(keys: list[str]) -> str:
    """`pictures, base, 11 versions`."""
    groups = [key.split(".")[0] for key in keys]
    counts = {group: groups.count(group) for group in dict.fromkeys(groups)}
    return ", ".join(
        f"{count} {GROUP_NAMES[group]}" if group == "version" else GROUP_NAMES.get(group, group)
        for group, count in counts.items()
    )
