"""Describes how the environment differs from the original: images, base, versions, hardware."""

from __future__ import annotations

from collections.abc import Mapping

DATA_FINGERPRINT, IMAGE_COUNTS = "data.fingerprint", "data.pictures"
BASE_FINGERPRINT = "base.fingerprint"
SHOWN_DIGITS = 12  # hexadecimal digits of a fingerprint in messages
GROUP_NAMES = {"data": "images", "base": "base", "probes": "probes", "git": "commit",
         "version": "versions", "hardware": "hardware"}  # fmt: skip


def dataset_difference(original: Mapping[str, str], current: Mapping[str, str]) -> str:
    """Describes how the images differ from the original ones; empty if they do not."""
    if original.get(DATA_FINGERPRINT, current[DATA_FINGERPRINT]) == current[DATA_FINGERPRINT]:
        return ""
    counts = f"{current[IMAGE_COUNTS]} now"
    if original.get(IMAGE_COUNTS) == current[IMAGE_COUNTS]:
        counts = f"as many ({current[IMAGE_COUNTS]}), but with other contents or captions"
    elif IMAGE_COUNTS in original:
        counts = f"{original[IMAGE_COUNTS]} originally, {counts}"
    change = _fingerprint_change(DATA_FINGERPRINT, original, current)
    return f"other images than the original run: {counts}; {change}"


def base_difference(original: Mapping[str, str], current: Mapping[str, str]) -> str:
    """Describes how the base differs from the original one; empty if it does not."""
    if original.get(BASE_FINGERPRINT, current[BASE_FINGERPRINT]) == current[BASE_FINGERPRINT]:
        return ""
    return f"not the original base; {_fingerprint_change(BASE_FINGERPRINT, original, current)}"


def environment_differences(original: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """A line for each difference, then one for what is unchanged and one for what is unknown.

    Args:
        original, current: tags of a run, see `sweeper.execution.context.origin_tags`.
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
        lines.append(f"unchanged: {_count_by_group(same)}")
    if unknown:
        lines.append(f"unknown for the original run: {_count_by_group(unknown)}")
    return lines


def _fingerprint_change(key: str, original: Mapping[str, str], current: Mapping[str, str]) -> str:
    return f"{key} was {original[key][:SHOWN_DIGITS]}, is {current[key][:SHOWN_DIGITS]}"


def _count_by_group(keys: list[str]) -> str:
    """Summarizes tags by group: `images, base, 11 versions`."""
    groups = [key.split(".")[0] for key in keys]
    counts = {group: groups.count(group) for group in dict.fromkeys(groups)}
    return ", ".join(
        f"{count} {GROUP_NAMES[group]}" if group == "version" else GROUP_NAMES.get(group, group)
        for group, count in counts.items()
    )
