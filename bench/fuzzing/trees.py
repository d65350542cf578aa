"""Mutates JSON, YAML and TOML documents: parses them, changes some values, writes them again."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import yaml

from bench.fuzzing.values import KEYS, hostile_text, hostile_value, nested_value

Slot = tuple[Any, Any]  # container and key
Dump = Callable[[Any], str]
MAX_SLOTS = 20_000  # candidates for a mutation: YAML aliases can create billions
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
TAGS = (
    "!!python/object/apply:os.system [touch]", "!!binary aGk=", "!!timestamp x", "!!set {a}",
    "!x y", "&a [*a]", "{<<: {a: 1}}", "!!float x", "2026-01-01", "!!python/name:os.system", "0o17",
    "1:30:00", "- - - -",
)  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def mutate_json(text: str, random: Random, priority_keys: Sequence[str]) -> str:
    """Mutates a JSON text."""
    return _mutate_document(text, json.loads, _json, random, priority_keys)


def mutate_yaml(text: str, random: Random, priority_keys: Sequence[str]) -> str:
    """Mutates a YAML text, also with aliases and tags."""
    pick = random.random()
    if pick < 0.06:
        return BOMB + text
    if pick < 0.12:
        tag = random.choice(TAGS)
        lines = text.splitlines()
        row = random.randrange(len(lines))
        return "\n".join(
            [*lines[:row], re.sub(r":.*", lambda _: f": {tag}", lines[row]), *lines[row + 1 :]]
        )
    return _mutate_document(text, yaml.safe_load, _yaml, random, priority_keys)


def mutate_toml(text: str, random: Random, priority_keys: Sequence[str]) -> str:
    """Mutates a TOML text."""
    return _mutate_document(text, tomllib.loads, to_toml, random, priority_keys)


def mutate_journal(text: str, random: Random, priority_keys: Sequence[str]) -> str:
    """Changes, removes, duplicates, reorders or appends lines of an Optuna journal."""
    lines = text.splitlines()
    for _ in range(random.randint(1, 3)):
        row = random.randrange(len(lines))
        pick = random.random()
        if pick < 0.6:
            lines[row] = (
                mutate_json(lines[row], random, priority_keys)
                if lines[row].startswith("{")
                else "{}"
            )
        elif pick < 0.7:
            lines.append(lines[row])
        elif pick < 0.8 and len(lines) > 1:
            lines.pop(row)
        elif pick < 0.9:
            random.shuffle(lines)
        else:
            lines.append(
                json.dumps(
                    {
                        "op_code": random.randint(-1, 12),
                        "worker_id": "w",
                        "trial_id": 0,
                        "study_id": 0,
                        "state": random.randint(0, 9),
                        "user_attr": {"settings": hostile_value(random)},
                    }
                )
            )
    return "\n".join(lines) + "\n" * (random.random() < 0.9)


def _mutate_document(
    text: str, load: Callable[[str], Any], dump: Dump, random: Random, priority_keys: Sequence[str]
) -> str:
    """Mutates the parsed document, or sometimes the characters of the text."""
    if random.random() < 0.12:
        return mutate_characters(text, random)
    try:
        tree = load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return mutate_characters(text, random)
    tree = mutate(tree, random, priority_keys)
    try:
        return dump(tree)
    except (RecursionError, yaml.YAMLError, ValueError):
        return json.dumps({"deep": 1})[:-1] + '"a":' * 50 + "[" * 90_000


def mutate(tree: Any, random: Random, priority_keys: Sequence[str] = ()) -> Any:
    """Returns a copy of a tree with one to three mutations."""
    tree = [copy.deepcopy(tree)]  # so that the root can be replaced too
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if priority_keys and random.random() < 0.55:
            _set_key(tree[0], random.choice(priority_keys), random)
            continue
        slots = list(islice(_iterate_slots(tree), MAX_SLOTS))
        container, key = random.choice(slots) if random.random() < 0.97 else (tree, 0)
        _mutate_slot(container, key, random)
    return tree[0]


def _mutate_slot(container: Any, key: Any, random: Random) -> None:
    value, pick = container[key], random.random()
    if isinstance(value, str) and value[:1] in "{[" and random.random() < 0.8:
        try:  # JSON within JSON
            container[key] = _json(mutate(json.loads(value), random))
            return
        except (ValueError, RecursionError):
            pass
    if pick < 0.15:
        del container[key]
        if not container and isinstance(container, list):
            container.append(None)
    elif pick < 0.25 and isinstance(container, dict):
        container[random.choice(KEYS)] = container.pop(key)
    elif pick < 0.33 and isinstance(container, dict):
        container[random.choice(KEYS)] = hostile_value(random)
    elif pick < 0.40:
        container[key] = [value] if random.random() < 0.5 else {"a": value}
    elif pick < 0.47:
        container[key] = str(value)
    elif pick < 0.52 and isinstance(value, int | float):
        container[key] = value * random.choice((-1, 10, 1e9, 1e-9))
    elif pick < 0.56:
        container[key] = nested_value(random.choice((15, 300)), random.random() < 0.5)
    else:
        container[key] = hostile_value(random)


def _set_key(tree: Any, key: str, random: Random) -> None:
    """Sets a key, whose path is separated by `/`; a list on the way stands for a random item."""
    *parents, last = key.split("/")
    for part in parents:
        if isinstance(tree, list) and tree:
            tree = tree[random.randrange(len(tree))]
        elif isinstance(tree, dict):
            tree = tree.setdefault(part, {})
    if isinstance(tree, dict):
        tree[last] = hostile_text(random) if random.random() < 0.7 else hostile_value(random)


def _iterate_slots(tree: Any) -> Iterator[Slot]:
    """Yields container and key of every value, parents before children."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list) and tree[key]:
            yield from _iterate_slots(tree[key])


def mutate_characters(text: str, random: Random) -> str:
    """Removes, replaces or inserts characters of a text, or truncates it."""
    place = random.randrange(len(text) + 1)
    end = min(len(text), place + random.choice((1, 1, 5, 40, len(text))))
    insertion = random.choice(
        ("", "", "\0", "{", "}", "[" * 30, '"', "\n", ":", "= ", "\ufeff", "é", "\t", "#")
    )
    return text[:place] + insertion + text[end:]


def _json(tree: Any) -> str:
    return json.dumps(tree)


def _yaml(tree: Any) -> str:

    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text


def to_toml(tree: Any) -> str:
    """Formats a tree as TOML with inline tables; values without a TOML type become strings."""
    if not isinstance(tree, dict):
        return f"x = {_toml_value(tree)}\n"
    return "".join(f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in tree.items())


def _toml_key(key: Any) -> str:
    return str(key) if BARE_KEY.fullmatch(str(key)) else json.dumps(str(key))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml_key(k)} = {_toml_value(v)}' for k, v in value.items())}}}"
    text = "null" if value is None else str(value)
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )
