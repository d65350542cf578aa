"""JSON, YAML and TOML: read, changed at some places, and written again as text."""

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

from bench.fuzzing.values import KEYS, aimed, nasty, nested

Place = tuple[Any, Any]  # a container and a key of it
Dump = Callable[[Any], str]
MOST = 20_000  # places among which one is changed: aliases can make billions
BARE = re.compile(r"[A-Za-z0-9_-]+")
TAGS = (
    "!!python/object/apply:os.system [touch]", "!!binary aGk=", "!!timestamp x", "!!set {a}",
    "!x y", "&a [*a]", "{<<: {a: 1}}", "!!float x", "2026-01-01", "!!python/name:os.system", "0o17",
    "1:30:00", "- - - -",
)  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def json_text(text: str, random: Random, aims: Sequence[str]) -> str:
    """A JSON text with something else in it."""
    return _changed(text, json.loads, _json, random, aims)


def yaml_text(text: str, random: Random, aims: Sequence[str]) -> str:
    """The same of YAML, with aliases and tags too."""
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
    return _changed(text, yaml.safe_load, _yaml, random, aims)


def toml_text(text: str, random: Random, aims: Sequence[str]) -> str:
    """The same of TOML."""
    return _changed(text, tomllib.loads, toml, random, aims)


def journal_text(text: str, random: Random, aims: Sequence[str]) -> str:
    """A line of a journal changed, left out, doubled or in another place."""
    lines = text.splitlines()
    for _ in range(random.randint(1, 3)):
        row = random.randrange(len(lines))
        pick = random.random()
        if pick < 0.6:
            lines[row] = json_text(lines[row], random, aims) if lines[row].startswith("{") else "{}"
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
                        "user_attr": {"settings": nasty(random)},
                    }
                )
            )
    return "\n".join(lines) + "\n" * (random.random() < 0.9)


def _changed(
    text: str, load: Callable[[str], Any], dump: Dump, random: Random, aims: Sequence[str]
) -> str:
    """Some places of the tree changed; now and then the text itself."""
    if random.random() < 0.12:
        return noisy(text, random)
    try:
        tree = load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return noisy(text, random)
    tree = mutated(tree, random, aims)
    try:
        return dump(tree)
    except (RecursionError, yaml.YAMLError, ValueError):
        return json.dumps({"deep": 1})[:-1] + '"a":' * 50 + "[" * 90_000


def mutated(tree: Any, random: Random, aims: Sequence[str] = ()) -> Any:
    """A copy of a tree with one to three changes."""
    tree = [copy.deepcopy(tree)]  # so that the whole can be changed too
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if aims and random.random() < 0.55:
            _aim(tree[0], random.choice(aims), random)
            continue
        places = list(islice(_places(tree), MOST))
        container, key = random.choice(places) if random.random() < 0.97 else (tree, 0)
        _change(container, key, random)
    return tree[0]


def _change(container: Any, key: Any, random: Random) -> None:
    value, pick = container[key], random.random()
    if isinstance(value, str) and value[:1] in "{[" and random.random() < 0.8:
        try:  # JSON within JSON
            container[key] = _json(mutated(json.loads(value), random))
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
        container[random.choice(KEYS)] = nasty(random)
    elif pick < 0.40:
        container[key] = [value] if random.random() < 0.5 else {"a": value}
    elif pick < 0.47:
        container[key] = str(value)
    elif pick < 0.52 and isinstance(value, int | float):
        container[key] = value * random.choice((-1, 10, 1e9, 1e-9))
    elif pick < 0.56:
        container[key] = nested(random.choice((15, 300)), random.random() < 0.5)
    else:
        container[key] = nasty(random)


def _aim(tree: Any, key: str, random: Random) -> None:
    """Sets a dotted key; `*` is any item of a list."""
    *parents, last = key.split("/")
    for part in parents:
        if isinstance(tree, list) and tree:
            tree = tree[random.randrange(len(tree))]
        elif isinstance(tree, dict):
            tree = tree.setdefault(part, {})
    if isinstance(tree, dict):
        tree[last] = aimed(random) if random.random() < 0.7 else nasty(random)


def _places(tree: Any) -> Iterator[Place]:
    """Every value and where it is, the outermost first."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list) and tree[key]:
            yield from _places(tree[key])


def noisy(text: str, random: Random) -> str:
    """A text with characters left out, put in, or cut off."""
    place = random.randrange(len(text) + 1)
    end = min(len(text), place + random.choice((1, 1, 5, 40, len(text))))
    filling = random.choice(
        ("", "", "\0", "{", "}", "[" * 30, '"', "\n", ":", "= ", "\ufeff", "é", "\t", "#")
    )
    return text[:place] + filling + text[end:]


def _json(tree: Any) -> str:
    return json.dumps(tree)


def _yaml(tree: Any) -> str:
    # JSON is YAML too, and takes any depth
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text


def toml(tree: Any) -> str:
    """A tree as TOML, tables written in one line; what TOML has no word for becomes a text."""
    if not isinstance(tree, dict):
        return f"x = {_toml_value(tree)}\n"
    return "".join(f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in tree.items())


def _toml_key(key: Any) -> str:
    return str(key) if BARE.fullmatch(str(key)) else json.dumps(str(key))


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
