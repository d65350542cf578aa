"""Reads the values of a kohya dataset config that concern more than its images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.files.untrusted import Tree
from train.kohya_toml.lenient_toml import read_toml
from train.text.display import name_as_words

# its keys -> those of the config that they override
OVERRIDDEN = {"batch_size": "train_batch_size", "resolution": "resolution"}


def overriding_values(file: Path) -> dict[str, Any]:
    """The values that all datasets, or [general], have, and that override the config's.

    The first of several values counts; the report on the images warns of the others.

    Raises:
        ConfigError: no such file, or invalid TOML.
    """
    content = _content(file)
    general = _table(content.get("general"))
    datasets = [{**general, **dataset} for dataset in _tables(content.get("datasets"))]
    return {
        overridden: datasets[0][key]
        for key, overridden in OVERRIDDEN.items()
        if datasets and all(key in dataset for dataset in datasets)
    }


def class_words(file: Path) -> str | None:
    """The class words of the first subset that has some and is not for regularization.

    Raises:
        ConfigError: no such file, or invalid TOML.
    """
    tokens = (each.get("class_tokens") for each in subsets(file) if not each.get("is_reg"))
    words = (name_as_words(" ".join(text.split())) for text in tokens if isinstance(text, str))
    return next(filter(None, words), None)


def subsets(file: Path) -> Iterator[dict[str, Any]]:
    """All subsets, each with the values that it inherits from its dataset and [general].

    Raises:
        ConfigError: no such file, or invalid TOML.
    """
    content = _content(file)
    for dataset in _tables(content.get("datasets")):
        for subset in _tables(dataset.get("subsets")):
            yield {**_table(content.get("general")), **dataset, **subset}


def _content(file: Path) -> Tree:
    content, _ = read_toml(file)  # repairs are reported when the images are read
    return content


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables in a list; anything else is rejected when the images are read."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
